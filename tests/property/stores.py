"""Stores of either kind, and what is in them as plain values."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from cdc.accounting.accountant import Accountant
from cdc.pipeline import Pipeline
from cdc.protocols import SinkTransaction
from cdc.types import ENTRIES, LINES, NUMBER, MicroBatch, Resume, TableSchema
from checkpoints.file import FileCheckpoints
from checkpoints.instore import InStore
from sinks.duckdb import DuckDBSink
from sinks.memory import MemorySink
from tests.changes import Row
from tests.contract.samples import all_live
from tests.property.streams import SOURCE

_NUMBERS = itertools.count()


class Store:
    """A sink with its checkpoints, and what is in it as plain values."""

    def __init__(self, sink: Any, checkpoints: Any, accountant: Accountant) -> None:
        self.sink, self.checkpoints, self.accountant = sink, checkpoints, accountant
        self.pipeline = Pipeline(sink, checkpoints, accountant)

    def apply(self, batches: Iterable[MicroBatch], crash: int = -1) -> None:
        """Apply batches one by one. Before the one with the number `crash` all is forgotten, and what was not committed comes again."""
        unfinished: list[MicroBatch] = []
        for number, batch in enumerate(batches):
            if number == crash:
                self.reopen()
                for again in unfinished:
                    self.pipeline.apply([again])
            unfinished = [] if self.pipeline.apply([batch]) else [*unfinished, batch]

    def reopen(self, accountant: Accountant | None = None) -> int:
        """Forget all, as after a crash. Returns the transaction the checkpoint is at."""
        self.pipeline.forget()
        self.pipeline = Pipeline(self.sink, self.checkpoints, accountant or self.accountant)
        checkpoint = self.resume().checkpoint
        return int(checkpoint.position) if checkpoint else 0

    def resume(self) -> Resume:
        return self.pipeline.resume(SOURCE)

    def entries(self) -> list[Row]:
        if isinstance(self.sink, MemorySink):
            return [{name: row[name] for name in ENTRIES.names} for row in self.sink.state.entries]
        return self._rows("ledger.entries", ENTRIES)

    def lines(self) -> list[Row]:
        if isinstance(self.sink, MemorySink):
            return [{name: row[name] for name in LINES.names} for row in self.sink.state.lines]
        return self._rows("ledger.lines", LINES)

    def quarantine(self) -> list[Row]:
        if isinstance(self.sink, MemorySink):
            return list(self.sink.state.quarantine.values())
        with self.sink.reader() as reader:
            answer: list[Row] = reader.execute("SELECT * EXCLUDE (first_seen) FROM ledger.quarantine").to_arrow_table().to_pylist()
            return answer

    def open_items(self) -> list[Row]:
        """What lies in quarantine."""
        return [item for item in self.quarantine() if item["status"] == "open"]

    def _rows(self, name: str, schema: pa.Schema) -> list[Row]:
        with self.sink.reader() as reader:
            rows: list[Row] = reader.execute(f"SELECT {', '.join(schema.names)} FROM {name}").to_arrow_table().cast(schema).to_pylist()
            return rows

    def journal(self) -> dict[str, Any]:
        """Entries by id, each with the set of its lines."""
        lines = defaultdict(set)
        for line in self.lines():
            lines[line["entry_id"]].add(tuple(line.values()))
        return {entry["entry_id"]: (tuple(entry.values()), frozenset(lines[entry["entry_id"]])) for entry in self.entries()}

    def mirror(self, schema: TableSchema) -> Counter[tuple[Any, ...]]:
        with self._looking() as transaction:
            rows = [row for found in transaction.mirror(schema, None) for row in found.to_pylist()]
        return Counter(tuple(row[c.name] for c in schema.columns) + ((row[NUMBER],) if not schema.key else ()) for row in rows)

    def live(self, *schemas: TableSchema) -> list[Row]:
        """The live entries of tables."""
        with self._looking() as transaction:
            return [row for schema in schemas for row in all_live(transaction, schema).to_pylist()]

    @contextmanager
    def _looking(self) -> Iterator[SinkTransaction]:
        transaction = self.sink.begin()
        try:
            yield transaction
        finally:
            transaction.rollback()


@contextmanager
def fresh_store(folder: Path, accountant: Accountant, *, durable: bool) -> Iterator[Store]:
    """A new store, closed when it is left: a DuckDB file, or one in memory with its checkpoints in a file."""
    path = folder / str(next(_NUMBERS))
    sink: Any = DuckDBSink(f"{path}.duckdb", 64 << 20) if durable else MemorySink()
    with closing(sink):
        sink.prepare([])
        made = Store(sink, InStore() if durable else FileCheckpoints(Path(f"{path}.json")), accountant)
        try:
            yield made
        finally:
            made.pipeline.forget()
