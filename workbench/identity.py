"""What a loaded model is: names, hashes and releases, kept with every trace."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from workbench.catalog import Entry
from workbench.trace import ModelInfo

__all__ = ["HASHED_WHOLE", "model_info", "weights_hash"]

HASHED_WHOLE = 256 << 20
"""Bytes; larger weights are hashed by header and samples."""


def model_info(entry: Entry, folder: Path, transformer: Any, processor: Any, device: str, corrected: bool) -> ModelInfo:
    """Names and hashes of a model that was read from a folder; ``corrected``: whether its masks were mended."""
    text = transformer.config.get_text_config()
    vocabulary = processor.tokenizer.get_vocab()
    ordered = "\0".join(f"{piece}\0{i}" for piece, i in sorted(vocabulary.items(), key=lambda item: item[1]))
    versions: Mapping[str, str] = {
        "python": platform.python_version(),
        **{p: metadata.version(p) for p in ("torch", "transformers", "tokenizers", "numpy")},
    }
    return ModelInfo(
        name=entry.name,
        variant=entry.name if entry.local else entry.source,
        # of a hub id the commit, which is the folder's name: a branch or tag is another one tomorrow
        revision="embedded" if entry.name == "pocket" else "local" if entry.local else folder.name,
        weights_hash=weights_hash(folder),
        quantization="none",
        dtype=str(transformer.dtype).removeprefix("torch."),
        device=device,
        attention=str(transformer.config._attn_implementation),  # noqa: SLF001 (there is no public name)
        mask_correction=corrected,
        chat_template_hash=hashlib.sha256(str(processor.chat_template).encode()).hexdigest(),
        vocab_hash=hashlib.sha256(ordered.encode()).hexdigest(),
        layers=tuple("sliding" if kind == "sliding_attention" else "full" for kind in text.layer_types),
        window=text.sliding_window,
        context=int(text.max_position_embeddings),
        versions=versions,
    )


def weights_hash(folder: Path) -> str:
    """SHA-256 of the weights: of all bytes, or, above 256 MB, of sizes, headers and 1,024 samples of each file."""
    files = sorted(folder.glob("*.safetensors"))
    whole = sum(f.stat().st_size for f in files) <= HASHED_WHOLE
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            if whole:
                while block := file.read(1 << 20):
                    digest.update(block)
            else:
                digest.update(file.read(1 << 20))
                for k in range(1024):
                    file.seek(size * k // 1024)
                    digest.update(file.read(4096))
    return digest.hexdigest() if whole else f"sampled-{digest.hexdigest()}"
