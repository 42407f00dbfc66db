"""Weights that stay packed: a Transformers quantizer for int4 in groups of 32 and int8, with a scale a row.

    model = workbench.load("gemma-4-12b", quantization="int4")

    int4       4-bit linear layers of the text model; embedding and output layer in int8
    int4+16    the same, embedding and output layer left in 16 bit
    int8       8-bit linear layers, embedding and output layer

Three kinds of folders are read, one tensor after another, never expanded to 16 bit as a whole: plain weights, which
are rounded (exactly, if they lie on the int4 grid); compressed-tensors' ``pack-quantized`` of the official
``-qat-w4a16-ct`` checkpoints, whose integers and scales are kept as they are (compressed-tensors itself unpacks every
layer to 16 bit in the first forward pass); and folders that ``workbench quantize`` wrote. Layers and embeddings outside
the text model stay as they are stored, and so do a mixture's experts and the router that chooses among them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    ConversionOps,
    WeightConverter,
    WeightRenaming,
    rename_source_key,
)
from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING, register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from workbench import grid
from workbench.errors import Incompatible, ModelError
from workbench.packed import Int4Linear, Int8Embedding, Int8Head, Int8Linear, layers

__all__ = [
    "METHOD",
    "SCHEMES",
    "PackedConfig",
    "PackedQuantizer",
    "Plan",
    "held_as",
    "planned",
    "renamer",
    "stored",
    "stored_form",
]

METHOD = "workbench-packed"
SCHEMES = {"int4": ("int4", "int8"), "int4+16": ("int4", "none"), "int8": ("int8", "int8")}
"""What linear layers, and embedding with output layer, are held as; by the name that ``load(quantization=…)`` takes."""

_FLOATS = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}  # as safetensors calls them

_ROUTER = ".router.proj"  # a small layer: rounded, it would send words to other experts

# What can be had through Transformers by name, and the package it takes
_OTHERS: dict[str, tuple[str, dict[str, Any], str]] = {
    "nf4": ("BitsAndBytesConfig", {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "bitsandbytes"),
    "bnb-int8": ("BitsAndBytesConfig", {"load_in_8bit": True}, "bitsandbytes"),
    "torchao-int8": ("TorchAoConfig", {}, "torchao"),
    "metal": ("MetalConfig", {}, "kernels"),
}


class PackedConfig(QuantizationConfigMixin):
    """What to hold as what. Stored in the ``config.json`` of folders that ``workbench quantize`` wrote.

    Attributes:
        scheme: A name of :data:`SCHEMES`.
        group_size: Of int4; always 32.
        device: Where the layers will run; they are packed for it.
        rounding: In a stored folder: what rounding did, in words.
        source: In a stored folder: the hub id it was made of; it says which drafter goes with it.
    """

    def __init__(
        self, scheme: str = "int4", group_size: int = grid.GROUP, device: str = "cpu", rounding: str = "",
        source: str = "", **more: Any,
    ) -> None:  # fmt: skip
        more.pop("quant_method", None)
        if scheme not in SCHEMES or group_size != grid.GROUP or more:
            also = f", with {sorted(more)}" if more else ""
            raise Incompatible(
                f"These weights are packed as {scheme!r} in groups of {group_size}{also}; "
                f"this version reads {', '.join(SCHEMES)} in groups of {grid.GROUP}."
            )
        self.quant_method = METHOD
        self.scheme, self.group_size, self.device = scheme, group_size, device
        self.rounding, self.source = rounding, source


class _Pack(ConversionOps):
    """Packs a weight as soon as it has been read, and lets go of it.

    What is wrong with a weight is kept for the end: Transformers would bury an error raised here in a table.
    """

    def __init__(self, quantizer: PackedQuantizer) -> None:
        self.quantizer = quantizer

    def convert(
        self, input_dict: dict[str, Any], *, full_layer_name: str, model: Any, missing_keys: set[str], **_: Any
    ) -> dict[str, Any]:
        """Transformers' hook: takes the tensor of one key, hands back what is to be set (nothing is left to set)."""
        (tensor,) = input_dict.values()
        tensor = tensor[0] if isinstance(tensor, list) else tensor
        layer = model.get_submodule(full_layer_name.rpartition(".")[0])
        missing_keys.discard(full_layer_name)
        if self.quantizer.wrong is None:
            try:
                take_weight(layer, tensor, self.quantizer.quantization_config.device, full_layer_name)
            except (ModelError, MemoryError, RuntimeError) as error:  # the last when torch finds no memory
                self.quantizer.wrong = error
        return {}


def take_weight(layer: Any, weight: torch.Tensor, device: str, name: str) -> None:
    """Pack a weight (N, K) into its layer.

    Raises:
        ModelError: It has another shape, or is not finite.
    """
    if tuple(weight.shape) != (layer.out_features, layer.in_features):
        raise ModelError(f"{name} has shape {tuple(weight.shape)}; expected {(layer.out_features, layer.in_features)}.")
    if not bool(torch.isfinite(weight).all()):
        raise ModelError(f"{name} holds numbers that are not finite: the checkpoint is broken.")
    if isinstance(layer, Int4Linear):
        packed, scale, layer.rounding = grid.to_grid(weight)
        layer.take(packed, scale, device, own=True)
    else:
        layer.take(*grid.to_int8(weight), device, own=True)
    layer._buffers.pop("weight", None)  # noqa: SLF001 (the placeholder of PackedQuantizer)


class PackedQuantizer(HfQuantizer):
    """Builds the packed layers before the weights are read, and finishes them afterwards.

    Attributes:
        rounding: What rounding did to all int4 layers together; None before the weights are read, or if they came
            packed.
    """

    requires_calibration = False

    def __init__(self, quantization_config: PackedConfig, **kwargs: Any) -> None:
        kwargs["pre_quantized"] = False  # stored or not: this hands each tensor to the operation above as it is read
        super().__init__(quantization_config, **kwargs)
        self.rounding: grid.Rounding | None = None
        self.wrong: Exception | None = None  # the first weight that could not be packed

    def param_needs_quantization(self, model: Any, param_name: str, **_: Any) -> bool:
        """Whether a key is a plain weight of a packed layer."""
        name, _dot, last = param_name.rpartition(".")
        return last == "weight" and isinstance(model.get_submodule(name), (Int4Linear, Int8Linear, Int8Embedding))

    def get_quantize_ops(self) -> ConversionOps:
        """What packs it."""
        return _Pack(self)

    def _process_model_before_weight_loading(
        self, model: Any, dtype: torch.dtype | None = None, checkpoint_files: Any = None, **_: Any
    ) -> Any:
        dtype = dtype or torch.get_default_dtype()
        replace_layers(
            model, planned(model, self.quantization_config.scheme, stored(model, checkpoint_files or [])), dtype
        )
        return model

    def _process_model_after_weight_loading(self, model: Any, **_: Any) -> Any:
        if self.wrong is not None:
            raise self.wrong
        roundings = []
        for name, layer in layers(model):
            if "weight_packed" in layer._buffers:  # noqa: SLF001 (register_buffer's own place)
                _take_stored(layer, name, self.quantization_config.device)
            layer.finish()
            if layer.rounding is not None:
                roundings.append(layer.rounding)
        self.rounding = sum(roundings, grid.Rounding()) if roundings else None
        return model

    def is_serializable(self) -> bool:
        """No: what lies in memory is packed for this machine. ``workbench quantize`` writes the stored form."""
        return False

    @property
    def is_trainable(self) -> bool:
        """No: integers have no gradient."""
        return False


if METHOD not in AUTO_QUANTIZER_MAPPING:  # importlib.reload runs this again
    register_quantization_config(METHOD)(PackedConfig)
    register_quantizer(METHOD)(PackedQuantizer)


@dataclass(frozen=True)
class Plan:
    """What a layer becomes.

    Attributes:
        kind: ``int4`` or ``int8``.
        packed: Whether the checkpoint holds it packed already.
        dtype: Otherwise, what the checkpoint holds it as: the grid is looked for before any rounding to another type.
    """

    kind: str
    packed: bool
    dtype: torch.dtype | None = None


def renamer(model: Any) -> Callable[[str], str]:
    """What turns a checkpoint's keys into the model's: Transformers' own renaming."""
    transforms = get_model_conversion_mapping(model)
    rename = [t for t in transforms if isinstance(t, WeightRenaming)]
    convert = [t for t in transforms if isinstance(t, WeightConverter)]
    here = model.state_dict()
    return lambda key: str(rename_source_key(key, rename, convert, model.base_model_prefix, here)[0])


def stored(model: Any, files: list[str]) -> dict[str, str]:
    """What a checkpoint holds each layer as, by the model's name for it: ``int4``, ``int8``, or a floating-point type.

    Packed layers are told by their keys; lists of names in old configurations predate a renaming of the model's parts.

    Raises:
        ModelError: A packed tensor has another shape than the layer it is of, or is of no layer.
    """
    from safetensors import safe_open

    here, named = model.state_dict(), renamer(model)
    out = {}
    for file in files:
        with safe_open(file, framework="pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118 (a safetensors file is no mapping)
                name, _, last = key.rpartition(".")
                if last not in ("weight", "weight_packed"):
                    continue
                found = named(f"{name}.weight")
                shape, kind = tuple(tensors.get_slice(key).get_shape()), tensors.get_slice(key).get_dtype()
                if last == "weight":
                    out[found.removesuffix(".weight")] = kind
                    continue
                if found not in here or here[found].ndim != 2:
                    raise ModelError(f"{key} is packed, but this model has no layer {found.removesuffix('.weight')}.")
                rows, columns = here[found].shape
                expected = {"I32": (rows, columns // 8), "I8": (rows, columns)}.get(kind)
                if shape != expected:
                    raise ModelError(f"{key} is {kind} of shape {shape}; a layer of {rows}×{columns} has {expected}.")
                out[found.removesuffix(".weight")] = "int4" if kind == "I32" else "int8"
    return out


def planned(model: Any, scheme: str, held: dict[str, str]) -> dict[str, Plan]:
    """What each layer becomes, by name; layers that stay as they are are not in it.

    Args:
        model: A Transformers model, on the meta device or not.
        scheme: A name of :data:`SCHEMES`.
        held: Of :func:`stored`. Linear layers that a packed checkpoint leaves unpacked are left so.
    """
    linear, ends = SCHEMES[scheme]
    body = model.get_decoder()
    inside = {id(module) for module in body.modules()}
    head = model.get_output_embeddings()
    packed = {name: kind for name, kind in held.items() if kind in ("int4", "int8")}
    came_packed = any(kind == "int4" for kind in packed.values())
    out = {}
    for name, module in model.named_modules():
        if name.endswith(_ROUTER) and name not in packed:
            continue
        end = isinstance(module, nn.Embedding) or module is head
        if name in packed:
            out[name] = Plan(packed[name], packed=True)
        elif (id(module) not in inside and module is not head) or not isinstance(module, (nn.Linear, nn.Embedding)):
            continue
        elif end and ends != "none":
            out[name] = Plan(ends, packed=False, dtype=_FLOATS.get(held.get(name, "")))
        elif not end and not packed and (linear == "int8" or module.in_features % grid.GROUP == 0):
            out[name] = Plan(linear, packed=False, dtype=_FLOATS.get(held.get(name, "")))
        elif not end and packed and not came_packed:
            raise Incompatible(f"This folder holds some layers packed, but not {name}: it is not whole.")
    return out


def replace_layers(model: Any, plan: dict[str, Plan], dtype: torch.dtype) -> None:
    """Put the packed layers in place of the others, on the meta device, with room for what the checkpoint holds."""
    head = model.get_output_embeddings()
    tied = bool(getattr(model.config.get_text_config(), "tie_word_embeddings", False))
    embedding = None
    for name, what in plan.items():
        module = model.get_submodule(name)
        if module is head and tied:
            continue
        layer: Any
        if isinstance(module, nn.Embedding):
            rows, columns = module.num_embeddings, module.embedding_dim
            layer = Int8Embedding(rows, columns, dtype, float(getattr(module, "scalar_embed_scale", 1.0)))
            if module is model.get_input_embeddings():
                embedding = layer
        else:
            rows, columns = module.out_features, module.in_features
            layer = (Int4Linear if what.kind == "int4" else Int8Linear)(rows, columns, dtype, module.bias)
        if what.packed and what.kind == "int4":
            layer.expect(
                weight_packed=((rows, columns // 8), torch.int32),
                weight_scale=((rows, columns // grid.GROUP), dtype),
                weight_shape=((2,), torch.int64),
            )
        elif what.packed:
            layer.expect(weight_packed=((rows, columns), torch.int8), weight_scale=((rows,), dtype))
        else:  # under the name that layer.weight stands for; it goes when the weight has been packed
            layer._buffers["weight"] = torch.empty((rows, columns), dtype=what.dtype or dtype, device="meta")  # noqa: SLF001
        model.set_submodule(name, layer)
    if head is not None and tied and embedding is not None:
        model.set_output_embeddings(Int8Head(embedding))
        name = next(n for n, m in model.named_modules() if m is model.get_output_embeddings())
        model.all_tied_weights_keys = {
            key: source for key, source in model.all_tied_weights_keys.items() if key != f"{name}.weight"
        }


def _take_stored(layer: Any, name: str, device: str) -> None:
    """Pack for this machine what a checkpoint held packed."""
    had = {key: layer._buffers.pop(key) for key in list(layer._buffers) if key.startswith("weight_")}  # noqa: SLF001
    packed, scale = had["weight_packed"], had["weight_scale"]
    shape = had.get("weight_shape")
    if shape is not None and tuple(shape.tolist()) != (layer.out_features, layer.in_features):
        raise ModelError(f"{name}.weight_shape says {tuple(shape.tolist())}; the layer is {layer.weight.shape}.")
    if not bool(torch.isfinite(scale).all()):
        raise ModelError(f"{name}.weight_scale holds numbers that are not finite: the checkpoint is broken.")
    if packed.dtype == torch.int32:
        expected = (layer.out_features, layer.in_features // grid.GROUP)
        if tuple(scale.shape) != expected:
            raise ModelError(f"{name}.weight_scale has shape {tuple(scale.shape)}; groups of 32 need {expected}.")
        packed = packed.contiguous().view(torch.uint8)
    layer.take(packed, scale, device)


def stored_form(config: Any) -> dict[str, Any] | None:
    """The quantization that a checkpoint's configuration declares, as a dictionary; None for plain weights."""
    declared = getattr(config, "quantization_config", None) or getattr(
        config.get_text_config(), "quantization_config", None
    )
    if declared is None:
        return None
    return dict(declared) if isinstance(declared, dict) else dict(declared.to_dict())


def held_as(folder: Path, asked: str | None, device: str) -> tuple[str, dict[str, Any]]:
    """How to load a folder: what to call it, and the arguments of ``from_pretrained`` for that.

    Args:
        folder: A Transformers folder.
        asked: What ``load(quantization=…)`` was given. None: packed weights stay packed, others stay as they are.
        device: Where the model will run.

    Raises:
        ModelError: No such quantization, or its package is missing.
        Incompatible: The folder holds something else than was asked for, or a packing that this version cannot read.
    """
    names = (*SCHEMES, *_OTHERS, "none")
    if asked is not None and asked not in names:
        raise ModelError(f"quantization={asked!r} is not known; expected None or one of {', '.join(names)}.")
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    declared = stored_form(config)
    if declared is None:
        if asked in (None, "none"):
            return "none", {}
        if asked in _OTHERS:
            return str(asked), {"quantization_config": _other(str(asked))}
        return str(asked), {"quantization_config": PackedConfig(str(asked), device=device)}
    method = str(declared.get("quant_method"))
    if method == METHOD:
        ours = PackedConfig(**{**declared, "device": device})
        scheme = ours.scheme
    elif method == "compressed-tensors":
        _check_compressed(declared)
        scheme = asked if asked in ("int4", "int4+16") else "int4"
        ours = PackedConfig(scheme, device=device)
    elif asked is None:
        return method, {}
    else:
        raise Incompatible(f"These weights are stored as {method}: load them with quantization=None, not {asked!r}.")
    if asked not in (None, scheme):
        raise Incompatible(f"These weights are stored as {scheme}: load them with quantization=None, not {asked!r}.")
    # Beside a checkpoint's own, a quantization_config of another class is refused; so the checkpoint's goes
    for part in (config, config.get_text_config()):
        if getattr(part, "quantization_config", None) is not None:
            del part.quantization_config
    return scheme, {"config": config, "quantization_config": ours}


def _other(name: str) -> Any:
    import importlib
    import importlib.util

    import transformers

    kind, arguments, package = _OTHERS[name]
    if importlib.util.find_spec(package) is None:
        raise ModelError(f"quantization={name!r} needs {package}: pip install {package}")
    if package == "torchao":  # its schemes are classes of its own
        arguments = {"quant_type": importlib.import_module("torchao.quantization").Int8WeightOnlyConfig()}
    return getattr(transformers, kind)(**arguments)


def _check_compressed(declared: dict[str, Any]) -> None:
    """Refuse what is not 4-bit symmetric integers in groups of 32, packed."""
    form = declared.get("format")
    groups = declared.get("config_groups") or {}
    wanted = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": grid.GROUP}
    for group in groups.values():
        weights = group.get("weights") or {}
        wrong = [f"{k} {weights.get(k)}" for k, v in wanted.items() if weights.get(k) != v]
        wrong += ["actorder"] * bool(weights.get("actorder")) + ["input_activations"] * bool(
            group.get("input_activations")
        )
        if form != "pack-quantized" or wrong:
            raise Incompatible(
                f"This compressed-tensors checkpoint is {form} with {', '.join(wrong) or 'the right weights'}; this "
                f"version reads pack-quantized, 4-bit symmetric integers in groups of {grid.GROUP}. Load the plain "
                "weights with quantization='int4' instead."
            )
    if not groups:
        raise Incompatible("This compressed-tensors checkpoint says nothing of its config_groups; expected one.")
