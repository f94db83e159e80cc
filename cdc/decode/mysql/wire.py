"""What a binlog says, as values: places, tables as the stream describes them, statements. No bytes are read here.

Manuals: MySQL 'Binary Log Event' (TABLE_MAP_EVENT, ROWS_EVENT, GTID_LOG_EVENT); MariaDB 'Binlog Event Types'.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Malformed(ValueError):
    """Bytes that are not what they should be by the servers' manuals; the text says how."""


class Place(NamedTuple):
    """A place in one server's binlog, ordered: the number at the end of the file's name, and the offset in it (64 bits)."""

    file: int
    offset: int


@dataclass(frozen=True, slots=True)
class WireColumn:
    """A column of a TABLE_MAP_EVENT. `code` is the field type, the real one of ENUM, SET and long CHAR too.

    `meta` by type: NEWDECIMAL precision << 8 | scale; FLOAT and DOUBLE their bytes; BIT its bits; VARCHAR, VAR_STRING and STRING the
    longest value in bytes; ENUM and SET the bytes of a value; BLOB, JSON, GEOMETRY and VECTOR the bytes their length takes; TIMESTAMP2,
    DATETIME2 and TIME2 the fractional digits; 0 for all others. MariaDB's COMPRESSED columns are VARCHAR and BLOB with `compressed`:
    their values are handed on decompressed.

    The rest comes with binlog_row_metadata: `unsigned` and `collation` with MINIMAL (and `geometry` and `dimensions`, where there is such
    a type), all with FULL; None where the event does not tell, or the type has no such thing. `collation` is the collation's number (63:
    binary), `members` the bytes of ENUM and SET members in the column's charset, `geometry` the kind (0 any, 1 point, ...), `dimensions`
    those of a VECTOR, `visible` False for an INVISIBLE column.
    """

    code: int
    meta: int
    nullable: bool
    name: str | None = None
    unsigned: bool | None = None
    collation: int | None = None
    members: tuple[bytes, ...] | None = None
    visible: bool | None = None
    geometry: int | None = None
    dimensions: int | None = None
    compressed: bool = False


@dataclass(frozen=True, slots=True)
class TableMap:
    """A table as the stream describes it before its rows. `key`: indexes of the primary key's columns, None where not told."""

    table_id: int
    database: str
    table: str
    columns: tuple[WireColumn, ...]
    key: tuple[int, ...] | None = None

    def __str__(self) -> str:
        return ".".join("`" + part.replace("`", "``") + "`" for part in (self.database, self.table))

    @property
    def full(self) -> bool:
        """Whether it was written with binlog_row_metadata=FULL."""
        return all(column.name is not None for column in self.columns)


@dataclass(frozen=True, slots=True)
class Statement:
    """A QUERY_EVENT that is no transaction bracket. `database` is the default one; flags of the session's sql_mode as it ran."""

    text: str
    database: str
    sql_mode: int = 0
    error: int = 0

    @property
    def ansi_quotes(self) -> bool:
        """Whether double quotes stood for names."""
        return bool(self.sql_mode & 4)

    @property
    def no_backslash_escapes(self) -> bool:
        return bool(self.sql_mode & 0x100000)

    @property
    def strict(self) -> bool:
        """Whether STRICT_TRANS_TABLES or STRICT_ALL_TABLES was set."""
        return bool(self.sql_mode & (0x200000 | 0x400000))
