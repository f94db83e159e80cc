"""Functions of expressions that divide an amount, exact from end to end: `/` would make a DOUBLE of it.

    share(amount, part, whole)   amount * part / whole
    net(gross, rate)             what a gross amount is without the tax in it: gross / (1 + rate)
    tax(gross, rate)             the tax in it: gross - net
    half_even(amount)            the amount itself

All round to the decimals of the rule's book, or to those given as one argument more: half away from zero, `half_even` half to the even
digit. Arguments are DECIMALs and whole numbers. Their digits are worked on as whole numbers: what is too large raises, and a whole of 0
gives NULL, so that the row goes to quarantine. The result is a DECIMAL(38,6).
"""

from __future__ import annotations

# How many arguments each has without the decimals.
ROUNDING = {"share": 3, "net": 2, "tax": 2, "half_even": 1}


def _digits(number: str) -> str:
    return f"CAST(replace(CAST({number} AS VARCHAR), '.', '') AS HUGEINT)"


def _scale(number: str) -> str:
    """How many of the digits stand behind the point, of any such number."""
    return rf"CAST('0' || regexp_extract(typeof({number}), ',(\d+)', 1) AS INTEGER)"


def _ten(power: str) -> str:
    """A power of ten; 1 where it would be less."""
    return f"CAST(rpad('1', greatest({power}, 0) + 1, '0') AS HUGEINT)"


def _rounded(digits: str, shift: str, divisor: str, result: str) -> str:
    """Digits, shifted to the left, by a divisor: what `result` makes of them (`f.n`, `f.d`, each worked out once), as an amount."""
    fraction = f"list_value(struct_pack(n := {digits} * {_ten(shift)}, d := {divisor} * {_ten(f'-({shift})')}))"
    unit = "list_value(1.000000, 0.100000, 0.010000, 0.001000, 0.000100, 0.000010, 0.000001)[greatest(places, -1) + 1]"
    return f"CAST(list_transform({fraction}, lambda f: {result})[1] AS DECIMAL(38,0)) * {unit}"


_HALF_AWAY = "sign(f.n) * sign(f.d) * ((2 * abs(f.n) + abs(f.d)) // (2 * abs(f.d)))"
_HALF_EVEN = """sign(f.n) * (abs(f.n) // f.d + CASE
    WHEN 2 * (abs(f.n) % f.d) > f.d OR 2 * (abs(f.n) % f.d) = f.d AND abs(f.n) // f.d % 2 = 1 THEN 1 ELSE 0 END)"""
_SHARE = _rounded(
    f"{_digits('amount')} * {_digits('part')}",
    f"places + {_scale('whole')} - {_scale('amount')} - {_scale('part')}",
    _digits("whole"),
    _HALF_AWAY,
)

MACROS = f"""
CREATE MACRO share(amount, part, whole, places) AS {_SHARE};
CREATE MACRO net(gross, rate, places) AS share(gross, 1, 1 + rate, places);
CREATE MACRO tax(gross, rate, places) AS gross - net(gross, rate, places);
CREATE MACRO half_even(amount, places) AS {_rounded(_digits("amount"), f"places - {_scale('amount')}", "1::HUGEINT", _HALF_EVEN)};
"""
