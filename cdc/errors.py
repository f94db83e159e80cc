"""The error tree, and POLICY: what the daemon does about each class.

Two families: a fault that would be the same on replay halts; a passing one is retried with backoff. An error is raised
with a code of the text catalogue, `StoreError("store.locked", path=...)`, which gives its message and its remedy in the
reader's language. Drivers' exceptions are translated once, where the driver is called, with the cause kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from cdc.texts import text

EXIT_FINE, EXIT_FAILED, EXIT_USAGE, EXIT_DEGRADED = 0, 1, 2, 3


class LedgertailError(Exception):
    """What happened (`message`), what to do (`hint`) and the code both are catalogued under."""

    def __init__(self, code: str, **values: object) -> None:
        self.code = code
        self.values = values
        self.message = text(f"{code}.what", **values)
        self.hint = text(f"{code}.hint", **values)
        super().__init__(self.message)


class ConfigError(LedgertailError):
    """The config file, a rule or a chart is wrong; nothing was started."""


class SourceError(LedgertailError):
    """Something about a source that will be the same on the next try."""


class SourceUnavailable(SourceError):
    """The source can't be reached or broke off; it may come back by itself."""


class PositionLost(SourceError):
    """The log no longer holds what the checkpoint needs: slot missing, invalidated or moved; log purged; other server."""


class SchemaUnknown(SourceError):
    """The shape of a captured table at this place in the log can't be known; only a new snapshot helps."""


class ValueUnfit(SourceError):
    """A value has no faithful target in the type its column is mapped to."""


class StoreError(LedgertailError):
    """Something about the store that will be the same on the next try."""


class StoreUnavailable(StoreError):
    """The store can't be reached at the moment."""


class CheckpointConflict(StoreError):
    """Another daemon advanced the checkpoint this one stands on."""


class Action(StrEnum):
    RETRY = "retry"
    HALT = "halt"


@dataclass(frozen=True, slots=True)
class Policy:
    """What the daemon does, and the exit code when the error ends a command."""

    action: Action
    exit_code: int


POLICY: dict[type[BaseException], Policy] = {
    ConfigError: Policy(Action.HALT, EXIT_USAGE),
    SourceUnavailable: Policy(Action.RETRY, EXIT_FAILED),
    StoreUnavailable: Policy(Action.RETRY, EXIT_FAILED),
    LedgertailError: Policy(Action.HALT, EXIT_FAILED),
    BaseException: Policy(Action.HALT, EXIT_FAILED),
}


def policy(error: BaseException) -> Policy:
    """The policy of the nearest class of an error that POLICY names."""
    return next(POLICY[cls] for cls in type(error).__mro__ if cls in POLICY)
