"""pgoutput's messages, built by hand, through the decoder."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc.decode.postgres.pgoutput import Decoder, Relation, RelationColumn, lsn_int, lsn_text
from cdc.decode.postgres.pgtypes import PgType, map_column
from cdc.errors import SchemaUnknown, SourceError, ValueUnfit
from cdc.types import TRANSACTIONS, TableSchema
from tests import kernels
from tests.messages import LINES, LOG, ORDERS, UNCHANGED, begin, commit, delete, insert, relation, text, truncate, update


@pytest.fixture(autouse=True, scope="module", params=kernels.FORMS)
def _kernel(request: pytest.FixtureRequest) -> Iterator[None]:
    """Everything here holds for both forms of the kernel."""
    with kernels.demanded("postgres", request.param):
        yield


def schema(table: str, columns: str, key: tuple[str, ...] = ("id",)) -> TableSchema:
    types = {"id": PgType("int8"), "total": PgType("numeric", (18 << 16 | 2) + 4)}
    return TableSchema("shop", table, tuple(map_column(name, types.get(name, PgType("text")), None) for name in columns.split()), key)


SCHEMAS = {
    "orders": schema("orders", "id total note"),
    "lines": schema("lines", "id no", ("id", "no")),
    "log": schema("log", "what who", ()),
}


def decoder() -> Decoder:
    return Decoder(lambda relation: SCHEMAS.get(relation.name))


def decoded(*frames: bytes) -> tuple[Decoder, dict[str, pa.Table]]:
    """A decoder fed with one transaction of the frames, and what it gave, by table."""
    made = decoder()
    whole = [begin(), *frames, commit()]
    assert made.feed(whole) == len(whole)
    return made, {changes.schema.table: changes.rows for changes in made.take()[1]}


def rows(table: pa.Table, *names: str) -> list[tuple[Any, ...]]:
    return list(zip(*(table[name].cast(pa.string()).to_pylist() for name in names), strict=True))


def test_lsn_text() -> None:
    assert lsn_text(0x1_0016_B374) == "1/16B374"
    assert lsn_int("1/16B374") == 0x1_0016_B374
    assert lsn_text(lsn_int("FFFFFFFF/FFFFFFFF")) == "FFFFFFFF/FFFFFFFF"


def test_insert() -> None:
    made, tables = decoded(relation(), insert(1, "12.50", "客户"), insert(2, None, ""))
    assert tables["orders"].column_names == ["#op", "#txn", "#ordinal", "id", "total", "note"]
    assert rows(tables["orders"], "#op", "#txn", "#ordinal", "id", "total", "note") == [
        ("c", "0", "0", "1", "12.50", "客户"),
        ("c", "0", "1", "2", None, ""),
    ]
    assert tables["orders"].schema.field("total").type == pa.decimal128(18, 2)
    assert (made.position, made.in_transaction, made.pending_rows, made.pending_bytes) == ("0/16B3780", False, 0, 0)


def test_transactions() -> None:
    made = decoder()
    made.feed([begin(10, 1), relation(), insert(1, 1, 1), commit(10, 20), begin(30, 2), commit(30, 40), begin(50, 3), insert(2, 1, 1)])
    transactions, (changes,) = made.take()
    assert transactions.schema == TRANSACTIONS
    committed_at = datetime(2000, 1, 1, 0, 0, 1, tzinfo=UTC)
    assert transactions.to_pylist() == [
        {"position": "0/A", "txn": "1", "committed_at": committed_at},
        {"position": "0/32", "txn": "3", "committed_at": committed_at},
    ]
    assert rows(changes.rows, "#txn", "#ordinal", "id") == [("0", "0", "1"), ("1", "0", "2")]
    assert made.position == "0/28"
    assert made.in_transaction


def test_take_inside_a_transaction_goes_on_counting() -> None:
    made = decoder()
    made.feed([begin(10), relation(), insert(1, 1, "x" * 100), insert(2, 1, "x" * 100)])
    assert made.pending_rows == 2
    assert made.pending_bytes == len(insert(1, 1, "x" * 100)) * 2
    first, _ = made.take()
    assert made.take()[0].num_rows == 0
    made.feed([insert(3, 1, 1), commit(10)])
    second, (changes,) = made.take()
    assert first == second
    assert rows(changes.rows, "#txn", "#ordinal") == [("0", "2")]


def test_order_over_tables() -> None:
    _, tables = decoded(
        relation(),
        relation(LINES, "lines", columns="id! no!"),
        insert(1, 1, 1),
        insert(1, 1, relid=LINES),
        update([1, 2, 1]),
        truncate(LINES, ORDERS),
    )
    assert rows(tables["orders"], "#op", "#ordinal", "total") == [("c", "0", "1.00"), ("u", "2", "2.00"), ("t", "4", None)]
    assert rows(tables["lines"], "#op", "#ordinal", "id") == [("c", "1", "1"), ("t", "3", None)]


def test_delete_by_key() -> None:
    _, tables = decoded(relation(), delete([5, None, None]))
    assert rows(tables["orders"], "#op", "id", "total", "note") == [("d", "5", None, None)]


def test_delete_under_full_identity_has_all_columns() -> None:
    _, tables = decoded(relation(identity="f", columns="id! total! note!"), delete([5, 2, "x"], b"O"))
    assert rows(tables["orders"], "#op", "id", "total", "note") == [("d", "5", "2.00", "x")]


def test_unchanged_value_is_absent_not_null() -> None:
    _, tables = decoded(relation(), insert(1, 1, "a"), update([1, None, UNCHANGED]), update([1, UNCHANGED, UNCHANGED]))
    assert tables["orders"]["#absent"].to_pylist() == [None, [2], [1, 2]]
    assert rows(tables["orders"], "total", "note") == [("1.00", "a"), (None, None), (None, None)]


def test_key_change_is_a_delete_and_an_update() -> None:
    _, tables = decoded(relation(), update([2, 1, UNCHANGED], [1, None, None]), update([3, 1, "x"]))
    assert rows(tables["orders"], "#op", "#ordinal", "id", "#old:id") == [
        ("d", "0", "1", None),
        ("u", "1", "2", "1"),
        ("u", "2", "3", None),
    ]
    assert tables["orders"]["#absent"].to_pylist() == [None, [2], None]
    assert tables["orders"]["#old:id"].type == pa.chunked_array([[]], pa.int64()).type


def test_composite_key_change_has_the_whole_old_key() -> None:
    _, tables = decoded(relation(LINES, "lines", columns="id! no!"), update([1, 9], [1, 8], relid=LINES))
    assert rows(tables["lines"], "#op", "id", "no", "#old:id", "#old:no") == [("d", "1", "8", None, None), ("u", "1", "9", "1", "8")]


def test_key_stored_apart_is_taken_from_the_old_row() -> None:
    _, tables = decoded(relation(LINES, "lines", columns="id! no!"), update([1, UNCHANGED], [1, "long"], relid=LINES))
    assert rows(tables["lines"], "#op", "id", "no") == [("u", "1", "long")]
    assert "#absent" not in tables["lines"].column_names
    assert "#old:id" not in tables["lines"].column_names


def test_full_identity_fills_unchanged_values() -> None:
    full = relation(identity="f", columns="id! total! note!")
    _, tables = decoded(full, update([1, 2, UNCHANGED], [1, 1, "toast"], b"O"), update([2, UNCHANGED, UNCHANGED], [1, None, "toast"], b"O"))
    assert rows(tables["orders"], "#op", "id", "total", "note") == [
        ("u", "1", "2.00", "toast"),
        ("d", "1", None, "toast"),
        ("u", "2", None, "toast"),
    ]
    assert "#absent" not in tables["orders"].column_names


def test_table_without_key() -> None:
    full = relation(LOG, "log", "f", "what! who!")
    _, tables = decoded(
        full,
        insert("a", None, relid=LOG),
        update(["b", None], ["a", None], b"O", LOG),
        update(["b", UNCHANGED], ["b", "x"], b"O", LOG),
        delete(["b", "x"], b"O", LOG),
    )
    assert rows(tables["log"], "#op", "#ordinal", "what", "who") == [
        ("c", "0", "a", None),
        ("d", "1", "a", None),
        ("c", "2", "b", None),
        ("d", "3", "b", "x"),
    ]


@pytest.mark.parametrize(
    "frame",
    [update(["b", "x"], relid=LOG), update(["b", "x"], ["a", "x"], b"K", LOG), delete(["a", None], b"K", LOG)],
    ids=["none", "key", "delete"],
)
def test_table_without_key_needs_the_old_row(frame: bytes) -> None:
    with pytest.raises(SchemaUnknown, match="does not say which") as raised:
        decoded(relation(LOG, "log", "d", "what who"), frame)
    assert 'ALTER TABLE "public"."log" REPLICA IDENTITY FULL' in raised.value.hint


@pytest.mark.parametrize("frame", [update([UNCHANGED, 1, 1]), delete([None, 1, 1]), insert(None, 1, 1)], ids=["absent", "delete", "insert"])
def test_row_without_its_key(frame: bytes) -> None:
    with pytest.raises(SchemaUnknown, match="does not say which"):
        decoded(relation(), frame)


def test_columns_by_name_those_not_in_the_schema_ignored() -> None:
    _, tables = decoded(
        relation(columns="extra note id! gone total"), insert("e", "n", 1, "g", 3), update([UNCHANGED, UNCHANGED, 1, "g", UNCHANGED])
    )
    assert rows(tables["orders"], "id", "total", "note") == [("1", "3.00", "n"), ("1", None, None)]
    assert tables["orders"]["#absent"].to_pylist() == [None, [1, 2]]


def test_column_of_the_schema_missing() -> None:
    with pytest.raises(SchemaUnknown, match="lost column 'note'"):
        decoded(relation(columns="id! total"))


def test_identity_without_the_key() -> None:
    with pytest.raises(SchemaUnknown, match="key column 'id'"):
        decoded(relation(identity="i", columns="id total! note"))


def test_resolve_sees_the_relation() -> None:
    seen: list[Relation] = []
    made = Decoder(lambda relation: seen.append(relation))
    made.feed([begin(), relation(identity="f"), insert(1, 2, 3), update([1, 2, 3]), delete([1]), truncate(ORDERS), commit()])
    columns = (RelationColumn("id", 25, -1, True), RelationColumn("total", 25, -1, False), RelationColumn("note", 25, -1, False))
    assert seen == [Relation(ORDERS, "public", "orders", "f", columns)]
    assert str(seen[0]) == '"public"."orders"'
    assert made.pending_rows == made.pending_bytes == 0
    assert made.take()[0].num_rows == 0
    assert made.position == "0/16B3780"


def test_repeated_relation_does_not_cut() -> None:
    frames = [begin(), relation(), insert(1, 1, 1), relation(), insert(2, 1, 1), commit()]
    assert decoder().feed(frames) == len(frames)


@pytest.mark.parametrize(
    "changed",
    [relation(columns="id! total note more"), relation(identity="f"), relation(name="renamed"), relation(relid=101)],
    ids=["column", "identity", "renamed", "created anew"],
)
def test_changed_relation_waits_for_take(changed: bytes) -> None:
    made = decoder()
    frames = [begin(), relation(), insert(1, 1, 1), changed, commit()]
    assert made.feed(frames) == 3
    assert made.feed(frames, 3) == 3
    assert made.take()[1][0].rows.num_rows == 1
    assert made.feed(frames, 3) == len(frames)


def test_changed_relation_without_pending_rows_does_not_wait() -> None:
    frames = [begin(), relation(), relation(LINES, "lines", columns="id! no!"), insert(1, 1, relid=LINES), relation(identity="f"), commit()]
    assert decoder().feed(frames) == len(frames)


def test_stops_before_a_position() -> None:
    made = decoder()
    frames = [begin(10), relation(), insert(1, 1, 1), commit(10, 20), begin(30), insert(2, 1, 1), commit(30, 40)]
    assert made.feed(frames, before=30) == 4
    assert made.feed(frames, 4, before=30) == 4
    assert made.feed(frames, 4, before=31) == 7
    assert made.position == "0/28"


def test_origin_type_and_message_change_nothing() -> None:
    origin = b"O" + struct.pack(">Q", 1) + text("other")
    kind = b"Y" + struct.pack(">I", 9) + text("public") + text("mood")
    message = b"M" + struct.pack(">BQ", 1, 5) + text("prefix") + struct.pack(">I", 3) + b"a\0b"
    _, tables = decoded(origin, kind, message, relation(), insert(1, 1, 1))
    assert tables["orders"].num_rows == 1
    for frame in (origin, kind, message):
        for end in range(1, len(frame)):
            with pytest.raises(SourceError, match="malformed"):
                decoded(frame[:end])


@pytest.mark.parametrize("kind", b"SEcAbPKrp\0\xff")
def test_unknown_message_halts(kind: int) -> None:
    with pytest.raises(SourceError, match="unknown kind"):
        decoded(bytes([kind]) + b"rest")


WHOLE = {
    "begin": [begin()],
    "commit": [begin(), commit()],
    "relation": [begin(), relation()],
    "insert": [begin(), relation(), insert(1, "12.5", "note")],
    "update": [begin(), relation(), update([1, UNCHANGED, None])],
    "update with key": [begin(), relation(), update([1, 2, "x"], [2, None, None])],
    "update with row": [begin(), relation(identity="f"), update([1, 2, UNCHANGED], [2, None, "y"], b"O")],
    "delete": [begin(), relation(), delete([1, None, None])],
    "truncate": [begin(), relation(), truncate(ORDERS)],
}


@pytest.mark.parametrize("frames", WHOLE.values(), ids=WHOLE)
def test_any_wrong_length_halts(frames: list[bytes]) -> None:
    *before, last = frames
    for wrong in [*(last[:end] for end in range(len(last))), last + b"\0"]:
        made = decoder()
        with pytest.raises(SourceError, match="malformed"):
            made.feed([*before, wrong])
            made.take()


@pytest.mark.parametrize(
    "frames",
    [
        [begin(), begin()],
        [commit()],
        [begin(10), commit(11)],
        [insert(1, 1, 1)],
        [begin(), insert(1, 1, 1)],
        [begin(), truncate(ORDERS)],
        [begin(), relation(), insert(1, 1)],
        [begin(), relation(), insert(1, 1, UNCHANGED)],
        [begin(), relation(), delete([1, UNCHANGED, None])],
        [begin(), relation(), update([1, 1, 1], [1, UNCHANGED, 1], b"O")],
        [begin(), relation(), insert(1, 1, 1).replace(b"t", b"b", 1)],
        [begin(), relation(), insert(1, 1, 1).replace(b"N", b"K")],
        [begin(), relation(), delete([1, 1, 1], b"N")],
        [begin(), relation(), insert(1, 1, 1).replace(b"t\0\0\0\1", b"t\xff\xff\xff\xff", 1)],
        [begin(), relation(), insert(1, 1, 1)[:-1], b"x" + insert(1, 1, 1)],
    ],
)
def test_what_does_not_fit_halts(frames: list[bytes]) -> None:
    made = decoder()
    with pytest.raises(SourceError):
        made.feed(frames)
        made.take()


def test_a_length_may_not_reach_into_the_next_message() -> None:
    """The rows of a table are read together: a row too long must not be made up for by one too short."""
    longer, shorter = insert(1, 1, "abc"), insert(2, 1, "abc")
    made = decoder()
    made.feed([begin(), relation(), longer[:-4] + b"\4abc", shorter[:-4] + b"\2abc"])
    with pytest.raises(SourceError, match="malformed"):
        made.take()


def test_value_without_target() -> None:
    made = decoder()
    made.feed([begin(), relation(), insert(1, "NaN", "x"), commit()])
    with pytest.raises(ValueUnfit, match=r"'orders', column 'total'.*'NaN'"):
        made.take()


def test_text_that_is_not_utf8() -> None:
    made = decoder()
    made.feed([begin(), relation(), insert(1, 1, "xx").replace(b"xx", b"\xff\xfe"), commit()])
    with pytest.raises(ValueUnfit, match="not valid UTF-8"):
        made.take()


def test_blocks_held_for_few_rows_count() -> None:
    made = decoder()
    made.feed([begin(), relation(), relation(7, "skipped")])
    for _ in range(10):
        made.feed([insert(2, 1, 1), *[insert(1, 1, "x" * 1000, relid=7)] * 100])
    assert made.pending_bytes > 500_000
    made.take()
    assert made.pending_bytes == 0


def test_rows_read_in_many_parts_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = [
        relation(),
        *(insert(i, None if i % 3 else i, "x" * (i % 300)) for i in range(500)),
        *(update([i, 1, UNCHANGED]) for i in range(50)),
    ]
    _, whole = decoded(*frames)
    made = decoder()
    for frame in [begin(), *frames, commit()]:
        assert made.feed([frame]) == 1
    assert made.take()[1][0].rows.combine_chunks() == whole["orders"].combine_chunks()
    assert rows(whole["orders"], "id", "note")[299] == ("299", "x" * 299)
    assert rows(whole["orders"], "total")[3] == ("3.00",)
    assert whole["orders"]["#absent"].null_count == 500


values = st.none() | st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=400)


@given(st.lists(st.tuples(st.integers(0, 2**62), values), min_size=1, max_size=20))
def test_any_text_comes_through(pairs: list[tuple[int, str | None]]) -> None:
    _, tables = decoded(relation(columns="total id! note"), *(insert(None, number, note) for number, note in pairs))
    assert list(zip(tables["orders"]["id"].to_pylist(), tables["orders"]["note"].to_pylist(), strict=True)) == pairs
