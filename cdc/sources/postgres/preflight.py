"""Every prerequisite of a PostgreSQL source, each with what mends it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, LiteralString

import psycopg

from cdc.config import SourceConfig
from cdc.errors import LedgertailError, SourceError
from cdc.sources.postgres import slots
from cdc.sources.postgres.catalog import Catalog, Table, identity_fault, split
from cdc.sources.postgres.connection import Connection, connect, quoted
from cdc.texts import text
from cdc.types import Finding

VERSION_MIN, VERSION_MAX = 12, 18
STATUS_SECONDS_MAX = 10_000  # milliseconds: we report at least every ten seconds
_SETTINGS = """
SELECT name, setting FROM pg_settings WHERE name IN ('wal_level', 'max_replication_slots', 'max_wal_senders', 'max_slot_wal_keep_size',
    'wal_sender_timeout', 'output_plugin_libraries', 'idle_replication_slot_timeout', 'hot_standby_feedback')
"""
_ROLE = """
SELECT rolsuper, rolreplication, rolbypassrls OR rolsuper,
       EXISTS (SELECT FROM pg_roles r WHERE r.rolname = 'rds_replication' AND pg_has_role(r.oid, 'MEMBER'))
FROM pg_roles WHERE rolname = current_user
"""
_USED = """
SELECT (SELECT count(*) FROM pg_replication_slots), (SELECT count(*) FROM pg_stat_replication),
       (SELECT count(*) FROM pg_replication_slots WHERE database = current_database() AND CASE WHEN %(slot)s::text IS NULL
            THEN starts_with(slot_name, %(prefix)s) ELSE slot_name = %(slot)s END)
"""
_OPEN = """
SELECT pid, usename, to_char(xact_start, 'YYYY-MM-DD HH24:MI:SS') FROM pg_stat_activity
WHERE xact_start < now() - interval '5 minutes' AND backend_type = 'client backend' ORDER BY xact_start LIMIT 5
"""
_RIGHTS = """
SELECT has_schema_privilege(c.relnamespace, 'USAGE'), has_table_privilege(c.oid, 'SELECT'), pg_has_role(c.relowner, 'USAGE'),
       c.relrowsecurity
FROM pg_class c WHERE c.oid = %s::oid
"""


@dataclass(frozen=True)
class Probe:
    """What the checks look at: one connection, and what was read over it."""

    name: str
    config: SourceConfig
    connection: Connection

    @cached_property
    def version(self) -> int:
        return self.connection.info.server_version // 10000

    @cached_property
    def settings(self) -> dict[str, str]:
        return dict(self.connection.execute(_SETTINGS).fetchall())

    @cached_property
    def catalog(self) -> Catalog:
        return Catalog(self.name, self.config.types)

    @cached_property
    def tables(self) -> dict[str, Table]:
        return self.catalog.find(self.connection, self.config.tables)

    @cached_property
    def user(self) -> str:
        return quoted(self.connection.info.user)

    @cached_property
    def standby(self) -> bool:
        return bool(self.row("SELECT pg_is_in_recovery()")[0])

    def row(self, query: LiteralString, parameters: Any = None) -> tuple[Any, ...]:
        found = self.connection.execute(query, parameters).fetchone()
        assert found is not None
        return found


def examine(probe: Probe) -> list[Finding]:
    """All findings, in the order in which they should be mended."""
    findings = [*_server(probe)]
    if any(finding.level == "fail" for finding in findings):
        return findings
    for check in (_wal_level, _standby, _role, _headroom, _limits, _tables, _publication, _slot, _transactions):
        try:
            findings += check(probe)
        except LedgertailError as error:
            findings.append(Finding("fail", error.message, error.hint))
        except psycopg.errors.InsufficientPrivilege as error:
            findings.append(
                Finding("fail", text("source.check.unreadable", detail=str(error).strip()), f"GRANT pg_monitor TO {probe.user};")
            )
    return findings


def _finding(level: str, code: str, mend: str = "", **values: object) -> Finding:
    return Finding(level, text(f"source.check.{code}", **values), mend)


def _server(probe: Probe) -> Iterator[Finding]:
    if probe.version < VERSION_MIN:
        yield _finding("fail", "version_old", version=probe.version)
    elif probe.version > VERSION_MAX:
        yield _finding("warn", "version_new", version=probe.version)
    else:
        yield _finding("ok", "version", version=probe.version)
    (encoding,) = probe.row("SELECT getdatabaseencoding()")
    yield _finding("fail" if encoding == "SQL_ASCII" else "ok", "encoding", encoding=encoding)


def _wal_level(probe: Probe) -> Iterator[Finding]:
    level = probe.settings["wal_level"]
    if level == "logical":
        yield _finding("ok", "wal_level", wal_level=level)
    else:
        yield _finding("fail", "wal_level", text("source.check.mend_restart", sql="ALTER SYSTEM SET wal_level = logical;"), wal_level=level)


def _standby(probe: Probe) -> Iterator[Finding]:
    if not probe.standby:
        return
    if probe.version < 16:
        yield _finding("fail", "standby_old", text("source.check.mend_primary"))
    elif probe.settings["hot_standby_feedback"] != "on":
        yield _finding("warn", "standby_feedback", "ALTER SYSTEM SET hot_standby_feedback = on; SELECT pg_reload_conf();")


def _role(probe: Probe) -> Iterator[Finding]:
    superuser, replication, _, rds = probe.row(_ROLE)
    if not (superuser or replication or rds):
        yield _finding("fail", "replication_right", f"ALTER ROLE {probe.user} REPLICATION;", user=probe.connection.info.user)
        return
    try:
        connect(probe.name, probe.config, replication=True).close()
    except SourceError as error:
        yield Finding("fail", error.message, error.hint)
    else:
        yield _finding("ok", "replication", user=probe.connection.info.user)


def _headroom(probe: Probe) -> Iterator[Finding]:
    used_slots, used_senders, ours = probe.row(_USED, {"slot": probe.config.slot, "prefix": f"ledgertail_{probe.name}_"})
    # One slot to keep and one, for a moment, for a snapshot; a sender for each, and one to spare while an old one ends.
    for setting, used, needed in (("max_replication_slots", used_slots, 1 if ours else 2), ("max_wal_senders", used_senders, 2)):
        limit = int(probe.settings[setting])
        mend = text("source.check.mend_restart", sql=f"ALTER SYSTEM SET {setting} = {used + needed};")
        level, mend = ("ok", "") if limit - used >= needed else ("fail", mend)
        yield _finding(level, "headroom", mend, setting=setting, limit=limit, used=used, needed=needed)


def _limits(probe: Probe) -> Iterator[Finding]:
    settings = probe.settings
    if settings.get("max_slot_wal_keep_size") == "-1":
        yield _finding("warn", "wal_unbounded", "ALTER SYSTEM SET max_slot_wal_keep_size = '50GB'; SELECT pg_reload_conf();")
    if 0 < int(settings["wal_sender_timeout"]) <= STATUS_SECONDS_MAX:
        mend = "ALTER SYSTEM SET wal_sender_timeout = '60s'; SELECT pg_reload_conf();"
        yield _finding("warn", "sender_timeout", mend, value=settings["wal_sender_timeout"])
    if settings.get("idle_replication_slot_timeout", "0") != "0":
        mend = "ALTER SYSTEM SET idle_replication_slot_timeout = 0; SELECT pg_reload_conf();"
        yield _finding("warn", "idle_slot_timeout", mend, seconds=settings["idle_replication_slot_timeout"])
    libraries = settings.get("output_plugin_libraries")
    if libraries is not None and not {"*", "pgoutput"} & {part.strip().removeprefix("$libdir/") for part in libraries.split(",")}:
        mend = f"ALTER SYSTEM SET output_plugin_libraries = '{', '.join(filter(None, [libraries, 'pgoutput']))}'; SELECT pg_reload_conf();"
        yield _finding("fail", "plugin_refused", mend, value=libraries)


def _tables(probe: Probe) -> Iterator[Finding]:
    for name in probe.config.tables:
        table = probe.tables.get(name)
        if table is None:
            sql_name = ".".join(map(quoted, split(name)))
            yield _fault("table_missing", source=probe.name, table=name, sql_name=sql_name)
            continue
        findings = [*_table_kind(probe, table), *_table_rights(probe, table), *_table_columns(probe, table)]
        yield from findings
        if all(finding.level != "fail" for finding in findings):
            key = ", ".join(table.key)
            yield _finding("ok", "table" if key else "table_keyless", table=name, key=key)


def _fault(code: str, **values: object) -> Finding:
    return Finding("fail", text(f"source.{code}.what", **values), text(f"source.{code}.hint", **values))


def _table_kind(probe: Probe, table: Table) -> Iterator[Finding]:
    if table.partitioned and probe.version < 13:
        yield _fault("partitioned", source=probe.name, table=table.name)
    for leaf in table.leaves:
        values = {"source": probe.name, "table": table.name, "sql_name": leaf.sql}
        if leaf.kind != "r":
            yield _fault("table_kind", **values)
        elif leaf.persistence != "p":
            yield _fault("table_unlogged", **values)
        elif (fault := identity_fault(table, leaf)) is not None:
            yield _fault(fault.removeprefix("source."), **values)


def _table_rights(probe: Probe, table: Table) -> Iterator[Finding]:
    schema, select, _, secured = probe.row(_RIGHTS, (table.relid,))
    if not schema:
        yield _finding("fail", "usage", f"GRANT USAGE ON SCHEMA {quoted(table.namespace)} TO {probe.user};", table=table.name)
    unreadable = [leaf.sql for leaf in table.leaves if not probe.row(_RIGHTS, (leaf.relid,))[1]]
    if not select or unreadable:
        names = ", ".join(dict.fromkeys([table.sql, *unreadable]))
        yield _finding("fail", "select", f"GRANT SELECT ON {names} TO {probe.user};", table=table.name)
    if secured and not probe.row(_ROLE)[2]:
        yield _finding("fail", "row_security", f"ALTER ROLE {probe.user} BYPASSRLS;", table=table.name)


def _table_columns(probe: Probe, table: Table) -> Iterator[Finding]:
    if generated := [column.name for column in table.columns if column.generated]:
        yield _finding("warn", "generated", table=table.name, columns=", ".join(generated))
    for column in probe.catalog.schema(probe.connection, table).columns:
        if column.source_type == "numeric" and column.store_type == "VARCHAR":
            mend = text("source.check.mend_numeric", source=probe.name, table=table.name, column=column.name)
            yield _finding("warn", "numeric_text", mend, table=table.name, column=column.name)


def _publication(probe: Probe) -> Iterator[Finding]:
    name, tables = slots.publication_name(probe.name, probe.config.publication), list(probe.tables.values())
    found = slots.publication_of(probe.connection, name)
    if found is None:
        yield from _publication_makeable(probe, name, tables)
        return
    faults = slots.publication_faults(name, found, tables)
    for fault, mend in faults:
        yield _finding("fail", "publication_partial", f"{mend};", publication=name, fault=fault)
    absent = [table for table in tables if not found.has(table)]
    if absent:
        (owner,) = probe.row("SELECT pg_has_role(pubowner, 'USAGE') FROM pg_publication WHERE pubname = %s", (name,))
        able = probe.config.create and owner and all(probe.row(_RIGHTS, (table.relid,))[2] for table in absent)
        listed = ", ".join(table.name for table in absent)
        level, mend = ("ok", "") if able else ("fail", f"{slots.addition(name, absent)};")
        yield _finding(level, "publication_added" if able else "publication_lacks", mend, publication=name, tables=listed)
    if not faults and not absent:
        yield _finding("ok", "publication", publication=name)


def _publication_makeable(probe: Probe, name: str, tables: list[Table]) -> Iterator[Finding]:
    (allowed,) = probe.row("SELECT has_database_privilege(current_database(), 'CREATE')")
    owned = all(probe.row(_RIGHTS, (table.relid,))[2] for table in tables)
    if probe.config.create and allowed and owned:
        yield _finding("ok", "publication_made", publication=name)
    elif tables:
        # Run by the tables' owner it needs no further right of ours.
        yield _finding("fail", "publication_missing", f"{slots.creation(name, tables)};", publication=name)


def _slot(probe: Probe) -> Iterator[Finding]:
    where = {"slot": probe.config.slot, "prefix": f"ledgertail_{probe.name}_"}
    rows = probe.connection.execute(
        "SELECT slot_name FROM pg_replication_slots WHERE NOT temporary AND CASE WHEN %(slot)s::text IS NULL"
        " THEN starts_with(slot_name, %(prefix)s) AND length(slot_name) = length(%(prefix)s) + 8 ELSE slot_name = %(slot)s END",
        where,
    ).fetchall()
    if not rows:
        level, code = ("ok", "slot_made") if probe.config.create else ("warn", "slot_none")
        mend = "" if probe.config.create else f"SELECT pg_create_logical_replication_slot('{probe.config.slot}', 'pgoutput');"
        yield _finding(level, code, mend)
    for (name,) in rows:
        slot = slots.slot_of(probe.connection, name)
        if slot is None:
            continue
        if slot.lost is not None:
            yield _fault("slot_lost", source=probe.name, detail=f"{name}: {slot.lost}")
        elif slot.plugin != "pgoutput" or slot.database != probe.connection.info.dbname:
            yield _fault("slot_foreign", source=probe.name, slot=name, plugin=slot.plugin, database=slot.database)
        else:
            reader = text("source.check.slot_reader", pid=slot.active_pid) if slot.active_pid else ""
            yield _finding("ok", "slot", slot=name, reader=reader)


def _transactions(probe: Probe) -> Iterator[Finding]:
    for pid, user, since in probe.connection.execute(_OPEN).fetchall():
        yield _finding("warn", "transaction_open", f"SELECT pg_terminate_backend({pid});", pid=pid, user=user, since=since)
