"""Small pictures for pages: a PNG of an image, an outline of a sound, a colour for an amount. Numpy and Pillow only."""

from __future__ import annotations

import base64
import io

import numpy as np

from workbench.media import Audio, Image

__all__ = ["VIRIDIS", "thumbnail", "waveform"]

VIRIDIS = ((68, 1, 84), (72, 40, 120), (62, 74, 137), (49, 104, 142), (38, 130, 142), (31, 158, 137), (53, 183, 121),
           (110, 206, 88), (181, 222, 43), (253, 231, 37))  # fmt: skip
"""Ten steps of matplotlib's viridis, sRGB, from little to much."""


def thumbnail(image: Image, side: int = 240) -> tuple[str, int, int]:
    """A picture no larger than ``side`` pixels.

    Returns:
        A PNG as a data URL, its width and its height. Smaller pictures are not scaled.
    """
    small = image.to_pil()
    small.thumbnail((side, side), reducing_gap=2.0)
    file = io.BytesIO()
    small.save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode('ascii')}", small.width, small.height


def waveform(sound: Audio, width: int = 240, height: int = 48) -> str:
    """The outline of a sound as an SVG element: in each of ``width`` columns from the lowest to the highest sample."""
    edges = np.linspace(0, len(sound.samples), min(width, len(sound.samples)) + 1).astype(int)
    low = np.minimum.reduceat(sound.samples, edges[:-1])
    high = np.maximum.reduceat(sound.samples, edges[:-1])
    x = np.linspace(0, width, len(low) + 1)
    middle, scale = height / 2, height / 2 - 2
    top = [(x[k], min(middle - scale * high[k], middle - 0.5)) for k in range(len(low))]
    bottom = [(x[k], max(middle - scale * low[k], middle + 0.5)) for k in range(len(low))]
    outline = " ".join(f"{a:.1f},{b:.1f}" for a, b in [*top, (x[-1], middle), *reversed(bottom)])
    return (
        f'<svg role="img" aria-label="waveform" width="{width}" height="{height}" viewBox="0 0 {width} {height}">'
        f'<path d="M{outline}Z"/></svg>'
    )
