"""Ledgertail: tail databases, keep the books. `connect` is the way in for programs that read the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cdc.serving.client import Reader

__version__ = "0.1.0"


def connect(config: str | None = None) -> Reader:
    """Open the store that a config file names, for reading.

    While the daemon runs it is asked over its local socket; when it is down the store's file is opened read-only.
    Raises ConfigError for a bad config file and StoreError when neither way works.
    """
    from cdc.serving.client import connect_config

    return connect_config(config)
