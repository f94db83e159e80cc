"""The table that is written, the rule of three lines that accounts for it, and the SQL that writes it."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd
from pathlib import Path

from tests.servers.postgres import Database

TRANSACTION_ROWS = 100
TABLE = "orders"
PUBLICATION = "ledgertail_shop"

# An order as a function of its number `i`.
_ORDER = """i, '单-' || i, (1 + i * 7 % 5000)::int, '门店 ' || i % 40, 'paid', (10000 + i * 37 % 900000) / 100.0,
    round((10000 + i * 37 % 900000) * 0.13 / 100, 2), '2026-01-01'::date + (i % 300)::int, clock_timestamp()"""
SCHEMA = f"""
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

CONFIG = """
[store]
url = "duckdb:///{folder}/store.duckdb"
[books.main]
base_currency = "CNY"
chart = "small-business-2013"
[sources.shop]
url = "{url}"
tables = ["orders"]
slot = "{slot}"
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
    """Row changes that were committed."""

    inserts: int
    updates: int

    @property
    def changes(self) -> int:
        return self.inserts + self.updates

    @property
    def entries(self) -> int:
        """What they come to in the journal: an update reverses an entry and posts another."""
        return self.inserts + 2 * self.updates


def prepare(database: Database, folder: Path) -> Path:
    """Make the empty table, and a config with the store in `folder`. Returns the config's path."""
    database.connection.execute(SCHEMA)
    config = folder / "ledgertail.toml"
    config.write_text(CONFIG.format(folder=folder, url=database.url, slot=slot(database)), "utf-8")
    return config


def slot(database: Database) -> str:
    """The daemon's slot."""
    return f"ours_{database.name}"


def write_changes(database: Database, rows: int) -> Written:
    """Commit `rows` changes in transactions of TRANSACTION_ROWS: inserts, then updates of a quarter of them, scattered over the table."""
    updates = rows // 5
    inserts = rows - updates
    step = next(step for step in range(int(inserts * 0.618) + 1, 2 * inserts + 2) if gcd(step, inserts) == 1)
    database.connection.execute("CALL write_orders(%s, %s, %s)", [inserts, updates, step])
    return Written(inserts, updates)


def write_rows(database: Database, rows: int) -> None:
    """Fill the table in one transaction."""
    database.connection.execute(f"INSERT INTO {TABLE} SELECT {_ORDER} FROM generate_series(1, {rows}::bigint) i")
