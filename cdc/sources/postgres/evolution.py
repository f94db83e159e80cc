"""Which changes of a table's shape the rows already taken still fit, and which only a new snapshot can follow."""

from __future__ import annotations

import re
from collections.abc import Iterator

from cdc.errors import SchemaUnknown
from cdc.sources.postgres.catalog import Table
from cdc.texts import text
from cdc.types import Column, TableSchema

_TYPE = re.compile(r'^(?P<base>[^(]+?)(?:\((?P<first>-?\d+)(?:,(?P<second>-?\d+))?\))?$')  # fmt: skip
_WIDER = {("int2", "int4"), ("int2", "int8"), ("int4", "int8"), ("varchar", "text")}


def follow(known: TableSchema, seen: TableSchema, now: Table | None) -> None:
    """Raise SchemaUnknown unless rows of `known` are rows of `seen` with columns dropped, widened or added as NULL.

    `now` is the table in the catalogs of this moment: it tells what columns were added with.
    """
    faults = list(_faults(known, seen, now))
    if faults:
        raise SchemaUnknown("source.schema_changed", source=known.source, table=known.table, changes="; ".join(faults))


def _faults(known: TableSchema, seen: TableSchema, now: Table | None) -> Iterator[str]:
    old, new = ({column.name: column for column in schema.columns} for schema in (known, seen))
    gone, added = old.keys() - new.keys(), new.keys() - old.keys()
    if gone and added:
        yield text("source.change.renamed", gone=_names(gone), added=_names(added))
    elif added:
        yield from _added(added, now)
    for name in old.keys() & new.keys():
        if not widened(old[name], new[name]):
            yield text("source.change.retyped", column=name, old=old[name].source_type, new=new[name].source_type)
    if known.key != seen.key:
        yield text("source.change.key", old=_names(known.key), new=_names(seen.key))


def _added(added: set[str], now: Table | None) -> Iterator[str]:
    facts = {column.name: column for column in now.columns} if now else {}
    for name in sorted(added):
        fact = facts.get(name)
        if fact is None or fact.filled or fact.not_null:
            yield text("source.change.added", column=name)


def widened(old: Column, new: Column) -> bool:
    """Whether every value of the old column is the same value in the new one."""
    if old == new:
        return True
    before, after = _TYPE.match(old.source_type), _TYPE.match(new.source_type)
    if before is None or after is None:
        return False
    if before["base"] != after["base"]:
        return (before["base"], after["base"]) in _WIDER
    if before["base"] == "numeric":
        return _digits_widened(before, after)
    if before["base"] == "varchar":
        return after["first"] is None or (before["first"] is not None and int(before["first"]) <= int(after["first"]))
    return False


def _digits_widened(before: re.Match[str], after: re.Match[str]) -> bool:
    if before["first"] is None or after["first"] is None:
        return False
    precision, scale = int(before["first"]), int(before["second"])
    wider, finer = int(after["first"]), int(after["second"])
    return finer >= scale and wider - finer >= precision - scale


def _names(names: set[str] | tuple[str, ...]) -> str:
    return ", ".join(f"'{name}'" for name in (names if isinstance(names, tuple) else sorted(names))) or "-"
