"""When staged copies count, and when they become mirrors."""

from __future__ import annotations

import pytest

from cdc.sources.handover import HandOver, Staged


def staged(*places: int, level_at: int | None = None) -> Staged[int]:
    return Staged(len(places), {number: (place, 0) for number, place in enumerate(places, 1)}, level_at)


def test_copies_become_mirrors_at_the_latest_place_any_of_them_needs() -> None:
    handover = HandOver(10, {"a": staged(10), "b": Staged(2, {2: (20, 5)})})
    assert (handover.due, handover.before) == (False, 20)
    handover.advance(20)
    assert (handover.due, handover.before) == (True, None)
    assert handover.promote().number == 2
    assert not handover.due


def test_a_copy_without_a_snapshot_of_its_own_waits_until_it_is_level() -> None:
    handover = HandOver(10, {"a": staged(10, level_at=30)})
    assert (handover.due, handover.before, handover.wanted("a")) == (False, 30, True)
    handover.advance(30)
    assert handover.due


def test_a_copy_taken_in_one_go_needs_no_change_from_before_it() -> None:
    handover = HandOver(10, {"a": Staged(2, {2: (20, 0)}), "b": staged(10, 30)})
    assert not handover.wanted("a")
    assert handover.skipped
    assert handover.wanted("b"), "its rows are of two places"
    handover.advance(20)
    assert handover.wanted("a")


@pytest.mark.parametrize(("before", "first"), [(None, 3), (20, 2), (30, 2), (10, 1)])
def test_rows_of_a_later_snapshot_hold_what_came_before_it(before: int | None, first: int) -> None:
    assert HandOver(5, {"a": Staged(2, {1: (10, 0), 2: (30, 0)})}).included_from(before) == first


def test_progress_never_goes_back() -> None:
    handover = HandOver(10, {})
    handover.advance(5)
    assert handover.place == 10
