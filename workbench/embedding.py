"""What the first layer is given for words, patches and frames, and what stands in for those that are hidden.

Members without an encoder embed each patch and frame alone. Others have towers, which mix all of a picture or sound
before it comes to the first layer: of these a place is hidden in the pixels or in the spectrogram, and all of the
picture or sound is embedded anew. The small ones give each layer an input of its own for every word.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.decoding import Engine
from workbench.errors import ModelError
from workbench.features import SUBSAMPLED, Feature
from workbench.prompt import Request
from workbench.trace import Segment

if TYPE_CHECKING:
    import torch

__all__ = ["embed_feature", "embedded", "mean_of", "owners", "per_layer", "stand_in"]


def embedded(engine: Engine, request: Request, ids: np.ndarray) -> torch.Tensor:
    """(1, n, D) what the first layer is given for a prompt and the tokens after it, patches and frames included."""
    out = engine.transformer.get_input_embeddings()(_words(engine, request, ids)).clone()
    for feature in request.features:
        out[0, feature.start : feature.stop] = embed_feature(engine, feature, feature.values[None])[0].to(out.dtype)
    return out


def per_layer(engine: Engine, request: Request, ids: np.ndarray) -> torch.Tensor | None:
    """(1, n, layers, d) what words add to each layer's own input; None for members that have none."""
    language = engine.transformer.model.language_model
    if not getattr(language.config, "hidden_size_per_layer_input", 0):
        return None
    found: torch.Tensor = language.get_per_layer_inputs(_words(engine, request, ids), None)
    return found


def _words(engine: Engine, request: Request, ids: np.ndarray) -> torch.Tensor:
    """(1, n) token ids with padding where a patch or frame comes, as Transformers does it."""
    import torch

    device = engine.transformer.device
    given = torch.as_tensor(np.array(ids, np.int64), device=device)[None]
    soft = torch.nn.functional.pad(request.type_ids, (0, len(ids) - request.type_ids.shape[1])).to(device) != 0
    return given.masked_fill(soft, engine.transformer.config.get_text_config().pad_token_id)


def embed_feature(engine: Engine, feature: Feature, values: torch.Tensor) -> torch.Tensor:
    """(B, tokens, D) embeddings of B variants of one picture or sound, given their (B, n, …) values."""
    import torch

    model, device = engine.transformer.model, engine.transformer.device
    values = values.to(device)
    if feature.xy is None:
        if engine.direct:
            heard: torch.Tensor = model.embed_audio(inputs_embeds=values)
            return heard
        mask = torch.ones(values.shape[:2], dtype=torch.bool, device=device)
        out: torch.Tensor = model.get_audio_features(values, mask, return_dict=True).pooler_output
        return out
    xy = feature.xy[None].expand(len(values), -1, -1).to(device)
    return torch.stack(tuple(model.get_image_features(values, xy, return_dict=True).pooler_output))


def mean_of(embed: Callable[[torch.Tensor], torch.Tensor], count: int, device: Any) -> torch.Tensor:
    """(1, …) mean of an embedding's rows."""
    import torch

    parts = [embed(torch.arange(start, min(start + 8192, count), device=device)).float().sum(0)
             for start in range(0, count, 8192)]  # fmt: skip
    return torch.stack(parts).sum(0, keepdim=True) / count


def owners(feature: Feature) -> np.ndarray:
    """(n,) the soft token, counted from 0, that each row of a feature's values lies in.

    Of a spectrogram, that whose middle is nearest (see ``workbench.features.Reader.in_time``).
    """
    n, tokens = len(feature.values), feature.stop - feature.start
    if feature.xy is None:
        return np.arange(n) if n == tokens else np.minimum((np.arange(n) + SUBSAMPLED // 2) // SUBSAMPLED, tokens - 1)
    side = math.isqrt(n // tokens)
    if side == 1:
        return np.arange(n)
    x, y = (feature.xy // side).numpy().T
    out: np.ndarray = y * (x.max() + 1) + x
    return out


def stand_in(
    feature: Feature, how: str, segments: Sequence[Segment], heard: Callable[[np.ndarray], torch.Tensor],
    samples: np.ndarray | None,
) -> torch.Tensor:  # fmt: skip
    """(n, …) what stands in for each row of a feature's values.

    Args:
        feature: A picture or sound.
        how: A name of ``workbench.occlusion.HOW``.
        segments: Where it lies in the prompt.
        heard: What makes values of a sound's samples.
        samples: The sound's own; None for pictures.

    Raises:
        ModelError: The processor makes something of another shape of a sound as long.
    """
    import torch

    values = feature.values
    if how in ("silence", "noise"):
        if samples is None:
            raise ModelError("The prompt's media are not where its segments say.")
        loud = float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))
        drawn = torch.randn(len(samples), generator=torch.Generator().manual_seed(0)).numpy()
        made = heard(np.zeros_like(samples) if how == "silence" else drawn * np.float32(loud))
        if made.shape != values.shape:
            raise ModelError(f"A sound's features are {tuple(values.shape)}, those of its silence {tuple(made.shape)}.")
        return made
    if how == "grey":
        return torch.full_like(values, 0.5)
    if how == "mean":
        colour = values.view(-1, 3).mean(0)
        return colour.repeat(values.shape[1] // 3).expand_as(values).clone()
    pooled = math.isqrt(len(values) // (feature.stop - feature.start))  # patches a side of a token
    rows, cols = (segments[0].rows or 1) * pooled, (segments[0].cols or 1) * pooled
    side = math.isqrt(values.shape[1] // 3)
    picture = values.view(rows, cols, side, side, 3).permute(4, 0, 2, 1, 3).reshape(1, 3, rows * side, cols * side)
    box, half = side * pooled // 2 * 2 + 1, side * pooled // 2
    smooth = picture
    for kernel, padding in (((box, 1), (half, 0)), ((1, box), (0, half))) * 2:  # twice a box is nearly a bell
        smooth = torch.nn.functional.avg_pool2d(smooth, kernel, 1, padding, count_include_pad=False)
    cut = smooth.reshape(3, rows, side, cols, side).permute(1, 3, 2, 4, 0)
    return cut.reshape(values.shape)
