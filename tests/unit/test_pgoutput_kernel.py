"""The kernel of pgoutput: what it writes is what pgtypes would convert, and what it is not sure of it leaves to that; many rows at once."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cdc.decode.kernels import kernel
from cdc.decode.postgres.pgtypes import PgType, convert, map_column
from cdc.sources.postgres import replication
from tests import kernels
from tests.messages import UNCHANGED, begin, commit, delete, insert, relation, update
from tests.unit.test_pgoutput import decoder

INT2, INT4, INT8, OID = (PgType(name) for name in ("int2", "int4", "int8", "oid"))


def numeric(precision: int, scale: int) -> PgType:
    return PgType("numeric", (precision << 16 | scale) + 4)


@pytest.fixture(autouse=True, scope="module", params=kernels.FORMS)
def _kernel(request: pytest.FixtureRequest) -> Iterator[None]:
    with kernels.demanded("postgres", request.param):
        yield


def written(make: str, pg_type: PgType, values: list[bytes | None]) -> pa.Array | None:
    """The values by one of the kernel's columns; None if it gave up."""
    module: Any = kernel("postgres").module
    rows = module.Rows(None, 1, [0], [], [])
    messages = module.Messages()
    messages.describe(7, rows)
    head = b"I" + (7).to_bytes(4) + b"N" + (1).to_bytes(2)
    frames = [head + (b"n" if value is None else b"t" + len(value).to_bytes(4) + value) for value in values]
    assert messages.read(module.Block([begin(), *frames]), 0, None, sys.maxsize) == 1 + len(frames)
    arrow = map_column("c", pg_type, None).type
    column = getattr(module, make)(*([arrow] if make in ("Number", "Decimal") else []))
    assert rows.read([column]) is None
    if not column.fit:
        return None
    array = column.array()
    assert array.type == arrow
    assert array.null_count == values.count(None)
    array.validate(full=True)
    return array


def converted(pg_type: PgType, values: list[bytes | None]) -> pa.Array:
    return convert(map_column("c", pg_type, None), pa.array(values, pa.binary()), "t")


@pytest.mark.parametrize(
    ("make", "pg_type", "values"),
    [
        ("Number", PgType("bool"), ["t", "f", "t", "t", "t", "f", "f", "f", "t", "t"]),
        ("Number", INT2, ["-32768", "32767", "0", "-1"]),
        ("Number", INT4, ["-2147483648", "2147483647", "7"]),
        ("Number", INT8, ["-999999999999999999", "999999999999999999", "0"]),
        ("Number", OID, ["4294967295", "0"]),
        ("Number", PgType("date"), ["1970-01-01", "2024-02-29", "2000-02-29", "0001-01-01", "9999-12-31", "1900-02-28", "2026-03-01"]),
        (
            "Number",
            PgType("timestamp"),
            ["0001-01-01 00:00:00.000001", "9999-12-31 23:59:59.999999", "1969-12-31 12:00:00.5"],
        ),
        ("Number", PgType("timestamptz"), ["2026-11-30 23:59:59+00", "2026-11-30 00:00:00.123456+00", "1999-01-01 01:02:03.45+00"]),
        ("Decimal", numeric(18, 2), ["0.00", "-0.01", "9999999999999999.99", "-1234.50"]),
        ("Decimal", numeric(38, 18), ["999999999999999999.999999999999999999", "-0.000000000000000001", "-18446744073.709551616000000000"]),
        ("Decimal", numeric(5, 0), ["99999", "-99999", "0"]),
        ("Decimal", numeric(5, 5), ["0.12345", "-0.00001"]),
        ("Text", PgType("text"), ["", "abc", "客户", "é\U0001f600", "\x7f", "x" * 5000]),
        ("Hex", PgType("bytea"), ["\\x", "\\x00ff", "\\x5C78aB"]),
    ],
    ids=lambda value: str(value) if isinstance(value, PgType) else "",
)
def test_usual_values_are_written(make: str, pg_type: PgType, values: list[str]) -> None:
    texts = [value.encode() for value in values]
    assert written(make, pg_type, [None, *texts, None]) == converted(pg_type, [None, *texts, None])


@pytest.mark.parametrize(
    ("make", "pg_type", "values"),
    [
        ("Number", PgType("bool"), ["", "true", "x", "T"]),
        ("Number", INT2, ["32768", "-32769", "", "-", "+1", "1 ", "1.0", "9" * 19, "1e1", "１"]),
        ("Number", INT4, ["2147483648", "-2147483649"]),
        ("Number", INT8, ["9223372036854775808", "-9223372036854775807", "1000000000000000000"]),
        ("Number", OID, ["4294967296", "-1"]),
        (
            "Number",
            PgType("date"),
            ["infinity", "-infinity", "2023-02-29", "1900-02-29", "2026-04-31", "2026-13-01", "2026-00-01"],
        ),
        ("Number", PgType("date"), ["2026-01-00", "0000-01-01", "0044-03-15 BC", "2026/01/01", "2026-1-01", "2026-01-1x", "2026-01-0"]),
        ("Number", PgType("timestamp"), ["infinity", "2026-01-01", "2026-01-01T00:00:00", "2026-01-01 24:00:00"]),
        (
            "Number",
            PgType("timestamp"),
            ["2026-01-01 00:60:00", "2026-01-01 00:00:60", "2026-01-01 00:00:00.", "2026-01-01 00:00:00.1234567"],
        ),
        ("Number", PgType("timestamptz"), ["2026-01-01 00:00:00", "2026-01-01 00:00:00+01", "2026-01-01 00:00:00+00 BC", "+00"]),
        (
            "Decimal",
            numeric(18, 2),
            ["NaN", "", "-", ".", "1.", ".5", "1.234", "1e3", "1" + "0" * 16 + ".00", "1..2", "--1", " 1.00", "1.00 "],
        ),
        ("Decimal", numeric(38, 18), ["1000000000000000000.0", "99999999999999999999.000000000000000000"]),
        (
            "Text",
            PgType("text"),
            ["\x80", "\xc0\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xe0\x80\x80", "\xf0\x80\x80\x80", "\xe5\xae", "\xff"],
        ),
        ("Hex", PgType("bytea"), ["", "\\", "x", "\\x0", "\\xzz", "\\x0g", "abcd", "\\X00", "\\x/0", "\\x:0", "\\x`0", "\\x@0"]),
    ],
    ids=lambda value: str(value) if isinstance(value, PgType) else "",
)
def test_unusual_values_are_left_to_conversion(make: str, pg_type: PgType, values: list[str]) -> None:
    for value in values:
        text = value.encode("latin-1" if make == "Text" else "utf-8")
        assert written(make, pg_type, [b"1" if make == "Text" else None, text, None]) is None, value


NEAR = {
    INT2: r"-?[0-9]{0,6}",
    INT8: r"-?[0-9]{0,20}",
    numeric(18, 2): r"-?[0-9]{0,18}\.?[0-9]{0,3}",
    numeric(38, 18): r"-?[0-9]{0,21}\.?[0-9]{0,19}",
    numeric(12, 0): r"-?[0-9]{0,13}\.?0?",
    PgType("date"): r"[0-9]{3,5}-[01][0-9]-[0-3][0-9]( BC)?",
    PgType("timestamp"): r"(20|19|00)[0-9]{2}-[01][0-9]-[0-3][0-9] [0-2][0-9]:[0-6][0-9]:[0-6][0-9](\.[0-9]{0,7})?",
    PgType("timestamptz"): r"2[0-9]{3}-[01][0-9]-[0-3][0-9] [0-2][0-9]:[0-6][0-9]:[0-6][0-9](\.[0-9]{1,6})?\+0[01]",
    PgType("bool"): r"[tf]|true",
    PgType("text"): r"[a-f]*",
    PgType("bytea"): r"\\x[0-9a-fA-Fg]{0,9}",
}
MAKES = {"numeric": "Decimal", "text": "Text", "bytea": "Hex"}


@given(st.data())
def test_what_is_written_is_what_would_be_converted(data: st.DataObject) -> None:
    pg_type = data.draw(st.sampled_from([*NEAR]))
    near = st.from_regex(NEAR[pg_type], fullmatch=True, alphabet="0123456789-.+: \\xBCabcdefABDEFgtru").map(str.encode)
    values = data.draw(st.lists(st.none() | near | st.binary(max_size=12), min_size=1, max_size=12))
    array = written(MAKES.get(pg_type.name, "Number"), pg_type, values)
    assert array is None or array == converted(pg_type, values)


@given(st.lists(st.binary(max_size=8), min_size=1, max_size=4))
@example([b"\xf4\x8f\xbf\xbf", b"\xee\x80\x80", b"\xc2\x80"])
def test_utf8_is_what_python_takes_for_it(values: list[bytes]) -> None:
    array = written("Text", PgType("text"), list(values))
    try:
        expected = [value.decode() for value in values]
    except UnicodeDecodeError:
        assert array is None
    else:
        assert array is not None
        assert array.to_pylist() == expected


def test_many_rows() -> None:
    """More than are read together: what is null, unchanged or moved stays with its row."""
    frames, expected = [], []
    for i in range(4321):
        note = None if i % 7 == 0 else "é" * (i % 50)
        if i % 5 == 3:
            frames.append(update([i, UNCHANGED if i % 3 else None, note]))
            expected.append(("u", i, None, note, [1] if i % 3 else None, None))
        elif i % 11 == 4:
            frames.append(update([i, i, note], [-i, None, None]))
            expected += [("d", -i, None, None, None, None), ("u", i, i, note, None, -i)]
        elif i % 13 == 5:
            frames.append(delete([i, None, None]))
            expected.append(("d", i, None, None, None, None))
        else:
            frames.append(insert(i, f"{i}.00", note))
            expected.append(("c", i, i, note, None, None))
    made = decoder()
    half = len(frames) // 2
    made.feed([begin(), relation(), *frames[:half]])
    made.feed([*frames[half:], commit()])
    transactions, (changes,) = made.take()
    columns = [changes.rows[name].to_pylist() for name in ("#op", "id", "total", "note", "#absent", "#old:id")]
    assert list(zip(*columns, strict=True)) == expected
    assert changes.rows["#ordinal"].to_pylist() == list(range(len(expected)))
    assert (transactions.num_rows, set(changes.rows["#txn"].to_pylist())) == (1, {0})


def test_one_rare_value_among_many() -> None:
    made = decoder()
    made.feed([begin(), relation(), *(insert(i, "1.00" if i != 3210 else "0" * 20 + "1", "x") for i in range(4000)), commit()])
    _, (changes,) = made.take()
    assert changes.rows["total"].to_pylist() == [1] * 4000
    assert changes.rows["id"].to_pylist() == list(range(4000))


def test_many_transactions() -> None:
    made = decoder()
    frames = [relation()]
    for n in range(1, 300):
        frames += [begin(n << 32 | 0xABC0, n), insert(n, 1, "x"), commit(n << 32 | 0xABC0, n)]
    made.feed([begin(1), *frames[:1], commit(1), *frames[1:]])
    transactions, (changes,) = made.take()
    assert transactions["position"].to_pylist() == [f"{n:X}/ABC0" for n in range(1, 300)]
    assert transactions["txn"].to_pylist() == [str(n) for n in range(1, 300)]
    assert changes.rows["#txn"].to_pylist() == list(range(299))


def test_pending_bytes_are_those_of_the_rows() -> None:
    made = decoder()
    frame = update([2, 1, "x" * 100], [1, None, None])
    made.feed([begin(), relation(), frame])
    assert made.pending_rows == 2
    assert made.pending_bytes == len(frame) + 5  # each of the two has a head of its own


def test_a_block_is_a_sequence_of_messages() -> None:
    block = kernel("postgres").module.Block([b"one", b""])
    messages = [b"one", b"", *(b"x" * size for size in range(0, 3000, 7))]
    for message in messages[2:]:
        block.append(memoryview(message))
    assert list(block) == messages
    assert (len(block), block.size, block[0]) == (len(messages), sum(map(len, messages)), b"one")
    for index in (-1, len(messages)):
        with pytest.raises(IndexError):
            block[index]


def fetching(answers: list[bytes | int], kept: dict[int, Any]) -> Callable[[Any, int], bytes | None]:
    """What fetches from a libpq that gives the answers; `kept` is what it allocated and was not given back."""

    def get_copy_data(at_once: int) -> tuple[int, memoryview]:
        answer = answers.pop(0)
        return (answer, memoryview(b"")) if isinstance(answer, int) else (len(answer), memoryview(answer))

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p), ctypes.c_int)
    def get(connection: int, place: Any, at_once: int) -> int:
        length, data = get_copy_data(at_once)
        if length > 0:
            buffer = ctypes.create_string_buffer(bytes(data), length)
            place[0] = ctypes.addressof(buffer)
            kept[place[0]] = buffer
        return length

    @ctypes.CFUNCTYPE(None, ctypes.c_void_p)
    def free(message: int) -> None:
        del kept[message]

    if not kernel("postgres").module.COMPILED:
        return partial(replication.fetch, get_copy_data)
    return lambda block, size_max: block.fetch(0, *(ctypes.cast(function, ctypes.c_void_p).value for function in (get, free)), size_max)


def test_a_block_fetches_what_libpq_has() -> None:
    head, kept, block = b"w" + bytes(24), dict[int, Any](), kernel("postgres").module.Block()
    many = [b"%d" % number * number for number in range(300)]
    alive = b"k" + bytes(17)
    fetch = fetching([head + b"one", head, b"w", alive, 0, *(head + message for message in many), 0, head + b"2", 0, -1], kept)
    assert fetch(block, 1 << 20) == alive
    assert list(block) == [b"one", b"", b""]
    assert fetch(block, 1 << 20) == b""
    assert fetch(block, 1000) == b""
    assert 1000 <= block.size < 1100
    assert fetch(block, 1 << 20) == b""
    assert list(block) == [b"one", b"", b"", *many]
    assert fetch(block, 1 << 20) == b""
    assert block[len(block) - 1] == b"2"
    assert fetch(block, 1 << 20) is None
    assert not kept
