"""Eyes and ears to start from: what the first maps of patches, their places and sound frames are before training.

Gemma 4 has no encoder: a patch of 48 × 48 pixels and a frame of 640 samples each go through one linear map. Random ones
make a small model spend most of its training on finding out what pictures and sounds are made of. So the pocket model
begins with what a retina and a cochlea begin with: patches as their lowest cosines in brightness and two opponent
colours, their places as waves along both axes, frames as a bank of band filters. Transformers starts places at a fiftieth
of what fills the patch: after 1,200 steps such a model cannot say where the only thing of a picture is (.25 right; .88 with
the waves). From there on everything is learnt, the patches' map at a quarter of the resolution (``Coarse``): single pixels are mostly
noise to it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn.utils import parametrize

from workbench.pocket.features import FRAME, PATCH

__all__ = ["Coarse", "coarse", "cosines", "filters", "mel_bands", "merged", "start", "waves_of_place"]

RATE = 16_000
BLOCK = 4  # pixels of the original that share a weight during training
PLACE_WAVES = 24  # cosines and sines along one axis
PLACE = 0.35  # spread of a place along one axis beside what fills the patch, whose spread is 1
_OPPONENT = ((1, 1, 1), (1, -1, 0), (0.5, 0.5, -1))


class Coarse(torch.nn.Module):
    """A patch map (O, 6912) kept as (O, 12, 12, 3): pixels of one block and colour share their weight."""

    def forward(self, low: torch.Tensor) -> torch.Tensor:
        """Spread the weights over the pixels."""
        return low.repeat_interleave(BLOCK, 1).repeat_interleave(BLOCK, 2).reshape(len(low), -1) / BLOCK

    def right_inverse(self, weight: torch.Tensor) -> torch.Tensor:
        """The nearest coarse weights."""
        n = PATCH // BLOCK
        return weight.view(len(weight), n, BLOCK, n, BLOCK, 3).mean((2, 4)) * BLOCK


def cosines(count: int) -> np.ndarray:
    """The ``count`` lowest two-dimensional cosines of a patch in three opponent colours, (count, 6912), unit length."""
    x = (np.arange(PATCH) + 0.5) / PATCH * np.pi
    side = int(np.ceil(np.sqrt(count / 3)))
    waves = sorted(((u, v) for u in range(side) for v in range(side)), key=lambda w: (w[0] ** 2 + w[1] ** 2, w))
    rows = [
        np.cos(v * x)[:, None, None] * np.cos(u * x)[None, :, None] * np.array(colour)
        for u, v in waves
        for colour in _OPPONENT
    ]
    flat = np.stack(rows[:count]).reshape(count, -1)
    return flat / np.linalg.norm(flat, axis=1, keepdims=True)


def waves_of_place(count: int, width: int) -> np.ndarray:
    """Cosines and sines of the places 0 to ``count - 1`` along one axis: (count, width), rows of length 1.

    Waves are 3 to 48 patches long, so that near places are alike and far ones are not.
    """
    lengths = np.geomspace(3, 48, width // 2)
    turns = 2 * np.pi * np.arange(count)[:, None] / lengths
    return np.concatenate([np.cos(turns), np.sin(turns)], 1) / np.sqrt(width // 2)


def _mel(hertz: float) -> float:
    return float(2595 * np.log10(1 + hertz / 700))


def _hertz(mel: np.ndarray) -> np.ndarray:
    return 700 * (10 ** (mel / 2595) - 1)


def filters(count: int) -> np.ndarray:
    """``count / 2`` bands from 80 to 7,200 Hz, evenly spaced on the mel scale, each a cosine and a sine; (count, 640)."""
    bands = _hertz(np.linspace(_mel(80), _mel(7200), count // 2))
    seconds = (np.arange(FRAME) - (FRAME - 1) / 2) / RATE
    window = np.sqrt(np.hanning(FRAME + 2)[1:-1])
    turns = 2 * np.pi * bands[:, None] * seconds
    pairs = np.stack([window * np.cos(turns), window * np.sin(turns)], 1).reshape(count, -1)
    return pairs / np.linalg.norm(pairs, axis=1, keepdims=True)


def mel_bands(frames: torch.Tensor, count: int = 32) -> torch.Tensor:
    """Log energies of sound frames (N, 640) in mel bands from 60 to 7,600 Hz, less their mean: (N, count)."""
    edges = _hertz(np.linspace(_mel(60), _mel(7600), count + 2))
    at = np.fft.rfftfreq(1024, 1 / RATE)
    triangles = [
        np.clip(np.minimum((at - low) / (mid - low), (high - at) / (high - mid)), 0, None)
        for low, mid, high in zip(edges, edges[1:], edges[2:], strict=False)
    ]
    power = torch.fft.rfft(frames * torch.hann_window(FRAME, periodic=False), n=1024).abs() ** 2
    bands = (power @ torch.from_numpy(np.stack(triangles)).float().T + 1e-8).log()
    return bands - bands.mean(-1, keepdim=True)


def _eyes(model: Any) -> Any:
    return model.model.embed_vision


def start(model: Any, seed: int) -> None:
    """Give a model of random weights its first eyes and ears.

    Each cosine is scaled to the same spread over patches of the pocket world, and all are turned together by a random
    rotation, so that no feature of the residual stream starts as a special one; the waves of each axis by one of its own.
    """
    from workbench.pocket.features import patches
    from workbench.pocket.world import random_scene, render

    rng = np.random.default_rng([seed, 48])
    eyes, ears = _eyes(model), model.model.embed_audio
    seen = np.concatenate([patches(render(random_scene(rng, 4, 9), rng))[0] for _ in range(24)])
    with torch.no_grad():
        normal = eyes.patch_ln1(torch.from_numpy(seen).float() / 255)
        count = eyes.patch_dense.out_features
        waves = torch.from_numpy(cosines(count)).float()
        spread = (normal @ waves.T).std(0)
        waves /= (spread + 1e-3 * spread.max())[:, None]
        turn = np.linalg.qr(rng.normal(size=(count, count)))[0]
        eyes.patch_dense.weight.copy_(torch.from_numpy(turn).float() @ waves)
        steps, _, width = eyes.pos_embedding.shape
        for axis in range(2):
            turn = np.linalg.qr(rng.normal(size=(width, width)))[0][:PLACE_WAVES]
            along = waves_of_place(steps, PLACE_WAVES) @ turn * PLACE * np.sqrt(width)
            eyes.pos_embedding[:, axis].copy_(torch.from_numpy(along).float())
        linear = ears.embedding_projection
        linear.weight.copy_(torch.from_numpy(filters(linear.out_features)).float())


def coarse(model: Any) -> None:
    """From now on learn the patches' map at a quarter of the resolution."""
    parametrize.register_parametrization(_eyes(model).patch_dense, "weight", Coarse())


def merged(model: Any) -> Any:
    """The model with plain weights, to be saved: itself, or a copy of one that learns coarsely."""
    dense = _eyes(model).patch_dense
    if not parametrize.is_parametrized(dense):
        return model
    plain = type(model)(model.config)
    plain.generation_config = model.generation_config
    weights = {k: v for k, v in model.state_dict().items() if "parametrizations" not in k}
    weights |= {f"model.embed_vision.patch_dense.{k}": getattr(dense, k).detach() for k in ("weight", "bias")}
    plain.load_state_dict(weights)
    return plain
