"""Stores for the laws to hold in; servers of every kind for those on real sources."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

import pytest

from cdc.accounting.accountant import Accountant
from tests.faults.dialects import AnyDatabase
from tests.property.source_writer import MARIADB, MYSQL, POSTGRES, Kind
from tests.property.stores import Store, fresh_store
from tests.servers import mysql, postgres
from tests.servers.mysql_binaries import FLAVOURS
from tests.servers.postgres_binaries import DEFAULT_VERSION

pytest.register_assert_rewrite("tests.property.test_laws")


@pytest.fixture(scope="module", params=["memory", "duckdb"])
def store(
    request: pytest.FixtureRequest, accountant: Accountant, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[], AbstractContextManager[Store]]:
    """Makes new stores of each kind in turn for the module's `accountant`: each is closed when it is left."""
    return partial(fresh_store, tmp_path_factory.mktemp("stores"), accountant, durable=request.param == "duckdb")


@dataclass(frozen=True)
class Databases:
    """Makes new databases on a server of a kind, each dropped when it is left."""

    kind: Kind
    fresh: Callable[[], AbstractContextManager[AnyDatabase]]


@pytest.fixture(scope="session", params=["postgres", "postgres streaming", *FLAVOURS])
def databases(request: pytest.FixtureRequest) -> Iterator[Databases]:
    """Of a server of each kind in turn, shared by all tests of a worker. One sends every transaction while it is in progress."""
    if request.param == "postgres streaming":
        with postgres.PostgresServer(DEFAULT_VERSION, {"debug_logical_replication_streaming": "immediate"}) as server:
            yield Databases(POSTGRES, lambda: postgres.fresh_database(server))
    elif request.param == "postgres":
        with postgres.running(DEFAULT_VERSION) as server:
            yield Databases(POSTGRES, lambda: postgres.fresh_database(server))
    else:
        with mysql.running(request.param) as other:
            yield Databases(MARIADB if other.is_mariadb else MYSQL, lambda: mysql.fresh_database(other))
