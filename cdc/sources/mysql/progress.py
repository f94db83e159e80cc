"""The text in which a snapshot's progress is kept: what is left to copy of a table, and as of which places of the log it was copied."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import md5

from cdc.sources.mysql.walk import Key
from cdc.types import TableSchema


@dataclass(slots=True, eq=False)
class Range:
    """Rows that come after a key, up to and with another, in the order of the table's index; None: from the first, to the last."""

    after: Key | None = None
    upto: Key | None = None


@dataclass(slots=True)
class Progress:
    """How a table was copied.

    `shape` is what the table must still be for the copy to go on, `image` the binlog_row_image when it began. `sessions`: the snapshots its
    rows come from, by number: position and the time in microseconds since 1970. `level_at`: the position from which on a copy without a
    snapshot of its own is the table; empty where the last session's position is that.
    """

    shape: str
    image: str
    sessions: dict[int, tuple[str, int]]
    left: list[Range] = field(default_factory=lambda: [Range()])
    level_at: str = ""

    def dump(self) -> str:
        """The text."""
        facts = {
            "shape": self.shape,
            "image": self.image,
            "sessions": {str(number): session for number, session in self.sessions.items()},
            "left": [[_text(span.after), _text(span.upto)] for span in self.left],
            "level_at": self.level_at,
        }
        return json.dumps(facts, separators=(",", ":"))


def parse(text: str) -> Progress | None:
    """The progress a text tells; None for an empty text, which the pipeline writes where a copy was asked for."""
    if not text.startswith("{"):
        return None
    facts = json.loads(text)
    sessions = {int(number): (str(position), int(taken)) for number, (position, taken) in facts["sessions"].items()}
    left = [Range(_key(after), _key(upto)) for after, upto in facts["left"]]
    return Progress(facts["shape"], facts["image"], sessions, left, facts["level_at"])


def fingerprint(schema: TableSchema, *facts: object) -> str:
    """What tells whether rows copied earlier have the columns of today, and whatever else must be as it was."""
    columns = [(c.name, c.source_type, c.store_type) for c in schema.columns]
    return md5(repr((columns, schema.key, facts)).encode(), usedforsecurity=False).hexdigest()[:12]


def _text(key: Key | None) -> list[str] | None:
    return None if key is None else [value.hex() for value in key]


def _key(texts: Iterable[str] | None) -> Key | None:
    return None if texts is None else tuple(bytes.fromhex(text) for text in texts)
