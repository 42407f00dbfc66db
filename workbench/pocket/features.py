"""Pictures to patches and sounds to frames, exactly as the processor does it, without its overhead.

A test holds these equal to ``Gemma4UnifiedProcessor``'s output, bit for bit.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["FRAME", "PATCH", "frames", "grid", "ninth", "patches"]

PATCH = 48  # pixels a side
FRAME = 640  # samples, 40 ms


def grid(width: int, height: int, most: int = 70) -> tuple[int, int]:
    """Rows and columns of patches for a picture: aspect ratio kept, at most ``most`` of them."""
    factor = math.sqrt(most * PATCH**2 / (width * height))
    rows, cols = math.floor(factor * height / PATCH), math.floor(factor * width / PATCH)
    if rows == 0:
        rows, cols = 1, min(width // height, most)
    elif cols == 0:
        rows, cols = min(height // width, most), 1
    return rows, cols


def ninth(xy: Any, sides: Any) -> Any:
    """Which ninth of the picture, 0 to 8 as in ``world.PLACES``, patches lie in, whole numbers of numpy or of torch.

    Args:
        xy: (…, 2) places of patches.
        sides: columns and rows of their picture, (2,) or what goes with ``xy``.
    """
    third = (2 * xy + 1) * 3 // (2 * sides)
    return third[..., 1] * 3 + third[..., 0]


def patches(picture: Image.Image, most: int = 70) -> tuple[np.ndarray, np.ndarray]:
    """Cut a picture into patches.

    Returns:
        uint8 (N, 6912), channels last within a patch, row-major; int64 (N, 2), the (x, y) of each.
    """
    rows, cols = grid(picture.width, picture.height, most)
    pixels = np.asarray(picture.convert("RGB"))
    if pixels.shape[:2] != (rows * PATCH, cols * PATCH):
        import torch
        from torchvision.transforms.v2 import functional as tv

        tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
        size = [rows * PATCH, cols * PATCH]
        tensor = tv.resize(tensor, size, interpolation=tv.InterpolationMode.BICUBIC, antialias=True)
        pixels = tensor.permute(1, 2, 0).numpy()
    cut = pixels.reshape(rows, PATCH, cols, PATCH, 3).transpose(0, 2, 1, 3, 4).reshape(rows * cols, PATCH * PATCH * 3)
    y, x = np.divmod(np.arange(rows * cols), cols)
    return cut, np.stack([x, y], 1)


def frames(wave: np.ndarray) -> np.ndarray:
    """Cut a 16 kHz sound into frames (N, 640) float32, the last one padded with zeros."""
    wave = np.pad(wave.astype(np.float32), (0, -len(wave) % FRAME))
    return wave.reshape(-1, FRAME)
