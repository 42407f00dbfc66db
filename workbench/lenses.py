"""What each position means, layer by layer: lenses as data. Numpy only.

A lens reads the model's hidden state after a layer as if it were the last: final norm, head and soft-capping are
applied to it (nostalgebraist 2020, "interpreting GPT: the logit lens"). Early layers speak another language than the
last, so what a lens shows there is a hint, not a thought.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.columns import Segment
from workbench.errors import TraceError
from workbench.maps import all_segments, check_run, counted, frozen, places, several

if TYPE_CHECKING:
    from workbench.trace import Trace

__all__ = ["Filters", "Lens", "Nearest"]

_ARRAYS = {"positions": np.int32, "layers": np.int32, "final_ids": np.int32, "top_ids": np.int32,
           "top_logprob": np.float32, "rank": np.int32, "logprob": np.float32, "kl": np.float32}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Lens:
    """Nearest words at P positions after each of L layers.

    Attributes:
        positions: (P,) int32 of the rows read.
        layers: (L,) int32 numbers of the layers; -1 is the embedding, before the first layer.
        final_ids: (P,) int32 the token that rank and logprob are of: what was generated, for the answer; the last
            layer's first choice, for patches, frames and words of the prompt.
        top_ids, top_logprob: (L, P, k) int32 and float32, the k likeliest tokens and their logprobs in nats.
        rank: (L, P) int32 of the final token in each layer, 0 is first.
        logprob: (L, P) float32 of the final token in each layer, in nats.
        kl: (L, P) float32 KL(last layer ‖ this layer) in nats: 0 at the last.
        pieces: The text of every token id in ``top_ids`` and ``final_ids``.
        over: ``answer``, ``image``, ``audio`` or ``prompt``.
        media: Which image or sound.
        segments: Of prompt and answer.
        prompt_tokens: How many positions are the prompt's.
        identity: Of the model.
        run: What tells the run it is of from others; empty where that is not known.
    """

    positions: np.ndarray
    layers: np.ndarray
    final_ids: np.ndarray
    top_ids: np.ndarray
    top_logprob: np.ndarray
    rank: np.ndarray
    logprob: np.ndarray
    kl: np.ndarray
    pieces: Mapping[int, str]
    over: str
    media: int
    segments: tuple[Segment, ...] = field(repr=False)
    prompt_tokens: int
    identity: tuple[str, ...]
    run: str = ""

    def __post_init__(self) -> None:
        for name, dtype in _ARRAYS.items():
            object.__setattr__(self, name, frozen(getattr(self, name), dtype))
        L, P = len(self.layers), len(self.positions)
        shapes = {"final_ids": (P,), "top_ids": (L, P, self.top_ids.shape[-1]), "rank": (L, P), "logprob": (L, P),
                  "top_logprob": self.top_ids.shape, "kl": (L, P)}  # fmt: skip
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise TraceError(f"{name} of a lens of {L} layers and {P} positions: {getattr(self, name).shape}.")

    def __repr__(self) -> str:
        about = f" {self.media}" if self.over in ("image", "audio") else ""
        return f"Lens({self.over}{about}: {len(self.positions)} positions, {len(self.layers)} layers)"

    def index(self, *, token: int | None = None, position: int | None = None) -> int:
        """The column of a generated token (negative: from the end), or of a position.

        Raises:
            TraceError: It is not in this reading, or both were given.
        """
        if token is not None and position is not None:
            raise TraceError(f"token={token!r} and position={position!r}: give one of them.")
        wanted = -1 if position is None else position
        if token is not None:
            (k,) = counted("token", [token], max((s.stop for s in self.segments), default=0) - self.prompt_tokens)
            wanted = self.prompt_tokens - 1 + k if k >= 0 else -1
        found = np.flatnonzero(self.positions == wanted)
        if not len(found):
            raise TraceError(f"token={token!r}, position={position!r}: this lens holds positions {self.positions}.")
        return int(found[0])

    def only(self, *, tokens: int | Sequence[int] | None = None, top: int | None = None) -> Lens:
        """A part: some generated tokens, or the first ``top`` words a place.

        Raises:
            TraceError: It does not hold so much.
        """
        if top is not None and not 1 <= top <= self.top_ids.shape[-1]:
            raise TraceError(f"top={top!r}: this lens holds {self.top_ids.shape[-1]} words a place.")
        at = np.arange(len(self.positions))
        if tokens is not None:
            at = np.unique([self.index(token=k) for k in several("tokens", tokens)])
        return replace(
            self, positions=self.positions[at], final_ids=self.final_ids[at], rank=self.rank[:, at],
            logprob=self.logprob[:, at], kl=self.kl[:, at], top_ids=self.top_ids[:, at, :top],
            top_logprob=self.top_logprob[:, at, :top],
        )  # fmt: skip

    def words(self, *, token: int | None = None, position: int | None = None) -> list[list[tuple[str, float]]]:
        """For each layer, the nearest tokens' texts and logprobs in nats, likeliest first; see :meth:`index`."""
        p = self.index(token=token, position=position)
        rows = zip(self.top_ids[:, p].tolist(), self.top_logprob[:, p].tolist(), strict=True)
        return [[(self.pieces[i], v) for i, v in zip(ids, values, strict=True)] for ids, values in rows]

    def grid(self, layer: int) -> np.ndarray:
        """Nearest token ids after a layer: (rows, cols) int32 for an image, else (P,); their texts are in ``pieces``.

        Raises:
            TraceError: No such layer.
        """
        found = np.flatnonzero(self.layers == layer)
        if not len(found):
            raise TraceError(f"layer={layer!r}: this lens has layers {self.layers[0]} to {self.layers[-1]}.")
        ids = self.top_ids[found[0], :, 0]
        if self.over == "image":
            (segment,) = places(self.segments, "image", self.media)
            if segment.rows and segment.cols and len(ids) == len(segment):
                return ids.reshape(segment.rows, segment.cols)
        return ids

    def to_reading(self) -> dict[str, Any]:
        """For ``Trace.readings``."""
        meta = {"kind": "lens", "over": self.over, "media": self.media, "identity": list(self.identity),
                "run": self.run, "pieces": {str(i): text for i, text in self.pieces.items()}}  # fmt: skip
        return {"meta": meta, "arrays": {name: getattr(self, name) for name in _ARRAYS}}

    @classmethod
    def from_reading(cls, reading: Mapping[str, Any], trace: Trace) -> Lens:
        """From ``Trace.readings``, of the same trace.

        Raises:
            TraceError: It is not what :meth:`to_reading` gives.
        """
        try:
            meta, arrays = reading["meta"], reading["arrays"]
            run = check_run(str(meta.get("run", "")), trace)
            T, N = len(trace.prompt), len(trace.tokens)
            return cls(
                **{name: arrays[name] for name in _ARRAYS}, pieces={int(i): str(t) for i, t in meta["pieces"].items()},
                over=str(meta["over"]), media=int(meta["media"]), identity=tuple(meta["identity"]), run=run,
                prompt_tokens=T, segments=all_segments(trace.prompt.segments, trace.segments, T + N),
            )  # fmt: skip
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise TraceError(f"A reading of a lens in this trace is broken: {error!r}.") from error


@dataclass(frozen=True, eq=False)
class Filters:
    """What the first layer of an encoder-free model looks for in raw patches or raw sound.

    Attributes:
        kind: ``image`` or ``audio``.
        pictures: (n, 48, 48, 3) float32 for images, weights of each pixel, less their mean: the norm before them takes
            a patch's mean away; None for audio.
        waves: (n, 640) float32 for audio, 40 ms at 16 kHz; None for images.
        spectra: (n, 321) float32 size of each wave's Fourier coefficient at ``hertz`` (``abs(rfft)``); None for images.
        hertz: (321,) float32; None for images.
        units: (n,) int32 which outputs of the projection these are, those of the largest norm first.
        norms: (n,) float32.
    """

    kind: str
    units: np.ndarray
    norms: np.ndarray
    pictures: np.ndarray | None = None
    waves: np.ndarray | None = None
    spectra: np.ndarray | None = None
    hertz: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Nearest:
    """Words whose embeddings are nearest to raw patches or frames, before any layer.

    Attributes:
        positions: (n,) int32 of the patches or frames.
        ids: (n, k) int32 token ids, nearest first.
        cosine: (n, k) float32 cosine of patch and word, -1 to 1. High-dimensional strangers have about 0.
        pieces: The text of every id.
        rows, cols: Of a picture's grid; None for a sound.
    """

    positions: np.ndarray
    ids: np.ndarray
    cosine: np.ndarray
    pieces: Mapping[int, str]
    rows: int | None = None
    cols: int | None = None
