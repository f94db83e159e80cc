"""The shop on a PostgreSQL: what writes to it, and its log, read by ours and by PostgreSQL's own program."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cdc.config import SourceConfig
from cdc.decode.postgres.pgoutput import Decoder
from cdc.decode.postgres.streamed import Streamed
from cdc.sources.postgres.catalog import Catalog
from cdc.sources.postgres.connection import connect
from cdc.sources.postgres.replication import Stream
from cdc.sources.tail import GATHER_BYTES, Receiver, Tail
from cdc.types import TableSchema
from tests.benchmarks.orders import POSTGRES_ROWS, POSTGRES_SCHEMA, TABLE, Written, write_config
from tests.benchmarks.programs import PUBLICATION, commanded_at, make_slot, receiver, run_through
from tests.servers.postgres import Database, PostgresServer

_HEADER = 25  # of a frame as psycopg gives it
_DATA, _ROWS = b"w"[0], b"IUD"


@dataclass(frozen=True, slots=True)
class PostgresShop:
    """The table of orders, at first empty, in a database of its own."""

    server: PostgresServer
    database: Database

    def __post_init__(self) -> None:
        self.database.connection.execute(POSTGRES_SCHEMA)

    @property
    def title(self) -> str:
        """What it runs on."""
        return "PostgreSQL"

    @property
    def slot(self) -> str:
        """The daemon's."""
        return f"ours_{self.database.name}"

    def config(self, folder: Path) -> Path:
        """The path of a config with the store in `folder`."""
        return write_config(folder, self.database.url, f'slot = "{self.slot}"')

    def execute(self, statement: str) -> None:
        """Run a statement of the administrator's."""
        self.database.connection.execute(statement.encode())

    def write(self, written: Written) -> None:
        """Commit these changes."""
        self.database.connection.execute("CALL write_orders(%s, %s, %s)", [written.inserts, written.updates, written.step])

    def write_at_once(self, rows: int) -> None:
        """Fill the table in one transaction."""
        self.execute(POSTGRES_ROWS.format(rows=rows))

    @contextmanager
    def log(self) -> Iterator[PostgresLog]:
        """What is logged from here on."""
        yield PostgresLog(self, make_slot(self.database))

    def copied(self, folder: Path) -> tuple[str, float]:
        """Who copies the table and throws it away, and the seconds that takes."""
        psql = str(self.server.binaries.bin / "psql")
        command = [psql, "-X", "-d", self.database.url, "-o", "/dev/null", "-c", f"COPY {TABLE} TO STDOUT"]
        return "psql COPY", run_through(self.server, command, folder / "psql.log").wall_s

    def note_commands(self) -> None:
        """See to it that it is known when the daemon comes."""

    def snapshot_at(self) -> float:
        """When its snapshot began, as Unix time. Raises Failed."""
        return commanded_at(self.server, "CREATE_REPLICATION_SLOT", self.slot)

    def streamed_at(self) -> float:
        """When its stream began, likewise."""
        return commanded_at(self.server, "START_REPLICATION SLOT", self.slot)


class PostgresLog:
    """What was logged from a slot on. `source`: the kind that kernels are made for. `merely`, `theirs`: who receives it, too."""

    source = "postgres"
    merely = "psycopg merely receiving"
    theirs = "pg_recvlogical"

    def __init__(self, shop: PostgresShop, slot: str) -> None:
        self._shop, self._slot = shop, slot
        self._config = SourceConfig(url=shop.database.url, tables=[TABLE])
        self._schema: TableSchema | None = None

    @contextmanager
    def stream(self) -> Iterator[Stream]:
        """All of it, as the daemon receives it."""
        stream = Stream("shop", self._config, self._slot, PUBLICATION, 0)
        try:
            yield stream
        finally:
            stream.close()

    def decoder(self) -> Decoder:
        """As the daemon has it."""
        if self._schema is None:
            catalog = Catalog("shop", {})
            with connect("shop", self._config) as side:
                self._schema = catalog.schema(side, catalog.tables(side, [TABLE])[TABLE])
        schema = self._schema
        return Decoder(lambda relation: schema)

    def frames(self, changes: int) -> list[bytes]:
        """All messages, up to so many changes."""
        frames, decoder = list[bytes](), self.decoder()
        with self.stream() as stream:
            while changes > 0:
                block = decoder.block()
                stream.receive(block, GATHER_BYTES, 1.0)
                changes -= sum(frame[0] in _ROWS for frame in block)
                frames += block
        return frames

    def blocks(self, frames: Sequence[bytes]) -> list[Any]:
        """Messages as they are received."""
        decoder, blocks = self.decoder(), list[Any]()
        for frame in frames:
            if not blocks or blocks[-1].size >= GATHER_BYTES:
                blocks.append(decoder.block())
            blocks[-1].append(frame)
        return blocks

    def tail(self, stream: Receiver) -> Tail[int]:
        """What receives and decodes."""
        decoder = self.decoder()
        return Tail(self._config.batch_size_max, Streamed(stream.receive, decoder.block), decoder, decoder.block)

    def received_s(self, changes: int) -> float:
        """Seconds that it takes merely to receive so many changes."""
        with self.stream() as stream:
            receive, begun = stream._pg.get_copy_data, time.perf_counter()
            while changes > 0:
                _, frame = receive(0)
                changes -= frame[0] == _DATA and frame[_HEADER] in _ROWS
            return time.perf_counter() - begun

    def theirs_s(self, changes: int, folder: Path) -> float:
        """Seconds that `theirs` takes; it uses the slot up."""
        server, database = self._shop.server, self._shop.database
        ((end,),) = database.connection.execute("SELECT pg_current_wal_lsn()::text").fetchall()
        command = receiver(server, database, self._slot, "/dev/null", "--endpos", end)
        run = run_through(server, command, folder / "pg_recvlogical.log")
        return run.ended_at - commanded_at(server, "START_REPLICATION SLOT", self._slot)
