"""Arrays on their way to a browser: binary in a notebook, base64 in a page; ``lib/arrays.js`` reads them.

    array(a)        {"view": memoryview, "dtype": "float32", "shape": [5, 20]}; ipywidgets takes the view out of a trait
    split(value)    the same for a custom message: JSON in which {"buffer": 2} stands for the third buffer
    in_page(value)  the same for a page: base64 in the JSON itself

Numbers never cross as lists of JSON: a float32 takes 4 bytes instead of about 20.
"""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

__all__ = ["LIMIT", "array", "in_page", "size", "split"]

LIMIT = 8 << 20
"""Bytes of one message. Jupyter drops larger ones than 10 MiB without a word."""

_TYPES = ("uint8", "int8", "uint16", "int32", "float32", "float64")


def array(values: Any, dtype: Any) -> dict[str, Any]:
    """Numbers for ``lib/arrays.js``, row by row."""
    made: Any = np.ascontiguousarray(values, dtype=dtype)
    if made.dtype.name not in _TYPES:
        raise TypeError(f"The browser's side reads {', '.join(_TYPES)}, not {made.dtype.name}.")
    return {"view": memoryview(made).cast("B") if made.size else b"", "dtype": made.dtype.name, "shape": [*made.shape]}


def split(value: Any) -> tuple[Any, list[Any]]:
    """JSON and the buffers taken out of it."""
    buffers: list[Any] = []

    def walk(part: Any) -> Any:
        if isinstance(part, (bytes, memoryview)):
            buffers.append(part)
            return {"buffer": len(buffers) - 1}
        return _each(part, walk)

    return walk(value), buffers


def in_page(value: Any) -> Any:
    """JSON with the buffers in it as base64."""
    if isinstance(value, (bytes, memoryview)):
        return base64.b64encode(value).decode("ascii")
    return _each(value, in_page)


def size(value: Any) -> int:
    """About how many bytes a value takes on its way: binary as it is, text in UTF-8, 12 for a number."""
    if isinstance(value, (bytes, memoryview)):
        return len(value)
    if isinstance(value, str):
        return len(value.encode("utf-8", "replace")) + 2
    if isinstance(value, dict):
        return sum(size(k) + size(v) for k, v in value.items())
    return sum(map(size, value)) if isinstance(value, (list, tuple)) else 12


def _each(part: Any, walk: Any) -> Any:
    if isinstance(part, dict):
        return {key: walk(inner) for key, inner in part.items()}
    return [walk(inner) for inner in part] if isinstance(part, (list, tuple)) else part
