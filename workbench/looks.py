"""Attention as data: which positions each query looked at, in every layer and head asked for. Numpy only.

    a = model.attend(trace)
    a.on_image(0, token=3)                # (rows, cols): where the model looked as it chose the fourth token
    a.on_image(0, token=3, sinks=False)   # the same, without what the sinks take
    a.shares(token=3)                     # (layers, heads, segments): which head reads the picture

A row of attention belongs to a query: a position that looks at the keys before it (and, inside a picture on sliding
layers, after it). Generated token ``k`` was predicted by the position before it, so ``token=k`` means that position's
row. Rows of prompt positions are asked for as ``position=``.

A few positions draw much attention whatever is asked (the first token, delimiters, the first patch): they are called
sinks (Xiao et al. 2023, "Efficient streaming language models with attention sinks"), hold little, and make maps look
meaningful where they are not. :meth:`Attention.sinks` names them; every map can be had without them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from workbench.columns import Segment
from workbench.errors import TraceError
from workbench.maps import (
    SOFT,
    Layer,
    Map,
    Picks,
    Sink,
    admitted,
    all_segments,
    check_run,
    counted,
    frozen,
    laid_out,
    listed,
    patches_on,
    picked,
    place_of,
    places,
    run_key,
    several,
    share,
    sinks_of,
    without,
)

if TYPE_CHECKING:
    from workbench.trace import Trace

__all__ = ["Attention", "Layer", "Sink"]


@dataclass(frozen=True, eq=False)
class Attention:
    """Rows of attention over the keys of prompt and answer.

    Attributes:
        positions: (Q,) int32 query positions, ascending.
        layers: The L layers held.
        heads: (H,) int32 numbers of the query heads held.
        weights: L arrays (H, Q, S) float16, S keys from ``starts[l]`` on; keys outside have no weight in that layer.
        starts: (L,) int32 first key held of each layer.
        prompt_tokens: How many of the positions are the prompt's.
        segments: Of prompt and answer.
        pieces: The text of every position's token.
        bidirectional: Whether pictures are read in both directions on sliding layers.
        replay_gap: Largest change of a generated token's logprob, in nats, between the recorded run and the replay.
        identity: Of the model (``ModelInfo.identity``).
        rollout: (Q, T + N) float16 attention rollout up to the last layer; None when it was not asked for.
        of: ``model``, or ``drafter``: whose queries these are.
        run: What tells the run it is of from others; empty where that is not known.
        of_layers, of_heads: How many the model has; 0 where that is not known.
    """

    positions: np.ndarray
    layers: tuple[Layer, ...]
    heads: np.ndarray
    weights: tuple[np.ndarray, ...]
    starts: np.ndarray
    prompt_tokens: int
    segments: tuple[Segment, ...]
    pieces: tuple[str, ...]
    bidirectional: bool
    replay_gap: float
    identity: tuple[str, ...]
    rollout: np.ndarray | None = None
    of: str = "model"
    run: str = ""
    of_layers: int = 0
    of_heads: int = 0

    def __post_init__(self) -> None:
        for name in ("positions", "heads", "starts"):
            object.__setattr__(self, name, frozen(getattr(self, name), np.int32))
        object.__setattr__(self, "weights", tuple(frozen(w) for w in self.weights))
        shape = (len(self.heads), len(self.positions))
        wrong = [
            w.shape
            for w, s in zip(self.weights, self.starts, strict=True)
            if w.ndim != 3 or w.shape[:2] != shape or not 0 <= s <= s + w.shape[2] <= len(self.pieces)
        ]
        if wrong or len(self.weights) != len(self.layers):
            raise TraceError(f"Attention of {len(self.layers)} layers, {shape} heads and queries: weights of {wrong}.")
        if len(self.positions) and not 0 <= self.positions.min() <= self.positions.max() < len(self.pieces):
            raise TraceError(f"Attention of queries {self.positions} among {len(self.pieces)} positions.")

    def __repr__(self) -> str:
        size = sum(w.nbytes for w in self.weights) / 1e6
        return (
            f"Attention({len(self.layers)} layers, {len(self.heads)} heads, {len(self.positions)} queries of "
            f"{len(self.pieces)} positions, {size:.1f} MB, replay_gap {self.replay_gap:.2g})"
        )

    @property
    def lacks_heads(self) -> bool:
        """Whether it is known that the model has heads which are not held."""
        return len(self.heads) < self.of_heads

    @property
    def lacks_layers(self) -> bool:
        """Whether it is known that the model has layers which are not held."""
        return len(self.layers) < self.of_layers

    @property
    def tokens(self) -> np.ndarray:
        """The generated tokens whose rows are held, counted from 0."""
        k = self.positions - self.prompt_tokens + 1
        return k[(k >= 0) & (k < len(self.pieces) - self.prompt_tokens)]

    # --- places -------------------------------------------------------------------------------------------------------

    def on_image(
        self, image: int, token: Picks = None, layer: Picks | Literal["rollout"] = None, head: Picks = None,
        **more: Any,
    ) -> np.ndarray:  # fmt: skip
        """Where on a picture: see :meth:`map`. Returns (rows, cols) float32; ``segments`` has each patch's box."""
        return self.map("image", image, token=token, layer=layer, head=head, **more).values

    def on_audio(
        self, sound: int, token: Picks = None, layer: Picks | Literal["rollout"] = None, head: Picks = None,
        **more: Any,
    ) -> np.ndarray:  # fmt: skip
        """When in a sound: see :meth:`map`. Returns (frames,) float32, 40 ms each."""
        return self.map("audio", sound, token=token, layer=layer, head=head, **more).values

    def on_video(
        self, video: int, token: Picks = None, layer: Picks | Literal["rollout"] = None, head: Picks = None,
        **more: Any,
    ) -> np.ndarray:  # fmt: skip
        """Where in a video's frames: see :meth:`map`. Returns (frames, rows, cols) float32."""
        return self.map("video", video, token=token, layer=layer, head=head, **more).values

    def on_text(
        self, token: Picks = None, layer: Picks | Literal["rollout"] = None, head: Picks = None, **more: Any
    ) -> np.ndarray:
        """Which words: see :meth:`map`. Returns (T + N,) float32: each position's, 0 at patches and frames."""
        return self.map("text", token=token, layer=layer, head=head, **more).values

    def map(
        self,
        kind: str,
        media: int = 0,
        *,
        token: Picks = None,
        position: Picks = None,
        layer: Picks | Literal["rollout"] = None,
        head: Picks = None,
        reduce: Literal["mean", "max"] = "mean",
        sinks: bool = True,
    ) -> Map:
        """The attention that some queries give to a picture, a sound, a video or the words.

        Args:
            kind: ``image``, ``audio``, ``video`` or ``text``.
            media: Which, counted from 0 within its kind.
            token: A generated token or several (their rows are averaged); None is all that are held.
            position: Query positions instead, for tokens of the prompt.
            layer: A layer or several. None takes the layers whose mask admits those keys to those queries (all of
                them; where no layer does, those that admit some; for words, at each word those that admit it);
                ``Map.layers`` says which. ``"rollout"`` takes attention rollout (Abnar & Zuidema 2020) to the last.
            head: A head or several; None is all. Rollout goes through all of them: it takes no head.
            reduce: Over layers and heads. Rollout has none left: it takes no ``max``.
            sinks: False takes the sinks' weight away and scales each row to 1 without them.

        Returns:
            The map, in the shape of what it is over, with each place's token position and pixel box or milliseconds.

        Raises:
            TraceError: There is no such token, layer, head or picture in this reading.
        """
        rows = self.rows(token, position)
        if reduce not in ("mean", "max"):
            raise TraceError(f"reduce={reduce!r}: expected 'mean' or 'max'.")
        if reduce == "max" and layer == "rollout":
            raise TraceError("reduce='max' with layer='rollout': that has no layers and heads to take the most of.")
        about = self._about(token, position, layer, head, reduce, sinks)
        unit = "share of attention, 0 to 1" if reduce == "mean" else "largest share of attention in any of them, 0 to 1"
        more: dict[str, Any] = {"unit": unit, "about": about}
        found = list(self.segments) if kind == "text" else places(self.segments, kind, media)
        keys = np.concatenate([np.arange(s.start, s.stop) for s in found])
        chosen = self._layers(layer, rows, None if kind == "text" else keys)
        more["layers"] = tuple(self._numbers[i] for i in (() if chosen is None else chosen))
        values = self._mixed(
            rows, keys, chosen, self._heads(head, layer), reduce, sinks, each=kind == "text" and layer is None
        )  # fmt: skip
        if kind == "text":
            words = np.concatenate([np.full(len(s), s.kind not in SOFT) for s in found])
            return Map("text", None, np.where(words, values, 0), keys, **more)
        return laid_out(found, kind, media, values, **more)

    def row(self, token: Picks = None, layer: Picks | Literal["rollout"] = None, head: Picks = None, *,
            position: Picks = None, sinks: bool = True) -> np.ndarray:  # fmt: skip
        """(T + N,) float32 attention to every position, averaged over the tokens, layers and heads asked for."""
        rows = self.rows(token, position)
        chosen = None if layer == "rollout" else picked("layer", layer, self._numbers)
        return self._mixed(rows, np.arange(len(self.pieces)), chosen, self._heads(head, layer), "mean", sinks)

    def admits(self, layer: int, position: int) -> np.ndarray:
        """(T + N,) bool: the keys that the mask of a layer, by its number, lets a query at ``position`` see.

        Raises:
            TraceError: There is no such layer or position.
        """
        (of,) = picked("layer", layer, self._numbers)
        return self._admitted(self.layers[of], place_of(position, len(self.pieces)))

    # --- whether to believe it ----------------------------------------------------------------------------------------

    def sinks(self, least: float = 0.05) -> list[Sink]:
        """Positions that draw attention by what they are, not by what is asked.

        The first token, control tokens, and the first patch or frame of each picture or sound qualify, if they take at
        least ``least`` of all attention held (mean over layers, heads and queries). The largest comes first.

        Raises:
            TraceError: ``least`` is no number.
        """
        return sinks_of(self._mass, self.segments, self.pieces, share("least", least))

    def shares(self, token: Picks = None, *, position: Picks = None) -> np.ndarray:
        """(L, H, segments) float32: how the attention of the queries is shared among ``segments``; each sums to 1."""
        rows = self.rows(token, position)
        edges = [s.start for s in self.segments]
        return np.stack([np.add.reduceat(self._whole(i)[:, rows].mean(1), edges, axis=-1) for i in self._all])

    def entropy(self, token: Picks = None, *, position: Picks = None) -> np.ndarray:
        """(L, H) float32 entropy of each head's attention in nats, mean over the queries: small is pointed."""
        rows, out = self.rows(token, position), []
        for weights in self.weights:
            w = weights[:, rows].astype(np.float32)
            out.append(-(w * np.log(np.where(w > 0, w, 1))).sum(-1).mean(1))
        return np.stack(out)

    def distance(self, token: Picks = None, *, position: Picks = None) -> np.ndarray:
        """(L, H) float32 mean distance in tokens from the query to what each head looks at."""
        rows, out = self.rows(token, position), []
        for weights, start in zip(self.weights, self.starts, strict=True):
            away = np.abs(self.positions[rows, None] - start - np.arange(weights.shape[2])[None])  # (R, S)
            out.append((weights[:, rows].astype(np.float32) * away).sum(-1).mean(1))
        return np.stack(out)

    def points_at(self, image: int, box: Sequence[float], token: Picks = None, *, position: Picks = None,
                  sinks: bool = True) -> np.ndarray:  # fmt: skip
        """(L, H) bool: whether each head's top patch lies on an object (the pointing game, Zhang et al. 2016).

        Args:
            image: Which picture.
            box: Left, top, right, bottom of the object in its pixels. A patch lies on it if the patch's middle is in
                the box, or the box's middle in the patch.
            token, position, sinks: As for :meth:`map`.

        Returns:
            One row a layer, one column a head.

        Raises:
            TraceError: No such picture or token, or no box.
        """
        (segment,) = places(self.segments, "image", image)
        rows = self.rows(token, position)
        if segment.boxes is None:
            raise TraceError(f"Image {image} of this trace has no boxes of its patches.")
        hit = patches_on(segment.boxes, box)
        out = np.zeros((len(self.layers), len(self.heads)), bool)
        drop = [] if sinks else [s.position for s in self.sinks()]
        for i in self._all:
            on = without(self._whole(i)[:, rows], drop)[..., segment.start : segment.stop].mean(1)  # (H, patches)
            out[i] = hit[on.argmax(-1)] & (on.max(-1) > 0)
        return out

    # --- parts, and back and forth ------------------------------------------------------------------------------------

    def only(self, *, positions: Sequence[int] | None = None, layers: Picks = None, heads: Picks = None) -> Attention:
        """A part of this reading, in its order.

        Raises:
            TraceError: It does not hold what was asked for.
        """
        rows = np.unique(self.rows(None, positions)) if positions is not None else np.arange(len(self.positions))
        chosen, h = np.unique(picked("layers", layers, self._numbers, self.of_layers)), np.unique(self._heads(heads))
        return replace(
            self, positions=self.positions[rows], layers=tuple(self.layers[i] for i in chosen), heads=self.heads[h],
            weights=tuple(self.weights[i][np.ix_(h, rows)] for i in chosen), starts=self.starts[chosen],
            rollout=None if self.rollout is None else self.rollout[rows],
        )  # fmt: skip

    def to_reading(self) -> dict[str, Any]:
        """For ``Trace.readings``."""
        meta = {
            "kind": "attention", "of": self.of, "identity": list(self.identity), "bidirectional": self.bidirectional,
            "replay_gap": self.replay_gap, "layers": [[one.index, one.kind, one.window] for one in self.layers],
            "run": self.run, "of_layers": self.of_layers, "of_heads": self.of_heads,
        }  # fmt: skip
        arrays = {f"layer_{i}": w for i, w in zip(self._numbers, self.weights, strict=True)}
        arrays |= {"positions": self.positions, "heads": self.heads, "starts": self.starts}
        return {"meta": meta, "arrays": arrays if self.rollout is None else {**arrays, "rollout": self.rollout}}

    @classmethod
    def from_reading(cls, reading: Mapping[str, Any], trace: Trace) -> Attention:
        """From ``Trace.readings``, of the same trace.

        Raises:
            TraceError: It is not what :meth:`to_reading` gives.
        """
        try:
            meta, arrays = reading["meta"], reading["arrays"]
            check_run(str(meta.get("run", "")), trace)
            layers = tuple(Layer(int(i), str(kind), w and int(w)) for i, kind, w in meta["layers"])
            return cls(
                positions=arrays["positions"], layers=layers, heads=arrays["heads"], starts=arrays["starts"],
                weights=tuple(arrays[f"layer_{one.index}"] for one in layers), rollout=arrays.get("rollout"),
                bidirectional=bool(meta["bidirectional"]), replay_gap=float(meta["replay_gap"]),
                identity=tuple(meta["identity"]), of=str(meta["of"]), of_layers=int(meta.get("of_layers", 0)),
                of_heads=int(meta.get("of_heads", 0)), **cls.places_of(trace),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise TraceError(f"A reading of attention in this trace is broken: {error!r}.") from error

    @staticmethod
    def places_of(trace: Trace) -> dict[str, Any]:
        """The fields that say what the positions are, and of which run."""
        pieces = (*trace.prompt.pieces, *trace.tokens.piece)
        segments = all_segments(trace.prompt.segments, trace.segments, len(pieces))
        return {"prompt_tokens": len(trace.prompt), "segments": segments, "pieces": pieces, "run": run_key(trace)}

    # --- inside -------------------------------------------------------------------------------------------------------

    def rows(self, token: Picks, position: Picks = None) -> np.ndarray:
        """Indices into ``positions`` of the rows of some generated tokens, or of some positions.

        Raises:
            TraceError: There is no such token, or this reading does not hold its row.
        """
        if token is not None and position is not None:
            raise TraceError(f"token={token!r} and position={position!r}: give one of them.")
        if token is None and position is None:
            mine = np.flatnonzero(np.isin(self.positions, self.tokens + self.prompt_tokens - 1))
            return mine if len(mine) else np.arange(len(self.positions))
        if token is None:
            return picked("position", position, self.positions)
        generated = len(self.pieces) - self.prompt_tokens
        wanted = counted("token", token, generated)
        if wrong := [k for k in wanted if not 0 <= k < generated]:
            raise TraceError(f"token={wrong[0]}: this answer has {generated} tokens, counted from 0.")
        return picked("token", wanted, self.positions - self.prompt_tokens + 1)

    def _heads(self, head: Picks, layer: Any = None) -> np.ndarray:
        if layer == "rollout" and head is not None:
            raise TraceError(f"head={head!r} with layer='rollout': that goes through all heads. Leave one away.")
        return picked("head", head, self.heads, self.of_heads)

    def _layers(self, layer: Any, rows: np.ndarray, keys: np.ndarray | None) -> np.ndarray | None:
        """Indices of the layers to average over; None for the rollout. ``keys=None``: whatever they admit."""
        if layer == "rollout":
            return None
        if layer is not None or keys is None:
            return picked("layer", layer, self._numbers, self.of_layers)
        seen = np.stack([self._seen(i, rows, keys) for i in self._all])  # (L, R, keys)
        everything = np.flatnonzero(seen.all((1, 2)))
        return everything if len(everything) else np.flatnonzero(seen.any((1, 2)))

    def _seen(self, i: int, rows: np.ndarray, keys: np.ndarray) -> np.ndarray:
        """(R, keys) bool."""
        return np.stack([self._admitted(self.layers[i], int(p))[keys] for p in self.positions[rows]])

    def _admitted(self, layer: Layer, position: int) -> np.ndarray:
        seen = self.segments if self.bidirectional else ()
        return admitted(layer, position, len(self.pieces), seen, itself=self.of != "drafter")

    @property
    def _numbers(self) -> list[int]:
        return [one.index for one in self.layers]

    @property
    def _all(self) -> range:
        return range(len(self.layers))

    def _whole(self, i: int) -> np.ndarray:
        """(H, Q, T + N) float32 weights of a layer held."""
        w, start = self.weights[i], self.starts[i]
        out = np.zeros((*w.shape[:2], len(self.pieces)), np.float32)
        out[..., start : start + w.shape[2]] = w
        return out

    @cached_property
    def _mass(self) -> np.ndarray:
        """(T + N,) mean attention over everything held."""
        held = [self._whole(i).mean((0, 1)) for i in self._all] if len(self.positions) else []
        return np.mean(held, axis=0) if held else np.zeros(len(self.pieces))

    def _mixed(
        self, rows: np.ndarray, keys: np.ndarray, chosen: np.ndarray | None, heads: np.ndarray, reduce: str,
        sinks: bool, *, each: bool = False,
    ) -> np.ndarray:  # fmt: skip
        """(keys,) weights of the rows, averaged; ``each``: at each key over the layers that admit it."""
        drop = [] if sinks else [s.position for s in self.sinks()]
        if chosen is None:
            if self.rollout is None:
                raise TraceError("This reading holds no rollout: call attend with rollout=True.")
            return without(self.rollout[rows].astype(np.float32), drop)[..., keys].mean(0)
        if not len(chosen):
            return np.zeros(len(keys), np.float32)
        total: np.ndarray = np.zeros((len(rows), len(keys)), np.float32)
        admitting = np.zeros(total.shape, np.int32)
        for i in chosen:
            part = without(self._whole(i)[np.ix_(heads, rows)], drop)[..., keys]  # (heads, rows, keys)
            if reduce == "max":
                total = np.maximum(total, part.max(0))
            else:
                total += part.mean(0)
                admitting += self._seen(i, rows, keys) if each else 1
        return (total / np.maximum(admitting, 1) if reduce == "mean" else total).mean(0)

    def _about(self, token: Picks, position: Picks, layer: Any, head: Picks, reduce: str, sinks: bool) -> str:
        if position is not None or (token is None and not len(self.tokens)):
            query = f"position {listed(self.positions.tolist() if position is None else position)}"
        else:
            ks = self.tokens.tolist() if token is None else several("token", token)
            said = "".join(self.pieces[self.prompt_tokens :][k] for k in ks[:6]).strip()
            query = f"token {listed(ks)} ({said!r})"
        every = f"head{'s' * (len(self.heads) != 1)} {listed(self.heads.tolist())}" if self.lacks_heads else "all heads"
        heads = f"{reduce} of {every}" if head is None else f"head {listed(head)}, {reduce}"
        held = f" (of {listed(self._numbers)})" if self.lacks_layers else ""
        where = f"layers that see it{held}" if layer is None else f"layer {listed(layer)}"
        where = "rollout" if layer == "rollout" else where
        return f"{query}, {where}, {heads}{'' if sinks else ', without sinks'}"
