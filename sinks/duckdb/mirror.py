"""The mirrors and their staged copies: made to fit a schema, read by key, written net."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from cdc.errors import StoreError
from cdc.types import NUMBER, STAMP, Column, MirrorWrite, Promotion, TableSchema
from sinks.duckdb.names import listed, mirror_table, quoted, staged_table
from sinks.duckdb.session import TAKEN_IN, Session

PAGE_ROWS = 50_000


def fit(session: Session, schema: TableSchema, staged: bool) -> None:
    """Make the mirror, or the staged copy, fit the schema, inside the open transaction.

    Raises StoreError where the store can't hold the table's names, or a column's values don't fit its new type.
    """
    _refuse_clashes(schema)
    table = staged_table(schema) if staged else mirror_table(schema)
    session.run(f"CREATE SCHEMA IF NOT EXISTS {quoted(('staging_' if staged else 'mirror_') + schema.source)}")
    session.run(_create(schema, table, staged))
    _fit_table(session, schema, table)


def read(session: Session, schema: TableSchema, keys: pa.Table | None, staged: bool) -> Iterator[pa.Table]:
    """Rows of a mirror or staged copy as `SinkTransaction.mirror` says, in tables of at most PAGE_ROWS."""
    table = staged_table(schema) if staged else mirror_table(schema)
    columns = session.columns(table)
    if columns is None:
        return
    target = _target(schema, staged)
    if keys is None:
        yield from _pages(session, schema, table, columns, target)
    elif keys.num_rows and set(keys.column_names) <= set(columns):
        selected = _selected(schema, target.names, {name: quoted(name) for name in columns})
        found = session.table(f"WITH k AS {TAKEN_IN} SELECT {selected} FROM {table} t SEMI JOIN k ON {_same(schema, keys)}", given=keys)
        for start in range(0, found.num_rows, PAGE_ROWS):
            yield found.slice(start, PAGE_ROWS).cast(target)


def write(session: Session, part: MirrorWrite) -> None:
    """Carry out a MirrorWrite."""
    schema, staged = part.schema, part.staged is not None
    table = staged_table(schema) if staged else mirror_table(schema)
    if part.replace:
        session.run(_create(schema, table, staged, "CREATE OR REPLACE TABLE"))
    if part.deletes.num_rows:
        session.run(f"WITH k AS {TAKEN_IN} DELETE FROM {table} t USING k WHERE {_same(schema, part.deletes)}", given=part.deletes)
    if part.upserts.num_rows:
        columns = [*schema.columns, *_extra(schema, staged=False)]
        names = [c.name for c in columns] + ([STAMP] if staged else [])
        values = [f"CAST({quoted(c.name)} AS {c.store_type})" for c in columns] + ([str(part.staged)] if staged else [])
        session.run(f"INSERT INTO {table} ({listed(names)}) SELECT {', '.join(values)} FROM given", given=part.upserts)


def promote(session: Session, part: Promotion) -> None:
    """The staged copy becomes the mirror, and is gone."""
    schema, mirror, staged = part.schema, mirror_table(part.schema), staged_table(part.schema)
    session.run(f"CREATE SCHEMA IF NOT EXISTS {quoted('mirror_' + schema.source)}")
    names = [c.name for c in (*schema.columns, *_extra(schema, staged=False))]
    session.rows(f"CREATE OR REPLACE TABLE {mirror} AS SELECT {listed(names)} FROM {staged}")
    session.rows(f"DROP TABLE {staged}")


def _refuse_clashes(schema: TableSchema) -> None:
    seen: dict[str, str] = {NUMBER: NUMBER, STAMP: STAMP}
    for column in schema.columns:
        if (other := seen.setdefault(column.name.lower(), column.name)) != column.name or column.name in (NUMBER, STAMP):
            raise StoreError("store.columns_clash", table=schema.name, column=column.name, other=other)


def _extra(schema: TableSchema, staged: bool) -> list[Column]:
    """The store's own columns beside the captured ones."""
    number = [] if schema.key else [Column(NUMBER, pa.int64(), "BIGINT", "")]
    return number + ([Column(STAMP, pa.int32(), "INTEGER", "")] if staged else [])


def _create(schema: TableSchema, table: str, staged: bool, create: str = "CREATE TABLE IF NOT EXISTS") -> str:
    columns = ", ".join(f"{quoted(c.name)} {c.store_type}" for c in (*schema.columns, *_extra(schema, staged)))
    return f"{create} {table} ({columns})"


def _fit_table(session: Session, schema: TableSchema, table: str) -> None:
    """Make a table anew in the schema's shape, with the rows it has.

    It is not altered, because DuckDB can't commit an ALTER of a table that the same transaction has written to.
    """
    has = {row[0]: row[1] for row in session.rows(f"DESCRIBE {table}")}
    wanted = [*schema.columns, *_extra(schema, STAMP in has)]
    selected = ", ".join(f"CAST(NULL AS {c.store_type}) AS {quoted(c.name)}" for c in wanted)
    types = {row[0]: row[1] for row in session.rows(f"DESCRIBE SELECT {selected}")}
    if list(types.items()) == list(has.items()):
        return
    for name, kind in types.items():
        if has.get(name, kind) != kind:
            _check_widening(session, table, name, has[name], kind)
    # Equal rows of a table that has just lost its key are numbered, from 1.
    number = f"row_number() OVER (PARTITION BY {listed([c.name for c in schema.columns if c.name in has])})"
    values = [
        f"CAST({quoted(name) if name in has else number if name == NUMBER else 'NULL'} AS {kind}) AS {quoted(name)}"
        for name, kind in types.items()
    ]
    session.rows(f"CREATE OR REPLACE TABLE {table} AS SELECT {', '.join(values)} FROM {table}")


def _check_widening(session: Session, table: str, name: str, old: str, new: str) -> None:
    """Raises StoreError where a value would not come through a change of type unchanged."""
    column = quoted(name)
    there_and_back = f"TRY_CAST(TRY_CAST({column} AS {new}) AS {old})"
    lost = session.rows(f"SELECT count(*) FROM {table} WHERE {there_and_back} IS DISTINCT FROM {column}")[0][0]
    if lost:
        raise StoreError("store.column_type", table=table, column=name, old=old, new=new, rows=lost)


def _target(schema: TableSchema, staged: bool) -> pa.Schema:
    return pa.schema([pa.field(c.name, c.type) for c in (*schema.columns, *_extra(schema, staged))])


def _selected(schema: TableSchema, names: list[str], aliases: dict[str, str]) -> str:
    """The columns as their Arrow types want them: what a change holds as text is stored as UUID or JSON, say.

    `aliases`: those the table has, as they are called in `t`.
    """
    texts = {c.name for c in schema.columns if pa.types.is_string(c.type)}
    places = {name: f"t.{aliases[name]}" if name in aliases else "NULL" for name in names}
    return ", ".join(f"{f'CAST({t} AS VARCHAR)' if n in texts else t} AS {quoted(n)}" for n, t in places.items())


def _same(schema: TableSchema, keys: pa.Table) -> str:
    """Row `t` of the store is row `k` of the keys; without a key NULL equals NULL."""
    equal = "=" if schema.key else "IS NOT DISTINCT FROM"
    types = {c.name: c.store_type for c in (*schema.columns, *_extra(schema, staged=False))}
    return " AND ".join(f"t.{quoted(n)} {equal} CAST(k.{quoted(n)} AS {types[n]})" for n in keys.column_names)


def _pages(session: Session, schema: TableSchema, table: str, columns: list[str], target: pa.Schema) -> Iterator[pa.Table]:
    """All rows, a range of row ids at a time, as no result stays open while the transaction goes on.

    The columns are renamed because one named `rowid` would hide the row ids.
    """
    aliases = {name: f"c{i}" for i, name in enumerate(columns)}
    source = f"{table} AS t ({', '.join(aliases.values())})"
    selected = _selected(schema, target.names, aliases)
    for (page,) in session.rows(f"SELECT DISTINCT t.rowid // {PAGE_ROWS} FROM {source} ORDER BY 1"):
        within = f"t.rowid >= {page * PAGE_ROWS} AND t.rowid < {(page + 1) * PAGE_ROWS}"
        yield session.table(f"SELECT {selected} FROM {source} WHERE {within}").cast(target)
