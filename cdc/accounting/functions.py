"""Python functions that rules call for what SQL can't say, such as depreciation: vectorised over Arrow, with declared, exact types.

A function takes an Arrow array for each of its arguments and gives an array of the same length, row by row; it sees nulls. It is code of
the config, and trusted as such: it runs in the daemon, with its rights. What it gives may depend on its arguments alone, or the journal
were no function of the source's history.

A call is a step that adds columns to the relation of changes, or to one of elements (see `lookups`): the value, and the fault of the rows
it has none for. So DuckDB never calls Python: no value is converted on the way, the whole batch is one call, and a row that fails does not
take others with it.
"""

from __future__ import annotations

import inspect
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from cdc.accounting.expressions import is_duckdbs
from cdc.accounting.lookups import States, Step, keys, rows
from cdc.accounting.sql import listed, literal, quote
from cdc.config import DECIMAL, FunctionConfig
from cdc.errors import ConfigError
from cdc.types import DELETE

VALUE = "value"  # the column that a call adds
_ARROW = {
    "BOOLEAN": pa.bool_(),
    "TINYINT": pa.int8(),
    "SMALLINT": pa.int16(),
    "INTEGER": pa.int32(),
    "BIGINT": pa.int64(),
    "VARCHAR": pa.string(),
    "DATE": pa.date32(),
    "TIMESTAMP": pa.timestamp("us"),
}
_WHOLE = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT"}
_TOLD_MAX = 300


@dataclass(frozen=True, slots=True)
class Function:
    """A function of the config, loaded: `takes` and `gives` are DuckDB types."""

    name: str
    takes: tuple[str, ...]
    gives: str
    call: Callable[..., Any]

    def evaluate(self, arguments: list[pa.Array]) -> tuple[pa.Array, pa.Array]:
        """The value and the fault, one of them null, of each row of arguments of the declared types.

        Where the call fails it is made again for either half, down to single rows.
        """
        count = len(arguments[0])
        try:
            return self._called(arguments), pa.nulls(count, pa.string())
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 (whatever a function of the user's raises)
            if count == 1:
                return pa.nulls(1, arrow_type(self.gives)), pa.array([f"{self.name}: {_told(error)}"], pa.string())
        halves = [
            self.evaluate([each.slice(start, length) for each in arguments])
            for start, length in ((0, count // 2), (count // 2, count - count // 2))
        ]
        values, faults = zip(*halves, strict=True)
        return pa.concat_arrays(values), pa.concat_arrays(faults)

    def probe(self) -> None:
        """Call it with arrays without rows. Raises what it raises, and TypeError or ValueError for what it gives."""
        self._called([pa.nulls(0, arrow_type(kind)) for kind in self.takes])

    def _called(self, arguments: list[pa.Array]) -> pa.Array:
        given = self.call(*arguments)
        if not isinstance(given, pa.Array | pa.ChunkedArray):
            raise TypeError(f"it gives a {type(given).__name__}, not an Arrow array")
        if len(given) != len(arguments[0]):
            raise ValueError(f"it gives {len(given)} values for {len(arguments[0])} rows")
        return _exactly(given.combine_chunks() if isinstance(given, pa.ChunkedArray) else given, arrow_type(self.gives))


@dataclass(frozen=True, slots=True)
class Call(Step):
    """A call of a function. `arguments`: SQL; `asked`: SQL for whether a row's value may be needed; `inner`: the fault columns of
    the calls among the arguments."""

    function: Function
    arguments: tuple[str, ...]
    asked: str
    inner: tuple[str, ...]

    @property
    def readable(self) -> Mapping[str, pa.DataType]:
        """The one column it adds."""
        return {VALUE: arrow_type(self.function.gives)}

    @property
    def sql(self) -> str:
        """SQL for the value. Like any other expression it fails on a row that has none: a fault's text is no BOOLEAN."""
        return f"CASE WHEN CAST({quote(self.fault)} AS BOOLEAN) THEN NULL ELSE {quote(self.column(VALUE))} END"

    def add(self, connection: duckdb.DuckDBPyConnection, states: States, columns: Iterable[str]) -> None:
        """Call the function for the rows asked for, and add the columns."""
        taken, key = zip(self.arguments, self.function.takes, strict=True), listed(keys(self.over))
        packed = ", ".join(f"a{i} := CAST({sql} AS {kind})" for i, (sql, kind) in enumerate(taken))
        unpacked = ", ".join(f"args.a{i}" for i in range(len(self.arguments)))
        given = connection.execute(
            f"""SELECT {key}, args IS NULL AS bad, {unpacked} FROM (
                SELECT {key}, TRY(struct_pack({packed})) AS args FROM {rows(self.over)} WHERE "#op" <> '{DELETE}' AND {self.asked})
            ORDER BY {key}"""
        ).to_arrow_table()
        connection.register("called", self._values(given.filter(pc.invert(given["bad"]))))
        connection.register("uncalled", given.filter(given["bad"]).select(keys(self.over)))
        failing = ", ".join([*map(quote, self.inner), literal(f"{self.function.name}: an argument fails")])
        try:
            self.widen(
                connection,
                f"""SELECT {quote(self.over)}.*, f.value AS {quote(self.column(VALUE))},
                    CASE WHEN u."#rid" IS NULL THEN f.fault ELSE coalesce({failing}) END AS {quote(self.fault)}
                FROM {rows(self.over)} LEFT JOIN called f ON {self._same("f")} LEFT JOIN uncalled u ON {self._same("u")}""",
            )
        finally:
            connection.unregister("called")
            connection.unregister("uncalled")

    def _same(self, other: str) -> str:
        """SQL for whether a row of another relation is of the same row."""
        return " AND ".join(f"{other}.{quote(key)} = {quote(self.over)}.{quote(key)}" for key in keys(self.over))

    def _values(self, given: pa.Table) -> pa.Table:
        """The keys, the value and the fault of rows with arguments."""
        taken = enumerate(self.function.takes)
        arguments = [given[f"a{i}"].combine_chunks().cast(arrow_type(kind)) for i, kind in taken]
        none = pa.nulls(0, arrow_type(self.function.gives)), pa.nulls(0, pa.string())
        values, faults = self.function.evaluate(arguments) if given.num_rows else none
        return pa.table({**{key: given[key] for key in keys(self.over)}, VALUE: values, "fault": faults})


def load_functions(path: Path, configs: Mapping[str, FunctionConfig]) -> dict[str, Function]:
    """The functions of a config (at `path`), each file run once. Raises ConfigError with the key, for what is wrong with any of them."""
    modules: dict[Path, ModuleType] = {}
    return {name: _load(path, name, config, modules) for name, config in configs.items()}


def _load(path: Path, name: str, config: FunctionConfig, modules: dict[Path, ModuleType]) -> Function:
    called = config.call or name

    def refuse(key: str, fault: str) -> NoReturn:
        raise ConfigError("config.function", path=path, key=f"functions.{name}{key}", fault=fault, file=config.file.name) from None

    if is_duckdbs(name):
        refuse("", f"'{name}' is a function or a word of DuckDB's: take another name")
    try:
        if config.file not in modules:
            modules[config.file] = _module(config.file)
        module = modules[config.file]
    except (Exception, SystemExit) as error:  # noqa: BLE001 (whatever the user's file raises)
        refuse(".file", _told_with_line(error, config.file))
    call = getattr(module, called, None)
    if not callable(call):
        refuse(".call", f"there is no function '{called}' in '{config.file.name}'")
    try:
        inspect.signature(call).bind(*config.takes)
    except TypeError as error:
        refuse(".takes", f"'{called}' can't be called with {len(config.takes)} arguments: {error}")
    except ValueError:
        pass  # a built-in one that does not tell
    function = Function(name, tuple(config.takes), config.gives, call)
    try:
        function.probe()
    except Exception as error:  # noqa: BLE001
        refuse("", f"'{called}' fails on arrays without rows: {_told_with_line(error, config.file)}")
    return function


def arrow_type(kind: str) -> pa.DataType:
    """The Arrow type of a declared type."""
    if kind.endswith("[]"):
        return pa.list_(arrow_type(kind[:-2]))
    digits = DECIMAL.fullmatch(kind)
    return pa.decimal128(int(digits[1]), int(digits[2])) if digits else _ARROW[kind]


def keeps(kind: str, declared: str) -> bool:
    """Whether a cast from a DuckDB type to a declared one leaves every value as it is, or fails."""
    if kind.endswith("[]") and declared.endswith("[]"):
        return keeps(kind[:-2], declared[:-2])
    places, room = _places(kind), _places(declared)
    return kind == declared or (places is not None and room is not None and places <= room)


def _places(kind: str) -> int | None:
    """The decimal places of a number's type; None for other types."""
    digits = DECIMAL.fullmatch(kind)
    return int(digits[2]) if digits else 0 if kind in _WHOLE else None


def _told(error: BaseException) -> str:
    """An exception in one line."""
    return f"{type(error).__name__}: {error}".split("\n")[0][:_TOLD_MAX]


def _told_with_line(error: BaseException, file: Path) -> str:
    """An exception with the last line of a file that it came through."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    return _told(error) + "".join(f" (line {line})" for line in lines[-1:])


def _module(file: Path) -> ModuleType:
    """A file, run as a module of its own. What is compiled of it is not kept, as it may lie where the daemon must not write."""
    module = ModuleType(f"ledgertail:{file.stem}")
    module.__file__ = str(file)
    sys.modules[module.__name__] = module  # for dataclasses and the like, which look themselves up
    exec(compile(file.read_bytes(), str(file), "exec", dont_inherit=True), module.__dict__)
    return module


def _exactly(given: pa.Array, declared: pa.DataType) -> pa.Array:
    """Values in the declared type. Raises TypeError for another kind of type, ArrowInvalid for a value that would not stay as it is."""
    if not _alike(given.type, declared):
        raise TypeError(f"it gives {given.type}, and {declared} was declared")
    if pa.types.is_integer(given.type) and pa.types.is_decimal(declared):
        given = given.cast(pa.decimal256(76, declared.scale))
    return given.cast(declared)


def _alike(given: pa.DataType, declared: pa.DataType) -> bool:
    """Whether a type is of the declared one's kind, so that only its values can tell whether they fit."""
    if pa.types.is_list(given) and pa.types.is_list(declared):
        return _alike(given.value_type, declared.value_type)
    kinds = [pa.types.is_null, declared.__eq__]
    if pa.types.is_decimal(declared) or pa.types.is_integer(declared):
        kinds += [pa.types.is_integer]
    if pa.types.is_decimal(declared):
        kinds += [pa.types.is_decimal]
    if pa.types.is_string(declared):
        kinds += [pa.types.is_large_string]
    return any(kind(given) for kind in kinds)
