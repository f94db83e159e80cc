"""The daemon with nothing to do: how soon it streams, what it costs, and how fast `ledgertail status` answers.

Beside `status`: the interpreter starting and doing nothing.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from tests.benchmarks.figures import Figure, Goal, progress
from tests.benchmarks.programs import catch_up, cpu_s, running
from tests.benchmarks.shop_mysql import MysqlShop
from tests.benchmarks.shop_postgres import PostgresShop
from tests.servers.account import environment

NAME = "idle"
GOAL_START, GOAL_CPU, GOAL_STATUS = Goal(2, most=True), Goal(1, most=True), Goal(0.3, most=True)
SETTLE_S, ASKED = 2.0, 9


def measure(shop: PostgresShop | MysqlShop, folder: Path, seconds: int) -> list[Figure]:
    """Start the daemon on a store it knows, and look at it for so many seconds. Raises Failed."""
    config = shop.config(folder)
    catch_up(shop.server, config)
    progress(f"idle: {seconds} s on {shop.title}")
    begun = time.perf_counter()
    with running(config) as process:
        started_s = time.perf_counter() - begun
        time.sleep(SETTLE_S)
        used_s, begun = cpu_s(process.pid), time.perf_counter()
        time.sleep(seconds)
        busy = (cpu_s(process.pid) - used_s) / (time.perf_counter() - begun)
        resident = psutil.Process(process.pid).memory_info().rss
        status_s = _median_s([sys.executable, "-m", "cdc.cli", "--config", str(config), "status"])
        nothing_s = _median_s([sys.executable, "-c", ""])
    return [
        Figure(NAME, f"{shop.title}, from the start of the process to streaming", "s", started_s, goal=GOAL_START),
        Figure(NAME, f"{shop.title}, CPU", "% of a core", 100 * busy, goal=GOAL_CPU),
        Figure(NAME, f"{shop.title}, memory resident", "MB", resident / 1e6),
        Figure(NAME, f"{shop.title}, `ledgertail status`", "s", status_s, nothing_s, "`python -c ''`", GOAL_STATUS),
    ]


def _median_s(command: Sequence[str]) -> float:
    """Seconds a program takes, by the median."""
    taken = []
    for _ in range(ASKED):
        begun = time.perf_counter()
        subprocess.run(command, stdout=subprocess.DEVNULL, env=environment(), check=True)
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken)
