"""Derivation tables: what is refused when they are read."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from cdc.accounting.derivations import BadTable, read_table


def table(folder: Path, *lines: str) -> Path:
    path = folder / "t.csv"
    path.write_bytes("\r\n".join(lines).encode("utf-8-sig"))
    return path


def test_what_is_read(tmp_path: Path) -> None:
    path = table(tmp_path, " region ,valid_from,valid_to,account", 'east,2026-01-01,2026-12-31," 1403"', "", ",,,客户")
    assert read_table(path, ["region"]).to_pylist() == [
        {"region": "east", "valid_from": date(2026, 1, 1), "valid_to": date(2026, 12, 31), "account": "1403", "#row": 2},
        {"region": None, "valid_from": None, "valid_to": None, "account": "客户", "#row": 4},
    ]


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        ([], "needs a header"),
        (["a,b,x"], "and rows"),
        (["a,a,x", "1,2,3"], "none twice"),
        (["a,,x", "1,2,3"], "a name for each column"),
        (["a,x", "1,2"], "has no column 'b' to compare with"),
        (["a,b,x", "1,2"], "row 2: 2 cells under 3 columns"),
        (["a,b,x", "1,2,3", 'a,"b'], "can't be read"),
        (["a,b,valid_from,x", "1,2,2026-02-30,3"], "row 2: '2026-02-30' is no day such as 2026-01-31"),
        (["a,b,x", "1,2,3", "1,2,4"], "row 3 is never reached, as row 2 above it"),
        (["a,b,x", "1,,3", "", "1,2,4"], "row 4 is never reached, as row 2 above it"),
        (["a,b,x", ",,3", "1,2,4"], "row 3 is never reached"),
        (["a,b,valid_from,x", "1,2,2026-01-01,3", "1,2,2026-07-01,4"], "row 3 is never reached"),
        (["a,b,x", "1,,3", ",2,4"], "rows 2 and 3 fit the same values, and neither is a case of the other"),
        (["a,b,valid_to,x", "1,2,2026-07-01,3", "1,2,,4", ",2,2026-07-01,5"], None),
        (["a,b,valid_from,valid_to,x", "1,2,2026-01-01,2026-07-31,3", "1,2,2026-07-01,2026-12-31,4"], "rows 2 and 3 fit the same values"),
        (["a,b,valid_from,valid_to,x", "1,2,2026-01-01,2026-06-30,3", "1,2,2026-07-01,2026-12-31,4"], None),
        (["a,b,x", "1,2,0", "1,,3", ",2,4", ",,5"], None),
        (["a,b,x", "1,2,3", "1,3,4", "2,,5", ",,6"], None),
    ],
)
def test_what_is_refused(tmp_path: Path, lines: list[str], fault: str | None) -> None:
    path = table(tmp_path, *lines)
    if fault is None:
        assert read_table(path, ["a", "b"]).num_rows == len(lines) - 1
        return
    with pytest.raises(BadTable) as refused:
        read_table(path, ["a", "b"])
    assert fault in str(refused.value)


def test_a_table_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadTable, match="can't be read"):
        read_table(tmp_path / "none.csv", ["a"])
