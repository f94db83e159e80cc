"""The text in which a snapshot's progress is kept: what was copied of which relation, as of which places of the log."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import md5

from cdc.types import TableSchema

Span = tuple[int, int | None]  # blocks from, up to but without; None: to the end


@dataclass(slots=True)
class LeafProgress:
    """What was copied of one relation, in spans of blocks of the file `filenode`."""

    filenode: int
    done: list[Span] = field(default_factory=list)


@dataclass(slots=True)
class Progress:
    """How a table was copied.

    `sessions`: the snapshots its rows come from, by number: position as LSN and the time in microseconds since 1970. `horizon` is
    the oldest transaction whose writes the first of them may not have seen. `membership`: see slots.Publication.
    """

    relid: int
    membership: int
    columns: str
    horizon: int
    sessions: dict[int, tuple[int, int]]
    leaves: dict[int, LeafProgress]

    def finish(self, relid: int, span: Span) -> None:
        """Note a span as copied; spans that touch become one."""
        leaf = self.leaves[relid]
        leaf.done = merged([*leaf.done, span])

    def dump(self) -> str:
        """The text."""
        leaves = {str(relid): [leaf.filenode, leaf.done] for relid, leaf in self.leaves.items()}
        facts = {
            "relid": self.relid,
            "membership": self.membership,
            "columns": self.columns,
            "horizon": self.horizon,
            "sessions": {str(number): session for number, session in self.sessions.items()},
            "leaves": leaves,
        }
        return json.dumps(facts, separators=(",", ":"))


def parse(text: str) -> Progress | None:
    """The progress a text tells; None for an empty text, which the pipeline writes where a copy was asked for."""
    if not text.startswith("{"):
        return None
    facts = json.loads(text)
    leaves = {int(relid): LeafProgress(filenode, [(a, b) for a, b in done]) for relid, (filenode, done) in facts["leaves"].items()}
    sessions = {int(number): (int(place), int(taken)) for number, (place, taken) in facts["sessions"].items()}
    return Progress(facts["relid"], facts["membership"], facts["columns"], facts["horizon"], sessions, leaves)


def merged(spans: Sequence[Span]) -> list[Span]:
    """The same blocks in as few spans as can be, in order."""
    result: list[Span] = []
    for first, end in sorted(spans, key=lambda span: span[0]):
        if result and (last := result[-1])[1] is None:
            continue
        if result and last[1] is not None and first <= last[1]:
            result[-1] = (last[0], None if end is None else max(end, last[1]))
        else:
            result.append((first, end))
    return result


def missing(done: Sequence[Span]) -> list[Span]:
    """The spans between those that are done, up to the end of the relation."""
    gaps: list[Span] = []
    place: int | None = 0
    for first, end in done:
        if place is not None and first > place:
            gaps.append((place, first))
        place = end
    if place is not None:
        gaps.append((place, None))
    return gaps


def fingerprint(schema: TableSchema) -> str:
    """What tells whether rows copied earlier have the columns of today."""
    return md5(repr([(c.name, c.source_type, c.store_type) for c in schema.columns]).encode(), usedforsecurity=False).hexdigest()[:12]
