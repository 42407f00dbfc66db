"""Fields of a trace's ``trace.json``, each checked for its kind: it may come from a stranger."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, TypeVar

from workbench.errors import TraceError
from workbench.parquet import MAX_ROWS
from workbench.tracecheck import MAX_MEDIA

__all__ = ["count", "dataclass_of", "get", "strings"]

T = TypeVar("T")


def get(record: Mapping[str, Any], name: str, kind: type[T]) -> T:
    """The field of that name, which must be of that kind; a truth value is no number.

    Raises:
        TraceError: It is missing or of another kind.
    """
    value = record.get(name)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise TraceError(f"trace.json in it: {name!r} is {type(value).__name__}. Expected {kind.__name__}.")
    return value


def count(record: Mapping[str, Any], name: str) -> int:
    """A number of rows, of frames and the like: 0 to ``MAX_ROWS``."""
    value = get(record, name, int)
    if not 0 <= value <= MAX_ROWS:
        raise TraceError(f"trace.json in it: {name!r} is {value:,}. Expected 0 to {MAX_ROWS:,}.")
    return value


def strings(record: Mapping[str, Any], name: str) -> list[str]:
    """A list of at most ``MAX_MEDIA`` texts."""
    values = get(record, name, list)
    if not all(isinstance(value, str) for value in values) or len(values) > MAX_MEDIA:
        raise TraceError(f"trace.json in it: {name!r} is not a list of texts.")
    return values


def dataclass_of(cls: type[T], about: Mapping[str, Any], name: str) -> T:
    """A dataclass of plain values, each checked against its annotation; fields younger than the file have defaults."""
    record, hints = get(about, name, dict), typing.get_type_hints(cls)
    made: dict[str, Any] = {}
    for f in fields(cls):  # type: ignore[arg-type]
        if f.name not in record and (f.default is not MISSING or f.default_factory is not MISSING):
            continue
        value: Any = record.get(f.name)
        if not _fits(value, hints[f.name]):
            raise TraceError(f"trace.json in it: {name}.{f.name} is {ascii(value)[:60]}. Expected {hints[f.name]}.")
        made[f.name] = tuple(value) if isinstance(value, list) else float(value) if hints[f.name] is float else value
    return cls(**made)


def _fits(value: Any, hint: Any) -> bool:
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        return any(_fits(value, one) for one in inside)
    if origin is tuple:  # tuple[str, ...]
        return isinstance(value, list) and all(_fits(item, inside[0]) for item in value)
    if origin is not None:  # Mapping[str, str]
        return isinstance(value, dict) and all(_fits(item, inside[1]) for item in value.values())
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, (int, float) if hint is float else hint)
