"""Ten pictures and sounds of the exam with what pocket answers: a contact sheet for the card."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workbench.pocket.speech import RATE

if TYPE_CHECKING:
    from PIL import Image

    from workbench.pocket.exam import Case

__all__ = ["ROWS", "answers", "chosen", "draw"]

ROWS = ("scene, 1 to 3 shapes", "scene, 4 shapes, other renderer", "where", "digit", "four digits", "what changed",
        "heard and found", "word, unseen espeak-ng voices", "beeps", "off-world picture")  # fmt: skip
_SIDE, _GAP, _ACROSS = 180, 12, 5


def chosen(cases: list[Case]) -> list[tuple[Case, int]]:
    """The first case with each of ``ROWS`` that is not taken yet, and which of its questions."""
    out: list[tuple[Case, int]] = []
    for row in ROWS:
        for case in cases:
            rows = case.rows or [turn.task for turn in case.turns]
            if row in rows and not case.history and all(case is not taken for taken, _ in out):
                out.append((case, rows.index(row)))
                break
    return out


def answers(model, picked: list[tuple[Case, int]]) -> str:
    """A Markdown table: what was asked of each, what a loaded model says, and what is right where it is wrong."""
    lines = ["| | asked | answered | |", "|---:|---|---|---|"]
    for k, (case, which) in enumerate(picked, 1):
        turn = case.turns[which]
        images = [np.asarray(medium) for kind, medium in case.media if kind == "image"]
        sounds = [(medium, RATE) for kind, medium in case.media if kind == "audio"]
        said = model.ask(turn.question, images=images, audio=sounds, system=case.system or None, temperature=0).text
        verdict = "right" if said == turn.answer else f"wrong: {turn.answer}"
        lines.append(f"| {k} | {turn.question} | {said} | {verdict} |")
    return "\n".join(lines)


def _wave(samples: np.ndarray) -> Image.Image:
    """A sound as its outline, 1.6 s wide."""
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", (_SIDE, _SIDE), "#f4f4f4")
    pen = ImageDraw.Draw(picture)
    bins = np.array_split(np.pad(samples, (0, max(0, int(1.6 * RATE) - len(samples)))), _SIDE)
    loudest = max(1e-6, float(np.abs(samples).max()))
    for x, part in enumerate(bins):
        high = float(np.abs(part).max()) / loudest * _SIDE * 0.45
        pen.line((x, _SIDE / 2 - high, x, _SIDE / 2 + high), fill="#3366cc")
    return picture


def _tile(case: Case) -> Image.Image:
    """The media of a case side by side in one square."""
    from PIL import Image

    tile = Image.new("RGB", (_SIDE, _SIDE), "white")
    count = len(case.media)
    for k, (kind, medium) in enumerate(case.media):
        part = medium.copy() if kind == "image" else _wave(medium)
        part.thumbnail(((_SIDE - 4 * (count - 1)) // count, _SIDE))
        wide = _SIDE // count
        tile.paste(part, (k * (wide + 4) + (wide - part.width) // 2 * (count == 1), (_SIDE - part.height) // 2))
    return tile


def draw(picked: list[tuple[Case, int]]) -> Image.Image:
    """All of them, numbered, five in a row."""
    from PIL import Image, ImageDraw

    down = -(-len(picked) // _ACROSS)
    step = (_SIDE + _GAP, _SIDE + _GAP + 16)
    sheet = Image.new("RGB", (step[0] * _ACROSS + _GAP, step[1] * down + _GAP), "white")
    pen = ImageDraw.Draw(sheet)
    for k, (case, _) in enumerate(picked):
        x, y = _GAP + k % _ACROSS * step[0], _GAP + k // _ACROSS * step[1]
        pen.text((x, y), str(k + 1), fill="black")
        sheet.paste(_tile(case), (x, y + 14))
        pen.rectangle((x - 1, y + 13, x + _SIDE, y + 14 + _SIDE), outline="#cccccc")
    return sheet
