"""Numbers laid on a picture, a sound or words: what attention, occlusion and lenses have in common. Numpy only."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.columns import Segment
from workbench.errors import TraceError

if TYPE_CHECKING:
    from workbench.trace import Trace

__all__ = [
    "SOFT",
    "Layer",
    "Map",
    "Picks",
    "Sink",
    "admitted",
    "all_segments",
    "check_run",
    "counted",
    "frozen",
    "laid_out",
    "limits",
    "listed",
    "patches_on",
    "picked",
    "place_of",
    "places",
    "rank_correlation",
    "run_key",
    "several",
    "share",
    "sinks_of",
    "without",
]

SOFT = ("image", "audio", "video")
"""Kinds of segments whose tokens are places, not words."""

Picks = int | Sequence[int] | None
"""One number, several, or None for all."""


@dataclass(frozen=True)
class Layer:
    """A layer of the model.

    Attributes:
        index: Its number, from 0.
        kind: ``sliding`` or ``full``.
        window: How many positions a sliding one sees, its own included; None for a full one.
    """

    index: int
    kind: str
    window: int | None = None


@dataclass(frozen=True)
class Sink:
    """A position that takes ``mass`` of all attention, whatever is asked.

    Attributes:
        position: Token position.
        mass: Mean share, 0 to 1, over all layers, heads and queries of the reading.
        piece: The token's text.
        why: ``first token``, ``delimiter`` or ``first patch`` (of a sound: ``first frame``).
    """

    position: int
    mass: float
    piece: str = ""
    why: str = ""


@dataclass(frozen=True, eq=False)
class Map:
    """One number for each patch of a picture, frame of a sound, or word.

    Attributes:
        kind: ``image``, ``audio``, ``video`` or ``text``.
        media: Which image or sound, counted from 0 within its kind; None for text.
        values: (rows, cols) float32 for an image, (frames of video, rows, cols) for video, (frames,) for audio and
            (positions,) for text. NaN where nothing was measured.
        positions: int32, as many as there are values: the token position of each, in the order of ``values.ravel()``.
        unit: What the numbers are, with their unit.
        about: What was asked, in words, for a caption.
        layers: The layers that were averaged; empty when none of them sees these places, or it is no matter of layers.
        boxes: (values.size, 4) float32 left, top, right, bottom in pixels of the original picture; None for others.
        start_ms, end_ms: (values.size,) float64 of each frame of a sound; None for others.
    """

    kind: str
    media: int | None
    values: np.ndarray
    positions: np.ndarray
    unit: str
    about: str = ""
    layers: tuple[int, ...] = ()
    boxes: np.ndarray | None = field(default=None, repr=False)
    start_ms: np.ndarray | None = field(default=None, repr=False)
    end_ms: np.ndarray | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", frozen(self.values, np.float32))
        object.__setattr__(self, "positions", frozen(self.positions, np.int32))
        if self.positions.shape != (self.values.size,):
            raise TraceError(f"A map of {self.values.size} values with {self.positions.size} positions.")

    def peak(self) -> int:
        """Index into ``positions`` and ``boxes`` of the largest value; of the first, if several are.

        Raises:
            TraceError: No place was measured.
        """
        if not np.isfinite(self.values).any():
            raise TraceError("This map has no number in it: nothing was measured.")
        return int(np.nanargmax(self.values))


def all_segments(prompt: Sequence[Segment], answer: Sequence[Segment], stop: int) -> tuple[Segment, ...]:
    """Segments of prompt and answer together; an answer without any is one of text."""
    end = prompt[-1].stop if prompt else 0
    if not answer and stop > end:
        answer = (Segment("text", end, stop, role="model"),)
    return (*prompt, *answer)


def places(segments: Sequence[Segment], kind: str, media: int) -> list[Segment]:
    """The segments of one image, sound or video (a video has one for each of its frames).

    Raises:
        TraceError: There are none; says which there are.
    """
    whole = not isinstance(media, bool) and isinstance(media, (int, np.integer))
    found = [s for s in segments if s.kind == kind and s.media == media] if whole else []
    if not found:
        have = sorted({f"{s.kind} {s.media}" for s in segments if s.media is not None})
        raise TraceError(
            f"This prompt has no {kind} {media!r}; it has {', '.join(have) if have else 'no media at all'}. Media are "
            "counted from 0 within their kind."
        )
    return found


FAINT = 0.01
"""Nats: a drop of at most 1 % of a word's probability. What nowhere costs more is not drawn as if it did."""


def limits(made: Map) -> tuple[float, float]:
    """The values that colours run between, in every drawing of a map: from 0 (and all below it) to the largest."""
    most = float(np.nanmax(made.values, initial=0.0))
    least = FAINT if "nats" in made.unit else 0.0
    return 0.0, max(most, least) or 1.0


def laid_out(segments: Sequence[Segment], kind: str, media: int | None, values: np.ndarray, **more: Any) -> Map:
    """A map of the values of some segments' tokens, in the shape of what they are places in.

    Args:
        segments: From :func:`places`.
        kind, media: What they are.
        values: (n,) one for each token of theirs.
        more: Further fields of :class:`Map`.
    """
    first, media = segments[0], None if media is None else int(media)
    if kind in ("image", "video") and first.rows and first.cols:
        frames = (len(segments),) if kind == "video" else ()
        values = np.reshape(values, (*frames, first.rows, first.cols))
    boxes, start, end = (_joined(segments, name) for name in ("boxes", "start_ms", "end_ms"))
    return Map(
        kind, media, values, np.concatenate([np.arange(s.start, s.stop) for s in segments]), boxes=boxes,
        start_ms=start, end_ms=end, **more,
    )  # fmt: skip


def _joined(segments: Sequence[Segment], name: str) -> np.ndarray | None:
    parts = [getattr(s, name) for s in segments]
    return None if any(part is None for part in parts) else np.concatenate(parts)


def rank_correlation(a: Map | np.ndarray, b: Map | np.ndarray) -> float:
    """Spearman's rank correlation of two maps of the same places, in -1 to 1; ties share their mean rank.

    Places that either map has no number for are left out. NaN when one of them is constant.

    Raises:
        TraceError: The maps are of different shapes.
    """
    x, y = (np.asarray(m.values if isinstance(m, Map) else m, np.float64) for m in (a, b))
    if x.shape != y.shape:
        raise TraceError(f"Maps of shapes {x.shape} and {y.shape} are not of the same places.")
    known = np.isfinite(x) & np.isfinite(y)
    rx, ry = (_ranks(v[known]) for v in (x, y))
    if len(rx) < 2 or np.ptp(rx) == 0 or np.ptp(ry) == 0:
        return float("nan")
    return float(np.corrcoef(rx, ry)[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[group]


def frozen(array: Any, dtype: Any = None) -> np.ndarray:
    """An array that cannot be written to; a view of the one given where its type allows."""
    out = np.asarray(array, dtype=dtype).view()
    out.setflags(write=False)
    return out


def listed(picks: Picks) -> str:
    """Numbers for a caption."""
    if picks is None:
        return "all"
    ks = [picks] if isinstance(picks, (int, np.integer)) else list(picks)
    return ", ".join(map(str, ks[:6])) + (" …" if len(ks) > 6 else "")


def several(name: str, picks: Any) -> list[int]:
    """A number or several as a list.

    Raises:
        TraceError: It is neither.
    """
    found = [picks] if isinstance(picks, (int, np.integer)) else picks
    if isinstance(found, (str, bytes)) or not hasattr(found, "__iter__"):
        raise TraceError(f"{name}={picks!r}: expected a number from 0, or several.")
    ks = list(found)
    if not ks or any(isinstance(k, bool) or not isinstance(k, (int, np.integer)) for k in ks):
        raise TraceError(f"{name}={picks!r}: expected a number from 0, or several.")
    return [int(k) for k in ks]


def counted(name: str, picks: Any, count: int) -> list[int]:
    """A number or several as a list, negative ones counted from the end; those there are none of stay as they are.

    Raises:
        TraceError: It is neither.
    """
    return [k % count if -count <= k < 0 else k for k in several(name, picks)]


def picked(name: str, picks: Picks, held: Any, count: int = 0) -> np.ndarray:
    """Indices into the numbers that a reading holds of those asked for; None is all.

    Where it is known how many there are in the model, negative ones count from the end.

    Raises:
        TraceError: It does not hold one.
    """
    held = list(map(int, held))
    if picks is None:
        return np.arange(len(held))
    out = []
    for k in counted(name, picks, count):
        if k not in held:
            there = [one for one in held if one >= 0]  # of positions of the prompt, tokens count from below 0
            shown = ", ".join(map(str, there if len(there) <= 12 else [*there[:5], "…", there[-1]]))
            raise TraceError(f"{name}={k}: this reading holds {name} {shown or 'none'}: choose, or attend again.")
        out.append(held.index(k))
    return np.array(out)


def run_key(trace: Trace) -> str:
    """A hash of what a reading is about: a run's token ids, and its media by their own hashes."""
    digest = hashlib.blake2b(f"{len(trace.prompt)}\n".encode() + trace.ids.astype("<i4").tobytes(), digest_size=16)
    for kind, media in (("image", trace.images), ("audio", trace.audio), ("video", trace.video)):
        for one in media:
            digest.update(f"{kind} {one.sha256}\n".encode())
    return digest.hexdigest()


def check_run(key: str, trace: Trace) -> str:
    """The key of a trace's run, if it is also that of a reading; one of an older file has none, and passes.

    Raises:
        TraceError: The reading is of another run.
    """
    mine = run_key(trace)
    if key and key != mine:
        raise TraceError(
            f"This reading is of another run than {trace!r}: other words, or another picture or sound. Ask again about "
            "this trace."
        )
    return mine


def admitted(layer: Layer, position: int, count: int, segments: Sequence[Segment], *, itself: bool) -> np.ndarray:
    """(count,) bool: the keys that a layer's mask lets a query see, by the rule of :mod:`workbench.masks`.

    Args:
        layer: Of which kind and window.
        position: Of the query.
        count: Of all positions.
        segments: The pictures among them are seen in both directions on sliding layers, to their end.
        itself: Whether the query sees its own position.
    """
    k = np.arange(count)
    seen: np.ndarray = k <= position if itself else k < position
    if layer.kind != "sliding":
        return seen
    for s in segments:
        if s.kind in ("image", "video") and s.start <= position < s.stop:
            seen |= (k >= s.start) & (k < s.stop)
    return seen & (position - k < (layer.window or count))


def place_of(position: Any, count: int) -> int:
    """A position of a run of so many.

    Raises:
        TraceError: It is none.
    """
    (at,) = several("position", [position])
    if not 0 <= at < count:
        raise TraceError(f"position={position!r}: this run has {count} positions, counted from 0.")
    return at


def share(name: str, value: Any) -> float:
    """A share of attention.

    Raises:
        TraceError: It is no number.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TraceError(f"{name}={value!r}: expected a share of attention, a number from 0 to 1.")
    return float(value)


def patches_on(boxes: np.ndarray, box: Sequence[float]) -> np.ndarray:
    """(n,) bool: which patches lie on an object's box."""
    try:
        target = np.asarray(box, np.float64)
    except (TypeError, ValueError):
        target = np.zeros(0)
    if target.shape != (4,) or not (target[:2] < target[2:]).all():
        raise TraceError(f"box={box!r}: expected left, top, right, bottom in pixels.")
    middles, middle = (boxes[:, :2] + boxes[:, 2:]) / 2, (target[:2] + target[2:]) / 2
    inside = ((middles >= target[:2]) & (middles < target[2:])).all(1)
    return inside | ((boxes[:, :2] <= middle) & (middle < boxes[:, 2:])).all(1)


def sinks_of(mass: np.ndarray, segments: Sequence[Segment], pieces: Sequence[str], least: float) -> list[Sink]:
    """Positions that draw at least ``least`` of the attention by what they are; see ``Attention.sinks``."""
    reasons: dict[int, str] = {}
    for s in segments:
        if s.kind in SOFT and len(s):
            reasons[s.start] = "first frame" if s.kind == "audio" else "first patch"
        elif s.kind == "control":
            reasons |= dict.fromkeys(range(s.start, s.stop), "delimiter")
    reasons[0] = "first token"
    found = [Sink(p, float(mass[p]), pieces[p], why) for p, why in reasons.items() if mass[p] >= least]
    return sorted(found, key=lambda sink: -sink.mass)


def without(weights: np.ndarray, drop: Sequence[int]) -> np.ndarray:
    """Weights (…, keys) without those of some keys, each row scaled to 1 again; in place."""
    if len(drop):
        weights[..., drop] = 0
        weights /= np.maximum(weights.sum(-1, keepdims=True), 1e-12)
    return weights
