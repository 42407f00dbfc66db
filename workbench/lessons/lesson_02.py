"""Exercises of lesson 02: a picture becomes tokens."""

from __future__ import annotations

from typing import Any

import numpy as np

from workbench.columns import Segment
from workbench.lessons.registry import Wrong, called, exercise, numbers, whole
from workbench.media.images import patch_grid

__all__: list[str] = []

_PICTURES = ((480, 336, 70), (336, 480, 70), (1000, 1000, 280), (4000, 3000, 1120), (900, 300, 140))


@exercise(
    "02.1", "how many tokens a picture takes",
    hints=(
        "Scaled by s, the picture has (s·width/48) · (s·height/48) patches. Which s makes that the budget?",
        "s = sqrt(budget · 48² / (width · height)). Then only whole patches count: round down, each side for itself.",
    ),
    solution="""
def answer(width, height, budget):
    scale = (budget * 48**2 / (width * height)) ** 0.5
    return int(scale * height / 48), int(scale * width / 48)
""",
)  # fmt: skip
def grid(answer: Any) -> str:
    """A function of width, height and budget that returns rows and columns."""
    for width, height, budget in _PICTURES:
        shown = f"answer({width}, {height}, {budget})"
        got = called(answer, width, height, budget, shown=shown)
        if not isinstance(got, (tuple, list, np.ndarray)) or len(got) != 2:
            raise Wrong(f"{shown} is {got!r}; expected two numbers, (rows, columns).")
        rows, cols = (whole(n, shown) for n in got)
        right = patch_grid(height, width, budget)
        if (rows, cols) == right[::-1] and rows != cols:
            raise Wrong(f"{shown} is ({rows}, {cols}): the right numbers, the wrong way round. Rows come first.")
        if rows * cols > budget:
            raise Wrong(f"{shown} is ({rows}, {cols}), {rows * cols} tokens: more than the budget of {budget}.")
        if (rows, cols) != right:
            raise Wrong(f"{shown} is ({rows}, {cols}), {rows * cols} tokens. The model's is another grid.")
    return "This is the rule that Gemma's own image processor follows."


@exercise(
    "02.2", "which token sees a pixel",
    hints=(
        "segment.boxes has one row for each token: left, top, right, bottom. In which one does (x, y) lie?",
        "The tokens of the picture begin at segment.start, not at 0.",
    ),
    solution="""
def answer(segment, x, y):
    for k, (left, top, right, bottom) in enumerate(segment.boxes):
        if left <= x < right and top <= y < bottom:
            return segment.start + k
""",
)  # fmt: skip
def token_at(answer: Any) -> str:
    """A function of a segment and a pixel that returns the position in the prompt."""
    rows, cols, wide, high, start = 3, 5, 32.0, 20.0, 11
    boxes = [(c * wide, r * high, (c + 1) * wide, (r + 1) * high) for r in range(rows) for c in range(cols)]
    segment = Segment("image", start, start + rows * cols, media=0, rows=rows, cols=cols, boxes=np.array(boxes))
    for x, y in ((0, 0), (40, 5), (5, 40), (100, 30), (159, 59)):
        right = start + int(y // high) * cols + int(x // wide)
        shown = f"answer(segment, {x}, {y})"
        got = whole(called(answer, segment, x, y, shown=shown), shown)
        if got == right - start:
            raise Wrong(f"{shown} is {got}: that counts from the first patch, not from the first token of the prompt.")
        if got != right:
            raise Wrong(f"{shown} is {got}; in this segment of {rows} rows and {cols} columns it is another token.")
    return "So a pixel has an address in the prompt. Attention maps are drawn with it, the other way round."


@exercise(
    "02.3", "a picture put together from its tokens",
    hints=(
        "Each row of values is one patch. Make it an array of (rows, cols, 48, 48, 3) first.",
        "Pixels of one line lie side by side: the axes must go rows, 48, cols, 48, 3. numpy's transpose does it.",
    ),
    solution="""
def answer(values, rows, cols):
    patches = values.reshape(rows, cols, 48, 48, 3)
    return patches.transpose(0, 2, 1, 3, 4).reshape(rows * 48, cols * 48, 3)
""",
)  # fmt: skip
def together(answer: Any) -> str:
    """A function of (n, 6912) numbers that returns the pixels."""
    for rows, cols in ((2, 3), (3, 1)):
        picture = np.random.default_rng(rows).random((rows * 48, cols * 48, 3), np.float32)
        values = picture.reshape(rows, 48, cols, 48, 3).transpose(0, 2, 1, 3, 4).reshape(rows * cols, 48 * 48 * 3)
        numbers(called(answer, values, rows, cols, shown=f"answer(values, {rows}, {cols})"), picture,
                f"answer(values, {rows}, {cols})")  # fmt: skip
    return "Nothing was lost but what the scaling took: up to here, a token is its pixels."
