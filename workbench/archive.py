"""A zip archive of JSON, Parquet tables, arrays and media that may come from a stranger.

Writing is deterministic (order, dates and permissions are fixed) and whole or not at all. Reading extracts nothing to
disk, knows no pickle, and believes no size: names, kinds, counts and sizes are checked in the directory before a member
is read, and again while it is read. Every failure is a :class:`~workbench.errors.TraceError` that says why; the caller
adds which file.

Tables are plain Parquet, see ``workbench.parquet``; arrays are ``.npy`` files with the very headers that numpy writes.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import re
import secrets
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np

from workbench.errors import TraceError
from workbench.parquet import read_table

__all__ = ["MAX_FILE", "Archive", "array_bytes", "json_bytes", "write"]

MAX_FILE = 1 << 30  # bytes of the file, and of all members together once unpacked
MAX_MEMBERS = 4096
MAX_DEPTH = 40  # of nested JSON
MAX_VALUES = 1 << 20  # of all JSON members together: each takes up to 60 times its bytes in Python
MAX_BYTES = {".json": 16 << 20, ".parquet": 256 << 20, ".npy": 512 << 20}  # of one member; media:
MAX_MEDIA_BYTES = 256 << 20

# What zipfile, zlib and struct raise on broken archives: RuntimeError (and NotImplementedError, one of its kind) for
# encryption and unknown compression, ValueError (UnicodeDecodeError) for names, the rest for damage.
_ZIP_ERRORS = (
    zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, struct.error, EOFError, OSError, RuntimeError, ValueError,
    OverflowError, MemoryError,
)  # fmt: skip
_END = struct.Struct("<4s4H2LH")  # the record that ends a zip file
# a comma between any two numbers: with one way to read it, no text takes long to refuse
_NPY = re.compile(
    rb"\{'descr': '([<|][fiub][1248])', 'fortran_order': False, 'shape': \(((?:\d{1,12}, ?)*(?:\d{1,12})?)\), \} *\n"
)
_DTYPES = {"|b1", "|i1", "|u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f2", "<f4", "<f8"}
_SURROGATE = re.compile("[\ud800-\udfff]")


def _limit(name: str) -> int:
    return MAX_BYTES.get(PurePosixPath(name).suffix, MAX_MEDIA_BYTES)


# --- writing --------------------------------------------------------------------------------------------------------


def write(path: str, members: Mapping[str, bytes]) -> None:
    """Write members to a zip file, in their order; a file that was there stays as it was until all is written.

    Raises:
        TraceError: It would be larger than :class:`Archive` reads.
        OSError: The folder is missing or full, or may not be written to.
    """
    for name, data in members.items():
        if len(data) > _limit(name):
            raise TraceError(f"{name} would have {len(data):,} bytes; at most {_limit(name):,} can be read back.")
    values = sum(_values(data) for name, data in members.items() if name.endswith(".json"))
    if values > MAX_VALUES:
        raise TraceError(f"its JSON has {values:,} values; at most {MAX_VALUES:,} can be read back. Use arrays.")
    total = sum(map(len, members.values()))
    if total > MAX_FILE or len(members) > MAX_MEMBERS:
        raise TraceError(
            f"{len(members):,} members of {total:,} bytes; at most {MAX_MEMBERS:,} of {MAX_FILE:,} can be read back."
        )
    target = Path(os.path.realpath(path))  # a link stays a link
    beside = target.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        with beside.open("xb") as file:
            with zipfile.ZipFile(file, "w", allowZip64=False) as archive:
                for name, data in members.items():
                    info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
                    info.create_system, info.external_attr = 3, 0o644 << 16
                    info.compress_type = zipfile.ZIP_STORED if name.startswith("media/") else zipfile.ZIP_DEFLATED
                    archive.writestr(info, data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise


def json_bytes(value: Any, what: str) -> bytes:
    """JSON in UTF-8. Half a surrogate pair, which no other reader would take, becomes U+FFFD."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=1)
    except (TypeError, ValueError, RecursionError) as error:
        raise TraceError(f"{what} cannot be written as JSON ({error}). Expected text, finite numbers, lists, "
                         "mappings.") from error  # fmt: skip
    data = _SURROGATE.sub("\ufffd", text).encode()
    _json(data, what)  # too deep, or two keys that become one
    return data


def array_bytes(array: np.ndarray, what: str) -> bytes:
    """An array of numbers or truth values to a ``.npy`` file, little-endian, in C order."""
    array = np.asarray(array)
    dtype = array.dtype.newbyteorder("<")
    if dtype.str not in _DTYPES or array.ndim > 8:
        raise TraceError(f"{what}: an array of {array.dtype}, shape {array.shape}. Expected numbers, 8 axes at most.")
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asarray(array, dtype, order="C"), version=(1, 0), allow_pickle=False)
    return file.getvalue()


# --- reading --------------------------------------------------------------------------------------------------------


class Archive:
    """An open archive; use :meth:`open`.

    Attributes:
        names: The members, in order.
    """

    def __init__(self, file: zipfile.ZipFile, infos: Mapping[str, zipfile.ZipInfo]) -> None:
        self._file, self._infos = file, infos
        self._values = 0
        self.names = tuple(infos)

    @classmethod
    @contextlib.contextmanager
    def open(cls, path: str, allowed: re.Pattern[str]) -> Iterator[Archive]:
        """Open a file whose members must all have a name that matches ``allowed``.

        Raises:
            TraceError: It is missing, no file, no zip file, or its directory is not one that :func:`write` makes.
        """
        with contextlib.ExitStack() as stack:
            try:
                _check_regular(Path(path))
                file = stack.enter_context(Path(path).open("rb"))
                _check_end(file)
                archive = stack.enter_context(zipfile.ZipFile(file))
                infos = _directory(archive, allowed)
            except FileNotFoundError as error:
                raise TraceError("there is no such file. Check the name and the folder.") from error
            except PermissionError as error:
                raise TraceError("it may not be read. Check its permissions.") from error
            except _ZIP_ERRORS as error:
                raise TraceError(f"it is broken or cut short ({_reason(error)}). Copy it anew.") from error
            yield cls(archive, infos)

    def read(self, name: str, most: int | None = None) -> bytes:
        """All of one member, which is as long as the directory says, at most ``most``, and has its checksum."""
        info = self._infos.get(name)
        if info is None:
            raise TraceError(f"{name} is missing from it. Copy it anew, from whoever saved it.")
        if most is not None and info.file_size > most:
            raise TraceError(f"{name} in it has {info.file_size:,} bytes. Expected at most {most:,}.")
        parts, left = [], info.file_size
        try:
            with self._file.open(info) as member:
                while left > 0 and (part := member.read(min(left, 1 << 20))):
                    parts.append(part)
                    left -= len(part)
                longer = member.read(1)  # also checks the sum
        except _ZIP_ERRORS as error:
            raise TraceError(f"{name} in it is broken ({_reason(error)}). Copy the file anew.") from error
        if left or longer:
            raise TraceError(f"{name} in it is not as long as it says ({info.file_size:,} bytes). Copy the file anew.")
        return b"".join(parts)

    def json(self, name: str) -> Any:
        """One member as JSON: no NaN, no key twice, at most ``MAX_DEPTH`` deep."""
        data = self.read(name)
        self._values += _values(data)
        if self._values > MAX_VALUES:
            raise TraceError(f"its JSON has more than {MAX_VALUES:,} values.")
        return _json(data, name)

    def table(self, name: str, columns: Mapping[str, Any], rows: int) -> dict[str, Any]:
        """One member as a table: exactly these columns, of these numpy dtypes (``str`` for text), and so many rows.

        Returns:
            Arrays by column; tuples of text.
        """
        data = self.read(name)
        try:
            return read_table(data, columns, rows)
        except TraceError as error:
            raise TraceError(f"{name} in it: {error}") from error

    def array(self, name: str) -> np.ndarray:
        """One ``.npy`` member; read-only. Only the very headers that :func:`array_bytes` writes are read."""
        data = self.read(name)
        if data[:8] != b"\x93NUMPY\x01\x00" or len(data) < 10:
            raise TraceError(f"{name} in it is no numpy array.")
        start = 10 + int.from_bytes(data[8:10], "little")
        header = _NPY.fullmatch(data[10:start]) if start < 512 else None
        if header is None or header[1].decode() not in _DTYPES:
            raise TraceError(f"{name} in it is an array of a kind that a trace does not hold.")
        dtype, shape = np.dtype(header[1].decode()), tuple(int(n) for n in re.findall(rb"\d+", header[2]))
        if len(shape) > 8 or math.prod(shape) * dtype.itemsize != len(data) - start:
            raise TraceError(f"{name} in it: {len(data) - start:,} bytes are no array of {shape} {dtype}.")
        try:
            return np.frombuffer(data, dtype, offset=start).reshape(shape)
        except ValueError as error:  # an axis of 0 beside ones beyond all memory
            raise TraceError(f"{name} in it: no array can have the shape {shape}.") from error


def _check_regular(path: Path) -> None:
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):  # opening a pipe would wait for ever
        raise TraceError("it is no file" + (" but a folder." if stat.S_ISDIR(mode) else "."))


def _check_end(file: BinaryIO) -> None:
    """The last 22 bytes: zipfile reads the whole directory, so its size must be known to be small before."""
    size = file.seek(0, os.SEEK_END)
    if size > MAX_FILE:
        raise TraceError(f"it has {size:,} bytes. Expected at most {MAX_FILE:,}.")
    file.seek(0)
    magic = file.read(4)
    if size < _END.size or magic not in (b"PK\x03\x04", b"PK\x05\x06"):
        raise TraceError("it is empty." if size == 0 else "it is no trace: not a zip archive at all.")
    file.seek(max(0, size - _END.size - 20))
    tail = file.read()
    mark, disk, disk0, here, count, length, offset, comment = _END.unpack(tail[-_END.size :])
    if mark != b"PK\x05\x06" or comment or offset + length + _END.size != size:
        raise TraceError("it is cut short, or something was added at its end. Copy it anew.")
    if disk or disk0 or here != count or count > MAX_MEMBERS or length > MAX_MEMBERS * 512 or tail[:4] == b"PK\x06\x07":
        raise TraceError(f"it holds {count:,} members. Expected at most {MAX_MEMBERS:,}, in one part, without Zip64.")
    file.seek(0)


def _directory(archive: zipfile.ZipFile, allowed: re.Pattern[str]) -> dict[str, zipfile.ZipInfo]:
    infos: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        shown = ascii(info.orig_filename[:80])
        if not allowed.fullmatch(info.filename) or info.orig_filename != info.filename:
            raise TraceError(f"it holds {shown}, which no trace does.")
        if info.filename in infos:
            raise TraceError(f"it holds {shown} twice.")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & 0x41:
            raise TraceError(f"{shown} in it is encrypted, or packed in a way that no trace is.")
        if info.file_size > _limit(info.filename):
            raise TraceError(f"{shown} in it has {info.file_size:,} bytes. Expected at most {_limit(info.filename):,}.")
        infos[info.filename] = info
    if len(infos) > MAX_MEMBERS or sum(info.file_size for info in infos.values()) > MAX_FILE:
        raise TraceError(f"it unpacks to more than {MAX_FILE:,} bytes or {MAX_MEMBERS:,} members.")
    return infos


def _values(data: bytes) -> int:
    """How many values a JSON text holds, or more: known before it is read."""
    return 1 + sum(data.count(mark) for mark in (b",", b"[", b"{"))


def _json(data: bytes, name: str) -> Any:
    try:
        value = json.loads(data.decode("utf-8"), parse_constant=_no_constant, object_pairs_hook=_no_twice)
    except (ValueError, RecursionError, MemoryError) as error:  # not UTF-8, not JSON, 5,000 digits, too deep
        raise TraceError(f"{name} in it is no JSON we can read ({_reason(error)}).") from error
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        if not level:
            return value
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below += item.keys()
                below += item.values()
            elif isinstance(item, list):
                below += item
            elif isinstance(item, str):
                if _SURROGATE.search(item):
                    raise TraceError(f"{name} in it holds half a character (a lone surrogate).")
            elif isinstance(item, (int, float)) and not -(2**63) <= item < 2**64:  # also infinity, from 1e999
                raise TraceError(f"{name} in it holds a number beyond 64 bits.")
        level = below
    raise TraceError(f"{name} in it is nested deeper than {MAX_DEPTH} levels.")


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is no number")


def _no_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key stands twice")
    return made


def _reason(error: BaseException) -> str:
    """An exception's first line, short and in ASCII."""
    text = (str(error).splitlines() or [""])[0][:120].rstrip(".")
    return ascii(text)[1:-1] if text else type(error).__name__
