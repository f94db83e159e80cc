"""Binlog events, built by hand, through the decoder."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from cdc.decode.mysql import pending
from cdc.decode.mysql.binlog import Decoder, Effect, NewSchema, Resolved, Truncate
from cdc.decode.mysql.events import Gtid, Header, Malformed, Reader, read_gtid, read_heartbeat, read_query, read_savepoint, read_xa
from cdc.decode.mysql.fields import make_field
from cdc.decode.mysql.gtid import parse_gtids
from cdc.decode.mysql.table_map import read_table_map
from cdc.decode.mysql.types import MyType
from cdc.decode.mysql.wire import Place, Statement, TableMap, WireColumn
from cdc.errors import SchemaUnknown, SourceError
from cdc.types import TRANSACTIONS, TableChanges, TableSchema

QUERY, ROTATE, XID, STOP, INTVAR, DESCRIPTION, TABLE_MAP = 2, 4, 16, 3, 5, 15, 19
WRITE, UPDATE, DELETE, PARTIAL_UPDATE = 30, 31, 32, 39
GTID, ANONYMOUS, XA_PREPARE, PAYLOAD, INCIDENT, HEARTBEAT, HEARTBEAT_V2 = 33, 34, 38, 40, 26, 27, 41
MARIADB_GTID, MARIADB_WRITE, MARIADB_UPDATE, MARIADB_WRITE_COMPRESSED, QUERY_COMPRESSED, ENCRYPTION, FRAGMENT = (
    162,
    23,
    24,
    166,
    165,
    164,
    172,
)
ARTIFICIAL, IGNORABLE = 0x20, 0x80
UUID = "00112233-4455-6677-8899-aabbccddeeff"
STARTED_AT, COMMITTED_AT = 1_700_000_000, 1_700_000_123
ORDERS, LINES, LOG, DOCUMENTS = 100, 200, 300, 400
INT, TEXT, JSON = 3, 252, 245
ABSENT = object()

Row = Sequence[object]


def raw(kind: int, body: bytes, end: int, *, flags: int = 0, at: int = COMMITTED_AT, server: int = 1, checksum: bool = True) -> bytes:
    size = 19 + len(body) + 4 * checksum
    event = struct.pack("<IBIIIH", at, kind, server, size, end & 0xFFFFFFFF, flags) + body
    return event + struct.pack("<I", zlib.crc32(event)) * checksum


class Log(list[bytes]):
    """The events of a file, each at its place."""

    def __init__(self, offset: int = 4, file: str = "binlog.000003", checksum: bool = True, started: bool = False) -> None:
        self.offset, self.checksum, self.file = offset, checksum, file
        self.append(raw(ROTATE, struct.pack("<Q", offset) + file.encode(), 0, flags=ARTIFICIAL, at=0))
        self.describe(started)

    def describe(self, started: bool = False) -> None:
        body = struct.pack("<H50sIB", 4, b"9.7.4", STARTED_AT if started else 0, 19) + bytes(50) + bytes([self.checksum])
        event = raw(DESCRIPTION, body, 0, at=STARTED_AT)
        if self.offset == 4:
            self.offset += len(event)
            event = raw(DESCRIPTION, body, self.offset, at=STARTED_AT)
        self.append(event)

    def add(self, kind: int, body: bytes, *, told: bool = True, **options: Any) -> int:
        """Appends an event; returns where it starts. `told`: its header says where it ends."""
        start = self.offset
        self.offset += 19 + len(body) + 4 * self.checksum
        self.append(raw(kind, body, self.offset if told else 0, checksum=self.checksum, **options))
        return start

    def begin(self, number: int = 17, committed_us: int = COMMITTED_AT * 1_000_000) -> int:
        start = self.add(GTID, gtid(number, committed_us))
        self.add(QUERY, query("BEGIN"))
        return start

    def transaction(self, *events: tuple[int, bytes], number: int = 17) -> int:
        start = self.begin(number)
        self.extend_by(*events)
        self.add(XID, bytes(8))
        return start

    def extend_by(self, *events: tuple[int, bytes]) -> None:
        for kind, body in events:
            self.add(kind, body)


def gtid(number: int = 17, committed_us: int = COMMITTED_AT * 1_000_000) -> bytes:
    ids = bytes.fromhex(UUID.replace("-", ""))
    return b"\1" + ids + struct.pack("<QBQQ", number, 2, number - 1, number) + committed_us.to_bytes(7, "little") + b"\xc6Pb\1\0"


def mariadb_gtid(number: int, flags: int = 0, tail: bytes = bytes(6), domain: int = 0) -> bytes:
    return struct.pack("<QIB", number, domain, flags) + tail


def query(text: str | bytes, database: str = "shop", variables: bytes = b"", error: int = 0) -> bytes:
    sql = text.encode() if isinstance(text, str) else text
    head = struct.pack("<IIBHH", 7, 0, len(database.encode()), error, len(variables))
    return head + variables + database.encode() + b"\0" + sql


Column = tuple[int, int, bool]  # code, metadata as the event has them, nullable
_METAS = {TEXT: 1, JSON: 1, 15: 2, 254: 2, 246: 2, 140: 1, 141: 2, 242: 1, 255: 1, 18: 1}


def table_map(number: int, name: str, columns: Sequence[Column], optional: bytes = b"", database: str = "shop") -> tuple[int, bytes]:
    metas = b"".join(meta.to_bytes(_METAS[code], "little") for code, meta, _ in columns if code in _METAS)
    body = number.to_bytes(6, "little") + b"\1\0" + bytes([len(database)]) + database.encode() + b"\0"
    body += bytes([len(name)]) + name.encode() + b"\0" + bytes([len(columns)]) + bytes(code for code, _, _ in columns)
    return TABLE_MAP, body + bytes([len(metas)]) + metas + bitmap([nullable for _, _, nullable in columns]) + optional


def bitmap(bits: Sequence[bool]) -> bytes:
    return sum(bit << at for at, bit in enumerate(bits)).to_bytes((len(bits) + 7) // 8, "little")


def value(one: object) -> bytes:
    if isinstance(one, int):
        return one.to_bytes(4, "little")
    content = one if isinstance(one, bytes) else str(one).encode()
    return len(content).to_bytes(2, "little") + content


def image(row: Row) -> bytes:
    there = [one for one in row if one is not ABSENT]
    return bitmap([one is None for one in there]) + b"".join(value(one) for one in there if one is not None)


def carried(row: Row) -> bytes:
    return bitmap([one is not ABSENT for one in row])


def rows_body(number: int, *images: Sequence[Row], extra: bool = True) -> bytes:
    """`images`: of a write or delete the rows, of an update the rows before and the rows after."""
    head = number.to_bytes(6, "little") + b"\1\0" + (b"\2\0" if extra else b"") + bytes([len(images[0][0])])
    return head + b"".join(carried(rows[0]) for rows in images) + b"".join(image(row) for turn in zip(*images, strict=True) for row in turn)


def write(number: int, *rows: Row) -> tuple[int, bytes]:
    return WRITE, rows_body(number, rows)


def delete(number: int, *rows: Row) -> tuple[int, bytes]:
    return DELETE, rows_body(number, rows)


def update(number: int, *pairs: tuple[Row, Row]) -> tuple[int, bytes]:
    return UPDATE, rows_body(number, [before for before, _ in pairs], [after for _, after in pairs])


ORDER_COLUMNS: list[Column] = [(INT, 0, False), (TEXT, 2, True), (INT, 0, True)]
ORDERS_MAP = table_map(ORDERS, "orders", ORDER_COLUMNS)
LINES_MAP = table_map(LINES, "lines", [(INT, 0, False), (INT, 0, False)])
LOG_MAP = table_map(LOG, "log", [(TEXT, 2, True), (INT, 0, True)])
DOCUMENTS_MAP = table_map(DOCUMENTS, "documents", [(INT, 0, False), (JSON, 2, True), (JSON, 2, True)])

_INT, _TEXT, _JSON = MyType("int"), MyType("text", charset="utf8mb4"), MyType("json")


def resolved(table: str, columns: dict[str, MyType], key: tuple[str, ...], **more: Any) -> Resolved:
    fields = tuple(make_field(name, kind, None) for name, kind in columns.items())
    return Resolved(TableSchema("src", table, tuple(column for field in fields for column in field.columns), key), fields, **more)


TABLES = {
    "orders": resolved("orders", {"id": _INT, "note": _TEXT, "total": _INT}, ("id",)),
    "lines": resolved("lines", {"id": _INT, "no": _INT}, ("id", "no")),
    "log": resolved("log", {"what": _TEXT, "who": _INT}, ()),
    "documents": resolved("documents", {"id": _INT, "one": _JSON, "two": _JSON}, ("id",)),
}
WIDER = resolved("orders", {"id": _INT, "note": _TEXT, "total": _INT, "more": _INT}, ("id",))


def resolve(table: TableMap) -> Resolved | None:
    if table.table == "orders" and len(table.columns) == 4:
        return WIDER
    return TABLES.get(table.table) if table.database == "shop" else None


def nothing(_: Statement) -> Sequence[Effect]:
    return ()


def refuse(statement: Statement) -> Sequence[Effect]:
    raise AssertionError(statement)


def decoder(
    statement: Callable[[Statement], Sequence[Effect]] = nothing,
    *,
    mariadb: bool = False,
    file: str = "binlog.000003",
    offset: int = 4,
    **options: Any,
) -> Decoder:
    return Decoder(resolve, statement, mariadb=mariadb, file=file, offset=offset, **options)


def rows(changes: TableChanges) -> list[tuple[Any, ...]]:
    """Op, transaction, ordinal and values of each row; of columns beginning with # only these."""
    names = [name for name in changes.rows.column_names if not name.startswith("#")]
    return [tuple(row[name] for name in ("#op", "#txn", "#ordinal", *names)) for row in changes.rows.to_pylist()]


def taken(made: Decoder) -> dict[str, list[tuple[Any, ...]]]:
    return {changes.schema.table: rows(changes) for changes in made.take()[1]}


def decoded(log: Sequence[bytes], made: Decoder | None = None) -> dict[str, list[tuple[Any, ...]]]:
    made = made or decoder()
    assert made.feed(log) == len(log)
    return taken(made)


def fault(log: Sequence[bytes], made: Decoder | None = None, error: type[SourceError] = SourceError) -> SourceError:
    with pytest.raises(error) as caught:
        decoded(log, made)
    return caught.value


# Transactions and places.


def test_a_transaction() -> None:
    log, made = Log(), decoder(refuse)
    start = log.transaction(ORDERS_MAP, write(ORDERS, (1, "客户", 5), (2, None, None)), write(ORDERS, (3, "", 7)))
    assert made.feed(log) == len(log)
    transactions, (changes,) = made.take()
    assert transactions.schema == TRANSACTIONS
    committed_at = datetime.fromtimestamp(COMMITTED_AT, UTC)
    assert transactions.to_pylist() == [{"position": f"binlog.000003:{start}", "txn": f"{UUID}:17", "committed_at": committed_at}]
    assert rows(changes) == [("c", 0, 0, 1, "客户", 5), ("c", 0, 1, 2, None, None), ("c", 0, 2, 3, "", 7)]
    assert changes.schema == TABLES["orders"].schema
    assert (made.position, made.file, made.born) == (Place(3, log.offset), "binlog.000003", STARTED_AT)
    assert (made.gtids, made.in_transaction, made.pending_rows, made.pending_bytes) == (parse_gtids(f"{UUID}:17"), False, 0, 0)


def test_transactions_without_captured_changes_are_passed() -> None:
    log, made = Log(), decoder()
    log.transaction(table_map(9, "other", ORDER_COLUMNS), write(9, (1, "x", 1)), number=1)
    log.transaction(table_map(8, "orders", ORDER_COLUMNS, database="elsewhere"), write(8, (1, "x", 1)), number=2)
    start = log.transaction(ORDERS_MAP, write(ORDERS, (1, "x", 1)), number=3)
    assert made.feed(log) == len(log)
    transactions, (changes,) = made.take()
    assert transactions["position"].to_pylist() == [f"binlog.000003:{start}"]
    assert rows(changes) == [("c", 0, 0, 1, "x", 1)]
    assert made.gtids == parse_gtids(f"{UUID}:1-3")


def test_ordinals_count_over_all_tables() -> None:
    log = Log()
    log.transaction(ORDERS_MAP, LINES_MAP, write(ORDERS, (1, "x", 1)), write(LINES, (1, 1), (1, 2)), write(ORDERS, (2, "y", 1)))
    log.transaction(LINES_MAP, delete(LINES, (1, 1)), number=18)
    assert decoded(log) == {
        "orders": [("c", 0, 0, 1, "x", 1), ("c", 0, 3, 2, "y", 1)],
        "lines": [("c", 0, 1, 1, 1), ("c", 0, 2, 1, 2), ("d", 1, 0, 1, 1)],
    }


def test_servers_without_gtids() -> None:
    log, told = Log(), []
    made = decoder(lambda statement: told.append(statement) or ())  # type: ignore[func-returns-value]
    start = log.add(QUERY, query("BEGIN"), at=1_700_000_500)
    log.extend_by(ORDERS_MAP, write(ORDERS, (1, "x", 1)))
    log.add(QUERY, query("COMMIT"))
    log.add(INTVAR, bytes(9))
    log.add(QUERY, query("CREATE TABLE other (id INT)", error=5))
    assert made.feed(log) == len(log)
    transactions, _ = made.take()
    committed_at = datetime.fromtimestamp(1_700_000_500, UTC)
    assert transactions.to_pylist() == [{"position": f"binlog.000003:{start}", "txn": None, "committed_at": committed_at}]
    assert told == [Statement("CREATE TABLE other (id INT)", "shop", 0, 5)]
    assert (made.position, made.gtids, made.in_transaction) == (Place(3, log.offset), None, False)


def test_anonymous_gtids_tell_the_time_only() -> None:
    log, made = Log(), decoder()
    log.add(ANONYMOUS, gtid(1, 1_700_000_999_000_001))
    log.add(QUERY, query("BEGIN"))
    log.extend_by(ORDERS_MAP, write(ORDERS, (1, "x", 1)), (XID, bytes(8)))
    assert made.feed(log) == len(log)
    transactions, _ = made.take()
    assert transactions["txn"].to_pylist() == [None]
    assert transactions["committed_at"].cast(pa.int64()).to_pylist() == [1_700_000_999_000_001]
    assert made.gtids is None


def test_a_tagged_gtid() -> None:
    # As MySQL 9.7 wrote it.
    body = (
        b'\x02x\x00\x00\x00\x02\xad\x03j]\x02\xcd\x03\x99\x03i\x02"\xc5\x039\x02\xdc\x04\xf1\x03\x00\x00\x00\x02\x04\x04\x06\x0cmy_tag'
        b"\x08P\nT\x0c\x7f\xed\xc6\xb9\x1a\xe1`\x06\x10=\x04\x12\x83\x12\x0b"
    )
    read = read_gtid(Reader(body, 0, len(body)), Header(0, 42, 1, 0, 0, 0))
    assert read == Gtid("eb3597f3-e69a-11f1-8e6e-02fc00000001:my_tag:1", 1795369792554733)
    for size in range(len(body) - 7):
        with pytest.raises(Malformed):
            read_gtid(Reader(body, 0, size), Header(0, 42, 1, 0, 0, 0))


def test_gtids_of_old_servers_have_no_time() -> None:
    for body in (gtid()[:25], gtid()[:42]):
        assert read_gtid(Reader(body, 0, len(body)), Header(0, GTID, 1, 0, 0, 0)) == Gtid(f"{UUID}:17")


def test_mariadb_transactions() -> None:
    log, told = Log(), []
    made = decoder(lambda statement: told.append(statement.text) or (), mariadb=True)  # type: ignore[func-returns-value]
    first = log.add(MARIADB_GTID, mariadb_gtid(5, 0x0C), server=7, at=1_700_000_500)
    log.add(*ORDERS_MAP, told=False)
    log.add(MARIADB_WRITE, rows_body(ORDERS, [(1, "x", 1)], extra=False), told=False)
    log.add(XID, bytes(8))
    log.add(MARIADB_GTID, mariadb_gtid(6, 0x29), server=7)
    log.add(QUERY, query("CREATE TABLE other (id INT)"))
    second = log.add(MARIADB_GTID, mariadb_gtid(1, 0x0E, bytes(8), domain=3), server=8)
    log.add(*ORDERS_MAP, told=False)
    log.add(MARIADB_WRITE, rows_body(ORDERS, [(2, "y", 1)], extra=False), told=False)
    log.add(QUERY, query("COMMIT"))
    assert made.feed(log) == len(log)
    transactions, (changes,) = made.take()
    assert transactions["position"].to_pylist() == [f"binlog.000003:{first}", f"binlog.000003:{second}"]
    assert transactions["txn"].to_pylist() == ["0-7-5", "3-8-1"]
    assert transactions["committed_at"].to_pylist()[0] == datetime.fromtimestamp(1_700_000_500, UTC)
    assert rows(changes) == [("c", 0, 0, 1, "x", 1), ("c", 1, 0, 2, "y", 1)]
    assert (str(made.gtids), told, made.position) == ("0-7-6,3-8-1", ["CREATE TABLE other (id INT)"], Place(3, log.offset))


def test_the_first_half_of_a_two_phase_alter_has_no_effect() -> None:
    log, told = Log(), []
    for number, extra in ((1, b"\2"), (2, b"\4" + bytes(8)), (3, b"\2"), (4, b"\10" + bytes(8))):
        log.add(MARIADB_GTID, mariadb_gtid(number, 0x29, extra + bytes(6)))
        log.add(QUERY, query(f"ALTER {number}"))
    decoded(log, decoder(lambda statement: told.append(statement.text) or (), mariadb=True))  # type: ignore[func-returns-value]
    assert told == ["ALTER 2"]


def test_offsets_go_beyond_what_headers_hold() -> None:
    log = Log(offset=(1 << 32) - 100)
    made = decoder(offset=log.offset)
    places = [log.transaction(ORDERS_MAP, write(ORDERS, (number, "x" * 60, 1)), number=number) for number in range(1, 5)]
    assert made.feed(log) == len(log)
    transactions, _ = made.take()
    assert transactions["position"].to_pylist() == [f"binlog.000003:{place}" for place in places]
    assert places[0] < 1 << 32 < places[1]
    assert made.position == Place(3, log.offset)


def test_a_heartbeat_tells_how_far_offsets_are_and_moves_nothing() -> None:
    log, made = Log(), decoder()
    log.transaction(ORDERS_MAP, write(ORDERS, (1, "x", 1)))
    before = Place(3, log.offset)
    far = (3 << 32) + 5000
    name = b"binlog.000003"
    body = b"\1" + bytes([len(name)]) + name + b"\2\x09\xfe" + far.to_bytes(8, "little") + b"\0"
    log.append(raw(HEARTBEAT_V2, body, 0, flags=ARTIFICIAL))
    log.append(raw(HEARTBEAT, name, 200, flags=ARTIFICIAL))
    log.append(raw(HEARTBEAT, name, 4_000_000_000))
    assert made.feed(log) == len(log)
    assert made.position == before
    rest = Log(offset=far)
    start = rest.transaction(ORDERS_MAP, write(ORDERS, (2, "x", 1)), number=18)
    assert made.feed(rest[2:]) == len(rest) - 2
    assert made.take()[0]["position"].to_pylist()[1:] == [f"binlog.000003:{start}"]
    assert made.position == Place(3, rest.offset)


def test_heartbeats_of_mariadb_beyond_32_bits() -> None:
    body = (5 << 32).to_bytes(8, "little") + b"binlog.000003"
    assert read_heartbeat(Reader(body, 0, len(body)), Header(0, HEARTBEAT, 1, 0, 0, 0)) == ("binlog.000003", 5 << 32)


def test_rotation() -> None:
    log, made = Log(), decoder()
    log.transaction(ORDERS_MAP, write(ORDERS, (1, "x", 1)))
    log.add(ROTATE, struct.pack("<Q", 4) + b"binlog.000004")
    assert made.feed(log) == len(log)
    assert (made.position, made.file, made.born) == (Place(4, 4), "binlog.000004", None)
    following = Log(file="binlog.000004")
    start = following.transaction(ORDERS_MAP, write(ORDERS, (2, "x", 1)), number=18)
    following.add(STOP, b"")
    assert made.feed(following) == len(following)
    assert made.take()[0]["position"].to_pylist()[1:] == [f"binlog.000004:{start}"]
    assert (made.position, made.file, made.born) == (Place(4, following.offset), "binlog.000004", STARTED_AT)


def test_a_session_begins_where_the_server_says() -> None:
    log = Log(offset=5000, file="mysql-bin.000012")
    made = decoder(file="", offset=0)
    start = log.transaction(ORDERS_MAP, write(ORDERS, (1, "x", 1)))
    assert made.feed(log) == len(log)
    assert made.take()[0]["position"].to_pylist() == [f"mysql-bin.000012:{start}"]
    assert made.position == Place(12, log.offset)


def test_what_a_server_that_went_down_had_not_finished() -> None:
    log, made = Log(), decoder()
    log.transaction(ORDERS_MAP, write(ORDERS, (1, "x", 1)))
    log.begin(18)
    log.extend_by(ORDERS_MAP, write(ORDERS, (2, "x", 1)))
    log += Log(file="binlog.000004", started=True)
    assert decoded(log, made) == {"orders": [("c", 0, 0, 1, "x", 1)]}
    assert (made.in_transaction, made.gtids) == (False, parse_gtids(f"{UUID}:17"))


def test_table_maps_are_forgotten_when_a_server_started() -> None:
    asked: list[int] = []
    made = Decoder(lambda table: asked.append(table.table_id) or resolve(table), nothing, mariadb=False, file="", offset=0)  # type: ignore[func-returns-value]
    log = Log()
    for number in (1, 2):
        log.transaction(ORDERS_MAP, write(ORDERS, (number, "x", 1)), number=number)
    log += Log(file="binlog.000004")
    log.append(raw(STOP, b"", 0, flags=ARTIFICIAL))
    assert made.feed(log) == len(log)
    assert asked == [ORDERS]
    log = Log(file="binlog.000005", started=True)
    log.transaction(ORDERS_MAP, write(ORDERS, (3, "x", 1)), number=3)
    assert made.feed(log) == len(log)
    assert asked == [ORDERS, ORDERS]


def test_without_checksums() -> None:
    log = Log(checksum=False)
    log.transaction(ORDERS_MAP, write(ORDERS, (1, "x", 1)))
    assert decoded(log) == {"orders": [("c", 0, 0, 1, "x", 1)]}


# Feeding and taking.


def test_feed_stops_before_a_place() -> None:
    log, made = Log(), decoder()
    log.transaction(ORDERS_MAP, write(ORDERS, (1, "x", 1)))
    end = Place(3, log.offset)
    first = len(log)
    second = log.transaction(ORDERS_MAP, write(ORDERS, (2, "x", 1)), number=18)
    assert made.feed(log, 0, Place(3, second)) == first
    assert (made.position, made.in_transaction) == (end, False)
    assert taken(made) == {"orders": [("c", 0, 0, 1, "x", 1)]}
    assert made.feed(log, first, Place(3, second)) == first
    assert made.feed(log, first, Place(3, second + 1)) == len(log)
    assert taken(made) == {"orders": [("c", 0, 0, 2, "x", 1)]}


def test_feed_stops_after_a_transaction_once_there_is_enough() -> None:
    log, made = Log(), decoder()
    log.transaction(ORDERS_MAP, write(ORDERS, (1, "x", 1)))
    first = len(log)
    log.transaction(ORDERS_MAP, write(ORDERS, (2, "x", 1)), number=18)
    assert made.feed(log, 0, None, 10) == first
    assert made.pending_rows == 1
    assert 10 <= made.pending_bytes < 20


def test_a_large_transaction_comes_in_parts() -> None:
    log, made = Log(), decoder()
    start = log.begin()
    log.extend_by(ORDERS_MAP, *(write(ORDERS, (number, "x", 1)) for number in range(6)))
    log.add(XID, bytes(8))
    at, parts = 0, []
    while at < len(log):
        at = made.feed(log, at, None, 12)
        transactions, changes = made.take()
        assert transactions["position"].to_pylist() == [f"binlog.000003:{start}"] * bool(changes)
        parts += [rows(change) for change in changes]
    assert parts == [[("c", 0, number, number, "x", 1), ("c", 0, number + 1, number + 1, "x", 1)] for number in range(0, 6, 2)]
    assert made.position == Place(3, log.offset)


def test_take_within_a_transaction_goes_on_counting() -> None:
    log, made = Log(), decoder()
    log.transaction(ORDERS_MAP, write(ORDERS, (1, "x", 1)), write(ORDERS, (2, "x", 1)))
    assert made.feed(log[:-2]) == len(log) - 2
    assert made.in_transaction
    first, _ = made.take()
    assert made.take()[0].num_rows == 0
    assert made.feed(log[-2:]) == 2
    second, (changes,) = made.take()
    assert first == second
    assert rows(changes) == [("c", 0, 1, 2, "x", 1)]


@pytest.mark.parametrize("packed_at", [0, 1 << 20])
def test_rows_are_packed_now_and_then(packed_at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending, "PACKED_AT", packed_at)
    monkeypatch.setattr(pending.Captured.pack, "__defaults__", (packed_at,))
    log = Log()
    log.transaction(ORDERS_MAP, write(ORDERS, (1, "x", 1)), update(ORDERS, ((1, "x", 1), (2, "y", None))), write(ORDERS, (3, "z", 1)))
    log.begin(18)
    log.add(*ORDERS_MAP)
    log.add(*write(ORDERS, (4, "x", 1), (5, "x", 1)))
    log.add(QUERY, query("SAVEPOINT `a`"))
    log.add(*update(ORDERS, ((4, "x", 1), (6, "x", 1))))
    log.add(QUERY, query("ROLLBACK TO `a`"))
    log.add(XID, bytes(8))
    made = decoder()
    assert made.feed(log) == len(log)
    _, (changes,) = made.take()
    kept = [("c", 0, 0, 1, "x", 1), ("d", 0, 1, 1, "x", 1), ("u", 0, 2, 2, "y", None), ("c", 0, 3, 3, "z", 1)]
    assert rows(changes) == [*kept, ("c", 1, 0, 4, "x", 1), ("c", 1, 1, 5, "x", 1)]
    assert changes.rows["#old:id"].to_pylist() == [None, None, 1, None, None, None]


# Changes.


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


def mariadb_log(*events: tuple[int, bytes]) -> Log:
    log = Log()
    log.add(MARIADB_GTID, mariadb_gtid(5, 0x0C))
    log.extend_by(*events)
    log.add(XID, bytes(8))
    return log


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
        told = resolved("orders", {"id": _INT, "note": _TEXT, "total": _INT}, ("id",), virtual=virtual)
        made = Decoder(lambda _, told=told: told, nothing, mariadb=True, file="binlog.000003", offset=4)  # type: ignore[misc]
        if expected:
            assert decoded(log, made) == {"orders": expected}
        else:
            assert fault(log, made, SchemaUnknown).values["column"] == "note"


def test_hidden_columns_are_walked_over() -> None:
    fields = tuple(make_field(name, kind, None) for name, kind in (("id", _INT), ("total", _INT)))
    hidden = Resolved(TableSchema("src", "orders", tuple(f.columns[0] for f in fields), ("id",)), (fields[0], None, fields[1]))
    log = Log()
    log.transaction(
        ORDERS_MAP, write(ORDERS, (1, "x", 5)), update(ORDERS, ((1, "x", 5), (2, "y", 6))), update(ORDERS, ((2, "y", 6), (2, "z", 6)))
    )
    made = Decoder(lambda _: hidden, nothing, mariadb=False, file="binlog.000003", offset=4)
    assert decoded(log, made) == {"orders": [("c", 0, 0, 1, 5), ("d", 0, 1, 1, 5), ("u", 0, 2, 2, 6), ("u", 0, 3, 2, 6)]}


def test_a_value_kept_in_two_columns() -> None:
    unfit = make_field("note", MyType("text", charset="ascii"), "null")
    fields = (make_field("id", _INT, None), unfit, make_field("total", _INT, None))
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


def compressed(body: bytes, kept: int) -> bytes:
    rest = body[kept:]
    return body[:kept] + b"\x82" + len(rest).to_bytes(2, "big") + zlib.compress(rest)


def test_compressed_events_of_mariadb() -> None:
    told: list[Statement] = []
    text = "CREATE TABLE other (id INT)"
    log = mariadb_log(
        ORDERS_MAP,
        (MARIADB_WRITE_COMPRESSED, compressed(rows_body(ORDERS, [(1, "x" * 300, 1)], extra=False), 10)),
        (QUERY_COMPRESSED, compressed(query(text), len(query("")))),
    )
    made = decoder(lambda statement: told.append(statement) or (), mariadb=True)  # type: ignore[func-returns-value]
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


# Statements.


def altered(statement: Statement) -> Sequence[Effect]:
    wider, narrower = NewSchema(WIDER.schema), NewSchema(TABLES["orders"].schema)
    return {
        "ALTER": (wider,),
        "TRUNCATE": (Truncate(TABLES["orders"].schema), Truncate(TABLES["lines"].schema)),
        "SWAP": (NewSchema(TABLES["lines"].schema), wider),
        "BACK": (narrower,),
    }.get(statement.text, ())


def statement(log: Log, text: str, number: int = 50) -> int:
    log.add(GTID, gtid(number))
    return log.add(QUERY, query(text))


def test_a_new_schema_waits_until_rows_of_the_old_one_are_taken() -> None:
    log, made = Log(), decoder(altered)
    log.transaction(ORDERS_MAP, write(ORDERS, (1, "x", 1)))
    statement(log, "ALTER")
    at = len(log) - 1
    wide = table_map(ORDERS + 1, "orders", [*ORDER_COLUMNS, (INT, 0, True)])
    log.transaction(wide, write(ORDERS + 1, (2, "y", 1, 9)), number=51)
    assert made.feed(log) == at
    assert made.feed(log, at) == at
    assert taken(made) == {"orders": [("c", 0, 0, 1, "x", 1)]}
    assert made.feed(log, at) == len(log)
    transactions, (changes,) = made.take()
    assert (changes.schema, rows(changes)) == (WIDER.schema, [("c", 0, 0, 2, "y", 1, 9)])
    assert transactions["txn"].to_pylist() == [f"{UUID}:51"]
    assert made.gtids == parse_gtids(f"{UUID}:17:50-51")


def test_a_new_schema_is_told_of_without_rows() -> None:
    log, made = Log(), decoder(altered)
    statement(log, "BACK")
    statement(log, "ALTER", 51)
    assert made.feed(log) == len(log)
    assert made.pending_rows == 1
    transactions, (changes,) = made.take()
    assert (transactions.num_rows, changes.schema, changes.rows.num_rows) == (0, WIDER.schema, 0)
    assert changes.rows.column_names == ["#op", "#txn", "#ordinal", "id", "note", "total", "more"]


def test_effects_come_in_order_and_once() -> None:
    told: list[str] = []
    made = decoder(lambda one: told.append(one.text) or altered(one))  # type: ignore[func-returns-value]
    log = Log()
    log.transaction(ORDERS_MAP, LINES_MAP, write(ORDERS, (1, "x", 1)), write(LINES, (1, 1)))
    statement(log, "SWAP")
    assert made.feed(log) == len(log) - 1
    assert taken(made).keys() == {"orders", "lines"}
    assert made.feed(log, len(log) - 1) == len(log)
    assert taken(made) == {"orders": []}
    assert told == ["SWAP"]


def test_truncate() -> None:
    log, made = Log(), decoder(altered)
    log.transaction(ORDERS_MAP, write(ORDERS, (1, "x", 1)))
    statement(log, "TRUNCATE")
    log.transaction(ORDERS_MAP, write(ORDERS, (2, "x", 1)), number=51)
    assert decoded(log, made) == {
        "orders": [("c", 0, 0, 1, "x", 1), ("t", 1, 0, None, None, None), ("c", 2, 0, 2, "x", 1)],
        "lines": [("t", 1, 1, None, None)],
    }


def test_a_table_map_with_a_new_schema_waits_too() -> None:
    log, made = Log(), decoder()
    log.transaction(ORDERS_MAP, write(ORDERS, (1, "x", 1)))
    log.transaction(table_map(ORDERS, "orders", [*ORDER_COLUMNS, (INT, 0, True)]), write(ORDERS, (2, "y", 1, 9)), number=18)
    at = made.feed(log)
    assert log[at][4] == WRITE
    assert taken(made) == {"orders": [("c", 0, 0, 1, "x", 1)]}
    assert made.feed(log, at) == len(log)
    assert taken(made) == {"orders": [("c", 0, 0, 2, "y", 1, 9)]}


def test_table_maps_that_differ_without_another_schema_go_together() -> None:
    log = Log()
    log.transaction(ORDERS_MAP, write(ORDERS, (1, "x", 1)))
    other = table_map(ORDERS + 1, "orders", [(INT, 0, False), (TEXT, 2, False), (INT, 0, False)])
    log.transaction(other, write(ORDERS + 1, (2, "y", 1)), number=18)
    assert decoded(log) == {"orders": [("c", 0, 0, 1, "x", 1), ("c", 1, 0, 2, "y", 1)]}


def test_queries_are_in_their_sessions_character_set() -> None:
    variables = b"\0\0\0\0\0\1\4\0\x20\0\0\0\0\0\6\3std\4\x1c\0\x1c\0\xff\0\x0c\1t\0\xee\1\2"
    body = query("ALTER TABLE `订单` COMMENT '\udcff'".encode("gbk", "surrogateescape"), "店", variables, 3)
    read = read_query(Reader(body, 0, len(body)), Header(0, QUERY, 1, 0, 0, 0)).statement
    assert (read.database, read.sql_mode, read.error) == ("店", 0x200004, 3)
    assert read.ansi_quotes
    assert read.strict
    body = query("ALTER TABLE `订单`".encode("gbk"), "店", variables)
    assert read_query(Reader(body, 0, len(body)), Header(0, QUERY, 1, 0, 0, 0)).statement.text == "ALTER TABLE `订单`"
    body = query(b"ALTER TABLE `\xff`")
    assert read_query(Reader(body, 0, len(body)), Header(0, QUERY, 1, 0, 0, 0)).statement.text == "ALTER TABLE `\udcff`"


def test_a_load_is_told_as_a_statement() -> None:
    told: list[str] = []
    log = Log()
    log.begin()
    log.add(17, bytes(30))
    body = query("LOAD DATA INFILE 'x' INTO TABLE orders")
    log.add(18, body[:13] + bytes(13) + body[13:])
    log.add(QUERY, query("COMMIT"))
    decoded(log, decoder(lambda one: told.append(one.text) or ()))  # type: ignore[func-returns-value]
    assert told == ["LOAD DATA INFILE 'x' INTO TABLE orders"]


# Rollbacks.


def test_a_rollback_drops_the_transaction() -> None:
    log, made = Log(), decoder(altered)
    log.transaction(ORDERS_MAP, write(ORDERS, (1, "x", 1)))
    size = made.feed(log) and made.pending_bytes
    more = Log(offset=log.offset)
    more.begin(18)
    more.extend_by(ORDERS_MAP, LINES_MAP, write(ORDERS, (2, "x", 1)), write(LINES, (1, 1)), (QUERY, query("ROLLBACK")))
    more.transaction(ORDERS_MAP, write(ORDERS, (3, "x", 1)), number=19)
    assert made.feed(more) == len(more)
    assert made.pending_bytes == 2 * size
    transactions, (changes,) = made.take()
    assert rows(changes) == [("c", 0, 0, 1, "x", 1), ("c", 1, 0, 3, "x", 1)]
    assert transactions["txn"].to_pylist() == [f"{UUID}:17", f"{UUID}:19"]
    assert made.gtids == parse_gtids(f"{UUID}:17-19")


def test_a_rollback_keeps_a_new_schema_from_before() -> None:
    log, made = Log(), decoder(altered)
    statement(log, "ALTER")
    log.begin(51)
    wide = table_map(ORDERS, "orders", [*ORDER_COLUMNS, (INT, 0, True)])
    log.extend_by(wide, write(ORDERS, (2, "y", 1, 9)), (QUERY, query("ROLLBACK")))
    assert decoded(log, made) == {"orders": []}


def test_savepoints() -> None:
    log = Log()
    log.begin()
    log.extend_by(
        ORDERS_MAP,
        (QUERY, query("SAVEPOINT `start`")),
        write(ORDERS, (1, "x", 1)),
        (QUERY, query('SAVEPOINT "A b"')),
        write(ORDERS, (2, "x", 1)),
        (QUERY, query("SAVEPOINT c")),
        write(ORDERS, (3, "x", 1)),
        (QUERY, query('ROLLBACK TO "a B"')),
        write(ORDERS, (4, "x", 1)),
        (XID, bytes(8)),
    )
    log.begin(18)
    log.extend_by(
        (QUERY, query("SAVEPOINT `s`")), ORDERS_MAP, write(ORDERS, (5, "x", 1)), (QUERY, query("ROLLBACK TO `s`")), (XID, bytes(8))
    )
    made = decoder(refuse)
    assert made.feed(log) == len(log)
    transactions, (changes,) = made.take()
    assert rows(changes) == [("c", 0, 0, 1, "x", 1), ("c", 0, 1, 4, "x", 1)]
    assert transactions.num_rows == 1


def test_what_was_taken_can_not_be_rolled_back() -> None:
    for ending in ("ROLLBACK", "ROLLBACK TO `s`"):
        log, made = Log(), decoder()
        start = log.begin()
        log.extend_by((QUERY, query("SAVEPOINT `s`")), ORDERS_MAP, write(ORDERS, (1, "x", 1)))
        made.feed(log)
        made.take()
        refused = fault([raw(QUERY, query(ending), log.offset + 100)], made)
        assert (refused.code, refused.values["place"]) == ("binlog.rolled_back", f"binlog.000003:{start}")


def test_what_came_after_the_part_that_was_taken_can() -> None:
    log, made = Log(), decoder()
    log.begin()
    log.extend_by(ORDERS_MAP, write(ORDERS, (1, "x", 1)), (QUERY, query("SAVEPOINT `s`")))
    made.feed(log)
    made.take()
    more = Log(offset=log.offset)
    more.extend_by(write(ORDERS, (2, "x", 1)), (QUERY, query("ROLLBACK TO `s`")))
    assert decoded(more[2:], made) == {}
    last = Log(offset=more.offset)
    last.extend_by(write(ORDERS, (3, "x", 1)), (XID, bytes(8)))
    assert decoded(last[2:], made) == {"orders": [("c", 0, 1, 3, "x", 1)]}


def test_an_unknown_savepoint() -> None:
    log = Log()
    log.begin()
    log.add(QUERY, query("ROLLBACK TO `s`"))
    assert fault(log).code == "binlog.malformed"


# XA.


def xa_prepare(gtrid: bytes, one_phase: bool = False, bqual: bytes = b"b", kind: int = 1) -> tuple[int, bytes]:
    return XA_PREPARE, struct.pack("<BIII", one_phase, kind, len(gtrid), len(bqual)) + gtrid + bqual


def xid(gtrid: str, bqual: str = "62", kind: int = 1) -> str:
    return f"X'{gtrid}',X'{bqual}',{kind}"


def prepare(log: Log, gtrid: str, number: int, *events: tuple[int, bytes], one_phase: bool = False) -> int:
    start = log.add(GTID, gtid(number))
    ended = xa_prepare(bytes.fromhex(gtrid), one_phase)
    log.extend_by((QUERY, query(f"XA START {xid(gtrid)}")), *events, (QUERY, query(f"XA END {xid(gtrid)}")), ended)
    return start


def test_xa() -> None:
    log, made = Log(), decoder(refuse)
    first = prepare(log, "6731", 1, ORDERS_MAP, write(ORDERS, (1, "x", 1)), LINES_MAP, write(LINES, (1, 1)))
    prepare(log, "6732", 2, ORDERS_MAP, write(ORDERS, (2, "x", 1)))
    log.transaction(ORDERS_MAP, write(ORDERS, (3, "x", 1)), number=3)
    assert made.feed(log) == len(log)
    assert made.open_xa == ("binlog.000003", first)
    assert (made.pending_rows, made.in_transaction) == (1, False)
    more = Log(offset=log.offset)
    statement(more, f"XA ROLLBACK {xid('6732')}", 4)
    committed = statement(more, f"XA COMMIT {xid('6731')}", 5) - len(gtid()) - 23
    statement(more, f"XA COMMIT {xid('6799')}", 6)
    assert made.feed(more) == len(more)
    transactions, changes = made.take()
    assert {change.schema.table: rows(change) for change in changes} == {
        "orders": [("c", 0, 0, 3, "x", 1), ("c", 1, 0, 1, "x", 1)],
        "lines": [("c", 1, 1, 1, 1)],
    }
    assert transactions.to_pylist()[1]["position"] == f"binlog.000003:{committed}"
    assert transactions["txn"].to_pylist() == [f"{UUID}:3", f"{UUID}:5"]
    assert (made.open_xa, made.gtids) == (None, parse_gtids(f"{UUID}:1-6"))


def test_xa_in_one_phase() -> None:
    log, made = Log(), decoder(refuse)
    start = prepare(log, "6731", 1, ORDERS_MAP, write(ORDERS, (1, "x", 1)), one_phase=True)
    assert made.feed(log) == len(log)
    transactions, (changes,) = made.take()
    assert rows(changes) == [("c", 0, 0, 1, "x", 1)]
    assert (transactions["position"].to_pylist(), made.open_xa) == ([f"binlog.000003:{start}"], None)


def test_xa_of_mariadb() -> None:
    log, made = Log(), decoder(refuse, mariadb=True)
    ids = struct.pack("<IBB", 1, 2, 1) + b"g1b\1\xff"
    first = log.add(MARIADB_GTID, mariadb_gtid(10, 0x4C, ids))
    log.add(*ORDERS_MAP, told=False)
    log.add(MARIADB_WRITE, rows_body(ORDERS, [(1, "x", 1)], extra=False), told=False)
    log.add(QUERY, query(f"XA END {xid('6731')}"), told=False)
    log.add(*xa_prepare(b"g1"))
    assert made.feed(log) == len(log)
    assert (made.open_xa, made.pending_rows) == (("binlog.000003", first), 0)
    more = Log(offset=log.offset)
    more.add(MARIADB_GTID, mariadb_gtid(11, 0x8D, ids))
    more.add(QUERY, query(f"XA COMMIT {xid('6731')}"))
    assert decoded(more, made) == {"orders": [("c", 0, 0, 1, "x", 1)]}
    assert (made.open_xa, str(made.gtids)) == (None, "0-1-11")


def test_xa_of_other_tables_holds_nothing() -> None:
    log, made = Log(), decoder()
    prepare(log, "6731", 1, table_map(9, "other", ORDER_COLUMNS), write(9, (1, "x", 1)))
    assert made.feed(log) == len(log)
    assert made.open_xa is None


def test_a_savepoint_within_xa() -> None:
    log, made = Log(), decoder(refuse)
    save, back = (QUERY, query("SAVEPOINT `s`")), (QUERY, query("ROLLBACK TO `s`"))
    prepare(log, "6731", 1, ORDERS_MAP, write(ORDERS, (1, "x", 1)), save, write(ORDERS, (2, "x", 1)), back, write(ORDERS, (3, "x", 1)))
    statement(log, f"XA COMMIT {xid('6731')}", 2)
    assert decoded(log, made) == {"orders": [("c", 0, 0, 1, "x", 1), ("c", 0, 1, 3, "x", 1)]}


def test_a_large_xa_transaction_comes_in_parts() -> None:
    log, made = Log(), decoder(refuse)
    prepare(log, "6731", 1, ORDERS_MAP, *(write(ORDERS, (number, "x", 1)) for number in range(4)))
    statement(log, f"XA COMMIT {xid('6731')}", 2)
    at, parts = 0, []
    while at < len(log):
        at = made.feed(log, at, None, 12)
        parts += list(taken(made).values())
    assert [[row[2] for row in part] for part in parts] == [[0, 1], [2, 3]]


def test_what_was_applied_already_is_read_again_for_open_xa_transactions() -> None:
    log = Log()
    first = prepare(log, "6731", 1, ORDERS_MAP, write(ORDERS, (1, "x", 1)))
    prepare(log, "6732", 2, ORDERS_MAP, write(ORDERS, (2, "x", 1)))
    prepare(log, "6733", 3, table_map(9, "other", ORDER_COLUMNS), write(9, (9, "x", 1)))
    prepare(log, "6734", 4, ORDERS_MAP, write(ORDERS, (4, "x", 1)), one_phase=True)
    log.transaction(ORDERS_MAP, write(ORDERS, (5, "x", 1)), number=5)
    statement(log, "ALTER", 6)
    statement(log, f"XA COMMIT {xid('6732')}", 7)
    until = Place(3, log.offset)
    gtids = parse_gtids(f"{UUID}:1-7")
    made = decoder(refuse, skip_until=until, gtids=gtids)
    assert made.feed(log) == len(log)
    assert (made.pending_rows, made.gtids) == (0, gtids)
    more = Log(offset=log.offset)
    more.transaction(ORDERS_MAP, write(ORDERS, (6, "x", 1)), number=8)
    assert made.feed(more) == len(more)
    assert made.open_xa == ("binlog.000003", first)
    last = Log(offset=more.offset)
    statement(last, f"XA COMMIT {xid('6731')}", 9)
    statement(last, f"XA COMMIT {xid('6733')}", 10)
    assert decoded(last, made) == {"orders": [("c", 0, 0, 6, "x", 1), ("c", 1, 0, 1, "x", 1)]}
    assert (made.open_xa, made.gtids) == (None, parse_gtids(f"{UUID}:1-10"))


def test_texts_of_xa_and_savepoints() -> None:
    assert read_xa("XA COMMIT X'6731',X'',7") == ("COMMIT", (7, b"g1", b""))
    assert read_xa("XA COMMIT X'',X'FF',4294967295 ONE PHASE") == ("COMMIT", (0xFFFFFFFF, b"", b"\xff"))
    assert read_xa("XA RECOVER") is None
    with pytest.raises(Malformed):
        read_xa("XA START X'673',X'',1")
    assert read_savepoint("ROLLBACK TO SAVEPOINT `a``B`") == (True, "a`b")
    assert read_savepoint("ROLLBACK") is None
    assert read_savepoint("RELEASE SAVEPOINT `a`") is None


# Payloads and fragments.


def payload(*events: tuple[int, bytes], compress: bool = True, whole: int | None = None) -> tuple[int, bytes]:
    inner = b"".join(raw(kind, body, 0, checksum=False) for kind, body in events)
    content = zstandard.ZstdCompressor(write_content_size=False).compress(inner) if compress else inner
    fields = b"\2\1" + (b"\0" if compress else b"\xfc\xff\0")
    fields = b"\2" + (b"\1\0" if compress else b"\3\xfc\xff\0")
    if compress:
        fields += b"\3\3\xfc" + (len(inner) if whole is None else whole).to_bytes(2, "little")
    fields += b"\x63\2\7\7\1\3\xfc" + len(content).to_bytes(2, "little") + b"\0"
    return PAYLOAD, fields + content


@pytest.mark.parametrize("compress", [True, False])
def test_a_payload(compress: bool) -> None:
    log, made = Log(), decoder(refuse)
    start = log.add(GTID, gtid())
    log.add(*payload((QUERY, query("BEGIN")), ORDERS_MAP, write(ORDERS, (1, "x", 1)), (XID, bytes(8)), compress=compress))
    assert made.feed(log) == len(log)
    transactions, (changes,) = made.take()
    assert rows(changes) == [("c", 0, 0, 1, "x", 1)]
    assert transactions["position"].to_pylist() == [f"binlog.000003:{start}"]
    assert (made.position, made.in_transaction) == (Place(3, log.offset), False)


def test_a_payload_comes_in_parts() -> None:
    log, made = Log(), decoder(refuse)
    log.add(GTID, gtid())
    log.add(*payload((QUERY, query("BEGIN")), ORDERS_MAP, *(write(ORDERS, (at, "x", 1)) for at in range(5)), (XID, bytes(8))))
    log.transaction(ORDERS_MAP, write(ORDERS, (9, "x", 1)), number=18)
    at, parts = 0, []
    while at < len(log):
        at = made.feed(log, at, None, 12)
        parts += list(taken(made).values())
    assert [[row[1:4] for row in part] for part in parts] == [
        [(0, 0, 0), (0, 1, 1)],
        [(0, 2, 2), (0, 3, 3)],
        [(0, 4, 4)],
        [(0, 0, 9)],
    ]


def test_xa_within_a_payload() -> None:
    log, made = Log(), decoder(refuse)
    start = log.add(GTID, gtid(1))
    begin, end = (QUERY, query(f"XA START {xid('6731')}")), (QUERY, query(f"XA END {xid('6731')}"))
    log.add(*payload(begin, ORDERS_MAP, write(ORDERS, (1, "x", 1)), end, xa_prepare(b"g1")))
    assert made.feed(log) == len(log)
    assert made.open_xa == ("binlog.000003", start)
    more = Log(offset=log.offset)
    statement(more, f"XA COMMIT {xid('6731')}", 2)
    assert decoded(more, made) == {"orders": [("c", 0, 0, 1, "x", 1)]}


def test_damaged_payloads() -> None:
    kind, good = payload((QUERY, query("BEGIN")), (XID, bytes(8)))
    for body in (
        payload((QUERY, query("BEGIN")), (XID, bytes(8)), whole=50)[1],
        payload((QUERY, query("BEGIN")), (XID, bytes(8)), whole=5000)[1],
        good[:-3],
        good[:-3] + b"\xff\xff\xff",
        good.replace(b"\2\1\0", b"\2\1\7"),
        b"\0" + good[30:],
    ):
        log = Log()
        log.add(GTID, gtid())
        log.add(kind, body)
        assert fault(log).code == "binlog.malformed"


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("checksum", [True, False])
def test_fragments_of_a_rows_event(first: bool, checksum: bool) -> None:
    body = rows_body(ORDERS, [(1, "x" * 100, 1), (2, "y" * 100, 2)], extra=False)
    whole = raw(MARIADB_WRITE, body, 0, checksum=checksum)
    pieces = [whole[:30], whole[30:200], whole[200:]]
    log = Log()
    log.add(MARIADB_GTID, mariadb_gtid(5, 0x0C))
    log.add(*ORDERS_MAP)
    for number, piece in enumerate(pieces, 1):
        head = struct.pack("<II", *((number, 3) if first else (3, number)))
        log.add(FRAGMENT, head + (b"\1" + len(whole).to_bytes(8, "little") if number == 1 else b"\0") + piece)
    log.add(XID, bytes(8))
    expected = {"orders": [("c", 0, 0, 1, "x" * 100, 1), ("c", 0, 1, 2, "y" * 100, 2)]}
    assert decoded(log, decoder(mariadb=True)) == expected
    assert fault([*log[:5], *log[6:]], decoder(mariadb=True)).code == "binlog.malformed"
    assert fault([*log[:5], *log[7:]], decoder(mariadb=True)).code == "binlog.malformed"


# What is no binlog.


def test_a_wrong_checksum() -> None:
    log = Log()
    start = log.begin()
    log[-1] = log[-1][:-1] + bytes([log[-1][-1] ^ 1])
    refused = fault(log)
    assert refused.code == "binlog.checksum"
    assert refused.values["place"] == f"binlog.000003:{start + len(log[-2])}"


def test_encrypted_events() -> None:
    log = Log()
    log.add(ENCRYPTION, bytes(17), flags=IGNORABLE)
    log.transaction(ORDERS_MAP, write(ORDERS, (1, "x", 1)))
    assert decoded(log) == {"orders": [("c", 0, 0, 1, "x", 1)]}
    log[-1] = log[-1][:19] + bytes(12)
    assert fault(log).code == "binlog.encrypted"


@pytest.mark.parametrize("kind", [20, 21, 22, 1, 6, 12, 99, 173])
def test_unknown_events_halt(kind: int) -> None:
    log = Log()
    start = log.add(kind, bytes(30))
    refused = fault(log)
    assert (refused.code, refused.values) == ("binlog.unknown", {"kind": kind, "place": f"binlog.000003:{start}"})
    log = Log()
    log.add(kind, bytes(30), flags=IGNORABLE)
    assert decoded(log) == {}


def test_an_incident_halts() -> None:
    log = Log()
    log.add(INCIDENT, b"\1\0\x04lost")
    refused = fault(log)
    assert (refused.code, refused.values["message"]) == ("binlog.incident", "lost")


def streams() -> Iterator[tuple[str, Log]]:
    """Streams that break a rule."""
    log = Log()
    log.begin()
    log.add(GTID, gtid(18))
    yield "no end", log
    log = Log()
    log.begin()
    log.add(QUERY, query("BEGIN"))
    yield "no end", log
    log = Log()
    log.begin()
    log += Log(file="binlog.000004")
    log[-1] = raw(DESCRIPTION, log[-1][19:-4], 4 + len(log[-1]))
    yield "no end", log
    for kind, body in (ORDERS_MAP, write(ORDERS, (1, "x", 1)), (XID, bytes(8)), xa_prepare(b"g"), (QUERY, query("COMMIT"))):
        log = Log()
        log.add(kind, body)
        yield "outside any transaction", log
    log = Log()
    log.begin()
    log.add(*write(ORDERS, (1, "x", 1)))
    yield "not described", log
    log = Log()
    log.begin()
    log.extend_by(ORDERS_MAP, write(ORDERS, (1, "x", 1, 2)))
    yield "not of the table's shape", log
    log = Log()
    log.begin()
    log.add(*xa_prepare(b"g"))
    yield "another transaction", log
    log = Log()
    log.append(raw(ROTATE, bytes(8) + b"nonsense", 0, flags=ARTIFICIAL))
    yield "no binary log file", log
    log = Log()
    log.append(b"short")
    yield "too early", log
    log = Log()
    log.append(raw(STOP, b"", 200)[:-1])
    yield "another size", log
    log = Log()
    del log[1]
    log.begin()
    yield "no description", log
    log = Log()
    log[1] = raw(DESCRIPTION, struct.pack("<H50sIB", 3, b"4.0", 0, 19) + bytes(50), 0)
    yield "before MySQL 5.6", log
    log = Log()
    log[1] = raw(DESCRIPTION, struct.pack("<H50sIB", 4, b"9.9", 0, 19) + bytes(50) + b"\2", 0)
    yield "unknown kind", log


@pytest.mark.parametrize(("detail", "log"), list(streams()))
def test_rules_of_the_stream(detail: str, log: Log) -> None:
    refused = fault(log)
    assert refused.code == "binlog.malformed"
    assert detail in str(refused.values["detail"])


def test_an_unknown_type_halts_only_where_it_is_captured() -> None:
    columns: list[Column] = [(INT, 0, False), (77, 0, True), (INT, 0, True)]
    log = Log()
    log.transaction(table_map(9, "other", columns), write(9, (1, "x", 1)))
    assert decoded(log) == {}
    log = Log()
    log.transaction(table_map(ORDERS, "orders", columns), write(ORDERS, (1, "x", 1)))
    assert fault(log).code == "binlog.type"


# Table maps.


def described(columns: Sequence[Column], optional: bytes, mariadb: bool = False) -> TableMap:
    _, body = table_map(7, "t", columns, optional)
    return read_table_map(Reader(body, 0, len(body)), mariadb)


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


# Whatever comes.


def whole_stream() -> Log:
    log = Log()
    log.transaction(ORDERS_MAP, LINES_MAP, write(ORDERS, (1, "x" * 40, 1), (2, None, None)), update(ORDERS, ((1, "x", 1), (2, "y", 5))))
    statement(log, "TRUNCATE", 18)
    prepare(log, "6731", 19, DOCUMENTS_MAP, write(DOCUMENTS, (1, b"\x05\x07\x00", None)))
    statement(log, f"XA COMMIT {xid('6731')}", 20)
    log.begin(21)
    log.extend_by((QUERY, query("SAVEPOINT `s`")), LOG_MAP, write(LOG, ("a", 1)), (QUERY, query("ROLLBACK TO `s`")), (XID, bytes(8)))
    log.add(GTID, gtid(22))
    log.add(*payload((QUERY, query("BEGIN")), ORDERS_MAP, write(ORDERS, (9, "x", 1)), (XID, bytes(8))))
    log.add(GTID, gtid(23))
    log.add(QUERY_COMPRESSED, compressed(query("ALTER"), len(query(""))))
    return log


@given(st.data())
def test_damaged_streams_are_refused_or_read(data: st.DataObject) -> None:
    """Checksums that fit over damaged bytes: nothing but a SourceError comes out, and it comes to an end."""
    log = Log(checksum=False)
    log.extend(event[:9] + struct.pack("<I", len(event) - 4) + event[13:-4] for event in whole_stream()[2:])
    index = data.draw(st.integers(1, len(log) - 1), "event")
    damaged = bytearray(log[index])
    for _ in range(data.draw(st.integers(1, 4), "bytes")):
        damaged[data.draw(st.integers(19, len(damaged) - 1), "place")] = data.draw(st.integers(0, 255), "byte")
    cut = data.draw(st.integers(19, len(damaged)), "cut")
    damaged = damaged[:cut]
    damaged[9:13] = struct.pack("<I", len(damaged))
    log[index] = bytes(damaged)
    made = decoder(altered)
    at = 0
    try:
        for _ in range(3 * len(log)):
            if at == len(log):
                break
            at = made.feed(log, at, None, 100)
            made.take()
        assert at == len(log)
    except SourceError:
        pass
