"""What the expressions of a rule may read where they stand, and of what type they must be there.

An expression reads the columns of its row, and by names of the rule's own what the rule looks up and the elements of its arrays. What it
calls of the config's functions becomes a step, whose column stands in the SQL instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NoReturn

from cdc.accounting.arrays import SUMMED_DIGITS, Array
from cdc.accounting.books import Book
from cdc.accounting.composite import account_code
from cdc.accounting.expressions import (
    INTEGERS,
    BadExpression,
    Expression,
    check_columns,
    check_exact,
    check_rounded,
    did_you_mean,
    parse,
    type_of,
)
from cdc.accounting.functions import VALUE, Call, Function, keeps
from cdc.accounting.lookups import CHANGES, Step
from cdc.accounting.steps import RULE_ROW, Steps
from cdc.config import RuleConfig
from cdc.errors import ConfigError
from cdc.types import TableSchema


def refuse(rule: RuleConfig, key: str, fault: object) -> NoReturn:
    """Raises ConfigError with the rule's name, its place and what is wrong with one of its keys."""
    raise ConfigError("rules.bad", rule=rule.name, place=rule.place, key=key, fault=fault) from None


@dataclass(frozen=True, slots=True)
class Scope:
    """A place where expressions of a rule stand. What it gives is checked; it raises ConfigError with the expression's key and its fault.

    `found`: what they know, by the rule's names for it; `through`: the names that were read to find it. `relations`: those that can be read
    here; `asked`: SQL for the rows that functions are called for; `names`: those that have been read here so far.
    """

    rule: RuleConfig
    schema: TableSchema
    book: Book
    steps: Steps
    found: dict[str, Step] = field(default_factory=dict)
    through: dict[str, set[str]] = field(default_factory=dict)
    relations: tuple[str, ...] = (CHANGES,)
    asked: str = "true"
    names: set[str] = field(default_factory=set)

    def within(self, *relations: str, asked: str | None = None) -> Scope:
        """Another place in the rule, where these relations can be read besides the changes."""
        return replace(self, relations=(CHANGES, *relations), asked=asked or self.asked, names=set())

    @property
    def time_zone(self) -> str:
        """That of the book, in which instants are days."""
        return self.book.config.time_zone

    def relation(self, each: str | None) -> str:
        """The relation that the lines of the row are worked out over, or those for each element of an array."""
        return CHANGES if each is None else self.found[each].relation

    def over(self, key: str, values: Iterable[Expression]) -> str:
        """The relation that what is looked up by some values is added to."""
        relations = {self.found[name].relation for value in values for name, _ in value.references} - {CHANGES}
        if len(relations) > 1:
            refuse(self.rule, key, "reads elements of more than one array")
        return relations.pop() if relations else CHANGES

    def expression(self, key: str, text: str, *kinds: str, asked: str | None = None) -> Expression:
        """An expression of one of the given types, or of any type. `asked`: SQL for the rows its value may be needed of."""
        return self.typed(key, text, *kinds, asked=asked)[0]

    def typed(self, key: str, text: str, *kinds: str, asked: str | None = None) -> tuple[Expression, str]:
        """Such an expression and its type."""
        connection, functions = self.steps.connection, self.steps.functions.items()
        names = {name: str(step.number) for name, step in self.found.items()}
        arrays = [name for name, step in self.found.items() if isinstance(step, Array)]
        macros = {"account_code": account_code(self.book.name)}
        calls = {name: partial(self._call, key, function, asked or self.asked) for name, function in functions}
        try:
            parsed = parse(connection, text, names, arrays, self.book.config.decimals, macros, calls)
            check_columns(parsed, [column.name for column in self.schema.columns])
            for name, column in parsed.references:
                self._read(name, column)
            kind = type_of(connection, parsed, RULE_ROW)
            check_rounded(connection, parsed, RULE_ROW)
        except BadExpression as error:
            refuse(self.rule, key, error)
        if kinds and kind not in kinds and kind != '"NULL"':
            refuse(self.rule, key, f"'{text}' is a {kind}, but must be a {' or a '.join(kinds)}")
        return parsed, kind

    def exact(self, key: str, text: str) -> tuple[str, str]:
        """SQL of an expression that is exact from end to end, and its type."""
        expression, kind = self.typed(key, text)
        try:
            check_exact(self.steps.connection, expression, RULE_ROW)
        except BadExpression as error:
            refuse(self.rule, key, error)
        return expression.sql, kind

    def amount(self, key: str, text: str) -> str:
        """SQL of an exact number."""
        sql, kind = self.exact(key, text)
        if not kind.startswith("DECIMAL") and kind not in INTEGERS:
            refuse(self.rule, key, f"'{text}' is a {kind}; an amount must be a DECIMAL or a whole number")
        return sql

    def weight(self, key: str, text: str) -> str:
        """SQL of what an amount is shared out by: of so few digits that no sum of them overflows; what has more fails."""
        weight = self.amount(key, text)
        kind = type_of(self.steps.connection, Expression(weight, frozenset()), RULE_ROW)
        scale = int(kind[:-1].split(",")[1]) if kind.startswith("DECIMAL") else 0
        return f"CAST({weight} AS DECIMAL({SUMMED_DIGITS},{min(scale, SUMMED_DIGITS)}))"

    def text(self, key: str, text: str | None) -> str:
        """SQL of an expression as text."""
        return "CAST(NULL AS VARCHAR)" if text is None else f"CAST({self.expression(key, text).sql} AS VARCHAR)"

    def count(self, key: str, text: str | None) -> str:
        """SQL of a whole number."""
        return "CAST(NULL AS INTEGER)" if text is None else f"CAST({self.expression(key, text, *sorted(INTEGERS)).sql} AS INTEGER)"

    def date(self) -> Expression:
        """The entry's date, also of rows that the rule does not apply to."""
        return self.day("date", self.rule.date, asked="true")

    def day(self, key: str, text: str, asked: str | None = None) -> Expression:
        """A date, or the day of an instant."""
        day = self.expression(key, text, "DATE", "TIMESTAMP", "TIMESTAMP WITH TIME ZONE", asked=asked)
        return replace(day, sql=f"CAST({day.sql} AS DATE)")

    def _read(self, name: str, column: str) -> None:
        """Note that a column of what is known by a name is read. Raises BadExpression if it can't be here."""
        step = self.found[name]
        if step.relation not in self.relations:
            raise BadExpression(f"'{name}' is there for each element of an array, and can't be read here")
        if not isinstance(step, Array):
            known = {known.casefold(): known for known in step.readable}
            if column.casefold() not in known:
                raise BadExpression(f"'{name}' has no column '{column}'{did_you_mean(column, known.values())}")
            self.steps.read(step, known[column.casefold()])
        self.names.add(name)

    def _call(self, key: str, function: Function, asked: str, texts: Sequence[str], conditions: Sequence[str]) -> Expression:
        """What stands for a call of a Python function with arguments, which must be exact and come to it as they are.

        It is made for the rows `asked` for, or their elements if it reads those, on which none of the conditions is false.
        """
        if len(texts) != len(function.takes):
            raise BadExpression(f"'{function.name}' takes {len(function.takes)} arguments, and here are {len(texts)}")
        guards = []
        for condition in conditions:
            guards.append(self.expression(key, condition, "BOOLEAN", asked=asked))
            asked += f" AND coalesce(TRY({guards[-1].sql}), true)"
        typed = [self.typed(key, text, asked=asked) for text in texts]
        for text, (argument, kind), declared in zip(texts, typed, function.takes, strict=True):
            check_exact(self.steps.connection, argument, RULE_ROW)
            if not keeps(kind, declared):
                raise BadExpression(f"'{function.name}' takes a {declared}, and '{text}' is a {kind}: CAST({text} AS {declared})")
        arguments = [argument for argument, _ in typed]
        over, made = self.over(key, [*guards, *arguments]), tuple(argument.sql for argument in arguments)
        inner = tuple(dict.fromkeys(fault for sql in made for fault in self.steps.faults_of_calls(sql)))
        step = self.steps.add(lambda number: Call(number, self.time_zone, over, function, made, asked, inner))
        self.steps.read(step, VALUE)
        references = frozenset[tuple[str, str]]().union(*(argument.references for argument in arguments))
        return Expression(step.sql, frozenset[str]().union(*(argument.columns for argument in arguments)), references)
