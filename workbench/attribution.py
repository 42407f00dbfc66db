"""Which parts of the model wrote a word: its logit taken apart into embedding, heads and feed-forward parts.

The residual stream at the place where a word was chosen, as the last norm and the head read it, is

    h = S₀ · embedding + Σ over layers l of  S_l · (attention_l + feed-forward_l),    S_l = s_l · s_{l+1} · … · s_{L-1}

where ``s`` are Gemma 4's layer scalars and both parts are taken behind their own norms. The last norm divides h by one
number; with that as it was, the logit is a dot product with h, and every part of the sum has its share of it. A head's
share is that of its columns of the output projection, behind the attention's norm with its divisor as it was.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.attention import gap, not_stopped, replayed, wanted_positions
from workbench.attributions import Attribution
from workbench.decoding import Engine
from workbench.maps import run_key
from workbench.prompt import Request
from workbench.trace import Trace

if TYPE_CHECKING:
    import torch

__all__ = ["attribute"]

_ROWS = 64  # rows of logits, and of the head's weight in eights, held at once


def attribute(
    engine: Engine, request: Request, trace: Trace, piece: Callable[[int], str], *, token: Any = None,
    against: int | None = None, stop: Any = None,
) -> Attribution:  # fmt: skip
    """What every part added to the logits of generated tokens. See ``LoadedModel.attribute``."""
    import torch

    positions = wanted_positions(trace, token, None)
    ids = trace.ids[np.array(positions) + 1].astype(np.int64)
    language = engine.transformer.model.language_model
    check = not_stopped(stop, "attribute")
    with torch.inference_mode():
        seen = _Seen(language, torch.as_tensor(positions, device=engine.transformer.device), check)
        with seen:
            hidden = replayed(engine, request, trace)
        gap(engine, hidden, trace)  # says so where this is not what was run
        final = seen.states[-1]
        chosen = torch.as_tensor(ids, device=final.device)
        towards = _directions(engine, chosen, against, check) * _factor(language.norm, final)
        columns = seen.shares(towards)
        logit = _logits(engine, language.norm(final), chosen, against)
    arrays = {name: value.float().cpu().numpy() for name, value in {**columns, "logit": logit}.items()}
    named = np.union1d(ids, [] if against is None else [against]).astype(int)
    return Attribution(
        tokens=np.array(positions) + 1 - len(trace.prompt), token_ids=ids, **arrays, against=against,
        generated=len(trace.tokens), pieces={int(i): piece(int(i)) for i in named},
        identity=trace.model.identity, run=run_key(trace),
    )  # fmt: skip


class _Seen:
    """What the layers put into the residual stream at P places, while one pass runs.

    Args:
        language: The model's decoder.
        at: (P,) the places.
        check: Called after every layer; raises to end the pass.

    Attributes:
        states: (P, D) each: the embedding, then the stream behind every layer.
    """

    def __init__(self, language: Any, at: torch.Tensor, check: Callable[[], None]) -> None:
        self.layers, self.at, self.check = language.layers, at, check
        self.states: list[torch.Tensor] = []
        self._attention: list[torch.Tensor] = []  # behind its norm
        self._joined: list[torch.Tensor] = []  # (P, H · head size), before the output projection
        self._projected: list[torch.Tensor] = []
        self._handles: list[Any] = []

    def __enter__(self) -> None:
        def embedded(_module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
            self.states.append(self._here(args[0] if args else kwargs["hidden_states"]))

        def left(_module: Any, _args: tuple, output: Any) -> None:
            self.check()
            self.states.append(self._here(output[0] if isinstance(output, tuple) else output))

        def projected(_module: Any, args: tuple, output: Any) -> None:
            self._joined.append(self._here(args[0]))
            self._projected.append(self._here(output))

        def normed(_module: Any, _args: tuple, output: Any) -> None:
            self._attention.append(self._here(output))

        self._handles.append(self.layers[0].register_forward_pre_hook(embedded, with_kwargs=True))
        for layer in self.layers:
            self._handles.append(layer.self_attn.o_proj.register_forward_hook(projected))
            self._handles.append(layer.post_attention_layernorm.register_forward_hook(normed))
            self._handles.append(layer.register_forward_hook(left))

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _here(self, stream: torch.Tensor) -> torch.Tensor:
        return stream[0, self.at.to(stream.device)].clone()

    def shares(self, towards: torch.Tensor) -> dict[str, torch.Tensor]:
        """Dot products of every part with (P, D) ``towards``: (P,), (L, P) and (L, H, P)."""
        import torch

        found: dict[str, list[torch.Tensor]] = {"attention": [], "heads": [], "mlp": []}
        for k in reversed(range(len(self.layers))):
            self.check()
            layer, scalar = self.layers[k], getattr(self.layers[k], "layer_scalar", None)
            before, after, attention = (x.float() for x in (self.states[k], self.states[k + 1], self._attention[k]))
            here = towards.to(after.device)
            scaled = here if scalar is None else here * scalar.float()
            found["attention"].append((attention * scaled).sum(-1))
            # all else of the layer; as a difference, so that the shares sum to the logit whatever was rounded
            found["mlp"].append((after * here).sum(-1) - ((before + attention) * scaled).sum(-1))
            found["heads"].append(self._heads(k, layer, scaled))
            towards = scaled
        embedding = (self.states[0].float() * towards.to(self.states[0].device)).sum(-1)
        one = embedding.device
        columns = {name: torch.stack([row.to(one) for row in rows[::-1]]) for name, rows in found.items()}
        return {"embedding": embedding, **columns}

    def _heads(self, k: int, layer: Any, towards: torch.Tensor) -> torch.Tensor:
        """(H, P): the projection of each head's columns alone, whatever the projection is held as."""
        import torch

        joined, projection = self._joined[k], layer.self_attn.o_proj
        count = int(layer.self_attn.config.num_attention_heads)
        towards = towards * _factor(layer.post_attention_layernorm, self._projected[k])
        bias = getattr(projection, "bias", None)
        rows = []
        for head in range(count):
            alone = torch.zeros_like(joined).unflatten(-1, (count, -1))
            alone[:, head] = joined.unflatten(-1, (count, -1))[:, head]
            out = projection(alone.flatten(-2)).float()
            rows.append(((out if bias is None else out - bias.float()) * towards).sum(-1))
        return torch.stack(rows)


def _factor(norm: Any, given: torch.Tensor) -> torch.Tensor:
    """What an RMS norm multiplies (P, D) by, number by number."""
    import torch

    divided = torch.rsqrt(given.float().pow(2).mean(-1, keepdim=True) + norm.eps)
    return divided * norm.weight.float() if getattr(norm, "with_scale", True) else divided.expand(given.shape)


def _directions(engine: Engine, ids: torch.Tensor, against: int | None, check: Callable[[], None]) -> torch.Tensor:
    """(P, D) float32: rows of the head, less that of the other word or the mean of all."""
    weight = engine.transformer.lm_head.weight
    rows = weight[ids.to(weight.device)].float()
    if against is not None:
        return (rows - weight[ids.new_tensor([against]).to(weight.device)].float()).to(ids.device)
    total, size = 0.0, int(weight.shape[0])
    for start in range(0, size, 8 * _ROWS):
        check()
        total = total + weight[start : start + 8 * _ROWS].float().sum(0)
    return (rows - total / size).to(ids.device)


def _logits(engine: Engine, hidden: torch.Tensor, ids: torch.Tensor, against: int | None) -> torch.Tensor:
    """(P,) logits of the model's own head before soft-capping, less those of the other word or the mean of all."""
    import torch

    found = []
    for start in range(0, len(hidden), _ROWS):
        rows = engine.transformer.lm_head(hidden[start : start + _ROWS]).float()
        mine = rows.gather(1, ids[start : start + _ROWS, None])[:, 0]
        found.append(mine - (rows.mean(-1) if against is None else rows[:, against]))
    return torch.cat(found)
