"""What every test can ask for: real servers, databases of its own, and properties on a time budget."""

from __future__ import annotations

import functools
import os
import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import pytest
from hypothesis import HealthCheck, Phase, core, settings
from hypothesis.errors import StopTest, UnsatisfiedAssumption
from hypothesis.internal.conjecture import engine
from hypothesis.strategies import DataObject

from tests import kernels
from tests.servers import mysql as mysql_servers
from tests.servers.cache import NotAvailable
from tests.servers.mysql import MyDatabase, RunningMySQL
from tests.servers.mysql_binaries import DEFAULT_FLAVOUR, FLAVOURS
from tests.servers.postgres import Database, RunningPostgres, fresh_database, running
from tests.servers.postgres_binaries import DEFAULT_VERSION, VERSIONS

engine.MAX_SHRINKING_SECONDS = 60  # for each way in which a property fails
PROPERTY_SECONDS = float(os.environ.get("LEDGERTAIL_TEST_PROPERTY_SECONDS", "3"))

# Random examples each run; a failure prints the blob that repeats it.
# Explaining one takes as long as it likes.
settings.register_profile(
    "ledgertail",
    deadline=None,
    print_blob=True,
    derandomize=False,
    suppress_health_check=[HealthCheck.too_slow],
    phases=[phase for phase in Phase if phase != Phase.explain],
)
settings.load_profile("ledgertail")


SEED = int(os.environ.setdefault("LEDGERTAIL_TEST_SEED", str(secrets.randbelow(1 << 32))))  # the workers inherit it


def pytest_configure(config: pytest.Config) -> None:
    """One seed for all that is random in a run."""
    if config.getoption("hypothesis_seed", None) is None:
        core.global_force_seed = SEED


def pytest_report_header() -> str:
    return f"random: LEDGERTAIL_TEST_SEED={SEED} repeats this run's seeds"


@pytest.fixture(scope="session")
def postgres() -> Iterator[RunningPostgres]:
    """A server of the default version, shared by all tests of a worker: never stop it, start a PostgresServer for that."""
    with running(DEFAULT_VERSION) as server:
        yield server


@pytest.fixture(scope="session", params=VERSIONS, ids=str)
def any_postgres(request: pytest.FixtureRequest) -> Iterator[RunningPostgres]:
    """A server of each version in turn, shared like `postgres`."""
    with running(request.param) as server:
        yield server


@pytest.fixture
def database(postgres: RunningPostgres) -> Iterator[Database]:
    """A database of the test's own in `postgres`, dropped at the end with its slots and connections."""
    with fresh_database(postgres) as fresh:
        yield fresh


@pytest.fixture
def any_database(any_postgres: RunningPostgres) -> Iterator[Database]:
    """A database of the test's own in each version in turn."""
    with fresh_database(any_postgres) as fresh:
        yield fresh


@pytest.fixture(scope="session")
def mysql() -> Iterator[RunningMySQL]:
    """A server of the default flavour, shared by all tests of a worker: never stop it, start a MySQLServer for that."""
    with mysql_servers.running(DEFAULT_FLAVOUR) as server:
        yield server


@pytest.fixture(scope="session", params=FLAVOURS)
def any_mysql(request: pytest.FixtureRequest) -> Iterator[RunningMySQL]:
    """A server of each flavour in turn, shared like `mysql`."""
    with mysql_servers.running(request.param) as server:
        yield server


@pytest.fixture
def mysql_database(mysql: RunningMySQL) -> Iterator[MyDatabase]:
    """A database of the test's own in `mysql`, dropped at the end with its connections and prepared transactions."""
    with mysql_servers.fresh_database(mysql) as fresh:
        yield fresh


@pytest.fixture
def any_mysql_database(any_mysql: RunningMySQL) -> Iterator[MyDatabase]:
    """A database of the test's own in each flavour in turn."""
    with mysql_servers.fresh_database(any_mysql) as fresh:
        yield fresh


@pytest.fixture(scope="module", params=kernels.FORMS)
def mysql_kernel(request: pytest.FixtureRequest) -> Iterator[None]:
    """The decoder of binlogs with either form of its kernel."""
    with kernels.demanded("mysql", request.param):
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Iterator[None]:
    """A server that cannot be had, asked for by a fixture: see `absent`."""
    try:
        yield
    except NotAvailable as error:
        absent(error)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """The same for a test that asks itself; and a time budget for properties, which Hypothesis lacks."""
    property_ = getattr(getattr(item, "obj", None), "hypothesis", None)
    try:
        if property_ is None:
            yield
        else:
            whole, property_.inner_test = property_.inner_test, budgeted(property_.inner_test, PROPERTY_SECONDS)
            try:
                yield
            finally:
                property_.inner_test = whole
    except NotAvailable as error:
        absent(error)


def absent(error: NotAvailable) -> NoReturn:
    """Skips the test by name; in CI nothing may be missing, so there it fails."""
    if os.environ.get("CI"):
        pytest.fail(f"in CI every server must be had: {error}", pytrace=False)
    pytest.skip(str(error))


def budgeted(test: Callable[..., Any], seconds: float) -> Callable[..., Any]:
    """`test`, whose examples pass unseen once the time is spent, but for the last that failed: Hypothesis must see that fail again.

    After the first that fails there is a minute for smaller ones. A test that draws in its body is never passed over, as Hypothesis
    replays what was drawn.
    """
    deadline: float | None = None
    failed: str | None = None

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> Any:
        nonlocal deadline, failed
        deadline = deadline or time.monotonic() + seconds
        example = repr((args, kwargs))
        drawing = any(isinstance(value, DataObject) for value in (*args, *kwargs.values()))
        if time.monotonic() > deadline and example != failed and not drawing:
            return None
        try:
            return test(*args, **kwargs)
        except (UnsatisfiedAssumption, StopTest):
            raise
        except BaseException:
            if failed is None:
                deadline = time.monotonic() + engine.MAX_SHRINKING_SECONDS
            failed = example
            raise

    return run
