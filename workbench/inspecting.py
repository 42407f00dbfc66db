"""The questions a loaded model answers about its runs by running them again: attention so far, lenses, occlusion."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from workbench.attention import attend, attend_drafter
from workbench.attribution import attribute
from workbench.attributions import Attribution
from workbench.errors import ModelError, PromptError, TraceError
from workbench.flight import Speedup
from workbench.lens import filters, lens, nearest
from workbench.lenses import Filters, Lens, Nearest
from workbench.looks import Attention
from workbench.occlusion import occlude
from workbench.occlusions import Occlusion
from workbench.scoring import measure, one_word
from workbench.settings import whole
from workbench.shortage import within
from workbench.trace import ModelInfo, Trace

if TYPE_CHECKING:
    from workbench.decoding import Engine
    from workbench.drafting import Drafter
    from workbench.prompt import Prompter, Request

__all__ = ["Inspecting", "check_calls", "check_media", "check_stop"]


class Inspecting:
    """What ``LoadedModel`` answers about a trace; every answer can be kept in it (``workbench.readings.keep``)."""

    info: ModelInfo
    _closed: bool
    _engine: Engine
    _drafter: Drafter | None
    _lock: Any
    _prompter: Prompter

    def lacks(self, question: str) -> str:  # noqa: ARG002 (all are answered until then)
        """Why a question has no answer any more; empty while it has one."""
        gone = f"{self.info.name} was unloaded: call workbench.load({self.info.name!r}) again."
        return gone if self._closed else ""

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
            PromptError: ``of`` is neither, or the drafter is asked with ``positions`` or ``rollout``.
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
                return within(self, f"the drafter's attention in {_long(trace)}", lambda: attend_drafter(
                    self._engine, self._drafter, request, trace, layers=layers, heads=heads, tokens=tokens, stop=stop
                ))  # fmt: skip
            return within(self, f"attention in {_long(trace)}", lambda: attend(
                self._engine, request, trace, layers=layers, heads=heads, tokens=tokens, positions=positions,
                rollout=rollout, stop=stop,
            ))  # fmt: skip

    def lens(
        self, trace: Trace, over: Literal["answer", "image", "audio", "prompt"] = "answer", media: int = 0, *,
        tokens: int | Sequence[int] | None = None, top: int = 5, stop: threading.Event | None = None,
    ) -> Lens:  # fmt: skip
        """Which words the hidden state is near after each layer: the logit lens, for words, patches and frames.

            model.lens(trace).words(token=0)          # what the first word was on its way to becoming
            model.lens(trace, over="image").grid(3)   # (rows, cols): what each patch means after layer 3

        Args:
            trace: A run of this model.
            over: The answer's tokens (read where they were predicted), a picture's patches, a sound's frames, or all
                of the prompt.
            media: Which picture or sound.
            tokens: Of the answer, which; None is all.
            top: Words a position and layer.
            stop: An event that ends it.

        Returns:
            (layers, positions, top) token ids and logprobs in nats, the embedding first; see
            :class:`~workbench.lenses.Lens`.

        Raises:
            Incompatible: The trace is of another model.
            TraceError, PromptError: There is no such token or picture; or it was stopped.
        """
        check_stop(stop)
        with self._lock:
            request = self.request(trace)
            return within(self, f"the lens over {_long(trace)}", lambda: lens(
                self._engine, request, trace, self._prompter.piece, over=over, media=media, tokens=tokens, top=top,
                stop=stop,
            ))  # fmt: skip

    def attribute(
        self, trace: Trace, token: int | Sequence[int] | None = None, *, against: int | str | None = None,
        stop: threading.Event | None = None,
    ) -> Attribution:  # fmt: skip
        """Which heads and feed-forward parts wrote each token: direct logit attribution, in one pass.

            model.attribute(trace, token=1).parts(1, most=5)                 # what wrote "red"
            model.attribute(trace, token=1, against=" blue").heads[..., 0]   # (layers, heads): for red, not blue

        Args:
            trace: A run of this model.
            token: A generated token, or several; None is all.
            against: Another word, a token id or a text of one token: what is taken apart is the difference of the two
                logits. None is the mean over all words.
            stop: An event that ends it.

        Returns:
            Shares of the logit before soft-capping, which sum to it: of the embedding, of each of (layers, heads), of
            each layer's feed-forward part; see :class:`~workbench.attributions.Attribution`. Packed layers give a
            head's share as exactly as their kernels multiply.

        Raises:
            Incompatible: The trace is of another model.
            TraceError, PromptError: There is no such token or word; or it was stopped.
        """
        check_stop(stop)
        with self._lock:
            request = self.request(trace)
            other = one_word(self._prompter, against, "against")
            return within(self, f"attribution over {_long(trace)}", lambda: attribute(
                self._engine, request, trace, self._prompter.piece, token=token, against=other and other[0], stop=stop,
            ))  # fmt: skip

    def occlude(
        self, trace: Trace, token: int | Sequence[int] | None = None, over: Literal["image", "audio", "text"] = "image",
        media: int = 0, *, how: str | None = None, size: int | None = None, tile: int | None = None,
        against: int | str | None = None, stop: threading.Event | None = None,
    ) -> Occlusion:  # fmt: skip
        """Which patches, frames or words matter: each is hidden in turn, and the tokens are scored again.

            model.occlude(trace, token=3).values          # (rows, cols): nats that 3 × 3 patches are worth
            model.occlude(trace, token=3, size=1).values  # without each patch alone
            model.occlude(trace, token=1, against=" blue").values  # what spoke for red rather than blue

        Args:
            trace: A run of this model.
            token: A generated token, or several whose logprobs are summed; None is the whole answer.
            over: What is hidden: patches of a picture, frames of a sound, or words of the prompt.
            media: Which picture or sound.
            how: What stands in for it (``workbench.occlusion.HOW``); None is the first of those.
            size: Hide the block of so many places a side that each place is the middle of (of an even number, one more
                lies right of and below it), or what the edge leaves of it. None is ``workbench.occlusion.SIZE``: 3
                patches or frames, 1 word. A thing covers several patches and each tells of it: alone, few are missed.
            tile: Hide tiles of so many places a side first, then the places of the quarter of tiles that matters most.
                1 hides every place alone; None does so up to 128 places.
            against: Another word, a token id or a text of one token, in the place of the one ``token``: what is
                measured is the difference of the two logprobs, which is that of the logits. What makes every word less
                probable, or more, drops out of it.
            stop: An event that ends it.

        Returns:
            The drop of the logprob in nats for each place hidden; see :class:`~workbench.occlusions.Occlusion`.

        Raises:
            Incompatible: The trace is of another model.
            TraceError, PromptError: There is no such token or picture; or it was stopped.
        """
        check_stop(stop)
        with self._lock:
            request = self.request(trace)
            return within(self, f"occlusion in {_long(trace)}", lambda: occlude(
                self._engine, request, trace, self._prompter.reader, token=token, over=over, media=media, how=how,
                size=size, tile=tile, against=one_word(self._prompter, against, "against"), stop=stop,
            ))  # fmt: skip

    def nearest(
        self, trace: Trace, over: Literal["image", "audio"] = "image", media: int = 0, *, top: int = 5
    ) -> Nearest:
        """The vocabulary nearest to raw patches or frames, before any layer.

        Raises:
            Incompatible, TraceError, PromptError: As for :meth:`occlude`.
            ModelError: The model has encoders, so that patches are not embedded one by one.
        """
        with self._lock:
            request = self.request(trace)
            return within(self, f"the words nearest to {over} {media}", lambda: nearest(
                self._engine, request, trace, self._prompter.piece, over=over, media=media, top=top
            ))  # fmt: skip

    def filters(self, kind: Literal["image", "audio"] = "image", count: int = 32) -> Filters:
        """What the first projection looks for in raw patches (as pictures) or raw sound (as waves and spectra).

        Raises:
            PromptError: There is no such kind.
            ModelError: The model has encoders, or was unloaded.
        """
        with self._lock:
            self._usable()
            return filters(self._engine, kind, count)

    def speedup(self, trace: Trace, repeats: int = 5, *, stop: threading.Event | None = None) -> Speedup:
        """Whether drafting pays off for a run: drafted and undrafted in turns, warmed up, as many tokens each.

        Args:
            trace: A run of this model; its own draft setting is measured, "auto" if it had none. Of a branch, what
                comes after its forced tokens.
            repeats: Pairs of runs.
            stop: An event that ends it.

        Returns:
            The ratio with its interval, and what passes and drafts cost; ``flight.verdict(trace, speedup)`` puts it in
            words.

        Raises:
            ModelError: There is no drafter.
            TraceError: The answer has one token only, all of it was given (``score``), or it was stopped.
        """
        whole("repeats", repeats, 1, 1000)
        check_calls(stop)
        if not isinstance(trace, Trace):
            raise TraceError(f"{type(trace).__name__} {trace!r:.60} is no Trace.")
        with self._lock:
            self._usable()
            if self._drafter is None:
                raise ModelError(f"{self.info.name} was loaded without a drafter: there is nothing to compare.")
            return measure(self, self._engine, self._drafter, trace, repeats, stop)

    def _usable(self) -> None:
        """``LoadedModel`` has it."""
        raise NotImplementedError


def check_calls(stop: Any, **functions: Any) -> None:
    """Refuse what cannot be called, by its name, before any work.

    Raises:
        PromptError: One is no function; or ``stop`` is no event.
    """
    for name, function in functions.items():
        if function is not None and not callable(function):
            of = "Trace" if name == "on_round" else "Token"
            raise PromptError(f"{name}={function!r}: expected a function of one {of}, or None.")
    check_stop(stop)


def check_stop(stop: Any) -> None:
    """Refuse what is no event.

    Raises:
        PromptError: It has no ``is_set``.
    """
    if stop is not None and not callable(getattr(stop, "is_set", None)):
        raise PromptError(f"stop={stop!r}: expected a threading.Event, or None.")


def check_media(trace: Trace) -> None:
    """Refuse a trace whose conversation speaks of pictures, sounds or videos that it does not hold.

    Raises:
        TraceError: Some are missing.
    """
    held = {"image": len(trace.images), "audio": len(trace.audio), "video": len(trace.video)}
    for message in trace.prompt.messages:
        content = message.get("content")
        for part in content if isinstance(content, list) else []:
            kind, index = part.get("type"), part.get("index", 0)
            if kind in held and not 0 <= index < held[kind]:
                raise TraceError(
                    f"The trace's conversation speaks of {kind} {index}, and the trace holds {held[kind]}: its media "
                    "are missing, so it cannot be run again. Ask again with them."
                )


def _long(trace: Trace) -> str:
    return f"a trace of {len(trace.prompt) + len(trace):,} tokens"
