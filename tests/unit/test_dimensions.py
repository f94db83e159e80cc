"""What accounts require and what a book infers: what is refused when it is read, and what a line is told that lacks it."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from cdc import build
from cdc.accounting.accountant import Accountant
from cdc.accounting.books import Book
from cdc.accounting.charts import codes_by_name, load_chart
from cdc.accounting.derivations import Derivation
from cdc.accounting.dimensions import inferred
from cdc.accounting.sql import memory_database
from cdc.config import RuleConfig, load
from cdc.errors import ConfigError
from cdc.types import LIVE
from tests.changes import Change, book, one_batch, table, transactions

ORDERS = table("orders", ["id"], id="BIGINT", total="DECIMAL(12,2)", region="VARCHAR", paid="DATE", Class="VARCHAR")
INFER = {"dimension": "budget", "csv": "budget.csv"}
REVALUED = {"accounts": ["10"], "gain": "5603", "loss": "5603"}


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("budget.csv").write_text("region,budget\neast,purchasing\n", "utf-8")


def rule(*lines: dict[str, Any], **changed: Any) -> RuleConfig:
    given = lines or ({"account": "1122", "debit": "total"}, {"account": "5001", "credit": "total"})
    return RuleConfig(**{"name": "sale", "book": "main", "table": "shop.orders", "date": "paid", "lines": given, **changed})


def refused(made: RuleConfig, books: Any, *, alone: bool = False) -> tuple[str, str]:
    """The key and the fault of a rule that is refused, `alone` without a table's schema."""
    with pytest.raises(ConfigError) as error:
        accountant = Accountant([made], books)
        assert not alone, "refused without a schema"
        accountant.compile(ORDERS)
    return error.value.values["key"], str(error.value.values["fault"])


def test_the_columns_of_a_chart() -> None:
    Path("own.csv").write_text(
        "code,name,name_en,dims,currency\n1122,应收账款,Receivables,customer; 部门；customer;,\n1002,银行存款,, ,USD\n1003,银行存款,,,\n",
        "utf-8",
    )
    chart = load_chart("main", "own.csv", Path())
    assert [(account.dims, account.currency) for account in chart] == [(("customer", "部门"), ""), ((), "USD"), ((), "")]
    assert codes_by_name(chart) == {"应收账款": "1122", "Receivables": "1122"}  # 银行存款 could be either of two


def test_a_currency_of_a_chart_that_is_none() -> None:
    Path("own.csv").write_text("code,name,currency\n1002,Bank,dollars\n", "utf-8")
    with pytest.raises(ConfigError, match="account '1002': 'dollars' is no currency such as USD"):
        load_chart("main", "own.csv", Path())


def test_the_config_takes_the_place_of_the_chart(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text("code,name,dims,currency\n1122,A,customer,USD\n1002,B,bank,\n1003,C,bank,USD\n5001,D,,\n", "utf-8")
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "bank.csv").write_text("region,bank\neast,B1\n", "utf-8")
    (tmp_path / "ledgertail.toml").write_text(
        """store = { url = "duckdb:///x.duckdb" }
        sources.shop = { url = "postgres://u@h/shop", tables = ["orders"] }
        [books.main]
        base_currency = "CNY"
        chart = "own.csv"
        infer = [{ dimension = "bank", csv = "tables/bank.csv" }]
        [books.main.accounts]
        1122 = { dims = ["project", "project"] }
        1002 = { currency = "EUR" }
        1003 = { dims = [], currency = "" }""",
        "utf-8",
    )
    made = build.books(load(tmp_path / "ledgertail.toml"))[0]["main"]
    asked = {code: (account.dims, account.currency) for code, account in made.required.items()}
    assert asked == {"1122": (("project",), "USD"), "1002": (("bank",), "EUR")}
    assert [(each.dimension, each.accounts, each.on) for each in made.inferences] == [("bank", {"1002"}, ("region",))]


@pytest.mark.parametrize(
    ("config", "key", "fault"),
    [
        ({"accounts": {"9999": {"dims": ["customer"]}}}, "accounts.9999", "account '9999' is not in the chart 'small-business-2013'"),
        ({"prior_year": "3104"}, "prior_year", "account '3104' is not in the chart"),
        ({"revaluation": {**REVALUED, "loss": "560"}}, "revaluation.loss", "account '560' is not in the chart"),
        ({"revaluation": {**REVALUED, "accounts": ["10", "9"]}}, "revaluation.accounts.1", "account '9' is not in the chart"),
        ({"infer": [{**INFER}]}, "infer.0", "no account requires the dimension 'budget'; name those it is inferred for"),
        ({"infer": [{**INFER, "accounts": ["10", "9"]}]}, "infer.0", "no account of the chart begins with '9'"),
        ({"infer": [{**INFER, "accounts": ["10"], "dimension": "budgte"}]}, "infer.0", "'budget.csv' has no column 'budgte'"),
        ({"infer": [{**INFER, "accounts": ["10"], "csv": "none.csv"}]}, "infer.0", "'none.csv' can't be read"),
        ({"infer": [{**INFER, "accounts": ["10"]}, {**INFER, "accounts": ["10"], "csv": "dead.csv"}]}, "infer.1", "row 3 is never reached"),
    ],
)
def test_a_book_that_is_refused(config: dict[str, Any], key: str, fault: str) -> None:
    Path("dead.csv").write_text("region,budget\n,a\neast,b\n", "utf-8")
    with pytest.raises(ConfigError) as error:
        book(**config)
    assert (error.value.code, error.value.values["book"], error.value.values["key"]) == ("rules.book", "main", key)
    assert fault in str(error.value.values["fault"])


def test_a_line_that_never_has_what_its_account_requires() -> None:
    asking = {"accounts": {"1122": {"dims": ["customer", "budget"]}}}
    given = {"account": "1122", "debit": "total", "dims": {"customer": "region"}}
    rest = {"account": "5001", "credit": "total"}
    lacks = "lines.0.dims.budget", "account '1122' requires the dimension 'budget', which this line lacks"
    assert refused(rule(given, rest), book(**asking), alone=True) == lacks
    complete = {**given, "dims": {"customer": "region", "budget": "NULL"}}
    Accountant([rule(complete, rest)], book(**asking)).compile(ORDERS)


def test_a_line_of_which_a_table_asks_what_it_does_not_have() -> None:
    asking: dict[str, Any] = {"accounts": {"1122": {"dims": ["budget"]}}, "infer": [INFER]}
    Accountant([rule()], book(**asking)).compile(ORDERS)
    Path("budget.csv").write_text("region,supplier.class,budget\neast,,purchasing\n", "utf-8")
    told = "account '1122' requires the dimension 'budget'; 'budget.csv' infers it by region, supplier.class, which this line lacks"
    assert refused(rule(), book(**asking)) == ("lines.0.dims.budget", told)


@pytest.mark.parametrize(
    ("kept", "given", "fault"),
    [
        ("USD", None, "account '1122' is kept in USD, and this line is in CNY"),
        ("USD", " 'EUR' ", "account '1122' is kept in USD, and this line is in EUR"),
        ("USD", "'USD'", None),
        ("USD", "region", None),
        ("CNY", None, None),
    ],
)
def test_a_line_that_is_never_in_the_currency_of_its_account(kept: str, given: str | None, fault: str | None) -> None:
    made = rule({"account": "1122", "debit": "total", "currency": given}, {"account": "5001", "credit": "total"})
    books = book(accounts={"1122": {"currency": kept}})
    if fault is None:
        Accountant([made], books).compile(ORDERS)
    else:
        assert refused(made, books, alone=True) == ("lines.0.currency", fault)


def posted(books: Any, made: RuleConfig, **values: Any) -> list[Any]:
    """The dimensions of the first lines, or the reasons why there are none."""
    accountant = Accountant([made], books)
    rows = one_batch(ORDERS, Change("c", {"id": 1, "total": Decimal(1), "paid": date(2026, 1, 1), **values}))
    got = accountant.account(ORDERS, rows, transactions(), lambda *_: LIVE.empty_table())
    accountant.close()
    return got.lines.column("dims").to_pylist()[:1] + got.quarantined.column("detail").to_pylist()


def test_nothing_but_spaces_is_missing() -> None:
    made = rule({"account": "1122", "debit": "total", "dims": {"budget": "Class"}}, {"account": "5001", "credit": "total"})
    asking: dict[str, Any] = {"accounts": {"1122": {"dims": ["budget"]}}}
    assert posted(book(**asking), made, Class=" ", region="east") == ["line 1: 1122, budget"]
    assert posted(book(**asking, infer=[INFER]), made, Class=" ", region="east") == ['{"budget": "purchasing"}']
    named: Any = {"infer": [{**INFER, "accounts": ["1122"]}]}
    assert posted(book(**named), made, Class=" ", region="west") == ['{"budget": " "}']


def test_conditions_may_be_the_account_or_a_column_in_other_capitals() -> None:
    asking: dict[str, Any] = {"accounts": {"1122": {"dims": ["budget"]}}, "infer": [INFER]}
    Path("budget.csv").write_text("account,class,budget\n1122,A,first\n1122,,second\n", "utf-8")
    assert posted(book(**asking), rule(), Class="A") == ['{"budget": "first"}']
    assert posted(book(**asking), rule(), Class="B") == ['{"budget": "second"}']


def test_conditions_may_be_what_follows_by_a_lookup() -> None:
    asking: dict[str, Any] = {"accounts": {"1122": {"dims": ["budget"]}}, "infer": [INFER]}
    Path("class.csv").write_text("region,kind\neast,K\n", "utf-8")
    Path("budget.csv").write_text("by.kind,budget\nK,first\n", "utf-8")
    made = rule(lookup={"by": {"csv": "class.csv", "on": {"region": "region"}}})
    assert posted(book(**asking), made, region="east") == ['{"budget": "first"}']


def test_a_dimension_whose_expression_fails_is_not_inferred_but_quarantined() -> None:
    Path("budget.csv").write_text("region,budget\n,any\n", "utf-8")
    dims = {"region": "CAST(CAST(region AS INTEGER) AS VARCHAR)"}
    made = rule({"account": "1122", "debit": "total", "dims": dims}, {"account": "5001", "credit": "total"})
    books: Any = book(accounts={"1122": {"dims": ["budget"]}}, infer=[INFER])
    assert posted(books, made, region="17") == ['{"budget": "any", "region": "17"}']
    assert posted(books, made, region="east") == ["lines.0.dims.region"]


def test_what_filled_a_dimension_is_told() -> None:
    made: Book = book(infer=[{**INFER, "accounts": ["1122"]}])["main"]
    step = Derivation(3, "UTC", "c", Path("budget.csv"), made.inferences[0].table, (("region", "region"),), "NULL")
    with memory_database() as db:
        db.execute("""CREATE TABLE c AS SELECT * FROM (VALUES (1, NULL, 'x', 2), (2, ' ', 'x', 2), (3, 'own', 'x', 2), (4, ' ', NULL, 2),
            (5, NULL, NULL, NULL)) v (id, own, "#3.budget", "#3.#row")""")
        dimension, origin = inferred(made.inferences[0], step, "id <> 6", "own")
        assert db.execute(f"SELECT {dimension}, {origin} FROM c ORDER BY id").fetchall() == [
            ("x", "budget.csv:2"),
            ("x", "budget.csv:2"),
            ("own", None),
            (" ", None),
            (None, None),
        ]
