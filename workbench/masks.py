"""The attention masks Gemma 4 means, in every path.

The rule, for a query at position q and a key at position k:

    full layers      k <= q
    sliding layers   q - k < window  and  (k <= q  or  q and k lie in the same image or video-frame block)

Images are read in both directions, on sliding layers only; sound and text are causal everywhere. The window bounds how
far a query looks back; ahead it sees to the end of its own image, also of one longer than the window.

Transformers 5.20 to 5.23 builds other masks for ``gemma4_unified`` with a dynamic cache: its model's ``forward`` lays
the blocks over full layers too, and beyond the window on sliding ones. The right ones
(``create_masks_for_vision_model``) stand in the same file and are reached only with a static cache. See transformers
#46711 and PR #46850. :func:`correct` puts the right ones in, for ``generate``, eager attention and everything else that
calls the model; the workbench's own loop passes :func:`build`'s, which are the rule above written down once more.

What it builds for ``gemma4`` is right in 5.20 and 5.22. Of these members the large ones (26B-A4B, 31B) follow the rule;
the small ones (E2B, E4B) are causal everywhere. A configuration says so with ``use_bidirectional_attention``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from workbench.errors import Incompatible

if TYPE_CHECKING:
    import torch

__all__ = ["blocks", "both_ways", "build", "check", "correct", "is_corrected"]

_MARK = "_workbench_mask_hook"


def blocks(type_ids: torch.Tensor) -> torch.Tensor:
    """Number the image and video-frame blocks.

    Args:
        type_ids: (..., T) modality of each token: 1 image, 2 video; anything else is no block.

    Returns:
        (..., T) int64: 0, 1, … for the first, second … run of image or video tokens; -1 elsewhere.
    """
    import torch

    seen = (type_ids == 1) | (type_ids == 2)
    before = torch.zeros_like(seen)
    before[..., 1:] = seen[..., :-1]
    return torch.where(seen, torch.cumsum(seen & ~before, dim=-1) - 1, -1)


def build(
    type_ids: torch.Tensor, window: int, *, start: int = 0, bidirectional: bool = True
) -> dict[str, torch.Tensor | None]:
    """Masks of the rows ``start`` to T of one sequence, against a cache that holds the rows before.

    Args:
        type_ids: (B, T) modality of every token, cached ones included.
        window: Positions a sliding layer sees, its own included.
        start: The first query; everything before it is in the cache.
        bidirectional: Whether this model reads images in both directions.

    Returns:
        ``full_attention`` (B, 1, T - start, T) and ``sliding_attention`` (B, 1, T - start, S) bool, True where
        attention is allowed. S counts the keys a sliding cache keeps: those of the last ``window - 1`` cached positions
        and the new ones. None where plain causal attention over all keys, which kernels do fastest, is the same.
    """
    import torch

    B, T = type_ids.shape
    where = torch.arange(T, device=type_ids.device)
    q = where[start:, None]  # (Q, 1)
    first = max(start - window + 1, 0)
    k = where[None, first:]  # (1, S)
    near = k > q - window  # not q - k < window, which would make whole numbers of all pairs
    sliding = near & (k <= q)
    block = blocks(type_ids)
    has_block = bidirectional and bool((block[:, start:] >= 0).any())
    sliding = sliding.expand(B, 1, *sliding.shape[-2:])
    if has_block:
        same = (block[:, start:, None] == block[:, None, first:]) & (block[:, start:, None] >= 0)  # (B, Q, S)
        sliding = sliding | (same & near)[:, None]
    full = (where[None, :] <= q).expand(B, 1, T - start, T)
    plain = start == 0 or T - start == 1
    return {
        "full_attention": None if plain else full,
        "sliding_attention": None if plain and not has_block and (window >= T or T - start == 1) else sliding,
    }


def correct(transformer: Any) -> bool:
    """Put the right masks into a Transformers Gemma 4 model, once.

    Args:
        transformer: A ``…ForConditionalGeneration``; the hook goes onto its ``.model``.

    Returns:
        Whether this model needs it: only ``gemma4_unified`` with ``use_bidirectional_attention="vision"`` does.
    """
    text = transformer.config.get_text_config()
    if transformer.config.model_type != "gemma4_unified" or text.use_bidirectional_attention != "vision":
        return False
    if not is_corrected(transformer):
        handle = transformer.model.register_forward_pre_hook(_put_right_masks, with_kwargs=True)
        setattr(transformer.model, _MARK, handle)
    return True


def check(config: Any) -> None:
    """Refuse a model whose words see what comes after them: it reads, and does not answer.

    Raises:
        Incompatible: Its configuration says so.
    """
    if getattr(config.get_text_config(), "use_bidirectional_attention", None) == "all":
        raise Incompatible(
            "use_bidirectional_attention is 'all': every token of this model sees those after it, so it makes "
            "embeddings and no answers. Load a member that answers, such as gemma-4-12b."
        )


def both_ways(transformer: Any) -> bool:
    """Whether a model, masks corrected where it needs that, reads images in both directions on sliding layers."""
    text = transformer.config.get_text_config()
    right = transformer.config.model_type != "gemma4_unified" or is_corrected(transformer)
    return bool(right and text.use_bidirectional_attention == "vision")


def is_corrected(transformer: Any) -> bool:
    """Whether :func:`correct` was put on."""
    return hasattr(transformer.model, _MARK)


def _put_right_masks(module: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
    """Before the model's forward: replace a 2-D (or no) mask by Transformers' own right ones where there is a block."""
    import torch
    from transformers.models.gemma4_unified import modeling_gemma4_unified as theirs

    types = kwargs.get("mm_token_type_ids")
    if types is None or isinstance(kwargs.get("attention_mask"), dict):
        return None
    given: Any = kwargs.get("input_ids", args[0] if args else None)
    if given is None:
        given = kwargs["inputs_embeds"]
    shape, device = given.shape[:2], given.device
    cache = kwargs.get("past_key_values")
    past = cache.get_seq_length() if cache is not None else 0
    positions = kwargs.get("position_ids")
    if positions is None:
        positions = torch.arange(past, past + shape[1], device=device)[None]
    kwargs["attention_mask"] = theirs.create_masks_for_vision_model(
        config=module.config.get_text_config(),
        # only its shape, type and device are looked at; the real embeddings are made in the forward that follows
        inputs_embeds=torch.empty((*shape, 0), dtype=module.language_model.embed_tokens.weight.dtype, device=device),
        attention_mask=kwargs.get("attention_mask"),
        past_key_values=cache,
        position_ids=positions,
        block_sequence_ids=theirs.get_block_sequence_ids_for_mask(types, device=device),
    )
    return args, kwargs
