"""A line of a rule: first what it needs of its row, its inputs, then the line itself and what can be wrong with it, as SQL over these.

The inputs are columns, named by the line's place among the rule's: `#lines.1.account`. Those of a line that is there for each element of
an array are columns of the element, to which the parts of shared amounts are added (see `elements`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cdc.accounting.books import Book
from cdc.accounting.dimensions import infer, lacking, require
from cdc.accounting.keys import json_name
from cdc.accounting.rates import Conversion
from cdc.accounting.references import origin
from cdc.accounting.scope import Scope, refuse
from cdc.accounting.sql import literal, quote
from cdc.config import LineConfig, RateConfig, RuleConfig

AMOUNT_SCALE, RATE_SCALE = 6, 12
_AMOUNT, _RATE = f"DECIMAL(38,{AMOUNT_SCALE})", f"DECIMAL(38,{RATE_SCALE})"
_NO_AMOUNT, _NO_TEXT = f"CAST(NULL AS {_AMOUNT})", "CAST(NULL AS VARCHAR)"


@dataclass(frozen=True, slots=True)
class Line:
    """The line at a `place` among the rule's. `inputs`: SQL for each, by its name without the line's; `dims`: the dimensions it may have;
    `conversion`: the rate that is looked up, if its amount is in another currency; `missing`: SQL for the credit that the others lack."""

    place: int
    config: LineConfig
    book: Book
    inputs: Mapping[str, str]
    dims: tuple[str, ...]
    conversion: Conversion | None
    missing: str

    @property
    def columns(self) -> dict[str, str]:
        """SQL for the inputs by their columns."""
        return {column(self.place, name): sql for name, sql in self.inputs.items()}

    @property
    def amount(self) -> str:
        """SQL for its amount in base currency; of the rest for what is missing on the credit side."""
        if self.config.rest is not None:
            return self.missing
        if self.config.by is not None:
            return self._input("by.part" if self.conversion is None else "by.base")
        return self._input(side(self.config))

    @property
    def original(self) -> str:
        """SQL for its amount in its own currency."""
        if self.config.by is not None and self.conversion is not None:
            return self._input("by.part")
        return self._input("orig_amount") if "orig_amount" in self.inputs else self.amount

    @property
    def part(self) -> str:
        """SQL for an element's part of an amount: what the elements up to it have of it together, without what those before it have. So
        the parts add up to the amount."""
        amount, by, decimals = self._input(side(self.config)), self._input("by"), self.book.config.decimals
        upto, all_of_it = self._input("by.upto"), self._input("by.all")
        return f"""CASE {amount} WHEN 0 THEN 0 ELSE share({amount}, {upto}, {all_of_it}, {decimals})
            - share({amount}, {upto} - {by}, {all_of_it}, {decimals}) END"""

    @property
    def part_in_base(self) -> str:
        """SQL for what a part in another currency is in the book's."""
        return _in_base(self.book, self._input("by.part"), self._input("rate"))

    def struct(self) -> str:
        """SQL for the line."""
        config, amount = self.config, f"CAST({self.amount} AS {_AMOUNT})"
        debit, credit = (_NO_AMOUNT if config.debit is None else amount), (_NO_AMOUNT if config.credit is None else amount)
        if config.rest is not None:
            debit, credit = f"CASE WHEN {amount} < 0 THEN -{amount} END", f"CASE WHEN {amount} > 0 THEN {amount} END"
            amount = f"abs({amount})"
        original = amount if config.rest is not None else f"CAST({self.original} AS {_AMOUNT})"
        rate_type = literal(config.rate.type) if isinstance(config.rate, RateConfig) else "NULL"
        return f"""struct_pack(line_no := {self.place + 1}, account := {self._input("account")},
            debit := {debit}, credit := {credit},
            currency := {self._given("currency", "VARCHAR", literal(self.book.config.base_currency))},
            orig_amount := {self._given("orig_amount", _AMOUNT, original)},
            rate := {self._given("rate", _RATE, f"CAST(1 AS {_RATE})")},
            quantity := {self._given("quantity", _AMOUNT, _NO_AMOUNT)},
            unit := {self._given("unit", "VARCHAR", _NO_TEXT)}, dims := {self._dims()},
            rate_type := CAST({rate_type} AS VARCHAR),
            rate_date := {self._given("rate_date", "DATE", "CAST(NULL AS DATE)")},
            origin := {self._given("origin", "VARCHAR", _NO_TEXT)})"""

    def faults(self) -> list[str]:
        """The cases of what can be wrong with it."""
        none = [] if self.config.rest is not None else [f"WHEN {self.amount} IS NULL THEN 'quarantine.no_amount|{self._called}'"]
        return [*self._rate_faults(), *none, *self._decimals_faults(), *self._account_faults(), *self._currency_faults(), *self._lacking()]

    @property
    def _called(self) -> str:
        """What faults call it."""
        return f"line {self.place + 1}"

    def _input(self, name: str) -> str:
        return quote(column(self.place, name))

    def _given(self, name: str, kind: str, default: str) -> str:
        return f"CAST({self._input(name)} AS {kind})" if name in self.inputs else default

    def _dims(self) -> str:
        """The dimensions as a JSON object, keys sorted; one that is null is left out."""
        if not self.dims:
            return "'{}'"
        values = {name: f"CAST(to_json({self._input(f'dims.{name}')}) AS VARCHAR)" for name in sorted(self.dims)}
        parts = (f"{literal(json_name(name))} || {value}" for name, value in values.items())
        return f"'{{' || concat_ws(', ', {', '.join(parts)}) || '}}'"

    def _rate_faults(self) -> list[str]:
        if self.conversion is None:
            return []
        currency, missing = self._input("currency"), quote(self.conversion.fault)
        asked = f"WHEN {self.original} <> 0 AND {currency}"
        return [
            f"{asked} IS NULL THEN 'quarantine.no_currency|{self._called}'",
            f"{asked} IS NOT NULL AND {missing} IS NOT NULL THEN concat('quarantine.rate|{self._called}: ', {missing})",
        ]

    def _decimals_faults(self) -> list[str]:
        scales = {side(self.config): self.book.config.decimals, "orig_amount": AMOUNT_SCALE, "rate": RATE_SCALE, "quantity": AMOUNT_SCALE}
        given = {self._input(name): scale for name, scale in scales.items() if name in self.inputs}
        return [
            f"WHEN {value} <> round({value}, {scale}) THEN concat('quarantine.decimals|{self._called}: ', {value}, ' ({scale})')"
            for value, scale in given.items()
        ]

    def _account_faults(self) -> list[str]:
        if isinstance(self.config.account, str):
            return []
        account, codes = self._input("account"), ", ".join(literal(code) for code in sorted(self.book.accounts))
        asked = f"WHEN {self.amount} <> 0 AND {account}"
        return [
            f"{asked} IS NULL THEN 'quarantine.no_account|{self._called}'",
            f"{asked} NOT IN ({codes}) THEN concat('quarantine.account|{self._called}: ', {account})",
        ]

    def _currency_faults(self) -> list[str]:
        if self.config.currency is None:
            return []
        currency, asked = self._input("currency"), f"WHEN {self.amount} <> 0 AND"
        code = f"regexp_full_match({currency}, '[A-Z]{{3}}')"
        return [
            f"{asked} {currency} IS NULL THEN 'quarantine.no_currency|{self._called}'",
            f"{asked} NOT {code} THEN concat('quarantine.no_currency|{self._called}: ', {currency})",
        ]

    def _lacking(self) -> list[str]:
        """The cases of what its account requires."""
        config, required = self.config, self.book.required
        asking = {code: each for code, each in required.items() if not isinstance(config.account, str) or code == config.account}
        currency = literal(self.book.config.base_currency) if config.currency is None else self._input("currency")
        dims = {name: self._input(f"dims.{name}") for name in self.dims}
        return lacking(asking, self._called, self.amount, self._input("account"), dims, currency)


def column(place: int, name: str) -> str:
    """The column of an input of the line at a place."""
    return f"#lines.{place}.{name}"


def arrays(rule: RuleConfig) -> list[str]:
    """The arrays that lines of a rule are for each element of."""
    return list(dict.fromkeys(line.each for line in rule.lines if line.each is not None))


def side(line: LineConfig) -> str:
    """The side its amount is on, `debit` or `credit`."""
    return "credit" if line.debit is None else "debit"


def check_account(rule: RuleConfig, book: Book, place: int) -> None:
    """Raises ConfigError if a line's constant account is not in the book's chart."""
    account = rule.lines[place].account
    if account not in book.accounts:
        fault = f"account '{account}' is not in the chart '{book.config.chart}' of book '{book.name}'"
        refuse(rule, f"lines.{place}.account", fault)


def compile_line(scope: Scope, place: int, missing: str) -> Line:
    """The line at a place of a rule, by the scope of its header; `missing` as the line has it. Raises ConfigError."""
    line, at = scope.rule.lines[place], f"lines.{place}"
    scope = scope.within(scope.relation(line.each))
    account = _account(scope, place)
    inputs = {"account": account}
    for name in ("debit", "credit", "orig_amount", "rate", "quantity"):
        if isinstance(text := getattr(line, name), str):
            inputs[name] = scope.amount(f"{at}.{name}", text)
    if line.by is not None:
        inputs["by"] = scope.weight(f"{at}.by", line.by)
    if line.when is not None:
        there = scope.expression(f"{at}.when", line.when, "BOOLEAN").sql
        inputs["when"] = f"coalesce({there}, false)"
        for name in {side(line), "orig_amount", "by"} & inputs.keys():
            inputs[name] = f"CASE WHEN {there} THEN {inputs[name]} ELSE 0 END"
    conversion = None
    if isinstance(line.rate, RateConfig):
        conversion = _conversion(scope, place, line.rate)
        inputs |= _converted(scope.book, line, inputs, conversion)
    for name in ("currency", "unit"):
        if (text := getattr(line, name)) is not None:
            inputs[name] = scope.text(f"{at}.{name}", text)
    own = {name: scope.text(f"{at}.dims.{name}", text) for name, text in line.dims.items()}
    dims, inferred = infer(scope, line, account, own)
    require(scope.rule, scope.book, place, dims)
    inputs |= {f"dims.{name}": sql for name, sql in dims.items()}
    if (told := origin(scope, inferred)) is not None:
        inputs["origin"] = told
    return Line(place, line, scope.book, inputs, tuple(dims), conversion, missing)


def _account(scope: Scope, place: int) -> str:
    account = scope.rule.lines[place].account
    if isinstance(account, dict):
        return scope.text(f"lines.{place}.account", account["expr"])
    check_account(scope.rule, scope.book, place)
    return literal(account)


def _conversion(scope: Scope, place: int, rate: RateConfig) -> Conversion:
    """The rate of a line's currency, on its own day or the entry's."""
    at, book, text = f"lines.{place}", scope.book, scope.rule.lines[place].currency
    assert text is not None
    day = scope.date() if rate.date is None else scope.day(f"{at}.rate.date", rate.date)
    currency = scope.expression(f"{at}.currency", text)
    over = scope.over(at, (currency, day))
    step = scope.steps.add(
        lambda number: Conversion(number, scope.time_zone, over, book.name, book.config, rate.type, currency.sql, day.sql)
    )
    scope.steps.read(step, "rate", "date")
    return step


def _converted(book: Book, line: LineConfig, inputs: Mapping[str, str], conversion: Conversion) -> dict[str, str]:
    """Inputs of a line whose amount is in another currency: that amount, its rate, and what it is in the book's. Of an amount that is
    shared out that follows for each part."""
    rate, amount = quote(conversion.column("rate")), inputs[side(line)]
    found = {"rate": rate, "rate_date": quote(conversion.column("date"))}
    return found if line.by is not None else {"orig_amount": amount, **found, side(line): _in_base(book, amount, rate)}


def _in_base(book: Book, amount: str, rate: str) -> str:
    """SQL for what an amount in another currency is in the book's."""
    base = f"CAST({amount} AS {_AMOUNT}) * CAST({rate} AS {_RATE})"
    return f"CASE WHEN {amount} = 0 THEN 0 ELSE round({base}, {book.config.decimals}) END"
