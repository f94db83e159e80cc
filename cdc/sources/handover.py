"""The hand-over from snapshots to the stream, alike for every source: which changes staged copies need, and where they become mirrors.

A staged copy has rows as of the places of one or more snapshots; the stream brings it level from the first of them on. Batches are cut at
these places, so that each batch is either wholly before a snapshot or wholly after it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar


class Ordered(Protocol):
    """A place in one server's log."""

    def __lt__(self, other: Any, /) -> bool: ...
    def __le__(self, other: Any, /) -> bool: ...


P = TypeVar("P", bound=Ordered)


@dataclass(frozen=True, slots=True)
class Staged(Generic[P]):
    """A table whose copy is complete and waits for the stream.

    `sessions`: place and time (µs since 1970) of the snapshots its rows are from, by number; `number` is the last. `level_at`: from where
    on the copy is the table, if that is later than the last snapshot's place.
    """

    number: int
    sessions: Mapping[int, tuple[P, int]]
    level_at: P | None = None

    @property
    def place(self) -> P:
        """The place of the last snapshot."""
        return self.sessions[self.number][0]

    @property
    def taken_us(self) -> int:
        """The time of the last snapshot."""
        return self.sessions[self.number][1]

    @property
    def promoted_at(self) -> P:
        """Where the copy can become the mirror."""
        return self.place if self.level_at is None else self.level_at


class HandOver(Generic[P]):
    """`place`: what the store has, or will have once all batches handed out are in it. `staged`: the copies that wait, by table.

    `skipped` is set once `wanted` left out a table that is wanted later.
    """

    def __init__(self, place: P, staged: Mapping[str, Staged[P]]) -> None:
        self.place = place
        self.staged = dict(staged)
        self.skipped = False

    def advance(self, place: P) -> None:
        """All before `place` has been handed out."""
        self.place = max(self.place, place)

    @property
    def due(self) -> bool:
        """Whether the staged copies can become mirrors now: all of them at once, at the latest place that one needs."""
        return bool(self.staged) and all(staged.promoted_at <= self.place for staged in self.staged.values())

    def promote(self) -> Staged[P]:
        """The copies are handed over; returns the one of the latest snapshot."""
        newest = max(self.staged.values(), key=lambda staged: staged.place)
        self.staged = {}
        return newest

    def wanted(self, table: str) -> bool:
        """Whether the stream's changes of a table count yet. Those that a copy taken in one go has already do not: they may be of a
        shape that is long gone."""
        staged, before = self.staged.get(table), self.before
        if staged is None or len(staged.sessions) > 1 or before is None or staged.place < before:
            return True
        self.skipped = True
        return False

    @property
    def before(self) -> P | None:
        """The next place of the staged copies: batches are cut there."""
        places = [place for staged in self.staged.values() for place, _ in staged.sessions.values()]
        places += [staged.promoted_at for staged in self.staged.values()]
        return min((place for place in places if self.place < place), default=None)

    def included_from(self, before: P | None) -> int:
        """The first snapshot that holds all that committed before `before`."""
        sessions = {number: place for staged in self.staged.values() for number, (place, _) in staged.sessions.items()}
        covering = [number for number, place in sessions.items() if before is not None and before <= place]
        return min(covering, default=max(sessions, default=-1) + 1)
