"""What is measured, the machine it was measured on, and how both are shown."""

from __future__ import annotations

import os
import platform
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import psutil
import psycopg
import pyarrow as pa

_begun = time.monotonic()


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of ours in `unit`, and the same of `beside`, the reference. None where there is none to tell."""

    benchmark: str
    what: str
    unit: str
    ours: float | None
    reference: float | None = None
    beside: str = ""

    @property
    def ratio(self) -> float | None:
        """Ours over the reference's."""
        return self.ours / self.reference if self.ours is not None and self.reference else None

    def facts(self) -> dict[str, Any]:
        """As JSON carries it."""
        numbers = {"ours": self.ours, "reference": self.reference, "ratio": self.ratio}
        named = {"benchmark": self.benchmark, "what": self.what, "unit": self.unit, "beside": self.beside}
        return {**named, **{name: None if number is None else round(number, 3) for name, number in numbers.items()}}


def progress(text: str) -> None:
    """A line on stderr with the seconds since the start."""
    print(f"{time.monotonic() - _begun:6.1f} s  {text}", file=sys.stderr, flush=True)


def table(figures: list[Figure]) -> str:
    """The figures as lines for people."""
    head = ("benchmark", "figure", "unit", "ours", "reference", "ratio", "reference is")
    rows = [(f.benchmark, f.what, f.unit, _number(f.ours), _number(f.reference), _number(f.ratio), f.beside) for f in figures]
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    return "\n".join(_line(row, widths) for row in (head, *rows))


def machine(postgres: str) -> dict[str, Any]:
    """What the figures depend on. `load` is the number of busy processes before the start: above 0.5 the figures are noisy."""
    return {
        "cores": os.cpu_count(),
        "cpu": _cpu(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "load": round(os.getloadavg()[0], 2),
        "postgresql": postgres,
        "duckdb": duckdb.__version__,
        "pyarrow": pa.__version__,
        "psycopg": f"{psycopg.__version__} ({psycopg.pq.__impl__})",
        "python": platform.python_version(),
    }


def _line(cells: tuple[str, ...], widths: list[int]) -> str:
    numbers = range(3, 6)
    padded = [cell.rjust(width) if i in numbers else cell.ljust(width) for i, (cell, width) in enumerate(zip(cells, widths, strict=True))]
    return "  ".join(padded).rstrip()


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())


def _number(number: float | None) -> str:
    if number is None:
        return "-"
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"
