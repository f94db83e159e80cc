"""The functions of the example, against the same reckoned with whole numbers, row by row."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from math import floor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cdc.accounting.functions import Function, arrow_type, load_functions
from cdc.config import load

EXAMPLE = Path(__file__).parents[2] / "examples" / "functions" / "ledgertail.toml"
LIVES = (1, 2, 12, 13, 24, 36, 60, 120, 360, 1200)
COSTS = (0, 1, 7, 11, 359, 36_180, 100_000_00, 123_456_789, 999_999_999_999_999_999)


@pytest.fixture(scope="module")
def functions() -> dict[str, Function]:
    return load_functions(EXAMPLE, load(EXAMPLE).functions)


def told(function: Function, *rows: tuple[Any, ...]) -> list[Any]:
    """The value or else the fault of each row."""
    columns = zip(*rows, strict=True)
    arguments = [pa.array(column, arrow_type(kind)) for column, kind in zip(columns, function.takes, strict=True)]
    values, faults = function.evaluate(arguments)
    return [value if fault is None else fault for value, fault in zip(values.to_pylist(), faults.to_pylist(), strict=True)]


def money(cents: int) -> Decimal:
    return Decimal(cents).scaleb(-2)


def rounded(amount: Fraction) -> int:
    return floor(amount + Fraction(1, 2))


def spread(base: int, months: int) -> Iterator[int]:
    """The same each month, until there is nothing left; the last takes the rest."""
    each, left = rounded(Fraction(base, months)), base
    for month in range(1, months + 1):
        charge = left if month == months else min(each, left)
        left -= charge
        yield charge


def straight_line(cost: int, salvage: int, months: int) -> list[int]:
    return list(spread(cost - salvage, months))


def declining_balance(cost: int, salvage: int, months: int) -> list[int]:
    years, worth, charges = months // 12, cost, list[int]()
    for year in range(1, years + 1):
        doubled, halved = rounded(Fraction(2 * worth, years)), rounded(Fraction(worth - salvage, 2))
        charge = worth - salvage if year == years else min(halved if year == years - 1 else doubled, worth - salvage)
        charges += spread(charge, 12)
        worth -= charge
    return charges


def sum_of_years(cost: int, salvage: int, months: int) -> list[int]:
    years, left, charges = months // 12, cost - salvage, list[int]()
    for year in range(1, years + 1):
        share = rounded(Fraction((cost - salvage) * (years - year + 1) * 2, years * (years + 1)))
        charge = left if year == years else min(share, left)
        charges += spread(charge, 12)
        left -= charge
    return charges


@pytest.mark.parametrize("method", [straight_line, declining_balance, sum_of_years], ids=lambda method: method.__name__)
def test_a_life_adds_up_and_each_month_is_as_the_method_says(method: Callable[..., list[int]], functions: dict[str, Function]) -> None:
    chance = random.Random(1)
    lives = [months for months in LIVES if months % 12 == 0 or method is straight_line]
    assets = [(cost, salvage, months) for cost in COSTS for salvage in {0, cost // 20, cost} for months in lives]
    assets += [(cost, chance.randrange(cost + 1), chance.choice(lives)) for cost in (chance.randrange(10**9) for _ in range(100))]
    rows, expected = [], list[int]()
    for asset in assets:
        charges = [*method(*asset), 0, 0]
        assert sum(charges) == asset[0] - asset[1]
        assert min(charges) >= 0
        expected += charges
        rows += [(money(asset[0]), money(asset[1]), asset[2], month) for month in range(1, len(charges) + 1)]
    order = list(range(len(rows)))
    chance.shuffle(order)
    assert told(functions[method.__name__], *(rows[i] for i in order)) == [money(expected[i]) for i in order]


@pytest.mark.parametrize(
    ("name", "months", "expected"),
    [
        ("straight_line", {1: "1600.00", 60: "1600.00", 61: "0.00"}, "96000.00"),
        ("declining_balance", {1: "3333.33", 12: "3333.37", 13: "2000.00", 36: "1200.00", 37: "733.33", 60: "733.37"}, "96000.00"),
        ("sum_of_years", {1: "2666.67", 13: "2133.33", 48: "1066.63", 49: "533.33", 60: "533.37"}, "96000.00"),
    ],
)
def test_as_in_the_textbook(name: str, months: dict[int, str], expected: str, functions: dict[str, Function]) -> None:
    """100,000 with a salvage of 4,000 over five years: 40,000, 24,000, 14,400, 8,800, 8,800 by the declining balance."""
    charges = told(functions[name], *((Decimal(100000), Decimal(4000), 60, month) for month in range(1, 62)))
    assert {month: str(charges[month - 1]) for month in months} == months
    assert str(sum(charges)) == expected


def test_amortisation(functions: dict[str, Function]) -> None:
    charges = told(functions["amortisation"], *((Decimal("10000.00"), 36, month) for month in range(1, 38)))
    assert [str(charge) for charge in (charges[0], charges[34], charges[35], charges[36])] == ["277.78", "277.78", "277.70", "0.00"]
    assert sum(charges) == 10000


def test_a_prepayment_is_used_up_by_days_in_whatever_parts(functions: dict[str, Function]) -> None:
    chance = random.Random(2)
    for _ in range(50):
        first = date(2026, 1, 1) + timedelta(chance.randrange(400))
        last = first + timedelta(chance.randrange(800))
        cost = money(chance.randrange(10 ** chance.randrange(1, 18)))
        cuts = sorted({first - timedelta(9), *(first + timedelta(chance.randrange(-5, 800)) for _ in range(12)), last + timedelta(9)})
        parts = told(
            functions["prepaid_share"],
            *((cost, first, last, start, end - timedelta(1)) for start, end in pairwise(cuts)),
        )
        covered = cuts[0] <= first and cuts[-1] > last
        assert (sum(parts) == cost) is covered or cost == 0
        assert min(parts) >= 0


def test_what_of_research_is_capitalised(functions: dict[str, Function]) -> None:
    given = [
        ("70000.01", "development", "0.65"),
        ("70000.01", "research", "0.65"),
        ("0.01", "development", "0.5"),
        ("9999999999999999.99", "development", "1"),
    ]
    got = told(functions["capitalised"], *((Decimal(cost), stage, Decimal(share)) for cost, stage, share in given))
    assert [str(each) for each in got] == ["45500.01", "0.00", "0.01", "9999999999999999.99"]


@pytest.mark.parametrize(
    ("name", "row", "fault"),
    [
        ("straight_line", (1, 2, 12, 1), "a salvage value is more than the cost"),
        ("straight_line", (1, -1, 12, 1), "an amount is negative"),
        ("straight_line", (1, 0, 0, 1), "a life is not of 1 to 1200 months"),
        ("straight_line", (1, 0, 1201, 1), "a life is not of 1 to 1200 months"),
        ("straight_line", (1, 0, 12, 0), "a month is less than 1"),
        ("declining_balance", (1, 0, 30, 1), "a life is not of whole years"),
        ("sum_of_years", (1, 0, 30, 1), "a life is not of whole years"),
        ("amortisation", (-1, 12, 1), "an amount is negative"),
        ("prepaid_share", (1, date(2026, 2, 1), date(2026, 1, 1), date(2026, 1, 1), date(2026, 1, 1)), "ends before it begins"),
        ("prepaid_share", (1, date(2026, 1, 1), date(2026, 1, 1), date(2026, 1, 2), date(2026, 1, 1)), "ends before it begins"),
        ("capitalised", (1, "pilot", 1), "a stage is neither 'research' nor 'development'"),
        ("capitalised", (1, "development", Decimal("1.0001")), "a share is not between 0 and 1"),
        ("capitalised", (-1, "research", 1), "an amount is negative"),
    ],
)
def test_what_makes_no_sense_is_refused_by_itself(name: str, row: tuple[Any, ...], fault: str, functions: dict[str, Function]) -> None:
    good = {
        "prepaid_share": (1, date(2026, 1, 1), date(2026, 1, 1), date(2026, 1, 1), date(2026, 1, 1)),
        "capitalised": (1, "development", 1),
        "amortisation": (1, 1, 1),
    }.get(name, (1, 0, 12, 12))
    (before, refused, after) = told(functions[name], good, row, good)
    assert fault in refused
    assert before == after
    assert isinstance(before, Decimal)


def test_null_gives_null(functions: dict[str, Function]) -> None:
    sound = (Decimal(1), Decimal(0), 12, 1)
    for name in ("straight_line", "declining_balance", "sum_of_years"):
        rows = [tuple(None if i == j else value for j, value in enumerate(sound)) for i in range(4)]
        assert told(functions[name], *rows) == [None] * 4
