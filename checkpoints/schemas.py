"""A TableSchema as text and back, exactly, Arrow types included."""

from __future__ import annotations

import base64
import json

import pyarrow as pa

from cdc.types import Column, TableSchema


def dumps(schema: TableSchema) -> str:
    """The schema as JSON; its Arrow types as base64 of Arrow's own serialised schema."""
    return json.dumps(
        {
            "source": schema.source,
            "table": schema.table,
            "key": schema.key,
            "columns": [[c.name, c.store_type, c.source_type] for c in schema.columns],
            "arrow": base64.b64encode(schema.arrow().serialize().to_pybytes()).decode("ascii"),
        },
        ensure_ascii=False,
    )


def loads(text: str) -> TableSchema:
    """What `dumps` wrote."""
    data = json.loads(text)
    arrow = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(data["arrow"])))
    columns = tuple(
        Column(name, field.type, store_type, source_type)
        for (name, store_type, source_type), field in zip(data["columns"], arrow, strict=True)
    )
    return TableSchema(data["source"], data["table"], columns, tuple(data["key"]))
