"""What happened in one run: the prompt, every generated token, every round of drafts, and what exactly ran.

A :class:`Trace` is numpy only. It opens, shows and compares without torch; ``workbench.tracefile`` keeps it in one file.

    Trace ─┬─ prompt    Prompt: token ids and the Segments that say which token is which patch, frame or word
           ├─ tokens    Tokens: one row a generated token
           ├─ rounds    Rounds: one row a draft-and-verify round (no rows when nothing was drafted)
           ├─ images, audio, video     the media, as the model was given them
           ├─ settings, model          what was asked for, and what exactly ran
           ├─ usage, timing            counts and seconds
           └─ readings                 saved answers of an Inspector (attention, lenses …), see workbench.readings

Positions count tokens from 0 over prompt and answer together; generated token ``k`` stands at position
``len(prompt) + k`` and was predicted by the position before it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.errors import TraceError
from workbench.media import Audio, Image

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "KINDS",
    "SOURCES",
    "ModelInfo",
    "Prompt",
    "Rounds",
    "Segment",
    "Settings",
    "Timing",
    "Token",
    "Tokens",
    "Trace",
    "Usage",
]

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
        kind: One of :data:`KINDS`. ``control`` is turn marks and begin and end of media.
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
        logprob: (T,) float32: of each prompt token given those before it, in nats, where it was asked for
            (``model.score``); None otherwise. The first is NaN.
    """

    ids: np.ndarray
    pieces: tuple[str, ...]
    segments: tuple[Segment, ...]
    messages: tuple[Mapping[str, Any], ...] = ()
    logprob: np.ndarray | None = None

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
        """The segment a token position lies in."""
        for segment in self.segments:
            if segment.start <= position < segment.stop:
                return segment
        raise TraceError(f"Position {position} lies outside the prompt of {len(self)} tokens.")


@dataclass(frozen=True)
class Token:
    """One generated token, as handed to ``on_token``: a row of :class:`Tokens`."""

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
            if got[:1] != (n,) or len(got) != (2 if name.startswith("top_") else 1):
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
        n = len(self.proposed)
        for name in self.DTYPES:
            if len(getattr(self, name)) != n:
                raise TraceError(f"Column {name} of rounds has {len(getattr(self, name))} rows instead of {n}.")

    @classmethod
    def none(cls) -> Rounds:
        """No rounds: an undrafted run."""
        shapes = {"draft_ids": (0, 0), "draft_logprob": (0, 0), "target_logprob": (0, 0)}
        return cls(**{f.name: np.zeros(shapes.get(f.name, (0,))) for f in fields(cls)})

    def __len__(self) -> int:
        return len(self.proposed)

    def __repr__(self) -> str:
        return f"Rounds({len(self)} rounds, {int(self.accepted.sum())} of {int(self.proposed.sum())} drafts kept)"


@dataclass(frozen=True)
class ModelInfo:
    """What exactly ran. Two models are the same when variant, revision, quantization and weights hash are."""

    name: str
    variant: str
    revision: str
    weights_hash: str
    quantization: str
    dtype: str
    device: str
    attention: str
    mask_correction: bool
    chat_template_hash: str
    vocab_hash: str
    layers: tuple[str, ...]
    window: int | None
    context: int
    drafter: str | None = None
    drafter_hash: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def identity(self) -> tuple[str, str, str, str]:
        """What makes two models the same."""
        return (self.variant, self.revision, self.quantization, self.weights_hash)


@dataclass(frozen=True)
class Settings:
    """What was asked for, with the model's defaults filled in.

    Attributes:
        temperature: 0 is greedy.
        top_k, top_p: 0 and 1.0 are off.
        seed: The one that was used, also when none was given. None for greedy runs.
        draft: "auto" or a number of drafts a round; 0 is none.
    """

    max_new_tokens: int
    temperature: float
    top_k: int
    top_p: float
    seed: int | None
    draft: int | str
    top: int
    image_tokens: int | None
    thinking: bool = False


@dataclass(frozen=True)
class Usage:
    """Counts of tokens. ``cached`` of the prompt's tokens were not computed again (prefix cache)."""

    prompt: int
    cached: int
    generated: int
    image: int
    audio: int
    video: int


@dataclass(frozen=True)
class Timing:
    """Wall-clock seconds. ``prepare_s``: media and prompt to tensors; ``prefill_s``: the pass over the prompt;
    ``first_token_s``: from the call to the first token; ``decode_s``: from there to the last; ``total_s``: all.
    """

    prepare_s: float
    prefill_s: float
    first_token_s: float
    decode_s: float
    total_s: float


@dataclass(frozen=True, eq=False)
class Trace:
    """One run, from the files that were given to the last token. See the module's first lines for a map.

    Attributes:
        text: The answer: control tokens, thoughts and tool calls left out.
        thought: What was said in the thought channel; empty when there was none.
        finish: Why it ended: ``stop_token``, ``max_new_tokens``, ``stopped`` (by the caller), ``context`` (full).
        segments: Segments of the answer, at positions after the prompt's.
        readings: Saved readings by name, plain JSON and arrays (see ``workbench.readings``).
    """

    text: str
    prompt: Prompt
    tokens: Tokens
    rounds: Rounds
    settings: Settings
    model: ModelInfo
    usage: Usage
    timing: Timing
    finish: str
    thought: str = ""
    segments: tuple[Segment, ...] = ()
    images: tuple[Image, ...] = ()
    audio: tuple[Audio, ...] = ()
    video: tuple[Any, ...] = ()
    readings: Mapping[str, Any] = field(default_factory=dict)
    created: str = ""

    def __repr__(self) -> str:
        media = "".join(
            f", {len(m)} {what}{'s' if len(m) > 1 else ''}"
            for m, what in ((self.images, "image"), (self.audio, "sound"), (self.video, "video"))
            if m
        )
        said = self.text if len(self.text) <= 60 else self.text[:59] + "…"
        return f"Trace({said!r}: {len(self.prompt)} prompt tokens{media}, {len(self.tokens)} generated, {self.finish})"

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def ids(self) -> np.ndarray:
        """(T + N,) int32: prompt and generated token ids, one after the other."""
        return np.concatenate([self.prompt.ids, self.tokens.token_id])

    def index(self, token: int) -> int:
        """A generated token's index, negative ones counted from the end.

        Raises:
            TraceError: There is no such token.
        """
        n = len(self.tokens)
        if isinstance(token, bool) or not isinstance(token, (int, np.integer)) or not -n <= token < n:
            raise TraceError(f"token={token!r}: this answer has {n} tokens, counted from 0.")
        return int(token) % n

    def to_pandas(self) -> pd.DataFrame:
        """One row a generated token, the stop token included when there was one.

        Columns: ``token_id, piece, logprob, sample_logprob, entropy, rank, margin, source, round, time_s``; logprobs
        and entropy in nats, times in seconds. ``round`` is -1 for tokens of no round.
        """
        import pandas as pd

        t = self.tokens
        return pd.DataFrame(
            {
                "token_id": t.token_id, "piece": list(t.piece), "logprob": t.logprob,
                "sample_logprob": t.sample_logprob, "entropy": t.entropy, "rank": t.rank, "margin": t.margin,
                "source": list(t.source_names), "round": t.round, "time_s": t.time_s,
            },
            index=pd.RangeIndex(len(t), name="token"),
        )  # fmt: skip

    def save(self, path: str | os.PathLike) -> None:
        """Write the trace with its media to one ``.trace`` file; see ``workbench.tracefile`` for the format."""
        from workbench.tracefile import save

        save(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike) -> Trace:
        """Read a ``.trace`` file. No torch, no pickle, bounded sizes.

        Raises:
            TraceError: Missing, broken, hostile, or written by a newer workbench.
        """
        from workbench.tracefile import load

        return load(path)

    def _repr_html_(self) -> str:
        from workbench.display import to_html

        return to_html(self)
