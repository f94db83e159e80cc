"""A published lake, read as another program would."""

from __future__ import annotations

from pathlib import Path

import duckdb

from sinks import ducklake


def read(folder: Path, sql: str) -> list[tuple[object, ...]]:
    """What another process reads in the lake."""
    with duckdb.connect(config={"extension_directory": str(folder / "none")}) as lake:
        for name in ("sqlite_scanner", "ducklake"):
            lake.execute(f"LOAD '{ducklake._extension(name)}'")
        place = str(folder).replace("'", "''")
        lake.execute(f"ATTACH 'ducklake:sqlite:{place}/catalog.sqlite' AS lake (READ_ONLY)")
        lake.execute("USE lake")
        return lake.execute(sql).fetchall()
