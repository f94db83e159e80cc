"""Tables' columns carried on by the alterations in the log, for where table maps do not name them (binlog_row_metadata not FULL).

Both servers do alike (sql_table.cc, mysql_prepare_alter_table): names mean columns as they were, behind AFTER and in keys as they will be.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from cdc.decode.mysql.alter import (
    FIRST,
    PRIMARY,
    AddColumn,
    AddKey,
    Alteration,
    ChangeColumn,
    DropColumn,
    DropIndex,
    RenameColumn,
    RenameIndex,
    SetCharset,
)
from cdc.decode.mysql.charsets import charset_of
from cdc.decode.mysql.columns import LOB_SIZES, ColumnDefinition, DeclaredType, converted
from cdc.decode.mysql.evolution import holds
from cdc.decode.mysql.types import MyType
from cdc.decode.mysql.wire import WireColumn
from cdc.errors import SchemaUnknown


@dataclass(frozen=True, slots=True)
class TracedColumn:
    """A column of a table, and where what its rows hold comes from.

    `type`: as declared where the table's character set counts and is not known; None where it can't be known. `nullable`: None where that
    is not known. `origin`: the column of the known table whose values the rows hold; None for those that came since, whose rows hold NULL
    unless `filled`. `filled` with an `origin`: values may have changed; None: so if the column turns out not to take NULL.
    """

    name: str
    type: MyType | DeclaredType | None
    nullable: bool | None = None
    origin: str | None = None
    filled: bool | None = False


@dataclass(frozen=True, slots=True)
class Shape:
    """A table's columns and key, and the character set for columns that name none, None where it is not known.

    The key is that of an `index`: PRIMARY, or the UNIQUE one over NOT NULL columns that the server takes for it; without it, none.
    `known`: the names of the columns that the alterations began with. `source` and `table` as in the config, for messages.
    """

    source: str
    table: str
    columns: tuple[TracedColumn, ...]
    key: tuple[str, ...]
    index: str
    charset: str | None
    known: frozenset[str]


def traced(
    source: str,
    table: str,
    columns: Iterable[tuple[str, MyType]],
    key: tuple[str, ...],
    charset: str | None = None,
    index: str = PRIMARY,
) -> Shape:
    """A table as it is known, before any alteration. `charset`: its default character set; `index`: the key's."""
    now = tuple(TracedColumn(name, my_type, nullable=False if name in key else None, origin=name) for name, my_type in columns)
    return Shape(source, table, now, key, index, charset, frozenset(column.name for column in now))


def altered(shape: Shape, alterations: Sequence[Alteration], strict: bool) -> Shape:
    """The table after the alterations of one statement. `strict`: of its session.

    Raises SchemaUnknown if they don't fit the table, and where a column is changed that the statement itself adds, as MariaDB lets it.
    """
    present = {column.name.lower() for column in shape.columns}
    needed = _in_one_charset([alteration for alteration in alterations if _applies(alteration, present)])
    dropped = {a.name.lower() for a in needed if isinstance(a, DropColumn)}
    for alteration in needed:
        gone = dropped if isinstance(alteration, ChangeColumn | RenameColumn) else set()
        if isinstance(alteration, DropColumn | ChangeColumn | RenameColumn) and alteration.name.lower() not in present - gone:
            raise SchemaUnknown("ddl.column_missing", source=shape.source, table=shape.table, column=alteration.name)
    shape = _with_charset(shape, [a for a in needed if isinstance(a, SetCharset)])
    columns = _columns(shape, needed, strict)
    if any(isinstance(a, SetCharset) and a.convert for a in needed):
        columns = [_retyped(column, _in_table_charset(column.type, shape.charset)) for column in columns]
    return _with_key(replace(shape, columns=tuple(columns)), needed, strict)


def _applies(alteration: Alteration, present: set[str]) -> bool:
    match alteration:
        case AddColumn(column, _, True):
            return column.name.lower() not in present
        case DropColumn(name, True) | RenameColumn(name, _, True) | ChangeColumn(name, _, _, True):
            return name.lower() in present
    return True


def _in_one_charset(alterations: list[Alteration]) -> list[Alteration]:
    """CONVERT TO CHARACTER SET also takes away what the statement's own definitions of texts say."""
    if not any(isinstance(a, SetCharset) and a.convert for a in alterations):
        return alterations
    return [
        replace(a, column=replace(a.column, type=_converted_with(a, a.column.type)))
        if isinstance(a, AddColumn | ChangeColumn) and a.column.type
        else a
        for a in alterations
    ]


def _converted_with(alteration: AddColumn | ChangeColumn, declared: DeclaredType) -> DeclaredType | None:
    """The type of a definition beside CONVERT. MySQL makes a TEXT or BLOB that a column is changed to as large as what the column was
    would need, even if that is less than was asked for: an INT that is made a TEXT becomes a TINYTEXT."""
    sized_anew = isinstance(alteration, ChangeColumn) and declared.name in LOB_SIZES and not declared.numbers and not declared.mariadb
    return None if sized_anew else declared.in_any_charset()


def _with_charset(shape: Shape, given: list[SetCharset]) -> Shape:
    """With two that differ the servers do not agree on what is meant."""
    charsets = {alteration.charset for alteration in given}
    return replace(shape, charset=charsets.pop() if len(charsets) == 1 else None) if given else shape


def _columns(shape: Shape, alterations: Sequence[Alteration], strict: bool) -> list[TracedColumn]:
    """Those that are changed keep their places first; then what is new or moved is put where it belongs, one after the other."""
    dropped = {a.name.lower() for a in alterations if isinstance(a, DropColumn)}
    renamed = {a.name.lower(): a.to for a in alterations if isinstance(a, RenameColumn)}
    changed = {a.name.lower(): a.column for a in alterations if isinstance(a, ChangeColumn)}
    columns: list[TracedColumn] = []
    for column in shape.columns:
        name = column.name.lower()
        if name in changed:
            columns.append(_changed(shape, column, changed[name], strict))
        elif name not in dropped:
            columns.append(replace(column, name=renamed.get(name, column.name)))
    for alteration in alterations:
        match alteration:
            case AddColumn(definition, place):
                _put(shape, columns, _added(shape, definition), place)
            case ChangeColumn(_, definition, str(place)):
                moved = next(column for column in columns if column.name == definition.name)
                columns.remove(moved)
                _put(shape, columns, moved, place)
    return columns


def _put(shape: Shape, columns: list[TracedColumn], column: TracedColumn, place: str | None) -> None:
    if place is None or place == FIRST:
        columns.insert(len(columns) if place is None else 0, column)
        return
    names = [other.name.lower() for other in columns]
    if place.lower() not in names:
        raise SchemaUnknown("ddl.column_missing", source=shape.source, table=shape.table, column=place)
    columns.insert(names.index(place.lower()) + 1, column)


def _added(shape: Shape, definition: ColumnDefinition) -> TracedColumn:
    filled = True if definition.default or definition.generated or definition.auto_increment else _not(definition.nullable)
    return TracedColumn(definition.name, _type(shape, definition.type), definition.nullable, None, filled)


def _changed(shape: Shape, column: TracedColumn, definition: ColumnDefinition, strict: bool) -> TracedColumn:
    """Where NULL is no longer allowed a session that is not strict puts 0 or ''; AUTO_INCREMENT puts numbers."""
    had_nulls = column.nullable is not False
    renewed = definition.generated or (had_nulls and (definition.auto_increment or (definition.nullable is not True and not strict)))
    column = replace(column, name=definition.name, nullable=definition.nullable, filled=column.filled or renewed)
    return _retyped(column, _type(shape, definition.type))


def _retyped(column: TracedColumn, to: MyType | DeclaredType | None) -> TracedColumn:
    """With another type. What comes of a type that is not known may have lost something on the way."""
    kept = isinstance(column.type, MyType) and (to is None or isinstance(to, DeclaredType) or holds(column.type, to))
    return replace(column, type=to, filled=column.filled if kept else True)


def _not(nullable: bool | None) -> bool | None:
    return None if nullable is None else not nullable


def _type(shape: Shape, declared: DeclaredType | None) -> MyType | DeclaredType | None:
    if declared is None:
        return None
    unsettled = declared if declared.wants_charset and shape.charset is None else None
    return declared.resolve(shape.charset) or unsettled


def _in_table_charset(my_type: MyType | DeclaredType | None, charset: str | None) -> MyType | DeclaredType | None:
    """The type after CONVERT TO CHARACTER SET."""
    if not isinstance(my_type, MyType) or my_type.charset is None:
        return my_type
    return None if charset is None else converted(my_type, charset)


def _with_key(shape: Shape, alterations: Sequence[Alteration], strict: bool) -> Shape:
    """The key after the alterations. Its columns refuse NULL: a session that is not strict puts 0 or '' in those that are new in it."""
    renamed = {a.name.lower(): a.to.lower() for a in alterations if isinstance(a, RenameColumn)}
    renamed |= {a.name.lower(): a.column.name.lower() for a in alterations if isinstance(a, ChangeColumn)}
    without_null = {renamed.get(name.lower(), name.lower()) for name in shape.key}
    index, key = _kept_key(shape, alterations)
    key = [renamed.get(name, name) for name in key]
    for alteration in alterations:
        match alteration:
            case AddKey(names, if_needed) if not (if_needed and key and index == PRIMARY):
                index, key = PRIMARY, [name.lower() for name in names]
            case AddColumn(definition) | ChangeColumn(_, definition) if definition.primary:
                index, key = PRIMARY, [definition.name.lower()]
    columns = {column.name.lower(): column for column in shape.columns}
    for name in [name for name in key if name in columns and columns[name].nullable is not False]:
        kept = strict or name in without_null
        columns[name] = replace(columns[name], nullable=False, filled=columns[name].filled if kept else True)
    return replace(shape, columns=tuple(columns.values()), index=index, key=tuple(columns[name].name for name in key if name in columns))


def _kept_key(shape: Shape, alterations: Sequence[Alteration]) -> tuple[str, list[str]]:
    """The index, and what the alterations leave of the key, by names as they were. A column dropped and added again stays in it."""
    index, key = shape.index, [name.lower() for name in shape.key]
    added = {a.column.name.lower() for a in alterations if isinstance(a, AddColumn)}
    for alteration in alterations:
        match alteration:
            case DropIndex(name) if name.lower() == index.lower():
                key = []
            case DropColumn(name) if name.lower() not in added:
                key = [column for column in key if column != name.lower()]
            case ChangeColumn(name, definition) if name.lower() in key and index != PRIMARY and definition.nullable is not False:
                key = []
            case RenameIndex(name, to) if name.lower() == index.lower():
                index = to
    return index, key


def settled(shape: Shape, wire: Sequence[WireColumn]) -> Shape:
    """The table with what its next table map tells: character sets, and what may be NULL. Raises SchemaUnknown if a type stays unknown."""
    if len(wire) != len(shape.columns):
        raise SchemaUnknown("ddl.columns_differ", source=shape.source, table=shape.table, known=len(shape.columns), found=len(wire))
    return replace(shape, columns=tuple(_settled(shape, column, told) for column, told in zip(shape.columns, wire, strict=True)))


def _settled(shape: Shape, column: TracedColumn, told: WireColumn) -> TracedColumn:
    my_type = column.type
    if isinstance(my_type, DeclaredType):
        charset = None if told.collation is None else charset_of(told.collation)
        my_type = my_type.resolve(charset)
        if my_type is None:
            raise SchemaUnknown("ddl.charset_unknown", source=shape.source, table=shape.table, column=column.name)
    if my_type is None:
        raise SchemaUnknown("ddl.type_unknown", source=shape.source, table=shape.table, column=column.name)
    filled = not told.nullable if column.filled is None else column.filled
    return replace(column, type=my_type, nullable=told.nullable, filled=filled)


def filled(shape: Shape) -> frozenset[str]:
    """The columns that do not hold, in every row that was there, what the known column of that name held, or NULL where there was none."""
    return frozenset(column.name for column in shape.columns if not _followed(shape, column))


def _followed(shape: Shape, column: TracedColumn) -> bool:
    if column.origin is None:
        return column.filled is False and column.name not in shape.known
    return column.filled is False and column.origin == column.name
