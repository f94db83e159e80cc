"""Account names of other systems, taken apart. What the parts come to in entries is a golden case."""

from __future__ import annotations

from collections.abc import Iterator

import duckdb
import pytest

from cdc.accounting import composite
from cdc.accounting.sql import memory_database


@pytest.fixture(scope="module")
def db() -> Iterator[duckdb.DuckDBPyConnection]:
    with memory_database() as connection:
        composite.install(connection, {"main": {"应收账款": "1122"}, "other": {"应收账款": "1131"}, "none": {}})
        yield connection


def answer(db: duckdb.DuckDBPyConnection, expression: str, text: object) -> object:
    """What an expression over `t` gives for one row."""
    db.execute("CREATE OR REPLACE TEMP TABLE texts AS SELECT $1 AS t", [text])
    return db.execute(f"SELECT {expression} FROM texts").fetchall()[0][0]


@pytest.mark.parametrize(
    ("text", "code", "account", "details", "currency"),
    [
        ("应收账款", None, "应收账款", [], None),
        ("应收账款—客户A(币种:美元)", None, "应收账款", ["客户A"], "USD"),
        ("1122.01 应收账款-客户A", "1122.01", "应收账款", ["客户A"], None),
        ("112201应收账款：客户A", "112201", "应收账款", ["客户A"], None),
        ("1002-01-03 银行存款-建行", "1002-01-03", "银行存款", ["建行"], None),
        ("（1122）应收账款｜客户A", "1122", "应收账款", ["客户A"], None),
        ("1131 - 应收账款/0001 - 客户A", "1131", "应收账款", ["0001 - 客户A"], None),
        ("1122.01", "1122.01", None, [], None),
        ("应收账款_USD_客户A", None, "应收账款", ["客户A"], "USD"),
        ("应收账款—客户—客户A—华东", None, "应收账款", ["客户", "客户A", "华东"], None),
        ("应收账款——客户A", None, "应收账款", ["客户A"], None),
        ("应收账款－客户A", None, "应收账款", ["客户A"], None),
        ("应收账款–客户A-2", None, "应收账款", ["客户A-2"], None),
        ("应收账款，客户A", None, "应收账款", ["客户A"], None),
        ("应收账款.客户A", None, "应收账款", ["客户A"], None),
        ("应收账款\\客户A\\欧元", None, "应收账款", ["客户A"], "EUR"),
        ("应收账款-京东.com", None, "应收账款", ["京东.com"], None),
        ("应收账款【C001】客户A（上海）", None, "应收账款", ["C001", "客户A（上海）"], None),
        ("应收账款-ABC(华东-上海)有限公司", None, "应收账款", ["ABC(华东-上海)有限公司"], None),
        ("应收账款(某某(上海)公司)(币种:美元)", None, "应收账款", ["某某(上海)公司"], "USD"),
        ("应收账款/客户:客户A/币别:美元", None, "应收账款", ["客户A"], "USD"),
        ("银行存款-工行-美元户", None, "银行存款", ["工行"], "USD"),
        ("Short-term loans - A - B Inc.", None, "Short-term loans", ["A", "B Inc."], None),
        ("U.S. bank-Chase [usd]", None, "U.S. bank", ["Chase"], "USD"),
        ("Assets:Receivable:EUR", None, "Assets", ["Receivable"], "EUR"),
        ("应收账款—客户A(币种:比特币)", None, "应收账款", ["客户A"], "比特币"),
        ("应收账款—客户A(USD)(币种:美元)", None, "应收账款", ["客户A"], "USD"),
        ("应收账款—客户A(USD)(币种:欧元)", None, "应收账款", ["客户A"], "EUR/USD"),
        ("1122 应收账款—客户A(币种:美元", None, None, None, None),
        ("应收账款—客户A)", None, None, None, None),
        ("应收账款—(((客户A)))", None, None, None, None),
        ("应收账款\x1f客户A", None, None, None, None),
        ("", None, None, [], None),
        (" - ", None, None, [], None),
        (None, None, None, None, None),
    ],
)
def test_parts(
    db: duckdb.DuckDBPyConnection, text: str | None, code: str | None, account: str | None, details: list[str] | None, currency: str | None
) -> None:
    told = "[detail_part(t, 1), detail_part(t, 2), detail_part(t, 3), detail_part(t, 4)]"
    assert answer(db, "code_part(t)", text) == code
    assert answer(db, "account_part(t)", text) == account
    assert answer(db, told, text) == [*(details or []), None, None, None, None][:4]
    assert answer(db, "detail_part(t, -1)", text) == (details[-1] if details else None)
    assert answer(db, "currency_part(t)", text) == currency


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("应收账款—客户A(币种:美元, 部门:华东)", "部门", "华东"),
        ("应收账款—客户A(币种：美元； 部门 = 华东 上海)", "部门", "华东 上海"),
        ("应收账款—客户A(币种:美元 部门:华东)", "币种", "美元"),
        ("应收账款(客户:Foo, Inc., Customer:Bar)", "客户", "Foo, Inc."),
        ("应收账款(客户:Foo, Inc., Customer:Bar)", " customer ", "Bar"),
        ("应收账款[客户:A公司][部门:华东]", "部门", "华东"),
        ("应收账款（客户：某某（上海，浦东）公司；币种：美元）", "客户", "某某（上海，浦东）公司"),
        ("应收账款_客户A_部门:华东", "部门", "华东"),
        ("应收账款—部门—华东", "部门", "华东"),
        ("应收账款—客户A—部门", "部门", None),
        ("应收账款—客户A(部门:, 币种:美元)", "部门", None),
        ("应收账款—客户A", "部门", None),
        ("应收账款—客户A(部门:华东", "部门", None),
        (None, "部门", None),
    ],
)
def test_qualifiers(db: duckdb.DuckDBPyConnection, text: str | None, key: str, value: str | None) -> None:
    assert answer(db, f"qualifier(t, '{key}')", text) == value


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("美元", "USD"),
        (" usd ", "USD"),
        ("US Dollars", "USD"),
        ("港元", "HKD"),
        ("RMB", "CNY"),
        ("欧元账户", "EUR"),
        ("Pounds sterling", None),
    ]
    + [(code, code) for code in composite._CURRENCIES]
    + [
        ("dollar", None),
        ("元", None),
        ("", None),
        (None, None),
        ("usd=USD", None),
        ("XXX", None),
        ("美元s", None),
        ("欧元户", "EUR"),
        ("euros", "EUR"),
        (840, None),
    ],
)
def test_currencies(db: duckdb.DuckDBPyConnection, text: object, code: str | None) -> None:
    assert answer(db, "currency_code(t)", text) == code


def test_no_name_is_of_two_currencies() -> None:
    names = [name.lower() for written in composite._CURRENCIES.values() for name in written.split()]
    assert len(names) == len(set(names))


def test_the_code_of_an_account_is_its_books(db: duckdb.DuckDBPyConnection) -> None:
    assert answer(db, f'"{composite.account_code("main")}"(t)', " 应收账款 ") == "1122"
    assert answer(db, f'"{composite.account_code("other")}"(t)', "应收账款") == "1131"
    assert answer(db, f'"{composite.account_code("none")}"(t)', "应收账款") is None
    assert answer(db, f'"{composite.account_code("main")}"(t)', None) is None


def test_they_stand_in_try(db: duckdb.DuckDBPyConnection) -> None:
    told = "detail_part(t, 1) || account_part(t) || qualifier(t, '部门') || currency_part(t) || code_part(t)"
    assert answer(db, f"TRY({told})", "1122 应收账款—客户A(币种:美元, 部门:华东)") == "客户A应收账款华东USD1122"
    assert answer(db, f"TRY(CAST({told} AS INTEGER))", "1122 应收账款—客户A(币种:美元, 部门:华东)") is None
