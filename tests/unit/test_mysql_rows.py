"""Rows events and table maps, built by hand: what they change, and what they leave untold."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import pytest

from cdc.decode.kernels import kernel
from cdc.decode.mysql.binlog import Decoder
from cdc.decode.mysql.captured import Resolved
from cdc.decode.mysql.events import Reader
from cdc.decode.mysql.fields import make_field
from cdc.decode.mysql.images import values_of
from cdc.decode.mysql.table_map import read_table_map
from cdc.decode.mysql.types import MyType
from cdc.decode.mysql.wire import Malformed, Statement, TableMap, WireColumn
from cdc.errors import SchemaUnknown
from cdc.types import TableSchema
from tests.binlogs import (
    ABSENT,
    DOCUMENTS,
    DOCUMENTS_MAP,
    INT,
    INT_TYPE,
    LINES,
    LINES_MAP,
    LOG,
    LOG_MAP,
    MARIADB_UPDATE,
    MARIADB_WRITE,
    MARIADB_WRITE_COMPRESSED,
    ORDERS,
    ORDERS_MAP,
    PARTIAL_UPDATE,
    QUERY_COMPRESSED,
    TEXT,
    TEXT_TYPE,
    WRITE,
    Column,
    Log,
    carried,
    compressed,
    decoded,
    decoder,
    delete,
    fault,
    image,
    mariadb_log,
    nothing,
    query,
    resolved,
    rows,
    rows_body,
    table_map,
    telling,
    update,
    write,
)

pytestmark = pytest.mark.usefixtures("mysql_kernel")


def test_updates_and_deletes() -> None:
    log = Log()
    log.transaction(
        ORDERS_MAP, update(ORDERS, ((1, "x", 1), (1, "y", 1)), ((2, None, 1), (2, "z", None))), delete(ORDERS, (1, "y", 1), (2, "z", None))
    )
    assert decoded(log) == {
        "orders": [("u", 0, 0, 1, "y", 1), ("u", 0, 1, 2, "z", None), ("d", 0, 2, 1, "y", 1), ("d", 0, 3, 2, "z", None)]
    }


def test_an_update_of_the_key_is_two_changes() -> None:
    log, made = Log(), decoder()
    log.transaction(LINES_MAP, update(LINES, ((1, 1), (1, 2)), ((5, 5), (5, 5)), ((7, 1), (8, 1))))
    assert made.feed(log) == len(log)
    _, (changes,) = made.take()
    assert rows(changes) == [("d", 0, 0, 1, 1), ("u", 0, 1, 1, 2), ("u", 0, 2, 5, 5), ("d", 0, 3, 7, 1), ("u", 0, 4, 8, 1)]
    assert changes.rows["#old:id"].to_pylist() == [None, 1, None, None, 7]
    assert changes.rows["#old:no"].to_pylist() == [None, 1, None, None, 1]


def test_a_table_without_a_key() -> None:
    log = Log()
    log.transaction(LOG_MAP, write(LOG, ("a", 1), ("b", None)), update(LOG, (("a", 1), ("a", 2)), (("b", None), ("b", None))))
    log.transaction(LOG_MAP, delete(LOG, ("a", 2)), update(LOG, (("b", None), ("b", None))), number=18)
    assert decoded(log) == {
        "log": [("c", 0, 0, "a", 1), ("c", 0, 1, "b", None), ("d", 0, 2, "a", 1), ("c", 0, 3, "a", 2), ("d", 1, 0, "a", 2)]
    }


def test_an_event_so_large_that_other_threads_run_while_it_is_read() -> None:
    log, count = Log(), 5000
    log.transaction(
        ORDERS_MAP,
        write(ORDERS, *((number, "客户", None) for number in range(count))),
        update(ORDERS, *(((number, "客户", None), (number + count * (number % 2), "x" * 20, 1)) for number in range(count))),
    )
    moved = [[("d", number, "客户", None)] * (number % 2) + [("u", number + count * (number % 2), "x" * 20, 1)] for number in range(count)]
    expected = [*(("c", number, "客户", None) for number in range(count)), *(change for changes in moved for change in changes)]
    assert [(row[0], *row[3:]) for row in decoded(log)["orders"]] == expected
    log = Log()
    kind, body = write(ORDERS, *((number, "x" * 20, None) for number in range(count)))
    log.transaction(ORDERS_MAP, (kind, body[:-1]))
    assert fault(log).values["detail"] == "it ends too early"


def test_a_table_without_a_key_needs_whole_images() -> None:
    log = Log()
    log.transaction(LOG_MAP, update(LOG, (("a", ABSENT), ("b", ABSENT))))
    assert fault(log, error=SchemaUnknown).code == "binlog.identity"


def test_what_an_update_leaves_out_did_not_change() -> None:
    log, made = Log(), decoder()
    log.transaction(ORDERS_MAP, update(ORDERS, ((1, ABSENT, ABSENT), (ABSENT, ABSENT, 7)), ((2, ABSENT, ABSENT), (ABSENT, ABSENT, None))))
    log.transaction(ORDERS_MAP, update(ORDERS, ((3, ABSENT, ABSENT), (4, ABSENT, 8))), write(ORDERS, (5, "x", 1)), number=18)
    log.transaction(ORDERS_MAP, update(ORDERS, ((5, "x", 1), (ABSENT, ABSENT, 2))), delete(ORDERS, (5, ABSENT, ABSENT)), number=19)
    assert made.feed(log) == len(log)
    _, (changes,) = made.take()
    assert rows(changes) == [
        ("u", 0, 0, 1, None, 7),
        ("u", 0, 1, 2, None, None),
        ("d", 1, 0, 3, None, None),
        ("u", 1, 1, 4, None, 8),
        ("c", 1, 2, 5, "x", 1),
        ("u", 2, 0, 5, "x", 2),
        ("d", 2, 1, 5, None, None),
    ]
    assert changes.rows["#absent"].to_pylist() == [[1], [1], None, [1], None, None, None]
    assert changes.rows["#old:id"].to_pylist() == [None, None, None, 3, None, None, None]


def test_a_change_must_tell_its_key() -> None:
    log = Log()
    log.transaction(LINES_MAP, update(LINES, ((1, ABSENT), (ABSENT, 2))))
    assert fault(log, error=SchemaUnknown).values["column"] == "no"
    log = Log()
    log.transaction(LINES_MAP, delete(LINES, (ABSENT, 1)))
    assert fault(log, error=SchemaUnknown).code == "binlog.identity"


def test_what_an_insert_leaves_out_has_a_default_that_is_not_told() -> None:
    log = Log()
    log.transaction(ORDERS_MAP, write(ORDERS, (1, "x", ABSENT)))
    refused = fault(log, error=SchemaUnknown)
    assert (refused.code, refused.values["column"]) == ("binlog.image", "total")
    log = Log()
    log.transaction(ORDERS_MAP, (WRITE, rows_body(ORDERS, [(ABSENT, ABSENT, ABSENT)])))
    assert fault(log, error=SchemaUnknown).code == "binlog.image"


def test_of_a_text_mysql_leaves_out_only_a_null() -> None:
    log = Log()
    log.transaction(ORDERS_MAP, write(ORDERS, (1, ABSENT, 5)))
    assert decoded(log) == {"orders": [("c", 0, 0, 1, None, 5)]}
    not_null = table_map(ORDERS, "orders", [(INT, 0, False), (TEXT, 2, False), (INT, 0, True)])
    log = Log()
    log.transaction(not_null, write(ORDERS, (1, ABSENT, 5)))
    assert fault(log, error=SchemaUnknown).values["column"] == "note"


def test_mariadb_leaves_out_values_that_changed() -> None:
    replaced = MARIADB_UPDATE, rows_body(ORDERS, [(1, ABSENT, ABSENT)], [(1, ABSENT, 5)], extra=False)
    assert fault(mariadb_log(ORDERS_MAP, replaced), decoder(mariadb=True), SchemaUnknown).code == "binlog.image"
    inserted = MARIADB_WRITE, rows_body(ORDERS, [(1, ABSENT, 5)], extra=False)
    assert fault(mariadb_log(ORDERS_MAP, inserted), decoder(mariadb=True), SchemaUnknown).code == "binlog.image"


def test_mariadb_leaves_out_virtual_columns_that_changed() -> None:
    # binlog_row_image=FULL_NODUP: all before, what changed after.
    log = mariadb_log(ORDERS_MAP, (MARIADB_UPDATE, rows_body(ORDERS, [(1, "x", 1)], [(ABSENT, ABSENT, 5)], extra=False)))
    assert fault(log, decoder(mariadb=True), SchemaUnknown).code == "binlog.image"
    for virtual, expected in ((frozenset[int](), [("u", 0, 0, 1, "x", 5)]), (frozenset((1,)), None)):
        told = resolved("orders", {"id": INT_TYPE, "note": TEXT_TYPE, "total": INT_TYPE}, ("id",), virtual=virtual)
        made = Decoder(lambda _, told=told: told, nothing, mariadb=True, file="binlog.000003", offset=4)
        if expected:
            assert decoded(log, made) == {"orders": expected}
        else:
            assert fault(log, made, SchemaUnknown).values["column"] == "note"


def test_hidden_columns_are_walked_over() -> None:
    fields = tuple(make_field(name, kind, None) for name, kind in (("id", INT_TYPE), ("total", INT_TYPE)))
    hidden = Resolved(TableSchema("src", "orders", tuple(f.columns[0] for f in fields), ("id",)), (fields[0], None, fields[1]))
    log = Log()
    log.transaction(
        ORDERS_MAP, write(ORDERS, (1, "x", 5)), update(ORDERS, ((1, "x", 5), (2, "y", 6))), update(ORDERS, ((2, "y", 6), (2, "z", 6)))
    )
    made = Decoder(lambda _: hidden, nothing, mariadb=False, file="binlog.000003", offset=4)
    assert decoded(log, made) == {"orders": [("c", 0, 0, 1, 5), ("d", 0, 1, 1, 5), ("u", 0, 2, 2, 6), ("u", 0, 3, 2, 6)]}


def test_a_value_kept_in_two_columns() -> None:
    unfit = make_field("note", MyType("text", charset="ascii"), "null")
    fields = (make_field("id", INT_TYPE, None), unfit, make_field("total", INT_TYPE, None))
    both = Resolved(TableSchema("src", "orders", tuple(c for f in fields for c in f.columns), ("id",)), fields)
    log = Log()
    log.transaction(ORDERS_MAP, write(ORDERS, (1, b"\xff", 5)), update(ORDERS, ((1, ABSENT, ABSENT), (ABSENT, ABSENT, 6))))
    made = Decoder(lambda _: both, nothing, mariadb=False, file="binlog.000003", offset=4)
    assert made.feed(log) == len(log)
    _, (changes,) = made.take()
    assert changes.rows.column_names == ["#op", "#txn", "#ordinal", "id", "note", "note#unfit", "total", "#absent"]
    assert changes.rows["note#unfit"].to_pylist()[1] is None
    assert changes.rows["#absent"].to_pylist() == [None, [1, 2]]


def test_columns_must_be_those_resolved() -> None:
    log = Log()
    log.transaction(table_map(ORDERS, "orders", [(INT, 0, False)]), write(ORDERS, (1,)))
    assert fault(log, error=SchemaUnknown).code == "binlog.columns"


def test_compressed_values_of_mariadb() -> None:
    packed = zlib.compressobj(wbits=-15)
    content = packed.compress(b"yab" * 200) + packed.flush()
    values = [b"\x8a\x02\x58" + content, b"\0short", b"", None, b"\x82\x02\x58" + zlib.compress(b"yab" * 200)]
    described = table_map(ORDERS, "orders", [(INT, 0, False), (140, 2, True), (INT, 0, True)])
    log = mariadb_log(described, (MARIADB_WRITE, rows_body(ORDERS, [(at, one, at) for at, one in enumerate(values)], extra=False)))
    notes = [row[4] for row in decoded(log, decoder(mariadb=True))["orders"]]
    assert notes == ["yab" * 200, "short", "", None, "yab" * 200]
    log = mariadb_log(described, (MARIADB_WRITE, rows_body(ORDERS, [(1, b"\x8a\x02\x59" + content, 1)], extra=False)))
    assert fault(log, decoder(mariadb=True)).code == "binlog.malformed"


def test_values_beyond_the_offsets_of_arrow_are_refused() -> None:
    with pytest.raises(Malformed, match="too large"):
        values_of([bytes(1 << 20)] * 2048)


def test_rows_without_columns_are_refused() -> None:
    module = kernel("mysql").module
    nothing_carried = module.Image([], [])
    with pytest.raises(ValueError, match="no columns"):
        module.Gathered(1, [0], True).add(ord("c"), b"xy", 0, 2, nothing_carried, nothing_carried)


def test_compressed_events_of_mariadb() -> None:
    told: list[Statement] = []
    text = "CREATE TABLE other (id INT)"
    log = mariadb_log(
        ORDERS_MAP,
        (MARIADB_WRITE_COMPRESSED, compressed(rows_body(ORDERS, [(1, "x" * 300, 1)], extra=False), 10)),
        (QUERY_COMPRESSED, compressed(query(text), len(query("")))),
    )
    made = decoder(telling(told), mariadb=True)
    assert decoded(log, made) == {"orders": [("c", 0, 0, 1, "x" * 300, 1)]}
    assert told == [Statement(text, "shop")]


def test_partial_updates_of_json() -> None:
    one, two = b"\x00\x01\x00\x0c\x00\x0b\x00\x01\x00\x05\x01\x00a", b"\x05\x07\x00"  # {"a": 1} and 7
    diff = b"\x00\x03$.a\x03\x05\x02\x00"  # replace $.a by 2
    before = (1, one, two)
    head = DOCUMENTS.to_bytes(6, "little") + b"\1\0\2\0\3" + carried(before) * 2
    after = b"\1\1" + image((1, diff, two))
    whole = b"\0" + image((1, two, one))
    log = Log()
    log.transaction(DOCUMENTS_MAP, (PARTIAL_UPDATE, head + image(before) + after + image(before) + whole))
    assert decoded(log) == {"documents": [("u", 0, 0, 1, '{"a": 2}', "7"), ("u", 0, 1, 1, "7", '{"a": 1}')]}
    minimal = DOCUMENTS.to_bytes(6, "little") + b"\1\0\2\0\3" + carried((1, ABSENT, ABSENT)) + carried((ABSENT, diff, ABSENT))
    log = Log()
    log.transaction(DOCUMENTS_MAP, (PARTIAL_UPDATE, minimal + image((1,)) + b"\1\1" + image((diff,))))
    assert fault(log, error=SchemaUnknown).code == "binlog.partial"
    log = Log()
    log.transaction(DOCUMENTS_MAP, (PARTIAL_UPDATE, head + image(before) + b"\1\1" + image((1, b"\x09", two))))
    assert fault(log).code == "binlog.malformed"


def test_the_dummy_event_that_ends_a_statement() -> None:
    log = Log()
    log.transaction(ORDERS_MAP, write(ORDERS, (1, "x", 1)), (WRITE, b"\xff\xff\xff\0\0\0\1\0\2\0\1\xff"))
    assert decoded(log) == {"orders": [("c", 0, 0, 1, "x", 1)]}


def described(columns: Sequence[Column], optional: bytes, mariadb: bool = False) -> TableMap:
    _, body = table_map(7, "t", columns, optional)
    return read_table_map(Reader(body), mariadb)


def optional(kind: int, content: bytes) -> bytes:
    return bytes([kind, len(content)]) + content


def test_a_table_map_with_all_metadata() -> None:
    columns: list[Column] = [
        (8, 0, False),  # bigint
        (15, 300, True),  # varchar
        (254, 0x01F7, True),  # enum, its real type in the metadata
        (254, 0x18EE, True),  # char of 280 bytes
        (246, 0x030A, True),  # decimal(10,3)
        (242, 4, True),  # vector
        (255, 4, True),  # geometry
        (254, 0x02F8, True),  # set
    ]
    told = (
        optional(1, b"\x80")
        + optional(2, b"\x2d\1\x3f")
        + optional(4, b"".join(bytes([1]) + bytes([97 + at]) for at in range(8)))
        + optional(6, b"\2\1x\0")
        + optional(5, b"\1\2yz")
        + optional(7, b"\1")
        + optional(8, b"\0")
        + optional(11, b"\x1c\x08")
        + optional(12, b"\xbf")
        + optional(13, b"\3")
        + optional(99, b"from the future")
    )
    assert described(columns, told) == TableMap(
        7,
        "shop",
        "t",
        (
            WireColumn(8, 0, False, "a", unsigned=True, visible=True),
            WireColumn(15, 300, True, "b", collation=45, visible=False),
            WireColumn(247, 1, True, "c", collation=28, members=(b"x", b""), visible=True),
            WireColumn(254, 280, True, "d", collation=63, visible=True),
            WireColumn(246, 0x0A03, True, "e", unsigned=False, visible=True),
            WireColumn(242, 4, True, "f", collation=45, visible=True, dimensions=3),
            WireColumn(255, 4, True, "g", visible=True, geometry=1),
            WireColumn(248, 2, True, "h", collation=8, members=(b"yz",), visible=True),
        ),
        (0,),
    )


def test_keys_told_and_not() -> None:
    columns: list[Column] = [(INT, 0, False), (TEXT, 2, False)]
    names = optional(4, b"\1a\1b")
    assert described(columns, b"").key is None
    assert described(columns, names).key == ()
    assert described(columns, names + optional(8, b"\1\0")).key == (1, 0)
    assert described(columns, names + optional(9, b"\1\x0a\0\0")).key == (1, 0)
    with pytest.raises(Malformed):
        described(columns, names + optional(8, b"\2"))


def test_mariadb_tells_a_character_set_of_geometries() -> None:
    columns: list[Column] = [(255, 4, True), (TEXT, 2, True)]
    assert described(columns, optional(3, b"\x1c")).columns[1].collation == 28
    assert [column.collation for column in described(columns, optional(3, b"\x3f\x1c"), mariadb=True).columns] == [63, 28]


def test_metadata_must_be_of_the_columns() -> None:
    columns: list[Column] = [(INT, 0, False), (TEXT, 2, True)]
    for told in (
        optional(1, b""),
        optional(1, b"\0\0"),
        optional(2, b""),
        optional(2, b"\x2d\1\x3f"),
        optional(2, b"\x2d\0"),
        optional(3, b"\x2d\x2d"),
        optional(4, b"\1a"),
        optional(4, b"\1a\1b\1c"),
        optional(4, b"\2\xff\xff\1b"),
        optional(6, b"\1\1a"),
        optional(12, b""),
        b"\1",
        b"\1\x05\0",
    ):
        with pytest.raises((Malformed, UnicodeDecodeError)):
            described(columns, told)
    _, body = ORDERS_MAP
    for size in range(len(body)):
        with pytest.raises(Malformed):
            read_table_map(Reader(body, 0, size), False)
