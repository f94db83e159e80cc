"""Lines for each element of an array: what is refused, what an array may be, and how lines stand in their entry."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from cdc.accounting.accountant import Accountant
from cdc.config import RuleConfig
from cdc.errors import ConfigError
from cdc.types import LIVE, Postings
from tests.changes import Change, book, one_batch, table, transactions

ORDERS = table(
    "orders",
    ["id"],
    id="BIGINT",
    items="JSON",
    payments="JSON",
    tags="VARCHAR",
    total="DECIMAL(12,2)",
    large="DECIMAL(38,2)",
    weight="DOUBLE",
)
PRODUCTS = table("products", ["sku"], sku="VARCHAR", account="VARCHAR")
REST = {"account": "1122", "rest": True}
PRICE = "CAST(item.price AS DECIMAL(12,2))"
SOLD = {"each": "item", "account": "5001", "credit": PRICE}


def rule(*lines: dict[str, Any], **changed: Any) -> RuleConfig:
    given = {"name": "sale", "book": "main", "table": "shop.orders", "date": "DATE '2026-10-31'", "each": {"item": "items"}}
    return RuleConfig(**{**given, "lines": lines or (REST, SOLD), **changed})


def account(rules: list[RuleConfig], *rows: dict[str, Any]) -> Postings:
    accountant = Accountant(rules, book() | book("other"))
    try:
        batch = one_batch(ORDERS, *(Change("c", {"id": i, **row}) for i, row in enumerate(rows, 1)))
        return accountant.account(ORDERS, batch, transactions(), lambda *_: LIVE.empty_table())
    finally:
        accountant.close()


def told(posted: Postings) -> list[tuple[Any, ...]]:
    """The number, account and amount of each line; a credit is negative."""
    return [(line["line_no"], line["account"], line["debit"] or -line["credit"]) for line in posted.lines.to_pylist()]


@pytest.mark.parametrize(
    ("made", "key", "fault"),
    [
        (rule(each={"item": "id"}), "each.item", "'id' is a BIGINT; an array is JSON text or a list"),
        (rule(each={"item": "[weight]"}), "each.item", "is a binary float"),
        (rule(each={"item": "json_extract(items, '$.of')"}), "each.item", "use json_extract_string"),
        (rule(each={"item": "item.items"}), "each.item", "name a column of the row alone"),
        (rule(REST, {**SOLD, "credit": "item.price"}), "lines.1.credit", "is a VARCHAR; an amount must be a DECIMAL or a whole number"),
        (
            rule(REST, {**SOLD, "credit": "share(total, item.price, 3)"}),
            "lines.1.credit",
            "only a DECIMAL or a whole number can be rounded",
        ),
        (rule(REST, {**SOLD, "credit": "itm.price"}), "lines.1.credit", "'itm.price': name a column of the row alone"),
        (rule({**REST, "account": {"expr": "item.account"}}, SOLD), "lines.0.account", "'item' is there for each element of an array"),
        (rule(summary="item.sku"), "summary", "'item' is there for each element of an array, and can't be read here"),
        (rule(when="item.number = 1"), "when", "'item' is there for each element"),
        (rule(REST, {**SOLD, "by": "1"}), "lines.1.credit", "'item' is there for each element"),
        (rule(REST, {**SOLD, "credit": "total", "by": "item.price"}), "lines.1.by", "is a VARCHAR; an amount must be"),
        (rule(REST, {**SOLD, "credit": "total", "by": "weight"}), "lines.1.by", "is a binary float"),
        (
            rule(each={"item": "items", "payment": "payments"}, lines=[REST, {**SOLD, "unit": "payment.kind"}]),
            "lines.1.unit",
            "'payment' is there for each element",
        ),
        (
            rule(summary="product.account", lookup={"product": {"table": "shop.products", "on": {"sku": "item.sku"}}}),
            "summary",
            "'product' is there for each element",
        ),
        (
            rule(
                each={"item": "items", "payment": "payments"},
                lookup={"product": {"table": "shop.products", "on": {"sku": "item.sku || payment.kind"}}},
            ),
            "lookup.product",
            "reads elements of more than one array",
        ),
    ],
)
def test_what_can_not_be_is_refused(made: RuleConfig, key: str, fault: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Accountant([made], book()).check([ORDERS, PRODUCTS])
    assert refused.value.values["key"] == key
    assert fault in refused.value.message


@pytest.mark.parametrize(
    ("array", "lines"),
    [
        ("items", [(1, "1122", 3), (2, "5001", -1), (3, "5001", -2)]),
        ("json_extract_string(payments, '$.of.items')", [(1, "1122", 7), (2, "5001", -7)]),
        ("[{'price': 1}, {'price': 2}]", [(1, "1122", 3), (2, "5001", -1), (3, "5001", -2)]),
        ("[]", []),
        ("NULL::VARCHAR[]", []),
    ],
)
def test_an_array_is_json_text_or_a_list(array: str, lines: list[Any]) -> None:
    row = {"items": '[{"price": 1}, {"price": "2.00"}]', "payments": '{"of": {"items": [{"price": 7}]}}'}
    assert told(account([rule(each={"item": array})], row)) == lines


def test_an_element_may_be_a_value() -> None:
    made = rule(REST, {"each": "tag", "account": "5001", "credit": "CAST(tag.value AS DECIMAL(12,2)) * tag.number"}, each={"tag": "TAGS"})
    assert told(account([made], {"tags": "[1.5, 2]"})) == [(1, "1122", Decimal("5.5")), (2, "5001", Decimal("-1.5")), (3, "5001", -4)]
    listed = made.model_copy(update={"each": {"tag": "string_split(tags, ',')"}})
    assert told(account([listed], {"tags": "1.5,2"})) == told(account([made], {"tags": "[1.5, 2]"}))


def test_numbers_keep_all_their_digits() -> None:
    made = rule(REST, {**SOLD, "credit": "CAST(item.price AS DECIMAL(30,2))"})
    posted = account([made], {"items": '[{"price": 12345678901234567890.12}, {"price": 1}]'})
    assert [amount for _, _, amount in told(posted)][1:] == [Decimal("-12345678901234567890.12"), -1]
    lists = rule(
        made.lines[0].model_dump(exclude_none=True), SOLD | {"credit": "CAST(item.value AS DECIMAL(30,2))"}, each={"item": "[large]"}
    )
    assert told(account([lists], {"large": Decimal("12345678901234567890.12")}))[1][2] == Decimal("-12345678901234567890.12")


def test_lines_are_numbered_as_they_stand_in_the_rule_each_element_by_element() -> None:
    made = rule(
        {"account": "1001", "debit": "1"},
        {**SOLD, "when": f"{PRICE} <> 2"},
        {"account": "1001", "credit": "1"},
        {"each": "payment", "account": "1002", "debit": "CAST(payment.value AS DECIMAL(12,2))"},
        {**SOLD, "account": "2221"},
        REST,
        each={"payment": "payments", "item": "items"},
    )
    posted = account([made], {"items": '[{"price": 1}, {"price": 2}, {"price": 3}]', "payments": "[5, 6]"})
    assert told(posted) == [
        (1, "1001", 1),
        (2, "5001", -1),
        (4, "5001", -3),  # the place of what is not there stays empty
        (5, "1001", -1),
        (6, "1002", 5),
        (7, "1002", 6),
        (8, "2221", -1),
        (9, "2221", -2),
        (10, "2221", -3),
        (11, "1122", -1),
    ]


def test_what_is_shared_out_goes_only_to_the_elements_the_line_is_there_for() -> None:
    freight = {"each": "item", "account": "1001", "credit": "total", "by": PRICE, "when": "item.free IS NULL"}
    items = '[{"price": 1}, {"price": 1, "free": true}, {"price": 1}, {"price": 1}]'
    lines = [(1, "1122", 10), (2, "1001", Decimal("-3.33")), (4, "1001", Decimal("-3.34")), (5, "1001", Decimal("-3.33"))]
    assert told(account([rule(REST, freight)], {"items": items, "total": Decimal(10)})) == lines
    assert told(account([rule(REST, freight)], {"items": '[{"price": 0}]', "total": Decimal(0)})) == []


def test_an_amount_that_is_shared_out_is_not_rounded_silently() -> None:
    made = rule(REST, {"each": "item", "account": "5001", "credit": "total * 0.333", "by": PRICE})
    posted = account([made], {"items": '[{"price": 1}, {"price": 2}]', "total": Decimal("10.00")}, {"items": '[{"price": 1}]', "total": 1})
    assert posted.entries.num_rows == 1
    assert [item["detail"] for item in posted.quarantined.to_pylist()] == ["item 1, line 2: 0.33300 (2)"]


@pytest.mark.parametrize("by", ["large", "CAST(large AS HUGEINT)"])
def test_weights_whose_sum_might_not_fit_go_to_quarantine(by: str) -> None:
    made = rule(REST, {"each": "item", "account": "5001", "credit": "total", "by": by})
    rows = [{"items": "[1, 2]", "total": 1, "large": Decimal(large)} for large in ("1e27", "7e35")]
    posted = account([made], *rows)
    assert told(posted) == [(1, "1122", 1), (2, "5001", Decimal("-0.5")), (3, "5001", Decimal("-0.5"))]
    assert [item["detail"] for item in posted.quarantined.to_pylist()] == ["item 1, lines.1.by"]


def test_a_book_without_decimals_rounds_to_none() -> None:
    made = rule(REST, {"each": "item", "account": "5001", "credit": "share(total, 1, 3)"}, {**SOLD, "credit": "total", "by": "1"})
    accountant = Accountant([made], book(decimals=0))
    batch = one_batch(ORDERS, Change("c", {"id": 1, "items": "[1, 2, 3]", "total": Decimal(100)}))
    posted = accountant.account(ORDERS, batch, transactions(), lambda *_: LIVE.empty_table())
    accountant.close()
    assert [amount for _, _, amount in told(posted)] == [199, -33, -33, -33, -33, -34, -33]


def test_arrays_are_taken_apart_once_for_all_rules_and_books() -> None:
    made = rule(variants={"other": {"each": {"payment": "payments"}, "lines": [REST, {**SOLD, "unit": "item.kind"}]}})
    rules = [
        *made.by_book(),
        rule(name="again", each={"thing": "items"}, lines=[REST, {**SOLD, "each": "thing", "credit": "thing.number"}]),
    ]
    accountant = Accountant(rules, book() | book("other"))
    assert len(accountant.compile(ORDERS).steps) == 2
    accountant.close()
    posted = account(rules, {"items": '[{"price": 1}, {"price": 2}]'})
    assert sorted((line["book"], line["credit"]) for line in posted.lines.to_pylist() if line["credit"]) == [
        *(("main", n) for n in (1, 1, 2, 2)),
        *(("other", n) for n in (1, 2)),
    ]


def test_ten_thousand_elements_in_one_row() -> None:
    items = json.dumps([{"sku": f"S{i}", "price": f"{i}.01"} for i in range(10_000)])
    freight = {"each": "item", "account": "1001", "credit": "total", "by": PRICE}
    posted = account([rule(REST, SOLD, freight)], {"items": items, "total": Decimal("100000.00")}, {"items": "[]", "total": Decimal(0)})
    lines = told(posted)
    assert lines[0] == (1, "1122", sum(Decimal(f"{i}.01") for i in range(10_000)) + 100_000)
    assert [amount for number, _, amount in lines if 1 < number <= 10_001] == [-Decimal(f"{i}.01") for i in range(10_000)]
    assert sum(amount for number, _, amount in lines if number > 10_001) == -100_000
