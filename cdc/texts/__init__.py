"""The catalogue of texts for people, one TOML file per area and language: `en/store.toml`, `zh/store.toml`.

An error's text is a table of `what` and `hint` under its code; other texts are plain strings. Both languages hold the
same codes and the same fields, which a test compares.
"""

from __future__ import annotations

import os
import tomllib
from functools import cache
from importlib.resources import files

LANGUAGES = ("en", "zh")


def language() -> str:
    """The language of this process: LEDGERTAIL_LANG, else the locale's; English unless it is Chinese."""
    for name in ("LEDGERTAIL_LANG", "LC_ALL", "LC_MESSAGES", "LANG"):
        if value := os.environ.get(name):
            return "zh" if value.lower().startswith("zh") else "en"
    return "en"


@cache
def catalogue(lang: str) -> dict[str, str]:
    """All texts of a language by dotted code, such as `store.locked.what`. Raises ValueError for a code given twice."""
    texts: dict[str, str] = {}
    for file in sorted(files(__name__).joinpath(lang).iterdir(), key=lambda f: f.name):
        if file.name.endswith(".toml"):
            for code, value in _flat(tomllib.loads(file.read_text("utf-8")), ""):
                if code in texts:
                    raise ValueError(f"text '{code}' is given twice in '{lang}'")
                texts[code] = value
    return texts


def text(code: str, **values: object) -> str:
    """The text of a code in this process's language, its `{fields}` filled. Raises KeyError for an unknown code."""
    return catalogue(language())[code].format(**values)


def _flat(table: dict[str, object], prefix: str) -> list[tuple[str, str]]:
    flat: list[tuple[str, str]] = []
    for key, value in table.items():
        code = f"{prefix}{key}"
        flat += _flat(value, f"{code}.") if isinstance(value, dict) else [(code, str(value))]
    return flat
