"""The bytes of picture and WAV files: size from the header, number of frames, and copies without metadata.

Nothing here decodes a pixel. Each function looks at the blocks a file is made of (PNG chunks, JPEG segments, RIFF
chunks, GIF blocks), so that a file can be refused by its header before Pillow sees it, and so that an original can be
embedded in a trace without what cameras, phones and recorders write beside pixels and samples.
"""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "colour_table",
    "gif_frames",
    "header_size",
    "jpeg_without_metadata",
    "plain_wav",
    "promised_frames",
    "wav",
    "without_metadata",
]

# PNG chunks that say how to show the pixels and nothing about where they come from. tIME, tEXt, eXIf, iCCP, gAMA and
# whatever else there is make a file "not plain".
_PLAIN_PNG = {b"IHDR", b"PLTE", b"IDAT", b"IEND", b"sRGB", b"pHYs"}

_SOI, _EOI, _SOS, _APP0, _APP14 = 0xD8, 0xD9, 0xDA, 0xE0, 0xEE
_SOF = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
# JPEG segments that decoding needs: the frame headers that libjpeg reads, Huffman and arithmetic tables, quantisation,
# restart interval and the scans.
_DECODING = {0xC0, 0xC1, 0xC2, 0xC9, 0xCA, 0xC4, 0xCC, 0xDB, 0xDD, _SOS}
# In a scan, 0xFF is data when 0x00 or a restart marker follows, and filling when another 0xFF does.
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


def header_size(kind: str, data: bytes) -> tuple[int, int] | None:
    """Width and height in pixels as the file's header gives them, before any decoding.

    Args:
        kind: ``"PNG"``, ``"JPEG"``, ``"WEBP"``, ``"GIF"`` or ``"BMP"``.
        data: The file.

    Returns:
        ``(width, height)``, or ``None`` when the header cannot be made out: the file is broken.
    """
    try:
        if kind == "PNG":
            return struct.unpack_from(">II", data, 16) if data[12:16] == b"IHDR" else None
        if kind == "GIF":
            return struct.unpack_from("<HH", data, 6)
        if kind == "BMP":
            if struct.unpack_from("<I", data, 14)[0] == 12:
                return struct.unpack_from("<HH", data, 18)
            width, height = struct.unpack_from("<ii", data, 18)
            return abs(width), abs(height)  # a negative height means rows from the top
        if kind == "WEBP":
            return _webp_size(data)
        for marker, start, _ in _jpeg_segments(data):
            if marker in _SOF:
                height, width = struct.unpack_from(">HH", data, start + 5)
                return width, height
    except (struct.error, ValueError, IndexError):
        pass
    return None


def _webp_size(data: bytes) -> tuple[int, int] | None:
    name = data[12:16]
    if name == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if name == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if name == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None


def gif_frames(data: bytes, most: int = 1000) -> int:
    """Count a GIF's frames without decoding them; stops at ``most``, or 4 MiB into the file."""
    count, at = 0, 13 + colour_table(data, 10)
    end = min(len(data) - 1, 1 << 22)
    while at < end and count < most:
        if data[at] == 0x2C:  # a frame: descriptor, its own colours, code size, then its data
            count += 1
            at += 11 + colour_table(data, at + 9)
        elif data[at] == 0x21:  # an extension: its label, then its data
            at += 2
        else:
            break
        while at < end and data[at]:  # sub-blocks, each led by its length, closed by a 0
            at += data[at] + 1
        at += 1
    return count


def colour_table(data: bytes, at: int) -> int:
    """Bytes of the colour table that the GIF flags at ``at`` announce."""
    flags = data[at] if at < len(data) else 0
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def without_metadata(kind: str, data: bytes, orientation: int) -> bytes | None:
    """The file with the same pixels and no metadata, where that is possible without encoding it anew.

    Args:
        kind: The format, as in :func:`header_size`.
        data: The file.
        orientation: Its EXIF orientation, 1 to 8. A JPEG keeps a number other than 1, since its pixels need it.

    Returns:
        The bytes to keep, or ``None``: encode the pixels instead. Formats that are rare (GIF, BMP) are always encoded
        anew. Whether the result decodes to the wanted pixels is for the caller to check: a PNG may be plain and still
        have transparent parts.
    """
    if kind == "JPEG":
        return jpeg_without_metadata(data, orientation)
    plain = orientation == 1 and ((kind == "PNG" and _plain_png(data)) or (kind == "WEBP" and _plain_webp(data)))
    return data if plain else None


def _plain_png(data: bytes) -> bool:
    at, name = 8, b""
    if data[24:25] == b"\x10":  # 16 bits a channel: viewers round them to 8 in different ways
        return False
    while at + 12 <= len(data) and name != b"IEND":
        size, name = struct.unpack_from(">I4s", data, at)
        if name not in _PLAIN_PNG:
            return False
        at += 12 + size
    return name == b"IEND" and at == len(data)  # nothing hides behind the end


def _plain_webp(data: bytes) -> bool:
    """One chunk of pixels and nothing else: metadata, colour profiles and animation need the extended form, VP8X."""
    if data[12:16] not in (b"VP8 ", b"VP8L") or len(data) < 20:
        return False
    riff, size = struct.unpack_from("<I", data, 4)[0], struct.unpack_from("<I", data, 16)[0]
    return 20 + size + (size & 1) == len(data) == riff + 8


def jpeg_without_metadata(data: bytes, orientation: int) -> bytes | None:
    """A JPEG of the segments that decoding needs, bit for bit, plus its orientation.

    Left out are EXIF, XMP, IPTC, colour profiles, comments, thumbnails (in EXIF and in JFIF) and whatever follows the
    end of the picture, such as the second picture and the depth map of a phone. Doing it twice changes nothing more.

    Returns:
        The new file, or ``None`` when the segments do not read to the end.
    """
    parts = [b"\xff\xd8"]
    kept: list[bytes] = []
    try:
        for marker, start, end in _jpeg_segments(data):
            body = data[start + 4 : end]
            if marker == _APP0 and body[:5] == b"JFIF\0" and len(body) >= 14 and len(parts) == 1:
                parts.append(_segment(_APP0, body[:12] + b"\0\0"))  # a thumbnail of 0×0 pixels
            elif marker == _APP14 and body[:5] == b"Adobe" and len(body) >= 12:
                kept.append(_segment(_APP14, body[:12]))  # says whether the channels are RGB, YCbCr or CMYK
            elif marker == _EOI:
                exif = [_orientation_exif(orientation)] if orientation != 1 else []
                return b"".join([*parts, *exif, *kept, b"\xff\xd9"])
            elif marker in _DECODING:
                kept.append(data[start:end])
    except ValueError:
        pass
    return None


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """``(marker, start, end)`` of each segment after SOI, a scan's data with its SOS; ends after EOI.

    Raises:
        ValueError: The file does not follow that form.
    """
    at = 2
    while at + 4 <= len(data) or data[at : at + 2] == b"\xff\xd9":
        if data[at] != 0xFF:
            raise ValueError(f"no JPEG marker at byte {at}")
        marker = data[at + 1]
        if marker == 0xFF:  # filling
            at += 1
            continue
        if marker == _EOI:
            yield marker, at, at + 2
            return
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        end = at + 2 + length
        if marker == _SOS:
            following = _NEXT_MARKER.search(data, end)
            end = following.start() if following else len(data)
        if length < 2 or end > len(data):
            raise ValueError(f"the JPEG segment at byte {at} has an impossible length")
        yield marker, at, end
        at = end


def _segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def _orientation_exif(orientation: int) -> bytes:
    """The smallest EXIF segment there is: a TIFF header and one entry, tag 0x0112."""
    entry = struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0)
    return _segment(0xE1, b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + entry + struct.pack("<I", 0))


def wav(samples: np.ndarray, rate: int) -> bytes:
    """(n,) float32 to a WAV that decodes to exactly these: 16-bit integers where those do, else floating point.

    Written here because libsndfile puts the time of day into floating point files (its PEAK chunk).
    """
    scaled = samples * np.float32(32768)
    minus_zero = (samples == 0) & np.signbit(samples)
    whole = bool(((scaled == np.rint(scaled)) & (scaled <= 32767) & ~minus_zero).all())
    body = (scaled.astype("<i2") if whole else samples.astype("<f4")).tobytes()
    code, width = (1, 2) if whole else (3, 4)
    form = struct.pack("<HHIIHH", code, 1, rate, rate * width, width, 8 * width)
    chunks = [(b"fmt ", form), (b"data", body)]
    if not whole:  # the standard asks for both where the format is not plain integers
        chunks = [(b"fmt ", form + b"\0\0"), (b"fact", struct.pack("<I", len(samples))), (b"data", body)]
    inner = b"".join(name + struct.pack("<I", len(chunk)) + chunk for name, chunk in chunks)
    return b"RIFF" + struct.pack("<I", 4 + len(inner)) + b"WAVE" + inner


def plain_wav(data: bytes, rate: int) -> bool:
    """Whether this is mono WAV at ``rate`` Hz of nothing but format and samples: no tags, nothing behind the end."""
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE" or int.from_bytes(data[4:8], "little") + 8 != len(data):
        return False
    names, at = [], 12
    while at + 8 <= len(data):
        name, size = struct.unpack_from("<4sI", data, at)
        names.append(name)
        if name == b"fmt ":
            if size not in (16, 18) or at + 24 > len(data):
                return False
            code, channels, hz = struct.unpack_from("<HHI", data, at + 8)
            if code not in (1, 3) or channels != 1 or hz != rate:
                return False
        elif name == b"fact" and size != 4:
            return False
        at += 8 + size + (size & 1)
    return at == len(data) and names in ([b"fmt ", b"data"], [b"fmt ", b"fact", b"data"])


def promised_frames(file: BinaryIO, size: int) -> int:
    """Frames that a WAV's data chunk announces; 0 when it says nothing (streams have 0 or all ones there)."""
    at, width = 12, 0
    for _ in range(64):
        file.seek(at)
        head = file.read(8)
        if len(head) < 8:
            break
        name, length = struct.unpack("<4sI", head)
        if name == b"fmt ":
            form = file.read(14)
            width = struct.unpack_from("<H", form, 12)[0] if len(form) == 14 else 0
            compressed = form[:2] not in (b"\x01\0", b"\x03\0", b"\xfe\xff")
            width = 0 if compressed else width
        elif name == b"data":
            streaming = length >= 0x7FFFFF00
            return 0 if streaming or width == 0 else length // width
        at += 8 + length + (length & 1)
        if at >= size:
            break
    return 0
