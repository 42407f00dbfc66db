"""Teacher-forced runs, branches and comparisons, against full forward passes of Transformers' own model."""

import contextlib
import dataclasses
import threading

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import workbench  # noqa: E402
from workbench import masks  # noqa: E402
from workbench.errors import Incompatible, ModelError, PromptError, TraceError  # noqa: E402
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


def test_media_go_with_messages_as_with_a_question(model):
    asked = model.score("How many shapes are there?", "Three.", images=[SCENE])
    turn = {"role": "user", "content": "How many shapes are there?"}
    told = model.score([turn], "Three.", images=[SCENE])
    assert told.prompt.ids.tolist() == asked.prompt.ids.tolist()
    np.testing.assert_allclose(told.tokens.logprob, asked.tokens.logprob, atol=1e-4)
    how = {"temperature": 0, "draft": 0, "max_new_tokens": 3}
    answer = model.ask(None, history=[turn], images=[SCENE], **how)
    assert answer.ids.tolist() == model.ask(turn["content"], images=[SCENE], **how).ids.tolist()
    assert len(answer.images) == 1
    for history in ([turn, {"role": "model", "content": "Three."}], answer):
        with pytest.raises(PromptError, match="last turn is of the role model"):
            model.ask(None, history=history, images=[SCENE])


@pytest.fixture
def two():
    """Two models that nobody else has."""
    models = [workbench.load("pocket", drafter=False, context=context, progress=False) for context in (300, 310)]
    yield models
    for model in models:
        name = next(name for name, one in workbench.loaded().items() if one is model)
        unload = threading.Thread(target=workbench.unload, args=(name,), daemon=True)  # two that hang are left
        unload.start()
        unload.join(timeout=10)


def test_two_models_may_be_scored_against_each_other_at_once(two, monkeypatch):
    from workbench import model as module

    real, both = module.prompt_logprobs, threading.Barrier(2)

    def meet(*given):
        """Wait until each thread holds what it took first, if it can come to that."""
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait(timeout=1)
        return real(*given)

    monkeypatch.setattr(module, "prompt_logprobs", meet)
    done = []

    def run(a, b):
        done.append(a.score("Hi", "Yes.", reference=b))

    threads = [threading.Thread(target=run, args=pair, daemon=True) for pair in (two, two[::-1])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not any(thread.is_alive() for thread in threads), "each waits for the model that the other holds"
    assert [t.readings["reference"]["arrays"]["kl"].max() < 1e-9 for t in done] == [True, True]


def test_a_model_is_not_unloaded_in_the_middle_of_a_score(model, monkeypatch):
    mine = workbench.load("pocket", drafter=False, context=320, progress=False)
    along, closing = mine._along, []

    def then_unload(*given):
        made = along(*given)
        closing.append(threading.Thread(target=mine._close))
        closing[0].start()
        closing[0].join(timeout=0.3)
        return made

    monkeypatch.setattr(mine, "_along", then_unload)
    assert np.isfinite(mine.score("Hi", "Yes.").tokens.logprob).all()
    closing[0].join(timeout=10)
    with pytest.raises(ModelError, match="was unloaded"):
        mine.score("Hi", "Yes.")
    workbench.unload(next(name for name, one in workbench.loaded().items() if one is mine))


def test_kl_to_itself_is_nothing_and_to_another_model_what_it_is(model, story, tmp_path):
    from workbench.pocket.build import save
    from workbench.pocket.evaluate import load

    processor, other = load(WEIGHTS)
    with torch.no_grad():
        for layer in other.model.language_model.layers:
            layer.mlp.gate_proj.weight.mul_(0.8)  # not what a norm comes right after: it would take that back
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


def test_a_forced_stop_token_ends_the_answer_in_its_last_place_too(model):
    full = model.ask("What is at the top left?", images=[SCENE], temperature=0)
    n = len(full.tokens)
    assert full.finish == "stop_token"
    assert model.ask("What is at the top left?", images=[SCENE], temperature=0, max_new_tokens=n).finish == "stop_token"
    again = model.branch(full, at=n - 1, token=int(full.tokens.token_id[-1]), max_new_tokens=n)
    assert (again.finish, again.text) == ("stop_token", full.text)
    assert model.branch(full, at=n - 1, token=" red", max_new_tokens=n).finish == "max_new_tokens"


@pytest.mark.parametrize("kind", ["image", "audio", "video"])
def test_a_media_token_is_no_word_to_force(model, story, kind):
    token = getattr(model.processor, f"{kind}_token_id")
    for given in (token, model.processor.tokenizer.convert_ids_to_tokens(token)):
        with pytest.raises(PromptError, match="stands for a patch or frame"):
            model.branch(story, at=1, token=given)
    with pytest.raises(PromptError, match="stands for a patch or frame"):
        model.score(story, [5, token])


def test_an_answer_that_says_a_media_token_itself_is_run_again(model, story, oracle, monkeypatch):
    """As if it was padding, which is what Transformers embeds there."""
    from workbench import model as module

    media = {model.processor.image_token_id, model.processor.audio_token_id}
    monkeypatch.setattr(module, "forced_by", lambda *_: [*story.tokens.token_id[:2].tolist(), *sorted(media)])
    said = model.branch(story, 2, " red", max_new_tokens=8)
    monkeypatch.undo()
    assert set(said.tokens.token_id[2:4].tolist()) == media
    assert "image" not in [s.kind for s in said.segments]
    assert said.segments[1].kind == "control"
    assert model.attend(said).replay_gap < 1e-3
    assert model.attend(said).on_image(0, token=5).shape == model.attend(story, tokens=0).on_image(0).shape
    np.testing.assert_allclose(model.lens(said).logprob[-1], said.tokens.logprob, atol=1e-3)
    assert model.occlude(said, over="text").base == pytest.approx(said.tokens.logprob.sum(), abs=1e-2)
    np.testing.assert_allclose(model.score(said).tokens.logprob, said.tokens.logprob, atol=1e-3)
    pad = model.transformer.config.get_text_config().pad_token_id
    with torch.inference_mode():
        engine, request = model._engine, model.request(said)
        ids = torch.from_numpy(said.ids.astype(np.int64))[None]
        ids[0, len(said.prompt) :][torch.isin(ids[0, len(said.prompt) :], torch.tensor(sorted(media)))] = pad
        types = torch.nn.functional.pad(request.type_ids, (0, len(said.tokens)))
        out = engine.transformer(
            input_ids=ids, attention_mask=torch.ones_like(ids), mm_token_type_ids=types, use_cache=False,
            **request.media_inputs(),
        ).logits[0].double().log_softmax(-1)  # fmt: skip
    T = len(said.prompt)
    expected = out[np.arange(T - 1, len(said.ids) - 1), said.ids[T:]].numpy()
    np.testing.assert_allclose(said.tokens.logprob, expected, atol=1e-3)


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
    for more in ({"images": [SCENE]}, {"images": SCENE}, {"audio": b"x"}, {"system": "Be short."}):
        with pytest.raises(PromptError, match="go with a question"):
            model.score(story, **more)
    assert model.score(story, [5], images=None, audio=None, video=None).finish == "scored"
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
