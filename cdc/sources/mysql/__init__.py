"""MySQL 5.7 to 9 and MariaDB 10.5 to 11.8 as sources: a snapshot by key, then the binlog.

In order of reading: source.py (what happens when), catalog.py and server.py (what the server has); for the copy lock.py, snapshot.py,
walk.py, chunks.py, guard.py and progress.py; for the stream replication.py, tail.py and relations.py (shapes); preflight.py and
inspection.py (`check`, the lag).
"""

from cdc.sources.mysql.inspection import MysqlInspection
from cdc.sources.mysql.source import MysqlSource

__all__ = ["MysqlInspection", "MysqlSource"]
