"""Attention on demand against Transformers' eager attention, and on the right pixels and milliseconds."""

import threading
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import workbench  # noqa: E402
from workbench import attention, masks  # noqa: E402
from workbench.errors import Incompatible, ModelError, PromptError, TraceError  # noqa: E402
from workbench.pocket import HERE, WEIGHTS  # noqa: E402
from workbench.readings import Attention, Layer, Recorded, can, keep  # noqa: E402

SCENE, WORD = HERE / "examples" / "scene.png", HERE / "examples" / "seven.wav"
HALF = 2.0**-11  # 16-bit floating point rounds a number below 1 by no more


@pytest.fixture(scope="module")
def model():
    return workbench.load("pocket", progress=False)


@pytest.fixture(scope="module")
def eager():
    from transformers import AutoModelForMultimodalLM

    other = AutoModelForMultimodalLM.from_pretrained(WEIGHTS, dtype=torch.float32, attn_implementation="eager").eval()
    masks.correct(other)
    return other


def picture(height, width):
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([x * 255 // width, y * 255 // height, (x * y) % 256], axis=-1)
    pixels[height // 3 : height // 2, width // 5 : width // 3] = (200, 10, 30)
    return pixels.astype(np.uint8)


PROMPTS = {
    "text": {"question": "Which of these is a colour?"},
    "one image": {"question": "What is at the top left?", "images": [SCENE]},
    "two images": {"question": "Which is larger?", "images": [picture(96, 480), picture(300, 150)]},
    "sound": {"question": "Which word was spoken?", "audio": [WORD]},
    "image and sound": {"question": "Tell me a story about the picture.", "images": [picture(200, 330)],
                        "audio": [WORD, (np.sin(np.arange(9000) / 9), 16_000)]},
    "past the window": {"question": "one two three " * 40, "images": [SCENE], "system": "Look well."},
}  # fmt: skip


def ask(model, name, tokens=6):
    more = dict(PROMPTS[name])
    return model.ask(more.pop("question"), **more, max_new_tokens=tokens, temperature=1.0, seed=3, draft=0)


def oracle(eager, model, trace):
    """Each layer's (H, T + N, T + N) float32 weights, as eager attention returns them."""
    request = model.request(trace)
    ids = torch.tensor(trace.ids.astype(np.int64))[None]
    types = torch.nn.functional.pad(request.type_ids, (0, len(trace.tokens)))
    with torch.inference_mode():
        out = eager(
            input_ids=ids, attention_mask=torch.ones_like(ids), mm_token_type_ids=types, use_cache=False,
            output_attentions=True, **request.media_inputs(),
        )  # fmt: skip
    return [w[0].numpy() for w in out.attentions]


def dense(a, layer):
    """(H, Q, T + N) float32 of one layer of a reading."""
    out = np.zeros((len(a.heads), len(a.positions), len(a.pieces)), np.float32)
    w, start = a.weights[layer], a.starts[layer]
    out[..., start : start + w.shape[2]] = w
    return out


@pytest.mark.parametrize("name", PROMPTS)
def test_rows_are_those_of_eager_attention(model, eager, name):
    trace = ask(model, name)
    a = model.attend(trace)
    T, N = len(trace.prompt), len(trace.tokens)
    assert a.positions.tolist() == list(range(T - 1, T + N - 1))
    assert a.tokens.tolist() == list(range(N))
    assert len(a.layers) == len(model.info.layers)
    assert a.replay_gap < 1e-3
    for i, expected in enumerate(oracle(eager, model, trace)):
        assert a.weights[i].dtype == np.float16
        np.testing.assert_allclose(dense(a, i), expected[:, a.positions], atol=HALF, rtol=0)
        window = a.layers[i].window
        assert (window is None) == (model.info.layers[i] == "full")
        if window is not None:
            assert a.weights[i].shape[2] <= window + N - 1, "keys outside the window were held"


def test_any_position_may_be_the_query_inside_pictures_too(model, eager):
    trace = ask(model, "two images", tokens=3)
    everything = range(len(trace.ids))
    a = model.attend(trace, positions=everything)
    expected = oracle(eager, model, trace)
    for i, one in enumerate(expected):
        np.testing.assert_allclose(dense(a, i), one, atol=HALF, rtol=0)
        for p in (0, 7, 20, len(trace.prompt) // 2, len(trace.ids) - 1):
            assert np.array_equal(a.admits(i, p), one[:, p].max(0) > 0), (i, p)
    first = trace.prompt.segments[2]
    assert first.kind == "image"
    on = a.on_image(0, position=first.start, layer=0)  # the first patch sees later ones where the window reaches
    assert on[0, 1] > 0
    assert a.on_image(0, position=first.start, layer=2).ravel()[1:].max() == 0  # a full layer is causal


def test_some_layers_heads_and_tokens_are_a_part_of_all(model):
    trace = ask(model, "image and sound")
    a = model.attend(trace)
    b = model.attend(trace, layers=[3, -1], heads=[0, 5], tokens=[-1, 2])
    assert [layer.index for layer in b.layers] == [3, 5]
    assert b.tokens.tolist() == [2, 5]
    for i, layer in enumerate((3, 5)):
        np.testing.assert_allclose(dense(b, i), dense(a, layer)[[0, 5]][:, [2, 5]], atol=HALF)
    part = a.only(positions=b.positions, layers=[3, 5], heads=[0, 5])
    np.testing.assert_allclose(part.on_audio(1, token=2), b.on_audio(1, token=2), atol=HALF)
    np.testing.assert_allclose(a.on_image(0, token=2, layer=3, head=5), b.on_image(0, 2, 3, 5), atol=HALF)


def test_few_rows_at_a_time_are_the_same_rows(model, monkeypatch):
    trace = ask(model, "one image")
    a = model.attend(trace, rollout=True)
    monkeypatch.setattr(attention, "_CHUNK_CPU", 1)
    b = model.attend(trace, rollout=True)
    for x, y in zip((*a.weights, a.rollout), (*b.weights, b.rollout), strict=True):
        np.testing.assert_allclose(x.astype(np.float32), y.astype(np.float32), atol=2 * HALF)


def test_rollout_is_the_product_over_layers_of_attention_and_residual(model, eager):
    trace = ask(model, "one image")
    a = model.attend(trace, layers=5, heads=1, rollout=True)
    product = np.eye(len(trace.ids))
    for w in oracle(eager, model, trace):
        product = (w.mean(0) @ product + product) / 2
    np.testing.assert_allclose(a.rollout, product[a.positions], atol=HALF)
    np.testing.assert_allclose(a.row(2, layer="rollout"), product[a.positions[2]], atol=HALF)


def test_a_trace_from_disk_and_what_was_kept_in_it(model, tmp_path):
    trace = ask(model, "image and sound")
    a = model.attend(trace, rollout=True)
    keep(trace, a).save(tmp_path / "a.trace")
    again = workbench.Trace.load(tmp_path / "a.trace")
    b, c = model.attend(again), Recorded(again).attend(trace)
    for x, y, z in zip(a.weights, b.weights, c.weights, strict=True):
        assert np.array_equal(x, y)
        assert np.array_equal(x, z)
    assert np.array_equal(a.rollout, c.rollout)
    assert np.array_equal(a.on_audio(1, token=3), c.on_audio(1, token=3))
    assert Recorded(again).attend(again, tokens=2, layers=[1]).weights[0].shape == (6, 1, a.weights[1].shape[2])
    assert can(model, "attend", again) == ""
    assert can(Recorded(again), "attend", again) == ""


def test_a_second_pass_that_breaks_is_no_perfect_match(model, monkeypatch):
    trace = model.ask("Hello", max_new_tokens=4, temperature=0)
    real = type(model._engine).logits
    monkeypatch.setattr(type(model._engine), "logits", lambda self, hidden: real(self, hidden) * float("nan"))
    with pytest.raises(ModelError, match=r"not finite in torch\.float32"):
        model.attend(trace)


def test_the_model_is_left_as_it_was(model):
    trace = ask(model, "one image")
    text = model.transformer.config.get_text_config()
    stop = threading.Event()
    stop.set()
    with pytest.raises(TraceError, match="attend was stopped"):
        model.attend(trace, stop=stop)
    assert text._attn_implementation == "sdpa"
    model.attend(trace)
    assert text._attn_implementation == "sdpa"
    again = ask(model, "one image")
    assert again.tokens.token_id.tolist() == trace.tokens.token_id.tolist()


def test_stopping_in_the_middle_ends_it(model):
    trace = ask(model, "one image")

    class Later:
        asked = 0

        def is_set(self):
            self.asked += 1
            return self.asked > 3

    stop = Later()
    with pytest.raises(TraceError, match="stopped"):
        model.attend(trace, stop=stop)
    assert stop.asked == 4, "it went on after the stop"


# --- exact places -----------------------------------------------------------------------------------------------------


def looking_at(trace, position):
    """All attention of every generated token on one key."""
    Q, K = len(trace.tokens), len(trace.ids)
    w = np.zeros((1, Q, K), np.float16)
    w[..., position] = 1
    return Attention(
        positions=np.arange(len(trace.prompt) - 1, K - 1), layers=(Layer(0, "full"),), heads=[0],
        weights=(w,), starts=[0], bidirectional=True, replay_gap=0.0, identity=trace.model.identity,
        **Attention.places_of(trace),
    )  # fmt: skip


@pytest.mark.parametrize(("height", "width"), [(100, 400), (500, 90), (240, 320)])
@pytest.mark.parametrize("where", [(0.1, 0.85), (0.7, 0.3)])
def test_attention_on_a_patch_lands_on_its_pixels(model, height, width, where):
    """A white dot in a black picture: the patch that differs in what the model is given has the dot in its box."""
    y, x = int(where[0] * height), int(where[1] * width)
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[y, x] = 255
    trace = model.ask("Where?", images=[picture(60, 200), pixels], max_new_tokens=2, temperature=0, draft=0)
    feature = model.request(trace).features[1]
    patch = int(feature.values.sum(dim=1).argmax())
    a = looking_at(trace, feature.start + patch)
    on = a.map("image", 1, token=0)
    (r, c) = np.unravel_index(on.values.argmax(), on.values.shape)
    rows, cols = on.values.shape
    assert rows != cols
    assert (r, c) == (patch // cols, patch % cols)
    left, top, right, bottom = on.boxes[on.peak()]
    slack = 48 * max(height / (rows * 48), width / (cols * 48)) / 8  # resizing spreads the dot a little
    assert left - slack <= x <= right + slack
    assert top - slack <= y <= bottom + slack
    assert (int(y * rows / height), int(x * cols / width)) == (r, c)
    assert a.on_image(1, token=1).dtype == np.float32
    assert a.on_image(0, token=0).max() == 0


@pytest.mark.parametrize("at_ms", [10, 333, 905])
def test_attention_on_a_frame_lands_on_its_milliseconds(model, at_ms):
    sound = np.zeros(16_000, np.float32)
    sound[at_ms * 16] = 0.9
    trace = model.ask(
        "When?",
        audio=[(np.sin(np.arange(5000) / 7), 16_000), (sound, 16_000)],
        max_new_tokens=2,
        temperature=0,
        draft=0,
    )
    feature = model.request(trace).features[1]
    frame = int(feature.values.abs().amax(dim=1).argmax())
    on = looking_at(trace, feature.start + frame).map("audio", 1, token=1)
    assert on.values.shape == (25,)
    assert on.peak() == at_ms // 40
    assert on.start_ms[on.peak()] <= at_ms < on.end_ms[on.peak()]


# --- the drafter ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drafted(tmp_path_factory):
    """A model with a drafter of random weights: where it looks is as good a test as where a trained one does."""
    from workbench.pocket import drafter, evaluate

    folder = tmp_path_factory.mktemp("drafter")
    drafter.save_drafter(drafter.build_drafter(evaluate.load(WEIGHTS)[1], 3), folder)
    return workbench.load("pocket", drafter=folder, progress=False)


@pytest.mark.parametrize("name", ["one image", "past the window"])
def test_the_drafter_looks_at_the_models_keys_before_it(drafted, name):
    """Against the assistant's own forward under eager attention, draft by draft."""
    from transformers import DynamicCache

    trace = ask(drafted, name, tokens=5)
    a = drafted.attend(trace, of="drafter")
    assert a.of == "drafter"
    assert a.tokens.tolist() == list(range(1, len(trace.tokens)))
    assert len(a.tokens) >= 2
    assistant, T = drafted.drafter, len(trace.prompt)
    sources, window = drafted._drafter.sources, assistant.config.get_text_config().sliding_window
    cache = DynamicCache()  # not told of the window: it keeps everything
    given, types = attention.inputs(drafted._engine, drafted.request(trace), trace.tokens.token_id)
    with torch.inference_mode():
        out = drafted.transformer.model(
            mm_token_type_ids=types, **{**given, "use_cache": True, "past_key_values": cache}
        )  # fmt: skip
        before = assistant.config.get_text_config()._attn_implementation
        assistant.set_attn_implementation("eager")
        try:
            for row, k in enumerate(a.tokens):
                p = T + k - 1  # where the last known token stands
                last = drafted.transformer.get_input_embeddings()(torch.tensor([[int(trace.ids[p])]]))
                shared = {}
                for kind, layer in sources.items():
                    start = max(0, p - window + 1) if kind == "sliding_attention" else 0
                    shared[kind] = tuple(
                        x[:, :, start:p] for x in (cache.layers[layer].keys, cache.layers[layer].values)
                    )
                theirs = assistant(
                    inputs_embeds=torch.cat([last, out.last_hidden_state[:, p - 1 : p]], dim=-1),
                    position_ids=torch.tensor([[p]]), shared_kv_states=shared, output_attentions=True,
                ).attentions  # fmt: skip
                for i, expected in enumerate(theirs):
                    mine = dense(a, i)[:, row]
                    np.testing.assert_allclose(mine[:, p - expected.shape[-1] : p], expected[0, :, 0], atol=HALF)
                    assert mine.sum() == pytest.approx(len(a.heads), abs=0.02)
                    assert not mine[:, ~a.admits(i, p)].any()
        finally:
            assistant.set_attn_implementation(before)
    with pytest.raises(TraceError, match="never drafted"):
        drafted.attend(trace, tokens=0, of="drafter")


# --- bad input --------------------------------------------------------------------------------------------------------


def test_what_is_wrong_is_said_before_any_work(model):
    trace = ask(model, "one image", tokens=3)
    for more, words in (
        ({"tokens": 3}, "3 tokens, counted from 0"), ({"layers": 6}, "6 layers"), ({"heads": [0, 9]}, "6 query heads"),
        ({"positions": 9999}, "lies outside this run"), ({"tokens": "x"}, "expected a number"),
        ({"tokens": []}, "or several"), ({"tokens": 1, "positions": 2}, "give one of them"),
        ({"layers": True}, "expected a number"),
    ):  # fmt: skip
        with pytest.raises(TraceError, match=words):
            model.attend(trace, **more)
    with pytest.raises(Incompatible, match="Load that model"):
        model.attend(replace(trace, model=replace(trace.model, weights_hash="ff" * 32)))
    with pytest.raises(TraceError, match="media are missing"):
        model.attend(replace(trace, images=()))
    with pytest.raises(PromptError, match="expected a threading"):
        model.attend(trace, stop=3)
    with pytest.raises(PromptError, match="'model' or 'drafter'"):
        model.attend(trace, of="teacher")
    a = model.attend(trace)
    with pytest.raises(TraceError, match="no image 1; it has image 0"):
        a.on_image(1, token=0)
    with pytest.raises(TraceError, match="no audio 0"):
        a.on_audio(0, token=0)
    with pytest.raises(TraceError, match="head=7: this reading holds"):
        a.on_image(0, token=0, head=7)
    with pytest.raises(ModelError, match="without a drafter"):
        workbench.load("pocket", drafter=False, progress=False).attend(trace, of="drafter")
