"""MediaInput: pictures and sounds from the disk, the clipboard, a microphone or a webcam, checked as they come in.

Jupyter drops messages above 10 MiB without a word, so a file crosses in parts, each acknowledged before the next:

    begin(name, size) ──► part(offset, bytes) ──► part … ──► finish()
          │ too large          │ no picture or sound by its first bytes    │ broken, too many pixels …
          └────────────────────┴─────────── refused in words ──────────────┘
"""

from __future__ import annotations

import base64
import io
import itertools
import math
import tempfile
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import traitlets

from widgets.base import Panel
from widgets.buffers import array
from workbench.errors import MediaError
from workbench.media import (
    MAX_AUDIO_BYTES,
    MAX_IMAGE_BYTES,
    SAMPLE_RATE,
    Audio,
    Image,
    describe,
    load_audio,
    load_image,
    patch_grid,
    sniff,
)
from workbench.media.images import IMAGE_TOKENS
from workbench.media.sources import display_name, open_binary
from workbench.thumbnails import thumbnail

__all__ = ["PART", "MediaInput"]

"""Soft tokens an image may take."""

PART = 1 << 20
"""Bytes the browser sends at once."""

_MOST_ITEMS = 32
_OPEN_UPLOADS = 32
_COLUMNS = 240  # of a waveform
_FRAME = 640  # samples of one audio token
_ACCEPTED = "Pictures (PNG, JPEG, WebP, GIF, BMP) and sounds (WAV, FLAC, OGG, MP3 …) can be added."


@dataclass
class _Upload:
    name: str
    size: int
    file: Any = field(default_factory=lambda: tempfile.SpooledTemporaryFile(max_size=16 << 20))  # noqa: SIM115 (closed in _drop)
    received: int = 0
    head: bytes = b""


class MediaInput(Panel):
    """A place to drop, paste, choose, record or photograph what a model shall see and hear.

        media = MediaInput()
        media                                                       # in a cell of its own
        model.ask("What is this?", images=media.images, audio=media.audio)

    Attributes:
        items: What is shown of each picture and sound, in order; change it with :meth:`add`, :meth:`remove`,
            :meth:`move`.
        image_tokens: Soft tokens an image may take; None is the model's default.
        default_image_tokens: What that default is; only shown.
    """

    NAME: ClassVar[str] = "media_input"

    items: Any = traitlets.List(help="Cards of what was added.").tag(sync=True)
    image_tokens = traitlets.Int(None, allow_none=True, help="70, 140, 280, 560 or 1120 tokens; None: default.").tag(
        sync=True
    )
    default_image_tokens = traitlets.Int(280).tag(sync=True)
    sending = traitlets.Int(0, help="Files on their way from the browser.").tag(sync=True)

    def __init__(self, **more: Any) -> None:
        super().__init__(data={"part": PART, "budgets": [*IMAGE_TOKENS]}, **more)
        self._media: dict[int, Image | Audio] = {}
        self._cards: dict[int, dict[str, Any]] = {}  # what of them costs time: a small picture, an outline
        self._uploads: dict[int, _Upload] = {}
        self._numbers = itertools.count(1)
        self.observe(self._show, names=["image_tokens", "default_image_tokens"])

    @property
    def images(self) -> list[Image]:
        """The pictures, in order: pass them as ``images=``."""
        return [one for one in self._media.values() if isinstance(one, Image)]

    @property
    def audio(self) -> list[Audio]:
        """The sounds, in order: pass them as ``audio=``."""
        return [one for one in self._media.values() if isinstance(one, Audio)]

    def add(self, *sources: Any, name: str | None = None) -> None:
        """Add pictures or sounds.

        Args:
            sources: Each a path, bytes, an open file, an Image or an Audio.
            name: What to call a single one.

        Raises:
            MediaError: One is neither, is broken or too large, or there are already too many; then none is added.
        """
        made: dict[int, Image | Audio] = {}
        for source in sources:
            if len(self._media) + len(made) >= _MOST_ITEMS:
                raise MediaError(
                    f"{name or display_name(source)}: there are {_MOST_ITEMS} pictures and sounds already. Remove some "
                    "first."
                )
            made[next(self._numbers)] = _load(source, name)
        self._media |= made
        self._show()

    def remove(self, key: int) -> None:
        """Take one out, by its card's ``key``."""
        self._media.pop(key, None)
        self._show()

    def move(self, key: int, step: int) -> None:
        """Move one so many places towards the end; backwards if negative."""
        keys = list(self._media)
        if key not in keys:
            return
        at = keys.index(key)
        keys.insert(max(0, min(len(keys) - 1, at + step)), keys.pop(at))
        self._media = {k: self._media[k] for k in keys}
        self._show()

    def clear(self) -> None:
        """Take everything out."""
        self._media.clear()
        self._show()

    def _show(self, _change: Any = None) -> None:
        budget = self.image_tokens or self.default_image_tokens
        self._cards = {key: self._cards.get(key) or _card(one) for key, one in self._media.items()}
        self.items = [
            {"key": key, **self._cards[key], **_tokens(one, budget)} for key, one in self._media.items()
        ]  # fmt: skip

    # --- what the browser asks ---------------------------------------------------------------------------------------

    def answer_begin(self, name: str, size: int) -> dict[str, Any]:
        """A file is about to be sent."""
        most = max(MAX_IMAGE_BYTES, MAX_AUDIO_BYTES)
        if not 0 < size <= most:
            what = "is empty" if size == 0 else f"has {size / 1e6:,.0f} MB; at most {most / 1e6:,.0f} MB can be sent"
            raise MediaError(f"{name} {what}.")
        while len(self._uploads) >= _OPEN_UPLOADS:  # left by pages that were closed half way
            self._drop(next(iter(self._uploads)))
        key = next(self._numbers)
        self._uploads[key] = _Upload(str(name)[:200], int(size))
        return {"upload": key}

    def answer_part(self, upload: int, offset: int, text: str | None = None, buffers: Any = ()) -> dict[str, Any]:
        """A part of it, binary or in base64; the first one decides whether the rest is worth sending."""
        one = self._upload(upload)
        if not buffers and text is None:  # a host that carries no binary: said by what was received, which is no more
            return {"received": one.received}
        part = bytes(buffers[0]) if buffers else base64.b64decode(text or "")
        if offset != one.received or not part or one.received + len(part) > one.size:
            self._drop(upload)
            raise MediaError(f"{one.name}: the upload lost its place at {offset:,} of {one.size:,} bytes. Try again.")
        if offset == 0:
            try:
                _check(one.name, one.size, part)
            except MediaError:
                self._drop(upload)
                raise
        one.file.write(part)
        one.received += len(part)
        return {"received": one.received}

    def answer_finish(self, upload: int) -> dict[str, Any]:
        """All parts are there: read the file and add it."""
        one = self._upload(upload)
        try:
            if one.received != one.size:
                raise MediaError(f"{one.name}: {one.received:,} of {one.size:,} bytes arrived. Try again.")
            one.file.seek(0)
            self.add(one.file, name=one.name)
        finally:
            self._drop(upload)
        return {}

    def answer_cancel(self, upload: int) -> dict[str, Any]:
        """Forget an upload."""
        self._drop(upload)
        return {}

    def answer_path(self, path: str) -> dict[str, Any]:
        """Add a file from the kernel's own disk."""
        if not path.strip():
            raise MediaError("Write the path of a picture or a sound on the kernel's disk.")
        self.add(path.strip())
        return {}

    def answer_remove(self, key: int) -> dict[str, Any]:
        """A card's ✕."""
        self.remove(key)
        return {}

    def answer_clear(self) -> dict[str, Any]:
        """The button that removes all."""
        self.clear()
        return {}

    def answer_move(self, key: int, step: int) -> dict[str, Any]:
        """A card's arrows."""
        self.move(key, step)
        return {}

    def answer_sound(self, key: int) -> dict[str, Any]:
        """The samples as the model hears them, as a 16-bit WAV file."""
        one = self._media.get(key)
        if not isinstance(one, Audio):
            raise MediaError("That sound is not there any more.")
        return {"wav": {"view": wav(one)}}

    def _upload(self, key: int) -> _Upload:
        if key not in self._uploads:
            raise MediaError("That upload is not known any more (was the kernel restarted?). Add the file again.")
        return self._uploads[key]

    def _drop(self, key: int) -> None:
        one = self._uploads.pop(key, None)
        if one is not None:
            one.file.close()


def wav(sound: Audio) -> bytes:
    """A sound as a 16-bit WAV file, as the model hears it: 16 kHz, mono."""
    import wave

    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(SAMPLE_RATE)
        out.writeframes(np.clip(np.round(sound.samples * 32768), -32768, 32767).astype("<i2").tobytes())
    return file.getvalue()


def outline(samples: np.ndarray, columns: int = _COLUMNS) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest sample in each of so many columns, as int8 from -127 to 127."""
    edges = np.linspace(0, len(samples), min(columns, len(samples)) + 1).astype(int)[:-1]
    low, high = np.minimum.reduceat(samples, edges), np.maximum.reduceat(samples, edges)
    return np.round(low * 127).astype(np.int8), np.round(high * 127).astype(np.int8)


def _check(name: str, size: int, head: bytes) -> None:
    """Refuse what is no picture or sound, or too large for its kind, by its first bytes."""
    kind = sniff(head)
    if kind not in ("image", "audio"):
        more = " Take stills of a video; in Python, model.ask(video=[…]) takes it." if kind == "video" else ""
        raise MediaError(f"{name}: {describe(head)}. {_ACCEPTED}{more}")
    most = MAX_IMAGE_BYTES if kind == "image" else MAX_AUDIO_BYTES
    if size > most:
        raise MediaError(f"{name} has {size / 1e6:,.0f} MB; at most {most / 1e6:,.0f} MB of this kind can be read.")


def _load(source: Any, name: str | None) -> Image | Audio:
    if isinstance(source, (Image, Audio)):
        return source
    if isinstance(source, (bytes, bytearray, memoryview)):
        head = bytes(source[:4096])
        _check(name or "These bytes", len(source), head)
    elif hasattr(source, "read"):
        head = source.read(4096)
        source.seek(-len(head), 1)
    else:
        with open_binary(source, name or display_name(source), max(MAX_IMAGE_BYTES, MAX_AUDIO_BYTES)) as (file, _):
            head = file.read(4096)
    load = load_audio if sniff(head) == "audio" else load_image
    return load(source, name=name)


def _tokens(one: Image | Audio, budget: int) -> dict[str, Any]:
    """How many tokens it takes."""
    if isinstance(one, Image):
        rows, cols = patch_grid(one.height, one.width, budget)
        return {"rows": rows, "cols": cols, "tokens": rows * cols}
    return {"tokens": max(1, math.ceil(len(one.samples) / _FRAME))}


def _card(one: Image | Audio) -> dict[str, Any]:
    """What the browser shows of a picture or a sound."""
    if isinstance(one, Image):
        url, width, height = thumbnail(one)
        return {
            "kind": "image", "name": one.name, "notes": [*one.notes], "url": url, "width": width, "height": height,
            "about": f"{one.width}×{one.height} px",
        }  # fmt: skip
    low, high = outline(one.samples)
    return {
        "kind": "audio", "name": one.name, "notes": [*one.notes], "low": array(low, np.int8),
        "high": array(high, np.int8),
        "seconds": one.duration_ms / 1000, "about": f"{one.duration_ms / 1000:.2f} s",
    }  # fmt: skip
