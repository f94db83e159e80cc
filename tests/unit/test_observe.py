"""The lag that `status` shows: of the oldest thing the store lacks, and not of what does not concern it."""

from __future__ import annotations

import time

import pytest

from cdc.observe import SILENT_S, SourceStatus
from cdc.types import TRANSACTIONS, Checkpoint, MicroBatch, Resume, SnapshotProgress, SourceLag

NOW = 1_800_000_000.0


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: NOW)


def streaming(position: str) -> SourceStatus:
    status = SourceStatus("shop", "postgres", ("orders",), lambda position, target: int(position) >= int(target))
    done = SnapshotProgress("orders", 1, position, "done", "", 5, 5)
    status.resumed(Resume("id", Checkpoint("shop", position, 1, ""), {"orders": done}, {}))
    return status


def sample(head: str, behind: int, unsent: int, ago_s: float = 0.0) -> SourceLag:
    return SourceLag(head, behind, 0, unsent, NOW - ago_s)


def batch(position: str) -> MicroBatch:
    return MicroBatch("shop", "", TRANSACTIONS.empty_table(), (), position)


def test_unknown_before_the_first_sample() -> None:
    assert streaming("10").lag_seconds() is None


def test_a_head_that_is_not_reached_counts_from_its_sample() -> None:
    status = streaming("10")
    status.sampled(sample("20", 10, 0, ago_s=7))
    status.sampled(sample("30", 20, 0, ago_s=2))
    assert status.lag_seconds() == 7
    status.applied(batch("20"))
    assert status.lag_seconds() == 2
    status.applied(batch("30"))
    assert status.lag_seconds() == 0


def test_what_the_server_found_nothing_in_is_no_lag() -> None:
    status = streaming("10")
    status.resting = True
    status.sampled(sample("20", 10, 0, ago_s=7))
    assert (status.lag_seconds(), status.facts(0)["lag_bytes"]) == (0, 0)
    status.sampled(sample("40", 30, 5, ago_s=7))
    assert status.lag_seconds() == 7


def test_a_waiting_batch_counts_from_its_first_commit() -> None:
    status = streaming("10")
    status.sampled(sample("10", 0, 0))
    status.received(NOW - 30)
    assert status.lag_seconds() == 30


def test_a_silent_server_leaves_the_lag_growing() -> None:
    status = streaming("10")
    status.sampled(sample("10", 0, 0, ago_s=SILENT_S + 5))
    assert status.lag_seconds() == SILENT_S + 5
