"""Numbers that are not finite end a run with the layer named, and leave nothing wrong behind."""

import itertools

import pytest

torch = pytest.importorskip("torch")

import workbench  # noqa: E402
from workbench.errors import ModelError  # noqa: E402
from workbench.pocket import WEIGHTS  # noqa: E402

QUESTION = "Tell me a story about the picture."


@pytest.fixture(scope="module")
def model():
    return workbench.load("pocket", progress=False)


@pytest.fixture
def picture():
    return WEIGHTS.parent / "examples" / "scene.png"


def poisoned(module, *, after, what=float("nan")):
    """From its so-manieth pass on, one number of a module's output is not finite."""
    passes = itertools.count()

    def spoil(_module, _given, out):
        if next(passes) >= after:
            out = out.clone()
            out[..., -1, 7] = what
        return out

    return module.register_forward_hook(spoil)


@pytest.mark.parametrize("draft", [0, 4])
@pytest.mark.parametrize("after", [0, 4])
def test_the_first_layer_whose_numbers_are_not_finite_is_named(model, picture, draft, after):
    before = model.ask(QUESTION, images=[picture], temperature=0, max_new_tokens=30, draft=draft)
    model._prefixes.clear()
    hook = poisoned(model.transformer.model.language_model.layers[3].mlp.down_proj, after=after)
    said = []
    try:
        with pytest.raises(ModelError, match=r"language_model\.layers\.3\.mlp\.down_proj") as error:
            model.ask(
                QUESTION, images=[picture], temperature=0, max_new_tokens=30, draft=draft, on_token=said.append
            )  # fmt: skip
    finally:
        hook.remove()
    assert f"generated token {len(said)} " in str(error.value) if after else "generated token 0 " in str(error.value)
    assert "doctor --selftest" in str(error.value)
    assert len(said) == 0 if not after else 0 < len(said) < len(before.tokens)
    # the run before it was not a run of damaged weights, nor is the one after it
    again = model.ask(QUESTION, images=[picture], temperature=0, max_new_tokens=30, draft=draft)
    assert again.tokens.token_id.tolist() == before.tokens.token_id.tolist()


def test_sampling_from_what_is_not_finite_is_refused_in_words_too(model, picture):
    model._prefixes.clear()
    hook = poisoned(model.transformer.lm_head, after=1)
    try:
        with pytest.raises(ModelError, match="begin in lm_head"):
            model.ask(QUESTION, images=[picture], temperature=1.0, seed=3, draft=0)
    finally:
        hook.remove()


def test_what_is_finite_the_second_time_is_said_to_be(model, picture):
    model._prefixes.clear()
    layer = model.transformer.model.language_model.layers[0]
    hook = poisoned(layer, after=0)
    once = layer.register_forward_hook(lambda *_: hook.remove())
    try:
        with pytest.raises(ModelError, match="second pass over the same tokens they are finite"):
            model.ask(QUESTION, images=[picture], temperature=0)
    finally:
        once.remove()
        hook.remove()


def test_a_scored_answer_is_looked_at_as_well(model):
    hook = poisoned(model.transformer.model.language_model.norm, after=0)
    try:
        with pytest.raises(ModelError, match=r"language_model\.norm"):
            model.score("How many?", "Three.")
    finally:
        hook.remove()
