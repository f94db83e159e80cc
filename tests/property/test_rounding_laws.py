"""What divides an amount is right to the last digit, and its parts add up: against fractions."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import ROUND_HALF_EVEN, ROUND_HALF_UP, Context, Decimal
from fractions import Fraction

import duckdb
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cdc.accounting.accountant import Accountant
from cdc.accounting.sql import memory_database
from cdc.config import RuleConfig
from cdc.types import LIVE
from tests.changes import Change, book, one_batch, table, transactions

_EXACT = Context(prec=100)
_PLACES = st.integers(0, 6)


def numbers(digits: int, places: int) -> st.SearchStrategy[Decimal]:
    """Any DECIMAL(digits, places), small ones often."""
    most = 10**digits - 1
    units = st.one_of(st.integers(-1000, 1000), st.integers(-most, most))
    return units.map(lambda n: Decimal(n).scaleb(-places, _EXACT))


def rounded(exact: Fraction, places: int, how: str = ROUND_HALF_UP) -> Decimal:
    """Half away from zero, or half to even."""
    scaled = abs(exact) * 10**places
    whole, rest = divmod(scaled.numerator, scaled.denominator)
    up = 2 * rest > scaled.denominator or (2 * rest == scaled.denominator and (how == ROUND_HALF_UP or whole % 2 == 1))
    return Decimal((whole + up) * (-1 if exact < 0 else 1)).scaleb(-places, _EXACT)


@pytest.fixture(scope="module")
def db() -> Iterator[duckdb.DuckDBPyConnection]:
    with memory_database() as connection:
        yield connection


def answer(db: duckdb.DuckDBPyConnection, sql: str, **values: tuple[str, Decimal]) -> Decimal | None:
    """What SQL gives of columns with values of types."""
    columns = ", ".join(f"CAST('{value:f}' AS {kind}) AS {name}" for name, (kind, value) in values.items())
    db.execute(f"CREATE OR REPLACE TEMP TABLE given AS SELECT {columns}")  # a table, so that nothing is worked out when it is planned
    found: Decimal | None = db.execute(f"SELECT {sql} FROM given").fetchall()[0][0]
    return found


@given(amount=numbers(18, 4), part=numbers(18, 4), whole=numbers(18, 4), places=_PLACES)
@example(Decimal("0.0500"), Decimal(1), Decimal(10), 2)
@example(Decimal("-0.0500"), Decimal(1), Decimal(10), 2)
@example(Decimal("99999999999999.9999"), Decimal("99999999999999.9999"), Decimal("-99999999999999.9999"), 4)
def test_a_share_is_rounded_once_half_away_from_zero(
    db: duckdb.DuckDBPyConnection, amount: Decimal, part: Decimal, whole: Decimal, places: int
) -> None:
    expected = None if whole == 0 else rounded(Fraction(amount) * Fraction(part) / Fraction(whole), places)
    kinds = {"amount": ("DECIMAL(18,4)", amount), "part": ("DECIMAL(18,4)", part), "whole": ("DECIMAL(18,4)", whole)}
    if expected is not None and abs(expected) >= Decimal(10) ** 32:  # more than a DECIMAL(38,6) holds
        with pytest.raises(duckdb.Error):
            answer(db, f"share(amount, part, whole, {places})", **kinds)
    else:
        assert answer(db, f"share(amount, part, whole, {places})", **kinds) == expected


@given(amount=numbers(38, 6), part=numbers(38, 12), whole=numbers(30, 0), places=_PLACES)
def test_a_share_of_any_size_is_right_or_fails(
    db: duckdb.DuckDBPyConnection, amount: Decimal, part: Decimal, whole: Decimal, places: int
) -> None:
    expected = None if whole == 0 else rounded(Fraction(amount) * Fraction(part) / Fraction(whole), places)
    kinds = {"amount": ("DECIMAL(38,6)", amount), "part": ("DECIMAL(38,12)", part), "whole": ("HUGEINT", whole)}
    try:
        found = answer(db, f"share(amount, part, whole, {places})", **kinds)
    except duckdb.Error as error:
        assert "verflow" in str(error) or "ut of" in str(error) or "cast" in str(error).lower()
        assert abs(amount * part) >= Decimal(10) ** 19 or abs(whole) >= Decimal(10) ** 19
    else:
        assert found == expected


@given(gross=numbers(18, 4), rate=st.integers(0, 9999).map(lambda n: Decimal(n).scaleb(-4)), places=_PLACES)
@example(Decimal(113), Decimal("0.13"), 2)
def test_net_and_tax_are_the_gross_amount(db: duckdb.DuckDBPyConnection, gross: Decimal, rate: Decimal, places: int) -> None:
    kinds = {"gross": ("DECIMAL(18,4)", gross), "rate": ("DECIMAL(6,4)", rate)}
    net, tax = (answer(db, f"{name}(gross, rate, {places})", **kinds) for name in ("net", "tax"))
    assert net is not None and tax is not None
    assert net == rounded(Fraction(gross) / (1 + Fraction(rate)), places)
    assert net + tax == gross


@given(amount=numbers(30, 6), places=_PLACES)
@example(Decimal("2.345"), 2)
@example(Decimal("-2.355"), 2)
def test_half_even(db: duckdb.DuckDBPyConnection, amount: Decimal, places: int) -> None:
    found = answer(db, f"half_even(amount, {places})", amount=("DECIMAL(30,6)", amount))
    assert found == rounded(Fraction(amount), places, ROUND_HALF_EVEN)
    assert found == amount.quantize(Decimal(1).scaleb(-places), ROUND_HALF_EVEN, _EXACT)


@given(amount=numbers(30, 6), places=_PLACES)
def test_duckdbs_own_round_is_half_away_from_zero(db: duckdb.DuckDBPyConnection, amount: Decimal, places: int) -> None:
    assert answer(db, f"round(amount, {places})", amount=("DECIMAL(30,6)", amount)) == rounded(Fraction(amount), places)


ORDERS = table("orders", ["id"], id="BIGINT", items="VARCHAR", freight="DECIMAL(18,2)")
_RULE = RuleConfig(
    name="freight",
    book="main",
    table="shop.orders",
    date="DATE '2026-10-31'",
    each={"weight": "items"},
    lines=[
        {"account": "1122", "debit": "freight"},
        {"each": "weight", "account": "5001", "credit": "freight", "by": "CAST(weight.value AS DECIMAL(18,4))"},
    ],
)
_SHARES = RuleConfig(
    name="rest",
    book="main",
    table="shop.orders",
    date="DATE '2026-10-31'",
    each={"weight": "items"},
    lines=[
        {"account": "1122", "debit": "freight"},
        {"each": "weight", "account": "5001", "credit": "share(freight, CAST(weight.value AS DECIMAL(18,4)), 1000)"},
        {"account": "1001", "rest": True},
    ],
)


@pytest.fixture(scope="module")
def accountant() -> Iterator[Accountant]:
    made = Accountant([_RULE, _SHARES], book())
    yield made
    made.close()


@given(freight=numbers(18, 2), weights=st.lists(numbers(18, 4).map(abs), min_size=1, max_size=20))
@settings(max_examples=100)
def test_parts_add_up_and_are_within_a_unit_of_what_is_exact(accountant: Accountant, freight: Decimal, weights: list[Decimal]) -> None:
    items = "[" + ", ".join(f"{weight:f}" for weight in weights) + "]"
    rows = one_batch(ORDERS, Change("c", {"id": 1, "items": items, "freight": freight}))
    posted = accountant.account(ORDERS, rows, transactions(), lambda *_: LIVE.empty_table())
    ids = {entry["rule"]: entry["entry_id"] for entry in posted.entries.to_pylist()}
    lines = {rule: [line for line in posted.lines.to_pylist() if line["entry_id"] == entry] for rule, entry in ids.items()}
    total = sum(map(Fraction, weights))
    if freight == 0:
        assert not ids
    elif total == 0:
        assert set(ids) == {"rest"}
        assert [item["detail"] for item in posted.quarantined.to_pylist()] == ["weight 1, line 2"]
    else:
        parts = {line["line_no"]: line["credit"] for line in lines["freight"] if line["credit"] is not None}
        assert sum(parts.values()) == freight
        for number, weight in enumerate(weights, 2):
            exact = Fraction(freight) * Fraction(weight) / total
            assert abs(Fraction(parts.get(number, Decimal(0))) - exact) < Fraction(1, 100)
    if "rest" in ids:
        shares = {line["line_no"]: line["credit"] for line in lines["rest"] if line["account"] == "5001"}
        for number, weight in enumerate(weights, 2):
            assert shares.get(number, Decimal(0)) == rounded(Fraction(freight) * Fraction(weight) / 1000, 2)
        sides = [sum(line[side] for line in lines["rest"] if line[side] is not None) for side in ("debit", "credit")]
        assert sides[0] == sides[1]
