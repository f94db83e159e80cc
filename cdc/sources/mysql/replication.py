"""The replication connection: the events of a binlog as bytes. What they mean is cdc/decode's business.

Of python-mysql-replication the registration packet is used. Its BinLogStreamReader is not: it connects anew by itself and then sends
events twice, drops those it does not know, decodes each before it can be looked at, asks for 32-bit offsets only, encodes no tagged
GTIDs, and on MariaDB ignores file and offset. PyMySQL makes the connection (TLS, authentication); once the dump has been asked for its
socket is read here, in large blocks.

Manual: MySQL 'Replication Protocol' (COM_REGISTER_SLAVE, COM_BINLOG_DUMP, COM_BINLOG_DUMP_GTID); MariaDB 'Replication Protocol'.
"""

from __future__ import annotations

import hashlib
import select
import ssl
import struct
import time
import uuid
from dataclasses import dataclass

from pymysql.constants import COMMAND
from pymysql.err import raise_mysql_exception
from pymysqlreplication.binlogstream import ReportSlave

from cdc.config import SourceConfig
from cdc.decode.mysql.gtid import Gtids, GtidSet
from cdc.errors import SourceUnavailable
from cdc.sources.mysql.connection import connect, hang_up, place, query, translated

HEARTBEAT_SECONDS = 5
DEAD_SECONDS = 60.0
OFFSET_MAX = (1 << 32) - 1  # what COM_BINLOG_DUMP can ask for
BLOCK_BYTES = 256 << 10
EVENT_BYTES_MAX = 2 << 30  # an event is of 1 GB at most, and its head
_HEADER = struct.Struct("<I")  # three bytes of length, one that counts packets
_LENGTH = 0xFFFFFF  # of a packet that goes on in the next one, too
_EVENT, _END, _ERROR = 0x00, 0xFE, 0xFF
_NON_BLOCK, _BY_GTID = 1, 4

# Both spellings: MySQL is dropping the older one, MariaDB knows no other. A variable that a server does not know costs nothing.
_VARIABLES = {
    "master_binlog_checksum": "@@global.binlog_checksum",
    "source_binlog_checksum": "@@global.binlog_checksum",
    "master_heartbeat_period": str(HEARTBEAT_SECONDS * 10**9),
    "source_heartbeat_period": str(HEARTBEAT_SECONDS * 10**9),
    "mariadb_slave_capability": "4",  # GTID events as they are, none replaced by what older servers had
}


@dataclass(frozen=True, slots=True)
class Replica:
    """As whom a stream is asked for. A server keeps one stream per replica: with the same again it ends the former."""

    server_id: int
    uuid: str


@dataclass(frozen=True, slots=True)
class FromFile:
    """Begin with the event at an offset of a file."""

    file: str
    offset: int


@dataclass(frozen=True, slots=True)
class FromGtids:
    """Begin with the first transaction that is not among these."""

    gtids: Gtids


Start = FromFile | FromGtids
LOOKING = Replica(0, "")  # to look at a file's head: ends no other stream, and the server does not wait for more to come


def replica(name: str, config: SourceConfig, store_id: str) -> Replica:
    """Who this source of this store is, always the same: two daemons on one store end each other's streams loudly."""
    digest = hashlib.sha256(f"{store_id}/{name}".encode()).digest()
    derived = int.from_bytes(digest[:4], "big") | 1 << 31  # the upper half: people number their servers from the bottom
    return Replica(config.server_id or derived, str(uuid.UUID(bytes=digest[:16], version=4)))


class Stream:
    """One dump. Reading may pause for up to an hour, as long as the server waits to be rid of what it has to send."""

    def __init__(self, name: str, config: SourceConfig, replica: Replica, start: Start) -> None:
        self._name, self._config, self._replica = name, config, replica
        self._held: list[bytes] = []  # received, not yet cut into packets
        self._held_bytes, self._wanted = 0, _HEADER.size
        self._pieces: list[bytes] = []  # of an event that takes several packets
        self._silent_seconds = 0.0
        self._connection = connect(name, config, database=False)
        try:
            with translated(name, config):
                self._register()
                self._request(start)
                self._take_over()
        except BaseException:
            self.close()
            raise

    def _register(self) -> None:
        variables = dict(_VARIABLES)
        if self._replica.uuid:
            variables |= dict.fromkeys(("slave_uuid", "replica_uuid"), f"'{self._replica.uuid}'")
        query(self._connection, "SET " + ", ".join(f"@{key} = {value}" for key, value in variables.items()))
        if self._replica.server_id:
            # PyMySQL has no command for it: the packet comes with its header, and the answer is read as of any command.
            self._connection._write_bytes(ReportSlave("ledgertail").encoded(self._replica.server_id))
            self._connection._next_seq_id = 1
            self._connection._read_packet()

    def _request(self, start: Start) -> None:
        flags = 0 if self._replica.server_id else _NON_BLOCK
        if isinstance(start, FromGtids) and isinstance(start.gtids, GtidSet):
            gtids = start.gtids.encode()
            request = struct.pack("<HIIQI", flags | _BY_GTID, self._replica.server_id, 0, 4, len(gtids)) + gtids
            self._connection._execute_command(COMMAND.COM_BINLOG_DUMP_GTID, request)
            return
        file, offset = (start.file, start.offset) if isinstance(start, FromFile) else ("", 4)
        if isinstance(start, FromGtids):
            strict = "@slave_gtid_strict_mode = 1, @slave_gtid_ignore_duplicates = 0"
            query(self._connection, f"SET @slave_connect_state = %s, {strict}", (str(start.gtids),))
        request = struct.pack("<IHI", offset, flags, self._replica.server_id) + file.encode()
        self._connection._execute_command(COMMAND.COM_BINLOG_DUMP, request)

    def _take_over(self) -> None:
        """From here on the socket is ours; what PyMySQL's reader may have taken from it already comes first."""
        self._socket = self._connection._sock
        self._socket.setblocking(False)
        try:
            held = self._connection._rfile.peek()
        except (BlockingIOError, ssl.SSLWantReadError):
            held = b""
        if held:
            self._hold(bytes(held))

    def receive(self, events: list[bytes], size_max: int, wait_seconds: float) -> int:
        """Append the events that are there, up to about `size_max` bytes; wait for the first one. Returns the bytes appended.

        An event is as in the file, with its checksum where there is one. Heartbeats are events. Raises SourceUnavailable; PositionLost or
        another SourceError if the server says why it can't send what was asked for.
        """
        deadline = time.monotonic() + wait_seconds
        with translated(self._name, self._config):
            size = self._gather(events, size_max)
            while not size and (left := deadline - time.monotonic()) > 0:
                self._wait(left)
                size = self._gather(events, size_max)
        if self._silent_seconds > DEAD_SECONDS:
            raise SourceUnavailable("source.silent", source=self._name, place=place(self._config), seconds=int(DEAD_SECONDS))
        return size

    def _wait(self, seconds: float) -> None:
        """Until something can be read. Only time spent listening counts as silence."""
        begun = time.monotonic()
        select.select([self._socket], [], [], seconds)
        self._silent_seconds += time.monotonic() - begun

    def _gather(self, events: list[bytes], size_max: int) -> int:
        """Take what the socket holds now. To the end: select knows nothing of what TLS has decrypted already."""
        size = self._cut(events, size_max)
        while size < size_max:
            try:
                block = self._socket.recv(BLOCK_BYTES)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                break
            if not block:
                raise self._broken("the server closed the connection")
            self._hold(block)
            size += self._cut(events, size_max - size)
        return size

    def _hold(self, block: bytes) -> None:
        self._held.append(block)
        self._held_bytes += len(block)
        self._silent_seconds = 0.0

    def _cut(self, events: list[bytes], size_max: int) -> int:
        """Cut what is held into events. The hot loop: few steps per event, and a large one is not joined before all of it is there."""
        if self._held_bytes < self._wanted:
            return 0
        data = b"".join(self._held)
        at, end, size, header = 0, len(data), 0, _HEADER.unpack_from
        self._wanted = _HEADER.size
        while size < size_max and end - at >= 4:
            length = header(data, at)[0] & _LENGTH
            stop = at + 4 + length
            if stop > end:
                self._wanted = 4 + length
                break
            if 0 < length < _LENGTH and data[at + 4] == _EVENT and not self._pieces:
                events.append(data[at + 5 : stop])
                size += length - 1
            else:
                size += self._unusual(events, data[at + 4 : stop])
            at = stop
        self._held = [data[at:]] if at else [data]
        self._held_bytes = end - at
        return size

    def _unusual(self, events: list[bytes], packet: bytes) -> int:
        """A packet that is not an event: a piece of one, the end, or an error. Returns the bytes appended."""
        if self._pieces:
            self._pieces.append(packet)
        elif len(packet) == _LENGTH and packet[0] == _EVENT:
            self._pieces.append(packet[1:])
        elif packet[:1] == bytes([_ERROR]) and len(packet) >= 4:
            raise_mysql_exception(packet)
        elif packet[:1] == bytes([_END]):
            raise self._broken("the server ended the stream")
        else:
            raise self._broken(f"no packet of a stream: {packet[:20].hex()}")
        if sum(map(len, self._pieces)) > EVENT_BYTES_MAX:
            raise self._broken(f"an event of more than {EVENT_BYTES_MAX} bytes")
        if len(packet) == _LENGTH:
            return 0
        events.append(b"".join(self._pieces))
        self._pieces.clear()
        return len(events[-1])

    def _broken(self, detail: str) -> SourceUnavailable:
        return SourceUnavailable("source.unreachable", source=self._name, place=place(self._config), detail=detail)

    def close(self) -> None:
        """Let go of the connection. Never raises."""
        hang_up(self._connection)
