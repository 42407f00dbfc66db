"""How quickly the views are there and follow the mouse in a real Chromium, and how much is sent for it.

    python -m benchmarks.views [--json FILE] [--check]

First paint is from opening a page on the disk to the end of the frame that shows the view, not just the page's title,
which is what the browser's own mark of a first paint would take. An empty page, opened in turn with them, tells how
much of that is the browser's. Hover is from the event to the end of the frame that shows it. BertViz and CircuitsVis,
where they are installed (see :mod:`benchmarks.peers`), open pages of the same attention with the libraries they load
already on the disk: of one head, since more only takes them longer. Ours holds every word's map, mean over heads and
layers. What counts there is when the words, boxes or canvas that one can point at are drawn.

Bytes are of one word's attention as it goes to a notebook, of the peers' pages a cell, and of the same numbers as a
list of JSON.
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import peers
from benchmarks.measure import Row, arguments, finish
from tests.attentions import Looker, make_attention
from tests.traces import make_trace
from widgets import AttentionView, DiffView, DraftView, TokenView, to_html
from widgets.base import View
from widgets.buffers import size
from workbench.readings import keep
from workbench.trace import Trace

__all__ = ["main"]

FIRST_PAINT, HOVER, PATIENCE = 0.2, 0.016, 120  # seconds
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync", "--no-first-run"]

POINT = """async (selector) => {
    const found = [...document.querySelectorAll(selector)];
    const took = [];
    for (let k = 0; k < 12; k++) {
        const one = found[(k * 7) % found.length], box = one.getBoundingClientRect();
        const at = { bubbles: true, clientX: box.left + box.width * (k + 1) / 14, clientY: box.top + box.height / 2 };
        await new Promise((r) => setTimeout(r, 40));
        const began = performance.now();
        one.dispatchEvent(new PointerEvent("pointerover", at));
        for (const kind of ["mouseover", "mousemove"]) one.dispatchEvent(new MouseEvent(kind, at));
        document.querySelector(".wb-panel, .wb-look, .wb-both")?.getBoundingClientRect();
        await new Promise((done) => requestAnimationFrame(() => {
            const after = new MessageChannel(); // heard once the frame is painted
            after.port1.onmessage = done;
            after.port2.postMessage(0);
        }));
        took.push((performance.now() - began) / 1000);
    }
    return took;
}"""
DRAWN = """const look = () => {
    if (!document.querySelector(SELECTOR)) return requestAnimationFrame(look);
    const after = new MessageChannel(); // heard once this frame is painted
    after.port1.onmessage = () => { window.drawn = performance.now(); };
    after.port2.postMessage(0);
};
requestAnimationFrame(look);"""
EMPTY = "<!doctype html><title>Empty</title><p>Nothing"
SETTLED = 0.6  # seconds after which a new tab's own start is over: it would be counted otherwise
WORDS = ".wb-t[role=option]"
TO_POINT_AT = {"BertViz": "#left rect.background", "CircuitsVis": "canvas"}


def looked() -> Trace:
    """A trace of a picture of 140 patches, a sound and 40 words, with the attention of every word in it."""
    trace = make_trace(tokens=40, images=((120, 168),), audio=(1.3,))
    return keep(trace, make_attention(trace))


def pages() -> dict[str, View]:
    """The views that are opened."""
    drafted, long = make_trace(rounds=60), make_trace(tokens=5000, images=(), audio=(), top=20)
    large = make_trace(tokens=40, images=((336, 480),), audio=(10.0,))
    return {
        "TokenView, 116 tokens": TokenView(drafted),
        "TokenView, 5,000 tokens": TokenView(long),
        "DraftView, 60 rounds": DraftView(drafted),
        "DiffView, 40 words each": DiffView(make_trace(tokens=40, seed=1), make_trace(tokens=40, seed=2)),
        "AttentionView, 40 words, picture, sound": AttentionView(keep(large, make_attention(large))),
    }


def square(trace: Trace) -> np.ndarray:
    """(T, T) weights of the first head: the answer's rows are those that :func:`looked` keeps, the others random."""
    made = make_attention(trace)
    T = len(trace.ids)
    weights = np.tril(np.random.default_rng(0).random((T, T)).astype(np.float32))
    weights /= weights.sum(-1, keepdims=True)
    weights[made.positions, : made.weights[0].shape[-1]] = made.weights[0][0]
    return weights


def opened(file: Path, browser: Any, selector: str, point: bool = True) -> tuple[float, list[float]]:
    """One page, opened in a new tab.

    Returns:
        Seconds until the frame with what the selector finds was painted, and of each hover over it if ``point``.
    """
    context = browser.new_context(viewport={"width": 1000, "height": 900}, bypass_csp=True)  # what waits is a string
    try:
        context.add_init_script(DRAWN.replace("SELECTOR", json.dumps(selector)))
        tab = context.new_page()
        tab.set_default_timeout(1000 * PATIENCE)
        tab.wait_for_timeout(1000 * SETTLED)
        tab.goto(file.as_uri())
        tab.wait_for_function("window.drawn")
        return tab.evaluate("drawn") / 1000, tab.evaluate(POINT, selector) if point else []
    finally:
        context.close()


def rows_of_views(browser: Any, repeats: int) -> list[Row]:
    """First paint of each view, and hover where there is something to point at; first paint of an empty page."""
    rows, empty = [], []
    with tempfile.TemporaryDirectory() as folder:
        blank = Path(folder) / "empty.html"
        blank.write_text(EMPTY, "utf-8")
        for name, view in pages().items():
            file = to_html(view, Path(folder) / "a.html")
            words = not isinstance(view, DraftView)
            seen = []
            for _ in range(repeats):
                empty.append(opened(blank, browser, "p", point=False)[0])
                seen.append(opened(file, browser, WORDS if words else ".wb-body > *", point=words))
            rows.append(Row(f"{name}: first paint", [paint for paint, _ in seen], budget=FIRST_PAINT,
                            facts={"page_bytes": file.stat().st_size}))  # fmt: skip
            if words:
                rows.append(Row(f"{name}: hover", [one for _, hovers in seen for one in hovers], budget=HOVER))
    return [Row("an empty page: first paint", empty), *rows]


def rows_against(browser: Any, repeats: int) -> tuple[list[Row], list[str]]:
    """First paint and hover of one attention, ours and each peer's page in turn; and words about pages and peers."""
    from playwright.sync_api import TimeoutError as PlaywrightTimeout

    trace, rows = looked(), []
    weights, words = square(trace), [*trace.prompt.pieces, *trace.tokens.piece]
    told = [f"{len(words)} positions"]
    with tempfile.TemporaryDirectory() as folder:
        ours = to_html(AttentionView(trace), Path(folder) / "ours.html")
        told.append(f"ours {ours.stat().st_size / 1e6:.2f} MB, libraries included")
        for name in peers.PEERS:
            if why := peers.missing(name):
                told.append(f"{name} {why}: {peers.INSTALL}")
                continue
            made = peers.alone(name, weights, words)
            if made is None:
                told.append(f"{name}'s libraries are not on this disk: {peers.SCRIPTS}")
                continue
            file = Path(folder) / f"{name}.html"
            file.write_text(made, "utf-8")
            cells = len(peers.page(name, weights, words).encode()) / weights.size
            told.append(f"{name} {file.stat().st_size / 1e6:.2f} MB, {cells:.1f} bytes a cell")
            try:
                both = [
                    (opened(ours, browser, WORDS), opened(file, browser, TO_POINT_AT[name])) for _ in range(repeats)
                ]
            except PlaywrightTimeout:
                told.append(f"{name}'s page was not drawn within {PATIENCE} s")
                continue
            facts = {"release": peers.version(name), "bytes_a_cell": cells, "page_bytes": file.stat().st_size}
            for what, pick in (("drawn", lambda one: one[0]), ("hover", lambda one: statistics.median(one[1]))):
                a, b = ([pick(pair[k]) for pair in both] for k in (0, 1))
                rows.append(Row(f"AttentionView, {len(words)} positions: {what}", a, name, b, facts=facts))
    return rows, told


def sent() -> tuple[int, int, int]:
    """Cells of one word's attention on a prompt of pictures and sound; bytes of ours; bytes as a list of JSON."""
    trace = make_trace(tokens=4, images=((168, 240),) * 4, audio=(30.0,))
    view = AttentionView(trace, Looker(trace))
    answer = view.answer({"ask": "attend", "token": 1})
    maps = [*answer["images"], *answer["sounds"], answer["words"]]
    cells = sum(len(one["cells"]["view"]) for one in maps)
    values = np.random.default_rng(0).random(cells).astype(np.float32)
    return cells, sum(map(size, maps)), len(json.dumps(values.astype(float).tolist()))


def main(given: Sequence[str] | None = None) -> int:
    """Print the table; with ``--check``, 1 when a budget is missed; 2 without a Chromium."""
    args = arguments(__doc__, repeats=7).parse_args(given)
    from playwright.sync_api import sync_playwright

    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        print("There is no Chromium on this machine.")
        return 2
    repeats, began = 1 if args.quick else args.repeats, time.perf_counter()
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=FLAGS)
        print(f"Chromium {browser.version}\n")
        rows, (against, told) = rows_of_views(browser, repeats), rows_against(browser, repeats)
        browser.close()
    code = finish([*rows, *against], args)
    print("\nPages of the same attention: " + "; ".join(told) + ".")
    cells, ours, listed = sent()
    each = f"{ours / cells:.2f} bytes a cell; as a list of JSON {listed / cells:.1f}"
    print(f"One word's attention, {cells:,} cells: {each}. ({time.perf_counter() - began:.0f} s)")
    return code


if __name__ == "__main__":
    sys.exit(main())
