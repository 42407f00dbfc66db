"""What is kept of earlier prompts belongs to the model as it was: an answer depends on the model as it is now."""

import gc
import weakref

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import workbench  # noqa: E402
from workbench import cache, loading  # noqa: E402
from workbench.cache import PrefixCache  # noqa: E402
from workbench.errors import DoesNotFit, Incompatible, ModelError  # noqa: E402
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


@pytest.mark.parametrize("how", ["zeroed", "turned", "one number", "numpy"])
def test_what_torch_does_not_count_is_seen_and_written_into_the_trace(model, how):
    before = ask(model)
    weight = model.transformer.model.language_model.layers[4].self_attn.k_proj.weight
    kept = weight.detach().clone()
    version = weight._version
    if how == "zeroed":
        weight.data.zero_()
    elif how == "turned":
        weight.data.copy_(kept.flip(0))
    elif how == "one number":
        weight.data[3, 5] += 0.5
    else:
        weight.detach().numpy()[:] = 0
    try:
        assert weight._version == version, "torch counts it after all"
        changed = ask(model)
        assert changed.usage.cached == 0
        assert changed.model.weights_hash != before.model.weights_hash
        assert ask(model).model == changed.model
        assert model.attend(changed).replay_gap < 1e-3
        with pytest.raises(Incompatible, match="its weights changed since they were loaded"):
            model.attend(before)
    finally:
        weight.data.copy_(kept)
    after = ask(model)
    assert after.usage.cached == 0
    assert after.model == before.model
    assert after.tokens.logprob == pytest.approx(before.tokens.logprob, abs=1e-6)
    with pytest.raises(Incompatible, match=r"weights [0-9a-f]{12}\)\. Load that model"):
        model.attend(changed)


def test_of_a_large_model_a_sample_is_looked_at(model, monkeypatch):
    monkeypatch.setattr(cache, "_SUMMED", 1000)
    weight = model.transformer.model.language_model.layers[4].self_attn.k_proj.weight
    kept, before = weight.detach().clone(), cache.weights_of(model.transformer)
    try:
        weight.data[:, :32] = 0  # a head's part of the columns
        assert cache.weights_of(model.transformer)[0] == before[0]
        assert cache.weights_of(model.transformer)[1] != before[1]
    finally:
        weight.data.copy_(kept)
    assert cache.weights_of(model.transformer) == before


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


WORDS = (
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    MemoryError(),
)


@pytest.mark.parametrize("error", WORDS, ids=["cuda", "mps", "cpu", "python"])
def test_no_memory_at_a_later_word_keeps_nothing_of_the_run_alive(model, monkeypatch, error):
    caches, steps, step = [], [], model._engine.step

    def fourth(token, position, kept):
        caches.append(weakref.ref(kept))
        steps.append(token)
        if len(steps) > 3:
            raise error.with_traceback(None)
        return step(token, position, kept)

    monkeypatch.setattr(model._engine, "step", fourth)
    with pytest.raises(DoesNotFit, match="ran out of memory") as caught:
        ask(model)
    error.__traceback__ = None
    gc.collect()
    assert caught.value.__context__ is None
    assert len(steps) == 4
    assert [one() for one in caches] == [None] * 4, "the error holds the keys and values of the run"


def test_no_memory_for_a_look_is_told_in_words_too(model, monkeypatch):
    trace = ask(model)
    assert len(model._prefixes) > 0

    def none_left(*_given, **_named):
        raise torch.OutOfMemoryError("CUDA out of memory")

    for name in ("attend", "lens", "occlude"):
        monkeypatch.setattr(f"workbench.inspecting.{name}", none_left)
        with pytest.raises(DoesNotFit, match=r"cpu ran out of memory over .* a trace of [0-9]+ tokens"):
            getattr(model, name)(trace)
    assert len(model._prefixes) == 0
    monkeypatch.setattr("workbench.inspecting.lens", lambda *_given, **_named: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model.lens(trace)


def test_hooks_of_all_modules_other_modules_and_other_classes_are_seen(model, monkeypatch):
    before = ask(model)
    layer = model.transformer.model.language_model.layers[1]
    kept = layer.mlp.act_fn

    def other():
        trace = ask(model)
        assert trace.usage.cached == 0
        return trace.tokens.logprob.tolist()

    hook = torch.nn.modules.module.register_module_forward_hook(
        lambda module, _given, out: ruin(module, _given, out) if module is layer else None
    )
    try:
        assert other() != before.tokens.logprob.tolist()
    finally:
        hook.remove()
    layer.mlp.act_fn = torch.nn.Hardtanh()
    try:
        assert other() != before.tokens.logprob.tolist()
    finally:
        layer.mlp.act_fn = kept
    with monkeypatch.context() as patch:
        forward = type(layer.mlp).forward
        patch.setattr(type(layer.mlp), "forward", lambda self, x: forward(self, x).flip(-1))  # a norm undoes a factor
        assert other() != before.tokens.logprob.tolist()
    for attribute, value in (("scaling", 0.3), ("sliding_window", 2)):
        own = layer.self_attn
        before_it = getattr(own, attribute)
        setattr(own, attribute, value)
        try:
            said = other()
        finally:
            setattr(own, attribute, before_it)
        assert attribute != "scaling" or said != before.tokens.logprob.tolist()
    assert ask(model).usage.cached > 0


def test_more_is_kept_where_a_load_leaves_more_free():
    assert loading.kept_most(None, 10**9) == 1 << 28
    assert loading.kept_most(10**9, 2 * 10**9) == 1 << 28  # by force
    assert loading.kept_most(12 * 10**9, 10 * 10**9) == 5 * 10**8
    assert loading.kept_most(10**11, 10**10) == 1 << 30


def held_bytes(kept):
    return sum(t.untyped_storage().nbytes() for layer in kept.layers for t in (layer.keys, layer.values))


def test_what_is_kept_holds_no_more_than_is_counted(model):
    """Sliding layers of Transformers keep views of all their keys, and with them all of these, alive."""
    window = model.info.window
    model.ask("a " * 3 * window, temperature=0, draft=0, max_new_tokens=1)
    model.ask("b " * 3 * window, images=[SCENE], temperature=0, draft=0, max_new_tokens=1)  # behind the media, and all
    kept = model._prefixes._kept
    assert len(kept) == 3
    sliding = [k for k, layer in enumerate(kept[0].cache.layers) if layer.is_sliding]
    assert sliding
    for snapshot in kept:
        assert held_bytes(snapshot.cache) == snapshot.bytes
        for k, layer in enumerate(snapshot.cache.layers):
            expected = min(len(snapshot.ids), window - 1) if k in sliding else len(snapshot.ids)
            assert layer.keys.shape[-2] == layer.values.shape[-2] == expected


def test_a_pass_over_a_long_prompt_holds_windows_and_gives_what_transformers_gives(model, monkeypatch):
    """Layer by layer: the end of a pass would be too late for the memory of a laptop."""
    from transformers import DynamicCache

    config, window = model.transformer.config.get_text_config(), model.info.window
    ids = torch.arange(10, 10 + 4 * window)[None] % 900 + 5
    language = model.transformer.model.language_model
    most, real = [], cache._cut

    def cut(layer, tokens):
        real(layer, tokens)
        if layer.is_sliding:
            most.append(layer.keys.untyped_storage().nbytes() // layer.keys[..., :1, :].numel() // 4)

    monkeypatch.setattr(cache, "_cut", cut)
    with torch.inference_mode():
        for before, at in ((0, 2 * window), (0, 7), (window + 9, window + 10), (3, 2 * window)):
            theirs, ours = DynamicCache(config=config), DynamicCache(config=config)
            short = DynamicCache(config=config)
            language(input_ids=ids[:, :at], past_key_values=short)
            if before:
                language(input_ids=ids[:, :before], past_key_values=theirs)
                language(input_ids=ids[:, :before], past_key_values=ours)
            language(input_ids=ids[:, before:], past_key_values=theirs)
            with cache.narrow(ours, at) as then:
                language(input_ids=ids[:, before:], past_key_values=ours)
            marked = then()
            assert max(most) == window - 1
            for mine, like in ((ours, theirs), (marked, short)):
                assert mine.get_seq_length() == like.get_seq_length()
                for a, b in zip(mine.layers, like.layers, strict=True):
                    assert "update" not in vars(a)
                    torch.testing.assert_close(a.keys, b.keys, atol=1e-4, rtol=1e-4)
                    torch.testing.assert_close(a.values, b.values, atol=1e-4, rtol=1e-4)
                    if a.is_sliding:
                        assert a.cumulative_length == b.cumulative_length
            next_ = torch.tensor([[77]])
            mine, like = (language(input_ids=next_, past_key_values=one).last_hidden_state for one in (marked, short))
            torch.testing.assert_close(mine, like, atol=1e-3, rtol=1e-3)
