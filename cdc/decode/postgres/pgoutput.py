"""PostgreSQL's pgoutput, protocol version 1 in text mode, decoded into Arrow columns per table.

Format: https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html

What a transaction is known by is its commit LSN, where its commit record starts: Begin carries it, so it is the same in every chunk
of a large transaction, and it is what pg_waldump shows. Where to go on is `Decoder.position`: the end of the last commit.

Here messages are told apart and rows are only sorted: by table, with what they are and their place in their transaction. Their
values are read later, many rows at once (`images`). Integers are big-endian. Every read is bounded: fixed fields by struct, indexes
by the message, and the values of a row by the rule that they must end exactly where their image does.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Sequence
from struct import Struct

import pyarrow as pa

from cdc.decode.postgres.captured import Captured, Relation, RelationColumn, unidentified
from cdc.decode.postgres.images import HEAD, Value, read_row, write_row
from cdc.decode.postgres.malformed import Malformed
from cdc.errors import SourceError
from cdc.types import DELETE, INSERT, TRANSACTIONS, TRUNCATE, UPDATE, Position, TableChanges, TableSchema

__all__ = ["Decoder", "Relation", "RelationColumn", "lsn_int", "lsn_text"]

_EPOCH_US = 946_684_800_000_000  # PostgreSQL counts from 2000-01-01
_MOMENT_MAX = 2**63 - 1 - _EPOCH_US
_BEGIN, _COMMIT, _HEAD = Struct(">BQqI"), Struct(">BBQQq"), Struct(">BIBH")
_UINT, _USHORT, _TYPE, _TRUNCATE, _MESSAGE = (
    Struct(">I").unpack_from,
    Struct(">H").unpack_from,
    Struct(">Ii"),
    Struct(">BIB"),
    Struct(">BBQ"),
)
_OLD, _NEW = b"ON"
_NEW_HEAD = 3  # what comes between the old row and the first value of the new one: N, number of columns (2)
_BEGIN_TAG, _COMMIT_TAG, _RELATION_TAG, _INSERT, _UPDATE, _DELETE = b"BCRIUD"
_OPS = {_INSERT: INSERT, _UPDATE: UPDATE, _DELETE: DELETE}
_MARKS = {_INSERT: b"N", _UPDATE: b"NKO", _DELETE: b"KO"}


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
    when it is not captured, and its rows are skipped. No two relations may resolve to one table at a time.

    `in_transaction`: a Begin without its Commit was decoded. `pending_bytes`: the size, as received, of what `take` would give.
    """

    def __init__(self, resolve: Callable[[Relation], TableSchema | None]) -> None:
        self._resolve = resolve
        self._relations: dict[int, Relation] = {}
        self._tables: dict[int, Captured | None] = {}
        self._pending: dict[int, Captured] = {}
        self._transactions: list[tuple[int, int, int]] = []  # commit LSN, xid, commit time
        self._listed = False  # the open transaction is the last of _transactions
        self._commit_lsn, self._committed_us, self._xid, self._ordinal = 0, 0, 0, 0
        self.in_transaction = False
        self.pending_bytes = 0
        self._end_lsn: int | None = None
        self._handlers: dict[int, Callable[[bytes], None]] = {
            ord("C"): self._commit,
            ord("T"): self._truncate,
            ord("O"): _check_origin,
            ord("Y"): _check_type,
            ord("M"): _check_message,
        }

    @property
    def pending_rows(self) -> int:
        """Changes that `take` would give."""
        return sum(table.rows for table in self._pending.values())

    @property
    def position(self) -> Position | None:
        """Where to go on: the end of the last Commit decoded, of captured changes or not; None before the first."""
        return None if self._end_lsn is None else lsn_text(self._end_lsn)

    def feed(self, frames: Sequence[bytes], start: int = 0, before: int | None = None, enough: int = sys.maxsize) -> int:
        """Decode messages from `start` and return the index of the first not consumed.

        That is len(frames), or a Relation that would change a table with pending rows (`take`, then feed on), or a Begin whose
        commit LSN is `before` or later, or what follows a Commit once `enough` bytes are pending. Raises SourceError for what is
        no pgoutput, SchemaUnknown when a row can't be told, and what `resolve` raises; the decoder is of no use then. Values are
        read in part here, in part by `take`.
        """
        index, end = start, len(frames)
        try:
            while index < end:
                kind = frames[index][0]
                if kind in _OPS:
                    index = self._rows(frames, index)
                elif self._message(kind, frames[index], before):
                    index += 1
                    if kind == _COMMIT_TAG and self.pending_bytes >= enough:
                        break
                else:
                    break
            for table in self._pending.values():
                table.pack()
        except (Malformed, IndexError, struct.error, UnicodeDecodeError) as fault:
            raise self._malformed(frames[index][:1] if index < end else b"", fault) from fault
        return index

    def take(self) -> tuple[pa.Table, tuple[TableChanges, ...]]:
        """All that is pending, as TRANSACTIONS and one TableChanges per table; it is then forgotten. Raises as `feed`, and ValueUnfit.

        Transactions without captured changes are not listed. One that is still open goes on counting ordinals, and is listed
        again with the same position once more of its changes come.
        """
        columns = [
            pa.array([lsn_text(lsn) for lsn, _, _ in self._transactions], pa.string()),
            pa.array([str(xid) for _, xid, _ in self._transactions], pa.string()),
            pa.array([moment for _, _, moment in self._transactions], pa.timestamp("us", "UTC")),
        ]
        try:
            changes = tuple(table.take() for table in self._pending.values())
        except Malformed as fault:
            raise self._malformed(b"", fault) from fault
        self._pending, self._transactions, self._listed, self.pending_bytes = {}, [], False, 0
        return pa.Table.from_arrays(columns, schema=TRANSACTIONS), changes

    def _message(self, kind: int, frame: bytes, before: int | None) -> bool:
        """Decode a message that is no row; False if it must wait."""
        if kind == _BEGIN_TAG:
            return self._begin(frame, before)
        if kind == _RELATION_TAG:
            return self._relation(frame)
        handler = self._handlers.get(kind)
        if handler is None:
            raise SourceError("decode.unknown", message=chr(kind), position=lsn_text(self._commit_lsn))
        handler(frame)
        return True

    def _malformed(self, message: bytes, fault: Exception) -> SourceError:
        detail = str(fault) if isinstance(fault, Malformed) else "it ends too early"
        return SourceError("decode.malformed", message=message.decode("latin-1"), detail=detail, position=lsn_text(self._commit_lsn))

    def _begin(self, frame: bytes, before: int | None) -> bool:
        _, commit_lsn, moment, xid = _BEGIN.unpack(frame)
        if self.in_transaction:
            raise Malformed("the transaction before has no Commit")
        if moment > _MOMENT_MAX:
            raise Malformed("its time is out of range")
        if before is not None and commit_lsn >= before:
            return False
        self._commit_lsn, self._committed_us, self._xid = commit_lsn, moment + _EPOCH_US, xid
        self.in_transaction, self._listed, self._ordinal = True, False, 0
        return True

    def _commit(self, frame: bytes) -> None:
        _, flags, commit_lsn, end_lsn, _ = _COMMIT.unpack(frame)
        if not self.in_transaction or flags or commit_lsn != self._commit_lsn:
            raise Malformed("it does not fit the Begin before it")
        self.in_transaction = False
        self._end_lsn = end_lsn

    def _relation(self, frame: bytes) -> bool:
        relation = _read_relation(frame)
        if self._relations.get(relation.relid) == relation:
            return True
        if any(_same_table(relation, table.relation) for table in self._pending.values()):
            return False
        schema = self._resolve(relation)
        self._tables[relation.relid] = Captured(relation, schema) if schema else None
        self._relations[relation.relid] = relation
        return True

    def _rows(self, frames: Sequence[bytes], start: int) -> int:
        """Take the changes of one kind and table that follow each other from `start`. Returns the index after them."""
        head = frames[start][:HEAD]
        kind, relid, mark, width = _HEAD.unpack(head)
        table, index = self._table(relid), start + 1
        while index < len(frames) and frames[index].startswith(head):
            index += 1
        if table is None:
            return index
        if mark not in _MARKS[kind] or width != table.width:
            raise Malformed("its row is not of the relation's shape")
        if not table.key and kind != _INSERT and mark != _OLD:
            raise unidentified(table)
        if kind == _UPDATE and mark != _NEW:
            for frame in frames[start:index]:
                self._update(table, frame)
        else:
            self._add(table, _OPS[kind], frames[start:index])
        return index

    def _update(self, table: Captured, frame: bytes) -> None:
        """An update that has an old row: all of it (O), or its identity (K), as that changed or is stored apart."""
        old, missing, middle = read_row(frame, HEAD, table.width)
        if missing or frame[middle] != _NEW or _USHORT(frame, middle + 1)[0] != table.width:
            raise Malformed("its old row is not whole")
        new, absent, end = read_row(frame, middle + _NEW_HEAD, table.width)
        if end != len(frame):
            raise Malformed("a length in it is wrong")
        whole = frame[5] == _OLD
        carried = [place for place in absent if whole or table.relation.columns[place].key]
        for place in carried:
            new[place] = old[place]
        absent = [place for place in absent if place not in carried]
        before, after = frame[:middle], frame[:HEAD] + (write_row(new, absent) if carried else frame[middle + _NEW_HEAD :])
        self._replace(table, (old, before), (new, after))

    def _replace(self, table: Captured, before: tuple[list[Value], bytes], after: tuple[list[Value], bytes]) -> None:
        """The changes an update with an old row is; `before` and `after` are values and frame of the rows."""
        compared = table.key or table.picks
        old, new = (tuple(row[place] for place in compared) for row, _ in (before, after))
        if old != new:
            self._add(table, DELETE, [before[1]])
        if not table.key and old != new:
            self._add(table, INSERT, [after[1]])
        elif table.key:
            self._add(table, UPDATE, [after[1]])
            if old != new:
                table.set_old_key(old)

    def _truncate(self, frame: bytes) -> None:
        _, count, _ = _TRUNCATE.unpack_from(frame)
        if len(frame) != _TRUNCATE.size + 4 * count:
            raise Malformed("a length in it is wrong")
        for (relid,) in Struct(">I").iter_unpack(frame[_TRUNCATE.size :]):
            if table := self._table(relid):
                self._add(table, TRUNCATE, [bytes(HEAD) + write_row([None] * table.width, ())])

    def _table(self, relid: int) -> Captured | None:
        if not self.in_transaction:
            raise Malformed("it is outside any transaction")
        try:
            return self._tables[relid]
        except KeyError:
            raise Malformed(f"relation {relid} was not described") from None

    def _add(self, table: Captured, op: str, frames: Sequence[bytes]) -> None:
        """Count the rows of the frames as the next changes of the open transaction."""
        if not self._listed:
            self._transactions.append((self._commit_lsn, self._xid, self._committed_us))
            self._listed = True
        size = sum(map(len, frames))
        table.add(op, frames, size, len(self._transactions) - 1, self._ordinal)
        self.pending_bytes += size
        self._ordinal += len(frames)
        self._pending[table.relation.relid] = table


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
