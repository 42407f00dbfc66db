"""What was said and shown so far, checked and loaded before any model is touched."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np

from workbench.archive import json_bytes
from workbench.errors import MediaError, PromptError, TraceError
from workbench.media import Audio, Image, Video, load_audio, load_image, load_video
from workbench.trace import Trace
from workbench.turns import EXTRAS, ROLES, check_extras, sound_text

__all__ = ["Conversation", "conversation", "listed", "messages"]


@dataclass(frozen=True)
class Conversation:
    """Checked turns, media taken out: ``{"type": "image", "index": 0}`` points into ``images``."""

    messages: tuple[dict[str, Any], ...]
    images: tuple[Image, ...]
    audio: tuple[Audio, ...]
    video: tuple[Video, ...] = ()


_ARGUMENT = {"image": "images", "video": "video", "audio": "audio"}
_LOADERS: Mapping[str, Callable[[Any], Any]] = {"image": load_image, "video": load_video, "audio": load_audio}


class _Media:
    """Media loaded so far, by kind, in the order they are numbered in."""

    def __init__(self, images: Iterable[Image] = (), audio: Iterable[Audio] = (), video: Iterable[Video] = ()) -> None:
        self.held: dict[str, list[Any]] = {"image": list(images), "video": list(video), "audio": list(audio)}

    def part(self, kind: str, source: Any, where: str) -> dict[str, Any]:
        """Load one and give the part that points to it; ``where`` it stood names what has no name of its own."""
        try:
            self.held[kind].append(_LOADERS[kind](source))
        except MediaError as error:
            if isinstance(source, (str, PathLike)):
                raise
            raise MediaError(f"{where}: {error}") from error
        return {"type": kind, "index": len(self.held[kind]) - 1}

    def parts(self, shown: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
        """The parts of several, a kind after the other."""
        return [
            self.part(kind, source, f"{_ARGUMENT[kind]}[{k}]")
            for kind, sources in shown.items()
            for k, source in enumerate(sources)
        ]


def conversation(
    question: str | None,
    *,
    images: Iterable[Any] = (),
    audio: Iterable[Any] = (),
    video: Iterable[Any] = (),
    system: str | None = None,
    history: Trace | Sequence[Mapping[str, Any]] | None = None,
) -> Conversation:
    """Check and load everything that was passed, before any model is touched.

    Args:
        question: The user's words; None when ``history`` ends with the turn to be answered (scoring, branching).
        images, audio, video: For this turn; anything ``load_image``, ``load_audio`` and ``load_video`` take. They stand
            before the words: pictures, videos, sounds. Without a question they stand at the head of the user's turn
            that ``history`` ends with.
        system: The system turn.
        history: Earlier turns: a Trace (its conversation and its answer, without its thoughts), or messages
            ``{"role": "user" | "model", "content": text or parts}``, a part being ``{"type": "text", "text": …}``,
            ``{"type": "image", "image": source}``, and ``audio`` and ``video`` likewise. A model's turn may have
            ``tool_calls``; turns of the role ``tool`` with a ``name`` are their results.

    Raises:
        PromptError: An empty question, a turn of unknown role or kind, a trace whose calls were not answered, media
            for a turn that is not there.
        MediaError: A picture, sound or video that cannot be used.
    """
    media = _Media(history.images, history.audio, history.video) if isinstance(history, Trace) else _Media()
    shown = {kind: listed(given, kind) for kind, given in (("image", images), ("video", video), ("audio", audio))}
    turns = _history(history, media, shown if question is None else {})
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
        turns.append({"role": "user", "content": [*media.parts(shown), {"type": "text", "text": question}]})
    if not turns:
        raise PromptError("There is nothing to answer: give a question, or history= that ends with one.")
    if turns[-1]["role"] != "user" and any(shown.values()):
        raise PromptError(
            "images=, audio= and video= go with a question, or with a user's turn at the end of the messages; the last "
            f"turn is of the role {turns[-1]['role']}. Put them into the content of the message they belong to."
        )
    if turns[-1]["role"] == "model" and not turns[-1].keys() & EXTRAS:
        raise PromptError("history= ends with an answer: give a question, or messages that end with one.")
    held = {kind: tuple(loaded) for kind, loaded in media.held.items()}
    return Conversation(tuple(turns), held["image"], held["audio"], held["video"])


def messages(trace: Trace, *, answer: bool = False) -> list[dict[str, Any]]:
    """What was said and shown to get a trace, to be changed and asked again with ``model.ask(None, history=…)``.

        said = messages(trace)
        said[-1]["content"][-1]["text"] = "And at the bottom?"
        model.ask(None, history=said)

    Args:
        trace: Any.
        answer: Its answer too, as a turn of the model's.

    Returns:
        ``{"role": …, "content": [{"type": "text", "text": …}, {"type": "image", "image": …}, …]}`` for each turn, with
        the pictures, sounds and videos themselves. The trace does not change with them.

    Raises:
        TraceError: It is no trace.
        PromptError: Its answer is wanted, and calls a tool.
    """
    if not isinstance(trace, Trace):
        raise TraceError(f"messages takes a trace; {type(trace).__name__} {trace!r:.60} is none.")
    held: dict[str, tuple[Any, ...]] = {"image": trace.images, "audio": trace.audio, "video": trace.video}

    def part(p: Mapping[str, Any]) -> dict[str, Any]:
        kind = p["type"]
        return dict(p) if kind == "text" else {"type": kind, kind: held[kind][p["index"]]}

    turns = copy.deepcopy([dict(m) for m in trace.prompt.messages])
    made = [{**turn, "content": [part(p) for p in turn["content"]]} for turn in turns]
    return [*made, _said(trace)] if answer else made


def _said(trace: Trace) -> dict[str, Any]:
    """A trace's answer as a turn.

    Raises:
        PromptError: It calls a tool.
    """
    if trace.calls:
        raise PromptError(
            f"This trace ends with a call, {trace.calls[0]}, and no result. Pass run_tools=, or go on with "
            "history=workbench.tools.answered(trace, results)."
        )
    return {"role": "model", "content": [{"type": "text", "text": trace.text}]}


def listed(sources: Any, kind: str) -> list[Any]:
    """Sources as a list. One where a list is wanted is a slip that would otherwise be read letter by letter."""
    if sources is None:
        return []
    if isinstance(sources, (str, bytes, bytearray, memoryview, np.ndarray, Image, Audio, Video)) or hasattr(
        sources, "read"
    ):
        return [sources]
    if (
        kind in ("audio", "video")
        and isinstance(sources, tuple)
        and len(sources) == 2
        and any(isinstance(part, (int, float, np.number)) for part in sources)
    ):
        return [sources]  # (samples, rate) or (frames, fps), either way round
    if not isinstance(sources, Iterable):
        return [sources]  # a Path or PIL image; anything else is refused by name when it is loaded
    return list(sources)


def _history(history: Any, media: _Media, shown: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Checked turns; what is ``shown`` is put at the head of the last, if it is the user's."""
    if history is None:
        return []
    if isinstance(history, Trace):
        return [*(dict(m) for m in history.prompt.messages), _said(history)]
    if isinstance(history, (str, Mapping)) or not isinstance(history, Iterable):
        raise PromptError(f"history is {type(history).__name__}; expected a list of messages, or a Trace.")
    turns = []
    history = list(history)
    for k, message in enumerate(history):
        if not isinstance(message, Mapping) or "role" not in message or "content" not in message:
            raise PromptError(f'history[{k}] is {message!r}; expected {{"role": …, "content": …}}.')
        role = ROLES.get(message["role"]) if isinstance(message["role"], str) else None
        if role is None:
            raise PromptError(f"history[{k}] has role {message['role']!r}; expected user, model, system or tool.")
        if role == "system" and k:
            raise PromptError(f"history[{k}] is a system turn; only the first turn may be one.")
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if isinstance(parts, Mapping) or not isinstance(parts, Iterable):
            raise PromptError(f"history[{k}] has content {content!r}; expected text or a list of parts.")
        more = {name: message[name] for name in EXTRAS if name in message}
        check_extras(f"history[{k}]", more)
        if "tool_calls" in more:
            more["tool_calls"] = _plain(more["tool_calls"], f"history[{k}]")
        # media are numbered in the order they stand in, so these come first
        before = media.parts(shown) if role == "user" and k == len(history) - 1 else []
        turns.append({"role": role, "content": [*before, *(_part(p, f"history[{k}]", media) for p in parts)], **more})
    return turns


def _plain(calls: Any, where: str) -> Any:
    """A copy of a turn's calls as a trace's file holds them: what cannot be saved is not run."""
    turn = {"messages": [{"tool_calls": calls}]}  # as deep as it stands there
    try:
        return json.loads(json_bytes(turn, "a value"))["messages"][0]["tool_calls"]
    except TraceError as error:
        raise PromptError(f"{where} has tool_calls that no trace can hold: {error}") from None


def _part(part: Any, where: str, media: _Media) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return {"type": "text", "text": sound_text(where, part["text"])}
    if isinstance(kind, str) and kind in _LOADERS and kind in part:
        return media.part(kind, part[kind], where)
    raise PromptError(
        f"{where} has a part {part!r}; expected {{'type': 'text', 'text': …}}, {{'type': 'image', 'image': …}}, "
        "{'type': 'audio', 'audio': …} or {'type': 'video', 'video': …}."
    )
