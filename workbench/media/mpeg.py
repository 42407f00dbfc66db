"""Whether an MP3 is made of frames that follow each other, before libmpg123 sees it.

libmpg123 looks on where a frame is missing, and writes some lines to the terminal or the notebook's log each time: a
small file can make it write fifty times its size. The frames are walked here as it walks them: by the length that each
header gives, over tags, to the next header within a kilobyte where one is broken; and no further than is decoded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO

from workbench.errors import MediaError

__all__ = ["check_frames"]

MAX_BREAKS = 100  # places where a frame should begin and does not; a recording from the radio has some
_LOOK_ON = 2048  # bytes in which the next header must be found; libmpg123 gives up after half as many
_LEAD = 1 << 17  # bytes before the first frame; libmpg123 takes half as many
_FREE = 8192  # bytes in which a frame without a bit rate must end
_SPARE = 100  # frames beyond those that are asked for

# kbit/s by version (1, or 2 and 2.5) and layer
_BITRATES = {
    (1, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}  # Hz


@dataclass(frozen=True)
class _Header:
    """A frame's header: ``size`` with it, 0 where it does not say; the least that a frame of its kind has; seconds."""

    size: int
    least: int
    padding: int
    seconds: float


def _header(head: bytes) -> _Header | None:
    """Four bytes as a frame's header, if they are one."""
    if len(head) < 4 or head[0] != 0xFF or head[1] < 0xE0:
        return None
    version, layer, rate = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3), head[2] >> 2 & 3
    if version == 1 or layer == 4 or rate == 3 or head[2] >> 4 == 15:
        return None
    hz, lsf, mono = _RATES[version][rate], version != 3, head[3] >> 6 == 3
    kbit, padding = _BITRATES[1 + lsf, layer][head[2] >> 4], (head[2] >> 1 & 1) * (4 if layer == 1 else 1)
    if layer == 1:
        size, samples = 12_000 * kbit // hz * 4, 384
    else:
        samples = 576 if layer == 3 and lsf else 1152
        size = samples * 125 * kbit // hz
    side = (9 if mono else 17) if lsf else (17 if mono else 32)
    least = 4 + (side if layer == 3 else 0) + (0 if head[1] & 1 else 2)
    return _Header(size + padding if kbit else 0, least, padding, samples / hz)


def check_frames(file: BinaryIO, label: str, seconds: float) -> None:
    """Refuse an MP3 that is not made of frames; goes back to the start.

    Args:
        file: Open and seekable.
        label: Its name for messages.
        seconds: How much of it will be decoded.

    Raises:
        MediaError: More than ``MAX_BREAKS`` frames are not where the one before says.
    """
    at, breaks, left, spare, free = 0, 0, seconds, _SPARE, 0
    while breaks <= MAX_BREAKS and spare:
        file.seek(at)
        head = file.read(32)
        if len(head) < 4:
            break
        if tag := _tag(head):
            at += tag
            continue
        found = _header(head)
        if found is not None and not found.size and not free:
            free = _free_size(file, at, head, found)
        size = found.size or (free and free + found.padding) if found is not None else 0
        if found is None or size < found.least:
            breaks += 1
            step = _next(file, at + 1, _LEAD if left == seconds else _LOOK_ON)
            if not step:
                break
            at += step
            continue
        left -= found.seconds
        spare -= left < 0
        at += size
    file.seek(0)
    if breaks > MAX_BREAKS:
        raise MediaError(
            f"{label}: this MP3 is broken: more than {MAX_BREAKS} of its frames are not where the one before ends. "
            "Convert it anew, or copy it anew."
        )


def _tag(head: bytes) -> int:
    """Bytes of a tag that begins here: ID3 of both kinds, APE."""
    if head[:3] == b"ID3" and not any(byte & 0x80 for byte in head[6:10]):
        size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
        return 10 + size + (10 if head[5] & 0x10 else 0)
    if head[:3] == b"TAG":
        return 128
    if head[:8] == b"APETAGEX" and len(head) == 32:
        return 32 + int.from_bytes(head[12:16], "little")
    return 0


def _next(file: BinaryIO, at: int, most: int) -> int:
    """How far from ``at - 1`` the next header is, also of a frame that is too small; 0 where none is near."""
    file.seek(at)
    data = file.read(most + 3)
    k = data.find(b"\xff")
    while k >= 0:
        if _header(data[k : k + 4]) is not None:
            return k + 1
        k = data.find(b"\xff", k + 1)
    return 0


def _free_size(file: BinaryIO, at: int, head: bytes, found: _Header) -> int:
    """Bytes of a frame without a bit rate, without padding: up to the next header of its kind; 0 where none is."""
    file.seek(at + 4)
    data = file.read(_FREE)
    k = data.find(head[:2])
    while k >= 0:
        if len(data) > k + 2 and not (data[k + 2] ^ head[2]) & 0xFC:
            return k + 4 - found.padding if k + 4 - found.padding >= found.least else 0
        k = data.find(head[:2], k + 1)
    return 0
