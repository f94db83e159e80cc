"""Which tables statements that change rows write to, as logged with binlog_format=STATEMENT and MIXED (manuals: Data Manipulation)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cdc.decode.mysql.lexer import END, Form, TableName, Token, Tokens, Unreadable

_QUERIES = ("SELECT", "VALUES", "WITH", "TABLE")
_AFTER_REFERENCES = ("SET", "WHERE", "ORDER", "LIMIT", "RETURNING", ")", "}")
_BEHIND_TABLE = {
    *("CROSS", "FORCE", "FOR", "IGNORE", "INNER", "JOIN", "LEFT", "LIMIT", "NATURAL", "ON", "ORDER", "PARTITION", "RETURNING", "RIGHT"),
    *("SET", "STRAIGHT_JOIN", "USE", "USING", "WHERE"),
}


@dataclass(frozen=True, slots=True)
class _Reference:
    """A table as a statement names it. `alias` is the table's own name where it has none."""

    table: TableName
    alias: str


def read_with(tokens: Tokens) -> Token:
    """Steps over what WITH names, and over the word behind it, which it returns. Raises Unreadable."""
    while tokens.peek().word not in ("DELETE", "INSERT", "REPLACE", "SELECT", "UPDATE"):
        if tokens.skip() is END:
            raise Unreadable("WITH and nothing")
    return tokens.next()


def read_inserted(tokens: Tokens) -> Iterator[TableName]:
    while tokens.accept_any("DELAYED", "HIGH_PRIORITY", "IGNORE", "INTO", "LOW_PRIORITY"):
        pass
    yield tokens.table()


def read_loaded(tokens: Tokens) -> Iterator[TableName]:
    """LOAD DATA and LOAD XML; LOAD INDEX INTO CACHE loads nothing."""
    if tokens.accept("INDEX"):
        return
    while not tokens.accept("INTO", "TABLE"):
        if tokens.skip() is END:
            raise Unreadable("LOAD into no table")
    yield tokens.table()


def read_updated(tokens: Tokens) -> list[TableName]:
    while tokens.accept_any("IGNORE", "LOW_PRIORITY"):
        pass
    references = list(_references(tokens))
    tokens.expect("SET")
    targets = [] if len(references) == 1 else [_chain(assignment)[:-1] for assignment in tokens.list()]
    if not all(targets) or not targets:  # a bare column may be of any of the tables
        return [reference.table for reference in references]
    return _named(references, targets, tokens.statement.database)


def read_deleted(tokens: Tokens) -> list[TableName]:
    while tokens.accept_any("HISTORY", "IGNORE", "LOW_PRIORITY", "QUICK"):
        pass
    first = tokens.accept("FROM")
    targets = [_chain(tokens)]
    while tokens.accept(","):
        targets.append(_chain(tokens))
    # DELETE a, b FROM a JOIN b; DELETE FROM a, b USING a JOIN b; DELETE FROM a
    named = tokens.accept("USING") if first else tokens.accept("FROM")
    if not first and not named:
        raise Unreadable("DELETE without FROM")
    return _named(list(_references(tokens)) if named else [], targets, tokens.statement.database)


def _chain(tokens: Tokens) -> list[str]:
    """Names with a dot between, of which the last may be `*`, which is left out."""
    names = [tokens.name()]
    while tokens.accept("."):
        if not tokens.accept("*"):
            names.append(tokens.name())
    return names


def _named(references: list[_Reference], targets: list[list[str]], database: str) -> list[TableName]:
    """The tables that targets mean: an alias or name of a reference, or a table that none of them is."""
    tables = []
    for target in targets:
        table = (target[-2] if len(target) > 1 else database, target[-1])
        meant = [reference.table for reference in references if len(target) == 1 and reference.alias.lower() == target[0].lower()]
        tables += meant or [table]
    return list(dict.fromkeys(tables))


def _references(tokens: Tokens) -> Iterator[_Reference]:
    """The tables of a join, less those of subqueries. Ends before what follows it."""
    while True:
        yield from _factor(tokens)
        while (word := tokens.peek().word) not in (",", "JOIN", "STRAIGHT_JOIN"):
            if word in _AFTER_REFERENCES or tokens.peek() is END:
                return
            tokens.skip()
            if word == "FOR":  # USE INDEX FOR JOIN, FOR ORDER BY
                tokens.next()
        tokens.next()


def _factor(tokens: Tokens) -> Iterator[_Reference]:
    if tokens.peek().word == "(" and tokens.peek(1).word in _QUERIES:
        tokens.group()
    elif tokens.accept("("):
        yield from _references(tokens)
        tokens.expect(")")
    elif tokens.accept("{"):  # { OJ a LEFT JOIN b ON ... }
        tokens.next()
        yield from _references(tokens)
        tokens.expect("}")
    elif not tokens.accept("LATERAL"):
        table = tokens.table()
        if tokens.peek().word == "(":  # a function, as JSON_TABLE
            return
        if tokens.accept("PARTITION"):
            tokens.group()
        tokens.accept("AS")
        token = tokens.peek()
        named = token.form in (Form.WORD, Form.NAME) and token.word not in _BEHIND_TABLE
        yield _Reference(table, token.text if named else table[1])
