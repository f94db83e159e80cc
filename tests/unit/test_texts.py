"""The text catalogue: both languages say the same, and every code the program uses is there."""

from __future__ import annotations

import re
from pathlib import Path
from string import Formatter

import pytest

from cdc.accounting.rules import LEVELS
from cdc.texts import LANGUAGES, catalogue, language, text

ROOT = Path(__file__).parents[2]
SOURCES = [path for package in ("cdc", "sinks", "checkpoints") for path in sorted((ROOT / package).rglob("*.py"))]
CODE = r"[a-z_0-9]+(?:\.[a-z_0-9]+)+"
RAISED = re.compile(rf"""\b[A-Z]\w*(?:Error|Unavailable|Lost|Unknown|Unfit|Conflict)\(\s*"({CODE})\"""")
SPOKEN = re.compile(rf"""(?<![\w.])text\(\s*"({CODE})\"""")


def fields(message: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(message) if name is not None}


@pytest.mark.parametrize("other", [lang for lang in LANGUAGES if lang != "en"])
def test_languages_have_the_same_codes_and_fields(other: str) -> None:
    english, translated = catalogue("en"), catalogue(other)
    assert english.keys() == translated.keys()
    assert {code: fields(english[code]) for code in english} == {code: fields(translated[code]) for code in english}


@pytest.mark.parametrize("lang", LANGUAGES)
def test_no_text_is_empty_and_every_error_has_both_parts(lang: str) -> None:
    codes = catalogue(lang)
    assert [code for code, message in codes.items() if not message.strip()] == []
    errors = {code.removesuffix(".what") for code in codes if code.endswith(".what")}
    assert errors == {code.removesuffix(".hint") for code in codes if code.endswith(".hint")}


def test_every_code_raised_or_spoken_is_in_the_catalogue() -> None:
    codes = catalogue("en")
    raised = {(path.name, code) for path in SOURCES for code in RAISED.findall(path.read_text("utf-8"))}
    spoken = {(path.name, code) for path in SOURCES for code in SPOKEN.findall(path.read_text("utf-8"))}
    assert len(raised) > 20
    assert len(spoken) > 20
    missing = {use for use in raised if f"{use[1]}.what" not in codes} | {use for use in spoken if use[1] not in codes}
    assert missing == set()


def test_every_reason_of_quarantine_is_in_the_catalogue() -> None:
    assert {f"{reason}.what" for reason in LEVELS} <= catalogue("en").keys()


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"LEDGERTAIL_LANG": "zh"}, "zh"),
        ({"LEDGERTAIL_LANG": "en", "LANG": "zh_CN.UTF-8"}, "en"),
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LC_ALL": "C", "LANG": "zh_CN.UTF-8"}, "en"),
        ({"LANG": "de_DE.UTF-8"}, "en"),
        ({}, "en"),
    ],
)
def test_the_language_is_asked_for_or_the_locales(variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LEDGERTAIL_LANG", "LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert language() == expected
    assert text("config.missing.what", path="x") == catalogue(expected)["config.missing.what"].format(path="x")
