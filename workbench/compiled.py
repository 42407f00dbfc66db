"""Products with packed weights, compiled for this processor by LLVM (package llvmlite) when first needed.

PyTorch's kernels for x86 turn every packed weight into a float32 and are bound by that. Those of
:mod:`workbench.kernels` turn the rows into integers instead: three times as quick for one token, with hardly another
error than the product's own rounding to bfloat16 (``python -m benchmarks.quantization``). Only processors they were
measured on are given them.
"""

from __future__ import annotations

import concurrent.futures
import ctypes
import functools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from workbench import kernels, machine

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


def takes(device: torch.device, dtype: torch.dtype, columns: int) -> bool:
    """Whether layers of so many columns can be multiplied here by rows of a type."""
    fits = device.type == "cpu" and dtype == torch.bfloat16 and columns % kernels.COLUMNS == 0
    return fits and machine.compiles()


def product(x: torch.Tensor, packed: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Multiply rows by an int4 weight.

    Args:
        x: (M, K) bfloat16, K a multiple of 64; contiguous. A group of 32 with an infinity or NaN in it gives NaN.
        packed: (N, K/2) bytes, as :func:`workbench.grid.pack` makes them.
        scale: (N, K/32) bfloat16.

    Returns:
        (M, N) bfloat16, summed in float32. Of fewer than :data:`MANY` rows each gives, to the bit, what it gives alone.
    """
    return _few(x, packed, scale, 4) if len(x) < MANY else _many(x, packed, scale)


def product8(x: torch.Tensor, packed: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Multiply rows by int8 weights (N, K) with a bfloat16 scale a row (N,); otherwise as :func:`product`."""
    return _few(x, packed, scale, 8)


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
        function.call(*pointers, *bounds[:2], *sizes)
        for other in others:
            other.result()


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
    try:
        mapped = Path("/proc/self/maps").read_text("utf-8", "replace")
    except OSError:
        return None
    names = ("libgomp", "libiomp", "libomp")
    paths = {line.split(maxsplit=5)[-1] for line in mapped.splitlines() if line.rpartition("/")[2].startswith(names)}
    for path in sorted(paths, key=lambda path: ("/torch" not in path, path)):  # others may have brought one as well
        library = ctypes.CDLL(path)
        if hasattr(library, "GOMP_parallel"):
            named = (library.omp_get_thread_num, library.omp_get_num_threads)
            which, many = (ctypes.cast(function, ctypes.c_void_p).value or 0 for function in named)
            parallel = library.GOMP_parallel
            parallel.restype, parallel.argtypes = None, (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
            return _OpenMP(parallel, (which, many))
    return None


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


@functools.cache
def _function(name: str, *numbers: int) -> _Function:
    """Compile it, for so many rows of x."""
    import llvmlite.binding as llvm

    engine = llvm.create_mcjit_compiler(*_optimized("\n".join(getattr(kernels, name)(*numbers))))
    engine.finalize_object()
    address = engine.get_function_address(name)
    return _Function(ctypes.CFUNCTYPE(None, *_ARGUMENTS[name.rstrip("48")])(address), address, engine)


def assembly(text: str) -> str:
    """What a function's text becomes on this processor, to be read."""
    module, machine = _optimized(text)
    said: str = machine.emit_assembly(module)
    return said


def _optimized(text: str) -> tuple[Any, Any]:
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    module = llvm.parse_assembly(text)
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=3, jit=True
    )
    builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=3))
    builder.getModulePassManager().run(module, builder)
    return module, machine
