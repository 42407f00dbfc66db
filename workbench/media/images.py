"""Pictures: decode, check, turn upright, convert to sRGB; and encode again, exactly and without metadata."""

from __future__ import annotations

import io
import math
import re
import threading
import warnings
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from hashlib import sha256 as _sha256
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.errors import MediaError
from workbench.media import containers, guards, sources
from workbench.media.pixels import MAX_PIXELS, MAX_SIDE, check_dimensions, from_array, turned, upright_rgb

if TYPE_CHECKING:
    from collections.abc import Iterator

    import PIL.Image

__all__ = [
    "IMAGE_TOKENS",
    "MAX_IMAGE_BYTES",
    "MAX_PIXELS",
    "MAX_SIDE",
    "Image",
    "image_from_record",
    "load_image",
    "patch_grid",
]

IMAGE_TOKENS = (70, 140, 280, 560, 1120)
"""Soft tokens that Gemma 4 may be given for a picture, at most: its five budgets."""

MAX_IMAGE_BYTES = 256 << 20  # a 64 MP bitmap fits
_SMALL = 4 << 20  # bytes; up to here a plain original is embedded as it is

_MIME = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}
_READ = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
_ACCEPTED = "a path, bytes, a binary file, a PIL image, or a numpy array (height, width[, 1, 3 or 4])"
_EXPECTED = "Expected PNG, JPEG, WebP, GIF or BMP"

# Pillow's warnings are turned off and on process-wide; the lock keeps two of our threads from undoing each other.
_pillow_lock = threading.Lock()


@dataclass(frozen=True, eq=False, repr=False)
class Image:
    """A picture as the model gets it. Equal to another when original and pixels are.

    Attributes:
        pixels: (height, width, 3) uint8, sRGB, upright; read-only.
        name: For people: a file's name without folders, or what was passed ("bytes (12,345 of them)").
        sha256: Of the bytes that came; for arrays and PIL images, of shape and pixels.
        mime: Of ``data``: ``image/png``, ``image/jpeg`` or ``image/webp``.
        data: An encoded copy without metadata that decodes to exactly ``pixels`` (a JPEG with an EXIF orientation: once
            turned upright, as browsers do).
        notes: What was changed on the way, one sentence each.
    """

    pixels: np.ndarray
    name: str
    sha256: str
    mime: str
    data: bytes
    notes: tuple[str, ...] = field(default=())

    @property
    def height(self) -> int:
        """Rows of pixels of the upright picture."""
        return self.pixels.shape[0]

    @property
    def width(self) -> int:
        """Columns of pixels of the upright picture."""
        return self.pixels.shape[1]

    def to_pil(self) -> PIL.Image.Image:
        """As a PIL image, which is how to hand it to the processor.

        Given the array, Transformers takes the rows of a picture 1 or 3 pixels high for colour channels.
        """
        return sources.need("PIL.Image", "pictures").fromarray(self.pixels)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Image):
            return NotImplemented
        return self.sha256 == other.sha256 and np.array_equal(self.pixels, other.pixels)

    def __hash__(self) -> int:
        return hash(self.sha256)

    def __repr__(self) -> str:
        notes = "".join(f", {note}" for note in self.notes)
        return f"<Image {self.name!r} {self.width}×{self.height}{notes}>"


def load_image(
    source: Any, *, name: str | None = None, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_IMAGE_BYTES
) -> Image:
    """Read a picture: check it, decode it, turn it upright, make it sRGB.

    Args:
        source: A path; bytes; a binary file object, read from where it stands; a PIL image (its present frame); a numpy
            array of shape (height, width), or with a last axis of 1, 3 or 4, uint8 or floating point in 0 to 1; or an
            :class:`Image`, which is given back as it is. PNG, JPEG, WebP, GIF and BMP are read, told apart by content;
            of an animation the first frame.
        name: What to call it instead of the file's name.
        max_pixels: The most pixels (height × width) it may have; checked in the header.
        max_bytes: The most bytes the file may have.

    Returns:
        The picture, with ``notes`` on all that was changed.

    Raises:
        MediaError: It is missing, broken, cut short, too large, or of another kind. Says what came and what to do.
    """
    if name is not None and not isinstance(name, str):
        raise MediaError(f"name={name!r}: expected text or None.")
    label = sources.display_name(source if name is None else name)
    if isinstance(source, Image):
        return source if name is None else replace(source, name=label)
    if isinstance(source, np.ndarray):
        pixels, notes = from_array(source, label, max_pixels)
    elif sources.is_pil(source):
        with _pillow(label):
            pixels, _, notes = upright_rgb(source, label, max_pixels)
    elif sources.is_file(source):
        return _from_bytes(sources.read_bytes(source, label, max_bytes), label, max_pixels)
    else:
        raise sources.unusable(source, label, _ACCEPTED)
    return Image(_frozen(pixels), label, sources.sha256_of_array(pixels), "image/png", _png(pixels), tuple(notes))


def image_from_record(name: str, sha256: str, mime: str, data: bytes, *, notes: tuple[str, ...] = ()) -> Image:
    """Read an embedded picture back from a trace, with the checks of any stranger's file.

    Args:
        name: As recorded; cleaned again.
        sha256: Of the original, 64 hexadecimal digits; taken over, since the original may not be here.
        mime: ``image/png``, ``image/jpeg`` or ``image/webp``, and ``data`` must be that.
        data: The bytes of :attr:`Image.data`.
        notes: The notes of the original.

    Returns:
        The picture that was saved: the same pixels, hash and data.

    Raises:
        MediaError: The record is broken, or not one that the workbench writes.
    """
    label = sources.check_record(name, sha256, mime, data, tuple(_MIME.values()), MAX_IMAGE_BYTES)
    data = bytes(data)
    kind = sources.formats(data[: sources.HEAD])[1]
    if _MIME.get(kind or "") != mime:
        raise MediaError(f"{label}: the trace says {mime}, the data looks like {sources.describe(data)}.")
    image = _from_bytes(data, label, MAX_PIXELS, small=MAX_IMAGE_BYTES)
    if image.data != data:
        raise MediaError(
            f"{label}: the embedded picture carries metadata, transparency or colours that the workbench never writes. "
            "Take it out of the trace and load it as a file."
        )
    return replace(image, sha256=sha256, notes=tuple(sources.clean(str(note)) for note in notes))


def patch_grid(height: int, width: int, image_tokens: int = 280) -> tuple[int, int]:
    """Rows and columns of 48×48 pixel patches that Gemma 4's image processor makes of a picture.

    The picture is scaled, up or down, to the largest size that fits the budget with both sides multiples of 48. The
    proportions are kept within that rounding, up to one row or column of ``image_tokens`` patches: there is no picture
    that the model cannot take, but one longer than that is squeezed (1×5000 pixels become 1×280 patches). It is the
    rule of ``get_aspect_ratio_preserving_size`` in Transformers, without torch.

    Args:
        height: In pixels, at least 1.
        width: In pixels, at least 1.
        image_tokens: The budget, one of 70, 140, 280, 560, 1120.

    Returns:
        ``(rows, cols)``; their product is the number of tokens.

    Raises:
        MediaError: A side or a budget below 1.
    """
    if height < 1 or width < 1 or image_tokens < 1:
        raise MediaError(f"{height}×{width} pixels for {image_tokens} tokens: expected at least 1 of each.")
    factor = math.sqrt(image_tokens * 48**2 / (height * width))
    rows, cols = math.floor(factor * height / 48), math.floor(factor * width / 48)
    if rows == 0:
        return 1, max(1, min(width // height, image_tokens))
    if cols == 0:
        return max(1, min(height // width, image_tokens)), 1
    return rows, cols


# --- decoding -------------------------------------------------------------------------------------------------------


def _from_bytes(data: bytes, label: str, max_pixels: int, small: int = _SMALL) -> Image:
    """A file's bytes to an Image; ``small`` as in :func:`_embeddable`."""
    kind = _format(data, label)
    size = containers.header_size(kind, data)
    if size is not None:
        check_dimensions(*size, label, max_pixels)
    elif kind == "WEBP":  # Pillow's reader takes memory for the whole canvas when it opens one
        raise MediaError(f"{label}: the header of this WebP file is broken. Save or copy the picture anew.")
    shown = data
    if kind == "JPEG":
        guards.check_jpeg_head(data, label)
    elif kind == "GIF":
        shown = guards.gif_without_comments(data, label)
    with _pillow(label):
        picture = _open(shown, kind)
        if kind == "JPEG":
            guards.check_jpeg_scans(data, *picture.size, label)
        pixels, orientation, notes = upright_rgb(picture, label, max_pixels)
        deep = ["16-bit values scaled to 8 bits"] if kind == "PNG" and data[24] == 16 and picture.mode[0] != "I" else []
        notes = [*_frames(picture, kind, data), *deep, *notes]
        kept = _embeddable(data, kind, orientation, pixels, small)
    digest = _sha256(data).hexdigest()
    if kept is None:
        return Image(_frozen(pixels), label, digest, "image/png", _png(pixels), tuple(notes))
    return Image(_frozen(pixels), label, digest, _MIME[kind], kept, tuple(notes))


def _format(data: bytes, label: str) -> str:
    """The format by content, one of ``_READ``."""
    family, kind = sources.formats(data[: sources.HEAD])
    if family == "image" and kind in _READ:
        return kind
    advice = {
        "audio": "Sounds go in as audio.",
        "video": "Videos go in as video.",
        "image": "Save it as PNG or JPEG.",
    }.get(family or "", "Check that this is the right file and that it was copied whole.")
    looks = sources.describe(data)
    raise MediaError(f"{label}: this is no picture we read, it looks like {looks}. {_EXPECTED}. {advice}")


@contextmanager
def _pillow(label: str) -> Iterator[None]:
    """Turn whatever Pillow does on a broken or hostile file into one MediaError; let none of its warnings out."""
    pillow = sources.need("PIL.Image", "pictures")
    with _pillow_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "Corrupt EXIF data" and the like: the picture counts, not its metadata
        warnings.simplefilter("error", pillow.DecompressionBombWarning)
        try:
            yield
        except MediaError:
            raise
        except (pillow.DecompressionBombError, pillow.DecompressionBombWarning) as error:
            raise MediaError(f"{label}: the picture has too many pixels to be decoded. Make it smaller.") from error
        except MemoryError as error:
            raise MediaError(f"{label}: there is not enough memory to decode this picture. Make it smaller.") from error
        except Exception as error:  # Pillow's readers raise nearly anything (struct.error, IndexError, KeyError…)
            reason = sources.clean(re.sub(r" ?<_io[^>]*>", "", str(error)).rstrip(".")) or type(error).__name__
            raise MediaError(
                f"{label}: the picture is broken or cut short ({reason}). Save or copy it anew."
            ) from error


def _open(data: bytes, kind: str) -> PIL.Image.Image:
    """Open with the one reader that fits; decoding comes later."""
    import PIL.Image

    return PIL.Image.open(io.BytesIO(data), formats=(kind,))


def _frames(picture: PIL.Image.Image, kind: str, data: bytes) -> list[str]:
    """A note when there is more than one picture in the file."""
    if kind == "GIF":  # Pillow would walk through all of them, however many
        most = 1000
        count = containers.gif_frames(data, most)
        shown = f"more than {most:,}" if count >= most else f"{count:,}"
    else:
        count = getattr(picture, "n_frames", 1)
        shown = f"{count:,}"
    word = "pictures" if kind == "JPEG" else "frames"
    return [f"first of {shown} {word}"] if count > 1 else []


# --- encoding -------------------------------------------------------------------------------------------------------


def _embeddable(data: bytes, kind: str, orientation: int, pixels: np.ndarray, small: int) -> bytes | None:
    """The original without its metadata, if it decodes to ``pixels`` in any viewer; call within :func:`_pillow`.

    A PNG above ``small`` bytes is encoded anew (it may be badly packed); a JPEG or WebP would only grow.
    """
    if kind == "PNG" and len(data) > small:
        return None
    kept = containers.without_metadata(kind, data, orientation)
    if kept is None:
        return None
    # Not through our conversions: what was composed on white or converted from a profile shows other colours elsewhere.
    picture = _open(kept, kind)
    if picture.mode == "CMYK":  # every viewer converts ink in its own way
        return None
    plain = np.asarray(turned(picture.convert("RGB"), orientation))
    return kept if np.array_equal(plain, pixels) else None


def _png(pixels: np.ndarray) -> bytes:
    """(height, width, 3) uint8 to a PNG without metadata; big pictures are packed quickly rather than tightly."""
    file = io.BytesIO()
    level = 6 if pixels.size <= 500_000 else 1
    sources.need("PIL.Image", "pictures").fromarray(pixels).save(file, "PNG", compress_level=level)
    return file.getvalue()


def _frozen(array: np.ndarray) -> np.ndarray:
    array = np.ascontiguousarray(array)
    array.setflags(write=False)
    return array
