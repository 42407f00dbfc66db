"""The static HTML behind a trace's notebook display: no script, nothing from elsewhere, light and dark.

Media as thumbnails, the question, and the answer: each word on the colour of its probability, underlined the thicker
the less sure it was; on hover and focus what else it nearly said. What came from drafts has a line above it. All that
a model, a file or a person wrote is escaped; control and direction characters are made visible.
"""

from __future__ import annotations

import functools
import hashlib
import html
import importlib.resources
import math
import re
import unicodedata
from collections.abc import Iterator
from typing import Any

import numpy as np

from workbench.columns import SOURCES, Segment
from workbench.thumbnails import VIRIDIS, thumbnail, waveform
from workbench.trace import Trace

__all__ = ["FINISH", "UNSAFE", "to_html", "tokens_a_second"]

DETAILED = 600  # tokens with alternatives; a page of 5,000 stays below 2 MB
ALTERNATIVES = 8
SHOWN_TOKENS = 20_000
SHOWN_CHARACTERS = 400  # of one token
THUMBNAILS = 12
SEGMENTS = 300
CHARACTERS = 20_000

UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

_WIDTHLESS = re.compile("[\u00ad\u200b-\u200d\u2060-\u2064\ufeff\U000e0000-\U000e007f]")


def to_html(trace: Trace) -> str:
    """A trace as a fragment of HTML that needs no script and no network.

    Args:
        trace: What to show.

    Returns:
        One ``<div>`` with its own styles, at most about 2 MB where tokens are words; of longer ones the first
        ``SHOWN_CHARACTERS`` are shown.
    """
    key = hashlib.sha256(trace.ids.tobytes() + trace.created.encode("utf-8", "replace")).hexdigest()[:8]
    parts = [
        '<div class="wbt tex2jax_ignore mathjax_ignore" role="group" aria-label="A trace: question, answer, numbers">',
        f"<style>{_style()}</style>",
        _media(trace), _question(trace), _answer(trace, key), _legend(trace), _prompt(trace), _summary(trace), "</div>",
    ]  # fmt: skip
    return "".join(parts)


@functools.cache
def _style() -> str:
    """The style sheet, and the ten colours of probability: tints, so that text keeps the contrast of the theme."""
    css = importlib.resources.files("workbench").joinpath("display.css").read_text("utf-8")
    for k, (r, g, b) in enumerate(VIRIDIS):
        line = f"border-bottom:{_under(k):g}px solid var(--soft)"  # thickness tells as much as colour, in any theme
        css += f".wbt .p{k}{{background:rgba({r},{g},{b},{_ALPHA});{line}}}\n"
    return css


_ALPHA = 0.4


def _under(k: int) -> float:
    """Pixels of underline for the k-th tenth of probability: none for the surest, 4 for the least sure."""
    return 0 if k == 9 else 1 + (8 - k) * 3 / 8


def _text(text: Any) -> str:
    """Escaped, with control and direction characters, and halves of characters, made visible."""
    return html.escape(UNSAFE.sub(lambda m: f"⟨{ord(m.group()):02X}⟩", str(text)), quote=True)


def _percent(logprob: float) -> str:
    """A probability as people read it: 62.1 %, 0.003 %, 99.98 %."""
    p = 100 * math.exp(min(logprob, 0.0))
    if p == 0 or p >= 99.995:
        return f"{p:.0f} %"
    return f"{p:.2f} %" if p >= 99.9 else f"{p:.1f} %" if p >= 1 else f"{p:.2g} %" if p >= 0.0001 else "<0.0001 %"


# --- above the answer -----------------------------------------------------------------------------------------------


def _media(trace: Trace) -> str:
    figures = []
    grids = {s.media: s for s in trace.prompt.segments if s.kind == "image" and s.rows and s.cols}
    side = 240 if len(trace.images) <= 4 else 120
    for k, image in enumerate(trace.images[:THUMBNAILS]):
        url, width, height = thumbnail(image, side)
        grid, lines, about = grids.get(k), "", f"{image.width}×{image.height} px"
        if grid is not None:
            about += f" · {grid.rows}×{grid.cols} patches"
            lines = f'<i style="background-size:calc(100%/{grid.cols}) calc(100%/{grid.rows})"></i>'
        scale = max(1, min(6, 120 // max(width, height)))  # a picture of a few pixels is shown larger
        small = " small" if scale > 1 else ""
        figures.append(
            f'<figure><span class="pic{small}"><img src="{url}" width="{width * scale}" height="{height * scale}" '
            f'alt="image {k}: {_text(image.name)}">{lines}</span>{_caption(f"image {k}", image, about)}</figure>'
        )
    frames = {s.media: len(s) for s in trace.prompt.segments if s.kind == "audio"}
    for k, sound in enumerate(trace.audio[:THUMBNAILS]):
        about = f"{sound.duration_ms / 1000:.2f} s" + (f" · {frames[k]} frames" if k in frames else "")
        figures.append(f"<figure>{waveform(sound)}{_caption(f'sound {k}', sound, about)}</figure>")
    names = [m.name for m in trace.images[THUMBNAILS:]] + [m.name for m in trace.audio[THUMBNAILS:]]
    hidden = [_text(name) for name in names[:50]]
    more = f'<p class="note">And {len(names)} more: {", ".join(hidden)}</p>' if hidden else ""
    return f'<div class="media">{"".join(figures)}</div>{more}' if figures else ""


def _caption(title: str, media: Any, about: str) -> str:
    notes = "".join(f"<br>{_text(note)}" for note in media.notes[:5])
    return f"<figcaption><b>{title}</b> <bdi>{_text(media.name)}</bdi><br>{about}{notes}</figcaption>"


def _question(trace: Trace) -> str:
    asked = [message for message in trace.prompt.messages if message.get("role") == "user"]
    if not asked:
        return ""
    content = asked[-1].get("content") or ()
    parts: Any = [{"type": "text", "text": content}] if isinstance(content, str) else content
    said = "".join(
        _text(str(part.get("text", ""))[:CHARACTERS])
        if part.get("type") == "text"
        else f'<span class="chip">{_text(part.get("type"))} {_text(part.get("index", ""))}</span> '
        for part in parts
    )
    turns = len(trace.prompt.messages) - 1
    earlier = f' <span class="soft">after {turns} earlier turn{"s" * (turns > 1)}</span>' if turns else ""
    return f'<div class="q"><b>Question</b>{said}{earlier}</div>'


# --- the answer -----------------------------------------------------------------------------------------------------


def _answer(trace: Trace, key: str) -> str:
    n = len(trace.tokens)
    out = ['<div class="a"><b>Answer</b>']
    if n == 0:
        out.append('<p class="note">No token was generated.</p>')
    open_words = False
    for kind, first, last in _runs(trace):
        folded = kind in ("thought", "tool")
        if folded or not open_words:
            out.append("</div>" * open_words)
            if folded:
                out.append(f'<details class="th"><summary>{kind.capitalize()}: {last - first} tokens</summary>')
            out.append('<div class="words">')
            open_words = not folded
        out += [_token(trace, k, key, special=kind == "control") for k in range(first, min(last, SHOWN_TOKENS))]
        if folded:
            out.append("</div></details>")
    out.append("</div>" * open_words)
    if n > DETAILED:
        out.append(f'<p class="note">Alternatives are shown for the first {DETAILED} of {n:,} tokens; '
                   "<code>trace.tokens</code> has them all.</p>")  # fmt: skip
    if n > SHOWN_TOKENS:
        out.append(f'<p class="note">Only the first {SHOWN_TOKENS:,} tokens are shown.</p>')
    return "".join([*out, "</div>"])


def _runs(trace: Trace) -> Iterator[tuple[str, int, int]]:
    """Kind, first and last + 1 generated token of each segment of the answer."""
    n, start = len(trace.tokens), len(trace.prompt)
    segments = trace.segments or ((Segment("text", start, start + n),) if n else ())
    for s in segments:
        yield s.kind, s.start - start, s.stop - start


def _token(trace: Trace, k: int, key: str, *, special: bool) -> str:
    t = trace.tokens
    piece, logprob, source = t.piece[k], float(t.logprob[k]), int(t.source[k])
    classes = "t p" + str(min(9, int(10 * math.exp(min(logprob, 0.0)) + 1e-6)))
    classes += (f" s{source}" if source else "") + (" chip" if special else "")
    short = piece[:SHOWN_CHARACTERS]
    shown = _text(short) + "…" * (len(short) < len(piece))
    if special or (piece and not _WIDTHLESS.sub("", piece)):  # a lone mark belongs on the letter before it, as in Hindi
        shown = _visible(piece)
    elif short and not short.strip("\n"):
        shown = f'<span class="soft">{"↵" * len(short)}</span>' + shown  # so that a line break can be pointed at
    elif not piece:
        shown = '<span class="soft">∅</span>'
    if k >= DETAILED:
        mark = f" · {SOURCES[source]}" if source else ""
        return f'<span class="{classes}" title="{_percent(logprob)}{mark}">{shown}</span>'
    name = f"wbt-{key}-{k}"
    return (
        f'<span class="{classes}" tabindex="0" aria-describedby="{name}">{shown}'
        f'<span class="tip" id="{name}" role="tooltip" hidden>{_alternatives(trace, k)}</span></span>'
    )


def _alternatives(trace: Trace, k: int) -> str:
    t = trace.tokens
    chosen = int(t.token_id[k])
    rows = [(int(i), piece, lp) for i, (piece, lp) in zip(t.top_ids[k], t.alternatives(k), strict=True)][:ALTERNATIVES]
    if all(i != chosen for i, _, _ in rows):
        rows.append((chosen, t.piece[k], float(t.logprob[k])))
    out = []
    for i, piece, lp in rows:
        on = ' class="on"' if i == chosen else ""
        mark = "▸" if i == chosen else ""
        width = f"{100 * math.exp(min(lp, 0.0)):.3g}%"
        words = f"<b>{mark}{_visible(piece)}</b><em>{_percent(lp)}</em>"
        out.append(f'<span{on}>{words}<i style="--w:{width}"></i></span>')
    row = t[k]
    about = [f"token {k}", row.source, f"rank {row.rank}", f"logprob {row.logprob:.3f}",
             f"entropy {row.entropy:.3f} nats", f"{row.time_s:.2f} s"]  # fmt: skip
    if row.round >= 0:
        about.insert(2, f"round {row.round}")
    return "".join(out) + f"<small>{' · '.join(about)}</small>"


def _visible(piece: str) -> str:
    """A piece with its spaces and line breaks to be seen, at most 40 characters."""
    short = piece if len(piece) <= 40 else piece[:39] + "…"
    short = _WIDTHLESS.sub(lambda m: f"⟨{ord(m[0]):X}⟩", short)
    short = f"◌{short}" if short and unicodedata.category(short[0])[0] == "M" else short
    return _text(short.replace("\n", "↵").replace("\t", "⇥").replace(" ", "␣")) or "∅"


def _legend(trace: Trace) -> str:
    if not len(trace.tokens):
        return ""
    steps = "".join(f'<span class="t p{k}" title="{10 * k} to {10 * k + 10} %"></span>' for k in range(10))
    names = {1: "draft, accepted", 2: "draft, corrected", 3: "bonus after drafts", 4: "forced"}
    marks = "".join(
        f'<span><span class="t s{k}">word</span> {names[k]}</span>'
        for k in sorted({int(s) for s in trace.tokens.source} & set(names))
    )
    return (
        f'<div class="legend"><span class="scale">unsure 0 % {steps} 100 % sure</span>{marks}'
        "<span>Hover or focus a word: what it nearly said</span></div>"
    )


# --- below the answer -----------------------------------------------------------------------------------------------


def _prompt(trace: Trace) -> str:
    p = trace.prompt
    bar, rest = [], len(p.segments) - SEGMENTS
    for s in p.segments[:SEGMENTS]:
        name = s.kind + (f" {s.media}" if s.media is not None else "")
        label = name if len(s) * 40 > len(p) * 2 else ""
        bar.append(f'<span class="k-{s.kind}" style="flex:{len(s)} 0 0" '
                   f'title="{name}: tokens {s.start} to {s.stop - 1} ({len(s)})">{label}</span>')  # fmt: skip
    counts: dict[str, int] = {}
    for s in p.segments:
        counts[s.kind] = counts.get(s.kind, 0) + len(s)
    key = " ".join(f'<span><span class="chip k-{kind}" style="color:#000">{kind}</span> {count:,}</span>'
                   for kind, count in counts.items())  # fmt: skip
    text, room = [], CHARACTERS
    for s in p.segments[:SEGMENTS]:
        if s.media is not None and s.kind in ("image", "audio", "video"):
            text.append(f'<span class="chip k-{s.kind}" style="color:#000">{s.kind} {s.media} × {len(s)}</span>')
        elif s.kind == "control":
            text += [f'<span class="chip">{_visible(piece)}</span>' for piece in p.pieces[s.start : s.stop][:50]]
        else:
            said = "".join(p.pieces[s.start : s.stop])[:room]
            room -= len(said)
            text.append(_text(said))
    note = f'<p class="note">{rest:,} more segments are not shown.</p>' if rest > 0 else ""
    note += '<p class="note">The text is cut short.</p>' if room <= 0 else ""
    return (
        f"<details><summary>Prompt: {len(p):,} tokens</summary>"
        f'<div class="bar" role="img" aria-label="segments of the prompt">{"".join(bar)}</div>'
        f'<div class="legend">{key}</div><div class="pt">{"".join(text)}</div>{note}</details>'
    )


FINISH = {"stop_token": "ended by itself", "max_new_tokens": "cut at max_new_tokens", "stopped": "stopped by you",
           "context": "context full"}  # fmt: skip


def tokens_a_second(trace: Trace) -> float | None:
    """How quickly an answer came once its first token was there; None of fewer than two that were not given.

    Given ones (a branch's beginning, a scored answer) come all at once: they are not counted.
    """
    said = np.flatnonzero(trace.tokens.source != SOURCES.index("forced"))
    if len(said) < 2:
        return None
    seconds = float(trace.tokens.time_s[-1] - trace.tokens.time_s[said[0]])
    return (len(trace.tokens) - 1 - int(said[0])) / seconds if seconds > 0 else None


def _summary(trace: Trace) -> str:
    m, u, s, timing, n = trace.model, trace.usage, trace.settings, trace.timing, len(trace.tokens)
    kind = " · ".join(_text(x) for x in (m.quantization, m.dtype, m.device) if x and x != "none")
    items = [f"<b>{_text(m.name)}</b> {kind}", f"<b>{n:,}</b> token{'s' * (n != 1)} in <b>{timing.total_s:.2f} s</b>"]
    if (speed := tokens_a_second(trace)) is not None:
        items.append(f"<b>{speed:.1f}</b> tokens/s")
    items.append(f"prompt <b>{u.prompt:,}</b>" + (f" ({u.cached:,} from cache)" if u.cached else ""))
    if len(trace.rounds):
        items.append(f"<b>{int(trace.rounds.accepted.sum())}</b> of {int(trace.rounds.proposed.sum())} drafts kept")
    items.append(FINISH.get(trace.finish, _text(trace.finish)))
    how = "greedy" if s.temperature == 0 else f"temperature {s.temperature:g} · seed {s.seed}"
    return f'<div class="sum">{"".join(f"<span>{item}</span>" for item in [*items, how])}</div>'
