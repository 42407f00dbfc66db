"""What the benchmark of the views counts, without a browser."""

import pytest

from benchmarks.views import looked, pages, sent, square
from tests.attentions import hot


def test_one_word_s_attention_takes_about_a_byte_a_cell():
    cells, ours, listed = sent()
    assert cells > 4 * 280 + 750
    assert ours < 1.8 * cells  # a byte each, and some words about each map
    assert listed > 14 * cells


def test_pages_that_are_opened_have_something_to_show():
    for name, view in pages().items():
        assert any(view.data.get(what) for what in ("tokens", "rounds", "sides", "pieces")), name


def test_peers_get_the_attention_that_the_view_has():
    trace = looked()
    weights = square(trace)
    assert weights.shape == (len(trace.ids),) * 2
    assert weights.sum(-1) == pytest.approx(1, abs=1e-3)
    (image,) = [s for s in trace.prompt.segments if s.kind == "image"]
    row = weights[len(trace.prompt) - 1 + 3]  # of the position that predicted token 3
    assert row[image.start : image.stop].argmax() == hot(trace, 3, 0)
