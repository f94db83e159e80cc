"""The cases of the example, of the templates and of the demo's rules, run as README says a user's test runs them."""

from __future__ import annotations

from pathlib import Path

import pytest

import cdc
from cdc.cases.run import RuleCase

ROOT = Path(__file__).parents[2]
CASES = [
    *cdc.rule_cases(ROOT / "examples" / "oscar" / "ledgertail.toml"),
    *cdc.rule_cases(ROOT / "cdc" / "templates" / "en" / "ledgertail.toml"),
    *cdc.rule_cases(ROOT / "cdc" / "templates" / "zh" / "ledgertail.toml"),
    *cdc.rule_cases(ROOT / "cdc" / "demo" / "ledgertail.toml", [Path(__file__).parent / "demo"]),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_rules(case: RuleCase) -> None:
    case.check()
