"""Tokens, segments and rounds as columns of numpy arrays: what a :class:`workbench.trace.Trace` is made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.errors import TraceError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["KINDS", "SOURCES", "Prompt", "Rounds", "Segment", "Token", "Tokens"]

KINDS = ("control", "text", "image", "audio", "video", "thought", "tool")
"""What a segment can be."""

SOURCES = ("plain", "accepted", "corrected", "bonus", "forced")
"""Where a generated token came from: an undrafted step; a draft that was kept; the target's word in the place of a
draft that was thrown away; the target's word after a round whose drafts were all kept; the caller (``branch``)."""


def _frozen(array: Any, dtype: Any) -> np.ndarray:
    out = np.array(array, dtype=dtype)
    out.setflags(write=False)
    return out


@dataclass(frozen=True, eq=False)
class Segment:
    """A run of tokens of one kind.

    Attributes:
        kind: One of :data:`KINDS`. ``control`` is turn marks and begin and end of media; ``tool`` is a declaration
            (role ``system``), a call (``model``) or a result (``tool``).
        start, stop: Token positions, ``start`` inclusive, ``stop`` exclusive.
        media: Which image, sound or video, counted from 0 within its kind (``images[media]``); None for words.
        role: ``system``, ``user``, ``model`` or ``tool``: whose turn it lies in; None outside turns.
        rows, cols: The patch grid of an image or video frame; tokens run row by row.
        boxes: (stop - start, 4) float32: left, top, right, bottom of each patch in pixels of the original (upright)
            picture. None for other kinds.
        start_ms, end_ms: (stop - start,) float64: the time each token stands for in the original recording, for audio
            and video. The last frame of a sound ends where the sound ends, not where its padding does.
    """

    kind: str
    start: int
    stop: int
    media: int | None = None
    role: str | None = None
    rows: int | None = None
    cols: int | None = None
    boxes: np.ndarray | None = None
    start_ms: np.ndarray | None = None
    end_ms: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS or not 0 <= self.start <= self.stop:
            raise TraceError(f"A segment {self.kind!r} {self.start}:{self.stop}: expected one of {KINDS}, forwards.")
        n = self.stop - self.start
        for name, dtype, shape in (
            ("boxes", np.float32, (n, 4)), ("start_ms", np.float64, (n,)), ("end_ms", np.float64, (n,)),
        ):  # fmt: skip
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _frozen(getattr(self, name), dtype))
                if getattr(self, name).shape != shape:
                    got = getattr(self, name).shape
                    raise TraceError(f"{name} of a segment of {n} tokens have shape {got} instead of {shape}.")

    def __len__(self) -> int:
        return self.stop - self.start

    def __repr__(self) -> str:
        about = f" {self.media}" if self.media is not None else ""
        grid = f", {self.rows}×{self.cols} patches" if self.rows else ""
        return f"<{self.kind}{about} {self.start}:{self.stop}{grid}>"


@dataclass(frozen=True, eq=False)
class Prompt:
    """What the model read before its first word.

    Attributes:
        ids: (T,) int32 token ids.
        pieces: The text of each token alone; control tokens by name.
        segments: Adjacent segments that cover 0 to T.
        messages: The conversation as JSON-able turns, media as ``{"type": "image", "index": 0}``.
        tools: JSON schemas of the tools that were declared.
        logprob: (T,) float32: of each prompt token given those before it, in nats, where it was asked for
            (``model.score``); None otherwise. The first is NaN.
    """

    ids: np.ndarray
    pieces: tuple[str, ...]
    segments: tuple[Segment, ...]
    messages: tuple[Mapping[str, Any], ...] = ()
    logprob: np.ndarray | None = None
    tools: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", _frozen(self.ids, np.int32))
        if self.logprob is not None:
            object.__setattr__(self, "logprob", _frozen(self.logprob, np.float32))
        for name, column in (("pieces", self.pieces), ("logprob", self.logprob)):
            if column is not None and len(column) != len(self.ids):
                raise TraceError(f"{name} of the prompt: {len(column)} for {len(self.ids)} tokens.")

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"Prompt({len(self)} tokens: {', '.join(map(repr, self.segments))})"

    def segment(self, kind: str, media: int = 0) -> Segment:
        """The segment of one image or sound (the first frame of a video).

        Raises:
            TraceError: There is none; the message says what there is.
        """
        for segment in self.segments:
            if segment.kind == kind and segment.media == media:
                return segment
        have = sorted({f"{s.kind} {s.media}" for s in self.segments if s.media is not None})
        raise TraceError(
            f"This prompt has no {kind} {media}; it has {', '.join(have) if have else 'no media at all'}."
            " Media are counted from 0 within their kind."
        )

    def segment_at(self, position: int) -> Segment:
        """The segment a token position lies in.

        Raises:
            TraceError: The position lies outside the prompt.
        """
        for segment in self.segments:
            if segment.start <= position < segment.stop:
                return segment
        raise TraceError(f"Position {position} lies outside the prompt of {len(self)} tokens.")


@dataclass(frozen=True)
class Token:
    """One generated token, as handed to ``on_token``: a row of :class:`Tokens`.

    Attributes:
        index: Which, counted from 0.
        token_id: In the vocabulary.
        piece: Its text alone.
        logprob, sample_logprob: In nats: of the model's own distribution, and of the one it was drawn from.
        entropy: Of the model's own distribution, in nats.
        rank: 0 is the most probable token.
        margin: Logprob of the first choice minus that of the second, nats.
        source: One of :data:`SOURCES`.
        round: Row of ``Trace.rounds`` it was emitted by; -1 for none.
        time_s: Seconds from the start of the run until it was known.
    """

    index: int
    token_id: int
    piece: str
    logprob: float
    sample_logprob: float
    entropy: float
    rank: int
    margin: float
    source: str
    round: int
    time_s: float


@dataclass(frozen=True, eq=False)
class Tokens:
    """Columns of the N generated tokens, the stop token included when there was one.

    Logprobs, entropy, rank and margin are of the model's own (soft-capped) distribution, in nats, before suppressed
    tokens and filters; ``sample_*`` after temperature, top-k, top-p and suppression: what the word was drawn from.

    Attributes:
        token_id: (N,) int32.
        piece: The text of each token alone.
        logprob: (N,) float32, nats.
        sample_logprob: (N,) float32, nats; 0 for a greedy choice; -inf for a forced token that could not be drawn.
        entropy: (N,) float32, nats.
        rank: (N,) int32; 0 is the most probable token.
        margin: (N,) float32: logprob of the first choice minus that of the second, nats. Below the rounding noise of
            16-bit arithmetic a run may part from another here.
        source: (N,) int8 index into :data:`SOURCES`; ``source_names`` has the words.
        round: (N,) int32: row of ``Trace.rounds`` it was emitted by; -1 for none.
        time_s: (N,) float64: seconds from the start of the run until it was known.
        top_ids: (N, K) int32: the K most probable tokens, in order.
        top_pieces: Text of every token id in ``top_ids`` and ``Rounds.draft_ids``.
        top_logprob: (N, K) float32, nats.
        top_sample_logprob: (N, K) float32, nats; -inf where a filter removed the token.
    """

    token_id: np.ndarray
    piece: tuple[str, ...]
    logprob: np.ndarray
    sample_logprob: np.ndarray
    entropy: np.ndarray
    rank: np.ndarray
    margin: np.ndarray
    source: np.ndarray
    round: np.ndarray
    time_s: np.ndarray
    top_ids: np.ndarray
    top_logprob: np.ndarray
    top_sample_logprob: np.ndarray
    top_pieces: Mapping[int, str] = field(default_factory=dict)

    DTYPES = {  # noqa: RUF012 (not a field)
        "token_id": np.int32, "logprob": np.float32, "sample_logprob": np.float32, "entropy": np.float32,
        "rank": np.int32, "margin": np.float32, "source": np.int8, "round": np.int32, "time_s": np.float64,
        "top_ids": np.int32, "top_logprob": np.float32, "top_sample_logprob": np.float32,
    }  # fmt: skip

    def __post_init__(self) -> None:
        for name, dtype in self.DTYPES.items():
            object.__setattr__(self, name, _frozen(getattr(self, name), dtype))
        n = len(self.token_id)
        for name in self.DTYPES:
            got = getattr(self, name).shape
            wanted = (n, *self.top_ids.shape[1:2]) if name.startswith("top_") else (n,)
            if got != wanted or (len(wanted) == 1) is name.startswith("top_"):
                raise TraceError(f"Column {name} has shape {got}; it must have one row for each of the {n} tokens.")
        if len(self.piece) != n:
            raise TraceError(f"{len(self.piece)} pieces for {n} tokens.")

    def __len__(self) -> int:
        return len(self.token_id)

    def __getitem__(self, k: int) -> Token:
        k = range(len(self))[k]
        return Token(
            index=k, token_id=int(self.token_id[k]), piece=self.piece[k], logprob=float(self.logprob[k]),
            sample_logprob=float(self.sample_logprob[k]), entropy=float(self.entropy[k]), rank=int(self.rank[k]),
            margin=float(self.margin[k]), source=SOURCES[self.source[k]], round=int(self.round[k]),
            time_s=float(self.time_s[k]),
        )  # fmt: skip

    def __iter__(self) -> Iterator[Token]:
        return (self[k] for k in range(len(self)))

    def __repr__(self) -> str:
        return f"Tokens({len(self)}: {''.join(self.piece)[:60]!r})"

    @property
    def source_names(self) -> tuple[str, ...]:
        """Where each token came from, in words."""
        return tuple(SOURCES[k] for k in self.source)

    def alternatives(self, k: int) -> list[tuple[str, float]]:
        """The most probable tokens in the place of token ``k``: (piece, logprob in nats), best first."""
        return [
            (self.top_pieces.get(int(i), f"<{i}>"), float(lp))
            for i, lp in zip(self.top_ids[k], self.top_logprob[k], strict=True)
        ]


@dataclass(frozen=True, eq=False)
class Rounds:
    """The flight recorder of multi-token prediction: one row for each of R rounds, k columns of drafts.

    The pass over the prompt never drafts and is no round. A run with ``draft=0`` has no rows.

    Attributes:
        draft_ids: (R, k) int32; -1 where fewer were proposed.
        draft_logprob: (R, k) float32: of the draft under the drafter's own distribution, nats; NaN where none.
        target_logprob: (R, k) float32: of the draft under the target's own distribution, nats; NaN where the target
            never judged it. Rejected drafts keep theirs.
        proposed, accepted: (R,) int32.
        emitted_id: (R,) int32: the token after the accepted drafts: a correction, or a bonus when all were kept.
            -1 when the run ended inside the round.
        draft_s, verify_s: (R,) float64 seconds.
    """

    draft_ids: np.ndarray
    draft_logprob: np.ndarray
    target_logprob: np.ndarray
    proposed: np.ndarray
    accepted: np.ndarray
    emitted_id: np.ndarray
    draft_s: np.ndarray
    verify_s: np.ndarray

    DTYPES = {  # noqa: RUF012 (not a field)
        "draft_ids": np.int32, "draft_logprob": np.float32, "target_logprob": np.float32, "proposed": np.int32,
        "accepted": np.int32, "emitted_id": np.int32, "draft_s": np.float64, "verify_s": np.float64,
    }  # fmt: skip

    def __post_init__(self) -> None:
        for name, dtype in self.DTYPES.items():
            object.__setattr__(self, name, _frozen(getattr(self, name), dtype))
        n, k = len(self.proposed), self.draft_ids.shape[-1]
        for name in self.DTYPES:
            got = getattr(self, name).shape
            wanted = (n, k) if name in ("draft_ids", "draft_logprob", "target_logprob") else (n,)
            if got != wanted:
                raise TraceError(f"Column {name} of rounds has shape {got} instead of {wanted}.")

    @classmethod
    def none(cls) -> Rounds:
        """No rounds: an undrafted run."""
        shapes = {"draft_ids": (0, 0), "draft_logprob": (0, 0), "target_logprob": (0, 0)}
        return cls(**{f.name: np.zeros(shapes.get(f.name, (0,))) for f in fields(cls)})

    def __len__(self) -> int:
        return len(self.proposed)

    def to_pandas(self) -> pd.DataFrame:
        """One row a round; drafts and their logprobs (nats) as lists of what was proposed, NaN where never judged."""
        import pandas as pd

        wide = ("draft_ids", "draft_logprob", "target_logprob")
        rows = [
            {
                **{name: getattr(self, name)[r, :n].tolist() for name in wide},
                "proposed": n, "accepted": int(self.accepted[r]), "emitted_id": int(self.emitted_id[r]),
                "draft_s": float(self.draft_s[r]), "verify_s": float(self.verify_s[r]),
            }
            for r, n in enumerate(self.proposed.tolist())
        ]  # fmt: skip
        return pd.DataFrame(rows, columns=list(self.DTYPES), index=pd.RangeIndex(len(rows), name="round"))

    def __repr__(self) -> str:
        return f"Rounds({len(self)} rounds, {int(self.accepted.sum())} of {int(self.proposed.sum())} drafts kept)"
