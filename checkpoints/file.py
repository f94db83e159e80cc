"""The checkpoint in a file, for sinks that can't keep one: written after the sink has committed, so that a crash between the two
repeats the last batch and never loses it."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, cast

from cdc.errors import CheckpointConflict, StoreError
from cdc.protocols import SinkTransaction
from cdc.types import Checkpoint, Resume, SchemaVersion, SnapshotProgress
from checkpoints import schemas


class AfterCommit(Protocol):
    """A transaction that can run something once it has committed; what the sinks used with FileCheckpoints offer."""

    def after_commit(self, action: Callable[[], None]) -> None:
        """Run `action` when `commit` has made the transaction's effect durable, and before it returns; never after a rollback."""


class FileCheckpoints:
    """`cdc.protocols.CheckpointStore` in a JSON file that is replaced whole. Raises StoreError `store.checkpoint_file`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pending: tuple[SinkTransaction, dict[str, Any]] | None = None
        if not path.exists():
            self._write({"store_id": str(uuid.uuid4()), "sources": {}})

    def load(self, transaction: SinkTransaction, source: str) -> Resume:
        content = self._content(transaction)
        known = content["sources"].get(source, _EMPTY)
        return Resume(
            store_id=content["store_id"],
            checkpoint=Checkpoint(**known["checkpoint"]) if known["checkpoint"] else None,
            snapshots={table: SnapshotProgress(**fact) for table, fact in sorted(known["snapshots"].items())},
            schemas={table: schemas.loads(versions[-1]["schema"]) for table, versions in sorted(known["schemas"].items())},
        )

    def advance(self, transaction: SinkTransaction, old: Checkpoint | None, new: Checkpoint) -> None:
        found = self.load(transaction, new.source).checkpoint
        if found != old:
            raise CheckpointConflict(
                "store.conflict", source=new.source, expected=old.epoch if old else "-", found=found.epoch if found else "-"
            )
        self._change(transaction, new.source)["checkpoint"] = asdict(new)

    def record(self, transaction: SinkTransaction, source: str, fact: SnapshotProgress | SchemaVersion) -> None:
        known = self._change(transaction, source)
        if isinstance(fact, SnapshotProgress):
            known["snapshots"][fact.table] = asdict(fact)
        else:
            version = {"position": fact.position, "schema": schemas.dumps(fact.schema)}
            known["schemas"].setdefault(fact.schema.table, []).append(version)

    def _content(self, transaction: SinkTransaction) -> dict[str, Any]:
        if self._pending and self._pending[0] is transaction:
            return self._pending[1]
        return self._read()

    def _change(self, transaction: SinkTransaction, source: str) -> dict[str, Any]:
        """What is known of a source, to be changed; written when the transaction has committed."""
        if not (self._pending and self._pending[0] is transaction):
            content = self._read()
            self._pending = (transaction, content)
            cast(AfterCommit, transaction).after_commit(lambda: self._write(content))
        known: dict[str, Any] = self._pending[1]["sources"].setdefault(source, deepcopy(_EMPTY))
        return known

    def _read(self) -> dict[str, Any]:
        try:
            content: dict[str, Any] = json.loads(self._path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise StoreError("store.checkpoint_file", path=self._path, detail=error) from error
        return content

    def _write(self, content: dict[str, Any]) -> None:
        self._pending = None
        new = self._path.with_name(self._path.name + ".new")
        try:
            with new.open("w", encoding="utf-8") as file:
                json.dump(content, file, ensure_ascii=False)
                file.flush()
                os.fsync(file.fileno())
            new.replace(self._path)
            folder = os.open(self._path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)  # the renaming itself
            finally:
                os.close(folder)
        except OSError as error:
            raise StoreError("store.checkpoint_file", path=self._path, detail=error) from error


_EMPTY: dict[str, Any] = {"checkpoint": None, "snapshots": {}, "schemas": {}}
