"""DESIGN.md's laws on random histories of real servers, through the real sources and the real pipeline. `source_histories` says what must
come of them."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
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
from tests.property.conftest import Databases
from tests.property.histories import BOOKS, FEES, ORDERS, RULES, order_key
from tests.property.source_histories import MARKS, Entry, History, Moment, Move, Tables, acts
from tests.property.source_writer import COLUMNS, Writer
from tests.property.stores import Store, fresh_store
from tests.property.streams import SOURCE
from tests.property.test_laws import assert_sound, live
from tests.servers.postgres import Database

PATIENCE_SECONDS = 60
SCHEMAS = (ORDERS, FEES, MARKS)
TABLES = [schema.table for schema in SCHEMAS]
COPY_BROKEN = ("source.table_changed", "mysql_snapshot.gave_way")  # by a TRUNCATE: the daemon opens the source anew


class Follower:
    """A source and the store it fills. After each transaction of the store its content is checked against the history.

    `from_start`: the journal holds every entry of the history; else what was posted before the copy is not in it. `reached`: how many
    transactions the store shows. `copied`: all mirrors are their tables. `tables`: what they hold.
    """

    def __init__(self, store: Store, writer: Writer, from_start: bool, **options: Any) -> None:
        self.store, self._writer, self._from_start = store, writer, from_start
        self._config = SourceConfig(url=writer.database.url, tables=TABLES, **options)
        self._source: Source | None = None
        self.reached, self.copied, self.tables = 0, False, Tables()

    def open(self) -> None:
        """Go on from what the store has. What has to be copied is not while transactions are open: they are committed."""
        if not self.copied:
            self._writer.settle()
        if isinstance(self._writer.database, Database):
            self._writer.database.await_free_slots()
        self._source = source = build.source(SOURCE, self._config)
        source.open(self.store.resume())

    def close(self, drop: bool = False) -> None:
        """As after a crash: what the pipeline has of an unfinished transaction is gone, and with `drop` a batch that was read."""
        if drop and self.behind:
            self._read()
        self.store.pipeline.forget()
        if self._source is not None:
            self._source.close()
        self._source = None

    def step(self) -> MicroBatch | None:
        """Read and apply once."""
        batch = self._read()
        if batch is not None and self.store.pipeline.apply([batch]):
            assert self._source is not None
            self._source.acknowledge(batch.position)
            self._look()
            self._check()
        return batch

    def _read(self) -> MicroBatch | None:
        assert self._source is not None
        try:
            return self._source.read()
        except SourceUnavailable as error:
            if error.code not in COPY_BROKEN:
                raise
        self.close()
        self.open()
        return None

    def until(self, done: Callable[[], bool]) -> None:
        """Step until `done`."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not done():
            assert time.monotonic() < deadline, f"the store did not get there: {self.tables}"
            self.step()

    def until_copied(self) -> None:
        """Step until all mirrors are their tables."""
        self.until(lambda: self.copied)

    def until_mark(self, number: int) -> None:
        """Step until a transaction that was waited for is there."""
        self.until(lambda: number in self.tables.marks)

    @property
    def behind(self) -> bool:
        """Whether there is something to read."""
        moments = self._writer.history.moments
        return not self.copied or moments[-1].tables != moments[self.reached].tables

    def want(self, tables: Iterable[str]) -> None:
        """Have tables copied anew."""
        self.store.pipeline.want_snapshot(SOURCE, sorted(tables))
        self.copied = False

    def _look(self) -> None:
        """What the mirrors hold, and whether they are their tables."""
        transaction = self.store.sink.begin()
        try:
            snapshots = self.store.checkpoints.load(transaction, SOURCE).snapshots
            rows = {schema.table: [row for page in transaction.mirror(schema, None) for row in page.to_pylist()] for schema in SCHEMAS}
        finally:
            transaction.rollback()
        self.copied = all(table in snapshots and snapshots[table].state == "done" for table in TABLES)
        orders = {(row["shop"], row["no"]): {name: row[name] for name in COLUMNS} for row in rows["orders"]}
        assert len(orders) == len(rows["orders"])
        fees = Counter((row["kind"], row["amount"]) for row in rows["fees"])
        self.tables = Tables(orders, fees, {row["n"] for row in rows["marks"]})

    def journal(self) -> list[Entry]:
        """What was posted, without order."""
        lines: dict[str, list[tuple[str, Decimal, Decimal]]] = {}
        for line in self.store.lines():
            lines.setdefault(line["entry_id"], []).append((line["account"], line["debit"] or Decimal(), line["credit"] or Decimal()))
        told = ("kind", "rule", "row_key", "entry_date", "voucher_key", "summary")
        return [Entry(**{name: entry[name] for name in told}, lines=frozenset(lines[entry["entry_id"]])) for entry in self.store.entries()]

    def _check(self) -> None:
        """The store shows the source as it was after some transaction, not before the one it showed last; the books say what they must."""
        entries = self.store.entries()
        assert_sound(entries, self.store.lines())
        if not self.copied:
            return
        history, tables = self._writer.history, self.tables
        moments = range(self.reached, len(history.moments))
        fits = (
            n
            for n in moments
            if history.moments[n].tables == tables and (not self._from_start or history.moments[n].entries == len(entries))
        )
        reached = next(fits, None)
        assert reached is not None, f"no transaction after {self.reached} left this: {tables}, {len(entries)} entries"
        self.reached = reached
        self._check_books(history, history.moments[reached])

    def _check_books(self, history: History, moment: Moment) -> None:
        if self._from_start:
            assert Counter(self.journal()) == Counter(history.books.journal[: moment.entries])
        open_items = {(item["rule"], item["row_key"]) for item in self.store.open_items()}
        assert open_items >= moment.faulty
        # Those of rows that went while their table was copied anew stay open: no change told of their end.
        gone = open_items - moment.faulty
        assert not gone if self._from_start else not {key for _, key in gone} & set(map(order_key, moment.tables.orders))
        standing = {(entry.rule, entry.row_key): entry for entry in self._standing()}
        sound = {at: entry for at, entry in moment.stands.items() if at not in moment.faulty}
        assert {at: entry for at, entry in standing.items() if at not in moment.faulty} == sound
        assert {at[1:] for at in live(self.store)} == standing.keys()

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

    def __init__(self, databases: Databases, accountant: Accountant, folder: Path, durable: bool) -> None:
        self._accountant, self._folder, self._durable = accountant, folder, durable
        self._left = ExitStack()
        try:
            self.writer = Writer(self._left.enter_context(databases.fresh()), databases.kind)
            self._left.callback(self.writer.close)
        except BaseException:
            self._left.close()
            raise

    def follower(self, from_start: bool, **options: Any) -> Follower:
        store = self._left.enter_context(fresh_store(self._folder, self._accountant, durable=self._durable))
        made = Follower(store, self.writer, from_start, **options)
        self._left.callback(made.close)
        return made

    def close(self) -> None:
        self._left.close()


Stages = Callable[[], Any]


@pytest.fixture(scope="module")
def stages(databases: Databases, accountant: Accountant, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stages]:
    """Makes new stages, whose stores are in memory."""
    yield from _stages(databases, accountant, tmp_path_factory.mktemp("stores"), durable=False)


@pytest.fixture(scope="module")
def durable_stages(databases: Databases, accountant: Accountant, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stages]:
    """Makes new stages, whose stores are DuckDB files."""
    yield from _stages(databases, accountant, tmp_path_factory.mktemp("stores"), durable=True)


def _stages(databases: Databases, accountant: Accountant, folder: Path, *, durable: bool) -> Iterator[Stages]:
    @contextmanager
    def new() -> Iterator[Stage]:
        stage = Stage(databases, accountant, folder, durable)
        try:
            yield stage
        finally:
            stage.close()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(snapshot, "FIRST_ROWS", 3)  # small tables are copied in several chunks too
        yield new


Acts = Sequence[list[Move]]
Readings = list[tuple[int, bool]]  # how often to read before the source is closed, and whether a batch is read and dropped then


def committed_states(stages: Stages, acts: Acts, readings: Readings, size: int) -> None:
    """Whenever it is looked at, the store shows what the source was after some transaction. Of a source that is closed at its worst: within
    transactions, and while others are open."""
    with stages() as stage:
        follower = stage.follower(from_start=True, batch_size_max=size)
        follower.open()
        follower.until_copied()
        for act, (steps, drop) in zip(acts, itertools.chain(readings, itertools.repeat((2, False))), strict=False):
            stage.writer.make(act)
            for _ in range(steps):
                if follower.behind:
                    follower.step()
            if drop:
                follower.close(drop)
                follower.open()
        finish(follower, stage.writer)


def finish(follower: Follower, writer: Writer) -> None:
    """Commit all, and read it."""
    writer.settle()
    follower.until_mark(writer.mark())
    assert follower.reached == len(writer.history.moments) - 1


def read_twice(stages: Stages, acts: Acts, readings: Readings, sizes: tuple[int, int]) -> None:
    """The journal of two stores is the same, entry ids and all."""
    with stages() as stage:
        one, other = (stage.follower(from_start=True, batch_size_max=size) for size in sizes)
        for follower in (one, other):
            follower.open()
            follower.until_copied()
        for act in acts:
            stage.writer.make(act)
        finish(one, stage.writer)
        one.close()
        for steps, drop in readings:
            for _ in range(steps):
                if other.behind:
                    other.step()
            other.close(drop)
            other.open()
        finish(other, stage.writer)
        other.close()
        one.open()
        one.until_mark(max(other.tables.marks))
        assert one.store.journal() == other.store.journal()


def copied_and_streamed(stages: Stages, acts: Acts, readings: Readings, chunk: int) -> None:
    """Tables that have rows are copied, in spite of breaks and of what is written meanwhile, and end as the tables."""
    with stages() as stage:
        stage.writer.make(acts[0])
        follower = stage.follower(from_start=False, snapshot_chunk=chunk, snapshot_workers=1)
        follower.open()
        broken_copy(follower, stage.writer, acts[1:-1], readings)
        stage.writer.make(acts[-1])
        finish(follower, stage.writer)


def broken_copy(follower: Follower, writer: Writer, between: Acts, readings: Readings) -> None:
    """Copy while moves are made, and break off."""
    acts = iter(between)
    for steps, drop in readings:
        writer.copying = True
        for _ in range(steps):
            writer.make(next(acts, []))
            if follower.behind:
                follower.step()
        writer.copying = False
        follower.close(drop)
        writer.make(next(acts, []))
        follower.open()
    writer.copying = True
    follower.until_copied()
    writer.copying = False


def copied_anew(stages: Stages, acts: Acts, readings: Readings, tables: set[str], chunk: int) -> None:
    """Tables that were streamed are copied once more: what stands is not posted again."""
    with stages() as stage:
        writer = stage.writer
        follower = stage.follower(from_start=False, snapshot_chunk=chunk, snapshot_workers=1)
        follower.open()
        follower.until_copied()
        writer.make(acts[0])
        finish(follower, writer)
        follower.close()
        known, before = len(writer.history.moments), Counter(follower.journal())
        follower.want(tables)
        writer.make(acts[1])
        follower.open()
        broken_copy(follower, writer, acts[2:], readings)
        finish(follower, writer)
        touched = {at for moment in writer.history.moments[known:] for at in moment.touched}
        posted = Counter(follower.journal()) - before
        assert {(entry.rule, entry.row_key) for entry in posted} <= touched, "what nobody touched is posted again"


SIZES = st.sampled_from([100, 1000, 20_000, 16 << 20])
CHUNKS = st.sampled_from([1, 300, 5000])
READINGS = st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=4)
ANEW = st.sets(st.sampled_from(["orders", "fees"]), min_size=1)


@given(acts=acts(4, 10), readings=READINGS, size=SIZES)
@settings(max_examples=25)
def test_the_store_shows_what_the_source_was_after_a_transaction(stages: Stages, acts: Acts, readings: Readings, size: int) -> None:
    committed_states(stages, acts, readings, size)


@given(acts=acts(1, 40), readings=READINGS, sizes=st.tuples(SIZES, SIZES))
@settings(max_examples=25)
def test_the_journal_is_equal_however_it_is_read(stages: Stages, acts: Acts, readings: Readings, sizes: tuple[int, int]) -> None:
    read_twice(stages, acts, readings, sizes)


@given(acts=acts(6, 8), readings=READINGS, chunk=CHUNKS)
@settings(max_examples=25)
def test_a_copy_and_the_stream_come_to_the_same(stages: Stages, acts: Acts, readings: Readings, chunk: int) -> None:
    copied_and_streamed(stages, acts, readings, chunk)


@given(acts=acts(6, 8), readings=READINGS, tables=ANEW, chunk=CHUNKS)
@settings(max_examples=25)
def test_a_new_copy_posts_nothing_twice(stages: Stages, acts: Acts, readings: Readings, tables: set[str], chunk: int) -> None:
    copied_anew(stages, acts, readings, tables, chunk)


# By name, each law on what is drawn for the larger run: LEDGERTAIL_TEST_PROPERTY_SECONDS=600 pytest -m slow tests/property
LARGE: dict[str, Callable[[Stages, dict[str, Any]], None]] = {
    "committed": lambda stages, d: committed_states(stages, d["acts"], d["readings"], d["sizes"][0]),
    "twice": lambda stages, d: read_twice(stages, d["acts"], d["readings"], d["sizes"]),
    "copied": lambda stages, d: copied_and_streamed(stages, d["acts"], d["readings"], d["chunk"]),
    "anew": lambda stages, d: copied_anew(stages, d["acts"], d["readings"], d["tables"], d["chunk"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("law", LARGE)
@given(
    acts=acts(12, 15),
    readings=st.lists(st.tuples(st.integers(0, 6), st.booleans()), max_size=8),
    sizes=st.tuples(SIZES, SIZES),
    chunk=CHUNKS,
    tables=ANEW,
)
@settings(max_examples=200)
def test_every_law_on_larger_histories(durable_stages: Stages, law: str, **drawn: Any) -> None:
    LARGE[law](durable_stages, drawn)
