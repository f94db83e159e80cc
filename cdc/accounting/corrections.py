"""What is posted of what rules want: against what stands, as the book corrects, and into periods that are open.

A correction is never made on what was posted. By default (red and blue) the stored lines are reversed and the new ones posted. A book
with `corrections = "delta"` posts the difference instead, as one entry, where only amounts changed. What belongs to a closed period goes
into the next open one, dated its first day; what belongs to a closed year is put right by one blue entry, with the book's account for
earlier years in place of income and expenses (会计基础工作规范 §51).

A row's steps are the changes after which a rule wants something else than before. They fall into runs: a run begins where all that
stands is reversed, and goes on with differences; run 0 is what is live already. Of the last run comes what is live afterwards.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date

import duckdb
import pyarrow as pa

from cdc.accounting.books import Book
from cdc.types import LINE_FIELDS

HEADER = "voucher_key, voucher_type, doc_date, summary, attachments, rule_version"
CHANGE = '"#rid", "#ordinal", "#op", "#hash", "#key", "#position", "#xid", "#committed_at"'
_AMOUNTS = ("debit", "credit", "orig_amount", "quantity")
_POLICY = pa.schema(
    [
        pa.field("book", pa.string()),
        pa.field("swapped", pa.bool_()),
        pa.field("by_delta", pa.bool_()),
        pa.field("prior_account", pa.string()),
        pa.field("income", pa.list_(pa.string())),
    ]
)
_PLACED = pa.schema(
    [pa.field("book", pa.string()), pa.field("period", pa.string()), pa.field("correction", pa.bool_()), pa.field("moved", pa.date32())]
)


def set_policies(connection: duckdb.DuckDBPyConnection, books: Iterable[Book]) -> None:
    """How each book corrects, as the table `policy`."""
    rows = [
        {
            "book": book.name,
            "swapped": book.config.red == "swapped",
            "by_delta": book.config.corrections == "delta",
            "prior_account": book.config.prior_year,
            "income": sorted(book.income - {book.config.prior_year or ""}),
        }
        for book in books
    ]
    _keep(connection, "policy", pa.Table.from_pylist(rows, _POLICY))


def set_periods(connection: duckdb.DuckDBPyConnection, states: Mapping[tuple[str, str], str]) -> bool:
    """Where what belongs to a period that is not open goes instead, as the table `placed`. Whether there is any.

    `states`: `closed` or `soft` by book and period. A soft-closed period still takes corrections of what is in it.
    """
    rows = []
    for (book, period), state in sorted(states.items()):
        for correction in (False, True) if state == "closed" else (False,):
            moved = _next(period)
            while states.get((book, moved), "open") in (("closed",) if correction else ("closed", "soft")):
                moved = _next(moved)
            rows.append({"book": book, "period": period, "correction": correction, "moved": date.fromisoformat(f"{moved}-01")})
    _keep(connection, "placed", pa.Table.from_pylist(rows, _PLACED))
    return bool(rows)


def _next(period: str) -> str:
    year, month = int(period[:4]), int(period[5:])
    return f"{year + month // 12:04}-{month % 12 + 1:02}"


def _keep(connection: duckdb.DuckDBPyConnection, name: str, rows: pa.Table) -> None:
    connection.register("rows", rows)
    connection.execute(f"CREATE OR REPLACE TEMP TABLE {name} AS SELECT * FROM rows")
    connection.unregister("rows")


def _lines(lines: str, **others: str) -> str:
    """SQL for lines, each with some of its values replaced; left out where nothing takes their place."""
    taken = {field.name: others.get(field.name, f"l.{field.name}") for field in LINE_FIELDS}
    values = ", ".join(f"{name} := {value}" for name, value in taken.items() if value)
    return f"list_transform({lines}, lambda l: struct_pack({values}))"


def _content(relation: str) -> str:
    """SQL for what makes an entry what it is; null where nothing is wanted."""
    return _digest(relation, _lines(f"{relation}.lines", origin=""))


def _shape(relation: str) -> str:
    """SQL for all of an entry but its amounts."""
    sides = {name: f"l.{name} IS NULL" for name in _AMOUNTS}
    return _digest(relation, _lines(f"{relation}.lines", **sides, origin="", rate="", rate_type="", rate_date=""))


def _digest(relation: str, lines: str) -> str:
    """SQL for the digest of an entry's header and of lines made of its own. DuckDB's sort key of a value is the same for equal ones only,
    and takes a quarter of the time that writing it as text does."""
    header = ", ".join(f"{name} := {relation}.{name}" for name in HEADER.split(", ") if name != "rule_version")
    whole = f"struct_pack({header}, lines := {lines})"
    return f"CASE WHEN {relation}.lines IS NOT NULL THEN md5(create_sort_key({whole}, 'ASC NULLS LAST')) END"


def _prior(relation: str, place: str) -> str:
    """SQL for whether something belongs to a year that is closed. `place`: where its corrections go."""
    return f"coalesce(p.prior_account IS NOT NULL AND year({place}.moved) > year({relation}), false)"


# A window over the changes of one row, for one rule.
_K = 'WINDOW k AS (PARTITION BY book, rule, "#key" ORDER BY "#rid")'
# What may be steps: a difference that comes to nothing is none.
TURNS = f"""CREATE OR REPLACE TEMP TABLE turns AS
WITH standing AS (
    SELECT book, rule, row_hash, row_key, arg_max(coalesce(l.content, {_content("l")}), correction) AS stood,
        arg_max(entry_id, correction) AS stood_id, max(correction) AS corrections,
        arg_min(CASE WHEN p.by_delta THEN {_shape("l")} END, correction) AS stood_shape,
        arg_max(doc_date, correction) AS stood_date
    FROM live l LEFT JOIN policy p USING (book) GROUP BY book, rule, row_hash, row_key
), candidates AS (
    SELECT w."#rid", w.book, w.rule, w."#key", w."#hash", w.entry_id, w.doc_date, {_content("w")} AS want,
        CASE WHEN p.by_delta THEN {_shape("w")} END AS shape
    FROM wanted w LEFT JOIN policy p USING (book) WHERE w.fault IS NULL
), chain AS (
    SELECT w.* EXCLUDE ("#hash"), l.* EXCLUDE (book, rule, row_hash, row_key)
    FROM candidates w SEMI JOIN known USING ("#hash", "#key")
    LEFT JOIN standing l ON l.row_hash = w."#hash" AND l.row_key = w."#key" AND l.book = w.book AND l.rule = w.rule
), befores AS (
    SELECT *, row_number() OVER k = 1 AS first, CASE WHEN first THEN stood ELSE lag(want) OVER k END AS before,
        CASE WHEN first THEN stood_shape ELSE lag(shape) OVER k END AS before_shape,
        CASE WHEN first THEN stood_date ELSE lag(doc_date) OVER k END AS before_date
    FROM chain {_K}
), turns AS (
    SELECT b.*, {_prior("b.doc_date", "n")} AND {_prior("b.before_date", "o")} AS prior,
        want IS NOT NULL AND before IS NOT NULL AND (coalesce(p.by_delta AND shape = before_shape, false) OR prior) AS delta,
        CASE WHEN delta THEN CAST(md5('adjust|' || entry_id) AS UUID)::VARCHAR ELSE entry_id END AS posted_id
    FROM befores b LEFT JOIN policy p USING (book)
    LEFT JOIN placed n ON n.book = b.book AND n.correction AND n.period = strftime(b.doc_date, '%Y-%m')
    LEFT JOIN placed o ON o.book = b.book AND o.correction AND o.period = strftime(b.before_date, '%Y-%m')
    WHERE want IS DISTINCT FROM before
)
SELECT *, row_number() OVER k AS turn, lag("#rid") OVER k AS before_rid FROM turns {_K}"""
STEPS = f"""CREATE OR REPLACE TEMP TABLE steps AS
WITH runs AS (
    SELECT *, row_number() OVER k AS step,
        sum(CASE WHEN delta THEN 0 ELSE 1 END) OVER (PARTITION BY book, rule, "#key" ORDER BY "#rid" ROWS UNBOUNDED PRECEDING) AS run
    FROM turns t WHERE NOT delta OR EXISTS (FROM deltas d WHERE d."#rid" = t."#rid" AND d.book = t.book AND d.rule = t.rule) {_K}
)
SELECT "#rid", book, rule, "#key", posted_id, want, before IS NOT NULL AS follows, delta, run,
    CASE WHEN before IS NULL THEN NULL WHEN step = 1 THEN stood_id ELSE lag(posted_id) OVER k END AS before_id,
    max(run) OVER (PARTITION BY book, rule, "#key") AS last_run,
    row_number() OVER (PARTITION BY book, rule, "#key", run ORDER BY "#rid") - 1
        + CASE WHEN run = 0 THEN corrections + 1 ELSE 0 END AS correction
FROM runs {_K}"""

# The difference of an entry: what is wanted less what was wanted before, by line. A line keeps its side, and is negative on it where it
# became less; or, where red is written so, moves to the other.
_SIGNED = "CASE WHEN l.debit IS NULL THEN -{0} ELSE {0} END * sign"
DELTAS = f"""CREATE OR REPLACE TEMP TABLE deltas AS
    SELECT "#rid", book, rule, list(struct_pack(
        line_no := CAST(line_no AS INTEGER), account := account,
        debit := CASE WHEN on_debit THEN net END, credit := CASE WHEN NOT on_debit THEN -net END, currency := currency,
        orig_amount := CASE WHEN on_debit THEN orig ELSE -orig END, rate := rate,
        quantity := CASE WHEN on_debit THEN pieces ELSE -pieces END,
        unit := unit, dims := dims, rate_type := rate_type, rate_date := rate_date, origin := origin) ORDER BY line_no) AS lines
    FROM (
        SELECT *, row_number() OVER (PARTITION BY "#rid", book, rule ORDER BY place, account, currency, dims, unit) AS line_no,
            CASE WHEN blue THEN net > 0 ELSE debited END AS on_debit FROM (
            SELECT "#rid", book, rule, blue, min(l.line_no) AS place, account, l.currency, l.unit, l.dims,
                sum({_SIGNED.format("coalesce(l.debit, l.credit)")}) AS net,
                sum({_SIGNED.format("l.orig_amount")}) AS orig, sum({_SIGNED.format("l.quantity")}) AS pieces,
                arg_max(l.debit IS NOT NULL, sign) AS debited, arg_max(l.rate, sign) AS rate, arg_max(l.rate_type, sign) AS rate_type,
                arg_max(l.rate_date, sign) AS rate_date, arg_max(l.origin, sign) AS origin
            FROM (
                SELECT s."#rid", s.book, s.rule, s.prior OR p.swapped AS blue, sign, l,
                    CASE WHEN s.prior AND list_contains(p.income, l.account) THEN p.prior_account ELSE l.account END AS account
                FROM turns s LEFT JOIN policy p USING (book) JOIN (
                    SELECT "#rid", book, rule, 1 AS sign, unnest(lines) AS l FROM wanted
                    UNION ALL
                    SELECT s."#rid", s.book, s.rule, -1 AS sign, unnest(w.lines) AS l
                    FROM turns s JOIN wanted w ON w."#rid" = s.before_rid AND w.book = s.book AND w.rule = s.rule
                    UNION ALL
                    SELECT s."#rid", s.book, s.rule, -1 AS sign, unnest(l.lines) AS l
                    FROM turns s JOIN live l ON s.turn = 1 AND l.row_key = s."#key" AND l.book = s.book AND l.rule = s.rule
                ) x ON x."#rid" = s."#rid" AND x.book = s.book AND x.rule = s.rule
                WHERE s.delta
            ) GROUP BY ALL HAVING net <> 0 OR orig <> 0
        )
    ) GROUP BY ALL"""

_PERIOD = "strftime({0}, '%Y-%m')"
_PLACE = "LEFT JOIN placed d ON d.book = x.book AND d.period = strftime({0}, '%Y-%m') AND d.correction = {1}"
_BELONGS = "p.prior_account IS NOT NULL AND year(x.entry_date) > year(x.doc_date)"
_ACCOUNT = f"CASE WHEN {_BELONGS} AND list_contains(p.income, l.account) THEN p.prior_account ELSE l.account END"
_RED = {
    name: f"CASE WHEN x.kind <> 'reverse' THEN l.{name} WHEN blue THEN l.{name} ELSE -l.{name} END" for name in ("orig_amount", "quantity")
}
_RED |= {
    name: f"CASE WHEN x.kind <> 'reverse' THEN l.{name} WHEN blue THEN l.{other} ELSE -l.{name} END"
    for name, other in (("debit", "credit"), ("credit", "debit"))
}
_NEGATED = {name: f"-l.{name}" for name in _AMOUNTS}
# What becomes of each step: the entries that stood are reversed, with their stored lines, and what is wanted is posted; or the difference.
POSTING = f"""CREATE OR REPLACE TEMP TABLE posting AS
WITH unplaced AS (
    SELECT 'post' AS kind, entry_id, NULL::VARCHAR AS corrects, false AS follows, {HEADER}, book, rule, {CHANGE}, lines,
        CASE WHEN p.prior_account IS NOT NULL THEN {_content("w")} END AS want, 1 AS run, 1 AS last_run, 0 AS correction
    FROM wanted w ANTI JOIN known USING ("#hash", "#key") LEFT JOIN policy p USING (book) WHERE fault IS NULL AND lines IS NOT NULL
    UNION ALL BY NAME
    SELECT 'post' AS kind, w.entry_id, s.before_id AS corrects, s.follows, {HEADER}, w.book, w.rule, {CHANGE}, w.lines, s.want,
        s.run, s.last_run,
        s.correction
    FROM steps s JOIN wanted w USING ("#rid", book, rule, "#key") WHERE NOT s.delta AND w.lines IS NOT NULL
    UNION ALL BY NAME
    SELECT 'adjust' AS kind, s.posted_id AS entry_id, s.before_id AS corrects, true AS follows, {HEADER},
        w.book, w.rule, {CHANGE}, d.lines, s.want, s.run, s.last_run, s.correction
    FROM steps s JOIN wanted w USING ("#rid", book, rule, "#key") JOIN deltas d USING ("#rid", book, rule)
), posted AS (
    SELECT x.*, coalesce(d.moved, x.doc_date) AS entry_date FROM unplaced x {_PLACE.format("x.doc_date", "x.follows")}
), before AS (
    SELECT entry_id, {HEADER}, entry_date, book, rule, row_key AS "#key", lines, 0 AS run, correction FROM live
    UNION ALL
    SELECT entry_id, {HEADER}, entry_date, book, rule, "#key", lines, run, correction FROM posted
), reversed AS (
    SELECT 'reverse' AS kind, b.entry_id AS reverses, {HEADER}, b.entry_date, b.book, b.rule, w.* EXCLUDE (book, rule),
        b.lines, b.correction
    FROM steps s JOIN before b ON b.book = s.book AND b.rule = s.rule AND b."#key" = s."#key" AND b.run = s.run - 1
    JOIN (SELECT book, rule, {CHANGE} FROM wanted) w ON w."#rid" = s."#rid" AND w.book = s.book AND w.rule = s.rule
    WHERE NOT s.delta
), entries AS (
    SELECT x.* EXCLUDE (entry_date), CAST(md5('reverse|' || x.reverses) AS UUID)::VARCHAR AS entry_id,
        coalesce(d.moved, x.entry_date) AS entry_date
    FROM reversed x {_PLACE.format("x.entry_date", "true")}
    UNION ALL BY NAME
    SELECT * EXCLUDE (follows) FROM posted
)
SELECT x.* EXCLUDE (lines, want), {_PERIOD.format("x.entry_date")} AS period, coalesce(p.swapped, false) OR {_BELONGS} AS blue,
    CASE WHEN {_BELONGS} OR p.swapped THEN {_lines("x.lines", account=_ACCOUNT, **_RED)}
        WHEN x.kind = 'reverse' THEN {_lines("x.lines", **_NEGATED)} ELSE x.lines END AS lines,
    CASE WHEN x.correction > 0 OR {_BELONGS} THEN x.want END AS content
FROM entries x LEFT JOIN policy p USING (book) ORDER BY "#rid", x.book, x.rule, x.kind <> 'reverse', x.correction"""

# Of rows that nobody has seen before, while all periods are open: each is posted as it is.
PLAIN = f"""SELECT 'post' AS kind, entry_id, NULL::VARCHAR AS reverses, NULL::VARCHAR AS corrects, {HEADER}, doc_date AS entry_date,
    {_PERIOD.format("doc_date")} AS period, book, rule, {CHANGE}, lines, 1 AS run, 1 AS last_run, 0 AS correction, NULL::VARCHAR AS content
FROM wanted WHERE fault IS NULL AND lines IS NOT NULL"""
ENDED_BY_STEPS = """SELECT DISTINCT l.row_hash, l.entry_id FROM live l
    JOIN steps s ON s."#key" = l.row_key AND s.book = l.book AND s.rule = l.rule WHERE NOT s.delta"""
