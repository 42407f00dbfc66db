"""A trace's pictures, sounds and videos: what ``trace.json`` says of them, and reading them back.

What is stored once (``media/HASH.EXT``) is read and decoded once, however many records name it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any

from workbench.archive import Archive
from workbench.errors import TraceError
from workbench.media import Audio, Image, Video, audio_from_record, image_from_record, video_from_record
from workbench.media.sources import recorded
from workbench.media.video import MAX_FRAMES
from workbench.trace import Trace
from workbench.tracecheck import MAX_DECODED, MAX_MEDIA
from workbench.tracefields import count, get, strings

__all__ = ["all_media", "media_member", "media_record", "read_media", "video_record"]

MAX_FRAME_BYTES = 8 << 20  # of one stored frame of a video: a PNG of noise has 3.2 million

_EXTENSION = {"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp", "audio/wav": "wav"}


# --- saving ---------------------------------------------------------------------------------------------------------


def media_record(media: Image | Audio) -> dict[str, Any]:
    """What trace.json says of a picture or a sound."""
    return {"name": media.name, "sha256": media.sha256, "mime": media.mime, "stored": sha256(media.data).hexdigest(),
            "notes": list(media.notes)}  # fmt: skip


def video_record(video: Video) -> dict[str, Any]:
    """What trace.json says of a video."""
    shown = zip(video.stills, video.seconds.tolist(), strict=True)
    return {
        "name": video.name, "sha256": video.sha256, "duration_ms": video.duration_ms, "fps": video.fps,
        "frames_in": video.frames_in, "notes": list(video.notes),
        "frames": [{"stored": sha256(still.data).hexdigest(), "seconds": seconds} for still, seconds in shown],
    }  # fmt: skip


def media_member(media: Image | Audio) -> str:
    """The archive's member that holds it."""
    return f"media/{sha256(media.data).hexdigest()}.{_EXTENSION[media.mime]}"


def all_media(trace: Trace) -> list[Image | Audio]:
    """Pictures, sounds, and the frames of videos; of those that share their stored bytes, one."""
    media: list[Image | Audio] = [*trace.images, *trace.audio]
    media += [still for video in trace.video for still in video.stills]
    return list({id(m.data): m for m in media}.values())


# --- loading --------------------------------------------------------------------------------------------------------


def read_media(archive: Archive, about: dict) -> tuple[tuple[Image, ...], tuple[Audio, ...], tuple[Video, ...]]:
    """Pictures, sounds and videos of an archive.

    Args:
        archive: The open file.
        about: Its trace.json.

    Raises:
        TraceError: A record is broken, what it names is missing or another, or all is more than ``MAX_DECODED``.
        MediaError: What is stored cannot be decoded, or is not what the workbench writes.
    """
    images, audio = get(about, "images", list), get(about, "audio", list)
    video = get(about, "video", list) if "video" in about else []  # older files have none
    shown = [record.get("frames") for record in video if isinstance(record, dict)]
    if len(images) + len(audio) + sum(len(frames) for frames in shown if isinstance(frames, list)) > MAX_MEDIA:
        raise TraceError(f"it has more than {MAX_MEDIA} media.")
    shelf = _Shelf(archive)
    return (
        tuple(shelf.medium(record, image_from_record, ()) for record in images),
        tuple(shelf.medium(record, audio_from_record, ("rate_in", "channels_in")) for record in audio),
        tuple(shelf.video(record) for record in video),
    )


class _Shelf:
    """What was read of an archive so far, each member once."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._media: dict[tuple[str, str], Any] = {}  # by what is stored, and its mime type
        self._frames: dict[str, bytes] = {}
        self._stills: dict[bytes, Image] = {}
        self._held: dict[str, int] = {}  # bytes decoded, by what is stored

    def medium(self, record: Any, make: Callable[..., Any], more: Sequence[str]) -> Any:
        record = record if isinstance(record, dict) else {}
        hash_, mime = get(record, "stored", str), get(record, "mime", str)
        name, original, notes = get(record, "name", str), get(record, "sha256", str), tuple(strings(record, "notes"))
        others = {field: count(record, field) for field in more}
        if (known := self._media.get((hash_, mime))) is not None:
            return recorded(known, name, original, notes, **others)
        self._check_room()
        data = self._stored(hash_, _EXTENSION.get(mime, "?"))
        made = make(name, original, mime, data, notes=notes, **others)
        self._held[hash_] = (made.pixels if isinstance(made, Image) else made.samples).nbytes
        self._media[hash_, mime] = made
        return made

    def video(self, record: Any) -> Video:
        record = record if isinstance(record, dict) else {}
        frames = get(record, "frames", list)
        if not all(isinstance(frame, dict) for frame in frames):
            raise TraceError("trace.json in it: 'frames' of a video are no frames. Expected a mapping for each.")
        if len(frames) > MAX_FRAMES:
            raise TraceError(f"it has a video of {len(frames):,} frames. Expected at most {MAX_FRAMES}.")
        self._check_room()
        names = [get(frame, "stored", str) for frame in frames]
        for hash_ in names:
            if hash_ not in self._frames:
                self._frames[hash_] = self._stored(hash_, "png", MAX_FRAME_BYTES)
        made = video_from_record(
            get(record, "name", str), get(record, "sha256", str), [self._frames[hash_] for hash_ in names],
            [float(get(frame, "seconds", float)) for frame in frames],
            duration_ms=get(record, "duration_ms", float), fps=get(record, "fps", float),
            frames_in=count(record, "frames_in"), notes=strings(record, "notes"), known=self._stills,
        )  # fmt: skip
        self._held |= {hash_: still.pixels.nbytes for hash_, still in zip(names, made.stills, strict=True)}
        return made

    def _stored(self, hash_: str, extension: str, most: int | None = None) -> bytes:
        data = self._archive.read(f"media/{hash_}.{extension}", most)
        if sha256(data).hexdigest() != hash_:
            raise TraceError(f"media/{hash_} in it is not what was saved: its hash is another. Copy it anew.")
        return data

    def _check_room(self) -> None:
        if sum(self._held.values()) > MAX_DECODED:
            raise TraceError(f"its media unpack to more than {MAX_DECODED:,} bytes. Save it anew, with fewer of them.")
