"""The config file: TOML to frozen models. Every fault is a ConfigError with the file and the key's path."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from datetime import date as Day  # noqa: N812 (rules have a key `date`)
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import SplitResult, urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, PrivateAttr, ValidationError

from cdc.errors import ConfigError
from cdc.paths import find, read_toml

NAME = r"^[a-z][a-z0-9_]{0,30}$"
PERIOD = r"^\d{4}-(0[1-9]|1[0-2])$"
CURRENCY = r"^[A-Z]{3}$"
DECIMAL = re.compile(r"DECIMAL\((\d+),(\d+)\)")
_EXACT_TYPES = ("BOOLEAN", "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "VARCHAR", "DATE", "TIMESTAMP")
_DURATION = re.compile(r"^(\d+)\s*(ms|s|m|h|d)$")
_SIZE = re.compile(r"^(\d+)\s*(B|KB|MB|GB)$", re.IGNORECASE)
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_BYTES = {"B": 1, "KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30}


def _duration(value: object) -> object:
    match = _DURATION.match(value) if isinstance(value, str) else None
    if isinstance(value, str) and not match:
        raise ValueError("a duration is a number and ms, s, m, h or d, such as '60s'")
    return timedelta(seconds=int(match[1]) * _SECONDS[match[2]]) if match else value


def _size(value: object) -> object:
    match = _SIZE.match(value) if isinstance(value, str) else None
    if isinstance(value, str) and not match:
        raise ValueError("a size is a number and B, KB, MB or GB, such as '64MB'")
    return int(match[1]) * _BYTES[match[2].upper()] if match else value


def _zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError):
        raise ValueError("not a time zone of the IANA list, such as 'Asia/Shanghai'") from None
    return value


def _exact_type(value: str) -> str:
    kind = "".join(value.upper().split())
    plain = re.sub(r"(\[\])+$", "", kind)
    digits = DECIMAL.fullmatch(plain)
    if plain in ("FLOAT", "DOUBLE", "REAL"):
        raise ValueError(f"{value} is a binary float, and an amount must stay exact: use a DECIMAL such as 'DECIMAL(18,2)'")
    if plain not in _EXACT_TYPES and not (digits and 1 <= int(digits[1]) <= 38 and int(digits[2]) <= int(digits[1])):
        raise ValueError(f"'{value}' is none of DECIMAL(p,s), {', '.join(_EXACT_TYPES)}, nor a list of one of them such as 'BIGINT[]'")
    return kind


Duration = Annotated[timedelta, BeforeValidator(_duration), PlainSerializer(str)]
Size = Annotated[int, BeforeValidator(_size)]
Zone = Annotated[str, AfterValidator(_zone)]
ExactType = Annotated[str, AfterValidator(_exact_type)]


M = TypeVar("M", bound="Model")


class Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)


class StoreConfig(Model):
    """`[store]`. `memory_limit` bounds DuckDB's buffers; reads go over `socket` while the daemon runs."""

    url: str
    memory_limit: Size = 512 << 20
    socket: Path | None = None
    socket_mode: str = Field("0600", pattern=r"^0[0-7]{3}$")
    read_timeout: Duration = timedelta(minutes=10)


class PublishConfig(Model):
    """`[publish]`: the journal, append-only, in a DuckLake."""

    url: str
    every: Duration = timedelta(seconds=60)
    keep: Duration = timedelta(days=7)


class RatesConfig(Model):
    """`[books.<name>.rates]`: from a captured table, by expressions over its rows, or from a CSV, or else those put into the store.

    `currency`, `date` (from which it holds), `rate` (base currency for one unit) and `type` of each row for which `when` is true. A rate
    is good for `max_age` after its day, if there is no later one.
    """

    table: str | None = None
    csv: Path | None = None
    currency: str = "currency"
    type: str = "'spot'"
    date: str = "rate_date"
    rate: str = "rate"
    when: str = "true"
    max_age: Duration = timedelta(days=7)

    @property
    def max_age_days(self) -> int:
        return self.max_age.days


class AccountConfig(Model):
    """`[books.<name>.accounts]`, by code: what lines of an account must have, in place of what its chart says: dimensions, the currency."""

    dims: list[Annotated[str, Field(min_length=1)]] | None = None
    currency: str | None = Field(None, pattern=rf"^$|{CURRENCY}")


class InferConfig(Model):
    """`[[books.<name>.infer]]`: a dimension that follows by a derivation table where a line lacks it, its column being named like it.

    For lines of accounts that require it, and of those whose codes begin with one of `accounts`.
    """

    dimension: str = Field(min_length=1)
    csv: Path
    accounts: list[Annotated[str, Field(min_length=1)]] = Field(default_factory=list)


class VouchersConfig(Model):
    """`[books.<name>.vouchers]`. `types`, where no rule says: all are 记 (`general`), or 收, 付 and 转 by the accounts of cash (`cash`).

    `cash_accounts` by how their codes begin; `summary_rules`: the rules whose vouchers show sums over their entries.
    """

    types: Literal["general", "cash"] = "general"
    cash_accounts: list[Annotated[str, Field(min_length=1)]] = Field(default_factory=lambda: ["1001", "1002", "1012"])
    summary_rules: list[str] = Field(default_factory=list)


class RevaluationConfig(Model):
    """`[books.<name>.revaluation]`: accounts by how their codes begin, where gains and losses go, and the type of the closing rates."""

    accounts: list[Annotated[str, Field(min_length=1)]] = Field(min_length=1)
    gain: str
    loss: str
    type: str = Field("closing", pattern=r"^[^']+$")


class BookConfig(Model):
    """`[books.<name>]`. `decimals`: what an amount of the base currency may have at most.

    `corrections`: the stored lines reversed and the new ones posted (`red-blue`), or the difference where only amounts changed (`delta`).
    `red`: what is taken back stands as `negative` amounts on its own side, or `swapped` on the other. `prior_year`: the account that takes
    the place of income and expenses of a closed year. `first_period` (`2026-01`): nothing earlier belongs into the book.
    """

    base_currency: str = Field(pattern=CURRENCY)
    chart: str
    decimals: int = Field(2, ge=0, le=6)
    time_zone: Zone = "UTC"
    corrections: Literal["red-blue", "delta"] = "red-blue"
    red: Literal["negative", "swapped"] = "negative"
    prior_year: str | None = None
    first_period: str | None = Field(None, pattern=PERIOD)
    rates: RatesConfig = RatesConfig()
    vouchers: VouchersConfig = VouchersConfig()
    revaluation: RevaluationConfig | None = None
    accounts: dict[str, AccountConfig] = Field(default_factory=dict)
    infer: list[InferConfig] = Field(default_factory=list)


class SourceConfig(Model):
    """`[sources.<name>]`. The password comes from `password_env` or `password_file`, never from the url.

    `types` overrides how a column is mapped: `"orders.total" = "decimal(18,2)"`, `"text"`, or, for MySQL, `"null"` and `"binary"`.
    `slot`, `publication` and `create` are PostgreSQL's; `server_id`, our number among the server's replicas, is MySQL's.
    """

    url: str
    password_env: str | None = None
    password_file: Path | None = None
    tables: list[str] = Field(min_length=1)
    types: dict[str, str] = Field(default_factory=dict)
    slot: str | None = Field(None, pattern=r"^[a-z0-9_]{1,63}$")
    publication: str | None = Field(None, min_length=1, max_length=63)
    create: bool = True
    server_id: int | None = Field(None, ge=1, le=(1 << 32) - 1)
    batch_size_max: Size = 8 << 20
    snapshot_workers: int = Field(2, ge=1, le=16)
    snapshot_chunk: Size = 4 << 20
    options: dict[str, str] = Field(default_factory=dict)

    @property
    def parts(self) -> SplitResult:
        return urlsplit(self.url)

    def password(self) -> str | None:
        """The source's password, if one is named. Raises ConfigError where the place named does not hold one."""
        if self.password_env is not None:
            if self.password_env not in os.environ:
                raise ConfigError("config.password_env", name=self.password_env)
            return os.environ[self.password_env]
        if self.password_file is not None:
            try:
                return self.password_file.read_text("utf-8").rstrip("\r\n")
            except OSError as error:
                raise ConfigError("config.password_file", path=self.password_file, detail=error.strerror) from error
        return None


class RateConfig(Model):
    """The rate of a type on a day, that of the entry if none is given."""

    type: str = Field("spot", pattern=r"^[^']+$")
    date: str | None = None


class LineConfig(Model):
    """A line of a rule: an account, and a debit, a credit or the rest; all else optional. All but a constant account are expressions.

    `rest`: what the other lines lack to balance, on the side that lacks it; at most that much, if an amount is given. `when`: whether
    the line is there. `each`: the array of the rule for each element of which it is; `by`: its amount is one of the row, shared out
    over the elements in this proportion. `rate`: by an expression, the debit or credit being in base currency; or looked up, the debit
    or credit being in `currency`. `exchange`: the line stands for an exchange of currencies, so that the entry need not balance in each
    of them.
    """

    account: str | Annotated[dict[Literal["expr"], str], Field(min_length=1)]
    debit: str | None = None
    credit: str | None = None
    rest: Literal[True] | Annotated[Decimal, Field(ge=0)] | None = None
    when: str | None = None
    each: str | None = None
    by: str | None = None
    currency: str | None = None
    orig_amount: str | None = None
    rate: str | RateConfig | None = None
    exchange: bool = False
    quantity: str | None = None
    unit: str | None = None
    dims: dict[str, str] = Field(default_factory=dict)


class LookupConfig(Model):
    """A row of another captured table of the source, or of a derivation table, by the values of some of its columns.

    `on` has an expression for each. `optional`: where there is no such row all its columns are NULL; otherwise the row that looks it up
    goes to quarantine.
    """

    table: str | None = None
    csv: Path | None = None
    on: dict[str, str] = Field(min_length=1)
    optional: bool = False


Arrays = dict[Annotated[str, Field(pattern=NAME)], str]
Lookups = dict[Annotated[str, Field(pattern=NAME)], LookupConfig]


class VariantConfig(Model):
    """What is different where a rule posts into another book, too. Arrays and lookups are added to the rule's."""

    when: str | None = None
    date: str | None = None
    voucher_key: str | None = None
    voucher_type: str | None = None
    summary: str | None = None
    attachments: str | None = None
    each: Arrays = Field(default_factory=dict)
    lookup: Lookups = Field(default_factory=dict)
    lines: list[LineConfig] | None = Field(None, min_length=1)


class RuleConfig(Model):
    """`[[rules]]`. `each`: arrays of the row (JSON text or lists), by the names that lines know an element of them by (`item.sku`).
    `lookup`: by the names that its expressions know them by (`customer.region`). `variants`: by their books.

    `currency` and `rate` are those of each line that has none of its own.

    Of several versions of a rule each holds for entries dated `valid_from` or later, until the next one's.
    """

    name: str = Field(min_length=1, max_length=200)
    book: str
    table: str
    when: str = "true"
    date: str
    voucher_key: str | None = None
    voucher_type: str | None = None
    summary: str | None = None
    attachments: str | None = None
    currency: str | None = None
    rate: str | RateConfig | None = None
    version: int = Field(1, ge=1)
    valid_from: Day | None = None
    each: Arrays = Field(default_factory=dict)
    lookup: Lookups = Field(default_factory=dict)
    lines: list[LineConfig] = Field(min_length=1)
    variants: dict[str, VariantConfig] = Field(default_factory=dict)
    _place: str = PrivateAttr("")

    def by_book(self) -> Iterator[RuleConfig]:
        """The rule as it is for each of its books."""
        yield self.model_copy(update={"variants": {}})._with_currency()
        for book, variant in self.variants.items():
            changed = {key: value for key in variant.model_fields_set - {"each", "lookup"} if (value := getattr(variant, key)) is not None}
            added = {"each": self.each | variant.each, "lookup": self.lookup | variant.lookup}
            yield self.model_copy(update={**changed, **added, "book": book, "variants": {}})._with_currency()

    def _with_currency(self) -> RuleConfig:
        """The rule's currency and rate given to each line that has none of its own, but for the rest, which is in base currency."""
        given = {name: value for name in ("currency", "rate") if (value := getattr(self, name)) is not None}
        lines = [
            line.model_copy(
                update={name: value for name, value in given.items() if getattr(line, name) is None} if line.rest is None else {}
            )
            for line in self.lines
        ]
        return self.model_copy(update={"lines": lines, "currency": None, "rate": None})

    @property
    def place(self) -> str:
        """Where the rule stands: its file and key, `rules/sales.toml: rules.0`."""
        return self._place


class FunctionConfig(Model):
    """`[functions.<name>]`: the function `call` (or of that name) of a Python file, which rules call by the name.

    `takes` and `gives` are exact types of DuckDB's; what the function sees of them is told in `cdc/accounting/functions.py`.
    """

    file: Path
    call: str | None = Field(None, min_length=1)
    takes: list[ExactType] = Field(min_length=1)
    gives: ExactType


class Config(Model):
    """The whole file. `path` is where it was read; relative paths in it start there."""

    path: Path
    store: StoreConfig
    publish: PublishConfig | None = None
    books: dict[Annotated[str, Field(pattern=NAME)], BookConfig] = Field(min_length=1)
    sources: dict[Annotated[str, Field(pattern=NAME)], SourceConfig] = Field(min_length=1)
    functions: dict[Annotated[str, Field(pattern=NAME)], FunctionConfig] = Field(default_factory=dict)
    rules: list[RuleConfig] = Field(default_factory=list)


def load(option: str | Path | None = None) -> Config:
    """Read and validate the config and the rule files it includes. Raises ConfigError."""
    path = find(option)
    data = read_toml(path)
    if "path" in data:  # a field of Config, but none of the file
        raise ConfigError("config.key", path=path, key="path", fault="Extra inputs are not permitted")
    rules = [(path, f"rules.{i}", rule) for i, rule in enumerate(_list(path, data.pop("rules", []), "rules"))]
    for pattern in _list(path, data.pop("include", []), "include"):
        files = sorted(path.parent.glob(str(pattern)))
        if not files:
            raise ConfigError("config.key", path=path, key="include", fault=f"no file matches '{pattern}'")
        for file in files:
            included = read_toml(file)
            if extra := set(included) - {"rules"}:
                raise ConfigError("config.key", path=file, key=sorted(extra)[0], fault="an included file holds only [[rules]]")
            rules += [(file, f"rules.{i}", rule) for i, rule in enumerate(_list(file, included.get("rules", []), "rules"))]
    written = [(file, key, _rule(file, key, rule, path.parent)) for file, key, rule in rules]
    checked = [(file, key, each) for file, key, rule in written for each in rule.by_book()]
    config = _validate(Config, {**data, "path": path}, path, "")
    sources = {
        name: source.model_copy(update={"password_file": path.parent / source.password_file}) if source.password_file else source
        for name, source in config.sources.items()
    }
    functions = {name: each.model_copy(update={"file": path.parent / each.file}) for name, each in config.functions.items()}
    config = config.model_copy(update={"rules": [rule for _, _, rule in checked], "sources": sources, "functions": functions})
    for file_key, fault in _contradictions(config, [(file, key) for file, key, _ in checked]):
        raise ConfigError("config.key", path=file_key[0], key=file_key[1], fault=fault)
    return config


def _rule(path: Path, key: str, data: Any, folder: Path) -> RuleConfig:
    """A rule of a file; the paths of its derivation tables start at `folder`."""
    rule = _validate(RuleConfig, data, path, key)
    for lookups in (rule.lookup, *(variant.lookup for variant in rule.variants.values())):
        for name, lookup in lookups.items():
            if lookup.csv is not None:
                lookups[name] = lookup.model_copy(update={"csv": folder / lookup.csv})
    rule._place = f"{path.name}: {key}"
    return rule


def _list(path: Path, value: object, key: str) -> list[Any]:
    if not isinstance(value, list):
        raise ConfigError("config.key", path=path, key=key, fault="must be a list")
    return value


def _validate(model: type[M], data: Any, path: Path, prefix: str) -> M:
    try:
        return model.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(filter(None, [prefix, *(str(part) for part in first["loc"] if part != "[key]")]))
        raise ConfigError("config.key", path=path, key=key or "(file)", fault=first["msg"]) from None


def _contradictions(config: Config, places: list[tuple[Path, str]]) -> Iterator[tuple[tuple[Path, str], str]]:
    """What no single key can tell: names that refer to nothing, or twice to the same."""
    for name, source in config.sources.items():
        place = (config.path, f"sources.{name}")
        if source.parts.password:
            yield (config.path, f"sources.{name}.url"), "holds a password; name it with password_env or password_file"
        if not source.parts.scheme or not source.parts.path.strip("/"):
            yield (config.path, f"sources.{name}.url"), "must be like 'postgres://user@host:5432/database'"
        if source.password_env and source.password_file:
            yield place, "has both password_env and password_file"
        if len({table.casefold() for table in source.tables}) < len(source.tables):
            yield (config.path, f"sources.{name}.tables"), "names a table twice (the store does not tell capitals apart)"
    for name, book in config.books.items():
        if book.rates.table is not None and book.rates.csv is not None:
            yield (config.path, f"books.{name}.rates"), "rates are in either a table or a csv"
        for i, rule_name in enumerate(book.vouchers.summary_rules):
            if rule_name not in {rule.name for rule in config.rules if rule.book == name}:
                fault = f"book '{name}' has no rule '{rule_name}'"
                yield (config.path, f"books.{name}.vouchers.summary_rules.{i}"), fault
    captured = {f"{name}.{table}" for name, source in config.sources.items() for table in source.tables}
    seen: dict[tuple[str, str], list[RuleConfig]] = {}
    for rule, (path, key) in zip(config.rules, places, strict=True):
        others = seen.setdefault((rule.name, rule.book), [])
        if any(rule.version == other.version or rule.table != other.table for other in others):
            yield (path, f"{key}.name"), f"rule '{rule.name}' is there twice"
        if any(rule.valid_from == other.valid_from for other in others):
            yield (path, f"{key}.valid_from"), f"rule '{rule.name}': two versions hold from the same day"
        others.append(rule)
        if rule.book not in config.books:
            yield (path, f"{key}.book"), f"rule '{rule.name}': there is no book '{rule.book}'"
        elif (rates := config.books[rule.book].rates.table) is not None and any(isinstance(line.rate, RateConfig) for line in rule.lines):
            if rates not in captured:
                yield (config.path, f"books.{rule.book}.rates.table"), f"'{rates}' is not a captured table"
            elif rates.partition(".")[0] != rule.table.partition(".")[0]:
                fault = f"rule '{rule.name}': the rates of its book are in another source, whose transactions have no order with these"
                yield (path, f"{key}.table"), fault
        if rule.table not in captured:
            yield (path, f"{key}.table"), f"rule '{rule.name}': '{rule.table}' is not a captured table"
        for name in rule.each.keys() & rule.lookup.keys():
            yield (path, f"{key}.each.{name}"), f"rule '{rule.name}': '{name}' is looked up, too"
        for name, lookup in rule.lookup.items():
            if (lookup.table is None) == (lookup.csv is None):
                yield (path, f"{key}.lookup.{name}"), f"rule '{rule.name}': a lookup is in either a table or a csv"
            elif lookup.table is None:
                continue
            elif lookup.table not in captured:
                yield (path, f"{key}.lookup.{name}.table"), f"rule '{rule.name}': '{lookup.table}' is not a captured table"
            elif lookup.table.partition(".")[0] != rule.table.partition(".")[0]:
                fault = f"rule '{rule.name}': '{lookup.table}' is of another source, whose transactions have no order with these"
                yield (path, f"{key}.lookup.{name}.table"), fault
        for i, line in enumerate(rule.lines):
            if sum(given is not None for given in (line.debit, line.credit, line.rest)) != 1:
                yield (path, f"{key}.lines.{i}"), f"rule '{rule.name}': a line has either a debit, a credit or the rest"
            if isinstance(line.rate, RateConfig) and line.currency is None:
                yield (path, f"{key}.lines.{i}.rate"), f"rule '{rule.name}': a rate is looked up for a currency; give the line one"
            if isinstance(line.rate, RateConfig) and line.orig_amount is not None:
                fault = f"rule '{rule.name}': a looked-up rate converts the debit or credit, which is the original amount"
                yield (path, f"{key}.lines.{i}.orig_amount"), fault
            if line.rest is not None and line.when is not None:
                yield (path, f"{key}.lines.{i}.when"), f"rule '{rule.name}': the rest is there whenever there is one"
            if line.each is not None and (line.rest is not None or line.each not in rule.each):
                fault = "there is one rest for all lines" if line.rest is not None else f"there is no '{line.each}' among the rule's 'each'"
                yield (path, f"{key}.lines.{i}.each"), f"rule '{rule.name}': {fault}"
            if line.by is not None and line.each is None:
                yield (path, f"{key}.lines.{i}.by"), f"rule '{rule.name}': only an amount of lines with 'each' is shared out"
        if sum(line.rest is not None for line in rule.lines) > 1:
            yield (path, f"{key}.lines"), f"rule '{rule.name}': only one line can be the rest"
