"""The publication and the slot: looked at, made where they are missing, refused where they would lose changes.

Manual: 'CREATE PUBLICATION', 'pg_replication_slots', 'pg_publication_rel'.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql

from cdc.decode.postgres.pgoutput import lsn_int
from cdc.errors import PositionLost, SourceError, SourceUnavailable
from cdc.sources.postgres.catalog import Table
from cdc.sources.postgres.connection import LOCK_TIMEOUT_MS, Connection, quoted
from cdc.texts import text

LOCK_TRIES = 40
LOCK_PAUSE_SECONDS = 0.25
_PUBLICATION = """
SELECT oid::int8, puballtables, pubinsert, pubupdate, pubdelete, pubtruncate, to_jsonb(p) FROM pg_publication p WHERE pubname = %s
"""


@dataclass(frozen=True, slots=True)
class Slot:
    """A row of pg_replication_slots. Positions are LSNs, 0 where unknown; `lost` says why the server gave it up."""

    name: str
    plugin: str
    database: str
    active_pid: int | None
    confirmed: int
    restart: int
    lost: str | None


@dataclass(frozen=True, slots=True)
class Publication:
    """A publication; `tables` are the members named one by one, by relid, with the oid of the membership; `plain` those without
    row filter and column list."""

    all_tables: bool
    missing_actions: tuple[str, ...]
    via_root: bool
    schemas: frozenset[str]
    tables: dict[int, int]
    plain: frozenset[int]

    def has(self, table: Table) -> bool:
        return self.all_tables or table.namespace in self.schemas or table.relid in self.tables

    def membership(self, table: Table) -> int:
        """The oid of a table's membership: another one means the table was out of the publication in between."""
        return self.tables.get(table.relid, 0)


def slot_name(source: str, store_id: str, configured: str | None) -> str:
    """The slot a source of a store uses."""
    return configured or f"ledgertail_{source}_{store_id.replace('-', '')[:8]}".lower()


def publication_name(source: str, configured: str | None) -> str:
    """The publication a source uses."""
    return configured or f"ledgertail_{source}"


def slot_of(connection: Connection, name: str) -> Slot | None:
    """What the server knows of a slot; None if there is none of this name."""
    rows = connection.execute("SELECT to_jsonb(s) FROM pg_replication_slots s WHERE slot_name = %s", (name,)).fetchall()
    if not rows:
        return None
    facts = rows[0][0]
    lost = facts.get("invalidation_reason") or ("wal_removed" if facts.get("wal_status") == "lost" else None)
    return Slot(
        name,
        facts["plugin"] or "",
        facts["database"] or "",
        facts["active_pid"],
        lsn_int(facts["confirmed_flush_lsn"] or "0/0"),
        lsn_int(facts["restart_lsn"] or "0/0"),
        lost or ("conflict" if facts.get("conflicting") else None),
    )


def drop_slot(connection: Connection, name: str) -> None:
    """Drop a slot that is of no use any more."""
    connection.execute("SELECT pg_drop_replication_slot(%s)", (name,))


def check_slot(source: str, slot: Slot, database: str) -> None:
    """Raise SourceError for a slot that is not ours to read, SourceUnavailable for one that somebody reads."""
    if slot.plugin != "pgoutput" or slot.database != database:
        raise SourceError("source.slot_foreign", source=source, slot=slot.name, plugin=slot.plugin, database=slot.database)
    if slot.active_pid is not None:
        raise SourceUnavailable("source.slot_active", source=source, slot=slot.name, pid=slot.active_pid)


def check_position(source: str, slot: Slot | None, name: str, position: int) -> None:
    """Raise PositionLost unless the slot still holds all from `position` on."""
    if slot is None:
        raise PositionLost("source.slot_missing", source=source, slot=name)
    if slot.lost is not None:
        raise PositionLost("source.slot_lost", source=source, slot=name, detail=slot.lost)
    if slot.confirmed > position:
        raise PositionLost("source.slot_moved", source=source, slot=name)


def publication_of(connection: Connection, name: str) -> Publication | None:
    """What the server knows of a publication; None if there is none of this name."""
    row = connection.execute(_PUBLICATION, (name,)).fetchone()
    if row is None:
        return None
    oid, all_tables, *actions, facts = row
    members = connection.execute("SELECT to_jsonb(r) FROM pg_publication_rel r WHERE prpubid = %s::oid", (oid,)).fetchall()
    missing = tuple(name for name, there in zip(("insert", "update", "delete", "truncate"), actions, strict=True) if not there)
    schemas: Iterable[tuple[str]] = ()
    if connection.info.server_version >= 150000:
        schemas = connection.execute(
            "SELECT nspname FROM pg_publication_namespace JOIN pg_namespace n ON n.oid = pnnspid WHERE pnpubid = %s::oid", (oid,)
        ).fetchall()
    tables = {int(m["prrelid"]): int(m["oid"]) for (m,) in members}
    plain = {int(m["prrelid"]) for (m,) in members if m.get("prqual") is None and m.get("prattrs") is None}
    via_root = bool(facts.get("pubviaroot"))
    return Publication(all_tables, missing, via_root, frozenset(s for (s,) in schemas), tables, frozenset(plain))


def ensure_publication(connection: Connection, source: str, name: str, tables: Sequence[Table], create: bool) -> Publication:
    """Make the publication, or add to it the tables it lacks. Raises SourceError with the SQL where it may not or must not."""
    found = publication_of(connection, name)
    if found is None:
        if not create:
            raise SourceError("source.publication_missing", source=source, publication=name, sql=creation(name, tables))
        _execute(connection, source, creation(name, tables))
    else:
        check_publication(source, name, found, tables)
        if absent := [table for table in tables if not found.has(table)]:
            if not create:
                raise SourceError("source.publication_lacks", source=source, publication=name, sql=addition(name, absent))
            _execute(connection, source, addition(name, absent))
    made = publication_of(connection, name)
    if made is None or not all(map(made.has, tables)):
        raise SourceUnavailable("source.publication_changed", source=source, publication=name)
    return made


def check_publication(source: str, name: str, found: Publication, tables: Sequence[Table]) -> None:
    """Raise SourceError for a publication that would leave changes out."""
    for fault, mend in publication_faults(name, found, tables):
        raise SourceError("source.publication_partial", source=source, publication=name, fault=fault, sql=mend)


def publication_faults(name: str, found: Publication, tables: Sequence[Table]) -> list[tuple[str, str]]:
    """What a publication leaves out, each with the SQL that mends it."""
    faults = []
    if found.missing_actions:
        mend = f"ALTER PUBLICATION {quoted(name)} SET (publish = 'insert, update, delete, truncate')"
        faults.append((text("source.publication_fault.actions", actions=", ".join(found.missing_actions)), mend))
    if found.via_root:
        mend = f"ALTER PUBLICATION {quoted(name)} SET (publish_via_partition_root = false)"
        faults.append((text("source.publication_fault.via_root"), mend))
    for table in tables:
        relids = {table.relid, *(leaf.relid for leaf in table.leaves)} & found.tables.keys()
        if not relids <= found.plain:
            mend = f"ALTER PUBLICATION {quoted(name)} DROP TABLE {table.sql}; {addition(name, [table])}"
            faults.append((text("source.publication_fault.filtered", table=table.name), mend))
    return faults


def creation(name: str, tables: Sequence[Table]) -> str:
    """The SQL that makes the publication."""
    return f"CREATE PUBLICATION {quoted(name)} FOR TABLE {', '.join(table.sql for table in tables)}"


def addition(name: str, tables: Sequence[Table]) -> str:
    """The SQL that adds tables to the publication."""
    return f"ALTER PUBLICATION {quoted(name)} ADD TABLE {', '.join(table.sql for table in tables)}"


def _execute(connection: Connection, source: str, statement: str) -> None:
    """Run DDL that takes short locks: give way to whoever is in the way, and try again for ten seconds."""
    for _ in range(LOCK_TRIES):
        try:
            with connection.transaction():
                connection.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(sql.Literal(LOCK_TIMEOUT_MS)))
                connection.execute(statement.encode())
            return
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DuplicateObject):
            time.sleep(LOCK_PAUSE_SECONDS)
    raise SourceUnavailable("source.publication_locked", source=source, sql=statement)
