"""PostgreSQL's pgoutput in text mode, decoded into Arrow columns per table. Transactions come whole (see streamed.py).

Format: https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html

What a transaction is known by is its commit LSN, where its commit record starts: Begin carries it, so it is the same in every chunk
of a large transaction, and it is what pg_waldump shows. Where to go on is `Decoder.position`: the end of the last commit.

Here are the messages that only describe, and truncates; those that come by the thousand, and the values of rows, are the kernel's
(cdc/decode/postgres/kernel.py). Integers are big-endian. Every read is bounded: fixed fields by struct, indexes by the message.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Set
from struct import Struct
from typing import Any

import pyarrow as pa

from cdc.decode.kernels import kernel
from cdc.decode.postgres.captured import Captured, Relation, RelationColumn
from cdc.decode.postgres.faults import Malformed, Unidentified
from cdc.errors import SchemaUnknown, SourceError
from cdc.types import TRANSACTIONS, Position, TableChanges, TableSchema

__all__ = ["Decoder", "Relation", "RelationColumn", "lsn_int", "lsn_text"]

_UINT, _USHORT, _TYPE, _TRUNCATE, _MESSAGE = (
    Struct(">I").unpack_from,
    Struct(">H").unpack_from,
    Struct(">Ii"),
    Struct(">BIB"),
    Struct(">BBQ"),
)
_RELATION = ord("R")


def lsn_text(lsn: int) -> str:
    """An LSN as PostgreSQL writes it: `0/16B3748`."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def lsn_int(text: str) -> int:
    """The number of an LSN's text. Raises ValueError."""
    high, low = text.split("/")
    return int(high, 16) << 32 | int(low, 16)


class Decoder:
    """Decodes one replication session; a new session needs a new one, as the server describes its relations anew.

    `resolve` gives the schema a relation is captured with (its columns in any order, those it does not name are ignored), or None
    when it is not captured, and its rows are skipped. No two relations may resolve to one table at a time, unless the tables are
    `partitioned`; then a Relation that is new waits until all that is pending is taken. `truncated` is told which relations each
    Truncate is of, and may refuse it.
    """

    def __init__(
        self,
        resolve: Callable[[Relation], TableSchema | None],
        truncated: Callable[[Set[int]], None] = lambda relids: None,
        partitioned: bool = False,
    ) -> None:
        self._resolve, self._truncated, self._partitioned = resolve, truncated, partitioned
        self._relations: dict[int, Relation] = {}
        self._kernel: Any = kernel("postgres").module
        self._messages = self._kernel.Messages()
        self._handlers: dict[int, Callable[[bytes], None]] = {
            ord("T"): self._truncate,
            ord("O"): _check_origin,
            ord("Y"): _check_type,
            ord("M"): _check_message,
        }

    @property
    def in_transaction(self) -> bool:
        """Whether a Begin without its Commit was decoded."""
        return bool(self._messages.in_transaction)

    @property
    def pending_rows(self) -> int:
        """Changes that `take` would give."""
        return sum(rows.count for rows in self._messages.pending)

    @property
    def pending_bytes(self) -> int:
        """The size, as received, of what `take` would give; or half of that of the blocks that are held for it, if that is more."""
        return max(int(self._messages.pending_bytes), int(self._messages.held_bytes) // 2)

    @property
    def position(self) -> Position | None:
        """Where to go on: the end of the last Commit decoded, of captured changes or not; None before the first."""
        end_lsn = self._messages.end_lsn
        return None if end_lsn is None else lsn_text(end_lsn)

    def block(self) -> Any:
        """An empty Block, to receive messages into."""
        return self._kernel.Block()

    def feed(self, frames: Any, start: int = 0, before: int | None = None, enough: int = sys.maxsize) -> int:
        """Decode messages from `start` and return the index of the first not consumed.

        They are in a Block, or another sequence, of which one is made. The index is len(frames), or that of a Relation that would change
        a table with pending rows (`take`, then feed on), or of a Begin whose commit LSN is `before` or later, or of what follows a Commit
        once `enough` bytes are pending. Raises SourceError for what is no pgoutput, SchemaUnknown when a row can't be told, and what
        `resolve` and `truncated` raise; the decoder is of no use then. Values are read by `take`.
        """
        index, messages = start, self._messages
        block = frames if type(frames) is self._kernel.Block else self._kernel.Block(frames)
        try:
            while (index := messages.read(block, index, before, enough)) < len(block) and not messages.stopped:
                if not self._message(block[index]):
                    break
                index += 1
        except Unidentified as fault:
            raise _unidentified(*fault.args) from fault
        except (Malformed, IndexError, struct.error, UnicodeDecodeError) as fault:
            raise self._malformed(block[messages.index][:1], fault) from fault
        return index

    def take(self) -> tuple[pa.Table, tuple[TableChanges, ...]]:
        """All that is pending, as TRANSACTIONS and one TableChanges per table; it is then forgotten. Raises as `feed`, and ValueUnfit.

        Transactions without captured changes are not listed. One that is still open goes on counting ordinals, and is listed
        again with the same position once more of its changes come.
        """
        transactions = pa.Table.from_arrays(self._messages.transactions(), schema=TRANSACTIONS)
        try:
            changes = tuple(rows.table.take() for rows in self._messages.pending)
        except Unidentified as fault:
            raise _unidentified(*fault.args) from fault
        except Malformed as fault:
            raise self._malformed(b"", fault) from fault
        self._messages.forget()
        return transactions, changes

    def _message(self, frame: bytes) -> bool:
        """Decode a message that is not the kernel's; False if it must wait."""
        if frame[0] == _RELATION:
            return self._relation(frame)
        handler = self._handlers.get(frame[0])
        if handler is None:
            raise SourceError("decode.unknown", message=chr(frame[0]), position=lsn_text(self._messages.commit_lsn))
        handler(frame)
        return True

    def _malformed(self, message: bytes, fault: Exception) -> SourceError:
        detail = str(fault) if isinstance(fault, Malformed) else "it ends too early"
        position = lsn_text(self._messages.commit_lsn)
        return SourceError("decode.malformed", message=message.decode("latin-1"), detail=detail, position=position)

    def _relation(self, frame: bytes) -> bool:
        relation = _read_relation(frame)
        if self._relations.get(relation.relid) == relation:
            return True
        if any(self._partitioned or _same_table(relation, rows.table.relation) for rows in self._messages.pending):
            return False
        schema = self._resolve(relation)
        self._messages.describe(relation.relid, Captured(self._kernel, relation, schema).rows if schema else None)
        self._relations[relation.relid] = relation
        return True

    def _truncate(self, frame: bytes) -> None:
        _, count, _ = _TRUNCATE.unpack_from(frame)
        if len(frame) != _TRUNCATE.size + 4 * count:
            raise Malformed("a length in it is wrong")
        relids = [relid for (relid,) in Struct(">I").iter_unpack(frame[_TRUNCATE.size :])]
        self._truncated(set(relids))
        for relid in relids:
            self._messages.truncate(relid)


def _unidentified(table: Captured) -> SchemaUnknown:
    return SchemaUnknown("decode.identity", table=table.schema.table, relation=table.relation)


def _same_table(one: Relation, other: Relation) -> bool:
    return one.relid == other.relid or (one.namespace, one.name) == (other.namespace, other.name)


def _read_relation(frame: bytes) -> Relation:
    (relid,) = _UINT(frame, 1)
    namespace, place = _read_text(frame, 5)
    name, place = _read_text(frame, place)
    identity = chr(frame[place])
    (count,) = _USHORT(frame, place + 1)
    place += 3
    columns = []
    for _ in range(count):
        key = bool(frame[place] & 1)
        column, place = _read_text(frame, place + 1)
        type_oid, typmod = _TYPE.unpack_from(frame, place)
        place += _TYPE.size
        columns.append(RelationColumn(column, type_oid, typmod, key))
    _check_end(frame, place)
    return Relation(relid, namespace or "pg_catalog", name, identity, tuple(columns))


def _check_origin(frame: bytes) -> None:
    _check_end(frame, _read_text(frame, 9)[1])


def _check_type(frame: bytes) -> None:
    _check_end(frame, _read_text(frame, _read_text(frame, 5)[1])[1])


def _check_message(frame: bytes) -> None:
    _, place = _read_text(frame, _MESSAGE.size)
    _check_end(frame, place + 4 + _UINT(frame, place)[0])


def _read_text(frame: bytes, place: int) -> tuple[str, int]:
    end = frame.find(0, place)
    if end < 0:
        raise Malformed("a text in it does not end")
    return frame[place:end].decode(), end + 1


def _check_end(frame: bytes, place: int) -> None:
    if place != len(frame):
        raise Malformed("a length in it is wrong")
