"""The binlog of a server from a place on, and tables as its changes leave them: what tests of the decoder read real logs by."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import pytest
from pymysql.connections import Connection

from cdc.decode.mysql.binlog import Decoder
from cdc.decode.mysql.captured import Effect, Resolved
from cdc.decode.mysql.fields import make_field
from cdc.decode.mysql.gtid import parse_gtids
from cdc.decode.mysql.types import declared, wire_type
from cdc.decode.mysql.wire import Statement, TableMap
from cdc.types import TableChanges, TableSchema
from tests.servers.mysql import MyDatabase, rows
from tests.servers.mysql_binaries import FLAVOURS

DUMP, NON_BLOCKING, ANNOTATE = 0x12, 0x01, 0x02
on_mariadb = pytest.mark.parametrize("any_mysql", [name for name, flavour in FLAVOURS.items() if flavour.is_mariadb], indirect=True)
Row = tuple[Any, ...]


class Tap:
    """A server's binlog from here on, and the changes that it has for one database."""

    def __init__(self, database: MyDatabase) -> None:
        self.database, self.mariadb = database, database.server.is_mariadb
        self.statements: list[str] = []
        self.maps: list[TableMap] = []
        self.start()

    def start(self) -> None:
        """From here on."""
        self.file, self.offset = self.place()
        self.gtids = self.executed()

    def place(self) -> tuple[str, int]:
        statement = "SHOW MASTER STATUS" if self.mariadb else "SHOW BINARY LOG STATUS"
        file, offset, *_ = self.database.execute(statement)[0]
        return file, offset

    def executed(self) -> Any:
        variable = "@@gtid_binlog_pos" if self.mariadb else "@@gtid_executed"
        return parse_gtids(self.database.execute(f"SELECT {variable}")[0][0])

    def events(self, checksum: str = "CRC32") -> list[bytes]:
        """All events there are now."""
        with closing(self.database.server.connect()) as connection:
            for name in ("master", "source"):
                rows(connection, f"SET @{name}_binlog_checksum = '{checksum}'")
            if self.mariadb:
                rows(connection, "SET @mariadb_slave_capability = 4")
            connection._next_seq_id = 0
            flags = NON_BLOCKING | (ANNOTATE if self.mariadb else 0)
            connection.write_packet(struct.pack("<BIHI", DUMP, self.offset, flags, 4711) + self.file.encode())
            return list(_packets(connection))

    def decoder(self, **options: Any) -> Decoder:
        file, offset = self.file, self.offset
        options = {"gtids": self.gtids} | options
        return Decoder(self.resolve, self.statement, mariadb=self.mariadb, file=file, offset=offset, **options)

    def resolve(self, table: TableMap) -> Resolved | None:
        """As the log describes the table, by FULL metadata; else by the server's catalog."""
        if table.database != self.database.name:
            return None
        self.maps.append(table)
        known = {} if table.full else self.declared(table.table)
        names = list(known) or [column.name or "" for column in table.columns]
        types = known.values() if known else map(wire_type, table.columns)
        fields = tuple(make_field(name, my_type, None) for name, my_type in zip(names, types, strict=True))
        key = tuple(names[index] for index in (table.key if table.key is not None else self.key(table.table)))
        columns = tuple(column for field in fields for column in field.columns)
        return Resolved(TableSchema("src", table.table, columns, key), fields, virtual=frozenset(self.virtual(table.table)))

    def declared(self, table: str) -> dict[str, Any]:
        return {name: declared(text, charset) for name, text, charset, _ in self.catalog(table)}

    def virtual(self, table: str) -> Iterator[int]:
        return (index for index, (*_, extra) in enumerate(self.catalog(table)) if "VIRTUAL" in extra)

    def catalog(self, table: str) -> list[Row]:
        return self.database.execute(
            "SELECT column_name, column_type, character_set_name, extra FROM information_schema.columns"
            " WHERE table_schema = DATABASE() AND table_name = %s ORDER BY ordinal_position",
            [table],
        )

    def key(self, table: str) -> list[int]:
        found = self.database.execute(
            "SELECT column_name FROM information_schema.key_column_usage"
            " WHERE table_schema = DATABASE() AND table_name = %s AND constraint_name = 'PRIMARY' ORDER BY ordinal_position",
            [table],
        )
        return [list(self.declared(table)).index(name) for (name,) in found]

    def statement(self, statement: Statement) -> Sequence[Effect]:
        if statement.database == self.database.name:
            self.statements.append(statement.text)
        return ()

    def changes(self, **options: Any) -> tuple[list[dict[str, Any]], dict[str, list[Row]]]:
        """The transactions, and per table: op, transaction and the row of each change."""
        made, least = self.decoder(**options), self.place()
        events = self.events()
        assert made.feed(events) == len(events)
        transactions, tables = made.take()
        assert least <= (made.file, made.position.offset) <= self.place()
        assert str(made.gtids) == str(self.executed())
        assert not made.in_transaction
        return transactions.to_pylist(), {one.schema.table: changed(one) for one in tables}

    def mirrored(self, **options: Any) -> Mirror:
        made, mirror = self.decoder(**options), Mirror()
        events = self.events()
        assert made.feed(events) == len(events)
        for table in made.take()[1]:
            mirror.apply(table)
        return mirror


def _packets(connection: Connection) -> Iterator[bytes]:
    while not (packet := connection._read_packet()).is_eof_packet():
        yield packet._data[1:]


def changed(changes: TableChanges) -> list[Row]:
    names = [name for name in changes.rows.column_names if not name.startswith("#")]
    return [(row["#op"], row["#txn"], *(row[name] for name in names)) for row in changes.rows.to_pylist()]


class Mirror:
    """Tables as their changes leave them."""

    def __init__(self) -> None:
        self.tables: dict[str, dict[Row, Row]] = {}

    def apply(self, changes: TableChanges) -> None:
        table, schema = self.tables.setdefault(changes.schema.table, {}), changes.schema
        names = [column.name for column in schema.columns]
        gone: dict[Row, Row] = {}
        for number, row in enumerate(changes.rows.to_pylist()):
            key = tuple(row[name] for name in schema.key) or (number,)
            if row["#op"] == "d":
                gone[key] = table.pop(key)
                continue
            old = tuple(row.get(f"#old:{name}") for name in schema.key)
            before = gone[old] if any(part is not None for part in old) else table.get(key, ())
            absent = row.get("#absent") or ()
            table[key] = tuple(before[at] if at in absent else row[name] for at, name in enumerate(names))

    def __getitem__(self, table: str) -> list[Row]:
        return sorted(self.tables[table].values())


@contextmanager
def setting(tap: Tap, name: str, value: str) -> Iterator[None]:
    """A global variable set for a while."""
    before = tap.database.execute(f"SELECT @@GLOBAL.{name}")[0][0]
    tap.database.execute(f"SET GLOBAL {name} = {value}")
    try:
        yield
    finally:
        tap.database.execute(f"SET GLOBAL {name} = %s", [before])


def run(tap: Tap, *statements: str) -> None:
    for statement in statements:
        tap.database.execute(statement)
