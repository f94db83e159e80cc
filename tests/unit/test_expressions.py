"""What a rule may say, and every kind of thing it may not."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

import duckdb
import pytest

from cdc.accounting.expressions import BadExpression, check_columns, check_exact, check_rounded, parse, type_of
from cdc.accounting.sql import memory_database

ROW = """SELECT 1::DECIMAL(12,2) AS total, 1::BIGINT AS n, 'x' AS note, DATE '2026-01-31' AS paid, 1::DOUBLE AS weight,
    [1::DOUBLE] AS weights,
    {'kg': 1::DOUBLE} AS load, '{}' AS info, TIMESTAMPTZ '2026-01-31' AS made, true AS "Order", 1 AS "金额", 1 AS "a""b" """


@pytest.fixture(scope="module")
def db() -> Iterator[duckdb.DuckDBPyConnection]:
    with memory_database() as connection:
        connection.execute(f"CREATE VIEW r AS {ROW}")
        yield connection


@pytest.mark.parametrize(
    ("text", "kind", "columns"),
    [
        ("total", "DECIMAL(12,2)", {"total"}),
        ("TOTAL", "DECIMAL(12,2)", {"TOTAL"}),
        ("total - n * 0.13", "DECIMAL(24,2)", {"total", "n"}),
        ("CASE WHEN total > 1 THEN 'a' ELSE note END", "VARCHAR", {"total", "note"}),
        ("note IN ('paid', 'shipped') AND NOT total BETWEEN 1 AND 2", "BOOLEAN", {"note", "total"}),
        ("CAST(made AT TIME ZONE 'Asia/Shanghai' AS DATE)", "DATE", {"made"}),
        ("'Sale ' || note", "VARCHAR", {"note"}),
        ("coalesce(nullif(note, ''), '-')", "VARCHAR", {"note"}),
        ("last_day(paid)", "DATE", {"paid"}),
        ("info ->> '$.kind'", "VARCHAR", {"info"}),
        ("note COLLATE NOCASE = 'X'", "BOOLEAN", {"note"}),
        ('"金额" + "a""b"', "INTEGER", {"金额", 'a"b'}),
        ('"Order"', "BOOLEAN", {"Order"}),
        ("total -- what is due", "DECIMAL(12,2)", {"total"}),
        ("total /* gross */ * 2", "DECIMAL(18,2)", {"total"}),
        ("'it''s; -- not a comment'", "VARCHAR", set()),
    ],
)
def test_scalar_expressions_are_accepted(db: duckdb.DuckDBPyConnection, text: str, kind: str, columns: set[str]) -> None:
    expression = parse(db, text)
    assert expression.columns == columns
    assert type_of(db, expression, "r").split("(")[0] == kind.split("(")[0]


@pytest.mark.parametrize(
    "text", ["total - n * 0.13", "CASE WHEN total > 1 THEN 'a' END", "'it''s'", '"a""b" + 1', "note IN ('x', 'y')", "-total"]
)
def test_the_canonical_text_means_the_same(db: duckdb.DuckDBPyConnection, text: str) -> None:
    expression = parse(db, text)
    assert db.execute(f"SELECT {expression.sql} FROM r").fetchall() == db.execute(f"SELECT {text} FROM r").fetchall()
    assert parse(db, expression.sql) == expression


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "syntax error"),
        ("total +", "syntax error"),
        ("total /* never closed", "syntax error"),
        ("(total", "syntax error"),
        ("total); DROP TABLE x; --", "syntax error"),
        ("total; SELECT 1", "more than one expression"),
        ("total; DROP TABLE x", "syntax error"),
        ("total, n", "not one scalar expression"),
        ("total AS x", "not one scalar expression"),
        ("total x", "not one scalar expression"),
        ("total FROM r", "not one scalar expression"),
        ("total FROM 'secret.csv'", "not one scalar expression"),
        ("total WHERE true", "not one scalar expression"),
        ("total ORDER BY 1", "not one scalar expression"),
        ("total LIMIT 1", "not one scalar expression"),
        ("DISTINCT total", "not one scalar expression"),
        ("total UNION SELECT 2", "not one scalar expression"),
        ("total QUALIFY true", "not one scalar expression"),
        ("total HAVING true", "not one scalar expression"),
        ("total GROUP BY n", "not one scalar expression"),
        ("(SELECT 1)", "a subquery"),
        ("total + (SELECT max(total) FROM r)", "a subquery"),
        ("EXISTS (SELECT 1)", "a subquery"),
        ("total IN (SELECT 1)", "a subquery"),
        ("row_number() OVER ()", "a window function"),
        ("sum(total) OVER (ORDER BY n)", "a window function"),
        ("sum(total)", "'sum' is not a function"),
        ("count(*)", "'count_star' is not a function"),
        ("abs(total) FILTER (WHERE true)", "an aggregate"),
        ("abs(DISTINCT total)", "an aggregate"),
        ("*", "'*'"),
        ("COLUMNS(*)", "'*'"),
        ("$1", "a parameter"),
        ("?", "a parameter"),
        ("#1", "positional_reference"),
        ("DEFAULT", "default"),
        ("list_transform([total], lambda x: x + 1)", "'->'"),
        ("[x + 1 for x in [total]]", "'->'"),
        ("info -> '$.kind'", "json_extract_string"),
        ("r.total", "without its table"),
        ("main.r.total", "without its table"),
        ("unnest([1, 2])", "'unnest' is not a function"),
        ("range(3)", "'range' is not a function"),
        ("read_text('/etc/hosts')", "'read_text' is not a function"),
        ("read_csv('x.csv')", "'read_csv' is not a function"),
        ("getenv('HOME')", "'getenv' is not a function"),
        ("parse_path('/a/b')", "'parse_path' is not a function"),
        ("query('SELECT 1')", "'query' is not a function"),
        ("json_serialize_plan('SELECT 1')", "'json_serialize_plan' is not a function"),
        ("json_execute_serialized_sql('{}')", "'json_execute_serialized_sql' is not a function"),
        ("current_setting('threads')", "'current_setting' is not a function"),
        ("getvariable('x')", "'getvariable' is not a function"),
        ("nextval('s')", "'nextval' is not a function"),
        ("txid_current()", "'txid_current' is not a function"),
        ("version()", "'version' is not a function"),
        ("random()", "'random' is not a function"),
        ("uuid()", "'uuid' is not a function"),
        ("gen_random_uuid()", "'gen_random_uuid' is not a function"),
        ("now()", "'now' is not a function"),
        ("today()", "'today' is not a function"),
        ("current_date()", "'current_date' is not a function"),
        ("age(made)", "'age' is not a function"),
        ("vector_type(total)", "'vector_type' is not a function"),
        ("error('x')", "'error' is not a function"),
        ("sleep_ms(1)", "'sleep_ms' is not a function"),
        ("coalesce(total, CASE WHEN true THEN random() END)", "'random' is not a function"),
        ("no_such_function(total)", "'no_such_function' is not a function"),
    ],
)
def test_all_else_is_refused(db: duckdb.DuckDBPyConnection, text: str, fault: str) -> None:
    with pytest.raises(BadExpression) as refused:
        parse(db, text)
    assert fault in str(refused.value)


@pytest.mark.parametrize("text", ["current_timestamp", "localtimestamp", "current_user", "user", "rowid"])
def test_words_without_brackets_are_columns_or_nothing(db: duckdb.DuckDBPyConnection, text: str) -> None:
    with pytest.raises(BadExpression, match=f"there is no column '{text}'"):
        check_columns(parse(db, text), ["total"])


def test_an_unknown_column_is_named_with_the_nearest_one(db: duckdb.DuckDBPyConnection) -> None:
    known = ["total", "note", "Paid_At"]
    check_columns(parse(db, "TOTAL > 1 AND paid_at IS NULL"), known)
    with pytest.raises(BadExpression, match=r"^there is no column 'totl'; did you mean 'total'\?$"):
        check_columns(parse(db, "totl"), known)
    with pytest.raises(BadExpression, match=r"^there is no column 'zzz'$"):
        check_columns(parse(db, "zzz"), known)


def test_what_does_not_bind_is_refused_in_duckdbs_words(db: duckdb.DuckDBPyConnection) -> None:
    with pytest.raises(BadExpression, match="No function matches"):
        type_of(db, parse(db, "last_day(total)"), "r")


@pytest.mark.parametrize(
    "text",
    [
        "total",
        "n * 3",
        "round(total * 1.175, 2)",
        "CAST(note AS DECIMAL(12,2))",
        "greatest(total, 0)",
        "total % 2.5",
        "total * 1e0",
        "share(total, n, 3)",
        "net(total, 0.13) + tax(total, 0.13, 6)",
        "total - HALF_EVEN(total * 0.005)",
    ],
)
def test_exact_amounts_are_accepted(db: duckdb.DuckDBPyConnection, text: str) -> None:
    check_exact(db, parse(db, text), "r")


@pytest.mark.parametrize(
    "text",
    [
        "weight",
        "total / 3",
        "total // 3",
        "total + weight",
        "sqrt(total)",
        "CAST(total / 3 AS DECIMAL(12,2))",
        "round(CAST(total AS DOUBLE), 2)::DECIMAL(12,2)",
        "CASE WHEN weight > 1 THEN total ELSE 0 END",
        "coalesce(CAST(CAST(CAST(weight AS DECIMAL(12,2)) AS VARCHAR) AS DECIMAL(12,2)), 0)",
        "CAST(weights AS DECIMAL(12,2)[])[1]",
        "CAST(load AS STRUCT(kg DECIMAL(12,2))).kg",
        "CAST(printf('%.2f', total) AS DECIMAL(12,2))",
        "CAST(format('{}', total) AS DECIMAL(12,2))",
        "share(total, weight, 3)",
        "CAST(share(total, 1, CAST(weight AS DECIMAL(12,2))) AS DECIMAL(12,2))",
    ],
)
def test_a_float_anywhere_in_an_amount_is_refused(db: duckdb.DuckDBPyConnection, text: str) -> None:
    with pytest.raises(BadExpression, match="must stay exact"):
        check_exact(db, parse(db, text), "r")


def test_functions_round_to_the_decimals_of_the_book_if_they_are_told_none(db: duckdb.DuckDBPyConnection) -> None:
    texts = ["share(2, 1, 3)", "share(2, 1, 3, 4)", "net(1.13, 0.12)", "tax(1.13, 0.12, 0)", "half_even(0.0625)"]
    found = [db.execute(f"SELECT {parse(db, text, decimals=3).sql}").fetchall()[0][0] for text in texts]
    assert found == [Decimal(number) for number in ("0.667", "0.6667", "1.009", "0.13", "0.062")]


def test_what_has_no_answer_is_null(db: duckdb.DuckDBPyConnection) -> None:
    texts = ["share(1, 1, 0)", "net(1, -1)", "share(1, 1, 3, 7)", "share(1, 1, 3, -1)", "share(1, 1, 3, -2)", "half_even(1, NULL)"]
    assert [db.execute(f"SELECT {parse(db, text).sql}").fetchall() for text in texts] == [[(None,)]] * len(texts)


@pytest.mark.parametrize("text", ["share(total)", "share(total, 1, 2, 3, 4)", "net(total)", "half_even()"])
def test_a_function_that_rounds_is_given_all_it_needs(db: duckdb.DuckDBPyConnection, text: str) -> None:
    with pytest.raises(BadExpression, match="arguments, and one for the decimals if they are not the book's"):
        parse(db, text)


@pytest.mark.parametrize("text", ["share(note, 1, 3)", "1 + net(total, note)", "half_even(weight)", "share(total, 1, 3, note)"])
def test_only_exact_numbers_are_rounded(db: duckdb.DuckDBPyConnection, text: str) -> None:
    with pytest.raises(BadExpression, match="only a DECIMAL or a whole number can be rounded"):
        check_rounded(db, parse(db, text), "r")
    check_rounded(db, parse(db, "share(total, n, CAST(note AS DECIMAL(12,2)))"), "r")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("item.sku", "A"),
        ("item.tax.rate", "0.13"),
        ("item.tax", '{"rate":0.13}'),
        ('item."a/b~"', "odd"),
        ("item.number + 1", 3),
        ("item.value ->> '$.number'", "seven"),
        ("item.lacks", None),
        ("item.nothing", None),
    ],
)
def test_an_element_of_an_array_is_read_by_any_path(db: duckdb.DuckDBPyConnection, text: str, value: object) -> None:
    expression = parse(db, text, {"item": "4"}, ["item"])
    document = '{"sku": "A", "tax": {"rate": 0.13}, "a/b~": "odd", "number": "seven", "nothing": null}'
    answer = db.execute(f"""SELECT {expression.sql} FROM (SELECT $1 AS "#4.json", 2 AS "#4.number")""", [document]).fetchall()
    assert answer == [(value,)]
    assert {name for name, _ in expression.references} == {"item"}


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ('{"a": 12345678901234567.89, "b": 1}', "12345678901234567.89"),
        ('{"a": 0.1, "b": 1}', "0.1"),
        ('{"b": "12345678901234567.89, \\"", "a": -0.30}', "-0.30"),
        ('{"a": "x\\\\", "b": 1234567890123456789012345}', "x\\"),
        ('{"a": 1234567890123456789012345e-3}', "1234567890123456789012345e-3"),
        ('{"a": true, "b": 1234567890.1234567890}', "true"),
        ('{"a": null, "b": 1234567890.1234567890}', None),
        ('{"a": "客户 1234567890123456", "b": 1}', "客户 1234567890123456"),
    ],
)
def test_numbers_out_of_json_keep_their_digits(db: duckdb.DuckDBPyConnection, document: str, text: str | None) -> None:
    for written in ("json_extract_string(info, '$.a')", "info ->> '$.a'"):
        expression = parse(db, written)
        assert expression.columns == {"info"}
        assert db.execute(f"SELECT {expression.sql} FROM (SELECT $1 AS info)", [document]).fetchall() == [(text,)]
        assert parse(db, expression.sql) == expression


def test_an_amount_out_of_json_is_exact(db: duckdb.DuckDBPyConnection) -> None:
    check_exact(db, parse(db, "CAST(info ->> '$.total' AS DECIMAL(38,6))"), "r")
    with pytest.raises(BadExpression, match="JSON, whose numbers pass through a binary float: use json_extract_string"):
        check_exact(db, parse(db, "CAST(json_extract(info, '$.total') AS DECIMAL(38,6))"), "r")
