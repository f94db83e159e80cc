"""The account servers run under: they refuse to run as root."""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO


@dataclass(frozen=True, slots=True)
class Account:
    """What `subprocess` needs to drop to another account; all None means the tests' own."""

    user: int | None = None
    group: int | None = None
    extra_groups: tuple[int, ...] | None = None

    def run(self, command: Sequence[str | Path], folder: Path, told: str = "") -> subprocess.CompletedProcess[str]:
        """Runs a short command in `folder` to its end, with `told` as its standard input; raises what `subprocess.run` raises,
        a failed exit code included."""
        return subprocess.run(
            command,
            cwd=folder,
            env=environment(),
            user=self.user,
            group=self.group,
            extra_groups=self.extra_groups,
            input=told,
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )

    def spawn(self, command: Sequence[str | Path], folder: Path, log: IO[bytes]) -> subprocess.Popen[bytes]:
        """Starts a server in a session of its own, so that Ctrl-C in the tests' terminal does not reach it."""
        return subprocess.Popen(
            command,
            cwd=folder,
            env=environment(),
            user=self.user,
            group=self.group,
            extra_groups=self.extra_groups,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )

    def own(self, path: Path) -> None:
        """Makes the account the owner of `path`."""
        if self.user is not None and self.group is not None:
            os.chown(path, self.user, self.group)


def unprivileged() -> Account:
    """The tests' own account, or `nobody` when they run as root."""
    if os.geteuid() != 0:
        return Account()
    nobody = pwd.getpwnam("nobody")
    return Account(nobody.pw_uid, nobody.pw_gid, ())


def environment() -> Mapping[str, str]:
    """A server's environment: PGDATA, PGPORT, LANG and the like of the developer's shell must not reach it."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}
