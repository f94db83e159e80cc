"""Python functions of rules: what is refused when they are loaded or called by a rule, and what becomes of rows they fail on."""

from __future__ import annotations

import sys
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cdc.accounting.accountant import Accountant
from cdc.accounting.functions import Function, load_functions
from cdc.build import accountant
from cdc.config import FunctionConfig, RuleConfig, load
from cdc.errors import EXIT_USAGE, ConfigError, policy
from cdc.types import LIVE, Postings
from tests.changes import Change, book, one_batch, table, transactions

DAY = date(2026, 10, 31)
MONEY = pa.decimal128(18, 2)
ASSETS = table(
    "assets", ["id"], id="BIGINT", price="DECIMAL(12,2)", rate="DECIMAL(9,4)", life="INTEGER", weight="DOUBLE", bought="DATE", info="JSON"
)
FILE = """
import pyarrow as pa, pyarrow.compute as pc

def monthly(price, life):
    return pc.cast(price, pa.decimal128(18, 2))
"""


def functions(folder: Path, text: str = FILE, name: str = "monthly", **changed: Any) -> dict[str, Function]:
    """The functions of a config with one of them."""
    (folder / "functions.py").write_text(text, "utf-8")
    given = {"file": folder / "functions.py", "takes": ["DECIMAL(18,2)", "INTEGER"], "gives": "DECIMAL(18,2)", **changed}
    return load_functions(folder / "ledgertail.toml", {name: FunctionConfig(**given)})


def function(call: Any, gives: str = "DECIMAL(18,2)", takes: tuple[str, ...] = ("BIGINT",)) -> Function:
    return Function("f", takes, gives, call)


def rule(amount: str = "monthly(price, life)", **changed: Any) -> RuleConfig:
    lines = [{"account": "5001", "debit": amount}, {"account": "1122", "credit": amount}]
    return RuleConfig(**{"name": "wear", "book": "main", "table": "shop.assets", "date": "bought", "lines": lines, **changed})


def account(rules: list[RuleConfig], known: dict[str, Function], *rows: Change) -> Postings:
    made = Accountant(rules, book(), known)
    try:
        return made.account(ASSETS, one_batch(ASSETS, *rows), transactions(), lambda *_: LIVE.empty_table())
    finally:
        made.close()


@pytest.mark.parametrize(
    ("text", "changed", "key", "fault"),
    [
        ("import pyarow", {}, ".file", "ModuleNotFoundError: No module named 'pyarow' (line 1)"),
        ("x = 1\ndef monthly(price, life:\n", {}, ".file", "SyntaxError: '(' was never closed (functions.py, line 2)"),
        ("x = 1\nx / 0", {}, ".file", "ZeroDivisionError: division by zero (line 2)"),
        ("raise SystemExit(3)", {}, ".file", "SystemExit: 3 (line 1)"),
        ("def montly(price, life): ...", {}, ".call", "there is no function 'monthly' in 'functions.py'"),
        ("monthly = 12", {}, ".call", "there is no function 'monthly' in 'functions.py'"),
        (FILE, {"call": "yearly"}, ".call", "there is no function 'yearly' in 'functions.py'"),
        (FILE, {"takes": ["DECIMAL(18,2)"]}, ".takes", "'monthly' can't be called with 1 arguments: missing a required argument: 'life'"),
        (FILE, {"takes": ["DATE"] * 3}, ".takes", "'monthly' can't be called with 3 arguments: too many positional arguments"),
        ("def monthly(price, *, life): ...", {}, ".takes", "'monthly' can't be called with 2 arguments"),
        (FILE, {"name": "round"}, "", "'round' is a function or a word of DuckDB's"),
        (FILE, {"name": "sum"}, "", "'sum' is a function or a word of DuckDB's"),
        (FILE, {"name": "coalesce"}, "", "'coalesce' is a function or a word of DuckDB's"),
        (FILE, {"name": "case"}, "", "'case' is a function or a word of DuckDB's"),
        (FILE, {"name": "exact_json"}, "", "'exact_json' is a function or a word of DuckDB's"),
        ("\ndef monthly(price, life):\n    return csot", {}, "", "'monthly' fails on arrays without rows: NameError: name 'csot' is not"),
        ("\ndef monthly(price, life):\n    return csot", {}, "", "(line 3)"),
        ("def monthly(price, life): return 0", {}, "", "TypeError: it gives a int, not an Arrow array"),
        ("def monthly(price, life): return price.to_pylist()", {}, "", "TypeError: it gives a list, not an Arrow array"),
        ("import pyarrow\ndef monthly(price, life): return pyarrow.array([1])", {}, "", "ValueError: it gives 1 values for 0 rows"),
        ("def monthly(price, life): return price.cast('double')", {}, "", "it gives double, and decimal128(18, 2) was declared"),
        ("def monthly(price, life): return price.cast('string')", {}, "", "it gives string, and decimal128(18, 2) was declared"),
        (FILE, {"gives": "INTEGER"}, "", "it gives decimal128(18, 2), and int32 was declared"),
        (FILE, {"gives": "DATE"}, "", "it gives decimal128(18, 2), and date32[day] was declared"),
    ],
)
def test_a_function_that_can_not_be_is_refused(tmp_path: Path, text: str, changed: dict[str, Any], key: str, fault: str) -> None:
    name = changed.pop("name", "monthly")
    with pytest.raises(ConfigError) as refused:
        functions(tmp_path, text, name, **changed)
    assert refused.value.values["key"] == f"functions.{name}{key}"
    assert fault in refused.value.message
    assert policy(refused.value).exit_code == EXIT_USAGE


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"functions.monthly.file.*FileNotFoundError"):
        functions(tmp_path, file=tmp_path / "none.py")


def test_a_file_is_run_once_leaves_nothing_beside_it_and_knows_itself(tmp_path: Path) -> None:
    text = """
from __future__ import annotations
from dataclasses import dataclass
import sys
sys.ledgertail_runs = getattr(sys, "ledgertail_runs", 0) + 1

@dataclass
class Kept:
    name: "str"

def one(a): return a
def two(a): return a
"""
    (tmp_path / "own.py").write_text(text, "utf-8")
    each = FunctionConfig(file=tmp_path / "own.py", takes=["BIGINT"], gives="BIGINT")
    try:
        assert set(load_functions(tmp_path / "x.toml", {"one": each, "two": each})) == {"one", "two"}
        assert sys.ledgertail_runs == 1  # type: ignore[attr-defined]
    finally:
        del sys.ledgertail_runs  # type: ignore[attr-defined]
    assert [path.name for path in tmp_path.iterdir()] == ["own.py"]


@pytest.mark.parametrize(
    ("amount", "fault"),
    [
        ("monthly(price)", "'monthly' takes 2 arguments, and here are 1"),
        ("monthly(price, life, 1)", "'monthly' takes 2 arguments, and here are 3"),
        ("monthly(rate, life)", "'monthly' takes a DECIMAL(18,2), and 'rate' is a DECIMAL(9,4): CAST(rate AS DECIMAL(18,2))"),
        (
            "monthly(price * 0.5, life)",
            "takes a DECIMAL(18,2), and '(price * 0.5)' is a DECIMAL(14,3): CAST((price * 0.5) AS DECIMAL(18,2))",
        ),
        ("monthly(price, price)", "'monthly' takes a INTEGER, and 'price' is a DECIMAL(12,2)"),
        ("monthly('1', life)", "'monthly' takes a DECIMAL(18,2), and ''1'' is a VARCHAR"),
        ("monthly(price, bought)", "'monthly' takes a INTEGER, and 'bought' is a DATE"),
        ("monthly(price, life = 1)", "'monthly' takes a INTEGER, and '(life = 1)' is a BOOLEAN"),
        ("monthly(weight, life)", "'weight' is a binary float (DOUBLE), and an amount must stay exact"),
        ("monthly(CAST(weight AS DECIMAL(18,2)), life)", "'weight' is a binary float (DOUBLE), and an amount must stay exact"),
        ("monthly(CAST(price / 3 AS DECIMAL(18,2)), life)", "is a binary float (DOUBLE), and an amount must stay exact"),
        ("monthly(CAST(json_extract(info, '$.a') AS DECIMAL(9,2)), life)", "is JSON, whose numbers pass through a binary float"),
        ("monthly(price, lief)", "there is no column 'lief'; did you mean 'life'?"),
        ("monthly(monthly(price, lief), life)", "there is no column 'lief'; did you mean 'life'?"),
        ("monthly(price, (SELECT 1))", "holds a subquery"),
        ("monthly(price, ?)", "holds a parameter"),
        ("monthly(price, lambda x: x)", "holds '->'"),
        ("monthly(*)", "'monthly' takes 2 arguments, and here are 0"),
        ("monthly(price, life := 3)", "'3 AS life' is not one scalar expression"),
        ("CASE WHEN lief > 1 THEN monthly(price, life) ELSE 0 END", "there is no column 'lief'; did you mean 'life'?"),
        ("CASE WHEN monthly(price) > 1 THEN monthly(price, life) ELSE 0 END", "'monthly' takes 2 arguments, and here are 1"),
        ("monthly(price, CAST(random() AS INTEGER))", "'random' is not a function a rule may call"),
        ("monthly(DISTINCT price, life)", "holds an aggregate"),
        ("monthly(price, life) OVER ()", "holds a window function"),
        ("main.monthly(price, life)", "'main.monthly': write monthly(...) alone"),
        ("price.monthly(life)", "'price.monthly': write monthly(...) alone"),
        ("montly(price, life)", "'montly' is not a function a rule may call"),
        ("monthly(price, life) * weight", "is a binary float (DOUBLE), and an amount must stay exact"),
        ("monthly(price, life) / 3", "is a binary float (DOUBLE), and an amount must stay exact"),
    ],
)
def test_a_call_that_does_not_fit_is_refused(tmp_path: Path, amount: str, fault: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Accountant([rule(amount)], book(), functions(tmp_path)).compile(ASSETS)
    assert (refused.value.values["rule"], refused.value.values["key"]) == ("wear", "lines.0.debit")
    assert fault in refused.value.message


def test_what_no_schema_is_needed_for_is_refused_before(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds a subquery"):
        Accountant([rule("monthly(monthly((SELECT 1), 1), life)")], book(), functions(tmp_path))


def test_whole_numbers_and_decimals_come_as_they_are_or_not_at_all(tmp_path: Path) -> None:
    amount = "monthly(CAST(id AS HUGEINT) * 1000000000000000, id)"
    posted = account(
        [rule(amount)],
        functions(tmp_path),
        Change("c", {"id": 7, "bought": None}),
        Change("c", {"id": 10, "bought": None}),
        Change("c", {"id": 2**31, "bought": None}),
    )
    told = sorted((item["row_key"], item["reason"], item["detail"]) for item in posted.quarantined.to_pylist())
    assert told == [
        ('{"id": 10}', "quarantine.function", "lines.0.debit: monthly: an argument fails"),
        ('{"id": 2147483648}', "quarantine.function", "lines.0.debit: monthly: an argument fails"),
        ('{"id": 7}', "quarantine.no_date", "NULL"),
    ]


@pytest.mark.parametrize(
    ("amount", "asked"),
    [
        ("monthly(price, life)", [[1, 3, 5, 7, 9]]),
        ("CASE WHEN id > 5 THEN monthly(price, life) ELSE 0 END", [[7, 9]]),
        ("CASE id WHEN 5 THEN monthly(price, life) WHEN 7 THEN 1 ELSE monthly(price, life) END", [[5], [1, 3, 5, 7, 9]]),
        ("CASE WHEN id > 2 THEN CASE WHEN id < 6 THEN monthly(monthly(price, life), life) ELSE 0 END ELSE 0 END", [[3, 5], [3, 5]]),
        ("CASE WHEN monthly(price, life) > 6 THEN monthly(price, 2) ELSE 0 END", [[1, 3, 5, 7, 9], [7, 9]]),
        ("CASE WHEN NULLIF(id, 3) > 6 THEN monthly(price, life) ELSE 0 END", [[3, 7, 9]]),
        ("CASE WHEN CAST(info AS INTEGER) > 6 THEN monthly(price, life) ELSE 0 END", [[7, 9]]),
    ],
)
def test_a_function_is_called_once_for_the_rows_that_may_need_it(amount: str, asked: list[list[int]]) -> None:
    seen: list[list[int]] = []

    def monthly(price: pa.Array, life: pa.Array) -> pa.Array:
        seen.append([int(each) for each in price.to_pylist()])
        return price

    known = {"monthly": Function("monthly", ("DECIMAL(18,2)", "INTEGER"), "DECIMAL(18,2)", monthly)}
    rows = [Change("c", {"id": i, "price": Decimal(i), "life": i % 2, "bought": DAY, "info": str(i)}) for i in range(10)]
    posted = account([rule(amount, when="life = 1")], known, *rows)
    assert seen == asked
    assert posted.quarantined.num_rows == 0


def test_a_function_may_say_when_and_what_is_looked_up(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("kind,account\n1,1122\n", "utf-8")

    def odd(number: pa.Array) -> pa.Array:
        if 3 in number.to_pylist():
            raise ValueError("three")
        return pa.array([each % 2 for each in number.to_pylist()], pa.int64())

    known = {"odd": Function("odd", ("BIGINT",), "BIGINT", odd)}
    lines = [{"account": {"expr": "t.account"}, "debit": "price"}, {"account": "5001", "credit": "price"}]
    lookup = {"t": {"csv": tmp_path / "t.csv", "on": {"kind": "odd(id)"}}}
    rows = [Change("c", {"id": i, "price": Decimal(i), "bought": DAY}) for i in (1, 2, 3, 5)]
    posted = account([rule(when="odd(odd(id)) = 1", lookup=lookup, lines=lines)], known, *rows)
    assert sorted(entry["row_key"] for entry in posted.entries.to_pylist()) == ['{"id": 1}', '{"id": 5}']
    assert [(item["row_key"], item["detail"]) for item in posted.quarantined.to_pylist()] == [('{"id": 3}', "when: odd: ValueError: three")]


def test_faults_of_one_batch_leave_nothing_to_the_next(tmp_path: Path) -> None:
    made = Accountant([rule("monthly(CAST(info AS DECIMAL(9,2)), life)")], book(), functions(tmp_path))
    for id_ in (1, 2):
        batch = one_batch(
            ASSETS, Change("c", {"id": id_, "info": "x", "bought": DAY}), Change("c", {"id": 9 + id_, "info": "1", "bought": DAY})
        )
        posted = made.account(ASSETS, batch, transactions(), lambda *_: LIVE.empty_table())
        assert [item["row_key"] for item in posted.quarantined.to_pylist()] == [f'{{"id": {id_}}}']
        assert [entry["row_key"] for entry in posted.entries.to_pylist()] == [f'{{"id": {9 + id_}}}']
    made.close()


@pytest.mark.parametrize(
    ("given", "gives", "values", "fault"),
    [
        (pa.array([Decimal("1.50")], pa.decimal128(38, 6)), "DECIMAL(18,2)", [Decimal("1.50")], None),
        (pa.array([Decimal("1.50")], pa.decimal256(60, 6)), "DECIMAL(18,2)", [Decimal("1.50")], None),
        (pa.array([Decimal("1.505")], pa.decimal128(38, 6)), "DECIMAL(18,2)", None, "would cause data loss"),
        (pa.array([Decimal("12345.00")], MONEY), "DECIMAL(6,2)", None, "does not fit in precision 6"),
        (pa.array([2**62]), "DECIMAL(38,6)", [Decimal(2**62)], None),
        (pa.array([2**62]), "DECIMAL(18,2)", None, "does not fit in precision 18"),
        (pa.array([2**31]), "INTEGER", None, "not in range"),
        (pa.array([7]), "SMALLINT", [7], None),
        (pa.array([None]), "VARCHAR", [None], None),
        (pa.array(["x"], pa.large_string()), "VARCHAR", ["x"], None),
        (pa.chunked_array([["x"], []], pa.string()), "VARCHAR", ["x"], None),
        (pa.array([[1, None]]), "INTEGER[]", [[1, None]], None),
        (pa.array([1.5]), "DECIMAL(18,2)", None, "TypeError: it gives double, and decimal128(18, 2) was declared"),
        (pa.array([[1.5]]), "DECIMAL(18,2)[]", None, "it gives list<item: double>"),
        (pa.array([1.0]), "INTEGER", None, "it gives double, and int32 was declared"),
        (pa.array(["1"]), "INTEGER", None, "it gives string, and int32 was declared"),
        (pa.array([1]), "VARCHAR", None, "it gives int64, and string was declared"),
        (pa.array([0], pa.timestamp("us", "UTC")), "TIMESTAMP", None, "it gives timestamp[us, tz=UTC]"),
        (pa.array([1, 2]), "BIGINT", None, "ValueError: it gives 2 values for 1 rows"),
        (pa.scalar(1), "BIGINT", None, "TypeError: it gives a Int64Scalar, not an Arrow array"),
    ],
)
def test_what_a_function_gives_is_taken_as_it_is_or_not_at_all(given: Any, gives: str, values: Any, fault: str | None) -> None:
    got, faults = function(lambda _: given, gives).evaluate([pa.array([1])])
    if fault is None:
        assert (got.to_pylist(), faults.to_pylist()) == (values, [None])
    else:
        assert got.to_pylist() == [None]
        assert fault in faults.to_pylist()[0]
    assert str(faults.type) == "string"


def test_a_row_that_fails_takes_no_others_with_it() -> None:
    calls: list[int] = []

    def shy(number: pa.Array) -> pa.Array:
        calls.append(len(number))
        if bad := sorted({17, 900} & set(number.to_pylist())):
            raise KeyError(bad)
        return number.drop_null()

    numbers = [None if i == 500 else i for i in range(1000)]
    got, faults = function(shy, "BIGINT").evaluate([pa.array(numbers, pa.int64())])
    assert got.to_pylist() == [None if i in (17, 500, 900) else i for i in range(1000)]
    assert {i: fault for i, fault in enumerate(faults.to_pylist()) if fault} == {
        17: "f: KeyError: [17]",
        500: "f: ValueError: it gives 0 values for 1 rows",
        900: "f: KeyError: [900]",
    }
    assert len(calls) < 80


def test_want_of_memory_is_no_fault_of_a_row() -> None:
    def big(number: pa.Array) -> pa.Array:
        raise MemoryError

    with pytest.raises(MemoryError):
        function(big).evaluate([pa.array([1])])


CONFIG = """
store = {{ url = "duckdb:///x.duckdb" }}
books.main = {{ base_currency = "CNY", chart = "small-business-2013" }}
sources.shop = {{ url = "postgres://u@h/shop", tables = ["assets"] }}
[functions.{name}]
file = "lib/own.py"
takes = {takes}
gives = "decimal(18, 2)"
[[rules]]
name = "wear"
book = "main"
table = "shop.assets"
date = "bought"
lines = [{{ account = "5602", debit = "monthly(price)" }}, {{ account = "1602", credit = "monthly(price)" }}]
"""


def test_functions_of_a_config_reach_its_rules(tmp_path: Path) -> None:
    (tmp_path / "ledgertail.toml").write_text(CONFIG.format(name="monthly", takes='["DECIMAL(18,2)"]'), "utf-8")
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "own.py").write_text("def monthly(price): return price", "utf-8")
    made = accountant(load(tmp_path / "ledgertail.toml"))
    assert [type(step).__name__ for step, _ in made.compile(ASSETS).steps] == ["Call"]
    made.close()


@pytest.mark.parametrize(
    ("name", "takes", "key", "fault"),
    [
        ("monthly", '["DOUBLE"]', "functions.monthly.takes.0", "DOUBLE is a binary float, and an amount must stay exact"),
        ("monthly", '["DATE", "real[]"]', "functions.monthly.takes.1", "real[] is a binary float"),
        ("monthly", '["FLOAT"]', "functions.monthly.takes.0", "FLOAT is a binary float"),
        ("monthly", '["NUMBER"]', "functions.monthly.takes.0", "'NUMBER' is none of DECIMAL(p,s), BOOLEAN"),
        ("monthly", '["DECIMAL"]', "functions.monthly.takes.0", "'DECIMAL' is none of"),
        ("monthly", '["DECIMAL(39,2)"]', "functions.monthly.takes.0", "'DECIMAL(39,2)' is none of"),
        ("monthly", '["DECIMAL(2,3)"]', "functions.monthly.takes.0", "'DECIMAL(2,3)' is none of"),
        ("monthly", "[]", "functions.monthly.takes", "at least 1 item"),
        ('"Monthly rate"', '["DATE"]', "functions.Monthly rate", "should match pattern"),
    ],
)
def test_a_declaration_that_can_not_be_is_refused(tmp_path: Path, name: str, takes: str, key: str, fault: str) -> None:
    (tmp_path / "ledgertail.toml").write_text(CONFIG.format(name=name, takes=takes), "utf-8")
    with pytest.raises(ConfigError) as refused:
        load(tmp_path / "ledgertail.toml")
    assert refused.value.values["key"] == key
    assert fault in refused.value.message
