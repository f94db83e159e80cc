"""What the shop's SQL differs in between the kinds of sources, and sessions that are alike for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
import pymysql

from tests.servers.mysql import MyDatabase
from tests.servers.mysql import rows as mysql_rows
from tests.servers.postgres import Database

AnyDatabase = Database | MyDatabase
_MYSQL_PASSING = (1205, 1213, 1020)  # lock wait timeout, deadlock, MariaDB: changed since last read


@dataclass(frozen=True, slots=True)
class Dialect:
    """Pieces of SQL. `numbers`: a table `n` with the numbers `i` from 1 to {count}; `text`: the type to cast to for a text; `day`: {days}
    after a {date}; `settings`: what is run after the tables were made."""

    numbers: str
    text: str
    day: str
    table_options: str
    foreign_key: str
    key_text: str
    settings: tuple[str, ...]
    remove_note: str
    raise_note: str


POSTGRES = Dialect(
    numbers="generate_series(1, {count}) AS n(i)",
    text="text",
    day="'{date}'::date + {days}",
    table_options="",
    foreign_key="REFERENCES orders ON UPDATE CASCADE ON DELETE CASCADE",
    key_text="text",
    settings=("ALTER TABLE notes REPLICA IDENTITY FULL", "ALTER TABLE orders ALTER COLUMN remark SET STORAGE EXTERNAL"),
    remove_note="DELETE FROM notes WHERE ctid = (SELECT min(ctid) FROM notes WHERE amount = %s)",
    raise_note="UPDATE notes SET amount = amount + 1 WHERE ctid = (SELECT max(ctid) FROM notes WHERE amount < 50)",
)
MYSQL = Dialect(
    numbers="(WITH RECURSIVE s(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < {count}) SELECT i FROM s) AS n",
    text="char",
    day="date_add('{date}', INTERVAL {days} DAY)",
    table_options="ENGINE=InnoDB DEFAULT CHARSET=utf8mb4",
    foreign_key="",  # what a cascade changes is not in the binlog
    key_text="varchar(40)",
    settings=(),
    remove_note="DELETE FROM notes WHERE amount = %s LIMIT 1",
    raise_note="UPDATE notes SET amount = amount + 1 WHERE amount < 50 LIMIT 1",
)


class Session:
    """One connection to a database, in transactions of its own."""

    def __init__(self, database: AnyDatabase) -> None:
        self.cascades = isinstance(database, Database)
        self.dialect = POSTGRES if self.cascades else MYSQL
        self._connection: Any = database.server.connect(database.name, autocommit=False)

    def execute(self, statement: str, arguments: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run a statement; its rows."""
        if self.cascades:
            cursor = self._connection.execute(statement, arguments or None)
            return list(cursor.fetchall()) if cursor.description else []
        return mysql_rows(self._connection, statement, arguments or None)

    def allow_long_recursion(self, depth: int) -> None:
        """Let a recursive query of the session make as many rows."""
        if not self.cascades:
            name = "max_recursive_iterations" if "MariaDB" in self.execute("SELECT version()")[0][0] else "cte_max_recursion_depth"
            self.execute(f"SET SESSION {name} = {depth + 1}")

    def commit(self) -> None:
        self._connection.commit()

    def rollback(self) -> None:
        self._connection.rollback()

    def close(self) -> None:
        self._connection.close()


def gave_way(error: BaseException) -> bool:
    """Whether a transaction failed because others were in its way."""
    if isinstance(error, pymysql.err.MySQLError):
        return error.args[0] in _MYSQL_PASSING or isinstance(error, pymysql.err.IntegrityError)
    return isinstance(error, psycopg.errors.DeadlockDetected | psycopg.errors.SerializationFailure | psycopg.errors.ForeignKeyViolation)


def fetched(database: AnyDatabase, statement: str) -> list[tuple[Any, ...]]:
    """The rows of a query over the administrator's connection."""
    if isinstance(database, Database):
        return list(database.connection.execute(statement.encode()).fetchall())
    return database.execute(statement)
