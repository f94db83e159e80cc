"""Golden cases of the accountant: each file has the rules, the changes batch by batch, and what they come to.

They are cases as `ledgertail rules test` reads them, but have rules of their own:

    == rules      TOML: `[columns]` of the table `shop.t` and its `key`, `[book]` if it is not plain, `[files]`, `[functions]`,
                  and `[[rules]]`
    == changes    `== changes without <rule>`: that rule has left the config; `== changes with <label>`: the rule of that `label`
                  has come into it, in place of the one of its name; `== changes with both`: all rules are in force
"""

from __future__ import annotations

import tomllib
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from cdc.accounting.accountant import Accountant
from cdc.accounting.functions import load_functions
from cdc.cases.file import KINDS, Case, read
from cdc.cases.outcome import outcomes
from cdc.cases.steps import steps
from cdc.config import FunctionConfig, RuleConfig
from cdc.pipeline import Pipeline
from checkpoints.file import FileCheckpoints
from sinks.memory import MemorySink, State
from tests.changes import book, table

CASES = sorted(Path(__file__).parent.glob("*.txt"))
_DEFAULTS = {"book": "main", "table": "shop.t"}


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_golden(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = read(path, ["rules", *KINDS])
    config = tomllib.loads("\n".join(case.of("rules")[0].body))
    monkeypatch.chdir(tmp_path)
    for name, content in config.get("files", {}).items():
        Path(name).write_text(content, "utf-8")
    schema = table("t", config.get("key", []), **config["columns"])
    rules = {rule.pop("label", rule["name"]): RuleConfig(**{**_DEFAULTS, **rule}) for rule in config["rules"]}
    names = {each.book for rule in rules.values() for each in rule.by_book()}
    books = {name: book(name, **config.get("book", {}))[name] for name in names}
    in_force = {label: rule for label, rule in rules.items() if label == rule.name}
    functions = load_functions(path, {name: FunctionConfig(**each) for name, each in config.get("functions", {}).items()})
    store, checkpoints = MemorySink(), FileCheckpoints(tmp_path / "checkpoints.json")
    turns = iter([section.about for section in case.of("changes")])
    for section, step in steps(_plain(case), {schema.name: schema}):
        in_force = _turned(in_force, rules, next(turns)) if section.kind == "changes" else in_force
        accountant = Accountant([each for rule in in_force.values() for each in rule.by_book()], books, functions)
        accountant.know([schema])
        with closing(Pipeline(store, checkpoints, accountant)) as pipeline:
            step(pipeline)
    assert case.of("entries"), "a case tells its entries"
    for outcome in outcomes(case, store.state, {}):
        assert outcome.fine, "\n".join(outcome.difference())
    _check_live(store.state)


def _plain(case: Case) -> Case:
    """The case as `ledgertail rules test` knows them."""
    sections = [replace(section, about="") for section in case.sections if section.kind != "rules"]
    return replace(case, sections=tuple(sections))


def _turned(in_force: dict[str, RuleConfig], rules: dict[str, RuleConfig], turn: str) -> dict[str, RuleConfig]:
    """The rules in force from a batch on."""
    word, _, label = turn.partition(" ")
    if turn == "with both":
        return rules
    if word == "with":
        return {**in_force, rules[label].name: rules[label]}
    return {name: rule for name, rule in in_force.items() if word != "without" or name != label}


def _check_live(state: State) -> None:
    """Live are the entries that were posted, and the differences to them, that are not reversed."""
    reversed_ids = {entry["reverses"] for entry in state.entries}
    posted = {entry["entry_id"] for entry in state.entries if entry["kind"] != "reverse"}
    assert {row["entry_id"] for row in state.live} == posted - reversed_ids
    assert len({entry["entry_id"] for entry in state.entries}) == len(state.entries)
