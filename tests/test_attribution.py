"""Attribution against hidden states that Transformers returns and sums taken by hand."""

import shutil
import threading
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import workbench  # noqa: E402
from tests import members  # noqa: E402
from tests.test_attention import picture  # noqa: E402
from widgets import charts  # noqa: E402
from workbench import masks  # noqa: E402
from workbench.cache import hooks_of  # noqa: E402
from workbench.errors import Incompatible, ModelError, PromptError, TraceError  # noqa: E402
from workbench.pocket import HERE, WEIGHTS  # noqa: E402
from workbench.readings import Attribution, Recorded, can, keep  # noqa: E402

SCENE, WORD = HERE / "examples" / "scene.png", HERE / "examples" / "seven.wav"


@pytest.fixture(scope="module")
def model():
    return workbench.load("pocket", progress=False)


@pytest.fixture(scope="module")
def trace(model):
    return model.ask(
        "Tell me a story about the picture.", images=[SCENE], audio=[WORD], max_new_tokens=7, temperature=1.0, seed=5,
        draft=0,
    )  # fmt: skip


def summed(a):
    return a.embedding + a.attention.sum(0) + a.mlp.sum(0)


@pytest.fixture(scope="module")
def oracle(model, trace):
    """Another copy, by Transformers alone: what its norms gave, in float64, and its logits before soft-capping."""
    from transformers import AutoModelForMultimodalLM

    other = AutoModelForMultimodalLM.from_pretrained(WEIGHTS, dtype=torch.float64).eval()
    masks.correct(other)
    request = model.request(trace)
    ids = torch.tensor(trace.ids.astype(np.int64))[None]
    kept = {}

    def keep_as(name):
        return lambda _module, _given, out: kept.__setitem__(name, out[0].double())

    language = other.model.language_model
    for k, layer in enumerate(language.layers):
        layer.post_attention_layernorm.register_forward_hook(keep_as(("attention", k)))
        layer.post_feedforward_layernorm.register_forward_hook(keep_as(("mlp", k)))
    media = {k: v.double() if v.is_floating_point() else v for k, v in request.media_inputs().items()}
    with torch.inference_mode():
        out = other(
            input_ids=ids, attention_mask=torch.ones_like(ids), output_hidden_states=True, use_cache=False, **media,
            mm_token_type_ids=torch.nn.functional.pad(request.type_ids, (0, len(trace.tokens))),
        )  # fmt: skip
        logits = 30 * torch.atanh(out.logits[0].double() / 30)
    return other, kept, out.hidden_states, logits


@pytest.mark.parametrize("against", [None, " blue"])
def test_shares_are_those_of_what_the_norms_gave(model, trace, oracle, against):
    other, kept, states, logits = oracle
    language = other.model.language_model
    a = model.attribute(trace, against=against)
    T, N = len(trace.prompt), len(trace.tokens)
    at = torch.arange(T - 1, T + N - 1)
    ids = torch.tensor(trace.tokens.token_id.astype(np.int64))
    assert a.tokens.tolist() == list(range(N))
    assert a.token_ids.tolist() == ids.tolist()
    head = other.lm_head.weight.detach().double()
    if against is None:
        towards = head[ids] - head.mean(0)
        expected = logits[at, ids] - logits[at].mean(-1)
    else:
        assert a.pieces[a.against] == "▁blue" or a.pieces[a.against] == " blue"
        towards = head[ids] - head[a.against]
        expected = logits[at, ids] - logits[at, a.against]
    np.testing.assert_allclose(a.logit, expected, atol=2e-4)
    np.testing.assert_allclose(summed(a), expected, atol=2e-4)
    np.testing.assert_allclose(a.heads.sum(1), a.attention, atol=1e-4)
    # the stream behind the last layer: hidden_states has it only behind the norm
    scalars = [float(layer.layer_scalar) for layer in language.layers]
    after = [np.prod(scalars[k:]) for k in range(len(scalars))]
    stream = states[0][0].double() * after[0] + sum(
        after[k] * (kept["attention", k] + kept["mlp", k]) for k in range(len(scalars))
    )
    towards = (
        towards * language.norm.weight.detach().double() / (stream[at].pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()
    )
    for k in range(len(scalars)):
        for name, mine in (("attention", a.attention), ("mlp", a.mlp)):
            share = (after[k] * kept[name, k][at] * towards).sum(-1)
            np.testing.assert_allclose(mine[k], share, atol=2e-4, err_msg=f"{name} {k}")
    np.testing.assert_allclose(a.embedding, (after[0] * states[0][0][at] * towards).sum(-1), atol=2e-4)


def test_a_head_that_says_nothing_has_no_share_and_takes_none_from_the_others(model, trace):
    before = model.attribute(trace)
    layer = model.transformer.model.language_model.layers[5].self_attn
    width = layer.o_proj.in_features // layer.config.num_attention_heads

    def silenced(_module, given):
        joined = given[0].clone()
        joined[..., 2 * width : 3 * width] = 0
        return (joined,)

    hook = layer.o_proj.register_forward_pre_hook(silenced)
    try:
        after = model.attribute(trace)
    finally:
        hook.remove()
    assert np.abs(before.heads[5, 2]).min() > 1e-3
    np.testing.assert_array_equal(after.heads[5, 2], 0)
    np.testing.assert_allclose(summed(after), after.logit, atol=2e-4)
    # in the last layer nothing else reads it; only the divisors of two norms are others, the same for all heads
    others = [0, 1, 3, 4, 5]
    ratio = after.heads[5, others] / before.heads[5, others]
    np.testing.assert_allclose(ratio, ratio[:1].repeat(5, axis=0), rtol=1e-2)


def test_a_difference_of_words_is_the_difference_of_their_shares(model, trace):
    red, blue = (model.branch(trace, at=2, token=word, max_new_tokens=3) for word in (" red", " blue"))
    first, second = (model.attribute(one, token=2) for one in (red, blue))
    between = model.attribute(red, token=2, against=" blue")
    assert between.against == int(second.token_ids[0])
    for name in ("embedding", "attention", "heads", "mlp", "logit"):
        np.testing.assert_allclose(getattr(between, name), getattr(first, name) - getattr(second, name), atol=1e-4)


@pytest.mark.parametrize(("scheme", "atol"), [("none", 0.2), ("int8", 1e-3), ("int4", 1e-3)])
def test_shares_sum_up_in_every_arithmetic(scheme, atol, tmp_path, unload_what_a_test_loads):
    if scheme == "none":  # in 16 bits
        shutil.copytree(WEIGHTS, tmp_path / "half")
        config = tmp_path / "half" / "config.json"
        config.write_text(config.read_text("utf-8").replace('"float32"', '"bfloat16"'), "utf-8")
    model = workbench.load(tmp_path / "half" if scheme == "none" else "pocket", quantization=scheme, progress=False)
    trace = model.ask("What is at the top left?", images=[SCENE], temperature=0)
    a = model.attribute(trace)
    np.testing.assert_allclose(summed(a), a.logit, atol=atol)
    np.testing.assert_allclose(a.heads.sum(1), a.attention, atol=atol)


@pytest.mark.parametrize("name", members.MEMBERS)
def test_the_other_members_too(name, tmp_path, unload_what_a_test_loads):
    folder, _ = members.save(name, tmp_path)
    model = workbench.load(folder, progress=False)
    trace = model.ask("What is at the top left?", images=[picture(96, 480)], temperature=0, max_new_tokens=5)
    a = model.attribute(trace)
    np.testing.assert_allclose(summed(a), a.logit, atol=1e-3)
    np.testing.assert_allclose(a.heads.sum(1), a.attention, atol=1e-3)
    assert np.abs(a.mlp).min() > 0
    assert np.abs(a.heads).max() > 1e-3


def test_parts_are_named_and_those_that_count_most_come_first(model, trace):
    a = model.attribute(trace, token=[1, -1])
    assert a.tokens.tolist() == [1, len(trace.tokens) - 1]
    parts = a.parts(1)
    L, H, _ = a.heads.shape
    assert len(parts) == len(dict(parts)) == 1 + L * H + L
    sizes = [abs(share) for _, share in parts]
    assert sizes == sorted(sizes, reverse=True)
    assert dict(parts)["layer 5, head 4"] == a.heads[5, 4, 0]
    assert dict(parts)["layer 0, feed-forward"] == a.mlp[0, 0]
    assert sum(share for _, share in parts) == pytest.approx(a.logit[0], abs=1e-3)
    assert a.parts(1, most=3) == parts[:3]
    assert a.parts(-1) == a.parts(len(trace.tokens) - 1) != parts
    assert a.only(-1).tokens.tolist() == [len(trace.tokens) - 1]
    with pytest.raises(TraceError, match=r"holds the tokens \[1, 6\]"):
        a.parts(2)
    assert repr(a) == f"Attribution(2 tokens, {L} layers of {H} heads)"


def test_it_is_kept_in_the_trace_and_read_back(model, trace, tmp_path):
    whole, one = model.attribute(trace), model.attribute(trace, token=1, against=" blue")
    kept = keep(trace, whole, one)
    kept.save(tmp_path / "a.trace")
    back = workbench.Trace.load(tmp_path / "a.trace")
    recorded = Recorded(back)
    assert can(recorded, "attribute", back) == ""
    assert "holds no attribution" in can(Recorded(trace), "attribute", trace)
    part = recorded.attribute(back, token=[2, 4])
    for name in ("embedding", "attention", "heads", "mlp", "logit", "token_ids"):
        np.testing.assert_array_equal(getattr(part, name), getattr(whole, name)[..., [2, 4]])
    again = recorded.attribute(back, 1, against=one.against)
    np.testing.assert_array_equal(again.heads, one.heads)
    assert (again.pieces, again.identity, again.run) == (one.pieces, one.identity, one.run)
    np.testing.assert_array_equal(recorded.attribute(back, 1, against=" blue").heads, one.heads)
    with pytest.raises(TraceError, match=rf"against=' green'.*these token ids: {one.against} ' blue'"):
        recorded.attribute(back, 1, against=" green")
    hidden = model.occlude(trace, token=1, against=" blue")
    again = Recorded(keep(trace, hidden)).occlude(trace, token=1, against=" blue")
    np.testing.assert_array_equal(again.values, hidden.values)
    with pytest.raises(TraceError, match="against 3"):
        recorded.attribute(back, 1, against=3)
    with pytest.raises(TraceError, match="holds the tokens"):
        recorded.attribute(back, 2, against=one.against)
    assert len(keep(kept, one).readings) == len(kept.readings)
    with pytest.raises(TraceError, match="another run"):
        keep(model.ask("What is it?", images=[SCENE], max_new_tokens=4), whole)


def test_a_broken_reading_is_refused(model, trace):
    reading = model.attribute(trace).to_reading()
    for broken in (
        {**reading, "meta": {**reading["meta"], "pieces": None}},
        {**reading, "arrays": {**reading["arrays"], "heads": np.zeros((2, 2))}},
        {**reading, "arrays": {**reading["arrays"], "token_ids": reading["arrays"]["token_ids"] + 1}},
        {**reading, "arrays": {**reading["arrays"], "tokens": reading["arrays"]["tokens"] + 500}},
        {"meta": {"kind": "attribution"}, "arrays": {}},
    ):
        with pytest.raises(TraceError):
            Attribution.from_reading(broken, trace)


def test_what_cannot_be_asked(model, trace):
    untouched = hooks_of(model.transformer)
    with pytest.raises(TraceError, match="99"):
        model.attribute(trace, token=99)
    with pytest.raises(PromptError, match="against='red blue'"):
        model.attribute(trace, token=1, against="red blue")
    with pytest.raises(PromptError):
        model.attribute(trace, token=1, against=10**6)
    stop = threading.Event()
    stop.set()
    with pytest.raises(TraceError, match="attribute was stopped"):
        model.attribute(trace, stop=stop)
    stranger = replace(trace, model=replace(trace.model, weights_hash="0" * 64))
    with pytest.raises(Incompatible):
        model.attribute(stranger)
    with pytest.raises(TraceError):
        model.attribute("a.trace")
    layer = model.transformer.model.language_model.layers[3]
    hook = layer.register_forward_hook(lambda _m, _a, out: out * float("nan"))
    try:
        with pytest.raises(ModelError, match="not finite"):
            model.attribute(trace)
    finally:
        hook.remove()
    assert hooks_of(model.transformer) == untouched


def test_a_run_under_a_hook_that_is_gone_is_said_not_to_be_what_is_looked_at(model, trace):
    hook = model.transformer.model.language_model.layers[3].register_forward_hook(lambda _m, _a, out: out.flip(-1))
    try:
        other = model.ask("What is it?", images=[SCENE], max_new_tokens=4, temperature=0)
    finally:
        hook.remove()
    with pytest.warns(RuntimeWarning, match="what is read off it is not of that run"):
        model.attribute(other)


def test_its_chart_has_a_cell_a_head_and_one_for_the_rest(model, trace):
    a = model.attribute(trace, token=1, against=" blue")
    figure = charts.attribution(a, 1)
    (heat,) = figure.data
    np.testing.assert_allclose(np.array(heat.z)[:, :-1], a.heads[..., 0])
    np.testing.assert_allclose(np.array(heat.z)[:, -1], a.mlp[:, 0])
    assert heat.zmid == 0
    assert "blue" in figure.layout.title.text
    with pytest.raises(TraceError, match="Attribution"):
        charts.attribution(trace, 1)
