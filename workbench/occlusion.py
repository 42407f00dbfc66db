"""Does it matter? Hide a patch, a frame or a word and see how much less probable the answer gets.

Attention says where a model looked, not what it used. Occlusion (Zeiler & Fergus 2014) asks the second question: each
place is hidden in turn and the answer scored again. Gemma 4's encoder-free members embed every patch and frame alone,
so hiding one changes one row of the model's input; what comes before it is computed once and shared by all.
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
from workbench.errors import ModelError, PromptError
from workbench.maps import Map, laid_out, listed, places, several
from workbench.occlusions import Occlusion
from workbench.prompt import Feature, Request
from workbench.trace import Segment, Trace

if TYPE_CHECKING:
    import torch

__all__ = ["HOW", "embed_feature", "embedded", "occlude"]

HOW = {"image": ("mean", "grey", "blur"), "audio": ("silence", "noise"), "text": ("mean",)}
"""What may stand in for what is hidden; the first is the default. ``mean`` of an image is its mean colour, of words the
mean of all the vocabulary's embeddings; ``blur`` leaves what a box of one patch leaves; ``noise`` is as loud as the
sound."""

_BATCH_TOKENS = 4096  # rows of all variants of a pass together
_TILES = 64  # a grid of more than twice as many places is hidden by tiles first
_REFINED = 0.25  # of the tiles, those that matter most, place by place


def occlude(
    engine: Engine, request: Request, trace: Trace, *, token: Any = None, over: str = "image", media: int = 0,
    how: str | None = None, tile: int | None = None, stop: Any = None,
) -> Occlusion:  # fmt: skip
    """The drop of some tokens' logprob by each hidden place. See ``LoadedModel.occlude``."""
    import torch

    if not engine.direct:
        raise ModelError("occlude needs a model whose patches and frames are embedded one by one (gemma4_unified).")
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
        base = embedded(engine, request, ids[:-1])  # (1, rows, D)
        feature = next((f for f in request.features if f.start == positions[0]), None)
        hidden = (
            _words_mean(engine) if over == "text" else embed_feature(engine, feature, _hidden(feature, how, segments))
        )
        runner = _Runner(engine, request, trace, base, hidden, positions, tokens, over == "image", stop)
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


# --- embeddings -------------------------------------------------------------------------------------------------------


def embedded(engine: Engine, request: Request, ids: np.ndarray) -> torch.Tensor:
    """(1, n, D) what the first layer is given for a prompt and the tokens after it, patches and frames included."""
    import torch

    model = engine.transformer.model
    device = engine.transformer.device
    given = torch.as_tensor(np.array(ids, np.int64), device=device)[None]
    soft = torch.nn.functional.pad(request.type_ids, (0, len(ids) - request.type_ids.shape[1])).to(device) != 0
    out = model.get_input_embeddings()(given.masked_fill(soft, model.config.text_config.pad_token_id)).clone()
    for feature in request.features:
        out[0, feature.start : feature.stop] = embed_feature(engine, feature, feature.values).to(out.dtype)
    return out


def embed_feature(engine: Engine, feature: Feature | None, values: torch.Tensor) -> torch.Tensor:
    """(n, D) embeddings of the patches or frames of one picture or sound, given their (n, …) values."""
    if feature is None:
        raise ModelError("The prompt's media are not where its segments say.")
    model, device = engine.transformer.model, engine.transformer.device
    if feature.xy is not None:
        return model.embed_vision(values[None].to(device), feature.xy[None].to(device)).pooler_output[0]
    return model.embed_audio(inputs_embeds=values[None].to(device))[0]


def _words_mean(engine: Engine) -> torch.Tensor:
    """(1, D) mean embedding of the vocabulary."""
    import torch

    embed = engine.transformer.get_input_embeddings()
    size = int(engine.transformer.config.get_text_config().vocab_size)
    parts = [embed(torch.arange(start, min(start + 8192, size), device=engine.transformer.device)).float().sum(0)
             for start in range(0, size, 8192)]  # fmt: skip
    return torch.stack(parts).sum(0, keepdim=True) / size


def _hidden(feature: Feature | None, how: str, segments: Sequence[Segment]) -> torch.Tensor:
    """(n, …) what stands in for each patch or frame."""
    import torch

    if feature is None:
        raise ModelError("The prompt's media are not where its segments say.")
    values = feature.values
    if how == "silence":
        return torch.zeros_like(values)
    if how == "noise":
        generator = torch.Generator().manual_seed(0)
        loud = values.square().mean().sqrt()
        return torch.randn(values.shape, generator=generator).to(values.dtype) * loud
    if how == "grey":
        return torch.full_like(values, 0.5)
    if how == "mean":
        colour = values.view(-1, 3).mean(0)
        return colour.repeat(values.shape[1] // 3).expand_as(values).clone()
    rows, cols = segments[0].rows or 1, segments[0].cols or 1
    side = math.isqrt(values.shape[1] // 3)
    picture = values.view(rows, cols, side, side, 3).permute(4, 0, 2, 1, 3).reshape(1, 3, rows * side, cols * side)
    box, half = side // 2 * 2 + 1, side // 2
    smooth = picture
    for kernel, padding in (((box, 1), (half, 0)), ((1, box), (0, half))) * 2:  # twice a box is nearly a bell
        smooth = torch.nn.functional.avg_pool2d(smooth, kernel, 1, padding, count_include_pad=False)
    cut = smooth.reshape(3, rows, side, cols, side).permute(1, 3, 2, 4, 0)
    return cut.reshape(values.shape)


# --- running ----------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Runner:
    """Scores variants of one prompt, the part before what is hidden computed once."""

    engine: Engine
    request: Request
    trace: Trace
    embeddings: torch.Tensor
    hidden: torch.Tensor
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
        self.base = float(self._score(self.embeddings, 0, self.cache)[0])

    def drops(self, variants: Sequence[np.ndarray]) -> np.ndarray:
        """(variants,) float32: how much less probable the tokens are with those places hidden.

        Args:
            variants: Indices into ``positions`` of what each one hides.
        """
        out: list[np.ndarray] = []
        while len(out) < len(variants):
            self.check()
            first = variants[len(out)]
            # a picture's patches see each other, so all of it is computed anew; words and frames only look back
            start = int(self.positions[0] if self.whole_block else self.positions[first].min())
            most = max(1, _BATCH_TOKENS // (self.embeddings.shape[1] - start))
            batch = variants[len(out) : len(out) + most]
            out.extend(self._batch(batch, min(start, *(int(self.positions[v].min()) for v in batch))))
        return np.array(out, np.float32)

    def _batch(self, batch: Sequence[np.ndarray], start: int) -> list[Any]:
        import torch

        given = self.embeddings[:, start:].repeat(len(batch), 1, 1)
        for row, variant in enumerate(batch):
            at = torch.as_tensor(self.positions[variant] - start, device=given.device)
            own = self.hidden if len(self.hidden) == 1 else self.hidden[torch.as_tensor(variant, device=given.device)]
            given[row, at] = own.to(given.dtype)
        cache = rewound(self.cache, self.embeddings.shape[1] - start) if start else None
        for layer in cache.layers if cache else ():
            layer.keys = layer.keys.expand(len(batch), -1, -1, -1)
            layer.values = layer.values.expand(len(batch), -1, -1, -1)
        self.passes += len(batch)
        return [self.base - float(score) for score in self._score(given, start, cache)]

    def _score(self, given: torch.Tensor, start: int, cache: Any) -> torch.Tensor:
        """(B,) summed logprob of the tokens."""
        import torch

        engine = self.engine
        positions = torch.arange(start, start + given.shape[1], device=given.device)[None]
        out = engine.transformer.model.language_model(
            inputs_embeds=given, position_ids=positions.expand(len(given), -1), past_key_values=cache,
            use_cache=cache is not None,
            attention_mask=masks.build(self.types, engine.window, start=start, bidirectional=engine.bidirectional),
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
