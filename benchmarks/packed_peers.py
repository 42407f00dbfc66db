"""How others hold packed weights, for one linear layer: torchao, bitsandbytes and llama.cpp, where they are installed.

    python -m pip install --no-deps --target artifacts/peers torchao bitsandbytes llama-cpp-python

That folder is looked into besides what the environment has, and never first (as for :mod:`benchmarks.peers`).
llama-cpp-python is built from source, which takes cmake, a C++ compiler and some minutes; built so, it uses what this
processor has. Of it only ggml's shared libraries are used: a graph of a single ``ggml_mul_mat`` on the CPU backend,
its weights laid into the kind of buffer that llama.cpp itself would choose (on AVX2 it interleaves eight rows).
"""

from __future__ import annotations

import ctypes
import importlib.util
import itertools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers import FOLDER

__all__ = ["INSTALL", "PEERS", "Scheme", "held", "missing", "of_torch", "q4_0_rounded", "q4_values"]

INSTALL = "python -m pip install --no-deps --target artifacts/peers {}"
_F32, _Q4_0, _BLOCK = 0, 2, 32  # ggml's numbers of its types, and the weights of a block


@dataclass(frozen=True)
class Scheme:
    """One way to hold a layer's weights.

    Attributes:
        prepare: Takes x (M, K), bfloat16; returns what computes the product, as often as it is called, to be timed.
        values: The weights (N, K) that are multiplied, float32: after rounding.
        bytes: What they take.
        read: Takes what that gave; returns the product (M, N). Not timed.
    """

    prepare: Callable[[Any], Callable[[], Any]]
    values: Callable[[], Any]
    bytes: int
    read: Callable[[Any], Any] = lambda out: out


def held(module: Any) -> int:
    """Bytes of all parameters and buffers, of tensors made of several and of bitsandbytes' scales too."""
    tensors: dict[int, int] = {}
    todo = [*module.parameters(), *module.buffers()]
    while todo:
        one = todo.pop()
        if hasattr(one, "__tensor_flatten__"):
            todo += [part for name in one.__tensor_flatten__()[0] if (part := getattr(one, name)) is not None]
            continue
        tensors[one.untyped_storage().data_ptr()] = one.untyped_storage().nbytes()
        if (state := getattr(one, "quant_state", None)) is not None:
            todo.append(state.absmax)
            todo += [state.state2.absmax] if getattr(state, "nested", False) else []
    return sum(tensors.values())


def of_torch(layer: Any, values: Callable[[], Any]) -> Scheme:
    """Of a module."""

    def prepare(x: Any) -> Callable[[], Any]:
        given = x.to(layer.weight.dtype) if layer.weight.dtype.is_floating_point else x
        return lambda: layer(given)

    return Scheme(prepare, values, held(layer))


def torchao_int8(weight: Any) -> Scheme:
    """The ``Int8WeightOnlyConfig`` of torchao: a scale a row."""
    import torch
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    height, width = weight.shape
    layer = torch.nn.Sequential(torch.nn.Linear(width, height, bias=False, device="meta"))
    layer[0].weight = torch.nn.Parameter(weight.clone(), requires_grad=False)
    quantize_(layer, Int8WeightOnlyConfig())
    return of_torch(layer[0], lambda: layer[0].weight.dequantize().float())


def nf4(weight: Any) -> Scheme:
    """NF4 of bitsandbytes in blocks of 64, as Transformers asks for it: scales are not packed a second time."""
    import bitsandbytes as bnb

    height, width = weight.shape
    layer = bnb.nn.Linear4bit(
        width, height, bias=False, compute_dtype=weight.dtype, compress_statistics=False, quant_type="nf4"
    )
    layer.weight = bnb.nn.Params4bit(
        weight.clone(), requires_grad=False, compress_statistics=False, quant_type="nf4", module=layer
    )
    layer = layer.to("cpu")  # packs
    # looked up before the first pass, which may lay the weights out anew for this processor
    values = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state).float()
    return of_torch(layer, lambda: values)


# --- llama.cpp ------------------------------------------------------------------------------------------------------


class _Params(ctypes.Structure):
    _fields_ = [("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool)]


_P, _I, _N = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "ggml_init": (_P, [_Params]),
    "ggml_free": (None, [_P]),
    "ggml_tensor_overhead": (ctypes.c_size_t, []),
    "ggml_graph_overhead": (ctypes.c_size_t, []),
    "ggml_new_tensor_2d": (_P, [_P, _I, _N, _N]),
    "ggml_mul_mat": (_P, [_P, _P, _P]),
    "ggml_new_graph": (_P, [_P]),
    "ggml_build_forward_expand": (None, [_P, _P]),
    "ggml_row_size": (ctypes.c_size_t, [_I, _N]),
    "ggml_quantize_chunk": (ctypes.c_size_t, [_I, _P, _P, _N, _N, _N, _P]),
    "ggml_backend_load_all": (None, []),
    "ggml_backend_dev_by_type": (_P, [_I]),
    "ggml_backend_dev_init": (_P, [_P, ctypes.c_char_p]),
    "ggml_backend_dev_buffer_type": (_P, [_P]),
    "ggml_backend_dev_backend_reg": (_P, [_P]),
    "ggml_backend_dev_supports_op": (ctypes.c_bool, [_P, _P]),
    "ggml_backend_reg_get_proc_address": (_P, [_P, ctypes.c_char_p]),
    "ggml_backend_alloc_ctx_tensors_from_buft": (_P, [_P, _P]),
    "ggml_backend_buffer_free": (None, [_P]),
    "ggml_backend_free": (None, [_P]),
    "ggml_backend_tensor_set": (None, [_P, _P, ctypes.c_size_t, ctypes.c_size_t]),
    "ggml_backend_tensor_get": (None, [_P, _P, ctypes.c_size_t, ctypes.c_size_t]),
    "ggml_backend_graph_compute": (_I, [_P, _P]),
}


class _Ggml:
    """ggml's functions by their names, without the ``ggml_``."""

    def __init__(self, folder: Path) -> None:
        """Load the shared libraries of a folder.

        Raises:
            ImportError: There are none, or they lack a function.
        """
        files = [file for part in ("ggml-base", "ggml-cpu", "ggml") for file in _libraries(folder, part)]
        libraries = [ctypes.CDLL(str(file)) for file in files]
        for name, (returns, takes) in _SIGNATURES.items():
            where = next((one for one in libraries if hasattr(one, name)), None)
            if where is None:
                raise ImportError(f"{name} is in none of {[file.name for file in files] or 'no library'} of {folder}")
            function = getattr(where, name)
            function.restype, function.argtypes = returns, takes
            setattr(self, name.removeprefix("ggml_"), function)


def _libraries(folder: Path, part: str) -> list[Path]:
    names = (f"lib{part}.so", f"lib{part}.dylib", f"{part}.dll", f"lib{part}.dll")
    return [file for name in names if (file := folder / name).exists()]


def q4_values(blocks: np.ndarray, columns: int) -> np.ndarray:
    """The weights (N, K) of ggml's Q4_0: 18 bytes for 32, a float16 scale and two codes a byte, 16 columns apart."""
    cut = blocks.reshape(-1, 2 + _BLOCK // 2)
    scale = cut[:, :2].copy().view(np.float16).astype(np.float32)
    codes = np.concatenate((cut[:, 2:] & 15, cut[:, 2:] >> 4), axis=1).astype(np.float32) - 8
    return (codes * scale).reshape(-1, columns)


class _Layer:
    """A weight (N, K) in Q4_0, on ggml's CPU backend, with as many threads as torch has now."""

    def __init__(self, g: Any, weight: np.ndarray) -> None:
        import torch

        self.g, self.shape, self.taken = g, weight.shape, []
        self.blocks = q4_blocks(g, weight)
        device = g.backend_dev_by_type(0)
        if not device:  # a build with a library for each kind of processor
            g.backend_load_all()
            device = g.backend_dev_by_type(0)
        self.backend = g.backend_dev_init(device, None)
        registry = g.backend_dev_backend_reg(device)
        address = g.backend_reg_get_proc_address(registry, b"ggml_backend_set_n_threads")
        ctypes.CFUNCTYPE(None, _P, _I)(address)(self.backend, torch.get_num_threads())
        self.plain = g.backend_dev_buffer_type(device)
        address = g.backend_reg_get_proc_address(registry, b"ggml_backend_dev_get_extra_bufts")
        special = ctypes.CFUNCTYPE(ctypes.POINTER(_P), _P)(address)(device) if address else [None]
        for kind in (*itertools.takewhile(bool, special), self.plain):  # they end with a null pointer
            context = self._context()
            self.weight = g.new_tensor_2d(context, _Q4_0, weight.shape[1], weight.shape[0])
            self._take(context, kind)
            product = g.mul_mat(context, self.weight, g.new_tensor_2d(context, _F32, weight.shape[1], 1))
            if g.backend_dev_supports_op(device, product):
                break
        g.backend_tensor_set(self.weight, self.blocks.ctypes.data, 0, self.blocks.nbytes)

    def _context(self) -> Any:
        return self.g.init(_Params(4 * self.g.tensor_overhead() + self.g.graph_overhead(), None, no_alloc=True))

    def _take(self, context: Any, kind: Any) -> None:
        self.taken.append((self.g.backend_alloc_ctx_tensors_from_buft(context, kind), context))

    def __del__(self) -> None:
        for buffer, context in self.taken:
            self.g.backend_buffer_free(buffer)
            self.g.free(context)
        self.g.backend_free(self.backend)

    def prepare(self, x: Any) -> Callable[[], Any]:
        """A graph of the product with x (M, K), which is float32 to ggml; every call computes it."""
        g, (height, width) = self.g, self.shape
        context = self._context()
        given = g.new_tensor_2d(context, _F32, width, len(x))
        made = g.mul_mat(context, self.weight, given)
        graph = g.new_graph(context)
        g.build_forward_expand(graph, made)
        self._take(context, self.plain)
        rows = x.float().contiguous()
        g.backend_tensor_set(given, rows.data_ptr(), 0, rows.numel() * rows.element_size())

        def once() -> Any:
            if status := g.backend_graph_compute(self.backend, graph):
                raise RuntimeError(f"ggml_backend_graph_compute gave {status}.")
            return made, (len(x), height)

        return once

    def read(self, made: Any) -> Any:
        """The product as a tensor."""
        import torch

        tensor, shape = made
        out = torch.empty(shape, dtype=torch.float32)
        self.g.backend_tensor_get(tensor, out.data_ptr(), 0, out.numel() * out.element_size())
        return out


def q4_blocks(g: Any, weight: np.ndarray) -> np.ndarray:
    """What ggml rounds a weight to: (N, K) float32 to blocks."""
    height, width = weight.shape
    blocks = np.empty(height * g.row_size(_Q4_0, width), np.uint8)
    g.quantize_chunk(_Q4_0, weight.ctypes.data, blocks.ctypes.data, 0, height, width, None)
    return blocks


def q4_0(weight: Any) -> Scheme:
    """Blocks of 32 with a float16 scale, as llama.cpp has them; x is rounded to 8 bits in such blocks too."""
    import torch

    layer = _Layer(_Ggml(_place("llama_cpp") / "lib"), weight.float().contiguous().numpy())

    def values() -> Any:
        return torch.from_numpy(q4_values(layer.blocks, weight.shape[1]))

    return Scheme(layer.prepare, values, layer.blocks.nbytes, layer.read)


def q4_0_rounded(weight: Any) -> Any:
    """A weight (N, K) after llama.cpp's rounding to Q4_0, in its type."""
    import torch

    blocks = q4_blocks(_Ggml(_place("llama_cpp") / "lib"), weight.float().contiguous().numpy())
    return torch.from_numpy(q4_values(blocks, weight.shape[1])).to(weight.dtype)


# --- which there are ------------------------------------------------------------------------------------------------

PEERS: dict[str, tuple[str, str, Callable[[Any], Scheme]]] = {
    "torchao int8": ("torchao", "torchao", torchao_int8),
    "bitsandbytes NF4": ("bitsandbytes", "bitsandbytes", nf4),
    "llama.cpp Q4_0": ("llama_cpp", "llama-cpp-python", q4_0),
}
"""Module, package, and what makes a scheme of a weight (N, K); by the names they have in tables."""


def _place(module: str) -> Path:
    """The folder of a package, which is not imported.

    Raises:
        ImportError: It is not installed.
    """
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
    found = importlib.util.find_spec(module)
    if found is None or not found.submodule_search_locations:
        raise ImportError(f"no module {module}", name=module)
    return Path(next(iter(found.submodule_search_locations)))


def missing(name: str) -> str:
    """What installs a peer; empty when it is there."""
    module, package, _make = PEERS[name]
    try:
        _place(module)
    except ImportError:
        return INSTALL.format(package)
    return ""
