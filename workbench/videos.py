"""Videos in a forward pass of Gemma 4.

Transformers 5.20 to 5.22 takes ``pixel_values_videos`` in ``generate``, but its model's ``forward`` raises on them: it
asks how many frames each video has and does not hand the answer on. :func:`correct` embeds the frames before that, with
Transformers' own ``get_video_features``, so that every pass takes them: the workbench's, a replay, and one of yours.
"""

from __future__ import annotations

from typing import Any

__all__ = ["correct"]

_MARK = "_workbench_video_hook"


def correct(transformer: Any) -> bool:
    """Let a Transformers Gemma 4 model take videos in any forward pass; once.

    Args:
        transformer: A ``…ForConditionalGeneration``; the hook goes onto its ``.model``.

    Returns:
        Whether this model needs it: ``gemma4_unified`` and ``gemma4`` do.
    """
    if transformer.config.model_type not in ("gemma4", "gemma4_unified"):
        return False
    if not hasattr(transformer.model, _MARK):
        setattr(transformer.model, _MARK, transformer.model.register_forward_pre_hook(_embed, with_kwargs=True))
    return True


def _embed(module: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
    """Before the model's forward: frames to embeddings, and pictures too, since it takes either form, not both."""
    import torch

    frames = kwargs.pop("pixel_values_videos", None)
    places = kwargs.pop("video_position_ids", None)
    if frames is None:
        return None if places is None else (args, kwargs)
    # the counts are there to part the result by video, and it is put together again: all may count as one
    made = {"video": module.get_video_features(frames, places, torch.tensor([len(frames)]), return_dict=True)}
    pictures = kwargs.pop("pixel_values", None)
    if pictures is not None:
        made["image"] = module.get_image_features(pictures, kwargs.pop("image_position_ids", None), return_dict=True)
    kwargs["mm_encoder_outputs"] = {**(kwargs.get("mm_encoder_outputs") or {}), **made}
    return args, kwargs
