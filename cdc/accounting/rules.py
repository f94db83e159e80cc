"""Rules compiled: all rules of a table become SQL over its changes, checked against the table's real schema.

A rule's statement reads the relation `c`, the keyed changes of one table (see `keys`), and gives one row per change the rule applies to,
with the entry it wants (header, lines, id) or the fault that sends the row to quarantine.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import NoReturn

import duckdb
import pyarrow as pa

from cdc.accounting.arrays import Array, Elements
from cdc.accounting.books import Book, Inference
from cdc.accounting.composite import account_code
from cdc.accounting.derivations import ROW, BadTable, Derivation, dated, read_table
from cdc.accounting.dimensions import among, inferred, lacking
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
from cdc.accounting.keys import check_names, json_members, json_name, json_value
from cdc.accounting.lookups import CHANGES, Lookup, Step
from cdc.accounting.rates import Conversion
from cdc.accounting.sql import listed, literal, quote
from cdc.config import LineConfig, RateConfig, RuleConfig
from cdc.errors import ConfigError
from cdc.types import TableSchema

Found = Lookup | Derivation | Array
AMOUNT_SCALE, RATE_SCALE = 6, 12
SUMMED_DIGITS = 30  # at most, of what is summed over elements: so 10**8 of them are a DECIMAL(38) still

# Faults a row can have, by quarantine level: 2 the rule gives no usable value, 3 the entry is not sound, 4 the book does not take it.
LEVELS = {
    "quarantine.expression": 2,
    "quarantine.function": 2,
    "quarantine.lookup": 2,
    "quarantine.array": 2,
    "quarantine.no_date": 2,
    "quarantine.no_amount": 2,
    "quarantine.no_account": 2,
    "quarantine.no_currency": 2,
    "quarantine.rate": 2,
    "quarantine.decimals": 3,
    "quarantine.unbalanced": 3,
    "quarantine.unbalanced_currency": 3,
    "quarantine.account": 4,
    "quarantine.period": 4,
    "quarantine.dimension": 4,
    "quarantine.account_currency": 4,
}


@dataclass(frozen=True, slots=True)
class Program:
    """What is done with a table's changes: the steps that look something up or call a function, in order, each with the columns that are
    read; the rules."""

    steps: tuple[tuple[Found | Conversion | Call, tuple[str, ...]], ...]
    rules: tuple[CompiledRule, ...]


@dataclass(frozen=True, slots=True)
class CompiledRule:
    """A rule as SQL over `c`, to be run in the book's time zone: `wanted` gives a row per change the rule applies to; where it can't be
    run because an expression fails on some row, `failing` gives the `#rid` of each such row and its `fault`."""

    name: str
    book: str
    version: int
    time_zone: str
    wanted: str
    failing: str


def compile_rules(
    connection: duckdb.DuckDBPyConnection,
    schema: TableSchema,
    rules: Iterable[RuleConfig],
    books: Mapping[str, Book],
    others: Mapping[str, TableSchema],
    functions: Mapping[str, Function],
) -> Program:
    """The rules of a table, checked against its schema, those of the tables they look up and the functions they call, by name.

    Raises ConfigError with the rule's name, its place and the fault.
    """
    check_names(schema)
    lookups, mine = _Lookups(connection, schema, others, functions), list(rules)
    lookups.show()
    try:
        compiled = tuple(_Compiler(connection, rule, schema, books[rule.book], lookups).compile(_until(rule, mine)) for rule in mine)
    finally:
        connection.unregister("rule_row")
    return Program(tuple((step, tuple(sorted(lookups.read[step.number]))) for step in lookups.made), compiled)


def _until(rule: RuleConfig, rules: Iterable[RuleConfig]) -> date | None:
    """The day from which the rule's next version holds."""
    versions = [other.valid_from for other in rules if (other.name, other.book) == (rule.name, rule.book) and other.valid_from]
    return min((day for day in versions if rule.valid_from is None or day > rule.valid_from), default=None)


def check_alone(
    connection: duckdb.DuckDBPyConnection, rules: Iterable[RuleConfig], books: Mapping[str, Book], functions: Mapping[str, Function]
) -> None:
    """Check what needs no schema: every expression is scalar SQL, every constant account is in its chart. Raises ConfigError."""
    for rule in rules:
        schema = TableSchema(rule.table, "", (), ())
        compiler = _Compiler(connection, rule, schema, books[rule.book], _Lookups(connection, schema, {}, functions))
        for i, line in enumerate(rule.lines):
            if isinstance(line.account, str):
                compiler.account(f"lines.{i}.account", line)
                compiler.require(i, line, {*line.dims, *(each.dimension for each in compiler.inferring(line))})
        for key, text in expressions_of(rule):
            try:
                _parse_alone(connection, text, dict.fromkeys([*rule.lookup, *rule.each], ""), rule.each, functions)
            except BadExpression as error:
                compiler.refuse(key, error)


def _parse_alone(
    connection: duckdb.DuckDBPyConnection, text: str, names: Mapping[str, str], arrays: Collection[str], functions: Iterable[str]
) -> Expression:
    def call(arguments: Sequence[str], conditions: Sequence[str]) -> Expression:
        for each in arguments:
            _parse_alone(connection, each, names, arrays, functions)
        return Expression("NULL", frozenset())

    return parse(connection, text, names, arrays, functions=dict.fromkeys(functions, call))


class _Lookups:
    """What the rules of a table look up or call, each thing once. Keeps the relation `rule_row`: a row with all that can be read of it.

    `read`: the columns that are, by the lookup's number.
    """

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        schema: TableSchema,
        others: Mapping[str, TableSchema],
        functions: Mapping[str, Function],
    ) -> None:
        self._connection, self._row, self.others, self.functions = connection, schema.arrow(), others, functions
        self.made: list[Found | Conversion | Call] = []
        self.read: dict[int, set[str]] = {}
        self._tables: dict[tuple[Path, tuple[str, ...]], pa.Table] = {}

    def show(self) -> None:
        """Make `rule_row` as it is now."""
        self._connection.register("rule_row", self._row.empty_table())

    def table(self, path: Path, conditions: tuple[str, ...]) -> pa.Table:
        """A derivation table, read once. Raises BadTable."""
        if (path, conditions) not in self._tables:
            self._tables[path, conditions] = read_table(path, conditions)
        return self._tables[path, conditions]

    def faults_of_calls(self, sql: str) -> tuple[str, ...]:
        """The fault columns of the calls that SQL holds the values of."""
        return tuple(step.fault for step in self.made if isinstance(step, Call) and quote(step.fault) in sql)

    def add(self, make: Callable[[int], Found | Conversion | Call]) -> Found | Conversion | Call:
        """The step that is made with a number, or one that is there already and does the same."""
        for known in self.made:
            if known == make(known.number):
                return known
        step = make(len(self.made))
        self.made.append(step)
        self.read[step.number] = set()
        for name, kind in [*((step.column(name), kind) for name, kind in step.readable.items()), (step.fault, pa.string())]:
            self._row = self._row.append(pa.field(name, kind))
        self._connection.unregister("rule_row")
        self.show()
        return step


def expressions_of(rule: RuleConfig) -> Iterator[tuple[str, str]]:
    """Every expression of a rule with its key."""
    for name, text in rule.each.items():
        yield f"each.{name}", text
    for name, lookup in rule.lookup.items():
        for column, text in lookup.on.items():
            yield f"lookup.{name}.on.{column}", text
    for key in ("when", "date", "voucher_key", "voucher_type", "summary", "attachments"):
        if text := getattr(rule, key):
            yield key, text
    for i, line in enumerate(rule.lines):
        if isinstance(line.account, dict):
            yield f"lines.{i}.account", line.account["expr"]
        for key in ("when", "debit", "credit", "by", "currency", "orig_amount", "rate", "quantity", "unit"):
            if isinstance(text := getattr(line, key), str):
                yield f"lines.{i}.{key}", text
        if isinstance(line.rate, RateConfig) and line.rate.date is not None:
            yield f"lines.{i}.rate.date", line.rate.date
        for name, text in line.dims.items():
            yield f"lines.{i}.dims.{name}", text


class _Compiler:
    """Compiles one rule; keeps what every fault message names."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, rule: RuleConfig, schema: TableSchema, book: Book, lookups: _Lookups) -> None:
        self.connection, self.rule, self.schema, self.book, self.lookups = connection, rule, schema, book, lookups
        self.found: dict[str, Found] = {}  # by the names the rule has for them
        self.relations: Sequence[str] = (CHANGES,)  # what expressions may read
        self.conversions: dict[int, Conversion] = {}  # by line
        self.inputs: set[str] = set()  # the names of what all lines need
        self.dimensions: dict[int, dict[str, str]] = {}  # by line: SQL over its relation for each, also for those that are inferred
        self.names: set[str] = set()  # of what expressions read, since it was last emptied
        self.through: dict[str, set[str]] = {}  # by lookup: what it reads
        self.inferred: dict[int, list[tuple[str, str]]] = {}  # by line: dimensions with such SQL for what filled them, or null
        self.asked = "true"  # SQL for the rows that functions are called for

    def compile(self, until: date | None) -> CompiledRule:
        """The rule; `until` is the day from which its next version holds."""
        rule = self.rule
        for name in rule.each:
            self.found[name] = self.array(name)
        for name in rule.lookup:
            self.relations = [CHANGES, *(step.relation for step in self.found.values())]
            self.names = set()
            self.found[name] = self.lookup(name)
            self.through[name] = self.names
        self.relations = [CHANGES]
        inputs = {"#date": self.date().sql}
        applies = self.applies(inputs["#date"], until)
        self.asked = f"coalesce(TRY({applies}), true)"
        for name, text in (("voucher_key", rule.voucher_key), ("voucher_type", rule.voucher_type), ("summary", rule.summary)):
            inputs[f"#{name}"] = self.text(name, text)
        inputs["#attachments"] = self.count("attachments", rule.attachments)
        for i, line in self.lines(None):
            inputs |= self.line_inputs(i, line)
        values = ", ".join(f"{sql} AS {quote(name)}" for name, sql in inputs.items())
        row = '"#rid", "#ordinal", "#op", "#hash", "#key", "#position", "#xid", "#committed_at"'
        where = f"""FROM c WHERE "#op" <> 'd' AND {applies}"""
        header = """"#voucher_key" AS voucher_key, "#voucher_type" AS voucher_type, "#date" AS doc_date, "#summary" AS summary,
            "#attachments" AS attachments"""
        elements = [self.elements(name, applies) for name in self.arrays]
        lines = self.all_lines()
        entry_id = f"""concat_ws('|', 'post', {literal(rule.book)}, {literal(rule.name)}, {literal(self.schema.name)},
            "#key", "#position", "#xid", "#ordinal")"""
        shaped = f"""SELECT {row}, {header}, {self.fault()} AS fault,
            list_filter({lines}, lambda l: coalesce(l.debit, l.credit, 0) <> 0) AS lines
            FROM (SELECT {row}{self.misses(None)}, {values} {where}){_joined(each.gathered() for each in elements)}"""
        return CompiledRule(
            rule.name,
            rule.book,
            rule.version,
            self.book.config.time_zone,
            wanted=f"""SELECT {literal(rule.book)} AS book, {literal(rule.name)} AS rule, {rule.version} AS rule_version, *,
            CAST(md5({entry_id}) AS UUID)::VARCHAR AS entry_id FROM ({shaped}) WHERE fault IS NOT NULL OR len(lines) > 0""",
            failing=self.failing(applies, inputs, lines, elements),
        )

    def array(self, name: str) -> Array:
        """An array whose elements a rule knows by a name."""
        key, text = f"each.{name}", self.rule.each[name]
        array = self.expression(key, text)
        try:
            check_exact(self.connection, array, "rule_row")
            kind = type_of(self.connection, array, "rule_row")
        except BadExpression as error:
            self.refuse(key, error)
        if kind != "VARCHAR" and not kind.endswith("[]"):
            self.refuse(key, f"'{text}' is a {kind}; an array is JSON text or a list")
        text = array.sql if kind == "VARCHAR" else f"CAST(to_json({array.sql}) AS VARCHAR)"
        zone, calls = self.book.config.time_zone, self.lookups.faults_of_calls(text)
        step = self.lookups.add(lambda number: Array(number, zone, CHANGES, text, calls))
        assert isinstance(step, Array)
        return step

    def elements(self, name: str, applies: str) -> Elements:
        """The lines for each element of an array."""
        array = self.found[name]
        assert isinstance(array, Array)
        for i, line in self.lines(name):
            if line.by is not None:
                self.amount(f"lines.{i}.{_side(line)}", getattr(line, _side(line)))  # of the row alone
        self.relations = [CHANGES, array.relation]
        inputs, parts, bases, faults = dict[str, str](), dict[str, str](), dict[str, str](), self.lookup_faults(name)
        for i, line in self.lines(name):
            inputs |= self.line_inputs(i, line)
            faults += self.line_faults(i, line)
            if line.by is not None:
                parts[f"#lines.{i}.by"] = self.part(i, line)
                if i in self.conversions:
                    bases[f"#lines.{i}.by"] = self.in_base(_input(i, "by.part"), _input(i, "rate"))
        self.relations = [CHANGES]
        sums: dict[str, str] = {}
        for side in ("debit", "credit"):
            amounts = [
                f"CAST({self.worth(i, line)} AS DECIMAL({SUMMED_DIGITS},{self.book.config.decimals}))"
                for i, line in self.lines(name)
                if getattr(line, side) is not None
            ]
            if amounts:
                sums[side] = " + ".join(amounts)
        return Elements(
            name,
            array,
            applies,
            self.misses(name),
            inputs,
            {name: self.failed(name.removeprefix("#"), sql) for name, sql in inputs.items()},
            parts,
            bases,
            f"CASE {' '.join(faults)} END",
            {i: self.line_struct(i, line) for i, line in self.lines(name)},
            sums,
        )

    def part(self, i: int, line: LineConfig) -> str:
        """SQL for an element's part of an amount: what the elements up to it have of it together, without what those before it have. So
        the parts add up to the amount."""
        amount, by, decimals = _input(i, _side(line)), _input(i, "by"), self.book.config.decimals
        upto, all_of_it = _input(i, "by.upto"), _input(i, "by.all")
        return f"""CASE {amount} WHEN 0 THEN 0 ELSE share({amount}, {upto}, {all_of_it}, {decimals})
            - share({amount}, {upto} - {by}, {all_of_it}, {decimals}) END"""

    @property
    def arrays(self) -> list[str]:
        """The arrays that lines are for each element of."""
        return list(dict.fromkeys(line.each for line in self.rule.lines if line.each is not None))

    def relation(self, each: str | None) -> str:
        """The relation that the lines of the row are worked out over, or those for each element of an array."""
        return CHANGES if each is None else self.found[each].relation

    def lines(self, each: str | None) -> list[tuple[int, LineConfig]]:
        """The lines of the row, or those for each element of an array, with their places."""
        return [(i, line) for i, line in enumerate(self.rule.lines) if line.each == each]

    def all_lines(self) -> str:
        """SQL for the list of lines. With those of elements in it they are numbered anew."""
        if not self.arrays:
            return "[" + ", ".join(self.line_struct(i, line) for i, line in self.lines(None)) + "]"
        lists = [f"[{self.line_struct(i, line)}]" if line.each is None else quote(f"#lines.{i}") for i, line in enumerate(self.rule.lines)]
        return f"list_transform(list_concat({', '.join(lists)}), lambda l, i: struct_update(l, line_no := CAST(i AS INTEGER)))"

    def lookup(self, name: str) -> Found:
        """What a rule looks up under a name. Its expressions may read those above it."""
        wanted = self.rule.lookup[name]
        return self.derivation(name, wanted.csv) if wanted.csv is not None else self.other_table(name)

    def derivation(self, name: str, path: Path) -> Derivation:
        """What follows by a derivation table."""
        wanted, place = self.rule.lookup[name], f"lookup.{name}"
        values = {column: self.expression(f"{place}.on.{column}", text) for column, text in wanted.on.items()}
        over, on = self.over(place, values.values()), tuple((column, value.sql) for column, value in values.items())
        try:
            table = self.lookups.table(path, tuple(wanted.on))
        except BadTable as error:
            self.refuse(f"{place}.csv", error)
        day, zone = self.date().sql if dated(table) else "NULL", self.book.config.time_zone
        step = self.lookups.add(lambda number: Derivation(number, zone, over, path, table, on, day))
        assert isinstance(step, Derivation)
        return step

    def other_table(self, name: str) -> Lookup:
        """A row of another table."""
        wanted, place = self.rule.lookup[name], f"lookup.{name}"
        schema = self.lookups.others.get(wanted.table or "")
        if schema is None:
            self.refuse(f"{place}.table", f"there is no table '{wanted.table}' at the source")
        if not schema.key:
            self.refuse(f"{place}.table", f"'{wanted.table}' has no key, so its rows can't be followed")
        types = {column.name: column.store_type for column in schema.columns}
        values = {}
        for column, text in wanted.on.items():
            if column not in types:
                self.refuse(f"{place}.on.{column}", f"'{wanted.table}' has no such column{did_you_mean(column, types)}")
            expression = self.expression(f"{place}.on.{column}", text)
            kind = type_of(self.connection, expression, "rule_row")
            if kind != types[column] and not (kind in INTEGERS and types[column] in INTEGERS):
                self.refuse(f"{place}.on.{column}", f"'{text}' is a {kind}, and the column a {types[column]}: CAST(... AS {types[column]})")
            values[column] = expression
        over, on = self.over(place, values.values()), tuple((column, value.sql) for column, value in values.items())
        zone = self.book.config.time_zone
        step = self.lookups.add(lambda number: Lookup(number, zone, over, schema, on))
        assert isinstance(step, Lookup)
        return step

    def over(self, place: str, values: Iterable[Expression]) -> str:
        """The relation that what is looked up by some values is added to."""
        relations = {self.found[name].relation for value in values for name, _ in value.references} - {CHANGES}
        if len(relations) > 1:
            self.refuse(place, "reads elements of more than one array")
        return relations.pop() if relations else CHANGES

    def applies(self, day: str, until: date | None) -> str:
        """SQL for whether the rule applies to a row. Where that can't be told, as what is asked was not found, it does: and fails."""
        when = self.expression("when", self.rule.when, "BOOLEAN")
        missing = [f"{quote(self.found[name].fault)} IS NOT NULL" for name in sorted({name for name, _ in when.references})]
        applies = f"coalesce({when.sql}, {' OR '.join(missing) or 'false'})"
        if self.rule.valid_from is not None:
            # A row without a date fails by its newest version.
            applies += f" AND coalesce({day} >= DATE '{self.rule.valid_from}', {until is None})"
        return applies if until is None else f"{applies} AND coalesce({day} < DATE '{until}', false)"

    def failing(self, applies: str, inputs: Mapping[str, str], lines: str, elements: Sequence[Elements]) -> str:
        """SQL for the rows on which the rule fails, and the first of its keys that does. DuckDB's own message is left out: it tells of
        another row where several fail."""
        keys = {"when": f"TRY({applies})", **{name.removeprefix("#"): f"TRY(struct_pack(v := {sql}))" for name, sql in inputs.items()}}
        cases = " ".join(f"WHEN {tried} IS NULL THEN {self.failed(key, tried)}" for key, tried in keys.items())
        tried = ", ".join(f"TRY({sql}) AS {quote(name)}" for name, sql in inputs.items())
        joined = _joined(each.gathered(tried=True) for each in elements)
        failing = f"""SELECT "#rid", coalesce("#failed", 'quarantine.expression|an amount is out of range') AS fault
            FROM (SELECT "#rid"{self.misses(None)}, CASE {cases} END AS "#failed", {tried}
                FROM c WHERE "#op" <> 'd' AND coalesce(TRY({applies}), true)){joined}
            WHERE "#failed" IS NOT NULL OR TRY(struct_pack(fault := {self.fault()}, lines := {lines})) IS NULL"""
        each = [f"SELECT * FROM ({failing})", *(each.failing() for each in elements)]
        return f'SELECT "#rid", min(fault) AS fault FROM ({" UNION ALL ".join(each)}) GROUP BY "#rid"' if elements else failing

    def failed(self, key: str, sql: str) -> str:
        """SQL for the fault of a row on which a key fails: that of a function it calls, or else its expression's."""
        expression, faults = literal(f"quarantine.expression|{key}"), listed(self.lookups.faults_of_calls(sql))
        return f"coalesce({literal(f'quarantine.function|{key}: ')} || coalesce({faults}), {expression})" if faults else expression

    def refuse(self, key: str, fault: object) -> NoReturn:
        raise ConfigError("rules.bad", rule=self.rule.name, place=self.rule.place, key=key, fault=fault) from None

    def expression(self, key: str, text: str, *kinds: str, asked: str | None = None) -> Expression:
        """A checked expression of one of the given types, or of any type. `asked`: SQL for the rows its value may be needed of."""
        try:
            names = {name: str(step.number) for name, step in self.found.items()}
            arrays = [name for name, step in self.found.items() if isinstance(step, Array)]
            macros = {"account_code": account_code(self.book.name)}
            functions = {name: partial(self.call, key, function, asked or self.asked) for name, function in self.lookups.functions.items()}
            parsed = parse(self.connection, text, names, arrays, self.book.config.decimals, macros, functions)
            check_columns(parsed, [column.name for column in self.schema.columns])
            for name, column in parsed.references:
                self.read(name, column)
                self.names.add(name)
            kind = type_of(self.connection, parsed, "rule_row")
            check_rounded(self.connection, parsed, "rule_row")
        except BadExpression as error:
            self.refuse(key, error)
        if kinds and kind not in kinds and kind != '"NULL"':
            self.refuse(key, f"'{text}' is a {kind}, but must be a {' or a '.join(kinds)}")
        return parsed

    def call(self, key: str, function: Function, asked: str, texts: Sequence[str], conditions: Sequence[str]) -> Expression:
        """What stands for a call of a Python function with arguments, which must be exact and come to it as they are.

        It is made for the rows `asked` for, or their elements if it reads those, on which none of the conditions is false.
        """
        if len(texts) != len(function.takes):
            raise BadExpression(f"'{function.name}' takes {len(function.takes)} arguments, and here are {len(texts)}")
        guards = []
        for condition in conditions:
            guards.append(self.expression(key, condition, "BOOLEAN", asked=asked))
            asked += f" AND coalesce(TRY({guards[-1].sql}), true)"
        arguments = [self.expression(key, text, asked=asked) for text in texts]
        for text, argument, declared in zip(texts, arguments, function.takes, strict=True):
            check_exact(self.connection, argument, "rule_row")
            kind = type_of(self.connection, argument, "rule_row")
            if not keeps(kind, declared):
                raise BadExpression(f"'{function.name}' takes a {declared}, and '{text}' is a {kind}: CAST({text} AS {declared})")
        over, made = self.over(key, [*guards, *arguments]), tuple(argument.sql for argument in arguments)
        inner = tuple(dict.fromkeys(fault for sql in made for fault in self.lookups.faults_of_calls(sql)))
        zone = self.book.config.time_zone
        step = self.lookups.add(lambda number: Call(number, zone, over, function, made, asked, inner))
        assert isinstance(step, Call)
        self.lookups.read[step.number].add(VALUE)
        references = frozenset[tuple[str, str]]().union(*(argument.references for argument in arguments))
        return Expression(step.sql, frozenset[str]().union(*(argument.columns for argument in arguments)), references)

    def needed(self, each: str | None) -> dict[str, Found]:
        """What is looked up for the row, or for each element of an array, and can't be done without."""
        optional, over = {name for name, lookup in self.rule.lookup.items() if lookup.optional}, self.relation(each)
        return {name: step for name, step in self.found.items() if step.over == over and name not in optional}

    def misses(self, each: str | None) -> str:
        """SQL for the columns that tell what of it was not found, rates included."""
        steps: list[Step] = list(self.needed(each).values())
        steps += [self.conversions[i] for i, _ in self.lines(each) if i in self.conversions]
        return "".join(f", {fault}" for fault in dict.fromkeys(quote(step.fault) for step in steps))

    def read(self, name: str, column: str) -> None:
        """Note that a column of what is looked up is read. Raises BadExpression if there is none."""
        lookup = self.found[name]
        if lookup.relation not in self.relations:
            raise BadExpression(f"'{name}' is there for each element of an array, and can't be read here")
        if isinstance(lookup, Array):
            return
        known = {known.casefold(): known for known in lookup.readable}
        if column.casefold() not in known:
            raise BadExpression(f"'{name}' has no column '{column}'{did_you_mean(column, known.values())}")
        self.lookups.read[lookup.number].add(known[column.casefold()])

    def text(self, key: str, text: str | None) -> str:
        return "CAST(NULL AS VARCHAR)" if text is None else f"CAST({self.expression(key, text).sql} AS VARCHAR)"

    def count(self, key: str, text: str | None) -> str:
        return "CAST(NULL AS INTEGER)" if text is None else f"CAST({self.expression(key, text, *sorted(INTEGERS)).sql} AS INTEGER)"

    def date(self) -> Expression:
        return self.day("date", self.rule.date, "true")  # also of rows that the rule does not apply to

    def day(self, key: str, text: str, asked: str | None = None) -> Expression:
        day = self.expression(key, text, "DATE", "TIMESTAMP", "TIMESTAMP WITH TIME ZONE", asked=asked)
        return replace(day, sql=f"CAST({day.sql} AS DATE)")

    def amount(self, key: str, text: str) -> str:
        """An expression that is exact from end to end."""
        amount = self.expression(key, text)
        try:
            check_exact(self.connection, amount, "rule_row")
            kind = type_of(self.connection, amount, "rule_row")
        except BadExpression as error:
            self.refuse(key, error)
        if not kind.startswith("DECIMAL") and kind not in INTEGERS:
            self.refuse(key, f"'{text}' is a {kind}; an amount must be a DECIMAL or a whole number")
        return amount.sql

    def weight(self, key: str, text: str) -> str:
        """What an amount is shared out by: of so few digits that no sum of them overflows; what has more fails."""
        weight = self.amount(key, text)
        kind = type_of(self.connection, Expression(weight, frozenset()), "rule_row")
        scale = int(kind[:-1].split(",")[1]) if kind.startswith("DECIMAL") else 0
        return f"CAST({weight} AS DECIMAL({SUMMED_DIGITS},{min(scale, SUMMED_DIGITS)}))"

    def line_inputs(self, i: int, line: LineConfig) -> dict[str, str]:
        """What a line needs of the row, by the names `fault` and `line_struct` use."""
        at, self.names = f"lines.{i}", set()
        account = self.account(f"{at}.account", line)
        inputs = {f"#{at}.account": account}
        for name in ("debit", "credit", "orig_amount", "rate", "quantity"):
            if isinstance(text := getattr(line, name), str):
                inputs[f"#{at}.{name}"] = self.amount(f"{at}.{name}", text)
        if line.by is not None:
            inputs[f"#{at}.by"] = self.weight(f"{at}.by", line.by)
        if line.when is not None:
            there = self.expression(f"{at}.when", line.when, "BOOLEAN").sql
            inputs[f"#{at}.when"] = f"coalesce({there}, false)"
            for name in (f"#{at}.{_side(line)}", f"#{at}.orig_amount", f"#{at}.by"):
                if name in inputs:
                    inputs[name] = f"CASE WHEN {there} THEN {inputs[name]} ELSE 0 END"
        if isinstance(line.rate, RateConfig):
            inputs |= self.converted(i, line, inputs)
        for name in ("currency", "unit"):
            if (text := getattr(line, name)) is not None:
                inputs[f"#{at}.{name}"] = self.text(f"{at}.{name}", text)
        dims = self.dimensions[i] = self.infer(i, line, account)
        self.require(i, line, dims)
        inputs |= {f"#{at}.dims.{name}": sql for name, sql in dims.items()}
        if (origin := self.origin(i)) is not None:
            inputs[f"#{at}.origin"] = origin
        self.inputs |= inputs.keys()
        return inputs

    def origin(self, i: int) -> str | None:
        """SQL for the JSON text of what the line that was just compiled reads besides its row: by the names of lookups the other table and
        the row's key, or the derivation table and the number of its row; by those of inferred dimensions the same. None if nothing."""
        names = [name for name in self.found if name in self.names]
        while more := [name for name in self.found if name not in names and any(name in self.through.get(other, ()) for other in names)]:
            names += more
        told = {name: sql for name in names if (sql := self.told(self.found[name])) is not None}
        told |= {f"dims.{name}": f"CAST(to_json({sql}) AS VARCHAR)" for name, sql in self.inferred[i]}
        if not told:
            return None
        parts = ", ".join(f"{literal(json_name(name))} || {sql}" for name, sql in told.items())
        return f"nullif('{{' || concat_ws(', ', {parts}) || '}}', '{{}}')"

    def told(self, step: Found) -> str | None:
        """SQL for the JSON text of what a step found; null if nothing."""
        if isinstance(step, Derivation):
            self.lookups.read[step.number].add(ROW)
            return f"CAST(to_json({literal(step.path.name + ':')} || {quote(step.column(ROW))}) AS VARCHAR)"
        if not isinstance(step, Lookup):
            return None
        self.lookups.read[step.number] |= set(step.schema.key)
        kinds = {column.name: column.store_type for column in step.schema.columns}
        key = json_members({name: json_value(quote(step.column(name)), kinds[name]) for name in step.schema.key})
        head = literal(f'{{"table": {json.dumps(step.schema.name, ensure_ascii=False)}, "row": {{')
        return f"CASE WHEN {quote(step.fault)} IS NULL THEN {head} || {key} || '}}}}' END"

    def infer(self, i: int, line: LineConfig, account: str) -> dict[str, str]:
        """SQL for the dimensions of a line: its own, filled and added to by the book's inferences."""
        dims = {name: self.text(f"lines.{i}.dims.{name}", text) for name, text in line.dims.items()}
        self.inferred[i] = []
        for inference in self.inferring(line):
            given = {name: self.condition(name, account, dims) for name in inference.on}
            on = tuple((name, sql) for name, sql in given.items() if sql is not None)
            if len(on) < len(given):
                continue
            step = self.inference(inference, self.relation(line.each), on)
            self.lookups.read[step.number] |= {inference.dimension, ROW}
            within = "true" if isinstance(line.account, str) else among(account, inference.accounts)
            own = dims.get(inference.dimension, "CAST(NULL AS VARCHAR)")
            dims[inference.dimension], origin = inferred(inference, step, within, own)
            self.inferred[i].append((inference.dimension, origin))
        return dims

    def inference(self, inference: Inference, over: str, on: tuple[tuple[str, str], ...]) -> Derivation:
        """The step of an inference, by SQL over a relation for its conditions."""
        day, zone = self.date().sql if dated(inference.table) else "NULL", self.book.config.time_zone
        step = self.lookups.add(lambda number: Derivation(number, zone, over, inference.path, inference.table, on, day))
        assert isinstance(step, Derivation)
        return step

    def inferring(self, line: LineConfig) -> Iterator[Inference]:
        """The book's inferences for a line's account, or for what it may be."""
        return (each for each in self.book.inferences if not isinstance(line.account, str) or line.account in each.accounts)

    def condition(self, name: str, account: str, dims: Mapping[str, str]) -> str | None:
        """SQL for what an inference compares with, or None if the line has no such thing."""
        if name in dims or name == "account":
            return dims.get(name, account)
        if name.casefold() in (column.name.casefold() for column in self.schema.columns):
            return quote(name)
        looked_up, _, column = name.partition(".")
        step = self.found.get(looked_up)
        if step is None or step.relation not in self.relations or not column:
            return None
        if not isinstance(step, Array) and column.casefold() not in map(str.casefold, step.readable):
            return None
        return self.expression(f"lookup.{looked_up}", f"{quote(looked_up)}.{quote(column)}").sql

    def require(self, i: int, line: LineConfig, dims: Iterable[str]) -> None:
        """Refuse a line of an account that requires what the line never has. `dims`: those it may have."""
        asked = self.book.required.get(line.account) if isinstance(line.account, str) else None
        for name in asked.dims if asked else ():
            if name not in dims:
                tables = [each for each in self.inferring(line) if each.dimension == name]
                by = "".join(f"; '{each.path.name}' infers it by {', '.join(each.on)}" for each in tables)
                self.refuse(
                    f"lines.{i}.dims.{name}", f"account '{line.account}' requires the dimension '{name}'{by}, which this line lacks"
                )
        written = literal(self.book.config.base_currency) if line.currency is None else line.currency.strip()
        if asked and asked.currency and re.fullmatch("'[A-Z]{3}'", written) and written != literal(asked.currency):
            self.refuse(f"lines.{i}.currency", f"account '{line.account}' is kept in {asked.currency}, and this line is in {written[1:-1]}")

    def converted(self, i: int, line: LineConfig, inputs: Mapping[str, str]) -> dict[str, str]:
        """Inputs of a line whose amount is in another currency: that amount, its rate, and what it is in the book's. Of an amount that is
        shared out that follows for each part."""
        at, side, book = f"lines.{i}", f"#lines.{i}.{_side(line)}", self.book
        assert isinstance(line.rate, RateConfig) and line.currency is not None
        day = self.date() if line.rate.date is None else self.day(f"{at}.rate.date", line.rate.date)
        currency, rate_type = self.expression(f"{at}.currency", line.currency), line.rate.type
        zone, over = book.config.time_zone, self.over(at, (currency, day))
        step = self.lookups.add(lambda number: Conversion(number, zone, over, book.name, book.config, rate_type, currency.sql, day.sql))
        assert isinstance(step, Conversion)
        self.conversions[i] = step
        self.lookups.read[step.number] |= {"rate", "date"}
        rate, worth = quote(step.column("rate")), inputs[side]
        found = {f"#{at}.rate": rate, f"#{at}.rate_date": quote(step.column("date"))}
        return found if line.by is not None else {f"#{at}.orig_amount": worth, **found, side: self.in_base(worth, rate)}

    def in_base(self, worth: str, rate: str) -> str:
        """SQL for what an amount in another currency is in the book's."""
        base = f"CAST({worth} AS DECIMAL(38,{AMOUNT_SCALE})) * CAST({rate} AS DECIMAL(38,{RATE_SCALE}))"
        return f"CASE WHEN {worth} = 0 THEN 0 ELSE round({base}, {self.book.config.decimals}) END"

    def account(self, key: str, line: LineConfig) -> str:
        if isinstance(line.account, dict):
            return self.text(key, line.account["expr"])
        if line.account not in self.book.accounts:
            chart = self.book.config.chart
            self.refuse(key, f"account '{line.account}' is not in the chart '{chart}' of book '{self.book.name}'")
        return literal(line.account)

    def line_struct(self, i: int, line: LineConfig) -> str:
        amount = f"CAST({self.worth(i, line)} AS DECIMAL(38,{AMOUNT_SCALE}))"
        none = f"CAST(NULL AS DECIMAL(38,{AMOUNT_SCALE}))"
        debit, credit = (none if line.debit is None else amount), (none if line.credit is None else amount)
        if line.rest is not None:
            debit, credit = f"CASE WHEN {amount} < 0 THEN -{amount} END", f"CASE WHEN {amount} > 0 THEN {amount} END"
            amount = f"abs({amount})"
        original = amount if line.rest is not None else f"CAST({self.original(i, line)} AS DECIMAL(38,{AMOUNT_SCALE}))"
        base = literal(self.book.config.base_currency)

        def given(name: str, kind: str, default: str) -> str:
            return f"CAST({_input(i, name)} AS {kind})" if f"#lines.{i}.{name}" in self.inputs else default

        return f"""struct_pack(line_no := {i + 1}, account := {_input(i, "account")},
            debit := {debit}, credit := {credit},
            currency := {given("currency", "VARCHAR", base)},
            orig_amount := {given("orig_amount", f"DECIMAL(38,{AMOUNT_SCALE})", original)},
            rate := {given("rate", f"DECIMAL(38,{RATE_SCALE})", f"CAST(1 AS DECIMAL(38,{RATE_SCALE}))")},
            quantity := {given("quantity", f"DECIMAL(38,{AMOUNT_SCALE})", none)},
            unit := {given("unit", "VARCHAR", "CAST(NULL AS VARCHAR)")}, dims := {self.dims(i, line)},
            rate_type := {self.rate_type(line)},
            rate_date := {given("rate_date", "DATE", "CAST(NULL AS DATE)")},
            origin := {given("origin", "VARCHAR", "CAST(NULL AS VARCHAR)")})"""

    def rate_type(self, line: LineConfig) -> str:
        """SQL for the kind of rate a line is converted by; null in base currency."""
        kind = literal(line.rate.type) if isinstance(line.rate, RateConfig) else "NULL"
        return f"CAST({kind} AS VARCHAR)"

    def worth(self, i: int, line: LineConfig) -> str:
        """SQL over a line's inputs for its amount; of the rest for what is missing on the credit side."""
        if line.rest is not None:
            return self.difference()
        if line.by is not None:
            return _input(i, "by.base" if i in self.conversions else "by.part")
        return _input(i, _side(line))

    def difference(self) -> str:
        """SQL for what the debits are more than the credits."""
        debit, credit = self.sides()
        return f"({debit} - ({credit}))"

    def sides(self) -> tuple[str, str]:
        """SQL for the sums of the debits and of the credits, without the rest."""
        amounts = {
            side: [_input(i, side) for i, line in self.lines(None) if getattr(line, side) is not None]
            + [
                f"coalesce({quote(f'#{name}.{side}')}, 0)"
                for name in self.arrays
                if any(getattr(line, side) for _, line in self.lines(name))
            ]
            for side in ("debit", "credit")
        }
        return " + ".join(amounts["debit"]) or "0", " + ".join(amounts["credit"]) or "0"

    def dims(self, i: int, line: LineConfig) -> str:
        """The dimensions as a JSON object, keys sorted; one that is null is left out."""
        if not self.dimensions[i]:
            return "'{}'"
        parts = []
        for name in sorted(self.dimensions[i]):
            parts.append(f"coalesce({literal(', ' + json_name(name))} || CAST(to_json({_input(i, f'dims.{name}')}) AS VARCHAR), '')")
        return f"'{{' || substr({' || '.join(parts)}, 3) || '}}'"

    def fault(self) -> str:
        """SQL for what is wrong with the entry a row wants: `code|detail`, or null."""
        cases = self.lookup_faults(None)
        cases += [
            """WHEN "#date" IS NULL OR NOT isfinite("#date") THEN 'quarantine.no_date|' || coalesce(CAST("#date" AS VARCHAR), 'NULL')"""
        ]
        if (first := self.book.config.first_period) is not None:
            cases.append(f"""WHEN strftime("#date", '%Y-%m') < '{first}' THEN concat('quarantine.period|', "#date", ' < {first}')""")
        for i, line in self.lines(None):
            cases += self.line_faults(i, line)
        cases += [f"WHEN {fault} IS NOT NULL THEN {fault}" for fault in (quote(f"#{name}!") for name in self.arrays)]
        cases += [self.unbalanced(), self.unbalanced_currency()]
        return f"CASE {' '.join(cases)} END"

    def lookup_faults(self, each: str | None) -> list[str]:
        """The cases of what is not found for the row, or for an element of an array."""
        return [
            f"WHEN {quote(step.fault)} IS NOT NULL THEN concat({literal(step.reason + '|')}, {literal(name + ': ')}, {quote(step.fault)})"
            for name, step in self.needed(each).items()
        ]

    def unbalanced(self) -> str:
        """The case of an entry whose sides differ, by more than a line of it may make up for."""
        (debit, credit), limits = self.sides(), [line.rest for line in self.rule.lines if line.rest is not None]
        fault = f"concat('quarantine.unbalanced|debit ', {debit}, ', credit ', {credit})"
        limit = limits[0] if limits else Decimal(0)
        return "" if limit is True else f"WHEN abs({self.difference()}) > {limit:f} THEN {fault}"

    def unbalanced_currency(self) -> str:
        """The case of an entry whose sides differ in a currency other than the book's, and which no line says to exchange it."""
        kept = [(i, line) for i, line in enumerate(self.rule.lines) if line.currency is not None]
        if not kept or any(line.exchange for line in self.rule.lines):
            return ""
        signed = self.signed(kept)
        sums = f"list_distinct(list_transform({signed}, lambda l: l.c))"
        total = f"list_sum(list_transform(list_filter({signed}, lambda l: l.c = k), lambda l: l.v))"
        base = literal(self.book.config.base_currency)
        foreign = f"list_filter({sums}, lambda k: k <> {base})"
        off = f"list_filter(list_transform({foreign}, lambda k: struct_pack(k := k, v := {total})), lambda o: o.v <> 0)"
        return f"WHEN len({off}) > 0 THEN concat('quarantine.unbalanced_currency|', {off}[1].k, ' ', {off}[1].v)"

    def signed(self, lines: Iterable[tuple[int, LineConfig]]) -> str:
        """SQL for a list of what lines are in their own currencies (`c`): the amount (`v`), a credit being negative."""
        kind, own, lists = f"DECIMAL(38,{AMOUNT_SCALE})", list[str](), list[str]()
        for i, line in lines:
            if line.each is None:
                amount = f"{'-' if _side(line) == 'credit' else ''}CAST({self.original(i, line)} AS {kind})"
                own.append(f"struct_pack(c := {_input(i, 'currency')}, v := {amount})")
            else:
                amount = f"{'-' if _side(line) == 'credit' else ''}l.orig_amount"
                lists.append(f"list_transform({quote(f'#lines.{i}')}, lambda l: struct_pack(c := l.currency, v := {amount}))")
        lists += [f"[{', '.join(own)}]"] * bool(own)
        return lists[0] if len(lists) == 1 else f"list_concat({', '.join(lists)})"

    def original(self, i: int, line: LineConfig) -> str:
        """SQL for a line's amount in its own currency."""
        if line.by is not None and i in self.conversions:
            return _input(i, "by.part")
        return _input(i, "orig_amount") if f"#lines.{i}.orig_amount" in self.inputs else self.worth(i, line)

    def line_faults(self, i: int, line: LineConfig) -> list[str]:
        amount, account, currency = self.worth(i, line), _input(i, "account"), _input(i, "currency")
        cases = [] if line.rest is not None else [f"WHEN {amount} IS NULL THEN 'quarantine.no_amount|line {i + 1}'"]
        scales = {_side(line): self.book.config.decimals, "orig_amount": AMOUNT_SCALE, "rate": RATE_SCALE, "quantity": AMOUNT_SCALE}
        if (conversion := self.conversions.get(i)) is not None:
            original, missing = self.original(i, line), quote(conversion.fault)
            rate = f"WHEN {original} <> 0 AND {currency} IS NOT NULL AND {missing} IS NOT NULL"
            none = f"WHEN {original} <> 0 AND {currency} IS NULL THEN 'quarantine.no_currency|line {i + 1}'"
            cases = [none, f"{rate} THEN concat('quarantine.rate|line {i + 1}: ', {missing})", *cases]
        for name, scale in scales.items():
            if f"#lines.{i}.{name}" in self.inputs:
                value = _input(i, name)
                cases.append(
                    f"WHEN {value} <> round({value}, {scale}) THEN concat('quarantine.decimals|line {i + 1}: ', {value}, ' ({scale})')"
                )
        if isinstance(line.account, dict):
            codes = ", ".join(literal(code) for code in sorted(self.book.accounts))
            cases.append(f"WHEN {amount} <> 0 AND {account} IS NULL THEN 'quarantine.no_account|line {i + 1}'")
            cases.append(f"WHEN {amount} <> 0 AND {account} NOT IN ({codes}) THEN concat('quarantine.account|line {i + 1}: ', {account})")
        if line.currency is not None:
            cases.append(f"WHEN {amount} <> 0 AND {currency} IS NULL THEN 'quarantine.no_currency|line {i + 1}'")
            code = f"regexp_full_match({currency}, '[A-Z]{{3}}')"
            cases.append(f"WHEN {amount} <> 0 AND NOT {code} THEN concat('quarantine.no_currency|line {i + 1}: ', {currency})")
        return cases + self.lacks(i, line, amount)

    def lacks(self, i: int, line: LineConfig, amount: str) -> list[str]:
        """The cases of a line without what its account requires."""
        asking = {code: each for code, each in self.book.required.items() if not isinstance(line.account, str) or code == line.account}
        currency = literal(self.book.config.base_currency) if line.currency is None else _input(i, "currency")
        dims = {name: _input(i, f"dims.{name}") for name in self.dimensions[i]}
        return lacking(asking, f"line {i + 1}", amount, _input(i, "account"), dims, currency)


def _side(line: LineConfig) -> str:
    return "credit" if line.debit is None else "debit"


def _joined(gathered: Iterable[str]) -> str:
    """SQL that adds the lines of elements to the changes."""
    return "".join(f' LEFT JOIN ({each}) USING ("#rid")' for each in gathered)


def _input(i: int, name: str) -> str:
    return quote(f"#lines.{i}.{name}")
