"""pgoutput received and decoded into Arrow columns, and decoded from memory by either form of the kernel; beside psycopg, which merely
receives it."""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Iterator
from typing import Any

from cdc.config import SourceConfig
from cdc.decode.postgres.pgoutput import Decoder
from cdc.sources.postgres.catalog import Catalog
from cdc.sources.postgres.connection import connect
from cdc.sources.postgres.replication import Stream
from cdc.sources.tail import GATHER_BYTES, Tail
from cdc.types import TableSchema
from tests.benchmarks.figures import Figure, progress
from tests.benchmarks.programs import Failed
from tests.kernels import FORMS, demanded
from tests.servers.postgres import Database

NAME, BESIDE = "decode", "psycopg, receiving them"
ROUNDS = 3  # of which the best counts
HEADER, INSERT = 25, ord("I")  # of an XLogData; a message of pgoutput
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
    """Write `rows` rows of ten columns in transactions of a hundred, receive them, and decode them. Raises Failed."""
    progress(f"decode: writing {rows:,} rows")
    database.connection.execute(_TABLE)
    database.connection.execute("CREATE PUBLICATION decoded FOR TABLE orders")
    database.connection.execute(f"SELECT pg_create_logical_replication_slot('{database.name}', 'pgoutput')".encode())
    database.connection.execute(_WRITTEN.format(rows=rows, step=TRANSACTION_ROWS).encode())
    source, catalog = SourceConfig(url=database.url, tables=["orders"]), Catalog("shop", {})
    with connect("shop", source) as side:
        schema = catalog.schema(side, catalog.tables(side, ["orders"])["orders"])
    messages: list[bytes] = []
    _seconds(source, database.name, lambda stream: _receive(stream, rows, messages.extend))
    progress("decode: receiving them, by psycopg and by us, and decoding them at once")
    theirs, received, both = 1e9, 1e9, 1e9
    for _ in range(ROUNDS):
        theirs = min(theirs, _seconds(source, database.name, lambda stream: _receive_by_psycopg(stream, rows)))
        received = min(received, _seconds(source, database.name, lambda stream: _receive(stream, rows, lambda block: None)))
        both = min(both, _seconds(source, database.name, lambda stream: _receive_and_decode(stream, rows, schema, source.batch_size_max)))
    figures = [
        Figure(NAME, "rows of pgoutput received", "rows/s", rows / received, rows / theirs, BESIDE),
        Figure(NAME, "rows of pgoutput received and decoded into Arrow", "rows/s", rows / both, rows / theirs, BESIDE),
    ]
    for form in FORMS:
        progress(f"decode: {form} kernel")
        with demanded("postgres", form):
            decoded = _rate(messages, rows, lambda: Decoder(lambda relation: schema))
        figures.append(
            Figure(NAME, f"rows of pgoutput in memory decoded into Arrow, {form} kernel", "rows/s", decoded, rows / theirs, BESIDE)
        )
    return figures


def _seconds(source: SourceConfig, name: str, run: Callable[[Stream], None]) -> float:
    """From the start of the stream."""
    stream = Stream("shop", source, name, "decoded", 0)
    try:
        begun = time.perf_counter()
        run(stream)
        return time.perf_counter() - begun
    finally:
        stream.close()


def _receive_by_psycopg(stream: Stream, rows: int) -> None:
    connection, missing = stream._pg, rows
    while missing:
        length, data = connection.get_copy_data(1)
        if length > HEADER:
            missing -= data[HEADER] == INSERT
        elif not length:
            select.select([connection.socket], [], [], 1.0)
            connection.consume_input()


def _receive(stream: Stream, rows: int, take: Callable[[Any], object]) -> None:
    """Hands the messages on in blocks. Those that are no rows are counted as they were written, so that nobody looks through them."""
    missing = rows + 2 * -(-rows // TRANSACTION_ROWS) + 1
    while missing > 0:
        block = Decoder(lambda relation: None).block()
        stream.receive(block, GATHER_BYTES, 1.0)
        missing -= len(block)
        take(block)


def _receive_and_decode(stream: Stream, rows: int, schema: TableSchema, size_max: int) -> None:
    decoder, missing = Decoder(lambda relation: schema), rows
    tail: Tail[int] = Tail(size_max, stream, decoder, decoder.block)
    while missing:
        tail.collect(None)
        if decoder.pending_rows:
            missing -= sum(changes.rows.num_rows for changes in tail.take()[1])


def _rate(messages: list[bytes], rows: int, make: Callable[[], Decoder]) -> float:
    """Rows decoded in a second, fed and taken as a source does, again and again for a while."""
    decoder, done = make(), 0
    blocks = list(_blocks(messages, decoder))
    begun = time.perf_counter()
    while time.perf_counter() - begun < SECONDS:
        found = 0
        for block in blocks:
            decoder.feed(block)
            found += sum(changes.rows.num_rows for changes in decoder.take()[1])
        if found != rows:
            raise Failed(f"{found} rows were decoded, not {rows}")
        done += rows
    return done / (time.perf_counter() - begun)


def _blocks(messages: list[bytes], decoder: Decoder) -> Iterator[Any]:
    """Of GATHER_BYTES."""
    block = decoder.block()
    for message in messages:
        block.append(message)
        if block.size >= GATHER_BYTES:
            yield block
            block = decoder.block()
    yield block
