"""The pictures of the README, from real pages in a real Chromium.

    python -m benchmarks.screenshots

Asks pocket about its own example files, writes the views as offline pages, and photographs them.
"""

import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

import workbench
from widgets import AttentionView, TokenView, to_html
from workbench.pocket.examples import PAIR, SEVEN
from workbench.readings import keep

__all__ = ["main"]

ROOT = Path(__file__).resolve().parents[1]
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync", "--no-first-run"]


def main() -> int:
    """Write docs/words.png and docs/looked.png."""
    browser_path = shutil.which("chromium") or shutil.which("google-chrome")
    if browser_path is None:
        print("There is no Chromium on this machine.")
        return 2
    model = workbench.load()
    trace = model.ask("What do you see and hear?", images=[PAIR], audio=[SEVEN], temperature=0)
    unsure = int(trace.tokens.entropy.argmax())
    first = next((k for k, piece in enumerate(trace.tokens.piece) if piece.strip() == "purple"), 1)
    kept = keep(
        trace, model.attend(trace), model.lens(trace, over="image"), model.occlude(trace, first),
        model.occlude(trace, first, over="audio"),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=browser_path, args=FLAGS)
        for view, name, word in (
            (TokenView(trace), "words", unsure),
            (AttentionView(kept, model), "looked", first),
        ):
            page = to_html(view, Path(folder) / f"{name}.html")
            tab = browser.new_page(viewport={"width": 900, "height": 700}, device_scale_factor=1.5)
            tab.goto(page.as_uri())
            tab.locator(".wb-t[role=option]").nth(word).click()
            if name == "looked":
                tab.get_by_role("button", name="occlusion").click()
                tab.get_by_text("Rank correlation").first.wait_for()
            tab.wait_for_timeout(500)
            tab.locator(".wb").screenshot(path=str(ROOT / "docs" / f"{name}.png"))
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
