"""Ledgertail as a user has it: a config in a folder, the command, and a daemon in the background."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.servers.postgres import PASSWORD, poll


class Installation:
    """A config file and what is done with it. Commands run as processes of their own, in English, with the test user's password."""

    def __init__(self, folder: Path, config: str) -> None:
        self.folder, self.path, self.log = folder, folder / "ledgertail.toml", folder / "log"
        self.password = PASSWORD
        self.path.write_text(config)

    def change(self, old: str, new: str) -> None:
        """Change the config."""
        text = self.path.read_text()
        assert old in text
        self.path.write_text(text.replace(old, new))

    def ledgertail(
        self, *arguments: str, program: str = "from cdc.cli import main; main()", patience_s: float = 240
    ) -> subprocess.CompletedProcess[str]:
        """A command and what it said. No password and no traceback may be in it."""
        command = [sys.executable, "-c", program, "--config", str(self.path), *arguments]
        done = subprocess.run(command, env=self._environment(), capture_output=True, text=True, timeout=patience_s, check=False)
        assert PASSWORD not in done.stdout + done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def run(self, patience_s: float = 240) -> subprocess.CompletedProcess[str]:
        """Catch up with the sources and end."""
        return self.ledgertail("run", "--until-caught-up", patience_s=patience_s)

    def query(self, sql: str) -> list[Any]:
        """The answer's rows as lists."""
        done = self.ledgertail("query", sql, "--format", "json")
        assert done.returncode == 0, done.stderr
        return [list(row.values()) for row in json.loads(done.stdout)]

    def status(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.ledgertail("status", "--json").stdout)
        return answer

    @contextmanager
    def daemon(self) -> Iterator[subprocess.Popen[bytes]]:
        """The daemon in the background; ended by SIGTERM, upon which it must end well."""
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", "cdc.cli", "--config", str(self.path), "run"]
            process = subprocess.Popen(command, env=self._environment(), stdout=log, stderr=log)
        try:
            self.until(lambda: process.poll() is not None or self.ledgertail("status").returncode in (0, 3))
            yield process
            process.terminate()
            assert process.wait(timeout=60) == 0, self.log.read_text()[-4000:]
        finally:
            process.kill()
            process.wait()

    def until(self, reached: Callable[[], bool], patience_s: float = 90) -> None:
        """Wait for the daemon to have done something."""
        try:
            poll(reached, "the daemon does not get there", patience_s=patience_s)
        except BaseException:
            print(self.log.read_text()[-4000:])
            raise

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "SHOP_PASSWORD": self.password, "LEDGERTAIL_LANG": "en"}
