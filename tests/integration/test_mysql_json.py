"""Binary JSON out of a real server's row events, whole and partial, equal to what the same server selects."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby
from math import isfinite
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cdc.decode.mysql.binary_json import document_text, json_text, read_binary
from cdc.decode.mysql.json_diff import apply_diffs
from tests.json_documents import read_text
from tests.servers.mysql import MyDatabase

COM_BINLOG_DUMP, NON_BLOCKING, CHECKSUM_BYTES = 0x12, 1, 4
TABLE_MAP, WRITE_ROWS, UPDATE_ROWS, PARTIAL_UPDATE_ROWS = 19, 30, 31, 39
Image = tuple[bytes | None, bytes | None]
IMAGES = ("FULL", "NOBLOB", "MINIMAL")


@dataclass(frozen=True, slots=True)
class LoggedRow:
    """A row of table `documents` in an event: the document's bytes as far as the images have them, diffs instead if `partial`."""

    id: int
    before: bytes | None
    after: bytes | None
    partial: bool


def logged(database: MyDatabase, place: tuple[str, int]) -> Iterator[LoggedRow]:
    """The rows of `documents` from a place to the log's end."""
    with closing(database.server.connect()) as connection:
        connection.query("SET @source_binlog_checksum = 'CRC32'")
        # The driver has no public way to send this command.
        connection._execute_command(COM_BINLOG_DUMP, struct.pack("<IHI", place[1], NON_BLOCKING, 999_983) + place[0].encode())
        ours = set()
        while (packet := connection._read_packet().get_all_data())[0] == 0:
            kind, body = packet[5], packet[20:-CHECKSUM_BYTES]
            if kind == TABLE_MAP and database.name.encode() in body:
                ours.add(body[:6])
            if kind in (WRITE_ROWS, UPDATE_ROWS, PARTIAL_UPDATE_ROWS) and body[:6] in ours:
                yield from _rows(kind, body)


def _rows(kind: int, body: bytes) -> Iterator[LoggedRow]:
    """The rows of one event of a table of two columns: id INT, document JSON."""
    at = 8 + int.from_bytes(body[8:10], "little") + 1
    updates = kind != WRITE_ROWS
    before_columns, after_columns = body[at], body[at + updates]
    at += 1 + updates
    while at < len(body):
        before: Image = (None, None)
        partial = False
        if updates:
            before, at = _image(body, at, before_columns)
        if kind == PARTIAL_UPDATE_ROWS:
            at += 1
            if body[at - 1]:
                partial, at = bool(body[at] & 1), at + 1
        after, at = _image(body, at, after_columns)
        row = before[0] if updates else after[0]
        assert row is not None
        yield LoggedRow(int.from_bytes(row, "little"), before[1], after[1], partial)


def _image(body: bytes, at: int, columns: int) -> tuple[Image, int]:
    """The values of one row image, and where it ends."""
    values: list[bytes | None] = [None, None]
    nulls, at = body[at], at + 1
    for column in (column for column in range(2) if columns >> column & 1):
        if not nulls & 1:
            size = int.from_bytes(body[at : at + 4], "little") if column else 4
            at += 4 * column
            values[column], at = body[at : at + size], at + size
        nulls >>= 1
    return (values[0], values[1]), at


@pytest.fixture
def documents(mysql_database: MyDatabase) -> MyDatabase:
    mysql_database.execute("SET SESSION sql_mode = ''")
    mysql_database.execute("CREATE TABLE documents (id INT PRIMARY KEY AUTO_INCREMENT, document JSON)")
    return mysql_database


def place(database: MyDatabase) -> tuple[str, int]:
    row = database.execute("SHOW BINARY LOG STATUS")[0]
    return row[0], row[1]


def selected(database: MyDatabase) -> dict[int, str]:
    return dict(database.execute("SELECT id, document FROM documents"))


def check_inserts(database: MyDatabase, start: tuple[str, int]) -> None:
    """What was inserted since `start` reads from the log as it reads from the table; and again from that text."""
    told = {row.id: json_text(row.after) for row in logged(database, start) if row.after is not None}
    expected = selected(database)
    assert told == expected
    assert [document_text(read_text(text)) for text in expected.values()] == list(expected.values())


def insert(database: MyDatabase, texts: Sequence[str]) -> None:
    database.execute("INSERT INTO documents (document) VALUES " + ", ".join(["(%s)"] * len(texts)), texts)


COLUMNS = """
CREATE TABLE typed (y YEAR, b BLOB, tb TINYBLOB, mb MEDIUMBLOB, lb LONGBLOB, vb VARBINARY(10), bn BINARY(3), bt BIT(9), e ENUM('a', 'b'),
s SET('x', 'y'), ts TIMESTAMP(3) NULL, dt DATETIME(6), t TIME(6), d DATE, j JSON, g GEOMETRY, tx TEXT CHARACTER SET gbk,
l VARCHAR(10) CHARACTER SET latin1, f FLOAT, db DOUBLE, de DECIMAL(65,30), bu BIGINT UNSIGNED)
"""
ROW = """
INSERT INTO typed VALUES (2020, X'00ff', 't', 'm', '', 'vb', 'f', b'101010101', 'b', 'x,y', '2020-01-01 00:00:00.5',
'9999-12-31 23:59:59.999999', '-838:59:59', '2024-02-29', '[1]',
ST_GeomFromText('GEOMETRYCOLLECTION(POINT(1 2), POLYGON((0 0, 1 0, 1 1.5, 0 0)))'),
'中文', 'é', 0.1, 0.1, -99999999999999999999999999999999999.123456789012345678901234567891, 18446744073709551615)
"""
TYPED = ("y", "b", "tb", "mb", "lb", "vb", "bn", "bt", "e", "s", "ts", "dt", "t", "d", "j", "g", "tx", "l", "f", "db", "de", "bu")
EXPRESSIONS = (
    "CAST(TIME'-838:59:59' AS JSON)",
    "CAST(TIME'00:00:00.000001' AS JSON)",
    "JSON_ARRAY(TIME'-00:00:00.5', MAKETIME(10, 11, 12.5), ADDTIME('01:00:00', '01:00'))",
    "CAST(TIMESTAMP'9999-12-31 23:59:59.999999' AS JSON)",
    "CAST(TIMESTAMP'0001-01-01 00:00:00' AS JSON)",
    "JSON_ARRAY(CAST('0000-00-00' AS DATETIME(6)), DATE'2020-00-01', DATE'0000-01-00', DATE'0000-00-00')",
    "JSON_ARRAY(0.0, 0.00, .000000001, -.5, 123456789.123456789, -1234567890.1234567890, 10.10, ROUND(-0.001, 2))",
    "JSON_ARRAY(CAST(9.9e64 AS DECIMAL(65)), CAST(1.5 AS DECIMAL(65,30)), CAST(-0.000000000000000000000000000001 AS DECIMAL(65,30)))",
    "JSON_ARRAY(1/3, 1/3.0, 1e0/3, 5 DIV 2, PI(), 1e0, -0e0, 99999999999999999.9)",
    "JSON_ARRAY(X'41', b'101', _binary'', UNHEX('ff'), CAST(REPEAT('a', 57) AS BINARY), CAST(REPEAT('a', 58) AS BINARY))",
    "JSON_ARRAY(CAST(REPEAT('a', 100000) AS BINARY))",
    "JSON_ARRAY(_latin1 X'e9', _gbk X'd6d0', _utf8mb4 X'F09F9880', CHAR(65), CHAR(65 USING utf8mb4))",
    "JSON_ARRAY(NULL, true, false, 0, -1, 32767, -32768, 32768, 65535, 65536, 2147483647, -2147483649, 4294967295, 4294967296)",
    "JSON_ARRAY(9223372036854775807, -9223372036854775808, 18446744073709551615, CAST(1 AS UNSIGNED), 18446744073709551616)",
    "JSON_OBJECT('', '', 'b', 1, 'aa', 2, 'a', 3, 'é', 4, 'zz', 5, '中', 6)",
    "CAST(ST_GeomFromText('POINT(1 -2.5)', 4326) AS JSON)",
    *(f"(SELECT JSON_ARRAY({name}) FROM typed)" for name in TYPED),
    *(f"(SELECT CAST({name} AS JSON) FROM typed)" for name in TYPED if name not in {"y", "vb", "bn", "e", "s", "j", "tx", "l"}),
    "(SELECT JSON_ARRAYAGG(vb) FROM typed)",
    "(SELECT JSON_OBJECTAGG('k', b) FROM typed)",
)
SCALARS = ("null", "true", "false", "0", "-1", "70000", "1.0", "-0.0", '""', '"中"', "{}", "[]", "18446744073709551615", "1e400", "1e308")
DOUBLES = "5e-324 1.7976931348623157e308 0.1 1e15 1e16 1e17 1e22 1e23 1e100 1e-13 1e-14 1e-15 1e-16 1.5e-15 1.25e-16 123456789012345.0 \
999999999999999.9 1234567890123456.0 1234567890123456.7 9007199254740993.0 100000000000000000000 2.2250738585072014e-308 4.35 0.000001"


def test_every_type_of_value(documents: MyDatabase) -> None:
    documents.execute(COLUMNS)
    documents.execute(ROW)
    start = place(documents)
    for expression in EXPRESSIONS:
        documents.execute(f"INSERT INTO documents (document) VALUES ({expression})")
    insert(documents, [text for text in SCALARS if text != "1e400"])
    insert(documents, [f"[{text}, -{text}]" for text in DOUBLES.split()])
    check_inserts(documents, start)
    assert documents.execute("SELECT COUNT(*) FROM documents WHERE JSON_TYPE(document) IN ('OPAQUE', 'BIT', 'BLOB')") != [(0,)]


def test_every_character(documents: MyDatabase) -> None:
    start = place(documents)
    low, edges = "".join(map(chr, range(0x250))), "\u2028\ufeff\ud7ff\ue000\uffff\U00010000\U0010ffff中文😀"
    insert(documents, [json.dumps(text, ensure_ascii=escaped) for text in (low, edges) for escaped in (True, False)])
    insert(documents, [json.dumps({f"a{character}": character}) for character in low + edges])
    check_inserts(documents, start)


def test_large_containers_lengths_and_depth(documents: MyDatabase) -> None:
    start = place(documents)
    for size in (0, 127, 128, 16383, 16384, 65535, 65536, 2_097_152):
        insert(
            documents,
            [json.dumps("中" * (size // 3) + "x" * (size % 3)), json.dumps(["x" * size, 1]), json.dumps({"k": "y" * size, "中": [{}]})],
        )
    members = {f"{n:0{n % 50 + 1}}": [n, n * 70_000, -(n**5), str(n), n / 7, None, True] for n in range(3000)}
    insert(
        documents, [json.dumps(members), json.dumps(list(members.values())), json.dumps([70_000] * 30_000), json.dumps({"k" * 65535: 1})]
    )
    insert(documents, ["[" * 100 + "]" * 100, '{"a": ' * 99 + '[1, "x"]' + "}" * 99, '[{"a": ' * 50 + "1" + "}]" * 50])
    check_inserts(documents, start)


def test_a_null_ignored_into_a_column_that_has_none_is_no_bytes_at_all(documents: MyDatabase) -> None:
    documents.execute("ALTER TABLE documents MODIFY document JSON NOT NULL")
    start = place(documents)
    documents.execute("INSERT IGNORE INTO documents (document) VALUES (NULL)")
    assert [row.after for row in logged(documents, start)] == [b""]
    check_inserts(documents, start)


# Each example begins with an empty table. A seed makes hundreds of documents in the time that Hypothesis needs for one.
shares_a_table = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
seeds = st.integers(0, 1 << 32).map(Random)


def any_tree(random: Random, depth: int = 0) -> Any:
    """A document, of anything that JSON text can hold."""
    if random.random() > 0.9 - depth / 5:
        return any_scalar(random)
    if random.random() < 0.5:
        return [any_tree(random, depth + 1) for _ in range(random.randrange(9))]
    return {any_text(random, 6): any_tree(random, depth + 1) for _ in range(random.randrange(7))}


def any_scalar(random: Random) -> Any:
    match random.randrange(8):
        case 0:
            return random.choice([None, True, False, "", 0, 1, -1, 0.0, -0.0])
        case 1:
            return random.getrandbits(random.randrange(1, 64)) * random.choice([1, 1, -1])
        case 2:
            double = float(struct.unpack("<d", random.randbytes(8))[0])
            return double if isfinite(double) else 2**64 - 1
        case 3:
            return float(f"{random.randrange(-(10**17), 10**17)}e{random.randrange(-340, 290)}")
        case 4:
            return random.randrange(-(10**17), 10**17) / 10 ** random.randrange(34)
        case 5:
            return any_text(random, 3) * random.choice([*[20, 50, 130] * 9, 20_000])
        case _:
            return any_text(random, 30)


def any_text(random: Random, size: int) -> str:
    """Up to `size` characters: controls, Latin, Chinese, and those beyond 16 bits."""
    ranges = [(0, 0x20), (0x80, 0x800), (0x4E00, 0x9FFF), (0x10000, 0x110000), *[(0x20, 0x80)] * 4]
    return "".join(chr(random.randrange(*random.choice(ranges))) for _ in range(random.randrange(size + 1)))


@shares_a_table
@given(seeds)
def test_any_document(documents: MyDatabase, random: Random) -> None:
    documents.execute("TRUNCATE documents")
    start = place(documents)
    insert(documents, [json.dumps(any_tree(random), ensure_ascii=False) for _ in range(200)])
    check_inserts(documents, start)


NEW_VALUES = (
    *("NULL", "true", "1", "-70000", "1.10", "2.5e0", "18446744073709551615", "'text \"中\"'", "REPEAT('y', 400)"),
    *("DATE'2020-01-02'", "TIME'-01:02:03.5'", "X'00ff'"),
    *("CAST('[]' AS JSON)", "CAST('[1, [2], {\"a\": 3}]' AS JSON)", 'CAST(\'{"z": [1], "b": {}}\' AS JSON)'),
)


def update(database: MyDatabase, row: int, function: str, arguments: Sequence[str]) -> str:
    """Changes a document in place and returns the text it then has."""
    database.execute(f"UPDATE documents SET document = {function}(document, {', '.join(arguments)}) WHERE id = {row}")
    return str(database.execute("SELECT document FROM documents WHERE id = %s", [row])[0][0])


def check_updates(database: MyDatabase, start: tuple[str, int], states: dict[int, list[str]]) -> int:
    """The updates since `start` take each document through the states it was selected in; returns how many were partial."""
    reached = {row: [texts[0]] for row, texts in states.items()}
    partial = 0
    for row in logged(database, start):
        text = reached[row.id][-1]
        assert row.after is not None
        if row.before is not None:
            assert json_text(row.before) == text
        if row.partial:
            partial += 1
            after = apply_diffs(read_text(text), row.after)
            assert row.before is None or apply_diffs(read_binary(row.before), row.after) == after
        else:
            after = json_text(row.after)
        reached[row.id].append(after)
    for row_id, texts in states.items():
        assert without_repeats(reached[row_id]) == without_repeats(texts)
    return partial


def without_repeats(texts: list[str]) -> list[str]:
    """Some updates that change nothing are logged, others are not."""
    return [text for text, _ in groupby(texts)]


DOCUMENT = (
    '{"a": [1, 2, 3], "b": {"c d": "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", "中": {}, "": 0, "q\\"\\\\": []}, "n": 1, "zz": null}'
)
UPDATES = (
    ("JSON_SET", "'$.a[1]', 9, '$.b.\"c d\"', 1.5, '$.a[last]', 7, '$.new', 5, '$.a[10]', 8, '$.a[0][0]', 77"),
    ("JSON_REMOVE", "'$.a[last-1]', '$.b.\"中\"'"),
    ("JSON_SET", "'$.b.\"\"', CAST('{\"x\": [1]}' AS JSON), '$.b.\"中\"', TIME'-01:00:00', '$.b.\"q\\\\\"\\\\\\\\\"[3]', 4"),
    ("JSON_SET", "'$.n[2]', 'wrapped', '$.a[last-100]', 'first'"),
    ("JSON_SET", "'$.b.\"\".x[0]', 2, '$.b.\"\".x', 3"),
    ("JSON_REPLACE", "'$.n', REPEAT('long', 100), '$.missing', 1, '$.a', CAST('[]' AS JSON)"),
    ("JSON_REMOVE", "'$.b', '$.a[0]', '$.zz'"),
    ("JSON_SET", "'$', CAST('[1]' AS JSON)"),
    ("JSON_SET", "'$[1]', 2, '$[last]', 3, '$[0]', 0"),
)


@pytest.mark.parametrize("image", IMAGES)
def test_partial_updates(documents: MyDatabase, image: str) -> None:
    insert(documents, [DOCUMENT])
    start, (row,) = place(documents), selected(documents)
    states = [selected(documents)[row]]
    documents.execute(f"SET SESSION binlog_row_image = '{image}', binlog_row_value_options = 'PARTIAL_JSON'")
    for function, arguments in UPDATES:
        states.append(update(documents, row, function, [arguments]))
    assert check_updates(documents, start, {row: states}) >= 6


def test_a_document_too_large_for_small_offsets(documents: MyDatabase) -> None:
    insert(documents, [json.dumps({"a": ["x" * 40_000] * 3, "n": 1, "m": {"k": 70_000}})])
    start, (row,) = place(documents), selected(documents)
    states = [selected(documents)[row]]
    documents.execute("SET SESSION binlog_row_value_options = 'PARTIAL_JSON'")
    for arguments in (
        "'$.n', 70000",
        "'$.n', 1e0",
        "'$.m.k', 'y'",
        "'$.a[1]', REPEAT('z', 39000)",
        "'$.a[0]', 1, '$.a[2]', 2, '$.n', CAST('[]' AS JSON)",
    ):
        states.append(update(documents, row, "JSON_SET", [arguments]))
    assert check_updates(documents, start, {row: states}) >= 4


def any_change(random: Random, document: Any) -> tuple[str, list[str]]:
    """A function that changes a document, and its arguments."""
    function = random.choice(["JSON_SET", "JSON_SET", "JSON_REPLACE", "JSON_REMOVE"])
    removes = function == "JSON_REMOVE"
    chosen = random.choices([path for path in paths(document) if path != "$" or not removes], k=random.randrange(1, 5))
    return function, [quoted(path) if removes else f"{quoted(path)}, {random.choice(NEW_VALUES)}" for path in chosen]


def quoted(path: str) -> str:
    return "'" + path.replace("\\", "\\\\").replace("'", "''") + "'"


def paths(document: Any, to: str = "$") -> Iterator[str]:
    """Paths of what is in a document, and of places next to it."""
    yield to
    if isinstance(document, dict):
        for key, below in document.items():
            yield from paths(below, f"{to}.{json.dumps(key, ensure_ascii=len(key) % 2 == 0)}")
        yield from (f"{to}.{json.dumps(key)}" for key in ("a", "new one", "中", '"'))
    elif isinstance(document, list):
        length = len(document)
        for index, below in enumerate(document):
            yield from paths(below, f"{to}[{index}]" if index % 2 else f"{to}[last-{length - 1 - index}]")
        yield from (f"{to}[{length}]", f"{to}[{length + 3}]", f"{to}[ last ]", f"{to}[last-{length}]", f"{to}[last-{length + 1}]")
    else:
        yield from (f"{to}[0]", f"{to}[1]", f"{to}[last]", f"{to}[last-1]", f"{to}[7]")


@shares_a_table
@given(st.sampled_from([*[(image, "PARTIAL_JSON") for image in IMAGES], ("FULL", "")]), seeds)
def test_any_updates(documents: MyDatabase, modes: tuple[str, str], random: Random) -> None:
    documents.execute("TRUNCATE documents")
    insert(documents, [json.dumps(any_tree(random), ensure_ascii=False) for _ in range(20)])
    start = place(documents)
    states = {row: [text] for row, text in selected(documents).items()}
    documents.execute("SET SESSION binlog_row_image = %s, binlog_row_value_options = %s", modes)
    for row, texts in states.items():
        for _ in range(5):
            texts.append(update(documents, row, *any_change(random, json.loads(texts[-1]))))
    check_updates(documents, start, states)
