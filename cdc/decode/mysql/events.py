"""The events of a binlog one by one, as bytes: their header, their checksum, and what those say that are no rows.

We read the packet ourselves. python-mysql-replication makes an object, a table of names and a dict per row (30,000 rows a second), skips
what it does not know (compressed transactions, tagged GTIDs, MariaDB's compressed events) and a row whose table map it did not keep, and
its stream forgets where transactions begin and end. Its numbers of events are used here, its reading of values is what tests compare with.

Formats: MySQL source documentation, 'Replication' > 'Binlog Event'; MariaDB manual, 'Replication Protocol'. Integers are little-endian.
Every read is bounded by the event; what does not fit raises Malformed.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from struct import Struct
from typing import Any, NamedTuple
from uuid import UUID

import zstandard
from pymysqlreplication.constants import BINLOG

from cdc.decode.mysql.charsets import charset_of, decoder
from cdc.decode.mysql.wire import Malformed, Statement

HEADER, CRC = 19, 4
_CRC_LEFT = 0x2144DF1C  # the CRC32 of all that ends with its own
ARTIFICIAL, IGNORABLE = 0x20, 0x80
_BINLOG_IN_USE = 0x01
_HEADER = Struct("<IBIIIH")
_GTID = Struct("<x16sQ")  # flags; UUID and number
_QUERY = Struct("<8xBHH")  # thread and seconds; the size of the database's name, error, the size of the status variables
_EVENT_MAX = 1 << 30  # the largest event a server writes
_PIECE = 1 << 20  # bytes decompressed at a time
_VERSION = 4

# Numbers that python-mysql-replication does not have.
TRANSACTION_CONTEXT, VIEW_CHANGE, TRANSACTION_PAYLOAD, HEARTBEAT_V2, GTID_TAGGED = 36, 37, 40, 41, 42
QUERY_COMPRESSED, PARTIAL_ROW_DATA = 165, 172

_PAYLOAD_END, _PAYLOAD_SIZE, _PAYLOAD_COMPRESSION, _PAYLOAD_UNCOMPRESSED = range(4)
_HEARTBEAT_END, _HEARTBEAT_FILE, _HEARTBEAT_OFFSET = range(3)
_ZSTD, _NONE = 0, 255

# MariaDB's GTID_EVENT.
STANDALONE, _GROUP_COMMIT, PREPARED_XA, _COMPLETED_XA = 0x01, 0x02, 0x40, 0x80
_START_ALTER, _ROLLBACK_ALTER = 0x02, 0x08  # of its second byte of flags


class Header(NamedTuple):
    """The first 19 bytes of an event. `end` is where it ends in its file, as far as 32 bits tell; 0 if it is in no file."""

    timestamp: int
    kind: int
    server_id: int
    size: int
    end: int
    flags: int


Xid = tuple[int, bytes, bytes]  # format, gtrid, bqual


@dataclass(frozen=True, slots=True)
class Gtid:
    """What begins a transaction. `gtid` is None for an anonymous one, `committed_us` where the event does not tell.

    MariaDB: `flags` are those of its event; `alters` is False for the first half of a two-phase ALTER and for one rolled back, which
    have the statement's text and no effect.
    """

    gtid: str | None
    committed_us: int | None = None
    flags: int = 0
    alters: bool = True
    xid: Xid | None = None


@dataclass(frozen=True, slots=True)
class Description:
    """A FORMAT_DESCRIPTION_EVENT. `started`: the server began this file when it started. `checksum`: events end with a CRC32."""

    started: bool
    checksum: bool


class Reader:
    """Reads bytes front to back, from `place` up to `end`. Raises Malformed for what would go beyond."""

    __slots__ = ("data", "end", "place")

    def __init__(self, data: bytes, place: int = 0, end: int | None = None) -> None:
        self.data, self.place, self.end = data, place, len(data) if end is None else end

    @property
    def left(self) -> int:
        return self.end - self.place

    def take(self, size: int) -> bytes:
        if size > self.end - self.place:
            raise Malformed("it ends too early")
        start = self.place
        self.place = start + size
        return self.data[start : self.place]

    def uint(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def fields(self, layout: Struct) -> tuple[Any, ...]:
        return layout.unpack(self.take(layout.size))

    def packed(self) -> int:
        """A length-encoded integer of the client/server protocol."""
        first = self.uint(1)
        if first < 251:
            return first
        if first in (251, 255):
            raise Malformed("a length in it is wrong")
        return self.uint((2, 3, 8)[first - 252])

    def counted(self) -> bytes:
        """Bytes behind their packed length."""
        return self.take(self.packed())

    def rest(self) -> bytes:
        return self.take(self.left)


def peek_header(event: bytes) -> Header:
    """What an event begins with, whatever its size. Raises Malformed."""
    if len(event) < HEADER:
        raise Malformed("it ends too early")
    return Header._make(_HEADER.unpack_from(event))


def read_header(event: bytes) -> Header:
    """The header of an event, whose size it must tell. Raises Malformed."""
    header = peek_header(event)
    if header.size != len(event):
        raise Malformed("its header tells another size")
    return header


def checksum_fits(event: bytes, header: Header) -> bool:
    """Whether its last four bytes are the CRC32 of all before them."""
    if header.kind == BINLOG.FORMAT_DESCRIPTION_EVENT and header.flags & _BINLOG_IN_USE:
        # The flag is cleared in the file when that is closed: the checksum is without it.
        event = event[: HEADER - 2] + (header.flags & ~_BINLOG_IN_USE).to_bytes(2, "little") + event[HEADER:]
    return len(event) >= HEADER + CRC and zlib.crc32(event) == _CRC_LEFT


def read_description(event: bytes) -> Description:
    """Raises Malformed for a format other than that of MySQL 5.6 and MariaDB 10 and later."""
    reader = Reader(event, HEADER)
    version, _, created, header = reader.uint(2), reader.take(50), reader.uint(4), reader.uint(1)
    if version != _VERSION or header != HEADER or reader.left <= CRC + BINLOG.TABLE_MAP_EVENT:
        raise Malformed("it describes a format of before MySQL 5.6")
    algorithm = event[-CRC - 1]
    if algorithm > 1:
        raise Malformed("it has a checksum of unknown kind")
    return Description(bool(created), bool(algorithm))


def read_rotate(reader: Reader) -> tuple[str, int]:
    """The file that follows, and where in it."""
    offset = reader.uint(8)
    return reader.rest().decode(), offset


def read_heartbeat(reader: Reader, header: Header) -> tuple[str, int]:
    """File and offset up to where the server has read for us, HEARTBEAT_LOG_EVENT or its second version."""
    if header.kind != HEARTBEAT_V2:
        # MariaDB writes offsets that 32 bits do not hold before the name.
        offset = reader.uint(8) if header.end in (0, 0xFFFFFFFF) and reader.left > 8 else header.end
        return reader.rest().decode(), offset
    file, offset = "", 0
    while (field := reader.packed()) != _HEARTBEAT_END:
        value = Reader(reader.counted())
        if field == _HEARTBEAT_FILE:
            file = value.rest().decode()
        elif field == _HEARTBEAT_OFFSET:
            offset = value.packed()
    return file, offset


def read_gtid(reader: Reader, header: Header) -> Gtid:
    """GTID_LOG_EVENT, ANONYMOUS_GTID_LOG_EVENT, GTID_TAGGED_LOG_EVENT or MariaDB's GTID_EVENT."""
    if header.kind == BINLOG.MARIADB_GTID_EVENT:
        return _read_mariadb_gtid(reader, header)
    if header.kind == GTID_TAGGED:
        return _read_tagged_gtid(reader)
    uuid, number = reader.fields(_GTID)
    committed_us = None
    # 5.6 ends here; two logical times of 5.7 are of no use to us; 8.0 adds the time of the commit.
    if reader.left >= 1 + 16 + 7 and reader.uint(1) == 2:
        reader.take(16)
        committed_us = reader.uint(7) & ~(1 << 55)
    return Gtid(None if header.kind == BINLOG.ANONYMOUS_GTID_LOG_EVENT else f"{_uuid_text(uuid)}:{number}", committed_us)


@lru_cache(maxsize=64)
def _uuid_text(uuid: bytes) -> str:
    return str(UUID(bytes=uuid))


# The fields of GTID_TAGGED_LOG_EVENT by their numbers.
_FLAGS, _UUID, _NUMBER, _TAG, _LAST_COMMITTED, _SEQUENCE, _COMMITTED = range(7)


def _read_tagged_gtid(reader: Reader) -> Gtid:
    """A message of MySQL's serialization library: version, size, last field that must be known, then fields behind their numbers."""
    for _ in range(3):
        _variable(reader)
    uuid, number, tag, committed_us = UUID(int=0), 0, "", None
    while committed_us is None:
        field = _variable(reader)
        if field == _UUID:
            # An array of bytes is written as an array of numbers.
            uuid = UUID(int=sum(_variable(reader) << shift for shift in range(120, -8, -8)) & (1 << 128) - 1)
        elif field == _TAG:
            tag = reader.take(_variable(reader)).decode("ascii")
        elif field in (_NUMBER, _LAST_COMMITTED, _SEQUENCE):
            value = _signed(_variable(reader))
            number = value if field == _NUMBER else number
        elif field in (_FLAGS, _COMMITTED):
            value = _variable(reader)
            committed_us = value if field == _COMMITTED else None
        else:
            raise Malformed("it has no time of commit")
    return Gtid(f"{uuid}:{tag}:{number}" if tag else f"{uuid}:{number}", committed_us)


def _variable(reader: Reader) -> int:
    """An integer of 1 to 9 bytes: as many low bits are set in the first one as bytes follow."""
    first = reader.uint(1)
    following = 8 if first == 0xFF else (~first & (first + 1)).bit_length() - 1
    value = reader.uint(following)
    return value if following == 8 else first >> (following + 1) | value << (7 - following)


def _signed(value: int) -> int:
    return -(value >> 1) - 1 if value & 1 else value >> 1


def _read_mariadb_gtid(reader: Reader, header: Header) -> Gtid:
    number, domain, flags = reader.uint(8), reader.uint(4), reader.uint(1)
    if flags & _GROUP_COMMIT:
        reader.take(8)
    xid = None
    if flags & (PREPARED_XA | _COMPLETED_XA):
        kind, gtrid_size, bqual_size = reader.uint(4), reader.uint(1), reader.uint(1)
        xid = (kind, reader.take(gtrid_size), reader.take(bqual_size))
    more = reader.uint(1) if reader.left else 0
    return Gtid(f"{domain}-{header.server_id}-{number}", None, flags, not more & (_START_ALTER | _ROLLBACK_ALTER), xid)


def read_query(reader: Reader, header: Header) -> Statement:
    """QUERY_EVENT, QUERY_COMPRESSED_EVENT or EXECUTE_LOAD_QUERY_EVENT."""
    database_size, error, variables_size = reader.fields(_QUERY)
    if header.kind == BINLOG.EXECUTE_LOAD_QUERY_EVENT:
        reader.take(13)  # a file, where its name stands in the text, and what to do with duplicates
    variables = reader.take(variables_size)
    database = reader.take(database_size).decode(errors="surrogateescape")
    if reader.take(1) != b"\0":
        raise Malformed("a text in it does not end")
    text = decompressed(reader) if header.kind == QUERY_COMPRESSED else reader.rest()
    if text == b"BEGIN":
        # The hot path: no variable makes it anything else.
        return Statement("BEGIN", database, 0, error)
    sql_mode, collation = _read_variables(variables)
    return Statement(_decoded(text, collation), database, sql_mode, error)


# Sizes of a query's status variables, up to those we want; `charset` is always written before any that is not listed.
_VARIABLE_SIZES = {0: 4, 1: 8, 3: 4, 4: 6, 7: 2, 8: 2, 9: 8, 10: 4, 13: 3, 16: 1, 17: 8, 18: 2, 19: 1, 20: 1, 128: 3, 129: 8}
_SQL_MODE, _OLD_CATALOG, _CHARSET, _TIME_ZONE, _CATALOG = 1, 2, 4, 5, 6


def _read_variables(variables: bytes) -> tuple[int, int]:
    """sql_mode, and the collation of character_set_client (0 where not told)."""
    reader = Reader(variables)
    sql_mode = collation = 0
    while reader.left:
        code = reader.uint(1)
        if code == _SQL_MODE:
            sql_mode = reader.uint(8)
        elif code == _CHARSET:
            collation = int.from_bytes(reader.take(6)[:2], "little")
        elif code in (_TIME_ZONE, _CATALOG, _OLD_CATALOG):
            reader.take(reader.uint(1) + (code == _OLD_CATALOG))
        elif code in _VARIABLE_SIZES:
            reader.take(_VARIABLE_SIZES[code])
        else:
            break
    return sql_mode, collation


def _decoded(text: bytes, collation: int) -> str:
    """SQL text; bytes that are none of its character set become lone surrogates, which no name of a table has."""
    decode = decoder(charset_of(collation) or "utf8mb4")
    try:
        return text.decode("ascii") if text.isascii() or decode is None else decode(text)
    except UnicodeDecodeError:
        return text.decode(errors="surrogateescape")


def decompressed(reader: Reader) -> bytes:
    """The rest of the event, MariaDB's log_bin_compress: a byte of method and size, the size before it was compressed, zlib."""
    head = reader.uint(1)
    if head & 0xF0 != 0x80:
        raise Malformed("it is compressed in an unknown way")
    size = int.from_bytes(reader.take(head & 0x07), "big")
    if size > _EVENT_MAX:
        raise Malformed("a length in it is wrong")
    return inflate(reader.rest(), size)


def inflate(data: bytes, size: int, bits: int = zlib.MAX_WBITS) -> bytes:
    """Exactly `size` bytes out of zlib's. Raises Malformed."""
    try:
        machine = zlib.decompressobj(bits)
        found = machine.decompress(data, size + 1)
    except zlib.error as fault:
        raise Malformed("what is compressed in it is damaged") from fault
    if len(found) != size or not machine.eof:
        raise Malformed("what is compressed in it has another size")
    return found


def read_xa_prepare(reader: Reader) -> tuple[Xid, bool]:
    """Which transaction, and whether it is committed at once (XA COMMIT ... ONE PHASE)."""
    one_phase, kind, gtrid_size, bqual_size = reader.uint(1), reader.uint(4), reader.uint(4), reader.uint(4)
    return (kind, reader.take(gtrid_size), reader.take(bqual_size)), bool(one_phase)


_XA = re.compile(r"XA (START|END|COMMIT|ROLLBACK) X'([0-9A-Fa-f]*)',X'([0-9A-Fa-f]*)',([0-9]+)(?: ONE PHASE)?", re.ASCII)


def read_xa(text: str) -> tuple[str, Xid] | None:
    """The verb and the transaction of an XA statement as servers write it; None for any other statement."""
    match = _XA.fullmatch(text)
    if match is None:
        return None
    verb, gtrid, bqual, kind = match.groups()
    if len(gtrid) % 2 or len(bqual) % 2:
        raise Malformed("its xid is no text of bytes")
    return verb, (int(kind) & 0xFFFFFFFF, bytes.fromhex(gtrid), bytes.fromhex(bqual))


_SAVEPOINT = re.compile(r"""(SAVEPOINT|ROLLBACK TO(?: SAVEPOINT)?) (`(?:[^`]|``)*`|"(?:[^"]|"")*"|[^\s`"]+)""", re.IGNORECASE)


def read_savepoint(text: str) -> tuple[bool, str] | None:
    """Whether it goes back, and the savepoint's name, which is the same in capitals; None for any other statement."""
    match = _SAVEPOINT.fullmatch(text)
    if match is None:
        return None
    name = match[2]
    if (quote := name[0]) in '`"':
        name = name[1:-1].replace(quote * 2, quote)
    return match[1].upper() != "SAVEPOINT", name.casefold()


def read_incident(reader: Reader) -> str:
    """The message of an INCIDENT_EVENT."""
    reader.take(2)
    return reader.take(reader.uint(1)).decode(errors="replace") if reader.left else ""


def payload_events(reader: Reader) -> Iterator[bytes]:
    """The events of a TRANSACTION_PAYLOAD_EVENT, without checksums, decompressed piece by piece. Raises Malformed."""
    compression, size, whole = -1, -1, None
    while (field := reader.packed()) != _PAYLOAD_END:
        value = Reader(reader.counted())
        if field == _PAYLOAD_COMPRESSION:
            compression = value.packed()
        elif field == _PAYLOAD_SIZE:
            size = value.packed()
        elif field == _PAYLOAD_UNCOMPRESSED:
            whole = value.packed()
    if compression not in (_ZSTD, _NONE) or size != reader.left:
        raise Malformed("its payload is of unknown kind or size")
    payload = memoryview(reader.data)[reader.place : reader.end]
    if compression == _NONE:
        return _split(_Plain(payload), size)
    return _split(zstandard.ZstdDecompressor().stream_reader(payload, read_across_frames=True), whole)


class _Plain:
    """An uncompressed payload, read like a compressed one."""

    def __init__(self, payload: memoryview) -> None:
        self._payload, self._place = payload, 0

    def read(self, size: int) -> bytes:
        start = self._place
        self._place = min(start + size, len(self._payload))
        return bytes(self._payload[start : self._place])


def _split(stream: _Plain | zstandard.ZstdDecompressionReader, whole: int | None) -> Iterator[bytes]:
    """`whole`: how many bytes must come, if told."""
    found = 0
    while head := _read(stream, HEADER):
        size = int.from_bytes(head[9:13], "little")
        if len(head) < HEADER or not HEADER <= size <= _EVENT_MAX:
            raise Malformed("a length in its payload is wrong")
        event = head + _read(stream, size - HEADER)
        if len(event) != size:
            raise Malformed("its payload ends too early")
        found += size
        if whole is not None and found > whole:
            break
        yield event
    if whole is not None and found != whole:
        raise Malformed("its payload has another size")


def _read(stream: _Plain | zstandard.ZstdDecompressionReader, size: int) -> bytes:
    """`size` bytes, or fewer at the end: in pieces, as a size may be a lie and the reader makes room for it first."""
    pieces = []
    try:
        while size and (piece := stream.read(min(size, _PIECE))):
            pieces.append(piece)
            size -= len(piece)
    except zstandard.ZstdError as fault:
        raise Malformed("its payload is damaged") from fault
    return b"".join(pieces)
