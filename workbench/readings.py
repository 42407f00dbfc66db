"""What can be asked about a trace, and the answers: numpy only, so that views and saved traces need no model.

An :class:`Inspector` answers. A ``LoadedModel`` is one, by running the model again; :class:`Recorded` is one that
answers from readings kept in the trace. Views ask :func:`can` what is there and grey out the rest.

Readings are plain arrays with a little JSON about them, so that they go into a ``.trace`` file as they are:
``Trace.readings[name] = {"meta": …, "arrays": …}``.

    kept = keep(trace, model.attend(trace), model.occlude(trace, token=3))
    kept.save("a.trace")
    Recorded(Trace.load("a.trace")).attend(kept, tokens=3)          # without the model
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from workbench.attributions import Attribution
from workbench.errors import Incompatible, TraceError
from workbench.lenses import Filters, Lens, Nearest
from workbench.looks import Attention, Layer, Sink
from workbench.maps import Map, counted, rank_correlation, run_key, several
from workbench.occlusions import Occlusion
from workbench.trace import Trace

if TYPE_CHECKING:
    from workbench.trace import ModelInfo

__all__ = [
    "QUESTIONS",
    "Attention",
    "Attribution",
    "Filters",
    "Inspector",
    "Layer",
    "Lens",
    "Map",
    "Nearest",
    "Occlusion",
    "Recorded",
    "Sink",
    "can",
    "keep",
    "rank_correlation",
    "stopping",
]

QUESTIONS = ("attend", "lens", "attribute", "occlude", "score", "branch", "speedup")
"""The methods an inspector may have."""


@runtime_checkable
class Inspector(Protocol):
    """Answers questions about traces of one model.

    Besides ``info`` it has some of the methods named in :data:`QUESTIONS`, each with the trace first and the signature
    of ``LoadedModel``'s method of that name. One that it does not have, it cannot answer.

    Attributes:
        info: The model it speaks for; readings of another model are refused with ``Incompatible``.
    """

    info: ModelInfo


def can(inspector: Any, question: str, trace: Trace | None = None) -> str:
    """Why a question cannot be asked; empty when it can.

    Args:
        inspector: An :class:`Inspector`, or None.
        question: One of :data:`QUESTIONS`.
        trace: If given, also whether the inspector is of this trace's model.

    Returns:
        The reason in a sentence, for people.
    """
    if inspector is None:
        return "No model is loaded for this trace: pass inspector=."
    if trace is not None and inspector.info.identity != trace.model.identity:
        mine, theirs = trace.model, inspector.info
        which = (mine.variant, theirs.variant) if mine.variant != theirs.variant else (mine.named, theirs.named)
        return f"This trace is of {which[0]}, the inspector of {which[1]}."
    if not callable(getattr(inspector, question, None)):
        return f"{type(inspector).__name__} cannot answer {question}."
    reason = getattr(inspector, "lacks", None)
    return reason(question) if callable(reason) else ""


def stopping(method: Callable[..., Any], stop: Any) -> dict[str, Any]:
    """``{"stop": stop}`` for a method of an inspector that can be stopped; nothing for one that cannot."""
    return {"stop": stop} if stop is not None and "stop" in inspect.signature(method).parameters else {}


def keep(trace: Trace, *answers: Attention | Attribution | Lens | Occlusion) -> Trace:
    """The trace with answers about it added to its readings, ready to be saved.

    An answer to the same question takes the place of the one before; to another one it stands beside it.

    Raises:
        Incompatible: An answer is another model's.
        TraceError: It is of another trace.
    """
    if not isinstance(trace, Trace):
        raise TraceError(
            f"keep takes a trace, then answers about it; {type(trace).__name__} {trace!r:.60} is no Trace."
        )
    readings = dict(trace.readings)
    for answer in answers:
        if not isinstance(answer, (Attention, Attribution, Lens, Occlusion)):
            raise TraceError(
                f"{type(answer).__name__} {answer!r:.60} is no answer of attend, attribute, lens or occlude."
            )
        if tuple(answer.identity) != trace.model.identity:
            raise Incompatible(f"{answer!r} is of the model {answer.identity}, the trace of {trace.model.identity}.")
        reading = answer.to_reading()
        type(answer).from_reading(reading, trace)  # is it of this trace?
        asked, name = _question(reading), _name(reading["meta"])
        same = [other for other, one in readings.items() if _question(one) == asked]
        free = (one for k in count(1) if (one := name if k == 1 else f"{name}.{k}") not in readings)
        readings[same[0] if same else next(free)] = reading
    return replace(trace, readings=readings)


def _question(reading: Any) -> Any:
    """What a reading answers, to be compared; None for one of another kind, or a broken one."""
    meta, arrays = reading["meta"], reading["arrays"]
    kind = meta.get("kind") if isinstance(meta, dict) else None
    try:
        if kind == "attention":
            which = [[int(layer[0]) for layer in meta["layers"]], *(arrays[n].tolist() for n in ("heads", "positions"))]
            return kind, meta["of"], which, "rollout" in arrays
        if kind == "lens":
            return kind, meta["over"], meta["media"], arrays["positions"].tolist(), arrays["top_ids"].shape[-1]
        return (kind, _name(meta)) if kind in ("attribution", "occlusion") else None
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        return None


def _name(meta: dict[str, Any]) -> str:
    if meta["kind"] == "attention":
        return f"attention.{meta['of']}"
    if meta["kind"] == "lens":
        return f"lens.{meta['over']}.{meta['media']}"
    tokens = "-".join(map(str, meta["tokens"]))
    if len(tokens) > 40:  # names are short; a hash tells long lists apart
        tokens = hashlib.blake2b(tokens.encode(), digest_size=12).hexdigest()
    other = "" if meta.get("against") is None else f"-against-{meta['against']}"
    if meta["kind"] == "attribution":
        return f"attribution.t{tokens}{other}"
    block = "" if meta.get("size", 1) == 1 else f"{meta['size']}."
    return f"occlusion.{meta['over']}.{meta['media']}.{meta['how']}.{block}t{tokens}{other}"


_KINDS = {"attend": "attention", "attribute": "attribution", "occlude": "occlusion"}  # of a question's readings


class Recorded:
    """An inspector that answers from what was kept in a trace, without a model.

    Args:
        trace: With readings, as :func:`keep` adds them.

    Attributes:
        info: Of the model that made the trace.
    """

    def __init__(self, trace: Trace) -> None:
        if not isinstance(trace, Trace):
            raise TraceError(f"Recorded takes a trace; {type(trace).__name__} {trace!r:.60} is none.")
        self.trace = trace
        self.info = trace.model

    def __repr__(self) -> str:
        return f"Recorded({', '.join(sorted(self.trace.readings)) or 'nothing'})"

    def lacks(self, question: str) -> str:
        """Why a question has no answer here; empty when it has one."""
        kind = _KINDS.get(question, question)
        if found := self._of(kind):
            return self._strange(kind, found)
        return f"This trace holds no {kind}: load its model, or save it with readings (workbench.readings.keep)."

    def attend(
        self, trace: Trace, layers: int | Sequence[int] | None = None, heads: int | Sequence[int] | None = None,
        tokens: int | Sequence[int] | None = None, *, positions: Sequence[int] | None = None, rollout: bool = False,
        of: str = "model", stop: Any = None,  # noqa: ARG002 (the signature of LoadedModel's; nothing here takes long)
    ) -> Attention:  # fmt: skip
        """The attention that was kept, or a part of it; of several, the largest that holds what is asked for.

        Raises:
            TraceError: What was asked for was not kept.
        """
        found = [r for r in self._asked("attend", trace) if r["meta"].get("of") == of]
        if not found:
            raise TraceError(f"This trace holds no attention of the {of}.")
        if tokens is not None and positions is not None:
            raise TraceError(f"tokens={tokens!r} and positions={positions!r}: give one of them.")
        if layers is not None and of == "model":
            layers = counted("layers", layers, len(self.info.layers))
        whole = [Attention.from_reading(r, self.trace) for r in found]
        if rollout and not (whole := [a for a in whole if a.rollout is not None]):
            raise TraceError("The attention that this trace holds was kept without rollout.")

        def part(a: Attention) -> Attention:
            at = positions if tokens is None else [int(a.positions[r]) for r in a.rows(tokens)]
            return a.only(positions=at, layers=layers, heads=heads)

        return _first(part, sorted(whole, key=lambda a: -sum(w.size for w in a.weights)))

    def lens(
        self, trace: Trace, over: str = "answer", media: int = 0, *, tokens: int | Sequence[int] | None = None,
        top: int | None = None, stop: Any = None,  # noqa: ARG002 (as for attend)
    ) -> Lens:  # fmt: skip
        """The lens that was kept over the answer, the prompt, an image or a sound, or a part of it.

        Raises:
            TraceError: None was kept.
        """
        found = [r for r in self._asked("lens", trace) if _over(r) == (over, media)]
        if not found:
            raise TraceError(f"This trace holds no lens over {over} {media}; it holds {sorted(self.trace.readings)}.")
        whole = sorted((Lens.from_reading(r, self.trace) for r in found), key=lambda one: -one.top_ids.size)
        return _first(lambda one: one.only(tokens=tokens, top=top), whole)

    def occlude(
        self, trace: Trace, token: int | Sequence[int] | None = None, over: str = "image", media: int = 0, *,
        how: str | None = None, size: int | None = None, tile: int | None = None,  # noqa: ARG002 (as for attend)
        against: int | str | None = None, stop: Any = None,  # noqa: ARG002
    ) -> Occlusion:  # fmt: skip
        """The occlusion that was kept for the same token or tokens.

        Args:
            trace: The trace that this one was made of.
            token, over, media: As for ``LoadedModel.occlude``.
            how: None: whatever stood in.
            size: None: whatever was hidden around each place; of several that were kept, the first.
            against: Another word, a token id or its text; None is one of the token alone.
            tile, stop: As for ``LoadedModel.occlude``; nothing here takes long.

        Returns:
            With the blocks and tiles that it was made with.

        Raises:
            TraceError: None was kept.
        """
        wanted = range(len(trace.tokens)) if token is None else several("token", token)
        tokens = sorted({trace.index(k) for k in wanted})
        found = self._asked("occlude", trace)
        other = self._word(against, found)
        for reading in found:
            meta = reading["meta"]
            if (*_over(reading), meta.get("tokens"), meta.get("against")) == (over, media, tokens, other) and (
                how in (None, meta.get("how")) and size in (None, meta.get("size", 1))
            ):
                return Occlusion.from_reading(reading, self.trace)
        raise TraceError(
            f"This trace holds no occlusion of {over} {media} for token {token!r}"
            f"{'' if size is None else f' in blocks of {size}'}; it holds "
            f"{sorted(self.trace.readings)}."
        )

    def attribute(
        self, trace: Trace, token: int | Sequence[int] | None = None, *, against: int | str | None = None,
        stop: Any = None,  # noqa: ARG002 (as for attend)
    ) -> Attribution:  # fmt: skip
        """The attribution that was kept of these tokens, or a part of it.

        Args:
            trace: The trace that this one was made of.
            token: As for ``LoadedModel.attribute``.
            against: Another word, a token id or its text; None is the mean over all words.
            stop: As for ``LoadedModel.attribute``; nothing here takes long.

        Returns:
            Of the first reading that holds all of these tokens.

        Raises:
            TraceError: None was kept.
        """
        tokens = [trace.index(k) for k in (range(len(trace.tokens)) if token is None else several("token", token))]
        found = self._asked("attribute", trace)
        other = self._word(against, found)
        found = [r for r in found if r["meta"].get("against") == other]
        if not found:
            raise TraceError(
                f"This trace holds no attribution against {against!r}; it holds {sorted(self.trace.readings)}."
            )
        whole = sorted((Attribution.from_reading(r, self.trace) for r in found), key=lambda one: -len(one.tokens))
        return _first(lambda one: one.only(tokens), whole)

    def _word(self, against: int | str | None, found: Sequence[Any]) -> int | None:
        """The token id of a word that readings are against, by its text as this run has it.

        Raises:
            TraceError: No reading is against such a word.
        """
        if not isinstance(against, str):
            return against
        tokens = self.trace.tokens
        pieces = {**dict(zip(tokens.token_id.tolist(), tokens.piece, strict=True)), **tokens.top_pieces}
        ids = sorted({r["meta"]["against"] for r in found if isinstance(r["meta"].get("against"), int)})
        for k in ids:
            if pieces.get(k) == against:
                return k
        shown = ", ".join(f"{k} {pieces.get(k, '')!r}" for k in ids) or "none"
        raise TraceError(f"against={against!r}: this trace holds readings against these token ids: {shown}.")

    def _of(self, kind: str) -> list[Any]:
        return [r for r in self.trace.readings.values()
                if isinstance(r["meta"], dict) and r["meta"].get("kind") == kind]  # fmt: skip

    def _asked(self, question: str, trace: Trace) -> list[Any]:
        if trace.model.identity != self.info.identity or run_key(trace) != run_key(self.trace):
            raise Incompatible(f"{trace!r} is not the trace whose readings these are ({self.trace!r}).")
        kind = _KINDS.get(question, question)
        found = self._of(kind)
        if strange := self._strange(kind, found):
            raise Incompatible(strange)
        if reason := self.lacks(question):
            raise TraceError(reason)
        return found

    def _strange(self, kind: str, found: list[Any]) -> str:
        """Why readings are not of this trace's model; empty when they are."""
        if all(r["meta"].get("identity") == list(self.trace.model.identity) for r in found):
            return ""
        return f"The {kind} kept in this trace is of another model than the trace."


def _over(reading: Any) -> tuple[Any, Any]:
    return reading["meta"].get("over"), reading["meta"].get("media")


def _first(part: Callable[[Any], Any], whole: Sequence[Any]) -> Any:
    """The part of the first reading that holds it; else what the first one says it lacks."""
    lacking = []
    for one in whole:
        try:
            return part(one)
        except TraceError as error:
            lacking.append(error)
    raise lacking[0]
