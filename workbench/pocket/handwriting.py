"""Handwritten digits: the 8 × 8 scans that come with scikit-learn, drawn large on paper of any kind.

The scans are the test part of "Optical Recognition of Handwritten Digits" (E. Alpaydin and C. Kaynak, 1998, UCI Machine
Learning Repository): 1,797 digits of 13 writers. Every fifth is held out of training.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from workbench.errors import MediaError
from workbench.pocket.world import background

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["draw", "scans", "sheet"]


@lru_cache(maxsize=2)
def scans(held_out: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """The scans, ink from 0 to 1, and what they are.

    Args:
        held_out: those for the card, or those for training.

    Returns:
        float32 (N, 8, 8) and int64 (N,).

    Raises:
        MediaError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise MediaError(
            "handwritten digits come with scikit-learn, which is not installed; to mend it: pip install scikit-learn"
        ) from None
    every = load_digits()
    mine = (np.arange(len(every.target)) % 5 == 0) == held_out
    return every.images[mine].astype(np.float32) / 16, every.target[mine]


def draw(
    digit: int, rng: np.random.Generator, width: int = 384, height: int = 384, *, held_out: bool = False
) -> tuple[Image.Image, tuple[float, float, float, float]]:
    """Write a digit, every time another way: writer, size, place, slant, pen, paper.

    Args:
        digit: 0 to 9.
        rng: all chance comes from it.
        width, height: pixels.
        held_out: with a scan that training never sees.

    Returns:
        An RGB picture, and the box of the digit (left, top, right, bottom) as parts of its width and height.
    """
    side = float(rng.uniform(0.4, 0.92)) * min(width, height)
    cx = width / 2 + rng.uniform(-1, 1) * (width - side) * 0.35
    cy = height / 2 + rng.uniform(-1, 1) * (height - side) * 0.35
    picture, boxes = _written([(digit, cx, cy, side)], rng, width, height, held_out)
    return picture, boxes[0]


def sheet(
    digits: tuple[int, ...], rng: np.random.Generator, width: int = 384, height: int = 384, *, held_out: bool = False
) -> tuple[Image.Image, list[tuple[float, float, float, float]]]:
    """Write four digits, one in every quarter, in reading order; otherwise as ``draw``.

    Returns:
        An RGB picture, and the digits' boxes.
    """
    at = []
    for k, digit in enumerate(digits):
        side = float(rng.uniform(0.36, 0.48)) * min(width, height)
        cx = width * (0.25 + 0.5 * (k % 2)) + rng.uniform(-1, 1) * max(0.0, width / 2 - side) * 0.3
        cy = height * (0.25 + 0.5 * (k // 2)) + rng.uniform(-1, 1) * max(0.0, height / 2 - side) * 0.3
        at.append((digit, cx, cy, side))
    return _written(at, rng, width, height, held_out)


def _written(
    at: list[tuple[int, float, float, float]], rng: np.random.Generator, width: int, height: int, held_out: bool
) -> tuple[Image.Image, list[tuple[float, float, float, float]]]:
    """Digits, each with the middle and the side of its box in pixels, on one paper by one pen."""
    from PIL import Image

    edge = (float(rng.uniform(0.3, 0.5)), float(rng.uniform(8, 25))) if rng.random() < 0.6 else None
    cover = np.zeros((height, width), np.float32)
    boxes = []
    for digit, cx, cy, side in at:
        ink_of = np.clip(_stroke(digit, rng, width, height, cx, cy, side, held_out), 0, 1)
        if edge:  # a pen with an edge instead of a soft scan
            ink_of = 1 / (1 + np.exp(-(ink_of - edge[0]) * edge[1]))
        cover = np.maximum(cover, ink_of)
        half = side / 2
        boxes.append(((cx - half) / width, (cy - half) / height, (cx + half) / width, (cy + half) / height))
    dark = rng.random() < 0.35
    paper = background(height, width, rng, dark)
    if not dark:
        paper = 255 - (255 - paper) * rng.uniform(0, 0.45)
    ink = np.full(3, rng.uniform(190, 255) if dark else rng.uniform(0, 70), np.float32)
    if rng.random() < 0.3:
        ink = np.clip(ink + rng.uniform(-60, 60, 3), 0, 255).astype(np.float32)
    drawn = paper + cover[..., None] * (ink - paper)
    return Image.fromarray(np.clip(drawn, 0, 255).astype(np.uint8)), boxes


def _stroke(
    digit: int, rng: np.random.Generator, width: int, height: int, cx: float, cy: float, side: float, held_out: bool
) -> np.ndarray:
    """How much ink a scan of a digit leaves on each pixel (H, W), turned, slanted and stretched a little."""
    from PIL import Image

    images, labels = scans(held_out)
    mine = np.flatnonzero(labels == digit)
    scan = images[mine[rng.integers(len(mine))]]
    turn, slant = math.radians(float(rng.normal(0, 6))), float(rng.normal(0, 0.12))
    stretch = float(rng.uniform(0.85, 1.15))
    # smooth at 64 × 64 first: the affine map then reads between pixels of a stroke, not of a scan
    fine = Image.fromarray(np.pad(scan, 1)).resize((80, 80), Image.Resampling.BICUBIC)
    c, s = math.cos(turn), math.sin(turn)
    scale = 80 / side / 1.25
    a, b = scale * c * stretch, scale * (s + slant)
    d, e = -scale * s, scale * c
    return np.asarray(
        fine.transform(
            (width, height), Image.Transform.AFFINE,
            (a, b, 40 - a * cx - b * cy, d, e, 40 - d * cx - e * cy), Image.Resampling.BILINEAR,
        ), np.float32,
    )  # fmt: skip
