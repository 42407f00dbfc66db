"""Many rows times packed weights, on the CPU.

PyTorch's kernels for packed weights multiply row by row, which is right for one token and a few drafts, and slow for a
prompt: on a processor with AVX2 and no more, 300 rows take them 2.2 times as long as unpacking a few columns at a time
to float32 and multiplying those (``python -m benchmarks.quantization``). The weights are the same numbers; what differs
is the order in which float32 sums are rounded.

How the int4 kernel wants its weights depends on the instructions the processor has, and is written down nowhere. So it
is found out by packing known codes; where they do not come out in a known order, the kernel does all the work.
"""

from __future__ import annotations

import functools

import torch

from workbench.grid import GROUP

__all__ = ["MANY", "block", "product", "product8", "values"]

MANY = 64
"""Rows from which unpacking is quicker than the kernels: measured with AVX2, level at 48 to 64 (int8: at 32)."""
_AT_A_TIME = 512  # columns of the product unpacked at a time: 8 MB at 12B's width


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


def values(tiles: torch.Tensor, scale: torch.Tensor, first: int, stop: int) -> torch.Tensor:
    """Rows ``first`` to ``stop`` of a weight (N, K), unpacked.

    Args:
        tiles: (N, K/2) bytes, as PyTorch packs them.
        scale: (K/32, N, 2) scales and zeros, as the kernel takes them; the zeros are 0.
        first, stop: Multiples of :func:`block`.

    Returns:
        Their transpose, (K, stop - first), float32.
    """
    size = block() or 0
    K = 2 * tiles.shape[1]
    cut = tiles.view(-1, K, size // 2)[first // size : stop // size].transpose(0, 1)
    out = torch.empty((K, stop - first), dtype=torch.float32, device=tiles.device)
    codes = out.view(K, -1, size)
    codes[..., : size // 2].copy_(cut & 15)
    codes[..., size // 2 :].copy_(cut >> 4)
    out.view(-1, GROUP, stop - first).sub_(8).mul_(scale[:, None, first:stop, 0].float())
    return out


def product(x: torch.Tensor, tiles: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Multiply x (M, K) by a packed weight, as :func:`values` takes it: (M, N), in x's type, summed in float32."""
    N = tiles.shape[0]
    rows = x.float()
    out = torch.empty((len(x), N), dtype=x.dtype, device=x.device)
    for first in range(0, N, _AT_A_TIME):
        stop = min(first + _AT_A_TIME, N)
        out[:, first:stop] = rows @ values(tiles, scale, first, stop)
    return out


def product8(x: torch.Tensor, packed: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Multiply x (M, K) by int8 weights (N, K) with a scale a row (N,): (M, N), in x's type, summed in float32."""
    rows = x.float()
    out = torch.empty((len(x), len(packed)), dtype=x.dtype, device=x.device)
    for first in range(0, len(packed), _AT_A_TIME):
        cut = slice(first, first + _AT_A_TIME)
        out[:, cut] = rows @ packed[cut].float().T * scale[cut].float()
    return out
