"""The config file: what is wrong in it is named by file and key, before anything starts."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from cdc.config import Config, load
from cdc.errors import EXIT_USAGE, ConfigError, policy
from cdc.paths import places

GOOD = """
[store]
url = "duckdb:///var/lib/ledgertail/books.duckdb"

[books.main]
base_currency = "CNY"
chart = "small-business-2013"

[sources.shop]
url = "postgres://cdc@localhost:5432/shop"
tables = ["orders", "sales.items"]

[[rules]]
name = "sale"
book = "main"
table = "shop.orders"
date = "paid_at"
lines = [{ account = "1122", debit = "total" }, { account = "5001", credit = "total" }]
"""


def loaded(folder: Path, content: str) -> Config:
    path = folder / "ledgertail.toml"
    path.write_text(content, "utf-8")
    return load(path)


def changed(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new, 1)


BAD = {
    "an unknown table": (GOOD + "\n[stoer]\nurl = 'x'\n", "stoer"),
    "an unknown key": (changed("[store]", "[store]\nurll = 'x'"), "store.urll"),
    "an unknown key of a source": (changed("tables =", "table = 'x'\ntables ="), "sources.shop.table"),
    "an unknown key of a rule": (changed('date = "paid_at"', 'date = "paid_at"\nwhenn = "true"'), "rules.0.whenn"),
    "an unknown key of a line": (changed('debit = "total" }', 'debit = "total", dim = {} }'), "rules.0.lines.0.dim"),
    "a key the program sets itself": ("path = 'x'\n" + GOOD, "path"),
    "a missing section": (changed('[store]\nurl = "duckdb:///var/lib/ledgertail/books.duckdb"', ""), "store"),
    "a missing key": (changed('chart = "small-business-2013"', ""), "books.main.chart"),
    "no source": (GOOD.partition("[sources.shop]")[0] + "[sources]\n", "sources"),
    "a wrong type": (changed("tables = [", "tables = 'orders' #["), "sources.shop.tables"),
    "a wrong type in a list": (changed('"sales.items"', "7"), "sources.shop.tables.1"),
    "no table": (changed('["orders", "sales.items"]', "[]"), "sources.shop.tables"),
    "a table twice": (changed('"sales.items"', '"Orders"'), "sources.shop.tables"),
    "a bad name of a book": (changed("[books.main]", '[books."Main Book"]'), "books"),
    "a bad currency": (changed('"CNY"', '"RMB yuan"'), "books.main.base_currency"),
    "too many decimals": (changed("[books.main]", "[books.main]\ndecimals = 9"), "books.main.decimals"),
    "an unknown time zone": (changed("[books.main]", "[books.main]\ntime_zone = 'Asia/Shanghia'"), "books.main.time_zone"),
    "a bad duration": (changed("[store]", "[store]\nread_timeout = '1 fortnight'"), "store.read_timeout"),
    "a bad size": (changed("[store]", "[store]\nmemory_limit = '1 heap'"), "store.memory_limit"),
    "a bad socket mode": (changed("[store]", "[store]\nsocket_mode = '666'"), "store.socket_mode"),
    "a password in the url": (changed("cdc@", "cdc:hunter2@"), "sources.shop.url"),
    "a url without a database": (changed(":5432/shop", ":5432"), "sources.shop.url"),
    "a url without a scheme": (changed("postgres://", ""), "sources.shop.url"),
    "two places for the password": (changed("tables =", "password_env = 'A'\npassword_file = 'b'\ntables ="), "sources.shop"),
    "a rule of an unknown book": (changed('book = "main"', 'book = "mian"'), "rules.0.book"),
    "a rule on a table that is not captured": (changed('"shop.orders"', '"shop.order"'), "rules.0.table"),
    "a version twice": (GOOD + GOOD[GOOD.index("[[rules]]") :].replace("[[rules]]", "[[rules]]\nvalid_from = 2026-07-01"), "rules.1.name"),
    "versions from the same day": (
        GOOD + GOOD[GOOD.index("[[rules]]") :].replace("[[rules]]", "[[rules]]\nversion = 2"),
        "rules.1.valid_from",
    ),
    "a variant in an unknown book": (changed('book = "main"', 'book = "main"\nvariants.ifrs = {}'), "rules.0.book"),
    "a variant in the same book": (changed('book = "main"', 'book = "main"\nvariants.main = {}'), "rules.0.name"),
    "a rest with a debit": (changed('debit = "total"', 'debit = "total", rest = true'), "rules.0.lines.0"),
    "a rest below zero": (changed(', debit = "total"', ', rest = "-0.01"'), "rules.0.lines.0.rest"),
    "a rest with a condition": (changed(', debit = "total"', ', rest = true, when = "true"'), "rules.0.lines.0.when"),
    "two rests": (changed(', debit = "total"', ", rest = true").replace(', credit = "total"', ", rest = true"), "rules.0.lines"),
    "a lookup of a table that is not captured": (
        changed('book = "main"', 'book = "main"\nlookup.b = { table = "shop.b", on = { id = "id" } }'),
        "rules.0.lookup.b.table",
    ),
    "a lookup in another source": (
        changed('book = "main"', 'book = "main"\nlookup.b = { table = "crm.b", on = { id = "id" } }')
        + "[sources.crm]\nurl = 'postgres://u@h/crm'\ntables = ['b']\n",
        "rules.0.lookup.b.table",
    ),
    "a lookup in nothing": (changed('book = "main"', 'book = "main"\nlookup.b = { on = { id = "id" } }'), "rules.0.lookup.b"),
    "a lookup in two places": (
        changed('book = "main"', 'book = "main"\nlookup.b = { table = "shop.orders", csv = "b.csv", on = { id = "id" } }'),
        "rules.0.lookup.b",
    ),
    "a lookup by nothing": (
        changed('book = "main"', 'book = "main"\nlookup.b = { table = "shop.orders", on = {} }'),
        "rules.0.lookup.b.on",
    ),
    "lines for each of nothing": (changed('debit = "total"', 'debit = "total", each = "item"'), "rules.0.lines.0.each"),
    "a rest for each element": (
        changed('book = "main"', 'book = "main"\neach.item = "items"').replace(', debit = "total"', ', rest = true, each = "item"'),
        "rules.0.lines.0.each",
    ),
    "an amount of one line shared out": (changed('debit = "total"', 'debit = "total", by = "id"'), "rules.0.lines.0.by"),
    "an array of the name of a lookup": (
        changed('book = "main"', 'book = "main"\neach.b = "items"\nlookup.b = { table = "shop.orders", on = { id = "id" } }'),
        "rules.0.each.b",
    ),
    "an array of no good name": (changed('book = "main"', 'book = "main"\neach."a b" = "items"'), "rules.0.each"),
    "a rule without lines": (changed("lines = [{", "lines = [] #"), "rules.0.lines"),
    "a line with debit and credit": (changed('debit = "total"', 'debit = "total", credit = "total"'), "rules.0.lines.0"),
    "a line with neither": (changed(', debit = "total"', ""), "rules.0.lines.0"),
    "a rule twice": (GOOD + GOOD[GOOD.index("[[rules]]") :], "rules.1.name"),
    "rules that are no list": (GOOD.partition("[[rules]]")[0] + "[rules]\nname = 'x'\n", "rules"),
    "an include that matches nothing": ("include = ['rules/*.toml']\n" + GOOD, "include"),
    "an include that is no list": ("include = 'rules.toml'\n" + GOOD, "include"),
}


@pytest.mark.parametrize("fault", BAD)
def test_each_fault_names_the_file_and_the_key(fault: str, tmp_path: Path) -> None:
    content, key = BAD[fault]
    with pytest.raises(ConfigError) as raised:
        loaded(tmp_path, content)
    assert raised.value.code == "config.key"
    assert str(raised.value.values["key"]).startswith(key)
    assert raised.value.values["path"] == tmp_path / "ledgertail.toml"
    assert raised.value.hint
    assert "hunter2" not in str(raised.value)
    assert policy(raised.value).exit_code == EXIT_USAGE


def test_a_good_file_has_its_values_and_defaults(tmp_path: Path) -> None:
    config = loaded(tmp_path, changed("[store]", "[store]\nread_timeout = '90s'\nmemory_limit = '1 GB'"))
    assert (config.store.read_timeout, config.store.memory_limit) == (timedelta(seconds=90), 1 << 30)
    assert (config.sources["shop"].create, config.sources["shop"].batch_size_max) == (True, 8 << 20)
    assert config.publish is None
    assert [rule.name for rule in config.rules] == ["sale"]


def test_included_rules_follow_those_of_the_file_in_the_order_of_their_names(tmp_path: Path) -> None:
    rule = GOOD[GOOD.index("[[rules]]") :]
    (tmp_path / "rules").mkdir()
    for name in ("b", "a"):
        (tmp_path / "rules" / f"{name}.toml").write_text(rule.replace('"sale"', f'"{name}"'), "utf-8")
    config = loaded(tmp_path, "include = ['rules/*.toml']\n" + GOOD)
    assert [rule.name for rule in config.rules] == ["sale", "a", "b"]


@pytest.mark.parametrize(("extra", "key"), [("book = 'main'\n", "book"), ("[[rules]]\nname = 'x'\n", "rules.0.book")])
def test_a_fault_in_an_included_file_names_that_file(tmp_path: Path, extra: str, key: str) -> None:
    (tmp_path / "rules.toml").write_text(extra, "utf-8")
    with pytest.raises(ConfigError) as raised:
        loaded(tmp_path, "include = ['rules.toml']\n" + GOOD)
    assert (raised.value.values["path"], raised.value.values["key"]) == (tmp_path / "rules.toml", key)


def test_what_is_not_toml_or_not_text_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="line 1"):
        loaded(tmp_path, "[store\n")
    (tmp_path / "ledgertail.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError) as raised:
        load(tmp_path / "ledgertail.toml")
    assert raised.value.code == "config.unreadable"


def test_the_file_is_looked_for_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LEDGERTAIL_CONFIG", raising=False)
    named, here = tmp_path / "named.toml", tmp_path / "ledgertail.toml"
    for path in (named, here):
        path.write_text(GOOD, "utf-8")
    assert load().path == here
    monkeypatch.setenv("LEDGERTAIL_CONFIG", str(named))
    assert load().path == named
    assert load(here).path == here
    with pytest.raises(ConfigError) as raised:
        load(tmp_path / "none.toml")
    assert raised.value.code == "config.missing"


def test_passwords_come_from_where_they_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SHOP_PASSWORD", raising=False)
    source = loaded(tmp_path, changed("tables =", "password_env = 'SHOP_PASSWORD'\ntables =")).sources["shop"]
    with pytest.raises(ConfigError, match="SHOP_PASSWORD"):
        source.password()
    monkeypatch.setenv("SHOP_PASSWORD", "secret")
    assert source.password() == "secret"
    (tmp_path / "password").write_text("from a file\n", "utf-8")
    source = loaded(tmp_path, changed("tables =", "password_file = 'password'\ntables =")).sources["shop"]
    assert source.password() == "from a file"
    assert loaded(tmp_path, GOOD).sources["shop"].password() is None


@pytest.mark.parametrize(
    ("store", "file", "socket"),
    [
        ('url = "duckdb:///srv/books.duckdb"', "/srv/books.duckdb", "/srv/books.duckdb.sock"),
        ('url = "duckdb:books.duckdb"', "{folder}/books.duckdb", "{folder}/books.duckdb.sock"),
        ('url = "duckdb:///srv/b.duckdb"\nsocket = "/run/l.sock"', "/srv/b.duckdb", "/run/l.sock"),
        ('url = "duckdb:///srv/b.duckdb"\nsocket = "l.sock"', "/srv/b.duckdb", "{folder}/l.sock"),
    ],
)
def test_store_and_socket_lie_where_the_config_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: str, file: str, socket: str
) -> None:
    monkeypatch.setattr("cdc.paths.SOCKET_BYTES_MAX", 4096)  # the test's folder may be long
    (tmp_path / "ledgertail.toml").write_text(f"[store]\n{store}\n", "utf-8")
    found = places(tmp_path / "ledgertail.toml")
    assert (str(found.store), str(found.socket)) == (file.format(folder=tmp_path), socket.format(folder=tmp_path))


@pytest.mark.parametrize("url", ["sqlite:///x", "/var/lib/x.duckdb", "duckdb://host/x", "duckdb:", "duckdb:///"])
def test_a_store_of_another_kind_is_refused(tmp_path: Path, url: str) -> None:
    (tmp_path / "ledgertail.toml").write_text(f"[store]\nurl = '{url}'\n", "utf-8")
    with pytest.raises(ConfigError, match=r"store\.url"):
        places(tmp_path / "ledgertail.toml")
