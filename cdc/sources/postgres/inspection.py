"""PostgresInspection: `check` and the lag, over connections of its own."""

from __future__ import annotations

import time
from collections.abc import Mapping

from cdc.config import SourceConfig
from cdc.decode.postgres.pgoutput import lsn_int, lsn_text
from cdc.errors import SourceError
from cdc.sources.postgres.catalog import Catalog
from cdc.sources.postgres.connection import Connection, connect, translated
from cdc.sources.postgres.preflight import Probe, examine
from cdc.types import Finding, Position, SourceLag, TableSchema

_HEAD = "SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END::text"
_SLOT = """
SELECT restart_lsn::text, (SELECT sent_lsn::text FROM pg_stat_replication WHERE pid = active_pid) FROM pg_replication_slots
WHERE database = current_database() AND plugin = 'pgoutput' AND NOT temporary AND CASE WHEN %(slot)s::text IS NULL
      THEN starts_with(slot_name, %(prefix)s) AND length(slot_name) = length(%(prefix)s) + 8 ELSE slot_name = %(slot)s END
ORDER BY active DESC, confirmed_flush_lsn DESC NULLS LAST LIMIT 1
"""


class PostgresInspection:
    """See cdc.protocols.Inspection."""

    def __init__(self, name: str, config: SourceConfig) -> None:
        self.name, self._config = name, config
        self._connection: Connection | None = None

    def check(self) -> list[Finding]:
        """See Inspection.check."""
        try:
            with translated(self.name, self._config), connect(self.name, self._config) as connection:
                return examine(Probe(self.name, self._config, connection))
        except SourceError as error:
            return [Finding("fail", error.message, error.hint)]

    def lag(self, position: Position | None) -> SourceLag:
        """See Inspection.lag."""
        try:
            with translated(self.name, self._config):
                return self._lag(position)
        except BaseException:
            self.close()  # the next call connects anew
            raise

    def schemas(self) -> Mapping[str, TableSchema]:
        """See Inspection.schemas."""
        with translated(self.name, self._config), connect(self.name, self._config) as connection:
            catalog = Catalog(self.name, self._config.types)
            tables = catalog.find(connection, self._config.tables)
            return {name: catalog.schema(connection, table) for name, table in tables.items()}

    def _lag(self, position: Position | None) -> SourceLag:
        if self._connection is None or self._connection.closed:
            self._connection = connect(self.name, self._config)
        names = {"slot": self._config.slot, "prefix": f"ledgertail_{self.name}_"}
        sampled_at = time.time()
        head = self._connection.execute(_HEAD).fetchone()
        slot = self._connection.execute(_SLOT, names).fetchone()
        assert head is not None
        place = lsn_int(head[0] or "0/0")
        behind = None if position is None else max(0, place - lsn_int(position))
        retained, unsent = (max(0, place - lsn_int(lsn)) if lsn else None for lsn in slot or (None, None))
        return SourceLag(lsn_text(place), behind, retained, unsent, sampled_at)

    def reached(self, position: Position, target: Position) -> bool:
        """See Inspection.reached."""
        return lsn_int(position) >= lsn_int(target)

    def close(self) -> None:
        """See Inspection.close."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
