"""Run as a program: outlives the tests, ends their server and removes its folder.

Standard input is a pipe from the tests; it ends when they close it or die, by SIGKILL too. Each line on it is the process id of
the server that runs now, 0 for none. Alone like this it needs nothing that only Linux has, and no code between fork and exec.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from pathlib import Path


def main(folder: Path) -> None:
    """Waits for the end of the tests, then cleans up behind them."""
    server = 0
    for line in sys.stdin:
        server = int(line)
    if server:
        end(server)
    deadline = time.monotonic() + 30
    while folder.exists() and time.monotonic() < deadline:  # a child of the server may still be writing
        shutil.rmtree(folder, ignore_errors=True)


def end(server: int, patience_s: float = 10) -> None:
    """SIGQUIT, by which PostgreSQL ends its children and releases its shared memory, and MySQL ends too; SIGKILL if it takes too long."""
    deadline = time.monotonic() + patience_s
    try:
        os.kill(server, signal.SIGQUIT)
        while time.monotonic() < deadline:
            os.kill(server, 0)
            time.sleep(0.02)
        os.kill(server, signal.SIGKILL)
    except ProcessLookupError:
        return


if __name__ == "__main__":
    main(Path(sys.argv[1]))
