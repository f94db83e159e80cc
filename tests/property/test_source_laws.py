"""DESIGN.md's laws on random histories of real servers, through the real sources and the real pipeline. `source_histories` says what must
come of them."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc import build
from cdc.accounting.accountant import Accountant
from cdc.config import SourceConfig
from cdc.errors import SourceUnavailable
from cdc.protocols import Source
from cdc.sources.mysql import snapshot
from cdc.types import MicroBatch
from checkpoints.file import FileCheckpoints
from checkpoints.instore import InStore
from sinks.duckdb import DuckDBSink
from sinks.memory import MemorySink
from tests.property.conftest import Databases
from tests.property.histories import BOOKS, FEES, ORDERS, RULES, SOURCE, order_key
from tests.property.source_histories import MARKS, TABLES, Entry, History, Moment, Move, Tables, acts
from tests.property.source_writer import Kind, Writer
from tests.property.test_laws import Store, assert_sound
from tests.servers.postgres import Database

PATIENCE_SECONDS = 60
COPY_BROKEN = ("source.table_changed", "mysql_snapshot.gave_way")  # by a TRUNCATE: the daemon opens the source anew


class Follower:
    """A source and the store it fills. After each transaction of the store its content is checked against the history.

    `from_start`: the journal holds every entry of the history; else what was posted before the copy is not in it.
    """

    def __init__(self, store: Store, writer: Writer, from_start: bool, **options: Any) -> None:
        self.store, self._writer, self._from_start = store, writer, from_start
        self._config = SourceConfig(url=writer.database.url, tables=list(TABLES), **options)
        self._source: Source | None = None
        self._reached = 0  # the moment that the store shows

    def open(self) -> None:
        """Go on from what the store has. With tables to be copied nothing may be open at the source."""
        if isinstance(self._writer.database, Database):
            self._writer.database.await_free_slots()
        self._source = source = build.source(SOURCE, self._config)
        source.open(self.store.resume())

    def close(self) -> None:
        """As after a crash: what the pipeline has of an unfinished transaction is gone."""
        self.store.pipeline.forget()
        if self._source is not None:
            self._source.close()
        self._source = None

    def read(self) -> MicroBatch | None:
        """Read, without applying it."""
        assert self._source is not None
        return self._source.read()

    def step(self) -> MicroBatch | None:
        """Read and apply once."""
        assert self._source is not None
        try:
            batch = self._source.read()
        except SourceUnavailable as error:
            if error.code not in COPY_BROKEN:
                raise
            self.close()
            self._writer.settle()
            self.open()
            return None
        if batch is not None and self.store.pipeline.apply([batch]):
            self._source.acknowledge(batch.position)
            self._check()
        return batch

    def until(self, done: Callable[[], bool]) -> None:
        """Step until `done`."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not done():
            assert time.monotonic() < deadline, f"the store did not get there: {self.tables()}"
            self.step()

    def until_mark(self, number: int) -> None:
        self.until(lambda: number in self.tables().marks)

    def copied(self) -> bool:
        """Whether all mirrors are their tables."""
        snapshots = self.store.resume().snapshots
        return all(table in snapshots and snapshots[table].state == "done" for table in TABLES)

    def want(self, table: str) -> None:
        """Have a table copied anew."""
        store = self.store
        transaction = store.sink.begin()
        known = store.checkpoints.load(transaction, SOURCE).snapshots[table]
        store.checkpoints.record(transaction, SOURCE, replace(known, state="wanted", progress="", rows_done=0))
        transaction.commit()

    @property
    def reached(self) -> int:
        """How many transactions the store shows."""
        return self._reached

    def tables(self) -> Tables:
        """What the mirrors hold."""
        orders = [dict(zip((c.name for c in ORDERS.columns), row, strict=True)) for row in self.store.mirror(ORDERS).elements()]
        fees = Counter(row[:2] for row in self.store.mirror(FEES).elements())
        by_key = {(row["shop"], row["no"]): row for row in orders}
        assert len(by_key) == len(orders)
        return Tables(by_key, fees, {n for (n,) in self.store.mirror(MARKS).elements()})

    def journal(self) -> list[Entry]:
        """What was posted, without order."""
        lines: dict[str, list[tuple[str, Decimal, Decimal]]] = {}
        for line in self.store.lines():
            lines.setdefault(line["entry_id"], []).append((line["account"], line["debit"] or Decimal(), line["credit"] or Decimal()))
        told = ("kind", "rule", "row_key", "entry_date", "voucher_key", "summary")
        return [Entry(**{name: entry[name] for name in told}, lines=frozenset(lines[entry["entry_id"]])) for entry in self.store.entries()]

    def _check(self) -> None:
        """The store shows the source as it was after some transaction, not before the one it showed last; the books say what they must."""
        entries, lines = self.store.entries(), self.store.lines()
        assert_sound(entries, lines)
        if not self.copied():
            return
        history, tables = self._writer.history, self.tables()
        moments = range(self._reached, len(history.moments))
        fits = (
            n
            for n in moments
            if history.moments[n].tables == tables and (not self._from_start or history.moments[n].entries == len(entries))
        )
        reached = next(fits, None)
        assert reached is not None, f"no transaction after {self._reached} left this: {tables}, {len(entries)} entries"
        self._reached = reached
        self._check_books(history, history.moments[reached])

    def _check_books(self, history: History, moment: Moment) -> None:
        if self._from_start:
            assert Counter(self.journal()) == Counter(history.books.journal[: moment.entries])
        open_items = {(item["rule"], item["row_key"]) for item in self.store.quarantine() if item["status"] == "open"}
        assert open_items >= moment.faulty
        # Those of rows that went while their table was copied anew stay open: no change told of their end.
        gone = open_items - moment.faulty
        assert not gone if self._from_start else not {key for _, key in gone} & set(map(order_key, moment.tables.orders))
        standing = {(entry.rule, entry.row_key): entry for entry in self._standing()}
        sound = {at: entry for at, entry in moment.stands.items() if at not in moment.faulty}
        assert {at: entry for at, entry in standing.items() if at not in moment.faulty} == sound
        assert {at[1:] for at in self.store.live()} == standing.keys()

    def _standing(self) -> Iterator[Entry]:
        """The posts that nothing has reversed."""
        counts = Counter(self.journal())
        for entry in counts:
            if entry.kind == "post":
                opposite = entry._replace(
                    kind="reverse", lines=frozenset((account, -debit, -credit) for account, debit, credit in entry.lines)
                )
                left = counts[entry] - counts[opposite]
                assert left in (0, 1), f"it stands {left} times: {entry}"
                if left:
                    yield entry


@pytest.fixture(scope="module")
def accountant() -> Iterator[Accountant]:
    made = Accountant(RULES, BOOKS)
    yield made
    made.close()


class Stage:
    """What an example plays on: a database with its writer, and followers with a store each. Leave it to let go of all."""

    def __init__(self, kind: Kind, databases: Databases, accountant: Accountant, folder: Path, durable: bool) -> None:
        self._accountant, self._folder, self._durable = accountant, folder, durable
        self._left = ExitStack()
        try:
            self.writer = Writer(self._left.enter_context(databases()), kind)
            self._left.callback(self.writer.close)
        except BaseException:
            self._left.close()
            raise

    def follower(self, from_start: bool, **options: Any) -> Follower:
        number = next(_NUMBERS)
        path = self._folder / str(number)
        sink: Any = DuckDBSink(f"{path}.duckdb", 64 << 20) if self._durable else MemorySink()
        self._left.callback(sink.close)
        sink.prepare([])
        store = Store(sink, InStore() if self._durable else FileCheckpoints(Path(f"{path}.json")), self._accountant)
        made = Follower(store, self.writer, from_start, **options)
        self._left.callback(made.close)
        return made

    def close(self) -> None:
        self._left.close()


_NUMBERS = itertools.count()
Stages = Callable[[], Any]


@pytest.fixture(scope="module")
def stages(databases: tuple[Kind, Databases], accountant: Accountant, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stages]:
    """Makes new stages, whose stores are in memory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(snapshot, "FIRST_ROWS", 3)  # small tables are copied in several chunks too
        yield _stages(databases, accountant, tmp_path_factory.mktemp("stores"), durable=False)


def _stages(databases: tuple[Kind, Databases], accountant: Accountant, folder: Path, *, durable: bool) -> Stages:
    @contextmanager
    def new() -> Iterator[Stage]:
        stage = Stage(*databases, accountant, folder, durable)
        try:
            yield stage
        finally:
            stage.close()

    return new


Reopenings = list[tuple[int, bool]]  # after how many steps the source is closed, and whether a batch is read and dropped before


def committed_states(stages: Stages, acts: Sequence[list[Move]], size: int) -> None:
    """Whenever it is looked at, the store shows what the source was after some transaction."""
    with stages() as stage:
        follower = stage.follower(from_start=True, batch_size_max=size)
        follower.open()
        follower.until(follower.copied)
        for act in acts:
            stage.writer.make(act)
            last = stage.writer.history.moments[-1]
            if last.tables != stage.writer.history.moments[follower.reached].tables:
                follower.step()
        stage.writer.settle()
        follower.until_mark(stage.writer.mark())
        assert follower.reached == len(stage.writer.history.moments) - 1


def read_twice(stages: Stages, acts: Sequence[list[Move]], sizes: tuple[int, int], reopenings: Reopenings) -> None:
    """The journal of two stores is the same, entry ids and all."""
    with stages() as stage:
        one, other = (stage.follower(from_start=True, batch_size_max=size) for size in sizes)
        for follower in (one, other):
            follower.open()
            follower.until(follower.copied)
        for act in acts:
            stage.writer.make(act)
        stage.writer.settle()
        last = stage.writer.mark()
        one.until_mark(last)
        one.close()
        for steps, drop in reopenings:
            for _ in range(steps):
                if last not in other.tables().marks:
                    other.step()
            if drop and last not in other.tables().marks:
                other.read()
            other.close()
            other.open()
        other.until_mark(last)
        assert one.store.journal() == other.store.journal()


def copied_and_streamed(stages: Stages, acts: Sequence[list[Move]], chunk: int, breaks: Reopenings) -> None:
    """Tables that have rows are copied, in spite of breaks and of what is written meanwhile, and end as the tables."""
    first, between, rest = acts[0], acts[1:-1], acts[-1]
    with stages() as stage:
        writer = stage.writer
        writer.make(first)
        writer.settle()
        follower = stage.follower(from_start=False, snapshot_chunk=chunk, snapshot_workers=1)
        follower.open()
        broken_copy(follower, writer, between, breaks)
        writer.make(rest)
        writer.settle()
        follower.until_mark(writer.mark())
        assert follower.reached == len(writer.history.moments) - 1


def broken_copy(follower: Follower, writer: Writer, between: Sequence[list[Move]], breaks: Reopenings) -> None:
    """Copy while moves are made, and break off."""
    acts = iter(between)
    for steps, drop in breaks:
        writer.copying = True
        for _ in range(steps):
            writer.make(next(acts, []))
            if not follower.copied():
                follower.step()
        if drop and not follower.copied():
            follower.read()
        follower.close()
        writer.copying = False
        writer.make(next(acts, []))
        writer.settle()
        follower.open()
    writer.copying = True
    while not follower.copied():
        writer.make(next(acts, []))
        follower.step()
    writer.copying = False


def copied_anew(stages: Stages, acts: Sequence[list[Move]], tables: set[str], chunk: int, breaks: Reopenings) -> None:
    """Tables that were streamed are copied once more: what stands is not posted again."""
    with stages() as stage:
        writer = stage.writer
        follower = stage.follower(from_start=False, snapshot_chunk=chunk, snapshot_workers=1)
        follower.open()
        follower.until(follower.copied)
        writer.make(acts[0])
        writer.settle()
        follower.until_mark(writer.mark())
        follower.close()
        known, before = len(writer.history.moments), Counter(follower.journal())
        for table in sorted(tables):
            follower.want(table)
        writer.make(acts[1])
        writer.settle()
        follower.open()
        broken_copy(follower, writer, acts[2:], breaks)
        writer.settle()
        follower.until_mark(writer.mark())
        assert follower.reached == len(writer.history.moments) - 1
        touched = {at for moment in writer.history.moments[known:] for at in moment.touched}
        posted = Counter(follower.journal()) - before
        assert {(entry.rule, entry.row_key) for entry in posted} <= touched, "what nobody touched is posted again"


SIZES = st.sampled_from([100, 1000, 20_000, 16 << 20])
CHUNKS = st.sampled_from([1, 300, 5000])
REOPENINGS = st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=4)
ANEW = st.sets(st.sampled_from(["orders", "fees"]), min_size=1)


@given(acts=acts(4, 10), size=SIZES)
@settings(max_examples=25)
def test_the_store_shows_what_the_source_was_after_a_transaction(stages: Stages, acts: list[list[Move]], size: int) -> None:
    committed_states(stages, acts, size)


@given(acts=acts(1, 40), sizes=st.tuples(SIZES, SIZES), reopenings=REOPENINGS)
@settings(max_examples=25)
def test_the_journal_is_equal_however_it_is_read(
    stages: Stages, acts: list[list[Move]], sizes: tuple[int, int], reopenings: Reopenings
) -> None:
    read_twice(stages, acts, sizes, reopenings)


@given(acts=acts(5, 8), chunk=CHUNKS, breaks=REOPENINGS)
@settings(max_examples=25)
def test_a_copy_and_the_stream_come_to_the_same(stages: Stages, acts: list[list[Move]], chunk: int, breaks: Reopenings) -> None:
    copied_and_streamed(stages, acts, chunk, breaks)


@given(acts=acts(5, 8), tables=ANEW, chunk=CHUNKS, breaks=REOPENINGS)
@settings(max_examples=25)
def test_a_new_copy_posts_nothing_twice(stages: Stages, acts: list[list[Move]], tables: set[str], chunk: int, breaks: Reopenings) -> None:
    copied_anew(stages, acts, tables, chunk, breaks)
