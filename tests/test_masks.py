"""The masks against the written rule, pair by pair, and against the stock ones."""

import pytest

torch = pytest.importorskip("torch")

from workbench import masks  # noqa: E402
from workbench.pocket import WEIGHTS  # noqa: E402


def by_hand(types, window):
    """The rule of masks' docstring, one pair at a time, in plain Python."""
    T = len(types)
    block, blocks = -1, []
    for k, t in enumerate(types):
        vision = t in (1, 2)
        if vision and (k == 0 or types[k - 1] not in (1, 2)):
            block += 1
        blocks.append(block if vision else None)
    full = [[k <= q for k in range(T)] for q in range(T)]
    sliding = [
        [q - k < window and (k <= q or (blocks[q] is not None and blocks[q] == blocks[k])) for k in range(T)]
        for q in range(T)
    ]
    return torch.tensor(full), torch.tensor(sliding)


# two images of 7 and 30 tokens, a sound, words between, longer than the window
TYPES = [0] * 3 + [1] * 7 + [0] * 2 + [1] * 30 + [0] + [3] * 11 + [0] * 9


def explicit(mask, rows, keys):
    """A mask that build left out because plain causal attention is the same."""
    if mask is not None:
        return mask[0, 0]
    return torch.arange(keys)[None] <= torch.arange(keys - rows, keys)[:, None]


@pytest.mark.parametrize("window", [4, 16, 29, 200])
def test_build_is_the_written_rule(window):
    full, sliding = by_hand(TYPES, window)
    made = masks.build(torch.tensor([TYPES]), window)
    T = len(TYPES)
    assert torch.equal(explicit(made["full_attention"], T, T), full)
    assert torch.equal(explicit(made["sliding_attention"], T, T), sliding)


@pytest.mark.parametrize("window", [4, 16, 200])
@pytest.mark.parametrize("start", [2, 10, 12, 42, 60, len(TYPES) - 1])
def test_rows_after_a_cache_see_what_they_would_have_seen(window, start):
    full, sliding = by_hand(TYPES, window)
    made = masks.build(torch.tensor([TYPES]), window, start=start)
    rows, T = len(TYPES) - start, len(TYPES)
    first = max(start - window + 1, 0)  # what a sliding cache still holds
    assert torch.equal(explicit(made["full_attention"], rows, T), full[start:])
    assert torch.equal(explicit(made["sliding_attention"], rows, T - first), sliding[start:, first:])


def test_blocks_of_adjacent_kinds_and_at_the_ends():
    assert masks.blocks(torch.tensor([1, 1, 0, 2, 2, 0, 3, 1])).tolist() == [0, 0, -1, 1, 1, -1, -1, 2]


@pytest.fixture(scope="module")
def transformer():
    from transformers import AutoModelForMultimodalLM

    return AutoModelForMultimodalLM.from_pretrained(WEIGHTS, dtype=torch.float32, attn_implementation="eager").eval()


def _embedded(model, types):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, len(types), model.config.text_config.hidden_size, generator=generator)


def _attentions(model, types):
    with torch.no_grad():
        return model(
            inputs_embeds=_embedded(model, types), mm_token_type_ids=torch.tensor([types]), output_attentions=True,
            attention_mask=torch.ones(1, len(types), dtype=torch.long),
        ).attentions  # fmt: skip


TWO_IMAGES = [0] * 4 + [1] * 60 + [0] * 5 + [3] * 20 + [0] * 3 + [1] * 50 + [0] * 30
LONG_IMAGE = [0] * 4 + [1] * 130 + [0] * 30  # longer than the window, as 1,120 tokens are in 12B


def _sees_what_it_should(transformer, types, attentions):
    full, sliding = by_hand(types, transformer.config.text_config.sliding_window)
    for kind, weights in zip(transformer.config.text_config.layer_types, attentions, strict=True):
        allowed = full if kind == "full_attention" else sliding
        assert torch.equal((weights[0] > 0).any(0) | ~allowed, torch.ones_like(allowed)), "an allowed key was masked"
        assert not (weights[0] > 0).any(0)[~allowed].any(), "a forbidden key was seen"


def test_stock_masks_are_wrong_and_the_correction_is_right(transformer):
    """What eager attention really gives weight to, with two images, a sound and a prompt past the window."""
    types = TWO_IMAGES
    assert len(types) > transformer.config.text_config.sliding_window
    full, _ = by_hand(types, transformer.config.text_config.sliding_window)
    stock = _attentions(transformer, types)
    assert masks.correct(transformer)
    assert masks.correct(transformer), "a second call changes nothing"
    _sees_what_it_should(transformer, types, _attentions(transformer, types))
    for kind, theirs in zip(transformer.config.text_config.layer_types, stock, strict=True):
        if kind == "full_attention":
            assert (theirs[0] > 0).any(0)[~full].any(), "the stock masks are right now: drop the correction"


def test_the_correction_of_an_image_longer_than_the_window(transformer):
    masks.correct(transformer)
    _sees_what_it_should(transformer, LONG_IMAGE, _attentions(transformer, LONG_IMAGE))


@pytest.mark.parametrize("types", [TWO_IMAGES, LONG_IMAGE], ids=["two images", "image longer than the window"])
def test_forward_with_our_masks_equals_the_corrected_forward(transformer, types):
    masks.correct(transformer)
    transformer.set_attn_implementation("sdpa")
    embedded, t = _embedded(transformer, types), torch.tensor([types])
    with torch.no_grad():
        theirs = transformer(inputs_embeds=embedded, mm_token_type_ids=t, attention_mask=torch.ones_like(t)).logits
        window = transformer.config.text_config.sliding_window
        ours = transformer(inputs_embeds=embedded, attention_mask=masks.build(t, window)).logits
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-5)
