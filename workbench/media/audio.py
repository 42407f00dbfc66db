"""Sounds: decode what the model can use, check, mix to mono, bring to 16 kHz; and encode again, exactly."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from workbench.errors import MediaError
from workbench.media import containers, mpeg, sources

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["MAX_AUDIO_BYTES", "MAX_SECONDS", "SAMPLE_RATE", "Audio", "audio_from_record", "load_audio"]

SAMPLE_RATE = 16_000  # Hz, what the model hears; 640 samples, 40 ms, are one frame
MAX_SECONDS = 30.0  # what the model is meant for: 750 frames
MAX_AUDIO_BYTES = 1 << 30  # ten minutes of 96 kHz, 24 bits, 5 channels fit; a file is read in pieces
_LONGEST = 600.0  # seconds, the most that max_seconds may be
_MAX_RECORD_BYTES = 64 << 20  # of one sound in a trace: _LONGEST fits
_SMALL = 4 << 20  # bytes; up to here an original that needs nothing is embedded as it is
_RATES = (100, 768_000)  # Hz
_MAX_CHANNELS = 64
_FEW_CHANNELS = 8  # an array with at most so many rows, and more columns, has its channels first
_BLOCK = 1 << 20  # numbers decoded at a time

_UNKNOWN = 1 << 48  # libsndfile gives a huge length where a stream's header says none
_LOUDEST = 1e30  # beyond this it is no sample but a broken file, and sums would overflow

_READ = ("WAV", "FLAC", "MP3", "OGG")
_LIBSNDFILE = {"WAV": {"WAV", "WAVEX"}, "FLAC": {"FLAC"}, "MP3": {"MP3"}, "OGG": {"OGG"}}
_EXPECTED = "Expected WAV, FLAC, MP3 or OGG (Vorbis or Opus)"
_ACCEPTED = "a path, bytes, a binary file, or a numpy array (samples,) or (samples, channels) with its rate"


@dataclass(frozen=True, eq=False, repr=False)
class Audio:
    """A sound as the model gets it. Equal to another when original and samples are.

    Attributes:
        samples: (n,) float32, 16 kHz, mono, within -1 to 1; read-only.
        name: For people: a file's name without folders, or what was passed ("bytes (12,345 of them)").
        sha256: Of the bytes that came; for arrays, of shape, numbers and rate.
        mime: Of ``data``: ``audio/wav``.
        data: A WAV without tags that decodes to exactly ``samples``: the original, 16-bit integers or 32-bit floating
            point, whichever is possible first.
        rate_in: Sample rate of the original, Hz.
        channels_in: Its channels.
        notes: What was changed on the way, one sentence each.
    """

    samples: np.ndarray
    name: str
    sha256: str
    mime: str
    data: bytes
    rate_in: int
    channels_in: int
    notes: tuple[str, ...] = field(default=())

    @property
    def duration_ms(self) -> float:
        """How long ``samples`` last, in milliseconds."""
        return len(self.samples) * 1000 / SAMPLE_RATE

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Audio):
            return NotImplemented
        return self.sha256 == other.sha256 and np.array_equal(self.samples, other.samples)

    def __hash__(self) -> int:
        return hash(self.sha256)

    def __repr__(self) -> str:
        notes = "".join(f", {note}" for note in self.notes)
        return f"<Audio {self.name!r} {_seconds(self.duration_ms / 1000)}{notes}>"


def load_audio(
    source: Any,
    *,
    name: str | None = None,
    rate: int | None = None,
    max_seconds: float = MAX_SECONDS,
    max_bytes: int = MAX_AUDIO_BYTES,
) -> Audio:
    """Read a sound: check it, decode its first ``max_seconds``, mix it to mono, bring it to 16 kHz.

    Channels are averaged. The sample rate is changed by soxr's band-limited filter: what 16 kHz cannot hold is removed,
    not folded back. Where samples go beyond ±1 (floating point files, or the filter's ringing on loud ones) the whole
    sound is scaled down to fit, which a note says; nothing is clipped.

    Args:
        source: A path; bytes; a binary file object, read from where it stands; ``(samples, rate)`` or
            ``(rate, samples)`` with a numpy array; an array, with ``rate=``; or an :class:`Audio`, which is given back
            as it is. Arrays are (n,) or (n, channels), floating point with full scale at ±1, or integers as in WAV
            files (int16, int32, uint8). One with at most 8 rows and more than 8 columns is taken as (channels, n), with
            a note. WAV, FLAC, MP3 and OGG are read, told apart by content.
        name: What to call it instead of the file's name.
        rate: Sample rate of an array, Hz.
        max_seconds: How much of the beginning to use; the rest is not decoded, and a note says so.
        max_bytes: The most bytes the file may have.

    Returns:
        The sound, with ``notes`` on all that was changed.

    Raises:
        MediaError: It is missing, broken, empty, not finite, too large, or of another kind. Says what came and what to
            do.
    """
    if name is not None and not isinstance(name, str):
        raise MediaError(f"name={name!r}: expected text or None.")
    label = sources.display_name(source if name is None else name)
    if isinstance(max_seconds, bool) or not isinstance(max_seconds, (int, float)) or not 0 < max_seconds <= _LONGEST:
        raise MediaError(f"{label}: max_seconds={max_seconds!r}. Expected more than 0 and at most {_LONGEST:g}.")
    if isinstance(source, tuple) and len(source) == 2:
        source, rate = _samples_and_rate(source, rate, label)
    if isinstance(source, np.ndarray):
        return _from_array(source, rate, label, max_seconds)
    if rate is not None:
        raise MediaError(f"{label}: rate={rate!r} is for numpy arrays; a file says its own. Leave rate out.")
    if isinstance(source, Audio):
        return source if name is None else replace(source, name=label)
    if not sources.is_file(source):
        raise sources.unusable(source, label, _ACCEPTED)
    with sources.open_binary(source, label, max_bytes) as (file, size):
        return _from_file(file, size, label, max_seconds)


def audio_from_record(
    name: str,
    sha256: str,
    mime: str,
    data: bytes,
    *,
    rate_in: int | None = None,
    channels_in: int | None = None,
    notes: tuple[str, ...] = (),
) -> Audio:
    """Read an embedded sound back from a trace, with the checks of any stranger's file.

    Args:
        name: As recorded; cleaned again.
        sha256: Of the original, 64 hexadecimal digits; taken over, since the original may not be here.
        mime: ``audio/wav``, and ``data`` must be that.
        data: The bytes of :attr:`Audio.data`.
        rate_in: Sample rate of the original, if recorded; else that of ``data``, 16 kHz.
        channels_in: Channels of the original, if recorded; else those of ``data``, 1.
        notes: The notes of the original.

    Returns:
        The sound that was saved: the same samples, hash and data.

    Raises:
        MediaError: The record is broken, or not one that the workbench writes.
    """
    label = sources.check_record(name, sha256, mime, data, ("audio/wav",), _MAX_RECORD_BYTES)
    data = bytes(data)
    if not containers.plain_wav(data, SAMPLE_RATE):
        looks = sources.describe(data)
        raise MediaError(f"{label}: the embedded sound looks like {looks}. Expected a plain WAV of 16 kHz, mono.")
    sound = _from_file(io.BytesIO(data), len(data), label, _LONGEST, small=_MAX_RECORD_BYTES)
    if sound.data != data:
        raise MediaError(f"{label}: the embedded sound is not one the workbench writes. Load it as a file instead.")
    return replace(
        sound,
        sha256=sha256,
        rate_in=sound.rate_in if rate_in is None else int(rate_in),
        channels_in=sound.channels_in if channels_in is None else int(channels_in),
        notes=tuple(sources.clean(str(note)) for note in notes),
    )


# --- files ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Decoded:
    """What a file or array held: (n,) at its own rate, whether any channel was more than zeros, its whole length."""

    mono: np.ndarray
    heard: bool
    rate: int
    channels: int
    total: int
    notes: tuple[str, ...] = ()


class _Tape(io.RawIOBase):
    """A file for libsndfile's callbacks: without the name, whose ending it would trust, and seeking never raises.

    An exception in a callback would be printed, not raised; a broken header may well ask to seek before the start.
    """

    def __init__(self, file: Any, size: int) -> None:
        self._file, self._size = file, size

    def readinto(self, buffer: Any) -> int:
        try:
            return self._file.readinto(buffer)
        except OSError:
            return 0

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._file.tell(), io.SEEK_END: self._size}[whence]
        return self._file.seek(min(max(base + offset, 0), self._size))

    def tell(self) -> int:
        return self._file.tell()


def _from_file(file: BinaryIO, size: int, label: str, max_seconds: float, small: int = _SMALL) -> Audio:
    """An open file to an Audio; ``small`` is the size up to which a fitting original is kept."""
    kind = _format(file.read(sources.HEAD), label)
    digest = sources.sha256_of(file)
    decoded = _decode(file, size, kind, label, max_seconds)
    samples, notes = _prepare(decoded, max_seconds, label)
    data = None
    if size <= small and decoded.rate == SAMPLE_RATE and np.array_equal(samples, decoded.mono):
        file.seek(0)
        original = file.read(size)
        data = original if decoded.total == len(samples) and containers.plain_wav(original, SAMPLE_RATE) else None
    data = data or containers.wav(samples, SAMPLE_RATE)
    return Audio(samples, label, digest, "audio/wav", data, decoded.rate, decoded.channels, notes)


def _decode(file: BinaryIO, size: int, kind: str, label: str, max_seconds: float) -> _Decoded:
    """The first ``max_seconds`` of a file; the header is checked first and the rest left alone."""
    soundfile = sources.need("soundfile", "sounds")
    if kind == "MP3":
        mpeg.check_frames(file, label, max_seconds)
    try:
        with soundfile.SoundFile(_Tape(file, size)) as sound:
            if sound.format not in _LIBSNDFILE[kind]:
                raise MediaError(f"{label}: it begins like {kind} and is {sources.clean(sound.format)}. {_EXPECTED}.")
            # Read straight on: soundfile seeks after every read, which fails in streams that do not tell their length.
            sound.seekable = lambda: False
            rate, channels, total = sound.samplerate, sound.channels, sound.frames
            _check_header(rate, channels, total, label)
            wanted = min(total, math.ceil(max_seconds * rate))
            mono, heard = _mono(_blocks(sound, wanted), rate, channels, label)
            if total >= _UNKNOWN:
                total = _UNKNOWN if len(sound.read(1)) else len(mono)
    except soundfile.SoundFileError as error:
        reason = sources.clean(str(error).rpartition(": ")[2].rstrip("."))
        raise MediaError(
            f"{label}: the sound is broken or of an encoding we do not read ({reason}). {_EXPECTED}; convert it or "
            "copy it anew."
        ) from error
    if len(mono) == 0:
        raise MediaError(f"{label}: it holds no sound (0 samples). Expected at least one.")
    promised = max(total, containers.promised_frames(file, size) if kind == "WAV" else 0)
    ended, missing = (total, promised - total) if promised > total else (len(mono), min(total, wanted) - len(mono))
    notes: tuple[str, ...] = ()
    if missing > 0.05 * rate:  # encoders of MP3 and OGG may be some milliseconds off
        notes = (f"the file breaks off after {_seconds(ended / rate)} of {_seconds(promised / rate)}",)
        total = ended
    return _Decoded(mono, heard, rate, channels, total, notes)


def _format(head: bytes, label: str) -> str:
    """The format by content, one of ``_READ``."""
    family, kind = sources.formats(head)
    if family == "audio" and kind in _READ:
        return kind
    advice = {
        "image": "Pictures go in as images.",
        "video": "Take its sound track out first.",
        "audio": "Convert it first.",
    }.get(family or "", "Check that this is the right file and that it was copied whole.")
    looks = sources.describe(head)
    raise MediaError(f"{label}: this is no sound we read, it looks like {looks}. {_EXPECTED}. {advice}")


def _check_header(rate: int, channels: int, frames: int, label: str) -> None:
    if not _RATES[0] <= rate <= _RATES[1]:
        raise MediaError(f"{label}: a sample rate of {rate:,} Hz. Expected {_RATES[0]:,} to {_RATES[1]:,} Hz.")
    if not 1 <= channels <= _MAX_CHANNELS:
        raise MediaError(f"{label}: {channels} channels. Expected 1 to {_MAX_CHANNELS}; mix it down first.")
    if frames < 1:
        raise MediaError(f"{label}: it holds no sound (0 samples). Expected at least one.")


def _blocks(sound: Any, wanted: int) -> Iterator[np.ndarray]:
    """The first ``wanted`` frames in pieces of (n, channels) float32, however many channels there are."""
    step = max(1, _BLOCK // sound.channels)
    while wanted > 0:
        block = sound.read(min(step, wanted), dtype="float32", always_2d=True)
        if len(block) == 0:
            return
        wanted -= len(block)
        yield block


# --- from any blocks to 16 kHz mono ---------------------------------------------------------------------------------


def _mono(blocks: Iterator[np.ndarray], rate: int, channels: int, label: str) -> tuple[np.ndarray, bool]:
    """Check and average the channels.

    Args:
        blocks: Pieces of (n, channels) floating point.
        rate: Hz, for the message.
        channels: How many there are.
        label: Name of the sound.

    Returns:
        (n,) floating point, and whether any channel held anything but zeros.

    Raises:
        MediaError: A number is NaN or infinite; says where the first one is.
    """
    parts, done, heard = [], 0, False
    for block in blocks:
        usable = np.abs(block) < _LOUDEST  # False for NaN too
        if not usable.all():
            frame, channel = (int(i) for i in np.argwhere(~usable)[0])
            where = f"sample {done + frame:,} ({(done + frame) / rate:.3f} s)"
            where += f" of channel {channel + 1}" if channels > 1 else ""
            raise MediaError(
                f"{label}: {where} is {block[frame, channel]}. Expected finite numbers, full scale at ±1; repair the "
                "sound (numpy.nan_to_num) or export it anew."
            )
        heard = heard or bool(block.any())
        done += len(block)
        parts.append(block[:, 0] if channels == 1 else block.mean(axis=1, dtype=np.float64))
    return (np.concatenate(parts) if parts else np.zeros(0, np.float32)), heard


def _prepare(decoded: _Decoded, max_seconds: float, label: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """From what was decoded to (m,) float32 at 16 kHz within ±1, read-only, and all notes."""
    rate, channels = decoded.rate, decoded.channels
    notes = list(decoded.notes)
    if channels > 1:
        notes.append(f"mixed {channels} channels to mono")
    mono, down = _within_one(decoded.mono)
    samples = np.ascontiguousarray(mono, dtype=np.float32)
    if rate != SAMPLE_RATE:
        notes.append(f"resampled from {rate:,} Hz")
        # Directly, not through librosa.resample: that is the same call after two seconds of imports.
        samples = sources.need("soxr", "sounds").resample(samples, rate, SAMPLE_RATE, quality="HQ")
        samples, ringing = _within_one(samples)
        down *= ringing
    samples = samples[: math.ceil(max_seconds * SAMPLE_RATE)]
    if len(samples) == 0:
        raise MediaError(f"{label}: it is shorter than one sample at 16 kHz. Expected at least 0.1 ms of sound.")
    if decoded.total > math.ceil(max_seconds * rate):
        whole = _seconds(decoded.total / rate) if decoded.total < _UNKNOWN else "a longer sound"
        notes.append(f"used the first {_seconds(max_seconds)} of {whole}")
    if down > 1:
        notes.append(f"scaled down by {max(down, 1.0001):.5g} to stay within ±1")
    if not samples.any():
        cancelled = decoded.heard and channels > 1
        notes.append("silent: " + ("the channels cancel each other out" if cancelled else "every sample is 0"))
    samples = np.array(samples, dtype=np.float32)
    samples.setflags(write=False)
    return samples, tuple(notes)


def _within_one(samples: np.ndarray) -> tuple[np.ndarray, float]:
    """Scale down to ±1 where needed; returns the samples and the divisor."""
    peak = float(np.abs(samples).max(initial=0))
    return (samples, 1.0) if peak <= 1 else (samples / samples.dtype.type(peak), peak)


def _seconds(seconds: float) -> str:
    return f"{seconds:.4g} s" if seconds < 1000 else f"{seconds:,.0f} s"


# --- arrays ---------------------------------------------------------------------------------------------------------


def _samples_and_rate(pair: tuple, rate: Any, label: str) -> tuple[np.ndarray, Any]:
    """``(samples, rate)``, or ``(rate, samples)`` as SciPy and Gradio give it."""
    arrays = [part for part in pair if isinstance(part, np.ndarray) and part.ndim > 0]
    if len(arrays) != 1:
        kinds = ", ".join(type(part).__name__ for part in pair)
        raise MediaError(f"{label}: a pair of ({kinds}). Expected (samples, rate): a numpy array and a number in Hz.")
    if rate is not None:
        raise MediaError(f"{label}: the rate is given twice, in the pair and as rate={rate!r}. Give it once.")
    return arrays[0], pair[1] if arrays[0] is pair[0] else pair[0]


def _from_array(array: np.ndarray, rate: Any, label: str, max_seconds: float) -> Audio:
    if rate is None:
        raise MediaError(f"{label}: an array does not say its sample rate. Pass (samples, rate) or rate=16000.")
    number = isinstance(rate, (int, float, np.integer, np.floating)) and not isinstance(rate, bool)
    if not number or rate != rate // 1:  # also true of NaN and of infinity
        raise MediaError(f"{label}: rate={rate!r}. Expected a whole number of samples a second, such as 16000.")
    rate = int(rate)
    frames, note = _frames_first(array, label)
    channels = frames.shape[1]
    _check_header(rate, channels, len(frames), label)
    used = _to_unit(frames[: math.ceil(max_seconds * rate)], label)
    mono, heard = _mono(iter([used]), rate, channels, label)
    samples, notes = _prepare(_Decoded(mono, heard, rate, channels, len(frames), note), max_seconds, label)
    digest = sources.sha256_of_array(frames, f"{rate} Hz")
    return Audio(samples, label, digest, "audio/wav", containers.wav(samples, SAMPLE_RATE), rate, channels, notes)


def _frames_first(array: np.ndarray, label: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """(n,), (n, channels) or (few channels, n) to (n, channels), and a note on the last."""
    shape = array.shape
    if array.ndim == 1 and array.size:
        return np.asarray(array)[:, None], ()
    if array.ndim == 2 and array.size:
        if shape[0] <= _FEW_CHANNELS < shape[1]:
            return np.asarray(array).T, (f"shape {shape} taken as {shape[0]} channels of {shape[1]:,} samples",)
        if shape[1] <= _MAX_CHANNELS:
            return np.asarray(array), ()
    advice = "it is empty" if array.size == 0 else "reshape it"
    raise MediaError(
        f"{label}: an array of shape {shape}, dtype {array.dtype} is no sound. Expected (samples,) or (samples, "
        f"channels) with at most {_MAX_CHANNELS} channels; {advice}."
    )


def _to_unit(frames: np.ndarray, label: str) -> np.ndarray:
    """(n, channels) of any accepted dtype to floating point with full scale at ±1, as WAV files mean them."""
    if np.issubdtype(frames.dtype, np.floating):
        return frames.astype(np.float64 if frames.dtype.itemsize > 4 else np.float32)
    kind = frames.dtype.kind, frames.dtype.itemsize
    if kind == ("u", 1):
        return (frames.astype(np.float32) - 128) / 128
    if kind == ("i", 2):
        return frames.astype(np.float32) / 32768
    if kind == ("i", 4):
        return frames.astype(np.float64) / 2**31
    raise MediaError(
        f"{label}: dtype {frames.dtype} does not say what full scale is. Expected floating point within ±1, int16, "
        "int32 or uint8; convert it with astype."
    )
