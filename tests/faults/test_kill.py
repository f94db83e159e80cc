"""SIGKILL at random moments, under load: nothing is lost, nothing comes twice, nothing is ever visible in part."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import SEED
from tests.faults.dialects import AnyDatabase
from tests.faults.ledger import Watcher, assert_caught_up
from tests.faults.shop import CONFIG, Load, create
from tests.servers.own_server import poll
from tests.servers.postgres import Database

KILLS = int(os.environ.get("LEDGERTAIL_TEST_KILLS", "24"))  # on PostgreSQL; a third on each of the others
ORDERS = 40_000


def daemon(config: Path, *options: str) -> subprocess.Popen[bytes]:
    """The daemon as a process of its own, logging beside its config."""
    with (config.parent / "log").open("ab") as log:
        return subprocess.Popen([sys.executable, "-m", "cdc.cli", "--config", config, "run", *options], stdout=log, stderr=log)


@pytest.mark.timeout(900)
def test_killed_under_load(source_database: AnyDatabase, tmp_path: Path) -> None:
    rng, kills = random.Random(SEED), KILLS if isinstance(source_database, Database) else KILLS // 3
    create(source_database, ORDERS)
    config = tmp_path / "ledgertail.toml"
    config.write_text(CONFIG.format(folder=tmp_path, url=source_database.url))
    load, watcher = Load(source_database, sessions=8, seed=SEED, pause_s=0.05), Watcher(config)
    load.start()
    watcher.start()
    try:
        for kill in range(kills):
            if kill == kills // 3:
                _let_the_copy_finish(config, watcher)
            process = daemon(config)
            time.sleep(rng.uniform(0.5, 3.0))
            assert process.poll() is None, _log(config)
            process.send_signal(signal.SIGKILL)
            process.wait()
    finally:
        load.stop()
        watcher.stop()
    assert not load.errors
    last = daemon(config, "--until-caught-up")
    assert last.wait(timeout=300) == 0, _log(config)
    assert watcher.broken == []
    assert watcher.moments > 0
    assert_caught_up(source_database, config)
    print(f"{load.transactions} transactions, {watcher.moments} moments")


def _let_the_copy_finish(config: Path, watcher: Watcher) -> None:
    """Run until the mirrors are there to be read; the kills after that hit the stream."""
    process = daemon(config)
    try:
        poll(lambda: watcher.moments > 0 or process.poll() is not None, "the first snapshot is never visible", patience_s=240)
        assert process.poll() is None, _log(config)
    finally:
        process.kill()
        process.wait()


def _log(config: Path) -> str:
    return (config.parent / "log").read_text()[-4000:]
