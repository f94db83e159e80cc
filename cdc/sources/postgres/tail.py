"""A replication session and what its partitions need: several relations may be one table, which the decoder does not know."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pyarrow as pa

from cdc.config import SourceConfig
from cdc.decode.postgres.pgoutput import Decoder, lsn_int
from cdc.decode.postgres.streamed import Streamed
from cdc.sources import tail
from cdc.sources.postgres.relations import Relations
from cdc.sources.postgres.replication import Stream
from cdc.types import ORDINAL, TXN, TableChanges


class Tail(tail.Tail[int]):
    """One replication session from `start` on. `wanted` says whether the changes of a table count."""

    def __init__(self, config: SourceConfig, stream: Stream, start: int, relations: Relations, wanted: Callable[[str], bool]) -> None:
        self.stream, self._start = stream, start
        self._pgoutput = Decoder(relations.resolver(wanted), relations.truncated(wanted), relations.partitioned)
        self._streamed = Streamed(stream.receive, self._pgoutput.block)
        super().__init__(config.batch_size_max, self._streamed, self._pgoutput, self._pgoutput.block)

    @property
    def resting(self) -> bool:
        """See tail.Tail.resting. What transactions in progress have sent is not half received: where they commit is still to come."""
        return super().resting and self._streamed.resting

    @property
    def position(self) -> int:
        """The end of the last transaction decoded."""
        return self._start if self._pgoutput.position is None else max(self._start, lsn_int(self._pgoutput.position))

    @property
    def reached(self) -> int:
        """Up to where the server has told everything; only within nothing, see `resting`."""
        return max(self.position, self.stream.wal_end)

    def take(self) -> tuple[pa.Table, tuple[TableChanges, ...], bool]:
        """See tail.Tail.take; partitions of one table are one table of changes."""
        transactions, changes, whole = super().take()
        return transactions, _one_per_table(changes), whole


def _one_per_table(changes: Iterable[TableChanges]) -> tuple[TableChanges, ...]:
    """Partitions of one table become one table of changes, in the log's order."""
    grouped: dict[str, list[TableChanges]] = {}
    for change in changes:
        grouped.setdefault(change.schema.table, []).append(change)
    return tuple(parts[0] if len(parts) == 1 else _joined(parts) for parts in grouped.values())


def _joined(parts: list[TableChanges]) -> TableChanges:
    rows = pa.concat_tables([part.rows for part in parts], promote_options="default")
    return TableChanges(parts[0].schema, rows.sort_by([(TXN, "ascending"), (ORDINAL, "ascending")]))
