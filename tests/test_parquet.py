"""Plain Parquet: what pyarrow writes is read to the bit, what it would choke on is refused."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.errors import TraceError
from workbench.parquet import read_table, table_bytes

KINDS = {"small": np.int8, "id": np.int32, "x": np.float32, "t": np.float64, "piece": str}


def columns(n):
    rng = np.random.default_rng(n)
    return {
        "small": rng.integers(-128, 128, n).astype(np.int8),
        "id": rng.integers(-(2**31), 2**31, n).astype(np.int32),
        "x": rng.integers(0, 2**32, n).astype(np.uint32).view(np.float32),  # NaNs of every kind
        "t": rng.integers(0, 2**63, n).astype(np.uint64).view(np.float64),
        "piece": [chr(int(c)) * 3 for c in rng.integers(0x20, 0xD7FF, n)],
    }


@pytest.mark.parametrize("n", [0, 1, 7, 300_001])
def test_every_bit_comes_back(n):
    """300,001 rows are several pages in every column."""
    made = columns(n)
    back = read_table(table_bytes(made), KINDS, n)
    assert list(back) == list(made)
    assert back["piece"] == tuple(made["piece"])
    for name in ("small", "id", "x", "t"):
        assert back[name].dtype == made[name].dtype
        assert back[name].tobytes() == made[name].tobytes()


def test_other_readers_read_it():
    made = columns(9)
    table = pq.read_table(io.BytesIO(table_bytes(made)))
    assert table["piece"].to_pylist() == made["piece"]
    assert table["small"].to_pylist() == made["small"].tolist()
    assert str(table.schema.field("small")) == "pyarrow.Field<small: int8 not null>"


def test_several_row_groups_are_one_table():
    schema = pa.schema([pa.field("id", pa.int32(), nullable=False)])
    file = io.BytesIO()
    pq.write_table(pa.table({"id": pa.array(range(100), pa.int32())}, schema), file, row_group_size=33,
                   compression="none", use_dictionary=False)  # fmt: skip
    assert read_table(file.getvalue(), {"id": np.int32}, 100)["id"].tolist() == list(range(100))


@pytest.mark.parametrize(
    ("how", "word"),
    [
        ({"use_dictionary": True}, "compressed|not plain"), ({"compression": "snappy"}, "is compressed"),
        ({"data_page_version": "2.0"}, "not plain|broken"),
        ({"column_encoding": {"id": "DELTA_BINARY_PACKED"}}, "not plain"),
    ],
)  # fmt: skip
def test_what_could_unfold_is_refused(how, word):
    schema = pa.schema([pa.field("id", pa.int32(), nullable=False)])
    file = io.BytesIO()
    table = pa.table({"id": pa.array([7] * 1000, pa.int32())}, schema)
    pq.write_table(table, file, **{"compression": "none", "use_dictionary": False, **how})
    with pytest.raises(TraceError, match=word):
        read_table(file.getvalue(), {"id": np.int32}, 1000)


@pytest.mark.parametrize("size", [1, 1024])
def test_pages_of_one_value_are_refused(size):
    """Each takes 24 bytes in the file, and the time and the memory of a page."""
    schema = pa.schema([pa.field("id", pa.int32(), nullable=False)])
    file, n = io.BytesIO(), 200_000 if size == 1024 else 2_000
    pq.write_table(pa.table({"id": pa.array(range(n), pa.int32())}, schema), file, compression="none",
                   use_dictionary=False, data_page_size=1, write_batch_size=size)  # fmt: skip
    if size == 1024:
        assert read_table(file.getvalue(), {"id": np.int32}, n)["id"].tolist() == list(range(n))
    else:
        with pytest.raises(TraceError, match=r"cut into too many pages\. Expected 256 values"):
            read_table(file.getvalue(), {"id": np.int32}, n)


def test_row_groups_of_one_value_are_as_many_pages():
    schema = pa.schema([pa.field("id", pa.int32(), nullable=False)])
    file = io.BytesIO()
    pq.write_table(pa.table({"id": pa.array(range(200), pa.int32())}, schema), file, row_group_size=1,
                   compression="none", use_dictionary=False)  # fmt: skip
    with pytest.raises(TraceError, match="too many pages"):
        read_table(file.getvalue(), {"id": np.int32}, 200)


@pytest.mark.parametrize("batch", [1, 1024])
def test_very_long_texts_may_have_a_page_each(batch):
    """As this pyarrow writes them, and as one would that cuts pages before each."""
    texts = ["é" * 50_000] * 150 + [""] * 50
    schema = pa.schema([pa.field("piece", pa.string(), nullable=False)])
    file = io.BytesIO()
    pq.write_table(pa.table({"piece": pa.array(texts)}, schema), file, compression="none", use_dictionary=False,
                   data_page_size=1, write_batch_size=batch)  # fmt: skip
    assert list(read_table(file.getvalue(), {"piece": str}, 200)["piece"]) == texts
    assert list(read_table(table_bytes({"piece": texts}), {"piece": str}, 200)["piece"]) == texts


def test_a_column_may_not_lie_on_another():
    """The same bytes under many names would make a small file large."""
    data = table_bytes({"a": np.arange(5, dtype=np.int32), "b": np.arange(5, dtype=np.int32)})
    meta = pq.read_metadata(io.BytesIO(data)).row_group(0)
    first, second = (meta.column(k).data_page_offset for k in (0, 1))
    at = data.rindex(bytes([0x26, *varint(2 * second)]))  # field 9 of ColumnMetaData, zigzag
    forged = data[:at] + bytes([0x26, *varint(2 * first)]) + data[at + 1 + len(varint(2 * second)) :]
    assert len(forged) == len(data)
    with pytest.raises(TraceError, match="on top of another"):
        read_table(forged, {"a": np.int32, "b": np.int32}, 5)


def varint(value):
    out = []
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return [*out, value]


def test_what_does_not_fit_is_named():
    data = table_bytes(columns(5))
    for kinds, rows, word in (
        (KINDS, 6, "5 rows. Expected 6"),
        (KINDS, 2**22, "more than a trace has"),
        ({**KINDS, "more": str}, 5, "columns small, id, x, t, piece. Expected small, id, x, t, piece, more"),
        ({**KINDS, "x": np.float64}, 5, "column x is FLOAT. Expected DOUBLE"),
        ({**KINDS, "small": np.int32}, 5, "column small is INT32"),
        ({**KINDS, "piece": np.int32}, 5, "column piece is BYTE_ARRAY. Expected INT32"),
    ):
        with pytest.raises(TraceError, match=word):
            read_table(data, kinds, rows)


SAMPLE = table_bytes(columns(6))


@settings(max_examples=1500)
@given(flips=st.lists(st.tuples(st.integers(0, len(SAMPLE) - 1), st.integers(0, 255)), min_size=1, max_size=4),
       cut=st.none() | st.tuples(st.integers(0, len(SAMPLE)), st.integers(0, 9)))  # fmt: skip
def test_flipped_and_cut_bytes_are_read_or_refused(flips, cut):
    data = bytearray(SAMPLE)
    for at, value in flips:
        data[at] = value
    if cut is not None:
        del data[cut[0] : cut[0] + cut[1]]
    try:
        made = read_table(bytes(data), KINDS, 6)
    except TraceError:
        return
    assert all(len(column) == 6 for column in made.values())


@settings(max_examples=500)
@given(footer=st.binary(max_size=200))
def test_any_footer_is_read_or_refused(footer):
    data = b"PAR1" + bytes(50) + footer + len(footer).to_bytes(4, "little") + b"PAR1"
    with pytest.raises(TraceError):
        read_table(data, KINDS, 6)
