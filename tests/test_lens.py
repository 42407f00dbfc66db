"""Lenses against hidden states that Transformers returns, read by hand; filters against the weights."""

import threading

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import workbench  # noqa: E402
from workbench import masks  # noqa: E402
from workbench.errors import PromptError, TraceError  # noqa: E402
from workbench.pocket import HERE, WEIGHTS  # noqa: E402
from workbench.readings import Recorded, keep  # noqa: E402

SCENE, WORD = HERE / "examples" / "scene.png", HERE / "examples" / "seven.wav"


@pytest.fixture(scope="module")
def model():
    return workbench.load("pocket", progress=False)


@pytest.fixture(scope="module")
def trace(model):
    return model.ask(
        "Tell me a story about the picture.", images=[SCENE], audio=[WORD], max_new_tokens=6, temperature=1.0, seed=5,
        draft=0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def oracle(model, trace):
    """(L + 1, T + N, V) float64 logprobs of every layer's hidden state: norm, head, soft-capping by hand."""
    from transformers import AutoModelForMultimodalLM

    other = AutoModelForMultimodalLM.from_pretrained(WEIGHTS, dtype=torch.float32).eval()
    masks.correct(other)
    request = model.request(trace)
    ids = torch.tensor(trace.ids.astype(np.int64))[None]
    types = torch.nn.functional.pad(request.type_ids, (0, len(trace.tokens)))
    with torch.inference_mode():
        out = other(
            input_ids=ids, attention_mask=torch.ones_like(ids), mm_token_type_ids=types, use_cache=False,
            output_hidden_states=True, **request.media_inputs(),
        )  # fmt: skip
        norm, head = other.model.language_model.norm, other.lm_head
        rows = [30 * torch.tanh(head(norm(h[0])) / 30) for h in out.hidden_states[:-1]]  # the last has the norm already
        rows.append(out.logits[0])
    return torch.stack(rows).double().log_softmax(-1).numpy()


def test_the_answer_read_after_every_layer(model, trace, oracle):
    lens = model.lens(trace, top=4)
    T, N = len(trace.prompt), len(trace.tokens)
    assert lens.layers.tolist() == [-1, 0, 1, 2, 3, 4, 5]
    assert lens.positions.tolist() == list(range(T - 1, T + N - 1))
    assert lens.final_ids.tolist() == trace.tokens.token_id.tolist()
    for k, p in enumerate(lens.positions):
        for i in range(len(lens.layers)):
            row, final = oracle[i, p], lens.final_ids[k]
            assert lens.logprob[i, k] == pytest.approx(row[final], abs=1e-3)
            assert lens.rank[i, k] == (row > row[final] + 1e-5).sum()
            expected = (np.exp(oracle[-1, p]) * (oracle[-1, p] - row)).sum()
            assert lens.kl[i, k] == pytest.approx(expected, abs=2e-3)
            np.testing.assert_allclose(lens.top_logprob[i, k], np.sort(row)[::-1][:4], atol=1e-3)
    np.testing.assert_allclose(lens.logprob[-1], trace.tokens.logprob, atol=1e-4)
    np.testing.assert_allclose(lens.kl[-1], 0, atol=1e-6)
    words = lens.words(token=2)
    assert len(words) == 7
    assert words[-1][0][0] == trace.tokens.top_pieces[int(trace.tokens.top_ids[2, 0])]


def test_patches_and_frames_are_read_as_words_are(model, trace, oracle):
    image, sound = (trace.prompt.segment(kind) for kind in ("image", "audio"))
    lens = model.lens(trace, over="image", top=2)
    for layer in (-1, 3, 5):
        grid = lens.grid(layer)
        assert grid.shape == (image.rows, image.cols)
        expected = oracle[layer + 1, image.start : image.stop]
        chosen = expected[np.arange(len(image)), grid.ravel()]
        np.testing.assert_allclose(chosen, expected.max(-1), atol=1e-4)
        assert all(int(i) in lens.pieces for i in grid.ravel())
    assert (lens.rank[-1] == 0).all()
    heard = model.lens(trace, over="audio", top=1)
    assert heard.grid(2).shape == (len(sound),)
    prompt = model.lens(trace, over="prompt", top=1)
    np.testing.assert_array_equal(prompt.top_ids[:, sound.start : sound.stop], heard.top_ids)


def test_it_can_be_kept(model, trace, tmp_path):
    lenses = [model.lens(trace, tokens=[1, 4]), model.lens(trace, over="image", top=1)]
    keep(trace, *lenses).save(tmp_path / "a.trace")
    recorded = Recorded(workbench.Trace.load(tmp_path / "a.trace"))
    again = recorded.lens(trace)
    assert again.words(token=4) == lenses[0].words(token=4)
    part = recorded.lens(trace, tokens=-2, top=2)
    assert part.positions.tolist() == [len(trace.prompt) + 3]
    assert part.words(token=4) == [row[:2] for row in again.words(token=4)]
    with pytest.raises(TraceError, match="holds 5 words"):
        recorded.lens(trace, top=6)
    assert np.array_equal(recorded.lens(trace, "image").grid(2), lenses[1].grid(2))
    with pytest.raises(TraceError, match="no lens over audio 0"):
        recorded.lens(trace, "audio")
    with pytest.raises(TraceError, match="holds positions"):
        again.index(token=2)


def test_tokens_from_the_end_and_one_of_token_and_position(model, trace):
    lens, T, N = model.lens(trace), len(trace.prompt), len(trace.tokens)
    assert lens.index(token=-1) == N - 1
    assert lens.words(token=-2) == lens.words(token=N - 2)
    assert lens.only(tokens=[-1, 2]).positions.tolist() == [T + 1, T + N - 2]
    prompt = model.lens(trace, over="prompt", top=1)
    assert prompt.index(token=0) == prompt.index(position=T - 1) == T - 1, "what the first word was chosen at"
    for ask in (
        lambda: prompt.index(token=-1), lambda: lens.index(token=N), lambda: lens.index(token=-N - 1),
        lens.index,
    ):  # fmt: skip
        with pytest.raises(TraceError, match="holds positions"):
            ask()
    with pytest.raises(TraceError, match="give one of them"):
        lens.index(token=0, position=T)
    with pytest.raises(TraceError, match="expected a number"):
        lens.index(token=1.5)


def test_a_lens_over_a_picture_by_a_numpy_number_is_saved(model, trace, tmp_path):
    keep(trace, model.lens(trace, over="image", media=np.int64(0), top=1)).save(tmp_path / "a.trace")
    assert Recorded(workbench.Trace.load(tmp_path / "a.trace")).lens(trace, "image", 0).media == 0


def test_lenses_of_other_words_stand_beside_each_other(model, trace):
    kept = keep(
        trace, model.lens(trace, tokens=1), model.lens(trace, tokens=4, top=2), model.lens(trace, tokens=4, top=2)
    )
    assert sorted(kept.readings) == ["lens.answer.0", "lens.answer.0.2"]
    recorded = Recorded(kept)
    assert recorded.lens(kept, tokens=4).top_ids.shape == (7, 1, 2)
    assert recorded.lens(kept, tokens=1).final_ids.tolist() == [trace.tokens.token_id[1]]
    with pytest.raises(TraceError, match="token=2"):
        recorded.lens(kept, tokens=2)


def test_nearest_words_of_raw_patches_by_hand(model, trace):
    near = model.nearest(trace, top=3)
    feature = model.request(trace).features[0]
    with torch.inference_mode():
        patches = model.transformer.model.embed_vision(feature.values[None], feature.xy[None]).pooler_output[0]
        embed = model.transformer.get_input_embeddings()
        words = embed(torch.arange(embed.weight.shape[0]))
        cosine = torch.nn.functional.cosine_similarity(patches[:, None], words[None], dim=-1)
        best = cosine.topk(3, dim=-1).values
    np.testing.assert_allclose(near.cosine, best.numpy(), atol=1e-5)
    assert near.ids.shape == (len(feature.values), 3)
    assert (near.rows, near.cols) == (trace.prompt.segment("image").rows, trace.prompt.segment("image").cols)


def test_filters_are_what_a_patch_of_pixels_is_multiplied_by(model):
    looks = model.filters("image", count=5)
    assert looks.pictures.shape == (5, 48, 48, 3)
    assert (np.diff(looks.norms) <= 0).all()
    # a patch of one white pixel changes the projection by that pixel's weight: the layout of the picture is the pixels'
    vision = model.transformer.model.embed_vision
    with torch.inference_mode():
        weight = vision.patch_dense.weight * vision.patch_ln1.weight
        one = weight[int(looks.units[2])]
        # what a patch gives, less what a plain one does: the norm takes its mean away, and so do the weights shown
        patch = torch.rand(6912)
        normal = (patch - patch.mean()) / (patch.var(correction=0) + vision.patch_ln1.eps).sqrt()
        whole = vision.patch_dense(vision.patch_ln1(patch)) - vision.patch_dense(vision.patch_ln1.bias)
        shown = (torch.from_numpy(looks.pictures[2]).flatten() * normal).sum()
    assert float(shown) == pytest.approx(float(whole[int(looks.units[2])]), abs=1e-4)
    flat = (one - one.mean()).numpy()
    assert looks.pictures[2, 7, 31, 1] == pytest.approx(flat[(7 * 48 + 31) * 3 + 1], abs=1e-7)
    assert np.abs(looks.pictures.reshape(5, -1).mean(1)).max() < 1e-6
    norms = (weight - weight.mean(1, keepdim=True)).norm(dim=1)
    assert looks.units.tolist() == norms.argsort(descending=True)[:5].tolist()
    heard = model.filters("audio", count=4)
    assert heard.waves.shape == (4, 640)
    assert heard.hertz[-1] == 8000
    k = 3
    assert heard.spectra[1, k] == pytest.approx(
        abs((heard.waves[1] * np.exp(-2j * np.pi * k * np.arange(640) / 640)).sum()), rel=1e-4, abs=1e-5
    )


def test_the_layout_of_a_patch_is_rows_of_pixels_of_three_colours(model):
    """So that a filter drawn as a picture is what the patch looks like."""
    pixels = np.zeros((48 * 7, 48 * 10, 3), np.uint8)
    pixels[48 * 2 + 7, 48 * 3 + 31] = (0, 255, 0)
    trace = model.ask("Where?", images=[pixels], max_new_tokens=1, temperature=0, draft=0)
    feature = model.request(trace).features[0]
    segment = trace.prompt.segment("image")
    assert (segment.rows, segment.cols) == (7, 10), "this picture is not resized"
    assert int(feature.values.sum(1).argmax()) == 2 * 10 + 3
    assert int(feature.values[23].argmax()) == (7 * 48 + 31) * 3 + 1


def test_what_is_wrong_is_said(model, trace):
    layers = model.transformer.model.language_model.layers
    # Transformers' own, for output_hidden_states, stay on a model once it was asked for them
    before = [set(layer._forward_hooks) for layer in layers]
    for more, error, words in (
        ({"over": "smell"}, PromptError, "expected one of"), ({"tokens": 6}, TraceError, "6 tokens"),
        ({"over": "image", "media": 1}, TraceError, "no image 1"), ({"top": 0}, PromptError, "from 1 to 100"),
        ({"over": "image", "tokens": 1}, PromptError, "goes with over='answer'"),
        ({"media": 7}, PromptError, "media=7 goes with over='image'"),
        ({"over": "prompt", "media": 1}, PromptError, "media=1 goes with"),
    ):  # fmt: skip
        with pytest.raises(error, match=words):
            model.lens(trace, **more)
    with pytest.raises(PromptError, match="expected 'image' or 'audio'"):
        model.filters("text")
    with pytest.raises(PromptError, match="expected 'image' or 'audio'"):
        model.nearest(trace, over="text")
    stop = threading.Event()
    stop.set()
    with pytest.raises(TraceError, match="lens was stopped"):
        model.lens(trace, stop=stop)
    assert [set(layer._forward_hooks) for layer in layers] == before, "a hook was left behind"
