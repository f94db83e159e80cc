"""Finds the programs of MySQL 9, MariaDB 10.11 and MariaDB 11.8: PATH, then Debian packages in a cache."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.servers import debian_packages
from tests.servers.account import unprivileged
from tests.servers.cache import NotAvailable


@dataclass(frozen=True, slots=True)
class Flavour:
    """A series of a server, and the Debian suite whose `package` is of that series."""

    name: str
    title: str
    program: str
    series: str
    package: str
    suite: str

    @property
    def is_mariadb(self) -> bool:
        return self.program == "mariadbd"


FLAVOURS: Mapping[str, Flavour] = {
    flavour.name: flavour
    for flavour in (
        Flavour("mysql-9", "MySQL 9", "mysqld", "9", "mysql-server-core", "sid"),
        Flavour("mariadb-10.11", "MariaDB 10.11", "mariadbd", "10.11", "mariadb-server-core", "bookworm"),
        Flavour("mariadb-11.8", "MariaDB 11.8", "mariadbd", "11.8", "mariadb-server-core", "trixie"),
    )
}
DEFAULT_FLAVOUR = "mysql-9"


@dataclass(frozen=True, slots=True)
class Binaries:
    """The server program of a flavour. `command` runs it, `share` has its messages, character sets and system tables.

    `origin` tells where it came from: `PATH` or `Debian`, for an unpacked package.
    """

    flavour: Flavour
    version: str
    command: tuple[str, ...]
    base: Path
    share: Path
    origin: str


def find(name: str) -> Binaries:
    """The programs of a flavour. Raises NotAvailable. May download 50 MB, once per cache folder, however many processes ask."""
    found = _find(name)
    if isinstance(found, str):
        raise NotAvailable(found)
    return found


@cache
def _find(name: str) -> Binaries | str:
    flavour = FLAVOURS[name]
    on_path = _on_path(flavour)
    if isinstance(on_path, Binaries):
        return on_path
    try:
        return _unpacked(flavour)
    except NotAvailable as missing:
        return f"{flavour.title}: {on_path}, and: {missing}"


def _on_path(flavour: Flavour) -> Binaries | str:
    # Ordinary users do not have the folders that Debian puts servers in.
    program = shutil.which(flavour.program, path=os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"]))
    if program is None:
        return f"{flavour.program} is not on PATH"
    base = Path(program).resolve().parent.parent
    try:
        return _inspect(flavour, (program,), base, "PATH")
    except NotAvailable as unfit:
        return f"{unfit}"


def _unpacked(flavour: Flavour) -> Binaries:
    if (sys.platform, platform.machine()) not in (("linux", "x86_64"), ("linux", "aarch64")):
        raise NotAvailable("Debian's packages hold programs for Linux only")
    root = debian_packages.unpacked(flavour.package, flavour.suite)
    return _inspect(flavour, debian_packages.command(root, f"usr/sbin/{flavour.program}"), root / "usr", "Debian")


def _inspect(flavour: Flavour, command: tuple[str, ...], base: Path, origin: str) -> Binaries:
    """The program, if the account that servers run under can run it and it is of the flavour. Raises NotAvailable."""
    program = command[-1]
    try:
        told = unprivileged().run([*command, "--no-defaults", "--version"], Path("/")).stdout
    except (PermissionError, subprocess.CalledProcessError) as error:
        raise NotAvailable(f"{program} does not run for the servers' account: {error}") from None
    version = re.search(r"Ver (\d+\.\d+\.\d+)(-MariaDB)?", told)
    if version is None or bool(version[2]) != flavour.is_mariadb or not f"{version[1]}.".startswith(f"{flavour.series}."):
        raise NotAvailable(f"{program} is of another series: {told.strip()}")
    share = next((base / "share" / name for name in ("mariadb", "mysql") if (base / "share" / name / "charsets").exists()), None)
    if share is None:
        raise NotAvailable(f"{program} has no folder of character sets in {base / 'share'}")
    return Binaries(flavour, version[1], command, base, share, origin)
