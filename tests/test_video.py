"""Videos: the right frames at the right times, the tokens and numbers of Transformers' own processor, and replay.

Pocket was not trained on videos; what it answers is no matter here.
"""

import io
import json
import struct
import weakref
import zipfile
import zlib
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

import workbench
from workbench import cli
from workbench.errors import MediaError, PromptError, TraceError
from workbench.media import Video, boxes, load_image, load_video, sampled
from workbench.media import video as module
from workbench.pocket import WEIGHTS
from workbench.pocket.examples import SCENE
from workbench.trace import Trace

av = pytest.importorskip("av")


def clip(n=9, height=64, width=96, seed=1):
    """(n, height, width, 3) uint8; every frame a flat colour of its own with a bright square that moves right."""
    rng = np.random.default_rng(seed)
    frames = np.empty((n, height, width, 3), np.uint8)
    for k in range(n):
        frames[k] = rng.integers(0, 200, 3)
        left = k * (width - 8) // max(n - 1, 1)
        frames[k, 8:16, left : left + 8] = 255
    return frames


def encoded(frames, fps=25, container="matroska", codec="ffv1", pixels="bgr0", sound=False, times=None):
    """A video file; FFV1 in RGB keeps every bit. ``times``: of each frame, in milliseconds."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as out:
        stream = out.add_stream(codec, rate=fps)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixels
        if times is not None:
            stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        track = out.add_stream("pcm_s16le", rate=8000) if sound else None
        for k, pixels_ in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels_, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[k], Fraction(1, 1000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
        if track is not None:
            tone = av.AudioFrame.from_ndarray(np.zeros((1, 4000), np.int16), format="s16", layout="mono")
            tone.sample_rate = 8000
            out.mux(track.encode(tone))
            out.mux(track.encode())
    return file.getvalue()


# --- reading ----------------------------------------------------------------------------------------------------------


def test_a_lossless_file_gives_exactly_its_frames_and_times():
    frames = clip(50)
    video = load_video(encoded(frames, 5), name="clip.mkv")
    chosen = [k * 50 // 32 for k in range(32)]
    assert chosen[:5] == [0, 1, 3, 4, 6]
    np.testing.assert_array_equal(video.frames, frames[chosen])
    np.testing.assert_allclose(video.seconds, [k / 5 for k in chosen])
    assert (len(video), video.frames_in, video.fps, video.duration_ms) == (32, 50, 5.0, 10_000.0)
    assert (video.height, video.width, video.name, video.notes) == (64, 96, "clip.mkv", ())
    assert video.stills[2].name == "clip.mkv at 00:00.60"
    np.testing.assert_allclose(video.start_ms[:3], [0, 200, 600])
    np.testing.assert_allclose(video.end_ms[[0, 1, -1]], [200, 600, 10_000])
    with pytest.raises(ValueError, match="read-only"):
        video.seconds[0] = 1


@pytest.mark.parametrize(
    ("container", "codec", "pixels"),
    [("mp4", "mpeg4", "yuv420p"), ("mov", "libx264", "yuv420p"), ("webm", "libvpx", "yuv420p"),
     ("avi", "mpeg4", "yuv420p"), ("mpeg", "mpeg2video", "yuv420p"), ("flv", "flv", "yuv420p"), ("gif", "gif", "rgb8")],
)  # fmt: skip
def test_what_cameras_and_browsers_make_is_read(container, codec, pixels, tmp_path):
    frames = np.repeat(np.arange(10, 210, 20, dtype=np.uint8), 64 * 96 * 3).reshape(10, 64, 96, 3)  # ten greys
    path = tmp_path / "clip.bin"  # told apart by content, not by name
    path.write_bytes(encoded(frames, 25, container, codec, pixels))
    video = load_video(path)
    assert (len(video), video.frames_in) == (10, 10)
    np.testing.assert_allclose(video.seconds, np.arange(10) / 25, atol=0.0101)  # GIF and FLV round
    levels = video.frames.mean(axis=(1, 2, 3))
    assert np.abs(levels - np.arange(10, 210, 20)).max() < 20
    assert (np.diff(levels) > 5).all()


def test_uneven_times_are_those_of_the_file():
    video = load_video(encoded(clip(4), 25, times=[0, 40, 1000, 61_500]))
    np.testing.assert_allclose(video.seconds, [0, 0.04, 1, 61.5])
    assert video.stills[3].name.endswith("at 01:01.50")


def test_frames_with_a_rate_either_way_round_and_as_a_list():
    frames = clip(40)
    a, b = load_video((frames, 8)), load_video((Fraction(8), frames))
    assert a == b
    assert a.seconds.tolist() == [k * 40 // 32 / 8 for k in range(32)]
    np.testing.assert_array_equal(a.frames, frames[sampled(40)])
    few = load_video((frames, 8.0), frames=3)
    assert few.seconds.tolist() == [0, 13 / 8, 26 / 8]
    listed = load_video(([frames[0], load_image(frames[1])], 2))
    np.testing.assert_array_equal(listed.frames, frames[:2])
    grey = load_video((frames[..., 0], 8), frames=2)
    assert grey.notes == ("greyscale converted to RGB",) or not grey.notes
    np.testing.assert_array_equal(grey.frames[..., 2], frames[[0, 20], ..., 0])
    assert load_video(a) is a
    assert load_video(a, name="b").name == "b"
    assert a != load_video((frames, 9))
    assert len({a, b}) == 1


def test_sound_is_left_out_and_said_so():
    assert load_video(encoded(clip(3), sound=True)).notes == ("its sound was left out: pass it as audio=",)


def test_large_frames_are_scaled_and_said_so():
    video = load_video((np.zeros((2, 1500, 1000, 3), np.uint8), 1))
    assert (video.height, video.width) == (1254, 836)
    assert video.notes == ("frames scaled from 1000×1500 to 836×1254 pixels",)


def test_large_frames_are_scaled_one_by_one(monkeypatch):
    """Thirty-two frames of an 8K camera are 3 GB; what is kept of them is a tenth of it or less."""
    held, most = [], []
    fitted = module._fitted

    def watched(frame):
        held.append(weakref.ref(frame, held.remove))
        most.append(len(held))
        return fitted(frame)

    monkeypatch.setattr(module, "_fitted", watched)
    frames = np.zeros((6, 1500, 1000, 3), np.uint8)
    video = load_video(encoded(frames, 25, "avi", "mjpeg", "yuvj420p"))
    assert (len(video), video.height, video.width) == (6, 1254, 836)
    assert video.notes == ("frames scaled from 1000×1500 to 836×1254 pixels",)
    assert max(most) <= 2


def turned_mp4(matrix):
    """A video of 64×96 whose header says how to turn it, as phones write it."""
    frame = np.zeros((1, 64, 96, 3), np.uint8)
    frame[0, :32, :48] = 255  # bright at the top left
    data = bytearray(encoded(frame, 25, "mp4", "mpeg4", "yuv420p"))
    at = data.index(b"tkhd") + 4 + 40
    assert struct.unpack_from(">9i", data, at) == (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    struct.pack_into(">9i", data, at, *matrix)
    return bytes(data)


@pytest.mark.parametrize(
    ("matrix", "bright", "said"),
    [((0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30), (0, 1), "90°"),  # clockwise: top left goes to the top right
     ((0, -(1 << 16), 0, 1 << 16, 0, 0, 0, 0, 1 << 30), (1, 0), "90°"),
     ((-(1 << 16), 0, 0, 0, -(1 << 16), 0, 0, 0, 1 << 30), (1, 1), "180°")],
)  # fmt: skip
def test_a_phone_held_upright(matrix, bright, said):
    video = load_video(turned_mp4(matrix))
    height, width = (64, 96) if said == "180°" else (96, 64)
    assert video.frames.shape == (1, height, width, 3)
    quarters = video.frames[0].reshape(2, height // 2, 2, width // 2, 3).mean(axis=(1, 3, 4))
    assert np.unravel_index(quarters.argmax(), (2, 2)) == bright
    assert video.notes == (f"turned upright by {said}",)


PNG = load_image(np.zeros((4, 4, 3), np.uint8)).data


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (PNG, r"no video we read, it looks like a PNG picture\. .*Pictures go in as images"),
        (b"RIFF\0\0\0\0WAVEfmt " + bytes(40), "a WAV sound.*Sounds go in as audio"),
        (b"#EXTM3U\nfile:///etc/passwd\n", "looks like a text file"),
        (b"", r"empty \(0 bytes\)"),
        ("no such clip.mp4", r"no such clip\.mp4: there is no such file"),
        ("https://example.org/a.mp4", "is a URL"),
        (b"\0\0\0\x18ftypisom" + bytes(200), "broken or cut short|holds no"),
        (b"\x1aE\xdf\xa3" + bytes(200), "broken or cut short"),
        (5, "a int cannot be read. Pass the path.*video"),
        (np.zeros((3, 8, 8, 3), np.uint8), r"shape \(3, 8, 8, 3\) uint8: frames without a rate"),
        ((np.zeros((0, 8, 8, 3), np.uint8), 25), "no frames"),
        (([], 25), "no frames"),
        ((np.zeros((3, 8, 8, 3), np.uint8), 0), "fps=0"),
        ((np.zeros((3, 8, 8, 3), np.uint8), float("nan")), "fps=nan"),
        ((np.zeros((3, 8, 8, 3), np.uint8), "25"), "Expected .frames, fps"),
        ((np.zeros((3, 8, 8, 5), np.uint8), 25), r"\(8, 8, 5\)"),
        ((np.zeros((8, 8), np.uint8), 25), r"frames of shape \(8, 8\)"),
        (([np.zeros((4, 8, 3), np.uint8), np.zeros((8, 4, 3), np.uint8)], 1), "several sizes, 8×4 and 4×8"),
        ((np.zeros((7, 4, 4), np.uint8), 0.01), "it lasts 700 s. Expected at most 600 s"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_by_name(source, said):
    with pytest.raises(MediaError, match=said):
        load_video(source)


def test_limits_are_checked_before_anything_is_decoded(monkeypatch):
    def decoding(*_):
        raise AssertionError("decoded")

    monkeypatch.setattr(module, "_decoded", decoding)
    data = encoded(clip(30), 10)
    with pytest.raises(MediaError, match=r"it lasts .* at most 1 s: cut out"):
        load_video(data, max_seconds=1)
    with pytest.raises(MediaError, match="too large"):
        load_video(data, max_bytes=1000)
    monkeypatch.setattr(module, "_MAX_WORK", 30 * 64 * 96 - 1)
    with pytest.raises(MediaError, match="30 frames of 6,144 pixels are too much to decode"):
        load_video(data)
    monkeypatch.setattr(module, "_MAX_PACKETS", 29)
    with pytest.raises(MediaError, match="more than 29 frames"):
        load_video(data)
    monkeypatch.setattr(module, "_MAX_PIXELS", 6000)
    with pytest.raises(MediaError, match="96×64 pixels"):
        load_video(data)
    with pytest.raises(MediaError, match="frames=0"):
        load_video(data, frames=0)


def patched(data, table, *words, last=False):
    """A file with the numbers at the beginning of a table changed, behind its version; None keeps one."""
    at = (data.rindex if last else data.index)(table) + 8
    kept = struct.unpack_from(f">{len(words)}I", data, at)
    return data[:at] + struct.pack(f">{len(words)}I", *(k if w is None else w for k, w in zip(kept, words, strict=True))
                                   ) + data[at + 4 * len(words) :]  # fmt: skip


def box(name, *inside):
    body = b"".join(inside)
    return struct.pack(">I4s", len(body) + 8, name) + body


def fragment(count):
    """Samples that need no byte in their table."""
    track = box(b"tfhd", struct.pack(">II", 0x020000, 1)), box(b"trun", struct.pack(">II", 0, count))
    return box(b"moof", box(b"mfhd", struct.pack(">II", 0, 1)), box(b"traf", *track))


def packed_header(data):
    """The header compressed, as QuickTime could."""
    at = data.index(b"moov") - 4
    end = at + int.from_bytes(data[at : at + 4], "big")
    packed = box(b"cmvd", struct.pack(">I", end - at), zlib.compress(data[at:end]))
    return data[:at] + box(b"moov", box(b"cmov", box(b"dcom", b"zlib"), packed)) + data[end:]


MP4 = encoded(clip(6), 25, "mp4", "libx264", "yuv420p")
MOV = encoded(clip(6), 25, "mov", "libx264", "yuv420p", sound=True)


@pytest.mark.parametrize(
    ("data", "count"),
    [
        (patched(MP4, b"stsz", 1, 400_000), "400,000"),
        (patched(MP4, b"stsz", 0, 400_000), "400,000"),
        (patched(MP4, b"stsz", 1 << 30, 400_000), "400,000"),
        (packed_header(patched(MP4, b"stsz", 1, 400_000)), "400,000"),
        (MP4 + fragment(400_000), "400,006"),
        (MP4 + fragment(len(MP4) - 100) * 2, f"{2 * (len(MP4) - 100) + 6:,}"),
        (patched(patched(MOV, b"stsz", 1, 400_000, last=True), b"stts", None, None, 2, last=True), "400,006"),
        (patched(patched(MOV, b"stsc", None, None, 1 << 31, last=True), b"stco", 9, last=True), "120,795,957"),
    ],
    ids=range(8),
)  # fmt: skip
def test_tables_that_announce_more_samples_than_there_are_bytes(data, count):
    with pytest.raises(MediaError, match=f"announce {count} samples in {len(data):,} bytes"):
        load_video(data)


def test_tables_on_top_of_each_other_take_no_time(monkeypatch):
    heap = (b"stsc" + bytes(4) + b"\x7f" * 4) * 200_000
    with pytest.raises(MediaError, match="on top of each other"):
        load_video(MP4 + box(b"moof", heap))
    monkeypatch.setattr(boxes, "MAX_BOXES", 1000)
    with pytest.raises(MediaError, match="more than 1,000 parts"):
        load_video(MP4 + box(b"free") * 1000)


@pytest.mark.parametrize(
    ("container", "codec", "pixels", "sound"),
    [("mp4", "libx264", "yuv420p", False), ("mov", "libx264", "yuv420p", True), ("mov", "mjpeg", "yuvj420p", True),
     ("mov", "rawvideo", "rgb24", False)],
)  # fmt: skip
def test_tables_of_honest_files_are_no_reason_to_refuse_them(container, codec, pixels, sound):
    """Frames of one size and of many, sounds of one sample a unit, compressed headers, a copy that broke off."""
    data = encoded(clip(6), 25, container, codec, pixels, sound)
    assert len(load_video(data)) == 6
    assert len(load_video(packed_header(data + box(b"free", b"trun")))) == 6
    quiet = patched(MOV, b"stsz", 1, 40_000_000, last=True)  # samples of a sound compressed as QuickTime could
    assert len(load_video(quiet)) == 6


def test_only_sound_in_a_video_file():
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as out:
        track = out.add_stream("pcm_s16le", rate=8000)
        tone = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        tone.sample_rate = 8000
        out.mux(track.encode(tone))
        out.mux(track.encode())
    with pytest.raises(MediaError, match="no picture in it, only sound"):
        load_video(file.getvalue())


def test_every_cut_of_a_file_gives_frames_of_it_or_a_clear_error():
    frames = clip(12)
    data = encoded(frames, 6)
    whole, said = load_video(data).frames, []
    for share in np.linspace(0.05, 0.97, 15):
        try:
            video = load_video(data[: int(len(data) * share)])
        except MediaError as error:
            said.append(str(error))
        else:
            for still in video.frames:
                assert any(np.array_equal(still, frame) for frame in whole)
    assert all(text.startswith("bytes (") for text in said)  # it is named


@pytest.mark.parametrize(
    ("container", "codec", "pixels"),
    [("mp4", "libx264", "yuv420p"), ("webm", "libvpx", "yuv420p"), ("matroska", "ffv1", "bgr0"), ("gif", "gif", "rgb8"),
     ("avi", "mpeg4", "yuv420p")],
)  # fmt: skip
def test_damaged_files_give_frames_or_a_clear_error(container, codec, pixels):
    rng, data, said = np.random.default_rng(7), encoded(clip(8), 10, container, codec, pixels), []
    for _ in range(20):
        damaged = bytearray(data)
        for at in rng.integers(0, len(data), 12):
            damaged[at] = rng.integers(0, 256)
        try:
            assert 1 <= len(load_video(bytes(damaged))) <= 32
        except MediaError as error:
            said.append(str(error))
    assert all(text.startswith("bytes (") for text in said)


def test_without_pyav_frames_still_work(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "av", None)
    data = b"\x1aE\xdf\xa3" + bytes(200)
    with pytest.raises(MediaError, match="pip install av"):
        load_video(data)
    assert len(load_video((clip(2), 1))) == 2


# --- asking -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model():
    pytest.importorskip("torch")
    return workbench.load("pocket", progress=False)


@pytest.fixture(scope="module")
def oracle():
    """Transformers' own model, masks corrected, with eager attention, and its processor."""
    import torch
    from transformers import AutoModelForMultimodalLM, AutoProcessor

    from workbench import masks

    other = AutoModelForMultimodalLM.from_pretrained(WEIGHTS, dtype=torch.float32, attn_implementation="eager").eval()
    masks.correct(other)
    return other, AutoProcessor.from_pretrained(WEIGHTS)


@pytest.fixture(scope="module")
def trace(model):
    """Two videos of other shapes, a picture and a sound in one question."""
    sound = (np.sin(np.arange(4000) / 9).astype(np.float32) / 3, 16_000)
    return model.ask(
        "What moves?", images=[SCENE], audio=[sound], video=[(clip(4), Fraction(1, 20)), (clip(2, 80, 40, 2), 1)],
        temperature=0, max_new_tokens=6, draft=0,
    )  # fmt: skip


def processed(processor, trace):
    """Everything as Transformers' processor makes it from the same media."""
    from transformers.video_utils import VideoMetadata

    turns = [{"role": "user", "content": [{"type": k} for k in ("image", "video", "video", "audio")]}]
    turns[0]["content"].append({"type": "text", "text": "What moves?"})
    text = processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    return processor(
        text=[text], images=[[m.to_pil() for m in trace.images]], audio=[m.samples for m in trace.audio],
        videos=[v.frames for v in trace.video], do_sample_frames=False, return_tensors="pt", add_special_tokens=False,
        video_metadata=[VideoMetadata(total_num_frames=len(v), fps=v.fps, frames_indices=list(range(len(v))))
                        for v in trace.video],
    )  # fmt: skip


def test_tokens_and_numbers_are_those_of_the_processor(model, oracle, trace):
    theirs = processed(oracle[1], trace)
    request = model.request(trace)
    assert trace.prompt.ids.tolist() == theirs["input_ids"][0].tolist()
    assert request.type_ids.tolist() == theirs["mm_token_type_ids"].tolist()
    mine = request.media_inputs()
    n = mine["pixel_values_videos"].shape[1]
    assert mine["pixel_values_videos"].equal(theirs["pixel_values_videos"][:, :n])
    assert mine["video_position_ids"].equal(theirs["video_position_ids"][:, :n])
    assert "00:20 " in "".join(trace.prompt.pieces)
    assert "01:00 " in "".join(trace.prompt.pieces)


def test_frames_are_sampled_as_the_processor_samples_them(oracle):
    from transformers.video_utils import VideoMetadata

    for total in (32, 33, 50, 1000):
        made = oracle[1].video_processor.sample_frames(VideoMetadata(total_num_frames=total, fps=25.0))
        assert sampled(total).tolist() == list(made)
    assert sampled(5).tolist() == [0, 1, 2, 3, 4]  # where theirs raises


def test_the_answer_is_that_of_generate(model, oracle, trace):
    other, processor = oracle
    out = other.generate(**processed(processor, trace), do_sample=False, max_new_tokens=6)
    assert trace.tokens.token_id.tolist() == out[0, len(trace.prompt) :].tolist()
    drafted = model.again(trace, draft=3)
    assert drafted.tokens.token_id.tolist() == trace.tokens.token_id.tolist()


def test_segments_say_which_token_is_which_patch_when(trace):
    frames = [s for s in trace.prompt.segments if s.kind == "video"]
    assert [s.media for s in frames] == [0, 0, 0, 0, 1, 1]
    assert [(s.rows, s.cols) for s in frames] == [(6, 10)] * 4 + [(11, 5)] * 2
    assert [s.role for s in frames] == ["user"] * 6
    assert [s.start_ms[0] for s in frames] == [0, 20_000, 40_000, 60_000, 0, 1000]
    assert [s.end_ms[-1] for s in frames] == [20_000, 40_000, 60_000, 80_000, 1000, 2000]
    np.testing.assert_allclose(frames[0].boxes[11], [9.6, 64 / 6, 19.2, 128 / 6], rtol=1e-6)  # row 1, column 1
    assert trace.prompt.segment("video", 1) is frames[4]
    assert trace.usage.video == 4 * 60 + 2 * 55
    assert "1 image, 1 sound, 2 videos" in repr(trace)
    assert "video 1" in trace._repr_html_()


def test_attention_on_frames_is_that_of_eager(model, oracle, trace):
    import torch

    from workbench import videos

    other = oracle[0]
    videos.correct(other)
    a = model.attend(trace)
    assert a.replay_gap < 1e-4
    request = model.request(trace)
    ids = torch.tensor(trace.ids.astype(np.int64))[None]
    types = torch.nn.functional.pad(request.type_ids, (0, len(trace.tokens)))
    with torch.inference_mode():
        out = other(
            input_ids=ids, attention_mask=torch.ones_like(ids), mm_token_type_ids=types, use_cache=False,
            output_attentions=True, **request.media_inputs(),
        )  # fmt: skip
    first = trace.prompt.segment("video", 0)
    T = len(trace.prompt)
    for layer, weights in enumerate(out.attentions):
        made = a.on_video(0, token=2, layer=layer, head=1, sinks=True)
        assert made.shape == (4, 6, 10)
        row = weights[0, 1, T + 1].numpy()
        places = [s for s in trace.prompt.segments if s.kind == "video" and s.media == 0]
        expected = np.stack([row[s.start : s.stop].reshape(6, 10) for s in places])
        np.testing.assert_allclose(made, expected, atol=2.0**-11, rtol=0)
        # inside a frame a patch sees those behind it, on sliding layers only; the next frame it never sees
        ahead = weights[0, 0, first.start, first.start + 1 : first.stop].max()
        assert (ahead > 0) == (model.info.layers[layer] == "sliding")
        assert weights[0, 0, first.start, first.stop :].max() == 0


def test_score_branch_and_the_second_question(model, trace):
    scored = model.score(trace)
    np.testing.assert_allclose(scored.tokens.logprob, trace.tokens.logprob, atol=1e-4)
    known = np.isfinite(scored.prompt.logprob)
    assert not known[[s.start for s in trace.prompt.segments if s.kind == "video"]].any()
    text = model.score("What?", "A square.", video=[(clip(1), 1)])
    assert text.usage.video == 60
    other = model.branch(trace, at=0, token="Two")
    assert other.prompt.ids.tolist() == trace.prompt.ids.tolist()
    assert other.video == trace.video
    more = model.ask("And then?", history=trace, max_new_tokens=2, temperature=0)
    assert more.video == trace.video
    assert more.usage.cached > len(trace.prompt) * 0.9


def test_the_same_frames_at_other_times_are_another_prompt(model, trace):
    from workbench.prompt import conversation

    video = trace.video[0]
    shifted = replace(video, seconds=video.seconds + 30)
    now, later = (model._prompter.build(conversation("Who?", video=[v])).prompt for v in (video, shifted))
    assert "00:30 " in "".join(later.pieces)
    assert "00:30 " not in "".join(now.pieces)


def test_the_same_question_about_another_video_is_another_prompt(trace):
    other = replace(trace.video[1], stills=trace.video[1].stills[::-1])
    assert workbench.compare(trace, trace).same_prompt
    assert not workbench.compare(trace, replace(trace, video=(trace.video[0], other))).same_prompt


def test_any_forward_pass_of_the_transformers_model_takes_videos(model, trace):
    import torch

    request = model.request(trace)
    with torch.inference_mode():
        out = model.transformer(
            input_ids=request.ids, mm_token_type_ids=request.type_ids, use_cache=False, **request.media_inputs()
        )
    expected = trace.tokens.logprob[0]
    got = out.logits[0, -1].float().log_softmax(-1)[int(trace.tokens.token_id[0])]
    assert float(got) == pytest.approx(float(expected), abs=1e-4)


def test_history_and_parts(model):
    turns = [{"role": "user", "content": [{"type": "video", "video": (clip(2), 1)}, {"type": "text", "text": "See?"}]},
             {"role": "model", "content": "Yes."}]  # fmt: skip
    trace = model.ask("What?", history=turns, max_new_tokens=1)
    assert trace.prompt.messages[0]["content"][0] == {"type": "video", "index": 0}
    assert isinstance(trace.video[0], Video)
    with pytest.raises(PromptError, match="'video': …"):
        model.ask("What?", history=[{"role": "user", "content": [{"type": "video"}]}])
    with pytest.raises(MediaError, match=r"bytes .*no video we read"):
        model.ask("What?", video=[PNG])
    with pytest.raises(PromptError, match="video= and system= go with a question"):
        model.score(trace, video=[(clip(2), 1)])


# --- kept -------------------------------------------------------------------------------------------------------------


def test_a_saved_trace_is_replayed_with_the_same_tokens(model, trace, tmp_path):
    trace.save(tmp_path / "a.trace")
    loaded = Trace.load(tmp_path / "a.trace")
    assert loaded.video == trace.video
    for mine, theirs in zip(loaded.video, trace.video, strict=True):
        np.testing.assert_array_equal(mine.frames, theirs.frames)
        assert (mine.name, mine.notes, mine.fps, mine.frames_in) == (
            theirs.name, theirs.notes, theirs.fps, theirs.frames_in,
        )  # fmt: skip
        assert [s.name for s in mine.stills] == [s.name for s in theirs.stills]
        assert mine.stills[0] == theirs.stills[0]
    assert model.request(loaded).ids.equal(model.request(trace).ids)
    a, b = (model.attend(t, tokens=1).on_video(1, token=1) for t in (trace, loaded))
    np.testing.assert_array_equal(a, b)
    loaded.save(tmp_path / "b.trace")
    assert (tmp_path / "a.trace").read_bytes() == (tmp_path / "b.trace").read_bytes()
    with pytest.raises(TraceError, match="missing"):
        model.attend(replace(loaded, video=()))


def changed(path, change):
    """The file with its trace.json changed."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    about = json.loads(members["trace.json"])
    change(about)
    members["trace.json"] = json.dumps(about).encode()
    out = path.with_name("changed.trace")
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda a: a["video"][0]["frames"].pop(), "does not mention|segment"),
        (lambda a: a["video"].pop(), "does not mention"),
        (lambda a: a["video"][0]["frames"][0].update(stored="0" * 64), "missing"),
        (lambda a: a["video"][0]["frames"][0].update(seconds=99.0), "ascending seconds"),
        (lambda a: a["video"][0]["frames"][0].update(seconds=-1.0), "ascending seconds"),
        (lambda a: a["video"][0].update(fps=0.0), "ascending seconds"),
        (lambda a: a["video"][0].update(frames=5), "frames"),
        (lambda a: a["video"][0].update(frames=[5]), "no frames"),
        (lambda a: a["video"][0].update(frames=[]), "0 frames"),
        (lambda a: a["video"][0].update(sha256="x"), "SHA-256"),
        (lambda a: a["video"][0].update(name=5), "name"),
        (lambda a: a.update(video=[a["video"][0]] * 999), "more than 1000 media"),
        (lambda a: a.update(video=5), "'video' is int"),
        (lambda a: a.update(video=[5]), "frames"),
    ],
)
def test_hostile_records_are_refused(trace, tmp_path, change, said):
    trace.save(tmp_path / "a.trace")
    with pytest.raises(TraceError, match=said):
        Trace.load(changed(tmp_path / "a.trace", change))


def test_a_frame_larger_than_we_write_is_refused_before_it_is_decoded():
    big = load_image(np.zeros((1100, 1000, 3), np.uint8)).data
    with pytest.raises(MediaError, match="more than 1,048,576 pixels"):
        module.video_from_record("a", "0" * 64, [big], [0.0], duration_ms=1.0, fps=1.0, frames_in=1)


def test_from_the_terminal(model, tmp_path, capsys):
    path = tmp_path / "clip.mkv"
    path.write_bytes(encoded(clip(3), 1, sound=True))
    saved = tmp_path / "a.trace"
    said = cli.main(
        ["ask", "What?", "--video", str(path), "--max-new-tokens", "2", "--seed", "1", "--save", str(saved)]
    )
    assert said == 0
    assert "clip.mkv: its sound was left out" in capsys.readouterr().err
    assert Trace.load(saved).video[0].name == "clip.mkv"
    assert cli.main(["ask", "What?", "--video", str(tmp_path / "none.mp4")]) == 1
    assert "none.mp4: there is no such file" in capsys.readouterr().err
