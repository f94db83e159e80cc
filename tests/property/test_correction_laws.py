"""However a book corrects, whatever periods are closed meanwhile, and with a rule that changes on a day: what stands is what the rule says
of the rows now, nothing is posted into a period that does not take it, what changes nothing posts nothing, and the journal does not depend
on how the stream is cut or where it breaks off."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc.accounting.accountant import Accountant
from cdc.config import LineConfig, RuleConfig
from cdc.types import UPDATE
from tests.changes import Change, Row, book, table
from tests.property.stores import Store
from tests.property.streams import CRASHES, CUTS, Tables, Transaction, delete, histories, put, stream

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
_STEPS = st.one_of(*[put("orders", _ROWS)] * 3, delete("orders"))
_STATES = st.sampled_from([{}, {"2025-11": "closed"}, {"2025-11": "closed", "2025-12": "soft"}, {"2025-11": "closed", "2025-12": "closed"},
                           {"2025-11": "closed", "2025-12": "closed", "2026-01": "soft"},
                           {"2025-11": "closed", "2025-12": "closed", "2026-01": "closed"}])  # fmt: skip
Act = tuple[dict[str, str], list[Transaction]]


@st.composite
def acts(draw: st.DrawFn) -> list[Act]:
    """What periods are not open, and the transactions then; several times."""
    made: list[Act] = []
    after: Tables | None = None
    for states in draw(st.lists(_STATES, min_size=2, max_size=4)):
        history = draw(histories(SCHEMAS, _STEPS, transactions_max=4, steps_max=6, after=after))
        made.append((states, history))
        after = history[-1].tables if history else after
    return made


@pytest.fixture(scope="module")
def accountant() -> Iterator[Accountant]:
    with closing(Accountant(RULES, BOOKS)) as made:
        yield made


def follow(made: Store, acts: Sequence[Act], cuts: Sequence[int] = (), crash: int = -1) -> None:
    """Apply it all; after each act the books must be sound."""
    done, now = 0, dict[str, str]()
    for states, history in acts:
        for name, period in itertools.product(POLICIES, PERIODS):
            if (state := states.get(period, "open")) != now.get(period, "open"):
                made.pipeline.set_period(name, period, state)
        now = states
        before = {entry["entry_id"] for entry in made.entries()}
        made.apply(stream(SCHEMAS, history, cuts, first=done + 1), crash)
        done += len(history)
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
    found = made.live(ORDERS)
    entries = {entry["entry_id"]: entry["kind"] for entry in made.entries()}
    assert all(entries[row["entry_id"]] == ("adjust" if row["correction"] else "post") or row["content"] for row in found)
    return {(row["entry_id"], row["content"], row["correction"]) for row in found}


@given(acts=acts(), cuts=CUTS, crash=CRASHES)
@settings(max_examples=200)
def test_corrections(store: Callable[[], Any], acts: list[Act], cuts: list[int], crash: int) -> None:
    with store() as one, store() as other:
        follow(one, acts)
        follow(other, acts, cuts, crash)
        history = [transaction for _, transactions in acts for transaction in transactions]
        rows = history[-1].tables["orders"] if history else {}
        check_amounts(one, rows)
        journal = one.journal()
        assert journal == other.journal()
        assert standing(one) == standing(other)
        same = Transaction([("orders", Change(UPDATE, row)) for row in rows.values()], {"orders": rows})
        one.apply(stream(SCHEMAS, [same], first=len(history) + 1))
        assert one.journal() == journal, "what changes nothing posts nothing"
