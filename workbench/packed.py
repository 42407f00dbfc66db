"""Layers whose weights stay packed: 4 bits in groups of 32, or 8 bits a row.

How a packed weight lies in memory differs by device and, on the CPU, by the instructions it has. So it is stored in
one form (see :mod:`workbench.grid`) and packed for the device when it is loaded:

    compiled a product of our own with the stored form, 0.5625 byte a weight; bfloat16 only. On CUDA
             :mod:`workbench.compiled_cuda`, on x86 with AVX2 and package llvmlite :mod:`workbench.compiled`
    cpu      ``_weight_int4pack_mm_for_cpu``, 0.625 byte a weight in 16 bit; many rows, and on x86 other types than
             bfloat16: :mod:`workbench.tiles`
    tiled    ``_weight_int4pack_mm``: Apple's MPS, and CUDA from compute capability 8.0 where nothing can be compiled;
             bfloat16 only
    plain    the stored form; the layer is unpacked each time it is used. Everywhere else, and for shapes that a kernel
             does not take
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from workbench import compiled, compiled_cuda, grid, tiles
from workbench.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Int4Linear", "Int8Embedding", "Int8Head", "Int8Linear", "count", "held_bytes", "layers"]


_AS_STORED = ("plain", "compiled")


class _Unpacked:
    """Stands where Transformers reads ``layer.weight``: type, place and shape, and single rows unpacked when asked."""

    def __init__(self, layer: Any, shape: tuple[int, int]) -> None:
        self._layer, self.shape = layer, torch.Size(shape)

    @property
    def dtype(self) -> torch.dtype:
        """That of the numbers that come out."""
        dtype: torch.dtype = self._layer.dtype
        return dtype

    @property
    def device(self) -> torch.device:
        """Where the packed numbers lie."""
        device: torch.device = self._layer.scale.device
        return device

    def __getitem__(self, index: Any) -> torch.Tensor:
        row, rest = index if isinstance(index, tuple) else (index, slice(None))
        found: torch.Tensor = self._layer.rows(row)[..., rest]
        return found


class _Packed(nn.Module):
    """What the packed layers have in common.

    Attributes:
        dtype: Of what comes out, and of the scales.
        rounding: What packing did to the weights; None for weights that came packed.
    """

    scale: torch.Tensor

    def __init__(self, rows: int, columns: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.out_features, self.in_features = rows, columns
        self.dtype = dtype
        self.rounding: grid.Rounding | None = None
        self._ready: dict[str, torch.Tensor] = {}

    @property
    def weight(self) -> _Unpacked:
        """Stands for the weight that is no longer there."""
        return _Unpacked(self, (self.out_features, self.in_features))

    def rows(self, index: Any) -> torch.Tensor:
        """Rows of the weight, unpacked."""
        raise NotImplementedError

    def expect(self, **tensors: tuple[tuple[int, ...], torch.dtype]) -> None:
        """Make room, on the meta device, for what a checkpoint holds of this layer."""
        for name, (shape, dtype) in tensors.items():
            self.register_buffer(name, torch.empty(shape, dtype=dtype, device="meta"))

    def finish(self) -> None:
        """Put what was packed while loading where it stays; only then does the layer hold it."""
        for name, tensor in self._ready.items():
            self.register_buffer(name, tensor, persistent=False)
        self._ready.clear()

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, {self.dtype}"


def _held(tensor: torch.Tensor, device: str, *, own: bool) -> torch.Tensor:
    """Row after row, in memory that is no file's. A copy of the embedding is 1 GB at the moment of most memory."""
    there = tensor.to(device)
    return there.contiguous() if own else there.clone(memory_format=torch.contiguous_format)


class Int4Linear(_Packed):
    """A linear layer of 4-bit weights, (…, K) to (…, N)."""

    def __init__(self, rows: int, columns: int, dtype: torch.dtype, bias: nn.Parameter | None = None) -> None:
        super().__init__(rows, columns, dtype)
        if columns % grid.GROUP:
            raise ModelError(f"A layer of {columns} columns cannot be cut into groups of {grid.GROUP}.")
        self.bias = bias
        self.kernel = "plain"

    def take(self, packed: torch.Tensor, scale: torch.Tensor, device: str, *, own: bool = False) -> None:
        """Pack for a device.

        Args:
            packed: (N, K/2) bytes, as :func:`workbench.grid.pack` makes them.
            scale: (N, K/32).
            device: Where the layer will run.
            own: They were made for this layer; others are copied, as they may be a file's memory.
        """
        scale = scale.to(device=device, dtype=self.dtype)
        self.kernel = kernel_for(torch.device(device), self.dtype, self.out_features, self.in_features)
        if self.kernel in _AS_STORED:
            self._ready = {"packed": _held(packed, device, own=own), "scale": _held(scale, device, own=own)}
            return
        # a group's value is (code - 8) * scale + zero in the kernels; zero is 0 here
        both = torch.stack((scale, torch.zeros_like(scale)), dim=-1).transpose(0, 1).contiguous()
        if self.kernel == "cpu":
            laid = torch._convert_weight_to_int4pack_for_cpu(grid.unpack(packed).to(torch.int32), 1)  # noqa: SLF001
        else:
            swapped = ((packed & 15) << 4 | packed >> 4).to(
                device
            )  # these kernels want the even column in the high half
            laid = torch._convert_weight_to_int4pack(swapped, _inner(self.in_features))  # noqa: SLF001
        self._ready = {"packed": laid, "scale": both}
        if self.kernel == "tiled":
            self._prove(packed[:16].to(device), scale[:16])

    def _prove(self, packed: torch.Tensor, scale: torch.Tensor) -> None:
        """Refuse a kernel that does not say what the stored numbers say: such kernels are rarely run by us."""
        x = torch.linspace(-1, 1, self.in_features, device=scale.device, dtype=self.dtype)[None]
        expected = x.float() @ grid.values(packed, scale.float()).T
        got = self._product(x, self._ready["packed"], self._ready["scale"])[:, : expected.shape[1]].float()
        if not torch.allclose(got, expected, rtol=0.05, atol=0.02 * float(expected.abs().max()) + 1e-6):
            raise ModelError(
                f"The int4 kernel of {scale.device} gives {float((got - expected).abs().max()):.3g} off on a layer of "
                f"{self.out_features}×{self.in_features}. Load with quantization='int8' and run `workbench doctor`."
            )

    def _product(self, x: torch.Tensor, packed: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        if self.kernel == "compiled":
            return (compiled_cuda if x.is_cuda else compiled).product(x, packed, scale)
        if self.kernel == "cpu":
            size = tiles.block()
            if size and tiles.better(len(x), x.dtype) and self.out_features % size == 0:
                return tiles.product(x, packed, scale)
            return torch._weight_int4pack_mm_for_cpu(x, packed, grid.GROUP, scale)  # noqa: SLF001
        if self.kernel == "tiled":
            return torch._weight_int4pack_mm(x, packed, grid.GROUP, scale)  # noqa: SLF001
        return x @ grid.values(packed, scale).T

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The product, plus the bias where there is one."""
        flat = x.reshape(-1, self.in_features).to(self.dtype)
        out = self._product(flat.contiguous(), self.packed, self.scale)
        out = out.unflatten(0, x.shape[:-1]).to(x.dtype)
        return out if self.bias is None else out + self.bias

    def columns(self, first: int, stop: int) -> torch.Tensor:
        """Columns of the weight, (N, stop - first): its products with their unit vectors."""
        eye = torch.zeros((stop - first, self.in_features), dtype=self.dtype, device=self.scale.device)
        eye[range(stop - first), range(first, stop)] = 1
        return self._product(eye, self.packed, self.scale).T

    def rows(self, index: Any) -> torch.Tensor:
        """Rows of the weight: as they are stored, or its products with the unit vectors."""
        if self.kernel in _AS_STORED:
            codes, scale = self.packed[index], self.scale[index]
            values = grid.values(codes.reshape(-1, codes.shape[-1]), scale.reshape(-1, scale.shape[-1]))
            return values.unflatten(0, codes.shape[:-1]) if codes.ndim > 1 else values[0]
        eye = torch.eye(self.in_features, dtype=self.dtype, device=self.scale.device)
        return self._product(eye, self.packed, self.scale).T[index]


class Int8Linear(_Packed):
    """A linear layer of 8-bit weights with a scale a row, (…, K) to (…, N)."""

    def __init__(self, rows: int, columns: int, dtype: torch.dtype, bias: nn.Parameter | None = None) -> None:
        super().__init__(rows, columns, dtype)
        self.bias = bias

    def take(self, packed: torch.Tensor, scale: torch.Tensor, device: str, *, own: bool = False) -> None:
        """Hold int8 weights (N, K) and their scales (N,) on a device; ``own`` as of :meth:`Int4Linear.take`."""
        compiled_cuda.takes(torch.device(device), self.dtype, self.in_features)  # compiled now, not in the first pass
        self._ready = {
            "packed": _held(packed, device, own=own), "scale": _held(scale.to(self.dtype), device, own=own)
        }  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The product, plus the bias where there is one."""
        out = int8_product(x.to(self.dtype), self.packed, self.scale).to(x.dtype)
        return out if self.bias is None else out + self.bias

    def rows(self, index: Any) -> torch.Tensor:
        """Rows of the weight."""
        return self.packed[index].to(self.dtype) * self.scale[index][..., None]


class Int8Embedding(_Packed):
    """An embedding of 8-bit rows; what comes out is multiplied by ``embed_scale`` as Gemma 4's own is."""

    def __init__(self, rows: int, columns: int, dtype: torch.dtype, embed_scale: float = 1.0) -> None:
        super().__init__(rows, columns, dtype)
        self.embed_scale = float(
            torch.tensor(embed_scale, dtype=dtype, device="cpu")
        )  # rounded, as the layer this replaces does it

    take = Int8Linear.take
    rows = Int8Linear.rows

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """(…) token ids to (…, K)."""
        return self.rows(ids) * self.embed_scale


class Int8Head(nn.Module):
    """The output layer of a model that shares its weights with the embedding."""

    def __init__(self, embedding: Int8Embedding) -> None:
        super().__init__()
        self._shared = (embedding,)  # in a tuple: the embedding is not this layer's child, or it would count twice
        self.in_features, self.out_features = embedding.in_features, embedding.out_features

    @property
    def weight(self) -> _Unpacked:
        """The embedding's."""
        return self._shared[0].weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits, (…, vocabulary)."""
        (embedding,) = self._shared
        return int8_product(x.to(embedding.dtype), embedding.packed, embedding.scale).to(x.dtype)


_ROWS = 1 << 14


def int8_product(x: torch.Tensor, packed: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Multiply x (…, K) by int8 weights (N, K) with a scale a row (N,)."""
    flat = x.reshape(-1, x.shape[-1]).contiguous()
    if len(flat) < compiled.MANY8 and compiled.takes(flat.device, flat.dtype, flat.shape[1]):
        out = compiled.product8(flat, packed, scale)
    elif compiled_cuda.takes(flat.device, flat.dtype, flat.shape[1]):
        out = compiled_cuda.product8(flat, packed, scale)
    elif flat.device.type == "cpu" and (tiles.better(len(flat), flat.dtype) or flat.shape[1] % 32):
        # PyTorch's kernel reads beyond the end of rows that are no multiple of 32
        out = tiles.product8(flat, packed, scale)
    elif flat.device.type in ("cpu", "mps"):
        out = torch._weight_int8pack_mm(flat, packed, scale)  # noqa: SLF001
    else:  # a piece at a time: all of a vocabulary's rows in 16 bit would be 2 GB, for each token
        out = flat.new_empty(len(flat), len(packed))
        for at in range(0, len(packed), _ROWS):
            rows = slice(at, at + _ROWS)
            out[:, rows] = flat @ packed[rows].to(flat.dtype).T * scale[rows]
    return out.unflatten(0, x.shape[:-1])


@functools.cache
def _capability(index: int) -> tuple[int, int]:
    return torch.cuda.get_device_capability(index)


def kernel_for(device: torch.device, dtype: torch.dtype, rows: int, columns: int) -> str:
    """The kernel that takes an int4 layer (rows, columns): ``compiled``, ``cpu``, ``tiled`` or ``plain``."""
    if device.type == "cpu":
        if compiled.takes(device, dtype, columns):
            return "compiled"
        return "cpu" if rows % 16 == 0 else "plain"
    if compiled_cuda.takes(device, dtype, columns):
        return "compiled"
    # asked of the device: bfloat16 "is supported", by emulation, on devices these kernels do not run on
    able = device.type == "mps" or (device.type == "cuda" and _capability(device.index or 0) >= (8, 0))
    return "tiled" if able and dtype == torch.bfloat16 and rows % 8 == 0 else "plain"


def _inner(columns: int) -> int:
    """The largest tile of the kernel's inner dimension that divides a layer's columns."""
    return next(tiles for tiles in (8, 4, 2) if columns % (16 * tiles) == 0)


def layers(transformer: nn.Module) -> Iterator[tuple[str, _Packed]]:
    """The packed layers of a model, by name."""
    for name, module in transformer.named_modules():
        if isinstance(module, _Packed):
            yield name, module


def count(transformer: nn.Module) -> int:
    """Weights of a model, packed ones included."""
    plain = sum(p.numel() for p in transformer.parameters())
    return plain + sum(layer.out_features * layer.in_features for _, layer in layers(transformer))


def held_bytes(*models: nn.Module | None) -> int:
    """Bytes of all parameters and buffers; what is shared counts once."""
    seen: dict[int, int] = {}
    for model in models:
        if model is not None:
            for tensor in [*model.parameters(), *model.buffers()]:
                seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    return sum(seen.values())
