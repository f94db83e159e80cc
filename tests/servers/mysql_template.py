"""The data directory of a fresh MySQL or MariaDB, made once and copied for every server: making one takes seconds."""

from __future__ import annotations

import subprocess
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import NamedTuple
from zoneinfo import ZoneInfo

from tests.servers.account import Account
from tests.servers.mysql_binaries import Binaries
from tests.servers.own_server import ServerFailed

# Loaded into the server's tables, so that sessions can name them: one far from UTC, one with summer time.
TIME_ZONES = ("UTC", "Asia/Shanghai", "America/New_York")
# Settings that a data directory is made with and that cannot be changed later.
CREATION_SETTINGS = ("innodb_data_file_path", "innodb_page_size", "innodb_undo_tablespaces", "lower_case_table_names")


def create(binaries: Binaries, account: Account, folder: Path, data: Path, settings: Mapping[str, str]) -> None:
    """Makes the data directory `data` below `folder`, which is the account's; root may log in without a password.

    Raises ServerFailed.
    """
    zones = folder / "zones.sql"
    zones.write_text("USE mysql;\n" + "".join(_time_zone(number, name) for number, name in enumerate(TIME_ZONES, 1)))
    options = [f"--{name}={value}" for name, value in settings.items()]
    # The smallest logs, for copying: a server's first start makes them as large as its own settings have them.
    try:
        if binaries.flavour.is_mariadb:
            data.mkdir()
            account.own(data)
            statements = "".join((*_system_tables(binaries), zones.read_text()))
            account.run([*server_command(binaries, data), "--bootstrap", "--innodb-log-file-size=4M", *options], folder, statements)
        else:
            how = ["--initialize-insecure", f"--init-file={zones}", "--innodb-redo-log-capacity=8M"]
            account.run([*server_command(binaries, data), *how, *options], folder)
    except subprocess.CalledProcessError as failed:
        raise ServerFailed(f"initialising {binaries.flavour.title} failed\n{failed.stdout}{failed.stderr}") from None
    # Every server gets an identity of its own, at its first start.
    (data / "auto.cnf").unlink(missing_ok=True)


def server_command(binaries: Binaries, data: Path) -> list[str]:
    """The server program with its places told; no option file of the machine is read."""
    plugins = binaries.base / "lib" / "mysql" / "plugin"
    return [
        *binaries.command,
        "--no-defaults",
        f"--basedir={binaries.base}",
        f"--datadir={data}",
        f"--lc-messages-dir={binaries.share}",
        f"--character-sets-dir={binaries.share / 'charsets'}",
        *([f"--plugin-dir={plugins}"] if plugins.exists() else []),
    ]


def _system_tables(binaries: Binaries) -> list[str]:
    """What mariadb-install-db feeds the server, without help texts, test database and sys schema."""
    prefix = "mariadb" if (binaries.share / "mariadb_system_tables.sql").exists() else "mysql"
    names = ("system_tables", "performance_tables", "system_tables_data")
    scripts = [(binaries.share / f"{prefix}_{name}.sql").read_text() for name in names]
    return ["CREATE DATABASE mysql;\nUSE mysql;\nSET @auth_root_socket=NULL;\n", *scripts]


def _time_zone(number: int, name: str) -> str:
    """The statements that load one time zone."""
    changes = list(_changes(ZoneInfo(name)))
    kinds = list(dict.fromkeys(kind for _, kind in changes))
    types = ", ".join(f"({number}, {place}, {kind.offset}, {kind.summer:d}, '{kind.name}')" for place, kind in enumerate(kinds))
    transitions = ", ".join(f"({number}, {time}, {kinds.index(kind)})" for time, kind in changes)
    return f"""\
INSERT INTO time_zone (Time_zone_id, Use_leap_seconds) VALUES ({number}, 'N');
INSERT INTO time_zone_name (Name, Time_zone_id) VALUES ('{name}', {number});
INSERT INTO time_zone_transition_type (Time_zone_id, Transition_type_id, `Offset`, Is_DST, Abbreviation) VALUES {types};
INSERT INTO time_zone_transition (Time_zone_id, Transition_time, Transition_type_id) VALUES {transitions};
"""


class _Kind(NamedTuple):
    """What holds between two changes of a time zone; `offset` is in seconds east of UTC."""

    offset: int
    summer: bool
    name: str


def _changes(zone: ZoneInfo) -> Iterator[tuple[int, _Kind]]:
    """When the zone's clocks changed and to what, in Unix seconds from 1901 to 2037: as far as the zone files of systems go."""

    def kind(time: int) -> _Kind:
        local = datetime.fromtimestamp(time, zone)
        offset, summer = local.utcoffset(), local.dst()
        assert offset is not None and summer is not None
        return _Kind(int(offset.total_seconds()), bool(summer), local.tzname() or "")

    yield -(1 << 31), kind(-(1 << 31))
    for day in range(-(1 << 31), (1 << 31) - 86_400, 86_400):
        before = kind(day)
        if kind(day + 86_400) != before:
            later = day + 1 + bisect_left(range(day + 1, day + 86_400), True, key=lambda time: kind(time) != before)
            yield later, kind(later)
