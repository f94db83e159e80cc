"""Rules compiled: all rules of a table become SQL over its changes, checked against the table's real schema.

A rule's statement reads the relation `c`, the keyed changes of one table (see `keyed`), and gives one row per change the rule applies to,
with the entry it wants (header, lines, id) or the fault that sends the row to quarantine.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import NoReturn

import duckdb
import pyarrow as pa

from cdc.accounting.derivations import FROM, TO, BadTable, Derivation, read_table
from cdc.accounting.expressions import BadExpression, Expression, check_columns, check_exact, did_you_mean, parse, type_of
from cdc.accounting.functions import VALUE, Call, Function, keeps
from cdc.accounting.lookups import Lookup
from cdc.accounting.sql import listed, literal, quote
from cdc.config import BookConfig, LineConfig, RuleConfig
from cdc.errors import ConfigError, SchemaUnknown
from cdc.types import NUMBER, TableSchema

RESERVED = {"#", "#op", "#txn", "#ordinal", "#rid", "#key", "#hash", "#n", "#stamp", "#absent", "#position", "#xid", "#committed_at"}
_INTEGERS = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT"}
_JSON_NUMBERS = _INTEGERS | {"BOOLEAN"}
AMOUNT_SCALE, RATE_SCALE = 6, 12

# Faults a row can have, by quarantine level: 2 the rule gives no usable value, 3 the entry is not sound, 4 the book does not take it.
LEVELS = {
    "quarantine.expression": 2,
    "quarantine.function": 2,
    "quarantine.lookup": 2,
    "quarantine.no_date": 2,
    "quarantine.no_amount": 2,
    "quarantine.no_account": 2,
    "quarantine.no_currency": 2,
    "quarantine.decimals": 3,
    "quarantine.unbalanced": 3,
    "quarantine.account": 4,
}


@dataclass(frozen=True, slots=True)
class Book:
    """A book with the codes of its chart."""

    name: str
    config: BookConfig
    accounts: frozenset[str]


@dataclass(frozen=True, slots=True)
class Program:
    """What is done with a table's changes: the steps that look something up or call a function, in order, each with the columns that are
    read; the rules."""

    steps: tuple[tuple[Lookup | Derivation | Call, tuple[str, ...]], ...]
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


def keyed(schema: TableSchema) -> str:
    """SQL over `changes` and `txns` for the relation `c`: the changes with `#rid` (log order), `#key` (row_key), `#hash` (row_hash) and
    their transaction's `#position`, `#xid` and `#committed_at`."""
    return f"""SELECT k.*, t.position AS "#position", t.txn AS "#xid", t.committed_at AS "#committed_at",
        {row_hash(schema)} AS "#hash"
        FROM (SELECT *, row_number() OVER () AS "#rid", {row_key(schema)} AS "#key" FROM changes) k
        JOIN (SELECT *, row_number() OVER () - 1 AS i FROM txns) t ON t.i = greatest(k."#txn", 0)"""


def row_hash(schema: TableSchema) -> str:
    """SQL for the hash of a row's `#key`."""
    return f'md5_number_lower(concat({literal(schema.name)}, chr(0), "#key"))'


def row_key(schema: TableSchema) -> str:
    """SQL for a row's key as a JSON object, `{"id": 17}`: of the key columns, or of all columns and the row's number."""
    kinds = {column.name: column.store_type for column in schema.columns}
    parts = [f"{literal(_json_name(name))} || {_json_value(quote(name), kinds[name])}" for name in schema.key or kinds]
    if not schema.key:
        parts.append(f"""'"#": ' || {quote(NUMBER)}""")
    return "'{' || " + " || ', ' || ".join(parts) + " || '}'"


def _json_name(name: str) -> str:
    return json.dumps(name, ensure_ascii=False) + ": "


def _json_value(column: str, store_type: str) -> str:
    if store_type in _JSON_NUMBERS or store_type.startswith("DECIMAL"):
        return f"coalesce(CAST({column} AS VARCHAR), 'null')"
    return f"coalesce(CAST(to_json(CAST({column} AS VARCHAR)) AS VARCHAR), 'null')"


def check_names(schema: TableSchema) -> None:
    """Raises SchemaUnknown for column names the store can't keep apart, or that are Ledgertail's own."""
    seen: set[str] = set()
    for column in schema.columns:
        folded = column.name.casefold()
        if folded in seen or folded in RESERVED or folded.startswith("#old:"):
            raise SchemaUnknown("rules.column_name", table=schema.name, column=column.name)
        seen.add(folded)


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
        for key, text in expressions_of(rule):
            try:
                _parse_alone(connection, text, dict.fromkeys(rule.lookup, ""), functions)
            except BadExpression as error:
                compiler.refuse(key, error)


def _parse_alone(connection: duckdb.DuckDBPyConnection, text: str, names: Mapping[str, str], functions: Iterable[str]) -> Expression:
    def call(arguments: Sequence[str], conditions: Sequence[str]) -> Expression:
        for each in arguments:
            _parse_alone(connection, each, names, functions)
        return Expression("NULL", frozenset())

    return parse(connection, text, names, dict.fromkeys(functions, call))


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
        self.made: list[Lookup | Derivation | Call] = []
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

    def add(self, make: Callable[[int], Lookup | Derivation | Call]) -> Lookup | Derivation | Call:
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
    for name, lookup in rule.lookup.items():
        for column, text in lookup.on.items():
            yield f"lookup.{name}.on.{column}", text
    for key in ("when", "date", "voucher_key", "voucher_type", "summary"):
        if text := getattr(rule, key):
            yield key, text
    for i, line in enumerate(rule.lines):
        if isinstance(line.account, dict):
            yield f"lines.{i}.account", line.account["expr"]
        for key in ("when", "debit", "credit", "currency", "orig_amount", "rate", "quantity", "unit"):
            if text := getattr(line, key):
                yield f"lines.{i}.{key}", text
        for name, text in line.dims.items():
            yield f"lines.{i}.dims.{name}", text


class _Compiler:
    """Compiles one rule; keeps what every fault message names."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, rule: RuleConfig, schema: TableSchema, book: Book, lookups: _Lookups) -> None:
        self.connection, self.rule, self.schema, self.book, self.lookups = connection, rule, schema, book, lookups
        self.found: dict[str, Lookup | Derivation] = {}  # by the names the rule has for them
        self.asked = "true"  # SQL for the rows that functions are called for

    def compile(self, until: date | None) -> CompiledRule:
        """The rule; `until` is the day from which its next version holds."""
        rule = self.rule
        for name in rule.lookup:
            self.found[name] = self.lookup(name)
        inputs = {"#date": self.date()}
        applies = self.applies(inputs["#date"], until)
        self.asked = f"coalesce(TRY({applies}), true)"
        for name, text in (("voucher_key", rule.voucher_key), ("voucher_type", rule.voucher_type), ("summary", rule.summary)):
            inputs[f"#{name}"] = self.text(name, text)
        for i, line in enumerate(rule.lines):
            inputs |= self.line_inputs(i, line)
        values = ", ".join(f"{sql} AS {quote(name)}" for name, sql in inputs.items())
        row = '"#rid", "#ordinal", "#op", "#hash", "#key", "#position", "#xid", "#committed_at"'
        where = f"""FROM c WHERE "#op" <> 'd' AND {applies}"""
        header = """"#voucher_key" AS voucher_key, "#voucher_type" AS voucher_type, "#date" AS entry_date,
            CASE WHEN isfinite("#date") THEN strftime("#date", '%Y-%m') END AS period, "#summary" AS summary"""
        lines = "[" + ", ".join(self.line_struct(i, line) for i, line in enumerate(rule.lines)) + "]"
        entry_id = f"""concat_ws('|', 'post', {literal(rule.book)}, {literal(rule.name)}, {literal(self.schema.name)},
            "#key", "#position", "#xid", "#ordinal")"""
        shaped = f"""SELECT {row}, {header}, {self.fault()} AS fault,
            list_filter({lines}, lambda l: coalesce(l.debit, l.credit, 0) <> 0) AS lines
            FROM (SELECT {row}{self.misses()}, {values} {where})"""
        return CompiledRule(
            rule.name,
            rule.book,
            rule.version,
            self.book.config.time_zone,
            wanted=f"""SELECT {literal(rule.book)} AS book, {literal(rule.name)} AS rule, {rule.version} AS rule_version, *,
            CAST(md5({entry_id}) AS UUID)::VARCHAR AS entry_id FROM ({shaped}) WHERE fault IS NOT NULL OR len(lines) > 0""",
            failing=self.failing(applies, inputs, lines),
        )

    def lookup(self, name: str) -> Lookup | Derivation:
        """What a rule looks up under a name. Its expressions may read those above it."""
        wanted = self.rule.lookup[name]
        return self.derivation(name, wanted.csv) if wanted.csv is not None else self.other_table(name)

    def derivation(self, name: str, path: Path) -> Derivation:
        """What follows by a derivation table."""
        wanted, place = self.rule.lookup[name], f"lookup.{name}"
        on = tuple((column, self.expression(f"{place}.on.{column}", text).sql) for column, text in wanted.on.items())
        try:
            table = self.lookups.table(path, tuple(wanted.on))
        except BadTable as error:
            self.refuse(f"{place}.csv", error)
        day, zone = self.date() if {FROM, TO} & set(table.column_names) else "NULL", self.book.config.time_zone
        step = self.lookups.add(lambda number: Derivation(number, zone, path, table, on, day))
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
        on = []
        for column, text in wanted.on.items():
            if column not in types:
                self.refuse(f"{place}.on.{column}", f"'{wanted.table}' has no such column{did_you_mean(column, types)}")
            expression = self.expression(f"{place}.on.{column}", text)
            kind = type_of(self.connection, expression, "rule_row")
            if kind != types[column] and not (kind in _INTEGERS and types[column] in _INTEGERS):
                self.refuse(f"{place}.on.{column}", f"'{text}' is a {kind}, and the column a {types[column]}: CAST(... AS {types[column]})")
            on.append((column, expression.sql))
        zone, pairs = self.book.config.time_zone, tuple(on)
        step = self.lookups.add(lambda number: Lookup(number, zone, schema, pairs))
        assert isinstance(step, Lookup)
        return step

    def applies(self, day: str, until: date | None) -> str:
        """SQL for whether the rule applies to a row. Where that can't be told, as what is asked was not found, it does: and fails."""
        when = self.expression("when", self.rule.when, "BOOLEAN")
        missing = [f"{quote(self.found[name].fault)} IS NOT NULL" for name in sorted({name for name, _ in when.references})]
        applies = f"coalesce({when.sql}, {' OR '.join(missing) or 'false'})"
        if self.rule.valid_from is not None:
            # A row without a date fails by its newest version.
            applies += f" AND coalesce({day} >= DATE '{self.rule.valid_from}', {until is None})"
        return applies if until is None else f"{applies} AND coalesce({day} < DATE '{until}', false)"

    def failing(self, applies: str, inputs: Mapping[str, str], lines: str) -> str:
        """SQL for the rows on which the rule fails, and the first of its keys that does. DuckDB's own message is left out: it tells of
        another row where several fail."""
        failing = {"when": f"TRY({applies})", **{name.removeprefix("#"): f"TRY(struct_pack(v := {sql}))" for name, sql in inputs.items()}}
        cases = " ".join(f"WHEN {tried} IS NULL THEN {self.failed(key, tried)}" for key, tried in failing.items())
        tried = ", ".join(f"TRY({sql}) AS {quote(name)}" for name, sql in inputs.items())
        return f"""SELECT "#rid", coalesce("#failed", 'quarantine.expression|an amount is out of range') AS fault
            FROM (SELECT "#rid"{self.misses()}, CASE {cases} END AS "#failed", {tried}
                FROM c WHERE "#op" <> 'd' AND coalesce(TRY({applies}), true))
            WHERE "#failed" IS NOT NULL OR TRY(struct_pack(fault := {self.fault()}, lines := {lines})) IS NULL"""

    def failed(self, key: str, sql: str) -> str:
        """SQL for the fault of a row on which a key fails: that of a function it calls, or else its expression's."""
        expression, faults = literal(f"quarantine.expression|{key}"), listed(self.lookups.faults_of_calls(sql))
        return f"coalesce({literal(f'quarantine.function|{key}: ')} || coalesce({faults}), {expression})" if faults else expression

    def refuse(self, key: str, fault: object) -> NoReturn:
        raise ConfigError("rules.bad", rule=self.rule.name, place=self.rule.place, key=key, fault=fault) from None

    def expression(self, key: str, text: str, *kinds: str, asked: str | None = None) -> Expression:
        """A checked expression of one of the given types, or of any type. `asked`: SQL for the rows its value may be needed of."""
        try:
            functions = {name: partial(self.call, key, function, asked or self.asked) for name, function in self.lookups.functions.items()}
            parsed = parse(self.connection, text, {name: str(lookup.number) for name, lookup in self.found.items()}, functions)
            check_columns(parsed, [column.name for column in self.schema.columns])
            for name, column in parsed.references:
                self.read(name, column)
            kind = type_of(self.connection, parsed, "rule_row")
        except BadExpression as error:
            self.refuse(key, error)
        if kinds and kind not in kinds and kind != '"NULL"':
            self.refuse(key, f"'{text}' is a {kind}, but must be a {' or a '.join(kinds)}")
        return parsed

    def call(self, key: str, function: Function, asked: str, texts: Sequence[str], conditions: Sequence[str]) -> Expression:
        """What stands for a call of a Python function with arguments, which must be exact and come to it as they are.

        It is made for the rows `asked` for, on which none of the conditions is false.
        """
        if len(texts) != len(function.takes):
            raise BadExpression(f"'{function.name}' takes {len(function.takes)} arguments, and here are {len(texts)}")
        for condition in conditions:
            asked += f" AND coalesce(TRY({self.expression(key, condition, 'BOOLEAN', asked=asked).sql}), true)"
        arguments = [self.expression(key, text, asked=asked) for text in texts]
        for text, argument, declared in zip(texts, arguments, function.takes, strict=True):
            check_exact(self.connection, argument, "rule_row")
            kind = type_of(self.connection, argument, "rule_row")
            if not keeps(kind, declared):
                raise BadExpression(f"'{function.name}' takes a {declared}, and '{text}' is a {kind}: CAST({text} AS {declared})")
        zone, made = self.book.config.time_zone, tuple(argument.sql for argument in arguments)
        inner = tuple(dict.fromkeys(fault for sql in made for fault in self.lookups.faults_of_calls(sql)))
        step = self.lookups.add(lambda number: Call(number, zone, function, made, asked, inner))
        assert isinstance(step, Call)
        self.lookups.read[step.number].add(VALUE)
        references = frozenset[tuple[str, str]]().union(*(argument.references for argument in arguments))
        return Expression(step.sql, frozenset[str]().union(*(argument.columns for argument in arguments)), references)

    @property
    def needed(self) -> dict[str, Lookup | Derivation]:
        """What the rule looks up and can't do without."""
        return {name: lookup for name, lookup in self.found.items() if not self.rule.lookup[name].optional}

    def misses(self) -> str:
        """SQL for the columns that tell what of it was not found."""
        return "".join(f", {fault}" for fault in dict.fromkeys(quote(lookup.fault) for lookup in self.needed.values()))

    def read(self, name: str, column: str) -> None:
        """Note that a column of what is looked up is read. Raises BadExpression if there is none."""
        lookup = self.found[name]
        known = {known.casefold(): known for known in lookup.readable}
        if column.casefold() not in known:
            raise BadExpression(f"'{name}' has no column '{column}'{did_you_mean(column, known.values())}")
        self.lookups.read[lookup.number].add(known[column.casefold()])

    def text(self, key: str, text: str | None) -> str:
        return "CAST(NULL AS VARCHAR)" if text is None else f"CAST({self.expression(key, text).sql} AS VARCHAR)"

    def date(self) -> str:
        return f"CAST({self.expression('date', self.rule.date, 'DATE', 'TIMESTAMP', 'TIMESTAMP WITH TIME ZONE').sql} AS DATE)"

    def amount(self, key: str, text: str) -> str:
        """An expression that is exact from end to end."""
        amount = self.expression(key, text)
        try:
            check_exact(self.connection, amount, "rule_row")
            kind = type_of(self.connection, amount, "rule_row")
        except BadExpression as error:
            self.refuse(key, error)
        if not kind.startswith("DECIMAL") and kind not in _INTEGERS:
            self.refuse(key, f"'{text}' is a {kind}; an amount must be a DECIMAL or a whole number")
        return amount.sql

    def line_inputs(self, i: int, line: LineConfig) -> dict[str, str]:
        """What a line needs of the row, by the names `fault` and `line_struct` use."""
        at = f"lines.{i}"
        inputs = {f"#{at}.account": self.account(f"{at}.account", line)}
        for name in ("debit", "credit", "orig_amount", "rate", "quantity"):
            if (text := getattr(line, name)) is not None:
                inputs[f"#{at}.{name}"] = self.amount(f"{at}.{name}", text)
        if line.when is not None:
            there = self.expression(f"{at}.when", line.when, "BOOLEAN").sql
            side = f"#{at}.{_side(line)}"
            inputs[f"#{at}.when"] = f"coalesce({there}, false)"
            if side in inputs:
                inputs[side] = f"CASE WHEN {there} THEN {inputs[side]} ELSE 0 END"
        for name in ("currency", "unit"):
            if (text := getattr(line, name)) is not None:
                inputs[f"#{at}.{name}"] = self.text(f"{at}.{name}", text)
        for name, text in line.dims.items():
            inputs[f"#{at}.dims.{name}"] = self.text(f"{at}.dims.{name}", text)
        return inputs

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
        base = literal(self.book.config.base_currency)

        def given(name: str, kind: str, default: str) -> str:
            return default if getattr(line, name) is None else f"CAST({_input(i, name)} AS {kind})"

        return f"""struct_pack(line_no := {i + 1}, account := {_input(i, "account")},
            debit := {debit}, credit := {credit},
            currency := {given("currency", "VARCHAR", base)},
            orig_amount := {given("orig_amount", f"DECIMAL(38,{AMOUNT_SCALE})", amount)},
            rate := {given("rate", f"DECIMAL(38,{RATE_SCALE})", f"CAST(1 AS DECIMAL(38,{RATE_SCALE}))")},
            quantity := {given("quantity", f"DECIMAL(38,{AMOUNT_SCALE})", none)},
            unit := {given("unit", "VARCHAR", "CAST(NULL AS VARCHAR)")}, dims := {self.dims(i, line)})"""

    def worth(self, i: int, line: LineConfig) -> str:
        """SQL over a line's inputs for its amount; of the rest for what is missing on the credit side."""
        return self.difference() if line.rest is not None else _input(i, _side(line))

    def difference(self) -> str:
        """SQL for what the debits are more than the credits."""
        debit, credit = self.sides()
        return f"({debit} - ({credit}))"

    def sides(self) -> tuple[str, str]:
        """SQL for the sums of the debits and of the credits, without the rest."""
        amounts = {
            side: [_input(i, side) for i, line in enumerate(self.rule.lines) if getattr(line, side) is not None]
            for side in ("debit", "credit")
        }
        return " + ".join(amounts["debit"]) or "0", " + ".join(amounts["credit"]) or "0"

    def dims(self, i: int, line: LineConfig) -> str:
        """The dimensions as a JSON object, keys sorted; one that is null is left out."""
        if not line.dims:
            return "'{}'"
        parts = []
        for name in sorted(line.dims):
            parts.append(f"coalesce({literal(', ' + _json_name(name))} || CAST(to_json({_input(i, f'dims.{name}')}) AS VARCHAR), '')")
        return f"'{{' || substr({' || '.join(parts)}, 3) || '}}'"

    def fault(self) -> str:
        """SQL for what is wrong with the entry a row wants: `code|detail`, or null."""
        cases = [
            f"WHEN {quote(lookup.fault)} IS NOT NULL THEN concat('quarantine.lookup|', {literal(name + ': ')}, {quote(lookup.fault)})"
            for name, lookup in self.needed.items()
        ]
        cases += [
            """WHEN "#date" IS NULL OR NOT isfinite("#date") THEN 'quarantine.no_date|' || coalesce(CAST("#date" AS VARCHAR), 'NULL')"""
        ]
        for i, line in enumerate(self.rule.lines):
            cases += self.line_faults(i, line)
        cases.append(self.unbalanced())
        return f"CASE {' '.join(cases)} END"

    def unbalanced(self) -> str:
        """The case of an entry whose sides differ, by more than a line of it may make up for."""
        (debit, credit), limits = self.sides(), [line.rest for line in self.rule.lines if line.rest is not None]
        fault = f"concat('quarantine.unbalanced|debit ', {debit}, ', credit ', {credit})"
        limit = limits[0] if limits else Decimal(0)
        return "" if limit is True else f"WHEN abs({self.difference()}) > {limit:f} THEN {fault}"

    def line_faults(self, i: int, line: LineConfig) -> list[str]:
        amount, account, currency = self.worth(i, line), _input(i, "account"), _input(i, "currency")
        cases = [] if line.rest is not None else [f"WHEN {amount} IS NULL THEN 'quarantine.no_amount|line {i + 1}'"]
        scales = {_side(line): self.book.config.decimals, "orig_amount": AMOUNT_SCALE, "rate": RATE_SCALE, "quantity": AMOUNT_SCALE}
        for name, scale in scales.items():
            if getattr(line, name) is not None:
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
        return cases


def _side(line: LineConfig) -> str:
    return "credit" if line.debit is None else "debit"


def _input(i: int, name: str) -> str:
    return quote(f"#lines.{i}.{name}")
