"""The stream from a position on, gathered and decoded into batches of whole transactions as far as they fit."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from enum import Enum

import pyarrow as pa

from cdc.config import SourceConfig
from cdc.decode.postgres.pgoutput import Decoder, lsn_int
from cdc.sources.postgres.relations import Relations
from cdc.sources.postgres.replication import Stream
from cdc.types import ORDINAL, TXN, TableChanges

WAIT_SECONDS = 1.0
GATHER_BYTES = 8 << 20
_RELATION, _TRUNCATE = b"RT"


class Outcome(Enum):
    """Why `collect` came back: changes to take, the place it was told to stop at, or nothing more for now."""

    BATCH = 1
    CUT = 2
    IDLE = 3


class Tail:
    """One replication session. `wanted` says whether the changes of a table count; `skipped` is set once one did not."""

    def __init__(self, config: SourceConfig, stream: Stream, start: int, relations: Relations, wanted: Callable[[str], bool]) -> None:
        self.stream = stream
        self.received_at = 0.0
        # A batch ends with a transaction once it is half full; only a transaction that fills the other half alone is cut.
        self._size_max = config.batch_size_max
        self._enough = self._size_max // 2
        self._start, self._relations, self._wanted = start, relations, wanted
        self._decoder = Decoder(relations.resolver(wanted))
        self._frames: list[bytes] = []
        self._unfinished = False  # what was taken last ended within a transaction

    @property
    def position(self) -> int:
        """The end of the last transaction decoded."""
        return self._start if self._decoder.position is None else max(self._start, lsn_int(self._decoder.position))

    @property
    def reached(self) -> int:
        """Up to where the server has told everything; only within nothing, see `resting`."""
        return max(self.position, self.stream.wal_end)

    @property
    def resting(self) -> bool:
        """Whether nothing is half received: all that came was decoded and taken."""
        return not (self._frames or self._decoder.in_transaction or self._decoder.pending_rows or self._unfinished)

    def collect(self, before: int | None) -> Outcome:
        """Gather what there is, up to the batch size; waits up to a second. Stops short of transactions committed at `before` or later."""
        decoder, deadline = self._decoder, time.monotonic() + WAIT_SECONDS
        while True:
            quiet = not self._frames and not self._gather(deadline)
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

    def _gather(self, deadline: float) -> int:
        wait = 0.0 if self._ready else max(0.0, deadline - time.monotonic())
        room = max(1, min(GATHER_BYTES, self._size_max - self._decoder.pending_bytes))
        size = self.stream.receive(self._frames, room, wait)
        self.received_at = time.time()
        return size

    def _feed(self, before: int | None) -> bool:
        """Decode what was gathered; True when the decoder must not go on yet."""
        while self._frames:
            end = len(self._frames)
            if self._relations.partitioned:
                end = self._look_closer(end)
                if not end:
                    return True
            part = self._frames[:end] if end < len(self._frames) else self._frames
            consumed = self._decoder.feed(part, 0, before, self._enough)
            del self._frames[:consumed]
            if consumed < end:
                return True
        return False

    def _look_closer(self, end: int) -> int:
        """How far to feed: partitions share a table, which the decoder does not know. 0: take first what is pending."""
        kind = self._frames[0][0]
        if kind == _RELATION:
            return 0 if self._decoder.pending_rows else 1
        if kind == _TRUNCATE:
            self._relations.check_truncate(self._frames[0], self._wanted)
            return 1
        return next((index for index, frame in enumerate(self._frames) if frame[0] in (_RELATION, _TRUNCATE)), end)

    def take(self) -> tuple[pa.Table, tuple[TableChanges, ...], bool]:
        """What was collected: transactions, changes, and whether the last transaction is whole."""
        transactions, changes = self._decoder.take()
        self._unfinished = self._decoder.in_transaction
        return transactions, _one_per_table(changes), not self._unfinished


def _one_per_table(changes: Iterable[TableChanges]) -> tuple[TableChanges, ...]:
    """Partitions of one table become one table of changes, in the log's order."""
    grouped: dict[str, list[TableChanges]] = {}
    for change in changes:
        grouped.setdefault(change.schema.table, []).append(change)
    return tuple(parts[0] if len(parts) == 1 else _joined(parts) for parts in grouped.values())


def _joined(parts: list[TableChanges]) -> TableChanges:
    rows = pa.concat_tables([part.rows for part in parts], promote_options="default")
    return TableChanges(parts[0].schema, rows.sort_by([(TXN, "ascending"), (ORDINAL, "ascending")]))
