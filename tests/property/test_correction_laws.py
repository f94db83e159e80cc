"""However a book corrects, whatever periods are closed meanwhile, and with a rule that changes on a day: what stands is what the rule says
of the rows now, nothing is posted into a period that does not take it, and the journal does not depend on how the stream is cut."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc.accounting.accountant import Accountant
from cdc.config import LineConfig, RuleConfig
from checkpoints.file import FileCheckpoints
from checkpoints.instore import InStore
from sinks.duckdb import DuckDBSink
from sinks.memory import MemorySink
from tests.changes import Change, Row, book, table
from tests.contract.samples import all_live
from tests.property.test_laws import Store
from tests.property.test_lookup_laws import Logged, batches

ORDERS = table("orders", ["no"], no="BIGINT", day="DATE", total="DECIMAL(12,2)", tax="DECIMAL(12,2)", customer="VARCHAR")
SCHEMAS = {"orders": ORDERS}
POLICIES: dict[str, dict[str, Any]] = {
    "plain": {},
    "delta": {"corrections": "delta"},
    "swapped": {"red": "swapped", "corrections": "delta"},
    "prior": {"prior_year": "6901"},
    "all": {"red": "swapped", "corrections": "delta", "prior_year": "6901"},
}
PERIODS = ["2025-11", "2025-12", "2026-01", "2026-02"]
BOOKS = {name: made for name, policy in POLICIES.items() for made in book(name, **policy).values()}
RULES = [
    RuleConfig(
        name="sale",
        book=name,
        table="shop.orders",
        date="day",
        when="total > 0",
        lines=[
            {"account": "1122", "debit": "total", "dims": {"customer": "customer"}},
            {"account": "5001", "credit": "total - tax"},
            {"account": "2221", "credit": "tax"},
        ],
    )
    for name in POLICIES
]
NEW = date(2026, 1, 1)  # from when on tax is no longer told apart
RULES += [
    rule.model_copy(update={"version": 2, "valid_from": NEW, "lines": [rule.lines[0], LineConfig(account="5001", credit="total")]})
    for rule in RULES
]
_ROWS = st.fixed_dictionaries(
    {
        "no": st.integers(1, 2),
        "day": st.sampled_from([date(2025, 12, 31), date(2026, 1, 1), date(2025, 11, 30)]),
        "total": st.sampled_from([Decimal("0.00"), Decimal("10.00"), Decimal("11.30"), Decimal("20.00")]),
        "tax": st.sampled_from([Decimal("1.00"), Decimal("1.30")]),
        "customer": st.sampled_from(["A", "A", "A", "B"]),
    }
)
_STEP = st.one_of(_ROWS, _ROWS, _ROWS, st.integers(0, 5))
_STATES = st.sampled_from([{}, {"2025-11": "closed"}, {"2025-11": "closed", "2025-12": "soft"}, {"2025-11": "closed", "2025-12": "closed"},
                           {"2025-11": "closed", "2025-12": "closed", "2026-01": "soft"},
                           {"2025-11": "closed", "2025-12": "closed", "2026-01": "closed"}])  # fmt: skip
Act = tuple[dict[str, str], list[list[Logged]]]


@st.composite
def histories(draw: st.DrawFn) -> list[Act]:
    """What periods are not open, and the transactions then; several times."""
    acts, rows = [], dict[int, Row]()
    for states, transactions in draw(
        st.lists(st.tuples(_STATES, st.lists(st.lists(_STEP, min_size=2, max_size=6), min_size=2, max_size=4)), min_size=2, max_size=4)
    ):
        logs: list[list[Logged]] = []
        for steps in transactions:
            log: list[Logged] = []
            for step in steps:
                if isinstance(step, int):
                    if rows:
                        log.append(("orders", Change("d", rows.pop(sorted(rows)[step % len(rows)]))))
                else:
                    log.append(("orders", Change("u" if step["no"] in rows else "c", step)))
                    rows[step["no"]] = step
            if log:
                logs.append(log)
        if logs:
            acts.append((states, logs))
    return acts


@pytest.fixture(scope="module")
def accountant() -> Iterator[Accountant]:
    with closing(Accountant(RULES, BOOKS)) as made:
        yield made


@pytest.fixture(scope="module", params=["memory", "duckdb"])
def store(request: pytest.FixtureRequest, accountant: Accountant, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Store]:
    numbers, folder = itertools.count(), tmp_path_factory.mktemp("stores")

    def new() -> Store:
        path, in_memory = folder / str(next(numbers)), request.param == "memory"
        sink: Any = MemorySink() if in_memory else DuckDBSink(f"{path}.duckdb", 64 << 20)
        sink.prepare([])
        return Store(sink, FileCheckpoints(Path(f"{path}.json")) if in_memory else InStore(), accountant)

    return new


def follow(made: Store, acts: Sequence[Act], cuts: Sequence[int]) -> None:
    """Apply it all; after each act the books must be sound."""
    done, now = 0, dict[str, str]()
    for states, logs in acts:
        for name, period in itertools.product(POLICIES, PERIODS):
            if (state := states.get(period, "open")) != now.get(period, "open"):
                made.pipeline.set_period(name, period, state)
        now = states
        before = {entry["entry_id"] for entry in made.entries()}
        padding: list[list[Logged]] = [[("none", Change("c", {}))]] * done  # so that transactions are numbered on
        for batch in batches([*padding, *logs], [*(cut + done for cut in cuts), done], SCHEMAS):
            if batch.changes:
                made.pipeline.apply([batch])
        done += len(logs)
        check_periods([entry for entry in made.entries() if entry["entry_id"] not in before], states)


def check_periods(entries: Sequence[Row], states: dict[str, str]) -> None:
    for entry in entries:
        state = states.get(entry["period"], "open")
        assert state != "closed"
        assert state == "open" or entry["reverses"] or entry["corrects"], "a soft-closed period takes corrections only"
        assert entry["period"] == f"{entry['entry_date']:%Y-%m}"
        moved = entry["entry_date"] != entry["doc_date"]
        assert not moved or (entry["entry_date"].day == 1 and entry["entry_date"] > entry["doc_date"])


def check_amounts(made: Store, rows: dict[int, Row]) -> None:
    """By book, row, account and customer what was posted adds up to what the row says now; income of closed years by its own account."""
    entries = {entry["entry_id"]: entry for entry in made.entries()}
    sums: dict[tuple[Any, ...], Decimal] = defaultdict(Decimal)
    for line in made.lines():
        entry = entries[line["entry_id"]]
        assert (line["debit"] is None) != (line["credit"] is None)
        swapped = POLICIES[entry["book"]].get("red") == "swapped"
        assert not swapped or (line["debit"] or line["credit"]) > 0
        account = "5001" if line["account"] == "6901" else line["account"]
        if line["account"] == "6901":
            assert POLICIES[entry["book"]].get("prior_year") and entry["entry_date"].year > entry["doc_date"].year
        at = (entry["book"], entry["row_key"], account, line["dims"])
        sums[at] += (line["debit"] or 0) - (line["credit"] or 0)
    wanted: dict[tuple[Any, ...], Decimal] = defaultdict(Decimal)
    for name, (number, row) in itertools.product(POLICIES, rows.items()):
        key = f'{{"no": {number}}}'
        if row["total"] > 0:
            wanted[name, key, "1122", f'{{"customer": "{row["customer"]}"}}'] += row["total"]
            tax = row["tax"] if row["day"] < NEW else Decimal(0)
            wanted[name, key, "5001", "{}"] -= row["total"] - tax
            wanted[name, key, "2221", "{}"] -= tax
    assert {at: value for at, value in sums.items() if value} == {at: value for at, value in wanted.items() if value}


def standing(made: Store) -> set[tuple[Any, ...]]:
    """What is live: entries and the differences to them."""
    transaction = made.sink.begin()
    try:
        found = all_live(transaction, ORDERS).to_pylist()
    finally:
        transaction.rollback()
    entries = {entry["entry_id"]: entry["kind"] for entry in made.entries()}
    assert all(entries[row["entry_id"]] == ("adjust" if row["correction"] else "post") or row["content"] for row in found)
    return {(row["entry_id"], row["content"], row["correction"]) for row in found}


@given(acts=histories(), cuts=st.lists(st.integers(0, 20), max_size=4))
@settings(max_examples=200)
def test_corrections(store: Callable[[], Store], acts: list[Act], cuts: list[int]) -> None:
    one, other = store(), store()
    try:
        follow(one, acts, [])
        follow(other, acts, cuts)
        rows: dict[int, Row] = {}
        for _, change in (logged for _, logs in acts for log in logs for logged in log):
            if change.op == "d":
                del rows[change.values["no"]]
            else:
                rows[change.values["no"]] = change.values
        check_amounts(one, rows)
        assert one.journal() == other.journal()
        assert standing(one) == standing(other)
    finally:
        for made in (one, other):
            made.pipeline.forget()
            made.sink.close()
