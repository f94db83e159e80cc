"""What is DuckDB's own: the file and its lock, crashes, a full disk, readers beside the writer, and the hash chain."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from cdc.errors import ConfigError, StoreError
from cdc.types import NUMBER, Column, MirrorWrite, Promotion, TableSchema
from sinks.duckdb import DuckDBSink, open_read_only, recompute_hash
from sinks.duckdb.chain import BatchHash
from tests.contract.samples import LOG, ORDERS, committed, entry_id, item, lines_of, live_keys, mirrored, postings, row_key, write

MEMORY = 256 << 20
CONTRACT = {
    "ledger.entries": "entry_id book rule rule_version kind reverses corrects voucher_key voucher_type doc_date attachments "
    "entry_date period summary source "
    "source_table row_key op position txn ordinal committed_at batch_seq",
    "ledger.lines": "entry_id line_no account debit credit currency orig_amount rate quantity unit dims rate_type rate_date origin "
    "book period batch_seq",
    "ledger.balances": "book period account currency debit credit balance",
    "ledger.quarantine": "id source source_table row_key position level reason detail payload status first_seen book rule",
    "ledger.batches": "batch_seq source first_position last_position transactions changes entries lines first_commit_at last_commit_at "
    "applied_at hash prev_hash",
    "meta.checkpoints": "source position epoch applied_at",
    "ledger.accounts": "book code name category normal_balance",
    "ledger.periods": "book period state",
    "ledger.rates": "book currency rate_type rate_date rate",
    "meta.schema_history": "source position",
    "meta.snapshots": "source state",
}
# What a child process does; it says so on its standard output, and waits to be killed or ends.
CHILD = """
    import resource, signal, sys
    from decimal import Decimal
    import pyarrow as pa
    from cdc.errors import StoreError
    from dataclasses import replace
    from sinks.duckdb import DuckDBSink
    from tests.contract.samples import LOG, ORDERS, committed, postings, write
    sink = DuckDBSink(sys.argv[1], 256 << 20)
    def say(word):
        print(word, flush=True)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.duckdb"


@pytest.fixture
def sink(path: Path) -> Iterator[DuckDBSink]:
    opened = DuckDBSink(path, MEMORY)
    opened.prepare([])
    with committed(opened) as transaction:
        opened.prepare_table(transaction, ORDERS, False)
        transaction.apply(write(ORDERS, [(1, "first", None)]))
        transaction.apply(postings([(1, Decimal("1.25"))]))
        transaction.apply(LOG)
    yield opened
    opened.close()


def child(path: Path, code: str) -> subprocess.Popen[str]:
    source = textwrap.dedent(CHILD) + textwrap.dedent(code)
    return subprocess.Popen([sys.executable, "-c", source, str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def batches(path: Path) -> list[int]:
    with open_read_only(path) as reader:
        return [row[0] for row in reader.execute("SELECT batch_seq FROM ledger.batches ORDER BY ALL").fetchall()]


def test_tables_and_columns_are_the_contract(sink: DuckDBSink) -> None:
    with sink.reader() as reader:
        for table, columns in CONTRACT.items():
            found = {column[0] for column in reader.execute(f"SELECT * FROM {table} LIMIT 0").description}
            assert set(columns.split()) <= found, table
        types = reader.execute("SELECT entry_id, debit, rate, dims FROM ledger.lines LIMIT 0").description
        assert [str(column[1]) for column in types] == ["UUID", "DECIMAL(38,6)", "DECIMAL(38,12)", "JSON"]
        assert reader.execute("SELECT account, debit, credit, balance FROM ledger.balances ORDER BY ALL").fetchall() == [
            ("1122", Decimal("1.25"), Decimal(0), Decimal("1.25")),
            ("5001", Decimal(0), Decimal("1.25"), Decimal("-1.25")),
        ]


def test_a_second_process_is_refused_with_the_holders_pid(sink: DuckDBSink, path: Path) -> None:
    code = """
        import sys
        from cdc.errors import StoreError
        from sinks.duckdb import DuckDBSink, open_read_only
        for opening in (lambda: DuckDBSink(sys.argv[1], 1 << 28), lambda: open_read_only(sys.argv[1])):
            try:
                opening()
            except StoreError as error:
                print(error.code, error.values["pid"])
    """
    told = subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(path)], capture_output=True, text=True, check=True).stdout
    assert told.split("\n")[:2] == [f"store.locked {os.getpid()}"] * 2
    with pytest.raises(StoreError) as same_process:
        DuckDBSink(path, MEMORY)
    assert same_process.value.code == "store.locked"


def test_what_can_not_be_opened(tmp_path: Path) -> None:
    foreign = tmp_path / "notes.txt"
    foreign.write_text("not a store" * 2000)
    for place, code in ((foreign, "store.foreign"), (tmp_path, "store.foreign"), (tmp_path / "no" / "x.duckdb", "store.missing")):
        with pytest.raises(StoreError) as caught:
            DuckDBSink(place, MEMORY)
        assert caught.value.code == code
        assert isinstance(caught.value.__cause__, duckdb.Error)
    with pytest.raises(StoreError) as caught:
        open_read_only(tmp_path / "none.duckdb")
    assert caught.value.code == "store.missing"
    with pytest.raises(ConfigError):
        DuckDBSink("postgres://host/db", MEMORY)
    assert foreign.read_text().startswith("not a store")


def test_a_damaged_file_is_told(path: Path) -> None:
    DuckDBSink(path, MEMORY).close()
    content = bytearray(path.read_bytes())
    content[100] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(StoreError) as caught:
        DuckDBSink(path, MEMORY)
    assert caught.value.code == "store.corrupt"


def test_a_store_of_another_format_is_refused(sink: DuckDBSink) -> None:
    with committed(sink) as transaction:
        transaction.sql("UPDATE meta.store SET format = 99")
    with pytest.raises(StoreError) as caught:
        sink.prepare([])
    assert caught.value.code == "store.format"


def test_the_file_is_closed_in(sink: DuckDBSink, tmp_path: Path) -> None:
    with sink.reader() as reader:
        for sql in (f"COPY (SELECT 1) TO '{tmp_path}/x.csv'", f"ATTACH '{tmp_path}/y.duckdb'", "SET memory_limit = '9GB'"):
            with pytest.raises(duckdb.Error):
                reader.execute(sql)


@pytest.mark.parametrize("step", ["before", "after"])
def test_killed_around_the_commit(path: Path, sink: DuckDBSink, step: str) -> None:
    sink.close()
    process = child(
        path,
        f"""
        transaction = sink.begin()
        transaction.apply(write(ORDERS, [(n, "x", Decimal(n)) for n in range(2, 5000)]))
        transaction.apply(postings([(n, Decimal(n)) for n in range(2, 500)]))
        transaction.apply(LOG)
        if {step == "after"}:
            transaction.commit().result()
        say("now")
        signal.pause()
        """,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "now\n"
        process.kill()
    assert process.returncode == -signal.SIGKILL
    with open_read_only(path) as reader:  # replays the log without writing
        seen = reader.execute("SELECT count(*), (SELECT count(*) FROM mirror_shop.orders) FROM ledger.entries").fetchall()
    assert seen == [(1, 1)] if step == "before" else [(499, 4999)]
    again = DuckDBSink(path, MEMORY)
    assert len(mirrored(again, ORDERS)) == seen[0][1]
    with again.reader() as reader:
        assert recompute_hash(reader, 1) != ""
    again.close()


@pytest.mark.parametrize("count", [50_000, 400_000], ids=["at commit", "while writing"])
def test_a_full_disk_rolls_back(path: Path, sink: DuckDBSink, count: int) -> None:
    """The limit on a file's size stands in for the disk's end: writing fails alike in the middle of a transaction."""
    sink.close()
    process = child(
        path,
        """
        resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 20, 2 << 20))
        names = pa.array([str(n * 7919 % 999983) * 8 + str(n * 104729 % 999979) for n in range(COUNT)])
        rows = pa.table({"id": pa.arange(10, COUNT + 10), "name": names, "total": pa.nulls(COUNT)}).cast(ORDERS.arrow())
        try:
            with committed(sink) as transaction:
                transaction.apply(postings([(n, Decimal(n)) for n in range(2, 500)]))
                transaction.apply(LOG)
                transaction.apply(replace(write(ORDERS, []), upserts=rows))
        except StoreError as error:
            say(error.code)
        """.replace("COUNT", str(count)),
    )
    out, err = process.communicate(timeout=60)
    assert (out, err) == ("store.full\n", "")
    assert batches(path) == [1]
    again = DuckDBSink(path, MEMORY)
    assert mirrored(again, ORDERS) == [(1, "first", None)]
    with committed(again) as transaction:
        transaction.apply(postings([(2, Decimal(1))]))
        transaction.apply(LOG)
    again.close()
    assert batches(path) == [1, 2]


def test_readers_see_whole_transactions(sink: DuckDBSink) -> None:
    seen: list[tuple[int, int, int]] = []
    faults: list[BaseException] = []
    done = threading.Event()

    def read() -> None:
        try:
            with sink.reader() as reader:
                while not done.is_set() or not seen:
                    reader.execute("BEGIN TRANSACTION READ ONLY")
                    counts = [
                        reader.execute(f"SELECT count(*) FROM {table}").fetchall()[0][0]
                        for table in ("ledger.batches", "mirror_shop.orders", "ledger.entries")
                    ]
                    reader.execute("COMMIT")
                    seen.append((counts[0], counts[1], counts[2]))
        except BaseException as error:  # noqa: BLE001
            faults.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    for n in range(2, 60):
        with committed(sink) as transaction:
            transaction.apply(write(ORDERS, [(n, "x", None)]))
            transaction.apply(postings([(n, Decimal(n))]))
            transaction.apply(LOG)
        sink.checkpoint_if_idle()
    done.set()
    thread.join()
    assert not faults
    assert all(a == b == c for a, b, c in seen)
    assert seen == sorted(seen)


def test_an_idle_store_folds_its_log(path: Path, sink: DuckDBSink) -> None:
    names = pa.array([str(n * 7919) * 4 for n in range(100_000)])
    rows = pa.table({"id": pa.arange(10, 100_010), "name": names, "total": pa.nulls(100_000)}).cast(ORDERS.arrow())
    transaction = sink.begin()
    for start in range(0, rows.num_rows, 10_000):
        transaction.apply(replace(write(ORDERS, []), upserts=rows.slice(start, 10_000)))
    assert not sink.checkpoint_if_idle()
    transaction.commit().result()
    assert path.with_name("ledger.duckdb.wal").stat().st_size > 4 << 20
    assert sink.checkpoint_if_idle()
    assert not sink.checkpoint_if_idle()
    assert len(mirrored(sink, ORDERS)) == 100_001


def test_the_hash_chain_is_recomputed_from_the_tables(sink: DuckDBSink) -> None:
    with committed(sink) as transaction:
        for n in range(2, 30):
            transaction.apply(postings([(n, Decimal(n).scaleb(-3)), (n + 100, Decimal(-n))], ended=[(n - 1, entry_id(n - 1, 0))]))
        transaction.apply(LOG)
        transaction.apply(LOG)
    with sink.reader() as reader:
        chain = reader.execute("SELECT batch_seq, hash, prev_hash FROM ledger.batches ORDER BY batch_seq").fetchall()
        assert [recompute_hash(reader, seq) for seq, _, _ in chain] == [row[1] for row in chain]
        assert [row[2] for row in chain] == ["", chain[0][1], chain[1][1]]
        with pytest.raises(KeyError):
            recompute_hash(reader, 77)
    for tampering in (
        "UPDATE ledger.lines SET debit = debit + 0.000001 WHERE batch_seq = 2 AND batch_row = 10",
        "UPDATE ledger.entries SET summary = NULL WHERE batch_seq = 2 AND batch_row = 7",
        "DELETE FROM ledger.lines WHERE batch_seq = 2 AND batch_row = 55",
    ):
        with sink.reader() as tamperer:
            tamperer.execute("BEGIN")
            tamperer.execute(tampering)
            assert recompute_hash(tamperer, 2) != chain[1][1], tampering
            tamperer.execute("ROLLBACK")


def test_the_hash_does_not_depend_on_the_cut() -> None:
    whole = postings([(n, Decimal(n).scaleb(-4)) for n in range(50)])
    one, many = BatchHash(), BatchHash()
    one.entries(whole.entries)
    one.lines(whole.lines)
    for start in range(0, 50, 7):
        many.entries(whole.entries.slice(start, 7))
    for start in range(0, 100, 9):
        many.lines(whole.lines.slice(start, 9))
    assert one.hex("ab") == many.hex("ab")
    assert one.hex("ab") != one.hex("ac")
    less = BatchHash()
    less.entries(whole.entries)
    less.lines(whole.lines.slice(0, 99))
    assert less.hex("ab") != one.hex("ab")


def test_columns_that_differ_in_capitals_are_refused(sink: DuckDBSink) -> None:
    twice = replace(ORDERS, columns=(*ORDERS.columns, Column("ID", pa.int32(), "INTEGER", "int4")))
    reserved = replace(ORDERS, columns=(*ORDERS.columns, Column("#n", pa.int32(), "INTEGER", "int4")))
    for schema in (twice, reserved):
        with pytest.raises(StoreError) as caught, committed(sink) as transaction:
            sink.prepare_table(transaction, schema, False)
        assert caught.value.code == "store.columns_clash"


def test_a_column_renamed_in_capitals_only(sink: DuckDBSink) -> None:
    renamed = replace(ORDERS, columns=(ORDERS.columns[0], replace(ORDERS.columns[1], name="NAME"), ORDERS.columns[2]))
    with committed(sink) as transaction:
        sink.prepare_table(transaction, renamed, False)
    assert mirrored(sink, renamed) == [(1, None, None)]


def test_a_type_that_would_change_values_is_refused(sink: DuckDBSink) -> None:
    with committed(sink) as transaction:
        transaction.apply(write(ORDERS, [(2, "x", Decimal("1.55"))]))
    coarser = replace(ORDERS, columns=(*ORDERS.columns[:2], replace(ORDERS.columns[2], store_type="DECIMAL(10,1)")))
    with pytest.raises(StoreError) as caught, committed(sink) as transaction:
        sink.prepare_table(transaction, coarser, False)
    assert (caught.value.code, caught.value.values["rows"]) == ("store.column_type", 1)
    assert mirrored(sink, ORDERS) == [(1, "first", None), (2, "x", Decimal("1.55"))]


def test_a_value_the_mirror_can_not_take_rolls_back(sink: DuckDBSink) -> None:
    uuids = replace(ORDERS, table="uuids", columns=(ORDERS.columns[0], replace(ORDERS.columns[1], store_type="UUID")))
    with committed(sink) as transaction:
        sink.prepare_table(transaction, uuids, False)
    with pytest.raises(StoreError) as caught, committed(sink) as transaction:
        transaction.apply(write(ORDERS, [(3, "x", None)]))
        transaction.apply(write(uuids, [(1, "no uuid")]))
    assert caught.value.code == "store.value"
    assert mirrored(sink, ORDERS) == [(1, "first", None)]


def test_nothing_is_written_after_what_could_not_be(sink: DuckDBSink) -> None:
    """Writing goes on behind the caller's back, who is told by whatever comes next."""
    number = replace(ORDERS, columns=(*ORDERS.columns[:2], replace(ORDERS.columns[2], store_type="DECIMAL(3,2)")))
    for ask in (
        lambda transaction: transaction.sql("SELECT 1"),
        lambda transaction: list(transaction.mirror(ORDERS, None)),
        lambda transaction: transaction.commit().result(),
    ):
        transaction = sink.begin()
        transaction.apply(write(number, [(7, "x", Decimal("99999999.00"))]))
        with pytest.raises(StoreError) as caught:
            transaction.apply(write(ORDERS, [(8, "y", None)]))  # raises if it is known by now
            ask(transaction)
        assert caught.value.code == "store.value"
        transaction.rollback()
    assert mirrored(sink, ORDERS) == [(1, "first", None)]


def test_a_promoted_table_keeps_its_types(sink: DuckDBSink) -> None:
    odd = replace(ORDERS, columns=(*ORDERS.columns, Column("j", pa.string(), "JSON", "json")))
    with committed(sink) as transaction:
        sink.prepare_table(transaction, odd, False)
        sink.prepare_table(transaction, odd, True)
        transaction.apply(write(odd, [(5, "five", Decimal("0.10"), '{"a":  1}')], staged=1))
        transaction.apply(Promotion(odd))
    with sink.reader() as reader:
        types = [str(column[1]) for column in reader.execute("SELECT id, name, total, j FROM mirror_shop.orders").description]
        assert types == ["BIGINT", "VARCHAR", "DECIMAL(10,2)", "JSON"]
    assert mirrored(sink, odd) == [(5, "five", Decimal("0.10"), '{"a":  1}')]


def test_an_ignored_item_stays_ignored(sink: DuckDBSink) -> None:
    with committed(sink) as transaction:
        transaction.apply(postings(quarantined=[item(1)]))
        transaction.apply(LOG)
    with committed(sink) as transaction:
        transaction.sql("UPDATE ledger.quarantine SET status = 'ignored'")
    with committed(sink) as transaction:
        transaction.apply(postings(quarantined=[item(1)]))
        transaction.apply(LOG)
        assert transaction.sql("SELECT status FROM ledger.quarantine") == [("ignored",)]


LAST = 2**63 - 1  # as an instant: infinity


@pytest.mark.parametrize(
    ("store_type", "values"),
    [
        ("DATE", pa.array([2**31 - 1, -(2**31) + 1, 0], pa.int32()).view(pa.date32())),
        ("TIMESTAMP", pa.array([LAST, 9 * 10**18], pa.int64()).view(pa.timestamp("us"))),
        ("TIMESTAMPTZ", pa.array([LAST, 0], pa.int64()).view(pa.timestamp("us", "UTC"))),
        ("TIME", pa.array([86_400_000_000, 1], pa.int64()).view(pa.time64("us"))),
        ("DOUBLE", pa.array([float("inf"), float("nan"), 0.1])),
        ("UBIGINT", pa.array([2**64 - 1, 1], pa.uint64())),
        ("BIGINT", pa.array([-LAST - 1, LAST])),
        ("DECIMAL(38,6)", pa.array([Decimal("99999999999999999999999999999999.999999"), Decimal(0)], pa.decimal128(38, 6))),
        ("BLOB", pa.array([b"\x00\xff", b""])),
        ("VARCHAR", pa.array(["", "茶"])),
        ("UUID", pa.array(["ffffffff-ffff-ffff-ffff-ffffffffffff", "00000000-0000-0000-0000-000000000000"])),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("key", [("k",), ()], ids=["key", "keyless"])
def test_rows_of_any_key_are_found_in_the_transaction_that_wrote_them(
    sink: DuckDBSink, key: tuple[str, ...], store_type: str, values: pa.Array
) -> None:
    schema = TableSchema("shop", "t", (Column("k", values.type, store_type, ""),), key)
    whole = pa.table({"k": values, **({} if key else {NUMBER: pa.array([1] * len(values))})})
    with committed(sink) as transaction:
        sink.prepare_table(transaction, schema, False)
        transaction.apply(MirrorWrite(schema, whole.slice(0, 0), whole))
        for i in range(len(values)):
            one = whole.slice(i, 1)
            assert sum(found.num_rows for found in transaction.mirror(schema, one.select(["k"]))) == 1
            transaction.apply(MirrorWrite(schema, one, whole.slice(0, 0)))
            assert sum(found.num_rows for found in transaction.mirror(schema, None)) == len(values) - 1 - i


def test_live_entries_know_where_their_lines_lie(sink: DuckDBSink) -> None:
    for number in range(1, 5):
        transaction = sink.begin()
        transaction.apply(postings((each, Decimal(each)) for each in (100 + number, 200 + number)))
        transaction.apply(LOG)
        transaction.rollback() if number == 2 else transaction.commit().result()
    with committed(sink) as transaction:
        placed = """SELECT count(*) FROM meta.live v JOIN ledger.lines l
            ON l.entry_id = v.entry_id AND l.rowid >= v.first_line AND l.rowid < v.first_line + v.line_count"""
        lines, ours = "SELECT sum(line_count)::BIGINT FROM meta.live", f"""row_key IN ('{row_key(101)}', '{row_key(204)}')"""
        assert transaction.sql(placed) == transaction.sql(lines)
        assert transaction.sql(f"{lines} WHERE {ours}") == [(4,)]


def test_lines_are_found_where_they_are_not_thought_to_lie(sink: DuckDBSink) -> None:
    with committed(sink) as transaction:
        transaction.apply(postings((number, Decimal(number)) for number in range(101, 105)))
        transaction.apply(LOG)
    with committed(sink) as transaction:
        before = transaction.live(ORDERS, live_keys([101, 103]))
        transaction.sql("UPDATE meta.live SET first_line = first_line + 1")
        assert transaction.live(ORDERS, live_keys([101, 103])).sort_by("row_key").equals(before.sort_by("row_key"))
        assert [entry["lines"] for entry in before.sort_by("row_key").to_pylist()] == [lines_of(Decimal(101)), lines_of(Decimal(103))]
