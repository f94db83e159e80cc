"""Random histories of SQL on three small tables, and what must come of them, in plain Python: what the tables hold and what the books say
after each transaction that committed.

`orders` has a composite key with a text, and a long text (`memo`) that updates may leave out; `fees` has no key; `marks` is written so that
it can be waited for. A history is a list of moves of two sessions, drawn without looking at the rows: a move that can't be made is passed
over. The second session commits in two phases, if it is told to prepare.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from typing import Any, NamedTuple

from hypothesis import strategies as st

from tests.changes import Row, table
from tests.property.histories import FAULT, Content, Key, Lines, fee_key, order_key, wanted

MARKS = table("marks", ["n"], n="BIGINT")
SPARE: Key = (0, "spare")
MANY, MOVED = 3, 4  # the shops of rows that are written many at once


class Long(str):
    """A text that servers store apart from its row, told briefly where an example is printed."""

    def __repr__(self) -> str:
        return f"Long({self[:1]!r})"


LONG = [Long("长" * 1500), Long("短" * 1500)]
Move = tuple[Any, ...]  # its name, the session's number where it is of one, and what it needs


class Change(NamedTuple):
    """A row that comes ('c'), changes ('u') or goes ('d'), or all rows that go ('t'). `at`: its key, or its content where it has none."""

    table: str
    op: str
    at: Any = None
    row: Row | None = None


class Entry(NamedTuple):
    """An entry as far as it does not depend on when it was posted. `lines`: account, debit, credit."""

    kind: str
    rule: str
    row_key: str
    entry_date: date
    voucher_key: str | None
    summary: str | None
    lines: frozenset[tuple[str, Decimal, Decimal]]


@dataclass
class Tables:
    """What the tables hold."""

    orders: dict[Key, Row] = field(default_factory=dict)
    fees: Counter[Content] = field(default_factory=Counter)
    marks: set[int] = field(default_factory=set)

    def copy(self) -> Tables:
        return Tables(dict(self.orders), Counter(self.fees), set(self.marks))

    def apply(self, changes: Iterable[Change]) -> None:
        for change in changes:
            if change.op == "t":
                getattr(self, change.table).clear()
            elif change.table == "marks":
                self.marks.add(change.at)
            elif change.table == "fees":
                self.fees[change.at] += 1 if change.op == "c" else -1
                self.fees += Counter()  # what is not there has no count
            elif change.op == "d":
                del self.orders[change.at]
            else:
                assert change.row is not None
                self.orders[change.at] = change.row


Place = tuple[str, str]  # rule and row_key


@dataclass
class Books:
    """What stands, by rule and row; the rules that fail on a row as it is now; and all that was posted, in order."""

    stands: dict[Place, Entry] = field(default_factory=dict)
    faulty: set[Place] = field(default_factory=set)
    journal: list[Entry] = field(default_factory=list)

    def follow(self, change: Change, before: Tables) -> set[Place]:
        """Account for a change. Returns what it touches, whether or not anything is posted."""
        changed = dict(_changed(change, before))
        for (rule, row_key), row in changed.items():
            self._settle(rule, row_key, _entry(rule, row_key, row) if row is not None else None)
        return set(changed)

    def _settle(self, rule: str, row_key: str, entry: Entry | str | None) -> None:
        at = (rule, row_key)
        if isinstance(entry, str):
            self.faulty.add(at)
            return
        self.faulty.discard(at)
        stood = self.stands.get(at)
        if stood == entry:
            return
        if stood is not None:
            del self.stands[at]
            self.journal.append(stood._replace(kind="reverse", lines=frozenset((a, -d, -c) for a, d, c in stood.lines)))
        if entry is not None:
            self.stands[at] = entry
            self.journal.append(entry)


def _changed(change: Change, before: Tables) -> Iterator[tuple[Place, Row | None]]:
    """The rules and rows that a change is about, with the row after it."""
    orders = list(before.orders) if change == Change("orders", "t") else [change.at] if change.table == "orders" else []
    for rule in ("sale", "levy"):
        for key in orders:
            yield (rule, order_key(key)), change.row
    if change == Change("fees", "t"):
        for content, count in before.fees.items():
            for number in range(1, count + 1):
                yield ("fee", fee_key(content, number)), None
    elif change.table == "fees":
        number = before.fees[change.at] + (change.op == "c")
        yield ("fee", fee_key(change.at, number)), dict(zip(("kind", "amount"), change.at, strict=True)) if change.op == "c" else None


def _entry(rule: str, row_key: str, row: Row) -> Entry | str | None:
    lines: Lines | str = wanted(rule, row)
    if lines == FAULT or not lines:
        return FAULT if lines else None
    header: dict[str, tuple[Any, Any, Any]] = {
        "sale": (row.get("paid"), None, row.get("memo")),
        "levy": (row.get("paid") or date(2026, 1, 1), row.get("no"), None),
        "fee": (date(2026, 2, 28), None, None),
    }
    return Entry("post", rule, row_key, *header[rule], frozenset(lines))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Moment:
    """What holds after a number of transactions. `entries`: how many were posted up to it; `touched`: by its transaction."""

    tables: Tables
    stands: Mapping[Place, Entry]
    faulty: frozenset[Place]
    entries: int
    touched: frozenset[Place]


class History:
    """The transactions that committed, in order. `moments[0]` is before all of them."""

    def __init__(self) -> None:
        self.books = Books()
        self.moments = [Moment(Tables(), {}, frozenset(), 0, frozenset())]

    @property
    def tables(self) -> Tables:
        return self.moments[-1].tables

    def commit(self, changes: Iterable[Change]) -> None:
        """One transaction. One that changes nothing is none."""
        tables, books, touched = self.tables.copy(), self.books, set[Place]()
        made = list(changes)
        for change in made:
            touched |= books.follow(change, tables)
            tables.apply([change])
        if made:
            self.moments.append(Moment(tables, dict(books.stands), frozenset(books.faulty), len(books.journal), frozenset(touched)))


KEYS = st.tuples(st.integers(1, 2), st.sampled_from(["1", 'a"b', 'A"B', "it's", "it's ", "单"]))
AMOUNTS = st.sampled_from([None, *map(Decimal, ("0.00", "1.10", "50.00", "56.00", "80.01", "-64.00", "9999999999.99"))])
VALUES = st.fixed_dictionaries(
    {
        "status": st.sampled_from(["paid", "paid", "new", "void"]),
        "total": AMOUNTS,
        "tax": st.sampled_from([Decimal("0.00"), Decimal("0.10"), Decimal("0.10"), None]),
        "paid": st.sampled_from([date(2026, 1, 31), date(2026, 2, 1), date(2026, 2, 1), None]),
        "memo": st.sampled_from([None, "早", 'it\'s \\ "late"\n', *LONG]),
    }
)
CONTENTS = st.tuples(st.sampled_from([None, "a", 'b"']), st.sampled_from([None, Decimal("1.00"), Decimal("-2.50")]))
PICKS = st.integers(0, 7)
WHO = st.sampled_from([0, 0, 1])
SAVEPOINTS = st.sampled_from(["one", "one", "two `2`"])

# How often each move is made, in proportion, and what it needs after its name.
_WEIGHTS: dict[str, tuple[int, tuple[st.SearchStrategy[Any], ...]]] = {
    "insert": (6, (WHO, KEYS, VALUES)),
    "upsert": (2, (WHO, KEYS, VALUES)),
    "update": (6, (WHO, PICKS, VALUES, st.booleans())),
    "rekey": (3, (WHO, PICKS, KEYS, VALUES, st.booleans())),
    "swap": (2, (WHO, PICKS, PICKS, VALUES, st.booleans())),
    "delete": (3, (WHO, PICKS)),
    "again": (2, (WHO, PICKS, VALUES)),
    "fee": (4, (WHO, CONTENTS, st.integers(1, 3))),
    "fee update": (3, (WHO, PICKS, CONTENTS)),
    "fee delete": (2, (WHO, PICKS)),
    "many": (2, (WHO, st.integers(5, 40), VALUES)),
    "update many": (2, (WHO, VALUES, st.booleans())),
    "move many": (2, (WHO, VALUES, st.booleans())),
    "delete many": (1, (WHO,)),
    "truncate": (2, (WHO, st.sampled_from(["orders", "fees"]))),
    "commit": (10, (WHO,)),
    "roll back": (2, (WHO,)),
    "prepare": (5, ()),
    "decide": (5, (PICKS, st.booleans())),
    "savepoint": (3, (WHO, SAVEPOINTS)),
    "back": (3, (WHO, SAVEPOINTS)),
    "elsewhere": (2, (WHO,)),
    "rotate": (2, ()),
    "setting": (6, (st.integers(0, 100),)),
}
MOVE = st.one_of(*(st.tuples(st.just(name), *needs) for name, (weight, needs) in _WEIGHTS.items() for _ in range(weight)))


def acts(count: int, size: int) -> st.SearchStrategy[list[list[Move]]]:
    """Moves in so many parts, about `size` in each."""
    return st.lists(st.lists(MOVE, min_size=size // 2, max_size=2 * size), min_size=count, max_size=count)
