"""Programs of another Debian release, unpacked into the cache with every library they need. Nothing is installed; no root is needed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tests.servers.cache import NotAvailable, cache_folder, once

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
APT_SOURCES = Path("/etc/apt")
# Suites with security updates in an archive of their own; unstable has none.
STABLE_SUITES = ("bookworm", "trixie")
# What a program needs to run is in packages of these names; the rest (perl, debconf, tzdata) serves installation or scripts.
LIBRARY = re.compile(r"lib|zlib")


def unpacked(package: str, suite: str) -> Path:
    """The root folder of `package` as it is in a suite today, with its libraries below.

    Which version that is, is looked up once a day; without the archive the one of the last look serves.
    Raises NotAvailable. May download 50 MB, once per version and cache folder, however many processes ask.
    """
    today = f"{package}-{suite}-{datetime.now(UTC):%Y-%m-%d}"
    try:
        looked_up = once(today, lambda folder: _look_up(package, suite, folder))
    except NotAvailable:
        earlier = sorted(cache_folder().glob(f"{package}-{suite}-????-??-??"))
        if not earlier:
            raise
        looked_up = earlier[-1]
    return cache_folder() / (looked_up / "root").read_text() / "root"


def command(root: Path, program: str) -> tuple[str, ...]:
    """The command that runs `program` ("usr/sbin/mysqld") with its own release's loader and libraries, not this machine's."""
    folders = [folder for pattern in ("lib/*-linux-*", "usr/lib/*-linux-*") for folder in root.glob(pattern)]
    loader = next((found for folder in folders for found in folder.glob("ld-linux-*.so.*")), None)
    if loader is None or not (root / program).exists():
        raise NotAvailable(f"{root} has no {program} or no loader; remove the folder to have it downloaded again")
    return (str(loader), "--library-path", ":".join(map(str, folders)), str(root / program))


def _look_up(package: str, suite: str, folder: Path) -> None:
    """Writes the name of the package's folder of the cache, which is filled now if it is new, into the file `root`."""
    with tempfile.TemporaryDirectory() as temporary:
        apt = _own_apt(suite, Path(temporary))
        apt.run("apt-get", "update", "-qq")
        told = re.search(r"^Version: (\S+)$", apt.run("apt-cache", "show", "--no-all-versions", package), re.MULTILINE)
        if told is None:
            raise NotAvailable(f"Debian {suite} has no package {package}")
        # Without the epoch, whose colon would end a folder's name in the library path.
        name = f"{package}-{told[1].rpartition(':')[2]}-{suite}"
        once(name, lambda new: _download(apt, package, new))
        (folder / "root").write_text(name)


@dataclass(frozen=True, slots=True)
class _Apt:
    """apt with lists, cache and status of its own in `folder`."""

    folder: Path

    def run(self, *command: str, within: Path | None = None) -> str:
        """Runs an apt program, in a folder, and returns what it says. Raises NotAvailable."""
        environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "APT_CONFIG": str(self.folder / "apt.conf")}
        proxies = {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
        try:
            done = subprocess.run(
                command, cwd=within or self.folder, env=environment | proxies, capture_output=True, text=True, check=True, timeout=600
            )
        except FileNotFoundError:
            raise NotAvailable(f"{command[0]}, which fetches Debian packages, is not on PATH") from None
        except subprocess.CalledProcessError as failed:
            raise NotAvailable(f"`{' '.join(command)[:200]}` failed: {failed.stderr.strip()[-1000:]}") from None
        return done.stdout


def _own_apt(suite: str, folder: Path) -> _Apt:
    """An apt that knows one suite of the archive that this machine's own sources name. Raises NotAvailable."""
    if not KEYRING.exists():
        raise NotAvailable(f"Debian packages cannot be checked: {KEYRING} is missing; install debian-archive-keyring")
    archive = next((uri for uri in _machine_uris() if re.search(r"/debian/?$", uri)), None)
    if archive is None:
        raise NotAvailable(f"no apt source of this machine (in {APT_SOURCES}) is a mirror of Debian, from which {suite} could be fetched")
    lines = [f"deb [signed-by={KEYRING}] {archive} {suite} main\n"]
    security = next((uri for uri in _machine_uris() if re.search(r"/debian-security/?$", uri)), None)
    if security is not None and suite in STABLE_SUITES:
        lines.append(f"deb [signed-by={KEYRING}] {security} {suite}-security main\n")
    (folder / "sources.list").write_text("".join(lines))
    for name in ("lists/partial", "cache/archives/partial", "parts"):
        (folder / name).mkdir(parents=True)
    (folder / "status").touch()
    (folder / "apt.conf").write_text(
        f"""\
Dir::Etc::sourcelist "{folder}/sources.list"; Dir::Etc::sourceparts "{folder}/parts"; Dir::Etc::preferencesparts "{folder}/parts";
Dir::State::lists "{folder}/lists"; Dir::State::status "{folder}/status"; Dir::Cache "{folder}/cache";
Acquire::Languages "none"; Acquire::Retries "3"; APT::Sandbox::User "";
"""
    )
    return _Apt(folder)


def _machine_uris() -> Iterator[str]:
    files = [APT_SOURCES / "sources.list", *APT_SOURCES.glob("sources.list.d/*.sources"), *APT_SOURCES.glob("sources.list.d/*.list")]
    for path in files:
        for line in path.read_text(errors="replace").splitlines() if path.exists() else []:
            if line.startswith(("URIs:", "deb ")):
                yield from re.findall(r"https?://\S+", line)


def _download(apt: _Apt, package: str, folder: Path) -> None:
    if shutil.which("dpkg-deb") is None:
        raise NotAvailable("dpkg-deb, which unpacks Debian packages, is not on PATH")
    archives = apt.folder / "debs"
    archives.mkdir()
    apt.run("apt-get", "download", "-qq", *sorted(_with_libraries(apt, package)), within=archives)
    (folder / "root").mkdir()
    for archive in sorted(archives.iterdir()):
        apt.run("dpkg-deb", "--extract", str(archive), str(folder / "root"))


def _with_libraries(apt: _Apt, package: str) -> set[str]:
    """The package and all libraries it depends on, however far away."""
    found: set[str] = set()
    new = {package}
    while new:
        found |= new
        told = apt.run("apt-cache", "depends", "--no-recommends", "--no-suggests", "--no-conflicts", "--no-breaks", "--no-replaces",
                       "--no-enhances", *sorted(new))  # fmt: skip
        new = {name for name in re.findall(r"Depends: (\S+)", told) if LIBRARY.match(name)} - found
    return found
