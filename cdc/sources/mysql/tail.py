"""A session of the binlog stream and its decoder."""

from __future__ import annotations

from cdc.config import SourceConfig
from cdc.decode.mysql.binlog import Decoder
from cdc.decode.mysql.position import BinlogPosition
from cdc.decode.mysql.wire import Place
from cdc.sources import tail
from cdc.sources.mysql.relations import Relations
from cdc.sources.mysql.replication import FromFile, Start, Stream
from cdc.sources.mysql.server import Server

NOWHERE = Place(0, 0)


class Tail(tail.Tail[Place]):
    """One session. `after`: what the store has; what was committed before it is read only for the sake of prepared transactions.

    By GTID the server begins at a place of its own choosing: places count from there on.
    """

    def __init__(
        self, config: SourceConfig, server: Server, stream: Stream, start: Start, after: BinlogPosition, relations: Relations
    ) -> None:
        self.stream, self._server, self._after = stream, server, after
        by_file = isinstance(start, FromFile)
        self._floor = after.place if by_file else NOWHERE
        self._binlog = Decoder(
            relations.resolve,
            relations.effects,
            mariadb=server.mariadb,
            file=start.file if isinstance(start, FromFile) else "",
            offset=start.offset if isinstance(start, FromFile) else 0,
            skip_until=after.place if by_file and after.reread else None,
            gtids=after.gtids,
        )
        super().__init__(config.batch_size_max, stream, self._binlog)

    @property
    def place(self) -> Place:
        """The end of the last transaction decoded; while nothing is open (see `resting`) also of what is no transaction."""
        return max(self._binlog.position, self._floor)

    @property
    def position(self) -> BinlogPosition:
        """The place, and all that the next session needs to go on from there."""
        binlog = self._binlog
        if binlog.position <= self._floor:
            return self._after
        return BinlogPosition(binlog.file, binlog.position.offset, self._server.uuid, binlog.born, binlog.gtids, binlog.open_xa)
