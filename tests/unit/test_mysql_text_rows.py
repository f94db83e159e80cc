"""Rows of the text protocol, whatever their lengths and however they arrive: what was sent comes out, and what is no row is refused."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc.decode.mysql.text_rows import EIGHT, NULL, THREE, TWO, TextRows
from cdc.decode.mysql.wire import Malformed

Row = list[bytes | None]
FULL = (1 << 24) - 1
END = b"\xfe\x00\x00\x22\x00"
LENGTHS = (0, 1, 8, 249, 250, 251, 252, 253, 255, 256, 65535, 65536, 70000)


def encoded(value: bytes | None) -> bytes:
    if value is None:
        return bytes([NULL])
    size = len(value)
    if size < NULL:
        return bytes([size]) + value
    for lead, width in ((TWO, 2), (THREE, 3), (EIGHT, 8)):
        if size < 1 << 8 * width:
            return bytes([lead]) + size.to_bytes(width, "little") + value
    raise AssertionError(size)


def packets(payload: bytes, number: int = 0) -> bytes:
    """A payload as the server sends it: in pieces of 2^24 - 1 bytes, the last of them shorter."""
    pieces = [payload[start : start + FULL] for start in range(0, len(payload) + 1, FULL)]
    return b"".join(len(piece).to_bytes(3, "little") + bytes([(number + n) % 256]) + piece for n, piece in enumerate(pieces))


def result(rows: Sequence[Row], end: bytes = END) -> bytes:
    return b"".join(packets(b"".join(map(encoded, row)), number) for number, row in enumerate(rows)) + packets(end)


def read(data: bytes, width: int, cuts: Sequence[int] = (), taking: int = 1 << 30) -> list[Row]:
    """The rows of a result that comes in blocks, taken whenever there are `taking` of them."""
    rows, edges, columns = TextRows(width), [0, *sorted(cuts), len(data)], [pa.array([], pa.binary())] * width
    for begin, end in pairwise(edges):
        rows.feed(data[begin:end])
        if rows.rows >= taking or rows.ended:
            for part in rows.take():
                columns = [pa.concat_arrays([old, new]) for old, new in zip(columns, part, strict=True)]
    assert rows.ended
    assert rows.error is None
    assert (rows.rows, rows.size) == (0, 0)
    return [list(row) for row in zip(*(column.to_pylist() for column in columns), strict=True)]


VALUES = st.one_of(st.none(), st.binary(max_size=12), st.sampled_from(LENGTHS).map(lambda size: bytes(size % 251 for _ in range(size))))


@given(
    st.integers(1, 4).flatmap(lambda width: st.lists(st.lists(VALUES, min_size=width, max_size=width), min_size=1, max_size=12)), st.data()
)
def test_what_is_sent_comes_out(some: list[Row], data: st.DataObject) -> None:
    rows = (some * 60)[: data.draw(st.sampled_from([len(some), 300, 600]))]
    sent = result(rows)
    cuts = data.draw(st.lists(st.integers(0, len(sent)), max_size=12))
    assert read(sent, len(rows[0]), cuts, data.draw(st.sampled_from([1, 250, 1 << 30]))) == rows


@pytest.mark.parametrize("length", [FULL - 4, FULL - 3, FULL + 1, 2 * FULL - 4, 2 * FULL + 70])
def test_a_row_of_several_packets(length: int) -> None:
    rows: list[Row] = [[b"before", None], [random.Random(length).randbytes(length), b"beside"], [None, b"after"]]
    assert read(result(rows), 2, cuts=range(0, 3 * FULL, 1 << 20)) == rows


@pytest.mark.parametrize("few", [True, False])
def test_a_payload_that_fills_its_packet_is_followed_by_an_empty_one(few: bool) -> None:
    value = bytes(FULL - 4)
    after: Row = [b"after"]
    rows: list[Row] = [[value], *([after] * (1 if few else 500))]
    assert len(encoded(value)) == FULL
    assert read(result(rows), 1) == rows


def test_a_first_column_of_sixteen_megabytes_is_no_end() -> None:
    rows: list[Row] = [[bytes(1 << 24), b"x"], [b"y", None]]
    assert result(rows)[4] == EIGHT
    assert read(result(rows), 2) == rows


def test_an_error_in_place_of_rows_is_handed_out() -> None:
    error = b"\xff\x15\x04#28000Access denied"
    rows = TextRows(1)
    rows.feed(packets(b"\x01a"))
    rows.feed(packets(error))
    assert rows.ended
    assert rows.error == error
    assert [part[0].to_pylist() for part in rows.take()] == [[b"a"]]


@pytest.mark.parametrize("extra", [b"x", packets(b"\x01a"), packets(END)])
def test_nothing_comes_after_the_end(extra: bytes) -> None:
    with pytest.raises(Malformed):
        TextRows(1).feed(result([[b"a"]]) + extra)


WRONG = [
    b"",  # no value at all
    b"\x01a",  # one column of two
    b"\x01a\x01b\x01c",  # three
    b"\x01a\x05b",  # beyond the end of the packet
    b"\x01a\xfc\x01",  # the length itself is
    b"\x01a\xfc\xff\xff",
    b"\x01a\xfd\xff\xff\xff",
    b"\x01a\xfe" + (1 << 40).to_bytes(8, "little"),
    b"\x01a\xfe" + (1 << 63).to_bytes(8, "little"),
    b"\x01a\xff",  # no kind of length
]


@pytest.mark.parametrize("count", [1, 1000])
@pytest.mark.parametrize("payload", WRONG)
@pytest.mark.parametrize("place", [0, -1])
def test_what_is_no_row_is_refused(payload: bytes, count: int, place: int) -> None:
    payloads = [b"\x01a\x01b"] * count
    payloads[place] = payload
    rows = TextRows(2)
    rows.feed(b"".join(map(packets, payloads)) + packets(END))
    with pytest.raises(Malformed):
        list(rows.take())


@given(
    st.lists(st.lists(VALUES, min_size=3, max_size=3), min_size=1, max_size=8),
    st.lists(st.tuples(st.integers(0), st.integers(0, 255)), max_size=6),
)
def test_damaged_bytes_are_refused_or_some_other_rows(rows: list[Row], damages: list[tuple[int, int]]) -> None:
    """Never a crash, never bytes from elsewhere: what comes out was in what was sent."""
    sent = bytearray(result((rows * 60)[:500]))
    for place, byte in damages:
        sent[place % len(sent)] = byte
    damaged = TextRows(3)
    try:
        damaged.feed(bytes(sent))
        parts = list(damaged.take())
    except Malformed:
        return
    for part in parts:
        for column in part:
            column.validate(full=True)
            assert all(value is None or value in sent for value in column.to_pylist())
