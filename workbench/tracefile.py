"""The ``.trace`` file: one zip archive with a run and its media, readable without torch and without pickle.

    trace.json          format, version; text, thought, finish, created, messages, segments, settings, model, usage,
                        timing, the media's names and hashes, and how many rows the tables have
    prompt.parquet      a row a prompt token: token_id, piece [, logprob]
    tokens.parquet      a row a generated token: token_id, piece, logprob, sample_logprob, entropy, rank, margin,
                        source (index into SOURCES), round, time_s
    top.parquet         a row an alternative, K for each generated token: top_ids, top_logprob, top_sample_logprob
    pieces.parquet      the text of every token id in top_ids and draft_ids: token_id, piece
    rounds.parquet      a row a round: proposed, accepted, emitted_id, draft_s, verify_s
    drafts.parquet      a row a place for a draft, k for each round: draft_ids, draft_logprob, target_logprob
    boxes.parquet       a row a token of each segment with "boxes": left, top, right, bottom, in pixels
    times.parquet       a row a token of each segment with "times": start_ms, end_ms
    media/HASH.EXT      Image.data and Audio.data by their SHA-256, each once; png, jpg, webp, wav; of a video a png
                        a frame, whose times stand in trace.json
    readings/NAME/meta.json, readings/NAME/ARRAY.npy

Readings, in memory ``Trace.readings``, are saved answers of an Inspector:
``{NAME: {"meta": any JSON value, "arrays": {ARRAY: numpy array of numbers or truth values}}}``, names of letters,
digits and ``_ . , = + -``, at most 80 of them, the first a letter or digit. What they mean
is ``workbench.readings``' business.

Arrays come back with every bit as it was (NaN, -inf), read-only; media with their pixels, samples, names, notes and the
hash of the original. Equal traces give equal bytes. A version is added to when older readers would misread a file; they
then refuse it.
"""

from __future__ import annotations

import os
import re
from dataclasses import asdict
from typing import Any

import numpy as np

from workbench.archive import Archive, array_bytes, json_bytes, write
from workbench.columns import Prompt, Rounds, Segment, Tokens
from workbench.errors import MediaError, TraceError
from workbench.media import display_name
from workbench.parquet import MAX_ROWS, table_bytes
from workbench.trace import ModelInfo, Settings, Timing, Trace, Usage
from workbench.tracecheck import READING_NAME, check
from workbench.tracefields import count, dataclass_of, get, strings
from workbench.tracemedia import all_media, media_member, media_record, read_media, video_record

__all__ = ["FORMAT", "VERSION", "load", "save"]

FORMAT = "gemma-workbench-trace"
VERSION = 1

_MEMBER = re.compile(
    r"trace\.json|(?:prompt|tokens|top|pieces|rounds|drafts|boxes|times)\.parquet"
    rf"|media/[0-9a-f]{{64}}\.(?:png|jpg|webp|wav)|readings/{READING_NAME}/(?:meta\.json|{READING_NAME}\.npy)",
    re.ASCII,
)
# of any version: what a newer one adds is to be told as such; ".." is no folder, "a..b" may be a name
_PLAIN = re.compile(r"(?!/|(?:.*/)?\.\.(?:/|\Z))[A-Za-z0-9_.,=+/-]{1,250}", re.ASCII)
_TOP = ("top_ids", "top_logprob", "top_sample_logprob")
_DRAFTS = ("draft_ids", "draft_logprob", "target_logprob")
_BOXES = ("left", "top", "right", "bottom")
_PIECES = {"token_id": np.int32, "piece": str}


# --- saving ---------------------------------------------------------------------------------------------------------


def save(trace: Trace, path: str | os.PathLike) -> None:
    """Write a trace with its media and readings to one file, replacing what was there once all is written.

    Args:
        trace: What to keep.
        path: Where; ``.trace`` is the usual ending.

    Raises:
        TraceError: The place cannot be written to, the trace contradicts itself, or it is too large to be read back.
    """
    name, label = _path(path)
    try:
        check(trace)
        write(name, _members(trace))
    except TraceError as error:
        raise TraceError(f"{label} was not saved: {error}") from error
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        reason = getattr(error, "strerror", None) or str(error)
        advice = "Check that the folder is there and can be written to."
        raise TraceError(f"{label} was not saved: {reason}. {advice}") from error


def _members(trace: Trace) -> dict[str, bytes]:
    t, r, p = trace.tokens, trace.rounds, trace.prompt
    segments = [*p.segments, *trace.segments]
    boxes = [s.boxes for s in segments if s.boxes is not None]
    times = [s for s in segments if s.start_ms is not None]
    stored = {media_member(m): m.data for m in all_media(trace)}
    about = {
        "format": FORMAT, "version": VERSION,
        "text": trace.text, "thought": trace.thought, "finish": trace.finish, "created": trace.created,
        "rows": {"prompt": len(p), "tokens": len(t), "top": t.top_ids.shape[1], "rounds": len(r),
                 "drafts": r.draft_ids.shape[1], "pieces": len(t.top_pieces)},
        "prompt_logprob": p.logprob is not None,
        "settings": asdict(trace.settings), "model": asdict(trace.model), "usage": asdict(trace.usage),
        "timing": asdict(trace.timing), "messages": [dict(m) for m in p.messages], "tools": list(p.tools),
        "prompt_segments": [_segment_record(s) for s in p.segments],
        "answer_segments": [_segment_record(s) for s in trace.segments],
        "images": [media_record(m) for m in trace.images],
        "audio": [{**media_record(m), "rate_in": m.rate_in, "channels_in": m.channels_in} for m in trace.audio],
        "video": [video_record(m) for m in trace.video],
        "readings": {name: sorted(reading["arrays"]) for name, reading in sorted(trace.readings.items())},
    }  # fmt: skip
    prompt: dict[str, Any] = {"token_id": p.ids, "piece": p.pieces}
    if p.logprob is not None:
        prompt["logprob"] = p.logprob
    out = {
        "trace.json": json_bytes(about, "trace.json"),
        "prompt.parquet": table_bytes(prompt),
        "tokens.parquet": table_bytes({name: getattr(t, name) for name in _token_columns()}),
        "top.parquet": table_bytes({name: getattr(t, name).ravel() for name in _TOP}),
        "pieces.parquet": table_bytes({"token_id": np.array(sorted(t.top_pieces), np.int32),
                                       "piece": [t.top_pieces[i] for i in sorted(t.top_pieces)]}),
        "rounds.parquet": table_bytes({name: getattr(r, name) for name in _round_columns()}),
        "drafts.parquet": table_bytes({name: getattr(r, name).ravel() for name in _DRAFTS}),
        "boxes.parquet": table_bytes(dict(zip(_BOXES, np.concatenate([np.zeros((0, 4), np.float32), *boxes]).T,
                                              strict=True))),
        "times.parquet": table_bytes({
            "start_ms": np.concatenate([np.zeros(0), *(s.start_ms for s in times if s.start_ms is not None)]),
            "end_ms": np.concatenate([np.zeros(0), *(s.end_ms for s in times if s.end_ms is not None)])}),
        **dict(sorted(stored.items())),
    }  # fmt: skip
    for name, reading in sorted(trace.readings.items()):
        out[f"readings/{name}/meta.json"] = json_bytes(reading["meta"], f"The meta of reading {name!r}")
        for array in sorted(reading["arrays"]):
            out[f"readings/{name}/{array}.npy"] = array_bytes(reading["arrays"][array], f"{array} of reading {name!r}")
    return out


def _token_columns() -> dict[str, Any]:
    columns = {name: dtype for name, dtype in Tokens.DTYPES.items() if name not in _TOP}
    return {"token_id": columns.pop("token_id"), "piece": str, **columns}


def _round_columns() -> dict[str, Any]:
    return {name: dtype for name, dtype in Rounds.DTYPES.items() if name not in _DRAFTS}


def _segment_record(segment: Segment) -> dict[str, Any]:
    scalars = {name: getattr(segment, name) for name in ("kind", "start", "stop", "media", "role", "rows", "cols")}
    scalars = {name: int(v) if isinstance(v, np.integer) else v for name, v in scalars.items() if v is not None}
    return scalars | {"boxes": segment.boxes is not None, "times": segment.start_ms is not None}


# --- loading --------------------------------------------------------------------------------------------------------


def load(path: str | os.PathLike) -> Trace:
    """Read a ``.trace`` file, from whomever it comes.

    Args:
        path: The file.

    Returns:
        The trace that was saved.

    Raises:
        TraceError: The file is missing, broken, hostile, not a trace, or written by a newer workbench. Names the file
            and says what to do.
    """
    name, label = _path(path)
    try:
        with Archive.open(name, _PLAIN) as archive:
            trace = _trace(archive)
        check(trace)
    except (TraceError, MediaError) as error:
        raise TraceError(f"{label} cannot be opened: {error}") from error
    return trace


def _trace(archive: Archive) -> Trace:
    if "trace.json" not in archive.names:
        raise TraceError("it is a zip archive, but no trace: it has no trace.json.")
    about = archive.json("trace.json")
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise TraceError(f"its trace.json is not one of ours. Expected format {FORMAT!r}.")
    if get(about, "version", int) != VERSION:
        if about["version"] > VERSION:
            raise TraceError(
                f"it was written by a newer workbench (format version {about['version']}; this one reads {VERSION}). "
                "Take the newer workbench, as its README says."
            )
        raise TraceError(f"it says format version {about['version']}. Expected {VERSION}.")
    if strange := [member for member in archive.names if not _MEMBER.fullmatch(member)]:
        raise TraceError(f"it holds {strange[0][:80]!a}, which no trace does.")
    rows = get(about, "rows", dict)
    n, k, rounds, drafts = (count(rows, name) for name in ("tokens", "top", "rounds", "drafts"))
    if max(n * k, rounds * drafts) > MAX_ROWS:
        raise TraceError(f"trace.json in it says {n} tokens with {k} alternatives: more than {MAX_ROWS:,}.")
    columns = archive.table("tokens.parquet", _token_columns(), n)
    top = archive.table("top.parquet", {name: Tokens.DTYPES[name] for name in _TOP}, n * k)
    pieces = archive.table("pieces.parquet", _PIECES, count(rows, "pieces"))
    made = archive.table("rounds.parquet", _round_columns(), rounds)
    made |= {name: column.reshape(rounds, drafts) for name, column in archive.table(
        "drafts.parquet", {name: Rounds.DTYPES[name] for name in _DRAFTS}, rounds * drafts).items()}  # fmt: skip
    prompt, answer = _segments(archive, about)
    images, audio, video = read_media(archive, about)
    trace = Trace(
        text=get(about, "text", str), thought=get(about, "thought", str), finish=get(about, "finish", str),
        created=get(about, "created", str), images=images, audio=audio, video=video,
        readings=_readings(archive, about),
        prompt=_prompt(archive, about, count(rows, "prompt"), prompt),
        tokens=Tokens(
            **columns, **{name: column.reshape(n, k) for name, column in top.items()},
            top_pieces=dict(zip(pieces["token_id"].tolist(), pieces["piece"], strict=True)),
        ),
        rounds=Rounds(**made), segments=answer,
        settings=dataclass_of(Settings, about, "settings"), model=dataclass_of(ModelInfo, about, "model"),
        usage=dataclass_of(Usage, about, "usage"), timing=dataclass_of(Timing, about, "timing"),
    )  # fmt: skip
    known = set(_members_of(trace))
    if extra := sorted(set(archive.names) - known):
        raise TraceError(f"it holds {extra[0]}, which its trace.json does not mention.")
    return trace


def _members_of(trace: Trace) -> list[str]:
    tables = ("prompt", "tokens", "top", "pieces", "rounds", "drafts", "boxes", "times")
    media = [media_member(m) for m in all_media(trace)]
    saved = [f"readings/{name}/{member}" for name, reading in trace.readings.items()
             for member in ("meta.json", *(f"{array}.npy" for array in reading["arrays"]))]  # fmt: skip
    return ["trace.json", *(f"{table}.parquet" for table in tables), *media, *saved]


def _prompt(archive: Archive, about: dict, rows: int, segments: tuple[Segment, ...]) -> Prompt:
    logprob = {"logprob": np.float32} if get(about, "prompt_logprob", bool) else {}
    table = archive.table("prompt.parquet", {**_PIECES, **logprob}, rows)
    messages = get(about, "messages", list)
    for message in messages:
        content = message.get("content") if isinstance(message, dict) else None
        parts = [] if isinstance(content, str) else content
        if not isinstance(parts, list) or not isinstance(message.get("role"), str) or not all(
            isinstance(part, dict) and isinstance(part.get("type"), str) and isinstance(part.get("text", ""), str)
            for part in parts
        ):  # fmt: skip
            raise TraceError("trace.json in it: a message without a role and content.")
    tools = tuple(get(about, "tools", list)) if "tools" in about else ()  # older files have none
    return Prompt(table["token_id"], table["piece"], segments, tuple(messages), table.get("logprob"), tools)


def _segments(archive: Archive, about: dict) -> tuple[tuple[Segment, ...], tuple[Segment, ...]]:
    """The prompt's and the answer's."""
    groups = [get(about, name, list) for name in ("prompt_segments", "answer_segments")]
    scalars = [[_segment_fields(record) for record in group] for group in groups]
    sizes = {flag: sum(s["stop"] - s["start"] for group in scalars for s in group if s[flag])
             for flag in ("boxes", "times")}  # fmt: skip
    boxes = archive.table("boxes.parquet", dict.fromkeys(_BOXES, np.float32), sizes["boxes"])
    times = archive.table("times.parquet", dict.fromkeys(("start_ms", "end_ms"), np.float64), sizes["times"])
    grid = np.stack([boxes[side] for side in _BOXES], axis=1)  # (n, 4)
    at = {"boxes": 0, "times": 0}

    def build(s: dict[str, Any]) -> Segment:
        n = s["stop"] - s["start"]
        more: dict[str, Any] = {}
        if s.pop("boxes"):
            more["boxes"] = grid[at["boxes"] : at["boxes"] + n]
            at["boxes"] += n
        if s.pop("times"):
            more |= {name: column[at["times"] : at["times"] + n] for name, column in times.items()}
            at["times"] += n
        return Segment(**s, **more)

    first, second = ([build(s) for s in group] for group in scalars)
    return tuple(first), tuple(second)


def _segment_fields(record: Any) -> dict[str, Any]:
    if not isinstance(record, dict):
        raise TraceError("trace.json in it: a segment is no mapping.")
    made: dict[str, Any] = {name: get(record, name, kind) for name, kind in _SEGMENT.items() if name in record}
    if not {"kind", "start", "stop", "boxes", "times"} <= set(made) or not 0 <= made["start"] <= made["stop"] < 2**31:
        raise TraceError("trace.json in it: a segment without a kind, a start or a stop.")
    return made


_SEGMENT = {"kind": str, "start": int, "stop": int, "media": int, "role": str, "rows": int, "cols": int,
            "boxes": bool, "times": bool}  # fmt: skip


def _readings(archive: Archive, about: dict) -> dict[str, Any]:
    index = get(about, "readings", dict)
    made: dict[str, Any] = {}
    for name in index:
        arrays = strings(index, name)
        if len(set(arrays)) < len(arrays):
            raise TraceError(f"trace.json in it names an array of reading {name[:80]!a} twice. Expected each once.")
        made[name] = {
            "meta": archive.json(f"readings/{name}/meta.json"),
            "arrays": {array: archive.array(f"readings/{name}/{array}.npy") for array in arrays},
        }
    return made


# --- paths ----------------------------------------------------------------------------------------------------------


def _path(path: Any) -> tuple[str, str]:
    """The path as text, and what to call it."""
    name = os.fspath(path) if isinstance(path, (str, os.PathLike)) else None
    if not isinstance(name, str) or not name:
        raise TraceError(f"{path!r} is no place for a trace. Expected a path, such as 'a.trace'.")
    # shells leave the ~ of --save=~/a.trace; Path's own expanduser fails at "~$notes.trace"
    return os.path.expanduser(name), display_name(name)  # noqa: PTH111
