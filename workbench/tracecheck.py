"""Whether a trace agrees with itself: ids, sources and rounds in range, segments side by side, no NaN where none may.

The same rules hold for a trace that is saved and for one that is read: what was saved can be opened.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from workbench.columns import SOURCES, Rounds, Segment, Tokens
from workbench.errors import MediaError, PromptError, TraceError
from workbench.media import Audio, Image, Video
from workbench.media.pixels import MAX_PIXELS, check_dimensions
from workbench.parquet import MAX_ROWS
from workbench.trace import Trace
from workbench.turns import EXTRAS, check_extras

__all__ = ["MAX_DECODED", "MAX_MEDIA", "READING_NAME", "check"]

MAX_MEDIA = 1000
MAX_DECODED = 2 << 30  # bytes of pixels and samples, all together; what is stored once counts once
FINISHES = ("stop_token", "max_new_tokens", "stopped", "context", "scored")
READING_NAME = "[A-Za-z0-9][A-Za-z0-9_.,=+-]{0,79}"


def check(trace: Trace) -> None:
    """Check everything that one trace's parts say about each other.

    Raises:
        TraceError: Something contradicts something else; says what.
    """
    _tokens(trace.tokens, len(trace.rounds))
    _rounds(trace.rounds)
    _prompt(trace)
    _media(trace)
    _readings(trace.readings)
    if trace.finish not in FINISHES:
        raise TraceError(f"finish is {trace.finish!r:.80}. Expected one of {', '.join(FINISHES)}.")
    for name in ("prompt", "cached", "generated", "image", "audio", "video"):
        _range(f"usage.{name}", np.array([getattr(trace.usage, name)]), 0, _ID)
    for name in ("prepare_s", "prefill_s", "first_token_s", "decode_s", "total_s"):
        _range(f"timing.{name}", np.array([getattr(trace.timing, name)]), 0, 1e9)


def _range(name: str, values: np.ndarray, low: float, high: float) -> None:
    """All of ``values`` lie within ``low`` to ``high``, both included; NaN does not."""
    wrong = ~((values >= low) & (values <= high))
    if wrong.any():
        k = int(np.flatnonzero(wrong)[0])
        raise TraceError(f"{name} holds {values.ravel()[k]} (number {k}). Expected {low:g} to {high:g}.")


_ID = 2**31 - 1


def _tokens(t: Tokens, rounds: int) -> None:
    if t.top_ids.size > MAX_ROWS:
        raise TraceError(f"{len(t)} tokens with {t.top_ids.shape[1]} alternatives: more than {MAX_ROWS:,}. Keep fewer.")
    if len(t) and not t.top_ids.shape[1]:
        raise TraceError(f"{len(t)} tokens without an alternative. Expected one at least.")
    for name, low, high in (
        ("token_id", 0, _ID), ("rank", 0, _ID), ("top_ids", 0, _ID), ("source", 0, len(SOURCES) - 1),
        ("round", -1, rounds - 1), ("time_s", 0, 1e9), ("margin", 0, np.inf), ("entropy", -1e-3, 1e9),
        ("logprob", -np.inf, 1e-3), ("sample_logprob", -np.inf, 1e-3), ("top_logprob", -np.inf, 1e-3),
        ("top_sample_logprob", -np.inf, 1e-3),
    ):  # fmt: skip
        _range(f"tokens.{name}", getattr(t, name), low, high)


def _rounds(r: Rounds) -> None:
    k = r.draft_ids.shape[1]
    if r.draft_ids.size > MAX_ROWS:
        raise TraceError(f"{len(r)} rounds of up to {k} drafts: more than {MAX_ROWS:,}.")
    for name, low, high in (("draft_ids", -1, _ID), ("emitted_id", -1, _ID), ("proposed", 0, k), ("accepted", 0, k),
                            ("draft_s", 0, 1e9), ("verify_s", 0, 1e9)):  # fmt: skip
        _range(f"rounds.{name}", getattr(r, name), low, high)
    if (r.accepted > r.proposed).any():
        raise TraceError("rounds.accepted is larger than rounds.proposed.")
    for name in ("draft_logprob", "target_logprob"):  # NaN: not proposed, not judged
        _range(f"rounds.{name}", np.nan_to_num(getattr(r, name), nan=0.0, neginf=-1e30, posinf=np.inf), -1e30, 1e-3)


def _messages(trace: Trace, media: Mapping[str, int]) -> None:
    """What a model relies on when it is asked about the trace again."""
    if not trace.prompt.messages:
        raise TraceError("its conversation has no turns.")
    for k, message in enumerate(trace.prompt.messages):
        role, parts = message.get("role"), message.get("content")
        if role not in ("user", "model", "assistant", "system", "developer", "tool"):
            raise TraceError(f"turn {k} has role {role!r}. Expected user, model, system or tool.")
        if not isinstance(parts, (list, tuple)):
            raise TraceError(f"turn {k} has content of type {type(parts).__name__}. Expected a list of parts.")
        for part in parts:
            kind = part.get("type") if isinstance(part, Mapping) else None
            index = part.get("index") if isinstance(part, Mapping) else None
            if kind == "text" and isinstance(part.get("text"), str):
                continue
            n = media.get(kind, 0) if isinstance(kind, str) else 0
            if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < n:
                raise TraceError(f"turn {k} has a part {part!r:.80}. Expected a text, or one of its media.")
        try:
            check_extras(f"turn {k}", {n: message[n] for n in EXTRAS if n in message})
        except PromptError as error:
            raise TraceError(str(error)) from None


def _prompt(trace: Trace) -> None:
    p = trace.prompt
    _range("prompt.ids", p.ids, 0, _ID)
    if p.logprob is not None:
        # the first token has none, and soft tokens of media neither
        known = np.arange(len(p)) > 0
        for s in p.segments:
            known[s.start : s.stop] &= s.media is None
        _range("prompt.logprob", p.logprob[known], -np.inf, 1e-3)
    _tiling("prompt", p.segments, 0, len(p))
    _tiling("answer", trace.segments, len(p), len(p) + len(trace.tokens))
    media = {"image": len(trace.images), "audio": len(trace.audio), "video": len(trace.video)}
    _messages(trace, media)
    for where, segments in (("prompt", p.segments), ("answer", trace.segments)):
        for s in segments:
            if s.kind in media and s.media is not None and not 0 <= s.media < media[s.kind]:
                raise TraceError(f"the {where} has a segment of {s.kind} {s.media}; there are {media[s.kind]}.")


def _tiling(where: str, segments: tuple[Segment, ...], start: int, stop: int) -> None:
    at = start
    for s in segments:
        if s.start != at or s.stop <= at:
            raise TraceError(
                f"segments of the {where}: one goes from {s.start} to {s.stop}, {at} is where it must start."
            )
        at = s.stop
        if (s.rows, s.cols) != (None, None) and ((s.rows or 0) < 1 or (s.rows or 0) * (s.cols or 0) != len(s)):
            raise TraceError(f"a segment of {len(s)} tokens says it has {s.rows}×{s.cols} patches.")
        if s.boxes is not None:
            _range("the boxes of a segment", s.boxes, 0, 1e6)
        if (s.start_ms is None) != (s.end_ms is None):
            raise TraceError("a segment has a start and no end in time, or the other way round.")
        if s.start_ms is not None and s.end_ms is not None:
            _range("start_ms of a segment", s.start_ms, 0, 1e12)
            _range("end_ms - start_ms of a segment", s.end_ms - s.start_ms, 0, 1e12)
    if at != stop and (segments or where == "prompt"):
        raise TraceError(f"segments of the {where} end at {at}; it ends at {stop}.")


def _media(trace: Trace) -> None:
    for media, kind in ((trace.images, Image), (trace.audio, Audio), (trace.video, Video)):
        if not all(isinstance(m, kind) for m in media):
            raise TraceError("its media are not what workbench.media loads.")
    for one in trace.images:
        try:
            check_dimensions(one.width, one.height, one.name, MAX_PIXELS)
        except MediaError as error:
            raise TraceError(str(error)) from None
    stills = [still for video in trace.video for still in video.stills]
    count = len(trace.images) + len(trace.audio) + len(stills)
    sizes = {m.data: m.pixels.nbytes for m in (*trace.images, *stills)}  # by what is stored: equal bytes, equal pixels
    held = sum((sizes | {m.data: m.samples.nbytes for m in trace.audio}).values())
    if count > MAX_MEDIA or held > MAX_DECODED:
        raise TraceError(
            f"{count} media of {held:,} bytes decoded. Expected at most {MAX_MEDIA} and {MAX_DECODED:,}: ask about "
            "fewer, or about smaller ones."
        )


def _readings(readings: Mapping[str, Any]) -> None:
    for name, reading in readings.items():
        if not isinstance(reading, Mapping) or set(reading) != {"meta", "arrays"}:
            raise TraceError(f"reading {name!r} is not {{'meta': …, 'arrays': {{…}}}}.")
        if len(reading["arrays"]) > MAX_MEDIA:
            raise TraceError(f"reading {name!r} has {len(reading['arrays']):,} arrays. Expected {MAX_MEDIA:,} at most.")
        for word in (name, *reading["arrays"]):
            if not isinstance(word, str) or not re.fullmatch(READING_NAME, word, re.ASCII):
                raise TraceError(
                    f"{word!r} cannot name a reading or an array: letters, digits, _ . , = + -, at most 80."
                )
