"""Rules compiled: all rules of a table become SQL over its changes, checked against the table's real schema.

A rule's statement reads the relation `c`, the keyed changes of one table (see `keyed`), and gives one row per change the rule applies to,
with the entry it wants (header, lines, id) or the fault that sends the row to quarantine.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import NoReturn

import duckdb
import pyarrow as pa

from cdc.accounting.composite import account_code
from cdc.accounting.derivations import FROM, ROW, TO, BadTable, Derivation, read_table
from cdc.accounting.dimensions import Inference, among, inferred, lacking
from cdc.accounting.expressions import BadExpression, Expression, check_columns, check_exact, did_you_mean, parse, type_of
from cdc.accounting.lookups import Lookup, Step
from cdc.accounting.rates import Conversion
from cdc.accounting.sql import literal, quote
from cdc.config import BookConfig, LineConfig, RateConfig, RuleConfig
from cdc.errors import ConfigError, SchemaUnknown
from cdc.types import NUMBER, Account, TableSchema

Found = Lookup | Derivation
RESERVED = {"#", "#op", "#txn", "#ordinal", "#rid", "#key", "#hash", "#n", "#stamp", "#absent", "#position", "#xid", "#committed_at"}
_INTEGERS = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT"}
_JSON_NUMBERS = _INTEGERS | {"BOOLEAN"}
AMOUNT_SCALE, RATE_SCALE = 6, 12

# Faults a row can have, by quarantine level: 2 the rule gives no usable value, 3 the entry is not sound, 4 the book does not take it.
LEVELS = {
    "quarantine.expression": 2,
    "quarantine.lookup": 2,
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
class Book:
    """A book with the codes of its chart. `income`: those of income and expenses; `codes`: all by the accounts' names; `required`: the
    accounts that require something of a line; `inferences`: what fills dimensions that lines lack, in order."""

    name: str
    config: BookConfig
    accounts: frozenset[str]
    income: frozenset[str] = frozenset()
    codes: Mapping[str, str] = field(default_factory=dict)
    required: Mapping[str, Account] = field(default_factory=dict)
    inferences: tuple[Inference, ...] = ()


@dataclass(frozen=True, slots=True)
class Program:
    """What is done with a table's changes: the steps that look something up, in order, each with the columns that are read; the rules."""

    steps: tuple[tuple[Found | Conversion, tuple[str, ...]], ...]
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
) -> Program:
    """The rules of a table, checked against its schema and those of the tables they look up, by name.

    Raises ConfigError with the rule's name, its place and the fault.
    """
    check_names(schema)
    lookups, mine = _Lookups(connection, schema, others), list(rules)
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


def check_alone(connection: duckdb.DuckDBPyConnection, rules: Iterable[RuleConfig], books: Mapping[str, Book]) -> None:
    """Check what needs no schema: every expression is scalar SQL, every constant account is in its chart. Raises ConfigError."""
    for rule in rules:
        schema = TableSchema(rule.table, "", (), ())
        compiler = _Compiler(connection, rule, schema, books[rule.book], _Lookups(connection, schema, {}))
        for i, line in enumerate(rule.lines):
            if isinstance(line.account, str):
                compiler.account(f"lines.{i}.account", line)
                compiler.require(i, line, {*line.dims, *(each.dimension for each in compiler.inferring(line))})
        for key, text in expressions_of(rule):
            try:
                parse(connection, text, dict.fromkeys(rule.lookup, ""))
            except BadExpression as error:
                compiler.refuse(key, error)


class _Lookups:
    """What the rules of a table look up, each thing once. Keeps the relation `rule_row`: a row with all that can be read of it.

    `read`: the columns that are, by the lookup's number.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, schema: TableSchema, others: Mapping[str, TableSchema]) -> None:
        self._connection, self._row, self.others = connection, schema.arrow(), others
        self.made: list[Found | Conversion] = []
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

    def add(self, make: Callable[[int], Found | Conversion]) -> Found | Conversion:
        """The step that is made with a number, or one that is there already and does the same."""
        for known in self.made:
            if known == make(known.number):
                return known
        step = make(len(self.made))
        self.made.append(step)
        self.read[step.number] = set()
        for name, kind in step.readable.items():
            self._row = self._row.append(pa.field(step.column(name), kind))
        self._connection.unregister("rule_row")
        self.show()
        return step


def expressions_of(rule: RuleConfig) -> Iterator[tuple[str, str]]:
    """Every expression of a rule with its key."""
    for name, lookup in rule.lookup.items():
        for column, text in lookup.on.items():
            yield f"lookup.{name}.on.{column}", text
    for key in ("when", "date", "voucher_key", "voucher_type", "summary", "attachments"):
        if text := getattr(rule, key):
            yield key, text
    for i, line in enumerate(rule.lines):
        if isinstance(line.account, dict):
            yield f"lines.{i}.account", line.account["expr"]
        for key in ("when", "debit", "credit", "currency", "orig_amount", "rate", "quantity", "unit"):
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
        self.conversions: dict[int, Conversion] = {}  # by line
        self.inputs: dict[str, str] = {}
        self.dimensions: dict[int, dict[str, str]] = {}  # by line: SQL over `c` for each, also for those that are inferred
        self.inferred: dict[int, list[tuple[str, str]]] = {}  # by line: dimensions with SQL over `c` for what filled them, or null

    def compile(self, until: date | None) -> CompiledRule:
        """The rule; `until` is the day from which its next version holds."""
        rule = self.rule
        for name in rule.lookup:
            self.found[name] = self.lookup(name)
        inputs = {"#date": self.date()}
        applies = self.applies(inputs["#date"], until)
        for name, text in (("voucher_key", rule.voucher_key), ("voucher_type", rule.voucher_type), ("summary", rule.summary)):
            inputs[f"#{name}"] = self.text(name, text)
        inputs["#attachments"] = self.count("attachments", rule.attachments)
        for i, line in enumerate(rule.lines):
            inputs |= self.line_inputs(i, line)
        self.inputs = inputs
        values = ", ".join(f"{sql} AS {quote(name)}" for name, sql in inputs.items())
        row = '"#rid", "#ordinal", "#op", "#hash", "#key", "#position", "#xid", "#committed_at"'
        where = f"""FROM c WHERE "#op" <> 'd' AND {applies}"""
        header = """"#voucher_key" AS voucher_key, "#voucher_type" AS voucher_type, "#date" AS doc_date, "#summary" AS summary,
            "#attachments" AS attachments"""
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

    def lookup(self, name: str) -> Found:
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
        keys = " ".join(f"WHEN TRY(struct_pack(v := {sql})) IS NULL THEN {literal(name.removeprefix('#'))}" for name, sql in inputs.items())
        tried = ", ".join(f"TRY({sql}) AS {quote(name)}" for name, sql in inputs.items())
        return f"""SELECT "#rid", concat('quarantine.expression|', coalesce("#failed", 'an amount is out of range')) AS fault
            FROM (SELECT "#rid"{self.misses()}, CASE WHEN TRY({applies}) IS NULL THEN 'when' {keys} END AS "#failed", {tried}
                FROM c WHERE "#op" <> 'd' AND coalesce(TRY({applies}), true))
            WHERE "#failed" IS NOT NULL OR TRY(struct_pack(fault := {self.fault()}, lines := {lines})) IS NULL"""

    def refuse(self, key: str, fault: object) -> NoReturn:
        raise ConfigError("rules.bad", rule=self.rule.name, place=self.rule.place, key=key, fault=fault) from None

    def expression(self, key: str, text: str, *kinds: str) -> Expression:
        """A checked expression of one of the given types, or of any type."""
        try:
            names = {name: str(lookup.number) for name, lookup in self.found.items()}
            parsed = parse(self.connection, text, names, {"account_code": account_code(self.book.name)})
            check_columns(parsed, [column.name for column in self.schema.columns])
            for name, column in parsed.references:
                self.read(name, column)
            kind = type_of(self.connection, parsed, "rule_row")
        except BadExpression as error:
            self.refuse(key, error)
        if kinds and kind not in kinds and kind != '"NULL"':
            self.refuse(key, f"'{text}' is a {kind}, but must be a {' or a '.join(kinds)}")
        return parsed

    @property
    def needed(self) -> dict[str, Found]:
        """What the rule looks up and can't do without."""
        return {name: lookup for name, lookup in self.found.items() if not self.rule.lookup[name].optional}

    def misses(self) -> str:
        """SQL for the columns that tell what of it was not found."""
        steps: list[Step] = [*self.needed.values(), *self.conversions.values()]
        return "".join(f", {fault}" for fault in dict.fromkeys(quote(step.fault) for step in steps))

    def read(self, name: str, column: str) -> None:
        """Note that a column of what is looked up is read. Raises BadExpression if there is none."""
        lookup = self.found[name]
        known = {known.casefold(): known for known in lookup.readable}
        if column.casefold() not in known:
            raise BadExpression(f"'{name}' has no column '{column}'{did_you_mean(column, known.values())}")
        self.lookups.read[lookup.number].add(known[column.casefold()])

    def text(self, key: str, text: str | None) -> str:
        return "CAST(NULL AS VARCHAR)" if text is None else f"CAST({self.expression(key, text).sql} AS VARCHAR)"

    def count(self, key: str, text: str | None) -> str:
        return "CAST(NULL AS INTEGER)" if text is None else f"CAST({self.expression(key, text, *sorted(_INTEGERS)).sql} AS INTEGER)"

    def date(self) -> str:
        return self.day("date", self.rule.date)

    def day(self, key: str, text: str) -> str:
        return f"CAST({self.expression(key, text, 'DATE', 'TIMESTAMP', 'TIMESTAMP WITH TIME ZONE').sql} AS DATE)"

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
        account = self.account(f"{at}.account", line)
        inputs = {f"#{at}.account": account}
        for name in ("debit", "credit", "orig_amount", "rate", "quantity"):
            if isinstance(text := getattr(line, name), str):
                inputs[f"#{at}.{name}"] = self.amount(f"{at}.{name}", text)
        if line.when is not None:
            there = self.expression(f"{at}.when", line.when, "BOOLEAN").sql
            side = f"#{at}.{_side(line)}"
            inputs[f"#{at}.when"] = f"coalesce({there}, false)"
            if side in inputs:
                inputs[side] = f"CASE WHEN {there} THEN {inputs[side]} ELSE 0 END"
        if isinstance(line.rate, RateConfig):
            inputs |= self.converted(i, line, inputs)
        for name in ("currency", "unit"):
            if (text := getattr(line, name)) is not None:
                inputs[f"#{at}.{name}"] = self.text(f"{at}.{name}", text)
        dims = self.dimensions[i] = self.infer(i, line, account)
        self.require(i, line, dims)
        return inputs | {f"#{at}.dims.{name}": sql for name, sql in dims.items()}

    def infer(self, i: int, line: LineConfig, account: str) -> dict[str, str]:
        """SQL for the dimensions of a line: its own, filled and added to by the book's inferences."""
        dims = {name: self.text(f"lines.{i}.dims.{name}", text) for name, text in line.dims.items()}
        self.inferred[i] = []
        for inference in self.inferring(line):
            given = {name: self.condition(name, account, dims) for name in inference.on}
            on = tuple((name, sql) for name, sql in given.items() if sql is not None)
            if len(on) < len(given):
                continue
            day, zone, path, table = self.date() if inference.dated else "NULL", self.book.config.time_zone, inference.path, inference.table
            step = self.lookups.add(lambda number: Derivation(number, zone, path, table, on, day))  # noqa: B023 (called at once)
            assert isinstance(step, Derivation)
            self.lookups.read[step.number] |= {inference.dimension, ROW}
            within = "true" if isinstance(line.account, str) else among(account, inference.accounts)
            own = dims.get(inference.dimension, "CAST(NULL AS VARCHAR)")
            dims[inference.dimension], origin = inferred(inference, step, within, own)
            self.inferred[i].append((inference.dimension, origin))
        return dims

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
        if looked_up not in self.found or column.casefold() not in map(str.casefold, self.found[looked_up].readable):
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
        """Inputs of a line whose amount is in another currency: that amount, its rate, and what it is in the book's."""
        at, side = f"lines.{i}", f"#lines.{i}.{_side(line)}"
        assert isinstance(line.rate, RateConfig) and line.currency is not None
        day = self.date() if line.rate.date is None else self.day(f"{at}.rate.date", line.rate.date)
        currency, rate_type, book = self.expression(f"{at}.currency", line.currency).sql, line.rate.type, self.book
        zone = book.config.time_zone
        step = self.lookups.add(lambda number: Conversion(number, zone, book.name, book.config, rate_type, currency, day))
        assert isinstance(step, Conversion)
        self.conversions[i] = step
        self.lookups.read[step.number] |= {"rate", "date"}
        rate, worth = quote(step.column("rate")), inputs[side]
        base = f"round(CAST({worth} AS DECIMAL(38,{AMOUNT_SCALE})) * CAST({rate} AS DECIMAL(38,{RATE_SCALE})), {book.config.decimals})"
        return {
            f"#{at}.orig_amount": worth,
            f"#{at}.rate": rate,
            f"#{at}.rate_date": quote(step.column("date")),
            side: f"CASE WHEN {worth} = 0 THEN 0 ELSE {base} END",
        }

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
            return f"CAST({_input(i, name)} AS {kind})" if f"#lines.{i}.{name}" in self.inputs else default

        return f"""struct_pack(line_no := {i + 1}, account := {_input(i, "account")},
            debit := {debit}, credit := {credit},
            currency := {given("currency", "VARCHAR", base)},
            orig_amount := {given("orig_amount", f"DECIMAL(38,{AMOUNT_SCALE})", amount)},
            rate := {given("rate", f"DECIMAL(38,{RATE_SCALE})", f"CAST(1 AS DECIMAL(38,{RATE_SCALE}))")},
            quantity := {given("quantity", f"DECIMAL(38,{AMOUNT_SCALE})", none)},
            unit := {given("unit", "VARCHAR", "CAST(NULL AS VARCHAR)")}, dims := {self.dims(i, line)},
            rate_type := {self.rate_type(line)},
            rate_date := {given("rate_date", "DATE", "CAST(NULL AS DATE)")}, origin := CAST(NULL AS VARCHAR))"""

    def rate_type(self, line: LineConfig) -> str:
        """SQL for the kind of rate a line is converted by; null in base currency."""
        kind = literal(line.rate.type) if isinstance(line.rate, RateConfig) else "NULL"
        return f"CAST({kind} AS VARCHAR)"

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
        if not self.dimensions[i]:
            return "'{}'"
        parts = []
        for name in sorted(self.dimensions[i]):
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
        if (first := self.book.config.first_period) is not None:
            cases.append(f"""WHEN strftime("#date", '%Y-%m') < '{first}' THEN concat('quarantine.period|', "#date", ' < {first}')""")
        for i, line in enumerate(self.rule.lines):
            cases += self.line_faults(i, line)
        cases += [self.unbalanced(), self.unbalanced_currency()]
        return f"CASE {' '.join(cases)} END"

    def unbalanced(self) -> str:
        """The case of an entry whose sides differ, by more than a line of it may make up for."""
        (debit, credit), limits = self.sides(), [line.rest for line in self.rule.lines if line.rest is not None]
        fault = f"concat('quarantine.unbalanced|debit ', {debit}, ', credit ', {credit})"
        limit = limits[0] if limits else Decimal(0)
        return "" if limit is True else f"WHEN abs({self.difference()}) > {limit:f} THEN {fault}"

    def unbalanced_currency(self) -> str:
        """The case of an entry whose sides differ in a currency other than the book's, and which no line says to exchange it."""
        kept = [i for i, line in enumerate(self.rule.lines) if line.currency is not None]
        if not kept or any(line.exchange for line in self.rule.lines):
            return ""
        signed = ", ".join(
            f"struct_pack(c := {_input(i, 'currency')}, v := {'-' if _side(self.rule.lines[i]) == 'credit' else ''}"
            f"CAST({self.original(i)} AS DECIMAL(38,{AMOUNT_SCALE})))"
            for i in kept
        )
        sums = f"list_distinct(list_transform([{signed}], lambda l: l.c))"
        total = f"list_sum(list_transform(list_filter([{signed}], lambda l: l.c = k), lambda l: l.v))"
        base = literal(self.book.config.base_currency)
        foreign = f"list_filter({sums}, lambda k: k <> {base})"
        off = f"list_filter(list_transform({foreign}, lambda k: struct_pack(k := k, v := {total})), lambda o: o.v <> 0)"
        return f"WHEN len({off}) > 0 THEN concat('quarantine.unbalanced_currency|', {off}[1].k, ' ', {off}[1].v)"

    def original(self, i: int) -> str:
        """SQL for a line's amount in its own currency."""
        return _input(i, "orig_amount" if f"#lines.{i}.orig_amount" in self.inputs else _side(self.rule.lines[i]))

    def line_faults(self, i: int, line: LineConfig) -> list[str]:
        amount, account, currency = self.worth(i, line), _input(i, "account"), _input(i, "currency")
        cases = [] if line.rest is not None else [f"WHEN {amount} IS NULL THEN 'quarantine.no_amount|line {i + 1}'"]
        scales = {_side(line): self.book.config.decimals, "orig_amount": AMOUNT_SCALE, "rate": RATE_SCALE, "quantity": AMOUNT_SCALE}
        if (conversion := self.conversions.get(i)) is not None:
            original, missing = _input(i, "orig_amount"), quote(conversion.fault)
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


def _input(i: int, name: str) -> str:
    return quote(f"#lines.{i}.{name}")
