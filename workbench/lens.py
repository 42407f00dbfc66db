"""What every position means after each layer, in the model's own words; and what its first layer looks for.

``lens`` reads hidden states through the model's own end: final norm, head, soft-capping. It works for answer tokens and
for patches and frames alike, which in this model are positions as words are. ``nearest`` compares what the first layer
is given for a raw patch with the vocabulary's embeddings; ``filters`` shows the projections that make it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.attention import gap, not_stopped, replayed, wanted_positions
from workbench.decoding import Engine
from workbench.embedding import embedded
from workbench.errors import ModelError, PromptError
from workbench.lenses import Filters, Lens, Nearest
from workbench.maps import all_segments, places, run_key
from workbench.prompt import Request
from workbench.recording import ranked
from workbench.settings import whole
from workbench.trace import Trace

if TYPE_CHECKING:
    import torch

__all__ = ["OVER", "filters", "lens", "nearest"]

OVER = ("answer", "image", "audio", "prompt")
"""What a lens may be laid over."""

_ROWS = 64  # rows of logits held at once


def lens(
    engine: Engine, request: Request, trace: Trace, piece: Callable[[int], str], *, over: str = "answer",
    media: int = 0, tokens: Any = None, top: int = 5, stop: Any = None,
) -> Lens:  # fmt: skip
    """Hidden states after every layer, read as the last. See ``LoadedModel.lens``."""
    import torch

    positions = _positions(trace, over, media, tokens)
    whole("top", top, 1, 100)
    language = engine.transformer.model.language_model
    check = not_stopped(stop, "lens")
    at = torch.as_tensor(positions, device=engine.transformer.device)
    states: list[torch.Tensor] = []

    def before(_module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        given = args[0] if args else kwargs["hidden_states"]
        states.append(given[0, at].clone())

    def after(_module: Any, _args: tuple, output: Any) -> None:
        check()
        states.append((output[0] if isinstance(output, tuple) else output)[0, at].clone())

    handles = [language.layers[0].register_forward_pre_hook(before, with_kwargs=True)]
    handles += [layer.register_forward_hook(after) for layer in language.layers]
    try:
        with torch.inference_mode():
            gap(engine, replayed(engine, request, trace), trace)  # says so where this is not what was run
            columns = _read(engine, states, _final(trace, over, positions), top)
    finally:
        for handle in handles:
            handle.remove()
    wanted = np.union1d(columns["top_ids"], columns["final_ids"])
    total = len(trace.prompt) + len(trace.tokens)
    return Lens(
        positions=positions, layers=np.arange(-1, len(language.layers)), pieces={int(i): piece(int(i)) for i in wanted},
        **columns, over=over, media=int(media),
        segments=all_segments(trace.prompt.segments, trace.segments, total), prompt_tokens=len(trace.prompt),
        identity=trace.model.identity, run=run_key(trace),
    )  # fmt: skip


def _positions(trace: Trace, over: str, media: int, tokens: Any) -> np.ndarray:
    if over not in OVER:
        raise PromptError(f"over={over!r}: expected one of {', '.join(map(repr, OVER))}.")
    if over in ("answer", "prompt") and media != 0:
        raise PromptError(f"media={media!r} goes with over='image' or over='audio', not with over={over!r}.")
    if over == "answer":
        return np.array(wanted_positions(trace, tokens, None))
    if tokens is not None:
        raise PromptError(f"tokens={tokens!r} goes with over='answer', not with over={over!r}.")
    if over == "prompt":
        return np.arange(len(trace.prompt))
    (segment,) = places(trace.prompt.segments, over, media)
    return np.arange(segment.start, segment.stop)


def _final(trace: Trace, over: str, positions: np.ndarray) -> np.ndarray | None:
    """The tokens whose rank is followed; None: the last layer's own first choice."""
    return trace.ids[positions + 1] if over == "answer" else None


def _read(engine: Engine, states: list[torch.Tensor], final: np.ndarray | None, top: int) -> dict[str, np.ndarray]:
    """The columns of a Lens from (P, D) hidden states, layer by layer."""
    import torch

    language = engine.transformer.model.language_model
    parts: dict[str, list[Any]] = {k: [] for k in ("top_ids", "top_logprob", "rank", "logprob", "kl")}
    chosen: list[Any] = []
    for start in range(0, len(states[0]), _ROWS):
        here = slice(start, start + _ROWS)
        last = engine.logits(language.norm(states[-1][here])).log_softmax(dim=-1)  # (c, V)
        ids = last.argmax(dim=-1) if final is None else torch.as_tensor(
            final[here].astype(np.int64), device=last.device
        )  # fmt: skip
        chosen.append(ids)
        found: dict[str, list[Any]] = {k: [] for k in parts}
        for state in states:
            logprob = engine.logits(language.norm(state[here])).log_softmax(dim=-1)
            mine = logprob.gather(1, ids[:, None])
            best, top_ids = ranked(logprob, top)
            found["top_ids"].append(top_ids)
            found["top_logprob"].append(best)
            found["logprob"].append(mine[:, 0])
            found["rank"].append((logprob > mine).sum(dim=-1))
            found["kl"].append((last.exp() * (last - logprob)).sum(dim=-1))
        for name, column in found.items():
            parts[name].append(torch.stack(column))
    out = {name: torch.cat(part, dim=1).cpu().numpy() for name, part in parts.items()}
    return {**out, "final_ids": torch.cat(chosen).cpu().numpy()}


def nearest(
    engine: Engine, request: Request, trace: Trace, piece: Callable[[int], str], *, over: str = "image",
    media: int = 0, top: int = 5,
) -> Nearest:  # fmt: skip
    """Which words' embeddings a raw patch or frame is nearest to. See ``LoadedModel.nearest``."""
    import torch

    if not engine.direct:
        raise ModelError("nearest needs a model whose patches and frames are embedded one by one (gemma4_unified).")
    if over not in ("image", "audio"):
        raise PromptError(f"over={over!r}: expected 'image' or 'audio'.")
    whole("top", top, 1, 100)
    (segment,) = places(trace.prompt.segments, over, media)
    embed = engine.transformer.get_input_embeddings()
    size = int(engine.transformer.config.get_text_config().vocab_size)
    with torch.inference_mode():
        given = embedded(engine, request, trace.prompt.ids)[0, segment.start : segment.stop].float()
        given = torch.nn.functional.normalize(given, dim=-1)
        best, ids = torch.zeros((len(given), 0)), torch.zeros((len(given), 0), dtype=torch.long)
        for start in range(0, size, 8192):
            words = embed(torch.arange(start, min(start + 8192, size), device=given.device)).float()
            near = (given @ torch.nn.functional.normalize(words, dim=-1).T).cpu()  # (n, words)
            both = torch.cat([best, near], dim=1)
            names = torch.cat([ids, torch.arange(start, start + near.shape[1]).expand(len(near), -1)], dim=1)
            best, order = both.topk(top, dim=-1)
            ids = names.gather(1, order)
    return Nearest(
        positions=np.arange(segment.start, segment.stop), ids=ids.numpy(), cosine=best.numpy(), rows=segment.rows,
        cols=segment.cols, pieces={int(i): piece(int(i)) for i in np.unique(ids.numpy())},
    )  # fmt: skip


def filters(engine: Engine, kind: str = "image", count: int = 32) -> Filters:
    """The rows of the projection of raw patches or sound that weigh most. See ``LoadedModel.filters``."""
    import torch

    if not engine.direct:
        raise ModelError("filters needs a model that projects raw patches and sound (gemma4_unified).")
    if kind not in ("image", "audio"):
        raise PromptError(f"kind={kind!r}: expected 'image' or 'audio'.")
    whole("count", count, 1, 100_000)
    model = engine.transformer.model
    with torch.inference_mode():
        if kind == "image":
            # the norm before it scales every pixel, and takes a patch's mean away: what a pixel counts for is all of it
            weight = model.embed_vision.patch_dense.weight.float() * model.embed_vision.patch_ln1.weight.float()
            weight = weight - weight.mean(dim=1, keepdim=True)
        else:
            weight = model.embed_audio.embedding_projection.weight.float()
        norms, units = weight.norm(dim=1).sort(descending=True)
        chosen = weight[units[:count]].cpu().numpy()
    about = {"kind": kind, "units": units[:count].cpu().numpy(), "norms": norms[:count].cpu().numpy()}
    if kind == "image":
        side = math.isqrt(chosen.shape[1] // 3)
        return Filters(**about, pictures=chosen.reshape(-1, side, side, 3))
    spectra = np.abs(np.fft.rfft(chosen, axis=1)).astype(np.float32)
    hertz = np.fft.rfftfreq(chosen.shape[1], 1 / 16_000).astype(np.float32)
    return Filters(**about, waves=chosen, spectra=spectra, hertz=hertz)
