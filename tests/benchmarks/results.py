"""Results as JSON files, and the table of README's that is made of such files."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.benchmarks.figures import Figure, markdown
from tests.benchmarks.machine import commit


def save(path: Path, arguments: Sequence[str], machine: dict[str, Any], figures: Iterable[Figure]) -> None:
    """Write what was measured, when, of which commit, by which command and on which machine."""
    told = [each for each in arguments if each not in ("--json", str(path))]
    command = shlex.join(["python", "-m", "tests.benchmarks", *told])
    at = datetime.now(UTC).isoformat(timespec="seconds")
    facts = {"at": at, "commit": commit(), "command": command, "machine": machine, "figures": [figure.facts() for figure in figures]}
    path.write_text(json.dumps(facts, ensure_ascii=False, indent=2) + "\n", "utf-8")


def shown(paths: Iterable[Path]) -> str:
    """Files' figures that have a goal, in Markdown, and below them what they were measured by."""
    files = [json.loads(path.read_text("utf-8")) for path in paths]
    figures = [Figure.of(facts) for file in files for facts in file["figures"]]
    return "\n".join([markdown(figures), *(f"\n{_origin(file)}" for file in files)])


def _origin(file: dict[str, Any]) -> str:
    machine = ", ".join(f"{name} {value}" for name, value in file["machine"].items())
    return f"`{file['command']}`, {file['at'][:10]}, commit {file['commit']}: {machine}."
