"""A stream of binlog events, decoded into whole transactions of Arrow changes per table.

What a transaction is known by is where its first event starts: that is told before its rows come, so it is the same in every part of a
large transaction, and it is what SHOW BINLOG EVENTS shows. Where to go on is `Decoder.position`: the end of the last transaction.

Brackets. MySQL: a GTID event (of any kind, anonymous too), then BEGIN .. XID, COMMIT or ROLLBACK, or a statement alone; before 5.7 without
GTIDs no such event. MariaDB: a GTID event that is the BEGIN, or says that a statement stands alone. XA: the first phase ends with
XA_PREPARE, and XA COMMIT or XA ROLLBACK is a transaction of its own; rows count with the second, until when they are kept as events.

Rows are gathered at once (`captured`); their values are turned into Arrow some MB at a time (`pending`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
from pymysqlreplication.constants import BINLOG

from cdc.decode.mysql import events as ev
from cdc.decode.mysql.aside import Aside
from cdc.decode.mysql.captured import Effect, Layout, Resolved, Truncate
from cdc.decode.mysql.events import ARTIFICIAL, HEADER, IGNORABLE, Gtid, Header, Reader, Xid
from cdc.decode.mysql.gtid import Gtids, GtidSet, with_gtid
from cdc.decode.mysql.pending import Pending, Transaction
from cdc.decode.mysql.position import file_number, place_text
from cdc.decode.mysql.rows import KINDS
from cdc.decode.mysql.table_map import read_table_map, table_id
from cdc.decode.mysql.wire import Malformed, Place, Statement, TableMap
from cdc.errors import SourceError
from cdc.types import TableChanges

_OFFSETS = 1 << 32  # how far the offset in a header counts
_MAPS_MAX = 10_000
_DUMMY_TABLE, _STATEMENT_ENDS = 0xFFFFFF, 1
_HEARTBEATS = (BINLOG.HEARTBEAT_LOG_EVENT, ev.HEARTBEAT_V2)
# What tells nothing of rows: what stands between transactions, the text of statements whose rows follow, values a statement uses.
_IDLE = frozenset(
    (
        *(BINLOG.STOP_EVENT, ev.TRANSACTION_CONTEXT, ev.VIEW_CHANGE),
        *(BINLOG.MARIADB_BINLOG_CHECKPOINT_EVENT, BINLOG.MARIADB_GTID_GTID_LIST_EVENT),
        *(BINLOG.ROWS_QUERY_LOG_EVENT, BINLOG.MARIADB_ANNOTATE_ROWS_EVENT, BINLOG.IGNORABLE_LOG_EVENT),
        *(BINLOG.INTVAR_EVENT, BINLOG.RAND_EVENT, BINLOG.USER_VAR_EVENT),
        *(BINLOG.BEGIN_LOAD_QUERY_EVENT, BINLOG.APPEND_BLOCK_EVENT, BINLOG.DELETE_FILE_EVENT),
    )
)

_GTIDS = (BINLOG.GTID_LOG_EVENT, BINLOG.ANONYMOUS_GTID_LOG_EVENT, ev.GTID_TAGGED, BINLOG.MARIADB_GTID_EVENT)
# What a payload can't have.
_OUTSIDE = frozenset((*_GTIDS, *_HEARTBEATS, BINLOG.ROTATE_EVENT, BINLOG.FORMAT_DESCRIPTION_EVENT, ev.TRANSACTION_PAYLOAD))

Stops = Iterable[None]  # stops where what is pending must be taken before it can go on


@dataclass(frozen=True, slots=True)
class _Prepared:
    """An XA transaction that is neither committed nor rolled back: where it starts, and its table maps and rows."""

    place: Place
    start: tuple[str, int]
    events: Aside


class Decoder:
    """Decodes one session of the stream, from `file` and `offset` on (an empty name: from where the server says).

    `resolve` gives what a table is captured as, or None; asked once per content of a table map and server start, and again after a
    statement had effects. `statement` is told every statement that is no bracket and gives its effects in order; for what was applied
    already (before `skip_until`) neither is asked.
    `in_transaction`: one has begun and not ended. `pending_bytes`: the size of the rows' events to be taken; of a transaction that may
    still be rolled back, in whole or to a savepoint, none is, and what goes beyond a batch waits aside.
    `position`, `file`: the end of the last transaction or, between transactions, of the last event, and the name of that file.
    `born`: when that file was begun, in seconds; None while not told. `gtids`: all transactions up to `position`.
    """

    def __init__(
        self,
        resolve: Callable[[TableMap], Resolved | None],
        statement: Callable[[Statement], Sequence[Effect]],
        *,
        mariadb: bool,
        file: str,
        offset: int,
        skip_until: Place | None = None,
        gtids: Gtids | None = None,
    ) -> None:
        self._resolve, self._effects_of, self._mariadb = resolve, statement, mariadb
        self._skip_until, self.gtids = skip_until, gtids
        self.file, self._offset = file, offset
        self.born: int | None = None
        self.position = Place(file_number(file) if file else 0, offset)
        self._start = self._heard = offset
        self._checksum: bool | None = None
        self._encrypted = False
        self._maps: dict[int, tuple[bytes, Layout | None]] = {}
        self._pending = Pending()
        self._transaction: Transaction | None = None
        self._prepared: dict[Xid, _Prepared] = {}
        self._doing: Iterator[None] | None = None
        self._before: Place | None = None
        self._enough = sys.maxsize
        self._handlers = self._make_handlers()

    def _make_handlers(self) -> dict[int, Callable[[Header, Reader], Stops]]:
        queries = (BINLOG.QUERY_EVENT, ev.QUERY_COMPRESSED, BINLOG.EXECUTE_LOAD_QUERY_EVENT)
        return {
            **dict.fromkeys(_GTIDS, self._gtid),
            **dict.fromkeys(queries, self._query),
            **dict.fromkeys(KINDS, self._rows),
            **dict.fromkeys(_HEARTBEATS, self._heartbeat),
            BINLOG.TABLE_MAP_EVENT: self._table_map,
            BINLOG.XID_EVENT: self._xid,
            BINLOG.XA_PREPARE_EVENT: self._xa_prepare,
            BINLOG.ROTATE_EVENT: self._rotate,
            BINLOG.PREVIOUS_GTIDS_LOG_EVENT: self._executed,
            BINLOG.FORMAT_DESCRIPTION_EVENT: self._description,
            BINLOG.INCIDENT_EVENT: self._incident,
            BINLOG.MARIADB_START_ENCRYPTION_EVENT: self._encryption,
            ev.TRANSACTION_PAYLOAD: self._payload,
            ev.PARTIAL_ROW_DATA: self._fragment,
        }

    @property
    def in_transaction(self) -> bool:
        return self._transaction is not None

    @property
    def pending_rows(self) -> int:
        """Changes that `take` would give; a new schema without any counts as one."""
        return self._pending.rows

    @property
    def pending_bytes(self) -> int:
        now = self._transaction
        return self._pending.bytes if now is None or now.decided else now.bytes_before

    @property
    def open_xa(self) -> tuple[str, int] | None:
        """Where the oldest XA transaction begins that changed captured tables and is neither committed nor rolled back."""
        return min(self._prepared.values(), key=lambda prepared: prepared.place).start if self._prepared else None

    def feed(self, events: Sequence[bytes], start: int = 0, before: Place | None = None, enough: int = sys.maxsize) -> int:
        """Decode events from `start` and return the index of the first not consumed.

        That is len(events), or where a transaction begins whose place is `before` or later, or what follows a transaction once `enough`
        bytes are pending; or an event that can't go on before what is pending is taken: a table with pending rows has a new schema, or
        a transaction that is decided has twice `enough` pending (part of that event may have been consumed). Raises SourceError for what
        is no binlog or can't be told from it, and what `resolve` and `statement` raise; the decoder is of no use then.
        """
        index, self._before, self._enough = start, before, enough
        try:
            while index < len(events):
                if self._doing is None:
                    self._doing = iter(self._event(events[index]))
                for _ in self._doing:
                    return index
                self._doing = None
                index += 1
                if self._transaction is None:
                    self.position = Place(self.position.file, self._offset)
                if self.pending_bytes >= enough and not self.in_transaction:
                    break
        except (Malformed, UnicodeDecodeError) as fault:
            raise self._malformed(events[index], fault) from fault
        return index

    def take(self) -> tuple[pa.Table, tuple[TableChanges, ...]]:
        """All that is pending, as TRANSACTIONS and one TableChanges per table; it is then forgotten. Raises as `feed`, and ValueUnfit.

        Transactions without captured changes are not listed. One that is still open goes on counting ordinals, and is listed
        again with the same position once more of its changes come.
        """
        try:
            return self._pending.take(self._transaction)
        except Malformed as fault:
            raise self._malformed(b"", fault) from fault

    def _malformed(self, event: bytes, fault: Exception) -> SourceError:
        place = place_text(self.file, self._start)
        if self._encrypted:
            return SourceError("binlog.encrypted", place=place)
        detail = str(fault) if isinstance(fault, Malformed) else "a text in it is not UTF-8"
        return SourceError("binlog.malformed", kind=event[4] if len(event) >= HEADER else "?", detail=detail, place=place)

    # One event.

    def _event(self, event: bytes) -> Stops:
        header = ev.read_header(event)
        end = self._checked(event, header)
        self._locate(header)
        return self._handle(header, Reader(event, HEADER, end))

    def _checked(self, event: bytes, header: Header) -> int:
        """Where the event's content ends; before a checksum, which must be right."""
        if header.kind == BINLOG.FORMAT_DESCRIPTION_EVENT:
            self._checksum = ev.read_description(event).checksum
        elif header.kind in _HEARTBEATS or (header.kind == BINLOG.ROTATE_EVENT and header.flags & ARTIFICIAL):
            # Made up by the server for us, before it has told whether there are checksums.
            return len(event) - ev.CRC if ev.checksum_fits(event, header) else len(event)
        if self._checksum is None:
            raise Malformed("no description of the format came before it")
        if not self._checksum:
            return len(event)
        if not ev.checksum_fits(event, header):
            # TCP has checksums of its own: most likely it is the file that is damaged, and would be on every retry.
            raise SourceError("binlog.encrypted" if self._encrypted else "binlog.checksum", place=place_text(self.file, self._offset))
        return len(event) - ev.CRC

    def _locate(self, header: Header) -> None:
        """Where the event starts and ends in the file. Headers have the lower 32 bits of the end, and MariaDB none within a transaction."""
        if header.flags & ARTIFICIAL or header.kind in _HEARTBEATS:
            return
        end = header.end
        if end:
            known = max(self._offset, self._heard)
            end |= known // _OFFSETS * _OFFSETS
            end += _OFFSETS if end < known else 0
        elif self.in_transaction:
            end = self._offset + header.size
        else:
            return
        if end < header.size:
            raise Malformed("its header tells another place")
        self._start, self._offset = end - header.size, end

    def _handle(self, header: Header, reader: Reader) -> Stops:
        handler = self._handlers.get(header.kind)
        if handler is not None:
            return handler(header, reader)
        if header.kind not in _IDLE and not header.flags & IGNORABLE:
            raise SourceError("binlog.unknown", kind=header.kind, place=place_text(self.file, self._start))
        return ()

    def _heartbeat(self, header: Header, reader: Reader) -> Stops:
        """Where the server reads. It may be within a transaction that is left out: this moves nothing, but tells how far offsets are."""
        file, offset = ev.read_heartbeat(reader, header)
        if file == self.file:
            self._heard = max(self._heard, offset)
        return ()

    def _rotate(self, _: Header, reader: Reader) -> Stops:
        file, offset = ev.read_rotate(reader)
        if file != self.file:
            self.born = None
        try:
            self.position = Place(file_number(file), offset)
        except ValueError:
            raise Malformed("it names no binary log file") from None
        self.file, self._offset, self._start, self._heard = file, offset, offset, offset
        return ()

    def _description(self, header: Header, reader: Reader) -> Stops:
        self.born, self._encrypted = header.timestamp, False
        if ev.read_description(reader.data).started:
            # What the server had not finished when it went down, it has rolled back.
            self._maps.clear()
            if self._transaction is not None:
                self._pending.cut(self._transaction, 0, self._transaction.bytes_before)
                self._transaction = None
        elif header.end and self._transaction is not None:
            raise Malformed("the transaction before has no end")
        return ()

    def _executed(self, _: Header, reader: Reader) -> Stops:
        """All before this file; also what was being committed, and not yet told of, when our first position was read."""
        try:
            executed = GtidSet.decode(reader.take(reader.left))
        except ValueError:
            raise Malformed("it is no set of GTIDs") from None
        self.gtids = executed.union(self.gtids) if isinstance(self.gtids, GtidSet) else executed or self.gtids
        return ()

    def _incident(self, _: Header, reader: Reader) -> Stops:
        raise SourceError("binlog.incident", message=ev.read_incident(reader), place=place_text(self.file, self._start))

    def _encryption(self, _: Header, __: Reader) -> Stops:
        """The server decrypts what it sends: that it did not shows in the events that follow."""
        self._encrypted = True
        return ()

    def _payload(self, _: Header, reader: Reader) -> Stops:
        for event in ev.payload_events(reader):
            header = ev.read_header(event)
            if header.kind in _OUTSIDE:
                raise Malformed(f"an event of kind {header.kind} is in its payload")
            yield from self._handle(header, Reader(event, HEADER))

    # Transactions.

    def _gtid(self, header: Header, reader: Reader) -> Stops:
        gtid = ev.read_gtid(reader, header)
        yield from self._begin(header, gtid, bracketed=self._mariadb and not gtid.flags & ev.STANDALONE)
        if gtid.flags & ev.PREPARED_XA:
            self._now.xid, self._now.aside = gtid.xid, Aside()

    def _begin(self, header: Header, gtid: Gtid, bracketed: bool) -> Stops:
        place = Place(self.position.file, self._start)
        if self._transaction is not None:
            raise Malformed("the transaction before has no end")
        while self._before is not None and place >= self._before:
            yield
        skipped = self._skip_until is not None and place < self._skip_until
        if self._skip_until is not None and not skipped:
            self._skip_until = None
            self._prepared = {xid: prepared for xid, prepared in self._prepared.items() if self._touches(prepared.events)}
        if len(self._maps) > _MAPS_MAX:
            self._maps.clear()
        committed_us = header.timestamp * 1_000_000 if gtid.committed_us is None else gtid.committed_us
        position = place_text(self.file, self._start)
        self._transaction = Transaction(
            place, position, gtid.gtid, committed_us, bracketed, gtid.alters, skipped, bytes_before=self._pending.bytes
        )

    def _commit(self) -> Stops:
        """The open transaction is to stay: what waits for that comes now, unless it waits for a second phase."""
        if (aside := self._now.aside) is not None:
            yield from self._replay(aside)
        self._end()

    def _end(self) -> None:
        transaction, self._transaction = self._now, None
        if transaction.fragments:
            raise Malformed("the fragments of a rows event before it are not complete")
        transaction.aside = None
        if transaction.gtid is not None and not transaction.skipped:
            self.gtids = with_gtid(self.gtids, transaction.gtid)

    @property
    def _now(self) -> Transaction:
        if self._transaction is None:
            raise Malformed("it is outside any transaction")
        return self._transaction

    def _xid(self, _: Header, __: Reader) -> Stops:
        return self._commit()

    def _query(self, header: Header, reader: Reader) -> Stops:
        statement = ev.read_query(reader, header)
        text = statement.text
        if text == "BEGIN":
            yield from self._bracket(header)
        elif text == "COMMIT":
            yield from self._commit()
        elif text == "ROLLBACK":
            self._pending.cut(self._now, 0, self._now.bytes_before)
            self._end()
        elif xa := ev.read_xa(text):
            yield from self._xa(header, *xa)
        elif savepoint := ev.read_savepoint(text):
            self._savepoint(*savepoint)
        else:
            if self._transaction is None:
                yield from self._begin(header, Gtid(None), bracketed=False)
            yield from self._statement(statement)
            if not self._now.bracketed:
                self._end()

    def _bracket(self, header: Header) -> Stops:
        """What begins a transaction with or without a GTID before it."""
        if self._transaction is None:
            yield from self._begin(header, Gtid(None), bracketed=True)
        elif self._now.bracketed:
            raise Malformed("the transaction before has no end")
        self._now.bracketed = True

    def _statement(self, statement: Statement) -> Stops:
        transaction = self._now
        if transaction.skipped or not transaction.alters:
            return
        effects = self._effects_of(statement)
        if effects:
            self._maps.clear()
        for effect in effects:
            yield from self._pending.room(effect.schema)
            if isinstance(effect, Truncate):
                self._pending.truncate(transaction, effect.schema)
            else:
                self._pending.announce(effect.schema)

    def _savepoint(self, back: bool, name: str) -> None:
        transaction, aside = self._now, self._now.aside
        if not back:
            transaction.savepoints[name] = transaction.ordinal, self._pending.bytes, aside.end if aside else 0
        elif name in transaction.savepoints:
            ordinal, size, end = transaction.savepoints[name]
            self._pending.cut(transaction, ordinal, size)
            if aside is not None:
                aside.cut(end)
        elif not transaction.skipped:
            raise Malformed("it goes back to a savepoint that was not set")

    # XA.

    def _xa(self, header: Header, verb: str, xid: Xid) -> Stops:
        if verb == "START":
            yield from self._bracket(header)
            self._now.xid, self._now.aside = xid, Aside()
        elif verb in ("COMMIT", "ROLLBACK"):
            if self._transaction is None:
                yield from self._begin(header, Gtid(None), bracketed=False)
            prepared = self._prepared.pop(xid, None)
            if verb == "COMMIT" and prepared is not None:
                yield from self._replay(prepared.events)
            self._end()

    def _xa_prepare(self, _: Header, reader: Reader) -> Stops:
        transaction = self._now
        xid, one_phase = ev.read_xa_prepare(reader)
        aside = transaction.aside
        if transaction.xid != xid or aside is None:
            raise Malformed("it is of another transaction")
        if one_phase:
            yield from self._replay(aside)
        elif transaction.touched:
            self._prepared[xid] = _Prepared(transaction.place, (self.file, transaction.place.offset), aside)
        self._end()

    def _replay(self, events: Aside) -> Stops:
        """What waited comes now, as changes of the open transaction, which is not rolled back any more."""
        self._now.xid, self._now.aside, self._now.decided = None, None, True
        for header, event in () if self._now.skipped else events:
            yield from self._handle(header, Reader(event))

    def _touches(self, events: Aside) -> bool:
        maps = (Reader(event) for header, event in events if header.kind == BINLOG.TABLE_MAP_EVENT)
        return any(self._described(reader) is not None for reader in maps)

    # Rows.

    def _table_map(self, header: Header, reader: Reader) -> Stops:
        transaction = self._now
        event = reader.data[reader.place : reader.end]
        layout = None if transaction.skipped else self._described(reader)
        if transaction.aside is not None and (transaction.skipped or layout is not None):
            transaction.touched = True
            transaction.aside.append(header, event)
        return ()

    def _described(self, reader: Reader) -> Layout | None:
        """What the table of a table map is captured as."""
        content = reader.data[reader.place : reader.end]
        number = int.from_bytes(content[:6], "little")
        known = self._maps.get(number)
        if known is None or known[0] != content:
            table = read_table_map(reader, self._mariadb)
            resolved = self._resolve(table)
            known = self._maps[number] = content, Layout(table, resolved, self._mariadb) if resolved else None
        return known[1]

    def _rows(self, header: Header, reader: Reader) -> Stops:
        transaction = self._now
        start, aside = reader.place, transaction.aside
        number, flags = table_id(reader), reader.uint(2)
        if transaction.skipped:
            if aside is not None:
                aside.append(header, reader.data[start : reader.end])
            return
        if number not in self._maps:
            if number == _DUMMY_TABLE and flags & _STATEMENT_ENDS:
                return
            raise Malformed(f"table {number} was not described")
        layout = self._maps[number][1]
        if layout is None:
            return
        room = self._pending.has_room(layout.schema)
        if aside is None and not transaction.decided and (self._pending.bytes >= self._enough or not room):
            aside = transaction.aside = Aside()
        if aside is not None:
            aside.append(header, reader.data[start : reader.end])
            return
        if not room:
            # Nothing waits for what can't be read, or changes nothing.
            if not layout.read(header.kind, Reader(reader.data, reader.place, reader.end), layout.gathered()).ops:
                return
            yield from self._pending.room(layout.schema)
        self._pending.add(transaction, layout, header.kind, reader)
        while self._pending.bytes >= 2 * self._enough:
            yield

    def _fragment(self, _: Header, reader: Reader) -> Stops:
        """A part of one rows event: MariaDB 12.3 and later cut those larger than binlog_row_event_fragment_threshold."""
        fragments = self._now.fragments
        numbers, flags = {reader.uint(4), reader.uint(4)}, reader.uint(1)
        if flags & 1:
            reader.take(8)
        # The manual and the source differ in which of the two, its number or their count, comes first.
        number = len(fragments) + 1
        if number not in numbers or max(numbers) < number:
            raise Malformed("a fragment before it is missing")
        fragments.append(reader.rest())
        if numbers != {number}:
            return
        event = b"".join(fragments)
        fragments.clear()
        header = ev.peek_header(event)
        if header.kind not in KINDS:
            raise Malformed("its fragments are no rows event")
        end = len(event) - (ev.CRC if ev.checksum_fits(event, header) else 0)
        yield from self._rows(header, Reader(event, HEADER, end))
