"""Where a MySQL or MariaDB source stands: a place in one server's binlog, and what tells whether it still means the same.

The text is `binlog.000003:1234` and `key=value` pairs: `server` (its UUID or id), `born` (when that file was begun, in seconds: a RESET
starts the names anew), `gtid` (all transactions executed up to there), `from` (where reading must begin again for the sake of a
prepared XA transaction that is still open).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import quote, unquote

from cdc.decode.mysql.gtid import Gtids, includes, parse_gtids
from cdc.decode.mysql.wire import Place

_FILE = re.compile(r".*\.([0-9]{1,10})", re.DOTALL)
_OFFSET = re.compile(r"[0-9]{1,20}")
_PLAIN = "/\\+,;@()[]"  # besides letters, digits and _.-~; a space or a colon in a file's name would end it


@dataclass(frozen=True, slots=True)
class BinlogPosition:
    """A place between two transactions. `born` is None where it was not looked up, `gtids` where the server has had none so far.

    `server`: server_uuid of MySQL; of MariaDB server_uid, or `server_id:<n>` where there is none.
    """

    file: str
    offset: int
    server: str
    born: int | None = None
    gtids: Gtids | None = None
    reread: tuple[str, int] | None = None

    @property
    def place(self) -> Place:
        """What orders the positions of one server."""
        return Place(file_number(self.file), self.offset)

    @property
    def start(self) -> tuple[str, int]:
        """File and offset where reading begins: at or before the place."""
        return self.reread or (self.file, self.offset)

    def __str__(self) -> str:
        parts = [place_text(self.file, self.offset), f"server={quote(self.server, safe=':=' + _PLAIN)}"]
        if self.born is not None:
            parts.append(f"born={self.born}")
        if self.gtids:
            parts.append(f"gtid={self.gtids}")
        if self.reread is not None:
            parts.append(f"from={place_text(*self.reread)}")
        return " ".join(parts)

    @classmethod
    def parse(cls, text: str) -> BinlogPosition:
        """From its text. Raises ValueError."""
        place, *pairs = text.split(" ")
        values: dict[str, str] = {}
        for pair in pairs:
            key, separator, value = pair.partition("=")
            if not separator or key in values or key not in ("server", "born", "gtid", "from"):
                raise ValueError(f"not a position in a binlog: {text[:200]!r}")
            values[key] = value
        file, offset = _place(place)
        return cls(
            file,
            offset,
            unquote(values.get("server", "")),
            _number(values["born"]) if "born" in values else None,
            parse_gtids(values.get("gtid", "")),
            _place(values["from"]) if "from" in values else None,
        )


def reached(position: BinlogPosition, target: BinlogPosition) -> bool:
    """Whether a position is at or past another; on different servers the transactions tell, and without GTIDs nothing does."""
    if position.server == target.server:
        return position.place >= target.place
    return bool(target.gtids) and includes(position.gtids, target.gtids)


def place_text(file: str, offset: int) -> str:
    """`binlog.000003:1234`: also what TRANSACTIONS.position holds."""
    return f"{_quoted(file)}:{offset}"


@lru_cache(maxsize=64)
def _quoted(file: str) -> str:
    return quote(file, safe=_PLAIN)


def file_number(file: str) -> int:
    """The number a binary log file's name ends in. Raises ValueError."""
    match = _FILE.fullmatch(file)
    if match is None:
        raise ValueError(f"not the name of a binary log file: {file[:200]!r}")
    return int(match[1])


def _place(text: str) -> tuple[str, int]:
    file, _, offset = text.rpartition(":")
    name = unquote(file)
    file_number(name)
    return name, _number(offset)


def _number(text: str) -> int:
    if not _OFFSET.fullmatch(text):
        raise ValueError(f"not a number: {text[:40]!r}")
    return int(text)
