"""The words of a statement as MySQL's and MariaDB's lexers cut them (manual: Lexical Structure, Comments).

A lexer of our own, as sqlglot's takes executable comments for comments, knows no NO_BACKSLASH_ESCAPES, and ends a name at whatever is
white space to Unicode: a TRUNCATE could be missed. An executable comment that the server did not execute it logs as a plain one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from cdc.decode.mysql.wire import Statement

TableName = tuple[str, str]  # database, table


@dataclass(frozen=True, slots=True)
class Dialect:
    """Of the server. `folds_names`: names of databases and tables are compared without case (lower_case_table_names is not 0)."""

    mariadb: bool = False
    folds_names: bool = False


class Unreadable(Exception):
    """The text is not what we can read; never leaves this package."""


class Form(Enum):
    WORD = "word"  # a bare name, a keyword, or a number
    NAME = "name"  # a quoted name
    STRING = "string"
    SIGN = "sign"
    END = "end"


class Token(NamedTuple):
    """`text`: of names and strings without quotes and escapes. `word`: a bare word in capitals, or a sign; "" else."""

    form: Form
    text: str
    word: str = ""


END = Token(Form.END, "")

_NEVER = r"(?!)"
_SPACE = r"[ \t\n\v\f\r;]+|\#[^\n]*|--(?=[\x00-\x20\x7f]|\Z)[^\n]*"
_STRING = {False: r"'(?:[^'\\]++|\\.|'')*+'", True: r"'(?:[^']++|'')*+'"}  # by NO_BACKSLASH_ESCAPES
_QUOTED = r'"(?:[^"]++|"")*+"'
_ESCAPES = {quote: re.compile(rf"\\(.)|{quote}({quote})", re.DOTALL) for quote in "'\""}
_ESCAPED = {"0": "\0", "b": "\b", "n": "\n", "r": "\r", "t": "\t", "Z": "\x1a", "%": "\\%", "_": "\\_"}


def _pattern(ansi_quotes: bool, raw: bool, mariadb: bool) -> re.Pattern[str]:
    string = _STRING[raw]
    return re.compile(
        rf"(?P<space>{_SPACE})|(?P<open>/\*{'M?' if mariadb else ''}!(?:\d{{5,6}})?)|(?P<comment>/\*.*?\*/)|(?P<close>\*/)"
        r"|(?P<word>[0-9A-Za-z_$\u0080-\U0010ffff]+)|(?P<name>`(?:[^`]++|``)*+`)"
        rf"|(?P<quoted>{_QUOTED if ansi_quotes else _NEVER})"
        rf"|(?P<string>{string}|{_NEVER if ansi_quotes else string.replace(chr(39), chr(34))})|(?P<sign>[^'\"`])",
        re.DOTALL,
    )


_PATTERNS = {
    (ansi_quotes, raw, mariadb): _pattern(ansi_quotes, raw, mariadb)
    for ansi_quotes in (False, True)
    for raw in (False, True)
    for mariadb in (False, True)
}


def lex(statement: Statement, dialect: Dialect) -> Iterator[Token]:
    """The tokens of a statement without comments and semicolons. Raises Unreadable for a quote that is never closed."""
    raw = statement.no_backslash_escapes
    text, at, opened = statement.text, 0, 0
    pattern = _PATTERNS[statement.ansi_quotes, raw, dialect.mariadb]
    while at < len(text):
        match = pattern.match(text, at)
        if match is None:
            raise Unreadable(text[at : at + 20])
        form, found, at = match.lastgroup, match[0], match.end()
        if form == "open":
            opened += 1
        elif form == "close" and opened:
            opened -= 1
        elif form == "close":  # a product before a comment: 2*/* two */2
            at = match.start() + 1
            yield Token(Form.SIGN, "*", "*")
        elif form == "word":
            yield Token(Form.WORD, found, found.upper())
        elif form in ("name", "quoted"):
            yield Token(Form.NAME, found[1:-1].replace(found[0] * 2, found[0]))
        elif form == "string":
            yield Token(Form.STRING, _unquoted(found, raw))
        elif form == "sign":
            yield Token(Form.SIGN, found, found)


def _unquoted(literal: str, raw: bool) -> str:
    quote, inner = literal[0], literal[1:-1]
    if raw:
        return inner.replace(quote * 2, quote)
    return _ESCAPES[quote].sub(lambda match: match[2] if match[1] is None else _ESCAPED.get(match[1], match[1]), inner)


class Tokens:
    """Reads a statement, or a part of one, from left to right. Its tokens are made as they are asked for."""

    def __init__(self, tokens: Iterable[Token], statement: Statement, dialect: Dialect) -> None:
        self.statement, self.dialect = statement, dialect
        self._rest = iter(tokens)
        self._read: list[Token] = []
        self._next = 0

    @classmethod
    def of(cls, statement: Statement, dialect: Dialect) -> Tokens:
        return cls(lex(statement, dialect), statement, dialect)

    def part(self, tokens: Iterable[Token]) -> Tokens:
        """A reader of some tokens of this one."""
        return Tokens(tokens, self.statement, self.dialect)

    def peek(self, ahead: int = 0) -> Token:
        """The next token, or one further on; END past the last. Raises Unreadable."""
        while len(self._read) <= self._next + ahead:
            token = next(self._rest, None)
            if token is None:
                return END
            self._read.append(token)
        return self._read[self._next + ahead]

    def next(self) -> Token:
        token = self.peek()
        if token is not END:
            self._next += 1
        return token

    def accept(self, *words: str) -> bool:
        """Steps over the words if they are what comes next, one after the other."""
        if any(self.peek(ahead).word != word for ahead, word in enumerate(words)):
            return False
        self._next += len(words)
        return True

    def accept_any(self, *words: str) -> str:
        """Steps over one of the words and returns it; "" if none comes next."""
        word = self.peek().word
        return self.next().word if word in words else ""

    def expect(self, *words: str) -> None:
        """Steps over the words. Raises Unreadable if something else comes next."""
        if not self.accept(*words):
            raise Unreadable(f"{words} expected, {self.peek()} found")

    def name(self) -> str:
        """A name, quoted or bare. Raises Unreadable."""
        token = self.next()
        if token.form not in (Form.WORD, Form.NAME):
            raise Unreadable(f"a name expected, {token} found")
        return token.text

    def table(self) -> TableName:
        """A table's name with its database, the default one where none is given. Raises Unreadable."""
        if self.accept("."):
            return self.statement.database, self.name()
        first = self.name()
        return (first, self.name()) if self.accept(".") else (self.statement.database, first)

    def group(self) -> list[Token]:
        """Steps over a pair of parentheses and returns what is inside. Raises Unreadable."""
        self.expect("(")
        inside: list[Token] = []
        depth = 1
        while True:
            token = self.next()
            depth += {"(": 1, ")": -1}.get(token.word, 0)
            if token is END:
                raise Unreadable("a parenthesis is not closed")
            if depth == 0:
                return inside
            inside.append(token)

    def skip(self) -> Token:
        """Steps over one token, or over parentheses with all that is in them; returns the first of it."""
        token = self.peek()
        if token.word == "(":
            self.group()
        else:
            self.next()
        return token

    def rest(self) -> list[Token]:
        """Steps over all that is left and returns it."""
        tokens = []
        while (token := self.next()) is not END:
            tokens.append(token)
        return tokens

    def list(self) -> Iterator[Tokens]:
        """All that is left, cut at the commas outside of parentheses."""
        item: list[Token] = []
        depth = 0
        while (token := self.next()) is not END:
            depth += {"(": 1, ")": -1}.get(token.word, 0)
            if token.word == "," and depth == 0:
                yield self.part(item)
                item = []
            else:
                item.append(token)
        yield self.part(item)
