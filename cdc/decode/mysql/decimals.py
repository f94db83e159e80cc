"""Texts of numbers as decimals."""

from __future__ import annotations

import re
from decimal import Decimal

import pyarrow as pa
import pyarrow.compute as pc

DIGITS_MAX = 38  # of Arrow's and DuckDB's decimals
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,9})?")
_NO_TEXT, _FALSE = pa.scalar(None, pa.string()), pa.scalar(False, pa.bool_())


def printed(texts: pa.Array) -> pa.Array:
    """The texts without the zeros that ZEROFILL puts in front."""
    return pc.replace_substring_regex(texts, r"^(-?)0+([0-9])", r"\1\2")


def exact(texts: pa.Array, target: pa.DataType) -> pa.Array:
    """The numbers that texts hold, as decimals; null for those that have no such value, or that are none."""
    # Arrow's cast wraps around silently beyond 38 digits and loses exponents: it gets only what is sure to fit.
    front = f"[0-9]{{1,{target.precision - target.scale}}}" if target.precision > target.scale else "0"
    fraction = rf"(\.[0-9]{{1,{target.scale}}})?" if target.scale else ""
    usual = pc.match_substring_regex(texts, f"^-?{front}{fraction}$")
    numbers = pc.if_else(usual, texts, _NO_TEXT).cast(target)
    rare = pc.fill_null(pc.invert(usual), _FALSE)
    if not pc.any(rare).as_py():
        return numbers
    return pc.replace_with_mask(numbers, rare, pa.array([_exact(text, target) for text in texts.filter(rare).to_pylist()], target))


def _exact(text: str, target: pa.DataType) -> Decimal | None:
    if not _NUMBER.fullmatch(text):
        return None
    sign, digits, exponent = Decimal(text).as_tuple()
    assert isinstance(exponent, int)
    kept = "".join(map(str, digits)).rstrip("0")
    exponent += len(digits) - len(kept)
    if kept and (exponent < -target.scale or len(kept) + exponent > target.precision - target.scale):
        return None
    return Decimal((sign, tuple(map(int, kept)), exponent if kept else 0))
