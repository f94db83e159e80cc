"""Random committed histories of two small tables, and what must come of them, in plain Python: no DuckDB, no Arrow, no float.

`orders` has a composite key and a column (`memo`) that the log leaves out where an update does not touch it; `fees` has no key.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
from hypothesis import strategies as st

from cdc.accounting.books import Book
from cdc.config import BookConfig, LineConfig, RuleConfig
from cdc.types import DELETE, INSERT, READ, TRANSACTIONS, TRUNCATE, UPDATE, MicroBatch, SnapshotProgress, TableChanges, TableSchema
from tests.changes import Change, Row, changes, table
from tests.property.streams import IDENTITY, SOURCE, cut, position

ORDERS = table("orders", ["shop", "no"], shop="BIGINT", no="VARCHAR", status="VARCHAR", total="DECIMAL(12,2)", tax="DECIMAL(12,2)",
               paid="DATE", memo="VARCHAR")  # fmt: skip
FEES = table("fees", [], kind="VARCHAR", amount="DECIMAL(12,2)")
SCHEMAS = (ORDERS, FEES)
MEMO = frozenset({"memo"})

ACCOUNTS = frozenset({"1001", "1122", "2221", "5001", "5602"})
BOOKS = {
    "main": Book("main", BookConfig(base_currency="CNY", chart="-"), ACCOUNTS),
    "tax": Book("tax", BookConfig(base_currency="USD", chart="-"), ACCOUNTS),
}


def _line(account: str | dict[str, str], **given: Any) -> LineConfig:
    return LineConfig.model_validate({"account": account, **given})


SALE = RuleConfig(
    name="sale", book="main", table="shop.orders", when="status = 'paid'", date="paid", summary="memo",
    lines=[_line("1122", debit="total", dims={"shop": "shop"}), _line("5001", credit="total - tax"), _line("2221", credit="tax")],
)  # fmt: skip
LEVY = RuleConfig(
    name="levy", book="tax", table="shop.orders", when="total > 50", date="coalesce(paid, DATE '2026-01-01')", voucher_key="no",
    lines=[_line({"expr": "CASE status WHEN 'paid' THEN '1001' WHEN 'new' THEN '1122' END"}, debit="total * 0.125"),
           _line("2221", credit="total * 0.125")],
)  # fmt: skip
FEE = RuleConfig(
    name="fee", book="main", table="shop.fees", when="amount IS NOT NULL", date="DATE '2026-02-28'",
    lines=[_line("5602", debit="amount", dims={"kind": "kind"}), _line("1001", credit="amount")],
)  # fmt: skip
RULES = (SALE, LEVY, FEE)

Lines = tuple[tuple[str, Decimal, Decimal], ...]  # account, debit, credit
FAULT = "fault"


def wanted(rule: str, row: Row) -> Lines | str:
    """What a rule wants of a row, () if nothing, FAULT if it goes to quarantine."""
    if rule == "fee":
        amount = row["amount"]
        return _entry(("5602", amount, 0), ("1001", 0, amount)) if amount is not None else ()
    total, tax = row["total"], row["tax"]
    if rule == "sale":
        if row["status"] != "paid":
            return ()
        if None in (total, tax, row["paid"]):
            return FAULT
        return _entry(("1122", total, 0), ("5001", 0, total - tax), ("2221", 0, tax))
    if total is None or total <= 50:
        return ()
    levy = total * Decimal("0.125")
    account = {"paid": "1001", "new": "1122"}.get(row["status"])
    if levy != round(levy, 2) or account is None:
        return FAULT
    return _entry((account, levy, 0), ("2221", 0, levy))


def _entry(*lines: tuple[str, Decimal | int, Decimal | int]) -> Lines:
    return tuple((account, Decimal(debit), Decimal(credit)) for account, debit, credit in lines if debit or credit)


Key = tuple[int, str]
Content = tuple[Any, ...]


@dataclass
class State:
    """The source's tables, and per rule and row what stands: what the rule wanted of the row's last sound state."""

    orders: dict[Key, Row] = field(default_factory=dict)
    fees: list[Content] = field(default_factory=list)
    stands: dict[tuple[str, str], Lines] = field(default_factory=dict)
    faulty: set[tuple[str, str]] = field(default_factory=set)

    def copy(self) -> State:
        return State(dict(self.orders), list(self.fees), dict(self.stands), set(self.faulty))

    def account(self) -> None:
        """After a change: the rules over all rows."""
        rows = {
            **{(name, order_key(key)): wanted(name, row) for name in ("sale", "levy") for key, row in self.orders.items()},
            **{("fee", key): wanted("fee", _fee(content)) for key, content in self.fee_rows().items()},
        }
        self.stands = {at: lines for at, lines in self.stands.items() if rows.get(at) == FAULT} | {
            at: lines for at, lines in rows.items() if not isinstance(lines, str) and lines
        }
        self.faulty = {at for at, lines in rows.items() if lines == FAULT}

    def fee_rows(self) -> dict[str, Content]:
        """The rows without key by their row_key."""
        return {fee_key(content, n): content for content, count in Counter(self.fees).items() for n in range(1, count + 1)}

    def rows(self, schema: TableSchema) -> list[Row]:
        return list(self.orders.values()) if schema is ORDERS else [_fee(content) for content in self.fees]


def order_key(key: Key) -> str:
    return json.dumps({"shop": key[0], "no": key[1]}, ensure_ascii=False)


def fee_key(content: Content, number: int) -> str:
    kind, amount = content
    return f'{{"kind": {json.dumps(kind, ensure_ascii=False)}, "amount": {"null" if amount is None else amount}, "#": {number}}}'


def _fee(content: Content) -> Row:
    return {"kind": content[0], "amount": content[1]}


Logged = list[tuple[TableSchema, Change]]


@dataclass
class History:
    """Committed transactions: the changes of each in log order, and the state after it. `states[0]` is the empty one."""

    transactions: list[Logged] = field(default_factory=list)
    states: list[State] = field(default_factory=lambda: [State()])

    def commit(self, steps: Sequence[tuple[Any, ...]]) -> None:
        """Carry out the steps that can be, as one transaction. One that logs nothing leaves none."""
        state, log = self.states[-1].copy(), list[tuple[TableSchema, Change]]()
        for step in steps:
            logged = list(_STEPS[step[0]](state, *step[1:]))
            log += logged
        if log:
            self.transactions.append(log)
            self.states.append(state)


def _insert(state: State, key: Key, values: Row) -> Logged:
    if key in state.orders:
        return []
    state.orders[key] = {"shop": key[0], "no": key[1], **values}
    return _logged(state, ORDERS, Change(INSERT, state.orders[key]))


def _update(state: State, pick: int, values: Row, keep_memo: bool) -> Logged:
    if not state.orders:
        return []
    key = sorted(state.orders)[pick % len(state.orders)]
    return _logged(state, ORDERS, *_change(state, key, key, values, keep_memo))


def _rekey(state: State, pick: int, key: Key, values: Row, keep_memo: bool) -> Logged:
    if not state.orders or key in state.orders:
        return []
    return _logged(state, ORDERS, *_change(state, sorted(state.orders)[pick % len(state.orders)], key, values, keep_memo))


def _swap(state: State, one: int, other: int, values: Row) -> Logged:
    """Two rows change places by way of a key that nobody has."""
    keys, spare = sorted(state.orders), (0, "spare")
    if len(keys) < 2 or one % len(keys) == other % len(keys):
        return []
    a, b = keys[one % len(keys)], keys[other % len(keys)]
    logged: Logged = []
    for old, new in ((a, spare), (b, a), (spare, b)):
        logged += _logged(state, ORDERS, *_change(state, old, new, values, True))
    return logged


def _change(state: State, old: Key, new: Key, values: Row, keep_memo: bool) -> list[Change]:
    """An update as the log has it: of a key change a delete and the new row, with the part of the key that changed."""
    row = state.orders.pop(old)
    row = row | values | {"shop": new[0], "no": new[1]} | ({"memo": row["memo"]} if keep_memo else {})
    state.orders[new] = row
    absent = MEMO if keep_memo else frozenset[str]()
    if old == new:
        return [Change(UPDATE, row, absent)]
    changed = {name: before for name, before, after in zip(ORDERS.key, old, new, strict=True) if before != after}
    return [Change(DELETE, dict(zip(ORDERS.key, old, strict=True))), Change(UPDATE, row, absent, changed)]


def _delete(state: State, pick: int) -> Logged:
    if not state.orders:
        return []
    key = sorted(state.orders)[pick % len(state.orders)]
    del state.orders[key]
    return _logged(state, ORDERS, Change(DELETE, dict(zip(ORDERS.key, key, strict=True))))


def _truncate(state: State, schema: TableSchema) -> Logged:
    (state.orders if schema is ORDERS else state.fees).clear()
    return _logged(state, schema, Change(TRUNCATE, {}))


def _fee_insert(state: State, content: Content) -> Logged:
    state.fees.append(content)
    return _logged(state, FEES, Change(INSERT, _fee(content)))


def _fee_update(state: State, pick: int, content: Content) -> Logged:
    if not state.fees:
        return []
    old = state.fees.pop(pick % len(state.fees))
    gone = _logged(state, FEES, Change(DELETE, _fee(old)))
    state.fees.append(content)
    return gone + _logged(state, FEES, Change(UPDATE, _fee(content)))


def _fee_delete(state: State, pick: int) -> Logged:
    if not state.fees:
        return []
    return _logged(state, FEES, Change(DELETE, _fee(state.fees.pop(pick % len(state.fees)))))


def _logged(state: State, schema: TableSchema, *made: Change) -> Logged:
    state.account()
    return [(schema, change) for change in made]


_STEPS = {
    "insert": _insert,
    "update": _update,
    "rekey": _rekey,
    "swap": _swap,
    "delete": _delete,
    "truncate": _truncate,
    "fee": _fee_insert,
    "fee update": _fee_update,
    "fee delete": _fee_delete,
}

_KEYS = st.tuples(st.integers(1, 2), st.sampled_from(["1", 'a"b', "it's", "单"]))
_AMOUNTS = st.sampled_from([None, *map(Decimal, ("0.00", "1.10", "50.00", "56.00", "80.01", "-64.00"))])
_ORDERS = st.fixed_dictionaries(
    {
        "status": st.sampled_from(["paid", "paid", "new", "void"]),
        "total": _AMOUNTS,
        "tax": st.sampled_from([None, Decimal("0.00"), Decimal("0.10"), Decimal("0.10")]),
        "paid": st.sampled_from([None, date(2026, 1, 31), date(2026, 2, 1), date(2026, 2, 1)]),
        "memo": st.sampled_from([None, "早", "late"]),
    }
)
_FEES = st.tuples(st.sampled_from([None, "a", 'b"']), st.sampled_from([None, Decimal("1.00"), Decimal("-2.50")]))
_PICKS = st.integers(0, 7)
_STEP = st.one_of(
    st.tuples(st.just("insert"), _KEYS, _ORDERS),
    st.tuples(st.just("insert"), _KEYS, _ORDERS),
    st.tuples(st.just("update"), _PICKS, _ORDERS, st.booleans()),
    st.tuples(st.just("update"), _PICKS, _ORDERS, st.booleans()),
    st.tuples(st.just("rekey"), _PICKS, _KEYS, _ORDERS, st.booleans()),
    st.tuples(st.just("swap"), _PICKS, _PICKS, _ORDERS),
    st.tuples(st.just("delete"), _PICKS),
    st.tuples(st.just("fee"), _FEES),
    st.tuples(st.just("fee"), _FEES),
    st.tuples(st.just("fee update"), _PICKS, _FEES),
    st.tuples(st.just("fee delete"), _PICKS),
    st.tuples(st.just("truncate"), st.sampled_from(SCHEMAS)),
)


@st.composite
def histories(draw: st.DrawFn, transactions_max: int = 8, steps_max: int = 6) -> History:
    history = History()
    for steps in draw(st.lists(st.lists(_STEP, min_size=1, max_size=steps_max), min_size=1, max_size=transactions_max)):
        history.commit(steps)
    return history


def stream(
    history: History, cuts: Sequence[int] = (), *, after: int = 0, until: int | None = None, staged: Mapping[str, int] | None = None
) -> list[MicroBatch]:
    """The transactions after one, until another, as micro-batches; see `cut`. With `staged` these tables' changes go to their copies: to
    those read by a snapshot before the one named.
    """
    last = len(history.transactions) if until is None else until
    logged = [
        (n, ordinal, schema, change)
        for n in range(after + 1, last + 1)
        for ordinal, (schema, change) in enumerate(history.transactions[n - 1])
        if not (staged and schema is FEES)
    ]
    included_from = max((staged or {"": 0}).values())
    return [replace(batch, staged=frozenset(staged or ()), included_from=included_from) for batch in cut(logged, cuts)]


def copied(
    schema: TableSchema, rows: Sequence[Row], number: int, at: int, done: int, *, last: bool, position_now: int | None = None
) -> MicroBatch:
    """A snapshot's chunk: rows read at transaction `at`; `done` rows were copied before it."""
    progress = SnapshotProgress(schema.table, number, position(at), "staged" if last else "copying", "", done + len(rows), 0)
    read = changes(schema, [(0, done + i, Change(READ, row)) for i, row in enumerate(rows)])
    return MicroBatch(
        source=SOURCE,
        identity=IDENTITY,
        transactions=_snapshot(number, at),
        changes=(TableChanges(schema, read),),
        position=position(at if position_now is None else position_now),
        snapshot=progress,
    )


def promotion(number: int, at: int) -> MicroBatch:
    """All staged copies become mirrors."""
    return MicroBatch(
        source=SOURCE,
        identity=IDENTITY,
        transactions=_snapshot(number, at),
        changes=(),
        position=position(at),
        staged=frozenset(),
        promote=SCHEMAS,
    )


def snapshot(state: State, number: int, at: int, size: int, now: int | None = None) -> list[MicroBatch]:
    """A whole copy of a state, in chunks, and its promotion. `now`: where the stream stands meanwhile."""
    batches = []
    for schema in SCHEMAS:
        rows = state.rows(schema)
        chunks = [rows[i : i + size] for i in range(0, len(rows), size)] or [[]]
        batches += [
            copied(schema, chunk, number, at, i * size, last=i == len(chunks) - 1, position_now=now) for i, chunk in enumerate(chunks)
        ]
    return [*batches, promotion(number, at)]


def _snapshot(number: int, at: int) -> pa.Table:
    row = {"position": position(at), "txn": f"snapshot:{number}", "committed_at": datetime(2026, 3, 2, tzinfo=UTC)}
    return pa.Table.from_pylist([row], TRANSACTIONS)
