"""Bytes that a model takes: its weights as they would be held, keys and values, and what has to be fetched.

Of a folder the headers of its files are read; of a model that has not been fetched, the catalog's shapes stand.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from workbench import headers
from workbench.catalog import Entry

__all__ = ["DRAFTER", "LINEAR", "counted", "fetched_bytes", "limit", "made_of", "stored_schemes", "used"]

DRAFTER = 0.85e9
"""Bytes of a drafter in 16 bit (423 M parameters)."""
LINEAR = {
    "none": 2.0,
    "int8": 1.0,
    "int4+16": 0.625,
    "int4": 0.625,
    "nf4": 0.56,
    "bnb-int8": 1.0,
    "torchao-int8": 1.0,
    "metal": 0.625,
}
_ZEROS = 0.0625  # of that what the zero points of int4 take, which most kernels want and stored weights do not have
_ENDS = {
    "none": 2.0,
    "int8": 1.0,
    "int4+16": 2.0,
    "int4": 1.0,
    "nf4": 2.0,
    "bnb-int8": 2.0,
    "torchao-int8": 2.0,
    "metal": 2.0,
}


def counted(entry: Entry, scheme: str, tokens: int, *, as_stored: bool = False) -> tuple[int, int, int]:
    """Bytes of the weights as held, bytes of keys and values, and bytes of intermediate numbers a token.

    Args:
        entry: The model.
        scheme: What it is held as.
        tokens: Prompt and answer together.
        as_stored: 4-bit weights are multiplied as they are stored, where they are bfloat16 (and 64 divides their
            columns, as it does in Gemma 4).
    """
    if entry.local:
        return _folder(Path(entry.source), scheme, tokens, wide=entry.name == "pocket", as_stored=as_stored)
    shape = entry.shape
    if shape is None:
        return 0, 0, 0  # a hub id we know nothing of: its configuration says more once it is here
    weights = shape.linear * _a_weight(scheme, as_stored=as_stored) + shape.embeddings * _ENDS[scheme]
    weights += (shape.in_experts + shape.elsewhere) * 2
    return int(weights), shape.cache(tokens), 200_000


def used(entry: Entry) -> float:
    """The share of the weights that one token needs: less than all of them in a mixture of experts."""
    shape = entry.shape
    idle = shape.in_experts * (1 - shape.active / shape.experts) if shape and shape.experts else 0
    return 1 - idle / shape.weights if shape else 1.0


def limit(entry: Entry) -> int | None:
    """Tokens that prompt and answer may fill together; None of a hub id that we know nothing of."""
    if not entry.local:
        return entry.shape.context if entry.shape else None
    config = headers.gemma(Path(entry.source))
    return int(config.get("text_config", config).get("max_position_embeddings") or 0) or None


def fetched_bytes(entry: Entry) -> float:
    """Bytes of its weights on the hub; 0 where not known."""
    shape = entry.shape
    if shape is None:
        return 0.0
    if entry.packed and entry.of:  # 4 bits and a 16-bit scale for 32 of them; the embedding in 16 bit
        return shape.linear * 0.5625 + (shape.embeddings + shape.elsewhere) * 2
    return shape.weights * 2.0


def made_of(entry: Entry) -> str:
    """The hub id that weights were made of: of a packed folder, what it says; of others, what they are."""
    if not entry.local:
        return entry.source
    declared = headers.gemma(Path(entry.source)).get("quantization_config") or {}
    return str(declared.get("source") or entry.source)


def stored_schemes(folder: Path) -> tuple[str, ...]:
    """What a folder's packed weights can be held as, what they are stored as first; nothing for plain weights."""
    declared = headers.gemma(folder).get("quantization_config") or {}
    if declared.get("scheme"):
        return (str(declared["scheme"]),)
    return ("int4", "int4+16") if declared.get("quant_method") == "compressed-tensors" else ()


def _a_weight(scheme: str, *, as_stored: bool) -> float:
    return LINEAR.get(scheme, 2.0) - (_ZEROS if as_stored and scheme.startswith("int4") else 0)


def _folder(folder: Path, scheme: str, tokens: int, *, wide: bool, as_stored: bool) -> tuple[int, int, int]:
    linear = ends = other = packed = 0
    item = 0
    config = headers.gemma(folder)
    wide = wide or "float32" in (config.get("dtype"), config.get("torch_dtype"))  # whatever the files hold it as
    as_stored = as_stored and not wide
    zeros = 1 if as_stored else 2
    for key, kind, shape in headers.tensors(folder):
        count = 1
        for length in shape:
            count *= length
        size = headers.SIZES.get(kind, 2)
        text = not any(word in key for word in ("vision", "audio"))
        if key.endswith(("weight_packed", "weight_scale")) and kind != "I64":
            packed += count * size * (zeros if key.endswith("weight_scale") and len(shape) == 2 else 1)
        elif text and "embed_tokens" in key:
            ends, item = ends + count, max(item, size)
        elif text and _packable(key) and len(shape) == 2 and shape[1] % 32 == 0:
            linear, item = linear + count, max(item, size)
        else:
            other += count * (4 if wide else size)
    item = 4 if wide else item or 2
    weights = packed + other
    weights += linear * item if scheme == "none" or packed else int(linear * _a_weight(scheme, as_stored=as_stored))
    weights += int(ends * (_ENDS[scheme] if scheme in ("int4", "int8") else item))
    text_config = config.get("text_config", config)
    return weights, _cache(text_config, tokens, 4 if wide else 2), int(text_config.get("intermediate_size", 0)) * 8


def _packable(key: str) -> bool:
    """Whether a matrix of the text model is a linear layer that is packed."""
    return (".layers." in key and ".router." not in key) or key.endswith("per_layer_model_projection.weight")


def _cache(text: dict[str, Any], tokens: int, item: int) -> int:
    """Bytes of keys and values, from a text configuration."""
    kinds = text.get("layer_types") or ["full_attention"] * int(text.get("num_hidden_layers", 0))
    window = int(text.get("sliding_window") or tokens)
    own = len(kinds) - int(text.get("num_kv_shared_layers") or 0)
    total = 0
    for k, kind in enumerate(kinds[:own]):
        special = (text.get("per_layer_config") or {}).get(str(k), {})
        full = kind == "full_attention"
        heads = special.get("num_key_value_heads") or (full and text.get("num_global_key_value_heads"))
        size = special.get("head_dim") or (full and text.get("global_head_dim"))
        width = int(heads or text.get("num_key_value_heads", 1)) * int(size or text.get("head_dim", 256))
        total += 2 * item * width * (tokens if full else min(tokens, window))
    return total
