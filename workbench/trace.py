"""What happened in one run: the prompt, every generated token, every round of drafts, and what exactly ran.

A :class:`Trace` is numpy only. It opens, shows and compares without torch; ``workbench.tracefile`` keeps it in
one file.

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
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.columns import KINDS, SOURCES, Prompt, Rounds, Segment, Token, Tokens
from workbench.errors import TraceError
from workbench.media import Audio, Image, Video
from workbench.toolcalls import Call, calls_in, message_of

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


@dataclass(frozen=True)
class ModelInfo:
    """What exactly ran. Two models are the same when variant, revision, quantization and weights hash are.

    Attributes:
        name: As it was loaded by.
        variant, revision: Folder or hub id of the weights, and which state of it.
        weights_hash: SHA-256 of the weights; above 256 MB of headers and samples of each file.
        quantization: As ``load`` takes it; ``none`` for weights as they were published.
        dtype, device, attention: Of the computation: ``float32``, ``cpu``, Transformers' name of its attention.
        mask_correction: Whether the masks that Gemma 4 means were put in.
        chat_template_hash, vocab_hash: SHA-256 of each; traces with equal ones can be scored by either model.
        layers: ``sliding`` or ``full`` for each.
        window: Positions that a sliding layer sees; None without sliding layers.
        context: The model's own limit, in tokens.
        drafter, drafter_hash: Name, and SHA-256 of its weights; None without one.
        versions: Of Python and the libraries that matter, by name.
    """

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

    @property
    def named(self) -> str:
        """The same in words."""
        return f"{self.variant} (revision {self.revision}, {self.quantization}, weights {self.weights_hash[:12]})"


@dataclass(frozen=True)
class Settings:
    """What was asked for, with the model's defaults filled in.

    Attributes:
        max_new_tokens: At most so many, stop token included.
        temperature: 0 is greedy.
        top_k, top_p: 0 and 1.0 are off.
        seed: The one that was used, also when none was given. None for greedy runs.
        draft: "auto" or a number of drafts a round; 0 is none.
        top: How many alternatives were recorded of every token.
        image_tokens: Soft tokens an image might take; None is the model's default.
        thinking: Whether a thought was asked for.
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
    """Counts of tokens.

    Attributes:
        prompt: All that were read.
        cached: Of these, how many were not computed again (prefix cache).
        generated: Stop token included.
        image, audio, video: Of the prompt's, how many are patches, frames of sound, patches of video.
    """

    prompt: int
    cached: int
    generated: int
    image: int
    audio: int
    video: int


@dataclass(frozen=True)
class Timing:
    """Wall-clock seconds.

    Attributes:
        prepare_s: Media and prompt to tensors.
        prefill_s: The pass over the prompt.
        first_token_s: From the call to the first token.
        decode_s: From there to the last.
        total_s: All.
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
        prompt, tokens, rounds: What was read, what was said, and what was drafted: columns of numpy arrays.
        settings, model: What was asked for, with defaults filled in, and what exactly ran.
        usage, timing: Counts of tokens, and seconds.
        finish: Why it ended: ``stop_token``, ``max_new_tokens``, ``stopped`` (by the caller), ``context`` (full),
            ``scored`` (a text given to :meth:`LoadedModel.score`).
        segments: Segments of the answer, at positions after the prompt's.
        images, audio, video: The media, as the model was given them; numbered as in ``prompt.segments``.
        created: When, in UTC (ISO 8601).
        readings: Saved readings by name, each ``{"meta": JSON, "arrays": {name: array}}``: see ``workbench.tracefile``.
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
    video: tuple[Video, ...] = ()
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

    @property
    def question(self) -> str:
        """The words of the last question; empty where there is none."""
        asked = [message for message in self.prompt.messages if message.get("role") == "user"]
        content: Any = (asked[-1].get("content") if asked else "") or ""
        if isinstance(content, str):
            return content
        return " ".join(str(part.get("text", "")) for part in content if part.get("type") == "text")

    @property
    def calls(self) -> tuple[Call, ...]:
        """The tools that the answer calls, in order; those run before it stand in ``prompt.messages``."""
        return calls_in(self.segments, self.tokens.piece, len(self.prompt))

    @property
    def parsed(self) -> dict[str, Any]:
        """The answer as a message: ``role``, and ``thinking``, ``content`` and ``tool_calls`` where there are any."""
        return message_of(self.text, self.thought, self.calls)

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
