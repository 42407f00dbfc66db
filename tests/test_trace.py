"""Trace and its columns: indices, alternatives, frames of numbers, and what they refuse."""

from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest

from tests.traces import INFO, make_rounds, make_tokens, make_trace
from workbench.columns import Prompt, Rounds, Segment
from workbench.errors import TraceError
from workbench.trace import SOURCES


def test_a_trace_says_what_it_holds():
    trace = make_trace()
    assert repr(trace) == (
        "Trace('A red circle lies at the': 73 prompt tokens, 2 images, 1 sound, 7 generated, stop_token)"
    )
    assert len(trace) == 7
    assert trace.ids.dtype == np.int32
    assert len(trace.ids) == 80
    assert trace.ids[73] == trace.tokens.token_id[0]


def test_tokens_are_rows_and_columns():
    tokens = make_tokens(3, probability=np.array([0.6, 0.5, 0.9]))
    row = tokens[1]
    assert (row.index, row.piece, row.source, row.round) == (1, " red", "plain", -1)
    assert row.logprob == pytest.approx(np.log(0.5))
    assert row.time_s == pytest.approx(0.15)
    assert tokens[-1].index == 2
    assert [token.piece for token in tokens] == ["A", " red", "<turn|>"]
    best, second = tokens.alternatives(0)[:2]
    assert best == ("A", pytest.approx(np.log(0.6)))
    assert second == (" red", pytest.approx(np.log(0.08)))
    with pytest.raises(IndexError):
        tokens[3]


def test_a_frame_has_one_row_a_token_and_the_documented_columns():
    frame = make_trace(rounds=4).to_pandas()
    assert list(frame.columns) == [
        "token_id", "piece", "logprob", "sample_logprob", "entropy", "rank", "margin", "source", "round", "time_s",
    ]  # fmt: skip
    assert frame.index.name == "token"
    # rounds keep 0, 1, 2 of 3 drafts, and 1 of 1
    assert list(frame["source"]) == [
        "plain", "corrected", "accepted", "corrected", "accepted", "accepted", "corrected", "accepted", "bonus",
    ]  # fmt: skip
    assert list(frame["round"]) == [-1, 0, 1, 1, 2, 2, 2, 3, 3]
    assert len(make_trace(tokens=0, finish="stopped").to_pandas()) == 0


def test_columns_cannot_be_changed():
    trace = make_trace()
    with pytest.raises(ValueError, match="read-only"):
        trace.tokens.logprob[0] = 0
    with pytest.raises(ValueError, match="read-only"):
        trace.prompt.ids[0] = 0
    with pytest.raises(FrozenInstanceError):
        trace.text = "other"


def test_a_tokens_index_counts_from_the_end_too():
    trace = make_trace(tokens=7)
    assert [trace.index(k) for k in (0, 6, -1, np.int64(-7))] == [0, 6, 6, 0]
    for wrong in (7, -8, True, 1.0, "1", None):
        with pytest.raises(TraceError, match="this answer has 7 tokens, counted from 0"):
            trace.index(wrong)


def test_segments_are_found_by_kind_and_by_position():
    prompt = make_trace(images=((36, 60), (50, 20)), audio=(1.3,)).prompt
    first, second, sound = prompt.segment("image"), prompt.segment("image", 1), prompt.segment("audio")
    assert (first.rows, first.cols, len(first)) == (3, 5, 15)
    assert (second.rows, second.cols, len(second)) == (4, 1, 4)
    assert first.boxes[7].tolist() == [24, 12, 36, 24]  # row 1, column 2
    assert second.boxes[3].tolist() == [0, 37.5, 20, 50]
    assert len(sound) == 33  # 1.3 s are 32.5 frames
    assert (sound.start_ms[-1], sound.end_ms[-1]) == (1280, 1300)
    assert prompt.segment_at(first.start) is first
    assert prompt.segment_at(first.stop).kind == "control"
    with pytest.raises(TraceError, match="has no image 2; it has audio 0, image 0, image 1"):
        prompt.segment("image", 2)
    with pytest.raises(TraceError, match="Position 73 lies outside the prompt of 73 tokens"):
        prompt.segment_at(73)
    with pytest.raises(TraceError, match="no media at all"):
        make_trace(images=(), audio=()).prompt.segment("image")
    assert repr(first) == "<image 0 5:20, 3×5 patches>"


def test_rounds_keep_what_was_thrown_away():
    rounds, source, round_ = make_rounds(4)
    assert repr(rounds) == "Rounds(4 rounds, 4 of 10 drafts kept)"
    assert rounds.draft_ids[3].tolist() == [100, -1, -1]
    assert np.isnan(rounds.draft_logprob[3]).tolist() == [False, True, True]
    assert np.isnan(rounds.target_logprob[0]).tolist() == [False, True, True]  # the rejected draft keeps its own
    assert len(source) == len(round_) == 1 + 4 + 4
    assert len(Rounds.none()) == 0
    assert Rounds.none().draft_ids.shape == (0, 0)


def test_columns_that_do_not_fit_together_are_refused():
    tokens, (rounds, _, _) = make_tokens(3), make_rounds(2)
    with pytest.raises(TraceError, match=r"Column entropy has shape \(2,\)"):
        replace(tokens, entropy=tokens.entropy[:2])
    with pytest.raises(TraceError, match=r"Column top_logprob has shape \(3, 4\)"):
        replace(tokens, top_logprob=tokens.top_logprob[:, :4])
    with pytest.raises(TraceError, match="2 pieces for 3 tokens"):
        replace(tokens, piece=("a", "b"))
    with pytest.raises(TraceError, match=r"Column draft_logprob of rounds has shape \(2, 2\) instead of \(2, 3\)"):
        replace(rounds, draft_logprob=rounds.draft_logprob[:, :2])
    with pytest.raises(TraceError, match=r"Column accepted of rounds has shape \(1,\) instead of \(2,\)"):
        replace(rounds, accepted=rounds.accepted[:1])
    with pytest.raises(TraceError, match="pieces of the prompt: 1 for 2 tokens"):
        Prompt(np.array([1, 2]), ("a",), ())
    with pytest.raises(TraceError, match="logprob of the prompt: 1 for 2 tokens"):
        Prompt(np.array([1, 2]), ("a", "b"), (), logprob=np.zeros(1))
    with pytest.raises(TraceError, match="expected one of"):
        Segment("magic", 0, 1)


def test_two_models_are_the_same_when_four_things_are():
    assert INFO.identity == ("pocket", "1", "none", "ab" * 32)
    assert replace(INFO, device="cuda", dtype="bfloat16").identity == INFO.identity
    assert replace(INFO, revision="2").identity != INFO.identity


def test_sources_are_a_contract():
    assert SOURCES == ("plain", "accepted", "corrected", "bonus", "forced")


def test_the_question_is_the_words_of_the_last_user_turn():
    trace = make_trace()
    part = {"type": "text", "text": "What is it?"}
    for messages, said in (
        ([], ""),
        ([{"role": "model", "content": "Hm."}], ""),
        ([{"role": "user", "content": "One?"}, {"role": "model", "content": "1."}], "One?"),
        ([{"role": "user", "content": "One?"}, {"role": "user", "content": [{"type": "image"}, part]}], "What is it?"),
        ([{"role": "user", "content": None}], ""),
    ):  # fmt: skip
        assert replace(trace, prompt=replace(trace.prompt, messages=tuple(messages))).question == said
