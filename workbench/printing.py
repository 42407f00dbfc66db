"""What the command prints: an answer as it grows, and a trace as JSON."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workbench.trace import Token, Trace

__all__ = ["Words", "as_json", "printer", "strict", "unheard"]


def printer(*, goes_on: bool) -> Callable[[str], None]:
    """Prints texts to standard output as they are.

    Args:
        goes_on: Also when nobody reads it any more (``| head -1``): there is a file to write in the end.
    """

    def write(text: str) -> None:
        try:
            print(text, end="", flush=True)
        except BrokenPipeError:
            if not goes_on:
                raise
            unheard()

    return write


def unheard() -> None:
    """Let standard output go nowhere, where nobody reads it any more."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Words:
    """Prints an answer as it grows; control tokens, thoughts and half letters are held back."""

    def __init__(self, tokenizer: Any, write: Callable[[str], None]) -> None:
        self.tokenizer, self.write = tokenizer, write
        self.ids: list[int] = []
        self.printed = ""
        self.inside = False  # a thought or a tool call

    def __call__(self, token: Token) -> None:
        """Take the next token."""
        if token.piece.startswith(("<|channel>", "<|tool")):
            self.inside = True
        elif token.piece.startswith(("<channel|>", "<tool")) and token.piece.endswith("|>"):
            self.inside = False
        elif not self.inside:
            self.ids.append(token.token_id)
            self.show(str(self.tokenizer.decode(self.ids, skip_special_tokens=True)))

    def show(self, text: str) -> None:
        """Print what is new of the answer so far."""
        whole = text.rstrip("�")  # the first bytes of a letter whose last have not come
        if whole.startswith(self.printed):
            self.write(whole[len(self.printed) :])
            self.printed = whole


def as_json(trace: Trace) -> dict[str, Any]:
    """A trace's words, counts and times, for programs; ``--save`` keeps all of it."""
    from dataclasses import asdict

    tokens = [
        {
            **asdict(token),
            "alternatives": [{"piece": piece, "logprob": logprob} for piece, logprob in trace.tokens.alternatives(k)],
        }
        for k, token in enumerate(trace.tokens)
    ]
    model = {**asdict(trace.model), "versions": dict(trace.model.versions)}
    columns = {name: getattr(trace.rounds, name) for name in trace.rounds.DTYPES}
    rounds = [{name: column[k].tolist() for name, column in columns.items()} for k in range(len(trace.rounds))]
    return {
        "text": trace.text, "thought": trace.thought, "finish": trace.finish, "tokens": tokens, "rounds": rounds,
        "settings": asdict(trace.settings), "usage": asdict(trace.usage), "timing": asdict(trace.timing),
        "model": model,
    }  # fmt: skip


def strict(value: Any) -> str:
    """Strict JSON: what is not a number is null; letters the terminal lacks are escaped."""

    def plain(part: Any) -> Any:
        if isinstance(part, float):
            return part if math.isfinite(part) else None
        if isinstance(part, dict):
            return {key: plain(inner) for key, inner in part.items()}
        return [plain(inner) for inner in part] if isinstance(part, (list, tuple)) else part

    escape = (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "") != "utf8"
    return json.dumps(plain(value), ensure_ascii=escape, allow_nan=False, indent=1)
