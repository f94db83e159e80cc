"""Which captured table a table of the binlog is and with which schema, and what statements do to captured tables.

The schema is the one the store knows, carried on by each ALTER TABLE in the log. Where the log has the columns' names
(binlog_row_metadata=FULL) each table map tells it once more, and also what a statement did that can't be read. Where it has not, every
table map must fit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from cdc.decode.mysql.alter import PRIMARY, Alteration, DropIndex
from cdc.decode.mysql.captured import Effect, NewSchema, Resolved, Truncate
from cdc.decode.mysql.ddl import Kind, TableEffect, effects
from cdc.decode.mysql.evolution import follow
from cdc.decode.mysql.fields import Field, fields_of
from cdc.decode.mysql.history import Shape, altered, filled, settled, traced
from cdc.decode.mysql.lexer import Dialect
from cdc.decode.mysql.types import MyType, fits_wire, wire_type
from cdc.decode.mysql.wire import Statement, TableMap, WireColumn
from cdc.errors import SchemaUnknown
from cdc.sources.mysql.catalog import Catalog, Table
from cdc.sources.mysql.connection import Connection, query
from cdc.types import TableSchema

# Columns the servers make for themselves: for indexes on expressions, and for UNIQUE over long columns.
_HIDDEN = ("!hidden!", "DB_ROW_HASH_")
_COLLATION = "SELECT table_collation FROM information_schema.tables WHERE table_schema = %s AND table_name = %s"
_SHOWN_MAX = 200  # characters of a statement in a message
_FAULTS = {
    Kind.DROPPED: "mysql.table_dropped",
    Kind.REPLACED: "mysql.table_replaced",
    Kind.CREATED: "mysql.table_created",
    Kind.UNLOGGED: "mysql.rows_unlogged",
    Kind.WRITTEN: "mysql.statement_format",
    Kind.UNKNOWN: "mysql.statement_unknown",
}


class Relations:
    """The captured tables by database and name. `schemas` is the last known schema of each, by its name in the config.

    `wanted` says whether the changes of a table count yet. `named`: the server logs columns with their names now.
    """

    def __init__(
        self,
        side: Connection,
        catalog: Catalog,
        tables: Mapping[str, Table],
        schemas: Mapping[str, TableSchema],
        wanted: Callable[[str], bool],
        dialect: Dialect,
        named: bool,
    ) -> None:
        self._side, self._catalog, self._tables = side, catalog, tables
        self._wanted, self._dialect, self._named = wanted, dialect, named
        self._names = {(table.database, table.table): name for name, table in tables.items()}
        self._shapes: dict[str, Shape | None] = {}  # tables altered since their last table map; None: in a way we can't follow
        self.schemas = dict(schemas)
        indexes = {name: table.order.index for name, table in tables.items() if table.order and table.key == self.schemas[name].key}
        self._indexes: dict[str, str] = indexes  # that of the key, where it is known

    def resolve(self, table_map: TableMap) -> Resolved | None:
        """What a Decoder asks of a table: None where it is not captured, or its changes do not count yet. Raises SchemaUnknown."""
        name = self._names.get((table_map.database, table_map.table))
        if name is None or not self._wanted(name):
            return None
        known = self.schemas[name]
        if table_map.full:
            seen = self._told(known, table_map)
            if seen != known:
                follow(known, seen, self._filled(name, table_map))
        else:
            seen = self._carried_on(known, table_map)
        self._shapes.pop(name, None)
        self.schemas[name] = seen
        return self._resolved(name, seen, table_map)

    def _told(self, known: TableSchema, table_map: TableMap) -> TableSchema:
        """The schema a table map with names tells. What the log can't tell, such as UUID from BINARY(16), is as it was known."""
        names = [column.name or "" for column in table_map.columns]
        key = known.key if table_map.key is None else tuple(names[index] for index in table_map.key)
        key = key if set(key) <= set(names) else ()
        before = {field.name: field for field in fields_of(known)}
        fields = []
        for column in self._shown(known.table, table_map):
            name = column.name or ""
            same = before.get(name)
            fits = same is not None and fits_wire(same.my_type, column)
            my_type = same.my_type if same is not None and fits else wire_type(column)
            fields.append(self._catalog.field(known.table, name, my_type, name in key))
        return _schema(known, fields, key)

    def _filled(self, name: str, table_map: TableMap) -> frozenset[str]:
        """The columns whose rows hold something that was not logged: as the statements in the log tell, else the server's catalog."""
        shape = self._shapes.get(name)
        if shape is not None:
            try:
                return filled(settled(shape, self._shown(name, table_map)))
            except SchemaUnknown:
                pass
        now = self._catalog.find(self._side, [name]).get(name)
        known = {field.name for field in fields_of(self.schemas[name])}
        there = {column.name: column for column in now.columns} if now else {}
        added = [column.name or "" for column in self._shown(name, table_map) if column.name not in known]
        return frozenset(column for column in added if column not in there or there[column].filled)

    def _carried_on(self, known: TableSchema, table_map: TableMap) -> TableSchema:
        """The schema by the store and the alterations since, which the table map must fit."""
        shape = self._shapes.get(known.table)
        if shape is not None:
            shape = settled(shape, self._shown(known.table, table_map))
            seen = self._schema_of(known, shape)
            follow(known, seen, filled(shape))
            known = seen
        fields, columns = fields_of(known), self._shown(known.table, table_map)
        if len(fields) != len(columns) or not all(fits_wire(field.my_type, column) for field, column in zip(fields, columns, strict=True)):
            raise SchemaUnknown("mysql.schema_unknown", source=known.source, table=known.table)
        return known

    def _schema_of(self, known: TableSchema, shape: Shape) -> TableSchema:
        """The schema of a shape whose types are all known."""
        types = [(column.name, column.type) for column in shape.columns if isinstance(column.type, MyType)]
        return _schema(known, [self._catalog.field(known.table, name, my_type, name in shape.key) for name, my_type in types], shape.key)

    def _resolved(self, name: str, schema: TableSchema, table_map: TableMap) -> Resolved:
        fields, shown = iter(fields_of(schema)), set(map(id, self._shown(name, table_map)))
        picked = [next(fields) if id(column) in shown else None for column in table_map.columns]
        virtual = {column.name for column in self._tables[name].columns if column.generated == "virtual"}
        return Resolved(schema, tuple(picked), frozenset(i for i, field in enumerate(picked) if field and field.name in virtual))

    def _shown(self, name: str, table_map: TableMap) -> list[WireColumn]:
        """The columns that are captured. Where they have no names those the server made for itself are the last."""
        if table_map.full:
            return [column for column in table_map.columns if not (column.name or "").startswith(_HIDDEN)]
        return list(table_map.columns[: len(table_map.columns) - self._tables[name].hidden])

    def effects(self, statement: Statement) -> Sequence[Effect]:
        """What a Decoder asks of a statement. Raises SchemaUnknown where a table's rows are no longer those of the log."""
        found: list[Effect] = []
        for effect in effects(statement, self._names.keys(), self._dialect):
            name = self._names.get((effect.database, effect.table))
            if name is not None and self._wanted(name):
                found += self._effect(name, effect, statement)
            elif name is None and any(map(self._wanted, self._names.values())):
                raise self._fault(", ".join(self._names.values()), effect, statement)
        return found

    def _effect(self, name: str, effect: TableEffect, statement: Statement) -> list[Effect]:
        if effect.kind is Kind.TRUNCATED:
            return [Truncate(self.schemas[name])]
        if effect.kind is Kind.ALTERED:
            return self._altered(name, effect.alterations, statement.strict)
        if effect.kind is Kind.CREATED and effect.if_needed:
            return []
        raise self._fault(name, effect, statement)

    def _altered(self, name: str, alterations: Sequence[Alteration], strict: bool) -> list[Effect]:
        """Carry the schema on, and record it at once: after a restart nothing would tell what rows that were there hold in it."""
        known = self.schemas[name]
        before = self._shapes.get(name, self._traced(known, alterations))
        try:
            shape = altered(before, alterations, strict) if before is not None else None
        except SchemaUnknown:
            if not self._named:
                raise
            shape = None
        self._shapes[name] = shape
        if shape is None:
            return []
        if name in self._indexes:
            self._indexes[name] = shape.index
        typed = all(isinstance(column.type, MyType) for column in shape.columns)
        seen = self._schema_of(known, shape) if typed else replace(known, key=shape.key)
        follow(known, seen, filled(shape))
        if not typed or seen == known:
            return []
        self.schemas[name] = seen
        del self._shapes[name]
        return [NewSchema(seen)]

    def _traced(self, known: TableSchema, alterations: Sequence[Alteration]) -> Shape:
        """A table before it is altered. Where its key's index is not known one that is dropped is taken for it."""
        columns = [(field.name, field.my_type) for field in fields_of(known)]
        table = self._tables[known.table]
        found = query(self._side, _COLLATION, (table.database, table.table))
        index = self._indexes.get(known.table) or _first_dropped(alterations)
        return traced(known.source, known.table, columns, known.key, found[0][0].partition("_")[0] if found else None, index)

    def _fault(self, name: str, effect: TableEffect, statement: Statement) -> SchemaUnknown:
        shown = " ".join(statement.text.split())
        shown = shown if len(shown) <= _SHOWN_MAX else f"{shown[:_SHOWN_MAX]}..."
        return SchemaUnknown(_FAULTS[effect.kind], source=self._catalog.source, table=name, action=effect.action, statement=shown)


def _first_dropped(alterations: Sequence[Alteration]) -> str:
    return next((alteration.name for alteration in alterations if isinstance(alteration, DropIndex)), PRIMARY)


def _schema(known: TableSchema, fields: Sequence[Field], key: tuple[str, ...]) -> TableSchema:
    return TableSchema(known.source, known.table, tuple(column for field in fields for column in field.columns), key)
