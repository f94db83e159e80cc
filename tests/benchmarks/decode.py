"""What was received decoded into Arrow columns, out of memory, by the compiled kernel and by its source.

Beside it: for PostgreSQL, psycopg receiving the same frames; for MySQL, python-mysql-replication on the same rows events, each row of
which it turns into a dict.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cdc.decode.kernels import Form
from cdc.sources.tail import Decoding
from tests.benchmarks.figures import Figure, Goal, progress
from tests.benchmarks.orders import Written
from tests.benchmarks.programs import Failed
from tests.benchmarks.shop_mysql import MysqlLog, MysqlShop, one_transaction
from tests.benchmarks.shop_postgres import PostgresLog, PostgresShop
from tests.kernels import FORMS, demanded

NAME = "decode"
GOAL = Goal(50, times=True)
BATCH_BYTES = 32 << 20
SECONDS = 2.0


def measure_postgres(shop: PostgresShop, folder: Path, rows: int) -> list[Figure]:
    """Rows of pgoutput a second. Raises Failed."""
    with shop.log() as log:
        progress(f"decode: {rows:,} rows of pgoutput")
        shop.write(Written(rows, 0))
        frames = log.frames(rows)
        received = rows / log.received_s(rows)
        return [
            Figure(NAME, f"rows of pgoutput, {form} kernel", "rows/s", _rate(log, frames, rows, form), received, log.merely)
            for form in FORMS
        ]


def measure_mysql(shop: MysqlShop, folder: Path, rows: int) -> list[Figure]:
    """Rows of rows events a second; and of these in their transactions. Raises Failed."""
    with shop.log() as log:
        progress(f"decode: {rows:,} rows of a binlog")
        shop.write(Written(rows, 0))
        events = log.frames(rows)
        alone = one_transaction(events)
        theirs = rows / log.theirs_s(rows, folder, alone)
        ours = {form: _rate(log, alone, rows, form) for form in FORMS}
        goals = {Form.COMPILED: GOAL}
        whole = _rate(log, events, rows, Form.COMPILED)
    return [
        *(
            Figure(NAME, f"rows of rows events, {form} kernel", "rows/s", rate, theirs, log.theirs, goals.get(form))
            for form, rate in ours.items()
        ),
        Figure(NAME, "rows of a binlog in transactions of 100, compiled kernel", "rows/s", whole),
    ]


def _rate(log: PostgresLog | MysqlLog, frames: Sequence[bytes], rows: int, form: Form) -> float:
    """Rows decoded in a second, in batches, again and again for a while."""
    with demanded(log.source, form):
        blocks, done, begun = log.blocks(frames), 0, time.perf_counter()
        while time.perf_counter() - begun < SECONDS:
            found = _decoded(log.decoder(), blocks)
            if found != rows:
                raise Failed(f"{found} rows were decoded, not {rows}")
            done += found
        return done / (time.perf_counter() - begun)


def _decoded(decoder: Decoding[Any], blocks: Sequence[Any]) -> int:
    rows = 0
    for block in blocks:
        at = 0
        while at < len(block):
            at = decoder.feed(block, at, None, BATCH_BYTES)
            rows += sum(changes.rows.num_rows for changes in decoder.take()[1])
    return rows
