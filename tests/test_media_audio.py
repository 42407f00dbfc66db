"""Sounds: every container, sample format, rate and number of channels against soundfile; limits and broken files."""

import hashlib
import io
import math
import struct
import threading
import time
import tracemalloc
import warnings

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from workbench.errors import MediaError
from workbench.media import Audio, audio_from_record, load_audio, mpeg
from workbench.media.containers import wav

RNG = np.random.default_rng(11)
SECRET = b"Baker Street 221b"
STEP = {  # what one value is from the next, in float32 at the finest
    "PCM_U8": 2**-7,
    "PCM_S8": 2**-7,
    "PCM_16": 2**-15,
    "PCM_24": 2**-23,
    "PCM_32": 2**-24,
    "FLOAT": 2**-24,
    "DOUBLE": 2**-24,
}


def tone(hz=440.0, seconds=0.5, rate=16_000, channels=1, loud=0.5):
    """(n,) or (n, channels) float64; channel k is the tone at 1/(k + 1) of the loudness."""
    wave = loud * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)
    return wave if channels == 1 else wave[:, None] / np.arange(1, channels + 1)


def encoded(samples, rate=16_000, kind="WAV", subtype=None):
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind, subtype=subtype)
    return file.getvalue()


def decoded(data):
    return soundfile.read(io.BytesIO(data), dtype="float32")


def check(audio):
    """What holds for every Audio."""
    assert audio.samples.dtype == np.float32
    assert audio.samples.ndim == 1
    assert len(audio.samples) > 0
    assert np.abs(audio.samples).max() <= 1
    assert not audio.samples.flags.writeable
    again, rate = decoded(audio.data)
    assert rate == 16_000
    assert again.tobytes() == audio.samples.tobytes()
    assert SECRET not in audio.data
    back = audio_from_record(audio.name, audio.sha256, audio.mime, audio.data, notes=audio.notes)
    assert back == audio
    assert (back.data, back.notes) == (audio.data, audio.notes)
    return audio


def loudness_at(samples, hz, rate=16_000):
    """Amplitude of one frequency, by projecting the middle half on it."""
    middle = samples[len(samples) // 4 : -len(samples) // 4].astype(np.float64)
    window = np.hanning(len(middle))
    turn = np.exp(-2j * np.pi * hz * np.arange(len(middle)) / rate)
    return 2 * abs((middle * window * turn).sum()) / window.sum()


# --- formats --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "subtype"),
    [
        *((kind, subtype) for kind in ("WAV", "WAVEX") for subtype in STEP if subtype != "PCM_S8"),
        *(("FLAC", subtype) for subtype in ("PCM_S8", "PCM_16", "PCM_24")),
    ],
)
@pytest.mark.parametrize("channels", [1, 2, 5])
def test_sample_formats_to_within_quantisation(kind, subtype, channels):
    samples = tone(channels=channels)
    data = encoded(samples, 16_000, kind, subtype)
    audio = check(load_audio(data))
    wanted = samples if channels == 1 else samples.mean(axis=1)
    assert np.abs(audio.samples - wanted).max() <= STEP[subtype]
    oracle = decoded(data)[0]
    oracle = oracle if channels == 1 else oracle.mean(axis=1, dtype=np.float64).astype(np.float32)
    assert np.array_equal(audio.samples, oracle)
    assert (audio.rate_in, audio.channels_in, audio.duration_ms) == (16_000, channels, 500)
    assert audio.sha256 == hashlib.sha256(data).hexdigest()
    assert audio.notes == ((f"mixed {channels} channels to mono",) if channels > 1 else ())


@pytest.mark.parametrize(
    ("kind", "subtype", "rate"),
    [
        ("MP3", None, 44_100),
        ("MP3", None, 16_000),
        ("OGG", "VORBIS", 22_050),
        ("OGG", "OPUS", 48_000),
        ("FLAC", None, 8000),
    ],
)
@pytest.mark.parametrize("channels", [1, 2])
def test_compressed_formats_and_rates(kind, subtype, rate, channels):
    audio = check(load_audio(encoded(tone(1000, 1.0, rate, channels), rate, kind, subtype)))
    assert audio.rate_in == rate
    assert audio.channels_in == channels
    assert abs(audio.duration_ms - 1000) < 80
    wanted = 0.5 if channels == 1 else 0.375
    assert loudness_at(audio.samples, 1000) == pytest.approx(wanted, rel=0.05)
    assert loudness_at(audio.samples, 1500) < 0.01


@given(
    st.sampled_from(["PCM_U8", "PCM_16", "PCM_24", "FLOAT"]),
    st.integers(1, 6),
    st.integers(1, 400),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=80, deadline=None)
def test_any_wav_at_16_khz_equals_soundfile(subtype, channels, length, seed):
    samples = np.random.default_rng(seed).uniform(-1, 1, (length, channels))
    data = encoded(samples, 16_000, "WAV", subtype)
    oracle = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)[0].astype(np.float64).mean(axis=1)
    assert np.array_equal(check(load_audio(data)).samples, oracle.astype(np.float32))


@pytest.mark.parametrize("subtype", ["ULAW", "ALAW", "IMA_ADPCM", "MS_ADPCM"])
def test_telephone_encodings_of_wav(subtype):
    audio = check(load_audio(encoded(tone(400, 0.5, 8000), 8000, "WAV", subtype)))
    assert loudness_at(audio.samples, 400) == pytest.approx(0.5, rel=0.05)


# --- rates ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [8000, 11_025, 22_050, 44_100, 48_000, 96_000, 192_000])
def test_a_1_khz_tone_stays_one_at_any_rate(rate):
    audio = check(load_audio((tone(1000, 1.0, rate), rate)))
    assert len(audio.samples) == 16_000
    assert loudness_at(audio.samples, 1000) == pytest.approx(0.5, rel=1e-3)
    wanted = tone(1000, 1.0)
    assert np.abs(audio.samples - wanted)[400:-400].max() < 1e-3  # no delay either
    assert f"resampled from {rate:,} Hz" in audio.notes


def test_what_16_khz_cannot_hold_is_removed_not_folded_back():
    both = tone(12_000, 1.0, 48_000) + tone(3000, 1.0, 48_000, loud=0.1)
    audio = check(load_audio((both, 48_000)))
    assert loudness_at(audio.samples, 4000) < 1e-4  # where 12 kHz would fold to
    assert loudness_at(audio.samples, 3000) == pytest.approx(0.1, rel=1e-3)


@given(st.sampled_from([8000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000]), st.integers(1, 20_000))
@settings(max_examples=50, deadline=None)
def test_the_length_follows_the_rate(rate, length):
    samples = np.full(length, 0.25)
    if length * 16_000 / rate < 0.5:
        with pytest.raises(MediaError, match="shorter than one sample"):
            load_audio((samples, rate))
    else:
        audio = check(load_audio((samples, rate)))
        assert abs(len(audio.samples) - length * 16_000 / rate) <= 1


# --- length ---------------------------------------------------------------------------------------------------------


def test_only_the_first_30_seconds_of_ten_minutes_are_decoded(tmp_path, monkeypatch):
    path = tmp_path / "lecture.wav"
    rate = 16_000
    soundfile.write(path, np.tile(tone(440, 1.0), 600), rate, subtype="PCM_16")
    asked = []
    read = soundfile.SoundFile.read

    def counted(self, frames=-1, *args, **options):
        asked.append(frames)
        return read(self, frames, *args, **options)

    monkeypatch.setattr(soundfile.SoundFile, "read", counted)
    tracemalloc.start()
    audio = load_audio(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert audio.notes == ("used the first 30 s of 600 s",)
    assert len(audio.samples) == 480_000
    assert sum(asked) == 480_000
    assert peak < 12 << 20  # 600 s would be 38 MB as float32
    assert audio.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    check(audio)


@pytest.mark.parametrize(("kind", "subtype"), [("MP3", None), ("OGG", "VORBIS"), ("FLAC", None)])
def test_compressed_files_that_are_too_long(kind, subtype):
    audio = check(load_audio(encoded(tone(440, 32.0, 22_050), 22_050, kind, subtype)))
    assert audio.duration_ms == 30_000
    assert any(note.startswith("used the first 30 s of 32") for note in audio.notes)


@given(st.integers(3, 3000), st.floats(0.001, 0.2), st.sampled_from([8000, 16_000, 44_100]))
@settings(max_examples=50, deadline=None)
def test_max_seconds_cuts_there_and_says_so(length, seconds, rate):
    audio = load_audio((np.full(length, 0.5), rate), max_seconds=seconds)
    assert len(audio.samples) <= math.ceil(seconds * 16_000)
    cut = length > math.ceil(seconds * rate)
    assert any("used the first" in note for note in audio.notes) is cut
    if rate == 16_000:
        assert len(audio.samples) == min(length, math.ceil(seconds * 16_000))


def test_exactly_30_seconds_is_not_too_long():
    assert load_audio((np.zeros(480_000), 16_000)).notes == ("silent: every sample is 0",)


@pytest.mark.parametrize("seconds", [0, -1, math.nan, math.inf, 1e9, "30", None, True])
def test_max_seconds_that_make_no_sense(seconds):
    with pytest.raises(MediaError, match="max_seconds"):
        load_audio((tone(), 16_000), max_seconds=seconds)


def test_a_flac_of_unknown_length():
    data = bytearray(encoded(tone(440, 1.0), 16_000, "FLAC"))
    data[21] &= 0xF0  # STREAMINFO's total of samples: 36 bits
    data[22:26] = bytes(4)
    assert check(load_audio(bytes(data))).notes == ()
    cut = check(load_audio(bytes(data), max_seconds=0.25))
    assert cut.duration_ms == 250
    assert cut.notes == ("used the first 0.25 s of a longer sound",)


def test_a_wav_that_breaks_off_is_used_with_a_note():
    whole = encoded(tone(440, 2.0), 16_000, "WAV", "PCM_16")
    audio = check(load_audio(whole[: 44 + 2 * 8000]))
    assert audio.notes == ("the file breaks off after 0.5 s of 2 s",)
    mp3 = encoded(np.random.default_rng(1).normal(0, 0.1, 60 * 16_000).astype(np.float32), 16_000, "MP3")
    for seconds in (30, 90):  # its header's length is more, or less, than what is heard of a sound
        audio = check(load_audio(mp3[: len(mp3) // 6], max_seconds=seconds))
        assert 8_000 < audio.duration_ms < 11_000
        assert audio.notes == (f"the file breaks off after {audio.duration_ms / 1000:.4g} s of 60 s",)
    streamed = bytearray(whole)
    streamed[4:8] = streamed[40:44] = b"\xff" * 4  # as recorders write while they do not know yet
    assert check(load_audio(bytes(streamed))).notes == ()


# --- loudness, silence, broken numbers ------------------------------------------------------------------------------


def test_silence_is_accepted_and_said():
    for source in (encoded(np.zeros(1000), 16_000, "WAV", "PCM_U8"), (np.zeros((1000, 2)), 44_100)):
        audio = check(load_audio(source))
        assert audio.notes[-1] == "silent: every sample is 0"
        assert not audio.samples.any()


def test_channels_that_cancel_out():
    opposite = np.stack([tone(), -tone()], axis=1)
    assert load_audio((opposite, 16_000)).notes[-1] == "silent: the channels cancel each other out"


def test_float_files_beyond_full_scale_are_scaled_not_clipped():
    samples = (tone(440, loud=2.5)).astype(np.float32)
    audio = check(load_audio(encoded(samples, 16_000, "WAV", "FLOAT")))
    peak = np.abs(samples).max()
    assert np.allclose(audio.samples, samples / peak, atol=1e-7)
    assert audio.notes == (f"scaled down by {peak:.5g} to stay within ±1",)


def test_ringing_at_full_scale_stays_within_one():
    square = np.sign(np.sin(2 * np.pi * 300 * np.arange(44_100) / 44_100) + 0.01)
    audio = check(load_audio((square, 44_100)))
    assert np.abs(audio.samples).max() == 1
    assert audio.notes[-1].startswith("scaled down by 1.")


@given(hnp.arrays(np.float32, st.integers(1, 300), elements=st.floats(-1e6, 1e6, width=32)))
@settings(max_examples=100, deadline=None)
def test_any_finite_array_comes_within_one_in_proportion(samples):
    audio = check(load_audio((samples, 16_000)))
    peak = max(1, np.abs(samples).max())
    assert np.allclose(audio.samples * np.float64(peak), samples, rtol=1e-6, atol=peak * 1e-7)
    if peak == 1:
        assert audio.samples.tobytes() == samples.tobytes()


@pytest.mark.parametrize(("value", "kind"), [(np.nan, "nan"), (np.inf, "inf"), (-np.inf, "-inf"), (3e38, "3")], ids=str)
def test_broken_numbers_are_named_with_their_place(value, kind):
    samples = tone(channels=2).astype(np.float32)
    samples[4000, 1] = value
    place = rf"sample 4,000 \(0\.250 s\) of channel 2 is {kind}"
    with pytest.raises(MediaError, match=r"numpy array of shape \(8000, 2\) float32: " + place):
        load_audio(samples, rate=16_000)
    with pytest.raises(MediaError, match=r"memo\.wav: " + place):
        load_audio(encoded(samples, 16_000, "WAV", "FLOAT"), name="memo.wav")


def test_a_broken_number_after_what_is_used_does_no_harm():
    samples = tone(seconds=1.0)
    samples[-1] = np.nan
    assert load_audio((samples, 16_000), max_seconds=0.5).duration_ms == 500


# --- arrays ---------------------------------------------------------------------------------------------------------


def test_integer_arrays_mean_what_they_mean_in_wav_files():
    assert load_audio((np.array([-32768, 16384], np.int16), 16_000)).samples.tolist() == [-1, 0.5]
    assert load_audio((np.array([-32768, 16384], ">i2"), 16_000)).samples.tolist() == [-1, 0.5]
    assert load_audio((np.array([-(2**31), 2**30], np.int32), 16_000)).samples.tolist() == [-1, 0.5]
    assert load_audio((np.array([0, 128, 192], np.uint8), 16_000)).samples.tolist() == [-1, 0, 0.5]
    assert load_audio((np.array([0.25], np.float16), 16_000)).samples.tolist() == [0.25]


def test_pairs_in_either_order_and_rates_of_any_integral_kind():
    samples = tone()
    wanted = load_audio(samples, rate=16_000)
    for source in ((samples, 16_000), (16_000, samples), (samples, 16_000.0), (np.int64(16_000), samples)):
        assert check(load_audio(source)) == wanted
    assert load_audio((samples, 8000)).sha256 != wanted.sha256


def test_channels_first_is_recognised_when_it_is_clear():
    stereo = np.stack([tone(), tone(300)])  # (2, 8000)
    audio = check(load_audio((stereo, 16_000)))
    assert np.allclose(audio.samples, stereo.mean(axis=0), atol=1e-7)
    assert audio.channels_in == 2
    assert audio.notes[0] == "shape (2, 8000) taken as 2 channels of 8,000 samples"
    few = load_audio((np.full((2, 4), 0.5), 16_000))  # could be either: (samples, channels), as documented
    assert (len(few.samples), few.channels_in) == (2, 4)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros(0), "empty"),
        (np.zeros((0, 2)), "empty"),
        (np.zeros((2, 0)), "empty"),
        (np.zeros(()), r"shape \(\)"),
        (np.zeros((3, 4, 5)), r"\(3, 4, 5\)"),
        (np.zeros((100, 100)), "at most 64 channels"),
        (np.zeros(5, np.int64), "int64 does not say what full scale is"),
        (np.zeros(5, bool), "dtype bool"),
        (np.zeros(5, complex), "dtype complex128"),
        (np.array(["a"]), "dtype <U1"),
    ],
)
def test_arrays_that_are_no_sound(array, words):
    with pytest.raises(MediaError, match=words) as error:
        load_audio(array, rate=16_000)
    assert f"numpy array of shape {array.shape} {array.dtype}" in str(error.value)


@pytest.mark.parametrize(
    "rate", [None, 0, -16_000, 16_000.5, math.nan, math.inf, "16000", True, 10**9, 1 + 2j, [16_000]]
)
def test_rates_that_make_no_sense(rate):
    with pytest.raises(MediaError, match="rate"):
        load_audio(tone(), rate=rate)


def test_pairs_and_rates_that_contradict_themselves():
    with pytest.raises(MediaError, match="given twice"):
        load_audio((tone(), 16_000), rate=8000)
    with pytest.raises(MediaError, match="pair of"):
        load_audio((tone(), tone()))
    with pytest.raises(MediaError, match="pair of"):
        load_audio(([0.1, 0.2], 16_000))
    with pytest.raises(MediaError, match="Leave rate out"):
        load_audio(encoded(tone()), rate=16_000)


def test_the_callers_array_is_neither_kept_nor_changed():
    samples = tone(loud=3).astype(np.float32)
    before = samples.copy()
    audio = load_audio((samples, 16_000))
    assert np.array_equal(samples, before)
    assert samples.flags.writeable
    quiet = tone().astype(np.float32)
    audio = load_audio((quiet, 16_000))
    quiet[:] = 0
    assert audio.samples.any()


# --- what is embedded -----------------------------------------------------------------------------------------------


def with_chunk(data, name, body):
    chunk = name + struct.pack("<I", len(body)) + body + bytes(len(body) & 1)
    return b"RIFF" + struct.pack("<I", len(data) + len(chunk) - 8) + data[8:] + chunk


def test_an_original_that_fits_is_kept():
    data = encoded(tone(), 16_000, "WAV", "PCM_16")
    assert check(load_audio(data)).data == data
    deep = encoded(tone(), 16_000, "WAV", "PCM_24")
    assert check(load_audio(deep)).data == deep


def test_tags_and_what_hides_behind_the_end_are_not_embedded():
    data = encoded(tone(), 16_000, "WAV", "PCM_16")
    tagged = with_chunk(data, b"LIST", b"INFOICMT" + struct.pack("<I", len(SECRET) + 1) + SECRET + b"\0")
    for source in (tagged, data + SECRET, with_chunk(data, b"id3 ", b"ID3\x04" + SECRET)):
        audio = check(load_audio(source))
        assert audio.data == data  # the same samples in the same 16 bits
        assert audio.sha256 == hashlib.sha256(source).hexdigest()


@pytest.mark.parametrize("kind", ["FLAC", "OGG", "MP3", "WAV"])
def test_titles_and_comments_are_not_embedded(kind):
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", 16_000, 1, format=kind) as sound:
        sound.title = sound.comment = SECRET.decode()
        sound.write(tone())
    assert SECRET in file.getvalue()
    check(load_audio(file.getvalue()))


@given(hnp.arrays(np.float32, st.integers(1, 200), elements=st.floats(-1, 1, width=32)))
@settings(max_examples=100, deadline=None)
def test_wav_holds_any_samples_exactly(samples):
    again, rate = decoded(wav(samples, 16_000))
    assert again.tobytes() == samples.tobytes()
    assert rate == 16_000


@given(hnp.arrays(np.int16, st.integers(1, 200)))
@settings(max_examples=50, deadline=None)
def test_16_bit_samples_take_16_bits(samples):
    audio = check(load_audio((samples, 16_000)))
    assert len(audio.data) == 44 + 2 * len(samples)
    assert np.array_equal(audio.samples * 32768, samples)


def test_encoding_is_the_same_every_time():
    samples = RNG.uniform(-1, 1, 1000)
    assert load_audio((samples, 16_000)).data == load_audio((samples, 16_000)).data


# --- broken and hostile files ---------------------------------------------------------------------------------------


def test_a_wav_without_a_sample():
    with pytest.raises(MediaError, match="0 samples"):
        load_audio(encoded(np.zeros(0)))


def wav_header(rate=16_000, channels=1, bits=16, size=8):
    form = struct.pack(
        "<HHIIHH", 1, channels, rate, rate * channels * bits // 8 & 0xFFFFFFFF, channels * bits // 8, bits
    )
    body = b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", size) + bytes(8)
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize(
    "data",
    [
        wav_header(rate=0),
        wav_header(rate=2**31 - 1),
        wav_header(rate=50),
        wav_header(channels=0),
        wav_header(channels=65),
        wav_header(channels=1024),
        wav_header(bits=0),
        b"RIFF\x04\0\0\0WAVE",
        b"RIFF\x04\0\0\0WAVEfmt ",
        b"fLaC" + bytes(100),
        b"OggS" + bytes(100),
        b"ID3\x04" + bytes(100),
        b"\xff\xfb\x90\x00" + bytes(50),
    ],
    ids=range(13),
)
def test_hostile_headers(data, capfd):
    with pytest.raises(MediaError, match=r"^memo\.wav: "):
        load_audio(data, name="memo.wav")
    assert "Traceback" not in capfd.readouterr().err


FLOOD = b"\xff\xfb\x10\x64" + b"\xff\xfb\x00\x00" * 2000


@pytest.mark.parametrize(
    "data",
    [FLOOD, b"ID3\4\0\0\0\0\1\0" + bytes(128) + FLOOD, b"ID3\4\0\0\0\0\1\0" + bytes(40_000) + FLOOD,
     FLOOD[:4] + bytes(100) + (b"\xff\xfb\x12\x04" + bytes(108)) * 2000],
    ids=range(4),
)  # fmt: skip
def test_an_mp3_without_frames_is_refused_before_it_fills_the_log(data, capfd):
    with pytest.raises(MediaError, match=r"this MP3 is broken: more than 100 of its frames"):
        load_audio(data)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 32_000, 44_100, 48_000])
@pytest.mark.parametrize(("channels", "mode"), [(1, "CONSTANT"), (2, "VARIABLE")])
def test_honest_mp3_files_are_made_of_frames(rate, channels, mode, monkeypatch):
    """Also behind a picture, before tags, cut anywhere, and with some bytes lost."""
    file = io.BytesIO()
    soundfile.write(file, tone(seconds=1, rate=rate, channels=channels), rate, format="MP3", bitrate_mode=mode,
                    compression_level=0.5)  # fmt: skip
    data = file.getvalue()
    tag, tail = b"ID3\4\0\0\0\0\x27\x10" + b"\xff\xfb\x10\x64" * 1252, b"TAG" + bytes(125)
    ape = b"APETAGEX" + struct.pack("<4I", 2000, 64, 1, 1 << 29) + bytes(8) + b"\xff\xfb\x10\x64" * 16
    monkeypatch.setattr(mpeg, "MAX_BREAKS", 0)
    for whole in (data, tag + data, data + tail, data + ape + tail, tag + tag + data + ape):
        mpeg.check_frames(io.BytesIO(whole), "a", 30)
    for cut in range(400, len(data), 331):
        mpeg.check_frames(io.BytesIO(data[:cut]), "a", 30)
    monkeypatch.setattr(mpeg, "MAX_BREAKS", 20)
    for junk in (bytes(3000), np.random.default_rng(5).integers(0, 256, 900, np.uint8).tobytes(), b"L" * 100_000):
        mpeg.check_frames(io.BytesIO(data[:1000] + junk + data[1000:]), "a", 30)
    load_audio(tag + data + ape + tail)


def test_mp3_frames_without_a_bit_rate_have_the_length_of_the_first(monkeypatch):
    frames = b"".join(bytes([0xFF, 0xFB, 2 * pad, 0xC4]) + bytes(996 + pad) for pad in (0, 0, 1, 0, 1, 1, 0) * 9)
    monkeypatch.setattr(mpeg, "MAX_BREAKS", 0)
    mpeg.check_frames(io.BytesIO(frames), "a", 30)


def test_what_is_not_decoded_of_an_mp3_is_not_looked_at():
    data = encoded(tone(seconds=6), 16_000, "MP3")
    with pytest.raises(MediaError, match="this MP3 is broken"):
        mpeg.check_frames(io.BytesIO(data + FLOOD), "a", 30)
    mpeg.check_frames(io.BytesIO(data + FLOOD), "a", 1)


SMALL_FILES = {
    "WAV": encoded(tone(seconds=0.02), 16_000, "WAV", "PCM_24"),
    "WAVEX": encoded(tone(seconds=0.02, channels=3), 16_000, "WAVEX", "FLOAT"),
    "FLAC": encoded(tone(seconds=0.1), 16_000, "FLAC"),
    "OGG": encoded(tone(seconds=0.1), 16_000, "OGG", "VORBIS"),
    "OPUS": encoded(tone(seconds=0.1), 16_000, "OGG", "OPUS"),
    "MP3": encoded(tone(seconds=0.1), 16_000, "MP3"),
}


@given(st.sampled_from(sorted(SMALL_FILES)), st.data())
@settings(max_examples=300, deadline=None)
def test_damaged_files_give_a_sound_or_a_media_error(kind, data):
    file = bytearray(SMALL_FILES[kind])
    for _ in range(data.draw(st.integers(1, 4))):
        file[data.draw(st.integers(0, min(200, len(file) - 1)))] = data.draw(st.integers(0, 255))
    file = file[: data.draw(st.integers(1, len(file)))]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        start = time.process_time()  # not by the wall's clock: what else runs here is not meant
        try:
            audio = load_audio(bytes(file))
        except MediaError:
            audio = None
    assert time.process_time() - start < 5
    if audio:
        check(audio)


def test_the_size_limit(tmp_path):
    path = tmp_path / "long.wav"
    path.write_bytes(encoded(tone()))
    with pytest.raises(MediaError, match=r"long\.wav: it is too large"):
        load_audio(path, max_bytes=1000)


# --- records, identity, threads -------------------------------------------------------------------------------------


def test_an_audio_is_given_back_as_it_is():
    audio = load_audio((tone(), 16_000), name="hum")
    assert load_audio(audio) is audio
    assert load_audio(audio, name="other").name == "other"
    assert audio != load_audio((tone(300), 16_000))
    assert audio != "hum"
    assert len({audio, load_audio((tone(), 16_000))}) == 1
    assert repr(audio) == "<Audio 'hum' 0.5 s>"


def test_reading_back_keeps_what_is_known_of_the_original():
    audio = load_audio(encoded(tone(440, 0.5, 96_000, 5), 96_000, "WAV", "PCM_24"))
    assert audio.notes == ("mixed 5 channels to mono", "resampled from 96,000 Hz")
    back = audio_from_record(
        audio.name, audio.sha256, audio.mime, audio.data, rate_in=96_000, channels_in=5, notes=audio.notes
    )
    assert back == audio
    assert repr(back) == repr(audio)
    assert (back.rate_in, back.channels_in) == (96_000, 5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": None}, "name is a NoneType"),
        ({"sha256": "0" * 63 + "G"}, "64 lower-case"),
        ({"mime": "audio/mpeg"}, "Expected audio/wav"),
        ({"data": b""}, "empty"),
        ({"data": b"hello, this is text"}, "looks like a text file"),
        ({"data": encoded(tone(rate=8000), 8000)}, "16 kHz, mono"),
        ({"data": encoded(tone(channels=2))}, "16 kHz, mono"),
        ({"data": with_chunk(encoded(tone()), b"LIST", SECRET)}, "16 kHz, mono"),
        ({"data": wav(np.array([0.1, np.nan], np.float32), 16_000)}, "sample 1 .* is nan"),
        ({"data": wav(np.array([0.1, 2.5], np.float32), 16_000)}, "not one the workbench writes"),
        ({"data": wav(np.zeros(0, np.float32), 16_000)}, "0 samples"),
    ],
)
def test_records_that_the_workbench_did_not_write(change, words):
    record = {
        "name": "a.wav",
        "sha256": "0" * 64,
        "mime": "audio/wav",
        "data": wav(tone().astype("f4"), 16_000),
    } | change
    with pytest.raises(MediaError, match=words):
        audio_from_record(**record)


def test_many_threads_at_once():
    files = [encoded(RNG.uniform(-1, 1, (5000, 2)), 22_050, kind) for kind in ("WAV", "FLAC", "OGG", "MP3")]
    wanted = [load_audio(file) for file in files]
    found: dict[int, Audio] = {}
    threads = [threading.Thread(target=lambda i=i: found.update({i: load_audio(files[i % 4])})) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(found[i] == wanted[i % 4] for i in range(16))
