"""PostgreSQL 12 to 18 as a source: snapshot by COPY, then pgoutput over a logical replication slot.

In order of reading: source.py (what happens when), slots.py and catalog.py (what the server has), snapshot.py and progress.py (the copy),
replication.py (the stream), relations.py and evolution.py (shapes), preflight.py and inspection.py (`check`, the lag).
"""

from cdc.sources.postgres.inspection import PostgresInspection
from cdc.sources.postgres.source import PostgresSource

__all__ = ["PostgresInspection", "PostgresSource"]
