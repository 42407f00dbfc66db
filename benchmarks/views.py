"""How quickly the views are there and follow the mouse in a real Chromium, and how much is sent for it.

    python -m benchmarks.views

First paint is the browser's own mark (first contentful paint) of a page opened from the disk. Hover is from the event
to the end of the frame that shows it. Bytes are of one word's attention, against the same numbers as a list of JSON,
which is how BertViz and CircuitsVis send theirs (all layers and heads at once, so that their pages also grow with
those).
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from tests.attentions import Looker, make_attention
from tests.traces import make_trace
from widgets import AttentionView, DraftView, TokenView, to_html
from widgets.base import View
from widgets.buffers import size
from workbench.readings import keep

__all__ = ["main"]

FIRST_PAINT_MS, HOVER_MS = 200, 16

HOVER = """async () => {
    const words = [...document.querySelectorAll(".wb-t[role=option]")];
    const took = [];
    for (let k = 0; k < 12; k++) {
        const word = words[(k * 7) % words.length];
        await new Promise((r) => setTimeout(r, 40));
        const began = performance.now();
        word.dispatchEvent(new PointerEvent("pointerover", { bubbles: true }));
        const panel = document.querySelector(".wb-panel, .wb-look");
        if (panel) panel.getBoundingClientRect();
        await new Promise((done) => requestAnimationFrame(() => {
            const after = new MessageChannel(); // heard once the frame is painted
            after.port1.onmessage = done;
            after.port2.postMessage(0);
        }));
        took.push(performance.now() - began);
    }
    return took;
}"""
PAINT = "() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? NaN"


def pages() -> dict[str, View]:
    """The views that are opened."""
    drafted, long = make_trace(rounds=60), make_trace(tokens=5000, images=(), audio=(), top=20)
    looked = make_trace(tokens=40, images=((336, 480),), audio=(10.0,))
    return {
        "TokenView, 116 tokens": TokenView(drafted),
        "TokenView, 5,000 tokens": TokenView(long),
        "DraftView, 60 rounds": DraftView(drafted),
        "AttentionView, 40 words, picture, sound": AttentionView(keep(looked, make_attention(looked))),
    }


def measured(view: View, browser: Any, repeats: int) -> tuple[float, float]:
    """Medians in ms: first paint, hover to repaint (NaN where there is nothing to point at)."""
    paints, hovers = [], []
    with tempfile.TemporaryDirectory() as folder:
        address = to_html(view, Path(folder) / "a.html").as_uri()
        for _ in range(repeats):
            context = browser.new_context(viewport={"width": 1000, "height": 900})
            tab = context.new_page()
            tab.goto(address)
            tab.wait_for_function(f"!isNaN(({PAINT})())")
            paints.append(float(tab.evaluate(PAINT)))
            if not isinstance(view, DraftView):
                hovers += tab.evaluate(HOVER)
            context.close()
    return statistics.median(paints), statistics.median(hovers) if hovers else float("nan")


def sent() -> tuple[int, int, int]:
    """Cells of one word's attention on a prompt of pictures and sound; bytes of ours; bytes as a list of JSON."""
    trace = make_trace(tokens=4, images=((168, 240),) * 4, audio=(30.0,))
    view = AttentionView(trace, Looker(trace))
    answer = view.answer({"ask": "attend", "token": 1})
    maps = [*answer["images"], *answer["sounds"], answer["words"]]
    cells = sum(len(one["cells"]["view"]) for one in maps)
    values = np.random.default_rng(0).random(cells).astype(np.float32)
    return cells, sum(map(size, maps)), len(json.dumps(values.astype(float).tolist()))


def main(arguments: list[str] | None = None) -> int:
    """Print the table; returns 1 when a budget is missed."""
    from playwright.sync_api import sync_playwright

    quick = "--quick" in (sys.argv[1:] if arguments is None else arguments)
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        print("There is no Chromium on this machine.")
        return 2
    missed = False
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync", "--no-first-run"]
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=flags)
        print(
            f"Chromium {browser.version}. Budgets: first paint {FIRST_PAINT_MS} ms, hover to repaint {HOVER_MS} ms.\n"
        )
        print(f"{'view':42} {'first paint':>12} {'hover':>10}")
        for name, view in pages().items():
            paint, hover = measured(view, browser, 1 if quick else 7)
            missed |= paint > FIRST_PAINT_MS or hover > HOVER_MS
            print(f"{name:42} {paint:9.0f} ms {hover:7.1f} ms")
        browser.close()
    cells, ours, listed = sent()
    each = f"{ours / cells:.2f} bytes a cell; as a list of JSON {listed / cells:.1f}"
    print(f"\nOne word's attention, {cells:,} cells: {each}.")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
