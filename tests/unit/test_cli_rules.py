"""`ledgertail rules`: cases against a config's rules, the differences, what is accepted, and the same from a test of one's own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import cdc
from cdc.cases.changes import schemas
from cdc.cases.file import read
from cdc.cli import main
from cdc.types import TableSchema
from tests.changes import table

CONFIG = """
[store]
url = "duckdb:books.duckdb"
[books.main]
base_currency = "CNY"
chart = "small-business-2013"
[books.group]
base_currency = "CNY"
chart = "ifrs-style"
[sources.shop]
url = "postgres://nobody@127.0.0.1:1/shop"
tables = ["orders", "customers"]

[[rules]]
name = "sale"
book = "main"
table = "shop.orders"
when = "paid IS NOT NULL"
date = "paid"
summary = "'销售 ' || buyer.name"
lookup.buyer = { table = "shop.customers", on = { id = "customer" } }
lines = [
  { account = "1122", debit = "total", dims = { customer = "buyer.name" } },
  { account = "5001", credit = "total" },
]
variants.group = { lines = [{ account = "1220", debit = "total" }, { account = "6010", credit = "total" }] }
"""
TABLES = """
== table shop.customers (key id)
| id     | name    |
| BIGINT | VARCHAR |

== table shop.orders (key id)
| id     | customer | total         | paid |
| BIGINT | BIGINT   | DECIMAL(12,2) | DATE |
"""
# The order is written first, and its customer has another name by the end of the transaction.
SALE = """张三付款，金额后来更正。

== changes shop.orders
| op | id | customer | total | paid |
| c | 17 | 5 | 113.00 | 2026-10-31 |
== also shop.customers
| op | id | name |
| c | 5 | 张 |
| u | 5 | 张三 |

== changes shop.orders
| op | id | total |
| u | 17 | 100 |

== changes shop.customers
| op | id | name |
| u | 5 | 张三丰 |
"""
ENTRIES = """
== entries
# of both books
| entry | kind | book | summary | account | debit | credit | dims.customer |
| A | post | group | 销售 张三 | 1220 | 113 | | |
| | | | | 6010 | | 113 | |
| B | post | main | 销售 张三 | 1122 | 113 | | 张三 |
| | | | | 5001 | | 113 | |
| C | reverse | group | 销售 张三 | 1220 | -113 | | |
| | | | | 6010 | | -113.000 | |
| D | post | group | 销售 张三 | 1220 | 100 | | |
| | | | | 6010 | | 100 | |
| E | reverse | main | 销售 张三 | 1122 | -113 | | 张三 |
| | | | | 5001 | | -113 | |
| F | post | main | 销售 张三 | 1122 | 100 | | 张三 |
| | | | | 5001 | | 100 | |

== live
| entry | of | book |
| D | {"id": 17} | group |
| F | {"id": 17} | main |
"""
ACCEPTED = """
== entries
| entry | kind    | reverses | book  | of         | rule | entry_date | summary   | account |   debit |  credit | dims.customer |
| A     | post    |          | group | {"id": 17} | sale | 2026-10-31 | 销售 张三 | 1220    |  113.00 |         |               |
|       |         |          |       |            |      |            |           | 6010    |         |  113.00 |               |
| B     | post    |          | main  | {"id": 17} | sale | 2026-10-31 | 销售 张三 | 1122    |  113.00 |         | 张三          |
|       |         |          |       |            |      |            |           | 5001    |         |  113.00 |               |
| C     | reverse | A        | group | {"id": 17} | sale | 2026-10-31 | 销售 张三 | 1220    | -113.00 |         |               |
|       |         |          |       |            |      |            |           | 6010    |         | -113.00 |               |
| D     | post    |          | group | {"id": 17} | sale | 2026-10-31 | 销售 张三 | 1220    |  100.00 |         |               |
|       |         |          |       |            |      |            |           | 6010    |         |  100.00 |               |
| E     | reverse | B        | main  | {"id": 17} | sale | 2026-10-31 | 销售 张三 | 1122    | -113.00 |         | 张三          |
|       |         |          |       |            |      |            |           | 5001    |         | -113.00 |               |
| F     | post    |          | main  | {"id": 17} | sale | 2026-10-31 | 销售 张三 | 1122    |  100.00 |         | 张三          |
|       |         |          |       |            |      |            |           | 5001    |         |  100.00 |               |
"""
NOBODY = """Nobody bought it.

== changes shop.orders
| op | id | customer | total | paid       |
| c  | 1  | 9        | 1.00  | 2026-10-31 |

== entries
| entry | account |
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "ledgertail.toml").write_text(CONFIG, "utf-8")
    (tmp_path / "rules-tests").mkdir()
    (tmp_path / "rules-tests" / "tables.txt").write_text(TABLES, "utf-8")
    return tmp_path


def write(folder: Path, text: str, name: str = "sale.txt") -> Path:
    path = folder / "rules-tests" / name
    path.write_text(text, "utf-8")
    return path


def run(folder: Path, *arguments: str, code: int = 0, lang: str = "en") -> str:
    result = CliRunner().invoke(main, ["--config", str(folder / "ledgertail.toml"), "rules", *arguments], env={"LEDGERTAIL_LANG": lang})
    assert result.exit_code == code, result.output
    return result.output


def test_a_case_of_two_books_with_a_lookup(folder: Path) -> None:
    path = write(folder, SALE + ENTRIES)
    assert run(folder, "test") == f"✓ {path}: 张三付款，金额后来更正。\n1 cases: 1 ok, 0 failed, 0 in error, 0 accepted\n"
    assert run(folder, "test", str(path), lang="zh").endswith("1 个用例：1 个相符，0 个不符，0 个出错，0 个已接受\n")


def test_a_difference_is_shown(folder: Path) -> None:
    path = write(
        folder, SALE + ENTRIES.replace("| B | post | main | 销售 张三 | 1122 | 113 |", "| B | post | main | 销售 李四 | 1122 | 99 |")
    )
    lines = run(folder, "test", code=1).splitlines()
    assert lines[:7] == [
        f"✗ {path}: 张三付款，金额后来更正。",
        "  entries, expected in line 19:",
        "    | entry | kind    | book  | summary   | account |   debit |  credit | dims.customer |",
        "    | A     | post    | group | 销售 张三 | 1220    |  113.00 |         |               |",
        "    |       |         |       |           | 6010    |         |  113.00 |               |",
        "  - | B     | post    | main  | 销售 李四 | 1122    |   99.00 |         | 张三          |",
        "    |       |         |       |           | 5001    |         |  113.00 |               |",
    ]
    assert lines[15] == "  entries, as they came:"
    assert [line for line in lines if line.startswith("  +")] == [
        "  + | B     | post    | main  | 销售 张三 | 1122    |  113.00 |         | 张三          |"
    ]
    assert lines[-3:] == [
        "  line 24, summary: expected 销售 李四, came 销售 张三",
        "  line 24, debit: expected 99.00, came 113.00",
        "1 cases: 0 ok, 1 failed, 0 in error, 0 accepted",
    ]


def test_an_entry_too_many_is_the_only_row_marked(folder: Path) -> None:
    write(folder, SALE + ENTRIES.replace("| F | post", "| F | post | main | x | 1001 | 1 | | |\n| F | post"))
    lines = run(folder, "test", code=1).splitlines()
    assert [line.split()[:3] for line in lines if line.startswith(("  -", "  +"))] == [["-", "|", "F"]]
    assert not any(line.startswith("  line ") for line in lines)


def test_json(folder: Path) -> None:
    write(folder, SALE + ENTRIES, "b.txt")
    failed = write(folder, NOBODY, "a.txt")
    told = json.loads(run(folder, "test", "--json", code=1))
    assert {state: told[state] for state in ("ok", "failed", "error", "accepted")} == {"ok": 1, "failed": 1, "error": 0, "accepted": 0}
    assert [(case["state"], case["title"]) for case in told["cases"]] == [
        ("failed", "Nobody bought it."),
        ("ok", "张三付款，金额后来更正。"),
    ]
    (difference,) = told["cases"][0]["differences"]
    assert told["cases"][0]["file"] == str(failed)
    assert difference | {"told": None} == {
        "section": "quarantine",
        "line": None,
        "columns": ["of", "book", "rule", "reason", "detail"],
        "expected": [],
        "actual": [
            ['{"id": 1}', "group", "sale", "quarantine.lookup", "buyer: 0 rows with id = 9"],
            ['{"id": 1}', "main", "sale", "quarantine.lookup", "buyer: 0 rows with id = 9"],
        ],
        "told": None,
    }


def test_what_comes_is_accepted_and_holds_from_then_on(folder: Path) -> None:
    path = write(folder, SALE)
    assert "entries: the case tells none" in run(folder, "test", code=1)
    assert path.read_text("utf-8") == SALE
    assert run(folder, "test", "--accept").endswith("0 ok, 0 failed, 0 in error, 1 accepted\n")
    assert path.read_text("utf-8") == SALE + ACCEPTED
    assert "1 ok" in run(folder, "test")


def test_only_what_differs_is_written_anew(folder: Path) -> None:
    wrong = ENTRIES.replace("| F | post | main | 销售 张三 | 1122 | 100 | | 张三 |", "| F | post | main | 销售 张三 | 1122 | 99 | | 张三 |")
    path = write(folder, SALE + wrong.rstrip("\n"))
    run(folder, "test", "--accept")
    text = path.read_text("utf-8")
    assert text.startswith(SALE)
    assert "\n== entries\n# of both books\n| entry | kind    | book  | summary   | account |" in text
    assert text.endswith(ENTRIES[ENTRIES.index("\n== live") :])
    assert "1 ok" in run(folder, "test")


def test_quarantine_is_accepted_too(folder: Path) -> None:
    path = write(folder, NOBODY)
    run(folder, "test", "--accept")
    assert path.read_text("utf-8").startswith(NOBODY + "\n== quarantine\n| of        | book  | rule | reason ")
    assert "1 ok" in run(folder, "test")


def test_a_case_that_can_not_be_played_does_not_keep_the_others(folder: Path) -> None:
    bad = write(folder, SALE.replace("| op | id | customer |", "| op | id | buyer |"), "bad.txt")
    write(folder, SALE + ENTRIES, "good.txt")
    told = run(folder, "test", code=2)
    assert f"✗ {bad}: error\n  '{bad}', line 4: there is no column 'buyer'" in told
    assert "2 cases: 1 ok, 0 failed, 1 in error, 0 accepted" in told
    assert "what to do: use each at most once: id, customer, total, paid [cases.column]" in told


@pytest.mark.parametrize(
    ("tables", "changed", "words"),
    [
        (TABLES.replace("shop.customers", "shop.customer"), CONFIG, "table 'shop.customer', which the config does not capture"),
        (TABLES[TABLES.index("== table shop.orders") :], CONFIG, "rule 'sale' looks up 'shop.customers', whose columns are not told"),
        (TABLES, CONFIG.replace('debit = "total"', 'debit = "totl"'), "there is no column 'totl'"),
    ],
)
def test_rules_and_tables_that_do_not_fit(folder: Path, tables: str, changed: str, words: str) -> None:
    write(folder, SALE)
    write(folder, tables, "tables.txt")
    (folder / "ledgertail.toml").write_text(changed, "utf-8")
    assert words in run(folder, "test", code=2)


def test_unknown_columns_of_what_is_expected(folder: Path) -> None:
    write(folder, SALE + "== live\n| entry | account |\n")
    assert "line 19: there is no column 'account'" in run(folder, "test", code=2)


def test_where_cases_are_looked_for(folder: Path) -> None:
    assert f"there are no cases in {folder / 'rules-tests'}" in run(folder, "test", code=2)
    (folder / "else").mkdir()
    write(folder, SALE + TABLES + ENTRIES, "../else/one.txt")
    assert "1 ok" in run(folder, "test", str(folder / "else"))
    assert "none.txt' can't be read" in run(folder, "test", str(folder / "else"), str(folder / "none.txt"), code=2)


def test_columns_of_an_entry_and_its_lines(folder: Path) -> None:
    text = SALE + ENTRIES.replace("group |", "group |").split("== live")[0]
    shown = "| entry | line | account_name | position | txn | ordinal | source_table | period |"
    write(folder, text[: text.index("== entries")] + f"== entries\n{shown}\n")
    (difference,) = json.loads(run(folder, "test", "--json", code=1))["cases"][0]["differences"]
    assert difference["actual"][2:4] == [
        ["B", "1", "应收账款", "00000001", "1", "0", "shop.orders", "2026-10"],
        ["", "2", "主营业务收入", "", "", "", "", ""],
    ]


def test_more_entries_than_letters(folder: Path) -> None:
    rows = "\n".join(f"| c | {i} | 5 | 1 | 2026-10-31 |" for i in range(1, 29))
    head = "== changes shop.customers\n| op | id | name |\n| c | 5 | x |\n== also shop.orders\n| op | id | customer | total | paid |\n"
    write(folder, f"{head}{rows}\n== live\n| entry |\n")
    differences = json.loads(run(folder, "test", "--json", code=1))["cases"][0]["differences"]
    assert [row[0] for row in differences[1]["actual"]][24:30] == ["Y", "Z", "AA", "AB", "AC", "AD"]
    assert len(differences[1]["actual"]) == 56


def test_cases_in_a_test_of_ones_own(folder: Path) -> None:
    write(folder, SALE + ENTRIES, "good.txt")
    write(folder, NOBODY, "bad.txt")
    bad, good = cdc.rule_cases(str(folder / "ledgertail.toml"))
    assert [str(bad), str(good)] == ["bad", "good"]
    good.check()
    with pytest.raises(AssertionError, match=r"Nobody bought it\.\nquarantine.*\n.*\n.*\n\+ \|.*buyer: 0 rows with id = 9"):
        bad.check()


class _Inspection:
    def schemas(self) -> Mapping[str, TableSchema]:
        known: dict[str, dict[str, Any]] = {
            "orders": {"id": "BIGINT", "customer": "BIGINT", "total": "DECIMAL(12,2)", "paid": "DATE"},
            "customers": {"id": "BIGINT", "name": "VARCHAR"},
            "others": {"id": "BIGINT"},
        }
        return {name: table(name, ["id"], **columns) for name, columns in known.items()}

    def close(self) -> None:
        pass


def test_tables_as_the_source_has_them(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = schemas(read(write(folder, "", "none.txt")))
    monkeypatch.setattr("cdc.build.inspection", lambda name, config: _Inspection())
    write(folder, run(folder, "tables"), "tables.txt")
    assert schemas(read(folder / "rules-tests" / "none.txt")) == known
