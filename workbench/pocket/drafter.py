"""The pocket model's drafter: a real ``Gemma4UnifiedAssistantForCausalLM``, tiny, that reads the target's own cache.

As 12B's does, it has no keys or values of its own. From the target's embedding of the last token and the hidden state
that predicted it, at that token's position and against the target's keys and values before it (last sliding layer, last
full layer), it drafts the next token; then from that draft and its own output the one after, position and keys
unchanged.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["DRAFT_SHAPE", "build_drafter", "draft_logits", "load_drafter", "save_drafter", "target_states"]

DRAFT_SHAPE = {"hidden_size": 128, "intermediate_size": 320, "num_attention_heads": 4}


def build_drafter(target, seed: int = 0):
    """A drafter of random weights that fits a target: its vocabulary, hidden size, key-value heads and window.

    Its embedding starts as the target's, cut down to its own width by the best linear map, which saves it learning
    what the words are.
    """
    import torch
    from transformers import Gemma4UnifiedAssistantConfig, Gemma4UnifiedAssistantForCausalLM, Gemma4UnifiedTextConfig

    torch.manual_seed(seed)
    theirs = target.config.text_config
    sliding, full = (theirs.per_layer_config[kind] for kind in ("sliding_attention", "full_attention"))
    text = Gemma4UnifiedTextConfig(
        vocab_size=theirs.vocab_size,
        num_hidden_layers=2,
        layer_types=["sliding_attention", "full_attention"],
        num_key_value_heads=sliding.num_key_value_heads,
        num_global_key_value_heads=full.num_key_value_heads,
        head_dim=sliding.head_dim,
        global_head_dim=full.head_dim,
        sliding_window=theirs.sliding_window,
        attention_k_eq_v=True,
        num_kv_shared_layers=2,
        max_position_embeddings=theirs.max_position_embeddings,
        pad_token_id=theirs.pad_token_id,
        bos_token_id=theirs.bos_token_id,
        eos_token_id=theirs.eos_token_id,
        use_bidirectional_attention=None,
        **DRAFT_SHAPE,
    )
    config = Gemma4UnifiedAssistantConfig(text_config=text, backbone_hidden_size=theirs.hidden_size)
    drafter = Gemma4UnifiedAssistantForCausalLM(config)
    with torch.no_grad():
        words = target.get_input_embeddings().weight.float()
        _, _, basis = torch.linalg.svd(words, full_matrices=False)
        narrow = words @ basis[: DRAFT_SHAPE["hidden_size"]].T
        drafter.lm_head.weight[:, : narrow.shape[1]].copy_(narrow)
        for layer in drafter.model.layers:
            layer.self_attn.q_norm.weight.fill_(layer.self_attn.head_dim**-0.25)
    return drafter


def target_states(target, data: dict):
    """What a drafter needs of a packed batch: hidden states (B, T, H), keys and values by layer kind, and the masks."""
    import torch

    from workbench.pocket.packing import masks
    from workbench.pocket.passes import media_inputs

    window = target.config.text_config.sliding_window
    allowed = masks(data["tree"], data["branch"], data["block"], data["position"], window)
    with torch.no_grad():
        out = target.model(
            input_ids=data["ids"], attention_mask=allowed, position_ids=data["position"], use_cache=False,
            return_shared_kv_states=True, **media_inputs(data),
        )  # fmt: skip
    return out.last_hidden_state, dict(out.shared_kv_states), allowed


def draft_logits(drafter, target, data: dict, states: tuple, steps: int = 4) -> list:
    """Drafts at every position at once, ``steps`` deep, fed with the right tokens.

    The assistant's own ``forward`` is made for one query; its inner model takes masks that end before each query, so
    that a whole batch is one call a step.

    Args:
        drafter, target: the two models.
        data: a packed batch (``workbench.pocket.packing``) as tensors.
        states: of ``target_states``.
        steps: drafts a round.

    Returns:
        One ``(index, logits)`` a step. Entry i has, for every loss position s whose branch goes on for at least i + 1
        more tokens, its index s (K,) and the logits (K, V) of the token at loss position s + i + 1.
    """
    import torch

    hidden, shared, allowed = states
    rows, cols = data["rows"], data["cols"]
    earlier = {kind: torch.cat([m[:, :, :1], m[:, :, :-1]], 2) for kind, m in allowed.items()}  # keys before the query
    embed = target.get_input_embeddings()
    tokens = embed(data["ids"]).detach()  # (B, T, H): of the token at each position
    before = torch.zeros_like(hidden)
    before[:, 1:] = hidden[:, :-1]  # the state that predicted it
    at = cols + 1  # where the first token is known and the next is drafted
    count = len(rows)
    results = []
    state = before
    for step in range(steps):
        # the token known by then: that of position + step, where the branch goes on so far
        ahead = torch.zeros_like(tokens)
        ahead[:, : tokens.shape[1] - step] = tokens[:, step:]
        x = drafter.pre_projection(torch.cat([ahead, state], -1))
        out = drafter.model(
            inputs_embeds=x,
            attention_mask=earlier,
            position_ids=data["position"],
            shared_kv_states=shared,
            use_cache=False,
        ).last_hidden_state
        state = drafter.post_projection(out)
        start = torch.arange(max(0, count - step - 1))
        goes_on = (data["which"][start] == data["which"][start + step + 1]) & (
            cols[start] + step + 1 == cols[start + step + 1]
        )
        start = start[goes_on]
        results.append((start, drafter.lm_head(out[rows[start], at[start]])))
    return results


def save_drafter(drafter, folder: Path) -> None:
    """Write a loadable folder: weights stored in bf16, to be computed with in float32."""
    from workbench.pocket.build import save_weights

    save_weights(drafter, Path(folder))


def load_drafter(folder: Path):
    """The drafter of a folder, as stored, float32."""
    import torch
    from transformers import Gemma4UnifiedAssistantForCausalLM

    return Gemma4UnifiedAssistantForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
