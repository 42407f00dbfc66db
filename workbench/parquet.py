"""Plain Parquet tables: written by pyarrow, read by a small reader of our own.

Files come from strangers, and Arrow's reader is not made for that: a few flipped bytes in a footer can end the process
("terminate called after throwing an instance of 'parquet::ParquetException'"), a few hand-made ones unfold into
gigabytes. So a trace's tables are of one plain kind, which every Parquet reader takes, and this one takes nothing else:
required columns of INT32, FLOAT, DOUBLE or UTF-8, PLAIN in version-1 pages, no compression, dictionary or nesting, each
byte read once. What is read can therefore never be larger than the file.

Format: https://parquet.apache.org/docs/file-format/ and the Thrift compact protocol,
https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from workbench.errors import TraceError

__all__ = ["MAX_ROWS", "MAX_TEXTS", "read_table", "table_bytes"]

MAX_ROWS = 1 << 24
MAX_TEXTS = 1 << 21  # rows of a table with text: each is an object in Python
MAX_FOOTER = 1 << 20  # bytes
MAX_HEADER = 4096  # bytes of a page's header: pyarrow's have under 100
MAX_FIELDS = 1 << 16  # values of a footer or header: an empty one takes a byte there, and 64 here

# Pages of a column: pyarrow cuts them after a million bytes, or after a thousand values at the earliest
MAX_PAGES, PAGE_ROWS, PAGE_BYTES = 64, 256, 1 << 16  # so many, and one for each so many values or bytes

_SURROGATE = re.compile("[\ud800-\udfff]")
# Parquet's physical type, its converted types (None: not said), and what is stored
_KINDS: dict[Any, tuple[int, set[int | None], Any]] = {
    np.dtype(np.int8): (1, {15}, np.dtype("<i4")), np.dtype(np.int32): (1, {None, 17}, np.dtype("<i4")),
    np.dtype(np.float32): (4, {None}, np.dtype("<f4")), np.dtype(np.float64): (5, {None}, np.dtype("<f8")),
    str: (6, {0}, None),
}  # fmt: skip
_TYPES = ("BOOLEAN", "INT32", "INT64", "INT96", "FLOAT", "DOUBLE", "BYTE_ARRAY", "FIXED_LEN_BYTE_ARRAY")


def table_bytes(columns: Mapping[str, np.ndarray | Sequence[str]]) -> bytes:
    """Columns of numbers (numpy) or text, all of one length, to a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrays, fields = [], []
    for name, column in columns.items():
        if isinstance(column, np.ndarray):
            array = pa.array(np.ascontiguousarray(column))
        else:
            array = pa.array([_SURROGATE.sub("\ufffd", str(text)) for text in column], pa.string())
        arrays.append(array)
        fields.append(pa.field(name, array.type, nullable=False))
    file = io.BytesIO()
    pq.write_table(
        pa.Table.from_arrays(arrays, schema=pa.schema(fields)), file, version="2.6", data_page_version="1.0",
        compression="none", use_dictionary=False, write_statistics=False, store_schema=False,
    )  # fmt: skip
    return file.getvalue()


def read_table(data: bytes, columns: Mapping[str, Any], rows: int) -> dict[str, Any]:
    """A table that :func:`table_bytes` wrote: exactly these columns, and so many rows.

    Args:
        data: The file.
        columns: A numpy dtype by name of column; ``str`` for text.
        rows: How many there must be.

    Returns:
        Arrays by name; tuples of text.

    Raises:
        TraceError: It is another table, or broken.
    """
    kinds = {name: dtype if dtype is str else np.dtype(dtype) for name, dtype in columns.items()}
    if rows > (MAX_TEXTS if str in kinds.values() else MAX_ROWS):
        raise TraceError(f"{rows:,} rows are more than a trace has.")
    try:
        footer = int.from_bytes(data[-8:-4], "little")
        if len(data) < 12 or data[:4] != b"PAR1" or data[-4:] != b"PAR1" or footer > min(MAX_FOOTER, len(data) - 12):
            raise TraceError("it is no Parquet table, or cut short.")
        meta = _Thrift(data, len(data) - 8 - footer, len(data) - 8).struct()
        _check_schema(meta, kinds, rows)
        parts: dict[str, list[Any]] = {name: [] for name in kinds}
        left = dict.fromkeys(kinds, MAX_PAGES + rows // PAGE_ROWS)
        at, end = 4, len(data) - 8 - footer
        for group in (group for group in meta[4] if group[3]):
            for (name, kind), chunk in zip(kinds.items(), group[1], strict=True):
                info = chunk[3]
                if info[4] != 0 or 11 in info:
                    raise TraceError(f"column {name} is compressed. Expected none (the archive compresses).")
                if info[9] < at:
                    raise TraceError(f"column {name} lies on top of another.")
                at, used = _pages(data, info[9], end, group[3], kind, parts[name], left[name])
                left[name] -= used
        made = {name: _joined(parts[name], kind) for name, kind in kinds.items()}
    # What reading numbers, bytes and fields that are not there, or are of another kind, raises
    except (ValueError, LookupError, TypeError, AttributeError, struct.error, OverflowError) as error:
        raise TraceError("it is no table that a trace holds, or broken.") from error
    for name, column in made.items():
        if len(column) != rows:
            raise TraceError(f"column {name} has {len(column):,} values. Expected {rows:,}.")
    return made


def _check_schema(meta: Any, kinds: Mapping[str, Any], rows: int) -> None:
    if meta[3] != rows:
        raise TraceError(f"{meta[3]:,} rows. Expected {rows:,}.")
    root, *leaves = meta[2]
    names = [leaf[4].decode("utf-8") for leaf in leaves]
    if names != list(kinds) or root[5] != len(kinds):
        raise TraceError(f"columns {ascii(', '.join(names))[1:-1][:200]}. Expected {', '.join(kinds)}.")
    for leaf, (name, kind) in zip(leaves, kinds.items(), strict=True):
        physical, converted, _ = _KINDS[kind]
        if leaf[1] != physical or leaf.get(6) not in converted:
            shown = _TYPES[leaf[1]] if 0 <= leaf[1] < len(_TYPES) else "unknown"
            raise TraceError(f"column {name} is {shown}. Expected {_TYPES[physical]} for {kind}.")
        if leaf[3] != 0:
            raise TraceError(f"column {name} may have gaps or lists. Expected required values.")


def _pages(data: bytes, at: int, end: int, rows: int, kind: Any, out: list[Any], most: int) -> tuple[int, int]:
    """Read ``rows`` values from the pages that begin at ``at``.

    Returns:
        Where they end, and how many of ``most`` pages they were, those that are large not counted.
    """
    begin, pages, small = at, 0, 0
    while rows > 0:
        thrift = _Thrift(data, at, min(end, at + MAX_HEADER))
        header = thrift.struct()
        size, page = header[3], header[5]
        count, start = page[1], thrift.at
        if header[1] != 0 or page[2] != 0 or header[2] != size:
            raise TraceError("a page is not plain. Expected no dictionary, no compression.")
        if not 0 < count <= rows or not 0 <= size <= end - start:
            raise TraceError("a page is larger than what holds it.")
        if kind is str:
            out += _texts(data[start : start + size], count)
        else:
            stored = _KINDS[kind][2]
            if stored is None or size != count * stored.itemsize:
                raise TraceError(f"a page of {size:,} bytes does not hold {count:,} numbers.")
            out.append(np.frombuffer(data, stored, count, start))
        rows -= count
        at, pages = start + size, pages + 1
        if (small := pages - (at - begin) // PAGE_BYTES) > most:
            raise TraceError(f"a column is cut into too many pages. Expected {PAGE_ROWS} values or more in each.")
    return at, max(small, 0)


def _texts(page: bytes, count: int) -> list[str]:
    made, at = [], 0
    for _ in range(count):
        (length,) = struct.unpack_from("<I", page, at)
        at += 4 + length
        if at > len(page):
            raise TraceError("a text is longer than its page.")
        made.append(page[at - length : at].decode("utf-8"))
    if at != len(page):
        raise TraceError("a page of text holds more than its texts.")
    return made


def _joined(parts: list[Any], kind: Any) -> Any:
    if kind is str:
        return tuple(parts)
    stored = np.concatenate(parts) if parts else np.zeros(0, _KINDS[kind][2])
    if kind == np.int8 and len(stored) and not -128 <= stored.min() <= stored.max() <= 127:
        raise TraceError("a number is beyond 8 bits.")
    return stored.astype(kind)


class _Thrift:
    """Thrift's compact protocol, structures as dicts by field number. Raises IndexError, ValueError, struct.error."""

    def __init__(self, data: bytes, at: int, end: int) -> None:
        self._data, self.at, self._end = data, at, end
        self._left = MAX_FIELDS

    def _byte(self) -> int:
        if not 0 <= self.at < self._end:
            raise IndexError
        self.at += 1
        return self._data[self.at - 1]

    def _varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise ValueError

    def _value(self, kind: int, depth: int) -> Any:
        self._left -= 1
        if depth > 12 or self._left < 0:
            raise ValueError
        if kind in (1, 2):
            return kind == 1
        if kind == 3:
            return self._byte()
        if kind in (4, 5, 6):  # zigzag
            value = self._varint()
            return (value >> 1) ^ -(value & 1)
        if kind == 7:
            self.at += 8
            return struct.unpack_from("<d", self._data, self.at - 8)[0]
        if kind == 8:
            length = self._varint()
            if length > self._end - self.at:
                raise IndexError
            self.at += length
            return self._data[self.at - length : self.at]
        if kind in (9, 10):
            head = self._byte()
            size = head >> 4 if head >> 4 < 15 else self._varint()
            if size > self._end - self.at:  # each takes a byte at least
                raise IndexError
            inside = head & 15
            return [self._byte() == 1 if inside in (1, 2) else self._value(inside, depth + 1) for _ in range(size)]
        if kind == 12:
            return self.struct(depth + 1)
        raise ValueError  # maps (11) are nowhere in Parquet

    def struct(self, depth: int = 0) -> dict[int, Any]:
        """One structure, from where we stand."""
        made: dict[int, Any] = {}
        field = 0
        while head := self._byte():
            delta, kind = head >> 4, head & 15
            field = field + delta if delta else self._value(4, depth)
            made[field] = self._value(kind, depth)
        return made
