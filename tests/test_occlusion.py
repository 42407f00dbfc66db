"""Occlusion against whole forward passes of Transformers' model with the patch, frame or word really hidden."""

import threading
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import workbench  # noqa: E402
from workbench import embedding, masks, occlusion  # noqa: E402
from workbench.errors import Incompatible, PromptError, TraceError  # noqa: E402
from workbench.pocket import HERE, WEIGHTS  # noqa: E402
from workbench.pocket.world import PLACES  # noqa: E402
from workbench.readings import Recorded, keep, rank_correlation  # noqa: E402
from workbench.trace import Segment  # noqa: E402

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
    o = model.occlude(trace, token=[1, 3], over="image", media=index, how=how, size=1)
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
    o = model.occlude(trace, token=2, over="audio", media=media, how=how, size=1)
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


def test_what_stands_in_by_hand():
    rows = cols = 5
    segment = Segment("image", 0, rows * cols, rows=rows, cols=cols)
    side = 48

    def blurred(picture):  # (H, W, 3) -> (H, W, 3)
        cut = picture.reshape(rows, side, cols, side, 3).transpose(1, 2).reshape(rows * cols, -1)
        feature = SimpleNamespace(values=cut, start=0, stop=rows * cols)
        made = embedding.stand_in(feature, "blur", [segment], None, None)
        assert made.shape == cut.shape
        return made.reshape(rows, cols, side, side, 3).transpose(1, 2).reshape(rows * side, cols * side, 3)

    flat = torch.full((rows * side, cols * side, 3), 0.3)
    torch.testing.assert_close(blurred(flat), flat)
    dot = torch.zeros_like(flat)
    dot[120, 110, 1] = 1.0
    spread = blurred(dot)
    assert float(spread.sum()) == pytest.approx(1.0, abs=1e-4), "nothing is lost"
    assert spread[..., [0, 2]].abs().max() == 0
    there = spread[..., 1].nonzero()
    assert there.min(0).values.tolist() == [120 - 48, 110 - 48]  # twice a box of 49
    assert there.max(0).values.tolist() == [120 + 48, 110 + 48]
    assert float(spread[120, 110, 1]) == pytest.approx(1 / 49**2, rel=1e-3)
    noise = torch.rand(rows * side, cols * side, 3, generator=torch.Generator().manual_seed(0))
    assert float(blurred(noise).var()) < 0.01 * float(noise.var())

    samples = (0.1 * np.random.default_rng(0).standard_normal(640 * 4)).astype(np.float32)
    sound = SimpleNamespace(values=torch.from_numpy(samples.reshape(4, 640)), start=0, stop=4)
    heard = lambda wave: torch.from_numpy(np.asarray(wave, np.float32).reshape(-1, 640))  # noqa: E731
    loud, again = (embedding.stand_in(sound, "noise", [], heard, samples) for _ in range(2))
    assert torch.equal(loud, again)
    assert float(loud.pow(2).mean()) == pytest.approx(float(sound.values.pow(2).mean()), rel=0.1)
    assert abs(float((loud * sound.values).mean() / sound.values.pow(2).mean())) < 0.1, "another noise than the sound"
    assert embedding.stand_in(sound, "silence", [], heard, samples).abs().max() == 0


def test_tiles_first_and_the_best_of_them_patch_by_patch(model, trace):
    every = model.occlude(trace, token=0, media=0, size=1, tile=1)
    some = model.occlude(trace, token=0, media=0, size=1, tile=4)
    assert not some.fine.all()
    assert some.fine.any()
    np.testing.assert_allclose(some.values.ravel()[some.fine], every.values.ravel()[some.fine], atol=1e-5)
    rows, cols = some.values.shape
    assert some.passes == -(-rows // 4) * -(-cols // 4) + some.fine.sum()
    rough = np.flatnonzero(~some.fine)
    r, c = np.divmod(rough, cols)
    tile = rough[(r // 4 == r[0] // 4) & (c // 4 == c[0] // 4)]
    assert len(set(some.values.ravel()[tile].tolist())) == 1, "a tile's places share its drop"


def test_a_block_is_hidden_around_each_place_as_far_as_the_edge(model, stock, trace):
    index = 1
    feature, segment = model.request(trace).features[index], trace.prompt.segment("image", index)
    rows, cols = segment.rows, segment.cols
    whole = logprobs(stock, model, trace)[2]
    for size, before, after in ((3, 1, 1), (2, 0, 1)):
        o = model.occlude(trace, token=2, media=index, how="grey", size=size)
        assert (o.size, o.passes, o.fine.all()) == (size, rows * cols, True)
        assert f"in blocks of {size} × {size}" in o.map.about
        for r, c in ((0, 0), (1, 5), (rows - 1, cols - 1)):
            values = feature.values.clone().view(rows, cols, -1)
            values[max(0, r - before) : r + after + 1, max(0, c - before) : c + after + 1] = 0.5
            hidden = logprobs(stock, model, trace, values=(index, values.view_as(feature.values)))[2]
            assert o.values[r, c] == pytest.approx(whole - hidden, abs=2e-4)


def test_a_run_of_frames_is_hidden_around_each(model, stock, trace):
    o = model.occlude(trace, token=2, over="audio")
    assert o.size == 3
    feature = model.request(trace).features[2]
    stand_in = embedding.stand_in(feature, "silence", [], model._prompter.reader.heard, trace.audio[0].samples)
    whole = logprobs(stock, model, trace)[2]
    for frame in (0, 7, len(feature.values) - 1):
        values = feature.values.clone()
        run = slice(max(0, frame - 1), frame + 2)
        values[run] = stand_in[run]
        expected = whole - logprobs(stock, model, trace, values=(2, values))[2]
        assert o.values[frame] == pytest.approx(expected, abs=2e-4)


def test_words_apart_are_no_neighbours():
    segments = [Segment("text", 0, 3), Segment("text", 9, 12)]
    blocks = occlusion.Blocks.over(segments, np.array([0, 1, 2, 9, 10, 11]), 3)
    assert [blocks.around(np.array([i])).tolist() for i in range(6)] == [
        [0, 1],
        [0, 1, 2],
        [1, 2],
        [3, 4],
        [3, 4, 5],
        [4, 5],
    ]
    assert [t.tolist() for t in blocks.tiles(2)] == [[0, 1], [2], [3], [4, 5]]


def test_tiles_of_blocks_are_refined_to_blocks(model, trace):
    every = model.occlude(trace, token=0, size=3)
    some = model.occlude(trace, token=0, size=3, tile=4)
    assert not some.fine.all()
    np.testing.assert_allclose(some.values.ravel()[some.fine], every.values.ravel()[some.fine], atol=1e-5)
    rows, cols = some.values.shape
    whole = model.occlude(trace, token=0, size=2 * max(rows, cols))
    assert np.ptp(whole.values) < 1e-4, "every block is the whole picture"
    tiled = model.occlude(trace, token=0, size=2 * max(rows, cols), tile=4)
    np.testing.assert_allclose(tiled.values, whole.values, atol=1e-4)  # a tile reaches no more than each of its blocks


def test_a_small_picture_is_not_hidden_whole(model):
    trace = model.ask("What is at the top left?", images=[wide(40, 200)], max_new_tokens=2, temperature=0)
    segment = trace.prompt.segment("image")
    assert segment.rows < 6
    assert model.occlude(trace).size == max(1, segment.rows // 2)


def test_what_hiding_costs_most_is_the_thing_asked_about(model):
    """On scenes that are drawn here: the block's middle touches the shape's own box, in nine of ten at least."""
    rng = np.random.default_rng(7)
    hits, drops = [], []
    while len(hits) < 20:
        y, x = np.mgrid[:384, :384]
        picture = np.full((384, 384, 3), int(rng.integers(90, 160)), np.uint8)
        places = rng.choice(9, 3, replace=False)
        for place, shape, colour in zip(places, ("circle", "square", "circle"), rng.permutation(4), strict=False):
            cx, cy, r = place % 3 * 128 + 64, place // 3 * 128 + 64, rng.uniform(32, 52)
            far = np.hypot(x - cx, y - cy) if shape == "circle" else np.maximum(abs(x - cx), abs(y - cy))
            picture[far < r] = ((255, 0, 0), (0, 0, 255), (255, 255, 0), (255, 255, 255))[colour]
            if place == places[0]:
                box, said = (cx - r, cy - r, cx + r, cy + r), f"A {('red', 'blue', 'yellow', 'white')[colour]} {shape}."
        trace = model.ask(f"What is at the {PLACES[places[0]]}?", images=[picture], temperature=0, draft=0)
        if trace.text != said:
            continue
        o = model.occlude(trace, token=1)
        left, top, right, bottom = o.map.boxes.reshape(*o.values.shape, 4)[
            np.unravel_index(o.values.argmax(), o.values.shape)
        ]
        hits.append(left < box[2] and right > box[0] and top < box[3] and bottom > box[1])
        drops.append(float(o.values.max()))
    assert np.mean(hits) >= 0.9
    assert np.median(drops) > 1, "nats: not a matter of rounding"


def test_few_variants_at_a_time_give_the_same(model, trace, monkeypatch):
    a = model.occlude(trace, over="audio", media=0)
    monkeypatch.setattr(occlusion, "_BATCH_TOKENS", 1)
    b = model.occlude(trace, over="audio", media=0)
    np.testing.assert_allclose(a.values, b.values, atol=1e-4)


@pytest.mark.parametrize("over", ["audio", "text"])
def test_a_pass_has_no_more_rows_than_it_may(model, trace, monkeypatch, over):
    """What is hidden late goes over few rows, what is hidden first over all: a pass begins where its first one does."""
    passes, real = [], occlusion._Runner._batch

    def batch(runner, variants, start):
        first = min(int(runner.positions[v].min()) for v in variants)
        passes.append((len(variants), runner.embeddings.shape[1] - start, start <= first))
        return real(runner, variants, start)

    monkeypatch.setattr(occlusion._Runner, "_batch", batch)
    monkeypatch.setattr(occlusion, "_BATCH_TOKENS", 400)
    model.occlude(trace, token=0, over=over)
    assert all(n == 1 or n * rows <= 400 for n, rows, _ in passes)
    assert all(whole for *_, whole in passes)
    assert any(n > 1 for n, *_ in passes)
    monkeypatch.setattr(occlusion, "_BATCH", 2)
    passes.clear()
    model.occlude(trace, token=0, over=over)
    assert max(n for n, *_ in passes) == 2


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
    assert (again.base, again.how, again.size, again.passes) == (o.base, o.how, o.size, o.passes)
    np.testing.assert_array_equal(recorded.occlude(trace, over="text").values, words.values)
    both = Recorded(keep(trace, o, model.occlude(trace, token=3, media=1, size=1)))
    assert [both.occlude(trace, token=3, media=1, size=s).size for s in (None, 1, o.size)] == [o.size, 1, o.size]
    with pytest.raises(TraceError, match=r"no occlusion of image 1 for token 3 in blocks of 7"):
        both.occlude(trace, token=3, media=1, size=7)
    with pytest.raises(TraceError, match="no occlusion of image 0"):
        recorded.occlude(trace, token=3)


def test_numpy_numbers_are_numbers(model, trace, tmp_path):
    two, one = np.int64(2), np.int64(1)
    o = model.occlude(trace, token=np.int64(0), media=one, size=np.int32(3), tile=two)
    assert (o.size, o.map.media) == (3, 1)
    keep(trace, o).save(tmp_path / "a.trace")
    again = Recorded(workbench.Trace.load(tmp_path / "a.trace")).occlude(trace, token=0, media=1, size=3)
    assert np.array_equal(again.values, o.values)


def test_what_is_wrong_is_said(model, trace):
    for more, error, words in (
        ({"token": 5}, TraceError, "5 tokens"), ({"over": "smell"}, PromptError, "expected 'image', 'audio', 'text'"),
        ({"how": "silence"}, PromptError, "'mean' or 'grey' or 'blur'"), ({"media": 2}, TraceError, "no image 2"),
        ({"tile": 0}, PromptError, "from 1"), ({"size": 0}, PromptError, "size=0: .* from 1"),
        ({"size": 2.0}, PromptError, "size=2.0"), ({"size": True}, PromptError, "size=True"),
        ({"stop": 1}, PromptError, "Event"), ({"over": "text", "media": 1}, PromptError, "media=1 goes with"),
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


def test_one_word_against_another_is_the_difference_of_the_two(model, trace):
    """By two occlusions of two runs: one of the answer, one of the branch that says the other word there."""
    mine = model.occlude(trace, token=1, size=1)
    other = int(next(i for i in trace.tokens.top_ids[1] if i != trace.tokens.token_id[1]))
    branch = model.branch(trace, 1, other, max_new_tokens=2)
    theirs = model.occlude(branch, token=1, size=1)
    both = model.occlude(trace, token=1, size=1, against=other)
    np.testing.assert_allclose(both.values, mine.values - theirs.values, atol=2e-5)
    assert both.base == pytest.approx(mine.base - theirs.base, abs=1e-5)
    assert both.against == other
    assert "rather than" in both.map.about
    kept = keep(trace, mine, both)
    assert len(kept.readings) == len(trace.readings) + 2
    recorded = Recorded(kept)
    assert recorded.occlude(kept, 1).against is None
    assert recorded.occlude(kept, 1, against=other).values.tolist() == both.values.tolist()
    with pytest.raises(TraceError, match="holds no occlusion"):
        recorded.occlude(kept, 1, against=5)


@pytest.mark.parametrize(
    ("token", "against", "said"),
    [(1, " red blue", "is 2 tokens"), ([0, 1], " blue", "goes with one token="), (1, 99_999, "holds token id 99999"),
     (1, True, "expected a text, or token ids"), (1, "", "is empty"), (1, None, "")],
)  # fmt: skip
def test_words_that_nothing_can_be_against(model, trace, token, against, said):
    if not said:
        against, said = int(trace.tokens.token_id[1]), "is token 1 itself"
    with pytest.raises(PromptError, match=said):
        model.occlude(trace, token=token, against=against)
