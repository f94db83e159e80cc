"""The shop on a MySQL: what writes to it, and its binlog, read by ours and by python-mysql-replication."""

from __future__ import annotations

import pickle
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from pymysql.constants import COMMAND
from pymysqlreplication.constants import BINLOG

from cdc.config import SourceConfig
from cdc.decode.mysql.binlog import Decoder
from cdc.decode.mysql.lexer import Dialect
from cdc.decode.mysql.rows import KINDS
from cdc.decode.mysql.wire import Place
from cdc.sources.mysql.catalog import Catalog
from cdc.sources.mysql.connection import Connection, connect, hang_up
from cdc.sources.mysql.relations import Relations
from cdc.sources.mysql.replication import FromFile, Replica, Stream
from cdc.sources.mysql.server import head, identify
from cdc.sources.tail import GATHER_BYTES, Receiver, Tail
from tests.benchmarks.orders import MYSQL_SCHEMA, TABLE, Written, mysql_rows, mysql_transactions, write_config
from tests.benchmarks.programs import PATIENCE_S, Failed
from tests.servers.mysql import MyDatabase, MySQLServer

_PIECE_ROWS = 100_000
_OURS, _THEIRS = 4_000_001, 4_000_002
_KIND, _END = 4, slice(13, 17)  # what an event is, and where it ends in its file
_PACKET = 5  # bytes around an event on the wire
_READER = """
import pickle, sys, time
from pymysql.protocol import MysqlPacket
from pymysqlreplication import BinLogStreamReader
from pymysqlreplication.row_event import UpdateRowsEvent, WriteRowsEvent
*told, memory = (int(told) if told.isdecimal() else told for told in sys.argv[1:])
host, port, server_id, file, offset, wanted = told
reader = BinLogStreamReader({"host": host, "port": port, "user": "root"}, server_id=server_id, log_file=file, log_pos=offset,
                            resume_stream=True, blocking=True, enable_logging=False, only_events=[WriteRowsEvent, UpdateRowsEvent])
class Memory:
    def __init__(self):
        with open(memory, "rb") as events:
            self.packets = iter([MysqlPacket(b"\\0" + event, "utf8") for event in pickle.load(events)])
    def _read_packet(self):
        return next(self.packets)
if memory:
    reader.fetchone()  # connects, and tells it of the format
    reader._stream_connection = Memory()
begun = time.perf_counter()
while wanted > 0:
    wanted -= len(reader.fetchone().rows)
print(time.perf_counter() - begun)
"""


@dataclass(frozen=True, slots=True)
class MysqlShop:
    """See PostgresShop."""

    server: MySQLServer
    database: MyDatabase

    def __post_init__(self) -> None:
        self.database.execute(MYSQL_SCHEMA)
        self.database.execute(f"SET SESSION cte_max_recursion_depth = {_PIECE_ROWS}")

    @property
    def title(self) -> str:
        return "MySQL"

    def config(self, folder: Path) -> Path:
        return write_config(folder, self.database.url)

    def execute(self, statement: str) -> None:
        self.database.execute(statement)

    def write(self, written: Written) -> None:
        for statement in mysql_transactions(written):
            self.database.execute(statement)

    def write_at_once(self, rows: int) -> None:
        self.database.execute("BEGIN")
        for first in range(1, rows + 1, _PIECE_ROWS):
            self.database.execute(mysql_rows(first, min(first + _PIECE_ROWS - 1, rows)))
        self.database.execute("COMMIT")

    @contextmanager
    def log(self) -> Iterator[MysqlLog]:
        self.database.execute("FLUSH BINARY LOGS")
        source = SourceConfig(url=self.database.url, tables=[TABLE])
        side = connect("shop", source)
        try:
            yield MysqlLog(self.database, source, side)
        finally:
            hang_up(side)

    def copied(self, folder: Path) -> tuple[str, float]:
        begun, ends = time.perf_counter(), 0
        with closing(self.server.connect(self.database.name)) as connection:
            connection._execute_command(COMMAND.COM_QUERY, f"SELECT * FROM {TABLE}")
            while ends < 2:  # of the columns, and of the rows
                ends += connection._read_packet().is_eof_packet()
        return "PyMySQL reading packets", time.perf_counter() - begun

    def note_commands(self) -> None:
        self.database.execute("SET GLOBAL log_output = 'TABLE', GLOBAL general_log = ON")

    def snapshot_at(self) -> float:
        return self._commanded_at("argument LIKE 'START TRANSACTION WITH CONSISTENT SNAPSHOT%'")

    def streamed_at(self) -> float:
        return self._commanded_at("command_type LIKE 'Binlog Dump%'")

    def _commanded_at(self, command: str) -> float:
        self.database.execute("SET GLOBAL general_log = OFF")
        ((at,),) = self.database.execute(f"SELECT unix_timestamp(max(event_time)) FROM mysql.general_log WHERE {command}")
        if at is None:
            raise Failed(f"the server's log has no {command}")
        return float(at)


class MysqlLog:
    """What was logged from a place on, in one file. `source`: the kind that kernels are made for."""

    source = "mysql"
    merely = "merely reading the socket"
    theirs = "python-mysql-replication, to dicts"

    def __init__(self, database: MyDatabase, config: SourceConfig, side: Connection) -> None:
        self._database, self._config, self._side = database, config, side
        self._start, self._catalog = head(side, identify(side)), Catalog("shop", {})
        self._tables = self._catalog.tables(side, [TABLE])

    @contextmanager
    def stream(self, kind: type[Stream] = Stream) -> Iterator[Stream]:
        """All of it, as the daemon receives it."""
        stream = kind("shop", self._config, Replica(_OURS, ""), FromFile(*self._start.start))
        try:
            yield stream
        finally:
            stream.close()

    def decoder(self) -> Decoder:
        """As the daemon has it."""
        schemas = {name: self._catalog.schema(table) for name, table in self._tables.items()}
        relations = Relations(self._side, self._catalog, self._tables, schemas, lambda table: True, Dialect(False, True), True)
        return Decoder(relations.resolve, relations.effects, mariadb=False, file=self._start.file, offset=self._start.offset)

    def frames(self, changes: int) -> list[bytes]:
        """All events up to now."""
        return [event for block in self._received() for event in block]

    def blocks(self, frames: Sequence[bytes]) -> list[list[bytes]]:
        """Events as they are received."""
        return [list(frames)]

    def tail(self, stream: Receiver) -> Tail[Place]:
        """What receives and decodes."""
        return Tail(self._config.batch_size_max, stream, self.decoder())

    def _received(self) -> Iterator[list[bytes]]:
        end, reached = head(self._side, identify(self._side)), 0
        if end.file != self._start.file:
            raise Failed("what was written is not in one file of the binlog")
        with self.stream() as stream:
            while reached != end.offset & 0xFFFF_FFFF:
                events = list[bytes]()
                stream.receive(events, GATHER_BYTES, 1.0)
                reached = int.from_bytes(events[-1][_END], "little") if events else reached
                yield events

    def received_s(self, changes: int) -> float:
        """Seconds that it takes merely to read the socket."""
        size = sum(_PACKET + len(event) for block in self._received() for event in block)
        with self.stream(_Unread) as stream:
            begun = time.perf_counter()
            while size > 0:
                size -= stream.receive([], GATHER_BYTES, 1.0)
            return time.perf_counter() - begun

    def theirs_s(self, changes: int, folder: Path, events: Sequence[bytes] = ()) -> float:
        """Seconds that `theirs` takes; given events, only to decode these."""
        memory = ""
        if events:
            memory = str(folder / "events")
            Path(memory).write_bytes(pickle.dumps(events))
        server, start = self._database.server, self._start
        told = [server.host, *map(str, (server.port, _THEIRS, start.file, start.offset, changes)), memory]
        done = subprocess.run([sys.executable, "-W", "ignore", "-c", _READER, *told], capture_output=True, text=True, timeout=PATIENCE_S)
        if done.returncode:
            raise Failed(done.stderr[-4000:])
        return float(done.stdout)


class _Unread(Stream):
    """A stream that is thrown away."""

    def _cut(self, events: list[bytes], size_max: int) -> int:
        size, self._held, self._held_bytes = self._held_bytes, [], 0
        return size


def one_transaction(events: Sequence[bytes]) -> list[bytes]:
    """The rows events of all transactions as if they were one's: behind all that comes before the first, and before the end of the last."""
    rows = [index for index, event in enumerate(events) if event[_KIND] in KINDS]
    (*_, end) = (event for event in events if event[_KIND] == BINLOG.XID_EVENT)
    return [*events[: rows[0]], *(events[index] for index in rows), end]
