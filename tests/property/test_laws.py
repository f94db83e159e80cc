"""DESIGN.md's laws on random histories, over real sinks. `histories` says what must come of them, in plain Python."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc.accounting.accountant import Accountant
from cdc.errors import StoreUnavailable
from cdc.pipeline import Pipeline
from cdc.protocols import Sink, SinkTransaction
from cdc.types import ENTRIES, LINES, LIVE, NUMBER, MicroBatch, Resume, TableSchema
from checkpoints.file import FileCheckpoints
from checkpoints.instore import InStore
from sinks.duckdb import DuckDBSink
from sinks.memory import MemorySink
from tests.contract.samples import all_live
from tests.property.histories import (
    BOOKS,
    FEES,
    LEVY,
    ORDERS,
    RULES,
    SALE,
    SCHEMAS,
    SOURCE,
    History,
    State,
    copied,
    histories,
    order_key,
    promotion,
    snapshot,
    stream,
)

CUTS = st.lists(st.integers(0, 200), max_size=6)
Row = dict[str, Any]


class Store:
    """A sink with its checkpoints, and what is in it as plain values."""

    def __init__(self, sink: Any, checkpoints: Any, accountant: Accountant) -> None:
        self.sink, self.checkpoints, self.accountant = sink, checkpoints, accountant
        self.pipeline = Pipeline(sink, checkpoints, accountant)

    def apply(self, batches: Iterable[MicroBatch]) -> None:
        """Apply batches one by one; after each that commits the store must be sound."""
        for batch in batches:
            if self.pipeline.apply([batch]):
                assert_sound(self.entries(), self.lines())
        assert self.pipeline.unfinished is None

    def reopen(self, accountant: Accountant | None = None) -> int:
        """Forget all, as after a crash. Returns the transaction the checkpoint is at."""
        self.pipeline.forget()
        self.pipeline = Pipeline(self.sink, self.checkpoints, accountant or self.accountant)
        checkpoint = self.resume().checkpoint
        return int(checkpoint.position) if checkpoint else 0

    def resume(self) -> Resume:
        return self.pipeline.resume(SOURCE)

    def entries(self) -> list[Row]:
        if isinstance(self.sink, MemorySink):
            return [{name: row[name] for name in ENTRIES.names} for row in self.sink.state.entries]
        return self._rows("ledger.entries", ENTRIES)

    def lines(self) -> list[Row]:
        if isinstance(self.sink, MemorySink):
            return [{name: row[name] for name in LINES.names} for row in self.sink.state.lines]
        return self._rows("ledger.lines", LINES)

    def quarantine(self) -> list[Row]:
        if isinstance(self.sink, MemorySink):
            return list(self.sink.state.quarantine.values())
        with self.sink.reader() as reader:
            answer: list[Row] = reader.execute("SELECT * EXCLUDE (first_seen) FROM ledger.quarantine").to_arrow_table().to_pylist()
            return answer

    def _rows(self, name: str, schema: pa.Schema) -> list[Row]:
        with self.sink.reader() as reader:
            rows: list[Row] = reader.execute(f"SELECT {', '.join(schema.names)} FROM {name}").to_arrow_table().cast(schema).to_pylist()
            return rows

    def journal(self) -> dict[str, Any]:
        """Entries by id, each with the set of its lines."""
        lines = defaultdict(set)
        for line in self.lines():
            lines[line["entry_id"]].add(tuple(line.values()))
        return {entry["entry_id"]: (tuple(entry.values()), frozenset(lines[entry["entry_id"]])) for entry in self.entries()}

    def mirror(self, schema: TableSchema) -> Counter[tuple[Any, ...]]:
        with self._looking() as transaction:
            rows = [row for found in transaction.mirror(schema, None) for row in found.to_pylist()]
        return Counter(tuple(row[c.name] for c in schema.columns) + ((row[NUMBER],) if not schema.key else ()) for row in rows)

    def live(self) -> dict[tuple[str, str, str], Any]:
        """What stands, by book, rule and row: all that does not depend on how it came about."""
        with self._looking() as transaction:
            rows = [row for schema in SCHEMAS for row in all_live(transaction, schema).to_pylist()]
        told = [name for name in LIVE.names if name not in ("entry_id", "lines")]
        standing = {(row["book"], row["rule"], row["row_key"]): ([row[name] for name in told], row["lines"]) for row in rows}
        assert len(standing) == len(rows), "two entries stand for one row"
        return standing

    @contextmanager
    def _looking(self) -> Iterator[SinkTransaction]:
        transaction = self.sink.begin()
        try:
            yield transaction
        finally:
            transaction.rollback()


@pytest.fixture(scope="module")
def accountant() -> Iterator[Accountant]:
    made = Accountant(RULES, BOOKS)
    yield made
    made.close()


@pytest.fixture(scope="module", params=["memory", "duckdb"])
def store(request: pytest.FixtureRequest, accountant: Accountant, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Any]:
    """Makes new stores: each is closed when it is left."""
    numbers, tmp_path = itertools.count(), tmp_path_factory.mktemp("stores")

    @contextmanager
    def new() -> Iterator[Store]:
        path = tmp_path / str(next(numbers))
        sink: Any = MemorySink() if request.param == "memory" else DuckDBSink(f"{path}.duckdb", 64 << 20)
        sink.prepare([])
        checkpoints = FileCheckpoints(Path(f"{path}.json")) if request.param == "memory" else InStore()
        made = Store(sink, checkpoints, accountant)
        try:
            yield made
        finally:
            made.pipeline.forget()
            sink.close()

    return new


def assert_sound(entries: list[Row], lines: list[Row]) -> None:
    """No entry twice; debit equals credit; a reversal names a post, which no other names, with its lines negated."""
    posts = {entry["entry_id"]: entry for entry in entries if entry["kind"] == "post"}
    reverses = [entry for entry in entries if entry["kind"] == "reverse"]
    assert len(posts) + len(reverses) == len({entry["entry_id"] for entry in entries}) == len(entries)
    by_entry = defaultdict(list)
    sums: dict[tuple[str, str], Decimal] = defaultdict(Decimal)
    for line in lines:
        assert (line["debit"] is None) != (line["credit"] is None)
        by_entry[line["entry_id"]].append({name: value for name, value in line.items() if name != "entry_id"})
        sums[line["book"], line["currency"]] += (line["debit"] or 0) - (line["credit"] or 0)
    assert set(by_entry) == {entry["entry_id"] for entry in entries}
    assert not any(sums.values())
    assert len({entry["reverses"] for entry in reverses}) == len(reverses)
    for entry in reverses:
        original = posts[entry["reverses"]]
        assert all(entry[name] == original[name] for name in ("book", "rule", "row_key", "entry_date", "period", "voucher_key", "summary"))
        assert _sorted(by_entry[entry["entry_id"]]) == _sorted([_negated(line) for line in by_entry[entry["reverses"]]])


def _negated(line: Row) -> Row:
    amounts = ("debit", "credit", "orig_amount", "quantity")
    return line | {name: -line[name] for name in amounts if line[name] is not None}


def _sorted(lines: list[Row]) -> list[Row]:
    return sorted(lines, key=lambda line: line["line_no"])


def assert_is(store: Store, state: State, but: frozenset[tuple[str, str]] = frozenset()) -> None:
    """Mirrors, sums per rule and row, and live entries are what the state says; for rows in `but` only the mirrors."""
    assert store.mirror(ORDERS) == Counter(tuple(row[c.name] for c in ORDERS.columns) for row in state.rows(ORDERS))
    assert store.mirror(FEES) == Counter((*content, n) for content, count in Counter(state.fees).items() for n in range(1, count + 1))
    books = {rule.name: rule.book for rule in RULES}
    expected = {
        (books[rule], rule, key, account, debit, credit): 1
        for (rule, key), lines in state.stands.items()
        for account, debit, credit in _summed(lines)
        if (rule, key) not in but
    }
    assert {at: 1 for at in _sums(store) if at[1:3] not in but} == expected
    assert {at for at in store.live() if at[1:] not in but} == {
        (books[rule], rule, key) for rule, key in state.stands if (rule, key) not in but
    }


def _summed(lines: Iterable[tuple[str, Decimal, Decimal]]) -> list[tuple[str, Decimal, Decimal]]:
    sums: dict[str, list[Decimal]] = {}
    for account, debit, credit in lines:
        sums.setdefault(account, [Decimal(), Decimal()])
        sums[account] = [sums[account][0] + debit, sums[account][1] + credit]
    return [(account, debit, credit) for account, (debit, credit) in sums.items() if debit or credit]


def _sums(store: Store) -> set[tuple[str, str, str, str, Decimal, Decimal]]:
    rows = {entry["entry_id"]: (entry["book"], entry["rule"], entry["row_key"]) for entry in store.entries()}
    lines = defaultdict(list)
    for line in store.lines():
        lines[rows[line["entry_id"]]].append((line["account"], line["debit"] or Decimal(), line["credit"] or Decimal()))
    return {(*at, *summed) for at, of in lines.items() for summed in _summed(of)}


def cut_anyhow(store: Callable[[], Any], history: History, cuts: list[int]) -> None:
    whole = list(itertools.accumulate(len(log) for log in history.transactions))
    with store() as one, store() as each, store() as parts:
        one.apply(stream(history))
        each.apply(stream(history, whole))
        parts.apply(stream(history, cuts))
        for made in (one, each, parts):
            assert_is(made, history.states[-1])
        assert one.journal() == each.journal() == parts.journal()
        assert _open(one) == _open(each) == _open(parts)


def _open(store: Store) -> set[tuple[Any, ...]]:
    """What lies in quarantine: rule, source_table, row_key and the rest. What was settled may never have been seen in fewer batches."""
    told = ("rule", "source_table", "row_key", "book", "id", "level", "reason", "detail", "payload")
    return {tuple(item[name] for name in told) for item in store.quarantine() if item["status"] == "open"}


def snapshot_and_stream(store: Callable[[], Any], history: History, at: int, again: int, cuts: list[int], size: int) -> None:
    last = len(history.transactions)
    at, again = at % (last + 1), again % (last + 1)
    again = max(at, again)
    final = history.states[-1]
    with store() as made:
        made.apply(snapshot(history.states[at], 1, at, size))
        assert_is(made, history.states[at], _unseen(history.states[at]))
        made.apply(stream(history, cuts, after=at, until=again))
        before = made.journal()
        made.apply(snapshot(history.states[again], 2, again, size))
        assert made.journal() == before, "nothing has changed, and nothing is posted"
        made.apply(stream(history, cuts, after=again))
        assert_is(made, final, _unseen(final))


def _unseen(state: State) -> frozenset[tuple[str, str]]:
    """Rows in quarantine: what stands of them is what was seen of them before, and a snapshot has not seen all."""
    return frozenset(state.faulty)


def snapshot_over_a_gap(store: Callable[[], Any], history: History, first: int, second: int, cuts: list[int], size: int) -> None:
    """The log of some transactions is lost, a new snapshot makes up for it: by the difference."""
    last = len(history.transactions)
    first, second = sorted((first % (last + 1), second % (last + 1)))
    with store() as made:
        made.apply(stream(history, cuts, until=first))
        entries = len(made.entries())
        made.apply(snapshot(history.states[second], 1, second, size, now=first))
        known, now = history.states[first], history.states[second]
        assert_is(made, now, _unseen(now))
        same = {at for at in known.stands if now.stands.get(at) == known.stands[at] and at not in now.faulty}
        posted = {(entry["rule"], entry["row_key"]) for entry in made.entries()[entries:] if not _header_changed(known, now, entry)}
        assert not posted & same, "a row that stands posts nothing"
        made.apply(stream(history, cuts, after=second))
        assert_is(made, history.states[-1], _unseen(history.states[-1]))


def _header_changed(known: State, now: State, entry: Row) -> bool:
    """An order may want the same lines under another date or memo."""
    seen = [{order_key(key): (row["paid"], row["memo"]) for key, row in state.orders.items()} for state in (known, now)]
    return seen[0].get(entry["row_key"]) != seen[1].get(entry["row_key"])


def interrupted_snapshot(
    store: Callable[[], Any],
    history: History,
    places: tuple[int, int],
    read: set[int],
    cuts: list[int],
) -> None:
    """A snapshot copies some of the orders and breaks off; the next copies the others and those changed since, and the log
    brings it to one place."""
    last = len(history.transactions)
    first, second = sorted(place % (last + 1) for place in places)
    old, new = history.states[first], history.states[second]
    done = {key for i, key in enumerate(_all_keys(history)) if i in read}
    with store() as made:
        rows = [row for key, row in old.orders.items() if key in done]
        if rows:
            made.apply([copied(ORDERS, rows, 1, first, 0, last=False)])
        made.apply([copied(FEES, [], 1, first, 0, last=False)])
        made.reopen()
        rest = [row for key, row in new.orders.items() if key not in done or old.orders.get(key) != row]
        made.apply([copied(ORDERS, rest, 2, second, len(rows), last=True, position_now=first)])
        made.apply([copied(FEES, new.rows(FEES), 2, second, 0, last=True, position_now=first)])
        made.apply(stream(history, cuts, after=first, until=second, staged={"orders": 2, "fees": 2}))
        assert not made.entries(), "nothing is posted before the copies are whole"
        made.apply([promotion(2, second)])
        assert_is(made, new, _unseen(new))
        made.apply(stream(history, cuts, after=second))
        assert_is(made, history.states[-1], _unseen(history.states[-1]))


def _all_keys(history: History) -> list[Any]:
    return sorted({key for state in history.states for key in state.orders})


class Breaking:
    """A sink whose transactions break at the n-th thing done with them: in `apply`, before a commit, or after it really committed."""

    def __init__(self, sink: Sink, breaks: Sequence[int], late: bool) -> None:
        self._sink, self._breaks, self._late, self._done = sink, set(breaks), late, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sink, name)

    def begin(self) -> Any:
        transaction: Any = self._sink.begin()
        apply, commit = transaction.apply, transaction.commit

        def breaking_apply(part: Any) -> None:
            apply(part)
            self._step()

        def breaking_commit() -> None:
            if not self._late:
                self._step()
            commit()
            if self._late:
                self._step()

        transaction.apply, transaction.commit = breaking_apply, breaking_commit
        return transaction

    def _step(self) -> None:
        self._done += 1
        if self._done in self._breaks:
            raise StoreUnavailable("store.broken", path="-", detail="a test broke it")


def broken_anywhere(store: Callable[[], Any], history: History, breaks: list[int], late: bool, cuts: list[int]) -> None:
    with store() as smooth, store() as broken:
        smooth.apply(stream(history))
        broken.sink, sink = Breaking(broken.sink, breaks, late), broken.sink
        reached = broken.reopen()
        for _ in range(len(breaks) + 1):
            try:
                for batch in stream(history, cuts, after=reached):
                    broken.pipeline.apply([batch])
                break
            except StoreUnavailable:
                reached = broken.reopen()
        broken.pipeline.forget()
        broken.sink = sink
        broken.reopen()
        assert_is(broken, history.states[-1])
        assert broken.journal() == smooth.journal()
        assert _open(broken) == _open(smooth)
        assert sink.begin().rollback() is None


def retried(store: Callable[[], Any], history: History) -> None:
    """The rules that put rows in quarantine are corrected, and the rows accounted for once more."""
    mended = [
        SALE.model_copy(update={"when": f"({SALE.when}) AND total IS NOT NULL AND tax IS NOT NULL AND paid IS NOT NULL"}),
        LEVY.model_copy(update={"when": f"({LEVY.when}) AND false"}),
    ]
    corrected = Accountant([*mended, *RULES[2:]], BOOKS)
    try:
        with store() as made:
            made.apply([*snapshot(history.states[0], 1, 0, 1), *stream(history)])
            journal, before, opened = made.journal(), made.live(), _open(made)
            faulty, rows = {(item[0], item[2]) for item in opened}, [item[1:3] for item in opened]
            assert faulty == history.states[-1].faulty
            made.pipeline.retry(SOURCE, rows)
            assert _open(made) == opened, "what is still bad stays as it is"
            assert len(made.quarantine()) == len({item["id"] for item in made.quarantine()})
            assert made.journal() == journal
            again = {row for _, row in faulty}  # under all their rules, so what another rule no longer wants there ends too
            unwanted = {at for at in before if at[1:] in faulty or (at[1] == LEVY.name and at[2] in again)}
            made.reopen(corrected)
            for _ in range(2):
                made.pipeline.retry(SOURCE, rows)
                assert not _open(made)
                assert_sound(made.entries(), made.lines())
                assert not {at[1:] for at in made.live()} & faulty, "the corrected rules want nothing of these rows"
                assert len(made.entries()) - len(journal) == len(unwanted)
    finally:
        corrected.close()


PLACES = st.integers(0, 8)
BREAKS = st.lists(st.integers(1, 40), min_size=1, max_size=3, unique=True)


@given(history=histories(), cuts=CUTS)
@settings(max_examples=25)
def test_the_journal_is_equal_however_the_stream_is_cut(store: Any, history: History, cuts: list[int]) -> None:
    cut_anyhow(store, history, cuts)


@given(history=histories(), at=PLACES, again=PLACES, cuts=CUTS, size=st.integers(1, 4))
@settings(max_examples=25)
def test_a_snapshot_and_the_stream_come_to_the_same(store: Any, history: History, at: int, again: int, cuts: list[int], size: int) -> None:
    snapshot_and_stream(store, history, at, again, cuts, size)


@given(history=histories(), first=PLACES, second=PLACES, cuts=CUTS, size=st.integers(1, 4))
@settings(max_examples=25)
def test_a_new_snapshot_posts_the_difference(store: Any, history: History, first: int, second: int, cuts: list[int], size: int) -> None:
    snapshot_over_a_gap(store, history, first, second, cuts, size)


@given(history=histories(), places=st.tuples(PLACES, PLACES), read=st.sets(st.integers(0, 8)), cuts=CUTS)
@settings(max_examples=25)
def test_a_snapshot_that_broke_off_is_finished(
    store: Any,
    history: History,
    places: tuple[int, int],
    read: set[int],
    cuts: list[int],
) -> None:
    interrupted_snapshot(store, history, places, read, cuts)


@given(history=histories(), breaks=BREAKS, late=st.booleans(), cuts=CUTS)
@settings(max_examples=25)
def test_the_journal_is_equal_wherever_it_breaks(store: Any, history: History, breaks: list[int], late: bool, cuts: list[int]) -> None:
    broken_anywhere(store, history, breaks, late, cuts)


@given(history=histories())
@settings(max_examples=25)
def test_a_retry_settles_what_was_corrected(store: Any, history: History) -> None:
    retried(store, history)


def test_a_new_snapshot_ends_the_entries_of_rows_that_are_gone_also_of_rules_that_are(store: Any) -> None:
    history, row = History(), {"status": "paid", "total": Decimal(1), "tax": Decimal(0), "paid": date(2026, 1, 31), "memo": None}
    fees = [("fee", (kind, Decimal("1.00"))) for kind in ("a", "a", "b")]
    history.commit([("insert", (1, "kept"), row), ("insert", (1, "gone"), row), ("insert", (1, "also gone"), row), *fees])
    history.commit([("delete", 0), ("delete", 0), ("fee delete", 0), ("fee delete", 0)])
    without_rules = Accountant((), BOOKS)
    try:
        with store() as made:
            made.apply(snapshot(history.states[1], 1, 1, 10))
            made.reopen(without_rules)
            made.apply(snapshot(history.states[2], 2, 2, 1))
            assert {at[2] for at in made.live()} == {order_key((1, "kept")), '{"kind": "b", "amount": 1.00, "#": 1}'}
            assert_is(made, history.states[2])
    finally:
        without_rules.close()


# By name, each law on what is drawn for the larger run: LEDGERTAIL_TEST_PROPERTY_SECONDS=600 pytest -m slow tests/property
LARGE: dict[str, Callable[[Any, dict[str, Any]], None]] = {
    "cut": lambda store, d: cut_anyhow(store, d["history"], d["cuts"]),
    "snapshot": lambda store, d: snapshot_and_stream(store, d["history"], *d["places"], d["cuts"], d["size"]),
    "gap": lambda store, d: snapshot_over_a_gap(store, d["history"], *d["places"], d["cuts"], d["size"]),
    "interrupted": lambda store, d: interrupted_snapshot(store, d["history"], d["places"], d["read"], d["cuts"]),
    "broken": lambda store, d: broken_anywhere(store, d["history"], d["breaks"], d["late"], d["cuts"]),
    "retry": lambda store, d: retried(store, d["history"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("law", LARGE)
@given(
    history=histories(transactions_max=30, steps_max=10),
    cuts=st.lists(st.integers(0, 400), max_size=20),
    places=st.tuples(st.integers(0, 30), st.integers(0, 30)),
    size=st.integers(1, 5),
    read=st.sets(st.integers(0, 12)),
    breaks=st.lists(st.integers(1, 200), min_size=1, max_size=8, unique=True),
    late=st.booleans(),
)
@settings(max_examples=2000)
def test_every_law_on_larger_histories(store: Any, law: str, **drawn: Any) -> None:
    LARGE[law](store, drawn)
