"""Changes made whole: absent values, truncates, rows without key, and what is left for the mirror."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from cdc.accounting.complete import Completer
from cdc.errors import SchemaUnknown
from cdc.types import NUMBER, OP, ORDINAL, STAMP, TXN, TableSchema
from tests.changes import Change, Row, changes, one_batch, table

NOTES = table("notes", ["id"], id="BIGINT", note="VARCHAR", memo="VARCHAR", total="DECIMAL(12,2)")
PAIRS = table("pairs", ["a", "b"], a="BIGINT", b="VARCHAR", note="VARCHAR")
KEYLESS = table("log", [], kind="VARCHAR", total="DECIMAL(12,2)", on="DATE")
NOTE, MEMO = frozenset({"note"}), frozenset({"memo"})
Lookup = Callable[[pa.Table | None], Iterator[pa.Table]]


@pytest.fixture(scope="module")
def completer() -> Iterator[Completer]:
    made = Completer()
    yield made
    made.close()


def mirror(schema: TableSchema, *rows: Row, extra: str = "", page: int = 1000) -> Lookup:
    """A mirror of rows that answers as a sink does, in pages; keys may be asked for twice."""
    fields = [
        *schema.arrow(),
        *([pa.field(NUMBER, pa.int64())] if not schema.key else []),
        *([pa.field(STAMP, pa.int32())] if extra else []),
    ]

    def lookup(keys: pa.Table | None) -> Iterator[pa.Table]:
        found = list(rows)
        if keys is not None:
            wanted = [tuple(key.values()) for key in keys.to_pylist()]
            found = [row for row in rows if tuple(row[name] for name in keys.column_names) in wanted]
        for start in range(0, len(found), page):
            yield pa.Table.from_pylist(found[start : start + page], pa.schema(fields))

    return lookup


def values(rows: pa.Table, *names: str) -> list[tuple[Any, ...]]:
    return [tuple(row[name] for name in names) for row in rows.to_pylist()]


class TestFill:
    def test_without_absent_values_nothing_is_asked(self, completer: Completer) -> None:
        rows = one_batch(NOTES, Change("c", {"id": 1, "note": "a"}), Change("d", {"id": 1}), Change("u", {"id": 2}, old={"id": 1}))
        filled = completer.fill(NOTES, rows, lambda _: pytest.fail("the mirror was asked"))
        assert filled.column_names == [OP, TXN, ORDINAL, "id", "note", "memo", "total"]
        assert values(filled, OP, "id") == [("c", 1), ("d", 1), ("u", 2)]

    def test_from_the_mirror(self, completer: Completer) -> None:
        rows = one_batch(NOTES, Change("u", {"id": 1, "memo": "new"}, NOTE), Change("u", {"id": 2, "note": "y"}, MEMO))
        known = mirror(NOTES, {"id": 2, "note": "n2", "memo": "m2"}, {"id": 1, "note": "n1", "memo": "m1"})
        filled = completer.fill(NOTES, rows, known)
        assert filled.column_names == [OP, TXN, ORDINAL, "id", "note", "memo", "total"]
        assert values(filled, "id", "note", "memo") == [(1, "n1", "new"), (2, "y", "m2")]

    def test_from_a_staged_copy(self, completer: Completer) -> None:
        rows = one_batch(NOTES, Change("u", {"id": 1, "memo": "new"}, NOTE))
        assert values(completer.fill(NOTES, rows, mirror(NOTES, {"id": 1, "note": "n1", STAMP: 1}, extra=STAMP)), "note") == [("n1",)]

    def test_over_several_updates_of_a_row(self, completer: Completer) -> None:
        rows = one_batch(
            NOTES,
            Change("u", {"id": 1}, NOTE | MEMO),
            Change("u", {"id": 1, "memo": "m"}, NOTE),
            Change("u", {"id": 1}, NOTE | MEMO),
            Change("u", {"id": 1, "note": None}, MEMO),
            Change("u", {"id": 1}, NOTE | MEMO),
        )
        filled = completer.fill(NOTES, rows, mirror(NOTES, {"id": 1, "note": "n0", "memo": "m0"}))
        assert values(filled, "note", "memo") == [("n0", "m0"), ("n0", "m"), ("n0", "m"), (None, "m"), (None, "m")]

    def test_a_long_chain_takes_few_passes(self, completer: Completer) -> None:
        rows = one_batch(NOTES, *(Change("u", {"id": 1, "total": Decimal(i)}, NOTE) for i in range(3000)))
        assert values(completer.fill(NOTES, rows, mirror(NOTES, {"id": 1, "note": "n"})), "note") == [("n",)] * 3000

    def test_null_in_the_log_is_not_absent(self, completer: Completer) -> None:
        rows = one_batch(NOTES, Change("u", {"id": 1, "note": None}), Change("u", {"id": 1}, NOTE))
        assert values(completer.fill(NOTES, rows, mirror(NOTES, {"id": 1, "note": "n"})), "note") == [(None,), (None,)]

    def test_over_an_insert_of_the_same_batch(self, completer: Completer) -> None:
        rows = one_batch(NOTES, Change("c", {"id": 1, "note": "new"}), Change("u", {"id": 1, "memo": "m"}, NOTE))
        assert values(completer.fill(NOTES, rows, mirror(NOTES)), "note") == [("new",), ("new",)]

    def test_after_a_delete_and_an_insert_the_row_is_another(self, completer: Completer) -> None:
        rows = one_batch(NOTES, Change("d", {"id": 1}), Change("c", {"id": 1, "note": "second"}), Change("u", {"id": 1, "memo": "m"}, NOTE))
        filled = completer.fill(NOTES, rows, mirror(NOTES, {"id": 1, "note": "first"}))
        assert values(filled, OP, "note") == [("d", None), ("c", "second"), ("u", "second")]

    def test_over_a_key_change(self, completer: Completer) -> None:
        rows = one_batch(
            NOTES, Change("d", {"id": 1}), Change("u", {"id": 9, "memo": "m"}, NOTE, {"id": 1}), Change("u", {"id": 9}, NOTE | MEMO)
        )
        filled = completer.fill(NOTES, rows, mirror(NOTES, {"id": 1, "note": "n1"}))
        assert filled.column_names == [OP, TXN, ORDINAL, "id", "note", "memo", "total"]
        assert values(filled, "id", "note", "memo") == [(1, None, None), (9, "n1", "m"), (9, "n1", "m")]

    def test_over_a_swap_of_keys(self, completer: Completer) -> None:
        rows = one_batch(
            NOTES,
            *(Change("d", {"id": 1}), Change("u", {"id": 0}, NOTE, {"id": 1})),
            *(Change("d", {"id": 2}), Change("u", {"id": 1}, NOTE, {"id": 2})),
            *(Change("d", {"id": 0}), Change("u", {"id": 2}, NOTE, {"id": 0})),
        )
        filled = completer.fill(NOTES, rows, mirror(NOTES, {"id": 1, "note": "one"}, {"id": 2, "note": "two"}))
        assert [row for row in values(filled, OP, "id", "note") if row[0] == "u"] == [("u", 0, "one"), ("u", 1, "two"), ("u", 2, "one")]

    def test_of_a_composite_key_only_a_part_changes(self, completer: Completer) -> None:
        rows = one_batch(PAIRS, Change("d", {"a": 1, "b": "x"}), Change("u", {"a": 1, "b": "y"}, NOTE, {"b": "x"}))
        known = mirror(PAIRS, {"a": 1, "b": "x", "note": "right"}, {"a": 1, "b": "y", "note": "wrong"}, {"a": 2, "b": "x", "note": "wrong"})
        assert values(completer.fill(PAIRS, rows, known), "note") == [(None,), ("right",)]

    def test_a_mirror_that_answers_in_pages(self, completer: Completer) -> None:
        rows = one_batch(NOTES, *(Change("u", {"id": i}, NOTE) for i in range(10)))
        known = mirror(NOTES, *({"id": i, "note": f"n{i}"} for i in reversed(range(10))), page=3)
        assert values(completer.fill(NOTES, rows, known), "note") == [(f"n{i}",) for i in range(10)]

    @pytest.mark.parametrize(
        "rows",
        [
            [Change("u", {"id": 1}, NOTE)],
            [Change("u", {"id": 7}, NOTE), Change("u", {"id": 1}, NOTE)],
            [Change("d", {"id": 1}), Change("u", {"id": 2}, NOTE, {"id": 1})],
            [Change("u", {"id": 1}, NOTE), Change("u", {"id": 1, "note": "late"})],
        ],
    )
    def test_a_state_that_nobody_knows_halts(self, completer: Completer, rows: list[Change]) -> None:
        with pytest.raises(SchemaUnknown) as halted:
            completer.fill(NOTES, one_batch(NOTES, *rows), mirror(NOTES, {"id": 7, "note": "n"}))
        assert (halted.value.code, halted.value.values) == ("store.mirror_gap", {"table": "shop.notes"})

    def test_columns_of_any_name(self, completer: Completer) -> None:
        names = ["key", "rid", "former", "absent", "states", "p", "s", "j", "k0"]
        schema = table("t", ["key", "rid"], **dict.fromkeys(names, "VARCHAR"))
        rows = one_batch(
            schema,
            Change("d", {"key": "1", "rid": "1"}),
            Change("u", {"key": "2", "rid": "1", "p": "new"}, frozenset({"former", "absent"}), {"key": "1"}),
        )
        filled = completer.fill(schema, rows, mirror(schema, dict.fromkeys(names, "old") | {"key": "1", "rid": "1"}))
        assert values(filled, "key", "rid", "former", "absent", "p") == [("1", "1", None, None, None), ("2", "1", "old", "old", "new")]


class TestSegments:
    @pytest.mark.parametrize(
        ("ops", "expected"),
        [("cud", ["cud"]), ("t", ["t"]), ("ttc", ["t", "t", "c"]), ("cctuut", ["cc", "t", "uu", "t"]), ("tc", ["t", "c"]), ("", [])],
    )
    def test_a_truncate_stands_alone(self, completer: Completer, ops: str, expected: list[str]) -> None:
        rows = one_batch(NOTES, *(Change(op, {"id": i}) for i, op in enumerate(ops)))
        parts = list(completer.segments(rows))
        assert ["".join(part.column(OP).to_pylist()) for part in parts] == expected
        assert [n for part in parts for n in part.column(ORDINAL).to_pylist()] == list(range(len(ops)))

    def test_a_truncate_as_deletes(self, completer: Completer) -> None:
        truncate = changes(NOTES, [(3, 7, Change("t", {}))])
        mirrored = pa.concat_tables(mirror(NOTES, {"id": 1, "note": "a"}, {"id": 2, "note": "b"})(None))
        assert values(completer.deletes(NOTES, truncate, mirrored), OP, TXN, ORDINAL, "id", "note") == [
            ("d", 3, 7, 1, "a"),
            ("d", 3, 7, 2, "b"),
        ]

    def test_a_truncate_of_a_table_without_key(self, completer: Completer) -> None:
        mirrored = pa.concat_tables(mirror(KEYLESS, {"kind": "a", NUMBER: 1}, {"kind": "a", NUMBER: 2})(None))
        deleted = completer.deletes(KEYLESS, one_batch(KEYLESS, Change("t", {})), mirrored)
        assert values(deleted, "kind", NUMBER) == [("a", 1), ("a", 2)]
        assert sorted(values(completer.net(KEYLESS, deleted).deletes, "kind", NUMBER)) == [("a", 1), ("a", 2)]


class TestNumber:
    A, B, NULL = {"kind": "a", "total": Decimal("1.00")}, {"kind": "b"}, dict[str, Any]()

    def numbers(self, completer: Completer, known: Lookup, *rows: Change) -> list[int]:
        numbered = completer.number(KEYLESS, one_batch(KEYLESS, *rows), known)
        assert numbered.schema.field(NUMBER).type == pa.int64()
        return numbered.column(NUMBER).to_pylist()

    def test_equal_rows_count_up(self, completer: Completer) -> None:
        rows = [Change("c", self.A), Change("c", self.B), Change("c", self.A), Change("c", self.NULL), Change("r", self.NULL)]
        assert self.numbers(completer, mirror(KEYLESS), *rows) == [1, 1, 2, 1, 2]

    def test_a_delete_takes_the_last_of_its_equals(self, completer: Completer) -> None:
        full = {"on": None, "total": None, "kind": None}
        known = mirror(KEYLESS, full | self.A | {NUMBER: 1}, full | self.A | {NUMBER: 2}, full | {NUMBER: 1})
        rows = [
            Change("d", self.A),
            Change("u", self.A),
            Change("c", self.A),
            Change("d", self.A),
            Change("d", self.A),
            Change("d", self.A),
        ]
        assert self.numbers(completer, known, *rows) == [2, 2, 3, 3, 2, 1]
        assert self.numbers(completer, known, Change("d", self.NULL), Change("c", self.NULL), Change("c", self.NULL)) == [1, 1, 2]

    def test_a_delete_of_what_is_not_there_halts(self, completer: Completer) -> None:
        known = mirror(KEYLESS, {"on": None, "total": None, "kind": "a", NUMBER: 1})
        with pytest.raises(SchemaUnknown, match="log"):
            self.numbers(completer, known, Change("d", {"kind": "a"}), Change("d", {"kind": "a"}), Change("c", {"kind": "a"}))

    def test_columns_of_any_name(self, completer: Completer) -> None:
        schema = table("t", [], rid="VARCHAR", n="BIGINT", m="BIGINT")
        rows = one_batch(schema, Change("c", {"rid": "x", "n": 5}), Change("c", {"rid": "x", "n": 5}))
        known = mirror(schema, {"rid": "x", "n": 5, "m": None, NUMBER: 1})
        assert values(completer.number(schema, rows, known), "rid", "n", NUMBER) == [("x", 5, 2), ("x", 5, 3)]


class TestNewer:
    STAGED = pa.table({"id": [1, 2, 3], "note": ["a", "b", "c"], STAMP: pa.array([1, 2, 0], pa.int32())})

    def test_changes_of_rows_that_a_later_snapshot_read_are_dropped(self, completer: Completer) -> None:
        rows = one_batch(
            NOTES, Change("u", {"id": 2}), Change("d", {"id": 1}), Change("u", {"id": 3}), Change("c", {"id": 4}), Change("d", {"id": 2})
        )
        left = completer.newer(NOTES, rows, self.STAGED, 2)
        assert values(left, OP, "id", ORDINAL) == [("d", 1, 1), ("u", 3, 2), ("c", 4, 3)]
        assert left.column_names == rows.column_names
        assert completer.newer(NOTES, rows, self.STAGED, 1).column("id").to_pylist() == [3, 4]
        assert completer.newer(NOTES, rows, self.STAGED, 3).num_rows == 5

    def test_columns_of_any_name(self, completer: Completer) -> None:
        schema = table("t", ["rid"], rid="BIGINT", s="VARCHAR", r="VARCHAR")
        staged = pa.table({"rid": pa.array([1], pa.int64()), "s": ["x"], "r": ["x"], STAMP: pa.array([1], pa.int32())})
        rows = one_batch(schema, Change("u", {"rid": 2}), Change("u", {"rid": 1}))
        assert completer.newer(schema, rows, staged, 1).column("rid").to_pylist() == [2]


class TestNet:
    def test_the_last_state_of_each_key(self, completer: Completer) -> None:
        rows = one_batch(
            NOTES,
            *(Change("c", {"id": 1, "note": "a"}), Change("u", {"id": 1, "note": "b"})),
            *(Change("u", {"id": 2, "note": "c"}), Change("u", {"id": 2, "note": "d"})),
            *(Change("c", {"id": 3}), Change("d", {"id": 3})),
            Change("d", {"id": 4}),
            *(Change("d", {"id": 5}), Change("c", {"id": 5, "note": "e"})),
        )
        net = completer.net(NOTES, rows)
        assert net.staged is None and not net.replace
        assert sorted(values(net.deletes, "id")) == [(2,), (4,), (5,)]
        assert sorted(values(net.upserts, "id", "note")) == [(1, "b"), (2, "d"), (5, "e")]
        assert net.upserts.column_names == ["id", "note", "memo", "total"]

    def test_a_staged_copy_may_have_what_the_log_inserts(self, completer: Completer) -> None:
        net = completer.net(NOTES, one_batch(NOTES, Change("c", {"id": 1}), Change("d", {"id": 1})), staged=0)
        assert (net.staged, values(net.deletes, "id"), net.upserts.num_rows) == (0, [(1,)], 0)

    def test_columns_of_any_name(self, completer: Completer) -> None:
        schema = table("t", ["rid", "first"], rid="BIGINT", first="VARCHAR", last="VARCHAR")
        net = completer.net(
            schema,
            one_batch(schema, Change("u", {"rid": 9, "first": "c", "last": "a"}), Change("u", {"rid": 9, "first": "c", "last": "b"})),
        )
        assert (values(net.deletes, "rid", "first"), values(net.upserts, "last")) == ([(9, "c")], [("b",)])


class TestRowsOf:
    ODD = table(
        "odd",
        ['say "hi"', "p", "on", "at", "row_key", "h"],
        **{
            'say "hi"': "VARCHAR",
            "p": "DECIMAL(38,6)",
            "on": "DATE",
            "at": "TIMESTAMPTZ",
            "row_key": "VARCHAR",
            "h": "BIGINT",
            "x": "VARCHAR",
        },
    )
    ROW: Row = {  # noqa: RUF012
        'say "hi"': 'a"b\\',
        "p": Decimal("12345678901234567890.123400"),
        "on": date(2026, 1, 31),
        "at": datetime(2026, 1, 31, 1, 2, 3, 456, tzinfo=UTC),
        "row_key": "it's",
        "h": 2**63 - 1,
        "x": "found",
    }
    KEY = (
        r'{"say \"hi\"": "a\"b\\", "p": 12345678901234567890.123400, "on": "2026-01-31", "at": "2026-01-31 01:02:03.000456+00", '
        r'"row_key": "it' + "'" + r's", "h": 9223372036854775807}'
    )

    def test_rows_by_keys_of_every_kind(self, completer: Completer) -> None:
        asked: list[Row] = []

        def known(keys: pa.Table | None) -> Iterator[pa.Table]:
            assert keys is not None
            asked.extend(keys.to_pylist())
            yield from mirror(self.ODD, self.ROW, self.ROW | {"h": 1})(keys)

        found = completer.rows_of(self.ODD, [self.KEY], known)
        assert asked == [{name: value for name, value in self.ROW.items() if name != "x"}]
        assert values(found, "x", "h") == [("found", 2**63 - 1)]

    def test_keys_that_are_no_longer_there_give_no_rows(self, completer: Completer) -> None:
        found = completer.rows_of(NOTES, ['{"id": 1}', '{"id": 2}'], mirror(NOTES, {"id": 2, "note": "n"}))
        assert values(found, "id", "note") == [(2, "n")]
        assert completer.rows_of(NOTES, ['{"id": 1}'], mirror(NOTES)).num_rows == 0

    def test_one_of_equal_rows_without_key(self, completer: Completer) -> None:
        row = {"kind": None, "total": Decimal("1.50"), "on": date(2026, 1, 31)}
        known = mirror(KEYLESS, row | {NUMBER: 1}, row | {NUMBER: 2})
        found = completer.rows_of(KEYLESS, ['{"kind": null, "total": 1.50, "on": "2026-01-31", "#": 2}'], known)
        assert values(found, "total", NUMBER) == [(Decimal("1.50"), 2)]

    def test_a_boolean_is_a_key_too(self, completer: Completer) -> None:
        schema = table("flags", ["ok"], ok="BOOLEAN", note="VARCHAR")
        known = mirror(schema, {"ok": True, "note": "yes"}, {"ok": False, "note": "no"})
        assert values(completer.rows_of(schema, ['{"ok": true}'], known), "note") == [("yes",)]
