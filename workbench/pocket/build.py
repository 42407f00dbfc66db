"""Make the pocket model's folder: configuration, processor, chat template and (random) weights.

The folder is what ``AutoProcessor.from_pretrained`` and ``AutoModelForMultimodalLM.from_pretrained`` expect, of the
same classes as the 12B model, only small.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from workbench.pocket.tokenizer import CHAT_TEMPLATE, VOCAB, build_tokenizer

__all__ = ["SHAPE", "build_config", "build_model", "build_processor", "save"]

# 12B in kind: two sliding layers to a full one (12B: five), K=V and wider heads on the full layers
SHAPE: dict[str, Any] = {
    "hidden_size": 192,
    "intermediate_size": 512,
    "layers": ("sliding_attention", "sliding_attention", "full_attention") * 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "num_global_key_value_heads": 1,
    "head_dim": 32,
    "global_head_dim": 64,
    "sliding_window": 96,
    "image_tokens": 70,
    "mm_posemb_size": 1120,
}


def build_processor(like: str | Path | None = None):  # noqa: ANN201 (a Gemma4UnifiedProcessor)
    """The processor: tokenizer, 70-token images of 48-pixel patches, 640-sample sound frames, chat template.

    Args:
        like: folder of a model whose tokenizer it is to have; None learns one from what the world says now.
    """
    from transformers import (
        Gemma4UnifiedAudioFeatureExtractor,
        Gemma4UnifiedImageProcessor,
        Gemma4UnifiedProcessor,
        Gemma4UnifiedVideoProcessor,
    )

    tokens = SHAPE["image_tokens"]
    return Gemma4UnifiedProcessor(
        feature_extractor=Gemma4UnifiedAudioFeatureExtractor(),
        image_processor=Gemma4UnifiedImageProcessor(max_soft_tokens=tokens),
        tokenizer=build_tokenizer(like),
        video_processor=Gemma4UnifiedVideoProcessor(),
        chat_template=CHAT_TEMPLATE.read_text(encoding="utf-8"),
        image_seq_length=tokens,
    )


def build_config(tokenizer, shape: dict[str, Any] | None = None):  # noqa: ANN001, ANN201
    """The model's configuration; every token id is read from the tokenizer."""
    from transformers import Gemma4UnifiedConfig

    s = shape or SHAPE
    hidden = s["hidden_size"]
    text = {
        "vocab_size": VOCAB,
        "hidden_size": hidden,
        "intermediate_size": s["intermediate_size"],
        "num_hidden_layers": len(s["layers"]),
        "layer_types": list(s["layers"]),
        "num_attention_heads": s["num_attention_heads"],
        "num_key_value_heads": s["num_key_value_heads"],
        "num_global_key_value_heads": s["num_global_key_value_heads"],
        "head_dim": s["head_dim"],
        "global_head_dim": s["global_head_dim"],
        "sliding_window": s["sliding_window"],
        "attention_k_eq_v": True,
        "final_logit_softcapping": 30.0,
        "max_position_embeddings": 8192,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.bos_token_id,
    }
    ids = tokenizer.convert_tokens_to_ids
    return Gemma4UnifiedConfig(
        text_config=text,
        vision_config={"mm_embed_dim": hidden, "output_proj_dims": hidden, "mm_posemb_size": s["mm_posemb_size"]},
        audio_config={"audio_embed_dim": 640},
        boi_token_id=ids("<|image>"), image_token_id=ids("<|image|>"), eoi_token_id=ids("<image|>"),
        boa_token_id=ids("<|audio>"), audio_token_id=ids("<|audio|>"), eoa_token_index=ids("<audio|>"),
        video_token_id=ids("<|video|>"),
        eos_token_id=[tokenizer.eos_token_id, ids("<turn|>"), ids("<|tool_response>")],
        pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id,
    )  # fmt: skip


def build_generation_config(tokenizer):  # noqa: ANN001
    """Gemma 4's sampling defaults; placeholders of media can never be generated."""
    from transformers import GenerationConfig

    ids = tokenizer.convert_tokens_to_ids
    media = ("<|image>", "<|image|>", "<image|>", "<|audio>", "<|audio|>", "<audio|>", "<|video|>")
    return GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=[tokenizer.eos_token_id, ids("<turn|>"), ids("<|tool_response>")],
        pad_token_id=tokenizer.pad_token_id,
        do_sample=True, temperature=1.0, top_k=64, top_p=0.95,
        suppress_tokens=[ids(t) for t in media],
    )  # fmt: skip


def build_model(tokenizer, seed: int = 0):  # noqa: ANN001, ANN201
    """A model of random weights, float32.

    Gemma 4 scales attention by 1.0 and lets its q and k norms set the sharpness; from scratch both start at
    ``head_dim ** -0.25``, which is the usual ``head_dim ** -0.5`` of the product.
    """
    import torch
    from transformers import Gemma4UnifiedForConditionalGeneration

    torch.manual_seed(seed)
    model = Gemma4UnifiedForConditionalGeneration(build_config(tokenizer))
    with torch.no_grad():
        for layer in model.model.language_model.layers:
            attention = layer.self_attn
            attention.q_norm.weight.fill_(attention.head_dim**-0.25)
            attention.k_norm.weight.fill_(attention.head_dim**-0.25)
            layer.post_attention_layernorm.weight.fill_(0.4)
            layer.post_feedforward_layernorm.weight.fill_(0.4)
    model.generation_config = build_generation_config(tokenizer)
    return model


def save(model, processor, folder: str | Path) -> None:  # noqa: ANN001
    """Write a loadable folder: processor, and weights as ``save_weights`` does."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    processor.save_pretrained(folder)
    save_weights(model, folder)


def save_weights(model, folder: Path) -> None:  # noqa: ANN001
    """Weights stored in bf16, to be computed with in float32. The model is left as it is."""
    import json

    import torch

    tied = getattr(model, "_tied_weights_keys", None) or {}
    kept = {k: v.detach().to(torch.bfloat16) for k, v in model.state_dict().items() if k not in tied}
    model.save_pretrained(folder, state_dict=kept)
    config = folder / "config.json"
    stored = json.loads(config.read_text(encoding="utf-8"))
    stored["dtype"] = "float32"  # what from_pretrained computes in unless told otherwise
    config.write_text(json.dumps(stored, indent=2) + "\n", encoding="utf-8")
    for path in folder.iterdir():
        path.chmod(0o644)


def main() -> None:
    """``python -m workbench.pocket.build [FOLDER]``: a folder with random weights."""
    import sys

    from workbench.pocket import WEIGHTS

    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else WEIGHTS
    processor = build_processor()
    model = build_model(processor.tokenizer)
    save(model, processor, folder)
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters in {folder}")


if __name__ == "__main__":
    main()
