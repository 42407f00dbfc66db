"""What may be passed as a picture or a sound: how it is named, opened, and told apart by its first bytes."""

from __future__ import annotations

import hashlib
import importlib
import io
import os
import re
import stat
import sys
import unicodedata
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import numpy as np

from workbench.errors import MediaError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import ModuleType

    from workbench.media.audio import Audio
    from workbench.media.images import Image

__all__ = ["clean", "describe", "display_name", "formats", "open_binary", "read_bytes", "recorded", "sniff"]

M = TypeVar("M", "Image", "Audio")

HEAD = 4096  # bytes that are enough for sniff() and describe()

# (offset, magic bytes, kind, name). Kinds we do not read are here too: an error that says "a HEIC picture" helps.
_MAGIC: tuple[tuple[int, bytes, str | None, str], ...] = (
    (0, b"\x89PNG\r\n\x1a\n", "image", "PNG"),
    (0, b"\xff\xd8\xff", "image", "JPEG"),
    (0, b"GIF87a", "image", "GIF"),
    (0, b"GIF89a", "image", "GIF"),
    (0, b"BM", "image", "BMP"),
    (8, b"WEBP", "image", "WEBP"),
    (0, b"II*\x00", "image", "TIFF"),
    (0, b"MM\x00*", "image", "TIFF"),
    (0, b"8BPS", "image", "Photoshop"),
    (0, b"\x00\x00\x01\x00", "image", "icon (ICO)"),
    (0, b"\x00\x00\x00\x0cjP  ", "image", "JPEG 2000"),
    (0, b"\xff\x0a", "image", "JPEG XL"),
    (8, b"WAVE", "audio", "WAV"),
    (0, b"fLaC", "audio", "FLAC"),
    (0, b"ID3", "audio", "MP3"),
    (0, b"OggS", "audio", "OGG"),
    (8, b"AIFF", "audio", "AIFF"),
    (8, b"AIFC", "audio", "AIFF"),
    (0, b"MThd", "audio", "MIDI"),
    (0, b"#!AMR", "audio", "AMR"),
    (0, b"caff", "audio", "CAF"),
    (8, b"AVI ", "video", "AVI"),
    (0, b"\x1aE\xdf\xa3", "video", "Matroska or WebM"),
    (0, b"\x00\x00\x01\xba", "video", "MPEG"),
    (0, b"FLV\x01", "video", "Flash"),
    (0, b"%PDF", None, "a PDF document"),
    (0, b"PK\x03\x04", None, "a ZIP archive (or an Office document)"),
    (0, b"\x1f\x8b", None, "a gzip archive"),
    (0, b"PAR1", None, "a Parquet table"),
    (0, b"\x93NUMPY", None, "a saved numpy array (pass numpy.load(…))"),
    (0, b"version https://git-lfs", None, "a Git LFS pointer, not the file itself (git lfs pull brings it)"),
    (0, b"\x7fELF", None, "a program"),
    (0, b"MZ", None, "a program"),
)
_RIFF = {"WEBP", "WAV", "AVI"}  # their magic at byte 8 counts only after RIFF
_IFF = {"AIFF"}
_BRANDS = {  # ISO base media files (ftyp): the brand decides
    b"avif": ("image", "AVIF"),
    b"avis": ("image", "AVIF"),
    b"heic": ("image", "HEIC"),
    b"heix": ("image", "HEIC"),
    b"mif1": ("image", "HEIC"),
    b"M4A ": ("audio", "M4A"),
    b"M4B ": ("audio", "M4A"),
}
_URL = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]+://|https?:|data:|blob:)", re.IGNORECASE)
_BIDI = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def formats(head: bytes) -> tuple[str | None, str | None]:
    """``(kind, format)`` of a file by its first bytes: ``("image", "PNG")``; ``(None, None)`` when unknown."""
    if head[4:8] == b"ftyp":
        return _BRANDS.get(head[8:12], ("video", "MP4"))
    for offset, magic, kind, name in _MAGIC:
        if head[offset : offset + len(magic)] != magic:
            continue
        if name in _RIFF and head[:4] != b"RIFF":
            continue
        if name in _IFF and head[:4] != b"FORM":
            continue
        if name == "BMP" and not _plausible_bmp(head):
            continue
        if name == "OGG" and b"theora" in head[:64]:
            return "video", "Ogg Theora"
        return kind, name
    if len(head) >= 4 and head[0] == 0xFF:
        # A bare stream of frames has no magic but a frame header: 11 ones, then version, layer, bit rate, sample rate.
        if head[1] & 0xE6 == 0xE2 and head[1] & 0x18 != 0x08 and head[2] >> 4 not in (0, 15) and head[2] & 0x0C != 0x0C:
            return "audio", "MP3"
        if head[1] & 0xF6 == 0xF0:
            return "audio", "AAC"
    return None, None


def _plausible_bmp(head: bytes) -> bool:
    """Two letters are little to go by ("BMW is a car…"): ask for a header size that exists."""
    return len(head) >= 18 and int.from_bytes(head[14:18], "little") in (12, 16, 40, 52, 56, 64, 108, 124)


def sniff(data: bytes) -> str | None:
    """Say what a file is by its first bytes, never by its name.

    Args:
        data: The file, or at least its first 64 bytes.

    Returns:
        ``"image"``, ``"audio"`` or ``"video"``, also for formats that the workbench does not read (then the loaders
        say so by name); ``None`` for anything else.
    """
    return formats(bytes(data[:HEAD]))[0]


def describe(data: bytes) -> str:
    """What a file looks like, in words for an error message: "a text file", "a PDF document", "a PNG picture"."""
    head = bytes(data[:HEAD])
    kind, name = formats(head)
    if name is not None:
        word = {"image": "picture", "audio": "sound", "video": "video"}.get(kind or "")
        return f"{_article(name)} {name} {word}" if word else name
    if not head.strip(b"\0"):
        return "nothing but zero bytes"
    wide = head[:2] in (b"\xff\xfe", b"\xfe\xff")
    text = head.decode("utf-16" if wide else "utf-8", "ignore")
    whole = wide or len(text.encode()) >= len(head) - 3  # HEAD may have cut one character
    if not whole or not all(c.isprintable() or c in "\t\r\n\f\ufeff" for c in text):
        return "data of no kind we know"
    start = text.lstrip("\ufeff \t\r\n")[:200].lower()
    if "<svg" in start:
        return "an SVG drawing"
    if start.startswith(("<!doctype html", "<html")):
        return "a web page"
    return "a text file"


def _article(word: str) -> str:
    """The article "a" or "an", as the format's name is spoken: an MP3, an AVI, a PNG."""
    return "an" if word.startswith(("A", "F", "M4", "MP", "icon", "Ogg", "OGG")) and not word.startswith("Fl") else "a"


def clean(text: str, limit: int = 120) -> str:
    """A text of a stranger made fit for one line: no control or direction characters, at most ``limit`` long."""
    text = "".join(" " if c in "\t\r\n" else c for c in text)
    text = "".join(c for c in text if unicodedata.category(c) not in ("Cc", "Cs", "Zl", "Zp") and c not in _BIDI)
    text = text.strip()
    return text if len(text) <= limit else text[: limit - 20] + "…" + text[-19:]


def display_name(source: Any) -> str:
    """How a source is called in messages and under its picture.

    Args:
        source: Anything that :func:`load_image` or :func:`load_audio` takes (or a caller wrongly passed).

    Returns:
        A file's name without its folders and without control characters; for the rest what it is:
        ``"bytes (12,345 of them)"``, ``"numpy array of shape (3, 4) float64"``.
    """
    if isinstance(source, tuple) and len(source) == 2:  # (samples, rate) or (rate, samples)
        arrays = [part for part in source if isinstance(part, np.ndarray)]
        if len(arrays) == 1:
            return display_name(arrays[0])
    if isinstance(source, os.PathLike):
        source = os.fspath(source)
        source = os.fsdecode(source) if isinstance(source, bytes) else source
    if isinstance(source, str):
        return clean(re.split(r"[/\\]", source.rstrip("/\\"))[-1]) or "a path without a name"
    if isinstance(source, (bytes, bytearray, memoryview)):
        size = source.nbytes if isinstance(source, memoryview) else len(source)
        return f"{type(source).__name__} ({size:,} of them)"
    if isinstance(source, np.ndarray):
        return f"numpy array of shape {source.shape} {source.dtype}"
    if is_pil(source):
        return f"PIL image of {source.width}×{source.height} pixels, mode {clean(str(source.mode))}"
    if hasattr(source, "read"):
        name = getattr(source, "name", None)
        return display_name(name) if isinstance(name, (str, bytes)) and name else "file object"
    known = getattr(source, "name", None)
    return clean(known) if isinstance(known, str) and known else f"a {type(source).__name__}"


def is_pil(source: Any) -> bool:
    """Whether this is a PIL image, without importing Pillow (who has such an image has imported it)."""
    pillow = sys.modules.get("PIL.Image")
    return pillow is not None and isinstance(source, pillow.Image)


def is_file(source: Any) -> bool:
    """Whether this is a path, bytes or a file object: something to read bytes from."""
    return isinstance(source, (str, os.PathLike, bytes, bytearray, memoryview)) or hasattr(source, "read")


def unusable(source: Any, label: str, accepted: str) -> MediaError:
    """The error for a source of a type that nothing here reads."""
    hint = ""
    if type(source).__module__.partition(".")[0] == "torch":
        hint = "; a torch tensor becomes an array with .cpu().numpy()"
    elif isinstance(source, (list, tuple)):
        hint = "; pass several one by one, and numbers as a numpy array (numpy.asarray)"
    return MediaError(f"{label}: a {type(source).__name__} cannot be read. Pass {accepted}{hint}.")


def need(module: str, what: str) -> ModuleType:
    """Import a library when it is first needed.

    Raises:
        MediaError: If it is not installed here, with the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as error:  # soundfile raises OSError where libsndfile is missing
        package = {"PIL": "pillow"}.get(module.partition(".")[0], module.partition(".")[0])
        raise MediaError(f"reading {what} needs the package {package}: python -m pip install {package}") from error


@contextmanager
def open_binary(source: Any, label: str, max_bytes: int) -> Iterator[tuple[BinaryIO, int]]:
    """Open a path, bytes or a binary file object for reading from its (current) start.

    Args:
        source: What the caller passed.
        label: Its name for messages.
        max_bytes: The most it may hold; checked before a path is read, and while a file object is.

    Yields:
        A seekable binary file at position 0 and its size in bytes. A path is closed at the end, a caller's file object
        stays open.

    Raises:
        MediaError: It is a URL, missing, a folder, not readable, empty or too large.
    """
    if isinstance(source, (str, os.PathLike)):
        with _open_path(source, label) as file:
            size = os.fstat(file.fileno()).st_size
            _check_size(size, label, max_bytes)
            yield file, size
        return
    data = _all_of(source, label, max_bytes) if hasattr(source, "read") else bytes(source)
    _check_size(len(data), label, max_bytes)
    yield io.BytesIO(data), len(data)


def _open_path(source: str | os.PathLike, label: str) -> BinaryIO:
    """Open a regular file, or say in one sentence why that is not possible."""
    path = os.fspath(source)
    path = os.fsdecode(path) if isinstance(path, bytes) else path
    shown = clean(path, 300)
    if not path:
        raise MediaError("the path is empty. Expected the name of a picture or sound file.")
    if _URL.match(path) and not os.path.exists(path):
        raise MediaError(
            f"{clean(path, 80)}: this is a URL, and the workbench fetches nothing. Download the file and pass its path "
            "or its bytes."
        )
    try:
        path = os.path.expanduser(path)
        # Ask before opening: opening a named pipe would wait for ever, a device would never end.
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise MediaError(f"{shown}: this is a folder. Expected one file; pass its files one by one.")
        if not stat.S_ISREG(mode):
            raise MediaError(f"{shown}: this is not a regular file (a device or a pipe). Copy it to a file first.")
        return open(path, "rb")
    except FileNotFoundError as error:
        where = "" if os.path.isabs(path) else " A relative path starts at the folder that Python runs in."
        raise MediaError(f"{shown}: there is no such file.{where} Check the spelling.") from error
    except PermissionError as error:
        raise MediaError(f"{shown}: reading this file is not permitted. Change its permissions or copy it.") from error
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise MediaError(f"{label}: the file cannot be opened ({clean(reason)}). Check its path.") from error


def _all_of(file: Any, label: str, max_bytes: int) -> bytes:
    """Everything left in a caller's file object, but no more than one byte past ``max_bytes``."""
    parts: list[bytes] = []
    left = max_bytes + 1
    try:
        while left > 0:
            part = file.read(min(left, 1 << 24))
            if not part and not isinstance(part, str):
                break  # b"" at the end, None from a file that would have to wait
            if not isinstance(part, (bytes, bytearray, memoryview)):
                raise MediaError(f"{label}: the file object gives {type(part).__name__}. Open it with mode 'rb'.")
            parts.append(bytes(part))
            left -= len(part)
    except (OSError, ValueError) as error:  # ValueError: the file is closed
        raise MediaError(f"{label}: the file object cannot be read ({clean(str(error))}).") from error
    return b"".join(parts)


def _check_size(size: int, label: str, max_bytes: int) -> None:
    if size == 0:
        raise MediaError(f"{label}: it is empty (0 bytes). A file object that was read before needs seek(0).")
    if size > max_bytes:
        raise MediaError(
            f"{label}: it is too large, more than {max_bytes / 2**20:,.3g} MiB. Pass a smaller or shorter version."
        )


def read_bytes(source: Any, label: str, max_bytes: int) -> bytes:
    """All bytes of a path, bytes or binary file object; the errors of :func:`open_binary`."""
    with open_binary(source, label, max_bytes) as (file, size):
        try:
            return file.read(size)
        except OSError as error:
            raise MediaError(f"{label}: reading the file failed ({clean(error.strerror or str(error))}).") from error


def sha256_of(file: BinaryIO) -> str:
    """Hash an open file in pieces and go back to its start."""
    file.seek(0)
    digest = hashlib.sha256()
    while part := file.read(1 << 20):
        digest.update(part)
    file.seek(0)
    return digest.hexdigest()


def sha256_of_array(array: np.ndarray, more: str = "") -> str:
    """Hash an array's shape, type and numbers: two black pictures of 2×3 and 3×2 pixels are not the same picture.

    Args:
        array: Any numbers.
        more: What else makes it what it is, such as a sample rate.
    """
    digest = hashlib.sha256(f"{array.shape} {array.dtype.str} {more}\n".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def check_record(name: Any, sha256: Any, mime: Any, data: Any, allowed: tuple[str, ...], max_bytes: int) -> str:
    """Check what a trace file says about one of its media; returns the name, cleaned.

    Raises:
        MediaError: A field of another type, an unknown mime type, a hash that is none, or too many bytes.
    """
    if not isinstance(name, str):
        raise MediaError(f"media of a trace: the name is a {type(name).__name__}. Expected text.")
    label = display_name(name) if name else "media of a trace"
    if not isinstance(sha256, str) or not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise MediaError(f"{label}: the hash in the trace is no SHA-256. Expected 64 lower-case hexadecimal digits.")
    if mime not in allowed:
        shown = clean(str(mime), 40)
        raise MediaError(f"{label}: the trace embeds it as {shown!r}. Expected {' or '.join(allowed)}.")
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise MediaError(f"{label}: the embedded data is a {type(data).__name__}. Expected bytes.")
    _check_size(len(bytes(data)), label, max_bytes)
    return label


def recorded(media: M, name: Any, sha256: Any, notes: Iterable[str], **more: Any) -> M:
    """Media that were read for one record of a trace, as another record of the same bytes says.

    Args:
        media: A picture or a sound, decoded.
        name, sha256, notes: As recorded; checked and cleaned.
        more: Other fields to take over.

    Raises:
        MediaError: As :func:`check_record`.
    """
    label = check_record(name, sha256, media.mime, media.data, (media.mime,), len(media.data))
    return replace(media, name=label, sha256=sha256, notes=tuple(clean(str(note)) for note in notes), **more)
