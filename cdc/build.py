"""Puts things together: from a config to sources, store, pipeline and the socket's server. Functions here only connect."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from cdc.accounting.accountant import Accountant
from cdc.accounting.books import Book, load_book
from cdc.accounting.charts import load_chart
from cdc.accounting.functions import load_functions
from cdc.config import Config, SourceConfig
from cdc.errors import ConfigError
from cdc.paths import places
from cdc.pipeline import Pipeline
from cdc.protocols import Inspection, SinkTransaction, Source
from cdc.types import Account, TableSchema

if TYPE_CHECKING:
    from cdc.serving.server import Server
    from sinks.duckdb import DuckDBSink
    from sinks.ducklake import Publisher
    from sinks.memory import MemorySink

# By url scheme: the kind of source, its module, and the names of its Source and its Inspection.
SOURCES = {
    "postgres": ("postgres", "cdc.sources.postgres", "PostgresSource", "PostgresInspection"),
    "mysql": ("mysql", "cdc.sources.mysql", "MysqlSource", "MysqlInspection"),
    "mariadb": ("mysql", "cdc.sources.mysql", "MysqlSource", "MysqlInspection"),
    "postgresql": ("postgres", "cdc.sources.postgres", "PostgresSource", "PostgresInspection"),
}


def kind(source: SourceConfig) -> str:
    """`postgres` or `mysql`. Raises ConfigError for a url of another scheme."""
    return _entry(source)[0]


def source(name: str, config: SourceConfig) -> Source:
    """A new Source, not yet opened."""
    _, module, cls, _ = _entry(config)
    made: Source = getattr(import_module(module), cls)(name, config)
    return made


def inspection(name: str, config: SourceConfig) -> Inspection:
    """A new Inspection of a source; it connects when it is first asked."""
    _, module, _, cls = _entry(config)
    made: Inspection = getattr(import_module(module), cls)(name, config)
    return made


def books(config: Config) -> tuple[dict[str, Book], list[Account]]:
    """The books with their charts and tables loaded, and all their accounts. Raises ConfigError for what can't be had of them."""
    made, accounts = {}, []
    for name, book in config.books.items():
        chart = load_chart(name, book.chart, config.path.parent)
        accounts += chart
        made[name] = load_book(name, book, chart, config.path.parent)
    return made, accounts


def accountant(config: Config) -> Accountant:
    """The rules of a config, ready to be compiled against schemas. Raises ConfigError, also for a function that can't be loaded."""
    return Accountant(config.rules, books(config)[0], load_functions(config.path, config.functions))


def check_rules(config: Config, schemas: Mapping[str, TableSchema]) -> None:
    """Compile every rule of the tables given, by `source_table`. Raises ConfigError for the first that does not fit."""
    checker = accountant(config)
    try:
        checker.check(schemas.values())
    finally:
        checker.close()


def sink(config: Config) -> DuckDBSink:
    """The store, opened as its one writer and made ready. Raises StoreError where it can't be."""
    from sinks.duckdb import DuckDBSink

    accounts = books(config)[1]
    opened = DuckDBSink(places(config.path).store, config.store.memory_limit)
    try:
        opened.prepare(accounts)
    except BaseException:
        opened.close()
        raise
    return opened


def pipeline(config: Config, store: DuckDBSink) -> Pipeline:
    """The pipeline that writes a store."""
    from checkpoints.instore import InStore

    return Pipeline(store, InStore(), accountant(config))


@contextmanager
def rehearsal(config: Config) -> Iterator[tuple[MemorySink, Pipeline]]:
    """A pipeline by a config's rules into a store in memory, which is empty and for nobody else to see."""
    from checkpoints.file import FileCheckpoints
    from sinks.memory import MemorySink

    store = MemorySink()
    with TemporaryDirectory(prefix="ledgertail-") as folder:
        pipe = Pipeline(store, FileCheckpoints(Path(folder) / "checkpoints.json"), accountant(config))
        try:
            yield store, pipe
        finally:
            pipe.close()


def server(config: Config, store: DuckDBSink, actions: Mapping[str, Callable[[dict[str, Any]], object]]) -> Server:
    """The socket's server for a store, not yet started."""
    from cdc.serving.server import Server

    return Server(
        places(config.path).socket,
        int(config.store.socket_mode, 8),
        store.reader,
        actions,
        read_timeout_s=config.store.read_timeout.total_seconds(),
    )


def publisher(config: Config, store: DuckDBSink) -> Publisher | None:
    """What publishes a store's journal, if the config says so."""
    if config.publish is None:
        return None
    from sinks.ducklake import Publisher

    return Publisher(store.reader, config.publish.url, config.publish.keep)


def save_status(store: DuckDBSink, name: str, state: str, last_error: dict[str, Any] | None) -> None:
    """Keep what `status` says of a source once the daemon is down."""
    error = json.dumps(last_error, ensure_ascii=False) if last_error else None
    with committed(store) as transaction:
        transaction.sql("DELETE FROM meta.status WHERE source = $1", [name])
        transaction.sql('INSERT INTO meta.status (source, state, last_error, "at") VALUES ($1, $2, $3, now())', [name, state, error])


@contextmanager
def committed(store: DuckDBSink) -> Iterator[SinkTransaction]:
    """A store transaction, committed at the end unless something is raised."""
    transaction = store.begin()
    try:
        yield transaction
        transaction.commit().result()
    finally:
        transaction.rollback()


@contextmanager
def offline(config: Config) -> Iterator[tuple[DuckDBSink, Pipeline]]:
    """The store and its pipeline while no daemon runs."""
    store = sink(config)
    try:
        pipe = pipeline(config, store)
        try:
            yield store, pipe
        finally:
            pipe.close()
    finally:
        store.close()


def _entry(config: SourceConfig) -> tuple[str, str, str, str]:
    scheme = config.parts.scheme
    if scheme not in SOURCES:
        raise ConfigError("config.scheme", scheme=scheme, known=", ".join(sorted(SOURCES)))
    return SOURCES[scheme]
