"""Rule expressions: scalar DuckDB SQL over one row, checked before anything runs.

DuckDB itself parses an expression into its syntax tree (`json_serialize_sql`); what is not a scalar function of the row is refused:
subqueries, windows, aggregates, table functions, parameters, functions that read files or settings, or whose answer changes
from call to call. An amount may not pass through a binary float anywhere.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any

import duckdb

from cdc.accounting import composite
from cdc.accounting.rounding import ROUNDING
from cdc.accounting.sql import literal, quote

_ALLOWED = {"CONSTANT", "COLUMN_REF", "FUNCTION", "OPERATOR", "COMPARISON", "CONJUNCTION", "CASE", "CAST", "BETWEEN", "COLLATE"}
_REFUSED_WORDS = {
    "SUBQUERY": "a subquery",
    "WINDOW": "a window function",
    "STAR": "'*'",
    "PARAMETER": "a parameter",
    "LAMBDA": "'->' (write json_extract_string(column, '$.key'))",
}
_MACROS = {"nullif", "split_part", "date_add", "md5_number_lower", "md5_number_upper", "exact_json", *ROUNDING, *composite.FUNCTIONS}
_IMPURE = (
    "current_",
    "getvariable",
    "getenv",
    "pg_",
    "parse_",
    "age",
    "in_search_path",
    "txid_",
    "query",
    "stats",
    "alias",
    "vector_type",
    "json_serialize",
    "__",
)
INTEGERS = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT"}
_FLOAT = re.compile(r"\b(FLOAT|DOUBLE)\b")  # by itself, in a list or in a struct
_JSON_TEXT, _EXACT = {"json_extract_string", "->>"}, "exact_json"
_FORMATS = {"printf", "format"}  # of a DECIMAL they print the nearest DOUBLE


class BadExpression(ValueError):
    """What is wrong with an expression, in words for the message about its rule."""


@dataclass(frozen=True, slots=True)
class Expression:
    """A checked expression: its canonical SQL, the columns of the row it reads, and what it reads besides: names with a column each."""

    sql: str
    columns: frozenset[str]
    references: frozenset[tuple[str, str]] = frozenset()


Caller = Callable[[Sequence[str], Sequence[str]], Expression]
_NONE: Mapping[str, str] = MappingProxyType({})


def parse(
    connection: duckdb.DuckDBPyConnection,
    text: str,
    names: Mapping[str, str] = _NONE,
    arrays: Collection[str] = (),
    decimals: int = 2,
    macros: Mapping[str, str] = _NONE,
    functions: Mapping[str, Caller] = MappingProxyType({}),
) -> Expression:
    """Check that a text is one scalar expression of the row, and of what it may read besides. Raises BadExpression.

    `names`: how these are called; in the SQL `customer.region` is the one column `"#3.region"` if it stands for '3'. `arrays`: those of
    which an element is read, by any path (`item.tax.rate`). `decimals`: what functions round to that are not told. `macros`: functions
    that go by another name in the SQL. `functions`: those of the config, each giving what stands in the SQL for a call with arguments,
    under conditions of CASE without which it is not reached.
    """
    node = _tree(connection, text)
    calls = [(part, _render(connection, part["children"]), _render(connection, guards)) for part, guards in _calls(node, functions)]
    columns: set[str] = set()
    references: set[tuple[str, str]] = set()
    fields: list[tuple[dict[str, Any], dict[str, Any]]] = []
    for part in _parts(node, functions):
        _check(part, text, functions)
        path = part["column_names"] if part["class"] == "COLUMN_REF" else []
        if len(path) > 1 and path[0] in arrays:
            references.add((path[0], path[1]))
            fields.append((part, _tree(connection, element(f"#{names[path[0]]}", path[1:]))))
        elif len(path) == 2 and path[0] in names:
            references.add((path[0], path[1]))
            part["column_names"] = [f"#{names[path[0]]}.{path[1]}"]
        elif path:
            columns.add(_column(part, names))
        elif part.get("function_name") in _JSON_TEXT:
            part["children"][0] = _exact(connection, part["children"][0])
        elif part.get("function_name") in ROUNDING:
            _round(connection, part, decimals)
        elif part.get("function_name", "").lower() in macros:
            part["function_name"] = macros[part["function_name"].lower()]
    for part, field in fields:
        part.clear()
        part.update(field)
    for part, arguments, conditions in calls:
        made = functions[part["function_name"]](arguments, conditions)
        part.clear()
        part.update(_tree(connection, made.sql))
        columns, references = columns | made.columns, references | made.references
    return Expression(_render(connection, [node])[0], frozenset(columns), frozenset(references))


def is_duckdbs(name: str) -> bool:
    """Whether a name is a function of DuckDB's, or a word that can't be one of anybody's."""
    with duckdb.connect() as connection:
        try:
            tree = _tree(connection, f"{name}(1)")
        except BadExpression:
            return True
        known = connection.execute("SELECT count(*) FROM duckdb_functions() WHERE function_name = $1", [name]).fetchall()[0][0]
    return tree.get("function_name") != name or name in _MACROS or known > 0


def check_columns(expression: Expression, known: Sequence[str]) -> None:
    """Raises BadExpression for a column that is not among `known`."""
    names = {name.casefold() for name in known}
    for column in sorted(expression.columns):
        if column.casefold() not in names:
            raise BadExpression(f"there is no column '{column}'{did_you_mean(column, known)}")


def check_rounded(connection: duckdb.DuckDBPyConnection, expression: Expression, relation: str) -> None:
    """Raises BadExpression when a function that rounds is given what is no exact number."""
    calls = [part for part in _parts(_tree(connection, expression.sql)) if part.get("function_name") in ROUNDING]
    rendered = _render(connection, [argument for call in calls for argument in call["children"]])
    for sql, kind in zip(rendered, _types(connection, rendered, relation), strict=True):
        if not kind.startswith("DECIMAL") and kind not in INTEGERS:
            raise BadExpression(f"'{sql}' is a {kind}, and only a DECIMAL or a whole number can be rounded: CAST(... AS DECIMAL(18,6))")


def _round(connection: duckdb.DuckDBPyConnection, call: dict[str, Any], decimals: int) -> None:
    """Tell a function that rounds to how many decimals, if it is not told."""
    name, given = call["function_name"], len(call["children"])
    if given == ROUNDING[name]:
        call["children"].append(_tree(connection, str(decimals)))
    elif given != ROUNDING[name] + 1:
        raise BadExpression(f"'{name}' takes {ROUNDING[name]} arguments, and one for the decimals if they are not the book's")


def element(column: str, path: Sequence[str]) -> str:
    """SQL for what stands in an element of an array: its place for `number`, itself for `value`, else the field of that name or path."""
    if list(path) == ["number"]:
        return quote(f"{column}.number")
    pointer = "" if list(path) == ["value"] else "".join("/" + name.replace("~", "~0").replace("/", "~1") for name in path)
    return f"json_extract_string({quote(f'{column}.json')}, {literal(pointer or '$')})"


def _exact(connection: duckdb.DuckDBPyConnection, document: dict[str, Any]) -> dict[str, Any]:
    """A JSON text whose numbers keep all their digits."""
    if document.get("function_name") == _EXACT:
        return document
    call = _tree(connection, f"{_EXACT}('')")
    call["children"] = [document]
    return call


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the known one that is nearest to it."""
    near = difflib.get_close_matches(name, list(known), 1)
    return f"; did you mean '{near[0]}'?" if near else ""


def type_of(connection: duckdb.DuckDBPyConnection, expression: Expression, relation: str) -> str:
    """The DuckDB type an expression has over a relation. Raises BadExpression when DuckDB refuses it."""
    return _types(connection, [expression.sql], relation)[0]


def check_exact(connection: duckdb.DuckDBPyConnection, expression: Expression, relation: str) -> None:
    """Raises BadExpression when any part of an amount's expression is a binary float."""
    parts = [part for part in _parts(_tree(connection, expression.sql)) if part["class"] != "CONSTANT"]
    rendered = _render(connection, parts)
    for part, sql, kind in zip(parts, rendered, _types(connection, rendered, relation), strict=True):
        if part.get("function_name") in _FORMATS:
            raise BadExpression(f"'{sql}' goes through a binary float, and an amount must stay exact: use CAST(... AS VARCHAR)")
        if kind == "JSON":
            raise BadExpression(f"'{sql}' is JSON, whose numbers pass through a binary float: use json_extract_string(column, '$.key')")
        if _FLOAT.search(kind):
            raise BadExpression(
                f"'{sql}' is a binary float ({kind}), and an amount must stay exact: multiply instead of dividing with '/', "
                "or cast a float column to DECIMAL at the source"
            )


def _tree(connection: duckdb.DuckDBPyConnection, text: str) -> dict[str, Any]:
    answer = connection.execute("SELECT json_serialize_sql($1)", [f"SELECT {text}\n"]).fetchone()
    parsed = json.loads(answer[0]) if answer else {}
    if parsed.get("error", True):
        raise BadExpression(f"syntax error in '{text}': {parsed.get('error_message', 'not an expression')}")
    if len(parsed["statements"]) != 1:
        raise BadExpression(f"'{text}' is more than one expression")
    node: dict[str, Any] = parsed["statements"][0]["node"]
    clauses = ("where_clause", "having", "sample", "qualify", "group_expressions", "modifiers")
    plain = node["type"] == "SELECT_NODE" and node["from_table"]["type"] == "EMPTY" and not any(node[clause] for clause in clauses)
    if not plain or len(node["select_list"]) != 1 or node["select_list"][0]["alias"]:
        raise BadExpression(f"'{text}' is not one scalar expression")
    tree: dict[str, Any] = node["select_list"][0]
    return tree


def _parts(node: Any, functions: Collection[str] = ()) -> Iterator[dict[str, Any]]:
    """All expression nodes of a tree, the outermost first, without the arguments of the config's functions."""
    if isinstance(node, dict):
        if "class" in node:
            yield node
            if node["class"] == "SUBQUERY" or node.get("function_name") in functions:
                return
        node = list(node.values())
    if isinstance(node, list):
        for child in node:
            yield from _parts(child, functions)


def _calls(
    node: Any, functions: Collection[str], guards: tuple[dict[str, Any], ...] = ()
) -> Iterator[tuple[dict[str, Any], tuple[dict[str, Any], ...]]]:
    """The outermost calls of the config's functions in a tree, each with the conditions of the branches of CASE that it stands in."""
    if isinstance(node, list):
        for child in node:
            yield from _calls(child, functions, guards)
    elif isinstance(node, dict) and node.get("function_name") in functions:
        yield node, guards
    elif isinstance(node, dict):
        guard = (node["when_expr"],) if "when_expr" in node else ()
        for key, child in node.items():
            yield from _calls(child, functions, guards + guard if key == "then_expr" else guards)


def _check(part: dict[str, Any], text: str, functions: Collection[str]) -> None:
    if part["class"] not in _ALLOWED:
        raise BadExpression(
            f"'{text}' holds {_REFUSED_WORDS.get(part['class'], part['class'].lower())}; a rule is a scalar expression over its row"
        )
    if part["class"] == "FUNCTION":
        name = part["function_name"].lower()
        if part["filter"] or part["distinct"] or part["order_bys"]["orders"]:
            raise BadExpression(f"'{text}' holds an aggregate; a rule is a scalar expression over its row")
        if name in functions and part["schema"]:
            raise BadExpression(f"'{part['schema']}.{name}': write {name}(...) alone")
        if name not in functions and (name.startswith(_IMPURE) or name not in _functions()):
            raise BadExpression(f"'{name}' is not a function a rule may call: only scalar functions of the row that always answer alike")


def _column(part: dict[str, Any], names: Collection[str]) -> str:
    if len(part["column_names"]) != 1:
        written, known = ".".join(part["column_names"]), ", ".join(names) or "nothing"
        raise BadExpression(f"'{written}': name a column of the row alone, without its table, or of what the rule looks up ({known})")
    return str(part["column_names"][0])


@cache
def _functions() -> frozenset[str]:
    with duckdb.connect() as connection:
        rows = connection.execute(
            "SELECT lower(function_name) FROM duckdb_functions() GROUP BY 1"
            " HAVING bool_and(function_type = 'scalar' AND stability IS NOT DISTINCT FROM 'CONSISTENT')"
        ).fetchall()
    return frozenset(name for (name,) in rows) | _MACROS


def _render(connection: duckdb.DuckDBPyConnection, nodes: Sequence[dict[str, Any]]) -> list[str]:
    """Each node as SQL text of its own, written by DuckDB."""
    template = json.loads(connection.execute("SELECT json_serialize_sql('SELECT 1')").fetchall()[0][0])
    rendered = []
    for node in nodes:
        template["statements"][0]["node"]["select_list"] = [node]
        answer = connection.execute("SELECT json_deserialize_sql($1::JSON)", [json.dumps(template)]).fetchall()
        rendered.append(str(answer[0][0]).removeprefix("SELECT "))
    return rendered


def _types(connection: duckdb.DuckDBPyConnection, expressions: Sequence[str], relation: str) -> list[str]:
    if not expressions:
        return []
    columns = ", ".join(f"{sql} AS e{i}" for i, sql in enumerate(expressions))
    try:
        rows = connection.execute(f"DESCRIBE SELECT {columns} FROM {relation}").fetchall()
    except duckdb.Error as error:
        raise BadExpression(str(error).split("\n")[0]) from error
    return [str(row[1]) for row in rows]
