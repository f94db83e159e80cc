"""The stream from a place on, gathered and decoded into batches of whole transactions as far as they fit; alike for every source."""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import Enum
from typing import Any, Generic, Protocol, TypeVar

import pyarrow as pa

from cdc.types import TableChanges

WAIT_SECONDS = 1.0
GATHER_BYTES = 8 << 20

P_contra = TypeVar("P_contra", contravariant=True)
P = TypeVar("P")
Frames = Any  # what a stream receives into and its decoder reads: a list of bytes, or what is like one to both


class Outcome(Enum):
    """Why `collect` came back: changes to take, the place it was told to stop at, or nothing more for now."""

    BATCH = 1
    CUT = 2
    IDLE = 3


class Receiver(Protocol):
    """One session of a source's stream."""

    def receive(self, frames: Frames, size_max: int, wait_seconds: float) -> int:
        """Append the frames that are there, up to about `size_max` bytes; wait for the first one. Returns the bytes appended."""


class Decoding(Protocol[P_contra]):
    """A decoder of such frames. `feed` stops short of transactions at `before` or later, and before what must be taken first."""

    @property
    def in_transaction(self) -> bool: ...
    @property
    def pending_rows(self) -> int: ...
    @property
    def pending_bytes(self) -> int: ...
    def feed(self, frames: Frames, start: int, before: P_contra | None, enough: int) -> int: ...
    def take(self) -> tuple[pa.Table, tuple[TableChanges, ...]]: ...


class Tail(Generic[P]):
    """One session of the stream and its decoder. `frames` makes what is received into."""

    def __init__(self, size_max: int, stream: Receiver, decoder: Decoding[P], frames: Callable[[], Frames] = list) -> None:
        # A batch ends with a transaction once it is half full; only a transaction that fills the other half alone is cut.
        self._size_max, self._enough = size_max, size_max // 2
        self._stream, self._decoder = stream, decoder
        self._new_frames = frames
        self._frames, self._fed = frames(), 0  # so many of them
        self._unfinished = False  # what was taken last ended within a transaction
        self.received_at = 0.0

    @property
    def resting(self) -> bool:
        """Whether nothing is half received: all that came was decoded and taken."""
        return not (self._waiting or self._decoder.in_transaction or self._decoder.pending_rows or self._unfinished)

    def collect(self, before: P | None) -> Outcome:
        """Gather what there is, up to the batch size; waits up to a second. Stops short of transactions committed at `before` or later."""
        decoder, deadline = self._decoder, time.monotonic() + WAIT_SECONDS
        while True:
            quiet = not self._waiting and not self._gather(deadline)
            if self._feed(before):
                return Outcome.BATCH if decoder.pending_rows or self._unfinished else Outcome.CUT
            if decoder.pending_bytes >= (self._size_max if decoder.in_transaction else self._enough):
                return Outcome.BATCH
            late = time.monotonic() >= deadline
            if self._ready and (quiet or late):
                return Outcome.BATCH
            if late or (quiet and not decoder.in_transaction):
                return Outcome.IDLE

    @property
    def _ready(self) -> bool:
        return not self._decoder.in_transaction and bool(self._decoder.pending_rows or self._unfinished)

    @property
    def _waiting(self) -> bool:
        return self._fed < len(self._frames)

    def _gather(self, deadline: float) -> int:
        wait = 0.0 if self._ready else max(0.0, deadline - time.monotonic())
        room = max(1, min(GATHER_BYTES, self._size_max - self._decoder.pending_bytes))
        self._frames, self._fed = self._new_frames(), 0
        size = self._stream.receive(self._frames, room, wait)
        self.received_at = time.time()
        return size

    def _feed(self, before: P | None) -> bool:
        """Decode what was gathered; True when the decoder must not go on yet."""
        self._fed = self._decoder.feed(self._frames, self._fed, before, self._enough)
        return self._waiting

    def take(self) -> tuple[pa.Table, tuple[TableChanges, ...], bool]:
        """What was collected: transactions, changes, and whether the last transaction is whole."""
        transactions, changes = self._decoder.take()
        self._unfinished = self._decoder.in_transaction
        return transactions, changes, not self._unfinished
