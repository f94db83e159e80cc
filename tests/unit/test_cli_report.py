"""`ledgertail report` and `crosswalk` on a real store."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner

from cdc.accounting.charts import load_chart
from cdc.cli import main
from cdc.types import BEGUN, ENDED, ENTRIES, LINES, QUARANTINED, SETTLED, BatchLog, Postings
from sinks.duckdb import DuckDBSink

CONFIG = """
[store]
url = "duckdb:books.duckdb"
[sources.shop]
url = "postgres://u@h/shop"
tables = ["t"]
[books.main]
base_currency = "CNY"
chart = "small-business-2013"
"""
AT = datetime(2026, 11, 1, tzinfo=UTC)
Line = tuple[str, str, str, str]  # account, debit, credit, customer


def entry(number: int, day: date, *lines: Line, book: str = "main") -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    made = f"00000000-0000-0000-0000-{number:012}"
    common = {"entry_id": made, "book": book, "period": f"{day:%Y-%m}"}
    head = {
        **common,
        "rule": "sale",
        "kind": "post",
        "doc_date": day,
        "entry_date": day,
        "summary": f"no {number}",
        "source": "shop",
        "source_table": "shop.t",
        "row_key": f'{{"id": {number}}}',
        "op": "c",
        "position": "0/1",
        "txn": "1",
        "ordinal": 0,
        "committed_at": AT,
    }
    rows = [
        {
            **common,
            "line_no": place,
            "account": account,
            "currency": "CNY",
            "rate": Decimal(1),
            "debit": Decimal(debit) if debit else None,
            "credit": Decimal(credit) if credit else None,
            "dims": json.dumps({'cu"st': customer}, ensure_ascii=False) if customer else "{}",
        }
        for place, (account, debit, credit, customer) in enumerate(lines, 1)
    ]
    return [head], rows


@pytest.fixture
def config(tmp_path: Path) -> Path:
    made = [
        entry(1, date(2026, 9, 30), ("1122", "100", "", "张三"), ("5001", "", "100", "")),
        entry(2, date(2026, 10, 1), ("1122", "50.10", "", "O'Neil"), ("5001", "", "50.10", "")),
        entry(3, date(2026, 10, 31), ("1002", "30", "", ""), ("1122", "", "30", "张三")),
        entry(4, date(2026, 11, 1), ("1122", "-50.10", "", "O'Neil"), ("5001", "", "-50.10", "")),
        entry(5, date(2026, 10, 1), ("1122", "7", "", ""), ("5001", "", "7", ""), book="other"),
    ]
    sink = DuckDBSink(str(tmp_path / "books.duckdb"), 64 << 20)
    sink.prepare(load_chart("main", "small-business-2013", tmp_path))
    transaction = sink.begin()
    heads, lines = ([row for part in made for row in part[i]] for i in (0, 1))
    tables = [pa.Table.from_pylist(heads, ENTRIES), pa.Table.from_pylist(lines, LINES)]
    transaction.apply(Postings(*tables, *(schema.empty_table() for schema in (ENDED, BEGUN, QUARANTINED, SETTLED))))
    transaction.apply(BatchLog("shop", "0/1", "0/1", 1, 1, AT, AT))
    transaction.commit().result()
    sink.close()
    path = tmp_path / "ledgertail.toml"
    path.write_text(CONFIG, "utf-8")
    return path


def run(config: Path, *arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(main, ["--config", str(config), *arguments], env={"LEDGERTAIL_LANG": "en", "COLUMNS": "200"})
    assert result.exit_code == code, result.output
    return result.output


def told(config: Path, *arguments: str) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in json.loads(run(config, *arguments, "--format", "json"))]


def rows(*written: Sequence[str]) -> list[tuple[str, ...]]:
    return [tuple(row) for row in written]


def test_a_trial_balance(config: Path) -> None:
    assert told(config, "report", "trial-balance") == rows(
        ("1002", "银行存款", "0.00", "30.00", "0.00", "30.00"),
        ("1122", "应收账款", "0.00", "100.00", "30.00", "70.00"),
        ("5001", "主营业务收入", "0.00", "0.00", "100.00", "-100.00"),
    )
    assert told(config, "report", "trial-balance", "--from", "2026-10", "--to", "2026-10", "--book", "main") == rows(
        ("1002", "银行存款", "0.00", "30.00", "0.00", "30.00"),
        ("1122", "应收账款", "100.00", "50.10", "30.00", "120.10"),
        ("5001", "主营业务收入", "-100.00", "0.00", "50.10", "-150.10"),
    )
    assert told(config, "report", "trial-balance", "--account", "112", "--by", 'cu"st', "--to", "2026-10") == rows(
        ("1122", "应收账款", "O'Neil", "0.00", "50.10", "0.00", "50.10"),
        ("1122", "应收账款", "张三", "0.00", "100.00", "30.00", "70.00"),
    )
    assert told(config, "report", "trial-balance", "--to", "2025-01") == []
    shown = run(config, "report", "trial-balance")
    assert [line.split() for line in shown.splitlines()][-1] == ["Total", "0.00", "130.00", "130.00", "0.00"]


def test_a_ledger(config: Path) -> None:
    found = told(config, "report", "ledger", "--account", "1122", "--from", "2026-10")
    assert [(row[1], row[3], *row[5:8]) for row in found] == [
        (None, "Opening balance", None, None, "100.00"),
        ("2026-10-01", "no 2", "50.10", "0.00", "150.10"),
        ("2026-10-31", "no 3", "0.00", "30.00", "120.10"),
        ("2026-11-01", "no 4", "-50.10", "0.00", "70.00"),
    ]
    assert found[1][9:12] == ("sale", "shop.t", '{"id": 2}')
    only = told(config, "report", "ledger", "--dim", "cu\"st=O'Neil")
    assert [row[7] for row in only] == ["50.10", "0.00"]


def test_a_crosswalk(config: Path) -> None:
    found = told(config, "crosswalk", "cas-2006")
    assert [row[:6] for row in found] == rows(
        ("1002", "银行存款", "0.00", "30.00", "0.00", "30.00"),
        ("1122", "应收账款", "0.00", "100.00", "30.00", "70.00"),
        ("6001", "主营业务收入", "0.00", "0.00", "100.00", "-100.00"),
    )
    western = told(config, "crosswalk", "ifrs-style")
    assert sum(Decimal(row[5]) for row in western) == 0
    assert all(row[1] for row in western)
    assert "those that ship: " in run(config, "crosswalk", "gaap", code=2)


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["trial-balance", "--from", "2026-13"], "'2026-13' is no period"),
        (["trial-balance", "--book", "ifrs"], "There is no book 'ifrs'; there are: main"),
        (["ledger", "--dim", "customer"], "--dim takes NAME=VALUE"),
    ],
)
def test_what_is_asked_wrongly(config: Path, arguments: list[str], fault: str) -> None:
    assert fault in run(config, "report", *arguments, code=2)


def test_which_of_several_books(config: Path) -> None:
    config.write_text(CONFIG + '[books.other]\nbase_currency = "CNY"\nchart = "cas-2006"\n', "utf-8")
    assert "say which with --book: main, other" in run(config, "report", "trial-balance", code=2)
    assert [row[0] for row in told(config, "report", "trial-balance", "--book", "other")] == ["1122", "5001"]
