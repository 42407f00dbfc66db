"""Does it matter? Hide a patch, a frame or a word and see how much less probable the answer gets.

Attention says where a model looked, not what it used. Occlusion (Zeiler & Fergus 2014) asks the second question: each
place is hidden in turn, with its neighbours, and the answer scored again. Gemma 4's encoder-free members embed every
patch and frame alone, so hiding one changes one row of the model's input; in the others a tower sees the picture with
the hole, and every row of it may change. What comes before is computed once and shared by all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench import masks
from workbench.attention import not_stopped, warn_of_another
from workbench.cache import keep_all, rewound
from workbench.decoding import Engine
from workbench.embedding import embed_feature, embedded, mean_of, owners, per_layer, stand_in
from workbench.errors import ModelError, PromptError
from workbench.features import Feature, Reader
from workbench.maps import Map, laid_out, listed, places, run_key, several
from workbench.occlusions import Occlusion
from workbench.prompt import Request
from workbench.trace import Segment, Trace

if TYPE_CHECKING:
    import torch

__all__ = ["HOW", "SIZE", "occlude"]

HOW = {"image": ("mean", "grey", "blur"), "audio": ("silence", "noise"), "text": ("mean",)}
"""What may stand in for what is hidden; the first is the default. ``mean`` of an image is its mean colour, of words the
mean of all the vocabulary's embeddings; ``blur`` leaves what a box of one patch leaves; ``noise`` is as loud as the
sound. Without an encoder a patch's norm takes its brightness away and keeps its hue: only ``grey`` has none then."""

SIZE = {"image": 3, "audio": 3, "text": 1}
"""Places a side of the block that is hidden around each, where nothing else is asked for; of a small picture, at most
half of its shorter side. A thing covers several patches and a sound of speech about three frames, and each of them
tells of it: alone, none is missed."""

_BATCH_TOKENS = 4096  # rows of all variants of a pass together
_BATCH = 64  # variants of a pass: each has a row of logits, a megabyte of 12B
_TILES = 64  # a grid of more than twice as many places is hidden by tiles first
_REFINED = 0.25  # of the tiles, those that matter most, place by place


def occlude(
    engine: Engine, request: Request, trace: Trace, reader: Reader, *, token: Any = None, over: str = "image",
    media: int = 0, how: str | None = None, size: int | None = None, tile: int | None = None,
    against: tuple[int, str] | None = None, stop: Any = None,
) -> Occlusion:  # fmt: skip
    """The drop of some tokens' logprob by each hidden place. See ``LoadedModel.occlude``.

    ``against`` is the id and piece of another word in the place of the one token, whose logprob is taken off.
    """
    import torch

    if over not in HOW:
        raise PromptError(f"over={over!r}: expected {', '.join(map(repr, HOW))}.")
    how = HOW[over][0] if how is None else how
    if how not in HOW[over]:
        raise PromptError(
            f"how={how!r}: what is hidden over {over} is replaced by {' or '.join(map(repr, HOW[over]))}."
        )
    size = _side("size", size, "places a side of the block around each place, from 1, or None")
    tile = _side("tile", tile, "places a side that are hidden at once, from 1, or None")
    n = len(trace.tokens)
    tokens = sorted({trace.index(k) for k in (range(n) if token is None else several("token", token))})
    if not tokens:
        raise PromptError("This answer has no tokens whose probability could change.")
    if against is not None and len(tokens) != 1:
        raise PromptError(f"against={against[1]!r} goes with one token=; {len(tokens)} were asked about.")
    if against is not None and against[0] == int(trace.tokens.token_id[tokens[0]]):
        raise PromptError(f"against={against[1]!r} is token {tokens[0]} itself: name another word.")
    segments = _places(trace, over, media)
    size = size or _usual(over, segments[0])
    positions = np.concatenate([np.arange(s.start, s.stop) for s in segments])
    with torch.inference_mode():
        ids = np.concatenate([trace.prompt.ids, engine.said(trace.tokens.token_id[: tokens[-1] + 1].tolist())])
        hole: _Words | _Rows | _Tower
        if over == "text":
            hole = _Words(engine, positions)
        else:
            feature = next((f for f in request.features if f.start == positions[0]), None)
            if feature is None:
                raise ModelError("The prompt's media are not where its segments say.")
            samples = request.audio[media].samples if over == "audio" else None
            values = stand_in(feature, how, segments, reader.heard, samples)
            hole = (_Rows if engine.direct else _Tower)(engine, feature, values)
        runner = _Runner(
            engine, request, trace, embedded(engine, request, ids[:-1]), per_layer(engine, request, ids[:-1]), hole,
            positions, tokens, over == "image" or isinstance(hole, _Tower), stop, against and against[0],
        )  # fmt: skip
        drops, fine = _measure(runner, Blocks.over(segments, positions, size), tile)
    words = "".join(trace.tokens.piece[k] for k in tokens[:6]).strip()
    block = "" if size == 1 else f" in blocks of {size} × {size}" if over == "image" else f" in runs of {size}"
    other = "" if against is None else f" rather than {against[1].strip()!r}"
    more: dict[str, Any] = {
        "unit": "drop of logprob, nats" if against is None else "drop of logprob difference, nats",
        "about": f"token {listed(tokens)} ({words!r}{other}), {over} hidden by {how}{block}",
    }
    if over == "text":
        values = np.full(len(trace.ids), np.nan, np.float32)
        measured = np.zeros(len(trace.ids), bool)
        values[positions], measured[positions] = drops, fine
        made, fine = Map("text", None, values, np.arange(len(values)), **more), measured
    else:
        made = laid_out(segments, over, media, drops, **more)
    return Occlusion(
        map=made, tokens=np.array(tokens), base=runner.base, fine=fine, how=how, size=size,
        passes=runner.passes, identity=trace.model.identity, run=run_key(trace), against=against and against[0],
    )  # fmt: skip


def _side(name: str, value: Any, expected: str) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise PromptError(f"{name}={value!r}: expected {expected}.")
    return int(value)


def _usual(over: str, segment: Segment) -> int:
    shorter = min(segment.rows or 1, segment.cols or 1) if over == "image" else len(segment)
    return max(1, min(SIZE[over], shorter // 2))


def _places(trace: Trace, over: str, media: int) -> list[Segment]:
    if over != "text":
        return places(trace.prompt.segments, over, media)
    if media != 0:
        raise PromptError(f"media={media!r} goes with over='image' or over='audio', not with over='text'.")
    words = [s for s in trace.prompt.segments if s.kind in ("text", "thought", "tool")]
    if not words:
        raise PromptError("This prompt has no words that could be hidden.")
    return words


# --- holes ------------------------------------------------------------------------------------------------------------

# Each puts a variant's hole into a row of the input: (n, D) embeddings from the position ``start`` on and, where the
# model has them, (n, layers, d) inputs of each layer. ``variant`` are indices of hidden places.


class _Words:
    """Words hidden by the mean of all words."""

    def __init__(self, engine: Engine, positions: np.ndarray) -> None:
        text = engine.transformer.config.get_text_config()
        language, device = engine.transformer.model.language_model, engine.transformer.device
        self.positions = positions
        self.mean = mean_of(engine.transformer.get_input_embeddings(), int(text.vocab_size), device)
        width = getattr(text, "hidden_size_per_layer_input", 0)
        self.own: Any = width and mean_of(
            language.embed_tokens_per_layer, int(text.vocab_size_per_layer_input), device
        ).view(-1, width)  # fmt: skip

    def put(self, variant: np.ndarray, start: int, embeds: torch.Tensor, own: torch.Tensor | None) -> None:
        """Put it in."""
        at = self.positions[variant] - start
        embeds[at] = self.mean.to(embeds.dtype)
        if own is not None:
            own[at] = self.own.to(own.dtype)


class _Rows:
    """Patches or frames hidden that are embedded one by one."""

    def __init__(self, engine: Engine, feature: Feature, values: torch.Tensor) -> None:
        self.first = feature.start
        self.hidden = embed_feature(engine, feature, values[None])[0]

    def put(self, variant: np.ndarray, start: int, embeds: torch.Tensor, _own: torch.Tensor | None) -> None:
        """Put it in."""
        embeds[self.first + variant - start] = self.hidden[variant].to(embeds.dtype)


class _Tower:
    """Places hidden before a tower sees the picture or hears the sound."""

    def __init__(self, engine: Engine, feature: Feature, values: torch.Tensor) -> None:
        self.engine, self.feature, self.values = engine, feature, values
        self.owners = owners(feature)

    def put(self, variant: np.ndarray, start: int, embeds: torch.Tensor, _own: torch.Tensor | None) -> None:
        """Put it in."""
        values = self.feature.values.clone()
        rows = np.isin(self.owners, variant)
        values[rows] = self.values[rows]
        first, stop = self.feature.start - start, self.feature.stop - start
        embeds[first:stop] = embed_feature(self.engine, self.feature, values[None])[0].to(embeds.dtype)


# --- running ----------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Runner:
    """Scores variants of one prompt, the part before what is hidden computed once."""

    engine: Engine
    request: Request
    trace: Trace
    embeddings: torch.Tensor
    own: torch.Tensor | None
    hole: _Words | _Rows | _Tower
    positions: np.ndarray
    tokens: list[int]
    whole_block: bool
    stop: Any
    against: int | None = None

    def __post_init__(self) -> None:
        import torch
        from transformers import DynamicCache

        self.check = not_stopped(self.stop, "occlude")
        self.passes = 0
        device = self.embeddings.device
        length = self.embeddings.shape[1]
        self.types = torch.nn.functional.pad(self.request.type_ids, (0, length - self.request.type_ids.shape[1])).to(
            device
        )
        self.rows = torch.tensor([len(self.trace.prompt) - 1 + k for k in self.tokens], device=device)
        self.ids = torch.tensor([int(self.trace.tokens.token_id[k]) for k in self.tokens], device=device)
        self.cache = DynamicCache(config=self.engine.transformer.config.get_text_config())
        keep_all(self.cache)
        said, other = self._score(self.embeddings, self.own, 0, self.cache)
        warn_of_another(float(np.abs(said[0].numpy() - self.trace.tokens.logprob[self.tokens]).max()))
        self.base = float((said.sum(dim=1) - other)[0])

    def drops(self, variants: Sequence[np.ndarray]) -> np.ndarray:
        """(variants,) float32: how much less probable the tokens are with those places hidden.

        Args:
            variants: Indices into ``positions`` of what each one hides.
        """
        out: list[np.ndarray] = []
        while len(out) < len(variants):
            self.check()
            batch, start = self._next(variants[len(out) :])
            out.extend(self._batch(batch, start))
        return np.array(out, np.float32)

    def _next(self, variants: Sequence[np.ndarray]) -> tuple[Sequence[np.ndarray], int]:
        """As many of the variants as go into one pass, and where that begins: at the first of what they hide."""
        length = start = self.embeddings.shape[1]
        for n, variant in enumerate(variants):
            # a picture's patches see each other, and a tower mixes; other words and frames only look back
            earliest = min(start, int(self.positions[0] if self.whole_block else self.positions[variant].min()))
            if n and (n == _BATCH or (n + 1) * (length - earliest) > _BATCH_TOKENS):
                return variants[:n], start
            start = earliest
        return variants, start

    def _batch(self, batch: Sequence[np.ndarray], start: int) -> list[Any]:
        given = self.embeddings[:, start:].repeat(len(batch), 1, 1)
        own = None if self.own is None else self.own[:, start:].repeat(len(batch), 1, 1, 1)
        for row, variant in enumerate(batch):
            self.hole.put(variant, start, given[row], None if own is None else own[row])
        cache = rewound(self.cache, self.embeddings.shape[1] - start) if start else None
        for layer in cache.layers if cache else ():
            layer.keys = layer.keys.expand(len(batch), -1, -1, -1)
            layer.values = layer.values.expand(len(batch), -1, -1, -1)
        self.passes += len(batch)
        said, other = self._score(given, own, start, cache)
        return (self.base - (said.sum(dim=1) - other)).tolist()

    def _score(
        self, given: torch.Tensor, own: torch.Tensor | None, start: int, cache: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, tokens) logprobs of the tokens, and (B,) of the one to be against; 0 where there is none."""
        import torch

        engine = self.engine
        positions = torch.arange(start, start + given.shape[1], device=given.device)[None]
        more = {} if own is None else {"per_layer_inputs": own}
        out = engine.transformer.model.language_model(
            inputs_embeds=given, position_ids=positions.expand(len(given), -1), past_key_values=cache,
            use_cache=cache is not None,
            attention_mask=masks.build(self.types, engine.window, start=start, bidirectional=engine.bidirectional),
            **more,
        ).last_hidden_state[:, self.rows - start]  # (B, tokens, D)  # fmt: skip
        said = torch.zeros((len(given), len(self.ids)), dtype=torch.float64)
        other = torch.zeros(len(given), dtype=torch.float64)
        for k, row in enumerate(out.transpose(0, 1)):
            logprob = engine.logits(row).log_softmax(dim=-1)
            said[:, k] = logprob[:, self.ids[k]].cpu().double()
            if self.against is not None:
                other += logprob[:, self.against].cpu().double()
        return said, other


@dataclass(frozen=True, eq=False)
class Blocks:
    """What is hidden together with each place: its neighbours up to half a block away, as far as the edge.

    Attributes:
        at: (n, 2) int64 row and column of each place; of frames and words, 0 and their number.
        run: (n,) int64 which stretch each lies in: words on either side of a picture are no neighbours.
        size: Places a side; the block of an even size reaches one place further right and down.
    """

    at: np.ndarray
    run: np.ndarray
    size: int

    @classmethod
    def over(cls, segments: Sequence[Segment], positions: np.ndarray, size: int) -> Blocks:
        """Over what was hidden; a picture lies in one segment, a row of its grid after the other."""
        n, cols = len(positions), segments[0].cols
        if segments[0].rows is not None and cols is not None and segments[0].rows * cols == n:
            return cls(np.stack(np.divmod(np.arange(n), cols), axis=1), np.zeros(n, np.int64), size)
        run = np.cumsum(np.diff(positions, prepend=positions[0]) > 1)
        return cls(np.stack([np.zeros(n, np.int64), np.arange(n)], axis=1), run, size)

    def around(self, places: np.ndarray) -> np.ndarray:
        """Indices of all that is hidden with any of some places."""
        after = self.size // 2
        gap = self.at[:, None] - self.at[places]  # (n, places, 2)
        near = ((gap >= after + 1 - self.size) & (gap <= after)).all(axis=-1)
        return np.flatnonzero((near & (self.run[:, None] == self.run[places])).any(axis=1))

    def tiles(self, side: int) -> list[np.ndarray]:
        """The places, cut into tiles of so many a side."""
        key = np.column_stack([self.at // side, self.run])
        _, group = np.unique(key, axis=0, return_inverse=True)
        return [np.flatnonzero(group.ravel() == g) for g in range(int(group.max()) + 1)]

    @property
    def side(self) -> int:
        """Of the tiles to try first where each place alone would take too long; 1 where it would not."""
        n = len(self.at)
        return 1 if n <= 2 * _TILES else math.ceil(math.sqrt(n / _TILES) if self.at[:, 0].any() else n / _TILES)


def _measure(runner: _Runner, blocks: Blocks, side: int | None) -> tuple[np.ndarray, np.ndarray]:
    """(n,) drops, and whether each was measured by itself: many places go by tiles first, then the best one by one.

    A tile is tried with all that the blocks of its places reach. Each of them is held to lose its block's part of that.
    """
    n = len(blocks.at)
    around = [blocks.around(np.array([i])) for i in range(n)]
    tiles = blocks.tiles(blocks.side if side is None else side)
    tiles.sort(key=lambda t: -int(t.min()))  # what is hidden late leaves most to share
    reached = [blocks.around(t) for t in tiles]
    found = runner.drops(reached)
    drops, fine = np.zeros(n, np.float32), np.zeros(n, bool)
    for t, reach, drop in zip(tiles, reached, found, strict=True):
        drops[t], fine[t] = [drop * len(around[i]) / len(reach) for i in t], len(t) == 1
    rough = [(abs(float(drop)), t) for t, drop in zip(tiles, found, strict=True) if len(t) > 1]
    rough.sort(key=lambda pair: -pair[0])
    again = sorted((i for _, t in rough[: math.ceil(len(tiles) * _REFINED)] for i in t), reverse=True)
    for i, drop in zip(again, runner.drops([around[i] for i in again]), strict=True):
        drops[i], fine[i] = drop, True
    return drops, fine
