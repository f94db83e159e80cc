"""The table that is written, the rule of three lines that accounts for it, and the SQL that writes it, in both dialects."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import gcd
from pathlib import Path

TRANSACTION_ROWS = 100
TABLE = "orders"

# An order as a function of its number `i`.
_ORDER = """i, '单-' || i, (1 + i * 7 % 5000)::int, '门店 ' || i % 40, 'paid', (10000 + i * 37 % 900000) / 100.0,
    round((10000 + i * 37 % 900000) * 0.13 / 100, 2), '2026-01-01'::date + (i % 300)::int, clock_timestamp()"""
POSTGRES_SCHEMA = f"""
CREATE TABLE {TABLE} (
    id bigint PRIMARY KEY, order_no text NOT NULL, customer_id int NOT NULL, store text NOT NULL, status text NOT NULL,
    total numeric(18,2) NOT NULL, tax numeric(18,2) NOT NULL, paid_on date, updated_at timestamptz NOT NULL);
CREATE SEQUENCE order_ids;
CREATE PROCEDURE write_orders(inserts bigint, updates bigint, step bigint) LANGUAGE plpgsql AS $$
BEGIN
    FOR begun IN 0 .. inserts - 1 BY {TRANSACTION_ROWS} LOOP
        INSERT INTO {TABLE} SELECT {_ORDER} FROM generate_series(begun + 1, least(begun + {TRANSACTION_ROWS}, inserts)) i;
        COMMIT;
    END LOOP;
    FOR begun IN 0 .. updates - 1 BY {TRANSACTION_ROWS} LOOP
        UPDATE {TABLE} SET total = total + 1, updated_at = clock_timestamp() WHERE id = ANY (ARRAY(
            SELECT 1 + k * step % inserts FROM generate_series(begun::bigint, least(begun + {TRANSACTION_ROWS}, updates) - 1) k));
        COMMIT;
    END LOOP;
END $$;
"""
ONE = f"INSERT INTO {TABLE} SELECT {_ORDER} FROM nextval('order_ids') i;\n"
POSTGRES_ROWS = f"INSERT INTO {TABLE} SELECT {_ORDER} FROM generate_series(1, {{rows}}::bigint) i"

MYSQL_SCHEMA = f"""CREATE TABLE {TABLE} (
    id bigint PRIMARY KEY, order_no varchar(40) NOT NULL, customer_id int NOT NULL, store varchar(40) NOT NULL, status varchar(20) NOT NULL,
    total decimal(18,2) NOT NULL, tax decimal(18,2) NOT NULL, paid_on date, updated_at datetime(6) NOT NULL)"""
_MYSQL_ROWS = """INSERT INTO orders WITH RECURSIVE s(i) AS (SELECT {first} UNION ALL SELECT i + 1 FROM s WHERE i < {last})
    SELECT i, concat('单-', i), 1 + i * 7 % 5000, concat('门店 ', i % 40), 'paid', (10000 + i * 37 % 900000) / 100.0,
    round((10000 + i * 37 % 900000) * 0.13 / 100, 2), date_add('2026-01-01', INTERVAL i % 300 DAY), now(6) FROM s"""
_MYSQL_UPDATE = f"UPDATE {TABLE} SET total = total + 1, updated_at = now(6) WHERE id IN ({{ids}})"

CONFIG = """
[store]
url = "duckdb:///{folder}/store.duckdb"
[books.main]
base_currency = "CNY"
chart = "small-business-2013"
[sources.shop]
url = "{url}"
tables = ["orders"]
{more}
[[rules]]
name = "sale"
book = "main"
table = "shop.orders"
when = "status = 'paid'"
date = "paid_on"
voucher_key = "order_no"
summary = "'销售 ' || order_no"
lines = [
  {{ account = "1122", debit = "total", dims = {{ customer = "customer_id" }} }},
  {{ account = "5001", credit = "total - tax", dims = {{ store = "store" }} }},
  {{ account = "2221", credit = "tax" }},
]
"""


@dataclass(frozen=True, slots=True)
class Written:
    """Row changes, in transactions of TRANSACTION_ROWS: inserts, then updates scattered over the table."""

    inserts: int
    updates: int

    @property
    def changes(self) -> int:
        return self.inserts + self.updates

    @property
    def entries(self) -> int:
        """What they come to in the journal: an update reverses an entry and posts another."""
        return self.inserts + 2 * self.updates

    @property
    def step(self) -> int:
        """From one row that is updated to the next."""
        return next(step for step in range(int(self.inserts * 0.618) + 1, 2 * self.inserts + 2) if gcd(step, self.inserts) == 1)


def with_updates(changes: int) -> Written:
    """So many changes, a fifth of them updates."""
    return Written(changes - changes // 5, changes // 5)


def mysql_rows(first: int, last: int) -> str:
    """What writes the orders from one number to another."""
    return _MYSQL_ROWS.format(first=first, last=last)


def mysql_transactions(written: Written) -> Iterator[str]:
    """A statement for each."""
    for first in range(1, written.inserts + 1, TRANSACTION_ROWS):
        yield mysql_rows(first, min(first + TRANSACTION_ROWS - 1, written.inserts))
    for begun in range(0, written.updates, TRANSACTION_ROWS):
        updated = range(begun, min(begun + TRANSACTION_ROWS, written.updates))
        yield _MYSQL_UPDATE.format(ids=", ".join(str(1 + k * written.step % written.inserts) for k in updated))


def write_config(folder: Path, url: str, more: str = "") -> Path:
    """A config for the shop at `url`, with the store in `folder`; `more` are lines of the source's. Returns its path."""
    config = folder / "ledgertail.toml"
    config.write_text(CONFIG.format(folder=folder, url=url, more=more), "utf-8")
    return config
