"""`check` against real servers: what is wrong is found, and what it says mends it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from psycopg import sql

from cdc.config import SourceConfig
from cdc.errors import SourceError, SourceUnavailable
from cdc.sources.postgres import PostgresInspection, PostgresSource
from cdc.types import Finding, Resume
from tests.servers.postgres import PASSWORD, USER, Database, PostgresServer, fresh_database


def config(database: Database, *tables: str, **options: Any) -> SourceConfig:
    return SourceConfig(**{"url": database.url, "tables": list(tables), **options})


def check(settings: SourceConfig) -> list[Finding]:
    inspection = PostgresInspection("shop", settings)
    found = inspection.check()
    inspection.close()
    return found


def faults(settings: SourceConfig) -> list[Finding]:
    return [finding for finding in check(settings) if finding.level == "fail"]


def make(database: Database, *statements: str) -> None:
    for statement in statements:
        database.connection.execute(statement.encode())


def mend(database: Database, finding: Finding) -> None:
    """Do what a finding says, as the superuser."""
    for statement in filter(None, map(str.strip, finding.mend.split(";"))):
        database.connection.execute(statement.encode())


@pytest.fixture
def as_cdc(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """The options that log in as the role without rights."""
    monkeypatch.setenv("CDC_PASSWORD", PASSWORD)
    yield {"password_env": "CDC_PASSWORD"}


def cdc_url(database: Database) -> str:
    return database.server.url(database.name, USER)


def test_all_is_well(any_database: Database) -> None:
    make(any_database, "CREATE TABLE t (id int PRIMARY KEY)")
    found = check(config(any_database, "t"))
    assert {finding.level for finding in found} <= {"ok", "warn"}
    assert found[0].what == f"PostgreSQL {any_database.server.major}"
    source = PostgresSource("shop", config(any_database, "t"))
    source.open(Resume("0" * 32, None, {}, {}))
    source.close()
    assert not faults(config(any_database, "t"))


def test_a_role_without_rights_is_led_to_them(any_database: Database, as_cdc: dict[str, str]) -> None:
    """Every mend is run as it stands, until nothing fails: then the source must open."""
    make(any_database, 'CREATE SCHEMA "Sales"', 'CREATE TABLE "Sales"."Or""ders" (id int PRIMARY KEY)', "CREATE TABLE t (a int)")
    settings = config(any_database, 'Sales.Or"ders', "t", url=cdc_url(any_database), **as_cdc)
    for _ in range(4):
        found = faults(settings)
        for finding in found:
            if "PRIMARY KEY (...)" in finding.mend:
                make(any_database, finding.mend.split("; or ")[1])
            else:
                mend(any_database, finding)
    assert not found
    source = PostgresSource("shop", settings)
    source.open(Resume("0" * 32, None, {}, {}))
    while (batch := source.read()) is None or not batch.promote:
        pass
    source.close()


@pytest.mark.parametrize(
    ("table", "match"),
    [
        ("CREATE TABLE t (id int)", "no primary key"),
        ("CREATE TABLE t (id int PRIMARY KEY DEFERRABLE)", "no primary key"),
        ("CREATE UNLOGGED TABLE t (id int PRIMARY KEY)", "unlogged"),
        ("CREATE VIEW t AS SELECT 1 AS id", "no table"),
        ("CREATE TABLE other (id int PRIMARY KEY)", "no table 't'"),
        ("CREATE TABLE t (id int PRIMARY KEY); ALTER TABLE t REPLICA IDENTITY NOTHING", "NOTHING"),
    ],
)
def test_tables_that_cannot_be_captured(database: Database, table: str, match: str) -> None:
    make(database, *table.split("; "))
    (finding,) = faults(config(database, "t"))
    assert match in finding.what
    assert finding.mend


def test_warnings_name_columns(database: Database) -> None:
    make(database, "CREATE TABLE t (id int PRIMARY KEY, n numeric, twice int GENERATED ALWAYS AS (id * 2) STORED)")
    warnings = [finding for finding in check(config(database, "t")) if finding.level == "warn"]
    assert any("generated columns" in finding.what and "twice" in finding.what for finding in warnings)
    assert any("column 'n'" in finding.what and '"t.n" = "decimal(18,2)"' in finding.mend for finding in warnings)
    assert not any("column 'n'" in finding.what for finding in check(config(database, "t", types={"t.n": "decimal(18,2)"})))


def test_row_security_is_found(database: Database, as_cdc: dict[str, str]) -> None:
    make(database, "CREATE TABLE t (id int PRIMARY KEY)", "ALTER TABLE t ENABLE ROW LEVEL SECURITY", f"GRANT SELECT ON t TO {USER}")
    found = faults(config(database, "t", url=cdc_url(database), **as_cdc))
    assert any("row security" in finding.what and "BYPASSRLS" in finding.mend for finding in found)


def test_a_publication_that_leaves_out_changes_is_mended(database: Database) -> None:
    make(database, "CREATE TABLE t (id int PRIMARY KEY, v int)", "CREATE TABLE u (id int PRIMARY KEY)")
    make(database, "CREATE PUBLICATION ledgertail_shop FOR TABLE t WHERE (v > 1) WITH (publish = 'insert', publish_via_partition_root)")
    found = faults(config(database, "t", "u"))
    assert len(found) == 3
    for finding in found:
        mend(database, finding)
    assert not faults(config(database, "t", "u"))


def test_a_slot_of_another_plugin_is_found(database: Database) -> None:
    make(database, "CREATE TABLE t (id int PRIMARY KEY)")
    slot = f"mine_{database.name}"
    make(database, f"SELECT pg_create_physical_replication_slot('{slot}')")
    try:
        (finding,) = faults(config(database, "t", slot=slot)) or check(config(database, "t", slot=slot))[-1:]
        source = PostgresSource("shop", config(database, "t", slot=slot))
        with pytest.raises(SourceError, match="not ours"):
            source.open(Resume("0" * 32, None, {}, {}))
        source.close()
        assert "not ours" in finding.what
    finally:
        make(database, f"SELECT pg_drop_replication_slot('{slot}')")


def test_wrong_logins(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WRONG", "a wrong password")
    settings = config(database, "t", url=cdc_url(database), password_env="WRONG")
    (finding,) = check(settings)
    assert (finding.level, "password" in finding.mend) == ("fail", True)
    assert "a wrong password" not in finding.what + finding.mend
    source = PostgresSource("shop", settings)
    with pytest.raises(SourceError, match="does not let user 'cdc' in") as caught:
        source.open(Resume("0" * 32, None, {}, {}))
    assert not isinstance(caught.value, SourceUnavailable)
    inspection = PostgresInspection("shop", config(database, "t", url=re.sub(r":\d+/", ":1/", database.url)))
    with pytest.raises(SourceUnavailable):
        inspection.lag(None)
    inspection.close()


def test_a_server_that_is_not_set_up_is_led_to_it() -> None:
    settings = {"wal_level": "replica", "max_replication_slots": 0, "max_wal_senders": 0, "wal_sender_timeout": "3s"}
    with PostgresServer(18, {**settings, "idle_replication_slot_timeout": "1d"}) as server, fresh_database(server) as database:
        make(database, "CREATE TABLE t (id int PRIMARY KEY)")
        source = PostgresSource("shop", config(database, "t"))
        with pytest.raises(SourceError, match="wal_level = replica"):
            source.open(Resume("0" * 32, None, {}, {}))
        source.close()
        found = check(config(database, "t"))
        failed = [finding for finding in found if finding.level == "fail" and finding.mend.startswith("ALTER SYSTEM")]
        warned = [finding for finding in found if finding.level == "warn" and finding.mend.startswith("ALTER SYSTEM")]
        assert {finding.mend.split()[3] for finding in failed} == {"wal_level", "max_replication_slots", "max_wal_senders"}
        assert {finding.mend.split()[3] for finding in warned} == {
            "wal_sender_timeout",
            "idle_replication_slot_timeout",
            "max_slot_wal_keep_size",
        }
        for finding in (*failed, *warned):
            for statement in finding.mend.split(";")[:2]:
                if statement.strip().startswith(("ALTER", "SELECT")):
                    database.connection.execute(statement.encode())
        server.restart()
        assert {finding.level for finding in check(config(database, "t"))} == {"ok"}


def test_a_database_of_no_known_encoding_is_refused(database: Database) -> None:
    name = f"{database.name}_ascii"
    with database.server.connect() as connection:
        connection.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'").format(sql.Identifier(name))
        )
    try:
        (finding,) = faults(SourceConfig(url=database.server.url(name), tables=["t"]))
        assert "SQL_ASCII" in finding.what
    finally:
        database.server.drop_database(name)


def test_no_transaction_of_ours_stays_open(database: Database) -> None:
    make(database, "CREATE TABLE t (id int PRIMARY KEY)")
    inspection = PostgresInspection("shop", config(database, "t"))
    inspection.check()
    inspection.lag(None)
    row = database.connection.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'ledgertail%' AND state <> 'idle'"
    ).fetchone()
    inspection.close()
    assert row == (0,)
