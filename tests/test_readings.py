"""Attention, lenses and occlusions as data: numbers a person can check by hand. No model, no torch."""

from dataclasses import replace

import numpy as np
import pytest

from tests.attentions import make_attention, make_lens, make_occlusion
from tests.traces import INFO, make_trace
from workbench.errors import Incompatible, TraceError
from workbench.readings import Attention, Inspector, Layer, Lens, Map, Recorded, can, keep, rank_correlation

# The trace: <bos> and three more of control, then an image of 3 × 5 patches at 5 to 20, one of 4 × 1 at 22 to 26, a
# sound of 33 frames at 28 to 61, six words at 62 to 68, five control tokens, and seven generated tokens from 73 on.
TRACE = make_trace()
T, N = 73, 7
K = T + N
LAYERS = (Layer(0, "sliding", 24), Layer(1, "full"))


def attention(rows, layers=LAYERS, positions=None, **more):
    """Two heads of each layer; ``rows`` gives (layer, head, query) -> {key: weight}."""
    positions = np.arange(T - 1, K - 1) if positions is None else np.array(positions)
    weights = np.zeros((len(layers), 2, len(positions), K), np.float16)
    for layer, head, query in np.ndindex(weights.shape[:3]):
        for key, weight in rows(layer, head, query).items():
            weights[layer, head, query, key] = weight
    return Attention(
        positions=positions, layers=layers, heads=[0, 1], weights=tuple(weights), starts=[0] * len(layers),
        bidirectional=True, replay_gap=0.001, identity=INFO.identity, **{**Attention.places_of(TRACE), **more},
    )  # fmt: skip


def test_the_trace_is_as_the_tests_say():
    kinds = [(s.kind, s.start, s.stop) for s in TRACE.prompt.segments]
    assert ("image", 5, 20) in kinds
    assert ("image", 22, 26) in kinds
    assert ("audio", 28, 61) in kinds
    assert ("text", 62, 68) in kinds
    assert (len(TRACE.prompt), len(TRACE.tokens)) == (T, N)


def test_patch_frame_and_word_are_where_they_are():
    a = attention(lambda *_: {5 + 2 * 5 + 3: 0.5, 22 + 2: 0.125, 28 + 7: 0.25, 64: 0.125})
    on = a.map("image", 0, token=2)
    assert on.values.shape == (3, 5)
    assert np.argwhere(on.values).tolist() == [[2, 3]]
    assert on.boxes[on.peak()].tolist() == [36, 24, 48, 36]
    assert on.positions[on.peak()] == 18
    other = a.map("image", 1, token=2)
    assert np.argwhere(other.values).tolist() == [[2, 0]]
    assert other.boxes[other.peak()].tolist() == [0, 25, 20, 37.5]
    heard = a.map("audio", 0, token=2)
    assert (heard.start_ms[heard.peak()], heard.end_ms[heard.peak()]) == (280, 320)
    assert a.on_audio(0, token=2).shape == (33,)
    words = a.on_text(token=2)
    assert np.flatnonzero(words).tolist() == [64]
    assert TRACE.prompt.pieces[64] == " at"
    for made in (a.on_image(0, 2), a.on_audio(0, 2), words):
        assert made.dtype == np.float32
    assert a.row(2).sum() == pytest.approx(1)


def test_layers_that_cannot_see_a_place_do_not_dilute_it():
    """The sliding layer sees 24 positions: none of the picture from the answer, part of the sound, all of the words."""
    a = attention(lambda layer, *_: {18: 0.5, 35: 0.25, 64: 0.25} if layer == 1 else {64: 1.0})
    assert a.map("image", 0, token=0).layers == (1,)
    assert a.on_image(0, token=0).max() == 0.5
    assert a.on_image(0, token=0, layer=[0, 1]).max() == 0.25
    assert a.on_image(0, token=0, layer=0).max() == 0
    assert a.map("audio", 0, token=0).layers == (1,), "a layer that sees some of it only would bend the map"
    assert a.on_audio(0, token=0)[7] == 0.25
    assert a.on_text(token=0)[64] == pytest.approx((0.25 + 1) / 2)
    # the whole words of the picture's neighbourhood are seen by both
    assert a.map("text", token=0).layers == (0, 1)
    near = attention(lambda *_: {6: 1.0}, positions=[21])
    assert near.map("image", 0, position=21).layers == (0, 1)
    only_sliding = a.only(layers=0)
    blind = only_sliding.map("image", 0, token=0)
    assert blind.layers == ()
    assert blind.values.max() == 0


def test_masks_as_the_rule_says():
    a = attention(lambda *_: {0: 1.0})
    assert np.flatnonzero(a.admits(0, 72)).tolist() == list(range(49, 73))
    assert np.flatnonzero(a.admits(1, 72)).tolist() == list(range(73))
    assert np.flatnonzero(a.admits(0, 10)).tolist() == list(range(20)), "a picture's patches see each other"
    assert np.flatnonzero(a.admits(1, 10)).tolist() == list(range(11)), "but not on full layers"
    assert np.flatnonzero(a.admits(0, 30)).tolist() == list(range(7, 31)), "sound looks back only"
    narrow = attention(lambda *_: {0: 1.0}, layers=(Layer(0, "sliding", 4), Layer(1, "full")))
    assert np.flatnonzero(narrow.admits(0, 10)).tolist() == list(range(7, 20)), "ahead, to the end of the picture"
    causal = replace(a, bidirectional=False)
    assert np.flatnonzero(causal.admits(0, 10)).tolist() == list(range(11))


@pytest.mark.parametrize(
    "ask",
    [
        lambda a: a.admits(0, "x"), lambda a: a.admits(0, K), lambda a: a.admits(0, -5), lambda a: a.sinks("x"),
        lambda a: a.points_at(0, "abcd"),
        lambda a: Recorded(keep(TRACE, a)).attend(TRACE, tokens=[1], positions=[T]),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_is_refused_in_words(ask):
    with pytest.raises(TraceError, match=r"expected|counted from 0|give one of them|needs"):
        ask(attention(lambda *_: {0: 1.0}))


def test_tokens_heads_and_layers_together():
    a = attention(lambda layer, head, query: {18: (1 + layer + 2 * head) / 8, 0: query / 16})
    assert a.on_image(0, 1, layer=1, head=1).max() == 0.5
    assert a.on_image(0, 1, layer=1).max() == pytest.approx((0.25 + 0.5) / 2)
    assert a.on_image(0, 1, layer=[0, 1], reduce="max").max() == 0.5
    assert a.row([1, 3])[0] == pytest.approx(2 / 16)
    assert a.row(-1)[0] == pytest.approx(6 / 16)
    assert a.row()[0] == pytest.approx(3 / 16)
    assert a.row(position=T - 1 + 4)[0] == pytest.approx(4 / 16)
    part = a.only(positions=[T + 1], layers=[1], heads=[1])
    assert part.tokens.tolist() == [2]
    assert part.on_image(0, 2).max() == 0.5
    with pytest.raises(TraceError, match="token=3: this reading holds token 2"):
        part.on_image(0, 3)


def test_sinks_are_found_shown_and_taken_away():
    a = attention(lambda layer, head, _: {0: 0.5, 5: 0.125, 18: 0.25, 64: 0.125})
    sinks = a.sinks()
    assert [(s.position, s.mass, s.why) for s in sinks] == [(0, 0.5, "first token"), (5, 0.125, "first patch")]
    assert sinks[0].piece == "<bos>"
    assert a.on_image(0, 1).tolist()[0][0] == 0.125
    without = a.on_image(0, 1, sinks=False)
    assert without[0, 0] == 0
    assert without[2, 3] == pytest.approx(0.25 / 0.375)
    assert a.row(1, sinks=False).sum() == pytest.approx(1)
    assert a.sinks(least=0.2) == sinks[:1]
    assert [s.why for s in attention(lambda *_: {70: 1.0}).sinks()] == ["delimiter"]
    assert attention(lambda *_: {64: 1.0}).sinks() == [], "a word that is read is no sink"


def test_which_head_reads_the_picture():
    a = attention(lambda layer, head, _: {5 + layer: 0.75, 64: 0.25} if head else {0: 0.5, 30: 0.5})
    shares = a.shares(token=3)
    assert shares.shape == (2, 2, len(a.segments))
    np.testing.assert_allclose(shares.sum(-1), 1)
    kinds = [s.kind for s in a.segments]
    assert shares[1, 1, kinds.index("image")] == 0.75
    assert shares[1, 0, kinds.index("audio")] == 0.5
    assert shares[0, 0, 0] == 0.5


def test_entropy_and_distance():
    a = attention(lambda layer, head, query: {0: 1.0} if head else {60: 0.5, 64: 0.5})
    np.testing.assert_allclose(a.entropy(2), [[np.log(2), 0], [np.log(2), 0]], atol=1e-6)
    np.testing.assert_allclose(a.distance(2)[0], [T + 1 - 62, T + 1])
    np.testing.assert_allclose(a.distance(2), a.distance(position=T + 1))


def test_the_pointing_game():
    """Head 0 looks at the patch of row 2, column 3: pixels 36 to 48 across, 24 to 36 down; head 1 at nothing there."""
    a = attention(lambda layer, head, _: {64: 1.0} if head else {18: 0.5, 5: 0.25, 6: 0.25})
    assert a.points_at(0, (30, 20, 50, 40), token=0).tolist() == [[True, False], [True, False]]
    assert a.points_at(0, (41, 29, 44, 32), token=0)[0, 0], "an object smaller than a patch"
    assert not a.points_at(0, (0, 0, 12, 12), token=0).any()
    # two words, one of them nearly all at the first patch, a sink: without it, each word counts as much, as in a map
    two = attention(
        lambda _l, _h, q: {5: 0.98, 5 + 8: 0.02} if q == 0 else {5 + 8: 0.4, 5 + 7: 0.6}, positions=[T - 1, T]
    )
    values = two.on_image(0, [0, 1], sinks=False)
    assert values[1, 3] == pytest.approx(0.7, abs=1e-3)
    row, col = np.unravel_index(values.argmax(), values.shape)
    box = two.map("image", 0, token=0).boxes[row * 5 + col]
    assert two.points_at(0, tuple(box), token=[0, 1], sinks=False).all()
    with pytest.raises(TraceError, match="left, top, right, bottom"):
        a.points_at(0, (10, 10, 5, 20))


def test_kept_readings_answer_for_the_model():
    a = attention(lambda *_: {18: 1.0}, rollout=np.eye(K)[T - 1 : K - 1].astype(np.float16))
    kept = keep(TRACE, a)
    recorded = Recorded(kept)
    assert isinstance(recorded, Inspector)
    assert can(recorded, "attend", kept) == ""
    assert "holds no lens" in can(recorded, "lens", kept)
    assert "cannot answer branch" in can(recorded, "branch", kept)
    again = recorded.attend(TRACE, tokens=[1, -1], heads=1, rollout=True)
    assert again.tokens.tolist() == [1, 6]
    assert again.row(1, layer="rollout").argmax() == T
    assert again.replay_gap == 0.001
    assert np.array_equal(again.on_image(0, 1), a.on_image(0, 1, head=1))
    with pytest.raises(TraceError, match="layers=7"):
        recorded.attend(TRACE, layers=7)
    with pytest.raises(Incompatible, match="is not the trace"):
        recorded.attend(make_trace(tokens=5))
    other = replace(INFO, weights_hash="00" * 32)
    with pytest.raises(Incompatible):
        keep(replace(TRACE, model=other), a)
    with pytest.raises(Incompatible, match="another model"):
        Recorded(replace(kept, model=other)).attend(replace(TRACE, model=other))
    with pytest.raises(TraceError, match="no attention of the drafter"):
        recorded.attend(TRACE, of="drafter")
    with pytest.raises(TraceError, match="holds no attention"):
        Recorded(TRACE).attend(TRACE)


def test_a_kept_lens_gives_parts_of_itself():
    shape = (2, N)
    lens = Lens(
        positions=np.arange(T - 1, K - 1), layers=[-1, 0], final_ids=np.arange(N), rank=np.zeros(shape),
        top_ids=np.arange(2 * N * 3).reshape(2, N, 3), top_logprob=-np.ones((2, N, 3)), logprob=np.zeros(shape),
        kl=np.zeros(shape), pieces={i: f"w{i}" for i in range(2 * N * 3)}, over="answer", media=0,
        segments=(*TRACE.prompt.segments, *TRACE.segments), prompt_tokens=T, identity=INFO.identity,
    )  # fmt: skip
    recorded = Recorded(keep(TRACE, lens))
    part = recorded.lens(TRACE, tokens=-2, top=2)
    assert part.positions.tolist() == [T + 4]
    assert part.top_ids.tolist() == [[[15, 16]], [[36, 37]]]
    assert part.words(token=5) == [[("w15", -1), ("w16", -1)], [("w36", -1), ("w37", -1)]]
    with pytest.raises(TraceError, match="holds 3 words a place"):
        recorded.lens(TRACE, top=4)
    with pytest.raises(TraceError, match="token=9"):
        recorded.lens(TRACE, tokens=9)
    with pytest.raises(TraceError, match="no lens over image 0"):
        recorded.lens(TRACE, "image")


@pytest.mark.parametrize("name", ["positions", "layer_1", "starts"])
def test_a_broken_reading_is_refused(name):
    reading = attention(lambda *_: {18: 1.0}).to_reading()
    arrays = dict(reading["arrays"])
    for broken in (None, np.full((3, 2), 999)):
        if broken is None:
            del arrays[name]
        else:
            arrays[name] = broken
        kept = replace(TRACE, readings={"attention.model": {"meta": reading["meta"], "arrays": arrays}})
        with pytest.raises(TraceError):
            Recorded(kept).attend(kept)


def test_what_is_wrong_is_said():
    a = attention(lambda *_: {18: 1.0})
    for call, words in (
        (lambda: a.on_image(2, 0), "no image 2; it has audio 0, image 0, image 1"),
        (lambda: a.on_video(0, 0), "no video 0"), (lambda: a.on_image(0, 7), "7 tokens, counted from 0"),
        (lambda: a.on_image(0, 0, layer=2), "layer=2: this reading holds layer 0, 1"),
        (lambda: a.on_image(0, 0, head="x"), "expected a number"), (lambda: a.on_image(True, 0), "no image True"),
        (lambda: a.on_image(0, 0, layer="rollout"), "rollout=True"), (lambda: a.map("image", 0, reduce="sum"), "mean"),
        (lambda: a.map("image", 0, token=1, position=2), "give one of them"),
    ):  # fmt: skip
        with pytest.raises(TraceError, match=words):
            call()
    with pytest.raises(ValueError, match="read-only"):
        a.weights[0][0] = 1


def test_rank_correlation_by_hand():
    assert rank_correlation(np.array([1, 2, 3, 9]), np.array([10, 20, 30, 31])) == pytest.approx(1)
    assert rank_correlation(np.array([1, 2, 3]), np.array([3, 2, 1])) == pytest.approx(-1)
    # ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: 4.5 / sqrt(4.5 * 5)
    assert rank_correlation(np.array([1, 5, 5, 7]), np.array([1, 2, 3, 4])) == pytest.approx(4.5 / np.sqrt(22.5))
    assert rank_correlation(np.array([1, np.nan, 2]), np.array([1, 5, 3])) == pytest.approx(1)
    assert np.isnan(rank_correlation(np.zeros(3), np.arange(3)))
    with pytest.raises(TraceError, match="shapes"):
        rank_correlation(np.zeros(3), np.zeros((1, 3)))
    with pytest.raises(TraceError, match="nothing was measured"):
        Map("text", None, np.full(2, np.nan), np.arange(2), "nats").peak()


def test_an_answer_about_another_run_is_refused():
    """Of another word, or of another picture or sound of the same size."""
    words = replace(TRACE, tokens=replace(TRACE.tokens, token_id=TRACE.tokens.token_id + 1))
    picture = replace(TRACE, images=TRACE.images[::-1])
    sound = replace(TRACE, audio=make_trace(audio=(1.31,)).audio)
    assert (TRACE.ids == picture.ids).all()
    a = attention(lambda *_: {18: 1.0})
    mine = a.run
    about = (a, replace(make_lens(TRACE), run=mine), replace(make_occlusion(TRACE, 1, "image", 0), run=mine))
    kept = keep(TRACE, *about)
    assert {r["meta"]["run"] for r in kept.readings.values()} == {mine}
    for other in (words, picture, sound):
        for answer in about:
            with pytest.raises(TraceError, match="is of another run than"):
                keep(other, answer)
        with pytest.raises(TraceError, match="is of another run than"):
            Recorded(replace(other, readings=kept.readings)).attend(other)
        with pytest.raises(Incompatible, match="is not the trace"):
            Recorded(kept).attend(other)
    old = {name: {**r, "meta": {k: v for k, v in r["meta"].items() if k != "run"}} for name, r in kept.readings.items()}
    recorded = Recorded(replace(TRACE, readings=old))
    assert recorded.attend(TRACE).run == mine, "a file of before has none, and is believed"
    assert (recorded.lens(TRACE, "image").run, recorded.occlude(TRACE, 1).run) == (mine, mine)


def test_attentions_of_other_words_or_layers_stand_beside_each_other():
    a = attention(lambda layer, head, query: {18: (1 + layer) / 4, 0: query / 16})
    parts = [a.only(positions=[T - 1]), a.only(positions=[T, T + 1], layers=1), a.only(positions=[T], heads=1)]
    kept = keep(TRACE, *parts)
    assert sorted(kept.readings) == ["attention.model", "attention.model.2", "attention.model.3"]
    again = replace(parts[1], replay_gap=0.5)
    assert keep(kept, again).readings.keys() == kept.readings.keys(), "the same question again"
    recorded = Recorded(keep(kept, again))
    assert recorded.attend(kept, tokens=0).row(0)[0] == 0
    assert recorded.attend(kept, tokens=2).replay_gap == 0.5
    assert recorded.attend(kept, tokens=1, layers=0).heads.tolist() == [1]
    assert recorded.attend(kept, tokens=1, layers=1).heads.tolist() == [0, 1]
    assert len(recorded.attend(kept).positions) == 1, "the one of most numbers"
    with pytest.raises(TraceError, match="token=6: this reading holds"):
        recorded.attend(kept, tokens=6)
    first = keep(TRACE, parts[0])  # as a file of before has it
    assert list(keep(first, replace(parts[0], replay_gap=0.25)).readings) == ["attention.model"]


def test_what_was_kept_is_asked_for_as_the_model_is():
    """In any order, and from the end."""
    recorded = Recorded(
        keep(TRACE, make_attention(TRACE), replace(make_occlusion(TRACE, 1, "image", 0), tokens=[1, 5]))
    )
    assert (
        recorded.occlude(TRACE, [5, 1]).tokens.tolist() == recorded.occlude(TRACE, [-2, 1, 1]).tokens.tolist() == [1, 5]
    )
    part = recorded.attend(TRACE, layers=[-1, 0, 0], heads=[1, 0], tokens=[-1, 2])
    assert [one.index for one in part.layers] == [0, 2]
    assert (part.heads.tolist(), part.tokens.tolist()) == ([0, 1], [2, 6])
    with pytest.raises(TraceError, match="layers=-4"):
        recorded.attend(TRACE, layers=-4)


def test_numbers_from_the_end_are_those_of_the_model_where_it_is_known_how_many_it_has():
    part = attention(lambda *_: {18: 1.0}, of_heads=6, of_layers=len(LAYERS) + 4)
    last = part.layers[-1].index - len(LAYERS) - 4
    assert [one.index for one in part.only(layers=last, heads=-6).layers] == [part.layers[-1].index]
    assert part.map("image", 0, token=0, layer=last, head=-6).layers == (part.layers[-1].index,)
    with pytest.raises(TraceError, match="head=5: this reading holds head 0, 1"):
        part.map("image", 0, token=0, head=-1)


def test_a_window_that_is_no_number_is_a_broken_reading():
    broken = attention(lambda *_: {18: 1.0}).to_reading()
    broken["meta"] = {**broken["meta"], "layers": [[i, kind, "abc"] for i, kind, _ in broken["meta"]["layers"]]}
    with pytest.raises(TraceError, match="A reading of attention in this trace is broken"):
        Attention.from_reading(broken, TRACE)


def test_a_caption_says_what_is_held():
    whole = attention(lambda *_: {18: 1.0}, of_heads=2, of_layers=len(LAYERS))
    part = attention(lambda *_: {18: 1.0}, of_heads=6, of_layers=len(LAYERS) + 4)
    assert whole.map("image", 0, token=0).about.endswith("layers that see it, mean of all heads")
    about = part.map("image", 0, token=0, reduce="max")
    assert about.about.endswith(f"layers that see it (of {', '.join(str(x.index) for x in LAYERS)}), max of heads 0, 1")
    assert "largest" in about.unit
    again = Attention.from_reading(part.to_reading(), TRACE)
    assert (again.of_heads, again.lacks_heads, again.lacks_layers) == (6, True, True)
    old = part.to_reading()
    old["meta"] = {k: v for k, v in old["meta"].items() if not k.startswith("of_")}
    assert not Attention.from_reading(old, TRACE).lacks_heads, "a file that does not say is believed"


def test_rollout_takes_no_head_and_no_most():
    a = attention(lambda *_: {18: 1.0}, rollout=np.eye(K)[T - 1 : K - 1].astype(np.float16))
    for ask in (lambda: a.on_image(0, 0, layer="rollout", head=1), lambda: a.row(0, layer="rollout", head=1)):
        with pytest.raises(TraceError, match="head=1 with layer='rollout'"):
            ask()
    with pytest.raises(TraceError, match="reduce='max' with layer='rollout'"):
        a.on_image(0, 0, layer="rollout", reduce="max")
    assert a.map("image", 0, token=0, layer="rollout").about.endswith("rollout, mean of all heads")


def test_occlusions_of_many_tokens_are_kept_apart():
    long = make_trace(tokens=60)
    one, other = (replace(make_occlusion(long, 1, "image", 0), tokens=list(range(n))) for n in (39, 40))
    kept = keep(long, one, other)
    assert len(kept.readings) == 2
    assert max(map(len, kept.readings)) <= 80
    assert list(Recorded(kept).occlude(kept, range(39)).tokens) == list(range(39))
    assert list(Recorded(kept).occlude(kept, np.arange(40)).tokens) == list(range(40))
    single = keep(TRACE, make_occlusion(TRACE, 1, "image", 0))
    assert list(Recorded(single).occlude(single, np.int64(1)).tokens) == [1]
    with pytest.raises(TraceError, match="expected a number"):
        Recorded(single).occlude(single, 1.0)
