"""Transactions of a binlog, built by hand, through the decoder: places, batches, statements, rollbacks."""

from __future__ import annotations

import struct
from datetime import UTC, datetime

import pyarrow as pa
import pytest

from cdc.decode.mysql import pending
from cdc.decode.mysql.binlog import Decoder
from cdc.decode.mysql.gtid import parse_gtids
from cdc.decode.mysql.wire import Place, Statement
from cdc.types import TRANSACTIONS
from tests.binlogs import (
    ANONYMOUS,
    ARTIFICIAL,
    COMMITTED_AT,
    HEARTBEAT,
    HEARTBEAT_V2,
    INT,
    INTVAR,
    LINES,
    LINES_MAP,
    MARIADB_GTID,
    MARIADB_WRITE,
    ORDER_COLUMNS,
    ORDERS,
    ORDERS_MAP,
    QUERY,
    ROTATE,
    STARTED_AT,
    STOP,
    TABLES,
    TEXT,
    UUID,
    WIDER,
    XID,
    Log,
    altered,
    decoded,
    decoder,
    delete,
    fault,
    gtid,
    mariadb_gtid,
    nothing,
    query,
    raw,
    refuse,
    resolve,
    rows,
    rows_body,
    statement,
    table_map,
    taken,
    telling,
    update,
    write,
)

pytestmark = pytest.mark.usefixtures("mysql_kernel")


def test_a_transaction() -> None:
    log, made = Log(), decoder(refuse)
    start = log.transaction(ORDERS_MAP, write(ORDERS, (1, "客户", 5), (2, None, None)), write(ORDERS, (3, "", 7)))
    assert made.feed(log) == len(log)
    transactions, (changes,) = made.take()
    assert transactions.schema == TRANSACTIONS
    committed_at = datetime.fromtimestamp(COMMITTED_AT, UTC)
    assert transactions.to_pylist() == [{"position": f"binlog.000003:{start}", "txn": f"{UUID}:17", "committed_at": committed_at}]
    assert rows(changes) == [("c", 0, 0, 1, "客户", 5), ("c", 0, 1, 2, None, None), ("c", 0, 2, 3, "", 7)]
    assert changes.schema == TABLES["orders"].schema
    assert (made.position, made.file, made.born) == (Place(3, log.offset), "binlog.000003", STARTED_AT)
    assert (made.gtids, made.in_transaction, made.pending_rows, made.pending_bytes) == (parse_gtids(f"{UUID}:17"), False, 0, 0)


def test_transactions_without_captured_changes_are_passed() -> None:
    log, made = Log(), decoder()
    log.transaction(table_map(9, "other", ORDER_COLUMNS), write(9, (1, "x", 1)), number=1)
    log.transaction(table_map(8, "orders", ORDER_COLUMNS, database="elsewhere"), write(8, (1, "x", 1)), number=2)
    start = log.transaction(ORDERS_MAP, write(ORDERS, (1, "x", 1)), number=3)
    assert made.feed(log) == len(log)
    transactions, (changes,) = made.take()
    assert transactions["position"].to_pylist() == [f"binlog.000003:{start}"]
    assert rows(changes) == [("c", 0, 0, 1, "x", 1)]
    assert made.gtids == parse_gtids(f"{UUID}:1-3")


def test_ordinals_count_over_all_tables() -> None:
    log = Log()
    log.transaction(ORDERS_MAP, LINES_MAP, write(ORDERS, (1, "x", 1)), write(LINES, (1, 1), (1, 2)), write(ORDERS, (2, "y", 1)))
    log.transaction(LINES_MAP, delete(LINES, (1, 1)), number=18)
    assert decoded(log) == {
        "orders": [("c", 0, 0, 1, "x", 1), ("c", 0, 3, 2, "y", 1)],
        "lines": [("c", 0, 1, 1, 1), ("c", 0, 2, 1, 2), ("d", 1, 0, 1, 1)],
    }


def test_servers_without_gtids() -> None:
    told: list[Statement] = []
    log = Log()
    made = decoder(telling(told))
    start = log.add(QUERY, query("BEGIN"), at=1_700_000_500)
    log.extend_by(ORDERS_MAP, write(ORDERS, (1, "x", 1)))
    log.add(QUERY, query("COMMIT"))
    log.add(INTVAR, bytes(9))
    log.add(QUERY, query("CREATE TABLE other (id INT)", error=5))
    assert made.feed(log) == len(log)
    transactions, _ = made.take()
    committed_at = datetime.fromtimestamp(1_700_000_500, UTC)
    assert transactions.to_pylist() == [{"position": f"binlog.000003:{start}", "txn": None, "committed_at": committed_at}]
    assert told == [Statement("CREATE TABLE other (id INT)", "shop", 0, 5)]
    assert (made.position, made.gtids, made.in_transaction) == (Place(3, log.offset), None, False)


def test_anonymous_gtids_tell_the_time_only() -> None:
    log, made = Log(), decoder()
    log.add(ANONYMOUS, gtid(1, 1_700_000_999_000_001))
    log.add(QUERY, query("BEGIN"))
    log.extend_by(ORDERS_MAP, write(ORDERS, (1, "x", 1)), (XID, bytes(8)))
    assert made.feed(log) == len(log)
    transactions, _ = made.take()
    assert transactions["txn"].to_pylist() == [None]
    assert transactions["committed_at"].cast(pa.int64()).to_pylist() == [1_700_000_999_000_001]
    assert made.gtids is None


def test_mariadb_transactions() -> None:
    told: list[Statement] = []
    log = Log()
    made = decoder(telling(told), mariadb=True)
    first = log.add(MARIADB_GTID, mariadb_gtid(5, 0x0C), server=7, at=1_700_000_500)
    log.add(*ORDERS_MAP, told=False)
    log.add(MARIADB_WRITE, rows_body(ORDERS, [(1, "x", 1)], extra=False), told=False)
    log.add(XID, bytes(8))
    log.add(MARIADB_GTID, mariadb_gtid(6, 0x29), server=7)
    log.add(QUERY, query("CREATE TABLE other (id INT)"))
    second = log.add(MARIADB_GTID, mariadb_gtid(1, 0x0E, bytes(8), domain=3), server=8)
    log.add(*ORDERS_MAP, told=False)
    log.add(MARIADB_WRITE, rows_body(ORDERS, [(2, "y", 1)], extra=False), told=False)
    log.add(QUERY, query("COMMIT"))
    assert made.feed(log) == len(log)
    transactions, (changes,) = made.take()
    assert transactions["position"].to_pylist() == [f"binlog.000003:{first}", f"binlog.000003:{second}"]
    assert transactions["txn"].to_pylist() == ["0-7-5", "3-8-1"]
    assert transactions["committed_at"].to_pylist()[0] == datetime.fromtimestamp(1_700_000_500, UTC)
    assert rows(changes) == [("c", 0, 0, 1, "x", 1), ("c", 1, 0, 2, "y", 1)]
    assert (str(made.gtids), made.position) == ("0-7-6,3-8-1", Place(3, log.offset))
    assert [one.text for one in told] == ["CREATE TABLE other (id INT)"]


def test_the_first_half_of_a_two_phase_alter_has_no_effect() -> None:
    told: list[Statement] = []
    log = Log()
    for number, extra in ((1, b"\2"), (2, b"\4" + bytes(8)), (3, b"\2"), (4, b"\10" + bytes(8))):
        log.add(MARIADB_GTID, mariadb_gtid(number, 0x29, extra + bytes(6)))
        log.add(QUERY, query(f"ALTER {number}"))
    decoded(log, decoder(telling(told), mariadb=True))
    assert [one.text for one in told] == ["ALTER 2"]


def test_offsets_go_beyond_what_headers_hold() -> None:
    log = Log(offset=(1 << 32) - 100)
    made = decoder(offset=log.offset)
    places = [log.transaction(ORDERS_MAP, write(ORDERS, (number, "x" * 60, 1)), number=number) for number in range(1, 5)]
    assert made.feed(log) == len(log)
    transactions, _ = made.take()
    assert transactions["position"].to_pylist() == [f"binlog.000003:{place}" for place in places]
    assert places[0] < 1 << 32 < places[1]
    assert made.position == Place(3, log.offset)


def test_a_heartbeat_tells_how_far_offsets_are_and_moves_nothing() -> None:
    log, made = Log(), decoder()
    log.transaction(ORDERS_MAP, write(ORDERS, (1, "x", 1)))
    before = Place(3, log.offset)
    far = (3 << 32) + 5000
    name = b"binlog.000003"
    body = b"\1" + bytes([len(name)]) + name + b"\2\x09\xfe" + far.to_bytes(8, "little") + b"\0"
    log.append(raw(HEARTBEAT_V2, body, 0, flags=ARTIFICIAL))
    log.append(raw(HEARTBEAT, name, 200, flags=ARTIFICIAL))
    log.append(raw(HEARTBEAT, name, 4_000_000_000))
    assert made.feed(log) == len(log)
    assert made.position == before
    rest = Log(offset=far)
    start = rest.transaction(ORDERS_MAP, write(ORDERS, (2, "x", 1)), number=18)
    assert made.feed(rest[2:]) == len(rest) - 2
    assert made.take()[0]["position"].to_pylist()[1:] == [f"binlog.000003:{start}"]
    assert made.position == Place(3, rest.offset)


def test_rotation() -> None:
    log, made = Log(), decoder()
    log.transaction(ORDERS_MAP, write(ORDERS, (1, "x", 1)))
    log.add(ROTATE, struct.pack("<Q", 4) + b"binlog.000004")
    assert made.feed(log) == len(log)
    assert (made.position, made.file, made.born) == (Place(4, 4), "binlog.000004", None)
    following = Log(file="binlog.000004")
    start = following.transaction(ORDERS_MAP, write(ORDERS, (2, "x", 1)), number=18)
    following.add(STOP, b"")
    assert made.feed(following) == len(following)
    assert made.take()[0]["position"].to_pylist()[1:] == [f"binlog.000004:{start}"]
    assert (made.position, made.file, made.born) == (Place(4, following.offset), "binlog.000004", STARTED_AT)


def test_a_session_begins_where_the_server_says() -> None:
    log = Log(offset=5000, file="mysql-bin.000012")
    made = decoder(file="", offset=0)
    start = log.transaction(ORDERS_MAP, write(ORDERS, (1, "x", 1)))
    assert made.feed(log) == len(log)
    assert made.take()[0]["position"].to_pylist() == [f"mysql-bin.000012:{start}"]
    assert made.position == Place(12, log.offset)


def test_what_a_server_that_went_down_had_not_finished() -> None:
    log, made = Log(), decoder()
    log.transaction(ORDERS_MAP, write(ORDERS, (1, "x", 1)))
    log.begin(18)
    log.extend_by(ORDERS_MAP, write(ORDERS, (2, "x", 1)))
    log += Log(file="binlog.000004", started=True)
    assert decoded(log, made) == {"orders": [("c", 0, 0, 1, "x", 1)]}
    assert (made.in_transaction, made.gtids) == (False, parse_gtids(f"{UUID}:17"))


def test_table_maps_are_forgotten_when_a_server_started() -> None:
    asked: list[int] = []
    made = Decoder(lambda table: asked.append(table.table_id) or resolve(table), nothing, mariadb=False, file="", offset=0)
    log = Log()
    for number in (1, 2):
        log.transaction(ORDERS_MAP, write(ORDERS, (number, "x", 1)), number=number)
    log += Log(file="binlog.000004")
    log.append(raw(STOP, b"", 0, flags=ARTIFICIAL))
    assert made.feed(log) == len(log)
    assert asked == [ORDERS]
    log = Log(file="binlog.000005", started=True)
    log.transaction(ORDERS_MAP, write(ORDERS, (3, "x", 1)), number=3)
    assert made.feed(log) == len(log)
    assert asked == [ORDERS, ORDERS]


def test_without_checksums() -> None:
    log = Log(checksum=False)
    log.transaction(ORDERS_MAP, write(ORDERS, (1, "x", 1)))
    assert decoded(log) == {"orders": [("c", 0, 0, 1, "x", 1)]}


def test_feed_stops_before_a_place() -> None:
    log, made = Log(), decoder()
    log.transaction(ORDERS_MAP, write(ORDERS, (1, "x", 1)))
    end = Place(3, log.offset)
    first = len(log)
    second = log.transaction(ORDERS_MAP, write(ORDERS, (2, "x", 1)), number=18)
    assert made.feed(log, 0, Place(3, second)) == first
    assert (made.position, made.in_transaction) == (end, False)
    assert taken(made) == {"orders": [("c", 0, 0, 1, "x", 1)]}
    assert made.feed(log, first, Place(3, second)) == first
    assert made.feed(log, first, Place(3, second + 1)) == len(log)
    assert taken(made) == {"orders": [("c", 0, 0, 2, "x", 1)]}


def test_feed_stops_after_a_transaction_once_there_is_enough() -> None:
    log, made = Log(), decoder()
    log.transaction(ORDERS_MAP, write(ORDERS, (1, "x", 1)))
    first = len(log)
    log.transaction(ORDERS_MAP, write(ORDERS, (2, "x", 1)), number=18)
    assert made.feed(log, 0, None, 10) == first
    assert made.pending_rows == 1
    assert 10 <= made.pending_bytes < 20


def test_a_large_transaction_comes_in_parts() -> None:
    log, made = Log(), decoder()
    start = log.begin()
    log.extend_by(ORDERS_MAP, *(write(ORDERS, (number, "x", 1)) for number in range(6)))
    log.add(XID, bytes(8))
    at, parts = 0, []
    while at < len(log):
        at = made.feed(log, at, None, 12)
        transactions, changes = made.take()
        assert transactions["position"].to_pylist() == [f"binlog.000003:{start}"] * bool(changes)
        parts += [rows(change) for change in changes]
    assert parts == [[("c", 0, number, number, "x", 1), ("c", 0, number + 1, number + 1, "x", 1)] for number in range(0, 6, 2)]
    assert made.position == Place(3, log.offset)


def test_take_within_a_transaction_goes_on_counting() -> None:
    log, made = Log(), decoder()
    log.transaction(ORDERS_MAP, write(ORDERS, (1, "x", 1)), write(ORDERS, (2, "x", 1)))
    assert made.feed(log[:-2]) == len(log) - 2
    assert made.in_transaction
    first, _ = made.take()
    assert made.take()[0].num_rows == 0
    assert made.feed(log[-2:]) == 2
    second, (changes,) = made.take()
    assert first == second
    assert rows(changes) == [("c", 0, 1, 2, "x", 1)]


@pytest.mark.parametrize("packed_at", [0, 1 << 20])
def test_rows_are_packed_now_and_then(packed_at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending, "PACKED_AT", packed_at)
    monkeypatch.setattr(pending.Captured.pack, "__defaults__", (packed_at,))
    log = Log()
    log.transaction(ORDERS_MAP, write(ORDERS, (1, "x", 1)), update(ORDERS, ((1, "x", 1), (2, "y", None))), write(ORDERS, (3, "z", 1)))
    log.begin(18)
    log.add(*ORDERS_MAP)
    log.add(*write(ORDERS, (4, "x", 1), (5, "x", 1)))
    log.add(QUERY, query("SAVEPOINT `a`"))
    log.add(*update(ORDERS, ((4, "x", 1), (6, "x", 1))))
    log.add(QUERY, query("ROLLBACK TO `a`"))
    log.add(XID, bytes(8))
    made = decoder()
    assert made.feed(log) == len(log)
    _, (changes,) = made.take()
    kept = [("c", 0, 0, 1, "x", 1), ("d", 0, 1, 1, "x", 1), ("u", 0, 2, 2, "y", None), ("c", 0, 3, 3, "z", 1)]
    assert rows(changes) == [*kept, ("c", 1, 0, 4, "x", 1), ("c", 1, 1, 5, "x", 1)]
    assert changes.rows["#old:id"].to_pylist() == [None, None, 1, None, None, None]


def test_a_new_schema_waits_until_rows_of_the_old_one_are_taken() -> None:
    log, made = Log(), decoder(altered)
    log.transaction(ORDERS_MAP, write(ORDERS, (1, "x", 1)))
    statement(log, "ALTER")
    at = len(log) - 1
    wide = table_map(ORDERS + 1, "orders", [*ORDER_COLUMNS, (INT, 0, True)])
    log.transaction(wide, write(ORDERS + 1, (2, "y", 1, 9)), number=51)
    assert made.feed(log) == at
    assert made.feed(log, at) == at
    assert taken(made) == {"orders": [("c", 0, 0, 1, "x", 1)]}
    assert made.feed(log, at) == len(log)
    transactions, (changes,) = made.take()
    assert (changes.schema, rows(changes)) == (WIDER.schema, [("c", 0, 0, 2, "y", 1, 9)])
    assert transactions["txn"].to_pylist() == [f"{UUID}:51"]
    assert made.gtids == parse_gtids(f"{UUID}:17:50-51")


def test_a_new_schema_is_told_of_without_rows() -> None:
    log, made = Log(), decoder(altered)
    statement(log, "BACK")
    statement(log, "ALTER", 51)
    assert made.feed(log) == len(log)
    assert made.pending_rows == 1
    transactions, (changes,) = made.take()
    assert (transactions.num_rows, changes.schema, changes.rows.num_rows) == (0, WIDER.schema, 0)
    assert changes.rows.column_names == ["#op", "#txn", "#ordinal", "id", "note", "total", "more"]


def test_effects_come_in_order_and_once() -> None:
    told: list[str] = []
    made = decoder(lambda one: told.append(one.text) or altered(one))
    log = Log()
    log.transaction(ORDERS_MAP, LINES_MAP, write(ORDERS, (1, "x", 1)), write(LINES, (1, 1)))
    statement(log, "SWAP")
    assert made.feed(log) == len(log) - 1
    assert taken(made).keys() == {"orders", "lines"}
    assert made.feed(log, len(log) - 1) == len(log)
    assert taken(made) == {"orders": []}
    assert told == ["SWAP"]


def test_truncate() -> None:
    log, made = Log(), decoder(altered)
    log.transaction(ORDERS_MAP, write(ORDERS, (1, "x", 1)))
    statement(log, "TRUNCATE")
    log.transaction(ORDERS_MAP, write(ORDERS, (2, "x", 1)), number=51)
    assert decoded(log, made) == {
        "orders": [("c", 0, 0, 1, "x", 1), ("t", 1, 0, None, None, None), ("c", 2, 0, 2, "x", 1)],
        "lines": [("t", 1, 1, None, None)],
    }


def test_a_table_map_with_a_new_schema_waits_too() -> None:
    log, made = Log(), decoder()
    log.transaction(ORDERS_MAP, write(ORDERS, (1, "x", 1)))
    log.transaction(table_map(ORDERS, "orders", [*ORDER_COLUMNS, (INT, 0, True)]), write(ORDERS, (2, "y", 1, 9)), number=18)
    at = made.feed(log)
    assert log[at][4] == XID  # that the transaction stays must be known, too
    assert taken(made) == {"orders": [("c", 0, 0, 1, "x", 1)]}
    assert made.feed(log, at) == len(log)
    assert taken(made) == {"orders": [("c", 0, 0, 2, "y", 1, 9)]}


def test_table_maps_that_differ_without_another_schema_go_together() -> None:
    log = Log()
    log.transaction(ORDERS_MAP, write(ORDERS, (1, "x", 1)))
    other = table_map(ORDERS + 1, "orders", [(INT, 0, False), (TEXT, 2, False), (INT, 0, False)])
    log.transaction(other, write(ORDERS + 1, (2, "y", 1)), number=18)
    assert decoded(log) == {"orders": [("c", 0, 0, 1, "x", 1), ("c", 1, 0, 2, "y", 1)]}


def test_a_load_is_told_as_a_statement() -> None:
    told: list[Statement] = []
    log = Log()
    log.begin()
    log.add(17, bytes(30))
    body = query("LOAD DATA INFILE 'x' INTO TABLE orders")
    log.add(18, body[:13] + bytes(13) + body[13:])
    log.add(QUERY, query("COMMIT"))
    decoded(log, decoder(telling(told)))
    assert [one.text for one in told] == ["LOAD DATA INFILE 'x' INTO TABLE orders"]


def test_a_rollback_drops_the_transaction() -> None:
    log, made = Log(), decoder(altered)
    log.transaction(ORDERS_MAP, write(ORDERS, (1, "x", 1)))
    size = made.feed(log) and made.pending_bytes
    more = Log(offset=log.offset)
    more.begin(18)
    more.extend_by(ORDERS_MAP, LINES_MAP, write(ORDERS, (2, "x", 1)), write(LINES, (1, 1)), (QUERY, query("ROLLBACK")))
    more.transaction(ORDERS_MAP, write(ORDERS, (3, "x", 1)), number=19)
    assert made.feed(more) == len(more)
    assert made.pending_bytes == 2 * size
    transactions, (changes,) = made.take()
    assert rows(changes) == [("c", 0, 0, 1, "x", 1), ("c", 1, 0, 3, "x", 1)]
    assert transactions["txn"].to_pylist() == [f"{UUID}:17", f"{UUID}:19"]
    assert made.gtids == parse_gtids(f"{UUID}:17-19")


def test_a_rollback_keeps_a_new_schema_from_before() -> None:
    log, made = Log(), decoder(altered)
    statement(log, "ALTER")
    log.begin(51)
    wide = table_map(ORDERS, "orders", [*ORDER_COLUMNS, (INT, 0, True)])
    log.extend_by(wide, write(ORDERS, (2, "y", 1, 9)), (QUERY, query("ROLLBACK")))
    assert decoded(log, made) == {"orders": []}


def test_savepoints() -> None:
    log = Log()
    log.begin()
    log.extend_by(
        ORDERS_MAP,
        (QUERY, query("SAVEPOINT `start`")),
        write(ORDERS, (1, "x", 1)),
        (QUERY, query('SAVEPOINT "A b"')),
        write(ORDERS, (2, "x", 1)),
        (QUERY, query("SAVEPOINT c")),
        write(ORDERS, (3, "x", 1)),
        (QUERY, query('ROLLBACK TO "a B"')),
        write(ORDERS, (4, "x", 1)),
        (XID, bytes(8)),
    )
    log.begin(18)
    log.extend_by(
        (QUERY, query("SAVEPOINT `s`")), ORDERS_MAP, write(ORDERS, (5, "x", 1)), (QUERY, query("ROLLBACK TO `s`")), (XID, bytes(8))
    )
    made = decoder(refuse)
    assert made.feed(log) == len(log)
    transactions, (changes,) = made.take()
    assert rows(changes) == [("c", 0, 0, 1, "x", 1), ("c", 0, 1, 4, "x", 1)]
    assert transactions.num_rows == 1


def test_what_is_more_than_a_batch_waits_until_it_can_not_be_rolled_back_any_more() -> None:
    def numbered(*numbers: int) -> list[tuple[int, bytes]]:
        return [write(ORDERS, (number, "x", 1)) for number in numbers]

    back, other, last = (QUERY, query("ROLLBACK TO `s`")), (QUERY, query("SAVEPOINT `t`")), (XID, bytes(8))
    for events, kept in (
        ([*numbered(1, 2, 3), (QUERY, query("SAVEPOINT `s`")), *numbered(4, 5), back, *numbered(6), last], [1, 2, 3, 6]),
        ([(QUERY, query("SAVEPOINT `s`")), *numbered(1, 2, 3), other, *numbered(4), back, *numbered(6, 7, 8, 9), last], [6, 7, 8, 9]),
        ([*numbered(1, 2, 3), (QUERY, query("ROLLBACK"))], []),
        ([*numbered(1, 2, 3, 4, 5), (QUERY, query("COMMIT"))], [1, 2, 3, 4, 5]),
    ):
        log, made, found, at = Log(), decoder(), [], 0
        log.begin()
        log.extend_by(ORDERS_MAP, *events)
        while at < len(log):
            at = made.feed(log, at, None, 12)
            assert made.pending_bytes < 40
            assert not found or at >= len(log) - 1, "nothing is handed on before the end is known"
            found += [row for change in made.take()[1] for row in rows(change)] if made.pending_bytes or at == len(log) else []
        assert [(ordinal, number) for _, _, ordinal, number, *_ in found] == list(enumerate(kept))


def test_what_was_taken_can_not_be_rolled_back() -> None:
    log, made = Log(), decoder()
    log.begin()
    log.extend_by((QUERY, query("SAVEPOINT `s`")), ORDERS_MAP, write(ORDERS, (1, "x", 1)))
    made.feed(log)
    made.take()
    assert fault([raw(QUERY, query("ROLLBACK TO `s`"), log.offset + 100)], made).code == "binlog.malformed"


def test_an_unknown_savepoint() -> None:
    log = Log()
    log.begin()
    log.add(QUERY, query("ROLLBACK TO `s`"))
    assert fault(log).code == "binlog.malformed"
