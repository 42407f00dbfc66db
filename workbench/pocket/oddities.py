"""Pictures that are not of the pocket world: what a photo is to it. All made here; no photo is trained on."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["odd_picture", "photo"]


def _clouds(height: int, width: int, rng: np.random.Generator, power: float) -> np.ndarray:
    """Noise whose spectrum falls as natural pictures' does, (H, W) of mean 0 and spread 1."""
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    amplitude = np.maximum(np.hypot(fy, fx), 1 / max(height, width)) ** -power
    phase = np.exp(2j * np.pi * rng.random(amplitude.shape))
    field = np.fft.irfft2(amplitude * phase, s=(height, width))
    return ((field - field.mean()) / field.std()).astype(np.float32)


def odd_picture(rng: np.random.Generator, width: int = 384, height: int = 384) -> Image.Image:
    """Clouds, landscapes, clutter, a page of lines or coloured noise.

    Args:
        rng: all chance comes from it.
        width, height: pixels.
    """
    from PIL import Image, ImageDraw, ImageFilter

    kind = int(rng.integers(5))
    colour = rng.uniform(40, 215, (2, 3)).astype(np.float32)
    if kind == 3:  # a page
        page = Image.new("RGB", (width, height), tuple(int(x) for x in rng.uniform(200, 255, 3)))
        draw = ImageDraw.Draw(page)
        line = int(rng.uniform(8, 26))
        for y in range(line, height - line, line * 2):
            x = round(width * 0.06)
            while x < width * rng.uniform(0.7, 0.95):
                wide = rng.uniform(1, 7) * line * 0.5
                draw.rectangle((x, y, x + wide, y + line * 0.7), fill=tuple(int(c) for c in rng.uniform(0, 110, 3)))
                x += round(wide + line * 0.5)
        return page
    base = _clouds(height, width, rng, float(rng.uniform(0.7, 1.7)))[..., None]
    tint = np.stack([_clouds(height, width, rng, 1.4) for _ in range(3)], -1)
    mean, other = colour
    if kind == 1:  # a landscape: two halves and their own grain
        down = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
        edge = rng.uniform(0.3, 0.7) + 0.06 * _clouds(1, width, rng, 1.2)[..., None] * rng.uniform(0, 1)
        canvas = np.where(down < edge, mean + 8 * base, other + 35 * base) + tint * 6
    elif kind == 4:
        canvas = mean + tint * rng.uniform(30, 70)
    else:
        canvas = mean + base * rng.uniform(15, 60) + tint * rng.uniform(4, 30)
    drawn = Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8))
    if kind in (1, 2):  # things, blurred, overlapping, of no clear colour
        draw = ImageDraw.Draw(drawn)
        for _ in range(int(rng.integers(4, 40))):
            cx, cy, r = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(0.02, 0.25) * min(width, height)
            fill = tuple(int(c) for c in np.clip(colour[rng.integers(2)] + rng.normal(0, 45, 3), 0, 255))
            if rng.random() < 0.5:
                squeeze = rng.uniform(0.2, 1)
                draw.ellipse((cx - r, cy - r * squeeze, cx + r, cy + r * squeeze), fill=fill)
            else:
                angles = np.sort(rng.uniform(0, 2 * math.pi, 7))
                reach = r * rng.uniform(0.3, 1, 7)
                points = zip(cx + reach * np.cos(angles), cy + reach * np.sin(angles), strict=True)
                draw.polygon([(float(x), float(y)) for x, y in points], fill=fill)
        drawn = drawn.filter(ImageFilter.GaussianBlur(float(rng.uniform(0, 4))))
        grain = rng.normal(0, rng.uniform(2, 14), (height, width, 1))
        drawn = Image.fromarray(np.clip(np.asarray(drawn) + grain, 0, 255).astype(np.uint8))
    return drawn


def photo(rng: np.random.Generator) -> Image.Image:
    """A part of one of the two photos that come with scikit-learn (a flower, a palace), for the card. Never trained on."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    pixels = load_sample_images().images[rng.integers(2)]
    height, width = pixels.shape[:2]
    side = int(rng.uniform(0.35, 1.0) * min(height, width))
    top, left = int(rng.integers(0, height - side + 1)), int(rng.integers(0, width - side + 1))
    return Image.fromarray(pixels[top : top + side, left : left + side])
