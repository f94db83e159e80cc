"""Partial updates of JSON columns (binlog_row_value_options=PARTIAL_JSON): what a PARTIAL_UPDATE_ROWS_EVENT has in place of a document.

A list of diffs, each: operation (1 byte), path, and unless it removes the value in binary form; path and value behind their lengths,
which are MySQL's length-encoded integers (MySQL source documentation, json_diff.h). They are applied one after the other, as a replica
does: a diff that does not fit the document stops it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from functools import reduce
from typing import NamedTuple

from cdc.decode.mysql.binary_json import Node, document_text, read_binary
from cdc.decode.mysql.wire import Malformed

INDEX_MAX = 0xFFFF_FFFF


class Rejected(ValueError):
    """A diff that does not fit the document it is applied to, which then is not the one it was made from."""


class Operation(IntEnum):
    REPLACE = 0
    INSERT = 1
    REMOVE = 2


class Cell(NamedTuple):
    """An element of an array, counted from its begin or, with `last`, from its end."""

    offset: int
    from_end: bool

    def position(self, length: int) -> tuple[int, bool]:
        """Where in an array of that length, and whether there is an element; where there is none, the end it lies beyond."""
        within = self.offset < length
        if self.from_end:
            return (length - self.offset - 1 if within else 0), within
        return min(self.offset, length), within


@dataclass(frozen=True, slots=True)
class Diff:
    """One change. `path` leads from the root: a str names an object's member. `value` is None for REMOVE."""

    operation: Operation
    path: tuple[str | Cell, ...]
    value: Node | None


def apply_diffs(document: Node, diffs: bytes) -> str:
    """The text of a document after a partial update, equal to the server's own; the document is changed.

    `diffs` are the bytes after their 4-byte length; none mean no change. Raises Malformed, and Rejected where replication would stop.
    """
    for diff in read_diffs(diffs):
        _apply(document, diff)
    return document_text(document)


def read_diffs(data: bytes) -> Iterator[Diff]:
    """The diffs of one column. Raises Malformed."""
    at = 0
    while at < len(data):
        try:
            operation = Operation(data[at])
        except ValueError as error:
            raise Malformed(f"there is no operation {data[at]} on a JSON document") from error
        path, at = _counted(data, at + 1)
        value = None
        if operation is not Operation.REMOVE:
            binary, at = _counted(data, at)
            value = read_binary(binary)
        yield Diff(operation, read_path(path), value)


def _counted(data: bytes, at: int) -> tuple[bytes, int]:
    """Bytes behind their length, and where they end."""
    first = data[at] if at < len(data) else 0xFF
    width = {0xFC: 2, 0xFD: 3, 0xFE: 8}.get(first, 0)
    start = at + 1 + width
    size = int.from_bytes(data[at + 1 : start], "little") if width else first
    if first in (0xFB, 0xFF) or start + size > len(data):
        raise Malformed(f"the JSON diffs end within the part at {at}")
    return data[start : start + size], start + size


# One leg: a member, quoted as JSON or an identifier, or a cell. (MySQL manual, 'JSON Path Syntax'; wildcards and ranges name no one place.)
_ROOT = re.compile(r"\s*\$\s*", re.ASCII)
_LEG = re.compile(
    r"""(?: \.\s*(?: (?P<quoted>"(?:[^"\\]|\\.)*") | (?P<name>[^\s\[.*"\\]+) )
          | \[\s*(?: (?P<last>last)(?:\s*-\s*(?P<before_last>\d+))? | (?P<index>\d+) )\s*\] )\s*""",
    re.VERBOSE | re.DOTALL | re.ASCII,
)


def read_path(path: bytes) -> tuple[str | Cell, ...]:
    """The legs of a path such as `$.a[2]."b c"[last-1]`. Raises Malformed."""
    legs: list[str | Cell] = []
    try:
        text = path.decode()
        found = _ROOT.match(text)
        while found and found.end() < len(text):
            found = _LEG.match(text, found.end())
            legs += [_leg(found)] if found else []
    except ValueError as error:
        raise Malformed(f"a JSON path can't be read: {error}") from error
    if found is None:
        raise Malformed(f"a JSON path can't be read: {text[:200]}")
    return tuple(legs)


def _leg(leg: re.Match[str]) -> str | Cell:
    if quoted := leg["quoted"]:
        name = json.loads(quoted)
        # A lone surrogate is in no document.
        name.encode()
        return str(name)
    if name := leg["name"]:
        return name
    index = int(leg["index"] or leg["before_last"] or 0)
    if index > INDEX_MAX:
        raise ValueError(f"index {index}")
    return Cell(index, bool(leg["last"]))


def _apply(document: Node, diff: Diff) -> None:
    """Changes the document. Diffs of the root are never logged: such an update has the whole document."""
    if not diff.path:
        raise Rejected("a JSON diff is for the whole document")
    parent, leg = reduce(_child, diff.path[:-1], document), diff.path[-1]
    if diff.operation is Operation.INSERT:
        assert diff.value is not None
        _insert(parent, leg, diff.value)
        return
    _child(parent, leg)
    match parent, leg:
        case dict(), str():
            if diff.value is None:
                del parent[leg]
            else:
                parent[leg] = diff.value
        case list(), Cell():
            position, _ = leg.position(len(parent))
            parent[position : position + 1] = [] if diff.value is None else [diff.value]


def _child(parent: Node, leg: str | Cell) -> Node:
    """What stands in an object or array."""
    match parent, leg:
        case dict(), str() if leg in parent:
            return parent[leg]
        case list(), Cell():
            position, within = leg.position(len(parent))
            if within:
                return parent[position]
    raise Rejected(f"a JSON diff is for {leg!r}, which the document does not have")


def _insert(parent: Node, leg: str | Cell, value: Node) -> None:
    """A new member, at its place in the server's order of keys, or a new element before the one that stands there."""
    match parent, leg:
        case dict(), str() if leg not in parent:
            parent[leg] = value
            members = sorted(parent.items(), key=lambda member: _key_order(member[0]))
            parent.clear()
            parent.update(members)
        case list(), Cell():
            parent.insert(leg.position(len(parent))[0], value)
        case _:
            raise Rejected(f"a JSON diff inserts {leg!r}, which the document has already or has no place for")


def _key_order(key: str) -> tuple[int, bytes]:
    raw = key.encode()
    return len(raw), raw
