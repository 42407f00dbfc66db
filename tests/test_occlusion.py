"""Occlusion against whole forward passes of Transformers' model with the patch, frame or word really hidden."""

import threading
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import workbench  # noqa: E402
from workbench import embedding, masks, occlusion  # noqa: E402
from workbench.errors import Incompatible, PromptError, TraceError  # noqa: E402
from workbench.pocket import HERE, WEIGHTS  # noqa: E402
from workbench.readings import Recorded, keep, rank_correlation  # noqa: E402

SCENE, WORD = HERE / "examples" / "scene.png", HERE / "examples" / "seven.wav"


@pytest.fixture(scope="module")
def model():
    return workbench.load("pocket", progress=False)


@pytest.fixture(scope="module")
def stock():
    from transformers import AutoModelForMultimodalLM

    other = AutoModelForMultimodalLM.from_pretrained(WEIGHTS, dtype=torch.float32).eval()
    masks.correct(other)
    return other


def wide(height=100, width=330):
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([x * 255 // width, y * 255 // height, (x * y) % 256], axis=-1).astype(np.uint8)
    pixels[20:60, 200:260] = (220, 20, 20)
    return pixels


@pytest.fixture(scope="module")
def trace(model):
    """Two pictures and two sounds, in all longer than the window."""
    made = model.ask(
        "Tell me a story about the picture.", images=[SCENE, wide()],
        audio=[WORD, (np.sin(np.arange(6000) / 9), 16_000)], max_new_tokens=5, temperature=1.0, seed=1, draft=0,
    )  # fmt: skip
    assert len(made.prompt) > model.info.window
    return made


def logprobs(stock, model, trace, *, values=None, embeds=None):
    """(N,) of each generated token by the stock model; ``values`` replaces a feature's, ``embeds`` an embedding."""
    request = model.request(trace)
    if values is not None:
        index, given = values
        features = list(request.features)
        features[index] = replace(features[index], values=given)
        request = replace(request, features=tuple(features))
    ids = torch.tensor(trace.ids.astype(np.int64))[None]
    types = torch.nn.functional.pad(request.type_ids, (0, len(trace.tokens)))
    with torch.inference_mode():
        hook = None
        if embeds is not None:
            position, row = embeds

            def put(_module, _args, kwargs):
                kwargs["inputs_embeds"] = kwargs["inputs_embeds"].clone()
                kwargs["inputs_embeds"][0, position] = row
                return _args, kwargs

            hook = stock.model.language_model.register_forward_pre_hook(put, with_kwargs=True)
        try:
            logits = stock(
                input_ids=ids, attention_mask=torch.ones_like(ids), mm_token_type_ids=types, use_cache=False,
                **request.media_inputs(),
            ).logits[0]  # fmt: skip
        finally:
            if hook:
                hook.remove()
    T = len(trace.prompt)
    rows = logits[T - 1 : -1].double().log_softmax(-1)
    return rows.gather(1, ids[0, T:, None])[:, 0].numpy()


@pytest.mark.parametrize("how", ["mean", "grey", "blur"])
def test_hiding_a_patch_is_a_pass_with_that_patch_hidden(model, stock, trace, how):
    index = 1
    o = model.occlude(trace, token=[1, 3], over="image", media=index, how=how)
    feature = model.request(trace).features[index]
    segment = trace.prompt.segment("image", index)
    assert o.values.shape == (segment.rows, segment.cols)
    assert segment.rows != segment.cols
    assert o.fine.all()
    assert o.passes == len(segment)
    whole = logprobs(stock, model, trace)
    assert o.base == pytest.approx(whole[[1, 3]].sum(), abs=1e-4)
    if how == "grey":
        stand_in = torch.full_like(feature.values, 0.5)
    elif how == "mean":
        colour = feature.values.view(len(feature.values), -1, 3).mean((0, 1))
        stand_in = colour.repeat(feature.values.shape[1] // 3).expand_as(feature.values)
    else:
        stand_in = embedding.stand_in(feature, how, [segment], model._prompter.reader.heard, None)
    for patch in (0, segment.cols + 2, len(segment) - 1):
        values = feature.values.clone()
        values[patch] = stand_in[patch]
        hidden = logprobs(stock, model, trace, values=(index, values))
        expected = (whole - hidden)[[1, 3]].sum()
        assert o.values.ravel()[patch] == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize(("how", "media"), [("silence", 0), ("noise", 1)])
def test_hiding_a_frame_is_a_pass_with_that_frame_hidden(model, stock, trace, how, media):
    o = model.occlude(trace, token=2, over="audio", media=media, how=how)
    feature = model.request(trace).features[2 + media]
    whole = logprobs(stock, model, trace)
    assert o.values.shape == (len(feature.values),)
    assert o.map.start_ms[3] == 120
    stand_in = embedding.stand_in(feature, how, [], model._prompter.reader.heard, trace.audio[media].samples)
    for frame in (0, 7, len(feature.values) - 1):
        values = feature.values.clone()
        values[frame] = stand_in[frame]
        expected = (whole - logprobs(stock, model, trace, values=(2 + media, values)))[2]
        assert o.values[frame] == pytest.approx(expected, abs=2e-4)


def test_hiding_a_word_is_a_pass_with_the_mean_word_in_its_place(model, stock, trace):
    o = model.occlude(trace, over="text")
    words = [p for s in trace.prompt.segments if s.kind == "text" for p in range(s.start, s.stop)]
    assert np.flatnonzero(np.isfinite(o.values)).tolist() == words
    assert o.fine.sum() == len(words)
    embed = stock.get_input_embeddings()
    mean = embed(torch.arange(stock.config.text_config.vocab_size)).mean(0)
    whole = logprobs(stock, model, trace).sum()
    for position in (words[0], words[-1]):
        expected = whole - logprobs(stock, model, trace, embeds=(position, mean)).sum()
        assert o.values[position] == pytest.approx(expected, abs=5e-4)


def test_tiles_first_and_the_best_of_them_patch_by_patch(model, trace):
    every = model.occlude(trace, token=0, media=0, tile=1)
    some = model.occlude(trace, token=0, media=0, tile=4)
    assert not some.fine.all()
    assert some.fine.any()
    np.testing.assert_allclose(some.values.ravel()[some.fine], every.values.ravel()[some.fine], atol=1e-5)
    rows, cols = some.values.shape
    assert some.passes == -(-rows // 4) * -(-cols // 4) + some.fine.sum()
    rough = np.flatnonzero(~some.fine)
    r, c = np.divmod(rough, cols)
    tile = rough[(r // 4 == r[0] // 4) & (c // 4 == c[0] // 4)]
    assert len(set(some.values.ravel()[tile].tolist())) == 1, "a tile's places share its drop"


def test_few_variants_at_a_time_give_the_same(model, trace, monkeypatch):
    a = model.occlude(trace, over="audio", media=0)
    monkeypatch.setattr(occlusion, "_BATCH_TOKENS", 1)
    b = model.occlude(trace, over="audio", media=0)
    np.testing.assert_allclose(a.values, b.values, atol=1e-4)


def test_it_can_be_kept_and_laid_beside_attention(model, trace, tmp_path):
    o = model.occlude(trace, token=3, over="image", media=1)
    attention = model.attend(trace, tokens=3).map("image", 1, token=3)
    assert attention.values.shape == o.map.values.shape
    assert np.array_equal(attention.boxes, o.map.boxes)
    assert -1 <= rank_correlation(attention, o.map) <= 1
    words = model.occlude(trace, over="text")
    keep(trace, o, words).save(tmp_path / "a.trace")
    recorded = Recorded(workbench.Trace.load(tmp_path / "a.trace"))
    again = recorded.occlude(trace, token=3, media=1)
    assert np.array_equal(again.values, o.values)
    assert np.array_equal(again.map.boxes, o.map.boxes)
    assert (again.base, again.how, again.passes) == (o.base, o.how, o.passes)
    np.testing.assert_array_equal(recorded.occlude(trace, over="text").values, words.values)
    with pytest.raises(TraceError, match="no occlusion of image 0"):
        recorded.occlude(trace, token=3)


def test_what_is_wrong_is_said(model, trace):
    for more, error, words in (
        ({"token": 5}, TraceError, "5 tokens"), ({"over": "smell"}, PromptError, "expected 'image', 'audio', 'text'"),
        ({"how": "silence"}, PromptError, "'mean' or 'grey' or 'blur'"), ({"media": 2}, TraceError, "no image 2"),
        ({"tile": 0}, PromptError, "from 1"), ({"stop": 1}, PromptError, "Event"),
    ):  # fmt: skip
        with pytest.raises(error, match=words):
            model.occlude(trace, **more)
    with pytest.raises(Incompatible):
        model.occlude(replace(trace, model=replace(trace.model, weights_hash="0" * 64)))
    stop = threading.Event()
    stop.set()
    with pytest.raises(TraceError, match="occlude was stopped"):
        model.occlude(trace, stop=stop)
    plain = model.ask("What?", max_new_tokens=1, temperature=0)
    with pytest.raises(TraceError, match="no media at all"):
        model.occlude(plain)
