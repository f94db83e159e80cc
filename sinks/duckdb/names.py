"""How names are written in the store's SQL."""

from __future__ import annotations

from cdc.types import TableSchema


def quoted(name: str) -> str:
    """A name as an SQL identifier, whatever it holds."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text as an SQL literal. For statements run at every commit: each bound parameter makes DuckDB look for pandas on the disk."""
    return "'" + text.replace("'", "''") + "'"


def listed(names: list[str], prefix: str = "") -> str:
    """Names as a list of quoted identifiers, each behind `prefix` (`t.`)."""
    return ", ".join(prefix + quoted(name) for name in names)


def mirror_table(schema: TableSchema) -> str:
    """A table's mirror: `"mirror_shop"."orders"`."""
    return f"{quoted('mirror_' + schema.source)}.{quoted(schema.table)}"


def staged_table(schema: TableSchema) -> str:
    """A table's staged copy: `"staging_shop"."orders"`."""
    return f"{quoted('staging_' + schema.source)}.{quoted(schema.table)}"
