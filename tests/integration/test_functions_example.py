"""The example of Python functions, run on a PostgreSQL as its README says; and what becomes of rows and functions that are bad."""

from __future__ import annotations

import shutil
from decimal import Decimal
from pathlib import Path

import pytest

from tests.integration.installation import Installation
from tests.servers.postgres import Database

EXAMPLE = Path(__file__).parents[2] / "examples" / "functions"
CHARGED = """SELECT rule, json_extract_string(dims, '$.asset') AS asset, account, CAST(sum(coalesce(debit, -credit)) AS VARCHAR) AS amount,
    count(*) AS n FROM ledger.lines JOIN ledger.entries USING (entry_id) GROUP BY ALL ORDER BY ALL"""


@pytest.fixture
def books(database: Database, tmp_path: Path) -> Installation:
    folder = tmp_path / "books"
    shutil.copytree(EXAMPLE, folder)
    database.connection.execute((EXAMPLE / "schema.sql").read_text("utf-8"))
    made = Installation(folder, (EXAMPLE / "ledgertail.toml").read_text("utf-8"))
    made.change("postgres://ledgertail@127.0.0.1:5432/company", database.url)
    made.change('password_env = "COMPANY_PASSWORD"\n', "")
    return made


def test_over_their_lives_assets_are_charged_to_the_cent(books: Installation, database: Database) -> None:
    assert books.ledgertail("check").returncode == 0
    database.connection.execute("INSERT INTO assets VALUES (5, 'crane', 'tangible', 'sum-of-years', 100.00, 0, 30)")
    database.connection.execute("INSERT INTO asset_months VALUES (5, 1, '2026-01-31')")
    assert books.run().returncode == 0
    told = [(rule, asset, account, Decimal(amount), n) for rule, asset, account, amount, n in books.query(CHARGED)]
    assert told == [
        ("amortisation", "4", "1702", Decimal(-10000), 36),
        ("amortisation", "4", "5602", Decimal(10000), 36),
        *(
            ("depreciation", asset, account, amount, 60)
            for asset in ("1", "2", "3")
            for account, amount in (("1602", Decimal(-96000)), ("5602", Decimal(96000)))
        ),
        ("prepaid", None, "1123", Decimal(-12000), 13),
        ("prepaid", None, "5602", Decimal(12000), 13),
        ("research-cost", None, "1002", Decimal("-100000.01"), 2),
        ("research-cost", None, "4301", Decimal("45500.01"), 1),
        ("research-cost", None, "5602", Decimal("54500.00"), 2),
    ]
    quarantined = books.query("SELECT row_key, reason, detail FROM ledger.quarantine WHERE status = 'open'")
    assert quarantined == [
        ['{"asset_id": 5, "month_no": 1}', "quarantine.function", "lines.0.debit: sum_of_years: ValueError: a life is not of whole years"]
    ]
    _retry(books, database)


def _retry(books: Installation, database: Database) -> None:
    """The asset is put right, and its row is accounted for."""
    database.connection.execute("UPDATE assets SET life_months = 24 WHERE id = 5")
    assert books.run().returncode == 0
    ((item,),) = books.query("SELECT CAST(id AS VARCHAR) FROM ledger.quarantine WHERE status = 'open'")
    assert books.ledgertail("quarantine", "retry", item).returncode == 0
    assert books.query('SELECT CAST(debit AS VARCHAR) FROM ledger.lines WHERE dims = \'{"asset": "5"}\' AND debit > 0') == [["5.560000"]]


def test_a_file_that_can_not_be_run_is_told_by_check_and_run(books: Installation) -> None:
    (books.folder / "functions.py").write_text("import pyarow", "utf-8")
    checked, run = books.ledgertail("check", "--json"), books.run()
    assert (checked.returncode, run.returncode) == (1, 2)
    for said in (checked.stdout, run.stderr):
        assert "functions.straight_line.file" in said
        assert "No module named 'pyarow'" in said
