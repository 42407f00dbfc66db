"""Rounding weights to 4 bits in groups of 32, and finding the integers of weights that already lie on such a grid.

A group of 32 neighbouring weights of one row shares a scale: weight = (code - 8) * scale, code from 0 to 15. Two codes
go into a byte, the even column in the low half; read as little-endian int32 these bytes are the ``weight_packed`` of
compressed-tensors' ``pack-quantized`` format, which is how packed weights are stored here as well.

Weights trained for this format (Gemma 4's ``-qat-q4_0-unquantized``) are such products, rounded to the weights' type.
Their scale is not stored, but the largest weight of a group is a small integer times it, so a few candidates find it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["GROUP", "Rounding", "pack", "to_grid", "to_int8", "unpack", "values"]

GROUP = 32
_CHUNK = 1 << 19  # weights worked on at a time: what comes in between stays in a cache, which halves the time
_SAMPLE = 2048  # groups that tell whether a tensor lies on a grid


@dataclass(frozen=True)
class Rounding:
    """What rounding did to weights; ``a + b`` is that of both.

    Attributes:
        weights: How many were looked at.
        exact: How many are in groups that the grid gives back exactly.
        square_error, square: Sums over all weights, of the error's square and the weight's.
        largest: The largest absolute error.
    """

    weights: int = 0
    exact: int = 0
    square_error: float = 0.0
    square: float = 0.0
    largest: float = 0.0

    def __add__(self, other: Rounding) -> Rounding:
        return Rounding(
            self.weights + other.weights, self.exact + other.exact, self.square_error + other.square_error,
            self.square + other.square, max(self.largest, other.largest),
        )  # fmt: skip

    @property
    def relative(self) -> float:
        """Root mean square error over root mean square weight."""
        return float((self.square_error / self.square) ** 0.5) if self.square else 0.0

    def __str__(self) -> str:
        if self.exact == self.weights:
            return "exact"
        return f"{self.exact / max(self.weights, 1):.0%} exact, relative error {self.relative:.2%}"


def pack(codes: torch.Tensor) -> torch.Tensor:
    """(N, K) codes from 0 to 15 as (N, K/2) bytes, the even column in the low half."""
    import torch

    codes = codes.to(torch.uint8)
    return codes[:, ::2] | (codes[:, 1::2] << 4)


def unpack(packed: torch.Tensor) -> torch.Tensor:
    """The opposite of :func:`pack`: (N, K/2) bytes as (N, K) codes, uint8."""
    import torch

    return torch.stack((packed & 15, packed >> 4), dim=-1).flatten(1)


def values(packed: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """The weights (N, K) of packed codes (N, K/2) and scales (N, K/32), in the scales' type."""
    codes = (unpack(packed).to(scale.dtype) - 8).unflatten(1, (-1, GROUP))
    return (codes * scale[:, :, None]).flatten(1)


def to_grid(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, Rounding]:
    """Codes and scales of a weight.

    Weights on a grid come back exactly: their codes times their scales, in the weight's type, are the weight. Others
    are rounded, each group with the scale of those tried that makes the smallest square error.

    Args:
        weight: (N, K) floating point, K a multiple of 32, all finite.

    Returns:
        Packed codes (N, K/2) uint8, scales (N, K/32) of the weight's type, and what rounding did.
    """
    import torch

    rows, columns = weight.shape
    packed = torch.empty((rows, columns // 2), dtype=torch.uint8, device=weight.device)
    scale = torch.empty((rows, columns // GROUP), dtype=weight.dtype, device=weight.device)
    groups = weight.reshape(-1, GROUP)
    sample = groups[:: max(1, len(groups) // _SAMPLE)]
    on_grid = bool(_rounded(sample, _search(thorough=True))[3].eq(0).float().mean() > 0.5)
    steps = _search(thorough=on_grid)
    total = Rounding()
    height = max(1, _CHUNK // columns)
    for start in range(0, rows, height):
        part = weight[start : start + height]
        flat = part.reshape(-1, GROUP)
        codes, scales, error, largest = _rounded(flat, steps)
        packed[start : start + height] = pack(codes.reshape(part.shape))
        scale[start : start + height] = scales.reshape(len(part), -1)
        total += Rounding(
            part.numel(), int(largest.eq(0).sum()) * GROUP, float(error.double().sum()),
            float(flat.double().square().sum()), float(largest.max()),
        )  # fmt: skip
    return packed, scale, total


def to_int8(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight (N, K) as int8 (N, K) and a scale a row (N,), of the weight's type: weight ≈ int8 * scale."""
    import torch

    out = torch.empty(weight.shape, dtype=torch.int8, device=weight.device)
    scale = torch.empty(len(weight), dtype=weight.dtype, device=weight.device)
    height = max(1, _CHUNK // weight.shape[1])
    for start in range(0, len(weight), height):
        part = weight[start : start + height].float()
        step = (part.abs().amax(dim=1) / 127).to(weight.dtype)
        scale[start : start + height] = step
        step = step.float()
        step[step == 0] = 1
        out[start : start + height] = (part / step[:, None]).round().clamp(-127, 127).to(torch.int8)
    return out, scale


def _search(*, thorough: bool) -> list[tuple[float, int]]:
    """Candidates for what the largest weight of a group is in steps of its scale, and a nudge in last places.

    Thorough: every integer it can be; the scale may be off by one in the last place, because the weight was rounded.
    Otherwise: the whole range used, and a little more than the range, where cutting the largest weight helps the rest.
    """
    if thorough:
        return [(q, nudge) for nudge in (0, 1, -1) for q in (-8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0)]
    return [(q, 0) for q in (-8.0, 7.0, -8.6, 7.6, -9.2)]


def _rounded(
    groups: torch.Tensor, steps: list[tuple[float, int]]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Codes (G, 32), scales (G,), sum of square errors (G,) and largest error (G,) of groups (G, 32).

    Only the groups that no candidate has fitted exactly yet go on to the next, so a grid costs little more than one.
    """
    import torch

    dot = torch.linalg.vecdot
    exact = groups.float()
    peak = exact.gather(1, exact.abs().argmax(dim=1, keepdim=True))[:, 0]
    scales = torch.zeros(len(groups), dtype=groups.dtype, device=groups.device)
    error = dot(exact, exact)
    number = torch.arange(len(groups), device=groups.device)
    left = slice(None) if bool(peak.all()) else peak.nonzero()[:, 0]  # all of them: no copies, which cost as much again
    whole = {2: torch.int16, 4: torch.int32}[groups.element_size()]
    room = torch.empty_like(exact), torch.empty_like(exact), torch.empty_like(groups)
    for q, nudge in steps:
        if not len(number[left]):
            break
        step = (peak[left] / q).to(groups.dtype)
        if nudge:
            step = (step.view(whole) + nudge).view(groups.dtype)
        _code, off = _fitted(exact[left], step, room)
        found = dot(off, off)
        better = found < error[left]
        scales[left] = step.where(better, scales[left])
        error[left] = found.where(better, error[left])
        done = found == 0
        if bool(done.any()):
            done[done.clone()] = ~off[done].any(dim=1)  # the square of what is very small is 0
            left = number[left][~done]
    code, off = _fitted(exact, scales, room)
    return code.add_(8).to(torch.uint8), scales, dot(off, off), off.abs_().amax(dim=1)


def _fitted(
    rows: torch.Tensor, step: torch.Tensor, room: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes from -8 to 7 of rows (R, 32) with scales (R,), and what the rows are off (R, 32); both lie in ``room``."""
    import torch

    code, off, product = (part[: len(rows)] for part in room)
    factor = step.float()[:, None]
    # a scale of 0 is that of zeros, or of a group below the type's smallest number
    torch.div(rows, factor.where(factor != 0, 1), out=code).round_().clamp_(-8, 7)
    product.copy_(torch.mul(code, factor, out=off))
    return code, torch.sub(rows, product, out=off)
