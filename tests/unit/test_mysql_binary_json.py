"""Binary JSON and JSON diffs by their bytes: the server's text, bounds, and what does not fit."""

from __future__ import annotations

import struct
from base64 import encodebytes

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cdc.decode.mysql.binary_json import DEPTH_MAX, document_text, double_text, json_text, read_binary
from cdc.decode.mysql.json_diff import Cell, Diff, Operation, Rejected, apply_diffs, read_diffs, read_path
from cdc.decode.mysql.wire import Malformed
from tests.json_documents import read_text

REPLACE, INSERT, REMOVE = Operation
# Documents as MySQL 9.7 logged them, and its text of them.
LOGGED = (
    (
        "0003005f00190001001a0002001c000300021f00040000005400626161e4b8ad0700350005010005ffff071900071d000721000a2500092d00ffff0000"
        "7011010090eefeffffffffffffffffff000000000000008001000b000b000000040100",
        '{"b": [1, -1, 65535, 70000, -70000, 18446744073709551615, -9223372036854775808], "aa": null, "中": {"": true}}',
    ),
    (
        "02060046000b16000b1e000b26000b2e000b36000b3e009a9999999999b93f000000000000f03f00000000000000807dc39425ad49b25400003426f56b"
        "0c43bc89d897b2d29c3c",
        "[0.1, 1.0, -0.0, 1e100, 1e15, 1e-16]",
    ),
    ("0c0c610009225c2f1f7ff09f9880", '"a\\u0000\\t\\"\\\\/\\u001f\x7f😀"'),
    ("0201008b000c0700" + "8201" + "78" * 130, '["' + "x" * 130 + '"]'),
    (
        "02070087000f19000f23000f2d000f37000f41000f47000f4b000a080000000000bab2190b08e05ef87cefffffff0c08010000fb7ebbb219f6080d028c"
        "149aa43532f60403037ffe0f0200ff0f3a" + "61" * 58,
        '["2024-02-29", "-01:02:03.500000", "2024-02-29 23:59:59.000001", 12345678901.50, -0.001, "base64:type15:AP8=", '
        '"base64:type15:' + "YWFh" * 19 + '\\nYQ=="]',
    ),
    (
        "02030020000f0d000f17000f1c000708000000000042a519fc0361626310020155",
        '["2020-01-01 00:00:00.000000", "base64:type252:YWJj", "base64:type16:AVU="]',
    ),
    ("0203002c00020d00001800001c0001000b000207000000040000000400010010000b000100020c006b00000400", '[[[]], {}, {"k": []}]'),
    ("0401", "true"),
)
documents = pytest.mark.parametrize(("value", "text"), [(bytes.fromhex(value), text) for value, text in LOGGED], ids=range(len(LOGGED)))
TEXT_BYTES_MAX = 8  # an opaque value of no bytes takes 5 bytes with its entry, and its text 20


def array(*elements: tuple[int, bytes], large: bool = False) -> bytes:
    """An array's body; an element is its type and body, inlined where it is as wide as an offset."""
    count, entry, width = ("<II", "<BI", 4) if large else ("<HH", "<BH", 2)
    entries, bodies = b"", b""
    start = struct.calcsize(count) + len(elements) * struct.calcsize(entry)
    for kind, body in elements:
        if kind in (4, 5, 6) or (large and kind in (7, 8)):
            entries += struct.pack("<B", kind) + body.ljust(width, b"\0")
        else:
            entries += struct.pack(entry, kind, start + len(bodies))
            bodies += body
    return struct.pack(count, len(elements), start + len(bodies)) + entries + bodies


def nested(depth: int) -> bytes:
    body = array()
    for _ in range(depth - 1):
        body = array((2, body))
    return b"\x02" + body


def opaque(kind: int, body: bytes) -> bytes:
    return bytes([15, kind, len(body)]) + body


@documents
def test_the_servers_text(value: bytes, text: str) -> None:
    assert json_text(value) == text
    assert document_text(read_text(text)) == text


@documents
def test_a_document_cut_short(value: bytes, text: str) -> None:
    for size in range(1, len(value)):
        with pytest.raises(Malformed):
            json_text(value[:size])
    # An update in place leaves room behind what it shortened.
    assert json_text(value + b"room") == text


def test_no_bytes_are_null() -> None:
    assert json_text(b"") == "null"


def test_inlined_values() -> None:
    elements = ((4, b"\0"), (4, b"\1"), (4, b"\2"), (5, b"\0\x80"), (6, b"\xff\xff"))
    assert json_text(b"\x02" + array(*elements)) == "[null, true, false, -32768, 65535]"
    wide = ((5, b"\xfe\xff\xff\xff"), (7, struct.pack("<i", -(2**31))), (8, struct.pack("<I", 2**32 - 1)), (9, struct.pack("<q", -5)))
    assert json_text(b"\x03" + array(*wide, large=True)) == "[-2, -2147483648, 4294967295, -5]"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (5e-324, "5e-324"),
        (1.7976931348623157e308, "1.7976931348623157e308"),
        (-1e15, "-1e15"),
        (999999999999999.9, "999999999999999.9"),
        (1234567890123456.0, "1.234567890123456e15"),
        (1234567890123456.8, "1234567890123456.8"),
        (9007199254740992.0, "9.007199254740992e15"),
        (123456789012345680.0, "1.2345678901234568e17"),
        (1e-14, "0.00000000000001"),
        (-1.5e-15, "-0.0000000000000015"),
        (1e-16, "1e-16"),
        (1.25e-16, "1.25e-16"),
        (0.00001, "0.00001"),
        (1 / 3, "0.3333333333333333"),
        (100.0, "100.0"),
        (0.0, "0.0"),
        (-0.0, "-0.0"),
    ],
)
def test_doubles(value: float, text: str) -> None:
    assert double_text(value) == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_doubles_text_is_that_double(value: float) -> None:
    assert struct.pack("<d", float(double_text(value))) == struct.pack("<d", value)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("0100 81", "1"),
        ("0100 7e", "-1"),
        ("0202 80", "0.00"),
        ("0303 7ffe", "-0.001"),
        ("0a00 81 00000000", "1000000000"),
        ("0b01 80 00000001 05", "1.5"),
        ("140a 80 00000001 1dcd6500 00", "1.5000000000"),
    ],
)
def test_decimals(body: str, text: str) -> None:
    assert json_text(opaque(246, bytes.fromhex(body))) == text


def test_other_opaque_values() -> None:
    assert json_text(opaque(11, bytes(8))) == '"00:00:00.000000"'
    assert json_text(opaque(10, bytes(8))) == '"0000-00-00"'
    assert json_text(opaque(7, bytes(8))) == '"0000-00-00 00:00:00.000000"'
    assert json_text(opaque(253, '"é'.encode())) == '"\\"é"'
    assert json_text(opaque(255, b"")) == '"base64:type255:"'
    body = bytes(range(120))
    assert json_text(opaque(252, body)) == '"base64:type252:' + encodebytes(body).decode().strip().replace("\n", "\\n") + '"'


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(b"\x0d\x00", id="type"),
        pytest.param(b"\x04\x03", id="literal"),
        pytest.param(b"\x0b" + struct.pack("<d", float("inf")), id="infinity"),
        pytest.param(b"\x0b" + struct.pack("<d", float("nan")), id="nan"),
        pytest.param(b"\x0c\x01\xff", id="not UTF-8"),
        pytest.param(b"\x0c\x03\xed\xa0\x80", id="surrogate"),
        pytest.param(b"\x0c" + b"\xff" * 5 + b"\x01", id="length of six bytes"),
        pytest.param(b"\x0c\xff\xff\xff\xff\x0f", id="length beyond the end"),
        pytest.param(b"\x02\x01\x00\x07\x00\x02\x04\x00", id="value in its own entry"),
        pytest.param(b"\x02\x01\x00\x09\x00\x0c\x08\x00\x01x", id="value across its array's end"),
        pytest.param(b"\x02\x01\x00\x06\x00\x04\x00\x00", id="entry beyond the size"),
        pytest.param(b"\x02\xff\xff\x04\x00", id="count beyond the size"),
        pytest.param(b"\x03\xff\xff\xff\xff\xff\xff\xff\xff", id="large count"),
        pytest.param(b"\x00\x01\x00\x0c\x00\x04\x00\x01\x00\x04\x00\x00k", id="key in the head"),
        pytest.param(b"\x00\x01\x00\x0c\x00\x0b\x00\x02\x00\x04\x00\x00kk", id="key beyond the size"),
        pytest.param(b"\x00\x02\x00\x14\x00\x12\x00\x01\x00\x13\x00\x01\x00\x04\x00\x00\x04\x00\x00kk", id="key twice"),
        pytest.param(opaque(10, bytes(7)), id="date of 7 bytes"),
        pytest.param(opaque(12, b"\xff" * 8), id="negative date"),
        pytest.param(opaque(12, struct.pack("<q", 10_000 * 13 << 46)), id="year"),
        pytest.param(opaque(12, struct.pack("<q", 60 << 24)), id="second"),
        pytest.param(opaque(11, struct.pack("<q", 839 << 36)), id="hour"),
        pytest.param(opaque(11, struct.pack("<q", 1_000_000)), id="microsecond"),
        pytest.param(opaque(246, b""), id="no decimal"),
        pytest.param(opaque(246, b"\0\0"), id="decimal of no digits"),
        pytest.param(opaque(246, b"\x01\x02\x80"), id="scale beyond precision"),
        pytest.param(opaque(246, b"\x01\x00\x8a"), id="decimal digit"),
        pytest.param(opaque(246, b"\x09\x00" + struct.pack(">I", 10**9 | 1 << 31)), id="decimal group"),
        pytest.param(opaque(246, b"\x52\x00\x80" + bytes(36)), id="decimal precision"),
        pytest.param(nested(DEPTH_MAX + 1), id="depth"),
    ],
)
def test_malformed(value: bytes) -> None:
    with pytest.raises(Malformed):
        json_text(value)


def test_depth() -> None:
    assert json_text(nested(DEPTH_MAX)) == "[" * DEPTH_MAX + "]" * DEPTH_MAX


def test_a_part_can_not_be_told_twice() -> None:
    twins = array()
    for _ in range(60):
        twins = struct.pack("<HHBHBH", 2, 10 + len(twins), 2, 10, 2, 10) + twins
    with pytest.raises(Malformed):
        json_text(b"\x02" + twins)


@given(st.binary(max_size=200))
def test_any_bytes(value: bytes) -> None:
    reads_or_refuses(value)


@given(
    st.sampled_from([bytes.fromhex(value) for value, _ in LOGGED]),
    st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), max_size=6),
)
def test_any_damage(value: bytes, damage: list[tuple[int, int]]) -> None:
    damaged = bytearray(value)
    for place, octet in damage:
        damaged[place % len(value)] = octet
    reads_or_refuses(bytes(damaged))


def reads_or_refuses(value: bytes) -> None:
    try:
        text = json_text(value)
    except Malformed:
        return
    assert document_text(read_text(text)) == text
    assert len(text) <= TEXT_BYTES_MAX * (len(value) + 3)


def diff(operation: int, path: str, value: bytes | None = None) -> bytes:
    return bytes([operation]) + counted(path.encode()) + (b"" if value is None else counted(value))


def counted(part: bytes) -> bytes:
    size = len(part)
    return (
        bytes([size]) if size < 251 else b"\xfc" + struct.pack("<H", size) if size < 1 << 16 else b"\xfd" + size.to_bytes(3, "little")
    ) + part


TRUE, ONE, EMPTY_OBJECT = b"\x04\x01", b"\x05\x01\x00", b"\x00\x00\x00\x04\x00"


def test_diffs_as_logged() -> None:
    assert list(read_diffs(b'\0\x06$.a[1]\x03\x05\t\0\x01\x07$."c d"\x07\x0f\xf6\x04\x02\x01\x81\x05\x02\x0b$.a[last-1]')) == [
        Diff(REPLACE, ("a", Cell(1, False)), "9"),
        Diff(INSERT, ("c d",), "1.5"),
        Diff(REMOVE, ("a", Cell(1, True)), None),
    ]


@pytest.mark.parametrize(
    ("before", "diffs", "after"),
    [
        ('{"a": 1.50}', [], '{"a": 1.50}'),
        ('{"a": 1, "b": [1, 2]}', [(REPLACE, "$.a", TRUE), (REPLACE, "$.b[last]", ONE)], '{"a": true, "b": [1, 1]}'),
        (
            '{"b": 1, "cc": 2}',
            [(INSERT, '$."é"', ONE), (INSERT, "$.a", ONE), (INSERT, '$."aaa"', ONE)],
            '{"a": 1, "b": 1, "cc": 2, "é": 1, "aaa": 1}',
        ),
        ("[5, 6]", [(INSERT, "$[0]", ONE), (INSERT, "$[9]", TRUE), (INSERT, "$[last-9]", TRUE)], "[true, 1, 5, 6, true]"),
        ("[5, 6, 7]", [(REMOVE, "$[last-1]"), (REMOVE, "$[0]")], "[7]"),
        ('{"a": {"": {"x y": 1}}}', [(REMOVE, '$.a.""."x y"'), (INSERT, '$.a."".z', EMPTY_OBJECT)], '{"a": {"": {"z": {}}}}'),
        ("[[1]]", [(REPLACE, "$[0]", EMPTY_OBJECT), (INSERT, "$[0].k", b"")], '[{"k": null}]'),
        ("[1]", [(REPLACE, "$[0]", b"\x0c\xc0\x84\x3d" + b"y" * 1_000_000)], '["' + "y" * 1_000_000 + '"]'),
    ],
)
def test_applied(before: str, diffs: list[tuple[int, str] | tuple[int, str, bytes]], after: str) -> None:
    assert apply_diffs(read_text(before), b"".join(diff(*parts) for parts in diffs)) == after


def test_applied_to_a_binary_document() -> None:
    value, _ = LOGGED[0]
    changed = apply_diffs(read_binary(bytes.fromhex(value)), diff(REMOVE, "$.b") + diff(REPLACE, '$."中"', ONE))
    assert changed == '{"aa": null, "中": 1}'


@pytest.mark.parametrize(
    ("before", "operation", "path"),
    [
        ('{"a": 1}', REPLACE, "$.b"),
        ('{"a": 1}', REMOVE, "$.b"),
        ('{"a": 1}', INSERT, "$.a"),
        ('{"a": 1}', INSERT, "$.b.c"),
        ('{"a": 1}', INSERT, "$.a[0]"),
        ('{"a": 1}', INSERT, "$[0]"),
        ('{"a": 1}', REPLACE, "$[0]"),
        ("[1]", REPLACE, "$[1]"),
        ("[1]", REMOVE, "$[last-1]"),
        ("[1]", INSERT, "$.a"),
        ("[1]", REMOVE, "$.a"),
        ("[1]", INSERT, "$[1][0]"),
        ("1", REPLACE, "$[0]"),
        ("1", REPLACE, "$"),
        ("[1]", INSERT, "$"),
    ],
)
def test_rejected(before: str, operation: int, path: str) -> None:
    with pytest.raises(Rejected):
        apply_diffs(read_text(before), diff(operation, path, None if operation == REMOVE else ONE))


@pytest.mark.parametrize(
    "diffs",
    [
        pytest.param(b"\x03\x03$.a", id="operation"),
        pytest.param(b"\x02", id="no path"),
        pytest.param(b"\x02\x04$.a", id="path beyond the end"),
        pytest.param(b"\x00\x03$.a", id="no value"),
        pytest.param(b"\x00\x03$.a\x02\x04", id="value beyond the end"),
        pytest.param(b"\x00\x03$.a\x02\x04\x03", id="value"),
        pytest.param(b"\x02\xfb", id="NULL as a length"),
        pytest.param(b"\x02\xff", id="no length"),
        pytest.param(b"\x02\xfe" + b"\xff" * 8 + b"$", id="length of 8 bytes"),
        pytest.param(b"\x02\xfc\x03", id="half a length"),
    ],
)
def test_malformed_diffs(diffs: bytes) -> None:
    with pytest.raises(Malformed):
        apply_diffs(read_text('{"a": 1}'), diffs)


def test_diffs_that_nest_too_deep() -> None:
    half = read_binary(nested(60))
    path = "$" + "[0]" * 59
    with pytest.raises(Malformed):
        apply_diffs(half, diff(INSERT, path + "[0]", nested(60)))


@pytest.mark.parametrize(
    ("path", "legs"),
    [
        ("$", ()),
        (" $ . a [ 2 ] ", ("a", Cell(2, False))),
        ('$."b c"."\\"\\\\\\u0041\\ud83d\\ude00"', ("b c", '"\\A😀')),
        ('$.""[last][ last - 3 ]', ("", Cell(0, True), Cell(3, True))),
        # To the server these are letters, and no white space.
        ("$.é_$1.x.\x85", ("é_$1", "x", "\x85")),
        ('$."a.b[0]"[4294967295]', ("a.b[0]", Cell(2**32 - 1, False))),
    ],
)
def test_paths(path: str, legs: tuple[str | Cell, ...]) -> None:
    assert read_path(path.encode()) == legs


@pytest.mark.parametrize(
    "path",
    [
        *(
            "",
            "a",
            "$a",
            "$.",
            "$[",
            "$[]",
            "$[-1]",
            "$[1",
            "$[first]",
            "$[last+1]",
            "$[4294967296]",
            "$[１]",
            "$.*",
            "$**.a",
            "$[*]",
            "$[1 to 2]",
        ),
        *('$."a', '$."\\x"', '$."\n"', '$."\\ud800"', '$."a"b', "$.a\\u0041"),
    ],
)
def test_what_is_no_path_of_one_place(path: str) -> None:
    with pytest.raises(Malformed):
        read_path(path.encode())


def test_a_path_that_is_not_utf_8() -> None:
    with pytest.raises(Malformed):
        read_path(b"$.\xff")


@given(st.binary(max_size=60), st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), max_size=4))
@example(diff(REPLACE, "$.b[0]", TRUE), [])
def test_any_diffs(diffs: bytes, damage: list[tuple[int, int]]) -> None:
    damaged = bytearray(diff(INSERT, '$.b["x"]', ONE) + diff(REMOVE, "$.aa") if len(diffs) % 2 else diffs)
    for place, octet in damage if damaged else ():
        damaged[place % len(damaged)] = octet
    try:
        text = apply_diffs(read_binary(bytes.fromhex(LOGGED[0][0])), bytes(damaged))
    except (Malformed, Rejected):
        return
    assert document_text(read_text(text)) == text
