"""Products with packed weights, as text in LLVM's language: there vectors are values, and no compiler is needed.

Each function here yields the lines of one, for a number of rows of x that go through the weights together. The language
is the same for every processor; :mod:`workbench.compiled` says which are given it, and calls them.

x in bfloat16 has 8 significant bits, so a group of 32 of it is written as 16-bit integers with one power of two for
all. A processor then multiplies 16 pairs of 16-bit integers and adds them by twos in one instruction (``vpmaddwd``),
and the sum over a group is exact. What that rounds is x below 1/128 of its group's largest, by 2^-15 of that largest at
most: a sixty-fourth of the rounding of the product to bfloat16, and unlike the 8 bits that llama.cpp rounds x to. Sums
over groups are float32's, in one order for however many rows: a row of several gives, to the bit, what it gives alone.

``spread`` writes x so: for 64 columns of a row a record of 192 bytes, [4][16] int16, the sums of pairs of these times
-8 as [8] int32, and the power of two of each group four times, as [8] float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["COLUMNS", "RECORD", "multiply4", "multiply8", "spread4", "spread8", "team", "unpack4"]

COLUMNS = 64
"""Columns that are worked on together: two groups."""
RECORD = 192
"""Bytes of so many columns of a row of x."""
_MINUS, _FACTOR = 128, 160  # where in a record they are
_LESS = 16


def _all(kind: str, value: object, count: int) -> str:
    return f"<{', '.join(f'{kind} {value}' for _ in range(count))}>"


def _lanes(*lanes: int) -> str:
    return f"<{len(lanes)} x i32> <{', '.join(f'i32 {lane}' for lane in lanes)}>"


_EVEN, _ODD = _lanes(*range(0, 16, 2)), _lanes(*range(1, 16, 2))
_TWICE_4, _TWICE_32 = _lanes(*[0] * 4, *[1] * 4), _lanes(*[0] * 32, *[1] * 32)


def _function(start: str, body: Iterable[str], sums: int = 0, end: Iterable[str] = ()) -> Iterator[str]:
    """Two loops: of %r from %first to %stop, and in it of %b to %blocks, with %at their block; neither is empty."""
    yield start
    yield "entry: br label %rows"
    yield "rows: %r = phi i64 [%first, %entry], [%r.next, %done]"
    yield "%r.at = mul i64 %r, %blocks"
    yield "br label %columns"
    yield "columns: %b = phi i64 [0, %rows], [%b.next, %columns]"
    for m in range(sums):
        yield f"%sum{m} = phi <8 x float> [zeroinitializer, %rows], [%sum{m}.next, %columns]"
    yield "%at = add i64 %r.at, %b"
    yield from body
    yield "%b.next = add i64 %b, 1"
    yield "%b.more = icmp ult i64 %b.next, %blocks"
    yield "br i1 %b.more, label %columns, label %done"
    yield "done:"
    yield from end
    yield "%r.next = add i64 %r, 1"
    yield "%r.more = icmp ult i64 %r.next, %stop"
    yield "br i1 %r.more, label %rows, label %end"
    yield "end: ret void"
    yield "}"


def _multiply(weights: str, body: Iterable[str], rows: int, end: Iterable[str]) -> Iterator[str]:
    yield "declare <8 x float> @llvm.fma.v8f32(<8 x float>, <8 x float>, <8 x float>)"
    yield from _function(
        f"define void @{weights}(ptr noalias %codes, ptr noalias %scales, ptr noalias %records, ptr noalias %out, "
        "i64 %first, i64 %stop, i64 %blocks, i64 %height) {",
        body, rows, end,
    )  # fmt: skip


def multiply4(rows: int) -> Iterator[str]:
    """Rows of x times int4 weights: (codes, scales, records, out, first, stop, blocks, height).

    Writes float32 ``out[m * height + r]`` for r from first to stop. The weights are as :mod:`workbench.grid` stores
    them: read as 16-bit numbers, 32 bytes are 16 lanes of four codes, and lane j holds columns 4j to 4j + 3, so that a
    mask and a shift give 16 codes. The eight that every code is too large is in the records.
    """

    def body() -> Iterator[str]:
        yield "%w.at = getelementptr <16 x i16>, ptr %codes, i64 %at"
        yield "%w = load <16 x i16>, ptr %w.at, align 1"
        for k in range(4):
            yield f"%w{k}.down = lshr <16 x i16> %w, {_all('i16', 4 * k, 16)}"
            yield f"%w{k}.code = and <16 x i16> %w{k}.down, {_all('i16', 15, 16)}"
            yield f"%w{k} = zext <16 x i16> %w{k}.code to <16 x i32>"
        yield from _scales(_TWICE_4, 8)
        for m in range(rows):
            yield from _record(m, rows)
            yield f"%minus{m}.at = getelementptr i8, ptr %x{m}, i64 {_MINUS}"
            yield f"%minus{m} = load <8 x i32>, ptr %minus{m}.at, align 32"
            yield from _pairs(m, (0, 1, 2, 3), f"%minus{m}", f"%t{m}")
            yield f"%factor{m}.at = getelementptr i8, ptr %x{m}, i64 {_FACTOR}"
            yield f"%factor{m} = load <8 x float>, ptr %factor{m}.at, align 32"
            yield f"%both{m} = fmul <8 x float> %factor{m}, %s"
            given = f"<8 x float> %t{m}, <8 x float> %both{m}, <8 x float> %sum{m}"
            yield f"%sum{m}.next = call <8 x float> @llvm.fma.v8f32({given})"

    def end() -> Iterator[str]:
        for m in range(rows):
            yield from _total(m)
            yield from _put(m, f"%total{m}")

    yield from _multiply("multiply4", body(), rows, end())


def multiply8(rows: int) -> Iterator[str]:
    """Rows of x times int8 weights (N, K) with a scale a row; arguments and result as of :func:`multiply4`."""

    def body() -> Iterator[str]:
        yield "%w.at = getelementptr <64 x i8>, ptr %codes, i64 %at"
        for k in range(4):
            yield f"%w{k}.at = getelementptr i8, ptr %w.at, i64 {16 * k}"
            yield f"%w{k}.code = load <16 x i8>, ptr %w{k}.at, align 1"
            yield f"%w{k}.short = sext <16 x i8> %w{k}.code to <16 x i16>"
            yield f"%w{k} = sext <16 x i16> %w{k}.short to <16 x i32>"
        for m in range(rows):
            yield from _record(m, rows)
            so_far = f"%sum{m}"
            for g in (0, 1):
                yield from _pairs(m, (2 * g, 2 * g + 1), "zeroinitializer", f"%t{m}_{g}")
                yield f"%factor{m}_{g}.at = getelementptr i8, ptr %x{m}, i64 {_FACTOR + 16 * g}"
                yield f"%factor{m}_{g}.one = load float, ptr %factor{m}_{g}.at, align 4"
                yield f"%factor{m}_{g}.in = insertelement <8 x float> poison, float %factor{m}_{g}.one, i32 0"
                yield (
                    f"%factor{m}_{g} = shufflevector <8 x float> %factor{m}_{g}.in, <8 x float> poison, "
                    f"<8 x i32> zeroinitializer"
                )
                to = f"%sum{m}.next" if g else f"%sum{m}.half"
                given = f"<8 x float> %t{m}_{g}, <8 x float> %factor{m}_{g}, <8 x float> {so_far}"
                yield f"{to} = call <8 x float> @llvm.fma.v8f32({given})"
                so_far = to

    def end() -> Iterator[str]:
        yield "%s.at = getelementptr i16, ptr %scales, i64 %r"
        yield "%s.short = load i16, ptr %s.at, align 2"
        yield "%s.wide = zext i16 %s.short to i32"
        yield "%s.bits = shl i32 %s.wide, 16"
        yield "%s.given = bitcast i32 %s.bits to float"
        yield f"%s = fmul float %s.given, {2.0**_LESS:e}"
        for m in range(rows):
            yield from _total(m)
            yield f"%scaled{m} = fmul float %total{m}, %s"
            yield from _put(m, f"%scaled{m}")

    yield from _multiply("multiply8", body(), rows, end())


def _record(m: int, rows: int) -> Iterator[str]:
    yield f"%x{m}.offset = mul i64 %b, {rows * RECORD}"
    yield f"%x{m}.block = getelementptr i8, ptr %records, i64 %x{m}.offset"
    yield f"%x{m} = getelementptr i8, ptr %x{m}.block, i64 {m * RECORD}"


def _pairs(m: int, parts: Iterable[int], start: str, to: str) -> Iterator[str]:
    """``to``: as float32, ``start`` plus the sums of pairs of x times weights, over these quarters of a block."""
    for k in parts:
        n = f"{m}_{k}"
        yield f"%x{n}.at = getelementptr i8, ptr %x{m}, i64 {32 * k}"
        yield f"%x{n} = load <16 x i16>, ptr %x{n}.at, align 32"
        yield f"%x{n}.wide = sext <16 x i16> %x{n} to <16 x i32>"
        yield f"%p{n} = mul nsw <16 x i32> %w{k}, %x{n}.wide"
        yield from _by_twos(f"%p{n}")
        yield f"%p{n}.sum = add <8 x i32> {start}, %p{n}.pairs"
        start = f"%p{n}.sum"
    yield f"{to} = sitofp <8 x i32> {start} to <8 x float>"


def _by_twos(name: str) -> Iterator[str]:
    yield f"{name}.even = shufflevector <16 x i32> {name}, <16 x i32> poison, {_EVEN}"
    yield f"{name}.odd = shufflevector <16 x i32> {name}, <16 x i32> poison, {_ODD}"
    yield f"{name}.pairs = add <8 x i32> {name}.even, {name}.odd"


def _total(m: int) -> Iterator[str]:
    """%total: the sum of a row's eight, halves first; in full, as an order left to LLVM may change with ``rows``."""
    last = f"%sum{m}.next"
    for width in (4, 2, 1):
        for half, first in (("low", 0), ("high", width)):
            lanes = _lanes(*range(first, first + width))
            pair = f"<{2 * width} x float> {last}, <{2 * width} x float> poison"
            yield f"%half{m}_{width}.{half} = shufflevector {pair}, {lanes}"
        yield f"%half{m}_{width} = fadd <{width} x float> %half{m}_{width}.low, %half{m}_{width}.high"
        last = f"%half{m}_{width}"
    yield f"%total{m} = extractelement <1 x float> {last}, i32 0"


def _put(m: int, value: str) -> Iterator[str]:
    yield f"%out{m}.row = mul i64 %height, {m}"
    yield f"%out{m}.index = add i64 %out{m}.row, %r"
    yield f"%out{m}.at = getelementptr float, ptr %out, i64 %out{m}.index"
    yield f"store float {value}, ptr %out{m}.at"


def _scales(lanes: str, count: int) -> Iterator[str]:
    """%s: the scales of the two groups at %at, float32, one a lane."""
    yield "%s.at = getelementptr <2 x i16>, ptr %scales, i64 %at"
    yield "%s.two = load <2 x i16>, ptr %s.at, align 2"
    yield f"%s.all = shufflevector <2 x i16> %s.two, <2 x i16> poison, {lanes}"
    yield f"%s.wide = zext <{count} x i16> %s.all to <{count} x i32>"
    yield f"%s.bits = shl <{count} x i32> %s.wide, {_all('i32', 16, count)}"
    yield f"%s = bitcast <{count} x i32> %s.bits to <{count} x float>"


def team(pointers: int, sizes: int) -> Iterator[str]:
    """One thread's share of one of these functions, as an OpenMP team runs it: (data).

    ``data`` is 8 bytes each: the function, OpenMP's functions that say which thread this is and how many there are, the
    rows to share out, and the function's arguments but for ``first`` and ``stop``.
    """
    yield "define void @team(ptr %data) {"
    yield "entry:"
    kinds = {"fn": "ptr", "which": "ptr", "many": "ptr", "height": "i64"}
    kinds |= {f"p{k}": "ptr" for k in range(pointers)} | {f"s{k}": "i64" for k in range(sizes)}
    for k, (name, kind) in enumerate(kinds.items()):
        yield f"%{name}.at = getelementptr i64, ptr %data, i64 {k}"
        yield f"%{name} = load {kind}, ptr %{name}.at, align 8"
    yield "%which.int = call i32 %which()"
    yield "%mine = zext i32 %which.int to i64"
    yield "%many.int = call i32 %many()"
    yield "%all = zext i32 %many.int to i64"
    yield "%next = add i64 %mine, 1"
    for name, number in (("first", "%mine"), ("stop", "%next")):
        yield f"%{name}.all = mul i64 %height, {number}"
        yield f"%{name} = udiv i64 %{name}.all, %all"
    yield "%some = icmp ult i64 %first, %stop"
    yield "br i1 %some, label %work, label %end"
    given = ["i64 %first", "i64 %stop", *(f"i64 %s{k}" for k in range(sizes))]
    yield f"work: call void %fn({', '.join([*(f'ptr %p{k}' for k in range(pointers)), *given])})"
    yield "br label %end"
    yield "end: ret void"
    yield "}"


def unpack4(_rows: int = 1) -> Iterator[str]:
    """Rows of an int4 weight (N, K), float32: (codes, scales, out, first, stop, blocks)."""

    def body() -> Iterator[str]:
        yield "%w.at = getelementptr <32 x i8>, ptr %codes, i64 %at"
        yield "%w = load <32 x i8>, ptr %w.at, align 1"
        yield f"%w.low = and <32 x i8> %w, {_all('i8', 15, 32)}"
        yield f"%w.high = lshr <32 x i8> %w, {_all('i8', 4, 32)}"
        order = _lanes(*(half * 32 + i for i in range(32) for half in (0, 1)))
        yield f"%code = shufflevector <32 x i8> %w.low, <32 x i8> %w.high, {order}"
        yield f"%step = sub <64 x i8> %code, {_all('i8', 8, 64)}"
        yield "%number = sitofp <64 x i8> %step to <64 x float>"
        yield from _scales(_TWICE_32, 64)
        yield "%value = fmul <64 x float> %number, %s"
        yield "%out.at = getelementptr <64 x float>, ptr %out, i64 %at"
        yield "store <64 x float> %value, ptr %out.at, align 4"

    yield from _function(
        "define void @unpack4(ptr noalias %codes, ptr noalias %scales, ptr noalias %out, i64 %first, i64 %stop, "
        "i64 %blocks) {",
        body(),
    )


def spread4(rows: int) -> Iterator[str]:
    """Rows of bfloat16, (rows, 64 * blocks), as records (blocks, rows): (x, records, first, stop, blocks).

    The k-th 16 of a record are columns k, k + 4, k + 8, and so on, as ``multiply4`` has the codes.

    A number whose exponent field is E is below 2^(E - 126), so times 2^(141 - E) it is below 2^15. E is taken as 20 at
    least: that power of two, and the one which undoes it, stay in float32's range, and 2^-122 and less is 0. An
    infinity or a NaN makes its group's power of two NaN.
    """
    yield from _spread("spread4", rows, [range(k, 64, 4) for k in range(4)])


def spread8(rows: int) -> Iterator[str]:
    """As :func:`spread4`, in the order of the columns, and 2^-16 times as large: ``multiply8`` makes up for it.

    Sums of int8 products would leave float32's range before the row's scale brings them back. E is 36 at least, and
    2^-106 and less is 0.
    """
    yield from _spread("spread8", rows, [range(k, k + 16) for k in range(0, 64, 16)], _LESS)


def _spread(name: str, rows: int, order: list[range], less: int = 0) -> Iterator[str]:
    def body() -> Iterator[str]:
        yield "%x.at = getelementptr <64 x i16>, ptr %x, i64 %at"
        yield "%v = load <64 x i16>, ptr %x.at, align 2"
        yield f"%v.size = and <64 x i16> %v, {_all('i16', 32767, 64)}"
        for g in (0, 1):
            lanes = _lanes(*range(32 * g, 32 * g + 32))
            yield f"%v{g} = shufflevector <64 x i16> %v.size, <64 x i16> poison, {lanes}"
            yield f"%peak{g} = call i16 @llvm.vector.reduce.umax.v32i16(<32 x i16> %v{g})"
            yield f"%field{g} = lshr i16 %peak{g}, 7"
            yield f"%least{g} = call i16 @llvm.umax.i16(i16 %field{g}, i16 {20 + less})"
            yield f"%e{g} = zext i16 %least{g} to i32"
            yield f"%up{g}.field = sub i32 268, %e{g}"
            yield f"%down{g}.field = sub i32 %e{g}, {14 + less}"
            for way in ("up", "down"):
                yield f"%{way}{g}.bits = shl i32 %{way}{g}.field, 23"
                yield f"%{way}{g} = bitcast i32 %{way}{g}.bits to float"
            yield f"%wrong{g} = icmp eq i32 %e{g}, 255"
            yield f"%back{g} = select i1 %wrong{g}, float 0x7FF8000000000000, float %down{g}"
        for way, lanes in (("up", _TWICE_32), ("back", _TWICE_4)):
            yield f"%{way}.one = insertelement <2 x float> poison, float %{way}0, i32 0"
            yield f"%{way}.two = insertelement <2 x float> %{way}.one, float %{way}1, i32 1"
            yield f"%{way} = shufflevector <2 x float> %{way}.two, <2 x float> poison, {lanes}"
        yield "%v.wide = zext <64 x i16> %v to <64 x i32>"
        yield f"%v.bits = shl <64 x i32> %v.wide, {_all('i32', 16, 64)}"
        yield "%v.float = bitcast <64 x i32> %v.bits to <64 x float>"
        yield "%v.up = fmul <64 x float> %v.float, %up"
        yield "%v.round = call <64 x float> @llvm.rint.v64f32(<64 x float> %v.up)"
        yield "%n = call <64 x i16> @llvm.fptosi.sat.v64i16.v64f32(<64 x float> %v.round)"  # of a NaN: 0
        yield f"%record.row = mul i64 %b, {rows}"
        yield "%record.index = add i64 %record.row, %r"
        yield f"%record.offset = mul i64 %record.index, {RECORD}"
        yield "%record = getelementptr i8, ptr %records, i64 %record.offset"
        for k, columns in enumerate(order):
            yield f"%n{k} = shufflevector <64 x i16> %n, <64 x i16> poison, {_lanes(*columns)}"
            yield f"%n{k}.at = getelementptr i8, ptr %record, i64 {32 * k}"
            yield f"store <16 x i16> %n{k}, ptr %n{k}.at, align 32"
            yield f"%n{k}.wide = sext <16 x i16> %n{k} to <16 x i32>"
        yield "%n01 = add <16 x i32> %n0.wide, %n1.wide"
        yield "%n23 = add <16 x i32> %n2.wide, %n3.wide"
        yield "%all = add <16 x i32> %n01, %n23"
        yield from _by_twos("%all")
        yield f"%minus = mul <8 x i32> %all.pairs, {_all('i32', -8, 8)}"
        yield f"%minus.at = getelementptr i8, ptr %record, i64 {_MINUS}"
        yield "store <8 x i32> %minus, ptr %minus.at, align 32"
        yield f"%back.at = getelementptr i8, ptr %record, i64 {_FACTOR}"
        yield "store <8 x float> %back, ptr %back.at, align 32"

    yield "declare i16 @llvm.vector.reduce.umax.v32i16(<32 x i16>)"
    yield "declare i16 @llvm.umax.i16(i16, i16)"
    yield "declare <64 x float> @llvm.rint.v64f32(<64 x float>)"
    yield "declare <64 x i16> @llvm.fptosi.sat.v64i16.v64f32(<64 x float>)"
    yield from _function(
        f"define void @{name}(ptr noalias %x, ptr noalias %records, i64 %first, i64 %stop, i64 %blocks) {{", body()
    )
