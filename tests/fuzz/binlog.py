"""Rows events that may be anything, through the decoder with both forms of its kernel, which must come to the same and crash nowhere."""

from __future__ import annotations

from collections.abc import Iterator

from pymysqlreplication.constants import BINLOG

from cdc.decode.kernels import Form
from cdc.decode.mysql import rows
from cdc.decode.mysql.captured import Layout, Resolved
from cdc.decode.mysql.events import Reader
from cdc.decode.mysql.fields import make_field
from cdc.decode.mysql.pending import Captured
from cdc.decode.mysql.rows import KINDS
from cdc.decode.mysql.types import TEXTS, TIMES, parse_type
from cdc.decode.mysql.wire import Malformed, TableMap, WireColumn
from cdc.errors import LedgertailError
from cdc.types import UPDATE, TableSchema
from tests.binlogs import bitmap, compressed
from tests.kernels import FORMS, demanded

# Types with their field type and metadata, and a value's bytes.
COLUMNS: list[tuple[str, int, int, str]] = [
    ("int", 3, 0, "07000000"),
    ("tinyint", 1, 0, "80"),
    ("smallint unsigned", 2, 0, "ffff"),
    ("mediumint", 9, 0, "000080"),
    ("mediumint unsigned", 9, 0, "ffffff"),
    ("bigint", 8, 0, "0000000000000080"),
    ("float", 4, 4, "cdcc8c3f"),
    ("double", 5, 8, "9a9999999999f13f"),
    ("decimal(10,2)", 246, 0x0A02, "7ffffffee6"),
    ("decimal(30,12)", 246, 0x1E0C, "80" + "00" * 12 + "07"),
    ("decimal(65,30)", 246, 0x411E, "80" + "00" * 28 + "07"),
    ("bit(9)", 16, 9, "0101"),
    ("year", 13, 0, "7c"),
    ("date", 10, 0, "5dd00f"),
    ("datetime(6)", 18, 6, "99b2bb7efb0f423f"),
    ("datetime", 12, 0, "f67cac8b68120000"),
    ("timestamp(3)", 17, 3, "ffffffff04ce"),
    ("timestamp", 7, 0, "7f1ae165"),
    ("time(3)", 19, 3, "7f3747e12e"),
    ("time", 11, 0, "590a80"),
    ("varchar(20) charset utf8mb4", 15, 80, "c3a9"),
    ("varchar(300) charset latin1", 15, 300, "e9"),
    ("text charset gbk", 252, 2, "bfcd"),
    ("mediumblob", 252, 3, "00ff"),
    ("binary(5)", 254, 5, "6100"),
    ("enum('a','b') charset latin1", 247, 1, "02"),
    ("set('a','b','c') charset latin1", 248, 1, "05"),
    ("json", 245, 4, "0001000c000b00010005010061"),
    ("point", 255, 4, "0000000001"),
    ("inet6", 254, 16, "fe80"),
]
DIFF = bytes.fromhex("0003242e6103050200")  # of the JSON document above: replace $.a by 2
COMPRESSED = range(166, 172)
TABLE = TableMap(7, "shop", "t", tuple(WireColumn(code, meta, True) for _, code, meta, _ in COLUMNS))
NUMBERS = sorted(KINDS)
KEYS = ((0,), (), (20, 21))  # of three tables, whose columns are kept in the ways that follow
OVERRIDES = (None, "null", "text")


def resolved(number: int) -> Resolved:
    """A table as it is captured: each third column is not, but those of its key."""
    key, override = KEYS[number], OVERRIDES[number]
    fields = tuple(
        None
        if index % 3 == number and index not in key
        else make_field(f"c{index}", parse_type(text), override if index not in key and _overridden(text) else None)
        for index, (text, *_) in enumerate(COLUMNS)
    )
    columns = tuple(column for field in fields if field for column in field.columns)
    return Resolved(TableSchema("src", "t", columns, tuple(f"c{index}" for index in key)), fields, frozenset())


def _overridden(text: str) -> bool:
    return parse_type(text).name in (*TEXTS, *TIMES, "date", "decimal", "int", "bit")


def seeds() -> Iterator[bytes]:
    """An event of each kind and table, of rows with values and with NULLs, that is as it should be."""
    columns, full = range(len(COLUMNS)), bitmap([True] * len(COLUMNS))
    image = bytes(len(full)) + b"".join(_value(index) for index in columns)
    keys = sorted({index for key in KEYS for index in key})
    nulls = bitmap([index not in keys for index in columns]) + b"".join(_value(index) for index in keys)
    for at, kind in enumerate(NUMBERS):
        op, extra = KINDS[kind]
        head = (b"\2\0" if extra else b"") + bytes([len(COLUMNS)]) + full * (1 + (op == UPDATE))
        body = image + nulls * 3 + image * 2 if op == UPDATE else image + nulls
        if kind == BINLOG.PARTIAL_UPDATE_ROWS_EVENT:
            body = image + b"\1\1" + _diffed(image) + nulls + b"\0" + image
        event = head + body
        for number in range(len(KEYS)):
            yield bytes([at, number]) + (compressed(event, len(head)) if kind in COMPRESSED else event)


def _value(index: int) -> bytes:
    content = bytes.fromhex(COLUMNS[index][3])
    width = rows._width(TABLE, TABLE.columns[index])
    return content if width > 0 else len(content).to_bytes(-width, "little") + content


def _diffed(image: bytes) -> bytes:
    document = bytes.fromhex(COLUMNS[27][3])
    return image.replace(len(document).to_bytes(4, "little") + document, len(DIFF).to_bytes(4, "little") + DIFF)


class Forms:
    """The decoder with either form of the kernel."""

    def __init__(self) -> None:
        self._layouts = {form: [Layout(TABLE, resolved(number), mariadb=False) for number in range(len(KEYS))] for form in FORMS}

    def check(self, data: bytes) -> tuple[str, ...]:
        """What an event comes to, its kind and table in the first two bytes: rows, or what it is refused for; alike with both."""
        found = {form: self._outcome(form, data) for form in FORMS}
        assert found[Form.PLAIN] == found[Form.COMPILED], found
        return found[Form.PLAIN]

    def _outcome(self, form: Form, data: bytes) -> tuple[str, ...]:
        kind, number = data[:2].ljust(2, b"\0")
        layout = self._layouts[form][number % len(KEYS)]
        table, reader = Captured(layout.schema), Reader(data, min(2, len(data)))
        with demanded("mysql", form):
            try:
                table.add(table.read(layout, NUMBERS[kind % len(NUMBERS)], reader), 0, 0)
                taken = table.take().rows
            except (LedgertailError, Malformed) as refused:
                return type(refused).__name__, str(refused)
        taken.validate(full=True)
        return tuple(map(repr, taken.to_pylist()))
