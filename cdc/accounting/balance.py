"""Whether an entry balances: in base currency, and in every other that none of its lines exchanges. The rest is what it lacks."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from cdc.accounting.lines import AMOUNT_SCALE, Line, arrays, column, side
from cdc.accounting.sql import literal, quote
from cdc.config import RuleConfig


def difference(rule: RuleConfig) -> str:
    """SQL for what the debits of a rule's lines are more than the credits, without the rest."""
    return f"({_sum(rule, 'debit')} - ({_sum(rule, 'credit')}))"


def unbalanced(rule: RuleConfig) -> str:
    """The case of an entry whose sides differ, by more than a line of it may make up for; empty if that takes all."""
    limit = next((line.rest for line in rule.lines if line.rest is not None), Decimal(0))
    fault = f"concat('quarantine.unbalanced|debit ', {_sum(rule, 'debit')}, ', credit ', {_sum(rule, 'credit')})"
    return "" if limit is True else f"WHEN abs({difference(rule)}) > {limit:f} THEN {fault}"


def unbalanced_currency(lines: Sequence[Line], base_currency: str) -> str:
    """The case of an entry whose sides differ in a currency other than the book's; empty if no line can be, or one exchanges it."""
    kept = [line for line in lines if line.config.currency is not None]
    if not kept or any(line.config.exchange for line in lines):
        return ""
    signed = _signed(kept)
    sums = f"list_distinct(list_transform({signed}, lambda l: l.c))"
    total = f"list_sum(list_transform(list_filter({signed}, lambda l: l.c = k), lambda l: l.v))"
    foreign = f"list_filter({sums}, lambda k: k <> {literal(base_currency)})"
    off = f"list_filter(list_transform({foreign}, lambda k: struct_pack(k := k, v := {total})), lambda o: o.v <> 0)"
    return f"WHEN len({off}) > 0 THEN concat('quarantine.unbalanced_currency|', {off}[1].k, ' ', {off}[1].v)"


def _sum(rule: RuleConfig, side: str) -> str:
    """SQL for the sum of a side, without the rest; lines of elements are summed up by array already (see `elements`)."""
    own = [column(i, side) for i, line in enumerate(rule.lines) if line.each is None and getattr(line, side) is not None]
    summed = {line.each for line in rule.lines if getattr(line, side) is not None}
    shared = [f"#{name}.{side}" for name in arrays(rule) if name in summed]
    return " + ".join([*map(quote, own), *(f"coalesce({quote(name)}, 0)" for name in shared)]) or "0"


def _signed(lines: Sequence[Line]) -> str:
    """SQL for a list of what lines are in their own currencies (`c`): the amount (`v`), a credit being negative."""
    own, lists = list[str](), list[str]()
    for line in lines:
        sign = "-" if side(line.config) == "credit" else ""
        if line.config.each is None:
            amount = f"{sign}CAST({line.original} AS DECIMAL(38,{AMOUNT_SCALE}))"
            own.append(f"struct_pack(c := {quote(column(line.place, 'currency'))}, v := {amount})")
        else:
            of_elements = quote(f"#lines.{line.place}")
            lists.append(f"list_transform({of_elements}, lambda l: struct_pack(c := l.currency, v := {sign}l.orig_amount))")
    lists += [f"[{', '.join(own)}]"] * bool(own)
    return lists[0] if len(lists) == 1 else f"list_concat({', '.join(lists)})"
