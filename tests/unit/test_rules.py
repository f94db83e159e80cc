"""Rules against a table's schema: what every fault names, and what odd names do to keys and entries."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from cdc.accounting.accountant import Accountant
from cdc.accounting.charts import load_chart
from cdc.accounting.keys import check_names
from cdc.config import Config, RuleConfig, load
from cdc.errors import ConfigError, SchemaUnknown
from cdc.types import LIVE, Postings, TableSchema
from tests.changes import Change, book, one_batch, table, transactions

ORDERS = table("orders", ["id"], id="BIGINT", total="DECIMAL(12,2)", status="VARCHAR", paid="DATE", made="TIMESTAMPTZ", weight="DOUBLE")
GOOD = {
    "name": "sale",
    "book": "main",
    "table": "shop.orders",
    "date": "paid",
    "lines": [{"account": "1122", "debit": "total"}, {"account": "5001", "credit": "total"}],
}


def rule(**changed: Any) -> RuleConfig:
    return RuleConfig(**{**GOOD, **changed})


def account(schema: TableSchema, rules: list[RuleConfig], *rows: Change, number: tuple[int, ...] = (), **config: Any) -> Postings:
    accountant = Accountant(rules, book(**config))
    try:
        return accountant.account(schema, one_batch(schema, *rows, number=number), transactions(), lambda *_: LIVE.empty_table())
    finally:
        accountant.close()


@pytest.fixture
def written(tmp_path: Path) -> Iterator[Any]:
    """Rules in a file of their own, included by a config: so that a fault can name its place."""

    def write(text: str) -> Config:
        (tmp_path / "rules").mkdir()
        (tmp_path / "rules" / "sales.toml").write_text(text, "utf-8")
        (tmp_path / "ledgertail.toml").write_text(
            """include = ["rules/*.toml"]
            store = { url = "duckdb:///x.duckdb" }
            books.main = { base_currency = "CNY", chart = "small-business-2013" }
            sources.shop = { url = "postgres://u@h/shop", tables = ["orders"] }""",
            "utf-8",
        )
        return load(tmp_path / "ledgertail.toml")

    yield write


def test_a_fault_names_the_rule_its_place_the_key_and_what_is_wrong(written: Any) -> None:
    config = written("""
    [[rules]]
    name = "first"
    book = "main"
    table = "shop.orders"
    date = "paid"
    lines = [{ account = "1122", debit = "total" }, { account = "5001", credit = "total" }]
    [[rules]]
    name = "second"
    book = "main"
    table = "shop.orders"
    date = "paid"
    lines = [{ account = "1122", debit = "total" }, { account = "5001", credit = "totl" }]
    """)
    accountant = Accountant(config.rules, book())
    with pytest.raises(ConfigError) as refused:
        accountant.compile(ORDERS)
    accountant.close()
    assert refused.value.message == (
        "rule 'second' (sales.toml: rules.1), key 'lines.1.credit': there is no column 'totl'; did you mean 'total'?"
    )
    assert "correct the rule" in refused.value.hint


def lines(**changed: Any) -> list[dict[str, Any]]:
    """Good lines, the first of them changed."""
    return [{"account": "1122", "debit": "total", **changed}, {"account": "5001", "credit": "total"}]


@pytest.mark.parametrize(
    ("changed", "key", "fault"),
    [
        ({"when": "total"}, "when", "'total' is a DECIMAL(12,2), but must be a BOOLEAN"),
        ({"when": "'yes'"}, "when", "'yes'' is a VARCHAR, but must be a BOOLEAN"),
        ({"when": "state = 'paid'"}, "when", "there is no column 'state'; did you mean 'status'?"),
        ({"when": "id IN (SELECT 1)"}, "when", "holds a subquery"),
        ({"date": "status"}, "date", "'status' is a VARCHAR, but must be a DATE or a TIMESTAMP or a TIMESTAMP WITH TIME ZONE"),
        ({"date": "now()"}, "date", "'now' is not a function"),
        ({"date": ""}, "date", "syntax error"),
        ({"summary": "nope"}, "summary", "there is no column 'nope'"),
        ({"voucher_key": "total +"}, "voucher_key", "syntax error"),
        ({"voucher_type": ""}, "voucher_type", "syntax error"),
        ({"lines": lines(debit="status")}, "lines.0.debit", "'status' is a VARCHAR; an amount must be a DECIMAL or a whole number"),
        ({"lines": lines(debit="paid")}, "lines.0.debit", "'paid' is a DATE; an amount must be"),
        ({"lines": lines(debit="weight")}, "lines.0.debit", "'weight' is a binary float (DOUBLE)"),
        ({"lines": lines(debit="CAST(total / 3 AS DECIMAL(12,2))")}, "lines.0.debit", "'(total / 3)' is a binary float (DOUBLE)"),
        ({"lines": lines(debit="")}, "lines.0.debit", "syntax error"),
        ({"lines": lines(orig_amount="weight")}, "lines.0.orig_amount", "is a binary float"),
        ({"lines": lines(orig_amount="")}, "lines.0.orig_amount", "syntax error"),
        ({"lines": lines(rate="weight")}, "lines.0.rate", "is a binary float"),
        ({"lines": lines(quantity="status")}, "lines.0.quantity", "an amount must be"),
        ({"lines": lines(currency="")}, "lines.0.currency", "syntax error"),
        ({"lines": lines(unit="nope")}, "lines.0.unit", "there is no column 'nope'"),
        ({"lines": lines(dims={"store": "shop"})}, "lines.0.dims.store", "there is no column 'shop'"),
        ({"lines": lines(account="9999")}, "lines.0.account", "account '9999' is not in the chart 'small-business-2013' of book 'main'"),
        ({"lines": lines(account={"expr": "sum(total)"})}, "lines.0.account", "'sum' is not a function"),
        ({"lines": lines(debit="last_day(total)")}, "lines.0.debit", "No function matches"),
    ],
)
def test_a_rule_that_does_not_fit_is_refused(changed: dict[str, Any], key: str, fault: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Accountant([rule(**changed)], book()).compile(ORDERS)
    assert refused.value.values["rule"] == "sale"
    assert refused.value.values["key"] == key
    assert fault in refused.value.message


def test_only_the_rules_of_the_table_are_compiled() -> None:
    accountant = Accountant([rule(), rule(name="other", table="shop.refunds", date="no_such_column")], book())
    assert [compiled.name for compiled in accountant.compile(ORDERS).rules] == ["sale"]
    accountant.close()


ODD = {
    "ID": "BIGINT",
    "Order Total": "DECIMAL(12,2)",
    'say "hi"': "VARCHAR",
    "it's": "VARCHAR",
    "金额": "DECIMAL(12,2)",
    "select": "VARCHAR",
    "a.b": "VARCHAR",
    "back\\slash": "VARCHAR",
}
# Names that the SQL of rules and completion itself uses.
OURS = ["rid", "key", "former", "absent", "n", "first", "fault", "book", "rule", "rule_version", "lines", "entry_id", "row_key", "row_hash",
        "position", "txn", "i", "l", "w", "c", "live", "wanted", "known", "failed", "entry_date", "summary", "period"]  # fmt: skip


def test_any_name_will_do_for_a_column() -> None:
    schema = table("odd", ["ID", 'say "hi"', "金额"], **ODD)
    made = rule(
        table="shop.odd",
        when=""""select" = 'from'""",
        date="DATE '2026-01-31'",
        voucher_key='''"say ""hi""" || "it's"''',
        summary='"a.b" || "back\\slash"',
        lines=[
            {"account": "1122", "debit": '"order total"', "dims": {'q"': '"say ""hi"""', "区域": '"a.b"'}},
            {"account": "5001", "credit": '"Order Total" - "金额"'},
            {"account": "2221", "credit": "金额"},
        ],
    )
    values = {
        "ID": 17,
        "Order Total": Decimal("11.30"),
        'say "hi"': 'a "b"\\\n',
        "it's": "'",
        "金额": Decimal("1.30"),
        "select": "from",
        "a.b": "点",
        "back\\slash": "/",
    }
    posted = account(schema, [made], Change("c", values))
    (entry,) = posted.entries.to_pylist()
    assert entry["row_key"] == '{"ID": 17, "say \\"hi\\"": "a \\"b\\"\\\\\\n", "金额": 1.30}'
    assert json.loads(entry["row_key"], parse_float=Decimal) == {name: values[name] for name in schema.key}
    assert (entry["voucher_key"], entry["summary"]) == ('a "b"\\\n\'', "点/")
    assert [line["credit"] for line in posted.lines.to_pylist()] == [None, Decimal("10.000000"), Decimal("1.300000")]
    assert posted.lines.to_pylist()[0]["dims"] == '{"q\\"": "a \\"b\\"\\\\\\n", "区域": "点"}'


@pytest.mark.parametrize("bad", [False, True])
def test_names_the_sql_uses_itself_do_not_get_in_its_way(bad: bool) -> None:
    schema = table("ours", ["key", "rid"], **dict.fromkeys(OURS, "VARCHAR"), total="DECIMAL(12,2)")
    made = rule(table="shop.ours", date="DATE '2026-01-31'", summary='"key" || "rid" || "fault" || "book" || "failed"')
    values = dict.fromkeys(OURS, "x") | {"total": None if bad else Decimal(1)}
    posted = account(schema, [made], Change("u", values), Change("d", values), Change("c", values))
    if bad:
        assert [item["row_key"] for item in posted.quarantined.to_pylist()] == ['{"key": "x", "rid": "x"}']
    else:
        assert [entry["kind"] for entry in posted.entries.to_pylist()].count("post") == 2
        assert {entry["summary"] for entry in posted.entries.to_pylist()} == {"xxxxx"}


@pytest.mark.parametrize("name", ["#op", "#TXN", "#rid", "#key", "#n", "#stamp", "#old:id", "#"])
def test_names_that_are_ledgertails_own_are_refused(name: str) -> None:
    with pytest.raises(SchemaUnknown) as refused:
        check_names(table("t", ["id"], **{"id": "BIGINT", name: "VARCHAR"}))
    assert refused.value.values == {"table": "shop.t", "column": name}


def test_names_that_differ_only_in_capitals_are_refused() -> None:
    with pytest.raises(SchemaUnknown, match="'Total'"):
        check_names(table("t", ["id"], id="BIGINT", total="VARCHAR", Total="VARCHAR"))


@pytest.mark.parametrize(
    ("columns", "key", "values", "number", "expected"),
    [
        ({"id": "BIGINT"}, ["id"], {"id": 17}, (), '{"id": 17}'),
        ({"id": "BIGINT"}, ["id"], {"id": -(2**63)}, (), '{"id": -9223372036854775808}'),
        ({"b": "VARCHAR", "a": "INTEGER"}, ["a", "b"], {"a": 1, "b": "x"}, (), '{"a": 1, "b": "x"}'),
        ({"a": "INTEGER", "b": "VARCHAR"}, ["b", "a"], {"a": 1, "b": "x"}, (), '{"b": "x", "a": 1}'),
        ({"no": "VARCHAR"}, ["no"], {"no": 'a"b'}, (), '{"no": "a\\"b"}'),
        ({"no": "VARCHAR"}, ["no"], {"no": "it's \\ 订单\t\x01"}, (), '{"no": "it\'s \\\\ 订单\\t\\u0001"}'),
        ({"no": "VARCHAR"}, ["no"], {"no": ""}, (), '{"no": ""}'),
        ({"no": "VARCHAR"}, ["no"], {"no": "null"}, (), '{"no": "null"}'),
        ({"p": "DECIMAL(20,2)"}, ["p"], {"p": Decimal("123456789012345678.90")}, (), '{"p": 123456789012345678.90}'),
        ({"on": "DATE"}, ["on"], {"on": date(2026, 1, 31)}, (), '{"on": "2026-01-31"}'),
        ({"at": "TIMESTAMPTZ"}, ["at"], {"at": datetime(2026, 1, 31, 23, tzinfo=UTC)}, (), '{"at": "2026-01-31 23:00:00+00"}'),
        ({"u": "UUID"}, ["u"], {"u": "00000000-0000-0000-0000-000000000001"}, (), '{"u": "00000000-0000-0000-0000-000000000001"}'),
        ({"ok": "BOOLEAN"}, ["ok"], {"ok": True}, (), '{"ok": true}'),
        ({"x": "BLOB"}, ["x"], {"x": b'\x00a"'}, (), '{"x": "\\\\x00a\\\\x22"}'),
        ({"a": "VARCHAR", "b": "INTEGER"}, [], {"a": None, "b": 2}, (1,), '{"a": null, "b": 2, "#": 1}'),
        ({"w": "DOUBLE"}, [], {"w": 0.1}, (3,), '{"w": "0.1", "#": 3}'),
    ],
)
def test_a_row_key_is_json_text(columns: dict[str, str], key: list[str], values: dict[str, Any], number: Any, expected: str) -> None:
    schema = table("t", key, **columns)
    made = rule(table="shop.t", date="DATE '2026-01-31'", lines=[{"account": "1122", "debit": "1"}, {"account": "5001", "credit": "1"}])
    # A book elsewhere: keys are in UTC all the same.
    posted = account(schema, [made], Change("c", values), number=number, time_zone="Asia/Shanghai")
    assert posted.entries.column("row_key").to_pylist() == [expected]
    assert posted.live_begun.column("row_key").to_pylist() == [expected]


@pytest.mark.parametrize("text", ["made", "CAST(made AS DATE)", "last_day(made)", "date_trunc('month', made) + INTERVAL 30 DAY"])
def test_an_instant_falls_on_the_day_it_is_in_the_books_time_zone(text: str) -> None:
    row = Change("c", {"id": 1, "total": Decimal(1), "made": datetime(2026, 1, 30, 16, 30, tzinfo=UTC)})
    made = rule(date=text, when="made >= '2026-01-31'", summary="strftime(made, '%d %H:%M')")
    posted = account(ORDERS, [made], row, time_zone="Asia/Shanghai").entries.to_pylist()
    assert [(entry["entry_date"], entry["period"], entry["summary"]) for entry in posted] == [(date(2026, 1, 31), "2026-01", "31 00:30")]
    assert account(ORDERS, [made], row, time_zone="UTC").entries.num_rows == 0


def test_a_new_year_begins_earlier_in_the_east() -> None:
    row = Change("c", {"id": 1, "total": Decimal(1), "made": datetime(2025, 12, 31, 20, tzinfo=UTC)})
    east, west = (account(ORDERS, [rule(date="made")], row, time_zone=zone).entries.to_pylist() for zone in ("Asia/Shanghai", "UTC"))
    assert (east[0]["period"], west[0]["period"]) == ("2026-01", "2025-12")
    assert east[0]["committed_at"] == west[0]["committed_at"] and east[0]["entry_id"] == west[0]["entry_id"]


def test_a_when_guards_what_would_fail_without_it() -> None:
    made = rule(
        when="status <> 'draft'",
        lines=[{"account": "1122", "debit": "CAST(status AS DECIMAL(12,2))"}, {"account": "5001", "credit": "total"}],
    )
    rows = [Change("c", {"id": i, "total": Decimal(7), "status": "7" if i % 3 else "draft", "paid": date(2026, 1, 1)}) for i in range(3000)]
    posted = account(ORDERS, [made], *rows)
    assert (posted.entries.num_rows, posted.quarantined.num_rows) == (2000, 0)


def test_what_is_too_large_to_keep_goes_to_quarantine_and_the_rest_goes_on() -> None:
    schema = table("big", ["id"], id="BIGINT", total="DECIMAL(38,0)")
    made = rule(table="shop.big", date="DATE '2026-01-31'")
    rows = [Change("c", {"id": 1, "total": Decimal(10) ** 35}), Change("c", {"id": 2, "total": Decimal(5)})]
    posted = account(schema, [made], *rows)
    assert posted.entries.column("row_key").to_pylist() == ['{"id": 2}']
    assert [(q["reason"], q["detail"]) for q in posted.quarantined.to_pylist()] == [("quarantine.expression", "an amount is out of range")]


def test_a_currency_that_is_missing_goes_to_quarantine() -> None:
    made = rule(lines=lines(currency="status"))
    rows = [Change("c", {"id": 1, "total": Decimal(1), "paid": date(2026, 1, 1)})]
    posted = account(ORDERS, [made], *rows)
    assert [(q["reason"], q["level"], q["detail"]) for q in posted.quarantined.to_pylist()] == [("quarantine.no_currency", 2, "line 1")]


def test_the_memory_does_not_grow_with_the_batches() -> None:
    accountant = Accountant([rule()], book())
    rows = [Change("c", {"id": i, "total": Decimal(1), "paid": date(2026, 1, 1)}) for i in range(2000)]
    batch, held = one_batch(ORDERS, *rows), []
    for _ in range(6):
        accountant.account(ORDERS, batch, transactions(), lambda *_: LIVE.empty_table())
        held.append(accountant._db.execute("SELECT sum(memory_usage_bytes) FROM duckdb_memory()").fetchall()[0][0])
    accountant.close()
    assert held[-1] <= held[1] * 1.5


def test_a_chart_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "chart.csv").write_text('\ufeffname,code,note\n"现金\u2028, 两行\n",1001,x\n银行, 1002 ,\n', "utf-8")
    accounts = load_chart("main", "chart.csv", tmp_path)
    assert [(a.book, a.code, a.name, a.category) for a in accounts] == [
        ("main", "1001", "现金\u2028, 两行\n", ""),
        ("main", "1002", "银行", ""),
    ]


@pytest.mark.parametrize(
    "content", ["", "code\n1001\n", "code,name\n", "code,name\n1001,a\n1001,b\n", "name,code\nbank\n", "code,name\n,a\n"]
)
def test_a_chart_that_is_wrong_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "chart.csv").write_text(content, "utf-8")
    with pytest.raises(ConfigError, match=r"book 'main': chart 'chart\.csv'"):
        load_chart("main", "chart.csv", tmp_path)


def test_a_chart_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no-such-chart"):
        load_chart("main", "no-such-chart", tmp_path)
    (tmp_path / "gbk.csv").write_bytes("code,name\n1001,现金\n".encode("gbk"))
    with pytest.raises(ConfigError, match=r"gbk\.csv"):
        load_chart("main", "gbk.csv", tmp_path)


@pytest.mark.parametrize("name", ["small-business-2013", "cas-2006"])
def test_the_charts_that_ship_are_sound(name: str, tmp_path: Path) -> None:
    accounts = load_chart("main", name, tmp_path)
    assert len(accounts) > 50
    assert {"1001", "1002", "1122"} <= {account.code for account in accounts}


BUYERS = table("buyers", ["id"], id="BIGINT", region="VARCHAR", rating="INTEGER")
LOG = table("log", [], line="VARCHAR")


@pytest.mark.parametrize(
    ("lookup", "key", "fault"),
    [
        ({"b": {"table": "shop.nobody", "on": {"id": "id"}}}, "lookup.b.table", "there is no table 'shop.nobody' at the source"),
        ({"b": {"table": "shop.log", "on": {"line": "status"}}}, "lookup.b.table", "'shop.log' has no key"),
        ({"b": {"table": "shop.buyers", "on": {"ids": "id"}}}, "lookup.b.on.ids", "has no such column; did you mean 'id'?"),
        (
            {"b": {"table": "shop.buyers", "on": {"id": "status"}}},
            "lookup.b.on.id",
            "is a VARCHAR, and the column a BIGINT: CAST(... AS BIGINT)",
        ),
        ({"b": {"table": "shop.buyers", "on": {"id": "(SELECT 1)"}}}, "lookup.b.on.id", "a subquery"),
        (
            {"b": {"table": "shop.buyers", "on": {"id": "c.id"}}, "c": {"table": "shop.buyers", "on": {"id": "id"}}},
            "lookup.b.on.id",
            "c.id",
        ),
        ({"b": {"table": "shop.buyers", "on": {"id": "id"}}}, "summary", "'b' has no column 'regoin'; did you mean 'region'?"),
        (
            {"other": {"table": "shop.buyers", "on": {"id": "id"}}},
            "summary",
            "'b.regoin': name a column of the row alone, without its table, ",
        ),
    ],
)
def test_a_lookup_that_can_not_be_is_refused(lookup: dict[str, Any], key: str, fault: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Accountant([rule(lookup=lookup, summary="b.regoin")], book()).check([ORDERS, BUYERS, LOG])
    assert refused.value.values["key"] == key
    assert fault in refused.value.message


def test_one_thing_that_is_looked_up_twice_is_looked_up_once() -> None:
    by_id = {"table": "shop.buyers", "on": {"id": "id"}}
    rules = [
        rule(lookup={"b": by_id, "again": {**by_id, "optional": True}}, summary="b.region"),
        rule(name="other", lookup={"x": by_id}, summary="x.REGION || x.rating"),
    ]
    accountant = Accountant(rules, book())
    accountant.check([ORDERS, BUYERS])
    ((lookup, columns),) = accountant.compile(ORDERS).steps
    assert (lookup.on, columns) == ((("id", "id"),), ("rating", "region"))
    accountant.close()
