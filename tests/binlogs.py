"""Binlog events built by hand, and decoders for them."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import zstandard

from cdc.decode.mysql.binlog import Decoder
from cdc.decode.mysql.captured import Effect, NewSchema, Resolved, Truncate
from cdc.decode.mysql.fields import make_field
from cdc.decode.mysql.types import MyType
from cdc.decode.mysql.wire import Statement, TableMap
from cdc.errors import SourceError
from cdc.types import TableChanges, TableSchema

QUERY, ROTATE, XID, STOP, INTVAR, DESCRIPTION, TABLE_MAP = 2, 4, 16, 3, 5, 15, 19
WRITE, UPDATE, DELETE, PARTIAL_UPDATE = 30, 31, 32, 39
GTID, ANONYMOUS, XA_PREPARE, PAYLOAD, INCIDENT, HEARTBEAT, HEARTBEAT_V2 = 33, 34, 38, 40, 26, 27, 41
MARIADB_GTID, MARIADB_WRITE, MARIADB_UPDATE, ENCRYPTION, FRAGMENT = 162, 23, 24, 164, 172
QUERY_COMPRESSED, MARIADB_WRITE_COMPRESSED = 165, 166
ARTIFICIAL, IGNORABLE = 0x20, 0x80
UUID = "00112233-4455-6677-8899-aabbccddeeff"
STARTED_AT, COMMITTED_AT = 1_700_000_000, 1_700_000_123
ORDERS, LINES, LOG, DOCUMENTS = 100, 200, 300, 400
INT, TEXT, JSON = 3, 252, 245
ABSENT = object()  # a value that an image does not carry

Row = Sequence[object]
Event = tuple[int, bytes]  # its kind and body


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

    def transaction(self, *events: Event, number: int = 17) -> int:
        start = self.begin(number)
        self.extend_by(*events)
        self.add(XID, bytes(8))
        return start

    def extend_by(self, *events: Event) -> None:
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


def table_map(number: int, name: str, columns: Sequence[Column], optional: bytes = b"", database: str = "shop") -> Event:
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


def write(number: int, *rows: Row) -> Event:
    return WRITE, rows_body(number, rows)


def delete(number: int, *rows: Row) -> Event:
    return DELETE, rows_body(number, rows)


def update(number: int, *pairs: tuple[Row, Row]) -> Event:
    return UPDATE, rows_body(number, [before for before, _ in pairs], [after for _, after in pairs])


ORDER_COLUMNS: list[Column] = [(INT, 0, False), (TEXT, 2, True), (INT, 0, True)]
ORDERS_MAP = table_map(ORDERS, "orders", ORDER_COLUMNS)
LINES_MAP = table_map(LINES, "lines", [(INT, 0, False), (INT, 0, False)])
LOG_MAP = table_map(LOG, "log", [(TEXT, 2, True), (INT, 0, True)])
DOCUMENTS_MAP = table_map(DOCUMENTS, "documents", [(INT, 0, False), (JSON, 2, True), (JSON, 2, True)])
INT_TYPE, TEXT_TYPE, JSON_TYPE = MyType("int"), MyType("text", charset="utf8mb4"), MyType("json")


def resolved(table: str, columns: dict[str, MyType], key: tuple[str, ...], **more: Any) -> Resolved:
    fields = tuple(make_field(name, kind, None) for name, kind in columns.items())
    return Resolved(TableSchema("src", table, tuple(column for field in fields for column in field.columns), key), fields, **more)


TABLES = {
    "orders": resolved("orders", {"id": INT_TYPE, "note": TEXT_TYPE, "total": INT_TYPE}, ("id",)),
    "lines": resolved("lines", {"id": INT_TYPE, "no": INT_TYPE}, ("id", "no")),
    "log": resolved("log", {"what": TEXT_TYPE, "who": INT_TYPE}, ()),
    "documents": resolved("documents", {"id": INT_TYPE, "one": JSON_TYPE, "two": JSON_TYPE}, ("id",)),
}
WIDER = resolved("orders", {"id": INT_TYPE, "note": TEXT_TYPE, "total": INT_TYPE, "more": INT_TYPE}, ("id",))


def resolve(table: TableMap) -> Resolved | None:
    if table.table == "orders" and len(table.columns) == 4:
        return WIDER
    return TABLES.get(table.table) if table.database == "shop" else None


def nothing(_: Statement) -> Sequence[Effect]:
    return ()


def telling(told: list[Statement]) -> Callable[[Statement], Sequence[Effect]]:
    """What notes each statement."""

    def tell(statement: Statement) -> Sequence[Effect]:
        told.append(statement)
        return ()

    return tell


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


def mariadb_log(*events: Event) -> Log:
    log = Log()
    log.add(MARIADB_GTID, mariadb_gtid(5, 0x0C))
    log.extend_by(*events)
    log.add(XID, bytes(8))
    return log


def compressed(body: bytes, kept: int) -> bytes:
    rest = body[kept:]
    return body[:kept] + b"\x82" + len(rest).to_bytes(2, "big") + zlib.compress(rest)


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


def xa_prepare(gtrid: bytes, one_phase: bool = False, bqual: bytes = b"b", kind: int = 1) -> Event:
    return XA_PREPARE, struct.pack("<BIII", one_phase, kind, len(gtrid), len(bqual)) + gtrid + bqual


def xid(gtrid: str, bqual: str = "62", kind: int = 1) -> str:
    return f"X'{gtrid}',X'{bqual}',{kind}"


def prepare(log: Log, gtrid: str, number: int, *events: Event, one_phase: bool = False) -> int:
    start = log.add(GTID, gtid(number))
    ended = xa_prepare(bytes.fromhex(gtrid), one_phase)
    log.extend_by((QUERY, query(f"XA START {xid(gtrid)}")), *events, (QUERY, query(f"XA END {xid(gtrid)}")), ended)
    return start


def payload(*events: Event, compress: bool = True, whole: int | None = None) -> Event:
    inner = b"".join(raw(kind, body, 0, checksum=False) for kind, body in events)
    content = zstandard.ZstdCompressor(write_content_size=False).compress(inner) if compress else inner
    fields = b"\2\1" + (b"\0" if compress else b"\xfc\xff\0")
    fields = b"\2" + (b"\1\0" if compress else b"\3\xfc\xff\0")
    if compress:
        fields += b"\3\3\xfc" + (len(inner) if whole is None else whole).to_bytes(2, "little")
    fields += b"\x63\2\7\7\1\3\xfc" + len(content).to_bytes(2, "little") + b"\0"
    return PAYLOAD, fields + content
