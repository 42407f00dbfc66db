"""Reading the flight recorder, by hand-made rounds whose answers can be counted on fingers."""

from dataclasses import replace

import numpy as np
import pytest

from tests.traces import make_trace
from workbench import flight
from workbench.errors import TraceError
from workbench.trace import Rounds

NAN = float("nan")


def rounds():
    """Three rounds of three drafts: all kept; one kept; ended by a stop token after two kept."""
    return Rounds(
        draft_ids=[[1, 2, 3], [4, 5, 6], [7, 8, 9]],
        draft_logprob=np.full((3, 3), -0.5),
        target_logprob=[[-0.1, -0.1, -0.1], [-0.1, -3.0, NAN], [-0.1, -0.1, NAN]],
        proposed=[3, 3, 3], accepted=[3, 1, 2], emitted_id=[11, 12, -1], draft_s=[0.1] * 3, verify_s=[0.2] * 3,
    )  # fmt: skip


def test_acceptance():
    r = rounds()
    assert flight.judged(r).sum() == 7
    assert flight.kept(r).sum() == 6
    np.testing.assert_allclose(flight.acceptance_by_position(r), [1, 2 / 3, 1])
    assert flight.tokens_a_round(r) == pytest.approx((4 + 2 + 2) / 3)
    assert flight.histogram(r).tolist() == [0, 1, 1, 1]
    assert np.isnan(flight.tokens_a_round(Rounds.none()))


def test_rounds_as_a_table():
    table = rounds().to_pandas()
    assert list(table.columns) == list(Rounds.DTYPES)
    assert table.loc[0, "draft_ids"] == [1, 2, 3]
    assert table["accepted"].tolist() == [3, 1, 2]
    assert np.isnan(table.loc[1, "target_logprob"][2])
    assert len(Rounds.none().to_pandas()) == 0


def test_other_lengths_are_estimates():
    r = rounds()
    assert flight.other_length(r, 0).tokens_a_round == 1
    assert flight.other_length(r, 2) == flight.Estimate(2, pytest.approx(1 + 1 + 2 / 3), known=True)
    longer = flight.other_length(r, 5)
    assert not longer.known
    assert longer.tokens_a_round == pytest.approx(1 + 1 + 4 * 2 / 3)
    chosen = replace(r, proposed=[3, 2, 3])
    assert not flight.other_length(chosen, 2).known, "rounds that the drafter ended are no sample of such rounds"
    assert flight.other_length(replace(r, proposed=[3, 3, 2]), 2).known, "the last one ends where the answer does"
    with pytest.raises(TraceError, match="no rounds"):
        flight.other_length(Rounds.none(), 2)
    with pytest.raises(TraceError, match="drafts=-1"):
        flight.other_length(r, -1)


def test_kinds_of_tokens():
    kinds = {" red": "word start", "Red": "word start", "ing": "word part", " 12": "digits", ".": "punctuation",
             "\n": "space", "<turn|>": "control", " ": "space", "<": "punctuation", "<|channel>": "control",
             "<|image|>": "control", "<bos>": "control", "<table>": "word part", "</td>": "word part",
             "<0xE2>": "byte"}  # fmt: skip
    assert {piece: flight.piece_kind(piece) for piece in kinds} == kinds


def test_a_traces_drafts_by_kind_and_modality():
    trace = make_trace(rounds=6)
    counts = flight.acceptance_by_kind(trace)
    assert sum(n for _, n in counts.values()) == flight.judged(trace.rounds).sum() > 0
    assert sum(k for k, _ in counts.values()) == trace.rounds.accepted.sum()
    both = flight.acceptance_by_modality([trace, trace])
    assert both == {"image+audio": (2 * trace.rounds.accepted.sum(), 2 * flight.judged(trace.rounds).sum())}
    words = make_trace(rounds=3, images=(), audio=())
    assert list(flight.acceptance_by_modality([words, trace])) == ["image+audio", "text"]
    names = {1: " red", 2: "ing", 3: ".", 4: "<turn|>", 5: "x", 6: "y", 7: "\n", 8: " 7", 9: "<0xE2>"}
    made = replace(
        trace, rounds=rounds(), tokens=replace(trace.tokens, top_pieces={**trace.tokens.top_pieces, **names})
    )
    assert flight.acceptance_by_kind(made) == {
        "control": (1, 1), "digits": (1, 1), "punctuation": (1, 1), "space": (1, 1), "word part": (1, 2),
        "word start": (1, 1),
    }  # fmt: skip


def test_speedup_and_verdict():
    trace = make_trace(rounds=6)
    slow = flight.Speedup.of(3, [2.0, 2.2, 2.1, 2.1, 2.1], [1.8, 1.9, 1.9, 1.9, 1.9], {1: 0.1, 4: 0.37}, 0.01)
    assert slow.ratio == pytest.approx(1.9 / 2.1, abs=0.001)
    assert slow.low <= slow.ratio <= slow.high
    assert slow.break_even(3) == pytest.approx(3.0)
    assert "slower than without" in flight.verdict(trace, slow)
    fast = flight.Speedup.of(3, [1.0, 1.1] * 3, [1.8, 1.9] * 3, {1: 0.1}, 0.01)
    assert "× as quick as without" in flight.verdict(trace, fast)
    even = flight.Speedup.of(3, [1.0, 2.0] * 3, [2.0, 1.0] * 3, {1: 0.1}, 0.01)
    assert "no difference" in flight.verdict(trace, even)
    assert str(fast) == "1.76× (95 % 1.73 to 1.80, 6 pairs)"
    assert str(slow) == "0.90× (0.86 to 0.90, 5 pairs)", "five are a range, 94 % of it"
    few = flight.Speedup.of(3, [1.0, 1.1], [1.8, 1.9], {1: 0.1}, 0.01, parted=1)
    assert str(few) == "1.76× (1.73 to 1.80, 2 pairs), 1 of the runs said other words"
    assert flight.verdict(trace, few).endswith("1 of the runs said other words: too few to tell.")
    off = make_trace(tokens=6)
    assert flight.verdict(off).endswith("drafting was off.") or "worth making" in flight.verdict(off)
    assert "as quick as without" in flight.verdict(off, fast), "what was measured is told all the same"
    with pytest.raises(TraceError, match="not measured"):
        fast.break_even(3)
