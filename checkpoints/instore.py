"""The checkpoint kept inside the store's own transaction: data and position commit together."""

from __future__ import annotations

from cdc.errors import CheckpointConflict
from cdc.protocols import SinkTransaction
from cdc.types import Checkpoint, Resume, SchemaVersion, SnapshotProgress
from checkpoints import schemas


class InStore:
    """`cdc.protocols.CheckpointStore` in the store's tables `meta.checkpoints`, `meta.snapshots` and `meta.schema_history`."""

    def load(self, transaction: SinkTransaction, source: str) -> Resume:
        snapshots = transaction.sql(
            """SELECT "table", number, position, state, progress, rows_done, rows_estimated FROM meta.snapshots
            WHERE source = ? ORDER BY "table\"""",
            [source],
        )
        latest = transaction.sql(
            """SELECT "schema" FROM meta.schema_history h WHERE source = ? AND version = (
                SELECT max(version) FROM meta.schema_history o WHERE o.source = h.source AND o."table" = h."table")
            ORDER BY "table\"""",
            [source],
        )
        known = [schemas.loads(row[0]) for row in latest]
        return Resume(
            store_id=transaction.sql("SELECT store_id FROM meta.store")[0][0],
            checkpoint=self._checkpoint(transaction, source),
            snapshots={row[0]: SnapshotProgress(*row) for row in snapshots},
            schemas={schema.table: schema for schema in known},
        )

    def advance(self, transaction: SinkTransaction, old: Checkpoint | None, new: Checkpoint) -> None:
        found = self._checkpoint(transaction, new.source)
        if found != old:
            raise CheckpointConflict(
                "store.conflict", source=new.source, expected=old.epoch if old else "-", found=found.epoch if found else "-"
            )
        values = [new.position, new.epoch, new.identity, new.source]
        if old is None:
            transaction.sql(
                "INSERT INTO meta.checkpoints (position, epoch, identity, source, applied_at) VALUES (?, ?, ?, ?, now())", values
            )
        else:
            transaction.sql(
                "UPDATE meta.checkpoints SET position = ?, epoch = ?, identity = ?, applied_at = now() WHERE source = ?", values
            )

    def record(self, transaction: SinkTransaction, source: str, fact: SnapshotProgress | SchemaVersion) -> None:
        if isinstance(fact, SchemaVersion):
            transaction.sql(
                """INSERT INTO meta.schema_history (source, "table", version, position, "schema", recorded_at)
                SELECT ?, ?, coalesce(max(version), 0) + 1, ?, ?, now() FROM meta.schema_history WHERE source = ? AND "table" = ?""",
                [source, fact.schema.table, fact.position, schemas.dumps(fact.schema), source, fact.schema.table],
            )
            return
        transaction.sql('DELETE FROM meta.snapshots WHERE source = ? AND "table" = ?', [source, fact.table])
        transaction.sql(
            """INSERT INTO meta.snapshots
            (source, "table", number, position, state, progress, rows_done, rows_estimated, updated_at)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?, now())""",
            [source, fact.table, fact.number, fact.position, fact.state, fact.progress, fact.rows_done, fact.rows_estimated],
        )

    @staticmethod
    def _checkpoint(transaction: SinkTransaction, source: str) -> Checkpoint | None:
        rows = transaction.sql("SELECT source, position, epoch, identity FROM meta.checkpoints WHERE source = ?", [source])
        return Checkpoint(*rows[0]) if rows else None
