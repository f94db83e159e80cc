"""A MySQL server's binlog: received, decoded into Arrow columns, and posted by the daemon; and decoded by either form of the kernel once
it is in memory.

Beside it python-mysql-replication on the same events, which turns each row into a dict; it is then thrown away.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from pymysql.connections import Connection
from pymysqlreplication.constants import BINLOG

import cdc
from cdc.config import SourceConfig
from cdc.decode.kernels import Form
from cdc.decode.mysql.binlog import Decoder
from cdc.decode.mysql.lexer import Dialect
from cdc.decode.mysql.position import BinlogPosition
from cdc.decode.mysql.rows import KINDS
from cdc.sources.mysql.catalog import Catalog
from cdc.sources.mysql.connection import connect, hang_up
from cdc.sources.mysql.relations import Relations
from cdc.sources.mysql.replication import FromFile, Replica, Stream
from cdc.sources.mysql.server import head, identify
from cdc.sources.mysql.tail import Tail
from tests.benchmarks.figures import Figure, progress
from tests.benchmarks.orders import CONFIG
from tests.benchmarks.programs import PATIENCE_S, Failed, daemon
from tests.kernels import FORMS, demanded
from tests.servers.account import environment
from tests.servers.mysql import MyDatabase

NAME, BESIDE = "binlog", "python-mysql-replication"
TRANSACTION_ROWS = 100
BATCH_BYTES = 32 << 20
KIND = 4  # where in an event its kind stands
SECONDS = 2.0
_OURS, _THEIRS = 4_000_001, 4_000_002
_TABLE = """CREATE TABLE orders (
    id bigint PRIMARY KEY, order_no varchar(40) NOT NULL, customer_id int NOT NULL, store varchar(40) NOT NULL, status varchar(20) NOT NULL,
    total decimal(18,2) NOT NULL, tax decimal(18,2) NOT NULL, paid_on date, updated_at datetime(6) NOT NULL)"""
_WRITTEN = """INSERT INTO orders SELECT {start} + i, concat('单-', {start} + i), 1 + i * 7 % 5000, concat('门店 ', i % 40), 'paid',
    (10000 + i * 37 % 900000) / 100.0, round((10000 + i * 37 % 900000) * 0.13 / 100, 2),
    date_add('2026-01-01', INTERVAL i % 300 DAY), now(6)
    FROM (WITH RECURSIVE s(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < {count}) SELECT i FROM s) n"""
_READER = """
import pickle, sys, time
from pymysql.protocol import MysqlPacket
from pymysqlreplication import BinLogStreamReader
from pymysqlreplication.row_event import WriteRowsEvent
*told, memory = (int(told) if told.isdecimal() else told for told in sys.argv[1:])
host, port, server_id, file, offset, wanted = told
reader = BinLogStreamReader({"host": host, "port": port, "user": "root"}, server_id=server_id, log_file=file, log_pos=offset,
                            resume_stream=True, blocking=True, only_events=[WriteRowsEvent], enable_logging=False)
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


def measure(database: MyDatabase, folder: Path, rows: int) -> list[Figure]:
    """Write `rows` rows, then time receiving them, decoding them, and the daemon on them. Raises Failed."""
    database.execute(_TABLE)
    config = folder / "ledgertail.toml"
    config.write_text(CONFIG.replace('slot = "{slot}"\n', "").format(folder=folder, url=database.url), "utf-8")
    progress("binlog: snapshot of the empty table")
    _catch_up(config, folder)
    source = SourceConfig(url=database.url, tables=["orders"])
    side = connect("shop", source)
    try:
        start = head(side, identify(side))
        progress(f"binlog: writing {rows:,} rows")
        for begun in range(0, rows, TRANSACTION_ROWS):
            database.execute(_WRITTEN.format(start=begun, count=min(TRANSACTION_ROWS, rows - begun)))
        end = head(side, identify(side))
        progress("binlog: received, then received and decoded")
        received, received_s = _receive(source, start, end)
        events = _one_transaction(received)
        decoded_s = _decode(source, start, rows)
        progress("binlog: decoded from memory")
        decoded = {form: _decode_memory(source, start, events, rows, form) for form in FORMS}
    finally:
        hang_up(side)
    progress("binlog: python-mysql-replication reads the same events, then decodes them from memory")
    theirs_s = _theirs(database, start, rows)
    theirs_memory_s = _theirs_memory(database, start, rows, events, folder)
    progress("binlog: the daemon catches up")
    began = time.time()
    _catch_up(config, folder)
    with cdc.connect(str(config)) as store:
        found = store.query(
            "SELECT count(*) AS entries, (SELECT max(epoch(applied_at)) FROM ledger.batches) AS last_at FROM ledger.entries"
        )
        (facts,) = found.to_pylist()
    if facts["entries"] != rows:
        raise Failed(f"the store has {facts['entries']} entries, not {rows}")
    return [
        *(
            Figure(NAME, f"rows events in memory decoded into Arrow, {form} kernel", "rows/s", rate, rows / theirs_memory_s, BESIDE)
            for form, rate in decoded.items()
        ),
        Figure(NAME, "rows received and decoded into Arrow", "rows/s", rows / decoded_s, rows / theirs_s, BESIDE),
        Figure(NAME, "rows received, not decoded", "rows/s", rows / received_s, rows / theirs_s, BESIDE),
        Figure(NAME, "rows posted, over the whole process", "rows/s", rows / (facts["last_at"] - began), rows / theirs_s, BESIDE),
    ]


def _catch_up(config: Path, folder: Path) -> None:
    with (folder / "daemon.log").open("ab") as log:
        done = subprocess.run(daemon(config, "--until-caught-up"), stdout=log, stderr=log, env=environment(), timeout=PATIENCE_S)
    if done.returncode:
        raise Failed((folder / "daemon.log").read_text(errors="replace")[-4000:])


def _receive(source: SourceConfig, start: BinlogPosition, end: BinlogPosition) -> tuple[list[bytes], float]:
    """All that was logged, as bytes, and the seconds until it is here."""
    stream = Stream("shop", source, Replica(_OURS, ""), FromFile(*start.start))
    try:
        begun, wanted, events = time.perf_counter(), end.offset - start.offset, list[bytes]()
        while wanted > 0:
            wanted -= stream.receive(events, 8 << 20, 1.0)
        return events, time.perf_counter() - begun
    finally:
        stream.close()


def _one_transaction(events: Sequence[bytes]) -> list[bytes]:
    """The rows events of all transactions as if they were one's: behind all that comes before the first, and before the end of the last."""
    rows = [index for index, event in enumerate(events) if event[KIND] in KINDS]
    (*_, end) = (event for event in events if event[KIND] == BINLOG.XID_EVENT)
    return [*events[: rows[0]], *(events[index] for index in rows), end]


def _decode(source: SourceConfig, start: BinlogPosition, rows: int) -> float:
    """Seconds until all rows are here, as Arrow columns."""
    side = connect("shop", source)
    stream = Stream("shop", source, Replica(_OURS, ""), FromFile(*start.start))
    try:
        tail = Tail(source, identify(side), stream, FromFile(*start.start), start, _relations(side))
        begun = time.perf_counter()
        while rows > 0:
            tail.collect(None)
            rows -= sum(changes.rows.num_rows for changes in tail.take()[1])
        return time.perf_counter() - begun
    finally:
        stream.close()
        hang_up(side)


def _decode_memory(source: SourceConfig, start: BinlogPosition, events: Sequence[bytes], rows: int, form: Form) -> float:
    """Rows decoded in a second, in batches, again and again for a while."""
    side, done, begun = connect("shop", source), 0, time.perf_counter()
    try:
        while time.perf_counter() - begun < SECONDS:
            with demanded("mysql", form):
                done += _decoded(
                    Decoder(_relations(side).resolve, lambda _: (), mariadb=False, file=start.file, offset=start.offset), events
                )
        seconds = time.perf_counter() - begun
    finally:
        hang_up(side)
    if done % rows:
        raise Failed(f"{done} rows were decoded, not {rows} a time")
    return done / seconds


def _decoded(decoder: Decoder, events: Sequence[bytes]) -> int:
    at = rows = 0
    while at < len(events):
        at = decoder.feed(events, at, None, BATCH_BYTES)
        rows += sum(changes.rows.num_rows for changes in decoder.take()[1])
    return rows


def _relations(side: Connection) -> Relations:
    server, catalog = identify(side), Catalog("shop", {})
    tables = catalog.tables(side, ["orders"])
    schemas = {name: catalog.schema(table) for name, table in tables.items()}
    return Relations(side, catalog, tables, schemas, lambda table: True, Dialect(server.mariadb), True)


def _theirs(database: MyDatabase, start: BinlogPosition, rows: int, memory: str = "") -> float:
    """Seconds; `memory` is a file with the events that it is to read once it is connected."""
    told = [database.server.host, *map(str, (database.server.port, _THEIRS, start.file, start.offset, rows)), memory]
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", _READER, *told], capture_output=True, text=True, timeout=PATIENCE_S)
    if done.returncode:
        raise Failed(done.stderr[-4000:])
    return float(done.stdout)


def _theirs_memory(database: MyDatabase, start: BinlogPosition, rows: int, events: Sequence[bytes], folder: Path) -> float:
    file = folder / "events"
    file.write_bytes(pickle.dumps(events))
    return _theirs(database, start, rows, str(file))
