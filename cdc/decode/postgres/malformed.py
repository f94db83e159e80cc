"""The error of every part of the decoder for what is no pgoutput."""

from __future__ import annotations


class Malformed(Exception):
    """What came is no pgoutput; the text says how."""
