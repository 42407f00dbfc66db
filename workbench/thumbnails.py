"""Small pictures for pages: of an image, an outline of a sound, a colour for an amount. Numpy and Pillow only."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np

from workbench.media import Audio, Image

__all__ = ["VIRIDIS", "thumbnail", "waveform"]

VIRIDIS = ((68, 1, 84), (72, 40, 120), (62, 74, 137), (49, 104, 142), (38, 130, 142), (31, 158, 137), (53, 183, 121),
           (110, 206, 88), (181, 222, 43), (253, 231, 37))  # fmt: skip
"""Ten steps of matplotlib's viridis, sRGB, from little to much."""

_QUALITY = 88
_TIMES = 3  # so much smaller a JPEG is of a photograph, and hardly of anything drawn or written


def thumbnail(image: Image, side: int = 240) -> tuple[str, int, int]:
    """A picture no larger than ``side`` pixels.

    Returns:
        A data URL, its width and its height: a PNG, of a photograph a JPEG. Smaller pictures are not scaled.
    """
    small = image.to_pil()
    small.thumbnail((side, side), reducing_gap=2.0)

    def encoded(kind: str, **how: Any) -> bytes:
        file = io.BytesIO()
        small.save(file, kind, **how)
        return file.getvalue()

    kind, data = "jpeg", encoded("JPEG", quality=_QUALITY)
    if _TIMES * len(data) > len(encoded("PNG", compress_level=1)):  # which is quick, where all of a PNG takes a second
        kind, data = "png", encoded("PNG", optimize=True)
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}", small.width, small.height


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
