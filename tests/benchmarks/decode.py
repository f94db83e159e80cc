"""Frames held in memory decoded into Arrow columns, by the compiled kernel and by its source; beside merely receiving them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from cdc.config import SourceConfig
from cdc.decode.postgres.pgoutput import Decoder
from cdc.sources.postgres.catalog import Catalog
from cdc.sources.postgres.connection import connect
from cdc.sources.postgres.replication import Stream
from cdc.sources.tail import GATHER_BYTES
from tests.benchmarks.figures import Figure, progress
from tests.benchmarks.programs import Failed
from tests.kernels import FORMS, demanded
from tests.servers.postgres import Database

NAME, BESIDE = "decode", "psycopg, receiving them"
TRANSACTION_ROWS = 100
SECONDS = 2.0
_TABLE = """CREATE TABLE orders (
    id bigint PRIMARY KEY, order_no text NOT NULL, customer_id int NOT NULL, store text NOT NULL, status varchar(20) NOT NULL,
    total numeric(18,2) NOT NULL, tax numeric(18,2) NOT NULL, paid_on date, updated_at timestamptz NOT NULL, open boolean NOT NULL)"""
_WRITTEN = """DO $$ BEGIN FOR begun IN 0 .. {rows} - 1 BY {step} LOOP
    INSERT INTO orders SELECT i, '单-' || i, 1 + i * 7 % 5000, '门店 ' || i % 40, 'paid', (10000 + i * 37 % 900000) / 100.0,
        round((10000 + i * 37 % 900000) * 0.13 / 100, 2), '2026-01-01'::date + i % 300, clock_timestamp(), i % 3 = 0
        FROM generate_series(begun + 1, least(begun + {step}, {rows})) i;
    COMMIT;
END LOOP; END $$"""


def measure_postgres(database: Database, rows: int) -> list[Figure]:
    """Write `rows` rows of ten columns in transactions of a hundred, receive them, and decode what was received. Raises Failed."""
    progress(f"decode: writing {rows:,} rows")
    database.connection.execute(_TABLE)
    database.connection.execute("CREATE PUBLICATION decoded FOR TABLE orders")
    database.connection.execute(f"SELECT pg_create_logical_replication_slot('{database.name}', 'pgoutput')".encode())
    database.connection.execute(_WRITTEN.format(rows=rows, step=TRANSACTION_ROWS).encode())
    source = SourceConfig(url=database.url, tables=["orders"])
    progress("decode: receiving them")
    frames: list[bytes] = []
    received_s = _receive(source, database.name, rows, lambda block: None)
    _receive(source, database.name, rows, frames.extend)
    catalog = Catalog("shop", {})
    with connect("shop", source) as side:
        schema = catalog.schema(side, catalog.tables(side, ["orders"])["orders"])
    figures = [Figure(NAME, "rows of pgoutput received", "rows/s", rows / received_s)]
    for form in FORMS:
        progress(f"decode: {form} kernel")
        with demanded("postgres", form):
            decoded = _rate(frames, rows, lambda: Decoder(lambda relation: schema))
        figures.append(Figure(NAME, f"rows of pgoutput decoded, {form} kernel", "rows/s", decoded, rows / received_s, BESIDE))
    return figures


def _receive(source: SourceConfig, name: str, rows: int, take: Callable[[list[bytes]], object]) -> float:
    """Seconds from the first message to the last; the messages are handed on in blocks."""
    stream = Stream("shop", source, name, "decoded", 0)
    try:
        block: list[bytes] = []
        stream.receive(block, 1, 10.0)
        begun, missing = time.perf_counter(), rows
        while missing > 0:
            stream.receive(block, GATHER_BYTES, 1.0)
            missing -= sum(frame.startswith(b"I") for frame in block)
            take(block)
            block.clear()
        return time.perf_counter() - begun
    finally:
        stream.close()


def _rate(frames: list[bytes], rows: int, make: Callable[[], Decoder]) -> float:
    """Rows decoded in a second, fed and taken as a source does, again and again for a while."""
    blocks = list(_blocks(frames))
    decoder, done, begun = make(), 0, time.perf_counter()
    while time.perf_counter() - begun < SECONDS:
        found = 0
        for block in blocks:
            decoder.feed(block)
            found += sum(changes.rows.num_rows for changes in decoder.take()[1])
        if found != rows:
            raise Failed(f"{found} rows were decoded, not {rows}")
        done += rows
    return done / (time.perf_counter() - begun)


def _blocks(frames: list[bytes]) -> Iterator[list[bytes]]:
    """Slices of GATHER_BYTES."""
    start = size = 0
    for index, frame in enumerate(frames, 1):
        size += len(frame)
        if size >= GATHER_BYTES or index == len(frames):
            yield frames[start:index]
            start, size = index, 0
