"""Cases against a config's own rules: played through the pipeline into a store in memory, so that what is tested is what runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cdc import build
from cdc.cases.changes import TABLES, schemas
from cdc.cases.file import Case, read, replaced
from cdc.cases.outcome import Outcome, outcomes
from cdc.cases.steps import steps
from cdc.config import Config, load
from cdc.errors import ConfigError

FOLDER = "rules-tests"


@dataclass(frozen=True, slots=True)
class RuleCase:
    """A case in a file, with the config whose rules it is about."""

    path: Path
    config: Config

    def __str__(self) -> str:
        return self.path.stem

    def play(self) -> tuple[Case, list[Outcome]]:
        """The case and what comes of it now. Raises ConfigError for a case that can't be read, and for rules that don't fit its tables."""
        case = read(self.path)
        tables = schemas(case)
        self._check(case, set(tables))
        with build.rehearsal(self.config) as (store, pipeline):
            pipeline.check(tables.values())
            for _, step in steps(case, tables):
                step(pipeline)
        names = {(account.book, account.code): account.name for account in build.books(self.config)[1]}
        return case, outcomes(case, store.state, names)

    def check(self) -> None:
        """Raises AssertionError with the difference if something else comes of it than the case says; what `play` raises, too."""
        case, came = self.play()
        differences = [line for outcome in came if not outcome.fine for line in outcome.difference()]
        if differences:
            raise AssertionError("\n".join([f"{self.path}: {case.title}", *differences]))

    def accept(self, case: Case, came: Sequence[Outcome]) -> None:
        """Write what came of it into the file. Raises ConfigError where it can't be written."""
        text = replaced(case, [(outcome.kind, outcome.line, outcome.table()) for outcome in came if not outcome.fine])
        try:
            self.path.write_text(text, "utf-8")
        except OSError as error:
            raise ConfigError("cli.output", path=self.path, fault=error.strerror or error) from error

    def _check(self, case: Case, tables: set[str]) -> None:
        """Whether the tables are captured ones, and those that rules of them look up are there."""
        captured = {f"{name}.{table}" for name, source in self.config.sources.items() for table in source.tables}
        if unknown := sorted(tables - captured):
            raise ConfigError("cases.not_captured", path=self.path, table=unknown[0], known=", ".join(sorted(captured)))
        for rule in self.config.rules:
            for lookup in rule.lookup.values():
                if rule.table in tables and lookup.table and lookup.table not in tables:
                    raise ConfigError("cases.looked_up", path=self.path, rule=rule.name, table=lookup.table, shared=TABLES)


def rule_cases(config: str | Path | Config | None = None, paths: Sequence[str | Path] = ()) -> list[RuleCase]:
    """The cases in files and folders; of the folder `rules-tests` beside the config file, if none are named.

    Raises ConfigError for a config that is wrong, and where there are none.
    """
    loaded = config if isinstance(config, Config) else load(config)
    named = [Path(path) for path in paths] or [loaded.path.parent / FOLDER]
    files = [file for path in named for file in (sorted(path.glob("*.txt")) if path.is_dir() else [path]) if file.name != TABLES]
    if not files:
        raise ConfigError("cases.none", path=", ".join(map(str, named)))
    return [RuleCase(file, loaded) for file in files]
