"""Small checkpoints of random weights of Gemma 4's other members, with drafters, in the classes that they have.

``e4b``: towers for pictures and sounds, inputs of its own for each layer, the last layers on the keys and values of
earlier ones; causal everywhere. ``a4b``: a mixture of experts, a tower for pictures, pictures read in both directions.
``31b``: the same without experts. Every weight is random, norms, scales and clips too, so that nothing can be left out
unnoticed.
"""

import torch

from workbench.pocket import WEIGHTS
from workbench.pocket.build import build_generation_config
from workbench.pocket.tokenizer import CHAT_TEMPLATE, VOCAB, build_tokenizer

SLIDING, FULL = "sliding_attention", "full_attention"
WINDOW = 48
MEMBERS = ("e4b", "a4b", "31b")

_TEXT = {
    "e4b": {
        "layer_types": [SLIDING, SLIDING, FULL, SLIDING, SLIDING, FULL], "num_kv_shared_layers": 3,
        "hidden_size_per_layer_input": 32, "vocab_size_per_layer_input": VOCAB, "use_double_wide_mlp": True,
        "use_bidirectional_attention": None, "num_global_key_value_heads": None,
    },
    "a4b": {
        "layer_types": [SLIDING, SLIDING, FULL, SLIDING, FULL], "attention_k_eq_v": True,
        "num_global_key_value_heads": 1, "hidden_size_per_layer_input": 0, "use_bidirectional_attention": "vision",
        "enable_moe_block": True, "num_experts": 8, "top_k_experts": 2, "moe_intermediate_size": 32,
    },
    "31b": {
        "layer_types": [SLIDING, SLIDING, FULL, SLIDING, FULL], "attention_k_eq_v": True,
        "num_global_key_value_heads": 1, "hidden_size_per_layer_input": 0, "use_bidirectional_attention": "vision",
    },
}  # fmt: skip


def build_processor():
    """What reads for all of them: pictures of up to 70 soft tokens, each pooled of 3 × 3 patches of 16 × 16 pixels."""
    from transformers import (
        Gemma4AudioFeatureExtractor,
        Gemma4ImageProcessor,
        Gemma4Processor,
        Gemma4VideoProcessor,
    )

    return Gemma4Processor(
        feature_extractor=Gemma4AudioFeatureExtractor(),
        image_processor=Gemma4ImageProcessor(max_soft_tokens=70),
        tokenizer=build_tokenizer(WEIGHTS),
        video_processor=Gemma4VideoProcessor(),
        chat_template=CHAT_TEMPLATE.read_text(encoding="utf-8"),
        image_seq_length=70,
    )


def _text(tokenizer, **more):
    layers = more["layer_types"]
    return {
        "vocab_size": VOCAB, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": len(layers),
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "global_head_dim": 32,
        "sliding_window": WINDOW, "final_logit_softcapping": 30.0, "max_position_embeddings": 4096,
        "initializer_range": 0.15, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id, **more,
    }  # fmt: skip


def build_model(member, tokenizer, seed=0):
    """A model of random weights, float32."""
    from transformers import Gemma4Config, Gemma4ForConditionalGeneration

    small = member == "e4b"
    vision = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 2, "head_dim": 16, "position_embedding_size": 700, "use_clipped_linears": small,
        "standardize": not small, "initializer_range": 0.15,
    }  # fmt: skip
    audio = {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "subsampling_conv_channels": [128, 4],
        "output_proj_dims": 48, "initializer_range": 0.15,
    }  # fmt: skip
    ids = tokenizer.convert_tokens_to_ids
    torch.manual_seed(seed)
    model = Gemma4ForConditionalGeneration(Gemma4Config(
        text_config=_text(tokenizer, **_TEXT[member]), vision_config=vision, audio_config=audio if small else None,
        boi_token_id=ids("<|image>"), image_token_id=ids("<|image|>"), eoi_token_id=ids("<image|>"),
        boa_token_id=ids("<|audio>"), audio_token_id=ids("<|audio|>"), eoa_token_index=ids("<audio|>"),
        video_token_id=ids("<|video|>"), pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=[tokenizer.eos_token_id, ids("<turn|>"), ids("<|tool_response>")],
    ))  # fmt: skip
    _stir(model)
    model.generation_config = build_generation_config(tokenizer)
    return model


def build_drafter(model, seed=1):
    """A drafter of random weights that fits a model; that of a small member has its words in an order of its own."""
    from transformers import Gemma4AssistantConfig, Gemma4AssistantForCausalLM, Gemma4TextConfig

    theirs = model.config.text_config
    ordered = bool(theirs.hidden_size_per_layer_input)
    text = Gemma4TextConfig(
        vocab_size=theirs.vocab_size, hidden_size=32, intermediate_size=48, num_hidden_layers=3,
        layer_types=[SLIDING, SLIDING, FULL], num_attention_heads=2, num_key_value_heads=2,
        num_global_key_value_heads=None if ordered else 1, attention_k_eq_v=not ordered, head_dim=16,
        global_head_dim=32, sliding_window=theirs.sliding_window, num_kv_shared_layers=3,
        hidden_size_per_layer_input=0, vocab_size_per_layer_input=0, initializer_range=0.15,
        max_position_embeddings=theirs.max_position_embeddings, pad_token_id=theirs.pad_token_id,
        bos_token_id=theirs.bos_token_id, eos_token_id=theirs.eos_token_id,
    )  # fmt: skip
    torch.manual_seed(seed)
    drafter = Gemma4AssistantForCausalLM(Gemma4AssistantConfig(
        text_config=text, backbone_hidden_size=theirs.hidden_size, use_ordered_embeddings=ordered, num_centroids=32,
        centroid_intermediate_top_k=4,
    ))  # fmt: skip
    _stir(drafter)
    if ordered:
        drafter.masked_embedding.token_ordering.copy_(torch.randperm(theirs.vocab_size))
    return drafter


def _stir(model):
    """Random numbers where a new model has ones and zeros."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim < 2 or name.endswith("position_embedding_table"):
                weight.mul_(1 + 0.3 * torch.randn_like(weight)).add_(0.1 * torch.randn_like(weight))
        for name, buffer in model.named_buffers():
            last = name.rpartition(".")[2]
            if last in ("input_min", "output_min"):
                buffer.fill_(-2.5)
            elif last in ("input_max", "output_max"):
                buffer.fill_(2.0)
            elif last in ("std_bias", "std_scale", "layer_scalar"):
                buffer.copy_(1 + 0.2 * torch.randn_like(buffer))


def save(member, folder):
    """Write ``folder`` (the model) and ``folder/drafter``. Returns their paths."""
    processor = build_processor()
    model = build_model(member, processor.tokenizer)
    processor.save_pretrained(folder)
    model.save_pretrained(folder)
    build_drafter(model).save_pretrained(folder / "drafter")
    return folder, folder / "drafter"


def kinds(member):
    """Of each layer."""
    return _TEXT[member]["layer_types"]
