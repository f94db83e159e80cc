"""The charts of accounts and the crosswalks between them that ship with Ledgertail are whole and fit each other."""

from __future__ import annotations

import csv
import re
from collections import Counter
from functools import cache
from importlib.resources import files
from itertools import permutations
from pathlib import Path

import pytest

from cdc.accounting.charts import load_chart

ACCOUNTING = files("cdc.accounting")
CHARTS = sorted(path.name.removesuffix(".csv") for path in ACCOUNTING.joinpath("charts").iterdir() if path.name.endswith(".csv"))
STANDARDS = ["cas-2006", "small-business-2013", "ifrs-style", "us-style"]
PAIRS = list(permutations(STANDARDS, 2))
OFFICIAL = {
    "cas-2006": {"资产": 69, "负债": 35, "共同": 5, "所有者权益": 7, "成本": 7, "损益": 33},
    "small-business-2013": {"资产": 32, "负债": 12, "所有者权益": 5, "成本": 5, "损益": 12},
}
CATEGORIES = set(OFFICIAL["cas-2006"])
SIDES = {"借", "贷", "双向"}
CHINESE = re.compile(r"[\u4e00-\u9fff]")


@cache
def read(folder: str, name: str) -> list[dict[str, str]]:
    """The rows of a CSV that ships, which is UTF-8 without a BOM, its lines ended by LF alone."""
    content = ACCOUNTING.joinpath(folder, f"{name}.csv").read_bytes()
    assert not content.startswith(b"\xef\xbb\xbf"), "a BOM"
    assert b"\r" not in content, "a CR"
    assert content.endswith(b"\n"), "the last line is not ended"
    rows = list(csv.DictReader(content.decode("utf-8").splitlines(), strict=True))
    assert all(None not in row and None not in row.values() for row in rows), "a row with too many or too few fields"
    assert all(value == value.strip() for row in rows for value in row.values()), "a field with spaces around it"
    return rows


@cache
def chart(name: str) -> dict[str, dict[str, str]]:
    return {row["code"]: row for row in read("charts", name)}


def test_the_charts_of_every_standard_ship() -> None:
    assert {*STANDARDS, "cas-extended"} == set(CHARTS)


@pytest.mark.parametrize("name", CHARTS)
def test_a_chart_is_sound(name: str, tmp_path: Path) -> None:
    rows = read("charts", name)
    columns = ["code", "name", "name_en", "category", "normal_balance"]
    assert list(rows[0]) == ([*columns, "note"] if name == "cas-extended" else columns)
    assert [row["code"] for row in rows] == sorted({row["code"] for row in rows}), "codes are unique and in order"
    assert len({row["name"] for row in rows}) == len({row["name_en"] for row in rows}) == len(rows), "names are unique"
    for row in rows:
        assert re.fullmatch(r"\d{4}", row["code"]), row
        assert row["category"] in CATEGORIES, row
        assert row["normal_balance"] in SIDES, row
        assert CHINESE.search(row["name"]), row
        assert row["name_en"].isascii() and row["name_en"][:1].isupper(), row
    assert [account.code for account in load_chart("main", name, tmp_path)] == [row["code"] for row in rows]


@pytest.mark.parametrize("name", OFFICIAL)
def test_an_official_list_is_whole(name: str) -> None:
    assert Counter(row["category"] for row in read("charts", name)) == OFFICIAL[name]


def test_the_extended_chart_holds_the_official_one_and_says_what_is_not_official() -> None:
    extended, official = chart("cas-extended"), chart("cas-2006")
    assert {code: {**row, "note": ""} for code, row in official.items()} == {code: extended[code] for code in official}
    assert all(row["note"] for code, row in extended.items() if code not in official)


@pytest.mark.parametrize("name", ["ifrs-style", "us-style"])
def test_a_chart_of_our_own_is_small(name: str) -> None:
    assert 80 <= len(chart(name)) <= 130
    assert {row["category"] for row in read("charts", name)} == CATEGORIES


def test_there_is_a_crosswalk_for_every_ordered_pair() -> None:
    shipped = {path.name for path in ACCOUNTING.joinpath("crosswalks").iterdir()}
    assert shipped == {f"{source}.{target}.csv" for source, target in PAIRS}


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_a_crosswalk_covers_its_chart_and_names_accounts_that_exist(source: str, target: str) -> None:
    rows = read("crosswalks", f"{source}.{target}")
    assert list(rows[0]) == ["from_code", "to_code", "note"]
    assert [row["from_code"] for row in rows] == list(chart(source)), "every account of the source once, in order"
    assert {row["to_code"] for row in rows} <= set(chart(target))
    for row in rows:
        named = set(re.findall(r"(?<!\d)\d{4}(?!\d)(?! 年)", re.sub(r"CAS \d{4}", "", row["note"])))
        assert named <= set(chart(target)) - {row["to_code"]}, "a note names other accounts of the target"


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_a_crosswalk_that_changes_the_nature_of_an_account_says_so(source: str, target: str) -> None:
    for row in read("crosswalks", f"{source}.{target}"):
        before, after = chart(source)[row["from_code"]], chart(target)[row["to_code"]]
        other_category = before["category"] != after["category"]
        other_side = {before["normal_balance"], after["normal_balance"]} == {"借", "贷"}
        assert row["note"] or not (other_category or other_side), f"{before} to {after}"
        profit_and_loss = [account["category"] == "损益" for account in (before, after)]
        assert "损益类" in row["note"] or profit_and_loss[0] == profit_and_loss[1], f"{before} to {after}"
