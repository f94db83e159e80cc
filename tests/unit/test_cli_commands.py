"""The other commands: on a real store, and on a real PostgreSQL where they ask one."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cdc import build
from cdc.cli import COMMANDS, main
from cdc.cli.status import fine
from cdc.config import load
from cdc.errors import StoreError
from cdc.serving.server import Server
from tests.servers.postgres import Database

RULE = """
[[rules]]
name = "sale"
book = "main"
table = "shop.orders"
date = "sold_on"
lines = [{ account = "1122", debit = "total" }, { account = "5001", credit = "total" }]
"""


def run(*arguments: str, lang: str = "en", **environment: str) -> Result:
    result = CliRunner().invoke(main, list(arguments), env={"LEDGERTAIL_LANG": lang, "COLUMNS": "160", **environment})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="lt-") as name:
        yield Path(name)


def write_config(folder: Path, url: str = "postgres://nobody@127.0.0.1:1/none", extra: str = RULE) -> str:
    path = folder / "ledgertail.toml"
    path.write_text(
        f"""
[store]
url = "duckdb:books.duckdb"
[books.main]
base_currency = "CNY"
chart = "small-business-2013"
[sources.shop]
url = "{url}"
tables = ["orders"]
{extra}""",
        "utf-8",
    )
    return str(path)


def fill(config: str) -> None:
    """A store as a daemon leaves it: a checkpoint, a batch, two rows in quarantine."""
    store = build.sink(load(config))
    transaction = store.begin()
    transaction.sql(
        "INSERT INTO meta.checkpoints BY NAME SELECT 'shop' AS source, '0/10' AS position, 1 AS epoch, 'x' AS identity, now() AS applied_at"
    )
    transaction.sql(
        """INSERT INTO ledger.quarantine BY NAME
        SELECT uuid() AS id, 'shop' AS source, 'shop.orders' AS source_table, '{"id": ' || range || '}' AS row_key, '0/10' AS position,
            3 AS level, 'quarantine.unbalanced' AS reason, 'debit 1, credit 2' AS detail, '{}' AS payload, 'open' AS status,
            now() AS first_seen, 'main' AS book, 'sale' AS rule FROM range(2)"""
    )
    transaction.commit().result()
    store.close()


_HELP = """
import json
from click.testing import CliRunner
from cdc.cli import COMMANDS, main
print(json.dumps({name: CliRunner().invoke(main, [name, "--help"]).output for name in COMMANDS}))
"""


def test_help_is_there_in_both_languages_for_every_command() -> None:
    helps = {}
    for lang in ("en", "zh"):  # help texts are taken when a command is imported, so in a process of its own
        done = subprocess.run([sys.executable, "-c", _HELP], env={"LEDGERTAIL_LANG": lang}, capture_output=True, text=True, check=True)
        helps[lang] = json.loads(done.stdout)
    for name in COMMANDS:
        assert helps["en"][name].startswith("Usage: ")
        assert helps["zh"][name].startswith("Usage: ")
        assert helps["en"][name] != helps["zh"][name]


def test_status_imports_nothing_slow_before_it_asks_the_daemon() -> None:
    program = "import cdc.cli.status, sys; print([m for m in ('duckdb', 'pyarrow', 'pydantic', 'psycopg', 'pandas') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip() == "[]"


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_init_writes_a_config_that_loads_and_never_overwrites(folder: Path, lang: str) -> None:
    result = run("init", str(folder / "new"), lang=lang)
    assert result.exit_code == 0, result.output
    config = load(folder / "new" / "ledgertail.toml")
    assert {rule.table for rule in config.rules} == {"shop.orders", "shop.payments"}
    assert run("--config", str(folder / "new" / "ledgertail.toml"), "rules", "test").exit_code == 0
    own = (folder / "new" / "ledgertail.toml").read_text("utf-8").replace('"small-business-2013"\ntime', '"accounts.csv"\ntime')
    (folder / "new" / "ledgertail.toml").write_text(own, "utf-8")
    for chart_in in (config, load(folder / "new" / "ledgertail.toml")):
        build.books(chart_in)
    (folder / "new" / "accounts.csv").unlink()
    again = run("init", str(folder / "new"), lang=lang)
    assert again.exit_code == 2
    assert "ledgertail.toml" in again.stderr
    assert not (folder / "new" / "accounts.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "exit_code", "words"),
    [
        (["check"], 2, "no config file found"),
        (["nonsense"], 2, "nonsense"),
        (["query"], 2, "SQL"),
        (["quarantine", "retry"], 2, "--all"),
        (["quarantine", "retry", "x", "--all"], 2, "--all"),
    ],
)
def test_wrong_usage_and_a_missing_config_end_with_2(
    folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], exit_code: int, words: str
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr("cdc.paths.SYSTEM_PATH", folder / "none.toml")
    result = run(*arguments, LEDGERTAIL_CONFIG="")
    assert result.exit_code == exit_code
    assert words in result.stderr


def test_check_of_a_ready_source(folder: Path, database: Database) -> None:
    database.connection.execute("CREATE TABLE orders (id int PRIMARY KEY, sold_on date, total numeric(18, 2))")
    result = run("--config", write_config(folder, database.url), "check", "--json")
    findings = json.loads(result.stdout)["findings"]
    assert result.exit_code == 0, result.stdout
    assert {finding["area"] for finding in findings} == {"config", "store", "shop", "rules"}
    assert [path.name for path in folder.iterdir()] == ["ledgertail.toml"]  # it changes nothing


def test_check_names_what_fails_and_what_mends_it(folder: Path, database: Database) -> None:
    database.connection.execute("CREATE TABLE orders (id int, sold_at date, total numeric(18, 2))")
    result = run("--config", write_config(folder, database.url), "check", "--json")
    failed = [finding for finding in json.loads(result.stdout)["findings"] if finding["level"] == "fail"]
    assert result.exit_code == 1
    assert all(finding["mend"] for finding in failed)
    assert any("REPLICA IDENTITY FULL" in finding["mend"] for finding in failed if finding["area"] == "shop")
    assert any("sold_on" in finding["what"] for finding in failed if finding["area"] == "rules")


def test_check_of_a_source_that_does_not_answer(folder: Path) -> None:
    result = run("--config", write_config(folder), "check")
    assert result.exit_code == 1
    assert "✗" in result.stdout
    assert "could not be compared" in result.stdout


def test_check_of_a_folder_that_is_missing_or_holds_something_else(folder: Path) -> None:
    config = write_config(folder)
    (folder / "books.duckdb").write_text("not a store")
    assert "not a DuckDB file" in run("--config", config, "check").stdout
    Path(config).write_text(Path(config).read_text().replace("duckdb:books", "duckdb:none/books"))
    assert "install -d" in run("--config", config, "check").stdout


def test_status_with_the_daemon_down(folder: Path, database: Database) -> None:
    config = write_config(folder, database.url)
    before = json.loads(run("--config", config, "status", "--json").stdout)
    assert before["store"] == {"url": "duckdb:books.duckdb", "batch_seq": None, "applied_at": None}
    fill(config)
    result = run("--config", config, "status", "--json")
    status = json.loads(result.stdout)
    [source] = status["sources"]
    assert result.exit_code == 3
    assert status["daemon"] == "down"
    assert (source["name"], source["kind"], source["state"], source["position"]) == ("shop", "postgres", "down", "0/10")
    assert (source["quarantined"], source["last_error"]) == (2, None)
    assert source["lag_bytes"] > 0
    assert source["lag_seconds"] >= 0
    assert "0/10" in run("--config", config, "status").stdout


def test_status_of_a_source_that_does_not_answer_has_nulls_and_the_error(folder: Path) -> None:
    result = run("--config", write_config(folder), "status", "--json")
    [source] = json.loads(result.stdout)["sources"]
    assert result.exit_code == 3
    assert (source["lag_bytes"], source["lag_seconds"], source["retained_bytes"]) == (None, None, None)
    assert source["last_error"].keys() == {"code", "message", "hint", "at"}


def streaming(**changes: Any) -> dict[str, Any]:
    source = {"state": "streaming", "quarantined": 0, "lag_seconds": 1.0, **changes}
    return {"daemon": changes.pop("daemon", "up"), "sources": [source]}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"lag_seconds": 61.0}, False),
        ({"lag_seconds": None}, False),
        ({"state": "snapshot", "lag_seconds": None}, True),
        ({"state": "halted"}, False),
        ({"state": "down"}, False),
        ({"quarantined": 1}, False),
        ({"daemon": "down"}, False),
    ],
)
def test_status_is_fine_or_degraded(changes: dict[str, Any], expected: bool) -> None:
    assert fine(streaming(**changes), 60.0) is expected


def test_status_and_actions_go_to_a_running_daemon(folder: Path) -> None:
    config = write_config(folder)
    fill(config)
    asked: list[dict[str, Any]] = []
    source = {
        "name": "shop",
        "kind": "postgres",
        "state": "streaming",
        "position": "0/20",
        "lag_seconds": 0.0,
        "lag_bytes": 0,
        "retained_bytes": 56,
        "purged_in_seconds": None,
        "changes_per_second": 1234.0,
        "snapshot": None,
        "quarantined": 0,
        "last_error": None,
    }

    def settle(request: dict[str, Any]) -> object:
        asked.append(request)
        return {"items": len(request["ids"]), "still_quarantined": 1}

    def copy(request: dict[str, Any]) -> object:
        if request["source"] != "shop":
            raise StoreError("cli.no_item", id=request["source"])
        return {"tables": request["tables"] or ["orders"]}

    store = build.sink(load(config))
    status = {"daemon": "up", "store": {"url": "duckdb:books.duckdb", "batch_seq": 7, "applied_at": "x"}, "sources": [source]}
    server = Server(folder / "books.duckdb.sock", 0o600, store.reader, {"status": lambda _: status, "quarantine": settle, "snapshot": copy})
    server.start()
    try:
        shown = run("--config", config, "status")
        assert (shown.exit_code, "1,234" in shown.stdout, "0/20" in shown.stdout) == (0, True, True)
        assert json.loads(run("--config", config, "status", "--json").stdout) == status
        retried = run("--config", config, "quarantine", "retry", "--all")
        assert retried.exit_code == 1  # one row is in quarantine still
        assert (asked[0]["action"], len(asked[0]["ids"])) == ("retry", 2)
        assert run("--config", config, "quarantine", "ignore", asked[0]["ids"][0].upper()).exit_code == 0
        assert asked[1] == {**asked[0], "action": "ignore", "ids": [asked[0]["ids"][0]]}
        assert run("--config", config, "snapshot", "shop.orders").stdout == "The daemon copies anew: shop.orders\n"
        assert run("--config", config, "snapshot", "nowhere").exit_code == 1
        assert "a daemon runs" in run("--config", config, "check").stdout
    finally:
        server.close()
        store.close()


def test_quarantine_with_the_daemon_down(folder: Path) -> None:
    config = write_config(folder)
    fill(config)
    items = json.loads(run("--config", config, "quarantine", "list", "--format", "json").stdout)
    assert [item["row_key"] for item in sorted(items, key=lambda i: i["row_key"])] == ['{"id": 0}', '{"id": 1}']
    shown = run("--config", config, "quarantine", "show", items[0]["id"][:13])
    assert "debit 1, credit 2" in shown.stdout
    assert "debit and credit differ" in shown.stdout
    assert run("--config", config, "quarantine", "ignore", items[0]["id"]).exit_code == 0
    left = json.loads(run("--config", config, "quarantine", "list", "--format", "json").stdout)
    assert [item["id"] for item in left] == [items[1]["id"]]
    assert len(json.loads(run("--config", config, "quarantine", "list", "--all", "--format", "json").stdout)) == 2
    unknown = run("--config", config, "quarantine", "ignore", items[0]["id"])
    assert unknown.exit_code == 1
    assert items[0]["id"] in unknown.stderr


def test_snapshot_with_the_daemon_down_marks_the_tables(folder: Path) -> None:
    config = write_config(folder)
    fill(config)
    assert run("--config", config, "snapshot", "shop").stdout == "The next 'ledgertail run' copies anew: shop.orders\n"
    rows = run("--config", config, "query", 'SELECT "table", state FROM meta.snapshots', "--format", "csv").stdout
    assert rows.splitlines() == ["table,state", "orders,wanted"]
    assert run("--config", config, "snapshot", "shop.nothing").exit_code == 2
    assert run("--config", config, "snapshot", "nowhere").exit_code == 2
