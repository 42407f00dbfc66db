"""AttentionView: maps as bytes on the right places, one word at a time; from a model or from what a trace kept."""

from dataclasses import replace

import numpy as np
import PIL.Image
import pytest

from tests.attentions import Looker, hot, make_attention, make_lens, make_occlusion
from tests.traces import make_trace
from widgets import AttentionView, to_html
from widgets.attention_view import spectrogram
from widgets.base import question_key
from widgets.buffers import size
from widgets.export import page
from workbench.errors import TraceError, WorkbenchError
from workbench.media import load_image
from workbench.readings import Recorded, keep, rank_correlation


def cells(packed):
    return np.frombuffer(packed["cells"]["view"], np.uint8)


@pytest.fixture
def trace():
    return make_trace(tokens=6)


def test_a_word_s_attention_is_a_byte_a_cell_on_its_places(trace):
    view = AttentionView(trace, Looker(trace))
    made = view.answer({"ask": "attend", "token": 2, "head": 1})
    first, second = made["images"]
    assert first["cells"]["shape"] == [15]
    assert cells(first).argmax() == hot(trace, 2, 1) == 7
    assert (cells(first)[7], first["most"], first["sum"]) == (255, pytest.approx(0.5), pytest.approx(0.5))
    assert cells(second).max() == second["most"] == 0
    assert cells(made["sounds"][0]).argmax() == 2
    assert made["heads"] == [0, 1]
    assert made["sinks"][0][:2] == [0, pytest.approx(0.25)]
    assert sum(made["shares"]) == pytest.approx(1, abs=1e-3)
    assert len(made["shares"]) == len(view.data["segments"])
    both = view.answer({"ask": "attend", "token": 2})
    assert sorted(np.flatnonzero(cells(both["images"][0]))) == [6, 7]  # one of each head
    without = view.answer({"ask": "attend", "token": 2, "head": 1, "sinks": False})
    assert without["images"][0]["most"] == pytest.approx(0.5 / 0.75, rel=1e-3)
    assert view.inspector.asked == [2]  # layers and heads are switched through without asking the model again


def test_attention_that_comes_late_is_not_taken_for_the_new_trace_s(trace):
    other = make_trace(tokens=6, images=((60, 60), (50, 20)))

    class Slow(Looker):
        def attend(self, asked, tokens=None):
            view.trace = other  # while the model works
            return super().attend(asked, tokens)

        def occlude(self, asked, token, over="image", media=0):
            view.trace = other
            return super().occlude(asked, token, over, media)

    view = AttentionView(trace, Slow(trace))
    question = {"ask": "attend", "token": 5, "head": 0}
    with pytest.raises(TraceError, match="Another answer has come"):
        view.answer(question)
    made = view.answer(question)["images"][0]
    assert hot(trace, 5, 0) == 0
    assert (made["cells"]["shape"], cells(made).argmax()) == ([25], 15)
    view.trace = trace
    question = {"ask": "occlude", "token": 5, "kind": "image", "media": 0}
    with pytest.raises(TraceError, match="Another answer has come"):
        view.answer(question)
    assert view.answer(question)["cells"]["shape"] == [25]


def photograph(side=640):
    """Smooth colours with grain: 850 kB as PNG."""
    rng = np.random.default_rng(0)
    small = PIL.Image.fromarray(rng.integers(0, 255, (side // 8, side // 8, 3), np.uint8))
    smooth = np.asarray(small.resize((side, side), PIL.Image.Resampling.BICUBIC)).astype(int)
    return load_image((smooth + rng.integers(-12, 12, smooth.shape)).clip(0, 255).astype(np.uint8), name="photo.jpg")


def test_many_photographs_fit_in_a_message(monkeypatch):
    photo = photograph()
    monkeypatch.setattr("tests.traces.make_image", lambda *_, **__: photo)
    view = AttentionView(make_trace(images=((120, 120),) * 9, names=("photo.jpg",)))
    pictures = view.data["pictures"]
    assert (view.error, len(pictures)) == ("", 9)
    assert {one["url"][:23] for one in pictures} == {"data:image/jpeg;base64,"}
    assert {(one["width"], one["height"]) for one in pictures} == {(640, 640)}
    assert size(view.data) < 2_500_000
    for room, side in ((200_000, 320), (0, 80)):  # as with many more of them: each is made smaller
        monkeypatch.setattr("widgets.attention_view._PICTURES", room)
        pictures = AttentionView(make_trace(images=((120, 120),), names=("photo.jpg",))).data["pictures"]
        assert (pictures[0]["width"], pictures[0]["height"]) == (side, side)


def test_what_is_drawn_stays_as_it_is(trace):
    assert AttentionView(trace).data["pictures"][0]["url"].startswith("data:image/png;base64,")


def test_words_are_told_apart_from_places(trace):
    view = AttentionView(trace, Looker(trace))
    positions = [position for position, *_ in view.data["context"]]
    assert len(positions) == len(trace.prompt) + len(trace) - 15 - 4 - 33  # without patches and frames
    words = cells(view.answer({"ask": "attend", "token": 0})["words"])
    assert words[positions.index(0)] == 255
    assert view.data["pictures"][0]["rows"] == 3
    assert view.data["pictures"][1]["cols"] == 1


def test_every_layer_and_head(trace):
    view = AttentionView(trace, Looker(trace))
    made = view.answer({"ask": "heads", "token": 1})
    assert made["cells"]["shape"] == [3, 2, 15]
    grid = np.frombuffer(made["cells"]["view"], np.uint8).reshape(3, 2, 15)
    assert grid.argmax(-1).tolist() == [[3, 4]] * 3
    assert view.answer({"ask": "heads", "token": 1, "kind": "audio"})["cells"]["shape"] == [3, 2, 33]


def test_occlusion_and_lens(trace):
    view = AttentionView(trace, Looker(trace))
    made = view.answer({"ask": "occlude", "token": 2, "kind": "image", "media": 0})
    assert (cells(made)[3], cells(made)[0], made["most"], made["block"]) == (255, 0, 2, "3 × 3 patches")
    assert view.answer({"ask": "occlude", "token": 2, "kind": "audio", "media": 0})["block"] == "3 frames"
    agreed = view.answer({"ask": "agree", "token": 2, "kind": "image", "media": 0, "layer": 1, "head": 0})
    own = make_occlusion(trace, 2, "image", 0).map.values
    read = make_attention(trace, 2).map("image", 0, token=2, layer=1, head=0).values
    assert agreed["rank"] == pytest.approx(rank_correlation(read, own), abs=1e-4)
    lens = view.answer({"ask": "lens", "media": 0})
    assert lens["layers"] == [-1, 0]
    assert lens["names"] == [[1, " red"], [2, "<b>blue"]]


def test_what_hiding_hardly_changes_is_not_drawn_as_if_it_did(trace):
    made = make_occlusion(trace, 2, "image", 0)
    for drop, faint in ((0.009, True), (0.011, False)):
        values = np.where(made.map.values == 2, drop, 0).astype(np.float32)
        kept = keep(trace, make_attention(trace), replace(made, map=replace(made.map, values=values)))
        answer = AttentionView(kept).answer({"ask": "occlude", "token": 2, "kind": "image", "media": 0})
        assert answer["faint"] is faint
        assert answer["most"] == pytest.approx(drop)
        assert cells(answer).max() == (0 if faint else 255)


def test_a_page_says_of_a_word_s_sinks_what_the_notebook_says(trace):
    """They are of the word, not of all that were read at once."""
    each = make_attention(trace)
    weights = each.weights[0].copy()
    weights[:, 3:, 0] -= 0.24  # three of the six words hardly look at the first position
    weights[:, 3:, 1] += 0.24
    mixed = replace(each, weights=(weights,) * len(each.weights))
    looker = Looker(trace)
    looker.attend = lambda trace, tokens=None: mixed.only(
        positions=None if tokens is None else [k + len(trace.prompt) - 1 for k in np.atleast_1d(tokens)]
    )
    view = AttentionView(trace, looker)
    kept = view.saved_answers()
    for token in range(6):
        for sinks in (True, False):
            how = {"token": token, "layer": None, "head": None, "reduce": "mean", "sinks": sinks}
            live, saved = view.answer({"ask": "attend", **how}), kept[question_key(ask="attend", **how)]
            assert live["sinks"] == saved["sinks"]
            assert (0 in [position for position, *_ in live["sinks"]]) == (token < 3)
            assert cells(live["images"][0]).tolist() == cells(saved["images"][0]).tolist()


def test_what_is_kept_is_bounded_and_what_is_asked_can_be_ended(trace):
    looker = Looker(trace)
    view = AttentionView(trace, looker)
    view.kept_most = 2 * sum(w.nbytes for w in make_attention(trace, 0).weights)
    for token in (0, 1, 2, 2, 1, 0):
        view.answer({"ask": "attend", "token": token})
    assert looker.asked == [0, 1, 2, 0]
    given = []
    looker.lens = lambda trace, over, media, stop: given.append(stop) or make_lens(trace, media)
    for _ in range(2):
        view.answer({"ask": "lens", "media": 0})
        view.halt()
    assert [stop.is_set() for stop in given] == [True, True]
    assert given[0] is not given[1]
    with pytest.raises(TraceError, match="expected 'image' or 'audio'"):
        view.answer({"ask": "occlude", "token": 1, "kind": "text", "media": 0})


@pytest.mark.parametrize(
    "meta",
    [{"kind": "occlusion"}, {"kind": "occlusion", "tokens": [[]], "over": {}, "media": []},
     {"kind": "attention", "of": "model", "identity": 5}, {"kind": "attention", "of": "model", "identity": ["a"]},
     {"kind": "lens", "over": "image", "media": [0]}, {"kind": "occlusion", "identity": None, "tokens": [2**40]}],
)  # fmt: skip
def test_readings_of_a_stranger_that_make_no_sense(trace, tmp_path, meta):
    view = AttentionView(replace(trace, readings={"x": {"meta": meta, "arrays": {}}}))
    asked = [{"ask": "attend", "token": 0}, {"ask": "occlude", "token": 0, "kind": "image", "media": 0},
             {"ask": "lens", "media": 0}]  # fmt: skip
    for question in asked:
        with pytest.raises(WorkbenchError, match="trace"):
            view.answer(question)
    assert "Where it looked" in page([view]), "the rest is shown"


def test_what_a_trace_kept_needs_no_model(trace, tmp_path):
    kept = keep(trace, make_attention(trace, tokens=[1, 2]))
    view = AttentionView(kept)
    assert view.reasons["attend"] == ""
    assert view.reasons["occlude"]
    assert cells(view.answer({"ask": "attend", "token": 2, "head": 0})["images"][0]).argmax() == hot(trace, 2, 0)
    with pytest.raises(TraceError, match="token=3"):
        view.answer({"ask": "attend", "token": 3})
    answers = view.saved_answers()
    assert [token for token in range(6) if _key(token) in answers] == [1, 2]
    assert "Where it looked" in to_html(kept, tmp_path / "a.html").read_text("utf-8")


def test_a_page_holds_the_occlusion_and_the_lens_that_the_trace_holds(trace):
    every = [("image", k) for k in range(len(trace.images))] + [("audio", k) for k in range(len(trace.audio))]
    hidden = [make_occlusion(trace, 2, *place) for place in every]
    lenses = [make_lens(trace, k) for k in range(len(trace.images))]
    view = AttentionView(keep(trace, make_attention(trace), *hidden, make_occlusion(trace, 3, "image", 0), *lenses))
    answers, reasons = view.saved_answers(), view.saved_state()["data"]["reasons"]
    assert reasons["occlude"] == reasons["lens"] == reasons["attend"] == ""
    assert reasons["branch"]
    for kind, media in every:
        made = answers[question_key(ask="occlude", token=2, kind=kind, media=media)]
        assert (cells(made)[3], made["most"]) == (255, 2)
        how = {"layer": None, "head": None, "reduce": "mean", "sinks": False}
        agreed = answers[question_key(ask="agree", token=2, kind=kind, media=media, **how)]
        assert (agreed["rank"] is None) == (media == 1), "nothing of the second picture is looked at"
    assert question_key(ask="occlude", token=3, kind="image", media=0) not in answers, "one picture of it is not enough"
    assert answers[question_key(ask="lens", media=0)]["names"] == [[1, " red"], [2, "<b>blue"]]
    some = AttentionView(keep(trace, make_attention(trace), hidden[0], *lenses[1:]))
    assert some.saved_state()["data"]["reasons"]["occlude"]
    assert some.saved_state()["data"]["reasons"]["lens"]


def test_occlusion_that_a_trace_holds_is_shown_without_attention(trace):
    every = [("image", k) for k in range(len(trace.images))] + [("audio", k) for k in range(len(trace.audio))]
    view = AttentionView(keep(trace, *(make_occlusion(trace, 2, *place) for place in every)))
    answers, reasons = view.saved_answers(), view.saved_state()["data"]["reasons"]
    assert reasons["occlude"] == ""
    assert reasons["attend"]
    made = [answers[question_key(ask="occlude", token=2, kind=kind, media=media)] for kind, media in every]
    assert all((cells(one)[3], one["most"]) == (255, 2) for one in made)
    assert not [key for key in answers if "attend" in key or "agree" in key]
    assert "Where it looked" in page(view.trace)


def test_a_view_begins_with_a_word_that_can_be_asked_about(trace):
    kept = keep(trace, make_attention(trace, tokens=[3, 5]))
    view = AttentionView(kept)
    assert view.data["first"] == 3
    assert view.opening_questions() == (_key(3),)
    assert view.opening_questions()[0] in view.saved_answers()
    view.selected = 5
    assert view.opening_questions() == (_key(5),)
    assert AttentionView(kept, Looker(trace)).data["first"] == 0
    assert AttentionView(trace).data["first"] == 0


def test_a_page_reads_what_the_trace_holds_once(trace, monkeypatch):
    every = [("image", k) for k in range(len(trace.images))] + [("audio", k) for k in range(len(trace.audio))]
    hidden = [make_occlusion(trace, 2, *place) for place in every]
    view = AttentionView(keep(trace, make_attention(trace), *hidden, make_lens(trace, 0), make_lens(trace, 1)))
    read = []
    for name in ("occlude", "lens"):
        real = getattr(Recorded, name)
        monkeypatch.setattr(Recorded, name, lambda self, *a, _n=name, _r=real: read.append(_n) or _r(self, *a))
    page(view)
    assert sorted(read) == ["lens"] * 2 + ["occlude"] * 3


def _key(token):
    return question_key(ask="attend", token=token, layer=None, head=None, reduce="mean", sinks=True)


def test_a_page_reads_many_words_at_once(trace):
    view = AttentionView(trace, Looker(trace))
    answers = view.saved_answers()
    assert view.inspector.asked == [range(6)]
    assert all(_key(token) in answers for token in range(6))
    assert view.saved_state()["data"]["reasons"]["attend"] == ""
    assert view.saved_state()["data"]["reasons"]["lens"]


def test_without_anybody_to_ask_the_reason_is_given(trace):
    view = AttentionView(trace)
    assert "inspector" in view.data["reasons"]["attend"]
    with pytest.raises(WorkbenchError, match="inspector"):
        view.answer({"ask": "attend", "token": 0})
    assert [key for key in view.saved_answers() if "attend" in key] == []
    with pytest.raises(TraceError, match="no sound 5"):
        view.answer({"ask": "sound", "media": 5})


def test_a_long_prompt_costs_a_byte_a_cell(trace):
    """16 pictures of 15 patches and 30 s of sound: what is sent of one word stays small."""
    long = make_trace(tokens=4, images=((36, 60),) * 16, audio=(30.0,))
    view = AttentionView(long, Looker(long))
    made = view.answer({"ask": "attend", "token": 1})
    assert sum(len(m["cells"]["view"]) for m in made["images"] + made["sounds"]) == 16 * 15 + 750
    assert size(made) < 20_000


def test_spectrograms():
    """A tone of 1 kHz lies on one band, silence on none."""
    t = np.arange(16_000) / 16_000
    made = spectrogram(np.sin(2 * np.pi * 1000 * t).astype(np.float32))
    assert made.shape == (64, 50)  # 20 ms each
    bands = np.geomspace(50, 8000, 65)
    row = 63 - int(made[:, 25].argmax())
    assert bands[row] <= 1032
    assert bands[row + 1] >= 968
    assert spectrogram(np.zeros(8000, np.float32)).max() == 0  # silence is black
    assert spectrogram(np.random.default_rng(1).normal(0, 1e-6, 8000).astype(np.float32)).max() < 100
    click = np.zeros(3200, np.float32)
    click[2880] = 1  # at 180 ms
    columns = spectrogram(click).astype(float).sum(0)
    assert len(columns) == 10
    assert columns.argmax() in (8, 9)
    assert columns[:7].max() < columns[8] / 2


def test_frames_of_a_sound_are_sent_with_their_times():
    trace = make_trace(audio=(0.41,))
    (sound,) = AttentionView(trace).data["sounds"]
    starts, ends = (np.frombuffer(sound[name]["view"], np.float32) for name in ("starts", "ends"))
    assert len(starts) == sound["frames"] == 11
    (segment,) = [s for s in trace.prompt.segments if s.kind == "audio"]
    assert starts == pytest.approx(segment.start_ms / 1000)
    assert ends == pytest.approx(segment.end_ms / 1000)
