"""Changes of a transaction that is not whole yet, kept on disk until it is: what their rules look up is told by its end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from tempfile import TemporaryFile
from typing import IO, Any

import pyarrow as pa

from cdc.types import TableSchema


class Deferred:
    """Changes of one transaction by table, in the order in which they came. `transaction`: its row of TRANSACTIONS, if there are any."""

    def __init__(self) -> None:
        self._left = ExitStack()
        self._parts: dict[TableSchema, tuple[IO[bytes], Any]] = {}
        self.transaction: pa.Table | None = None

    def add(self, schema: TableSchema, rows: pa.Table, transaction: pa.Table) -> None:
        """Keep a table's next changes, whose columns are always the same."""
        self.transaction = transaction
        if schema not in self._parts:
            file = self._left.enter_context(TemporaryFile())  # noqa: SIM115 (the stack closes it)
            self._parts[schema] = file, pa.ipc.new_stream(file, rows.schema)
        self._parts[schema][1].write_table(rows)

    def take(self) -> Iterator[tuple[TableSchema, pa.Table]]:
        """All of them; they are then forgotten."""
        for schema, (file, writer) in self._parts.items():
            writer.close()
            file.seek(0)
            for rows in pa.ipc.open_stream(file):
                yield schema, pa.Table.from_batches([rows])
        self.forget()

    def forget(self) -> None:
        """Let go of what there is."""
        self.transaction = None
        self._parts.clear()
        self._left.close()
