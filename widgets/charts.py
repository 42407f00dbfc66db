"""Plotly figures of a trace, for notebooks and Gradio: what the views draw, as figures to restyle, zoom and keep.

    charts.words(trace).show()
    charts.heat(trace, model.attend(trace).map("image", 0, token=3))

Each function gives a ``plotly.graph_objects.Figure``. (The views draw their charts themselves: a live plotly figure
costs a page 4.8 MB.) Text from models and files is escaped, since plotly reads some HTML in labels.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from workbench import flight
from workbench.diff import TraceDiff
from workbench.display import UNSAFE
from workbench.errors import TraceError
from workbench.maps import limits
from workbench.readings import Attribution, Map
from workbench.thumbnails import VIRIDIS, thumbnail
from workbench.trace import Trace

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = ["acceptance", "alternatives", "attribution", "heat", "kl", "rounds", "words"]

BLUE, ORANGE, GREEN, RED, GREY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#8a8a8a"
"""Okabe and Ito's colours for kinds."""

_SCALE = [[k / 9, f"rgb{rgb}"] for k, rgb in enumerate(VIRIDIS)]


def words(trace: Trace, measure: Literal["probability", "entropy", "rank"] = "probability") -> go.Figure:
    """One bar a generated token: its probability (0 to 1), entropy (nats) or rank; what it nearly said under the mouse.

    Raises:
        TraceError: There are no tokens, or no such measure.
    """
    _is(trace, Trace)
    t = trace.tokens
    if not len(t):
        raise TraceError("This trace has no generated tokens to draw.")
    values = {"probability": np.exp(t.logprob), "entropy": t.entropy, "rank": t.rank}.get(measure)
    if values is None:
        raise TraceError(f"measure={measure!r}: expected probability, entropy or rank.")
    hover = [
        "<br>".join(f"{text(piece)} {math.exp(lp):.1%}" for piece, lp in t.alternatives(k)[:6]) for k in range(len(t))
    ]
    return _figure(
        [{"type": "bar", "x": [*range(len(t))], "y": values.tolist(), "customdata": hover,
          "marker": {"color": BLUE}, "hovertemplate": "%{customdata}<extra>%{y:.3g}</extra>"}],
        xaxis={"tickvals": [*range(len(t))], "ticktext": [text(p) for p in t.piece], "title": "token"}
        if len(t) <= 60 else {"title": "token"},
        yaxis={"title": measure + (" (nats)" if measure == "entropy" else ""),
               **({"range": [0, 1]} if measure == "probability" else {})},
    )  # fmt: skip


def alternatives(trace: Trace, token: int, most: int = 10) -> go.Figure:
    """The likeliest tokens in the place of one, as bars of probability; the one that was said is striped.

    Raises:
        TraceError: There is no such token.
    """
    _is(trace, Trace)
    k = trace.index(token)
    rows = list(zip(trace.tokens.top_ids[k].tolist(), trace.tokens.alternatives(k), strict=True))[:most][::-1]
    said = int(trace.tokens.token_id[k])
    return _figure(
        [{"type": "bar", "orientation": "h", "x": [math.exp(lp) for _, (_, lp) in rows], "y": [*range(len(rows))],
          "marker": {"color": BLUE, "pattern": {"shape": ["/" if i == said else "" for i, _ in rows]}},
          "hovertemplate": "%{x:.4f}<extra></extra>"}],
        xaxis={"title": "probability", "range": [0, 1]},
        yaxis={"tickvals": [*range(len(rows))], "ticktext": [text(piece) for _, (piece, _) in rows]},
    )  # fmt: skip


def attribution(made: Attribution, token: int) -> go.Figure:
    """What every head and every feed-forward part added to a word's logit, layer by layer.

        charts.attribution(model.attribute(trace, token=1, against=" blue"), 1)

    Raises:
        TraceError: The token is not in it.
    """
    _is(made, Attribution)
    p = made.index(token)
    layers, heads, _ = made.heads.shape
    cells = np.concatenate([made.heads[..., p], made.mlp[:, p, None]], axis=1)
    logit, embedding = float(made.logit[p]), float(made.embedding[p])
    name = text(made.pieces[int(made.token_ids[p])])
    other = "the average word" if made.against is None else text(made.pieces[made.against])
    return _figure(
        [{"type": "heatmap", "z": cells.tolist(), "x": [*map(str, range(heads)), "feed-forward"], "y": [*range(layers)],
          "colorscale": "RdBu_r", "zmid": 0, "colorbar": {"title": {"text": "logits"}},
          "hovertemplate": "layer %{y}, %{x}: %{z:.3f}<extra></extra>"}],
        xaxis={"title": "head", "type": "category", "showgrid": False},
        yaxis={"title": "layer", "dtick": max(1, layers // 12), "showgrid": False},
        title={"text": f"{name} rather than {other}: {logit:.2f} logits, {embedding:.2f} by the embedding"},
    )  # fmt: skip


def acceptance(trace: Trace) -> go.Figure:
    """Share of drafts kept by their place in the round, of those judged.

    Raises:
        TraceError: Nothing was drafted.
    """
    _drafted(trace)
    share = flight.acceptance_by_position(trace.rounds)
    judged = flight.judged(trace.rounds).sum(0)
    there = np.flatnonzero(judged)
    return _figure(
        [{"type": "bar", "x": (there + 1).tolist(), "y": share[there].tolist(), "marker": {"color": BLUE},
          "text": [f"{share[i]:.0%} of {judged[i]}" for i in there], "hoverinfo": "skip"}],
        xaxis={"title": "place in the round", "dtick": 1}, yaxis={"title": "share kept", "range": [0, 1]},
    )  # fmt: skip


def rounds(trace: Trace) -> go.Figure:
    """One column a round: drafts kept, thrown away, and never judged.

    Raises:
        TraceError: Nothing was drafted.
    """
    _drafted(trace)
    r = trace.rounds
    judged = flight.judged(r).sum(1)
    thrown = np.minimum(1, np.maximum(0, judged - r.accepted))
    parts = [("kept", r.accepted, BLUE, ""), ("thrown away", thrown, RED, "x"),
             ("never judged", r.proposed - r.accepted - thrown, GREY, ".")]  # fmt: skip
    return _figure(
        [{"type": "bar", "name": name, "x": [*range(len(r))], "y": values.tolist(),
          "marker": {"color": colour, "pattern": {"shape": shape}}} for name, values, colour, shape in parts],
        barmode="stack", xaxis={"title": "round"}, yaxis={"title": "drafts", "dtick": 1},
    )  # fmt: skip


def heat(trace: Trace, made: Map) -> go.Figure:
    """A map on its picture, in the picture's own pixels, or over its sound in milliseconds.

    Raises:
        TraceError: A map of words or of video, or of a picture that the trace does not have.
    """
    _is(trace, Trace)
    _is(made, Map)
    if made.kind == "image" and made.media is not None and made.media < len(trace.images):
        image = trace.images[made.media]
        rows, cols = made.values.shape
        url, _, _ = thumbnail(image, 800)
        width, height = image.width / cols, image.height / rows
        low, high = limits(made)
        return _figure(
            [{"type": "heatmap", "z": made.values.tolist(), "x0": width / 2, "dx": width, "y0": height / 2,
              "dy": height, "colorscale": _SCALE, "opacity": 0.6, "zmin": low, "zmax": high,
              "colorbar": {"title": {"text": _plain(made.unit)}},
              "hovertemplate": "%{z:.4f}<extra></extra>"}],
            images=[{"source": url, "xref": "x", "yref": "y", "x": 0, "y": 0, "sizex": image.width,
                     "sizey": image.height, "sizing": "stretch", "layer": "below"}],
            xaxis={"range": [0, image.width], "constrain": "domain", "showgrid": False},
            yaxis={"range": [image.height, 0], "scaleanchor": "x", "showgrid": False},
            title={"text": _plain(made.about)},
        )  # fmt: skip
    if made.kind == "audio" and made.start_ms is not None and made.end_ms is not None:
        return _figure(
            [{"type": "bar", "x": ((made.start_ms + made.end_ms) / 2).tolist(), "y": made.values.tolist(),
              "width": (made.end_ms - made.start_ms).tolist(), "marker": {"color": BLUE}}],
            xaxis={"title": "ms"}, yaxis={"title": _plain(made.unit)}, title={"text": _plain(made.about)},
        )  # fmt: skip
    raise TraceError(
        f"A map over {made.kind} {made.media} of this trace cannot be drawn: expected an image or a sound."
    )


def kl(diff: TraceDiff) -> go.Figure:
    """KL of each place of two traces, in nats; places with another first choice are striped.

    Raises:
        TraceError: It is not what ``workbench.compare`` gave.
    """
    _is(diff, TraceDiff)
    return _figure(
        [{"type": "bar", "x": [*range(len(diff))], "y": diff.kl.tolist(),
          "marker": {"color": BLUE, "pattern": {"shape": ["" if same else "/" for same in diff.agree]}}}],
        xaxis={"tickvals": [*range(len(diff))], "ticktext": [text(p) for p in diff.a.tokens.piece[: len(diff)]],
               "title": "token"} if len(diff) <= 60 else {"title": "token"},
        yaxis={"title": "KL (nats)" if diff.exact else "KL, at least (nats)"},
    )  # fmt: skip


def text(words_: str) -> str:
    """Text for a label, its spaces and line breaks made visible."""
    return _plain(str(words_).replace("\n", "↵").replace("\t", "⇥").replace(" ", "␣")) or "∅"


def _plain(words_: str) -> str:
    """Text that plotly shows as it is: it reads some HTML in labels, and of its entities few."""
    return html.escape(UNSAFE.sub("�", words_), quote=False)


def _is(given: Any, kind: type) -> None:
    """Refuse what is none, by name: an ``AttributeError`` within would not say what was wrong."""
    if not isinstance(given, kind):
        raise TraceError(f"This chart is of a {kind.__name__}; {type(given).__name__} {given!r:.60} is none.")


def _drafted(trace: Trace) -> None:
    _is(trace, Trace)
    if not len(trace.rounds):
        raise TraceError("Nothing was drafted in this run: ask with draft=4, say.")


def _figure(traces: Sequence[dict[str, Any]], **layout: Any) -> go.Figure:
    """A figure that lies well on light and dark."""
    import plotly.graph_objects as go

    base = {
        "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)", "font": {"color": "#7a7a7a"},
        "margin": {"l": 60, "r": 20, "t": 40 if "title" in layout else 16, "b": 50}, "height": 340,
    }  # fmt: skip
    grid = {"gridcolor": "rgba(127,127,127,.25)", "zerolinecolor": "rgba(127,127,127,.5)"}
    axes = {axis: {**grid, **layout.pop(axis, {})} for axis in ("xaxis", "yaxis")}
    return go.Figure([*traces], {**base, **layout, **axes})
