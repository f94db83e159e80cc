"""Makes changes whole before they are accounted for and mirrored.

Each step takes and gives one table's changes as the head of `cdc.types` describes them, and looks the rest up in the mirror:

    segments   a truncate stands alone: it becomes deletes of all the rows the mirror has by then
    newer      changes of rows that a later snapshot has already read are dropped (staged copies only)
    fill       values the log did not carry are taken from the row's last known state
    number     rows of a table without key are told apart by their number among their equals
    net        what remains of the changes for the mirror: keys to delete, rows to insert
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from cdc.accounting.keys import row_key
from cdc.accounting.sql import literal, memory_database, quote
from cdc.errors import SchemaUnknown
from cdc.types import ABSENT, DELETE, INSERT, NUMBER, OLD, OP, ORDINAL, TRUNCATE, TXN, MirrorWrite, TableSchema

MirrorLookup = Callable[[pa.Table | None], Iterator[pa.Table]]
_META = (OP, TXN, ORDINAL)
_ABSENT = quote(ABSENT)


class Completer:
    """Completes changes, set-based, in a DuckDB of its own in memory. Belongs to one thread."""

    def __init__(self) -> None:
        self._db = memory_database()

    def close(self) -> None:
        """Let go of the memory."""
        self._db.close()

    def segments(self, rows: pa.Table) -> Iterator[pa.Table]:
        """The changes in order, cut so that a truncate is a segment of its own."""
        start = 0
        for rid in pc.indices_nonzero(pc.equal(rows.column(OP), TRUNCATE)).to_pylist():
            if rid > start:
                yield rows.slice(start, rid - start)
            yield rows.slice(rid, 1)
            start = rid + 1
        if start < rows.num_rows:
            yield rows.slice(start)

    def deletes(self, schema: TableSchema, truncate: pa.Table, mirror: pa.Table) -> pa.Table:
        """A truncate as one delete per mirrored row, at the truncate's place in its transaction."""
        names = [column.name for column in schema.columns] + ([] if schema.key else [NUMBER])
        columns = ", ".join(f"m.{quote(name)}" for name in names)
        return self._run(
            f"""SELECT {literal(DELETE)} AS "#op", t."#txn", t."#ordinal", {columns} FROM mirror m, truncate t""",
            truncate=truncate,
            mirror=mirror,
        )

    def newer(self, schema: TableSchema, rows: pa.Table, staged: pa.Table, included_from: int) -> pa.Table:
        """The changes but for those of rows that a snapshot numbered `included_from` or later has staged."""
        key = schema.key or [column.name for column in schema.columns]
        same = " AND ".join(f"s.{quote(name)} IS NOT DISTINCT FROM r.{quote(name)}" for name in key)
        return self._run(
            f"""SELECT r.* EXCLUDE ("#rid") FROM (SELECT *, row_number() OVER () AS "#rid" FROM rows) r
            ANTI JOIN (SELECT * FROM staged WHERE "#stamp" >= $1) s ON {same} ORDER BY "#rid" """,
            rows=rows,
            staged=staged,
            p=[included_from],
        )

    def fill(self, schema: TableSchema, rows: pa.Table, mirror: MirrorLookup, staged: bool = False) -> pa.Table:
        """The changes with every absent value filled in, without `#absent` and `#old:`.

        Each change that lacks a value points to the row's state before it, an earlier change or the mirror's row; values are
        fetched along these pointers, which double their reach with each pass. Raises SchemaUnknown where that state is missing. In a
        `staged` copy it may be, of rows that were gone before the copy came to them: their changes are dropped.
        """
        old = [name for name in schema.key if f"{OLD}{name}" in rows.column_names]
        if ABSENT not in rows.column_names:
            return rows.drop([f"{OLD}{name}" for name in old])
        self._load_states(schema, rows, old, mirror)
        lacking = [schema.columns[i] for (i,) in self._db.execute(f"SELECT DISTINCT unnest({_ABSENT}) FROM states").fetchall()]
        index = {column.name: i for i, column in enumerate(schema.columns)}
        values = ", ".join(_taken(column.name, index[column.name]) for column in lacking)
        while self._db.execute(f"SELECT count(*) FROM states WHERE len({_ABSENT}) > 0").fetchall()[0][0]:
            (moved,) = self._db.execute(
                f"""UPDATE states SET {values}, {_ABSENT} = list_intersect(states.{_ABSENT}, p.{_ABSENT}), "#former" = p."#former"
                FROM (SELECT * FROM states) p WHERE p."#rid" = states."#former" AND len(states.{_ABSENT}) > 0"""
            ).fetchall()[0]
            if not moved and staged:
                break
            if not moved:
                raise SchemaUnknown("store.mirror_gap", table=schema.name)
        names = ", ".join(map(quote, [*_META, *index]))
        return self._run(f'SELECT {names} FROM states WHERE "#rid" > 0 AND len({_ABSENT}) = 0 ORDER BY "#rid"')

    def _load_states(self, schema: TableSchema, rows: pa.Table, old: list[str], mirror: MirrorLookup) -> None:
        """`states`: the changes (`#rid` from 1) and the mirror's rows (below 0); `#former` is the `#rid` of the state before a change."""
        key = [quote(name) for name in schema.key]
        before = [f"coalesce({quote(OLD + name)}, {quote(name)})" if name in old else quote(name) for name in schema.key]
        asked = ", ".join(f"{sql} AS {name}" for sql, name in zip(before, key, strict=True))
        keys = self._run(f'SELECT DISTINCT {asked} FROM rows WHERE "#absent" IS NOT NULL', rows=rows)
        columns = ", ".join(quote(column.name) for column in schema.columns)
        meta = ", ".join(map(quote, _META))
        self._run(
            f"""CREATE OR REPLACE TEMP TABLE states AS SELECT {meta}, {columns}, row_number() OVER () AS "#rid",
            coalesce("#absent", []) AS "#absent", {_struct(key)} AS "#key", {_struct(before)} AS "#before", NULL::BIGINT AS "#former"
            FROM rows""",
            rows=rows,
        )
        found = pa.concat_tables([schema.arrow().empty_table(), *mirror(keys)], promote_options="permissive")
        self._run(
            f"""INSERT INTO states BY NAME SELECT {columns}, -row_number() OVER () AS "#rid", [] AS "#absent", {_struct(key)} AS "#key"
            FROM found""",
            found=found,
        )
        self._db.execute(
            """UPDATE states SET "#former" = j.former FROM (
                SELECT s."#rid", p."#rid" AS former FROM states s
                ASOF JOIN (SELECT "#key", "#rid" FROM states WHERE "#op" IS DISTINCT FROM 'd') p
                ON s."#before" = p."#key" AND s."#rid" > p."#rid" WHERE len(s."#absent") > 0) j WHERE j."#rid" = states."#rid" """
        )

    def number(self, schema: TableSchema, rows: pa.Table, mirror: MirrorLookup) -> pa.Table:
        """The changes of a table without key, with `#n`: an insert is one more of its equals, a delete takes the last of them."""
        names = [quote(column.name) for column in schema.columns]
        columns = ", ".join(names)
        keys = self._run(f"SELECT DISTINCT {columns} FROM rows", rows=rows)
        found = _found(schema, mirror(keys))
        partition = ", ".join(f"r.{name}" for name in names)
        same = " AND ".join(f"m.{name} IS NOT DISTINCT FROM r.{name}" for name in names)
        numbered = self._run(
            f"""SELECT r.* EXCLUDE ("#rid"), coalesce(m."#n", 0) + CASE "#op" WHEN 'd' THEN 1 ELSE 0 END
                + sum(CASE "#op" WHEN 'd' THEN -1 ELSE 1 END) OVER (PARTITION BY {partition} ORDER BY r."#rid") AS "#n"
            FROM (SELECT *, row_number() OVER () AS "#rid" FROM rows) r
            LEFT JOIN (SELECT {columns}, max("#n") AS "#n" FROM found GROUP BY ALL) m ON {same} ORDER BY r."#rid" """,
            rows=rows,
            found=found,
        )
        numbered = numbered.set_column(numbered.num_columns - 1, NUMBER, numbered.column(NUMBER).cast(pa.int64()))
        if self._run('SELECT 1 FROM rows WHERE "#n" < 1 LIMIT 1', rows=numbered).num_rows:
            raise SchemaUnknown("store.mirror_gap", table=schema.name)
        return numbered

    def rows_of(self, schema: TableSchema, row_keys: Sequence[str], mirror: MirrorLookup) -> pa.Table:
        """The mirrored rows of the given row_keys (JSON objects); of keys no longer there none."""
        names = list(schema.key) or [column.name for column in schema.columns]
        kinds = {column.name: column.store_type for column in schema.columns}
        values = [
            json.loads(key, parse_int=str, parse_float=str) for key in row_keys
        ]  # as written: DuckDB's JSON would make a DOUBLE of 0.10
        wanted = pa.table({"#key": pa.array(row_keys, pa.string())})
        texts = pa.table({name: pa.array([_text(value.get(name)) for value in values], pa.string()) for name in names})
        keys = self._run(
            f"SELECT {', '.join(f'TRY_CAST({quote(name)} AS {kinds[name]}) AS {quote(name)}' for name in names)} FROM texts", texts=texts
        )
        found = _found(schema, mirror(keys))
        return self._run(f'SELECT f.* FROM found f SEMI JOIN wanted w ON w."#key" = {row_key(schema)}', found=found, wanted=wanted)

    def net(self, schema: TableSchema, rows: pa.Table, staged: int | None = None) -> MirrorWrite:
        """What the changes come to: the keys that may be in the mirror go, the rows that are left come."""
        names = [column.name for column in schema.columns] + ([] if schema.key else [NUMBER])
        if staged is None and pc.all(pc.equal(rows.column(OP), pa.scalar(INSERT, pa.string()))).as_py():
            return MirrorWrite(schema, rows.select(list(schema.key) or names).slice(0, 0), rows.select(names))
        key = ", ".join(map(quote, schema.key or names))
        may_be_there = "true" if staged is not None else """"#op" <> 'c'"""
        self._run(
            f"""CREATE OR REPLACE TEMP TABLE last AS SELECT {key}, max("#rid") AS "#rid", arg_min("#op", "#rid") AS "#op"
            FROM (SELECT *, row_number() OVER () AS "#rid" FROM rows) GROUP BY {key}""",
            rows=rows,
        )
        deletes = self._run(f"SELECT {key} FROM last WHERE {may_be_there}")
        upserts = self._run(
            f"""SELECT {", ".join(f"r.{quote(name)}" for name in names)} FROM (SELECT *, row_number() OVER () AS "#rid" FROM rows) r
            SEMI JOIN last ON r."#rid" = last."#rid" WHERE r."#op" <> 'd'""",
            rows=rows,
        )
        return MirrorWrite(schema, deletes, upserts, staged)

    def _run(self, sql: str, p: list[object] | None = None, **tables: pa.Table) -> pa.Table:
        for name, table in tables.items():
            self._db.register(name, table)
        try:
            return self._db.execute(sql, p or []).to_arrow_table()
        finally:
            for name in tables:
                self._db.unregister(name)


def _found(schema: TableSchema, pages: Iterator[pa.Table]) -> pa.Table:
    """What the mirror answered, in one table; a mirror without rows gives no page."""
    columns = schema.arrow() if schema.key else schema.arrow().append(pa.field(NUMBER, pa.int64()))
    return pa.concat_tables([columns.empty_table(), *pages], promote_options="permissive")


def _text(value: str | bool | None) -> str | None:
    """A value of a row_key as the text it was made of."""
    return str(value).lower() if isinstance(value, bool) else value


def _taken(name: str, index: int) -> str:
    """SQL for a value in `states` once more is known of the state `p` before it."""
    column = quote(name)
    taken = f"list_contains(states.{_ABSENT}, {index}) AND NOT list_contains(p.{_ABSENT}, {index})"
    return f"{column} = CASE WHEN {taken} THEN p.{column} ELSE states.{column} END"


def _struct(parts: list[str]) -> str:
    return f"struct_pack({', '.join(f'k{i} := {part}' for i, part in enumerate(parts))})"
