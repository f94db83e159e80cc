"""From changes to postings: what the rules want of each row, against the live entry that stands for it.

Works on one table's changes at a time, set-based, in a DuckDB of its own in memory. Posting follows the difference: a change after
which a rule wants what already stands posts nothing; one after which it wants something else reverses the stored lines and posts the new
ones; a row that fails a check goes to quarantine and leaves its live entry as it is.

The steps are temporary tables, each built from the ones before:

    c        the changes, keyed (`#rid` log order, `#key`, `#hash`)
    asked    the rows of it that may already have entries
    live     the live entries of those
    known    the rows that do have live entries, or that change more than once: only these need a look back
    wanted   per change and rule: the entry's id, header and lines, or a fault; lines are null where the rule wants nothing
    steps    per rule and row, the changes after which something else is wanted (cdc.accounting.corrections)
    posting  the entries that come of them
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from cdc.accounting import revaluation
from cdc.accounting.books import Book
from cdc.accounting.composite import called, install
from cdc.accounting.corrections import CHANGE, DELTAS, ENDED_BY_STEPS, HEADER, PLAIN, POSTING, STEPS, TURNS, set_periods, set_policies
from cdc.accounting.functions import Function
from cdc.accounting.keys import keyed, row_hash, row_key
from cdc.accounting.lookups import MirrorOf, States
from cdc.accounting.rates import changed, keep_rates, rates_of
from cdc.accounting.rules import LEVELS, CompiledRule, Program, check_alone, compile_rules, expressions_of
from cdc.accounting.sql import literal, memory_database, quote, trying
from cdc.config import RateConfig, RuleConfig
from cdc.errors import StoreError
from cdc.types import (
    BEGUN,
    DELETE,
    ENDED,
    ENTRIES,
    INSERT,
    LINES,
    LIVE,
    LIVE_KEYS,
    OP,
    QUARANTINED,
    RATED,
    REFERENCE,
    SETTLED,
    Postings,
    TableSchema,
)

NOTHING = Postings(
    ENTRIES.empty_table(), LINES.empty_table(), ENDED.empty_table(), BEGUN.empty_table(), QUARANTINED.empty_table(), SETTLED.empty_table()
)
_INSERTED, _DELETED = pa.scalar(INSERT, pa.string()), pa.scalar(DELETE, pa.string())
LiveLookup = Callable[[TableSchema, pa.Table], pa.Table]

_NOTHING_WANTED = (  # made anew each time, as the space of rows deleted from a table in memory is not given back
    "CREATE OR REPLACE TEMP TABLE wanted ("
    'book VARCHAR, rule VARCHAR, rule_version INTEGER, "#rid" BIGINT, "#ordinal" BIGINT, "#op" VARCHAR, "#hash" UBIGINT, "#key" VARCHAR, '
    '"#position" VARCHAR, "#xid" VARCHAR, "#committed_at" TIMESTAMPTZ, entry_id VARCHAR, voucher_key VARCHAR, voucher_type VARCHAR, '
    "doc_date DATE, summary VARCHAR, attachments INTEGER, fault VARCHAR, "
    "lines STRUCT(line_no INTEGER, account VARCHAR, debit DECIMAL(38,6), credit DECIMAL(38,6), currency VARCHAR, "
    "orig_amount DECIMAL(38,6), rate DECIMAL(38,12), quantity DECIMAL(38,6), unit VARCHAR, dims VARCHAR, "
    "rate_type VARCHAR, rate_date DATE, origin VARCHAR)[])"
)

_NOTHING_KNOWN = (
    'CREATE OR REPLACE TEMP TABLE live AS FROM no_live; CREATE OR REPLACE TEMP TABLE known AS SELECT "#hash", "#key" FROM c WHERE false'
)


def _no_rows(schema: TableSchema, keys: pa.Table) -> Iterator[pa.Table]:
    raise AssertionError(f"nobody gives the rows of {schema.name}")


class Accountant:
    """Turns the changes of captured tables into postings by the rules of a config. Belongs to one thread."""

    def __init__(
        self, rules: Iterable[RuleConfig], books: Mapping[str, Book], functions: Mapping[str, Function] = MappingProxyType({})
    ) -> None:
        self._rules, self._books, self._functions = tuple(rules), books, functions
        self.looked_up = frozenset(name for rule in self._rules for name in (lookup.table for lookup in rule.lookup.values()) if name)
        self._schemas: dict[str, TableSchema] = {}
        self._expected: dict[str, TableSchema] = {}
        self._compiled: dict[str, tuple[tuple[TableSchema | None, ...], Program]] = {}
        self._db = memory_database()
        self._db.register("no_live", LIVE.empty_table())
        set_policies(self._db, books.values())
        self._states: dict[tuple[str, str], str] = {}
        self._moves = set_periods(self._db, {})
        self.rate_tables = frozenset(table for book in books.values() if (table := book.config.rates.table) is not None)
        self._rates: pa.Table | None = None
        keep_rates(self._db, REFERENCE["rates"].empty_table())
        if called(text for rule in self._rules for _, text in expressions_of(rule)):
            install(self._db, {name: book.codes for name, book in books.items()})
        check_alone(self._db, self._rules, self._books, functions)

    def know(self, schemas: Iterable[TableSchema]) -> None:
        """Tables as their mirrors are: what rules that look them up can read."""
        self._schemas |= {schema.name: schema for schema in schemas}

    def schemas(self, source: str) -> list[TableSchema]:
        """A source's tables as they are known."""
        return [schema for schema in self._schemas.values() if schema.source == source]

    def check(self, schemas: Iterable[TableSchema]) -> None:
        """Compile the rules of tables as they are at the source, which rules go by that look up a table without a mirror.

        Raises ConfigError where one does not fit.
        """
        self._expected |= {schema.name: schema for schema in schemas}
        for name in self._expected:
            self.compile(self._expected[name])
        for name, book in self._books.items():
            if (schema := self._expected.get(book.config.rates.table or "")) is not None:
                rates_of(self._db, name, book.config.rates, schema, schema.arrow().empty_table())

    def set_rates(self, kept: pa.Table, rows: Callable[[TableSchema], pa.Table]) -> pa.Table:
        """Take the books' rates: those kept in the store, and those of captured tables, whose `rows` are asked for. The days (RATED) on
        which one is another than the last time; none the first time. Raises ConfigError where a table does not fit.
        """
        owned, parts = [name for name, book in self._books.items() if book.config.rates.table is None], []
        parts.append(kept.filter(pc.is_in(kept.column("book"), pa.array(owned, pa.string()))))
        for name, book in self._books.items():
            if (schema := self._schemas.get(book.config.rates.table or "")) is not None:
                parts.append(rates_of(self._db, name, book.config.rates, schema, rows(schema)))
        new, old = pa.concat_tables(parts), self._rates
        keep_rates(self._db, new)
        self._rates = new
        configs = {name: book.config for name, book in self._books.items()}
        return RATED.empty_table() if old is None else changed(self._db, old, new, configs)

    def forget_rates(self) -> None:
        """What rates there were no longer matters."""
        self._rates = None

    def set_periods(self, states: Mapping[tuple[str, str], str]) -> None:
        """The periods that are not open: `closed` or `soft` by book and period."""
        self._states = dict(states)
        self._moves = set_periods(self._db, states)

    def asks(self, schema: TableSchema) -> bool:
        """Whether a rule of the table looks something up that its own transaction may change."""
        rules = [rule for rule in self._rules if rule.table == schema.name]
        return any(lookup.table for rule in rules for lookup in rule.lookup.values()) or any(
            isinstance(line.rate, RateConfig) and self._books[rule.book].config.rates.table for rule in rules for line in rule.lines
        )

    def converts(self, schema: TableSchema) -> bool:
        """Whether a rule of the table looks up rates."""
        return any(isinstance(line.rate, RateConfig) for rule in self._rules if rule.table == schema.name for line in rule.lines)

    def compile(self, schema: TableSchema) -> Program:
        """The rules of a table, compiled once per schema of it and of what they look up. Raises ConfigError where one does not fit."""
        rules = [rule for rule in self._rules if rule.table == schema.name]
        others = {**self._expected, **self._schemas}
        schemas = (schema, *(others.get(lookup.table) for rule in rules for lookup in rule.lookup.values() if lookup.table))
        known = self._compiled.get(schema.name)
        if known is None or known[0] != schemas:
            known = self._compiled[schema.name] = schemas, compile_rules(self._db, schema, rules, self._books, others, self._functions)
        return known[1]

    def states(self, mirror: MirrorOf) -> States:
        """Where the rows that rules look up are noted as a batch changes them. `mirror` gives those that are there."""
        return States(self._db, mirror)

    def account(
        self, schema: TableSchema, changes: pa.Table, transactions: pa.Table, live: LiveLookup, states: States | None = None
    ) -> Postings:
        """Postings of changes (complete rows, no truncates; `#n` where the table has no key) of whole transactions.

        `live` gives the live entries of the rows asked for, `states` those that rules look up. The result is a function of the arguments
        and the rules alone.
        """
        program = self.compile(schema)
        rules = program.rules
        if not rules and not pc.any(pc.equal(changes.column(OP), _DELETED)).as_py():
            return NOTHING
        fresh = pc.all(pc.equal(changes.column(OP), _INSERTED)).as_py()  # rows nobody has seen before
        db = self._db
        db.register("changes", changes)
        db.register("txns", transactions)
        try:
            db.execute(f"CREATE OR REPLACE TEMP TABLE c AS {keyed(schema)}")
            with trying(db):
                for step, columns in program.steps:
                    db.execute(f"SET TimeZone = {literal(step.time_zone)}")
                    step.add(db, states or self.states(_no_rows), columns)
                db.execute("SET TimeZone = 'UTC'")
            if fresh:
                self._want(rules, False)
                return self._post(schema, (), False)
            db.execute(
                """CREATE OR REPLACE TEMP TABLE asked AS SELECT "#hash", "#key", bool_or("#op" = 'd') AS deleted, count(*) > 1 AS often
                FROM c GROUP BY ALL HAVING often OR arg_min("#op", "#rid") <> 'c'"""
            )
            standing = self._stand(schema, rules, live)
            self._want(rules, standing)
            return self._post(schema, rules, standing)
        finally:
            db.unregister("changes")
            db.unregister("txns")

    def close(self) -> None:
        """Let go of the memory."""
        self._db.close()

    def missing(self, schema: TableSchema, keys: pa.Table, rows: pa.Table) -> pa.Table:
        """Those of the keys (LIVE_KEYS) that are of none of the rows (`#n` where the table has no key)."""
        for name, table in (("keys", keys), ("found", rows)):
            self._db.register(name, table)
        try:
            present = f"SELECT {row_key(schema)} AS row_key FROM found"
            return self._fetch(f"SELECT * FROM keys ANTI JOIN ({present}) USING (row_key)", LIVE_KEYS)
        finally:
            for name in ("keys", "found"):
                self._db.unregister(name)

    def end(self, schema: TableSchema, former: pa.Table, transactions: pa.Table) -> Postings:
        """Reversals, by the one transaction given, of live entries (LIVE) of a table."""
        db = self._db
        for name, table in (("former", former), ("txns", transactions)):
            db.register(name, table)
        try:
            db.execute("CREATE OR REPLACE TEMP TABLE live AS SELECT * FROM former")
            db.execute('CREATE OR REPLACE TEMP TABLE known AS SELECT DISTINCT row_hash AS "#hash", row_key AS "#key" FROM live')
            db.execute(_NOTHING_WANTED)
            db.execute(
                """INSERT INTO wanted BY NAME SELECT book, rule, rule_version, row_number() OVER () AS "#rid", 0 AS "#ordinal",
                'd' AS "#op", row_hash AS "#hash", row_key AS "#key", position AS "#position", txn AS "#xid",
                committed_at AS "#committed_at"
                FROM live, txns"""
            )
            return self._post(schema, (), True)
        finally:
            for name in ("former", "txns"):
                db.unregister(name)

    def revalue(self, book: str, period: str, balances: pa.Table, transactions: pa.Table, former: pa.Table, summary: str) -> Postings:
        """Postings, by the one transaction given, that bring balances (`revaluation.balances`) to what they are worth at a period's end.

        `former`: the live entries (LIVE) of earlier revaluations. Raises StoreError where a rate is missing.
        """
        db, config = self._db, self._books[book].config
        states = self._states
        self.set_periods({})  # a soft-closed one still takes it
        for name, table in (("balances", balances), ("txns", transactions), ("former", former)):
            db.register(name, table)
        try:
            db.execute(f"CREATE OR REPLACE TEMP TABLE worth AS {revaluation.worth(book, config, period)}")
            missing = db.execute("SELECT DISTINCT currency, CAST(day AS VARCHAR) FROM worth WHERE rate IS NULL ORDER BY 1").fetchall()
            if missing:
                kind = config.revaluation.type if config.revaluation else ""
                raise StoreError("books.no_rate", book=book, kind=kind, missing=", ".join(f"{name} {day}" for name, day in missing))
            own = f"SELECT * FROM former WHERE book = {literal(book)} AND strftime(doc_date, '%Y-%m') = {literal(period)}"
            db.execute(f"CREATE OR REPLACE TEMP TABLE live AS {own}")
            keys = f'SELECT *, {row_key(revaluation.SCHEMA)} AS "#key" FROM worth'
            gone = "SELECT DISTINCT book, row_key FROM live"
            db.execute(
                f"""CREATE OR REPLACE TEMP TABLE c AS SELECT k.*, row_number() OVER () AS "#rid", CAST(NULL AS BIGINT) AS "#ordinal",
                'r' AS "#op", {row_hash(revaluation.SCHEMA)} AS "#hash", t.position AS "#position", t.txn AS "#xid",
                t.committed_at AS "#committed_at"
                FROM ({keys} UNION ALL BY NAME
                    SELECT book, row_key AS "#key", 0 AS gained FROM ({gone}) g
                    WHERE row_key NOT IN (SELECT "#key" FROM ({keys}))) k, txns t"""
            )
            db.execute('CREATE OR REPLACE TEMP TABLE known AS SELECT DISTINCT "#hash", "#key" FROM c')
            db.execute(_NOTHING_WANTED)
            db.execute(f"INSERT INTO wanted BY NAME {revaluation.wanted(config, summary)}")
            return self._post(revaluation.SCHEMA, (), True)
        finally:
            self.set_periods(states)
            for name in ("balances", "txns", "former"):
                db.unregister(name)

    def _stand(self, schema: TableSchema, rules: tuple[CompiledRule, ...], live: LiveLookup) -> bool:
        """`live`: what stands for the rows that may have entries. `known`: those that do have, or that change more than once.

        False if there are none: then everything is posted as it is.
        """
        db = self._db
        keys = self._fetch('SELECT "#hash" AS row_hash, "#key" AS row_key FROM asked' + ("" if rules else " WHERE deleted"), LIVE_KEYS)
        entries = live(schema, keys) if keys.num_rows else LIVE.empty_table()
        if not entries.num_rows and not db.execute("SELECT count(*) FROM asked WHERE often").fetchall()[0][0]:
            return False
        db.register("live_entries", entries)
        db.execute("CREATE OR REPLACE TEMP TABLE live AS SELECT * FROM live_entries")
        db.unregister("live_entries")
        db.execute(
            """CREATE OR REPLACE TEMP TABLE known AS SELECT "#hash", "#key" FROM asked WHERE often
            UNION SELECT row_hash, row_key FROM live"""
        )
        return True

    def _want(self, rules: tuple[CompiledRule, ...], standing: bool) -> None:
        """`wanted`: what each rule wants after each change; nothing after a delete, also for rules the config no longer has."""
        db = self._db
        db.execute(_NOTHING_WANTED)
        for rule in rules:
            db.execute(f"SET TimeZone = {literal(rule.time_zone)}")
            try:
                self._want_by(rule)
            finally:
                db.execute("SET TimeZone = 'UTC'")
        if standing:
            self._want_nothing(rules)

    def _want_nothing(self, rules: tuple[CompiledRule, ...]) -> None:
        """Of known rows: the changes a rule does not apply to, and the deletes for rules the config no longer has."""
        db = self._db
        for rule in {(rule.book, rule.name): rule for rule in rules}.values():
            db.execute(
                f"""INSERT INTO wanted BY NAME SELECT {_of(rule)}, {CHANGE} FROM c SEMI JOIN known USING ("#hash", "#key")
                WHERE "#rid" NOT IN (SELECT "#rid" FROM wanted WHERE book = {literal(rule.book)} AND rule = {literal(rule.name)})"""
            )
        ours = " OR ".join(f"(l.book = {literal(rule.book)} AND l.rule = {literal(rule.name)})" for rule in rules) or "false"
        db.execute(
            f"""INSERT INTO wanted BY NAME SELECT l.book, l.rule, l.rule_version, {CHANGE}
            FROM c JOIN live l ON "#hash" = l.row_hash AND "#key" = l.row_key WHERE "#op" = 'd' AND NOT ({ours})"""
        )

    def _want_by(self, rule: CompiledRule) -> None:
        try:
            self._db.execute(f"INSERT INTO wanted BY NAME {rule.wanted}")
        except duckdb.Error as error:
            self._want_what_can_be(rule, error)

    def _want_what_can_be(self, rule: CompiledRule, error: duckdb.Error) -> None:
        """An expression failed on some row: those rows become faults, the others go on. Raises the error if it is no row's."""
        db = self._db
        with trying(db):
            db.execute(f"CREATE OR REPLACE TEMP TABLE bad AS {rule.failing}")
        if not db.execute("SELECT count(*) FROM bad").fetchall()[0][0]:
            raise error
        db.execute("ALTER TABLE c RENAME TO every_change")
        try:
            db.execute('CREATE TEMP TABLE c AS SELECT * FROM every_change ANTI JOIN bad USING ("#rid")')
            db.execute(f"INSERT INTO wanted BY NAME {rule.wanted}")
        finally:
            db.execute("DROP TABLE IF EXISTS c")
            db.execute("ALTER TABLE every_change RENAME TO c")
        db.execute(f"""INSERT INTO wanted BY NAME SELECT {_of(rule)}, {CHANGE}, bad.fault FROM c JOIN bad USING ("#rid")""")

    def _post(self, schema: TableSchema, settling: tuple[CompiledRule, ...], standing: bool) -> Postings:
        """What comes of `wanted`. `settling`: the rules that may settle quarantine items of the rows `asked`."""
        db, table, source = self._db, literal(schema.name), literal(schema.source)
        posting = f"({PLAIN})"
        if standing or self._moves:
            if not standing:
                db.execute(_NOTHING_KNOWN)
            for statement in (TURNS, DELTAS, STEPS, POSTING):
                db.execute(statement)
            posting = "posting"
        posted = db.execute(
            f"""SELECT entry_id, book, rule, kind, reverses, corrects, {HEADER}, entry_date, period, {source} AS source,
            {table} AS source_table, "#key" AS row_key, "#op" AS op, "#position" AS position, "#xid" AS txn, "#ordinal" AS ordinal,
            "#committed_at" AS committed_at, "#hash" AS row_hash, content, correction, kind <> 'reverse' AND run = last_run AS begins
            FROM {posting}"""
        ).to_arrow_table()
        entries = posted.select(ENTRIES.names).cast(ENTRIES)
        lines = self._fetch(f"SELECT entry_id, book, period, unnest(lines, recursive := true) FROM {posting}", LINES)
        ended = self._fetch(ENDED_BY_STEPS, ENDED) if standing else ENDED.empty_table()
        begun = (posted.filter(posted.column("begins")) if standing else posted).select(BEGUN.names).cast(BEGUN)
        return Postings(entries, lines, ended, begun, self._quarantine(schema), self._settle(schema, settling))

    def _quarantine(self, schema: TableSchema) -> pa.Table:
        """An item per faulty state of a row, one that fails again as it did before being the same item. Faults that a later change of
        the batch has put right are left out: nobody could have seen them."""
        if not self._db.execute("SELECT count(*) FROM wanted WHERE fault IS NOT NULL").fetchall()[0][0]:
            return QUARANTINED.empty_table()
        table, source = literal(schema.name), literal(schema.source)
        payload = ", ".join(f"{literal(column.name)}, CAST(c.{quote(column.name)} AS VARCHAR)" for column in schema.columns)
        levels = " ".join(f"WHEN {literal(reason)} THEN {level}" for reason, level in LEVELS.items())
        return self._fetch(
            f"""WITH items AS (
                SELECT "#rid", w.book, w.rule, w."#key" AS row_key, w."#position" AS position, split_part(w.fault, '|', 1) AS reason,
                    substr(w.fault, instr(w.fault, '|') + 1) AS detail, CAST(json_object({payload}) AS VARCHAR) AS payload
                FROM wanted w JOIN c USING ("#rid")
                ANTI JOIN (SELECT book, rule, "#key", max("#rid") AS "#rid" FROM wanted WHERE fault IS NULL GROUP BY ALL) good
                ON good.book = w.book AND good.rule = w.rule AND good."#key" = w."#key" AND good."#rid" > w."#rid"
                WHERE w.fault IS NOT NULL)
            SELECT CAST(md5(concat_ws('|', 'quarantine', book, rule, {table}, row_key, reason, detail, payload)) AS UUID)::VARCHAR AS id,
                {source} AS source, {table} AS source_table, row_key, position, CASE reason {levels} END AS level, reason, detail,
                payload, book, rule
            FROM items QUALIFY row_number() OVER (PARTITION BY id ORDER BY "#rid") = 1 ORDER BY "#rid", rule, book""",
            QUARANTINED,
        )

    def _settle(self, schema: TableSchema, rules: tuple[CompiledRule, ...]) -> pa.Table:
        """Rows and rules that were sound after some change of the batch, of rows there may be open quarantine items of."""
        if not rules:
            return SETTLED.empty_table()
        pairs = ", ".join(dict.fromkeys(f"({literal(rule.book)}, {literal(rule.name)})" for rule in rules))
        return self._fetch(
            f"""SELECT {literal(schema.name)} AS source_table, "#key" AS row_key, book, rule
            FROM asked CROSS JOIN (VALUES {pairs}) r (book, rule) ANTI JOIN (
                SELECT "#key", book, rule FROM wanted GROUP BY ALL HAVING bool_and(fault IS NOT NULL)) USING ("#key", book, rule)""",
            SETTLED,
        )

    def _fetch(self, sql: str, schema: pa.Schema) -> pa.Table:
        return self._db.execute(sql).to_arrow_table().cast(schema)


def _of(rule: CompiledRule) -> str:
    return f"{literal(rule.book)} AS book, {literal(rule.name)} AS rule, {rule.version} AS rule_version"
