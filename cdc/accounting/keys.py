"""What tells the rows of a table apart: the row_key, its hash, and the relation `c` of changes that have both."""

from __future__ import annotations

import json
from collections.abc import Mapping

from cdc.accounting.expressions import INTEGERS
from cdc.accounting.sql import literal, quote
from cdc.errors import SchemaUnknown
from cdc.types import NUMBER, TableSchema

_RESERVED = {"#", "#op", "#txn", "#ordinal", "#rid", "#key", "#hash", "#n", "#stamp", "#absent", "#position", "#xid", "#committed_at"}
_JSON_NUMBERS = INTEGERS | {"BOOLEAN"}


def check_names(schema: TableSchema) -> None:
    """Raises SchemaUnknown for column names the store can't keep apart, or that are Ledgertail's own."""
    seen: set[str] = set()
    for column in schema.columns:
        folded = column.name.casefold()
        if folded in seen or folded in _RESERVED or folded.startswith("#old:"):
            raise SchemaUnknown("rules.column_name", table=schema.name, column=column.name)
        seen.add(folded)


def keyed(schema: TableSchema) -> str:
    """SQL over `changes` and `txns` for the relation `c`: the changes with `#rid` (log order), `#key` (row_key), `#hash` (row_hash) and
    their transaction's `#position`, `#xid` and `#committed_at`."""
    return f"""SELECT k.*, t.position AS "#position", t.txn AS "#xid", t.committed_at AS "#committed_at",
        {row_hash(schema)} AS "#hash"
        FROM (SELECT *, row_number() OVER () AS "#rid", {row_key(schema)} AS "#key" FROM changes) k
        JOIN (SELECT *, row_number() OVER () - 1 AS i FROM txns) t ON t.i = greatest(k."#txn", 0)"""


def row_hash(schema: TableSchema) -> str:
    """SQL for the hash of a row's `#key`."""
    return f'md5_number_lower(concat({literal(schema.name)}, chr(0), "#key"))'


def row_key(schema: TableSchema) -> str:
    """SQL for a row's key as a JSON object, `{"id": 17}`: of the key columns, or of all columns and the row's number."""
    kinds = {column.name: column.store_type for column in schema.columns}
    values = {name: json_value(quote(name), kinds[name]) for name in schema.key or kinds}
    if not schema.key:
        values["#"] = quote(NUMBER)
    return f"'{{' || {json_members(values)} || '}}'"


def json_members(values: Mapping[str, str]) -> str:
    """SQL for the members of a JSON object, `"id": 17, "part": "A"`, by SQL for the JSON text of each."""
    return " || ', ' || ".join(f"{literal(json_name(name))} || {value}" for name, value in values.items())


def json_name(name: str) -> str:
    """A member's name as it stands in a JSON object: `"id": `."""
    return json.dumps(name, ensure_ascii=False) + ": "


def json_value(column: str, store_type: str) -> str:
    """SQL for a column's value as JSON text: a number or a truth value as it is, else a string."""
    if store_type in _JSON_NUMBERS or store_type.startswith("DECIMAL"):
        return f"coalesce(CAST({column} AS VARCHAR), 'null')"
    return f"coalesce(CAST(to_json(CAST({column} AS VARCHAR)) AS VARCHAR), 'null')"
