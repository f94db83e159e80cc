"""What goes over the socket. One request a connection.

    request   one line of JSON: {"do": "query", "sql": ..., "parameters": [...]} | {"do": "status"} | {"do": <action>, ...}
    answer    one line of JSON: {"ok": true, "result": ...} | {"error": {"code", "message", "hint"}}
    a query's answer has no result; after its line come an Arrow IPC stream and a last line, {"ok": true} or {"error": ...}:
    a stream without it was broken off and is not whole

Parameters JSON has no type for go as {"<type>": "<text>"}, such as {"decimal": "1.50"}.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from cdc.errors import LedgertailError, StoreError

REQUEST_BYTES_MAX = 1 << 20
_TYPES: dict[str, Any] = {
    "decimal": (Decimal, str, Decimal),
    "datetime": (datetime, datetime.isoformat, datetime.fromisoformat),
    "date": (date, date.isoformat, date.fromisoformat),
    "uuid": (UUID, str, UUID),
}


def line(message: dict[str, Any]) -> bytes:
    """A message as one line. Raises TypeError for what JSON can't carry."""
    return json.dumps(message, ensure_ascii=False).encode() + b"\n"


def failure(error: LedgertailError) -> dict[str, Any]:
    """An error as an answer."""
    return {"error": {"code": error.code, "message": error.message, "hint": error.hint}}


def pack(parameters: Sequence[object]) -> list[object]:
    """Query parameters as JSON values. Raises StoreError for a type that can't be sent."""
    return [_pack(value) for value in parameters]


def unpack(parameters: Sequence[object]) -> list[object]:
    """The inverse of `pack`. Raises ValueError, KeyError or ArithmeticError for what it can't have made."""
    return [_unpack(value) for value in parameters]


def _pack(value: object) -> object:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list):
        return [_pack(item) for item in value]
    for name, (cls, write, _) in _TYPES.items():
        if isinstance(value, cls):
            return {name: write(value)}
    raise StoreError("serving.parameter", type=type(value).__name__)


def _unpack(value: object) -> object:
    if isinstance(value, list):
        return [_unpack(item) for item in value]
    if not isinstance(value, dict):
        return value
    [(name, text)] = value.items()
    return _TYPES[name][2](text)
