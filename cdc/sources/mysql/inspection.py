"""MysqlInspection: `check` and the lag, over connections of its own."""

from __future__ import annotations

import time
from collections.abc import Mapping

from cdc.config import SourceConfig
from cdc.decode.mysql import position as positions
from cdc.decode.mysql.position import BinlogPosition
from cdc.errors import LedgertailError
from cdc.sources.mysql.catalog import Catalog
from cdc.sources.mysql.connection import Connection, connect, hang_up, translated
from cdc.sources.mysql.preflight import Probe, examine
from cdc.sources.mysql.server import Server, born, expiry_seconds, files, head, identify
from cdc.types import Finding, Position, SourceLag, TableSchema


class MysqlInspection:
    """See cdc.protocols.Inspection."""

    def __init__(self, name: str, config: SourceConfig) -> None:
        self.name, self._config = name, config
        self._connection: Connection | None = None
        self._server: Server
        self._born: dict[tuple[str, str], int] = {}  # of a file and the one before it, as looked up

    def check(self) -> list[Finding]:
        """See Inspection.check."""
        connection: Connection | None = None
        try:
            connection = connect(self.name, self._config, database=False)
            with translated(self.name, self._config):
                return examine(Probe(self.name, self._config, connection, identify(connection)))
        except LedgertailError as error:
            return [Finding("fail", error.message, error.hint)]
        finally:
            if connection is not None:
                hang_up(connection)

    def lag(self, position: Position | None) -> SourceLag:
        """See Inspection.lag."""
        try:
            with translated(self.name, self._config):
                if self._connection is None:
                    self._connection = connect(self.name, self._config, database=False)
                    self._server = identify(self._connection)
                return self._lag(self._connection, BinlogPosition.parse(position) if position else None)
        except BaseException:
            self.close()  # the next call connects anew
            raise

    def schemas(self) -> Mapping[str, TableSchema]:
        """See Inspection.schemas."""
        connection = connect(self.name, self._config)
        try:
            with translated(self.name, self._config):
                catalog = Catalog(self.name, self._config.types)
                return {name: catalog.schema(table) for name, table in catalog.find(connection, self._config.tables).items()}
        finally:
            hang_up(connection)

    def _lag(self, connection: Connection, position: BinlogPosition | None) -> SourceLag:
        sampled_at = time.time()
        end = head(connection, self._server)
        if position is None or position.server != self._server.uuid:
            return SourceLag(str(end), None, None, None, sampled_at)
        sizes = files(connection)
        behind = _bytes_between(sizes, position, end)
        purged_in = self._purged_in(connection, [*sizes], position.start[0], sampled_at)
        return SourceLag(str(end), behind, None, 0 if behind == 0 else None, sampled_at, purged_in)

    def _purged_in(self, connection: Connection, kept: list[str], file: str, now: float) -> float | None:
        """Until the server may purge a file: by then the one after it, begun when the file was last written to, is as old as it may be."""
        expiry = expiry_seconds(connection)
        if expiry is None or file not in kept[:-1]:
            return None
        after = (file, kept[kept.index(file) + 1])
        if after not in self._born:
            self._born = {after: born(self.name, self._config, after[1])}
        return max(0.0, self._born[after] + expiry - now)

    def reached(self, position: Position, target: Position) -> bool:
        """See Inspection.reached."""
        return positions.reached(BinlogPosition.parse(position), BinlogPosition.parse(target))

    def close(self) -> None:
        """See Inspection.close."""
        if self._connection is not None:
            hang_up(self._connection)
            self._connection = None


def _bytes_between(sizes: Mapping[str, int], position: BinlogPosition, end: BinlogPosition) -> int | None:
    """What the log holds after a position; None if its file is gone."""
    if position.file not in sizes:
        return None
    names = [*sizes]
    later = names[names.index(position.file) :]
    upto = later[: later.index(end.file)] if end.file in later else later
    return max(0, sum(sizes[file] for file in upto) + (end.offset if end.file in later else 0) - position.offset)
