"""Attention on demand: the wanted rows of a recorded run, from one more pass over its prompt and answer.

The pass runs under an attention function of ours, registered with Transformers. In each wanted layer it computes the
soft-max of the wanted query rows alone, a few at a time, moves them to the host in 16 bit, and hands the layer's
output to the usual kernel (SDPA). So the memory is that of the rows, where ``output_attentions`` holds layers × heads
× T², and rows of sliding layers are held over the keys they can see.

Masks are ``workbench.masks``', keys and queries Transformers': the rows are those of its ``eager`` attention on the
mask-corrected model, rounded to 16 bit.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench import masks
from workbench.decoding import Engine
from workbench.drafting import Drafter
from workbench.errors import ModelError, TraceError
from workbench.looks import Attention
from workbench.maps import Layer, several
from workbench.prompt import Request
from workbench.trace import Trace

if TYPE_CHECKING:
    import torch

__all__ = [
    "NAME",
    "attend",
    "attend_drafter",
    "attention_by",
    "gap",
    "inputs",
    "not_stopped",
    "register",
    "replayed",
    "wanted_positions",
    "warn_of_another",
]

NAME = "workbench_rows"
"""What the attention function is registered as."""

_CHUNK_BYTES = 64 << 20  # of scores held at once
_CHUNK_CPU = 2 << 20  # on a processor: what stays in its cache, since the scores are gone through four times
_ROLLOUT_MOST = 8192  # positions; two float32 matrices of this side are 0.5 GB
_LOGIT_ROWS = 64
_ANOTHER = 1.0  # nats from the recorded logprob; pocket in bfloat16, packed or not, stays below 0.2


@dataclass(eq=False)
class _Rows:
    """What one pass collects.

    Attributes:
        rows: (R,) query rows wanted.
        layers: Layers wanted, by number.
        heads: Query heads wanted; None for all.
        check: Called before each layer; raises to end the pass.
        weights, starts: By layer: (H, R, S) float16 on the host, and the first key.
        rollout: (T, T) float32, the running product; None when it is not wanted.
        shared: Keys and values of the layers in ``share``, for the drafter.
    """

    rows: torch.Tensor
    layers: frozenset[int]
    heads: torch.Tensor | None
    check: Callable[[], None]
    rollout: torch.Tensor | None = None
    share: frozenset[int] = frozenset()
    weights: dict[int, np.ndarray] = field(default_factory=dict)
    starts: dict[int, int] = field(default_factory=dict)
    shared: dict[int, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)

    def take(self, layer: int, query: torch.Tensor, key: torch.Tensor, mask: Any, scale: float) -> None:
        """Collect from one layer.

        Args:
            layer: Its number.
            query: (1, H, T, D).
            key: (1, H / groups, S, D).
            mask: (1, 1, T, S) bool, True where attention is allowed, or None for plain causal attention.
            scale: Of the scores.
        """
        import torch

        if layer in self.layers:
            allowed = _allowed(mask, self.rows, key.shape[2])  # (R, S)
            seen = allowed.any(dim=0).nonzero()[:, 0]
            first, last = (int(seen[0]), int(seen[-1]) + 1) if len(seen) else (0, 0)
            heads = query.shape[1] if self.heads is None else len(self.heads)
            kept, done = torch.empty((heads, len(self.rows), last - first), dtype=torch.float16), 0
            seen_keys = key[:, :, first:last]
            for part in _weights(query, seen_keys, self.rows, allowed[:, first:last], scale, self.heads):
                kept[:, done : done + part.shape[1]].copy_(part)
                done += part.shape[1]
            self.weights[layer] = kept.numpy()
            self.starts[layer] = first
        if self.rollout is not None:
            everything = torch.arange(query.shape[2], device=query.device)
            allowed = _allowed(mask, everything, key.shape[2])
            before, done = self.rollout, 0
            self.rollout = torch.empty_like(before)
            for part in _weights(query, key, everything, allowed, scale, None):
                mean = part.mean(dim=0, dtype=torch.float32)  # (c, T)
                stop = done + len(mean)
                self.rollout[done:stop] = (mean @ before + before[done:stop]) / 2
                done = stop


def _allowed(mask: Any, rows: torch.Tensor, keys: int) -> torch.Tensor:
    """(R, S) bool."""
    import torch

    if mask is None:
        return torch.arange(keys, device=rows.device)[None] <= rows[:, None]
    return mask[0, 0, rows] if mask.dtype == torch.bool else mask[0, 0, rows] == 0


def _weights(
    query: torch.Tensor, key: torch.Tensor, rows: torch.Tensor, allowed: torch.Tensor, scale: float, heads: Any
) -> Iterator[torch.Tensor]:
    """The soft-max over the keys, (heads, c, S) in the model's type, for a few rows at a time."""
    import torch

    q, k = query[0][:, rows], key[0]  # (H, R, D), (KV, S, D)
    groups = q.shape[0] // k.shape[0]
    if heads is not None:
        q, k, groups = q[heads], k[heads // groups], 1
    H, R, D = q.shape
    held = _CHUNK_CPU if q.device.type == "cpu" else _CHUNK_BYTES
    chunk = max(1, held // max(1, 4 * H * k.shape[1]))
    hidden = ~allowed
    for start in range(0, R, chunk):
        part = q[:, start : start + chunk].reshape(k.shape[0], -1, D)  # heads of a group side by side
        scores = (part @ k.transpose(1, 2)).view(k.shape[0] * groups, -1, k.shape[1])
        if scale != 1:  # Gemma 4's is 1; scores are large, and each way through them costs as much as the product
            scores *= scale
        scores.masked_fill_(hidden[None, start : start + chunk], -torch.inf)
        yield scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)


def _forward(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: Any, *,
    scaling: float | None = None, workbench_rows: _Rows | None = None, **more: Any,
) -> tuple[torch.Tensor, None]:  # fmt: skip
    """An attention function as Transformers calls it: SDPA, and the wanted rows on the side."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if workbench_rows is not None:
        workbench_rows.check()
        scale = module.head_dim**-0.5 if scaling is None else scaling
        workbench_rows.take(module.layer_idx, query, key, attention_mask, scale)
        if module.layer_idx in workbench_rows.share:
            workbench_rows.shared[module.layer_idx] = (key, value)
    return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **more)


def register() -> str:
    """Make the attention function known to Transformers, with SDPA's masks. Returns its name."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, _forward)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    return NAME


@contextmanager
def attention_by(name: str, *configs: Any) -> Iterator[None]:
    """Run with another attention function; what was set before is set again after, whatever happens.

    Args:
        name: Of the function, as Transformers knows it.
        configs: The text models': set on the whole model's, the name would go to the towers too.
    """
    before = [config._attn_implementation for config in configs]  # noqa: SLF001 (there is no public name)
    try:
        for config in configs:
            config._attn_implementation = name  # noqa: SLF001
        yield
    finally:
        for config, one in zip(configs, before, strict=True):
            config._attn_implementation = one  # noqa: SLF001


def inputs(engine: Engine, request: Request, more: np.ndarray) -> tuple[dict[str, Any], torch.Tensor]:
    """What one pass over a prompt and the tokens after it takes, masks included, and their (1, T) type ids."""
    import torch

    device = engine.transformer.device
    said = torch.tensor([engine.said(more.tolist())], dtype=torch.long)
    ids = torch.cat([request.ids, said], dim=1).to(device)
    types = torch.nn.functional.pad(request.type_ids, (0, len(more))).to(device)
    given = {
        "input_ids": ids, "attention_mask": masks.build(types, engine.window, bidirectional=engine.bidirectional),
        "position_ids": torch.arange(ids.shape[1], device=device)[None], "use_cache": False,
        **{k: v.to(device) for k, v in request.media_inputs().items()},
    }  # fmt: skip
    return given, types


def replayed(engine: Engine, request: Request, trace: Trace, **more: Any) -> torch.Tensor:
    """(T + N, hidden size) last hidden states of one pass over a trace's prompt and answer."""
    given, types = inputs(engine, request, trace.tokens.token_id)
    return engine.transformer.model(mm_token_type_ids=types, **given, **more).last_hidden_state[0]


def gap(engine: Engine, hidden: torch.Tensor, trace: Trace) -> float:
    """The largest change in nats of a generated token's logprob between a trace and the pass that gave ``hidden``."""
    import torch

    T, worst = len(trace.prompt), 0.0
    for start in range(0, len(trace.tokens), _LOGIT_ROWS):
        stop = min(start + _LOGIT_ROWS, len(trace.tokens))
        logprob = engine.logits(hidden[T - 1 + start : T - 1 + stop]).log_softmax(dim=-1)
        chosen = torch.as_tensor(trace.tokens.token_id[start:stop].astype(np.int64), device=hidden.device)[:, None]
        mine = logprob.gather(1, chosen)[:, 0].cpu().numpy()
        if np.isnan(mine).any():
            raise ModelError(
                f"A second pass over this run gives logits that are not finite in {engine.transformer.dtype}: nothing "
                "can be read off it. Load the model in another dtype."
            )
        change = np.where(mine == trace.tokens.logprob[start:stop], 0, mine - trace.tokens.logprob[start:stop])
        worst = max(worst, float(np.abs(change).max()))
    warn_of_another(worst)
    return worst


def warn_of_another(gap: float) -> None:
    """Say so where a second pass is not of the run that was recorded: its logprobs are this far, in nats, from it."""
    if gap > _ANOTHER:
        warnings.warn(
            f"A second pass gives a word of this answer a logprob {gap:.1f} nats from the recorded one: what is read "
            "off it is not of that run. Was there a hook on the model then, or is there one now?",
            RuntimeWarning, stacklevel=3,
        )  # fmt: skip


def not_stopped(stop: Any, what: str) -> Callable[[], None]:
    """A check that raises TraceError once the event is set."""

    def check() -> None:
        if stop is not None and stop.is_set():
            raise TraceError(f"{what} was stopped before it was done.")

    return check


def attend(
    engine: Engine, request: Request, trace: Trace, *, layers: Any = None, heads: Any = None,
    tokens: Any = None, positions: Any = None, rollout: bool = False, stop: Any = None,
) -> Attention:  # fmt: skip
    """The rows of attention of a recorded run. See ``LoadedModel.attend``.

    Args:
        engine: Of the model that made the trace.
        request: The trace's prompt, rebuilt.
    """
    import torch

    text = engine.transformer.config.get_text_config()
    every = _layers(text)
    chosen = _numbers("layers", layers, len(every), "layers")
    picked = _numbers("heads", heads, text.num_attention_heads, "query heads")
    at = wanted_positions(trace, tokens, positions)
    total = len(trace.prompt) + len(trace.tokens)
    if rollout and total > _ROLLOUT_MOST:
        raise TraceError(
            f"rollout=True: this run has {total:,} positions, whose rollout would take {8 * total**2 / 1e9:.1f} GB. "
            f"At most {_ROLLOUT_MOST:,} positions are rolled out."
        )
    device = engine.transformer.device
    with torch.inference_mode(), attention_by(register(), text):
        rows = _Rows(
            rows=torch.as_tensor(at, device=device), layers=frozenset(chosen),
            heads=None if heads is None else torch.as_tensor(picked, device=device),
            check=not_stopped(stop, "attend"), rollout=torch.eye(total, device=device) if rollout else None,
        )  # fmt: skip
        hidden = replayed(engine, request, trace, workbench_rows=rows)
        changed = gap(engine, hidden, trace)
    return Attention(
        positions=np.array(at), layers=tuple(every[i] for i in chosen), heads=np.array(picked),
        weights=tuple(rows.weights[i] for i in chosen), starts=np.array([rows.starts[i] for i in chosen]),
        rollout=None if rows.rollout is None else rows.rollout[rows.rows].half().cpu().numpy(),
        bidirectional=engine.bidirectional, replay_gap=changed, identity=trace.model.identity,
        of_layers=len(every), of_heads=int(text.num_attention_heads), **Attention.places_of(trace),
    )  # fmt: skip


def attend_drafter(
    engine: Engine, drafter: Drafter | None, request: Request, trace: Trace, *, layers: Any = None,
    heads: Any = None, tokens: Any = None, stop: Any = None,
) -> Attention:  # fmt: skip
    """What the drafter looks at, in the model's keys, when it drafts each token as the first of a round.

    Generated token ``k`` is drafted from the position of the token before it, over all keys before that position. The
    first token of an answer is never drafted.
    """
    import torch

    if drafter is None:
        raise ModelError("of='drafter': this model was loaded without a drafter.")
    text = drafter.assistant.config.get_text_config()
    every = _layers(text)
    chosen = _numbers("layers", layers, len(every), "layers")
    picked = _numbers("heads", heads, text.num_attention_heads, "query heads")
    T, N = len(trace.prompt), len(trace.tokens)
    if N < 2:
        raise TraceError(f"This answer has {N} tokens; the first one is never drafted.")
    at = [p for p in wanted_positions(trace, tokens, None) if p >= T]
    if not at:
        raise TraceError("token=0: the first token of an answer is never drafted.")
    device = engine.transformer.device
    check = not_stopped(stop, "attend")
    with torch.inference_mode(), attention_by(register(), engine.transformer.config.get_text_config(), text):
        first = _Rows(rows=torch.zeros(0, dtype=torch.long, device=device), layers=frozenset(), heads=None, check=check,
                      share=frozenset(drafter.sources.values()))  # fmt: skip
        hidden = replayed(engine, request, trace, workbench_rows=first)
        where = torch.as_tensor(at, device=device)
        last = torch.as_tensor(trace.ids[at].astype(np.int64), device=device)[None]
        given = drafter.assistant.pre_projection(torch.cat([drafter.embed(last), hidden[None, where - 1]], dim=-1))
        key = torch.arange(T + N, device=device)[None]
        before = key < where[:, None]  # (R, T + N)
        window = int(text.sliding_window or 0)
        near = before & (where[:, None] - key < window) if window > 1 else before
        rows = _Rows(
            rows=torch.arange(len(at), device=device), layers=frozenset(chosen),
            heads=None if heads is None else torch.as_tensor(picked, device=device), check=check,
        )  # fmt: skip
        drafter.assistant.model(
            inputs_embeds=given, position_ids=where[None], use_cache=False, workbench_rows=rows,
            attention_mask={"full_attention": before[None, None], "sliding_attention": near[None, None]},
            shared_kv_states={kind: first.shared[layer] for kind, layer in drafter.sources.items()},
        )  # fmt: skip
        changed = gap(engine, hidden, trace)
    return Attention(
        positions=np.array(at), layers=tuple(every[i] for i in chosen), heads=np.array(picked), of="drafter",
        weights=tuple(rows.weights[i] for i in chosen), starts=np.array([rows.starts[i] for i in chosen]),
        bidirectional=False, replay_gap=changed, identity=trace.model.identity, of_layers=len(every),
        of_heads=int(text.num_attention_heads), **Attention.places_of(trace),
    )  # fmt: skip


# --- what was asked for -----------------------------------------------------------------------------------------------


def wanted_positions(trace: Trace, tokens: Any, positions: Any) -> list[int]:
    """Query positions, ascending, of generated tokens or of positions.

    Raises:
        TraceError: There is no such token or position.
    """
    T, N = len(trace.prompt), len(trace.tokens)
    if tokens is not None and positions is not None:
        raise TraceError(f"tokens={tokens!r} and positions={positions!r}: give one of them.")
    if positions is not None:
        at = several("positions", positions)
        wrong = [p for p in at if not 0 <= p < T + N]
        if wrong:
            raise TraceError(f"positions: {wrong[0]} lies outside this run of {T + N} positions (prompt and answer).")
    else:
        if not N:
            raise TraceError(
                "This answer has no tokens; ask about its prompt: attend(positions=), lens(over='prompt')."
            )
        at = [T - 1 + k for k in (range(N) if tokens is None else map(trace.index, several("tokens", tokens)))]
    return sorted(set(at))


def _layers(text: Any) -> tuple[Layer, ...]:
    kinds = ["sliding" if kind == "sliding_attention" else "full" for kind in text.layer_types]
    return tuple(Layer(i, kind, text.sliding_window if kind == "sliding" else None) for i, kind in enumerate(kinds))


def _numbers(name: str, picks: int | Sequence[int] | None, count: int, what: str) -> list[int]:
    """Numbers from 0, ascending; negative ones count from the end."""
    if picks is None:
        return list(range(count))
    found = several(name, picks)
    wrong = [k for k in found if not -count <= k < count]
    if wrong:
        raise TraceError(f"{name}={wrong[0]}: there are {count} {what}, counted from 0.")
    return sorted({k % count for k in found})
