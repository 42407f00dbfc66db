"""What other settings would have done, against Transformers' own processors on whole distributions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.errors import PromptError
from workbench.sampling import what_if

torch = pytest.importorskip("torch")
VOCABULARY, STORED = 60, 12


def oracle(logits, temperature, top_k, top_p):
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    scores = torch.from_numpy(logits).double()
    steps = [TemperatureLogitsWarper(temperature)]
    steps += [TopKLogitsWarper(top_k)] if top_k else []
    steps += [TopPLogitsWarper(top_p)] if top_p < 1 else []
    for step in steps:
        scores = step(None, scores)
    return scores.softmax(-1).numpy()


@settings(max_examples=300)
@given(
    seed=st.integers(0, 2**32 - 1),
    spread=st.floats(0.3, 6),
    temperature=st.floats(0.1, 4),
    top_k=st.integers(0, VOCABULARY),
    top_p=st.one_of(st.just(1.0), st.floats(0.05, 0.99)),
)
def test_the_truth_lies_within_the_bounds(seed, spread, temperature, top_k, top_p):
    logits = np.random.default_rng(seed).normal(0, spread, (4, VOCABULARY))
    logprob = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    order = np.argsort(-logprob, axis=1)[:, :STORED]
    kept = np.take_along_axis(logprob, order, 1)
    truth = oracle(logits, temperature, top_k, top_p)
    mine = np.take_along_axis(truth, order, 1)
    rest = 1 - mine.sum(1)
    got = what_if(kept, VOCABULARY, temperature=temperature, top_k=top_k, top_p=top_p)
    # a nucleus whose edge falls on a token to the last bit may be cut either way
    cumulative = np.cumsum(np.sort(oracle(logits, temperature, top_k, 1.0), axis=1)[:, ::-1], axis=1)
    clear = (np.abs(cumulative - top_p) > 1e-9).all(1) | (top_p == 1)
    assert (got.low[clear] <= mine[clear] + 1e-9).all()
    assert (got.high[clear] >= mine[clear] - 1e-9).all()
    assert (got.rest_low[clear] <= rest[clear] + 1e-9).all()
    assert (got.rest_high[clear] >= rest[clear] - 1e-9).all()
    sure = got.exact & clear
    np.testing.assert_allclose(got.low[sure], mine[sure], atol=1e-9)


def test_what_is_known_is_said_to_be():
    logprob = np.log(np.array([[0.5, 0.3, 0.1]]))  # a tenth is not stored
    assert what_if(logprob, 100).exact.all()
    np.testing.assert_allclose(what_if(logprob, 100).rest_low, 0.1)
    assert what_if(logprob, 100, temperature=0.7, top_k=3).exact.all()
    assert what_if(logprob, 100, top_p=0.7).exact.all()
    np.testing.assert_allclose(what_if(logprob, 100, top_p=0.7).low, [[0.625, 0.375, 0]])
    assert not what_if(logprob, 100, temperature=2).exact.any()
    greedy = what_if(logprob, 100, temperature=0)
    assert greedy.low.tolist() == [[1, 0, 0]]


@pytest.mark.parametrize("wrong", [{"temperature": -1}, {"top_p": 0}, {"top_p": 1.5}, {"top_k": -2}])
def test_settings_out_of_range(wrong):
    with pytest.raises(PromptError, match=next(iter(wrong))):
        what_if(np.log([[0.6, 0.4]]), 10, **wrong)
