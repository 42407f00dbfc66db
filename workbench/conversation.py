"""What was said and shown so far, checked and loaded before any model is touched."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from workbench.errors import PromptError
from workbench.media import Audio, Image, load_audio, load_image
from workbench.trace import Trace
from workbench.turns import check_extras, sound_text

__all__ = ["Conversation", "conversation"]

_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "model": "model",
    "assistant": "model",
    "tool": "tool",
}


@dataclass(frozen=True)
class Conversation:
    """Checked turns, media taken out: ``{"type": "image", "index": 0}`` points into ``images``."""

    messages: tuple[dict[str, Any], ...]
    images: tuple[Image, ...]
    audio: tuple[Audio, ...]


def conversation(
    question: str | None,
    *,
    images: Iterable[Any] = (),
    audio: Iterable[Any] = (),
    system: str | None = None,
    history: Trace | Sequence[Mapping[str, Any]] | None = None,
) -> Conversation:
    """Check and load everything that was passed, before any model is touched.

    Args:
        question: The user's words; None when ``history`` ends with the turn to be answered (scoring, branching).
        images, audio: For this turn; anything ``load_image`` and ``load_audio`` take. They stand before the words.
        system: The system turn.
        history: Earlier turns: a Trace (its conversation and its answer), or messages
            ``{"role": "user" | "model", "content": text or parts}``, a part being ``{"type": "text", "text": …}``,
            ``{"type": "image", "image": source}`` or ``{"type": "audio", "audio": source}``.

    Raises:
        PromptError: An empty question, a turn of unknown role or kind.
        MediaError: A picture or sound that cannot be used.
    """
    pictures: list[Image] = []
    sounds: list[Audio] = []
    turns = _history(history, pictures, sounds)
    if system is not None:
        if not isinstance(system, str) or not system.strip():
            raise PromptError(f"system={system!r}: expected text, or None for no system turn.")
        sound_text("system=", system)
        if turns and turns[0]["role"] == "system":
            raise PromptError("Both system= and a system turn in history= were given: pass one of them.")
        turns.insert(0, {"role": "system", "content": [{"type": "text", "text": system}]})
    if question is not None:
        if not isinstance(question, str):
            raise PromptError(f"The question is {type(question).__name__}; expected text.")
        sound_text("The question", question)
        if not question.strip():
            raise PromptError("The question is empty: say what you want to know.")
        parts: list[dict[str, Any]] = []
        for source in _listed(images, "images"):
            parts.append({"type": "image", "index": len(pictures)})
            pictures.append(load_image(source))
        for source in _listed(audio, "audio"):
            parts.append({"type": "audio", "index": len(sounds)})
            sounds.append(load_audio(source))
        turns.append({"role": "user", "content": [*parts, {"type": "text", "text": question}]})
    if not turns:
        raise PromptError("There is nothing to answer: give a question, or history= that ends with one.")
    return Conversation(tuple(turns), tuple(pictures), tuple(sounds))


def _listed(sources: Any, name: str) -> list[Any]:
    """One source where a list is wanted is a slip that would otherwise be read letter by letter."""
    if sources is None:
        return []
    if isinstance(sources, (str, bytes, bytearray, memoryview, np.ndarray, Image, Audio)) or hasattr(sources, "read"):
        return [sources]
    if (
        name == "audio"
        and isinstance(sources, tuple)
        and len(sources) == 2
        and any(isinstance(part, (int, float, np.number)) for part in sources)
    ):
        return [sources]  # (samples, rate), either way round
    if not isinstance(sources, Iterable):
        return [sources]  # a Path or PIL image; anything else is refused by name when it is loaded
    return list(sources)


def _history(history: Any, pictures: list[Image], sounds: list[Audio]) -> list[dict[str, Any]]:
    if history is None:
        return []
    if isinstance(history, Trace):
        pictures.extend(history.images)
        sounds.extend(history.audio)
        turns = [dict(m) for m in history.prompt.messages]
        return [*turns, {"role": "model", "content": [{"type": "text", "text": history.text}]}]
    if isinstance(history, (str, Mapping)) or not isinstance(history, Iterable):
        raise PromptError(f"history is {type(history).__name__}; expected a list of messages, or a Trace.")
    turns = []
    for k, message in enumerate(history):
        if not isinstance(message, Mapping) or "role" not in message or "content" not in message:
            raise PromptError(f'history[{k}] is {message!r}; expected {{"role": …, "content": …}}.')
        role = _ROLES.get(message["role"]) if isinstance(message["role"], str) else None
        if role is None:
            raise PromptError(f"history[{k}] has role {message['role']!r}; expected user, model, system or tool.")
        if role == "system" and k:
            raise PromptError(f"history[{k}] is a system turn; only the first turn may be one.")
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if isinstance(parts, Mapping) or not isinstance(parts, Iterable):
            raise PromptError(f"history[{k}] has content {content!r}; expected text or a list of parts.")
        more = {name: message[name] for name in ("name", "tool_calls") if name in message}
        check_extras(f"history[{k}]", more)
        turns.append({"role": role, "content": [_part(p, f"history[{k}]", pictures, sounds) for p in parts], **more})
    return turns


def _part(part: Any, where: str, pictures: list[Image], sounds: list[Audio]) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return {"type": "text", "text": sound_text(where, part["text"])}
    if kind == "image" and "image" in part:
        pictures.append(load_image(part["image"]))
        return {"type": "image", "index": len(pictures) - 1}
    if kind == "audio" and "audio" in part:
        sounds.append(load_audio(part["audio"]))
        return {"type": "audio", "index": len(sounds) - 1}
    raise PromptError(
        f"{where} has a part {part!r}; expected {{'type': 'text', 'text': …}}, {{'type': 'image', 'image': …}} or "
        "{'type': 'audio', 'audio': …}."
    )
