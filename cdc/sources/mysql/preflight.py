"""Every prerequisite of a MySQL or MariaDB source, each with what mends it.

Nothing is asked of the time zone tables: sessions run in '+00:00', which needs none. Nor of max_allowed_packet: a dump is not bound by it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pymysql
from pymysql.constants import ER

from cdc.config import SourceConfig
from cdc.decode.mysql.charsets import beyond_bmp
from cdc.errors import LedgertailError, SourceError
from cdc.sources.mysql.catalog import Catalog, Table, split
from cdc.sources.mysql.connection import Connection, default_database, query, quoted, translation
from cdc.sources.mysql.server import Server, born, expiry_seconds, replicates
from cdc.texts import text
from cdc.types import Finding

VERSIONS = {False: ((5, 7), (8, 0), (9, 99)), True: ((10, 5), (10, 5), (11, 8))}  # by flavour: oldest, oldest and newest without a warning
EXPIRY_SECONDS_MIN = 3 * 86400  # a long weekend
TRANSACTION_SECONDS_MAX = 300
_SETTINGS = (
    *("binlog_format", "binlog_row_image", "binlog_row_metadata", "binlog_row_value_options", "sync_binlog", "max_binlog_total_size"),
    *("log_replica_updates", "log_slave_updates", "gtid_slave_pos", "innodb_native_foreign_keys", "partial_revokes"),
)
_NAMED_LIKE = "SELECT table_name FROM information_schema.tables WHERE table_schema = %s AND LOWER(table_name) = LOWER(%s)"
# The server shows times of transactions in its system's time zone, whatever the session's.
_OPEN = """
SELECT thread, DATE_FORMAT(since, '%%Y-%%m-%%d %%H:%%i:%%s UTC')
FROM (SELECT trx_mysql_thread_id AS thread, CONVERT_TZ(trx_started, 'SYSTEM', '+00:00') AS since FROM information_schema.innodb_trx) AS open
WHERE since <= UTC_TIMESTAMP() - INTERVAL %s SECOND ORDER BY since LIMIT 5
"""
_NAME = r"`(?:[^`]|``)+`"
_FOREIGN_KEY = re.compile(
    rf"^ +CONSTRAINT ({_NAME}) (FOREIGN KEY \(.*\) REFERENCES (?:{_NAME}\.)?{_NAME} \([^()]*\))((?: ON (?:DELETE|UPDATE) [A-Z ]+?)+),?$",
    re.MULTILINE,
)
_DENIED = {
    *(ER.DBACCESS_DENIED_ERROR, ER.TABLEACCESS_DENIED_ERROR, ER.COLUMNACCESS_DENIED_ERROR, ER.SPECIFIC_ACCESS_DENIED_ERROR),
    ER.XAER_RMERR,  # MySQL's answer to XA RECOVER without XA_RECOVER_ADMIN
}


@dataclass(frozen=True)
class Probe:
    """What the checks look at: one connection, without a default database, and what was read over it."""

    name: str
    config: SourceConfig
    connection: Connection
    server: Server

    @cached_property
    def settings(self) -> dict[str, str]:
        """Those of _SETTINGS that the server has, upper case."""
        names = ", ".join(f"'{name}'" for name in _SETTINGS)
        return {name: value.upper() for name, value in self.rows(f"SHOW GLOBAL VARIABLES WHERE Variable_name IN ({names})")}

    @cached_property
    def user(self) -> str:
        ((user,),) = self.rows("SELECT CURRENT_USER()")
        return "@".join(quoted(part) for part in user.rsplit("@", 1))

    @cached_property
    def places(self) -> dict[str, tuple[str, str]]:
        """Database and table of every name in the config."""
        return {name: split(name, default_database(self.config)) for name in self.config.tables}

    @cached_property
    def databases(self) -> list[str]:
        return list(dict.fromkeys(database for database, _ in self.places.values()))

    @cached_property
    def catalog(self) -> Catalog:
        return Catalog(self.name, self.config.types)

    @cached_property
    def tables(self) -> dict[str, Table]:
        """The tables there are, as far as the user may see them."""
        self.allowed(f"USE {quoted(default_database(self.config))}")
        return self.catalog.find(self.connection, self.config.tables)

    def rows(self, statement: str, parameters: Any = None) -> list[tuple[Any, ...]]:
        return query(self.connection, statement, parameters)

    def allowed(self, statement: str, parameters: Any = None) -> list[tuple[Any, ...]] | None:
        """The rows of a statement, none if what it asks for is not there; None if the user lacks a privilege for it."""
        try:
            return self.rows(statement, parameters)
        except pymysql.Error as error:
            if error.args[0] in _DENIED:
                return None
            if error.args[0] in (ER.NO_SUCH_TABLE, ER.BAD_DB_ERROR):
                return []
            raise


def examine(probe: Probe) -> list[Finding]:
    """All findings, in the order in which they should be mended."""
    findings = [*_version(probe), *_log(probe)]
    if any(finding.level == "fail" for finding in findings):
        return findings
    for check in (_rows, _kept, _identity, _rights, _origin, _tables, _waiting):
        try:
            findings += check(probe)
        except LedgertailError as error:
            findings.append(Finding("fail", error.message, error.hint))
        except pymysql.Error as error:
            fault = translation(probe.name, probe.config, error)
            findings.append(Finding("fail", fault.message, fault.hint))
    return findings


def _finding(level: str, code: str, mend: str = "", **values: object) -> Finding:
    return Finding(level, text(f"mysql.check.{code}", **values), mend)


def _global(probe: Probe, setting: str, value: str) -> str:
    """A setting changed now, and where the server can remember it also for its next start."""
    return f"SET {'GLOBAL' if probe.server.mariadb or probe.server.version < (8, 0) else 'PERSIST'} {setting} = {value};"


def _version(probe: Probe) -> Iterator[Finding]:
    oldest, first, last = VERSIONS[probe.server.mariadb]
    version, values = probe.server.version[:2], {"server": probe.server.name}
    if version < oldest:
        yield _finding("fail", "version_old", **values, first=".".join(map(str, oldest)))
    elif first <= version <= last:
        yield _finding("ok", "version", **values)
    else:
        yield _finding("warn", "version_untested", **values)


def _log(probe: Probe) -> Iterator[Finding]:
    if probe.server.log_bin:
        yield _finding("ok", "log_bin")
    else:
        yield _finding("fail", "no_log_bin", text("mysql.check.mend_restart", setting="log_bin = binlog"))
    if not probe.server.server_id:
        yield _finding("fail", "no_server_id", text("mysql.check.mend_restart", setting="server_id = 1"))


def _rows(probe: Probe) -> Iterator[Finding]:
    """What the log says of a row."""
    settings = probe.settings
    row_format, image = settings["binlog_format"], settings.get("binlog_row_image", "FULL")
    metadata = settings.get("binlog_row_metadata", "")
    if row_format == "ROW":
        yield _finding("ok", "format", value=row_format)
    else:
        yield _finding("fail", "format", _global(probe, "binlog_format", "'ROW'"), value=row_format)
    if image in ("FULL", "FULL_NODUP"):
        yield _finding("ok", "image", value=image)
    else:
        # MariaDB's REPLACE leaves out what it set to its default: such a row can't be told from one where it stayed.
        level, code = ("fail", "image_untold") if probe.server.mariadb else ("warn", "image_partial")
        yield _finding(level, code, _global(probe, "binlog_row_image", "'FULL'"), value=image)
    if metadata == "FULL":
        yield _finding("ok", "metadata")
    elif metadata:
        yield _finding("warn", "metadata_partial", _global(probe, "binlog_row_metadata", "'FULL'"), value=metadata)
    else:
        yield _finding("warn", "metadata_none", text("mysql.check.mend_upgrade"))
    if settings.get("binlog_row_value_options") and image != "FULL":
        yield _finding("fail", "value_options", _global(probe, "binlog_row_value_options", "''"), image=image)


def _kept(probe: Probe) -> Iterator[Finding]:
    """How long the log is kept, and whether all that was read from it lasts."""
    expiry = expiry_seconds(probe.connection)
    days = f"{(expiry or 0) / 86400:.1f}"
    if expiry is None:
        yield _finding("ok", "kept_for_ever")
    elif expiry >= EXPIRY_SECONDS_MIN:
        yield _finding("ok", "kept", days=days)
    else:
        old = probe.server.version < ((10, 6) if probe.server.mariadb else (8, 0))
        mend = "SET GLOBAL expire_logs_days = 7;" if old else _global(probe, "binlog_expire_logs_seconds", "604800")
        yield _finding("warn", "kept_short", mend, days=days)
    if (size := probe.settings.get("max_binlog_total_size", "0")) != "0":
        yield _finding("warn", "kept_by_size", "SET GLOBAL max_binlog_total_size = 0;", size=size)
    if probe.settings.get("sync_binlog") != "1":
        yield _finding("warn", "sync_binlog", _global(probe, "sync_binlog", "1"), value=probe.settings.get("sync_binlog"))


def _identity(probe: Probe) -> Iterator[Finding]:
    if probe.server.gtid:
        yield _finding("ok", "gtid")
    else:
        steps = ["OFF_PERMISSIVE", "ON_PERMISSIVE", "ON"]
        mend = " ".join([_global(probe, "enforce_gtid_consistency", "ON"), *(_global(probe, "gtid_mode", step) for step in steps)])
        yield _finding("warn", "gtid_off", mend)
    if probe.config.server_id == probe.server.server_id:
        mend = text("mysql.check.mend_server_id", source=probe.name)
        yield _finding("fail", "server_id_taken", mend, server_id=probe.server.server_id)


def _rights(probe: Probe) -> Iterator[Finding]:
    """Each privilege is tried, as roles and partial revokes make the grants hard to read."""
    client = "BINLOG MONITOR" if probe.server.mariadb else "REPLICATION CLIENT"
    wanted = {}
    if probe.allowed("SHOW BINARY LOGS") is None:
        wanted[client] = "client_right"
    try:
        born(probe.name, probe.config, "")
    except SourceError as error:
        if error.code != "source.privilege":
            raise
        wanted["REPLICATION SLAVE"] = "replication_right"
    for privilege, code in wanted.items():
        yield _finding("fail", code, f"GRANT {privilege} ON *.* TO {probe.user};", user=probe.user)
    if not wanted:
        yield _finding("ok", "replication", user=probe.user)
    for database in probe.databases:
        if not _lockable(probe, database):
            mend = f"GRANT LOCK TABLES ON {_pattern(probe, database)}.* TO {probe.user};"
            yield _finding("fail", "lock_right", mend, database=database)


def _lockable(probe: Probe, database: str) -> bool:
    """Told by locking a table there is none of: the right to lock is looked at before the right to read, and that before the table."""
    try:
        probe.rows(f"LOCK TABLES {quoted(database)}.{quoted('ledgertail_probe')} READ")
        probe.rows("UNLOCK TABLES")
    except pymysql.Error as error:
        return bool(error.args[0] != ER.DBACCESS_DENIED_ERROR)
    return True


def _pattern(probe: Probe, database: str) -> str:
    """A database's name in a GRANT, where `_` and `%` stand for others unless told not to, or partial revokes are on.

    Of several patterns that fit a database the server heeds one only: where there is a GRANT on the name as it is, that is added to.
    """
    literal = quoted(database)
    if probe.settings.get("partial_revokes") == "ON" or any(f" ON {literal}.* TO " in grant for (grant,) in probe.rows("SHOW GRANTS")):
        return literal
    return quoted(re.sub(r"([_%\\])", r"\\\1", database))


def _origin(probe: Probe) -> Iterator[Finding]:
    """Whether all that is written to the captured tables is written to the log."""
    modern = not probe.server.mariadb and probe.server.version >= (8, 2)
    status = probe.allowed("SHOW BINARY LOG STATUS" if modern else "SHOW MASTER STATUS")
    _, _, included, excluded, *_ = status[0] if status else ("", 0, "", "")
    for database in probe.databases:
        if (included and database not in included.split(",")) or database in (excluded or "").split(","):
            mend = text("mysql.check.mend_filter", filter=f"binlog_do_db = {included}" if included else f"binlog_ignore_db = {excluded}")
            yield _finding("fail", "filtered", mend, database=database)
    updates = "log_replica_updates" if "log_replica_updates" in probe.settings else "log_slave_updates"
    if probe.settings[updates] == "ON":
        return
    replica = replicates(probe.connection, probe.server)
    if replica:
        yield _finding("fail", "replica_silent", text("mysql.check.mend_restart", setting=f"{updates} = ON"))
    elif replica is None and probe.settings.get("gtid_slave_pos"):
        yield _finding("warn", "replica_unknown", f"GRANT REPLICA MONITOR ON *.* TO {probe.user};")


def _tables(probe: Probe) -> Iterator[Finding]:
    for name in probe.config.tables:
        findings = [*_table(probe, name)]
        yield from findings
        if all(finding.level != "fail" for finding in findings):
            key = ", ".join(probe.tables[name].key)
            yield _finding("ok", "table" if key else "table_keyless", table=name, key=key)


def _table(probe: Probe, name: str) -> Iterator[Finding]:
    table, (database, written) = probe.tables.get(name), probe.places[name]
    sql = f"{quoted(database)}.{quoted(written)}"
    like = [] if table else [found for (found,) in probe.rows(_NAMED_LIKE, (database, written)) if found != written]
    if like:
        yield _finding("fail", "table_case", text("mysql.check.mend_case"), table=name, found=like[0])
    elif probe.allowed(f"SELECT * FROM {sql} LIMIT 0") is None:
        yield _finding("fail", "select", f"GRANT SELECT ON {sql} TO {probe.user};", table=name)
    elif table is None:
        yield _finding("fail", "table_missing", text("mysql.check.mend_missing", sql_name=sql), table=name)
    else:
        yield from _shape(probe, table)


def _shape(probe: Probe, table: Table) -> Iterator[Finding]:
    """Whether a table's changes can be followed. What refuses a snapshot fails here, with the same words."""
    try:
        probe.catalog.refuse(table)
        probe.catalog.schema(table)
    except LedgertailError as error:
        yield Finding("fail", error.message, error.hint)
        return
    yield from _images(probe, table)
    if not table.transactional:
        yield _finding("warn", "engine", f"ALTER TABLE {table.sql} ENGINE = InnoDB;", table=table.name, engine=table.engine)
    yield from _cascades(probe, table)


def _images(probe: Probe, table: Table) -> Iterator[Finding]:
    """Whether all that a row holds is logged, and named."""
    image = probe.settings.get("binlog_row_image", "FULL")
    values, mend = {"table": table.name, "image": image}, _global(probe, "binlog_row_image", "'FULL'")
    if not table.key and image != "FULL":
        yield _finding("fail", "table_keyless_partial", mend, **values)
    virtual = [column.name for column in table.columns if column.generated == "virtual"]
    if virtual and image == "FULL_NODUP":
        yield _finding("fail", "virtual_partial", mend, columns=", ".join(virtual), **values)
    types = {column.name: column.my_type for column in table.columns}
    unsure = [name for name, my_type in types.items() if beyond_bmp(my_type.charset or "") and "?" in "".join(my_type.members)]
    if unsure and probe.settings.get("binlog_row_metadata") != "FULL":
        mend = _global(probe, "binlog_row_metadata", "'FULL'")
        yield _finding("warn", "members", mend, columns=", ".join(unsure), **values)


def _cascades(probe: Probe, table: Table) -> Iterator[Finding]:
    """Rows that a foreign key changes along with their parent's are logged by MySQL 9.6 and later, unless it leaves them to InnoDB."""
    native = probe.settings.get("innodb_native_foreign_keys")
    if native == "OFF":
        return
    ((_, definition),) = probe.rows(f"SHOW CREATE TABLE {table.sql}")
    for constraint, key, actions in _FOREIGN_KEY.findall(definition):
        if not re.search("CASCADE|SET", actions):
            continue
        mend = f"ALTER TABLE {table.sql} DROP FOREIGN KEY {constraint}; ALTER TABLE {table.sql} ADD CONSTRAINT {constraint} {key};"
        if native:
            mend = text("mysql.check.mend_restart", setting="innodb_native_foreign_keys = OFF")
        yield _finding("warn", "cascade", mend, table=table.name, constraint=constraint, actions=actions.strip())


def _waiting(probe: Probe) -> Iterator[Finding]:
    """What a snapshot would have to wait for, as far as the user may see it."""
    for thread, since in probe.allowed(_OPEN, (TRANSACTION_SECONDS_MAX,)) or []:
        if thread:  # a prepared transaction has none
            yield _finding("warn", "transaction_open", f"KILL {thread};", thread=thread, since=since)
    prepared = probe.allowed("XA RECOVER FORMAT = 'SQL'" if probe.server.mariadb else "XA RECOVER CONVERT XID")
    for format_id, size, _, data in prepared or []:
        xid = data if probe.server.mariadb else f"X'{data[2 : 2 + 2 * size]}',X'{data[2 + 2 * size :]}',{format_id}"
        yield _finding("warn", "prepared", f"XA COMMIT {xid};", xid=xid)
