"""What the statements of a binlog do to captured tables.

What a text does not show is not found: rows of other tables that a statement changes by triggers, foreign keys, views and MERGE tables.
With binlog_format=ROW the log has as rows what triggers and views change.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

from cdc.decode.mysql.alter import Alteration, DropIndex, Rename, Truncate, Unlogged, read_alterations
from cdc.decode.mysql.dml import read_deleted, read_inserted, read_loaded, read_updated, read_with
from cdc.decode.mysql.lexer import END, Dialect, Form, TableName, Token, Tokens, Unreadable
from cdc.decode.mysql.wire import Statement


class Kind(StrEnum):
    """What happens to a table. The binlog holds the rows that come of none of these.

    `truncated`: it is empty. `dropped`: it is gone. `created`: it is there, and empty. `replaced`: its name is another table's, or
    nobody's. `altered`: its columns or its key changed. `unlogged`: rows went, came or changed. `written`: rows changed by the statement,
    as binlog_format=STATEMENT and MIXED have it. `unknown`: it is named by a statement that we can't read.
    """

    TRUNCATED = "truncated"
    DROPPED = "dropped"
    CREATED = "created"
    REPLACED = "replaced"
    ALTERED = "altered"
    UNLOGGED = "unlogged"
    WRITTEN = "written"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class TableEffect:
    """What a statement does to a captured table, named as in `captured`.

    `action`: for messages, as DROP PARTITION. `now`: of `replaced`, the table that bears the name now, by its name before; None if there is
    none. `if_needed`: that nothing happened if the table was there. `alterations`: of `altered`, see history.altered.
    A stored function that writes is logged as the SELECT that called it: `unknown`, without a table, as it may be any.
    """

    kind: Kind
    database: str
    table: str
    action: str = ""
    now: TableName | None = None
    if_needed: bool = False
    alterations: tuple[Alteration, ...] = ()


ANY = ""  # all tables of a database
_Read = Callable[[Tokens], Iterator[TableEffect]]


def effects(statement: Statement, captured: Collection[TableName], dialect: Dialect) -> tuple[TableEffect, ...]:
    """What a statement does to the captured tables, in order; nothing for most."""
    try:
        named = list(_read(Tokens.of(statement, dialect)))
    except Unreadable:
        named = list(_mentioned(statement, captured, dialect))
    return tuple(_of_captured(named, captured, dialect))


def _of_captured(named: Iterable[TableEffect], captured: Collection[TableName], dialect: Dialect) -> Iterator[TableEffect]:
    for effect in named:
        if effect.kind is Kind.UNKNOWN and effect.table == ANY:
            yield effect
        for database, table in captured:
            if _same(effect.database, database, dialect) and (effect.table == ANY or _same(effect.table, table, dialect)):
                yield replace(effect, database=database, table=table)


def _same(name: str, other: str, dialect: Dialect) -> bool:
    return name == other or (dialect.folds_names and name.lower() == other.lower())


def _mentioned(statement: Statement, captured: Collection[TableName], dialect: Dialect) -> Iterator[TableEffect]:
    """The captured tables whose names stand in a statement that can't be read."""
    try:
        tokens = Tokens.of(statement, dialect).rest()
    except Unreadable:
        yield from (TableEffect(Kind.UNKNOWN, *name) for name in captured if name[1].lower() in statement.text.lower())
        return
    for database, table in captured:
        if any(_same(name, table, dialect) and _same(of, database, dialect) for of, name in _names(tokens, statement.database)):
            yield TableEffect(Kind.UNKNOWN, database, table)


def _names(tokens: list[Token], database: str) -> Iterator[TableName]:
    """All that may be a table's name: every name, with the one before a dot or the default database."""
    for at, token in enumerate(tokens):
        if token.form in (Form.WORD, Form.NAME):
            qualified = at > 1 and tokens[at - 1].word == "."
            yield (tokens[at - 2].text if qualified else database), token.text


def _read(tokens: Tokens) -> Iterator[TableEffect]:
    """The effects on all tables, captured or not. Raises Unreadable."""
    while tokens.accept("SET", "STATEMENT"):
        while tokens.peek().word != "FOR":
            if tokens.skip() is END:
                raise Unreadable("SET STATEMENT without FOR")
        tokens.next()
    head = tokens.next()
    if head is END or head.word in _HARMLESS:
        return
    if head.word == "WITH":
        head = read_with(tokens)
    if head.word not in _READERS:
        raise Unreadable(f"a statement that is not known: {head}")
    yield from _READERS[head.word](tokens)


_HARMLESS = {
    *("ANALYZE", "BEGIN", "CACHE", "COMMIT", "FLUSH", "GRANT", "INSTALL", "LOCK", "OPTIMIZE", "RELEASE", "REPAIR", "REVOKE", "ROLLBACK"),
    *("SAVEPOINT", "SET", "START", "UNINSTALL", "UNLOCK", "USE", "XA"),
}
# What CREATE, ALTER and DROP make, change and remove beside tables; the bodies of some name tables, and change none.
_OTHER_KINDS = {
    *("CATALOG", "EVENT", "FUNCTION", "INSTANCE", "LIBRARY", "LOGFILE", "PACKAGE", "PREPARE", "PROCEDURE", "REFERENCE", "RESOURCE", "ROLE"),
    *("SEQUENCE", "SERVER", "TABLESPACE", "TRIGGER", "USER", "VIEW"),
}
_KINDS = {"TABLE", "TABLES", "DATABASE", "SCHEMA", "INDEX", "TEMPORARY", *_OTHER_KINDS}


def _kind(tokens: Tokens) -> tuple[str, set[str]]:
    """Steps up to what kind of thing a CREATE, ALTER or DROP is about; returns it, and the words on the way. Raises Unreadable."""
    passed = set()
    while (word := tokens.peek().word) not in _KINDS:
        if tokens.skip() is END:
            raise Unreadable("the kind of thing is not known")
        passed.add(word)
    tokens.next()
    return word, passed


def _read_create(tokens: Tokens) -> Iterator[TableEffect]:
    kind, passed = _kind(tokens)
    if kind in ("DATABASE", "SCHEMA"):
        tokens.accept("IF", "NOT", "EXISTS")
        if "REPLACE" in passed:
            yield TableEffect(Kind.DROPPED, tokens.name(), ANY, "CREATE OR REPLACE DATABASE")
    elif kind == "TABLE":
        if_needed = tokens.accept("IF", "NOT", "EXISTS")
        table = tokens.table()
        if "REPLACE" in passed:
            yield TableEffect(Kind.DROPPED, *table, "CREATE OR REPLACE TABLE")
        yield TableEffect(Kind.CREATED, *table, "CREATE TABLE", if_needed=if_needed)
        if _has_query(tokens):
            yield TableEffect(Kind.WRITTEN, *table, "CREATE TABLE ... SELECT", if_needed=if_needed)


_QUERIES = ("SELECT", "VALUES", "WITH", "TABLE")


def _has_query(tokens: Tokens) -> bool:
    """Whether what stands behind the name of a table to be made has a query that fills it; only the statement format logs one."""
    while (token := tokens.peek()) is not END:
        if token.word in ("SELECT", "VALUES", "TABLE"):
            return True
        if token.word == "(" and tokens.part(tokens.group()).peek().word in ("(", *_QUERIES):
            return True
        if token.word != "(":
            tokens.next()
    return False


def _read_drop(tokens: Tokens) -> Iterator[TableEffect]:
    kind, _ = _kind(tokens)
    tokens.accept("IF", "EXISTS")
    if kind in ("DATABASE", "SCHEMA"):
        yield TableEffect(Kind.DROPPED, tokens.name(), ANY, "DROP DATABASE")
    elif kind == "INDEX":
        name = tokens.name()
        tokens.expect("ON")
        yield TableEffect(Kind.ALTERED, *tokens.table(), "DROP INDEX", alterations=(DropIndex(name),))
    elif kind in ("TABLE", "TABLES"):
        yield TableEffect(Kind.DROPPED, *tokens.table(), "DROP TABLE")
        while tokens.accept(","):
            yield TableEffect(Kind.DROPPED, *tokens.table(), "DROP TABLE")


def _read_truncate(tokens: Tokens) -> Iterator[TableEffect]:
    tokens.accept("TABLE")
    yield TableEffect(Kind.TRUNCATED, *tokens.table(), "TRUNCATE TABLE")


def _read_rename(tokens: Tokens) -> Iterator[TableEffect]:
    if tokens.accept("USER"):
        return
    if not tokens.accept_any("TABLE", "TABLES"):
        raise Unreadable("RENAME of what is not known")
    tokens.accept("IF", "EXISTS")
    renamed = []
    for item in tokens.list():
        table = item.table()
        _accept_wait(item)
        item.expect("TO")
        renamed.append((table, item.table()))
    yield from _replaced(renamed, "RENAME TABLE")


def _replaced(renamed: list[tuple[TableName, TableName]], action: str) -> Iterator[TableEffect]:
    """Renamed one after the other: what matters is which table bears a name in the end."""
    now: dict[TableName, TableName | None] = {}
    for name, to in renamed:
        now[to] = now.get(name, name)
        now[name] = None
    yield from (TableEffect(Kind.REPLACED, *name, action, now=bearer) for name, bearer in now.items() if bearer != name)


def _accept_wait(tokens: Tokens) -> None:
    if tokens.accept("WAIT"):
        tokens.next()
    else:
        tokens.accept("NOWAIT")


def _read_alter(tokens: Tokens) -> Iterator[TableEffect]:
    kind, passed = _kind(tokens)
    if kind != "TABLE":
        return
    tokens.accept("IF", "EXISTS")
    table = tokens.table()
    _accept_wait(tokens)
    altered: list[Alteration] = []
    others: list[TableEffect] = []
    if "IGNORE" in passed:
        others.append(TableEffect(Kind.UNLOGGED, *table, "ALTER IGNORE TABLE"))
    for item in read_alterations(tokens):
        match item:
            case Rename(to):
                others += _replaced([(table, to)], "ALTER TABLE ... RENAME")
            case Truncate():
                others.append(TableEffect(Kind.TRUNCATED, *table, "TRUNCATE PARTITION ALL"))
            case Unlogged(action, other):
                others += [TableEffect(Kind.UNLOGGED, *name, action) for name in (table, other) if name is not None]
            case _:
                altered.append(item)
    if altered:
        yield TableEffect(Kind.ALTERED, *table, "ALTER TABLE", alterations=tuple(altered))
    yield from others


def _written(action: str, read: Callable[[Tokens], Iterable[TableName]]) -> _Read:
    def effects_of(tokens: Tokens) -> Iterator[TableEffect]:
        return (TableEffect(Kind.WRITTEN, *table, action) for table in read(tokens))

    return effects_of


def _read_call(tokens: Tokens) -> Iterator[TableEffect]:
    yield TableEffect(Kind.UNKNOWN, "", ANY, "a stored function that writes")


_READERS: dict[str, _Read] = {
    "ALTER": _read_alter,
    "CREATE": _read_create,
    "DROP": _read_drop,
    "RENAME": _read_rename,
    "TRUNCATE": _read_truncate,
    "DELETE": _written("DELETE", read_deleted),
    "INSERT": _written("INSERT", read_inserted),
    "LOAD": _written("LOAD", read_loaded),
    "REPLACE": _written("REPLACE", read_inserted),
    "UPDATE": _written("UPDATE", read_updated),
    "DO": _read_call,
    "SELECT": _read_call,
    "(": _read_call,
}
