"""Spans of blocks: what is done and what is missing are together all blocks, once."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from cdc.sources.postgres.progress import LeafProgress, Progress, Span, merged, missing, parse

BLOCKS = 40


def blocks(spans: list[Span]) -> list[int]:
    return [block for first, end in spans for block in range(first, BLOCKS if end is None else end)]


@given(st.lists(st.integers(1, BLOCKS - 1), unique=True, max_size=12), st.integers(0, 13), st.randoms(use_true_random=False))
def test_done_and_missing_are_all_blocks_once(cuts: list[int], finished: int, dice: random.Random) -> None:
    edges = [0, *sorted(cuts)]
    spans: list[Span] = list(zip(edges, [*edges[1:], None], strict=True))
    dice.shuffle(spans)
    progress = Progress(1, 2, "x", 3, {4: (5, 6)}, {7: LeafProgress(8)})
    for span in spans[:finished]:
        progress.finish(7, span)
    done = progress.leaves[7].done
    assert sorted(blocks(done) + blocks(missing(done))) == list(range(BLOCKS))
    assert blocks(done) == sorted(blocks(spans[:finished]))
    assert merged(done) == done
    assert parse(progress.dump()) == progress
