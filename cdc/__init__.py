"""Ledgertail: tail databases, keep the books.

`connect` is the way in for programs that read the store, `rule_cases` for tests of a config's rules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cdc.cases.run import RuleCase
    from cdc.serving.client import Reader

__version__ = "0.1.0"


def connect(config: str | None = None) -> Reader:
    """Open the store that a config file names, for reading.

    While the daemon runs it is asked over its local socket; when it is down the store's file is opened read-only.
    Raises ConfigError for a bad config file and StoreError when neither way works.
    """
    from cdc.serving.client import connect_config

    return connect_config(config)


def rule_cases(config: str | Path | None = None, paths: Sequence[str | Path] = ()) -> list[RuleCase]:
    """The cases of `ledgertail rules test`, for a test of your own: each has `check()`, which raises AssertionError with the difference.

    `paths` are files and folders; without any the folder `rules-tests` beside the config file. Raises ConfigError for a bad config file,
    and where there are no cases.
    """
    from cdc.cases import run

    return run.rule_cases(config, paths)
