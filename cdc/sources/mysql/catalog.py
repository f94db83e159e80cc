"""What the server's catalogs know of the captured tables, and the TableSchema made of it.

Row events carry every column that information_schema.columns shows, in its order: stored and virtual generated ones, invisible ones and the
generated invisible primary key too. What it does not show is not captured: in MySQL the columns behind functional indexes, which no row
event has; in MariaDB those behind UNIQUE over long columns, which stand at the end of every row (`Table.hidden`), and those of
system versioning, whose tables are refused.

Manuals: 'INFORMATION_SCHEMA COLUMNS, STATISTICS, TABLES'; on keys also 'SHOW COLUMNS'.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cdc.decode.mysql.fields import Field, make_field
from cdc.decode.mysql.types import MyType, declared
from cdc.errors import SourceError
from cdc.sources.mysql.connection import Connection, is_mariadb, query, quoted
from cdc.sources.mysql.walk import WALKABLE, Order, Part
from cdc.types import TableSchema

# These change elsewhere, or under other names, than the log says.
_ELSEWHERE = {"federated", "mrg_myisam", "connect", "spider", "s3", "sphinx", "oqgraph", "ndbcluster"}
_IN_MEMORY = "memory"

_TABLES = """
SELECT table_name, table_type, engine, CAST(create_time AS CHAR), COALESCE(table_rows, 0), COALESCE(data_length, 0)
FROM information_schema.tables WHERE table_schema = %s AND table_name IN %s
"""
# MariaDB shows the expression of a default, NULL too, MySQL the value of a constant.
_COLUMNS = """
SELECT table_name, column_name, column_type, character_set_name, collation_name, is_nullable,
       IF(%s AND column_default = 'NULL', NULL, column_default), extra, column_key
FROM information_schema.columns WHERE table_schema = %s AND table_name IN %s ORDER BY table_name, ordinal_position
"""
_INDEXES = """
SELECT table_name, index_name, column_name, sub_part, collation, index_type
FROM information_schema.statistics WHERE table_schema = %s AND table_name IN %s AND non_unique = 0
ORDER BY table_name, index_name = 'PRIMARY' DESC, index_name, seq_in_index
"""
_ENGINES = "SELECT LOWER(engine) FROM information_schema.engines WHERE transactions = 'YES'"
# Sizes as they are now, and no primary key left out; of servers that have such settings.
_SHOWN = {"information_schema_stats_expiry": "0", "show_gipk_in_create_table_and_information_schema": "ON"}


@dataclass(frozen=True, slots=True)
class ColumnFact:
    """A column as it is now. `charset` and `collation` by the server's names; `generated`: `virtual`, `stored` or nothing."""

    name: str
    my_type: MyType
    charset: str | None
    collation: str | None
    nullable: bool
    default: str | None
    generated: str
    invisible: bool
    counts: bool  # AUTO_INCREMENT
    old_form: bool  # a moment with a fraction as MariaDB 5.3 made it: the log does not tell how long its values are

    @property
    def filled(self) -> bool:
        """Whether rows that were there before it may show a value the log never told."""
        return bool(self.generated) or self.counts or not self.nullable or self.default is not None


@dataclass(frozen=True, slots=True)
class Table:
    """A captured table as the catalogs have it now.

    `key` is what its rows are told apart by: the primary key, or else what the server itself takes for it, its first UNIQUE index
    over NOT NULL columns (so that row events with binlog_row_image=MINIMAL have it too). `order`: how it can be walked by that key; None if
    it can't. `created` is CREATE_TIME: another table of this name has another, but so it may after an ALTER TABLE; nothing better
    is shown to every user. `hidden`: columns at the end of row events that are not captured. `size` in bytes.
    """

    name: str
    database: str
    table: str
    kind: str
    engine: str
    transactional: bool
    created: str
    columns: tuple[ColumnFact, ...]
    key: tuple[str, ...]
    order: Order | None
    hidden: int
    rows_estimated: int
    size: int

    @property
    def sql(self) -> str:
        return f"{quoted(self.database)}.{quoted(self.table)}"

    @property
    def shape(self) -> tuple[object, ...]:
        """What must not change while it is copied."""
        return self.kind, self.engine, self.created, self.columns, self.key, self.order, self.hidden


class Catalog:
    """The captured tables of one source. `overrides`: the `types` of its config."""

    def __init__(self, source: str, overrides: Mapping[str, str]) -> None:
        self.source = source
        self._overrides = overrides

    def tables(self, connection: Connection, names: Sequence[str]) -> dict[str, Table]:
        """Every table named, by name. Raises SourceError for one that is missing, can't be read or can't be captured."""
        found = self.find(connection, names)
        for name in names:
            if name not in found:
                raise SourceError("mysql_snapshot.table_missing", source=self.source, table=name)
            self.refuse(found[name])
            # The catalogs leave out columns that the user may not read.
            query(connection, f"SELECT * FROM {found[name].sql} LIMIT 0")
        return {name: found[name] for name in names}

    def find(self, connection: Connection, names: Sequence[str]) -> dict[str, Table]:
        """Those of the tables named that exist, as they are."""
        for setting, _ in query(connection, "SHOW SESSION VARIABLES WHERE Variable_name IN %s", (list(_SHOWN),)):
            query(connection, f"SET SESSION {setting} = {_SHOWN[setting]}")
        ((default,),) = query(connection, "SELECT DATABASE()")
        transactional = {engine for (engine,) in query(connection, _ENGINES)}
        places = {name: split(name, default) for name in names}
        wanted: dict[str, list[str]] = {}
        for database, table in places.values():
            wanted.setdefault(database, []).append(table)
        facts = {database: _facts(connection, database, tables) for database, tables in wanted.items()}
        return {
            name: _table(name, database, facts[database][table], transactional)
            for name, (database, table) in places.items()
            if table in facts[database]
        }

    def refuse(self, table: Table) -> None:
        """Raise SourceError for a table whose changes the log does not hold, or not so that rows could be told apart."""
        values = {"source": self.source, "table": table.name, "sql_name": table.sql, "engine": table.engine, "kind": table.kind}
        if table.kind != "BASE TABLE":
            raise SourceError("mysql_snapshot.table_kind", **values)
        if table.engine in _ELSEWHERE:
            raise SourceError("mysql_snapshot.engine", **values)
        if not table.transactional and not table.key:
            raise SourceError("mysql_snapshot.keyless", **values)
        if old := ", ".join(column.name for column in table.columns if column.old_form):
            raise SourceError("mysql_snapshot.old_form", columns=old, **values)

    def fields(self, table: Table) -> tuple[Field, ...]:
        """How each column is kept. Raises ConfigError for an override that can't be."""
        return tuple(self.field(table.name, c.name, c.my_type, c.name in table.key) for c in table.columns)

    def field(self, table: str, column: str, my_type: MyType, key: bool) -> Field:
        """How a column of a captured table is kept."""
        return make_field(column, my_type, self._overrides.get(f"{table}.{column}"), key)

    def schema(self, table: Table) -> TableSchema:
        """The schema of a table as it is now."""
        columns = tuple(column for field in self.fields(table) for column in field.columns)
        return TableSchema(self.source, table.name, columns, table.key)


def split(name: str, default: str) -> tuple[str, str]:
    """Database and table of a table's name in the config: `orders` is in the default database."""
    database, dot, table = name.partition(".")
    return (database, table) if dot else (default, name)


@dataclass(frozen=True, slots=True)
class _Facts:
    """What the catalogs say of a table: rows of _TABLES, _COLUMNS and _INDEXES without its name; indexes by theirs."""

    table: tuple[Any, ...]
    columns: list[tuple[Any, ...]]
    indexes: dict[str, list[tuple[Any, ...]]]


def _facts(connection: Connection, database: str, tables: Sequence[str]) -> dict[str, _Facts]:
    found = {row[0]: _Facts(row, [], {}) for row in query(connection, _TABLES, (database, tables)) if row[0] in tables}
    for name, *column in query(connection, _COLUMNS, (is_mariadb(connection), database, tables)):
        if name in found:
            found[name].columns.append(tuple(column))
    for name, index, *part in query(connection, _INDEXES, (database, tables)):
        if name in found:
            found[name].indexes.setdefault(index, []).append(tuple(part))
    return found


def _table(name: str, database: str, facts: _Facts, transactional: set[str]) -> Table:
    table, kind, engine, created, rows, size = facts.table
    engine = (engine or "").lower()
    columns = tuple(map(_column, facts.columns))
    primary = {row[0] for row in facts.columns if row[-1] == "PRI"}
    key, order = _key({column.name: column for column in columns}, primary, facts.indexes)
    hidden = 0 if engine == _IN_MEMORY else sum(parts[0][-1] == "HASH" for parts in facts.indexes.values())
    return Table(
        name=name,
        database=database,
        table=table,
        kind=kind,
        engine=engine,
        transactional=engine in transactional,
        created=created or "",
        columns=columns,
        key=key,
        order=order,
        hidden=hidden,
        rows_estimated=int(rows),
        size=int(size),
    )


def _column(row: tuple[Any, ...]) -> ColumnFact:
    name, column_type, charset, collation, nullable, default, extra, _ = row
    extra, my_type = extra.lower(), declared(column_type, charset)
    return ColumnFact(
        name=name,
        my_type=my_type,
        charset=charset,
        collation=collation,
        nullable=nullable == "YES",
        default=default,
        generated="virtual" if "virtual generated" in extra else "stored" if "stored generated" in extra else "",
        invisible="invisible" in extra,
        counts="auto_increment" in extra,
        old_form=my_type.fraction > 0 and "mariadb-5.3" in column_type,
    )


def _key(
    columns: Mapping[str, ColumnFact], primary: set[str], indexes: Mapping[str, list[tuple[Any, ...]]]
) -> tuple[tuple[str, ...], Order | None]:
    """The key the server marks in its columns, in the order of its index; and how to walk it, unless it is of a kind that has no order."""
    for index, parts in indexes.items():
        if primary and {part[0] for part in parts} == primary:
            key = tuple(part[0] for part in parts)
            walkable = all(
                sub_part is None and kind == "BTREE" and columns[name].my_type.name in WALKABLE for name, sub_part, _, kind in parts
            )
            found = [Part(name, columns[name].my_type, columns[name].charset, direction == "D") for name, _, direction, _ in parts]
            return key, Order(index, tuple(found)) if walkable else None
    return (), None
