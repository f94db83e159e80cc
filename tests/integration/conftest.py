"""What the tests of sources share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.replay import Twin


@pytest.fixture
def twin() -> Iterator[Twin]:
    """A store to replay a source into; closes the sources opened for it."""
    made = Twin()
    try:
        yield made
    finally:
        made.close()
