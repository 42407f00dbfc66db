"""Products with packed weights, compiled for this processor by LLVM (package llvmlite) when first needed.

PyTorch's kernels for x86 turn every packed weight into a float32 and are bound by that. Those of
:mod:`workbench.kernels` turn the rows into integers instead: three times as quick for one token, with hardly another
error than the product's own rounding to bfloat16 (``python -m benchmarks.quantization``). They were measured on x86
with AVX2 and FMA, so processors that have these are given them, once they have multiplied a known weight rightly.
"""

from __future__ import annotations

import concurrent.futures
import ctypes
import functools
import os
import threading
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from workbench import kernels, machine
from workbench.grid import GROUP

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["MANY", "MANY8", "assembly", "product", "product8", "takes"]

MANY = 64
"""Rows from which unpacking int4 to float32 and PyTorch's matmul are as quick: with AVX2, level from 48 to 64."""
MANY8 = 48
"""The same of int8."""
_TOGETHER = 8  # rows of x that go through the weights at once: their sums fit the registers
_AT_A_TIME = 1 << 21  # weights unpacked at a time: 8 MB
_WORTH_THREADS = 1 << 20  # products; fewer are done before another thread has woken up
_compiling = threading.RLock()


def takes(device: torch.device, dtype: torch.dtype, columns: int) -> bool:
    """Whether layers of so many columns can be multiplied here by rows of a type."""
    fits = device.type == "cpu" and dtype == torch.bfloat16 and columns % kernels.COLUMNS == 0
    return fits and machine.compiles() and _proven()


def _proven() -> bool:
    with _compiling:
        return _proof()


@functools.cache
def _proof() -> bool:
    """Multiply known weights with each function, in one thread; another LLVM, or another processor, might not."""
    columns = 2 * kernels.COLUMNS
    x = (torch.arange(3 * columns, device="cpu") % 19 - 9).view(3, columns).bfloat16()
    packed = (torch.arange(24 * columns // 2, device="cpu") * 89 % 256).view(24, -1).to(torch.uint8)
    codes = torch.stack((packed & 15, packed >> 4), dim=-1).flatten(1).float() - 8
    whole = (torch.arange(24 * columns, device="cpu") * 37 % 255 - 127).view(24, columns).to(torch.int8)
    scale = torch.full((24, columns // 32), 0.5, dtype=torch.bfloat16, device="cpu")
    try:
        right = all(
            torch.equal(got, (0.5 * x.float() @ weight.T).bfloat16())
            for got, weight in (
                (_few(x, packed, scale, 4), codes),
                (_many(x, packed, scale), codes),
                (_few(x, whole, scale[:, 0].contiguous(), 8), whole.float()),
            )
        )
        why = "gives other numbers"
    except (RuntimeError, OSError, ImportError, AttributeError) as error:
        right, why = False, f"{type(error).__name__}: {error}"
    if not right:
        warnings.warn(
            f"What llvmlite compiles for packed weights does not work here ({why}); PyTorch's kernels, which take "
            "three times as long, are used.", RuntimeWarning, stacklevel=2,
        )  # fmt: skip
    return right


def product(x: torch.Tensor, packed: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Multiply rows by an int4 weight.

    Args:
        x: (M, K) bfloat16, K a multiple of 64; contiguous. A group of 32 with an infinity or NaN in it gives NaN.
        packed: (N, K/2) bytes, as :func:`workbench.grid.pack` makes them.
        scale: (N, K/32) bfloat16.

    Returns:
        (M, N) bfloat16, summed in float32. Of fewer than :data:`MANY` rows each gives, to the bit, what it gives alone.
        It has no derivative.

    Raises:
        ValueError: They have other types, shapes or places, or do not lie row after row.
        RuntimeError: x wants a gradient.
    """
    columns = x.shape[-1]
    _check(x, packed, torch.uint8, columns // 2, scale, (len(packed), columns // GROUP))
    return _few(x, packed, scale, 4) if len(x) < MANY else _many(x, packed, scale)


def product8(x: torch.Tensor, packed: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Multiply rows by int8 weights (N, K) with a bfloat16 scale a row (N,); otherwise as :func:`product`."""
    _check(x, packed, torch.int8, x.shape[-1], scale, (len(packed),))
    return _few(x, packed, scale, 8)


def _check(
    x: torch.Tensor, packed: torch.Tensor, kind: torch.dtype, width: int, scale: torch.Tensor, scales: tuple[int, ...]
) -> None:
    """Refuse what addresses alone would be wrong for: past them nothing else looks."""
    given = (
        (x, torch.bfloat16, (len(x), x.shape[-1])),
        (packed, kind, (len(packed), width)),
        (scale, torch.bfloat16, scales),
    )
    for tensor, dtype, shape in given:
        if tensor.dtype != dtype or tuple(tensor.shape) != shape or not tensor.is_contiguous() or not tensor.is_cpu:
            raise ValueError(
                f"A compiled product of {tuple(x.shape)} with {tuple(packed.shape)} takes {dtype} of {shape} on the "
                f"CPU, row after row; got {tensor.dtype} of {tuple(tensor.shape)} on {tensor.device}."
            )
    if not len(packed) or not x.shape[1] or x.shape[1] % kernels.COLUMNS:
        raise ValueError(f"A weight of {len(packed)} × {x.shape[1]} cannot be multiplied in {kernels.COLUMNS} columns.")
    if x.requires_grad and torch.is_grad_enabled():
        raise RuntimeError("A product with packed weights has no derivative.")


def _few(x: torch.Tensor, packed: torch.Tensor, scale: torch.Tensor, bits: int) -> torch.Tensor:
    height, blocks = len(packed), x.shape[1] // kernels.COLUMNS
    out = torch.empty((len(x), height), dtype=torch.float32, device=x.device)
    for first in range(0, len(x), _TOGETHER):
        some, into = x[first : first + _TOGETHER], out[first : first + _TOGETHER]
        rows = len(some)
        records = torch.empty(rows * blocks * kernels.RECORD, dtype=torch.uint8, device=x.device)
        _function(f"spread{bits}", rows).call(some.data_ptr(), records.data_ptr(), 0, rows, blocks)
        given = packed.data_ptr(), scale.data_ptr(), records.data_ptr(), into.data_ptr()
        _shared_out(_function(f"multiply{bits}", rows), given, height, (blocks, height), rows * height * x.shape[1])
    return out.to(x.dtype)


def _many(x: torch.Tensor, packed: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    rows, blocks = x.float(), x.shape[1] // kernels.COLUMNS
    height = max(1, _AT_A_TIME // x.shape[1])
    out = torch.empty((len(x), len(packed)), dtype=x.dtype, device=x.device)
    room = torch.empty((height, x.shape[1]), dtype=torch.float32, device=x.device)
    for first in range(0, len(packed), height):
        codes, scales = packed[first : first + height], scale[first : first + height]
        given = codes.data_ptr(), scales.data_ptr(), room.data_ptr()
        _shared_out(_function("unpack4", 1), given, len(codes), (blocks,), len(codes) * x.shape[1])
        out[:, first : first + height] = rows @ room[: len(codes)].T
    return out


def _shared_out(function: _Function, pointers: tuple[int, ...], height: int, sizes: tuple[int, ...], work: int) -> None:
    """Do the rows of a weight in as many threads as PyTorch would: ``function(*pointers, first, stop, *sizes)``."""
    threads = min(torch.get_num_threads(), height) if work > _WORTH_THREADS else 1  # no piece is empty
    if threads == 1:
        function.call(*pointers, 0, height, *sizes)
    elif openmp := _openmp():
        data = (function.address, *openmp.asked, height, *pointers, *sizes)
        team = _function("team", len(pointers), len(sizes))
        openmp.parallel(team.address, (ctypes.c_int64 * len(data))(*data), threads, 0)
    else:
        bounds = [height * i // threads for i in range(threads + 1)]
        pool = _pool(os.getpid(), threads - 1)
        others = [pool.submit(function.call, *pointers, *bounds[i : i + 2], *sizes) for i in range(1, threads)]
        try:
            function.call(*pointers, *bounds[:2], *sizes)
        finally:
            concurrent.futures.wait(others)  # they write into memory that is given up after this


@dataclass(frozen=True)
class _OpenMP:
    """GNU's way into an OpenMP library, and the addresses of ``omp_get_thread_num`` and ``omp_get_num_threads``."""

    parallel: Callable[..., None]
    asked: tuple[int, int]


@functools.cache
def _openmp() -> _OpenMP | None:
    """The OpenMP library that PyTorch works with, on Linux; None elsewhere.

    Its threads stay awake for milliseconds after each of PyTorch's operations, waiting for the next. Threads of our own
    would have to share the cores with them, and two were no quicker than one.
    """
    try:  # a name is looked for in what a library was linked to as well
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
    except OSError:
        return None
    if not hasattr(library, "GOMP_parallel"):
        return None
    named = (library.omp_get_thread_num, library.omp_get_num_threads)
    which, many = (ctypes.cast(function, ctypes.c_void_p).value or 0 for function in named)
    parallel = library.GOMP_parallel
    parallel.restype, parallel.argtypes = None, (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
    return _OpenMP(parallel, (which, many))


@functools.cache
def _pool(process: int, threads: int) -> concurrent.futures.ThreadPoolExecutor:  # a forked process has no threads
    return concurrent.futures.ThreadPoolExecutor(threads, thread_name_prefix=f"product-{process}")


_ARGUMENTS = {
    "spread": (ctypes.c_void_p,) * 2 + (ctypes.c_int64,) * 3,
    "multiply": (ctypes.c_void_p,) * 4 + (ctypes.c_int64,) * 4,
    "unpack": (ctypes.c_void_p,) * 3 + (ctypes.c_int64,) * 3,
    "team": (ctypes.c_void_p,),
}


@dataclass(frozen=True)
class _Function:
    """One of :mod:`workbench.kernels`; calls of it do not hold Python's lock. The engine owns the code."""

    call: Callable[..., None]
    address: int
    engine: Any


def _function(name: str, *numbers: int) -> _Function:
    """Compile it once, for so many rows of x."""
    with _compiling:  # or two threads compile it at once, and the code of one is freed while it runs
        return _made(name, *numbers)


@functools.cache
def _made(name: str, *numbers: int) -> _Function:
    import llvmlite.binding as llvm

    engine = llvm.create_mcjit_compiler(*_optimized("\n".join(getattr(kernels, name)(*numbers))))
    engine.finalize_object()
    address = engine.get_function_address(name)
    return _Function(ctypes.CFUNCTYPE(None, *_ARGUMENTS[name.rstrip("48")])(address), address, engine)


def assembly(text: str) -> str:
    """What a function's text becomes on this processor, to be read."""
    module, target = _optimized(text)
    said: str = target.emit_assembly(module)
    return said


def _optimized(text: str) -> tuple[Any, Any]:
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    module = llvm.parse_assembly(text)
    target = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=3, jit=True
    )
    builder = llvm.create_pass_builder(target, llvm.create_pipeline_tuning_options(speed_level=3))
    builder.getModulePassManager().run(module, builder)
    return module, target
