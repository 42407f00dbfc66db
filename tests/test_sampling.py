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


@settings(max_examples=200)
@given(
    seed=st.integers(0, 2**32 - 1),
    temperature=st.floats(0.1, 4),
    top_k=st.integers(0, VOCABULARY),
    top_p=st.one_of(st.just(1.0), st.floats(0.05, 0.99)),
)
def test_the_truth_lies_within_the_bounds_where_many_are_alike(seed, temperature, top_k, top_p):
    """Logits in 16 bits come in coarse steps: many tokens are exactly as probable as one another."""
    logits = np.round(np.random.default_rng(seed).normal(0, 2, (4, VOCABULARY)) * 2) / 2
    logprob = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    order = np.argsort(-logprob, axis=1, kind="stable")
    ranked = np.take_along_axis(logprob, order, 1)
    truth = np.take_along_axis(oracle(logits, temperature, top_k, top_p), order, 1)
    got = what_if(ranked[:, :STORED], VOCABULARY, temperature=temperature, top_k=top_k, top_p=top_p)
    # ties among tokens that nobody stored are not known of, unless the stored ones end with one
    hidden = ranked[:, STORED - 1] == ranked[:, STORED]
    if STORED < top_k < VOCABULARY:
        hidden |= ranked[:, top_k - 1] == ranked[:, top_k]
    hidden &= ranked[:, STORED - 2] != ranked[:, STORED - 1]
    cumulative = np.cumsum(np.sort(oracle(logits, temperature, top_k, 1.0), axis=1)[:, ::-1], axis=1)
    clear = ((np.abs(cumulative - top_p) > 1e-9).all(1) | (top_p == 1)) & ~hidden
    assert (got.low[clear] <= truth[clear, :STORED] + 1e-9).all()
    assert (got.high[clear] >= truth[clear, :STORED] - 1e-9).all()
    rest = truth[:, STORED:].sum(1)
    assert (got.rest_low[clear] <= rest[clear] + 1e-9).all()
    assert (got.rest_high[clear] >= rest[clear] - 1e-9).all()
    sure = got.exact & clear
    np.testing.assert_allclose(got.low[sure], truth[sure, :STORED], atol=1e-9)


def test_a_rest_as_probable_as_the_last_that_stays_is_not_cut_off():
    logprob = np.log(np.array([[0.2, 0.2, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]]))
    truth = oracle(logprob, 1.0, 5, 1.0)
    got = what_if(logprob[:, :4], 8, top_k=5)
    assert truth[0, 4:].sum() == pytest.approx(0.4)
    assert got.rest_low[0] <= 0.4 <= got.rest_high[0]
    assert (got.low <= truth[:, :4] + 1e-12).all()
    assert (got.high >= truth[:, :4] - 1e-12).all()
    assert not got.exact.any()
    edge = what_if(np.log([[0.5, 0.2, 0.2, 0.1]]), 4, top_p=0.6)  # either of the two may be the one that stays
    assert not edge.exact.any()
    assert edge.low[0, 1] == edge.low[0, 2] == 0
    assert edge.high[0, 1] == edge.high[0, 2] > 0.28


@pytest.mark.parametrize("temperature", [1e-6, 0.001, 0.005, 0.01])
@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (64, 0.95), (3, 1.0)])
def test_the_coldest_temperatures_are_greedy(temperature, top_k, top_p):
    logprob = np.log(np.array([[0.03, 0.02, 0.01, 0.001], [0.4, 0.2, 0.1, 0.05]]))
    got = what_if(logprob, 1000, temperature=temperature, top_k=top_k, top_p=top_p)
    np.testing.assert_allclose(got.low, [[1, 0, 0, 0]] * 2, atol=1e-9)
    np.testing.assert_allclose(got.high, [[1, 0, 0, 0]] * 2, atol=1e-9)
    assert got.exact.all()


@pytest.mark.parametrize("temperature", [1.0, 2.0, 10.0])
@pytest.mark.parametrize("rest", [1e-8, 1e-7, 1e-6, 1e-4])
def test_a_rest_too_small_for_stored_numbers_is_allowed_for(rest, temperature):
    """Of 60,000 tokens those not stored have 1e-8 together: nothing in 32 bits, and much at a high temperature."""
    vocabulary, stored = 60_000, 20
    rng = np.random.default_rng(3)
    for flat in (True, False):
        p = np.concatenate([
            rng.dirichlet(np.full(stored, 0.5), 8) * (1 - rest),
            rest * (np.full((8, vocabulary - stored), 1 / (vocabulary - stored)) if flat
                    else rng.dirichlet(np.full(vocabulary - stored, 0.2), 8)),
        ], axis=1)  # fmt: skip
        p = -np.sort(-p, axis=1)
        truth = p ** (1 / temperature)
        truth /= truth.sum(1, keepdims=True)
        got = what_if(np.log(p[:, :stored]).astype(np.float32), vocabulary, temperature=temperature)
        left = truth[:, stored:].sum(1)
        assert (got.rest_low <= left + 2e-6).all()
        assert (got.rest_high >= left - 2e-6).all()
        assert (got.low <= truth[:, :stored] + 2e-6).all()
        assert (got.high >= truth[:, :stored] - 2e-6).all()
        if temperature > 1 and rest < 1e-6:
            assert not got.exact.any()


def test_tokens_as_probable_as_the_last_that_stays_stay_too():
    logprob = np.log(np.array([[0.25, 0.25, 0.25, 0.25], [0.4, 0.2, 0.2, 0.2], [0.4, 0.3, 0.2, 0.1]]))
    got = what_if(logprob, 4, top_k=2)
    truth = oracle(logprob, 1.0, 2, 1.0)
    np.testing.assert_allclose(got.low, truth, atol=1e-12)
    np.testing.assert_allclose(truth[0], 0.25)
    assert got.exact.all()


@pytest.mark.parametrize(
    "given",
    [(np.log([0.5, 0.3]), 9), (np.zeros((3, 0)), 9), (np.log([[0.5, 0.3]]), "x"), (np.log([[0.5, 0.3]]), 1),
     (np.log([[0.3, 0.5]]), 9), (np.array([[0.0, np.nan]]), 9)],
)  # fmt: skip
def test_what_is_no_distribution_is_refused(given):
    with pytest.raises(PromptError, match=r"top_logprob|vocabulary"):
        what_if(*given)
    with pytest.raises(PromptError, match="temperature"):
        what_if(np.log([[0.5, 0.3]]), 9, temperature=1e-9)


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
