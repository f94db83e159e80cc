"""What the parts of the decoder raise among themselves; to the outside they are errors of cdc.errors."""

from __future__ import annotations


class Malformed(Exception):
    """What came is no pgoutput; the text says how."""


class Unidentified(Exception):
    """A change of a captured table, the only argument, does not tell which row it is of."""
