"""Packed weights multiplied by unpacking a few columns at a time, on the CPU.

PyTorch's kernels for packed weights work through four rows at a time, which is right for one token and a few drafts,
and slow for a prompt: on a processor with AVX2 and no more, 300 rows take them 2.2 times as long as unpacking to
float32 and multiplying that (``python -m benchmarks.quantization``). And on x86 they are written for bfloat16 alone:
with x in float32 or float16 one row takes them thirteen times as long, longer than unpacking. The weights are the same
numbers; what differs is the order in which float32 sums are rounded.

How the int4 kernel wants its weights depends on the instructions the processor has, and is written down nowhere. So it
is found out by packing known codes; where they do not come out in a known order, the kernel does all the work.
"""

from __future__ import annotations

import functools

import torch

from workbench.grid import GROUP

__all__ = ["MANY", "better", "block", "product", "product8", "values"]

MANY = 40
"""Rows from which unpacking is quicker than the kernels: measured with AVX2, level at 32 to 40 (int8: at 16 to 24)."""
_AT_A_TIME = 1 << 21  # weights unpacked at a time: 8 MB
_WHOLE = torch.complex128  # moved about, 16 bytes are quicker as one number than as 16


def better(rows: int, dtype: torch.dtype) -> bool:
    """Whether so many rows of a type are quicker unpacked than in the kernels, on this processor."""
    written_for_it = dtype == torch.bfloat16 or not torch.backends.cpu.get_cpu_capability().startswith("AVX")
    return rows >= MANY or not written_for_it


@functools.cache
def block() -> int | None:
    """How many rows of a weight lie side by side, their first half in the bytes' low halves; None: another way."""
    generator = torch.Generator("cpu").manual_seed(0)
    codes = torch.randint(0, 16, (128, 2 * GROUP), generator=generator, dtype=torch.int32, device="cpu")
    tiles = torch._convert_weight_to_int4pack_for_cpu(codes, 1).flatten()  # noqa: SLF001
    for size in (64, 32):  # AVX-512, AVX2
        low, high = codes.view(-1, size, codes.shape[1]).transpose(1, 2).chunk(2, dim=-1)
        if torch.equal((low | high << 4).to(torch.uint8).flatten(), tiles):
            return size
    return None


class _Room:
    """What unpacking needs, taken once: asking for it anew costs as much time as the unpacking."""

    def __init__(self, weights: int) -> None:
        self.half = torch.empty(weights // 2, dtype=torch.uint8, device="cpu")
        self.codes = torch.empty(weights, dtype=torch.uint8, device="cpu")
        self.out = torch.empty(weights, dtype=torch.float32, device="cpu")


def values(tiles: torch.Tensor, scale: torch.Tensor, first: int, stop: int, room: _Room | None = None) -> torch.Tensor:
    """Rows ``first`` to ``stop`` of a weight (N, K), unpacked.

    Args:
        tiles: (N, K/2) bytes, as PyTorch packs them.
        scale: (K/32, N, 2) scales and zeros, as the kernel takes them; the zeros are 0.
        first, stop: Multiples of :func:`block`.
        room: Where to do it; what comes out lies there.

    Returns:
        Their transpose, (K, stop - first), float32.
    """
    half = (block() or 0) // 2
    K, columns = 2 * tiles.shape[1], stop - first
    room = room or _Room(K * columns)
    cut = tiles.view(-1, K, half)[first // (2 * half) : stop // (2 * half)]
    low_or_high = room.half[: cut.numel()].view(cut.shape)
    codes = room.codes[: K * columns].view(K, -1, 2, half)
    for k, (take, what) in enumerate(((torch.bitwise_and, 15), (torch.bitwise_right_shift, 4))):
        take(cut, what, out=low_or_high)
        codes[:, :, k].view(_WHOLE).copy_(low_or_high.view(_WHOLE).transpose(0, 1))
    out = room.out[: K * columns].view(K, columns)
    out.copy_(codes.view(torch.int8).sub_(8).view(K, columns))
    out.view(-1, GROUP, columns).mul_(scale[:, None, first:stop, 0].float())
    return out


def _pieces(rows: int, columns: int) -> list[tuple[int, int]]:
    """First and stop of pieces of a weight (rows, columns); all but the last are multiples of every :func:`block`."""
    height = max(64, _AT_A_TIME // columns // 64 * 64)
    return [(first, min(first + height, rows)) for first in range(0, rows, height)]


def product(x: torch.Tensor, tiles: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Multiply x (M, K) by a packed weight, as :func:`values` takes it: (M, N), in x's type, summed in float32."""
    rows, pieces = x.float(), _pieces(len(tiles), x.shape[1])
    out = torch.empty((len(x), len(tiles)), dtype=x.dtype, device=x.device)
    room = _Room(x.shape[1] * pieces[0][1])
    for first, stop in pieces:
        out[:, first:stop] = rows @ values(tiles, scale, first, stop, room)
    return out


def product8(x: torch.Tensor, packed: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Multiply x (M, K) by int8 weights (N, K) with a scale a row (N,): (M, N), in x's type, summed in float32."""
    rows, pieces = x.float(), _pieces(*packed.shape)
    out = torch.empty((len(x), len(packed)), dtype=x.dtype, device=x.device)
    room = torch.empty((pieces[0][1], x.shape[1]), dtype=torch.float32, device=x.device)
    for first, stop in pieces:
        weight = room[: stop - first].copy_(packed[first:stop])
        out[:, first:stop] = (rows @ weight.T).mul_(scale[first:stop].float())
    return out
