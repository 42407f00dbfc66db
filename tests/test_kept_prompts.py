"""What is kept of earlier prompts belongs to the model as it was: an answer depends on the model as it is now."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import workbench  # noqa: E402
from workbench import cache  # noqa: E402
from workbench.cache import PrefixCache  # noqa: E402
from workbench.errors import DoesNotFit, ModelError  # noqa: E402
from workbench.pocket.examples import SCENE  # noqa: E402

QUESTION = "What is at the top left?"


@pytest.fixture
def model():
    made = workbench.load("pocket", progress=False)
    made.forget()
    yield made
    made.forget()


def ask(model):
    return model.ask(QUESTION, images=[SCENE], temperature=0, draft=0)


def ruin(_module, _given, out):
    return out * 0.3 + 1.0


def test_a_hook_changes_the_answer_to_a_prompt_that_is_kept_and_its_end_changes_it_back(model):
    before = ask(model)
    layer = model.transformer.model.language_model.layers[1]
    hook = layer.register_forward_hook(ruin)
    try:
        under = ask(model)
        assert under.usage.cached == 0, "what was kept is of the model without the hook"
        model.forget()
        assert ask(model).tokens.logprob.tolist() == under.tokens.logprob.tolist()
    finally:
        hook.remove()
    assert under.tokens.logprob.tolist() != before.tokens.logprob.tolist()
    after = ask(model)
    assert after.tokens.logprob == pytest.approx(before.tokens.logprob, abs=1e-5)
    assert after.text == before.text


def test_a_forward_in_the_place_of_a_module_s_own_is_a_hook(model):
    before = ask(model)
    layer = model.transformer.model.language_model.layers[1]
    own = layer.forward
    layer.forward = lambda *given, **named: own(*given, **named) * 0.3
    try:
        assert ask(model).usage.cached == 0
    finally:
        del layer.forward
    again = ask(model)
    assert again.usage.cached > 0
    assert again.text == before.text


def test_what_changes_nothing_keeps_what_is_kept(model):
    before = ask(model)
    transformer = model.transformer
    layer = transformer.model.language_model.layers[1]
    own = layer.forward
    layer.forward = lambda *given, **named: own(*given, **named) * 0.3
    layer.forward = own  # put back as most people do it, and not deleted
    try:
        # Transformers puts hooks of its own onto every layer, for good
        states = transformer(input_ids=torch.tensor([[2, 5, 7]]), output_hidden_states=True).hidden_states
        assert len(states) == 1 + len(transformer.model.language_model.layers)
        assert layer._forward_hooks
        again = ask(model)
        assert again.usage.cached > 0
        assert again.tokens.logprob == pytest.approx(before.tokens.logprob, abs=1e-5)
    finally:
        del layer.forward


@pytest.mark.parametrize("how", ["written", "replaced", "another"])
def test_prompts_of_other_weights_are_forgotten(model, how):
    before = ask(model)
    attention = model.transformer.model.language_model.layers[2].self_attn.o_proj
    held = attention.weight
    kept = held.detach().clone()
    if how == "written":
        with torch.no_grad():
            held.copy_(kept.flip(0))  # a norm behind it takes any factor out again
    elif how == "replaced":
        held.data = kept.flip(0)
    else:
        attention.weight = torch.nn.Parameter(kept.flip(0))
    try:
        changed = ask(model)
        assert changed.usage.cached == 0
        assert np.abs(changed.tokens.logprob[0] - before.tokens.logprob[0]) > 1e-4
    finally:
        attention.weight = held
        held.data = kept
    assert ask(model).tokens.logprob == pytest.approx(before.tokens.logprob, abs=1e-6)
    assert ask(model).usage.cached > 0


def test_what_is_kept_is_bounded_in_bytes_and_in_number(monkeypatch):
    monkeypatch.setattr(cache, "size_of", lambda kept: kept.bytes)
    monkeypatch.setattr(cache, "rewound", lambda kept, tokens: kept)

    class Kept:
        bytes = 10

    known = PrefixCache(most_bytes=100, most=4)
    for k in range(6):
        known.add(np.array([k, 0]), (), Kept())
    assert len(known) == 4
    assert known.longest(np.array([1, 0, 5]), ()) == (0, None)
    assert known.longest(np.array([5, 0, 5]), ())[0] == 2
    Kept.bytes = 60
    known.add(np.array([9, 9]), (), Kept())
    assert known.bytes <= 100


def test_another_attention_implementation_is_refused_by_name(model):
    trace = ask(model)
    model.transformer.set_attn_implementation("eager")
    try:
        for again in (
            lambda: ask(model),
            lambda: model.score(QUESTION, "A red circle.", images=[SCENE]),
            lambda: model.attend(trace),
            lambda: model.occlude(trace, token=1),
            lambda: model.branch(trace, 1, " blue"),
        ):
            with pytest.raises(ModelError, match=r"set to attention 'eager'.*set_attn_implementation\('sdpa'\)"):
                again()
    finally:
        model.transformer.set_attn_implementation("sdpa")
    assert ask(model).text == trace.text


def test_no_memory_is_told_in_words_and_what_was_kept_is_let_go(model, monkeypatch):
    ask(model)
    assert len(model._prefixes) > 0

    def none_left(*_given, **_named):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(model._engine, "prefill", none_left)
    with pytest.raises(DoesNotFit, match=r"cpu ran out of memory over a prompt of [0-9]+ tokens"):
        ask(model)
    assert len(model._prefixes) == 0
