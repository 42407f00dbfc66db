"""The model over a packed batch: its media, its hidden states, and the loss of its answers.

One token in eight of a batch is part of an answer. The last layer's keys and values are needed everywhere, the rest of
it only there: ``answer_states`` computes no more, and a step of training takes a tenth less.
"""

from __future__ import annotations

from functools import partial
from typing import Any

__all__ = ["answer_states", "hidden_states", "loss_of", "media_inputs"]


def media_inputs(data: dict) -> dict:
    """The pictures and sounds of a packed batch, as the model's forward and ``generate`` take them."""
    media = {}
    if len(data["image_patches"]):
        media["pixel_values"] = data["image_patches"].float() * (1 / 255)
        media["image_position_ids"] = data["image_xy"]
    if len(data["audio_frames"]):
        media["input_features"] = data["audio_frames"]
        media["input_features_mask"] = data["audio_mask"]
    return media


def hidden_states(model, data: dict, window: int):  # noqa: ANN001
    """The model's last hidden states (B, T, H) of a packed batch, under the right masks."""
    from workbench.pocket.packing import masks

    attention = masks(data["tree"], data["branch"], data["block"], data["position"], window)
    return model.model(
        input_ids=data["ids"],
        attention_mask=attention,
        position_ids=data["position"],
        use_cache=False,
        **media_inputs(data),
    ).last_hidden_state


def answer_states(model: Any, data: dict, window: int) -> Any:
    """The last hidden states (M, H) at a packed batch's targets; equal to ``hidden_states`` at its rows and columns."""
    import torch

    rows, cols = data["rows"], data["cols"]
    counts = torch.bincount(rows, minlength=len(data["ids"]))
    slots = torch.arange(len(rows)) - (counts.cumsum(0) - counts)[rows]  # the pack has them row by row
    picked = torch.zeros(len(counts), int(counts.max()), dtype=torch.long)
    picked[rows, slots] = cols
    layer = model.model.language_model.layers[-1]
    layer.forward = partial(_forward, layer, picked)
    try:
        return hidden_states(model, data, window)[rows, slots]
    finally:
        del layer.forward


def _forward(layer: Any, picked: Any, hidden: Any, *, position_embeddings: tuple, attention_mask: Any, **_: Any) -> Any:
    """What the layer's own ``forward`` says at the picked (B, Q) of T tokens, as (B, Q, H)."""
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.models.gemma4_unified.modeling_gemma4_unified import apply_rotary_pos_emb as turned

    attention = layer.self_attn
    batch = torch.arange(len(picked))[:, None]
    cos, sin = position_embeddings
    normal = layer.input_layernorm(hidden)

    def heads(states: Any, project: Any) -> Any:
        return project(states).unflatten(-1, (-1, attention.head_dim))

    query = attention.q_norm(heads(normal[batch, picked], attention.q_proj))
    query = turned(
        query, cos.expand(len(picked), -1, -1)[batch, picked], sin.expand(len(picked), -1, -1)[batch, picked], 2
    )
    key = heads(normal, attention.k_proj)
    value = key if attention.v_proj is None else heads(normal, attention.v_proj)
    key, value = turned(attention.k_norm(key), cos, sin, 2), attention.v_norm(value)
    mixed, _ = sdpa_attention_forward(
        attention, query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2),
        attention_mask[:, 0][batch, picked][:, None], scaling=attention.scaling,
    )  # fmt: skip
    states = hidden[batch, picked] + layer.post_attention_layernorm(attention.o_proj(mixed.flatten(2)))
    states = states + layer.post_feedforward_layernorm(layer.mlp(layer.pre_feedforward_layernorm(states)))
    return states * layer.layer_scalar


def loss_of(model, data: dict, window: int):  # noqa: ANN001
    """Weighted cross-entropy of the answers, and the share of answer tokens predicted right."""
    import torch
    from torch.nn import functional as f

    hidden = answer_states(model, data, window)
    cap = model.config.text_config.final_logit_softcapping
    logits = cap * torch.tanh(model.lm_head(hidden) / cap)
    each = f.cross_entropy(logits, data["targets"], reduction="none")
    weights = data["weights"]
    right = ((logits.argmax(-1) == data["targets"]) & (weights == 1)).sum() / (weights == 1).sum()
    return (each * weights).sum() / weights.sum(), right
