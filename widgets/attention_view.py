"""AttentionView: the answer's words, and where the model looked for each: on pictures, in sounds, at words.

Only what is shown is sent, one byte a cell, scaled to the largest value of its map, which goes along:

    a word is picked ──► {"ask": "attend", token, layer, head, reduce, sinks} ──► uint8 maps of that word
    the grid is opened ──► {"ask": "heads", token, media} ──► one small uint8 map for each layer and head
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from widgets.base import View, question_key
from widgets.buffers import array, size
from widgets.media_input import outline, wav
from workbench.errors import TraceError, WorkbenchError
from workbench.maps import FAINT
from workbench.media import SAMPLE_RATE
from workbench.readings import Attention, Lens, Map, Occlusion, Recorded, can, rank_correlation, stopping
from workbench.thumbnails import thumbnail
from workbench.trace import Trace

__all__ = ["AttentionView", "spectrogram"]

_SIDE, _LEAST_SIDE = 640, 80  # pixels of a picture shown; of each of many
_PICTURES = 6 << 20  # bytes of all of them
_REMEMBERED = 64  # words whose attention, or whose occlusion, is kept
_KEPT = 64 << 20  # bytes of attention that is kept
_PAGE = 6 << 20  # bytes of answers in a page
_TEXT = 6000  # words of prompt and answer shown as a strip
_HEADS = 2 << 20  # bytes of the grid of heads
_ROWS = 128 << 20  # bytes of attention read at once for a page
_GUESSED_HEADS = 16
_QUIET_DB = 20 * np.log10(1e-3 * np.hanning(512).sum() / 2)  # a sine of a thousandth of full scale


@dataclass
class _Held:
    """What was read of one trace, so that nothing of another one is taken for it."""

    trace: Trace | None = None
    attention: dict[int, Attention] = field(default_factory=dict)
    cost: dict[tuple[int, str, int], Occlusion] = field(default_factory=dict)


class AttentionView(View):
    """Where the model looked.

        AttentionView(trace, model)          # asks the model again, one word at a time
        AttentionView(kept)                  # a trace with readings in it (workbench.readings.keep) needs no model

    Heat lies on the model's own patches and on frames of 40 ms; for ``occlusion`` it is how much less probable the word
    gets when a place is hidden.

    Attributes:
        kept_most: Bytes of attention that are kept at most, so that layers and heads can be switched through.
    """

    NAME: ClassVar[str] = "attention_view"
    TITLE: ClassVar[str] = "Where it looked"

    def __init__(self, trace: Trace | None = None, inspector: Any = None, **more: Any) -> None:
        self._kept = _Held()
        self.kept_most = _KEPT
        super().__init__(trace, inspector, **more)

    @property
    def reasons(self) -> dict[str, str]:
        """As for any view; what the trace itself holds can be asked without an inspector."""
        made = super().reasons
        if self.trace is not None:
            kept = Recorded(self.trace)
            made |= {q: "" for q in ("attend", "lens", "occlude") if made[q] and not kept.lacks(q)}
        return made

    def _who(self, question: str) -> Any:
        """Whom to ask.

        Raises:
            WorkbenchError: Nobody can answer, with the reason.
        """
        if self.trace is None or self.reasons[question]:
            raise WorkbenchError(self.reasons[question])
        return self.inspector if not can(self.inspector, question, self.trace) else Recorded(self.trace)

    def describe(self, trace: Trace) -> dict[str, Any]:
        """Words, pictures, outlines of sounds, and layers."""
        self._kept = _Held(trace)
        start, p = len(trace.prompt), trace.prompt
        places = {(s.kind, s.media): s for s in p.segments if s.media is not None}
        side, pictures = _SIDE, _pictures(trace, _SIDE)
        while size(pictures) > _PICTURES and side > _LEAST_SIDE:
            side //= 2
            pictures = _pictures(trace, side)
        sounds = []
        for k, sound in enumerate(trace.audio):
            segment = places.get(("audio", k))
            if segment is not None:
                low, high = outline(sound.samples, 600)
                sounds.append({"media": k, "name": sound.name, "low": array(low, np.int8), "high": array(high, np.int8),
                               "frames": len(segment), "seconds": sound.duration_ms / 1000,
                               **_when(segment)})  # fmt: skip
        spoken = [(s.start - start, s.stop - start) for s in trace.segments if s.kind == "control"]
        return {
            "pieces": list(trace.tokens.piece), "logprob": array(trace.tokens.logprob, np.float32),
            "special": [k for a, b in spoken for k in range(a, b)], "pictures": pictures, "sounds": sounds,
            "context": self._words(trace), "layers": list(trace.model.layers), "window": trace.model.window,
            "segments": [_name(s) for s in (*p.segments, *trace.segments)], "first": self._first(trace),
        }  # fmt: skip

    def _first(self, trace: Trace) -> int:
        """The word to begin with: the first one whose attention the trace holds, where nobody else is asked."""
        if self.reasons["attend"] or not can(self.inspector, "attend", trace):
            return 0
        try:
            held = Recorded(trace).attend(trace).tokens
        except WorkbenchError:
            return 0  # the view asks about it, and is told what is wrong
        return int(held[0]) if len(held) else 0

    @staticmethod
    def _words(trace: Trace) -> list[list[Any]]:
        """Position, text and whether it is a control token, of every word; the last ones if there are many."""
        found = []
        for s in (*trace.prompt.segments, *trace.segments):
            if s.kind in ("image", "audio", "video"):
                continue
            pieces = [*trace.prompt.pieces, *trace.tokens.piece][s.start : s.stop]
            found += [[s.start + k, piece, s.kind == "control"] for k, piece in enumerate(pieces)]
        return found[-_TEXT:]

    # --- answers -----------------------------------------------------------------------------------------------------

    def _ask(self, question: str, trace: Trace | None, *what: Any, **more: Any) -> Any:
        """What the inspector says about a trace; refused when another one has come in its place meanwhile."""
        answers = getattr(self._who(question), question)
        made = answers(trace, *what, **more, **stopping(answers, self._stop))
        if self.trace is not trace:
            raise TraceError("Another answer has come in the place of the one that was asked about: ask again.")
        return made

    def _held(self) -> _Held:
        """What was read of the trace that is shown now."""
        if self._kept.trace is not self.trace:  # it is new, and about to be drawn
            self._kept = _Held(self.trace)
        return self._kept

    def _attention(self, token: int) -> Attention:
        """The rows of one word, in all layers and heads; kept, since layers and heads are then switched through."""
        held = self._held()
        if token not in held.attention:
            made = self._ask("attend", held.trace, tokens=token)
            each = max(1, sum(w.nbytes for w in made.weights))
            while held.attention and (
                len(held.attention) >= _REMEMBERED or each * (len(held.attention) + 1) > self.kept_most
            ):
                held.attention.pop(next(iter(held.attention)))
            held.attention[token] = made
        return held.attention[token]

    def _occlusion(self, token: int, kind: str, media: int) -> Occlusion:
        """What hiding costs one word; kept, for it is compared with one layer's and head's attention after another."""
        if kind not in ("image", "audio"):  # one pass of the model for each word of a prompt
            raise TraceError(f"{kind!r:.40} is not hidden here place by place: expected 'image' or 'audio'.")
        key, held = (token, kind, media), self._held()
        if key not in held.cost:
            while len(held.cost) >= _REMEMBERED:
                held.cost.pop(next(iter(held.cost)))
            held.cost[key] = self._ask("occlude", held.trace, *key)
        return held.cost[key]

    def answer_attend(
        self, token: int, layer: int | None = None, head: int | None = None, reduce: str = "mean", sinks: bool = True
    ) -> dict[str, Any]:
        """Maps of one word: of each picture and sound, and over the words."""
        began = time.perf_counter()
        made = self._looked(self._attention(int(token)), int(token), layer, head, reduce, sinks)
        return {**made, "seconds": time.perf_counter() - began}

    def _looked(
        self, a: Attention, token: int, layer: int | None, head: int | None, reduce: str, sinks: bool
    ) -> dict[str, Any]:
        """What ``a``, which holds this word alone, says of it: its sinks are this word's too."""
        assert self.trace is not None  # noqa: S101 (_who refuses)
        how: dict[str, Any] = {"token": token, "layer": layer, "head": head, "reduce": reduce, "sinks": sinks}
        seen = {(s.kind, s.media) for s in self.trace.prompt.segments}
        words = a.map("text", **how)
        row = a.row(token=token, layer=layer, head=head, sinks=sinks)
        edges = [s.start for s in a.segments]
        return {
            "images": [_packed(a.map("image", p["media"], **how)) for p in self._all["pictures"]],
            "sounds": [_packed(a.map("audio", s["media"], **how)) for s in self._all["sounds"]],
            "words": _packed(words, [position for position, *_ in self._all["context"]]),
            "shares": [round(float(x), 5) for x in np.add.reduceat(row, edges)] if seen else [],
            "sinks": [[s.position, s.mass, s.piece, s.why] for s in a.sinks()],
            "heads": [int(h) for h in a.heads], "gap": a.replay_gap,
        }  # fmt: skip

    def answer_heads(self, token: int, kind: str = "image", media: int = 0) -> dict[str, Any]:
        """A small map of every layer and head there are weights of, each scaled to its own largest value."""
        a = self._attention(int(token))
        cells = np.stack(
            [
                np.stack([a.map(kind, media, token=int(token), layer=one.index, head=int(h)).values for h in a.heads])
                for one in a.layers
            ]
        )  # (L, H, rows, cols) or (L, H, frames)
        flat = cells.reshape(*cells.shape[:2], -1)
        if flat.size > _HEADS:
            raise TraceError(f"{flat.size / 1e6:.1f} million cells are too many to show at once: pick a layer instead.")
        most = flat.max(-1, keepdims=True)
        scaled = np.divide(255 * flat, most, out=np.zeros_like(flat), where=most > 0)
        return {"cells": array(np.round(scaled), np.uint8), "most": array(most[..., 0], np.float32),
                "layers": [one.index for one in a.layers], "heads": [int(h) for h in a.heads]}  # fmt: skip

    def answer_occlude(self, token: int, kind: str, media: int) -> dict[str, Any]:
        """How much less probable the word gets when each place of a picture or a sound is hidden, in nats."""
        return _hidden(self._occlusion(int(token), kind, int(media)))

    def answer_agree(
        self, token: int, kind: str, media: int, layer: int | None = None, head: int | None = None,
        reduce: str = "mean", sinks: bool = True,
    ) -> dict[str, Any]:  # fmt: skip
        """How far a word's attention and what hiding costs it have one order; None where one of them is flat."""
        how: dict[str, Any] = {"token": int(token), "layer": layer, "head": head, "reduce": reduce, "sinks": sinks}
        a = self._attention(int(token)).map(kind, int(media), **how)
        return _agreed(a, self._occlusion(int(token), kind, int(media)))

    def answer_lens(self, media: int) -> dict[str, Any]:
        """What each patch would say, read out after each layer: the nearest word."""
        return _nearest(self._ask("lens", self.trace, "image", int(media)))

    def answer_sound(self, media: int) -> dict[str, Any]:
        """A sound as the model hears it, as a WAV file."""
        return {"wav": {"view": wav(self._sound(media))}}

    def answer_spectrogram(self, media: int) -> dict[str, Any]:
        """A sound's frequencies over time."""
        return {"cells": array(spectrogram(self._sound(media).samples), np.uint8)}

    def _sound(self, media: int) -> Any:
        if self.trace is None or not 0 <= media < len(self.trace.audio):
            raise TraceError(f"There is no sound {media} in this trace.")
        return self.trace.audio[media]

    # --- in a page without a kernel ----------------------------------------------------------------------------------

    def saved_state(self) -> dict[str, Any]:
        """The page answers attention, if it can be had now; occlusion and lens, if the trace holds them."""
        state = super().saved_state()
        if self.trace is None:
            return state
        answered = [question for question, places in self._kept_places().items() if places]
        if not self.reasons["attend"]:
            answered.append("attend")
            state["data"]["saved"] = True
        state["data"]["reasons"] |= dict.fromkeys(answered, "")
        return state

    def _kept_places(self) -> dict[str, list[Any]]:
        """What the trace holds, by question, told without reading it.

        Of occlusion (word, kind, media) of each word that it holds over all pictures and sounds; of the lens the
        pictures, if it holds all.
        """
        assert self.trace is not None  # noqa: S101 (a view of nothing has no page)
        metas = [r["meta"] for r in self.trace.readings.values() if isinstance(r["meta"], dict)]
        # compared as texts: a stranger's trace may hold anything there
        kept = Recorded(self.trace)
        hidden = [m for m in metas if m.get("against") is None] if not kept.lacks("occlude") else []
        held = {str([m.get("tokens"), m.get("over"), m.get("media")]) for m in hidden if m.get("kind") == "occlusion"}
        shown = [(kind, one["media"]) for kind, name in (("image", "pictures"), ("audio", "sounds"))
                 for one in self._all[name]]  # fmt: skip
        words = [k for k in range(len(self.trace)) if all(str([[k], *place]) in held for place in shown)]
        pictures = {one["media"] for one in self._all["pictures"]}
        looks = {str(m.get("media")) for m in metas if m.get("kind") == "lens" and m.get("over") == "image"}
        return {
            "occlude": [(k, kind, media) for k in words for kind, media in shown],
            "lens": sorted(pictures) if looks >= {str(k) for k in pictures} and not kept.lacks("lens") else [],
        }

    def saved_answers(self) -> dict[str, Any]:
        """Every word's attention, mean over heads and the layers that see each place, as far as room is; the sounds."""
        answers: dict[str, Any] = {}
        if self.trace is None:
            return answers
        room, attended = _PAGE, not self.reasons["attend"]
        kept, places = Recorded(self.trace), self._kept_places()
        hidden = {place: kept.occlude(self.trace, *place) for place in places["occlude"]}
        for (k, kind, media), made in hidden.items():
            answers[question_key(ask="occlude", token=k, kind=kind, media=media)] = _hidden(made)
        for media in places["lens"]:
            answers[question_key(ask="lens", media=media)] = _nearest(kept.lens(self.trace, "image", media))
        room -= sum(map(size, answers.values()))
        for sound in self._all["sounds"]:
            for ask in ("spectrogram", "sound"):
                answer = getattr(self, f"answer_{ask}")(sound["media"])
                room -= size(answer)
                if room > 0:
                    answers[question_key(ask=ask, media=sound["media"])] = answer
        for token, looked in self._each_word() if attended else ():
            for sinks in (True, False):
                how: dict[str, Any] = {"layer": None, "head": None, "reduce": "mean", "sinks": sinks}
                answer = {**self._looked(looked, token, **how), "seconds": 0.0}
                room -= size(answer)
                if room < 0:
                    return answers
                answers[question_key(ask="attend", token=token, **how)] = answer
                for (k, kind, media), made in hidden.items():
                    if k == token:
                        agreed = _agreed(looked.map(kind, media, token=token, **how), made)
                        answers[question_key(ask="agree", token=token, kind=kind, media=media, **how)] = agreed
        return answers

    def opening_questions(self) -> tuple[str, ...]:
        """The attention of the word that is picked at first."""
        how: dict[str, Any] = {"layer": None, "head": None, "reduce": "mean", "sinks": True}
        picked = self.selected if self.selected >= 0 else self._all.get("first", 0)
        return (question_key(ask="attend", token=picked, **how),)

    def _each_word(self) -> Iterator[tuple[int, Attention]]:
        """Words whose attention can be had, each with its own.

        Many are read at a time: one more run of the model for each of few parts.
        """
        assert self.trace is not None  # noqa: S101 (there is something to read)
        trace, who, n = self.trace, self._who("attend"), len(self.trace)
        width = len(self.trace.model.layers) * _GUESSED_HEADS * (len(self.trace.prompt) + n) * 2
        step = n if isinstance(who, Recorded) else max(1, _ROWS // max(1, width))
        for first in range(0, n, step):
            wanted = None if isinstance(who, Recorded) else range(first, min(n, first + step))
            read = self._ask("attend", trace, tokens=wanted)
            for k in read.tokens:
                yield int(k), read.only(positions=[int(k) + read.prompt_tokens - 1])


def _pictures(trace: Trace, side: int) -> list[dict[str, Any]]:
    """The pictures that have a grid of patches, each no larger than ``side`` pixels."""
    grids = {s.media: s for s in trace.prompt.segments if s.kind == "image" and s.rows and s.cols}
    made = []
    for k, image in enumerate(trace.images):
        if k in grids:
            url, width, height = thumbnail(image, side)
            made.append({"media": k, "name": image.name, "url": url, "width": width, "height": height,
                         "rows": grids[k].rows, "cols": grids[k].cols})  # fmt: skip
    return made


def _when(segment: Any) -> dict[str, Any]:
    """When each frame of a sound begins and ends, in seconds."""
    if segment.start_ms is None or segment.end_ms is None:
        return {}
    return {"starts": array(segment.start_ms / 1000, np.float32), "ends": array(segment.end_ms / 1000, np.float32)}


def _packed(made: Map, only: list[int] | None = None, least: float = 0.0) -> dict[str, Any]:
    """A map as bytes: 0 for nothing (or what hiding makes likelier), 255 for its largest value, which is ``most``.

    A map that nowhere reaches ``least`` is ``faint``, and all of it 0: drawn, it would be noise in bright colours.
    """
    values = np.nan_to_num(made.values.ravel(), nan=0.0)
    if only is not None:
        values = values[only]
    most = float(values.max(initial=0.0))
    faint = most < least
    cells = np.round(255 * np.clip(values, 0, None) / most) if most > 0 and not faint else np.zeros(len(values))
    return {
        "cells": array(cells, np.uint8), "most": most, "sum": float(values.sum()), "layers": [*made.layers],
        "faint": faint,
    }  # fmt: skip


def _hidden(made: Occlusion) -> dict[str, Any]:
    """A map of what hiding costs, and what was hidden around each place, in words."""
    name = "patch" if made.map.kind == "image" else "frame"
    side = f"{made.size} × {made.size}" if made.map.kind == "image" else f"{made.size}"
    block = f"one {name}" if made.size == 1 else f"{side} {name}{'es' if name == 'patch' else 's'}"
    return {**_packed(made.map, least=FAINT), "block": block}


def _agreed(looked: Map, hidden: Occlusion) -> dict[str, Any]:
    rank = rank_correlation(looked, hidden.map)
    return {"rank": None if np.isnan(rank) else round(rank, 4)}


def _nearest(lens: Lens) -> dict[str, Any]:
    """The nearest word of each place after each layer."""
    ids = lens.top_ids[:, :, 0]
    return {
        "layers": [int(k) for k in lens.layers], "ids": array(ids, np.int32),
        "names": [[int(i), lens.pieces[int(i)]] for i in np.unique(ids)],
    }  # fmt: skip


def _name(segment: Any) -> str:
    return segment.kind if segment.media is None else f"{segment.kind} {segment.media}"


def spectrogram(samples: np.ndarray, bands: int = 64, hop: int = 320) -> np.ndarray:
    """(bands, columns) uint8: how strong each frequency is, highest on top, 60 dB from black to white.

    White is the strongest of the sound, but never less than a sine of a thousandth of full scale: silence is black.
    Column k is of the samples from k · hop on, so many.

    Args:
        samples: (n,) at 16 kHz.
        bands: Bands between 50 Hz and 8 kHz, evenly spaced on a logarithmic scale.
        hop: Samples a column: 320 is 20 ms.
    """
    window = np.hanning(512).astype(np.float32)
    columns = max(1, -(-len(samples) // hop))
    padded = np.pad(samples.astype(np.float32), (256 - hop // 2, 512 + hop))
    frames = np.lib.stride_tricks.sliding_window_view(padded, 512)[::hop][:columns]
    power = np.abs(np.fft.rfft(frames * window)) ** 2  # (columns, 257)
    edges = np.geomspace(50, SAMPLE_RATE / 2, bands + 1) / (SAMPLE_RATE / 512)
    low = np.minimum(edges[:-1].astype(int), 255)
    high = np.maximum(np.ceil(edges[1:]).astype(int), low + 1)
    total = np.stack([power[:, a:b].mean(1) for a, b in zip(low, high, strict=True)])  # (bands, columns)
    decibel = 10 * np.log10(np.maximum(total, 1e-10))
    scaled = (decibel - max(decibel.max(), _QUIET_DB) + 60) / 60
    return np.round(255 * scaled.clip(0, 1)).astype(np.uint8)[::-1]
