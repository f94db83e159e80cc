"""Carries out the moves of `source_histories` on a real server, and in the model beside it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tests.changes import Row
from tests.faults.dialects import AnyDatabase, Session, fetched
from tests.property.histories import Content, Key
from tests.property.source_histories import MANY, MOVED, SPARE, Change, History, Move, Tables
from tests.servers.mysql import identifier
from tests.servers.own_server import poll
from tests.servers.postgres import Database

COLUMNS = ("shop", "no", "status", "total", "tax", "paid", "memo")
_ORDERS = """CREATE TABLE orders (shop bigint, no varchar(40), status varchar(10), total decimal(12,2), tax decimal(12,2), paid date,
    memo text, PRIMARY KEY (shop, no))"""
_FEES = "CREATE TABLE fees (kind varchar(10), amount decimal(12,2))"
_MARKS = "CREATE TABLE marks (n bigint PRIMARY KEY)"

TWO_PHASE = 1  # the session whose transactions can be prepared


class Setting(NamedTuple):
    """A variable and its value: of the `server`, of the `sessions`, or of `both`."""

    name: str
    value: str
    scope: str


def _either(name: str, scope: str, *values: str) -> list[Setting]:
    return [Setting(name, value, scope) for value in values]


_LOG_SETTINGS = (
    *_either("binlog_row_image", "both", "FULL", "MINIMAL", "NOBLOB"),
    *_either("binlog_row_metadata", "server", "FULL", "MINIMAL"),
    *_either("binlog_checksum", "server", "CRC32", "NONE"),
    *_either("max_binlog_size", "server", "1073741824", "4096"),  # a file to each transaction, nearly
)


@dataclass(frozen=True)
class Kind:
    """What differs between kinds of servers. `one_fee`: WHERE for one row of `fees`, given its kind and amount. `truncate_commits`:
    TRUNCATE is a transaction of its own, and ends the one before it. `gives_way`: a copy that is not read from lets go of its locks.

    `settings`: what a move can set for all that begins after it.
    `tells_defaults`: of an update, a log without whole rows tells all that a reader must know; if not, updates set every column then.
    """

    statements: Sequence[str]
    one_fee: str
    upsert: str
    rotate: str
    truncate_commits: bool
    gives_way: bool
    settings: Sequence[Setting] = ()
    tells_defaults: bool = True


POSTGRES = Kind(
    statements=(
        f"{_ORDERS} WITH (fillfactor = 10)",  # few rows to a block, and a copy goes by blocks
        *(_FEES, _MARKS, "CREATE TABLE elsewhere (n bigint)"),
        "ALTER TABLE orders ALTER memo SET STORAGE EXTERNAL",
        "ALTER TABLE fees REPLICA IDENTITY FULL",
    ),
    one_fee="ctid = (SELECT min(ctid) FROM fees WHERE kind IS NOT DISTINCT FROM %s AND amount IS NOT DISTINCT FROM %s)",
    upsert="ON CONFLICT (shop, no) DO UPDATE SET " + ", ".join(f"{name} = excluded.{name}" for name in COLUMNS[2:]),
    rotate="SELECT pg_switch_wal()",
    truncate_commits=False,
    gives_way=False,
)
MYSQL = Kind(
    statements=(_ORDERS, _FEES, _MARKS, "CREATE TABLE elsewhere (n bigint)"),
    one_fee="kind <=> %s AND amount <=> %s LIMIT 1",
    upsert="ON DUPLICATE KEY UPDATE " + ", ".join(f"{name} = VALUES({name})" for name in COLUMNS[2:]),
    rotate="FLUSH BINARY LOGS",
    truncate_commits=True,
    gives_way=True,
    settings=(
        *_LOG_SETTINGS,
        *_either("binlog_transaction_compression", "both", "ON", "OFF"),
        *_either("binlog_rows_query_log_events", "both", "ON", "OFF"),
        *_either("gtid_next", "sessions", "'AUTOMATIC:blue'", "'AUTOMATIC'"),
    ),
)
MARIADB = Kind(
    statements=(_ORDERS, _FEES, _MARKS, "CREATE TABLE elsewhere (n bigint) ENGINE = MyISAM"),
    one_fee=MYSQL.one_fee,
    upsert=MYSQL.upsert,
    rotate=MYSQL.rotate,
    truncate_commits=True,
    gives_way=True,
    settings=(
        *_LOG_SETTINGS,
        *_either("binlog_row_metadata", "server", "NO_LOG"),
        *_either("log_bin_compress", "server", "ON", "OFF"),
        *_either("log_bin_compress_min_len", "server", "10", "256"),
        *_either("gtid_domain_id", "sessions", "1", "0"),
    ),
    tells_defaults=False,
)


@dataclass
class Open:
    """A transaction that has not ended. `held`: keys of orders, or whole tables, that nobody else may touch before it does. `name`: of one
    in two phases. `whole`: its updates set every column."""

    held: set[tuple[Any, ...]] = field(default_factory=set)
    changes: list[Change] = field(default_factory=list)
    savepoints: list[tuple[str, int]] = field(default_factory=list)
    name: str | None = None
    whole: bool = False

    def holds(self, item: tuple[Any, ...]) -> bool:
        return item in self.held or (item[0],) in self.held or (len(item) == 1 and any(held[0] == item[0] for held in self.held))


class Writer:
    """Two sessions, and an administrator who decides prepared transactions. `history` is what committed."""

    def __init__(self, database: AnyDatabase, kind: Kind) -> None:
        self.database, self.kind, self.history = database, kind, History()
        self.copying = False  # a copy may have locks on the tables
        self._numbers = itertools.count(1)
        self._settings: dict[str, str] = {}  # of sessions
        self._former = {name: self._admin(f"SELECT @@GLOBAL.{name}")[0][0] for name, _, scope in kind.settings if scope != "sessions"}
        for statement in kind.statements:
            self._admin(statement)
        self._sessions: dict[int, Session] = {}
        self._threads: dict[int, int] = {}
        for who in (0, 1):
            self._connect(who)
        self._open: list[Open | None] = [None, None]
        self._prepared: list[Open] = []
        self._moves: Mapping[str, Callable[..., None]] = {
            "insert": self._insert,
            "upsert": self._upsert,
            "update": self._update,
            "rekey": self._rekey,
            "swap": self._swap,
            "delete": self._delete,
            "again": self._again,
            "fee": self._fee,
            "fee update": self._fee_update,
            "fee delete": self._fee_delete,
            "many": self._many,
            "update many": self._update_many,
            "move many": self._move_many,
            "delete many": self._delete_many,
            "truncate": self._truncate,
            "commit": self._commit,
            "roll back": self._roll_back,
            "prepare": self._prepare,
            "decide": self._decide,
            "savepoint": self._savepoint,
            "back": self._back,
            "elsewhere": self._elsewhere,
            "rotate": self._rotate,
            "setting": self._set,
        }

    def make(self, moves: Sequence[Move]) -> None:
        """Make the moves, as far as they can be made."""
        for name, *given in moves:
            self._moves[name](*given)

    def settle(self) -> None:
        """Commit all that is open."""
        for who in self._sessions:
            self._commit(who)
        while self._prepared:
            self._decide(0, True)

    def mark(self) -> int:
        """A transaction to wait for: its number in `marks`."""
        number = next(self._numbers)
        self._admin(f"INSERT INTO marks VALUES ({number})")
        self.history.commit([Change("marks", "c", number)])
        return number

    def close(self) -> None:
        """Let go of the sessions, and put the server's settings back."""
        for session in self._sessions.values():
            session.close()
        for name, value in self._former.items():
            self._admin(f"SET GLOBAL {name} = {value!r}")

    # The server.

    def _admin(self, statement: str) -> list[tuple[Any, ...]]:
        if isinstance(self.database, Database):
            cursor = self.database.connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []
        return fetched(self.database, statement)

    def _connect(self, who: int) -> None:
        self._sessions[who] = session = Session(self.database)
        if not session.cascades:
            session.execute(
                "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED"
            )  # locks the rows that are written, not what is between
            ((self._threads[who],),) = session.execute("SELECT connection_id()")

    def _rotate(self) -> None:
        self._admin(self.kind.rotate)

    def _set(self, pick: int) -> None:
        if self.kind.settings:
            name, value, scope = self.kind.settings[pick % len(self.kind.settings)]
            if scope != "sessions":
                self._admin(f"SET GLOBAL {name} = {value}")
            if scope != "server":
                self._settings[name] = value

    # Transactions.

    def _opened(self, who: int) -> Open:
        return self._open[who] or self._begin(who)

    def _begin(self, who: int) -> Open:
        session, name = self._sessions[who], self._name() if who == TWO_PHASE else None
        for setting, value in self._settings.items():
            session.execute(f"SET SESSION {setting} = {value}")
        if name and not session.cascades:
            session.execute(f"XA START {name}")
        whole = not self.kind.tells_defaults and self._settings.get("binlog_row_image", "FULL") != "FULL"
        self._open[who] = begun = Open(name=name, whole=whole)
        return begun

    def _name(self) -> str:
        number = next(self._numbers)
        name = f"'{self.database.name}-{number}'"
        return name if isinstance(self.database, Database) or number % 2 else f"{name}, 'it''s', {number}"

    def _commit(self, who: int) -> None:
        if (ended := self._end(who, "COMMIT {} ONE PHASE", lambda session: session.commit())) is not None:
            self.history.commit(ended.changes)

    def _roll_back(self, who: int) -> None:
        self._end(who, "ROLLBACK {}", lambda session: session.rollback())

    def _end(self, who: int, xa: str, plain: Callable[[Session], None]) -> Open | None:
        """End a session's transaction; returns it."""
        ended, session = self._open[who], self._sessions[who]
        if ended is None:
            return None
        if ended.name and not session.cascades:
            session.execute(f"XA END {ended.name}")
            session.execute("XA " + xa.format(ended.name))
        else:
            plain(session)
        self._open[who] = None
        return ended

    def _prepare(self) -> None:
        """The first phase. The session goes: others may decide only then, in MariaDB."""
        prepared, session = self._open[TWO_PHASE], self._sessions[TWO_PHASE]
        if prepared is None:
            return
        if not prepared.changes:  # servers forget those at once
            self._roll_back(TWO_PHASE)
            return
        if session.cascades:
            session.execute(f"PREPARE TRANSACTION {prepared.name}")
            session.close()
        else:
            session.execute(f"XA END {prepared.name}")
            session.execute(f"XA PREPARE {prepared.name}")
            session.close()
            poll(lambda: self._threads[TWO_PHASE] not in [row[0] for row in self._admin("SHOW PROCESSLIST")], "a session is still there")
        self._connect(TWO_PHASE)
        self._open[TWO_PHASE] = None
        self._prepared.append(prepared)

    def _decide(self, pick: int, commit: bool) -> None:
        """The second phase, by another session."""
        if not self._prepared:
            return
        prepared = self._prepared.pop(pick % len(self._prepared))
        verb = "COMMIT" if commit else "ROLLBACK"
        postgres = isinstance(self.database, Database)
        self._admin(f"{verb} PREPARED {prepared.name}" if postgres else f"XA {verb} {prepared.name}")
        if commit:
            self.history.commit(prepared.changes)

    def _savepoint(self, who: int, name: str) -> None:
        opened = self._opened(who)
        self._sessions[who].execute(f"SAVEPOINT {self._quoted(name)}")
        opened.savepoints = [(known, at) for known, at in opened.savepoints if known != name] + [(name, len(opened.changes))]

    def _back(self, who: int, name: str) -> None:
        opened = self._open[who]
        places = [place for place, (known, _) in enumerate(opened.savepoints) if known == name] if opened else []
        if opened is None or not places:
            return
        self._sessions[who].execute(f"ROLLBACK TO SAVEPOINT {self._quoted(name)}")
        del opened.savepoints[places[0] + 1 :]
        del opened.changes[opened.savepoints[-1][1] :]

    def _quoted(self, name: str) -> str:
        return f'"{name}"' if isinstance(self.database, Database) else identifier(name)

    def _elsewhere(self, who: int) -> None:
        """A write to a table that is not captured."""
        self._opened(who)
        self._sessions[who].execute("INSERT INTO elsewhere VALUES (1)")

    # Rows.

    def _now(self) -> Tables:
        """The tables with all that has not committed: no two open transactions touch the same rows."""
        tables = self.history.tables.copy()
        for opened in (*self._open, *self._prepared):
            tables.apply(opened.changes if opened else ())
        return tables

    def _free(self, who: int, *items: tuple[Any, ...]) -> bool:
        """Whether no other open transaction has touched any of these."""
        others = [opened for other, opened in enumerate(self._open) if opened and other != who] + self._prepared
        return not any(opened.holds(item) for opened in others for item in items)

    def _rows(self, who: int) -> list[tuple[Key, Row]]:
        """The orders that the session may change, sorted by key."""
        return [(key, row) for key, row in sorted(self._now().orders.items(), key=lambda item: item[0]) if self._free(who, _item(key))]

    def _picked(self, who: int, pick: int) -> tuple[Key, Row] | None:
        rows = self._rows(who)
        return rows[pick % len(rows)] if rows else None

    def _vacant(self, who: int, key: Key) -> bool:
        """Whether a row may come under a key: servers differ in which texts are equal."""
        return self._free(who, _item(key)) and _item(key) not in {_item(known) for known in self._now().orders}

    def _run(self, who: int, statement: str, arguments: Sequence[Any], *changes: Change) -> None:
        opened = self._opened(who)
        self._sessions[who].execute(statement, arguments)
        # The server keeps a table for whoever has named it, even if nothing was changed.
        opened.held |= {("fees",)} if "fees" in statement else {("orders", 0, "")}
        opened.held |= {_item(change.at) if change.table == "orders" else (change.table,) for change in changes}
        opened.changes += changes

    def _insert(self, who: int, key: Key, values: Row) -> None:
        if self._vacant(who, key):
            self._insert_all(who, [_row(key, values)])

    def _insert_all(self, who: int, rows: Sequence[Row], clause: str = "") -> None:
        places = ", ".join(f"({', '.join(['%s'] * len(COLUMNS))})" for _ in rows)
        arguments = [row[name] for row in rows for name in COLUMNS]
        changes = [Change("orders", "c", _key(row), row) for row in rows]
        self._run(who, f"INSERT INTO orders ({', '.join(COLUMNS)}) VALUES {places} {clause}", arguments, *changes)

    def _upsert(self, who: int, key: Key, values: Row) -> None:
        known = dict(self._rows(who)).get(key)
        if known is not None or self._vacant(who, key):
            row = _row(key, values)
            changes = [Change("orders", "c" if known is None else "u", key, row)] if row != known else []
            places = ", ".join(["%s"] * len(COLUMNS))
            statement = f"INSERT INTO orders ({', '.join(COLUMNS)}) VALUES ({places}) {self.kind.upsert}"
            self._run(who, statement, [row[name] for name in COLUMNS], *changes)

    def _update(self, who: int, pick: int, values: Row, keep_memo: bool) -> None:
        if picked := self._picked(who, pick):
            self._change(who, *picked, picked[0], values, keep_memo)

    def _rekey(self, who: int, pick: int, key: Key, values: Row, keep_memo: bool) -> None:
        picked = self._picked(who, pick)
        if picked and (self._vacant(who, key) or _item(key) == _item(picked[0])):
            self._change(who, *picked, key, values, keep_memo)

    def _swap(self, who: int, one: int, other: int, values: Row, keep_memo: bool) -> None:
        """Two rows change places by way of a key that nobody has."""
        rows = self._rows(who)
        if len(rows) < 2 or one % len(rows) == other % len(rows) or not self._free(who, _item(SPARE)):
            return
        (a, _), (b, _) = rows[one % len(rows)], rows[other % len(rows)]
        for old, new in ((a, SPARE), (b, a), (SPARE, b)):
            self._change(who, old, self._now().orders[old], new, values, keep_memo)

    def _change(self, who: int, old: Key, row: Row, new: Key, values: Row, keep_memo: bool) -> None:
        """UPDATE of one row."""
        told = self._assigned(who, values, keep_memo) | ({"shop": new[0], "no": new[1]} if new != old else {})
        after = row | told
        changes = [Change("orders", "u", new, after)] if old == new else [Change("orders", "d", old), Change("orders", "u", new, after)]
        assignments = ", ".join(f"{name} = %s" for name in told)
        self._run(
            who, f"UPDATE orders SET {assignments} WHERE shop = %s AND no = %s", [*told.values(), *old], *(changes if after != row else ())
        )

    def _assigned(self, who: int, values: Row, keep_memo: bool) -> Row:
        """What an update sets."""
        return {name: value for name, value in values.items() if name != "memo" or not keep_memo or self._opened(who).whole}

    def _delete(self, who: int, pick: int) -> None:
        if picked := self._picked(who, pick):
            self._run(who, "DELETE FROM orders WHERE shop = %s AND no = %s", picked[0], Change("orders", "d", picked[0]))

    def _again(self, who: int, pick: int, values: Row) -> None:
        """A row goes, and comes back under the same key."""
        if picked := self._picked(who, pick):
            self._run(who, "DELETE FROM orders WHERE shop = %s AND no = %s", picked[0], Change("orders", "d", picked[0]))
            self._insert_all(who, [_row(picked[0], values)])

    def _fee(self, who: int, content: Content, count: int) -> None:
        if self._free(who, ("fees",)):
            places = ", ".join(["(%s, %s)"] * count)
            self._run(who, f"INSERT INTO fees (kind, amount) VALUES {places}", [*content] * count, *[Change("fees", "c", content)] * count)

    def _fee_update(self, who: int, pick: int, content: Content) -> None:
        if (old := self._picked_fee(who, pick)) is not None:
            changes = [Change("fees", "d", old), Change("fees", "c", content)] if old != content else []
            self._run(who, f"UPDATE fees SET kind = %s, amount = %s WHERE {self.kind.one_fee}", [*content, *old], *changes)

    def _fee_delete(self, who: int, pick: int) -> None:
        if (old := self._picked_fee(who, pick)) is not None:
            self._run(who, f"DELETE FROM fees WHERE {self.kind.one_fee}", old, Change("fees", "d", old))

    def _picked_fee(self, who: int, pick: int) -> Content | None:
        fees = sorted(self._now().fees, key=repr) if self._free(who, ("fees",)) else []
        return fees[pick % len(fees)] if fees else None

    # Many rows.

    def _of_many(self, who: int, *shops: int) -> dict[Key, Row] | None:
        """The rows of shops that are written many at once; None while others write there."""
        others = [opened for other, opened in enumerate(self._open) if opened and other != who] + self._prepared
        if any(item == ("orders",) or (item[0] == "orders" and item[1] >= MANY) for opened in others for item in opened.held):
            return None
        return {key: row for key, row in self._now().orders.items() if key[0] in shops}

    def _many(self, who: int, count: int, values: Row) -> None:
        if (known := self._of_many(who, MANY)) is not None:
            rows = [_row(key, values) for key in ((MANY, f"{n:03}") for n in range(count)) if key not in known]
            if rows:
                self._insert_all(who, rows)

    def _update_many(self, who: int, values: Row, keep_memo: bool) -> None:
        if known := self._of_many(who, MANY):
            told = self._assigned(who, values, keep_memo)
            changes = [Change("orders", "u", key, row | told) for key, row in known.items() if row | told != row]
            assignments = ", ".join(f"{name} = %s" for name in told)
            self._run(who, f"UPDATE orders SET {assignments} WHERE shop = %s", [*told.values(), MANY], *changes)

    def _move_many(self, who: int, values: Row, keep_memo: bool) -> None:
        """All keys of a shop change in one statement."""
        known, there = self._of_many(who, MANY), self._of_many(who, MOVED)
        if known and not there:
            told = self._assigned(who, values, keep_memo) | {"shop": MOVED}
            changes = [
                change
                for key, row in known.items()
                for change in (Change("orders", "d", key), Change("orders", "u", (MOVED, key[1]), row | told))
            ]
            assignments = ", ".join(f"{name} = %s" for name in told)
            self._run(who, f"UPDATE orders SET {assignments} WHERE shop = %s", [*told.values(), MANY], *changes)

    def _delete_many(self, who: int) -> None:
        if known := self._of_many(who, MANY, MOVED):
            self._run(who, "DELETE FROM orders WHERE shop >= %s", [MANY], *(Change("orders", "d", key) for key in known))

    def _truncate(self, who: int, table: str) -> None:
        opened, commits = self._open[who], self.kind.truncate_commits
        if (self.copying and not self.kind.gives_way) or not self._free(who, (table,)) or (commits and opened and opened.name):
            return
        if not commits:
            self._run(who, f"TRUNCATE {table}", ())
            self._opened(who).held.add((table,))
            self._opened(who).changes.append(Change(table, "t"))
            return
        self._sessions[who].execute(f"TRUNCATE {table}")
        self._open[who] = None
        self.history.commit(opened.changes if opened else ())
        self.history.commit([Change(table, "t")])


def _item(key: Key) -> tuple[Any, ...]:
    """A key as a server that takes it for equal to others might see it."""
    return ("orders", key[0], key[1].rstrip(" ").casefold())


def _key(row: Row) -> Key:
    return row["shop"], row["no"]


def _row(key: Key, values: Row) -> Row:
    return {"shop": key[0], "no": key[1], **values}
