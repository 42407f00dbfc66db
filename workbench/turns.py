"""What holds for a turn wherever it comes from, a caller or a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workbench.errors import PromptError

__all__ = ["EXTRAS", "ROLES", "check_extras", "sound_text"]

ROLES = {"system": "system", "developer": "system", "user": "user", "model": "model", "assistant": "model",
         "tool": "tool"}  # fmt: skip
"""The names that others have for roles, and ours."""

EXTRAS = ("name", "tool_calls", "reasoning")
"""What a turn may have besides its role and content: whose result it is, what the model called, and what it thought
before a call (templates keep a thought within a turn that goes on, and drop it from those that are over)."""


def sound_text(name: str, text: str) -> str:
    """The text, if it can be written as UTF-8.

    Raises:
        PromptError: It holds half a surrogate pair.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise PromptError(f"{name} holds {text[error.start]!r} at {error.start}: half a character.") from None
    return text


def check_extras(where: str, more: Mapping[str, Any]) -> None:
    """Check what a turn has besides its role and content, as the chat template takes it.

    Raises:
        PromptError: ``name`` or ``reasoning`` is no text, or ``tool_calls`` no list of
            ``{"function": {"name": …, "arguments": …}}``.
    """
    for field in ("name", "reasoning"):
        if not isinstance(more.get(field, ""), str):
            raise PromptError(f"{where} has {field} {more[field]!r}; expected text.")
    calls = more.get("tool_calls", [])
    ok = isinstance(calls, (list, tuple)) and all(
        isinstance(call, Mapping) and isinstance(call.get("function"), Mapping)
        and isinstance(call["function"].get("name"), str) and isinstance(call["function"].get("arguments", {}), Mapping)
        for call in calls
    )  # fmt: skip
    if not ok:
        raise PromptError(
            f'{where} has tool_calls {calls!r}; expected [{{"function": {{"name": text, "arguments": {{…}}}}}}].'
        )
