"""XA, payloads, fragments, and what is no binlog, built by hand, through the decoder."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc.decode.mysql.events import Gtid, Header, Reader, read_gtid, read_heartbeat, read_query, read_savepoint, read_xa
from cdc.decode.mysql.gtid import parse_gtids
from cdc.decode.mysql.wire import Malformed, Place
from cdc.errors import SourceError
from tests.binlogs import (
    ARTIFICIAL,
    DESCRIPTION,
    DOCUMENTS,
    DOCUMENTS_MAP,
    ENCRYPTION,
    FRAGMENT,
    GTID,
    HEARTBEAT,
    IGNORABLE,
    INCIDENT,
    INT,
    LINES,
    LINES_MAP,
    LOG,
    LOG_MAP,
    MARIADB_GTID,
    MARIADB_WRITE,
    ORDER_COLUMNS,
    ORDERS,
    ORDERS_MAP,
    QUERY,
    QUERY_COMPRESSED,
    ROTATE,
    STOP,
    UUID,
    XID,
    Column,
    Log,
    altered,
    compressed,
    decoded,
    decoder,
    fault,
    gtid,
    mariadb_gtid,
    payload,
    prepare,
    query,
    raw,
    refuse,
    rows,
    rows_body,
    statement,
    table_map,
    taken,
    update,
    write,
    xa_prepare,
    xid,
)

pytestmark = pytest.mark.usefixtures("mysql_kernel")


def test_xa() -> None:
    log, made = Log(), decoder(refuse)
    first = prepare(log, "6731", 1, ORDERS_MAP, write(ORDERS, (1, "x", 1)), LINES_MAP, write(LINES, (1, 1)))
    prepare(log, "6732", 2, ORDERS_MAP, write(ORDERS, (2, "x", 1)))
    log.transaction(ORDERS_MAP, write(ORDERS, (3, "x", 1)), number=3)
    assert made.feed(log) == len(log)
    assert made.open_xa == ("binlog.000003", first)
    assert (made.pending_rows, made.in_transaction) == (1, False)
    more = Log(offset=log.offset)
    statement(more, f"XA ROLLBACK {xid('6732')}", 4)
    committed = statement(more, f"XA COMMIT {xid('6731')}", 5) - len(gtid()) - 23
    statement(more, f"XA COMMIT {xid('6799')}", 6)
    assert made.feed(more) == len(more)
    transactions, changes = made.take()
    assert {change.schema.table: rows(change) for change in changes} == {
        "orders": [("c", 0, 0, 3, "x", 1), ("c", 1, 0, 1, "x", 1)],
        "lines": [("c", 1, 1, 1, 1)],
    }
    assert transactions.to_pylist()[1]["position"] == f"binlog.000003:{committed}"
    assert transactions["txn"].to_pylist() == [f"{UUID}:3", f"{UUID}:5"]
    assert (made.open_xa, made.gtids) == (None, parse_gtids(f"{UUID}:1-6"))


def test_xa_in_one_phase() -> None:
    log, made = Log(), decoder(refuse)
    start = prepare(log, "6731", 1, ORDERS_MAP, write(ORDERS, (1, "x", 1)), one_phase=True)
    assert made.feed(log) == len(log)
    transactions, (changes,) = made.take()
    assert rows(changes) == [("c", 0, 0, 1, "x", 1)]
    assert (transactions["position"].to_pylist(), made.open_xa) == ([f"binlog.000003:{start}"], None)


def test_xa_of_mariadb() -> None:
    log, made = Log(), decoder(refuse, mariadb=True)
    ids = struct.pack("<IBB", 1, 2, 1) + b"g1b\1\xff"
    first = log.add(MARIADB_GTID, mariadb_gtid(10, 0x4C, ids))
    log.add(*ORDERS_MAP, told=False)
    log.add(MARIADB_WRITE, rows_body(ORDERS, [(1, "x", 1)], extra=False), told=False)
    log.add(QUERY, query(f"XA END {xid('6731')}"), told=False)
    log.add(*xa_prepare(b"g1"))
    assert made.feed(log) == len(log)
    assert (made.open_xa, made.pending_rows) == (("binlog.000003", first), 0)
    more = Log(offset=log.offset)
    more.add(MARIADB_GTID, mariadb_gtid(11, 0x8D, ids))
    more.add(QUERY, query(f"XA COMMIT {xid('6731')}"))
    assert decoded(more, made) == {"orders": [("c", 0, 0, 1, "x", 1)]}
    assert (made.open_xa, str(made.gtids)) == (None, "0-1-11")


def test_xa_of_other_tables_holds_nothing() -> None:
    log, made = Log(), decoder()
    prepare(log, "6731", 1, table_map(9, "other", ORDER_COLUMNS), write(9, (1, "x", 1)))
    assert made.feed(log) == len(log)
    assert made.open_xa is None


def test_a_savepoint_within_xa() -> None:
    log, made = Log(), decoder(refuse)
    save, back = (QUERY, query("SAVEPOINT `s`")), (QUERY, query("ROLLBACK TO `s`"))
    prepare(log, "6731", 1, ORDERS_MAP, write(ORDERS, (1, "x", 1)), save, write(ORDERS, (2, "x", 1)), back, write(ORDERS, (3, "x", 1)))
    statement(log, f"XA COMMIT {xid('6731')}", 2)
    assert decoded(log, made) == {"orders": [("c", 0, 0, 1, "x", 1), ("c", 0, 1, 3, "x", 1)]}


def test_a_large_xa_transaction_comes_in_parts() -> None:
    log, made = Log(), decoder(refuse)
    prepare(log, "6731", 1, ORDERS_MAP, *(write(ORDERS, (number, "x", 1)) for number in range(4)))
    statement(log, f"XA COMMIT {xid('6731')}", 2)
    at, parts = 0, []
    while at < len(log):
        at = made.feed(log, at, None, 12)
        parts += list(taken(made).values())
    assert [[row[2] for row in part] for part in parts] == [[0, 1], [2, 3]]


def test_what_was_applied_already_is_read_again_for_open_xa_transactions() -> None:
    log = Log()
    first = prepare(log, "6731", 1, ORDERS_MAP, write(ORDERS, (1, "x", 1)))
    prepare(log, "6732", 2, ORDERS_MAP, write(ORDERS, (2, "x", 1)))
    prepare(log, "6733", 3, table_map(9, "other", ORDER_COLUMNS), write(9, (9, "x", 1)))
    prepare(log, "6734", 4, ORDERS_MAP, write(ORDERS, (4, "x", 1)), one_phase=True)
    log.transaction(ORDERS_MAP, write(ORDERS, (5, "x", 1)), number=5)
    statement(log, "ALTER", 6)
    statement(log, f"XA COMMIT {xid('6732')}", 7)
    until = Place(3, log.offset)
    gtids = parse_gtids(f"{UUID}:1-7")
    made = decoder(refuse, skip_until=until, gtids=gtids)
    assert made.feed(log) == len(log)
    assert (made.pending_rows, made.gtids) == (0, gtids)
    more = Log(offset=log.offset)
    more.transaction(ORDERS_MAP, write(ORDERS, (6, "x", 1)), number=8)
    assert made.feed(more) == len(more)
    assert made.open_xa == ("binlog.000003", first)
    last = Log(offset=more.offset)
    statement(last, f"XA COMMIT {xid('6731')}", 9)
    statement(last, f"XA COMMIT {xid('6733')}", 10)
    assert decoded(last, made) == {"orders": [("c", 0, 0, 6, "x", 1), ("c", 1, 0, 1, "x", 1)]}
    assert (made.open_xa, made.gtids) == (None, parse_gtids(f"{UUID}:1-10"))


def test_a_tagged_gtid() -> None:
    # As MySQL 9.7 wrote it.
    body = (
        b'\x02x\x00\x00\x00\x02\xad\x03j]\x02\xcd\x03\x99\x03i\x02"\xc5\x039\x02\xdc\x04\xf1\x03\x00\x00\x00\x02\x04\x04\x06\x0cmy_tag'
        b"\x08P\nT\x0c\x7f\xed\xc6\xb9\x1a\xe1`\x06\x10=\x04\x12\x83\x12\x0b"
    )
    read = read_gtid(Reader(body), Header(0, 42, 1, 0, 0, 0))
    assert read == Gtid("eb3597f3-e69a-11f1-8e6e-02fc00000001:my_tag:1", 1795369792554733)
    for size in range(len(body) - 7):
        with pytest.raises(Malformed):
            read_gtid(Reader(body, 0, size), Header(0, 42, 1, 0, 0, 0))


def test_gtids_of_old_servers_have_no_time() -> None:
    for body in (gtid()[:25], gtid()[:42]):
        assert read_gtid(Reader(body), Header(0, GTID, 1, 0, 0, 0)) == Gtid(f"{UUID}:17")


def test_heartbeats_of_mariadb_beyond_32_bits() -> None:
    body = (5 << 32).to_bytes(8, "little") + b"binlog.000003"
    assert read_heartbeat(Reader(body), Header(0, HEARTBEAT, 1, 0, 0, 0)) == ("binlog.000003", 5 << 32)


def test_queries_are_in_their_sessions_character_set() -> None:
    variables = b"\0\0\0\0\0\1\4\0\x20\0\0\0\0\0\6\3std\4\x1c\0\x1c\0\xff\0\x0c\1t\0\xee\1\2"
    body = query("ALTER TABLE `订单` COMMENT '\udcff'".encode("gbk", "surrogateescape"), "店", variables, 3)
    read = read_query(Reader(body), Header(0, QUERY, 1, 0, 0, 0))
    assert (read.database, read.sql_mode, read.error) == ("店", 0x200004, 3)
    assert read.ansi_quotes
    assert read.strict
    body = query("ALTER TABLE `订单`".encode("gbk"), "店", variables)
    assert read_query(Reader(body), Header(0, QUERY, 1, 0, 0, 0)).text == "ALTER TABLE `订单`"
    body = query(b"ALTER TABLE `\xff`")
    assert read_query(Reader(body), Header(0, QUERY, 1, 0, 0, 0)).text == "ALTER TABLE `\udcff`"


def test_texts_of_xa_and_savepoints() -> None:
    assert read_xa("XA COMMIT X'6731',X'',7") == ("COMMIT", (7, b"g1", b""))
    assert read_xa("XA COMMIT X'',X'FF',4294967295 ONE PHASE") == ("COMMIT", (0xFFFFFFFF, b"", b"\xff"))
    assert read_xa("XA RECOVER") is None
    with pytest.raises(Malformed):
        read_xa("XA START X'673',X'',1")
    assert read_savepoint("ROLLBACK TO SAVEPOINT `a``B`") == (True, "a`b")
    assert read_savepoint("ROLLBACK") is None
    assert read_savepoint("RELEASE SAVEPOINT `a`") is None


@pytest.mark.parametrize("compress", [True, False])
def test_a_payload(compress: bool) -> None:
    log, made = Log(), decoder(refuse)
    start = log.add(GTID, gtid())
    log.add(*payload((QUERY, query("BEGIN")), ORDERS_MAP, write(ORDERS, (1, "x", 1)), (XID, bytes(8)), compress=compress))
    assert made.feed(log) == len(log)
    transactions, (changes,) = made.take()
    assert rows(changes) == [("c", 0, 0, 1, "x", 1)]
    assert transactions["position"].to_pylist() == [f"binlog.000003:{start}"]
    assert (made.position, made.in_transaction) == (Place(3, log.offset), False)


def test_a_payload_comes_in_parts() -> None:
    log, made = Log(), decoder(refuse)
    log.add(GTID, gtid())
    log.add(*payload((QUERY, query("BEGIN")), ORDERS_MAP, *(write(ORDERS, (at, "x", 1)) for at in range(5)), (XID, bytes(8))))
    log.transaction(ORDERS_MAP, write(ORDERS, (9, "x", 1)), number=18)
    at, parts = 0, []
    while at < len(log):
        at = made.feed(log, at, None, 12)
        parts += list(taken(made).values())
    assert [[row[1:4] for row in part] for part in parts] == [
        [(0, 0, 0), (0, 1, 1)],
        [(0, 2, 2), (0, 3, 3)],
        [(0, 4, 4)],
        [(0, 0, 9)],
    ]


def test_xa_within_a_payload() -> None:
    log, made = Log(), decoder(refuse)
    start = log.add(GTID, gtid(1))
    begin, end = (QUERY, query(f"XA START {xid('6731')}")), (QUERY, query(f"XA END {xid('6731')}"))
    log.add(*payload(begin, ORDERS_MAP, write(ORDERS, (1, "x", 1)), end, xa_prepare(b"g1")))
    assert made.feed(log) == len(log)
    assert made.open_xa == ("binlog.000003", start)
    more = Log(offset=log.offset)
    statement(more, f"XA COMMIT {xid('6731')}", 2)
    assert decoded(more, made) == {"orders": [("c", 0, 0, 1, "x", 1)]}


def test_damaged_payloads() -> None:
    kind, good = payload((QUERY, query("BEGIN")), (XID, bytes(8)))
    for body in (
        payload((QUERY, query("BEGIN")), (XID, bytes(8)), whole=50)[1],
        payload((QUERY, query("BEGIN")), (XID, bytes(8)), whole=5000)[1],
        good[:-3],
        good[:-3] + b"\xff\xff\xff",
        good.replace(b"\2\1\0", b"\2\1\7"),
        b"\0" + good[30:],
        payload((QUERY, query("BEGIN")), (kind, good), (XID, bytes(8)))[1],
        payload((GTID, gtid(18)))[1],
    ):
        log = Log()
        log.add(GTID, gtid())
        log.add(kind, body)
        assert fault(log).code == "binlog.malformed"


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("checksum", [True, False])
def test_fragments_of_a_rows_event(first: bool, checksum: bool) -> None:
    body = rows_body(ORDERS, [(1, "x" * 100, 1), (2, "y" * 100, 2)], extra=False)
    whole = raw(MARIADB_WRITE, body, 0, checksum=checksum)
    pieces = [whole[:30], whole[30:200], whole[200:]]
    log = Log()
    log.add(MARIADB_GTID, mariadb_gtid(5, 0x0C))
    log.add(*ORDERS_MAP)
    for number, piece in enumerate(pieces, 1):
        head = struct.pack("<II", *((number, 3) if first else (3, number)))
        log.add(FRAGMENT, head + (b"\1" + len(whole).to_bytes(8, "little") if number == 1 else b"\0") + piece)
    log.add(XID, bytes(8))
    expected = {"orders": [("c", 0, 0, 1, "x" * 100, 1), ("c", 0, 1, 2, "y" * 100, 2)]}
    assert decoded(log, decoder(mariadb=True)) == expected
    assert fault([*log[:5], *log[6:]], decoder(mariadb=True)).code == "binlog.malformed"
    assert fault([*log[:5], *log[7:]], decoder(mariadb=True)).code == "binlog.malformed"


def test_a_wrong_checksum() -> None:
    log = Log()
    start = log.begin()
    log[-1] = log[-1][:-1] + bytes([log[-1][-1] ^ 1])
    refused = fault(log)
    assert refused.code == "binlog.checksum"
    assert refused.values["place"] == f"binlog.000003:{start + len(log[-2])}"


def test_encrypted_events() -> None:
    log = Log()
    log.add(ENCRYPTION, bytes(17), flags=IGNORABLE)
    log.transaction(ORDERS_MAP, write(ORDERS, (1, "x", 1)))
    assert decoded(log) == {"orders": [("c", 0, 0, 1, "x", 1)]}
    log[-1] = log[-1][:19] + bytes(12)
    assert fault(log).code == "binlog.encrypted"


@pytest.mark.parametrize("kind", [20, 21, 22, 1, 6, 12, 99, 173])
def test_unknown_events_halt(kind: int) -> None:
    log = Log()
    start = log.add(kind, bytes(30))
    refused = fault(log)
    assert (refused.code, refused.values) == ("binlog.unknown", {"kind": kind, "place": f"binlog.000003:{start}"})
    log = Log()
    log.add(kind, bytes(30), flags=IGNORABLE)
    assert decoded(log) == {}


def test_an_incident_halts() -> None:
    log = Log()
    log.add(INCIDENT, b"\1\0\x04lost")
    refused = fault(log)
    assert (refused.code, refused.values["message"]) == ("binlog.incident", "lost")


def streams() -> Iterator[tuple[str, Log]]:
    """Streams that break a rule."""
    log = Log()
    log.begin()
    log.add(GTID, gtid(18))
    yield "no end", log
    log = Log()
    log.begin()
    log.add(QUERY, query("BEGIN"))
    yield "no end", log
    log = Log()
    log.begin()
    log += Log(file="binlog.000004")
    log[-1] = raw(DESCRIPTION, log[-1][19:-4], 4 + len(log[-1]))
    yield "no end", log
    for kind, body in (ORDERS_MAP, write(ORDERS, (1, "x", 1)), (XID, bytes(8)), xa_prepare(b"g"), (QUERY, query("COMMIT"))):
        log = Log()
        log.add(kind, body)
        yield "outside any transaction", log
    log = Log()
    log.begin()
    log.add(*write(ORDERS, (1, "x", 1)))
    yield "not described", log
    log = Log()
    log.begin()
    log.extend_by(ORDERS_MAP, write(ORDERS, (1, "x", 1, 2)))
    yield "not of the table's shape", log
    log = Log()
    log.begin()
    log.add(*xa_prepare(b"g"))
    yield "another transaction", log
    log = Log()
    log.append(raw(ROTATE, bytes(8) + b"nonsense", 0, flags=ARTIFICIAL))
    yield "no binary log file", log
    log = Log()
    log.append(b"short")
    yield "too early", log
    log = Log()
    log.append(raw(STOP, b"", 200)[:-1])
    yield "another size", log
    log = Log()
    del log[1]
    log.begin()
    yield "no description", log
    log = Log()
    log[1] = raw(DESCRIPTION, struct.pack("<H50sIB", 3, b"4.0", 0, 19) + bytes(50), 0)
    yield "before MySQL 5.6", log
    log = Log()
    log[1] = raw(DESCRIPTION, struct.pack("<H50sIB", 4, b"9.9", 0, 19) + bytes(50) + b"\2", 0)
    yield "unknown kind", log


@pytest.mark.parametrize(("detail", "log"), list(streams()))
def test_rules_of_the_stream(detail: str, log: Log) -> None:
    refused = fault(log)
    assert refused.code == "binlog.malformed"
    assert detail in str(refused.values["detail"])


def test_an_unknown_type_halts_only_where_it_is_captured() -> None:
    columns: list[Column] = [(INT, 0, False), (77, 0, True), (INT, 0, True)]
    log = Log()
    log.transaction(table_map(9, "other", columns), write(9, (1, "x", 1)))
    assert decoded(log) == {}
    log = Log()
    log.transaction(table_map(ORDERS, "orders", columns), write(ORDERS, (1, "x", 1)))
    assert fault(log).code == "binlog.type"


def whole_stream() -> Log:
    log = Log()
    log.transaction(ORDERS_MAP, LINES_MAP, write(ORDERS, (1, "x" * 40, 1), (2, None, None)), update(ORDERS, ((1, "x", 1), (2, "y", 5))))
    statement(log, "TRUNCATE", 18)
    prepare(log, "6731", 19, DOCUMENTS_MAP, write(DOCUMENTS, (1, b"\x05\x07\x00", None)))
    statement(log, f"XA COMMIT {xid('6731')}", 20)
    log.begin(21)
    log.extend_by((QUERY, query("SAVEPOINT `s`")), LOG_MAP, write(LOG, ("a", 1)), (QUERY, query("ROLLBACK TO `s`")), (XID, bytes(8)))
    log.add(GTID, gtid(22))
    log.add(*payload((QUERY, query("BEGIN")), ORDERS_MAP, write(ORDERS, (9, "x", 1)), (XID, bytes(8))))
    log.add(GTID, gtid(23))
    log.add(QUERY_COMPRESSED, compressed(query("ALTER"), len(query(""))))
    return log


@given(st.data())
def test_damaged_streams_are_refused_or_read(data: st.DataObject) -> None:
    """Checksums that fit over damaged bytes: nothing but a SourceError comes out, and it comes to an end."""
    log = Log(checksum=False)
    log.extend(event[:9] + struct.pack("<I", len(event) - 4) + event[13:-4] for event in whole_stream()[2:])
    index = data.draw(st.integers(1, len(log) - 1), "event")
    damaged = bytearray(log[index])
    for _ in range(data.draw(st.integers(1, 4), "bytes")):
        damaged[data.draw(st.integers(19, len(damaged) - 1), "place")] = data.draw(st.integers(0, 255), "byte")
    cut = data.draw(st.integers(19, len(damaged)), "cut")
    damaged = damaged[:cut]
    damaged[9:13] = struct.pack("<I", len(damaged))
    log[index] = bytes(damaged)
    made = decoder(altered)
    at = 0
    try:
        for _ in range(3 * len(log)):
            if at == len(log):
                break
            at = made.feed(log, at, None, 100)
            made.take()
        assert at == len(log)
    except SourceError:
        pass
