"""Random-weight models of Gemma 4's architecture, built in memory: what speed and memory are measured on.

Their words mean nothing; their work is that of trained weights of the same shape. Tokenizer and processor are the
pocket model's, whatever the vocabulary of the shape.
"""

from __future__ import annotations

import hashlib
import platform
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

from workbench import masks
from workbench.model import LoadedModel
from workbench.pocket import WEIGHTS
from workbench.trace import ModelInfo

__all__ = ["SHAPES", "Shape", "build", "config", "wrap"]


@dataclass(frozen=True)
class Shape:
    """The numbers of a text model, 5 sliding layers to a full one unless ``sliding`` says otherwise.

    Attributes:
        kv_heads, head_dim: Of sliding layers.
        full_kv_heads, full_head_dim: Of full layers, whose keys and values are one projection.
        image_tokens: The processor's default budget of an image.
    """

    name: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    full_kv_heads: int
    full_head_dim: int
    window: int
    vocab: int
    image_tokens: int
    sliding: int = 5
    context: int = 8192

    @property
    def layer_types(self) -> list[str]:
        """Every ``sliding + 1``-th layer is full."""
        return ["sliding_attention" if (k + 1) % (self.sliding + 1) else "full_attention" for k in range(self.layers)]


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("300M", layers=18, hidden=1024, intermediate=3072, heads=8, kv_heads=4, head_dim=128, full_kv_heads=1,
              full_head_dim=256, window=512, vocab=65_536, image_tokens=70),
        Shape("12-layer", layers=12, hidden=768, intermediate=2304, heads=16, kv_heads=8, head_dim=64, full_kv_heads=1,
              full_head_dim=128, window=1024, vocab=1024, image_tokens=280),
        Shape("12B", layers=48, hidden=3840, intermediate=15_360, heads=16, kv_heads=8, head_dim=256, full_kv_heads=1,
              full_head_dim=512, window=1024, vocab=262_144, image_tokens=280, context=262_144),
    )
}  # fmt: skip
"""The shapes by name: "300M" (about 300 million parameters), "12-layer" (16 heads) and "12B" (Gemma 4 12B's own)."""


def config(shape: Shape, tokenizer: Any) -> Any:
    """A ``Gemma4UnifiedConfig`` of this shape; every token id is read from the tokenizer."""
    from transformers import Gemma4UnifiedConfig

    token = tokenizer.convert_tokens_to_ids
    ends = [tokenizer.eos_token_id, token("<turn|>"), token("<|tool_response>")]
    return Gemma4UnifiedConfig(
        text_config={
            "vocab_size": shape.vocab, "hidden_size": shape.hidden, "intermediate_size": shape.intermediate,
            "num_hidden_layers": shape.layers, "layer_types": shape.layer_types, "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.kv_heads, "num_global_key_value_heads": shape.full_kv_heads,
            "head_dim": shape.head_dim, "global_head_dim": shape.full_head_dim, "sliding_window": shape.window,
            "attention_k_eq_v": True, "final_logit_softcapping": 30.0, "max_position_embeddings": shape.context,
            "pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id,
            "bos_token_id": tokenizer.bos_token_id,
        },
        vision_config={"mm_embed_dim": shape.hidden, "output_proj_dims": shape.hidden, "mm_posemb_size": 1120},
        audio_config={"audio_embed_dim": 640},
        boi_token_id=token("<|image>"), image_token_id=token("<|image|>"), eoi_token_id=token("<image|>"),
        boa_token_id=token("<|audio>"), audio_token_id=token("<|audio|>"), eoa_token_index=token("<audio|>"),
        video_token_id=token("<|video|>"), eos_token_id=ends, pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )  # fmt: skip


def build(shape: str | Shape, *, seed: int = 0, dtype: str = "float32", device: str = "cpu") -> LoadedModel:
    """A model of random weights, ready to be asked. It never stops by itself: runs have the length asked for.

    Args:
        shape: A name of :data:`SHAPES`, or a shape.
        seed: Of the weights.
        dtype: A floating-point type by torch's name.
        device: Where the weights are made; ``meta`` counts without memory, and cannot be asked.
    """
    import torch
    from transformers import AutoProcessor, Gemma4UnifiedForConditionalGeneration, GenerationConfig

    shape = SHAPES[shape] if isinstance(shape, str) else shape
    processor = AutoProcessor.from_pretrained(WEIGHTS, local_files_only=True)
    processor.image_processor.max_soft_tokens = shape.image_tokens
    before = torch.get_default_dtype()
    state = torch.random.get_rng_state()
    torch.set_default_dtype(getattr(torch, dtype))
    torch.manual_seed(seed)
    try:
        with torch.device(device):
            transformer = Gemma4UnifiedForConditionalGeneration(config(shape, processor.tokenizer))
    finally:
        torch.set_default_dtype(before)
        torch.random.set_rng_state(state)
    with torch.no_grad():  # Gemma 4 scales attention by 1.0; these make the product's scale the usual head_dim ** -0.5
        for layer in transformer.model.language_model.layers:
            for norm in (layer.self_attn.q_norm, layer.self_attn.k_norm):
                norm.weight.fill_(layer.self_attn.head_dim**-0.25)
    defaults = GenerationConfig.from_pretrained(WEIGHTS)
    defaults.eos_token_id = None
    transformer.generation_config = defaults
    return wrap(transformer, processor, name=f"{shape.name}-random", weights=f"{asdict(shape)} {dtype} seed {seed}")


def wrap(transformer: Any, processor: Any, *, name: str, weights: str) -> LoadedModel:
    """A :class:`LoadedModel` around any transformer and processor, masks corrected.

    Args:
        name: What its traces call it.
        weights: What the weights were made from: hashed in place of the weights, together with torch's version.
    """
    transformer.eval()
    for parameter in transformer.parameters():
        parameter.requires_grad_(requires_grad=False)
    text = transformer.config.get_text_config()
    vocabulary = sorted(processor.tokenizer.get_vocab().items(), key=lambda item: item[1])
    versions = {p: metadata.version(p) for p in ("torch", "transformers", "tokenizers", "numpy")}

    def digest(words: str) -> str:
        return hashlib.sha256(words.encode()).hexdigest()

    info = ModelInfo(
        name=name, variant=name, revision="random weights",
        weights_hash="random-" + digest(f"{weights} torch {versions['torch']}"), quantization="none",
        dtype=str(transformer.dtype).removeprefix("torch."), device=str(transformer.device),
        attention=str(transformer.config._attn_implementation),  # noqa: SLF001 (there is no public name)
        mask_correction=masks.correct(transformer), chat_template_hash=digest(str(processor.chat_template)),
        vocab_hash=digest("\0".join(f"{piece}\0{i}" for piece, i in vocabulary)),
        layers=tuple(kind.removesuffix("_attention") for kind in text.layer_types), window=text.sliding_window,
        context=int(text.max_position_embeddings), versions={"python": platform.python_version(), **versions},
    )  # fmt: skip
    return LoadedModel(transformer, processor, info)
