"""What a server is and keeps: flavour, version, identity, its binlog's files, the transactions it knows; and how to go on there.

A file's name says little: after a RESET, or on another server, the same name is another file. So a checkpoint also knows which server
wrote it, when its file was begun and which transactions came before, and all of it is compared before a place is trusted.

What takes a connection raises the driver's errors: call it within `translated`.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

import pymysql
from pymysql.constants import ER
from pymysql.cursors import DictCursor

from cdc.config import SourceConfig
from cdc.decode.mysql.gtid import GtidPosition, Gtids, GtidSet, domain_gtid, parse_gtids
from cdc.decode.mysql.position import BinlogPosition, file_number, place_text
from cdc.errors import PositionLost, SourceUnavailable
from cdc.sources.mysql.connection import Connection, is_mariadb, place, query
from cdc.sources.mysql.replication import DEAD_SECONDS, LOOKING, OFFSET_MAX, FromFile, FromGtids, Start, Stream

_IDENTITY = "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('version', 'server_id', 'server_uuid', 'server_uid', 'gtid_mode', 'log_bin')"
_EXPIRY = """
SHOW GLOBAL VARIABLES WHERE Variable_name IN ('binlog_expire_logs_seconds', 'expire_logs_days', 'binlog_expire_logs_auto_purge')
"""
_FORMAT_DESCRIPTION = 15
_LISTED_MAX = 400  # characters of a set of GTIDs in a message


@dataclass(frozen=True, slots=True)
class Server:
    """One server. `uuid` is what its positions belong to; `gtid`: every transaction it writes has a GTID."""

    mariadb: bool
    version: tuple[int, ...]
    uuid: str
    server_id: int
    gtid: bool
    log_bin: bool

    @property
    def name(self) -> str:
        """For people: `MariaDB 11.8.6`."""
        return f"{'MariaDB' if self.mariadb else 'MySQL'} {'.'.join(map(str, self.version))}"


def identify(connection: Connection) -> Server:
    """What the other side is."""
    found = dict(query(connection, _IDENTITY))
    mariadb = is_mariadb(connection)
    version = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", found["version"])
    server_id = int(found["server_id"])
    return Server(
        mariadb,
        tuple(int(part) for part in version.groups(default="0")) if version else (0,),
        found.get("server_uid" if mariadb else "server_uuid") or f"server_id:{server_id}",
        server_id,
        mariadb or found.get("gtid_mode") == "ON",
        found["log_bin"] == "ON",
    )


def head(connection: Connection, server: Server) -> BinlogPosition:
    """The end of the log, now; `born` is not looked up.

    No transaction after the place is among its GTIDs, but not all before it are: those being committed just then may be missing, none of
    which can have written to a table that is locked meanwhile. MySQL's next PREVIOUS_GTIDS_LOG_EVENT names them.
    """
    executed = _gtid_position(connection) if server.mariadb else None
    modern = not server.mariadb and server.version >= (8, 2)
    rows = query(connection, "SHOW BINARY LOG STATUS" if modern else "SHOW MASTER STATUS")
    if not rows:
        raise pymysql.OperationalError(ER.NO_BINARY_LOGGING, "log_bin is OFF")
    file, offset, *rest = rows[0]
    gtids = executed if server.mariadb else parse_gtids(rest[2] if len(rest) > 2 else "")
    return BinlogPosition(file, int(offset), server.uuid, None, gtids)


def files(connection: Connection) -> dict[str, int]:
    """The binary log files there are, oldest first, with their sizes in bytes."""
    return {file: int(size) for file, size, *_ in query(connection, "SHOW BINARY LOGS")}


def expiry_seconds(connection: Connection) -> int | None:
    """After how long the server purges a file that is no longer written to; None: never by age."""
    found = dict(query(connection, _EXPIRY))
    if found.get("binlog_expire_logs_auto_purge") == "OFF":
        return None
    days = float(found.get("expire_logs_days") or 0)
    return int(found.get("binlog_expire_logs_seconds") or 0) or round(days * 86400) or None


def replicates(connection: Connection, server: Server) -> bool | None:
    """Whether the server is itself a replica that is applying its source's log; None if the user may not know."""
    modern = not server.mariadb and server.version >= (8, 0, 22)
    statement = "SHOW ALL SLAVES STATUS" if server.mariadb else "SHOW REPLICA STATUS" if modern else "SHOW SLAVE STATUS"
    try:
        with connection.cursor(DictCursor) as cursor:
            cursor.execute(statement)
            return any("Yes" in (row.get("Replica_SQL_Running"), row.get("Slave_SQL_Running")) for row in cursor.fetchall())
    except pymysql.OperationalError as error:
        if error.args[0] != ER.SPECIFIC_ACCESS_DENIED_ERROR:
            raise
        return None


def born(name: str, config: SourceConfig, file: str) -> int:
    """When a file was begun, in seconds: the time in the header of its FORMAT_DESCRIPTION_EVENT. Raises PositionLost if it is gone."""
    stream = Stream(name, config, LOOKING, FromFile(file, 4))
    try:
        events: list[bytes] = []
        deadline = time.monotonic() + DEAD_SECONDS
        while not events or events[-1][4] != _FORMAT_DESCRIPTION:
            if time.monotonic() > deadline:
                raise SourceUnavailable("source.silent", source=name, place=place(config), seconds=int(DEAD_SECONDS))
            events.clear()
            stream.receive(events, 1, 1.0)
        return int.from_bytes(events[-1][:4], "little")
    finally:
        stream.close()


def resumable(name: str, config: SourceConfig, connection: Connection, server: Server, position: BinlogPosition) -> Start:
    """How to go on from a checkpoint. Raises PositionLost, saying why, if nothing leads on from there without a gap.

    On the server that wrote it: by file and offset, if the file is the same and still there and the server knows all transactions we
    have. On another one, or if only the file is gone: by GTID, if nothing of what comes after is purged. MariaDB tells the latter only
    when the stream is read.
    """
    own = server.uuid == position.server
    if not own and not (server.gtid and isinstance(position.gtids, GtidPosition if server.mariadb else GtidSet)):
        raise PositionLost("source.other_server", source=name, found=server.uuid, known=position.server)
    if missing := _missing(connection, position.gtids, own):
        values = {"source": name, "missing": _listed(missing)}
        if replicates(connection, server):
            raise SourceUnavailable("mysql.replica_behind", **values)
        raise PositionLost("mysql.history_lost", **values)
    if own:
        sizes = files(connection)
        _compare(name, config, sizes, position)
        if position.start[0] in sizes and position.start[1] <= OFFSET_MAX:
            return FromFile(*position.start)
        reason = PositionLost("mysql.log_purged", source=name, file=position.start[0], oldest=next(iter(sizes), "-"))
        if position.start[0] in sizes:
            reason = PositionLost("mysql.offset", source=name, position=place_text(*position.start))
    else:
        reason = PositionLost("mysql.xa_open", source=name, found=server.uuid, known=position.server)
    if position.reread is not None or not server.gtid or not position.gtids:
        raise reason
    _check_purged(name, connection, position.gtids)
    return FromGtids(position.gtids)


def _compare(name: str, config: SourceConfig, sizes: dict[str, int], position: BinlogPosition) -> None:
    """Whether the checkpoint's file is still the one it was; one that was purged can't be looked at."""
    file, newest = position.file, next(reversed(sizes), "")
    if file not in sizes:
        if not newest or file_number(newest) < file_number(file) or newest.rpartition(".")[0] != file.rpartition(".")[0]:
            raise PositionLost("mysql.log_reset", source=name, position=place_text(file, position.offset), newest=newest or "-")
    elif position.born is not None and born(name, config, file) != position.born:
        raise PositionLost("mysql.log_reset", source=name, position=place_text(file, position.offset), newest=newest)
    elif position.offset > sizes[file]:
        raise PositionLost("mysql.log_shortened", source=name, file=file, size=sizes[file], offset=position.offset)


def _missing(connection: Connection, gtids: Gtids | None, own: bool) -> str:
    """Which of our transactions the server does not know.

    Our own MySQL may be committing some still: the log is sent before, and waiting for a semi-synchronous replica takes its time. From our
    own MariaDB's state a domain may have been deleted.
    """
    if isinstance(gtids, GtidSet):
        ((owned,),) = query(connection, "SELECT @@GLOBAL.gtid_owned")  # first, as transactions move from here to there
        ((executed,),) = query(connection, "SELECT @@GLOBAL.gtid_executed")
        committing = GtidSet.parse(re.sub(r"#\d+", "", owned)) if own else GtidSet()
        return str(gtids.difference(GtidSet.parse(executed)).difference(committing))
    if not gtids:
        return ""
    ((state,),) = query(connection, "SELECT @@GLOBAL.gtid_binlog_state")
    known = [domain_gtid(part) for part in filter(None, state.split(","))]
    last = {(domain, server): number for domain, server, number in known}
    deleted = gtids.domains.keys() - {domain for domain, _, _ in known} if own and known else set()
    ours = [(domain, server, number) for domain, (server, number) in gtids.domains.items() if domain not in deleted]
    return ",".join(f"{domain}-{server}-{number}" for domain, server, number in ours if last.get((domain, server), -1) < number)


def _check_purged(name: str, connection: Connection, gtids: Gtids) -> None:
    if isinstance(gtids, GtidSet):
        ((purged,),) = query(connection, "SELECT @@GLOBAL.gtid_purged")
        if beyond := GtidSet.parse(purged).difference(gtids):
            raise PositionLost("mysql.gtids_purged", source=name, missing=_listed(str(beyond)))


def _gtid_position(connection: Connection) -> Gtids | None:
    ((text,),) = query(connection, "SELECT @@GLOBAL.gtid_binlog_pos")
    return parse_gtids(text)


def _listed(gtids: str) -> str:
    return gtids if len(gtids) <= _LISTED_MAX else f"{gtids[:_LISTED_MAX]}..."
