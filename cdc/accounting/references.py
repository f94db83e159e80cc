"""What the expressions of a rule know by names of the rule's own: elements of its arrays, rows of other tables, and what follows by
derivation tables. What a line read of it is told in the line's origin.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa

from cdc.accounting.arrays import Array
from cdc.accounting.derivations import ROW, BadTable, Derivation, dated
from cdc.accounting.expressions import INTEGERS, did_you_mean
from cdc.accounting.keys import json_members, json_name, json_value
from cdc.accounting.lookups import CHANGES, Lookup, Step
from cdc.accounting.scope import Scope, refuse
from cdc.accounting.sql import literal, quote


def find_all(scope: Scope) -> None:
    """Add the steps of a rule's arrays and lookups to what its expressions know. Each may read those above it. Raises ConfigError."""
    for name in scope.rule.each:
        scope.found[name] = _array(scope, name)
    for name in scope.rule.lookup:
        place = scope.within(*(step.relation for step in scope.found.values()))
        derived = scope.rule.lookup[name].csv is not None
        scope.found[name] = _derivation(place, name) if derived else _other_table(place, name)
        scope.through[name] = place.names


def follow(scope: Scope, over: str, path: Path, table: pa.Table, on: Mapping[str, str]) -> Derivation:
    """The step of what follows by a derivation table, whose conditions have SQL over a relation for their values."""
    day, conditions = scope.date().sql if dated(table) else "NULL", tuple(on.items())
    return scope.steps.add(lambda number: Derivation(number, scope.time_zone, over, path, table, conditions, day))


def origin(scope: Scope, inferred: Mapping[str, str]) -> str | None:
    """SQL for the JSON text of what was read in a scope besides its row: by the names of lookups the other table and the row's key, or the
    derivation table and the number of its row; by `dims.<name>` the same of inferred dimensions, of which there is SQL. None if nothing."""
    names = [name for name in scope.found if name in scope.names]
    while more := [name for name in scope.found if name not in names and any(name in scope.through.get(other, ()) for other in names)]:
        names += more
    told = {name: sql for name in names if (sql := _told(scope, scope.found[name])) is not None}
    told |= {f"dims.{name}": f"CAST(to_json({sql}) AS VARCHAR)" for name, sql in inferred.items()}
    if not told:
        return None
    parts = ", ".join(f"{literal(json_name(name))} || {sql}" for name, sql in told.items())
    return f"nullif('{{' || concat_ws(', ', {parts}) || '}}', '{{}}')"


def _told(scope: Scope, step: Step) -> str | None:
    """SQL for the JSON text of what a step found; null if nothing. None for an element: it is of the row."""
    if isinstance(step, Derivation):
        scope.steps.read(step, ROW)
        return f"CAST(to_json({literal(step.path.name + ':')} || {quote(step.column(ROW))}) AS VARCHAR)"
    if not isinstance(step, Lookup):
        return None
    scope.steps.read(step, *step.schema.key)
    kinds = {column.name: column.store_type for column in step.schema.columns}
    key = json_members({name: json_value(quote(step.column(name)), kinds[name]) for name in step.schema.key})
    head = literal(f'{{"table": {json.dumps(step.schema.name, ensure_ascii=False)}, "row": {{')
    return f"CASE WHEN {quote(step.fault)} IS NULL THEN {head} || {key} || '}}}}' END"


def _array(scope: Scope, name: str) -> Array:
    """An array of the row."""
    key, text = f"each.{name}", scope.rule.each[name]
    array, kind = scope.exact(key, text)
    if kind != "VARCHAR" and not kind.endswith("[]"):
        refuse(scope.rule, key, f"'{text}' is a {kind}; an array is JSON text or a list")
    document = array if kind == "VARCHAR" else f"CAST(to_json({array}) AS VARCHAR)"
    calls = scope.steps.faults_of_calls(document)
    return scope.steps.add(lambda number: Array(number, scope.time_zone, CHANGES, document, calls))


def _derivation(scope: Scope, name: str) -> Derivation:
    """What follows by a derivation table."""
    wanted, place = scope.rule.lookup[name], f"lookup.{name}"
    assert wanted.csv is not None
    values = {column: scope.expression(f"{place}.on.{column}", text) for column, text in wanted.on.items()}
    over = scope.over(place, values.values())
    try:
        table = scope.steps.table(wanted.csv, tuple(wanted.on))
    except BadTable as error:
        refuse(scope.rule, f"{place}.csv", error)
    return follow(scope, over, wanted.csv, table, {column: value.sql for column, value in values.items()})


def _other_table(scope: Scope, name: str) -> Lookup:
    """A row of another table."""
    rule, wanted, place = scope.rule, scope.rule.lookup[name], f"lookup.{name}"
    schema = scope.steps.others.get(wanted.table or "")
    if schema is None:
        refuse(rule, f"{place}.table", f"there is no table '{wanted.table}' at the source")
    if not schema.key:
        refuse(rule, f"{place}.table", f"'{wanted.table}' has no key, so its rows can't be followed")
    types = {column.name: column.store_type for column in schema.columns}
    values = {}
    for column, text in wanted.on.items():
        key = f"{place}.on.{column}"
        if column not in types:
            refuse(rule, key, f"'{wanted.table}' has no such column{did_you_mean(column, types)}")
        values[column], kind = scope.typed(key, text)
        if kind != types[column] and not (kind in INTEGERS and types[column] in INTEGERS):
            refuse(rule, key, f"'{text}' is a {kind}, and the column a {types[column]}: CAST(... AS {types[column]})")
    over, on = scope.over(place, values.values()), tuple((column, value.sql) for column, value in values.items())
    return scope.steps.add(lambda number: Lookup(number, scope.time_zone, over, schema, on))
