"""How many samples the tables of an MP4 or MOV announce, known before FFmpeg takes memory for them.

A file of some hundred bytes can announce a thousand million samples of one size; FFmpeg's index has 24 bytes for each.
Tables are looked for by their names, wherever in the headers they stand, since FFmpeg takes them from any place; what
is broken is left to FFmpeg's own words.

Format: https://developer.apple.com/documentation/quicktime-file-format
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from workbench.errors import MediaError

__all__ = ["check_samples"]

MAX_SAMPLES = 50_000_000  # ten minutes of PCM at 80 kHz in fragments; of a film a few hundred thousand
MAX_PIECES = 10_000_000  # of sounds, which FFmpeg indexes in pieces of at least 160 samples
MAX_BOXES = 1_000_000  # side by side in the file

_PART = 1 << 24  # bytes searched at a time
_UNPACKED = 1 << 24  # bytes of a compressed header
_TABLE = re.compile(rb"trak|hdlr|stts|stsz|stz2|stsc|stco|co64|trun|cmvd")


@dataclass
class _Track:
    """What one track's tables say, as FFmpeg gathers it: all that stands behind its name."""

    fixed: int = 0  # samples of one size
    sound: bool = False
    video: bool = False
    steady: bool = False  # each sample lasts one unit: FFmpeg indexes sounds in pieces then
    tables: int = 0  # of times
    chunks: int = 0
    in_chunk: int = 0

    @property
    def in_pieces(self) -> bool:
        return self.sound and not self.video and self.steady and self.tables == 1


class _Tables:
    """All tracks' tables."""

    def __init__(self) -> None:
        self.tracks = [_Track()]
        self.listed = 0  # samples that have a size each, or lie in fragments
        self.work = 0  # bytes of tables read and of headers unpacked

    @property
    def samples(self) -> int:
        return self.listed + sum(track.fixed for track in self.tracks if not track.in_pieces)

    @property
    def pieces(self) -> int:
        return sum(track.chunks * (1 + track.in_chunk // 160) for track in self.tracks if track.in_pieces)

    def read(self, data: bytes, most: int, depth: int = 0) -> None:
        """Look through headers, in their order, until ``work`` is above ``most``."""
        for found in _TABLE.finditer(data):
            if found.start() >= _PART or self.work > most:
                return
            name, at, track = found[0], found.end(), self.tracks[-1]
            word = [int.from_bytes(data[at + k : at + k + 4], "big") for k in (0, 4, 8, 12)]
            if name == b"trak":
                self.tracks.append(_Track())
            elif name == b"hdlr":
                track.sound |= data[at + 8 : at + 12] == b"soun"
                track.video |= data[at + 8 : at + 12] == b"vide"
            elif name == b"stts":
                track.tables += 1
                track.steady = word[1] == 1 and word[3] == 1
            elif name == b"stsz" and word[1]:
                track.fixed = max(track.fixed, word[2])
            elif name in (b"stsz", b"stz2"):
                self.listed += word[2]
            elif name == b"trun":
                self.listed += word[1]
            elif name == b"stsc":
                rows = np.frombuffer(data, ">u4", min(3 * word[1], max(len(data) - at - 8, 0) // 4), at + 8)
                self.work += rows.nbytes
                track.in_chunk = max(track.in_chunk, int(rows[1::3].max(initial=0)))
            elif name in (b"stco", b"co64"):
                track.chunks = max(track.chunks, word[1])
            elif depth == 0:  # a header compressed by QuickTime
                try:
                    unpacked = zlib.decompressobj().decompress(data[at + 4 :], _UNPACKED)
                except zlib.error:
                    continue
                self.work += len(data) - at + len(unpacked)
                self.read(unpacked, most, depth=1)


def check_samples(file: BinaryIO, label: str) -> None:
    """Refuse an MP4 or MOV whose tables announce more samples than it can hold; goes back to the start.

    Args:
        file: Open and seekable.
        label: Its name for messages.

    Raises:
        MediaError: More samples than bytes, or than ``MAX_SAMPLES``.
    """
    size, tables = file.seek(0, 2), _Tables()
    most = 4 * size + _PART  # each byte is of one table only, unless they lie on top of each other
    for data in _headers(file, size, label):
        tables.read(data, most)
        if tables.work > most:
            raise MediaError(f"{label}: its tables lie on top of each other. Copy it anew, or convert it.")
        if tables.samples > min(size, MAX_SAMPLES) or tables.pieces > MAX_PIECES:
            count = max(tables.samples, tables.pieces)
            raise MediaError(
                f"{label}: its tables announce {count:,} samples in {size:,} bytes. Expected at most one a byte, and "
                f"{MAX_SAMPLES:,}: it is broken, or made to fill the memory. Copy it anew, or convert it."
            )
    file.seek(0)


def _headers(file: BinaryIO, size: int, label: str) -> Iterator[bytes]:
    """The contents of all boxes side by side but those of pictures and sounds themselves."""
    at = 0
    for _ in range(MAX_BOXES):
        file.seek(at)
        head = file.read(16)
        length, start = int.from_bytes(head[:4], "big"), at + 8
        if length == 1:
            length, start = int.from_bytes(head[8:16], "big"), at + 16
        end = size if length == 0 else min(at + length, size)
        if len(head) < 8 or end < start:
            return
        if head[4:8] != b"mdat":
            for part in range(start, end, _PART):
                file.seek(part)
                yield file.read(min(_PART + 64, end - part))
        at = end
    raise MediaError(f"{label}: it is made of more than {MAX_BOXES:,} parts. Convert it anew.")
