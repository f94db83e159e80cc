"""Walking a table in the order of its key, a chunk at a time: the SQL for where the last chunk ended and where a range ends.

The order is the server's own, whatever the types and collations, as all bounds are values the server gave: bytes of the text protocol
(character_set_results=binary, time_zone '+00:00'), and for ENUM and SET, which are ordered by number, their number.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from cdc.decode.mysql.types import BYTES, INTEGERS, INTERNET, MEMBERS, TEXTS, TIMES, MyType
from cdc.sources.mysql.connection import quoted

Key = tuple[bytes, ...]  # of the leading columns of an index, at least one

_NUMBERS = (*INTEGERS, "decimal", *MEMBERS)
_NUMBER = re.compile(rb"-?[0-9]+(\.[0-9]+)?")
# A FLOAT as printed is not the FLOAT that is compared.
WALKABLE = {*_NUMBERS, "bit", "year", "date", *TIMES, *TEXTS, *BYTES, *INTERNET}


@dataclass(frozen=True, slots=True)
class Part:
    """A column of an index. `charset`: the server's name of it, for text."""

    column: str
    my_type: MyType
    charset: str | None
    descending: bool

    @property
    def expression(self) -> str:
        """What selects its value as a bound."""
        return f"CAST({quoted(self.column)} AS UNSIGNED)" if self.my_type.name in MEMBERS else quoted(self.column)


@dataclass(frozen=True, slots=True)
class Order:
    """The unique index a table is walked by."""

    index: str
    parts: tuple[Part, ...]

    @property
    def sql(self) -> str:
        """For ORDER BY."""
        return ", ".join(f"{quoted(part.column)}{' DESC' if part.descending else ''}" for part in self.parts)

    def between(self, after: Key | None, upto: Key | None) -> str:
        """For WHERE: the rows that come after a key, up to and with another; empty for all."""
        bounds = [self._bound(after, False)] if after else []
        bounds += [self._bound(upto, True)] if upto else []
        return " AND ".join(bounds)

    def _bound(self, key: Key, below: bool) -> str:
        """Nested, with the first column by itself in front: so the servers' optimizers make a range of it; row comparisons they do not."""
        parts = self.parts[: len(key)]
        literals = [literal(part, value) for part, value in zip(parts, key, strict=True)]
        inner = ""
        for part, value in zip(reversed(parts), reversed(literals), strict=True):
            column, sign = quoted(part.column), "<" if below != part.descending else ">"
            if inner:
                inner = f"({column} {sign} {value} OR ({column} = {value} AND {inner}))"
            else:
                inner = f"{column} {sign}{'=' if below else ''} {value}"
        return inner if len(parts) == 1 else f"{quoted(parts[0].column)} {sign}= {literals[0]} AND {inner}"


def literal(part: Part, value: bytes) -> str:
    """A bound as SQL. Raises ValueError for bytes that are none."""
    name = part.my_type.name
    if name in TEXTS:
        return f"_{part.charset} x'{value.hex()}'"
    if name in BYTES:
        return f"_binary x'{value.hex()}'"
    if name == "bit":
        return str(int.from_bytes(value, "big"))
    text = value.decode("ascii")
    if name in _NUMBERS:
        if not _NUMBER.fullmatch(value):
            raise ValueError(f"not a number: {text[:40]!r}")
        return text
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def cuts(part: Part, low: int, high: int, count: int) -> Sequence[Key]:
    """Bounds that cut the whole numbers from `low` to `high` into at most `count` ranges alike, in the index's order."""
    step = max(1, (high - low + 1) // count)
    places = list(range(low + step - 1, high, step))[: count - 1]
    if part.descending:
        places = [high - (place - low) for place in places]
    return [(str(place).encode(),) for place in places]
