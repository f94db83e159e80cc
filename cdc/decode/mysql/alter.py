"""What an ALTER TABLE does, as the statement says it (manuals: ALTER TABLE, Partition Operations)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from cdc.decode.mysql.columns import ColumnDefinition, read_charset, read_collation, read_definition
from cdc.decode.mysql.lexer import END, Form, TableName, Token, Tokens, Unreadable

PRIMARY = "PRIMARY"  # the primary key's name as an index
FIRST = ""  # as `place`; no column is called so


@dataclass(frozen=True, slots=True)
class AddColumn:
    """`place`: the column behind which it goes, FIRST, or None for the end. `if_needed`: not if there is one of the name."""

    column: ColumnDefinition
    place: str | None = None
    if_needed: bool = False


@dataclass(frozen=True, slots=True)
class DropColumn:
    name: str
    if_there: bool = False


@dataclass(frozen=True, slots=True)
class ChangeColumn:
    """CHANGE and MODIFY, which keeps the name. `place`: None where it stays."""

    name: str
    column: ColumnDefinition
    place: str | None = None
    if_there: bool = False


@dataclass(frozen=True, slots=True)
class RenameColumn:
    name: str
    to: str
    if_there: bool = False


@dataclass(frozen=True, slots=True)
class AddKey:
    """A primary key."""

    columns: tuple[str, ...]
    if_needed: bool = False


@dataclass(frozen=True, slots=True)
class DropIndex:
    """`name` is PRIMARY for the primary key."""

    name: str


@dataclass(frozen=True, slots=True)
class RenameIndex:
    name: str
    to: str


@dataclass(frozen=True, slots=True)
class SetCharset:
    """The character set of columns to come, and with `convert` of those there are. None: the database's."""

    charset: str | None
    convert: bool = False


Alteration = AddColumn | DropColumn | ChangeColumn | RenameColumn | AddKey | DropIndex | RenameIndex | SetCharset


@dataclass(frozen=True, slots=True)
class Rename:
    to: TableName


@dataclass(frozen=True, slots=True)
class Truncate:
    """All partitions at once."""


@dataclass(frozen=True, slots=True)
class Unlogged:
    """Rows go, come or change that the log does not hold; those of `other` too, where one is named."""

    action: str
    other: TableName | None = None


Item = Alteration | Rename | Truncate | Unlogged

# These keep all rows.
_OF_PARTITIONS = ("REBUILD", "OPTIMIZE", "ANALYZE", "CHECK", "REPAIR", "COALESCE", "REORGANIZE", "PARTITION", "REMOVE")
_HARMLESS = ("ALTER", "ALGORITHM", "DISABLE", "ENABLE", "FORCE", "LOCK", "SECONDARY_LOAD", "SECONDARY_UNLOAD", "WITH", "WITHOUT")
_OPTIONS = {
    *("AUTOEXTEND_SIZE", "AUTO_INCREMENT", "AVG_ROW_LENGTH", "CHECKSUM", "COMMENT", "COMPRESSION", "CONNECTION", "DATA", "DELAY_KEY_WRITE"),
    *("ENCRYPTION", "ENGINE_ATTRIBUTE", "INDEX", "INSERT_METHOD", "KEY_BLOCK_SIZE", "MAX_ROWS", "MIN_ROWS", "PACK_KEYS", "PAGE_CHECKSUM"),
    *("PASSWORD", "ROW_FORMAT", "SECONDARY_ENGINE", "SECONDARY_ENGINE_ATTRIBUTE", "STATS_AUTO_RECALC", "STATS_PERSISTENT"),
    *("STATS_SAMPLE_PAGES", "STORAGE", "TABLESPACE", "TABLE_CHECKSUM", "TRANSACTIONAL"),
    *("CHARACTER", "CHAR", "CHARSET", "COLLATE", "DEFAULT", "ENGINE", "TYPE", "UNION"),
}
_KEEPING_ENGINES = {"INNODB", "MYISAM", "ARIA", "MEMORY", "HEAP", "ROCKSDB", "ARCHIVE", "NDB", "NDBCLUSTER", "COLUMNSTORE", "TOKUDB", "S3"}


def read_alterations(tokens: Tokens) -> Iterator[Item]:
    """What stands behind the table's name in ALTER TABLE, less what changes neither rows nor columns. Raises Unreadable."""
    for item in tokens.list():
        part = tokens.part(_before_partitioning(item.rest()))
        word, of_partitions = part.peek().word, part.peek(1).word == "PARTITION"
        if word in _OF_PARTITIONS or word == "ORDER":  # the commas from here on are of another list
            return
        if of_partitions or part.accept("CONVERT", "TABLE"):
            yield from _read_partitions(word, part)
            return
        if word in _READERS:
            part.next()
            yield from _READERS[word](part)
        elif word not in _HARMLESS and part.peek() is not END:
            yield from _read_options(part)


def _before_partitioning(tokens: list[Token]) -> list[Token]:
    """The last alteration may be followed by how the table is to be partitioned, without a comma."""
    depth = 0
    for at, (token, after) in enumerate(itertools.pairwise(tokens)):
        depth += {"(": 1, ")": -1}.get(token.word, 0)
        if at and depth == 0 and (token.word, after.word) in (("PARTITION", "BY"), ("REMOVE", "PARTITIONING")):
            return tokens[:at]
    return tokens


def _read_partitions(word: str, part: Tokens) -> Iterator[Item]:
    if word == "ADD":
        return
    if word == "TRUNCATE" and part.accept("TRUNCATE", "PARTITION", "ALL"):
        yield Truncate()
    elif word == "EXCHANGE":
        _skip_to(part, "WITH", "TABLE")
        yield Unlogged("EXCHANGE PARTITION", part.table())
    elif word == "CONVERT":  # a partition to a table, or a table to a partition, where CONVERT TABLE has been stepped over
        if part.accept("CONVERT", "PARTITION"):
            _skip_to(part, "TO", "TABLE")
        yield Unlogged("CONVERT PARTITION", part.table())
    else:
        yield Unlogged(f"{word} PARTITION")


def _skip_to(part: Tokens, *words: str) -> None:
    while not part.accept(*words):
        if part.skip() is END:
            raise Unreadable(f"no {words}")


def _read_add(part: Tokens) -> Iterator[Item]:
    column, if_needed = part.accept("COLUMN"), part.accept("IF", "NOT", "EXISTS")
    if part.peek().word == "(":
        for element in part.part(part.group()).list():
            yield from _read_element(element, if_needed)
    elif column or if_needed:
        yield _read_column(part, if_needed)
    else:
        yield from _read_element(part, if_needed)


def _read_element(part: Tokens, if_needed: bool) -> Iterator[Item]:
    """A column, an index or a constraint, as ADD and the list in parentheses have them."""
    if part.accept("CONSTRAINT"):
        part.accept("IF", "NOT", "EXISTS")
        if part.peek().word not in ("PRIMARY", "UNIQUE", "FOREIGN", "CHECK"):
            part.name()
    word, after = part.peek().word, part.peek(1).word
    if word in ("INDEX", "KEY", "UNIQUE", "FULLTEXT", "SPATIAL", "FOREIGN", "CHECK") or (word == "VECTOR" and _is_vector_index(part)):
        return
    if word == "PRIMARY":
        yield _read_key(part)
    elif (word, after) in (("PERIOD", "FOR"), ("SYSTEM", "VERSIONING")):
        yield from _read_versioning(part)
    else:
        yield _read_column(part, if_needed or part.accept("IF", "NOT", "EXISTS"))


def _is_vector_index(part: Tokens) -> bool:
    """VECTOR may also be a column's name, which a type follows: what its parentheses hold are no names."""
    if part.peek(1).word in ("INDEX", "KEY", "IF", "("):
        return True
    inside = part.peek(3)
    return part.peek(2).word == "(" and inside.form in (Form.WORD, Form.NAME) and not inside.text.isdecimal()


def _read_key(part: Tokens) -> AddKey:
    part.expect("PRIMARY", "KEY")
    if_needed = part.accept("IF", "NOT", "EXISTS")
    while part.peek().word != "(":
        if part.next() is END:
            raise Unreadable("a key without columns")
    columns = []
    for column in part.part(part.group()).list():
        columns.append(column.name())
        if column.accept("WITHOUT"):
            raise Unreadable("a key over a period")
    return AddKey(tuple(columns), if_needed)


def _read_column(part: Tokens, if_needed: bool) -> AddColumn:
    definition, place = _cut_place(part.rest())
    return AddColumn(read_definition(part.part(definition)), place, if_needed)


def _cut_place(tokens: list[Token]) -> tuple[list[Token], str | None]:
    """A definition and the place behind it. Name and type come first, as FIRST and AFTER may be names too."""
    if len(tokens) > 3 and tokens[-2].word == "AFTER":
        return tokens[:-2], tokens[-1].text
    if len(tokens) > 2 and tokens[-1].word == "FIRST":
        return tokens[:-1], FIRST
    return tokens, None


def _read_versioning(part: Tokens) -> Iterator[Item]:
    """MariaDB's tables that keep their history: that is rows of the log too."""
    if not part.accept("PERIOD", "FOR") or part.accept("SYSTEM_TIME"):
        yield Unlogged("SYSTEM VERSIONING")


def _read_drop(part: Tokens) -> Iterator[Item]:
    word, after = part.peek().word, part.peek(1).word
    if part.accept("PRIMARY", "KEY"):
        yield DropIndex(PRIMARY)
    elif part.accept_any("INDEX", "KEY", "CONSTRAINT"):
        part.accept("IF", "EXISTS")
        yield DropIndex(part.name())
    elif (word, after) in (("PERIOD", "FOR"), ("SYSTEM", "VERSIONING")):
        yield from _read_versioning(part)
    elif word not in ("FOREIGN", "CHECK"):
        part.accept("COLUMN")
        if_there = part.accept("IF", "EXISTS")
        yield DropColumn(part.name(), if_there)


def _read_change(part: Tokens) -> Iterator[Item]:
    part.accept("COLUMN")
    if_there = part.accept("IF", "EXISTS")
    name = part.name()
    definition, place = _cut_place(part.rest())
    yield ChangeColumn(name, read_definition(part.part(definition)), place, if_there)


def _read_modify(part: Tokens) -> Iterator[Item]:
    part.accept("COLUMN")
    if_there = part.accept("IF", "EXISTS")
    definition, place = _cut_place(part.rest())
    column = read_definition(part.part(definition))
    yield ChangeColumn(column.name, column, place, if_there)


def _read_rename(part: Tokens) -> Iterator[Item]:
    if part.accept("COLUMN"):
        if_there = part.accept("IF", "EXISTS")
        name = part.name()
        part.expect("TO")
        yield RenameColumn(name, part.name(), if_there)
    elif part.accept_any("INDEX", "KEY"):
        part.accept("IF", "EXISTS")
        name = part.name()
        part.expect("TO")
        yield RenameIndex(name, part.name())
    else:
        part.accept_any("TO", "AS", "=")
        yield Rename(part.table())


def _read_convert(part: Tokens) -> Iterator[Item]:
    part.expect("TO")
    if not part.accept("CHARSET"):
        part.next()
        part.expect("SET")
    yield SetCharset(read_charset(part), convert=True)


def _read_tablespace(part: Tokens) -> Iterator[Item]:
    yield Unlogged("TABLESPACE")


def _read_options(part: Tokens) -> Iterator[Item]:
    """Table options. Raises Unreadable for what does not begin like one."""
    if part.peek().word not in _OPTIONS and part.peek(1).word != "=":
        raise Unreadable(f"an alteration that is not known: {part.peek()}")
    charset, collation = False, None
    while (token := part.skip()) is not END:
        if token.word == "CHARSET" or (token.word in ("CHARACTER", "CHAR") and part.accept("SET")):
            part.accept("=")
            charset = True
            yield SetCharset(read_charset(part))
        elif token.word == "COLLATE":
            part.accept("=")
            collation = read_collation(part)
        elif token.word in ("ENGINE", "TYPE"):
            part.accept("=")
            if (engine := part.next().text).upper() not in _KEEPING_ENGINES:
                yield Unlogged(f"ENGINE = {engine}")
        elif token.word == "UNION":
            yield Unlogged("UNION")
    if collation is not None and not charset:
        yield SetCharset(collation)


_READERS: dict[str, Callable[[Tokens], Iterator[Item]]] = {
    "ADD": _read_add,
    "CHANGE": _read_change,
    "CONVERT": _read_convert,
    "DISCARD": _read_tablespace,
    "DROP": _read_drop,
    "IMPORT": _read_tablespace,
    "MODIFY": _read_modify,
    "RENAME": _read_rename,
}
