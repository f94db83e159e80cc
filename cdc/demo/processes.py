"""Child processes that never outlive the demo, also when it is killed."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypedDict

_PR_SET_PDEATHSIG = 1


class Identity(TypedDict, total=False):
    """Whom a child runs as, for subprocess: empty is ourselves."""

    user: int
    group: int
    extra_groups: list[int]


def spawn(
    command: Sequence[str | Path], log: Path, folder: Path, death_signal: signal.Signals | None, identity: Identity | None = None
) -> subprocess.Popen[bytes]:
    """Start a child in a session of its own, so that Ctrl-C reaches only us; its output goes to `log`.

    On Linux it gets `death_signal` when we die, however that happens; None lets it live on (`--keep`). To be called from the main
    thread: the kernel takes the end of the calling thread for our death.
    """
    with log.open("ab") as output:
        return subprocess.Popen(
            [str(part) for part in command],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_die_with_parent(death_signal),
            **(identity or Identity()),
        )


def stop(process: subprocess.Popen[bytes], sign: signal.Signals, seconds_max: float) -> None:
    """End a child with a signal, and with SIGKILL if it is still there after `seconds_max`. Returns when it has gone."""
    if process.poll() is None:
        process.send_signal(sign)
        try:
            process.wait(seconds_max)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()


def _die_with_parent(death_signal: signal.Signals | None) -> Callable[[], None] | None:
    if death_signal is None or sys.platform != "linux":
        return None
    libc, parent = ctypes.CDLL(None, use_errno=True), os.getpid()

    def set_death_signal() -> None:
        # Runs in the child after it changed its user, which would clear the setting.
        libc.prctl(_PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)

    return set_death_signal
