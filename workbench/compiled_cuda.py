"""Products with packed weights on NVIDIA GPUs: ``kernels.cu``, compiled when first needed by torch's own NVRTC.

PyTorch's own int4 kernel needs compute capability 8.0 and its own order of the weights, and over a prompt it takes 8 to
23 times as long as 16 bits do; its int8 product took 10 times as long for a word as this one. These take weights as
they are stored: a few rows by a product of our own, many by unpacking weights for PyTorch's
(``python -m benchmarks.quantization --device cuda``). They are used once all have multiplied known weights rightly.
"""

from __future__ import annotations

import ctypes
import functools
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from workbench.grid import GROUP

__all__ = ["FEW", "product", "product8", "takes"]

FEW = 16
"""Up to so many rows go through :func:`product`'s own kernel; more are multiplied with unpacked weights."""
_TOGETHER = 8  # rows of x that go through the weights at once: their sums fit the registers
_EACH = 2  # rows of the weight a warp
_WARPS = 4  # of a block; as in kernels.cu
_AT_A_TIME = 1 << 25  # weights unpacked at a time: 64 MB
_NO_MEMORY = 2  # the driver's CUDA_ERROR_OUT_OF_MEMORY
_compiling = threading.RLock()


def takes(device: torch.device, dtype: torch.dtype, columns: int) -> bool:
    """Whether layers of so many columns can be multiplied here by rows of a type.

    Asked first while a model is loaded: compiling takes seconds, which belong into no word's time.

    Raises:
        torch.OutOfMemoryError: There was no memory to find out.
    """
    if device.type != "cuda" or dtype != torch.bfloat16 or columns % GROUP:
        return False
    if not torch.cuda.is_available() or torch.version.hip:  # "cuda" is AMD's name too
        return False
    index = torch.cuda.current_device() if device.index is None else device.index
    with _compiling:
        if (known := _right.get(index)) is not None:
            return known
        wrong = _wrong(index)
        _right[index] = not wrong
    if wrong:
        warnings.warn(
            f"What NVRTC compiles for packed weights does not work on cuda:{index} ({wrong}); PyTorch's products are "
            "used, which take longer for int8 and for prompts.", RuntimeWarning, stacklevel=2,
        )  # fmt: skip
    return not wrong


_right: dict[int, bool] = {}


def _wrong(index: int) -> str:
    """Multiply known weights with each function and number of rows: another NVRTC, or another GPU, might not.

    Returns:
        What is wrong; nothing where all is right.
    """
    columns, height, device = 1056, 25, f"cuda:{index}"  # lanes go round, and a warp's rows reach beyond the end
    place = torch.arange(20 * columns, device="cpu").view(20, columns)
    few = (place % 19 - 9).bfloat16()
    many = ((place % columns + 31 * (place // columns)) % 528 == 0).bfloat16()  # so few that sums are exact in 16 bits
    at = torch.arange(height * columns, device="cpu")
    packed = (at[: len(at) // 2] * 89 % 256).view(height, -1).to(torch.uint8)
    codes = torch.stack((packed & 15, packed >> 4), dim=-1).flatten(1).float() - 8
    integers = (at * 37 % 255 - 127).view(height, columns).to(torch.int8)
    scale = torch.full((height, columns // GROUP), 0.5, dtype=torch.bfloat16, device="cpu")
    try:
        for x in (*(few[:rows] for rows in range(1, _TOGETHER + 1)), many):
            for multiply, stored, by, weight in (
                (product, packed, scale, codes),
                (product8, integers, scale[:, 0].contiguous(), integers.float()),
            ):
                got = multiply(x.to(device), stored.to(device), by.to(device)).cpu()
                if not torch.equal(got, (0.5 * x.float() @ weight.T).bfloat16()):
                    return f"{multiply.__name__} of {len(x)} rows gives other numbers"
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, OSError, AttributeError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def product(x: torch.Tensor, packed: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Multiply rows by an int4 weight.

    Args:
        x: (M, K) bfloat16, K a multiple of 32; contiguous.
        packed: (N, K/2) bytes, as :func:`workbench.grid.pack` makes them.
        scale: (N, K/32) bfloat16.

    Returns:
        (M, N) bfloat16, summed in float32. Of up to :data:`FEW` rows each gives, to the bit, what it gives alone.
        It has no derivative.

    Raises:
        ValueError: They have other types, shapes or places, or do not lie row after row.
        RuntimeError: x wants a gradient, or the GPU refuses.
    """
    columns = x.shape[-1]
    _check(x, packed, torch.uint8, columns // 2, scale, (len(packed), columns // GROUP))
    if len(x) <= FEW:
        return _few("multiply4", x, packed, scale)
    out = x.new_empty(len(x), len(packed))
    for rows, room in _pieces(len(packed), columns, x):
        _start("unpack4", 0, -(-room.numel() // 2048), 256, (packed[rows], scale[rows], room), room.numel() // 8)
        torch.mm(x, room.T, out=out[:, rows])
    return out


def product8(x: torch.Tensor, packed: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Multiply rows by int8 weights (N, K) with a bfloat16 scale a row (N,); otherwise as :func:`product`."""
    _check(x, packed, torch.int8, x.shape[-1], scale, (len(packed),))
    if len(x) <= FEW:
        return _few("multiply8", x, packed, scale)
    out = x.new_empty(len(x), len(packed))
    for rows, room in _pieces(len(packed), x.shape[1], x):
        _start("unpack8", 0, -(-room.numel() // 2048), 256, (packed[rows], scale, room), room.numel() // 8)
        torch.mul(x @ room.T, scale[rows], out=out[:, rows])
    return out


def _check(
    x: torch.Tensor, packed: torch.Tensor, kind: torch.dtype, width: int, scale: torch.Tensor, scales: tuple[int, ...]
) -> None:
    """Refuse what addresses alone would be wrong for: past them nothing else looks."""
    place = x.get_device()
    if not (
        place >= 0 and x.dim() == 2 and packed.get_device() == scale.get_device() == place
        and x.dtype == scale.dtype == torch.bfloat16 and packed.dtype == kind
        and packed.shape[1:] == (width,) and scale.shape == scales
        and x.is_contiguous() and packed.is_contiguous() and scale.is_contiguous()
        and not (x.data_ptr() | packed.data_ptr()) % 16
    ):  # fmt: skip
        told = ", ".join(f"{t.dtype} of {tuple(t.shape)} on {t.device}" for t in (x, packed, scale))
        raise ValueError(
            f"A compiled product takes bfloat16 of (M, K), {kind} of (N, {width}) and bfloat16 of {scales} on one GPU, "
            f"row after row; got {told}."
        )
    if not len(packed) or not x.shape[1] or x.shape[1] % GROUP:
        raise ValueError(f"A weight of {len(packed)} × {x.shape[1]} cannot be multiplied in groups of {GROUP}.")
    if x.requires_grad and torch.is_grad_enabled():
        raise RuntimeError("A product with packed weights has no derivative.")


def _few(name: str, x: torch.Tensor, packed: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    height, words = len(packed), x.shape[1] // 8
    out = x.new_empty(len(x), height)
    blocks = -(-height // (_WARPS * _EACH))
    for first in range(0, len(x), _TOGETHER):
        some, into = (x, out) if len(x) <= _TOGETHER else (t[first : first + _TOGETHER] for t in (x, out))
        _start(name, len(some), blocks, 32 * _WARPS, (packed, scale, some, into), height, words)
    return out


def _pieces(height: int, columns: int, like: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
    """Rows of a weight, and room to unpack them; by 64, since matmuls of odd sizes take twice as long."""
    most = min(height, max(64, _AT_A_TIME // columns // 64 * 64))
    room = like.new_empty(most, columns)
    for first in range(0, height, most):
        stop = min(first + most, height)
        yield slice(first, stop), room[: stop - first]


class _Three(ctypes.Structure):
    """What an unpacking function is given."""

    _fields_ = (("a", ctypes.c_uint64), ("b", ctypes.c_uint64), ("c", ctypes.c_uint64), ("words", ctypes.c_int64))


class _Four(ctypes.Structure):
    """What a multiplying function is given."""

    _fields_ = (
        *((name, ctypes.c_uint64) for name in ("packed", "scale", "x", "out")),
        ("height", ctypes.c_int), ("words", ctypes.c_int),
    )  # fmt: skip


_SIZES = {kind: ctypes.c_size_t(ctypes.sizeof(kind)) for kind in (_Three, _Four)}


def _start(
    name: str, rows: int, blocks: int, threads: int, tensors: tuple[torch.Tensor, ...], *numbers: int
) -> None:  # fmt: skip
    """Let a function begin on the stream torch works on there. A step of 12B does so 330 times: each µs counts."""
    index = tensors[0].get_device()
    if index != torch.cuda.current_device():
        with torch.cuda.device(index):
            return _start(name, rows, blocks, threads, tensors, *numbers)
    gpu = _gpus.get(index) or _gpu(index)
    gpu.enter()  # before anything is loaded there
    function = gpu.functions.get((name, rows)) or gpu.function(name, rows)
    kind = _Four if rows else _Three
    given = kind(*(t.data_ptr() for t in tensors), *numbers)
    # CU_LAUNCH_PARAM_BUFFER_POINTER, _BUFFER_SIZE and _END
    extra = (ctypes.c_void_p * 5)(1, ctypes.addressof(given), 2, ctypes.addressof(_SIZES[kind]), 0)
    stream = torch._C._cuda_getCurrentRawStream(index)  # noqa: SLF001 (what torch's own compiled kernels ask)
    gpu.check(gpu.launch(function, blocks, 1, 1, threads, 1, 1, 0, stream, None, extra))
    return None


_gpus: dict[int, _Gpu] = {}


def _gpu(index: int) -> _Gpu:
    with _compiling:
        return _gpus.setdefault(index, _Gpu(index))


class _Gpu:
    """The functions of ``kernels.cu`` on one GPU, and the driver's calls that load and start them."""

    def __init__(self, index: int) -> None:
        self.library, self._nvrtc = _libraries()
        self._capability = capability(self._nvrtc, *torch.cuda.get_device_capability(index))
        self.functions: dict[tuple[str, int], ctypes.c_void_p] = {}
        self.launch = self.library.cuLaunchKernel
        self.launch.argtypes = (
            *(ctypes.c_void_p, *(ctypes.c_uint,) * 7), ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p
        )  # fmt: skip
        number = ctypes.c_int()
        self._context = ctypes.c_void_p()
        # torch numbers the GPUs that CUDA_VISIBLE_DEVICES leaves, and so does the driver
        self.check(self.library.cuDeviceGet(ctypes.byref(number), index))
        self.check(self.library.cuDevicePrimaryCtxRetain(ctypes.byref(self._context), number))

    def enter(self) -> None:
        """Make torch's context this thread's: in a new thread torch does so with its first own call of CUDA."""
        self.check(self.library.cuCtxSetCurrent(self._context))

    def check(self, result: int) -> None:
        """Raise what the driver refused as a ``RuntimeError``, as torch's own where memory ran out."""
        if result:
            said = ctypes.c_char_p()
            self.library.cuGetErrorString(result, ctypes.byref(said))
            kind = torch.OutOfMemoryError if result == _NO_MEMORY else RuntimeError
            raise kind(f"CUDA error {result}: {(said.value or b'unknown').decode()}")

    def function(self, name: str, rows: int) -> ctypes.c_void_p:
        """Compile it once, for so many rows of x."""
        with _compiling:
            module, function = ctypes.c_void_p(), ctypes.c_void_p()
            code = binary(self._nvrtc, self._capability, rows or 1, _EACH)
            self.check(self.library.cuModuleLoadData(ctypes.byref(module), code))
            self.check(self.library.cuModuleGetFunction(ctypes.byref(function), module, name.encode()))
            self.functions[name, rows] = function
        return function


def capability(nvrtc: Any, major: int, minor: int) -> str:
    """What to compile for a GPU of a compute capability, as "80": a lower minor one that NVRTC knows serves too."""
    count = ctypes.c_int()
    nvrtc.nvrtcGetNumSupportedArchs(ctypes.byref(count))
    known = (ctypes.c_int * count.value)()
    nvrtc.nvrtcGetSupportedArchs(known)
    serving = [arch for arch in known if 10 * major <= arch <= 10 * major + minor]
    if not serving:
        raise RuntimeError(f"this NVRTC knows {', '.join(map(str, known))}, and nothing for sm_{major}{minor}")
    return str(max(serving))


@functools.lru_cache(maxsize=32)
def binary(nvrtc: Any, capability: str, rows: int, each: int) -> bytes:
    """What NVRTC makes of ``kernels.cu``.

    Args:
        nvrtc: The library.
        capability: The compute capability of the GPU, as "80".
        rows: Of x.
        each: Rows of the weight a warp.

    Raises:
        RuntimeError: It cannot; with what it says.
    """
    source = Path(__file__).with_name("kernels.cu").read_bytes()
    options = [f"--gpu-architecture=sm_{capability}", f"-DROWS={rows}", f"-DEACH={each}", "--std=c++17"]
    given = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    program, size = ctypes.c_void_p(), ctypes.c_size_t()

    def asked(get_size: Callable[..., int], get: Callable[..., int]) -> bytes:
        get_size(program, ctypes.byref(size))
        text = ctypes.create_string_buffer(size.value)
        get(program, text)
        return text.raw

    if nvrtc.nvrtcCreateProgram(ctypes.byref(program), source, b"kernels.cu", 0, None, None):
        raise RuntimeError("NVRTC does not start")
    try:
        if nvrtc.nvrtcCompileProgram(program, len(options), given):
            said = asked(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog).rstrip(b"\0").decode(errors="replace")
            raise RuntimeError(f"NVRTC does not compile kernels.cu for sm_{capability}: {said.strip()}")
        return asked(nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN)
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


@functools.cache
def _libraries() -> tuple[Any, Any]:
    """The driver, and the NVRTC that torch comes with."""
    where = Path(torch.__file__).parent / "lib"
    if os.name == "nt":
        found = sorted(where.glob("nvrtc64_*_0.dll"))
        if not found:
            raise OSError(f"{where} has no nvrtc64_*_0.dll")
        return ctypes.CDLL("nvcuda.dll"), ctypes.CDLL(str(found[-1]))
    # a name is looked for in what a library was linked to as well
    both = ctypes.CDLL(str(where / "libcaffe2_nvrtc.so"))
    return both, both
