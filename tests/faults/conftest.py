"""The fault tests run over every kind of source."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.dialects import AnyDatabase
from tests.servers import mysql, postgres
from tests.servers.mysql_binaries import FLAVOURS
from tests.servers.postgres_binaries import DEFAULT_VERSION


@pytest.fixture(params=["postgres", *FLAVOURS])
def source_database(request: pytest.FixtureRequest) -> Iterator[AnyDatabase]:
    """A database of the test's own, on a server of each kind in turn."""
    if request.param == "postgres":
        with postgres.running(DEFAULT_VERSION) as server, postgres.fresh_database(server) as database:
            yield database
    else:
        with mysql.running(request.param) as server, mysql.fresh_database(server) as database:
            yield database
