"""Videos: sample the frames that the model sees, check them, and say when each is shown.

Gemma 4 sees a video as pictures, 32 by default, spread evenly over it, each after the minute and second it is shown at.
So a :class:`Video` is those pictures and their times, and nothing else of the file: its sound goes in as audio.

The number of frames and their times are read from the file's packets before any of them is decoded; a file that is too
long, too large or no video is refused there. FFmpeg (through PyAV) is told which container to read, by content: left to
guess, it would also read playlists, which open other files.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from hashlib import sha256 as _sha256
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from workbench.errors import MediaError
from workbench.media import boxes, containers, sources
from workbench.media.images import Image, image_from_record, load_image
from workbench.media.pixels import check_dimensions, from_array

if TYPE_CHECKING:
    import PIL.Image

__all__ = [
    "FRAMES",
    "MAX_FRAME_PIXELS",
    "MAX_VIDEO_BYTES",
    "MAX_VIDEO_SECONDS",
    "Video",
    "load_video",
    "sampled",
    "video_from_record",
]

FRAMES = 32  # of a video, what Gemma 4's video processor samples
MAX_FRAMES = 256  # that may be asked for; 70 tokens each
MAX_VIDEO_SECONDS = 600.0
MAX_VIDEO_BYTES = 1 << 30
MAX_FRAME_PIXELS = (
    1 << 20
)  # a frame's 70 tokens are 161,280 pixels; what is larger is scaled down, to keep traces small
_MAX_PIXELS = 40_000_000  # of a frame in the file
_MAX_PACKETS = 144_000  # ten minutes at 240 frames a second
_MAX_WORK = 50_000_000_000  # pixels to decode: ten minutes of 1920×1080 at 40 frames a second

_DEMUXER = {"MP4": "mov", "Matroska or WebM": "matroska", "AVI": "avi", "MPEG": "mpeg", "Flash": "flv",
            "Ogg Theora": "ogg", "GIF": "gif"}  # fmt: skip
_EXPECTED = "Expected MP4, MOV, WebM, Matroska, AVI, MPEG, Flash, Ogg or GIF"
_ACCEPTED = "the path, bytes or binary file of a video, or (frames, fps) with an array (frames, height, width[, 3])"


@dataclass(frozen=True, eq=False, repr=False)
class Video:
    """A video as the model gets it: some of its frames. Equal to another when original, frames and times are.

    Attributes:
        stills: The F frames in order, as pictures of one size.
        seconds: (F,) float64: when each is shown, from the start of the video; ascending, read-only.
        duration_ms: How long the original lasts, in milliseconds.
        fps: Frames a second of the original, on average.
        frames_in: How many frames the original has.
        name: For people: a file's name without folders, or what was passed.
        sha256: Of the bytes that came; for arrays, of shape, pixels and rate.
        notes: What was changed on the way, one sentence each.
    """

    stills: tuple[Image, ...]
    seconds: np.ndarray
    duration_ms: float
    fps: float
    frames_in: int
    name: str
    sha256: str
    notes: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.stills)

    @property
    def frames(self) -> np.ndarray:
        """(F, height, width, 3) uint8, sRGB, upright: all stills in one new array."""
        return np.stack([still.pixels for still in self.stills])

    @property
    def height(self) -> int:
        """Rows of pixels of a frame."""
        return self.stills[0].height

    @property
    def width(self) -> int:
        """Columns of pixels of a frame."""
        return self.stills[0].width

    @property
    def start_ms(self) -> np.ndarray:
        """(F,) float64: the start of the stretch that each frame stands for, in milliseconds."""
        return self.seconds * 1000

    @property
    def end_ms(self) -> np.ndarray:
        """(F,) float64: its end: where the next sampled frame is shown, or the video ends."""
        return np.append(self.start_ms[1:], max(self.duration_ms, self.start_ms[-1]))

    @property
    def nbytes(self) -> int:
        """Bytes of all stills' pixels."""
        return sum(still.pixels.nbytes for still in self.stills)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Video):
            return NotImplemented
        same = self.sha256 == other.sha256 and np.array_equal(self.seconds, other.seconds)
        return same and all(a.data == b.data for a, b in zip(self.stills, other.stills, strict=True))

    def __hash__(self) -> int:
        return hash(self.sha256)

    def __repr__(self) -> str:
        notes = "".join(f", {note}" for note in self.notes)
        size = f"{self.width}×{self.height}, {self.duration_ms / 1000:.4g} s"
        return f"<Video {self.name!r} {len(self)} of {self.frames_in:,} frames, {size}{notes}>"


def load_video(
    source: Any,
    *,
    name: str | None = None,
    frames: int = FRAMES,
    max_seconds: float = MAX_VIDEO_SECONDS,
    max_bytes: int = MAX_VIDEO_BYTES,
) -> Video:
    """Read a video: check it, decode the frames the model will see, turn them upright.

    Args:
        source: A path; bytes; a binary file object, read from where it stands; ``(frames, fps)`` or ``(fps, frames)``
            with an array of shape (F, height, width), or with a last axis of 1, 3 or 4, uint8 or floating point in 0
            to 1, or with a list of pictures of one size (see :func:`load_image`), and frames a second; or a
            :class:`Video`, which is given back as it is. MP4, MOV, WebM, Matroska, AVI, MPEG, Flash, Ogg and GIF are
            read, told apart by content; files need the package ``av``.
        name: What to call it instead of the file's name.
        frames: How many to take, evenly spread (:func:`sampled`); all of them where there are fewer.
        max_seconds: The most it may last.
        max_bytes: The most bytes the file may have.

    Returns:
        The video, with ``notes`` on all that was changed or left out.

    Raises:
        MediaError: It is missing, broken, empty, too long, too large, or no video. Says what came and what to do.
    """
    if name is not None and not isinstance(name, str):
        raise MediaError(f"name={name!r}: expected text or None.")
    label = sources.display_name(source if name is None else name)
    if isinstance(frames, bool) or not isinstance(frames, (int, np.integer)) or not 1 <= frames <= MAX_FRAMES:
        raise MediaError(f"{label}: frames={frames!r}. Expected a number from 1 to {MAX_FRAMES}.")
    if isinstance(max_seconds, bool) or not isinstance(max_seconds, (int, float)) or not 0 < max_seconds < math.inf:
        raise MediaError(f"{label}: max_seconds={max_seconds!r}. Expected more than 0.")
    if isinstance(source, Video):
        return source if name is None else replace(source, name=label)
    if isinstance(source, (tuple, np.ndarray)):
        return _from_frames(*_frames_and_rate(source, label), label, int(frames), max_seconds)
    if not sources.is_file(source):
        raise sources.unusable(source, label, _ACCEPTED)
    with sources.open_binary(source, label, max_bytes) as (file, _):
        return _from_file(file, label, int(frames), max_seconds)


def sampled(total: int, count: int = FRAMES) -> np.ndarray:
    """(min(total, count),) int64: which frames of ``total`` are taken, as Transformers samples them."""
    n = min(total, count)
    return np.arange(n, dtype=np.int64) * total // max(n, 1)


def video_from_record(
    name: str,
    sha256: str,
    stills: Sequence[bytes],
    seconds: Sequence[float],
    *,
    duration_ms: float,
    fps: float,
    frames_in: int,
    notes: Sequence[str] = (),
    known: dict[bytes, Image] | None = None,
) -> Video:
    """Read an embedded video back from a trace, with the checks of any stranger's file.

    Args:
        name: As recorded; cleaned again.
        sha256: Of the original, 64 hexadecimal digits; taken over, since the original may not be here.
        stills: The PNG of each frame, as in ``Video.stills``.
        seconds: When each is shown.
        duration_ms, fps, frames_in, notes: Of the original.
        known: Frames by their PNG that other videos of the trace have already; those of this one are added.

    Returns:
        The video that was saved: the same pixels, times and hash.

    Raises:
        MediaError: The record is broken, or not one that the workbench writes.
    """
    label = sources.check_record(name, sha256, "image/png", b"?", ("image/png",), 1)
    times = np.array(seconds, np.float64)
    if not 1 <= len(stills) <= MAX_FRAMES or times.shape != (len(stills),):
        raise MediaError(f"{label}: {len(stills)} frames with {times.size} times. Expected 1 to {MAX_FRAMES} of each.")
    whole = np.isfinite([*times, duration_ms, fps]).all() and frames_in >= len(stills)
    if not whole or times[0] < 0 or (np.diff(times) < 0).any() or duration_ms < 0 or not fps > 0:
        raise MediaError(f"{label}: its times are not those of a video. Expected ascending seconds.")
    decoded = {} if known is None else known
    for data in stills:
        size = containers.header_size("PNG", data)
        if size is not None and math.prod(size) > MAX_FRAME_PIXELS:
            raise MediaError(f"{label}: a frame of more than {MAX_FRAME_PIXELS:,} pixels, which no trace holds.")
        if data not in decoded:
            made = image_from_record(label, sha256, "image/png", data)
            decoded[data] = replace(made, sha256=sources.sha256_of_array(made.pixels))
    pictures = [replace(decoded[data], name=_still_name(label, t)) for data, t in zip(stills, times, strict=True)]
    _check_sizes([picture.pixels.shape for picture in pictures], label)
    clean = tuple(sources.clean(str(note)) for note in notes)
    return Video(
        tuple(pictures), _frozen(times), float(duration_ms), float(fps), int(frames_in), label, sha256, clean
    )  # fmt: skip


# --- frames ---------------------------------------------------------------------------------------------------------


def _frames_and_rate(source: Any, label: str) -> tuple[Any, float]:
    """``(frames, fps)``, whichever way round they came."""
    if isinstance(source, np.ndarray):
        raise MediaError(f"{label}: frames without a rate. Pass (frames, fps): the model is told when each is shown.")
    rates = [p for p in source if isinstance(p, (int, float, Fraction, np.integer, np.floating))]
    frames = [p for p in source if isinstance(p, (np.ndarray, list, tuple))]
    if len(source) != 2 or len(rates) != 1 or len(frames) != 1:
        raise MediaError(f"{label}: a tuple of {len(source)}. Expected (frames, fps), such as (array, 25).")
    fps = float(rates[0])
    if not 0 < fps <= 1000:
        raise MediaError(f"{label}: fps={rates[0]!r}. Expected frames a second, above 0 and at most 1,000.")
    return frames[0], fps


def _from_frames(frames: Any, fps: float, label: str, count: int, max_seconds: float) -> Video:
    if isinstance(frames, np.ndarray) and frames.ndim not in (3, 4):
        raise MediaError(f"{label}: frames of shape {frames.shape}. Expected (frames, height, width, 3).")
    total = len(frames)
    if not total:
        raise MediaError(f"{label}: it has no frames. Expected at least one.")
    _check_length(total / fps, label, max_seconds)
    chosen = sampled(total, count)
    if isinstance(frames, np.ndarray):
        made = [from_array(frames[k], f"frame {k} of {label}", _MAX_PIXELS) for k in chosen]
        digest = sources.sha256_of_array(frames, f"{fps!r} fps")
    else:
        pictures = [load_image(frames[k], name=f"frame {k} of {label}") for k in chosen]
        made = [(picture.pixels, list(picture.notes)) for picture in pictures]
        digest = _sha256("".join([*(p.sha256 for p in pictures), f"{total} {fps!r} fps"]).encode()).hexdigest()
    notes = list(dict.fromkeys(note for _, more in made for note in more))
    frames_in = [pixels for pixels, _ in made]
    _check_sizes([frame.shape for frame in frames_in], label)
    size = frames_in[0].shape[:2]
    return _video(
        [_fitted(frame) for frame in frames_in], size, chosen / fps, total / fps, fps, total, label, digest, notes
    )


def _video(
    frames: list[np.ndarray], before: tuple[int, ...], seconds: Any, length: float, fps: float, total: int, label: str,
    digest: str, notes: list[str],
) -> Video:  # fmt: skip
    """Upright frames of ``_fitted``, whose height and width were ``before`` that, to a Video."""
    height, width = frames[0].shape[:2]
    if (height, width) != tuple(before):
        notes = [*notes, f"frames scaled from {before[1]}×{before[0]} to {width}×{height} pixels"]
    stills = [load_image(frame, name=_still_name(label, t)) for frame, t in zip(frames, seconds, strict=True)]
    times = _frozen(np.asarray(seconds, np.float64))
    return Video(tuple(stills), times, length * 1000, fps, total, label, digest, tuple(notes))


def _fitting(height: int, width: int) -> tuple[int, int]:
    factor = math.sqrt(MAX_FRAME_PIXELS / (height * width))
    return (height, width) if factor >= 1 else (max(1, int(height * factor)), max(1, int(width * factor)))


def _fitted(frame: np.ndarray) -> np.ndarray:
    """A frame, scaled down where it is large."""
    height, width = _fitting(*frame.shape[:2])
    if frame.shape[:2] == (height, width):
        return frame
    picture: PIL.Image.Image = sources.need("PIL.Image", "videos").fromarray(frame)
    return np.asarray(picture.resize((width, height), sources.need("PIL.Image", "videos").Resampling.LANCZOS))


def _still_name(label: str, seconds: float) -> str:
    return f"{label} at {int(seconds // 60):02d}:{seconds % 60:05.2f}"


def _check_sizes(shapes: Sequence[tuple[int, ...]], label: str) -> None:
    sizes = sorted({shape[:2] for shape in shapes})
    if len(sizes) > 1:
        (h, w), (g, v) = sizes[:2]
        raise MediaError(f"{label}: its frames have several sizes, {w}×{h} and {v}×{g}. Expected one size.")


def _check_length(seconds: float, label: str, most: float) -> None:
    if seconds > most:
        raise MediaError(
            f"{label}: it lasts {seconds:,.0f} s. Expected at most {most:,.0f} s: cut out the part you ask about."
        )


# --- files ----------------------------------------------------------------------------------------------------------


def _from_file(file: BinaryIO, label: str, count: int, max_seconds: float) -> Video:
    kind = _format(file.read(sources.HEAD), label)
    digest = sources.sha256_of(file)
    if kind == "MP4":
        boxes.check_samples(file, label)
    with _opened(file, kind, label) as (container, stream):
        check_dimensions(stream.width, stream.height, label, _MAX_PIXELS)
        times, length = _schedule(container, stream, label, max_seconds)
        total, pixels = len(times), stream.width * stream.height
        notes = ["its sound was left out: pass it as audio="] if container.streams.audio else []
    if total * pixels > _MAX_WORK:
        raise MediaError(
            f"{label}: {total:,} frames of {pixels:,} pixels are too much to decode. Cut out the part you ask about, "
            "or scale it down."
        )
    chosen = sampled(total, count)
    frames, shown, turned = [], [], 0
    file.seek(0)
    with _opened(file, kind, label) as (container, stream):  # anew: not every container can be wound back
        for frame, pts in _decoded(container, stream, [times[k] for k in chosen]):
            pixels_in = frame.to_ndarray(format="rgb24")
            frames.append(_fitted(pixels_in))  # at once: 32 frames of 40 megapixels would be 4 GB
            size = pixels_in.shape[:2]
            shown.append(float((pts - times[0]) * stream.time_base))
            turned = int(frame.rotation) // 90 % 4
    if not frames:
        raise MediaError(f"{label}: none of its {total:,} frames can be decoded. Copy it anew, or convert it to MP4.")
    if len(frames) < len(chosen):
        notes.append(f"the file breaks off: {len(frames)} of {len(chosen)} frames could be decoded")
    if turned:
        frames = [np.rot90(frame, turned) for frame in frames]  # anticlockwise, as FFmpeg counts
        size = size[::-1] if turned % 2 else size
        notes.append(f"turned upright by {180 if turned == 2 else 90}°")
    fps = float(total / length) if length else 1.0
    return _video(frames, size, shown, float(length), fps, total, label, digest, notes)


def _format(head: bytes, label: str) -> str:
    family, kind = sources.formats(head)
    if kind in _DEMUXER:
        return str(kind)
    advice = {
        "image": "Pictures go in as images.",
        "audio": "Sounds go in as audio.",
        "video": "Convert it first.",
    }.get(family or "", "Check that this is the right file and that it was copied whole.")
    raise MediaError(
        f"{label}: this is no video we read, it looks like {sources.describe(head)}. {_EXPECTED}. {advice}"
    )


@contextmanager
def _opened(file: BinaryIO, kind: str, label: str) -> Iterator[tuple[Any, Any]]:
    """The container and its video stream; whatever FFmpeg does on a broken file becomes one MediaError."""
    av = sources.need("av", "video files")
    try:
        with av.open(file, "r", format=_DEMUXER[kind]) as container:
            yield container, _stream(container, label)
    except MediaError:
        raise
    except MemoryError as error:
        raise MediaError(f"{label}: there is not enough memory to decode this video. Scale it down.") from error
    except (av.error.FFmpegError, OSError, ValueError, ArithmeticError) as error:
        reason = sources.clean(str(getattr(error, "strerror", None) or error).rstrip("."))
        raise MediaError(f"{label}: the video is broken or cut short ({reason}). Copy it anew.") from error


def _stream(container: Any, label: str) -> Any:
    """The container's video."""
    stream = container.streams.best("video")
    if stream is None:
        raise MediaError(f"{label}: there is no picture in it, only sound or text. Sounds go in as audio.")
    if getattr(stream, "codec_context", None) is None:
        raise MediaError(f"{label}: its codec cannot be decoded here. Convert it to MP4 (H.264).")
    stream.thread_type = "AUTO"
    return stream


def _schedule(container: Any, stream: Any, label: str, max_seconds: float) -> tuple[list[int], Fraction]:
    """When each frame is shown, in the stream's unit and in order, and how many seconds all last; decodes nothing."""
    times: list[int] = []
    end, unit = 0, stream.time_base
    for packet in container.demux(stream):
        pts = packet.pts if packet.pts is not None else packet.dts
        if pts is None or not packet.size or packet.is_discard:
            continue  # the last, empty one; and what an edit list hides
        times.append(pts)
        end = max(end, pts + (packet.duration or 0))
        if len(times) > _MAX_PACKETS:
            raise MediaError(f"{label}: it has more than {_MAX_PACKETS:,} frames. Cut out the part you ask about.")
        _check_length(float((pts - times[0]) * unit), label, max_seconds)
    if not times:
        raise MediaError(f"{label}: it has no frames. Expected at least one.")
    times.sort()
    length = (end - times[0]) * unit
    if end <= times[-1]:  # no duration of the last one: as long as the others
        rate = stream.average_rate
        length += Fraction(1) / rate if rate else (times[-1] - times[0]) * unit / max(len(times) - 1, 1)
    _check_length(float(length), label, max_seconds)
    return times, length


def _decoded(container: Any, stream: Any, wanted: list[int]) -> Iterator[tuple[Any, int]]:
    """The first frame at or after each of the ascending times ``wanted``, and its time."""
    size, at = None, 0
    for frame in container.decode(stream):
        pts = frame.pts if frame.pts is not None else frame.dts
        size = size or (frame.width, frame.height)
        if (frame.width, frame.height) != size:
            raise ValueError(f"its frames change from {size[0]}×{size[1]} to {frame.width}×{frame.height}")
        if pts is None or pts < wanted[at]:
            continue
        yield frame, pts
        at = max(at + 1, bisect_left(wanted, pts + 1))
        if at >= len(wanted):
            return


def _frozen(array: np.ndarray) -> np.ndarray:
    array = np.array(array)
    array.setflags(write=False)
    return array
