"""The .trace file: exact there and back, and a clear word on every broken or hostile one."""

import io
import json
import os
import re
import struct
import time
import zipfile
import zlib
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.traces import make_image, make_sound, make_trace, same
from workbench import archive, tracecheck, tracemedia
from workbench.columns import Segment
from workbench.errors import TraceError
from workbench.media import load_image
from workbench.trace import Trace

READINGS = {
    "attention": {
        "meta": {"layers": [0, 5], "what": "ü\u2028", "gap": 1e-7, "none": None},
        "arrays": {
            "map": np.array([[0.5, np.nan, -np.inf], [0.0, -0.0, 1.0]], np.float16),
            "cells": np.arange(24, dtype=np.uint8).reshape(2, 3, 4)[:, ::-1],
            "one": np.array(7, np.int64),
            "none": np.zeros((0, 3), np.float32),
            "mask": np.array([True, False, True]),
            "big_endian": np.arange(3, dtype=">f8"),
        },
    },
    "lens": {"meta": "final norm", "arrays": {}},
}


@pytest.fixture
def good(tmp_path):
    path = tmp_path / "good.trace"
    make_trace(rounds=4, readings=READINGS).save(path)
    return path


def members(path):
    with zipfile.ZipFile(path) as file:
        return {name: file.read(name) for name in file.namelist()}


def pack(path, parts, **how):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in parts.items():
            file.writestr(name, data, **how)
    return path


def changed(path, edit):
    """Rewrite trace.json of a file, with right checksums."""
    parts = members(path)
    about = json.loads(parts["trace.json"])
    edit(about)
    return pack(path, parts | {"trace.json": json.dumps(about)})


def table(**columns):
    fields = [pa.field(name, pa.array(column).type, nullable=False) for name, column in columns.items()]
    file = io.BytesIO()
    pq.write_table(pa.table([pa.array(c) for c in columns.values()], pa.schema(fields)), file,
                   compression="none", use_dictionary=False)  # fmt: skip
    return file.getvalue()


# --- there and back ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "what",
    [
        {},
        {"rounds": 5},
        {"tokens": 0, "finish": "stopped"},
        {"tokens": 1, "top": 1, "images": (), "audio": ()},
        {"tokens": 9, "thought": 4, "audio": (0.41, 2.0), "images": ((1, 97),)},
        {"history": ({"role": "system", "content": [{"type": "text", "text": "<b>"}]},)},
        {"words": [" é", "\x00", "\n", "🦆", "\u202e", ""], "question": "\x00 <turn|> 你好 \U0001f986"},
    ],
    ids=str,
)
def test_every_bit_comes_back(tmp_path, what):
    trace = make_trace(**what)
    trace.save(tmp_path / "a.trace")
    back = Trace.load(str(tmp_path / "a.trace"))
    assert same(trace, back)
    assert back.images == trace.images
    assert not back.tokens.logprob.flags.writeable


def test_nan_infinity_and_prompt_logprobs_come_back(tmp_path):
    trace = make_trace(rounds=3)
    logprob = np.linspace(-3, 0, len(trace.prompt), dtype=np.float32)
    logprob[0] = np.nan
    trace = replace(trace, prompt=replace(trace.prompt, logprob=logprob))
    assert np.isnan(trace.rounds.draft_logprob).sum() == 2  # the last round proposed 1 of 3
    assert np.isneginf(trace.tokens.top_sample_logprob).sum() == 2 * len(trace)
    trace.save(tmp_path / "a.trace")
    assert same(trace, Trace.load(tmp_path / "a.trace"))


def test_readings_come_back(good):
    back = Trace.load(good).readings
    assert list(back) == ["attention", "lens"]
    for name, reading in READINGS.items():
        assert back[name]["meta"] == reading["meta"]
        assert set(back[name]["arrays"]) == set(reading["arrays"])
        for key, array in reading["arrays"].items():
            got = back[name]["arrays"][key]
            assert got.shape == array.shape
            assert got.dtype == array.dtype.newbyteorder("<")
            assert np.array_equal(got, array, equal_nan=array.dtype.kind == "f")


def test_names_with_points_come_back(tmp_path):
    arrays = {"v.": np.arange(3), "a..b": np.arange(2), "c...npy": np.arange(1)}
    trace = make_trace(readings={"run..2": {"meta": 1, "arrays": arrays}, "x.": {"meta": 2, "arrays": {}}})
    trace.save(tmp_path / "a.trace")
    back = Trace.load(tmp_path / "a.trace")
    assert sorted(back.readings) == ["run..2", "x."]
    assert {name: array.tolist() for name, array in back.readings["run..2"]["arrays"].items()} == {
        "v.": [0, 1, 2], "a..b": [0, 1], "c...npy": [0]}  # fmt: skip


def test_equal_traces_give_equal_bytes_and_no_trace_of_when(tmp_path):
    for name in "ab":
        make_trace(rounds=2, readings=READINGS).save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    with zipfile.ZipFile(tmp_path / "a") as file:
        assert {info.date_time for info in file.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_the_tables_are_for_other_programs_too(good):
    parts = members(good)
    tokens = pq.read_table(io.BytesIO(parts["tokens.parquet"]))
    assert tokens.column_names[:3] == ["token_id", "piece", "logprob"]
    assert tokens["piece"].to_pylist()[:3] == ["A", " red", " circle"]
    assert pq.read_metadata(io.BytesIO(parts["top.parquet"])).num_rows == 5 * tokens.num_rows


def test_media_are_kept_once_by_the_hash_of_what_is_stored(tmp_path):
    picture = make_image(30, 50)
    trace = make_trace(audio=(), images=((30, 50), (30, 50)))
    trace = replace(trace, images=(picture, replace(picture, name="again.png")))
    trace.save(tmp_path / "a.trace")
    (name,) = [name for name in members(tmp_path / "a.trace") if name.startswith("media/")]
    assert name == f"media/{sha256(picture.data).hexdigest()}.png"
    back = Trace.load(tmp_path / "a.trace")
    assert [image.name for image in back.images] == ["scene.png", "again.png"]
    assert back.images[1].sha256 == picture.sha256 != sha256(picture.data).hexdigest()


def test_half_a_surrogate_is_replaced_so_that_others_can_read_the_file(tmp_path):
    replace(make_trace(), text="a\ud800b").save(tmp_path / "a.trace")
    assert Trace.load(tmp_path / "a.trace").text == "a\ufffdb"


# --- saving -----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name == "nt", reason="links need rights that a Windows user may lack")
def test_saving_replaces_a_file_and_follows_a_link(tmp_path, good):
    link = tmp_path / "link.trace"
    link.symlink_to(good)
    make_trace(tokens=3).save(link)
    assert link.is_symlink()
    assert len(Trace.load(good)) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["good.trace", "link.trace"]


def test_a_failed_save_leaves_the_old_file_and_nothing_else(good, monkeypatch):
    before = good.read_bytes()

    def full(self, *args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "writestr", full)
    with pytest.raises(TraceError, match=r"good\.trace was not saved: No space left"):
        make_trace().save(good)
    assert good.read_bytes() == before
    assert list(good.parent.iterdir()) == [good]


def test_where_a_trace_cannot_go(tmp_path):
    for path in (tmp_path, tmp_path / "missing" / "a.trace", tmp_path / "a\0.trace"):
        with pytest.raises(TraceError, match="was not saved"):
            make_trace().save(path)
    for path in (None, 3, b"a.trace", ""):
        with pytest.raises(TraceError, match="no place for a trace"):
            make_trace().save(path)


@pytest.mark.parametrize(
    ("readings", "word"),
    [
        ({"../up": {"meta": 1, "arrays": {}}}, "cannot name"),
        ({"a": {"meta": 1, "arrays": {"x/y": np.zeros(2)}}}, "cannot name"),
        ({"a": {"meta": float("nan"), "arrays": {}}}, "finite numbers"),
        ({"a": {"meta": np.float32(1), "arrays": {}}}, "written as JSON"),
        ({"a": {"meta": 1, "arrays": {"x": np.array([object()])}}}, "Expected numbers"),
        ({"a": np.zeros(3)}, "is not"),
    ],
)
def test_readings_that_cannot_be_kept(tmp_path, readings, word):
    with pytest.raises(TraceError, match=word):
        make_trace(readings=readings).save(tmp_path / "a.trace")
    assert not list(tmp_path.iterdir())


def test_a_trace_that_contradicts_itself_is_not_saved(tmp_path):
    trace = make_trace()
    tokens = replace(trace.tokens, entropy=np.full(len(trace), np.nan))
    with pytest.raises(TraceError, match=r"tokens\.entropy holds nan"):
        replace(trace, tokens=tokens).save(tmp_path / "a.trace")
    short = replace(trace, prompt=replace(trace.prompt, segments=trace.prompt.segments[:-1]))
    with pytest.raises(TraceError, match="segments of the prompt end at"):
        short.save(tmp_path / "a.trace")


def test_what_could_not_be_read_back_is_not_saved(tmp_path, monkeypatch):
    path = tmp_path / "a.trace"
    many = {f"a{k}": np.zeros(1, np.float32) for k in range(1001)}
    with pytest.raises(TraceError, match="1,001 arrays"):
        make_trace(readings={"x": {"meta": {}, "arrays": many}}).save(path)
    with pytest.raises(TraceError, match=r"its JSON has [0-9,]+ values"):
        make_trace(readings={"x": {"meta": [0] * 1_100_000, "arrays": {}}}).save(path)
    large = load_image(np.zeros((8100, 8100, 3), np.uint8), max_pixels=10**8)
    with pytest.raises(TraceError, match="64 million"):
        replace(make_trace(images=((36, 60),), audio=()), images=(large,)).save(path)
    tokens = make_trace().tokens
    columns = {name: getattr(tokens, name)[:, :0] for name in ("top_ids", "top_logprob", "top_sample_logprob")}
    none = replace(tokens, top_pieces={}, **columns)
    with pytest.raises(TraceError, match="without an alternative"):
        replace(make_trace(), tokens=none).save(path)
    monkeypatch.setattr(tracecheck, "MAX_ROWS", 20)
    with pytest.raises(TraceError, match="more than 20"):
        make_trace().save(path)
    assert not path.exists()


# --- broken and hostile files -----------------------------------------------------------------------------------------


def refused(path, match):
    with pytest.raises(TraceError, match=match) as caught:
        Trace.load(path)
    assert re.escape(Path(path).name) in re.escape(str(caught.value))


def test_what_is_no_trace(tmp_path):
    refused(tmp_path / "missing.trace", "no such file")
    refused(tmp_path, "no file but a folder")
    if os.name == "posix":
        refused("/dev/null", "it is no file")
    for name, data, word in [
        ("empty.trace", b"", "empty"),
        ("text.trace", b"hello " * 30, "not a zip"),
        ("pickle.trace", b"\x80\x04N.", "not a zip"),
        ("magic.trace", b"PK\x03\x04", "not a zip"),
    ]:
        (tmp_path / name).write_bytes(data)
        refused(tmp_path / name, word)
    refused(pack(tmp_path / "zip.trace", {"word/document.xml": "<x/>"}), "no trace.json")
    refused(pack(tmp_path / "none.trace", {}), "no trace.json")
    refused(pack(tmp_path / "other.trace", {"trace.json": "[]"}), "not one of ours")
    refused(pack(tmp_path / "other.trace", {"trace.json": '{"format": "zed"}'}), "not one of ours")
    with pytest.raises(TraceError, match="no place"):
        Trace.load(None)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.trace")
    refused(tmp_path / "pipe.trace", "it is no file")


def test_versions(good):
    refused(changed(good, lambda about: about.update(version=2)), r"newer workbench \(format version 2.*Take the newer")
    later = changed(good, lambda about: about.update(version=2))
    refused(pack(later, members(later) | {"spans.parquet": b"new"}), "newer workbench")  # also with a member it added
    refused(changed(good, lambda about: about.update(version=0)), "version 0")
    refused(changed(good, lambda about: about.update(version="1")), "Expected int")


@pytest.mark.parametrize(
    "name",
    ["../evil.json", "/etc/passwd", "media/../../x.png", "C:\\x", "media/" + "A" * 64 + ".png",
     "readings/../trace.json", "readings/a/..", "..", "readings/a/../b.npy", "readings/a/b/c.npy",
     "trace.pkl", "media/", "readings/é/meta.json"],
)  # fmt: skip
def test_members_that_no_trace_has(good, name):
    refused(pack(good, members(good) | {name: b"x"}), "which no trace does|no trace is|does not mention")


def test_a_member_too_many_twice_or_missing(good, tmp_path):
    parts = members(good)
    with zipfile.ZipFile(tmp_path / "twice.trace", "w") as file:
        for name in parts:
            file.writestr(name, parts[name])
        with pytest.warns(UserWarning, match="Duplicate"):
            file.writestr("trace.json", parts["trace.json"])
    refused(tmp_path / "twice.trace", "twice")
    refused(pack(tmp_path / "more.trace", parts | {f"media/{'0' * 64}.png": b"x"}), "does not mention")
    for gone in parts:
        if gone != "trace.json":
            left = {name: data for name, data in parts.items() if name != gone}
            refused(pack(tmp_path / "less.trace", left), f"{gone} is missing")


def test_media_that_are_not_what_was_saved(good):
    parts = members(good)
    name = next(name for name in parts if name.endswith(".png"))
    other = make_image(5, 9).data
    refused(pack(good, parts | {name: other}), "its hash is another")
    stored = sha256(b"no picture").hexdigest()
    parts = {n: d for n, d in parts.items() if n != name} | {f"media/{stored}.png": b"no picture"}
    about = json.loads(parts["trace.json"])
    about["images"][[f"media/{i['stored']}.png" for i in about["images"]].index(name)]["stored"] = stored
    refused(pack(good, parts | {"trace.json": json.dumps(about)}), "the data looks like")


def test_sizes_are_known_before_anything_is_unpacked(good, monkeypatch):
    parts = members(good)
    bomb = pack(good.with_name("bomb.trace"), parts | {"trace.json": b" " * (20 << 20)})
    assert bomb.stat().st_size < 200_000
    wide = pack(good.with_name("wide.trace"), parts | {"tokens.parquet": bytes(10_000_001)})

    def nothing(self, *args, **more):
        raise AssertionError("it was read")

    monkeypatch.setattr(zipfile.ZipFile, "open", nothing)
    refused(bomb, r"20,971,520 bytes. Expected at most 16,777,216")
    monkeypatch.setattr(archive, "MAX_FILE", 10_000_000)
    refused(wide, "unpacks to more than 10,000,000")
    monkeypatch.setattr(archive, "MAX_MEMBERS", 5)
    refused(good, "members. Expected at most 5")


def test_headers_that_take_for_ever_to_read(tmp_path):
    """Each is a few kilobytes, and took minutes or gigabytes, or ended in an error of Python's own."""
    path = tmp_path / "a.trace"
    make_trace(readings={"x": {"meta": {}, "arrays": {"a": np.zeros(3, np.float32)}}}).save(path)
    good = members(path)

    def numpy_file(shape):
        header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (" + shape + b"), } \n"
        return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header

    began = time.process_time()
    for shape in (b"1" * 40 + b"X,", b"1, " * 5000):
        refused(pack(path, good | {"readings/x/a.npy": numpy_file(shape)}), "of a kind that a trace does not hold")
    refused(pack(path, good | {"readings/x/a.npy": numpy_file(b"0, 999999999999, 999999999999")}), "no array can have")
    deep = b"\x19" * 5000
    refused(pack(path, good | {"times.parquet": b"PAR1" + deep + len(deep).to_bytes(4, "little") + b"PAR1"}), "broken")
    empty = b"\x19\xfc\xff\xff\x3f" + bytes((1 << 20) - 5)  # a list of a million empty structures
    footer = b"PAR1" + empty + len(empty).to_bytes(4, "little") + b"PAR1"
    refused(pack(path, good | {"times.parquet": footer}), "broken")
    lists = b"[" + b"[]," * 600_000 + b"[]]"
    refused(pack(path, good | {"readings/x/meta.json": lists}), r"more than 1,048,576 values")
    assert time.process_time() - began < 20


@pytest.mark.parametrize("name", ["~$notes.trace", "~nosuchuser/a.trace"])
def test_a_tilde_that_is_no_home(name):
    with pytest.raises(TraceError, match="no such file"):
        Trace.load(name)


@pytest.mark.parametrize("lie", [10, 5_000_000])
def test_a_size_that_lies(good, lie):
    """The directory and the local header say another size than unpacks."""
    parts = members(good)
    parts["trace.json"] = parts["trace.json"] + b" " * 1_000_000
    pack(good, parts)
    data = bytearray(good.read_bytes())
    with zipfile.ZipFile(good) as file:
        (info,) = [info for info in file.infolist() if info.filename == "trace.json"]
    at = data.index(b"PK\x01\x02")
    while data[at + 46 : at + 56] != b"trace.json":
        at = data.index(b"PK\x01\x02", at + 4)
    for place in (at + 24, info.header_offset + 22):
        data[place : place + 4] = struct.pack("<I", lie)
    good.write_bytes(data)
    refused(good, "trace.json in it is (broken|not as long)")


def test_a_checksum_that_is_wrong(good):
    data = bytearray(good.read_bytes())
    with zipfile.ZipFile(good) as file:
        info = next(info for info in file.infolist() if info.filename.endswith(".png"))
    data[info.header_offset + 30 + len(info.filename) + 50] ^= 1
    good.write_bytes(data)
    refused(good, "in it is broken .*CRC")


def test_an_encrypted_or_oddly_packed_member(good, tmp_path):
    parts = members(good)
    with zipfile.ZipFile(tmp_path / "bzip2.trace", "w", zipfile.ZIP_BZIP2) as file:
        for name, data in parts.items():
            file.writestr(name, data)
    refused(tmp_path / "bzip2.trace", "packed in a way")
    data = bytearray(good.read_bytes())
    at = data.index(b"PK\x01\x02")
    data[at + 8] |= 1
    good.write_bytes(data)
    refused(good, "encrypted")


def test_something_added_at_the_end_or_before(good):
    data = good.read_bytes()
    good.write_bytes(data + b"x")
    refused(good, "cut short, or something was added")
    good.write_bytes(b"#!/bin/sh\n" + data)
    refused(good, "not a zip")
    good.write_bytes(b"PK\x03\x04" + data)
    refused(good, "added at its end")


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("[" * 100_000, "JSON"),
        ("[" * 60 + "]" * 60, "nested deeper than 40"),
        ('{"a": NaN}', "NaN is no number"),
        ('{"a": 1e999}', "beyond 64 bits"),
        ('{"a": ' + "9" * 30 + "}", "beyond 64 bits"),
        ('{"a": ' + "9" * 9000 + "}", "JSON"),
        ('{"a": 1, "a": 2}', "twice"),
        ('{"a": "\\ud800"}', "surrogate"),
        (b"\xff\xfe{", "JSON"),
        ("", "JSON"),
    ],
)
def test_hostile_json(good, text, word):
    refused(pack(good, members(good) | {"trace.json": text}), word)


@pytest.mark.parametrize(
    ("path", "value", "word"),
    [
        (["rows", "tokens"], 3, "rows. Expected 3"),
        (["rows", "tokens"], 2**40, "Expected 0 to"),
        (["rows", "tokens"], -1, "Expected 0 to"),
        (["rows", "top"], 2**24, "more than"),
        (["rows", "drafts"], 2, "rows"),
        (["rows"], [], "Expected dict"),
        (["text"], 3, "Expected str"),
        (["settings", "temperature"], "hot", r"settings\.temperature"),
        (["settings", "temperature"], True, r"settings\.temperature"),
        (["settings", "seed"], 1.5, r"settings\.seed"),
        (["model", "layers"], [1], r"model\.layers"),
        (["model", "versions"], {"numpy": 2}, r"model\.versions"),
        (["model", "name"], None, r"model\.name"),
        (["timing", "total_s"], -1, r"timing\.total_s"),
        (["prompt_segments", 1, "start"], 5, "where it must start"),
        (["prompt_segments", 1, "stop"], 2, "a stop"),
        (["prompt_segments", 0, "kind"], "magic", "magic"),
        (["prompt_segments", 0], 7, "no mapping"),
        (["prompt_segments", 2, "media"], 2, "image 2; there are 2"),
        (["prompt_segments", 2, "rows"], 4, "4×5 patches"),
        (["prompt_segments", 2, "boxes"], False, "rows. Expected"),
        (["answer_segments", 0, "stop"], 2**31, "a stop"),
        (["answer_segments"], [], "no error"),
        (["messages", 0], [], "without a role"),
        (["messages", 0, "content"], [{"type": "text", "text": 3}], "without a role"),
        (["images", 0], None, "'stored'"),
        (["images", 0, "stored"], "../../etc/passwd", "is missing"),
        (["images", 0, "mime"], "image/svg+xml", "is missing"),
        (["images", 0, "sha256"], "x", "no SHA-256"),
        (["images", 0, "notes"], [1], "list of texts"),
        (["audio", 0, "rate_in"], -3, "Expected 0 to"),
        (["readings", "attention"], ["../x"], "is missing"),
        (["readings", "other"], [], "is missing"),
        (["readings"], {}, "does not mention"),
    ],
)  # fmt: skip
def test_fields_of_trace_json(good, path, value, word):
    def edit(about):
        for key in path[:-1]:
            about = about[key]
        about[path[-1]] = value

    changed(good, edit)
    if word == "no error":
        assert Trace.load(good).segments == ()
    else:
        refused(good, word)


def test_a_file_of_an_older_workbench_lacks_fields_that_have_defaults(good):
    changed(good, lambda about: about["settings"].pop("thinking") and None)
    assert Trace.load(good).settings.thinking is False


@pytest.mark.parametrize(
    ("name", "columns", "word"),
    [
        ("boxes", {"left": np.zeros(3, np.float32)}, "rows"),
        ("times", {"start_ms": np.zeros(33), "stop_ms": np.zeros(33)}, "columns start_ms, stop_ms"),
        ("times", {"start_ms": np.zeros(33), "end_ms": np.zeros(33, np.float32)}, "is FLOAT. Expected DOUBLE"),
        ("times", {"start_ms": np.full(33, np.nan), "end_ms": np.zeros(33)}, "start_ms of a segment holds nan"),
        ("times", {"start_ms": np.ones(33), "end_ms": np.zeros(33)}, "holds -1.0"),
        ("pieces", {"token_id": np.zeros(17, np.int32), "piece": np.zeros(17, np.int32)}, "piece is"),
    ],
)  # fmt: skip
def test_tables_that_do_not_fit(good, name, columns, word):
    assert Trace.load(good).prompt.segment("audio").stop - Trace.load(good).prompt.segment("audio").start == 33
    about = json.loads(members(good)["trace.json"])
    columns = {k: v[: about["rows"]["pieces"]] if name == "pieces" else v for k, v in columns.items()}
    refused(pack(good, members(good) | {f"{name}.parquet": table(**columns)}), word)


def rewritten(good, name, column, values):
    """One column of a table replaced."""
    parts = members(good)
    old = pq.read_table(io.BytesIO(parts[f"{name}.parquet"]))
    new = {c: values if c == column else old[c].to_numpy(zero_copy_only=False) for c in old.column_names}
    new = {c: np.asarray(v, old[c].to_numpy().dtype) if c != "piece" else list(v) for c, v in new.items()}
    return pack(good, parts | {f"{name}.parquet": table(**new)})


@pytest.mark.parametrize(
    ("name", "column", "value", "word"),
    [
        ("tokens", "token_id", -5, r"tokens\.token_id holds -5 \(number 0\)"),
        ("tokens", "source", 5, r"tokens\.source holds 5"),
        ("tokens", "source", -1, r"tokens\.source holds -1"),
        ("tokens", "round", 4, r"tokens\.round holds 4"),
        ("tokens", "logprob", np.nan, r"tokens\.logprob holds nan"),
        ("tokens", "logprob", 1.0, r"tokens\.logprob holds 1"),
        ("tokens", "time_s", np.inf, r"tokens\.time_s holds inf"),
        ("top", "top_sample_logprob", np.nan, "holds nan"),
        ("rounds", "accepted", 4, r"rounds\.accepted holds 4"),
        ("rounds", "proposed", 0, "larger than"),
        ("drafts", "target_logprob", np.inf, "holds inf"),
        ("prompt", "token_id", -1, r"prompt\.ids holds -1"),
    ],
)
def test_numbers_out_of_range(good, name, column, value, word):
    rows = pq.read_metadata(io.BytesIO(members(good)[f"{name}.parquet"])).num_rows
    refused(rewritten(good, name, column, np.full(rows, value)), word)


def test_parquet_that_unfolds_gaps_or_nests(good):
    parts = members(good)
    old = pq.read_table(io.BytesIO(parts["tokens.parquet"]))
    for compression, schema, word in (
        ("snappy", old.schema, "is compressed"),
        ("none", pa.schema([field.with_nullable(True) for field in old.schema]), "may have gaps"),
    ):
        file = io.BytesIO()
        pq.write_table(old.cast(schema), file, compression=compression)
        refused(pack(good, parts | {"tokens.parquet": file.getvalue()}), word)
    file = io.BytesIO()
    nested = pa.table({"start_ms": [[0.0]] * 33, "end_ms": [[0.0]] * 33})
    pq.write_table(nested, file, compression="none")
    refused(pack(good, parts | {"times.parquet": file.getvalue()}), "times.parquet in it")
    for data in (b"", b"PAR1", b"PAR1" * 10, parts["tokens.parquet"][:-20]):
        refused(pack(good, parts | {"tokens.parquet": data}), "Parquet table, or cut short|no table that a trace holds")


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\x93NUMPY", b"\x93NUMPY\x01\x00\xff\xff",
        b"\x93NUMPY\x01\x00\x46\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,), }            \n\x80\x04N.",
        b"\x93NUMPY\x01\x00\x46\x00{'descr': '<f4', 'fortran_order': False, 'shape': (999999999999,), } \n",
        b"\x93NUMPY\x01\x00\x46\x00{'descr': '<f4', 'fortran_order': True, 'shape': (0,), }             \n",
    ],
)  # fmt: skip
def test_hostile_arrays(good, data):
    refused(pack(good, members(good) | {"readings/attention/map.npy": data}), r"map\.npy in it")


def test_media_that_unpack_to_too_much(good, monkeypatch):
    monkeypatch.setattr(tracecheck, "MAX_DECODED", 9_000)  # the pictures have 6,480 and 3,000 bytes
    refused(good, "of 92,680 bytes decoded|unpack to more")


def test_a_picture_too_large_for_the_model_side_is_refused_by_its_header(good):
    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))  # noqa: E731
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    parts, stored = members(good), sha256(png).hexdigest()
    about = json.loads(parts["trace.json"])
    del parts[f"media/{about['images'][0]['stored']}.png"]
    about["images"][0]["stored"] = stored
    refused(pack(good, parts | {f"media/{stored}.png": png, "trace.json": json.dumps(about)}), "40,000×40,000")


# --- members named again and again ------------------------------------------------------------------------------------


def counted(monkeypatch):
    """How often each member is read from now on."""
    reads, read = {}, archive.Archive.read

    def counting(self, name, *more):
        data = read(self, name, *more)
        reads[name] = reads.get(name, 0) + 1
        return data

    monkeypatch.setattr(archive.Archive, "read", counting)
    return reads


def with_video(good, frames, data):
    """A file with a video whose frames are all one member."""
    stored = sha256(data).hexdigest()
    record = {"name": "v", "sha256": "0" * 64, "duration_ms": 1000.0, "fps": 1.0, "frames_in": frames, "notes": [],
              "frames": [{"stored": stored, "seconds": 0.5}] * frames}  # fmt: skip
    parts = members(good)
    about = json.loads(parts["trace.json"])
    about["video"] = [record, record | {"name": "w"}]
    return pack(good.with_name("video.trace"), parts | {f"media/{stored}.png": data, "trace.json": json.dumps(about)})


def test_frames_that_are_one_member_are_read_once_and_share_their_pixels(good, monkeypatch):
    path, reads = with_video(good, 256, make_image(6, 8).data), counted(monkeypatch)
    first, second = Trace.load(path).video
    assert max(reads.values()) == 1
    assert (len(first), first.name, second.name) == (256, "v", "w")
    assert len({id(still.pixels) for still in (*first.stills, *second.stills)}) == 1


def test_too_many_or_too_large_frames_are_refused_before_one_is_read(good, monkeypatch):
    reads, frame = counted(monkeypatch), make_image(6, 8).data
    refused(with_video(good, 257, frame), "a video of 257 frames. Expected at most 256")
    monkeypatch.setattr(tracemedia, "MAX_FRAME_BYTES", len(frame) - 1)
    refused(with_video(good, 2, frame), f"has {len(frame)} bytes. Expected at most {len(frame) - 1}")
    assert reads["trace.json"] == 2
    assert f"media/{sha256(frame).hexdigest()}.png" not in reads


def test_an_array_is_named_once(good):
    refused(changed(good, lambda a: a["readings"]["attention"].append("map")), "an array of reading 'attention' twice")


def test_a_picture_that_is_shown_twice_counts_once(tmp_path, monkeypatch):
    """Saving and loading count alike."""
    assert tracecheck.MAX_DECODED > 15 * 24_000_000 * 3, "a class's photographs"
    one, trace = make_image(30, 50), make_trace(images=((30, 50),) * 3, audio=())  # 4,500 bytes of pixels each
    trace = replace(trace, images=(one, replace(one, name="b.png"), make_image(30, 50)))
    for module in (tracecheck, tracemedia):
        monkeypatch.setattr(module, "MAX_DECODED", 4_500)
    trace.save(tmp_path / "a.trace")
    assert len(Trace.load(tmp_path / "a.trace").images) == 3
    other = replace(trace, images=(one, one, make_image(30, 50, seed=1)))
    with pytest.raises(TraceError, match=r"3 media of 9,000 bytes decoded\. Expected at most 1000 and 4,500"):
        other.save(tmp_path / "b.trace")


def test_records_of_one_picture_or_sound_are_decoded_once_with_names_and_notes_of_their_own(tmp_path, monkeypatch):
    picture, sound = make_image(30, 50), make_sound(0.2)
    trace = make_trace(images=((30, 50),) * 3, audio=(0.2, 0.2))
    trace = replace(trace, images=(picture, replace(picture, name="b.png", notes=("turned",)),
                                   replace(picture, name="c\u202e.png", sha256="1" * 64, notes=("a\nb",))),
                    audio=(sound, replace(sound, name="b.wav", rate_in=8000, channels_in=2)))  # fmt: skip
    trace.save(tmp_path / "a.trace")
    reads = counted(monkeypatch)
    back = Trace.load(tmp_path / "a.trace")
    assert max(reads.values()) == 1
    assert [image.name for image in back.images] == ["scene.png", "b.png", "c.png"]
    assert [image.sha256 for image in back.images] == [picture.sha256, picture.sha256, "1" * 64]
    assert [image.notes for image in back.images] == [(), ("turned",), ("a b",)]
    assert back.images[2].pixels is back.images[0].pixels
    assert [(a.name, a.rate_in, a.channels_in) for a in back.audio] == [("word.wav", 16000, 1), ("b.wav", 8000, 2)]
    refused(changed(tmp_path / "a.trace", lambda a: a["images"][1].update(sha256="x")), r"b\.png: .*SHA-256")


# --- fuzzing ----------------------------------------------------------------------------------------------------------

SMALL = {"tokens": 3, "images": ((5, 9),), "audio": (0.05,), "top": 2}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    path = tmp_path_factory.mktemp("fuzz") / "small.trace"
    make_trace(**SMALL, readings={"a": {"meta": [1], "arrays": {"b": np.arange(4.0)}}}).save(path)
    return path, path.read_bytes(), members(path)


def opens_or_is_refused(path):
    try:
        trace = Trace.load(path)
    except TraceError as error:
        assert path.name in str(error)  # noqa: PT017 - it may as well open
    else:
        assert len(trace.tokens.piece) == len(trace.tokens)
        assert isinstance(trace._repr_html_(), str)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(flips=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), max_size=4), keep=st.none() | st.floats(0, 1))
def test_bytes_flipped_and_cut(small, tmp_path, flips, keep):
    data = bytearray(small[1])
    for where, bits in flips:
        data[min(int(where * len(data)), len(data) - 1)] ^= bits
    path = tmp_path / "fuzzed.trace"
    path.write_bytes(data if keep is None else data[: int(keep * len(data))])
    opens_or_is_refused(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(data=st.data())
def test_bytes_flipped_inside_members_with_right_checksums(small, tmp_path, data):
    parts = dict(small[2])
    name = data.draw(st.sampled_from(sorted(parts)))
    content = bytearray(parts[name])
    for where, bits in data.draw(st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), min_size=1, max_size=3)):
        content[min(int(where * len(content)), len(content) - 1)] ^= bits
    path = pack(tmp_path / "fuzzed.trace", parts | {name: bytes(content)})
    opens_or_is_refused(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=5), inside, max_size=3),
    max_leaves=5,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(data=st.data())
def test_any_json_in_the_place_of_any_field(small, tmp_path, data):
    about = json.loads(small[2]["trace.json"])
    at = about
    while True:
        key = data.draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
        if not isinstance(at[key], (dict, list)) or not at[key] or data.draw(st.booleans()):
            break
        at = at[key]
    at[key] = data.draw(JSON)
    path = pack(tmp_path / "fuzzed.trace", small[2] | {"trace.json": json.dumps(about)})
    opens_or_is_refused(path)


def test_a_segment_checks_itself():
    with pytest.raises(TraceError, match="forwards"):
        Segment("text", 5, 3)
    with pytest.raises(TraceError, match=r"boxes of a segment of 3 tokens have shape \(2, 4\)"):
        Segment("image", 0, 3, boxes=np.zeros((2, 4)))
