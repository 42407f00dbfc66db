"""Teacher-forced runs, branches and comparisons, against full forward passes of Transformers' own model."""

import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import workbench  # noqa: E402
from workbench import masks  # noqa: E402
from workbench.errors import Incompatible, PromptError, TraceError  # noqa: E402
from workbench.pocket import HERE, WEIGHTS  # noqa: E402

SCENE = HERE / "examples" / "scene.png"
STORY = "Tell me a story about the picture."


@pytest.fixture(scope="module")
def model():
    return workbench.load("pocket", progress=False)


@pytest.fixture(scope="module")
def story(model):
    return model.ask(STORY, images=[SCENE], temperature=1.0, seed=4, max_new_tokens=40, draft=0)


@pytest.fixture(scope="module")
def oracle(model, story):
    """(T + N, V) float64 logprobs of one plain forward pass over prompt and answer."""
    from transformers import AutoModelForMultimodalLM

    other = AutoModelForMultimodalLM.from_pretrained(WEIGHTS, dtype=torch.float32).eval()
    masks.correct(other)
    request = model.request(story)
    ids = torch.from_numpy(story.ids.astype(np.int64))[None]
    types = torch.nn.functional.pad(request.type_ids, (0, len(story.tokens)))
    with torch.inference_mode():
        out = other(
            input_ids=ids, attention_mask=torch.ones_like(ids), mm_token_type_ids=types, use_cache=False,
            **request.media_inputs(),
        )  # fmt: skip
    return out.logits[0].double().log_softmax(-1).numpy()


def test_a_score_is_a_forward_pass(model, story, oracle):
    scored = model.score(story)
    T = len(story.prompt)
    ids = story.ids
    expected = oracle[np.arange(T - 1, len(ids) - 1), ids[T:]]
    np.testing.assert_allclose(scored.tokens.logprob, expected, atol=1e-4)
    np.testing.assert_allclose(scored.tokens.logprob, story.tokens.logprob, atol=1e-4)
    np.testing.assert_allclose(scored.tokens.sample_logprob, story.tokens.sample_logprob, atol=1e-3)
    assert set(scored.tokens.source_names) == {"forced"}
    assert scored.finish == "scored"
    before = scored.prompt.logprob
    words = np.array([k > 0 and story.prompt.segment_at(k).kind in ("text", "control") for k in range(T)])
    np.testing.assert_allclose(before[words], oracle[np.arange(T) - 1, ids[:T]][words], atol=1e-4)
    assert np.isnan(before[~words]).all()


def test_a_question_with_a_completion(model):
    good = model.score("How many shapes are there?", "Three.", images=[SCENE])
    bad = model.score("How many shapes are there?", "Purple.", images=[SCENE])
    assert good.tokens.logprob.sum() > bad.tokens.logprob.sum() + 3
    assert good.text == "Three."
    messages = [{"role": "user", "content": "How many shapes are there?"}]
    assert np.isfinite(model.score(messages, "Three.").tokens.logprob).all()


def test_kl_to_itself_is_nothing_and_to_another_model_what_it_is(model, story, tmp_path):
    from workbench.pocket.build import save
    from workbench.pocket.evaluate import load

    processor, other = load(WEIGHTS)
    with torch.no_grad():
        for layer in other.model.language_model.layers:
            layer.mlp.down_proj.weight.mul_(0.9)
    save(other, processor, tmp_path)
    weaker = workbench.load(tmp_path, progress=False)
    try:
        itself = model.score(story, reference=model)
        assert np.abs(itself.readings["reference"]["arrays"]["kl"]).max() < 1e-9
        exact = model.score(story, reference=weaker)
        theirs = weaker.score(story)
        full = workbench.compare(exact, theirs)
        assert full.exact
        assert full.divergence is None
        assert len(full) == len(story.tokens)
        np.testing.assert_allclose(full.logprob_b, theirs.tokens.logprob, atol=1e-6)
        # from whole distributions, by hand
        a = model.score(story, top=1000).tokens
        b = weaker.score(story, top=1000).tokens
        for k in (0, 5, len(a) - 1):
            p, q = (np.full(1024, -np.inf) for _ in range(2))
            p[a.top_ids[k]], q[b.top_ids[k]] = a.top_logprob[k], b.top_logprob[k]
            both = np.isfinite(p) & np.isfinite(q)
            assert full.kl[k] == pytest.approx((np.exp(p[both]) * (p[both] - q[both])).sum(), abs=1e-4)
        bound = workbench.compare(model.score(story, top=3), weaker.score(story, top=3))
        assert not bound.exact
        assert (bound.kl <= full.kl + 1e-5).all()
        assert bound.kl.sum() > 0.3 * full.kl.sum()
        assert "KL ≥" in repr(bound)
        assert len(full.to_pandas()) == len(full)
    finally:
        workbench.unload(tmp_path.name)


# ---- branches


def test_forcing_its_own_token_gives_the_same_run(model, story):
    for at in (0, 7, len(story.tokens) - 1):
        again = model.branch(story, at, int(story.tokens.token_id[at]))
        assert again.tokens.token_id.tolist() == story.tokens.token_id.tolist()
        assert again.tokens.source_names[: at + 1] == ("forced",) * (at + 1)
        np.testing.assert_allclose(again.tokens.logprob, story.tokens.logprob, atol=1e-4)


def test_a_branch_goes_on_from_the_forced_token(model, story):
    other = model.branch(story, 5, " purple", temperature=0, max_new_tokens=30)
    assert other.tokens.piece[5] == " purple"
    assert other.tokens.token_id[:5].tolist() == story.tokens.token_id[:5].tolist()
    assert other.settings.temperature == 0
    assert other.usage.cached > 0
    where = workbench.compare(story, other)
    assert where.divergence == 5
    assert len(where) == 6
    np.testing.assert_allclose(where.kl, 0, atol=1e-5)  # the same model saw the same words
    ended = model.branch(story, 3, "<turn|>")
    assert ended.finish == "stop_token"
    assert len(ended.tokens) == 4


@pytest.mark.parametrize("at", [-1, 40, 1000, 1.5, True])
def test_branching_where_there_is_nothing(model, story, at):
    with pytest.raises(TraceError, match="at="):
        model.branch(story, at, " red")


@pytest.mark.parametrize(
    ("token", "said"), [("", "empty"), (-1, "token id -1"), (10**9, "token id"), (None, "token=None")]
)
def test_branching_with_no_token(model, story, token, said):
    with pytest.raises(PromptError, match=said):
        model.branch(story, 2, token)


def test_bad_input_to_score_branch_and_compare(model, story):
    with pytest.raises(PromptError, match="tempo= is no setting"):
        model.branch(story, 2, " red", tempo=3)
    with pytest.raises(PromptError, match="needs completion="):
        model.score("What?")
    with pytest.raises(PromptError, match="go with a question"):
        model.score(story, images=[SCENE])
    with pytest.raises(PromptError, match="reference="):
        model.score(story, reference="pocket")
    with pytest.raises(TraceError, match="expected a Trace"):
        workbench.compare(story, "x")
    stranger = dataclasses.replace(story, model=dataclasses.replace(story.model, vocab_hash="0" * 64))
    with pytest.raises(Incompatible, match="different vocabularies"):
        workbench.compare(story, stranger)
    with pytest.raises(Incompatible, match="another vocabulary"):
        model.score(stranger)
    elsewhere = dataclasses.replace(story, model=dataclasses.replace(story.model, weights_hash="0" * 64))
    with pytest.raises(Incompatible, match="this model is"):
        model.branch(elsewhere, 1, " red")
