"""A byte-pair tokenizer of about a thousand pieces that speaks Gemma 4's control tokens by name.

Built on Transformers' ``GemmaTokenizer``, so a saved folder loads through ``AutoProcessor`` as the real one does.
Byte fallback covers every text that can be typed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

__all__ = ["CHAT_TEMPLATE", "NAMED", "VOCAB", "build_tokenizer", "corpus"]

VOCAB = 1024
CHAT_TEMPLATE = Path(__file__).with_name("chat_template.jinja")

# attribute on the tokenizer -> token, as in Gemma 4's own tokenizer configuration
NAMED = {
    "sot_token": "<|turn>", "eot_token": "<turn|>",
    "boi_token": "<|image>", "image_token": "<|image|>", "eoi_token": "<image|>",
    "boa_token": "<|audio>", "audio_token": "<|audio|>", "eoa_token": "<audio|>",
    "think_token": "<|think|>", "soc_token": "<|channel>", "eoc_token": "<channel|>",
    "std_token": "<|tool>", "etd_token": "<tool|>", "stc_token": "<|tool_call>", "etc_token": "<tool_call|>",
    "str_token": "<|tool_response>", "etr_token": "<tool_response|>", "escape_token": '<|"|>',
}  # fmt: skip
_VIDEO = "<|video|>"
_FIRST = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")

_ENGLISH = """the of and to in a is that it for as was with be by on not he his but at are this have from or had an they
which one you were all her she there would their we him been has when who will no more if out so up said what its about
than into them can only other time new some could these two may first then do any like my now over such our man me even
most made after also did many before must through years where much your way down should because each just those people
how too little good very make world still own see men work long here get both between life being under never day same
another know year while last might great old off come since go against came right used take three small large picture
image sound word voice shape color model token attention layer head patch frame probability draft answer question please
describe think thought hello show tell look find listen system user assistant helpful short sentence yes no nothing"""


def corpus(lines: int = 20_000, seed: int = 0) -> Iterable[str]:
    """What the merges are learnt from: questions and answers of the world, turn names and plain English words."""
    import numpy as np

    from workbench.pocket.data import Mix, draw_shown
    from workbench.pocket.questions import missing, random_turn
    from workbench.pocket.stories import story

    rng = np.random.default_rng(seed)
    mix = Mix(image=0.45, both=0.15, audio=0.2, text=0.2)
    for k in range(lines):
        shown, _ = draw_shown(mix, rng)
        turn = (missing(shown, rng) if k % 15 == 0 else None) or random_turn(shown, rng)
        yield turn.question
        yield turn.answer
        if k % 10 == 0:  # rarely asked and long: its words are to be whole tokens all the same
            yield story(shown.scene, rng)
    for _ in range(60):
        for word in ("user", "model", "system", "thought"):
            yield f"{word}\n"
        for word in _ENGLISH.split():
            yield f"a {word}"


def build_tokenizer(like: str | Path | None = None):  # noqa: ANN201 (a GemmaTokenizer; transformers is imported late)
    """A ``GemmaTokenizer`` with every control token in place.

    Args:
        like: folder of a model whose pieces and merges it is to have; None learns them from ``corpus``.
    """
    from transformers import GemmaTokenizer

    pieces, merges = _learnt() if like is None else _stored(Path(like))
    tokenizer = GemmaTokenizer(
        vocab={piece: k for k, piece in enumerate(pieces)},
        merges=merges,
        extra_special_tokens=NAMED,
        model_max_length=8192,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.add_special_tokens({"additional_special_tokens": [_VIDEO]}, replace_extra_special_tokens=False)
    return tokenizer


def _pairs(merges: list) -> list[tuple[str, str]]:
    return [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in merges]


def _stored(folder: Path) -> tuple[list[str], list[tuple[str, str]]]:
    model = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    return sorted(model["vocab"], key=model["vocab"].get), _pairs(model["merges"])


def _learnt() -> tuple[list[str], list[tuple[str, str]]]:
    """Pieces in the order of their ids, and merges."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

    control = [*_FIRST, *NAMED.values(), _VIDEO]
    byte_pieces = [f"<0x{k:02X}>" for k in range(256)]
    learner = Tokenizer(models.BPE(unk_token="<unk>"))  # noqa: S106 (a token of text)
    learner.normalizer = normalizers.Replace(" ", "▁")
    # words keep their leading space, punctuation and digits stand alone, so no merge crosses a word
    learner.pre_tokenizer = pre_tokenizers.Split(Regex("▁?[A-Za-z]+|▁|[0-9]|[^A-Za-z0-9▁]"), "isolated")
    alphabet = [chr(k) for k in range(33, 127)] + ["▁", "\n"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB - len(control) - len(byte_pieces),
        initial_alphabet=alphabet,
        show_progress=False,
        min_frequency=2,
    )
    learner.train_from_iterator(corpus(), trainer)
    learnt = json.loads(learner.to_str())["model"]
    pieces = [*control, *byte_pieces, *sorted(learnt["vocab"], key=learnt["vocab"].get)]
    return pieces, _pairs(learnt["merges"])
