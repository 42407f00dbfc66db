"""Does it matter? Hide a patch, a frame or a word and see how much less probable the answer gets.

Attention says where a model looked, not what it used. Occlusion (Zeiler & Fergus 2014) asks the second question: each
place is hidden in turn and the answer scored again. Gemma 4's encoder-free members embed every patch and frame alone,
so hiding one changes one row of the model's input; in the others a tower sees the picture with the hole, and every row
of it may change. What comes before is computed once and shared by all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench import masks
from workbench.attention import not_stopped
from workbench.cache import keep_all, rewound
from workbench.decoding import Engine
from workbench.embedding import embed_feature, embedded, mean_of, owners, per_layer, stand_in
from workbench.errors import ModelError, PromptError
from workbench.features import Feature, Reader
from workbench.maps import Map, laid_out, listed, places, several
from workbench.occlusions import Occlusion
from workbench.prompt import Request
from workbench.trace import Segment, Trace

if TYPE_CHECKING:
    import torch

__all__ = ["HOW", "occlude"]

HOW = {"image": ("mean", "grey", "blur"), "audio": ("silence", "noise"), "text": ("mean",)}
"""What may stand in for what is hidden; the first is the default. ``mean`` of an image is its mean colour, of words the
mean of all the vocabulary's embeddings; ``blur`` leaves what a box of one patch leaves; ``noise`` is as loud as the
sound."""

_BATCH_TOKENS = 4096  # rows of all variants of a pass together
_TILES = 64  # a grid of more than twice as many places is hidden by tiles first
_REFINED = 0.25  # of the tiles, those that matter most, place by place


def occlude(
    engine: Engine, request: Request, trace: Trace, reader: Reader, *, token: Any = None, over: str = "image",
    media: int = 0, how: str | None = None, tile: int | None = None, stop: Any = None,
) -> Occlusion:  # fmt: skip
    """The drop of some tokens' logprob by each hidden place. See ``LoadedModel.occlude``."""
    import torch

    if over not in HOW:
        raise PromptError(f"over={over!r}: expected {', '.join(map(repr, HOW))}.")
    how = HOW[over][0] if how is None else how
    if how not in HOW[over]:
        raise PromptError(
            f"how={how!r}: what is hidden over {over} is replaced by {' or '.join(map(repr, HOW[over]))}."
        )
    if tile is not None and (isinstance(tile, bool) or not isinstance(tile, int) or tile < 1):
        raise PromptError(f"tile={tile!r}: expected places a side that are hidden at once, from 1, or None.")
    n = len(trace.tokens)
    tokens = sorted({trace.index(k) for k in (range(n) if token is None else several("token", token))})
    if not tokens:
        raise PromptError("This answer has no tokens whose probability could change.")
    segments = _places(trace, over, media)
    positions = np.concatenate([np.arange(s.start, s.stop) for s in segments])
    with torch.inference_mode():
        ids = np.concatenate([trace.prompt.ids, trace.tokens.token_id[: tokens[-1] + 1]])
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
            positions, tokens, over == "image" or isinstance(hole, _Tower), stop,
        )  # fmt: skip
        drops, fine = _measure(runner, segments[0], len(positions), tile)
    words = "".join(trace.tokens.piece[k] for k in tokens[:6]).strip()
    more: dict[str, Any] = {
        "unit": "drop of logprob, nats", "about": f"token {listed(tokens)} ({words!r}), {over} hidden by {how}",
    }  # fmt: skip
    if over == "text":
        values = np.full(len(trace.ids), np.nan, np.float32)
        measured = np.zeros(len(trace.ids), bool)
        values[positions], measured[positions] = drops, fine
        made, fine = Map("text", None, values, np.arange(len(values)), **more), measured
    else:
        made = laid_out(segments, over, media, drops, **more)
    return Occlusion(
        map=made, tokens=np.array(tokens), base=runner.base, fine=fine, how=how, passes=runner.passes,
        identity=trace.model.identity,
    )  # fmt: skip


def _places(trace: Trace, over: str, media: int) -> list[Segment]:
    if over != "text":
        return places(trace.prompt.segments, over, media)
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
        self.base = float(self._score(self.embeddings, self.own, 0, self.cache)[0])

    def drops(self, variants: Sequence[np.ndarray]) -> np.ndarray:
        """(variants,) float32: how much less probable the tokens are with those places hidden.

        Args:
            variants: Indices into ``positions`` of what each one hides.
        """
        out: list[np.ndarray] = []
        while len(out) < len(variants):
            self.check()
            first = variants[len(out)]
            # a picture's patches see each other, and a tower mixes; other words and frames only look back
            start = int(self.positions[0] if self.whole_block else self.positions[first].min())
            most = max(1, _BATCH_TOKENS // (self.embeddings.shape[1] - start))
            batch = variants[len(out) : len(out) + most]
            out.extend(self._batch(batch, min(start, *(int(self.positions[v].min()) for v in batch))))
        return np.array(out, np.float32)

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
        return [self.base - float(score) for score in self._score(given, own, start, cache)]

    def _score(self, given: torch.Tensor, own: torch.Tensor | None, start: int, cache: Any) -> torch.Tensor:
        """(B,) summed logprob of the tokens."""
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
        total = torch.zeros(len(given), dtype=torch.float64)
        for k, row in enumerate(out.transpose(0, 1)):
            total += engine.logits(row).log_softmax(dim=-1)[:, self.ids[k]].double().cpu()
        return total


def _measure(runner: _Runner, segment: Segment, n: int, tile: int | None) -> tuple[np.ndarray, np.ndarray]:
    """(n,) drops, and whether each was measured alone: many places go by tiles first, then the best one by one."""
    grid = segment.rows is not None and segment.cols is not None and segment.rows * segment.cols == n
    if tile is None:
        tile = 1 if n <= 2 * _TILES else math.ceil(math.sqrt(n / _TILES) if grid else n / _TILES)
    group: np.ndarray
    if grid:
        r, c = np.divmod(np.arange(n), segment.cols or 1)
        group = (r // tile) * n + c // tile
    else:
        group = np.arange(n) // tile
    _, group = np.unique(group, return_inverse=True)
    tiles = [np.flatnonzero(group == g) for g in range(int(group.max()) + 1)]
    tiles.sort(key=lambda t: -int(t.min()))  # what is hidden late leaves most to share
    found = runner.drops(tiles)
    drops, fine = np.zeros(n, np.float32), np.zeros(n, bool)
    for t, drop in zip(tiles, found, strict=True):
        drops[t], fine[t] = drop / len(t), len(t) == 1
    rough = [(abs(float(drop)), t) for t, drop in zip(tiles, found, strict=True) if len(t) > 1]
    rough.sort(key=lambda pair: -pair[0])
    again = [np.array([i]) for _, t in rough[: math.ceil(len(tiles) * _REFINED)] for i in t]
    again.sort(key=lambda t: -int(t[0]))
    for t, drop in zip(again, runner.drops(again), strict=True):
        drops[t], fine[t] = drop, True
    return drops, fine
