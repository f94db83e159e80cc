"""Sets of GTIDs against sets of numbers and python-mysql-replication; positions through their texts."""

from __future__ import annotations

import random
from contextlib import suppress
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymysqlreplication.gtid import GtidSet as Oracle

from cdc.decode.mysql.gtid import GtidPosition, GtidSet, domain_gtid, includes, parse_gtids, with_gtid
from cdc.decode.mysql.position import BinlogPosition, file_number, place_text, reached
from cdc.decode.mysql.wire import Place

A, B = "3e11fa47-71ca-11e1-9e33-c80aa9429562", "ffffffff-0000-11e1-9e33-c80aa9429562"
SOURCES = (A, f"{A}:_", f"{A}:tag", f"{A}:tag_2", B, f"{B}:tag")
Model = dict[str, set[int]]
MODELS = st.dictionaries(st.sampled_from(SOURCES), st.sets(st.integers(1, 40), min_size=1), max_size=6)
PLAIN = st.dictionaries(st.sampled_from((A, B)), st.sets(st.integers(1, 40), min_size=1), max_size=2)


def members(model: Model) -> list[str]:
    return [f"{source}:{number}" for source, numbers in model.items() for number in numbers]


def made(model: Model) -> GtidSet:
    return GtidSet.parse(",".join(members(model)))


@given(MODELS, st.randoms(use_true_random=False))
def test_a_set_is_the_same_whatever_the_order(model: Model, dice: random.Random) -> None:
    gtids = members(model)
    dice.shuffle(gtids)
    grown = GtidSet()
    for gtid in gtids:
        grown = grown.add(gtid)
    assert grown == made(model)
    assert hash(grown) == hash(made(model))
    assert str(grown) == str(GtidSet.parse(str(grown)))
    assert {gtid for gtid in members({source: set(range(1, 42)) for source in SOURCES}) if grown.contains(gtid)} == set(gtids)
    assert grown.add(gtids[0]) == grown if gtids else not grown


@given(MODELS, MODELS)
def test_sets_behave_as_sets_of_numbers(ours: Model, theirs: Model) -> None:
    one, other = made(ours), made(theirs)
    left = {source: numbers - theirs.get(source, set()) for source, numbers in ours.items()}
    assert one.difference(other) == made(left)
    assert one.union(other) == made({source: ours.get(source, set()) | theirs.get(source, set()) for source in ours | theirs})
    assert one.issubset(other) == (not any(left.values()))


@given(MODELS)
def test_an_encoded_set_is_read_back(model: Model) -> None:
    assert GtidSet.decode(made(model).encode()) == made(model)


@given(PLAIN)
def test_untagged_sets_are_encoded_as_python_mysql_replication_does(model: Model) -> None:
    gtids = made(model)
    assert gtids.encode() == Oracle(str(gtids)).encode()
    assert str(Oracle.decode(BytesIO(gtids.encode()))) == str(gtids)


@given(MODELS, st.data())
def test_malformed_encodings_are_refused(model: Model, data: st.DataObject) -> None:
    encoded = made(model).encode()
    cut = data.draw(st.integers(0, len(encoded) - 1))
    with pytest.raises(ValueError, match="GTIDs"):
        GtidSet.decode(encoded[:cut])
    at, byte = data.draw(st.integers(0, len(encoded) - 1)), data.draw(st.integers(0, 255))
    with suppress(ValueError):
        GtidSet.decode(encoded[:at] + bytes([byte]) + encoded[at + 1 :])


def test_texts_are_normalised_as_the_server_does() -> None:
    """What MySQL 9.7 makes of the same text; see also the test against real servers."""
    told = f" {A.upper()}:7-9:1-5,\n{A}:Tag:3:1-2:zz:9,{A}:tag_a:3:tag0:4:taga:4:1,{B}:zz:1:tag:9223372036854775806"
    text = f"{A}:1-5:7-9:tag:1-3:tag0:4:tag_a:3:taga:1:4:zz:9,{B}:tag:9223372036854775806:zz:1"
    assert str(GtidSet.parse(told)) == text
    assert not GtidSet.parse(" \n")


@pytest.mark.parametrize(
    "text",
    [
        A,
        f"{A}:",
        f"{A}:0",
        f"{A}:5-4",
        f"{A}:9223372036854775807",
        f"{A}:1-",
        f"{A}:-1",
        f"{A}:1:2tag:1",
        f"{A[1:]}:1",
        f"{A}:{'t' * 33}:1",
    ],
)
def test_malformed_sets_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="GTIDs"):
        GtidSet.parse(text)


def test_a_domain_is_as_far_as_its_last_transaction() -> None:
    position = GtidPosition.parse("1-2-5, 0-1-100")
    assert str(position) == "0-1-100,1-2-5"
    assert str(position.add("0-7-101").add("2-1-1")) == "0-7-101,1-2-5,2-1-1"
    assert str(position.add("0-1-99")) == "0-1-99,1-2-5"
    assert position.contains("0-9-100")
    assert not position.contains("0-1-101")
    assert not position.contains("5-1-1")
    assert position.issubset(GtidPosition.parse("0-3-100,1-2-6,4-4-4"))
    assert not position.issubset(GtidPosition.parse("0-1-100"))
    assert not position.issubset(GtidPosition.parse("0-1-100,1-2-4"))
    assert GtidPosition.parse("0-1-100,0-2-120,0-3-7") == GtidPosition({0: (2, 120)})
    assert domain_gtid("4294967295-4294967295-18446744073709551615") == (4294967295, 4294967295, 18446744073709551615)


@pytest.mark.parametrize("text", ["0-1", "0-1-2-3", "a-1-2", "4294967296-1-1", "0-1-18446744073709551616", "0-1--1"])
def test_malformed_gtids_of_mariadb_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="MariaDB"):
        GtidPosition.parse(text)


def test_the_text_tells_the_flavour() -> None:
    assert parse_gtids(" ") is None
    assert parse_gtids(f"{A}:1") == GtidSet.parse(f"{A}:1")
    assert parse_gtids("0-1-1") == GtidPosition.parse("0-1-1")
    assert with_gtid(None, f"{A}:t:1") == GtidSet.parse(f"{A}:t:1")
    assert with_gtid(with_gtid(None, "0-1-1"), "0-1-2") == GtidPosition.parse("0-1-2")
    assert includes(None, None)
    assert not includes(None, GtidPosition.parse("0-1-1"))
    assert not includes(GtidSet.parse(f"{A}:1"), GtidPosition.parse("0-1-1"))
    assert includes(GtidSet.parse(f"{A}:1-9"), GtidSet.parse(f"{A}:2"))


GTIDS = st.one_of(st.none(), MODELS.filter(bool).map(made), st.just(GtidPosition.parse("0-1-100,1-2-5")))
FILES = st.builds(
    lambda base, number: f"{base}.{number:06}", st.text(min_size=1).filter(lambda base: "\0" not in base), st.integers(0, 1 << 31)
)
PLACES = st.tuples(FILES, st.integers(4, 1 << 40))


@given(PLACES, st.text(), st.one_of(st.none(), st.integers(0, 1 << 32)), GTIDS, st.one_of(st.none(), PLACES))
def test_positions_are_read_back(
    at: tuple[str, int], server: str, born: int | None, gtids: GtidSet | GtidPosition | None, reread: tuple[str, int] | None
) -> None:
    position = BinlogPosition(*at, server, born, gtids, reread)
    assert BinlogPosition.parse(str(position)) == position
    assert position.start == (reread or at)


def test_a_position_is_plain_to_read() -> None:
    position = BinlogPosition("binlog.000003", 1234, A, 1764000000, GtidSet.parse(f"{A}:1-5,{A}:tag:1-3"), ("binlog.000002", 4))
    text = f"binlog.000003:1234 server={A} born=1764000000 gtid={A}:1-5:tag:1-3 from=binlog.000002:4"
    assert str(position) == text
    assert BinlogPosition.parse(f"binlog.000003:1234 server={A} gtid={A}:1-5,{A}:tag:1-3") == BinlogPosition(
        "binlog.000003", 1234, A, None, GtidSet.parse(f"{A}:1-5:tag:1-3")
    )
    assert str(BinlogPosition("m-bin.1000000", 4, "l4V/2Z/RtFy8Db7//2YQ6IvXKuo=")) == "m-bin.1000000:4 server=l4V/2Z/RtFy8Db7//2YQ6IvXKuo="
    assert position.place == Place(3, 1234)
    assert BinlogPosition("x.999999", 5 << 30, A).place < BinlogPosition("x.1000000", 4, A).place
    assert place_text("binlog.000003", 5 << 32) == "binlog.000003:21474836480"
    assert file_number("a.b.000017") == 17


@pytest.mark.parametrize(
    "text",
    [
        "",
        "binlog.000003",
        "binlog:4",
        "binlog.000003:-4",
        "binlog.000003:4x",
        "binlog.000003:4 server",
        "binlog.000003:4 born=x",
        "binlog.000003:4 born=1 born=1",
        "binlog.000003:4 colour=red",
        "binlog.000003:4  born=1",
        "binlog.000003:4 gtid=x",
        "binlog.000003:4 gtid=0-1",
        "binlog.000003:4 from=binlog:4",
    ],
)
def test_malformed_positions_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^not (a|the) "):
        BinlogPosition.parse(text)


def test_what_has_been_reached() -> None:
    def at(offset: int, server: str, gtids: str) -> BinlogPosition:
        return BinlogPosition("binlog.000003", offset, server, None, parse_gtids(gtids))

    assert reached(at(10, A, ""), at(10, A, ""))
    assert not reached(at(10, A, f"{A}:1-9"), at(11, A, f"{A}:1"))
    assert reached(at(10, A, f"{A}:1-9"), at(99, B, f"{A}:1-8"))
    assert not reached(at(99, A, f"{A}:1-9"), at(10, B, f"{A}:1-10"))
    assert not reached(at(99, A, f"{A}:1-9"), at(10, B, ""))
    assert not reached(at(99, A, ""), at(10, B, f"{A}:1"))
