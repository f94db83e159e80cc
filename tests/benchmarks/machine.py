"""What figures depend on: the machine, and the versions of all that runs on it."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import duckdb
import psutil
import psycopg
import pyarrow as pa

from cdc.decode import kernels


def machine() -> dict[str, Any]:
    """`load` is the number of busy processes before the start: above 0.5 the figures are noisy."""
    return {
        "cores": os.cpu_count(),
        "cpu": _cpu(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "load": round(os.getloadavg()[0], 2),
        "duckdb": duckdb.__version__,
        "pyarrow": pa.__version__,
        "psycopg": f"{psycopg.__version__} ({psycopg.pq.__impl__})",
        "python": platform.python_version(),
        "kernels": ", ".join(f"{kind} {kernels.kernel(kind).form}" for kind in kernels.KINDS),
    }


def commit() -> str:
    """The commit that is measured, with a + behind it if files differ from it; empty where there is no git."""
    command = ["git", "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
    told = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
    return told.stdout.strip()


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())
