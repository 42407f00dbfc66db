"""What would keep Pillow's readers busy for minutes or hours, found before they begin.

Small files can ask for much: a JPEG may say "once more over all pixels" in ten bytes, and Pillow joins what stands
before a picture piece by piece, copying all it has each time. Blocks are told apart here as Pillow and libjpeg tell
them, also where a file breaks the rules, so that both see the same.
"""

from __future__ import annotations

import re

from workbench.errors import MediaError
from workbench.media import containers

__all__ = ["check_jpeg_head", "check_jpeg_scans", "gif_without_comments"]

MAX_SEGMENTS = 1000  # of a JPEG before its first scan; profiles and EXIF take up to some hundreds of 64 kB each
MAX_SCANNED = 4_000_000_000  # pixels of all scans of a JPEG: 64 MP have up to 60, and progressive ones 10 or so
MAX_BLOCKS = 100_000  # of a GIF before its first frame

_SCAN_COST = 10_000  # pixels that a scan's own tables are worth
# The start of a scan as libjpeg takes it: length and number of components agree. Other bytes hardly ever look so.
_SCAN = re.compile(rb"\xff\xda\x00(?:\x06\x00|\x08\x01|\x0a\x02|\x0c\x03|\x0e\x04)")
_ALONE = {0xC8, *range(0xD0, 0xDA), *range(0xF0, 0xFE)}  # JPEG markers that Pillow takes to have no length


def check_jpeg_head(data: bytes, label: str) -> None:
    """Refuse a JPEG with more segments before its picture than any has; Pillow joins those of EXIF, copying all.

    Raises:
        MediaError: There are more than ``MAX_SEGMENTS``.
    """
    at, count = 2, 0
    while count <= MAX_SEGMENTS:
        at = data.find(b"\xff", at)
        marker = data[at + 1] if 0 <= at < len(data) - 1 else 0xDA
        if marker == 0xFF:  # filling
            at += 1
        elif marker == 0:
            at += 2
        elif marker < 0xC0 or marker == 0xDA:
            return
        else:
            count += 1
            at += 2 if marker in _ALONE else 2 + max(2, int.from_bytes(data[at + 2 : at + 4], "big"))
    raise MediaError(
        f"{label}: this JPEG has more than {MAX_SEGMENTS:,} segments before its picture. Expected some dozens: save it "
        "anew, without its metadata."
    )


def check_jpeg_scans(data: bytes, width: int, height: int, label: str) -> None:
    """Refuse a JPEG that goes over its pixels too often: each scan takes its time, however little it says.

    Raises:
        MediaError: All scans together have more than ``MAX_SCANNED`` pixels.
    """
    most = MAX_SCANNED // (width * height + _SCAN_COST)
    count = sum(1 for _ in _SCAN.finditer(data))
    if count > most:
        raise MediaError(
            f"{label}: this JPEG goes {count:,} times over its {width}×{height} pixels. Expected at most {most:,} "
            "scans of that size: save it anew."
        )


def gif_without_comments(data: bytes, label: str) -> bytes:
    """A GIF without the comments before its first frame, which Pillow joins block by block, copying all each time.

    Raises:
        MediaError: The frame comes after more than ``MAX_BLOCKS`` blocks.
    """
    kept: list[bytes] = []
    begin = 0
    at, left = 13 + containers.colour_table(data, 10), MAX_BLOCKS

    def block() -> bytes:
        """The next sub-block; nothing at their end."""
        nonlocal at, left
        size, start = data[at] if at < len(data) else 0, at + 1
        at, left = start + size, left - 1
        return data[start:at]

    while left > 0:
        mark, start = data[at : at + 1], at
        at, left = at + 1, left - 1
        if mark in (b"", b";", b","):
            return b"".join([*kept, data[begin:]])
        if mark != b"!":  # Pillow passes over what is no block
            continue
        kind, at = data[at : at + 1], at + 1
        part = block()
        if kind == b"\xfe":
            while part and left > 0:
                part = block()
            kept.append(data[begin:start])
            begin = at
            continue
        if kind == b"\xff" and part.startswith(b"NETSCAPE2.0"):
            block()
        while block() and left > 0:
            pass
    raise MediaError(
        f"{label}: this GIF has more than {MAX_BLOCKS:,} blocks before its first picture. Save it anew, without its "
        "metadata."
    )
