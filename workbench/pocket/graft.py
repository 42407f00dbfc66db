"""Going on from weights whose tokenizer was another: rows of the embedding follow their pieces."""

from __future__ import annotations

from pathlib import Path

__all__ = ["begin"]


def begin(model, tokenizer, folder: str | Path) -> int:  # noqa: ANN001
    """Give a model the weights of a folder.

    A piece that both tokenizers know keeps its row; a new one starts as the mean of the old pieces that spell it.

    Args:
        model: of the same shape, its vocabulary ``tokenizer``'s.
        tokenizer: of the model.
        folder: where the weights lie, with their tokenizer.

    Returns:
        How many pieces are new.
    """
    import torch
    from transformers import AutoTokenizer

    stored = type(model).from_pretrained(folder, dtype=torch.float32).state_dict()
    before = AutoTokenizer.from_pretrained(folder)
    theirs = before.get_vocab()
    new = 0
    sources = []
    for piece, _ in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]):
        if piece in theirs:
            sources.append([theirs[piece]])
            continue
        new += 1
        sources.append(before.encode(piece.replace("▁", " "), add_special_tokens=False))
    if new or list(theirs.values()) != list(tokenizer.get_vocab().values()):
        for name in ("model.language_model.embed_tokens.weight", "lm_head.weight"):
            if name in stored:
                stored[name] = torch.stack([stored[name][rows].mean(0) for rows in sources])
    model.load_state_dict(stored)
    return new
