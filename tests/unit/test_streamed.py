"""Transactions that come while they are in progress, built by hand: what comes out is what comes without streaming."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc.decode import aside
from cdc.decode.kernels import kernel
from cdc.decode.postgres.streamed import Streamed
from cdc.errors import SourceError, SourceUnavailable
from tests import kernels
from tests.messages import begin, commit, insert, relation

START, STOP = 4_000, b"E"


@pytest.fixture(autouse=True, scope="module", params=kernels.FORMS)
def _kernel(request: pytest.FixtureRequest) -> Iterator[None]:
    """Everything here holds for both forms of the kernel."""
    with kernels.demanded("postgres", request.param):
        yield


def started(xid: int, first: bool) -> bytes:
    return b"S" + struct.pack(">IB", xid, first)


def committed(xid: int, lsn: int) -> bytes:
    return b"c" + struct.pack(">IBQQq", xid, 0, lsn, lsn + 8, 1_000_000)


def aborted(xid: int, of: int) -> bytes:
    return b"A" + struct.pack(">II", xid, of)


def of(xid: int, message: bytes) -> bytes:
    """The message as it comes within a Stream."""
    return message[:1] + struct.pack(">I", xid) + message[1:]


def received(messages: Sequence[bytes], sizes: Sequence[int] = (1 << 30,), size_max: int = 1 << 20) -> list[bytes]:
    """What comes out of messages that are received so many at a time."""
    left, turns = list(messages), iter([])

    def receive(frames: Any, size_max: int, wait_seconds: float) -> int:
        nonlocal turns
        count = next(turns, None)
        if count is None:
            turns = iter(sizes)
            count = next(turns)
        for message in left[:count]:
            frames.append(message)
        del left[:count]
        return int(frames.size)

    def block() -> Any:
        return kernel("postgres").module.Block()

    streamed, found = Streamed(receive, block), []
    while left or not streamed.resting:
        frames = block()
        streamed.receive(frames, size_max, 0.0)
        found += list(frames)
    return found


def test_without_streams_all_is_passed_on() -> None:
    whole = [begin(), relation(), insert(1, 2, 3), commit()]
    assert received(whole) == whole


def test_a_transaction_comes_out_once_it_commits() -> None:
    other = [begin(10, 5), insert(9, 9, 9), commit(10, 18)]
    ours = [relation(), insert(1, 2, 3), insert(2, 3, 4)]
    messages = [started(7, True), of(7, ours[0]), of(7, ours[1]), STOP, *other, started(7, False), of(7, ours[2]), STOP, committed(7, 30)]
    after = [begin(40, 9), commit(40, 48)]
    assert received([*messages, *after]) == [*other, begin(30, 7), *ours, commit(30, 38), *after]


def test_what_is_rolled_back_never_comes() -> None:
    rows = [insert(number, 0, 0) for number in range(6)]
    messages = [
        *(started(7, True), of(7, rows[0]), of(8, rows[1]), of(9, rows[2]), STOP, aborted(7, 9)),
        *(started(7, False), of(8, rows[3]), of(10, rows[4]), STOP, aborted(7, 8), aborted(7, 77)),
        *(started(7, False), of(7, rows[5]), STOP, started(20, True), of(20, rows[0]), STOP, aborted(20, 20), committed(7, 30)),
    ]
    assert received(messages) == [begin(30, 7), rows[0], rows[5], commit(30, 38)]


@pytest.mark.parametrize("in_memory", [1, aside.MEMORY_MAX])
def test_more_than_fits_comes_out_in_parts(in_memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aside, "MEMORY_MAX", in_memory)
    monkeypatch.setattr("cdc.decode.postgres.streamed._PAGE", 100)
    rows = [insert(number, "x" * (number % 7 * 50), 0) for number in range(300)]
    messages = [started(7, True), *(of(7, row) for row in rows), STOP, committed(7, 30), begin(40, 8), commit(40, 48)]
    assert received(messages, size_max=64) == [begin(30, 7), *rows, commit(30, 38), begin(40, 8), commit(40, 48)]


@given(st.integers(0, 2**32), st.lists(st.integers(1, 5), min_size=1, max_size=5), st.sampled_from([1, 200, 1 << 20]))
def test_however_it_is_received(seed: int, sizes: list[int], size_max: int) -> None:
    """Several transactions at a time, with subtransactions of which some are rolled back, against a model."""
    rng = random.Random(seed)
    messages: list[bytes] = []
    expected: list[bytes] = []
    running: dict[int, list[tuple[int, bytes]]] = {}
    stack: dict[int, list[int]] = {}
    xids, lsn = iter(range(100, 10_000)), 10
    for _ in range(rng.randrange(25)):
        lsn += 10
        if rng.random() < 0.3 or not running:
            xid = next(xids)
            whole = [begin(lsn, xid), insert(xid, 0, 0), commit(lsn, lsn + 8)]
            if rng.random() < 0.5:
                messages, expected = messages + whole, expected + whole
                continue
            running[xid], stack[xid], first = [], [xid], True
        else:
            xid, first = rng.choice(sorted(running)), False
        if not first and rng.random() < 0.3:
            if rng.random() < 0.7:
                messages.append(committed(xid, lsn))
                expected += [begin(lsn, xid), *(row for _, row in running[xid]), commit(lsn, lsn + 8)]
            else:
                messages.append(aborted(xid, xid))
            del running[xid], stack[xid]
            continue
        messages.append(started(xid, first))
        for number in range(rng.randrange(4)):
            if rng.random() < 0.4:
                stack[xid].append(next(xids))
            row = insert(lsn, number, "y" * rng.randrange(60))
            running[xid].append((stack[xid][-1], row))
            messages.append(of(stack[xid][-1], row))
        messages.append(STOP)
        if len(stack[xid]) > 1 and rng.random() < 0.5:
            gone = stack[xid].pop()
            messages.append(aborted(xid, gone))
            running[xid] = [(who, row) for who, row in running[xid] if who != gone]
    assert received(messages, sizes, size_max) == expected


@pytest.mark.parametrize(
    "messages",
    [
        [started(7, False)],
        [STOP],
        [started(7, True), started(7, True)],
        [started(7, True), b"I\0"],
        [started(7, True), b""],
        [started(7, True)[:-1]],
        [committed(7, 30)],
        [started(7, True), STOP, committed(7, 30)[:-1]],
        [aborted(7, 8)],
        [aborted(7, 7)],
        [b"A\0"],
    ],
)
def test_what_is_no_stream_is_refused(messages: list[bytes]) -> None:
    with pytest.raises(SourceError) as caught:
        received(messages)
    assert caught.value.code == "decode.malformed"


def test_without_room_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aside, "MEMORY_MAX", 1)
    monkeypatch.setattr("tempfile.tempdir", "/proc")
    with pytest.raises(SourceUnavailable) as caught:
        received([started(7, True), of(7, insert(1, 2, 3)), STOP])
    assert caught.value.code == "decode.aside"
