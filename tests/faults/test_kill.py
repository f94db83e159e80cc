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

from tests.faults.ledger import Watcher, assert_caught_up
from tests.faults.shop import CONFIG, Load, create
from tests.servers.postgres import Database

KILLS = int(os.environ.get("LEDGERTAIL_TEST_KILLS", "60"))
ORDERS = 40_000


def daemon(config: Path, *options: str) -> subprocess.Popen[bytes]:
    """The daemon as a process of its own, logging beside its config."""
    with (config.parent / "log").open("ab") as log:
        return subprocess.Popen([sys.executable, "-m", "cdc.cli", "--config", config, "run", *options], stdout=log, stderr=log)


@pytest.mark.timeout(900)
def test_killed_under_load(database: Database, tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(1 << 30)
    print(f"seed {seed}")
    rng = random.Random(seed)
    create(database, ORDERS)
    config = tmp_path / "ledgertail.toml"
    config.write_text(CONFIG.format(folder=tmp_path, url=database.url))
    load, watcher = Load(database, sessions=8, seed=seed, pause_s=0.05), Watcher(config)
    load.start()
    watcher.start()
    try:
        for _ in range(KILLS):
            process = daemon(config)
            time.sleep(rng.uniform(0.3, 3.0))
            assert process.poll() is None, (tmp_path / "log").read_text()[-4000:]
            process.send_signal(signal.SIGKILL)
            process.wait()
    finally:
        load.stop()
        watcher.stop()
    assert not load.errors
    last = daemon(config, "--until-caught-up")
    assert last.wait(timeout=300) == 0, (tmp_path / "log").read_text()[-4000:]
    assert watcher.broken == []
    assert_caught_up(database, config)
    print(f"{load.transactions} transactions, {watcher.moments} moments")
