"""The folder where programs that had to be fetched, and data that was expensive to make, are kept between runs of the tests."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable
from pathlib import Path


class NotAvailable(Exception):
    """No programs of the wanted version can be had; the text names the version and every reason."""


def once(name: str, fill: Callable[[Path], None]) -> Path:
    """The folder `name` of the cache, filled by `fill` the first time; a folder that is there is whole. Safe between processes."""
    folder = cache_folder() / name
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
                new = Path(temporary) / name
                new.mkdir()
                fill(new)
                _open_to_all(new)
                new.rename(folder)
    return folder


def cache_folder() -> Path:
    """LEDGERTAIL_TEST_CACHE, or a folder that the servers' account can enter."""
    told = os.environ.get("LEDGERTAIL_TEST_CACHE")
    if told:
        return Path(told).resolve()
    # Servers of root run as nobody, who cannot enter root's home.
    return Path("/var/cache/ledgertail-tests") if os.geteuid() == 0 else Path.home() / ".cache" / "ledgertail-tests"


def _open_to_all(folder: Path) -> None:
    """The account that servers run under must get in, whatever the umask was."""
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode | (0o755 if path.is_dir() else 0o444))
