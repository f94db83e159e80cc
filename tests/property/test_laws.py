"""DESIGN.md's laws on random histories, over real sinks. `histories` says what must come of them, in plain Python."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc.accounting.accountant import Accountant
from cdc.errors import StoreUnavailable
from cdc.protocols import Sink
from cdc.types import LIVE, MicroBatch
from tests.changes import Row
from tests.property.histories import (
    BOOKS,
    FEES,
    LEVY,
    ORDERS,
    RULES,
    SALE,
    SCHEMAS,
    History,
    State,
    copied,
    histories,
    order_key,
    promotion,
    snapshot,
    stream,
)
from tests.property.stores import Store
from tests.property.streams import CUTS, SOURCE


@pytest.fixture(scope="module")
def accountant() -> Iterator[Accountant]:
    made = Accountant(RULES, BOOKS)
    yield made
    made.close()


def apply(store: Store, batches: Iterable[MicroBatch]) -> None:
    """Apply batches one by one; after each that commits the store must be sound."""
    for batch in batches:
        if store.pipeline.apply([batch]):
            assert_sound(store.entries(), store.lines())
    assert store.pipeline.unfinished is None


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
    assert {at for at in live(store) if at[1:] not in but} == {
        (books[rule], rule, key) for rule, key in state.stands if (rule, key) not in but
    }


def live(store: Store) -> dict[tuple[str, str, str], Any]:
    """What stands, by book, rule and row: all that does not depend on how it came about."""
    rows = store.live(*SCHEMAS)
    told = [name for name in LIVE.names if name not in ("entry_id", "lines")]
    found = {(row["book"], row["rule"], row["row_key"]): ([row[name] for name in told], row["lines"]) for row in rows}
    assert len(found) == len(rows), "two entries stand for one row"
    return found


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
        apply(one, stream(history))
        apply(each, stream(history, whole))
        apply(parts, stream(history, cuts))
        for made in (one, each, parts):
            assert_is(made, history.states[-1])
        assert one.journal() == each.journal() == parts.journal()
        assert _open(one) == _open(each) == _open(parts)


def _open(store: Store) -> set[tuple[Any, ...]]:
    """What lies in quarantine: rule, source_table, row_key and the rest. What was settled may never have been seen in fewer batches."""
    told = ("rule", "source_table", "row_key", "book", "id", "level", "reason", "detail", "payload")
    return {tuple(item[name] for name in told) for item in store.open_items()}


def snapshot_and_stream(store: Callable[[], Any], history: History, at: int, again: int, cuts: list[int], size: int) -> None:
    last = len(history.transactions)
    at, again = at % (last + 1), again % (last + 1)
    again = max(at, again)
    final = history.states[-1]
    with store() as made:
        apply(made, snapshot(history.states[at], 1, at, size))
        assert_is(made, history.states[at], _unseen(history.states[at]))
        apply(made, stream(history, cuts, after=at, until=again))
        before = made.journal()
        apply(made, snapshot(history.states[again], 2, again, size))
        assert made.journal() == before, "nothing has changed, and nothing is posted"
        apply(made, stream(history, cuts, after=again))
        assert_is(made, final, _unseen(final))


def _unseen(state: State) -> frozenset[tuple[str, str]]:
    """Rows in quarantine: what stands of them is what was seen of them before, and a snapshot has not seen all."""
    return frozenset(state.faulty)


def snapshot_over_a_gap(store: Callable[[], Any], history: History, first: int, second: int, cuts: list[int], size: int) -> None:
    """The log of some transactions is lost, a new snapshot makes up for it: by the difference."""
    last = len(history.transactions)
    first, second = sorted((first % (last + 1), second % (last + 1)))
    with store() as made:
        apply(made, stream(history, cuts, until=first))
        entries = len(made.entries())
        apply(made, snapshot(history.states[second], 1, second, size, now=first))
        known, now = history.states[first], history.states[second]
        assert_is(made, now, _unseen(now))
        same = {at for at in known.stands if now.stands.get(at) == known.stands[at] and at not in now.faulty}
        posted = {(entry["rule"], entry["row_key"]) for entry in made.entries()[entries:] if not _header_changed(known, now, entry)}
        assert not posted & same, "a row that stands posts nothing"
        apply(made, stream(history, cuts, after=second))
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
            apply(made, [copied(ORDERS, rows, 1, first, 0, last=False)])
        apply(made, [copied(FEES, [], 1, first, 0, last=False)])
        made.reopen()
        rest = [row for key, row in new.orders.items() if key not in done or old.orders.get(key) != row]
        apply(made, [copied(ORDERS, rest, 2, second, len(rows), last=True, position_now=first)])
        apply(made, [copied(FEES, new.rows(FEES), 2, second, 0, last=True, position_now=first)])
        apply(made, stream(history, cuts, after=first, until=second, staged={"orders": 2, "fees": 2}))
        assert not made.entries(), "nothing is posted before the copies are whole"
        apply(made, [promotion(2, second)])
        assert_is(made, new, _unseen(new))
        apply(made, stream(history, cuts, after=second))
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
            if (broken := self._step()) is not None:
                raise broken

        def breaking_commit() -> Future[None]:
            if (broken := self._step()) is None:
                return commit()
            if self._late:
                commit().result()
            else:
                transaction.rollback()
            failed: Future[None] = Future()
            failed.set_exception(broken)
            return failed

        transaction.apply, transaction.commit = breaking_apply, breaking_commit
        return transaction

    def _step(self) -> StoreUnavailable | None:
        self._done += 1
        return StoreUnavailable("store.broken", path="-", detail="a test broke it") if self._done in self._breaks else None


def broken_anywhere(store: Callable[[], Any], history: History, breaks: list[int], late: bool, cuts: list[int]) -> None:
    with store() as smooth, store() as broken:
        apply(smooth, stream(history))
        broken.sink, sink = Breaking(broken.sink, breaks, late), broken.sink
        reached = broken.reopen()
        for _ in range(len(breaks) + 1):
            try:
                committed = None
                for batch in stream(history, cuts, after=reached):
                    committed = broken.pipeline.write([batch]) or committed
                if committed is not None:
                    committed.result()
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
            apply(made, [*snapshot(history.states[0], 1, 0, 1), *stream(history)])
            journal, before, opened = made.journal(), live(made), _open(made)
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
                assert not {at[1:] for at in live(made)} & faulty, "the corrected rules want nothing of these rows"
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
            apply(made, snapshot(history.states[1], 1, 1, 10))
            made.reopen(without_rules)
            apply(made, snapshot(history.states[2], 2, 2, 1))
            assert {at[2] for at in live(made)} == {order_key((1, "kept")), '{"kind": "b", "amount": 1.00, "#": 1}'}
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
