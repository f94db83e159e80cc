"""Which changes of a table's columns the rows already taken still fit, and which only a new snapshot can follow."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator

import pyarrow as pa

from cdc.decode.mysql.charsets import width
from cdc.decode.mysql.columns import LOB_SIZES
from cdc.decode.mysql.fields import UNFIT
from cdc.decode.mysql.types import INTEGERS, MEMBERS, TEXTS, TIMES, MyType, parse_type
from cdc.errors import SchemaUnknown
from cdc.texts import text
from cdc.types import Column, TableSchema


def follow(known: TableSchema, seen: TableSchema, filled: Callable[[str], bool] | Collection[str]) -> None:
    """Raise SchemaUnknown unless rows of `known` are rows of `seen` with columns dropped, widened or added as NULL.

    `filled` tells of a column of `seen` that rows which were there do not hold in it what they held in the column of that name, or NULL
    where there was none: as history.filled knows from the log.
    """
    faults = list(_faults(known, seen, filled if callable(filled) else filled.__contains__))
    if faults:
        raise SchemaUnknown("source.schema_changed", source=known.source, table=known.table, changes="; ".join(faults))


def _faults(known: TableSchema, seen: TableSchema, filled: Callable[[str], bool]) -> Iterator[str]:
    old, new = _named(known), _named(seen)
    gone, added = old.keys() - new.keys(), new.keys() - old.keys()
    if gone and added:
        yield text("source.change.renamed", gone=_names(gone), added=_names(added))
    else:
        yield from (text("source.change.added", column=name) for name in sorted(added) if filled(name))
    for name in sorted(old.keys() & new.keys()):
        if not widened(old[name], new[name]):
            yield text("source.change.retyped", column=name, old=old[name].source_type, new=new[name].source_type)
        elif filled(name):
            yield text("ddl.rewritten", column=name)
    if known.key != seen.key:
        yield text("source.change.key", old=_names(known.key), new=_names(seen.key))


def _named(schema: TableSchema) -> dict[str, Column]:
    """The columns of the source. Those that record unfit values go with them, and are NULL in rows that were fit."""
    return {column.name: column for column in schema.columns if column.source_type != UNFIT}


def widened(old: Column, new: Column) -> bool:
    """Whether every value of the old column is the same value in the new one, and kept alike."""
    if old == new:
        return True
    was, now = parse_type(old.source_type), parse_type(new.source_type)
    if was == now or _form(old) != _form(new):  # other `types` in the config
        return False
    # As text a number shows all digits of its scale, and a time those of its fraction.
    shown_alike = was.fraction == now.fraction and (was.digits or (0, 0))[1] == (now.digits or (0, 0))[1]
    return holds(was, now) and (shown_alike or not pa.types.is_string(old.type))


def _form(column: Column) -> tuple[bool, bool]:
    return pa.types.is_string(column.type), pa.types.is_binary(column.type)


def holds(was: MyType, now: MyType) -> bool:
    """Whether a type has all values of another, and the server makes them nothing else: CHAR and BINARY pad, FLOAT rounds."""
    if was == now:
        return True
    if was.name in INTEGERS and now.name in INTEGERS:
        return _signs_fit(was, now) and INTEGERS.index(now.name) >= INTEGERS.index(was.name) + (was.unsigned and not now.unsigned)
    if was.name in ("varchar", *TEXTS[2:]) and now.name in ("varchar", *TEXTS[2:]):
        return _charset_holds(was, now) and _length_holds(was, now)
    if was.name in ("varbinary", *LOB_SIZES) and now.name in ("varbinary", *LOB_SIZES):
        return was.charset is None and now.charset is None and _length_holds(was, now)
    if was.name != now.name:
        return False
    if was.name == "decimal":
        return _signs_fit(was, now) and _digits_hold(was.digits or (10, 0), now.digits or (10, 0))
    if was.name in MEMBERS:
        return _charset_holds(was, now) and now.members[: len(was.members)] == was.members
    if was.name in ("bit", "char"):
        return _charset_holds(was, now) and (now.length or 0) >= (was.length or 0)
    return was.name in TIMES and now.fraction >= was.fraction


def _signs_fit(was: MyType, now: MyType) -> bool:
    return was.unsigned or not now.unsigned


def _digits_hold(was: tuple[int, int], now: tuple[int, int]) -> bool:
    return now[1] >= was[1] and now[0] - now[1] >= was[0] - was[1]


def _charset_holds(was: MyType, now: MyType) -> bool:
    return was.charset == now.charset or (was.charset, now.charset) == ("utf8mb3", "utf8mb4")


def _length_holds(was: MyType, now: MyType) -> bool:
    """Of types of any length: characters where both count in them, else bytes."""
    if now.length is not None:
        return was.length is not None and was.length <= now.length
    size = LOB_SIZES[was.name] if was.length is None else was.length * width(was.charset or "binary")
    return size <= LOB_SIZES[now.name]


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in (names if isinstance(names, tuple) else sorted(names))) or "-"
