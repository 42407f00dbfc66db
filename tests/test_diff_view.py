"""DiffView: two traces, their numbers by place, and what cannot be compared."""

from dataclasses import replace

import numpy as np
import pytest

from tests.traces import make_trace
from widgets import DiffView, to_html
from workbench.diff import compare
from workbench.errors import Incompatible, TraceError


def test_an_answer_that_goes_on_where_the_other_ends():
    whole = make_trace(tokens=8, seed=1)
    part = replace(
        whole, tokens=replace(whole.tokens, **{
            name: value[:5] for name, value in vars(whole.tokens).items()
            if not isinstance(value, dict) and name != "top_pieces" and hasattr(value, "__len__")
        }),
    )  # fmt: skip
    diff = compare(whole, part)
    assert (diff.divergence, len(diff)) == (5, 5)
    assert "one answer ends at token 5, the other goes on" in repr(diff)
    assert compare(whole, whole).divergence is None


def pair():
    """The same four words, but for the third."""
    return make_trace(tokens=4, seed=1), parting(make_trace(tokens=4, seed=2), 2, " star")


def parting(trace, at, piece):
    """The trace with another token at one place."""
    ids, pieces = trace.tokens.token_id.copy(), list(trace.tokens.piece)
    ids[at], pieces[at] = 999, piece
    return replace(trace, tokens=replace(trace.tokens, token_id=ids, piece=tuple(pieces)))


def test_words_of_both_and_the_numbers_of_each_place():
    a, b = pair()
    view = DiffView(a, b)
    left, right = view.data["sides"]
    assert left["pieces"][2] == " circle"
    assert len(left["top"]) == len(right["top"]) == 3  # up to and including where they part
    assert view.data["divergence"] == compare(a, b).divergence == 2
    assert np.frombuffer(view.data["kl"]["view"], np.float32) == pytest.approx(compare(a, b).kl)
    view.other = a
    assert view.data["divergence"] is None
    assert np.frombuffer(view.data["kl"]["view"], np.float32).max() == pytest.approx(0, abs=1e-6)


def test_what_compare_gave_is_shown_as_it_is():
    diff = compare(*pair())
    view = DiffView(replace(diff, exact=True, kl=diff.kl + 1))
    assert view.data["exact"]
    assert np.frombuffer(view.data["kl"]["view"], np.float32).min() >= 1


def test_what_cannot_be_compared_is_refused(tmp_path):
    a, b = pair()
    with pytest.raises(TraceError, match="other="):
        DiffView(a)
    with pytest.raises(Incompatible, match="vocabularies"):
        DiffView(a, replace(b, model=replace(b.model, vocab_hash="no")))
    assert DiffView().data == {}
    with pytest.raises(TraceError, match="no two traces"):
        _ = DiffView().diff
    assert "Two answers compared" in to_html(DiffView(a, b), tmp_path / "a.html").read_text("utf-8")


def test_where_no_script_runs_both_answers_are_shown():
    one, other = make_trace(text="The first answer."), make_trace(text="The second answer.", seed=2)
    shown = DiffView(one, other).picture()
    assert shown.count('role="group"') == 2
    assert "TraceDiff(" in shown
    assert "nats a token" in shown
