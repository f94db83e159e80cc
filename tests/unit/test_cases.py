"""Case files: cells, widths, types, and what a case says happens."""

from __future__ import annotations

from datetime import date, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc.cases.changes import batches, column, declared, schemas
from cdc.cases.file import Section, aligned, grid, read, told, written
from cdc.decode.mysql.fields import _MAPPED as MYSQL
from cdc.decode.mysql.fields import _STORED as MYSQL_INTEGERS
from cdc.decode.mysql.types import MyType
from cdc.decode.mysql.values import integer_kind
from cdc.decode.postgres.pgtypes import _MAPPED as POSTGRES
from cdc.errors import ConfigError
from cdc.types import MicroBatch

TABLES = """
== table shop.t (key id)
| id | name | total |
| BIGINT | VARCHAR | decimal(12, 2) |

== table shop.u (key a, b)
| a | b |
| INTEGER | DATE |

== table shop.keyless
| v |
| VARCHAR |

== table other.t (key id)
| id |
| BIGINT |
"""


def case(folder: Path, text: str) -> Path:
    path = folder / "case.txt"
    path.write_text(text, "utf-8")
    return path


def played(folder: Path, text: str) -> list[MicroBatch]:
    read_case = read(case(folder, TABLES + text))
    return list(batches(read_case, schemas(read_case)))


def rows(batch: MicroBatch, table: int = 0) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in batch.changes[table].rows.to_pylist()]


@given(st.one_of(st.none(), st.text(), st.text("\\|'n \n\x1bu0", max_size=8)))
def test_every_text_is_written_as_one_cell_that_tells_it(value: str | None) -> None:
    cell = written(value)
    assert told(cell) == value
    assert cell == cell.strip()
    assert "\n" not in cell


@given(st.lists(st.tuples(st.text(max_size=5), st.text("\\|'a ", max_size=5)), min_size=1))
def test_every_row_is_read_as_it_was_written(values: list[tuple[str, str]]) -> None:
    lines = aligned([("a", "b"), *((written(a), written(b)) for a, b in values)])
    found = grid(Section(Path("never.txt"), 1, "entries", "", tuple(lines)))
    assert [tuple(map(told, cells)) for _, cells in found.rows] == values
    assert [line for line, _ in found.rows] == list(range(3, len(values) + 3))


def test_columns_are_as_wide_as_they_are_displayed() -> None:
    assert aligned([("科目", "amount"), ("应收账款", "1.00"), ("e\u0301", "-100.00")], [1]) == [
        "| 科目     |  amount |",
        "| 应收账款 |    1.00 |",
        "| e\u0301        | -100.00 |",
    ]


def test_a_column_has_the_arrow_type_it_has_in_changes_of_a_source() -> None:
    kinds = [*POSTGRES.values(), *MYSQL.values()]
    kinds += [
        (integer_kind(MyType(name, unsigned=unsigned)), "U" * unsigned + store)
        for name, store in MYSQL_INTEGERS.items()
        for unsigned in (False, True)
    ]
    assert [(column("x", store).type, store) for _, store in kinds] == kinds


def test_tables_are_declared_as_they_are_read(tmp_path: Path) -> None:
    known = schemas(read(case(tmp_path, TABLES)))
    assert list(known) == ["shop.t", "shop.u", "shop.keyless", "other.t"]
    assert known["shop.u"].key == ("a", "b")
    assert known["shop.keyless"].key == ()
    assert [c.store_type for c in known["shop.t"].columns] == ["BIGINT", "VARCHAR", "DECIMAL(12,2)"]
    again = "\n".join(line for schema in known.values() for line in declared(schema))
    assert schemas(read(case(tmp_path, again))) == known


def test_tables_of_the_folder_and_a_case_with_its_own(tmp_path: Path) -> None:
    (tmp_path / "tables.txt").write_text(TABLES, "utf-8")
    known = schemas(read(case(tmp_path, "== table shop.u (key a)\n| a |\n| BIGINT |\n")))
    assert [c.store_type for c in known["shop.u"].columns] == ["BIGINT"]
    assert known["shop.t"].key == ("id",)


def test_transactions_tables_and_places(tmp_path: Path) -> None:
    first, second = played(
        tmp_path,
        """
== changes shop.t
| op | t | id | total |
| c | 7 | 1 | 1 |
| c | 2 | 2 | 2.50 |
| c | 7 | 3 | NULL |
== also shop.u
| op | t | a | b |
| c | 2 | 1 | 2026-10-31 |
== also shop.t
| op | t | id |
| d | 2 | 2 |
== changes other.t
# a comment
| op | id |
| r | 1 |
""",
    )
    assert rows(first) == [
        ("c", 0, 0, 2, None, Decimal("2.50")),
        ("d", 0, 2, 2, None, Decimal("2.50")),
        ("c", 1, 0, 1, None, Decimal("1.00")),
        ("c", 1, 1, 3, None, None),
    ]
    assert rows(first, 1) == [("c", 0, 1, 1, date(2026, 10, 31))]
    assert [tuple(row.values())[:2] for row in first.transactions.to_pylist()] == [("00000001", "1"), ("00000002", "2")]
    assert (first.position, second.position, first.source, second.source) == ("00000002", "00000003", "shop", "other")


def test_what_an_update_leaves_out_is_unchanged(tmp_path: Path) -> None:
    (batch,) = played(
        tmp_path,
        """
== changes shop.t
| op | id | name | total |
| c | 1 | a | 1.00 |
== also shop.t
| op | id | total |
| u | 1 | |
== also shop.t
| op | id |
| u | 1 |
| d | 1 |
| u | 1 |
== also shop.t
| op | id | name |
| r | 2 | '' |
| t | | |
| u | 2 | |
""",
    )
    assert [(row[0], *row[3:]) for row in rows(batch)] == [
        ("c", 1, "a", Decimal("1.00")),
        ("u", 1, "a", None),
        ("u", 1, "a", None),
        ("d", 1, "a", None),
        ("u", 1, None, None),
        ("r", 2, "", None),
        ("t", None, None, None),
        ("u", 2, None, None),
    ]


def test_values_of_every_kind(tmp_path: Path) -> None:
    kinds = {
        "BOOLEAN": ("true", True),
        "UBIGINT": ("18446744073709551615", (1 << 64) - 1),
        "DOUBLE": ("0.1", 0.1),
        "DECIMAL(38,6)": ("12345678901234567890123456789012.345678", Decimal("12345678901234567890123456789012.345678")),
        "VARCHAR": (r"' a\|b\n '", " a|b\n "),
        "JSON": (r'{"a": "\\n"}', r'{"a": "\n"}'),
        "BLOB": ("ab", b"ab"),
        "DATE": ("2026-10-31", date(2026, 10, 31)),
        "TIME": ("10:30", time(10, 30)),
    }
    header = " | ".join(f"c{i}" for i in range(len(kinds)))
    text = f"== table shop.v\n| {header} |\n| {' | '.join(kinds)} |\n== changes\n| op | {header} |\n"
    one = read(case(tmp_path, f"{text}| c | {' | '.join(cell for cell, _ in kinds.values())} |\n"))
    (batch,) = batches(one, schemas(one))
    assert rows(batch)[0][3:] == tuple(value for _, value in kinds.values())


CHANGES = "== changes shop.t\n| op | id | total |\n"


@pytest.mark.parametrize(
    ("text", "code", "line", "words"),
    [
        ("== change shop.t\n", "section", 1, "table, changes, also, periods, rates, entries, quarantine, live"),
        (f"{CHANGES}c | 1 | 2 |\n", "no_row", 3, "c | 1 | 2 |"),
        (f"{CHANGES}| c | 1 |\n", "cells", 3, "2 cells under 3 columns"),
        ("== table shop (key id)\n| id |\n| BIGINT |\n", "table", 1, "== table shop.orders (key id)"),
        ("== table shop.x (key id)\n| id |\n", "table", 1, "their types"),
        ("== table shop.x (key id)\n| id |\n| NUMBER |\n", "type", 3, "'NUMBER'"),
        ("== table shop.x (key id)\n| id |\n| DECIMAL(2,90) |\n", "type", 3, "'DECIMAL(2,90)'"),
        ("== table shop.x (key no)\n| id |\n| BIGINT |\n", "column", 1, "'no'"),
        ("== changes shop.x\n| op | id |\n| c | 1 |\n", "no_table", 1, "shop.t, shop.u, shop.keyless, other.t"),
        ("== changes\n| op | id |\n| c | 1 |\n", "no_table", 1, "shop.t"),
        ("== also shop.t\n| op | id |\n| c | 1 |\n", "also", 1, "none has begun"),
        (f"{CHANGES}| c | 1 | 2 |\n== also other.t\n| op | id |\n| c | 1 |\n", "other_source", 4, "'other'"),
        ("== changes shop.t\n", "no_op", 1, "op"),
        ("== changes shop.t\n| op | id |\n", "no_op", 2, "op"),
        ("== changes shop.t\n| id |\n| 1 |\n", "no_op", 2, "op"),
        ("== changes shop.t\n| op | id | totl |\n| c | 1 | 2 |\n", "column", 2, "'totl'"),
        ("== changes shop.t\n| op | id | id |\n| c | 1 | 2 |\n", "column", 2, "'id'"),
        (f"{CHANGES}| x | 1 | 2 |\n", "op", 3, "'x'"),
        ("== changes shop.t\n| op | t | id |\n| c | one | 2 |\n", "op", 3, "'c one'"),
        (f"{CHANGES}| c | 1 | 1.005 |\n", "value", 3, "'1.005' is no exact DECIMAL(12,2)"),
        (f"{CHANGES}| c | 1 | 1,000.00 |\n", "value", 3, "'1,000.00'"),
        (f"{CHANGES}| c | 1 | 99999999999.00 |\n", "value", 3, "'99999999999.00'"),
        ("== changes shop.u\n| op | a | b |\n| c | 1 | 2026-02-30 |\n", "value", 3, "'2026-02-30'"),
        (f"{CHANGES}| c | | 2 |\n", "no_key", 3, "id"),
        (f"{CHANGES}| c | 1 | 2 |\n| c | 1 | 2 |\n", "there_already", 4, "key 1 is there already"),
    ],
)
def test_what_can_not_be_read(tmp_path: Path, text: str, code: str, line: int, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEDGERTAIL_LANG", "en")
    (tmp_path / "tables.txt").write_text(TABLES, "utf-8")
    with pytest.raises(ConfigError) as raised:
        one = read(case(tmp_path, text))
        list(batches(one, schemas(one)))
    assert raised.value.code == f"cases.{code}"
    assert f"'{tmp_path / 'case.txt'}', line {line}: " in raised.value.message
    assert words in f"{raised.value.message} {raised.value.hint}"


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "case.txt").write_bytes(b"\xff\xfe")
    for path in (tmp_path / "case.txt", tmp_path / "none.txt"):
        with pytest.raises(ConfigError, match=path.name) as raised:
            read(path)
        assert raised.value.code == "cases.unreadable"
