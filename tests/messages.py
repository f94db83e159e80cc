"""Messages of pgoutput built by hand."""

from __future__ import annotations

import struct
from collections.abc import Sequence

ORDERS, LINES, LOG = 100, 200, 300
UNCHANGED = object()  # a value that is stored apart and was left as it is

Row = Sequence[object]


def text(value: str) -> bytes:
    return value.encode() + b"\0"


def begin(commit_lsn: int = 0x16B3748, xid: int = 7) -> bytes:
    return b"B" + struct.pack(">QqI", commit_lsn, 1_000_000, xid)


def commit(commit_lsn: int = 0x16B3748, end_lsn: int = 0x16B3780) -> bytes:
    return b"C" + struct.pack(">BQQq", 0, commit_lsn, end_lsn, 1_000_000)


def relation(relid: int = ORDERS, name: str = "orders", identity: str = "d", columns: str = "id! total note") -> bytes:
    """`columns`: names, those of the identity with an exclamation mark."""
    fields = columns.split()
    head = b"R" + struct.pack(">I", relid) + text("public") + text(name) + identity.encode() + struct.pack(">H", len(fields))
    return head + b"".join(bytes([field.endswith("!")]) + text(field.rstrip("!")) + struct.pack(">Ii", 25, -1) for field in fields)


def image(row: Row) -> bytes:
    parts = [struct.pack(">H", len(row))]
    for value in row:
        if value is None or value is UNCHANGED:
            parts.append(b"n" if value is None else b"u")
        else:
            parts.append(b"t" + struct.pack(">I", len(str(value).encode())) + str(value).encode())
    return b"".join(parts)


def insert(*row: object, relid: int = ORDERS) -> bytes:
    return b"I" + struct.pack(">I", relid) + b"N" + image(row)


def update(new: Row, old: Row | None = None, mark: bytes = b"K", relid: int = ORDERS) -> bytes:
    return b"U" + struct.pack(">I", relid) + (mark + image(old) if old is not None else b"") + b"N" + image(new)


def delete(old: Row, mark: bytes = b"K", relid: int = ORDERS) -> bytes:
    return b"D" + struct.pack(">I", relid) + mark + image(old)


def truncate(*relids: int) -> bytes:
    return b"T" + struct.pack(">IB", len(relids), 1) + b"".join(struct.pack(">I", relid) for relid in relids)
