"""A map on its picture or its sound as a figure for a paper: PNG, SVG or PDF.

    write(trace, model.attend(trace).map("image", 0, token=3), "map.pdf")

With the question and the answer, a colour bar with its unit, the strongest place framed (so that colour is not all),
and a line that says what exactly ran.
"""

from __future__ import annotations

import os
import textwrap
import unicodedata
from pathlib import Path

import numpy as np

from widgets.sheet import Sheet, viridis
from workbench.errors import TraceError
from workbench.maps import limits
from workbench.media import SAMPLE_RATE
from workbench.readings import Map
from workbench.trace import Trace

__all__ = ["FORMATS", "draw", "write"]

FORMATS = (".png", ".svg", ".pdf")

_WIDE = 460.0  # points of the drawing, as wide as a page of text
_TALL = 420.0  # at most
_BAR = 40.0  # at least, so that the colour bar's three numbers lie apart, however flat the picture is
_MARGIN = 18.0
_INK, _GREY, _FRAME = (30, 30, 30), (110, 110, 110), (213, 94, 0)
_MOST_PIXELS = 1600  # a side of an embedded picture


def write(trace: Trace, made: Map, path: str | os.PathLike, *, note: str = "") -> None:
    """Write the figure of a map to a file; its ending says which kind.

    Args:
        trace: The run the map is of.
        made: Attention's or occlusion's, over an image or a sound.
        path: Ends in .png, .svg or .pdf.
        note: One more line, such as the largest gap of the replay.

    Raises:
        TraceError: Another ending, a map of words, or a place that cannot be written to.
    """
    goal = Path(path).expanduser()
    kind = goal.suffix.lower()
    if kind not in FORMATS:
        raise TraceError(f"{str(path)!r}: expected a name that ends in {', '.join(FORMATS)}.")
    sheet = draw(trace, made, note=note)
    data = {".png": sheet.png, ".svg": sheet.svg, ".pdf": sheet.pdf}[kind]()
    try:
        goal.write_bytes(data)
    except OSError as error:
        raise TraceError(f"{str(path)!r} cannot be written: {error.strerror or error}.") from error


def draw(trace: Trace, made: Map, *, note: str = "") -> Sheet:
    """The figure as a sheet, to be written or drawn on.

    Raises:
        TraceError: The map is not over an image or a sound of this trace.
    """
    if made.kind not in ("image", "audio") or made.media is None:
        raise TraceError(f"A figure shows a map over an image or a sound; this one is over {made.kind}.")
    media = trace.images if made.kind == "image" else trace.audio
    if made.media >= len(media) or not np.isfinite(made.values).any():
        raise TraceError(f"This trace has no {made.kind} {made.media} to draw on, or the map has no number in it.")
    head, foot = _words(trace, made, note)
    if made.kind == "image":
        image = trace.images[made.media]
        scale = min(_WIDE / image.width, _TALL / image.height)
        width, tall = image.width * scale, image.height * scale
    else:
        scale, width, tall = 0.0, _WIDE, 130.0
    top = _MARGIN + 13 * len(head)
    axis = 24 if made.kind == "audio" else 6
    room = max(tall, _BAR)
    sheet = Sheet(_MARGIN * 2 + _WIDE + 64, top + room + axis + 11 * len(foot) + _MARGIN)
    for k, line in enumerate(head):
        sheet.text(_MARGIN, _MARGIN + 13 * k + 4, line, size=10.5 if k == 0 else 9)
    if made.kind == "image":
        _image(sheet, trace, made, top, scale)
    else:
        _sound(sheet, trace, made, top, tall)
    _bar(sheet, made, _MARGIN + width + 12, top, room)
    for k, line in enumerate(foot):
        sheet.text(_MARGIN, top + room + axis + 11 * (k + 1), line, size=7.5, colour=_GREY)
    return sheet


def _words(trace: Trace, made: Map, note: str) -> tuple[list[str], list[str]]:
    """Lines above (what was asked and said) and below (what is shown, and what ran)."""
    head = [*_lines(f"Q: {trace.question}", 92), *_lines(f"A: {trace.text}", 105)]
    layers = f"; layers {', '.join(map(str, made.layers))}" if made.layers else ""
    m = trace.model
    ran = (
        f"{m.variant} (revision {m.revision}, {m.quantization}, weights {m.weights_hash[:12]}), {m.dtype} on "
        f"{m.device}, masks {'corrected' if m.mask_correction else 'as shipped'}"
        + (f", seed {trace.settings.seed}" if trace.settings.seed is not None else "")
    )
    versions = ", ".join(f"{k} {v}" for k, v in sorted(m.versions.items()) if k in ("torch", "transformers"))
    lines = [f"{made.unit}: {made.about}{layers}", f"{ran}. {versions}", note]
    return head, [part for line in lines if line for part in textwrap.wrap(line, 125)]


def _lines(words: str, most: int) -> list[str]:
    """Two lines at most of so many letters; those of East Asia are twice as wide."""
    wide = any(unicodedata.east_asian_width(c) in "WF" for c in words)
    return textwrap.wrap(words, most // 2 if wide else most, max_lines=2, placeholder=" …")


def _image(sheet: Sheet, trace: Trace, made: Map, top: float, scale: float) -> None:
    image = trace.images[made.media or 0]
    step = max(1, -(-max(image.pixels.shape[:2]) // _MOST_PIXELS))
    sheet.picture(_MARGIN, top, image.width * scale, image.height * scale, image.pixels[::step, ::step])
    if made.boxes is None:
        raise TraceError("This map has no boxes of its patches.")
    low, high = limits(made)
    for value, box in zip(made.values.ravel(), made.boxes, strict=True):
        left, upper, right, lower = (float(v) * scale for v in box)
        if np.isfinite(value):
            # the more, the less transparent: the picture stays to be seen
            share = max(0.0, (float(value) - low) / (high - low))
            sheet.rect(
                _MARGIN + left, top + upper, right - left, lower - upper, fill=viridis(share), alpha=0.25 + 0.5 * share
            )
    left, upper, right, lower = (float(v) * scale for v in made.boxes[made.peak()])
    sheet.rect(_MARGIN + left, top + upper, right - left, lower - upper, line=_FRAME, thick=2)


def _sound(sheet: Sheet, trace: Trace, made: Map, top: float, tall: float) -> None:
    sound = trace.audio[made.media or 0]
    if made.start_ms is None or made.end_ms is None:
        raise TraceError("This map has no times of its frames.")
    total = max(float(made.end_ms[-1]), 1.0)
    low, high = limits(made)

    def x(ms: float) -> float:
        return _MARGIN + ms / total * _WIDE

    for value, a, b in zip(made.values, made.start_ms, made.end_ms, strict=True):
        if np.isfinite(value):
            sheet.rect(x(a), top, x(b) - x(a), tall, fill=viridis((value - low) / (high - low)), alpha=0.75)
    n = int(min(_WIDE, max(1, len(sound.samples))))
    edges = np.linspace(0, len(sound.samples), n + 1).astype(int)[:-1]
    loud = max(float(np.abs(sound.samples).max(initial=0)), 1e-6)
    at = [x(float(e) / SAMPLE_RATE * 1000) for e in edges]
    for extreme in (np.maximum, np.minimum):
        wave = extreme.reduceat(sound.samples, edges) / loud
        points = [(px, top + tall / 2 - float(v) * tall * 0.45) for px, v in zip(at, wave, strict=True)]
        sheet.path(points, (255, 255, 255), thick=1.6)  # a rim that shows on every colour
        sheet.path(points, (0, 0, 0), thick=0.7)
    peak = made.peak()
    sheet.rect(x(made.start_ms[peak]), top, x(made.end_ms[peak]) - x(made.start_ms[peak]), tall, line=_FRAME, thick=2)
    sheet.rect(_MARGIN, top, _WIDE, tall, line=_INK, thick=0.6)
    every = next(s for s in (50, 100, 200, 500, 1000, 2000, 5000, 10_000) if total / s <= 9 or s == 10_000)
    for ms in np.arange(0, total + 1e-6, every):
        sheet.path([(x(ms), top + tall), (x(ms), top + tall + 3)], _INK)
        sheet.text(x(ms), top + tall + 12, f"{ms / 1000:g}", size=7.5, anchor="middle")
    sheet.text(_MARGIN + _WIDE, top + tall + 21, "seconds", size=7.5, anchor="end")


def _bar(sheet: Sheet, made: Map, left: float, top: float, tall: float) -> None:
    low, high = limits(made)
    steps = 64
    for k in range(steps):
        sheet.rect(left, top + tall * k / steps, 10, tall / steps + 0.3, fill=viridis(1 - (k + 0.5) / steps))
    sheet.rect(left, top, 10, tall, line=_INK, thick=0.6)
    for share in (0.0, 0.5, 1.0):
        y = top + tall * (1 - share)
        sheet.path([(left + 10, y), (left + 13, y)], _INK)
        sheet.text(left + 15, y + 3, f"{low + (high - low) * share:.3g}", size=7.5)
