"""`ledgertail query` on a real store: exact values in every format, from the file and from a running daemon's socket."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import duckdb
import pytest
from click.testing import CliRunner, Result
from pyarrow import parquet

from cdc.cli import main
from cdc.serving.server import Server

VALUES = """
    CREATE TABLE t (
        amount DECIMAL(38, 6), rate DECIMAL(38, 12), n HUGEINT, who VARCHAR, moment TIMESTAMPTZ, parts DECIMAL(9, 2)[], f DOUBLE);
    INSERT INTO t VALUES
        (12345678901234567890123456789012.100000, 0.000000000001, 170141183460469231731687303715884105727, 'Zhang, "三"\r\n',
            '2026-11-22 10:00:00+08', [1.10, NULL], 0.5),
        (-0.100000, 0, 0, '', NULL, [], 'nan'),
        (NULL, NULL, NULL, NULL, NULL, NULL, NULL);
"""


@pytest.fixture(params=["file", "socket"])
def config(request: pytest.FixtureRequest) -> Iterator[str]:
    """A config whose store is read from its file, or through a server."""
    with tempfile.TemporaryDirectory(prefix="lt-") as name:
        path = Path(name) / "ledgertail.toml"
        path.write_text("[store]\nurl = 'duckdb:books.duckdb'\nsocket = 's.sock'\n")
        with duckdb.connect(f"{name}/books.duckdb", config={"enable_external_access": "false"}) as store:
            store.execute(VALUES)
            if request.param == "socket":
                server = Server(Path(name) / "s.sock", 0o600, store.cursor, {})
                server.start()
                yield str(path)
                server.close()
        if request.param == "file":
            yield str(path)


def run(*arguments: str) -> Result:
    result = CliRunner().invoke(main, list(arguments), env={"LEDGERTAIL_LANG": "en", "COLUMNS": "120"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_csv_is_rfc_4180_with_exact_decimals(config: str) -> None:
    output = run("query", "FROM t", "--format", "csv", "--config", config).stdout_bytes.decode("utf-8")
    assert output.startswith("amount,rate,n,who,moment,parts,f\r\n12345678901234567890123456789012.100000,0.000000000001,")
    rows = list(csv.DictReader(io.StringIO(output, newline="")))
    assert [row["amount"] for row in rows] == ["12345678901234567890123456789012.100000", "-0.100000", ""]
    assert [row["rate"] for row in rows] == ["0.000000000001", "0.000000000000", ""]
    assert rows[0]["n"] == "170141183460469231731687303715884105727"
    assert rows[0]["who"] == 'Zhang, "三"\r\n'
    assert rows[0]["moment"] == "2026-11-22 02:00:00+00"


def test_json_has_decimals_as_text_also_inside_lists(config: str) -> None:
    rows = json.loads(run("--config", config, "query", "FROM t", "--format", "json").stdout)
    assert [row["amount"] for row in rows] == ["12345678901234567890123456789012.100000", "-0.100000", None]
    assert [row["parts"] for row in rows] == [["1.10", None], [], None]
    assert [row["f"] for row in rows] == [0.5, "nan", None]
    assert rows[0]["n"] == "170141183460469231731687303715884105727"
    assert rows[0]["who"] == 'Zhang, "三"\r\n'


def test_json_numbers_columns_of_one_name_and_an_empty_answer_is_an_empty_array(config: str) -> None:
    assert json.loads(run("--config", config, "query", 'SELECT 1 AS a, 2 AS a, 3 AS "it\'s"', "--format", "json").stdout) == [
        {"a": 1, "a_1": 2, "it's": 3}
    ]
    assert json.loads(run("--config", config, "query", "FROM t WHERE false", "--format", "json").stdout) == []


def test_parquet_keeps_the_types_and_the_file_appears_whole(config: str, tmp_path: Path) -> None:
    target = tmp_path / "out.parquet"
    assert run("--config", config, "query", "FROM t", "--format", "parquet", "--output", str(target)).exit_code == 0
    table = parquet.read_table(target)
    assert table.column("amount").to_pylist() == [Decimal("12345678901234567890123456789012.100000"), Decimal("-0.100000"), None]
    assert list(tmp_path.iterdir()) == [target]


def test_a_failing_query_leaves_an_output_file_as_it_was(config: str, tmp_path: Path) -> None:
    target = tmp_path / "out.csv"
    target.write_text("former")
    sql = "SELECT CASE WHEN range > 900_000 THEN error('late') ELSE 'x' END AS x FROM range(1_000_000)"
    result = run("--config", config, "query", sql, "--format", "csv", "--output", str(target))
    assert result.exit_code == 1
    assert "late" in result.stderr or "Interrupted" in result.stderr  # now and then DuckDB names the one, now the other
    assert target.read_text() == "former"
    assert list(tmp_path.iterdir()) == [target]


def test_a_table_aligns_amounts_right_and_wide_characters_as_two(config: str) -> None:
    lines = run(
        "--config", config, "query", "SELECT * FROM (VALUES ('税', 1.50, 'a'), ('ab', 22.25, 'b')) AS v(name, amount, z)"
    ).stdout.splitlines()
    assert [line.rstrip() for line in lines if line.strip()][2:] == [" 税       1.50   a", " ab      22.25   b"]


def test_a_long_table_is_cut_with_notice(config: str) -> None:
    result = run("--config", config, "query", "SELECT range AS i FROM range(5000)")
    assert result.stdout.splitlines()[-1].strip() == "999"
    assert "first 1000 rows" in result.stderr
    assert run("--config", config, "query", "SELECT range AS i FROM range(1000)").stderr == ""


def test_text_from_the_data_can_not_command_the_terminal(config: str) -> None:
    assert "\x1b" not in run("--config", config, "query", "SELECT 'x' || chr(27) || '[2J' AS evil").stdout


@pytest.mark.parametrize(
    ("sql", "words"),
    [("DELETE FROM t", "only a single SELECT"), ("FROM nothing", "nothing"), ("FROM read_text('/etc/passwd')", "disabled")],
)
def test_a_refused_query_says_why_and_what_to_do(config: str, sql: str, words: str) -> None:
    result = run("--config", config, "query", sql)
    assert result.exit_code == 1
    assert words in result.stderr
    assert "what to do: " in result.stderr
    assert result.stdout == ""


_MEASURED = """
import sys
from pathlib import Path
from cdc.cli import main
main(standalone_mode=False)
print(next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")).split()[1], file=sys.stderr)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc to read a process's peak memory from")
def test_a_long_answer_goes_out_in_bounded_memory(config: str, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(_MEASURED)

    def peak_kb(rows: int) -> int:
        sql = f"SELECT range AS i, repeat('x', 100) AS s FROM range({rows})"
        command = [sys.executable, str(program), "--config", config, "query", sql, "--format", "csv"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            assert sum(1 for _ in process.stdout) == rows + 1
            return int(process.stderr.read())

    assert peak_kb(500_000) < peak_kb(50_000) + 30_000  # the answer has 55 MB
