"""The questions a loaded model answers about its runs by running them again: attention so far, lenses, occlusion."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from workbench.attention import attend, attend_drafter
from workbench.errors import PromptError, TraceError
from workbench.looks import Attention

if TYPE_CHECKING:
    from workbench.decoding import Engine
    from workbench.drafting import Drafter
    from workbench.prompt import Request
    from workbench.trace import Trace

__all__ = ["Inspecting", "check_media", "check_stop"]


class Inspecting:
    """What ``LoadedModel`` answers about a trace; every answer can be kept in it (``workbench.readings.keep``)."""

    _engine: Engine
    _drafter: Drafter | None
    _lock: Any

    def request(self, trace: Trace) -> Request:
        """``LoadedModel`` has it."""
        raise NotImplementedError

    def attend(
        self, trace: Trace, layers: int | Sequence[int] | None = None, heads: int | Sequence[int] | None = None,
        tokens: int | Sequence[int] | None = None, *, positions: int | Sequence[int] | None = None,
        rollout: bool = False, of: Literal["model", "drafter"] = "model", stop: threading.Event | None = None,
    ) -> Attention:  # fmt: skip
        """Where the model looked when it chose each token: one more pass over prompt and answer.

            a = model.attend(trace)
            a.on_image(0, token=3)

        Args:
            trace: A run of this model, from disk or just made.
            layers, heads: Which, by number from 0; None is all. On a large model ask for one layer at a time.
            tokens: Generated tokens; None is all.
            positions: Query positions instead, for tokens of the prompt.
            rollout: Attention rollout too (Abnar & Zuidema 2020): attention and residual connections, averaged over
                heads, multiplied through all layers. Takes two float32 matrices of all positions squared.
            of: ``drafter``: what the drafter looks at in the model's keys when it drafts each token first in a round.
            stop: An event that ends it.

        Returns:
            The rows, 16-bit numbers on the host; see :class:`~workbench.looks.Attention`.

        Raises:
            Incompatible: The trace is of another model.
            TraceError: No such token, layer or head; the prompt cannot be rebuilt; or it was stopped.
            ModelError: It was unloaded, or has no drafter.
        """
        if of not in ("model", "drafter"):
            raise PromptError(f"of={of!r}: expected 'model' or 'drafter'.")
        check_stop(stop)
        with self._lock:
            request = self.request(trace)
            if of == "drafter":
                if rollout or positions is not None:
                    raise PromptError("of='drafter' goes with tokens=, not with rollout= or positions=.")
                return attend_drafter(
                    self._engine, self._drafter, request, trace, layers=layers, heads=heads, tokens=tokens, stop=stop
                )
            return attend(
                self._engine, request, trace, layers=layers, heads=heads, tokens=tokens, positions=positions,
                rollout=rollout, stop=stop,
            )  # fmt: skip


def check_stop(stop: Any) -> None:
    """Refuse what is no event.

    Raises:
        PromptError: It has no ``is_set``.
    """
    if stop is not None and not callable(getattr(stop, "is_set", None)):
        raise PromptError(f"stop={stop!r}: expected a threading.Event, or None.")


def check_media(trace: Trace) -> None:
    """Refuse a trace whose conversation speaks of pictures or sounds that it does not hold.

    Raises:
        TraceError: Some are missing.
    """
    held = {"image": len(trace.images), "audio": len(trace.audio)}
    for message in trace.prompt.messages:
        content = message.get("content")
        for part in content if isinstance(content, list) else []:
            kind, index = part.get("type"), part.get("index", 0)
            if kind in held and not 0 <= index < held[kind]:
                raise TraceError(
                    f"The trace's conversation speaks of {kind} {index}, and the trace holds {held[kind]}: its media "
                    "are missing, so it cannot be run again. Ask again with them."
                )
