"""What tools an answer calls, read from its tokens, in Gemma 4's format. Torch-free: it works on a loaded trace.

    <|tool_call>call:weather{city:<|"|>Graz<|"|>,days:3}<tool_call|>  ──►  Call("weather", {"city": "Graz", "days": 3})

Values are texts between ``<|"|>``, numbers, ``true``, ``false``, ``null``, ``[…]`` and ``{…}``. A call that does not
hold to that is not guessed at: it comes with what is wrong with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from workbench.columns import Segment

__all__ = ["Call", "calls_in", "message_of", "parse", "text_of"]

_OPEN, _CLOSE, _QUOTE = "<|tool_call>", "<tool_call|>", '<|"|>'
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_HEAD = re.compile(r"\s*call:([^\s{]+)\s*")
_NUMBER = re.compile(r"-?\d+(\.\d+)?([eE][+-]?\d+)?")
_WORDS = {"true": True, "false": False, "null": None}
_DEEPEST = 30  # of nested values


@dataclass(frozen=True)
class Call:
    """A tool that the model asks to be run.

    Attributes:
        name: The tool's; empty where it cannot be read.
        arguments: By name: texts, numbers, truth values, None, lists and mappings.
        text: All of the call as the model wrote it.
        problem: Why it cannot be run as it stands; empty when it can be read.
        start, stop: Token positions, as in ``Segment``.
    """

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    text: str = ""
    problem: str = ""
    start: int = 0
    stop: int = 0

    def __str__(self) -> str:
        given = ", ".join(f"{name}={value!r}" for name, value in self.arguments.items())
        return f"{self.name or '?'}({given})" + (f" [{self.problem}]" if self.problem else "")


def text_of(pieces: Iterable[str]) -> str:
    """The text of some tokens' pieces, lone bytes (``<0xC3>``) put together to letters."""
    out: list[str] = []
    held = bytearray()
    for piece in pieces:
        byte = _BYTE.fullmatch(piece)
        if byte:
            held.append(int(byte[1], 16))
            continue
        if held:
            out.append(held.decode("utf-8", "replace"))
            held.clear()
        out.append(piece)
    return "".join([*out, held.decode("utf-8", "replace")])


def calls_in(segments: Sequence[Segment], pieces: Sequence[str], start: int) -> tuple[Call, ...]:
    """The calls of an answer, in order.

    Args:
        segments: Of the answer.
        pieces: The text of each of its tokens.
        start: Position of the first of them.
    """
    found = []
    for s in segments:
        words = pieces[s.start - start : s.stop - start]
        if s.kind == "tool" and s.role == "model" and words and words[0] == _OPEN:
            ended = words[-1] == _CLOSE
            name, arguments, problem = parse(text_of(words[1 : len(words) - ended]))
            if not ended:
                problem = "it was cut off"
            found.append(Call(name, arguments, text_of(words), problem, s.start, s.stop))
    return tuple(found)


def message_of(text: str, thought: str, calls: Sequence[Call]) -> dict[str, Any]:
    """A turn with the fields of Transformers' ``parse_response``; those that are empty are left out."""
    message: dict[str, Any] = {"role": "assistant"}
    if thought:
        message["thinking"] = thought
    if text:
        message["content"] = text
    if calls:
        message["tool_calls"] = [
            {"type": "function", "function": {"name": call.name, "arguments": dict(call.arguments)}} for call in calls
        ]
    return message


def parse(text: str) -> tuple[str, dict[str, Any], str]:
    """What stands between the marks of a call.

    Returns:
        Its name, its arguments, and what is wrong with it (empty for nothing).
    """
    head = _HEAD.match(text)
    if head is None:
        return "", {}, "it does not begin with call:NAME"
    reader = _Reader(text, head.end())
    try:
        arguments = reader.mapping(0)
        reader.end()
    except ValueError as error:
        return head[1], {}, str(error)
    return head[1], arguments, ""


class _Reader:
    """Reads values from a text, from left to right; ValueError says what does not fit."""

    def __init__(self, text: str, at: int) -> None:
        self.text, self.at = text, at

    def spaces(self) -> None:
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1

    def take(self, mark: str) -> bool:
        self.spaces()
        there = self.text.startswith(mark, self.at)
        self.at += len(mark) * there
        return there

    def need(self, mark: str) -> None:
        if not self.take(mark):
            came = self.text[self.at : self.at + 12]
            raise ValueError(f"{mark!r} was expected before {came!r}" if came else f"{mark!r} is missing at its end")

    def end(self) -> None:
        self.spaces()
        if self.at < len(self.text):
            raise ValueError(f"{self.text[self.at : self.at + 12]!r} follows its arguments")

    def quoted(self) -> str:
        stop = self.text.find(_QUOTE, self.at)
        if stop < 0:
            raise ValueError("a text in it does not end")
        start, self.at = self.at, stop + len(_QUOTE)
        return self.text[start:stop]

    def bare(self, ends: str) -> str:
        start = self.at
        while self.at < len(self.text) and self.text[self.at] not in ends:
            self.at += 1
        return self.text[start : self.at].strip()

    def mapping(self, depth: int) -> dict[str, Any]:
        self.need("{")
        made: dict[str, Any] = {}
        while not self.take("}"):
            if made:
                self.need(",")
            key = self.quoted() if self.take(_QUOTE) else self.bare(":,{}[]")
            self.need(":")
            if key in made:
                raise ValueError(f"{key!r} is given twice")
            made[key] = self.value(depth + 1)
        return made

    def items(self, depth: int) -> list[Any]:
        self.need("[")
        made: list[Any] = []
        while not self.take("]"):
            if made:
                self.need(",")
            made.append(self.value(depth + 1))
        return made

    def value(self, depth: int) -> Any:
        if depth > _DEEPEST:
            raise ValueError(f"its arguments are nested deeper than {_DEEPEST} levels")
        self.spaces()
        if self.take(_QUOTE):
            return self.quoted()
        following = self.text[self.at : self.at + 1]
        if following == "{":
            return self.mapping(depth)
        if following == "[":
            return self.items(depth)
        word = self.bare(",{}[]")
        if word in _WORDS:
            return _WORDS[word]
        if _NUMBER.fullmatch(word) and len(word) <= 100:
            number = float(word) if any(c in word for c in ".eE") else int(word)
            if not -(2**63) <= number < 2**64:  # what a trace's file holds
                raise ValueError(f"{word} is a number beyond 64 bits")
            return number
        raise ValueError(f"{word!r} is no value: a text stands between {_QUOTE}" if word else "a value is missing")
