"""Plotly figures: the numbers in them, and that words stay words."""

from dataclasses import replace

import numpy as np
import pytest

from tests.attentions import hot, make_attention, make_occlusion
from tests.traces import make_trace
from widgets import charts
from workbench.diff import compare
from workbench.errors import TraceError
from workbench.maps import FAINT, limits

EVIL = '<a href="javascript:alert(1)">x</a>'


def test_words_have_one_bar_each():
    trace = make_trace(tokens=3, probability=np.array([0.6, 0.5, 0.9]), words=[EVIL, " red"])
    (bars,) = charts.words(trace).data
    assert list(bars.y) == pytest.approx([0.6, 0.5, 0.9], rel=1e-5)
    assert "<a" not in bars.customdata[0]
    assert charts.words(trace).layout.xaxis.ticktext[0].startswith("&lt;a")
    assert list(charts.words(trace, "rank").data[0].y) == [0, 0, 0]
    assert charts.words(trace, "entropy").layout.yaxis.title.text == "entropy (nats)"
    with pytest.raises(TraceError, match="expected probability"):
        charts.words(trace, "size")
    for draw in (charts.words, charts.acceptance, charts.rounds, charts.kl, lambda x: charts.alternatives(x, 0)):
        with pytest.raises(TraceError, match=r"This chart is of a Trace(Diff)?; int 5 is none"):
            draw(5)
    with pytest.raises(TraceError, match="of a Map; str 'map' is none"):
        charts.heat(trace, "map")
    with pytest.raises(TraceError, match="no generated tokens"):
        charts.words(make_trace(tokens=0, finish="stopped"))


def test_alternatives_are_sorted_with_the_likeliest_on_top():
    (bars,) = charts.alternatives(make_trace(tokens=3, probability=np.full(3, 0.6)), 1).data
    assert list(bars.x) == pytest.approx([0.08] * 4 + [0.6], rel=1e-4)
    assert bars.marker.pattern.shape == ("", "", "", "", "/")
    with pytest.raises(TraceError, match="token=9"):
        charts.alternatives(make_trace(tokens=3), 9)


def test_drafts():
    trace = make_trace(rounds=4)  # keep 0, 1, 2 of 3 drafts, and 1 of 1
    (bars,) = charts.acceptance(trace).data
    assert list(bars.y) == [3 / 4, 1 / 2, 0]
    assert bars.text == ("75% of 4", "50% of 2", "0% of 1")
    kept, thrown, rest = charts.rounds(trace).data
    assert (kept.y, thrown.y, rest.y) == ((0, 1, 2, 1), (1, 1, 1, 0), (2, 1, 0, 0))
    with pytest.raises(TraceError, match="Nothing was drafted"):
        charts.rounds(make_trace())


def test_heat_lies_on_the_pixels_of_the_picture():
    trace = make_trace(tokens=6)
    made = make_attention(trace).map("image", 0, token=2, head=1)
    figure = charts.heat(trace, made)
    (heat,) = figure.data
    z = np.array(heat.z)
    assert z.shape == (3, 5)
    row, col = divmod(hot(trace, 2, 1), 5)
    assert np.unravel_index(z.argmax(), z.shape) == (row, col)
    # 60×36 pixels, patches of 12: the middle of the first one
    assert (heat.x0, heat.dx, heat.y0, heat.dy) == (6, 12, 6, 12)
    assert figure.layout.yaxis.range == (36, 0)
    sound = charts.heat(trace, make_attention(trace).map("audio", 0, token=2)).data[0]
    assert sound.x[2] == 100
    assert np.argmax(sound.y) == 2
    with pytest.raises(TraceError, match="image or a sound"):
        charts.heat(trace, make_attention(trace).map("text", token=2))
    with pytest.raises(TraceError, match="image or a sound"):
        charts.heat(replace(trace, images=()), made)


def test_kl_of_two_traces():
    a, b = make_trace(tokens=3, seed=1), make_trace(tokens=3, seed=2)
    figure = charts.kl(compare(a, b))
    assert list(figure.data[0].y) == pytest.approx(compare(a, b).kl.tolist())
    assert "at least" in figure.layout.yaxis.title.text
    for n, ticks in ((60, 60), (61, None)):  # longer ones have no word on each place
        many = make_trace(tokens=n)
        axis = charts.kl(compare(many, many)).layout.xaxis
        assert (axis.title.text, axis.tickvals and len(axis.tickvals)) == ("token", ticks)


def test_words_are_shown_as_they_are_and_disguise_nothing():
    """plotly decodes a handful of entities only: ``&quot;`` would stay as it is."""
    made = charts.words(make_trace(tokens=4, words=['"', "<b>&", "a\tb\n", "\u202ex"]))
    shown = list(made.layout.xaxis.ticktext)
    assert shown[:3] == ['"', "&lt;b&gt;&amp;", "a⇥b↵"]


def test_one_map_has_one_scale():
    trace = make_trace(tokens=3)
    for lowest, highest, most in ((0.02, 0.0204, 0.0204), (-1.0, 0.2, 0.2), (0.0, 0.004, FAINT), (0.0, 0.0, FAINT)):
        made = make_occlusion(trace, 1, "image", 0).map
        values = np.full_like(made.values, lowest)
        values.flat[2] = highest
        made = replace(made, values=values, unit="drop of logprob, nats")
        assert limits(made) == pytest.approx((0.0, most))
        drawn = charts.heat(trace, made).data[0]
        assert (drawn.zmin, drawn.zmax) == pytest.approx((0.0, most))
    shares = replace(made, values=np.full_like(made.values, 0.004), unit="share of attention, 0 to 1")
    assert limits(shares) == pytest.approx((0.0, 0.004))
