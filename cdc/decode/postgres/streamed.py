"""Large transactions, which the server sends while they are in progress (pgoutput's protocol 2): put aside until they commit.

What comes out is what comes without streaming: whole transactions, in the order of their commits. What a subtransaction did that is
rolled back never comes out.

Formats: https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html, Stream Start, Stop, Commit and Abort.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from struct import Struct
from typing import Any

from cdc.decode.aside import Aside
from cdc.decode.postgres.faults import Malformed
from cdc.errors import SourceError

_START, _COMMIT, _ABORT = Struct(">BIB"), Struct(">BIBQQq"), Struct(">BII")
_BEGIN_OUT, _COMMIT_OUT = Struct(">BQqI"), Struct(">BBQQq")
_PAGE = 1 << 20  # bytes of it passed on at a time, at least


@dataclass(slots=True)
class _Transaction:
    """`places`: by xid of each subtransaction, where what it did begins. Of those that end, all that follows is theirs."""

    kept: Aside = field(default_factory=Aside)
    places: dict[int, int] = field(default_factory=dict)


@dataclass(slots=True)
class _Ending:
    """A transaction that has committed, passed on up to a place; `commit` is the message that comes last."""

    transaction: _Transaction
    place: int
    commit: bytes


class Streamed:
    """A stream of messages in which no transaction is in progress. `receive` gives one that may have some: see Receiver."""

    def __init__(self, receive: Callable[[Any, int, float], int], block: Callable[[], Any]) -> None:
        self._receive, self._block = receive, block
        self._open: dict[int, _Transaction] = {}
        self._now: _Transaction | None = None  # what comes is of it
        self._ending: _Ending | None = None
        self._rest, self._at = block(), 0  # received, and so far passed on

    @property
    def resting(self) -> bool:
        """Whether all that was received is passed on, but for transactions in progress."""
        return self._ending is None and self._at == len(self._rest)

    def receive(self, frames: Any, size_max: int, wait_seconds: float) -> int:
        """As Receiver. What is put aside does not count. Raises SourceError for what is no pgoutput, SourceUnavailable without room."""
        try:
            if self.resting:
                self._receive(frames, size_max, wait_seconds)
                self._rest, self._at = frames.split(0 if self._now else frames.first_streamed(0)), 0
            while not self.resting and frames.size < size_max:
                if self._ending is not None:
                    self._pass_on(self._ending, frames, max(size_max - frames.size, _PAGE))
                else:
                    self._sort(frames)
        except (Malformed, struct.error) as fault:
            message = self._rest[self._at][:1].decode("latin-1")
            detail = str(fault) if isinstance(fault, Malformed) else "it ends too early"
            raise SourceError("decode.malformed", message=message, detail=detail, position="-") from fault
        return int(frames.size)

    def _sort(self, frames: Any) -> None:
        """Pass on, or put aside, what was received up to the next message that tells of a transaction in progress; and follow that."""
        rest, at = self._rest, self._at
        if self._now is not None:
            kept = bytearray()
            self._at, marks = rest.put_aside(at, kept)
            for xid, place in marks:
                self._now.places.setdefault(xid, self._now.kept.end + place)
            self._now.kept.add(kept)
        else:
            self._at = rest.first_streamed(at)
            frames.extend(rest, at, self._at)
        if self._at < len(rest):
            self._follow(rest[self._at], frames)
            self._at += 1

    def _follow(self, message: bytes, frames: Any) -> None:
        match chr(message[0]):
            case "S":
                _, xid, first = _START.unpack(message)
                if self._now is not None or (xid in self._open) == bool(first):
                    raise Malformed("it does not fit the Stream before it")
                self._now = self._open.setdefault(xid, _Transaction())
            case "E":
                if self._now is None or len(message) != 1:
                    raise Malformed("no Stream has begun")
                self._now = None
            case "A":
                self._abort(*_ABORT.unpack(message)[1:])
            case _:
                _, xid, flags, commit_lsn, end_lsn, at = _COMMIT.unpack(message)
                frames.append(_BEGIN_OUT.pack(ord("B"), commit_lsn, at, xid))
                self._ending = _Ending(self._taken(xid), 0, _COMMIT_OUT.pack(ord("C"), flags, commit_lsn, end_lsn, at))

    def _abort(self, xid: int, of: int) -> None:
        if of == xid:
            self._taken(xid)
        elif (transaction := self._open.get(xid)) is None:
            raise Malformed(f"transaction {xid} was not streamed")
        elif (place := transaction.places.get(of)) is not None:
            transaction.kept.cut(place)
            transaction.places = {other: begun for other, begun in transaction.places.items() if begun < place}

    def _taken(self, xid: int) -> _Transaction:
        if self._now is not None or xid not in self._open:
            raise Malformed(f"transaction {xid} was not streamed")
        return self._open.pop(xid)

    def _pass_on(self, ending: _Ending, frames: Any, size: int) -> None:
        """Some of a transaction that has committed."""
        kept = ending.transaction.kept
        while True:
            page = kept.read(ending.place, size)
            used = frames.refill(page)
            if used or not page:
                break
            if len(page) < size:
                raise Malformed("what was put aside of it is not whole")
            size *= 2  # one message is larger
        ending.place += used
        if ending.place == kept.end:
            frames.append(ending.commit)
            self._ending = None
