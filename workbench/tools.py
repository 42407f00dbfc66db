"""Tools a model may call: checked schemas, and every text within them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from workbench.errors import PromptError

__all__ = ["mapped", "schemas_of", "texts_in"]


def schemas_of(tools: Any) -> list[Any]:
    """Tools as JSON schemas.

    Raises:
        PromptError: One is neither a schema nor a function that says what it takes.
    """
    from transformers.utils import get_json_schema

    if isinstance(tools, (str, bytes, Mapping)) or not isinstance(tools, Iterable):
        raise PromptError(f"tools={tools!r}: expected a list of JSON schemas or functions.")
    made = []
    for k, tool in enumerate(tools):
        if isinstance(tool, Mapping):
            function = tool.get("function", tool)
            if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
                raise PromptError(
                    f'tools[{k}] is {tool!r}; expected {{"type": "function", "function": {{"name": …}}}}.'
                )
            made.append(tool)
        elif callable(tool):
            try:
                made.append(get_json_schema(tool))
            except Exception as error:  # noqa: BLE001 (whatever a strange function leads Transformers' reader to)
                raise PromptError(
                    f"tools[{k}], {tool!r}, cannot be described ({error}): it needs type hints and a docstring."
                ) from None
        else:
            raise PromptError(f"tools[{k}] is {tool!r}; expected a JSON schema or a function.")
    return made


def texts_in(value: Any) -> Iterator[str]:
    """All texts within nested lists and mappings, names included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, part in value.items():
            yield from texts_in(name)
            yield from texts_in(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from texts_in(part)


def mapped(value: Any, change: Callable[[str], str]) -> Any:
    """The same nested lists and mappings with every text changed, names included."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {mapped(name, change): mapped(part, change) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [mapped(part, change) for part in value]
    return value
