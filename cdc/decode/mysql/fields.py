"""Columns of MySQL and MariaDB as the store keeps them.

    MySQL, MariaDB                       Arrow               DuckDB         note
    tinyint, smallint, mediumint,
      int, bigint                        int8 to int64       TINYINT ...    unsigned: uint8 to uint64, UTINYINT ...
    decimal(p,s), up to 38 digits        decimal128(p,s)     DECIMAL(p,s)
    decimal beyond 38 digits             string              VARCHAR        exact text; DuckDB has no type for all of them
    float, double                        float, double       FLOAT, DOUBLE  bit for bit
    bit(n)                               uint64              UBIGINT
    char, varchar, texts                 string              VARCHAR        from any character set; char without spaces at its end
    binary, varbinary, blobs             binary              BLOB           binary with all its zeros
    date                                 date32              DATE
    datetime                             timestamp[us]       TIMESTAMP
    timestamp                            timestamp[us, UTC]  TIMESTAMPTZ
    time                                 string              VARCHAR        DuckDB's TIME has no sign and ends at 24 h
    year                                 int16               SMALLINT       0000 is 0
    enum, set                            string              VARCHAR        names; an ENUM's error value is ''
    json                                 string              JSON           MariaDB's is a longtext
    uuid                                 string              UUID
    inet4, inet6                         string              VARCHAR
    geometry and its kinds, vector       binary              BLOB           the server's bytes: SRID (4) and WKB; floats

Zero and partial dates, zero TIMESTAMPs, bytes that are no text in their character set, and ENUM and SET members whose name the catalog
cannot tell have no faithful target. A column's `types` in the config says what to do with them:

    (nothing)     halt: ValueUnfit
    text          any column: the server's own text. BIT as its number, GEOMETRY and VECTOR as hexadecimal, FLOAT with all its digits,
                  numbers without ZEROFILL. Bytes that are no text still halt
    decimal(p,s)  numbers and text; what is no such number halts
    binary        text: its bytes as they are
    null          NULL, and the value's text in a second column `<name>#unfit`, which is NULL everywhere else; not for key columns
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any, TypeAlias

import pyarrow as pa

from cdc.decode.mysql.decimals import DIGITS_MAX, exact
from cdc.decode.mysql.images import TIMESTAMP, TIMESTAMPTZ, binary, values_of
from cdc.decode.mysql.types import BYTES, GEOMETRIES, INTEGERS, MEMBERS, NUMBERS, TEXTS, MyType, parse_type
from cdc.decode.mysql.values import Converter, FromWire, converter, hexadecimal, integer_kind
from cdc.decode.mysql.wire import WireColumn
from cdc.errors import ConfigError, ValueUnfit
from cdc.types import Column, TableSchema

if TYPE_CHECKING:
    from cdc.decode.mysql.kernel import Values

UNFIT = "unfit"  # the source_type of the column that records what was NULLed
_SHOWN_MAX = 60  # characters of a value in a message
_TEXT, _BLOB = (pa.string(), "VARCHAR"), (pa.binary(), "BLOB")
_OVERRIDE = re.compile(r"decimal\(\s*(\d{1,2})\s*,\s*(\d{1,2})\s*\)")
_MAPPED: dict[str, tuple[pa.DataType, str]] = {
    "float": (pa.float32(), "FLOAT"),
    "double": (pa.float64(), "DOUBLE"),
    "bit": (pa.uint64(), "UBIGINT"),
    "date": (pa.date32(), "DATE"),
    "datetime": (TIMESTAMP, "TIMESTAMP"),
    "timestamp": (TIMESTAMPTZ, "TIMESTAMPTZ"),
    "year": (pa.int16(), "SMALLINT"),
    "json": (pa.string(), "JSON"),
    "uuid": (pa.string(), "UUID"),
    **dict.fromkeys((*BYTES, *GEOMETRIES, "vector"), _BLOB),
}
_STORED = {"tinyint": "TINYINT", "smallint": "SMALLINT", "mediumint": "INTEGER", "int": "INTEGER", "bigint": "BIGINT"}


@dataclass(frozen=True, slots=True)
class Field:
    """A source column, and the column it is kept in; and the one that records unfit values, if they are to be NULL."""

    name: str
    my_type: MyType
    columns: tuple[Column, ...]

    def from_wire(self, wire: WireColumn, values: Values, table: str) -> list[pa.Array]:
        """Values of row images, an array per column. Raises ValueUnfit.

        The type must fit the wire column (types.fits_wire).
        """
        reading = _reading(self.my_type, self.columns[0])
        return self._kept(values, partial(_with, reading.wire, wire), partial(_with, reading.wire_text, wire), table)

    def from_text(self, values: pa.Array, table: str) -> list[pa.Array]:
        """Values of the text protocol (Arrow binary), an array per column, equal to those of `from_wire`. Raises ValueUnfit."""
        reading = _reading(self.my_type, self.columns[0])
        return self._kept(values, reading.text, reading.text_text, table)

    def _kept(self, values: _Values, convert: _Convert, show: _Convert, table: str) -> list[pa.Array]:
        array = self._sound(convert, values, table)
        if array.null_count == values.null_count:
            return [array, *(pa.nulls(len(array), pa.string()) for _ in self.columns[1:])]
        rows = [row for row, (null, was) in enumerate(zip(_missing(array), _missing(values), strict=True)) if null and not was]
        if len(self.columns) == 1:
            unfit = _some(values, rows[:1])
            raise self._unfit(_shown(self._sound(show, unfit, table), unfit)[0], table)
        unfit = _some(values, rows)
        texts = dict(zip(rows, _shown(self._sound(show, unfit, table), unfit), strict=True))
        return [array, pa.array([texts.get(row) for row in range(len(array))], pa.string())]

    def _sound(self, convert: _Convert, values: _Values, table: str) -> pa.Array:
        """The converted values. Raises ValueUnfit with the first that is no value of the type at all."""
        try:
            return convert(values)
        except ValueError as error:  # pyarrow.ArrowInvalid and Malformed are such
            offender = hexadecimal(_binary(_offender(convert, values)))[0].as_py()
            raise ValueUnfit(
                "decode.foreign", table=table, column=self.name, type=self.my_type, value=_shortened(offender), detail=error
            ) from error

    def _unfit(self, value: str, table: str) -> ValueUnfit:
        column, shown = self.columns[0], {"table": table, "column": self.name, "type": self.my_type, "value": _shortened(value)}
        if self.my_type.name in MEMBERS:
            return ValueUnfit("decode.member", **shown)
        if pa.types.is_string(column.type) and self.my_type.name in (*TEXTS, *BYTES):
            return ValueUnfit("decode.charset", **shown, charset=self.my_type.charset or "utf8mb4")
        return ValueUnfit("decode.value", **shown, target=column.store_type)


_Values: TypeAlias = "Values | pa.Array"
_Convert = Callable[[Any], pa.Array]


def _with(convert: FromWire, wire: WireColumn, values: Values) -> pa.Array:
    return convert(values, wire)


def _missing(values: _Values) -> list[bool]:
    return values.is_null().to_pylist() if isinstance(values, pa.Array) else [value is None for value in values.to_pylist()]


def _some(values: _Values, rows: Sequence[int]) -> _Values:
    if isinstance(values, pa.Array):
        return values.take(pa.array(rows, pa.int64()))
    listed = values.to_pylist()
    return values_of([listed[row] for row in rows])


def _binary(values: _Values) -> pa.Array:
    return values if isinstance(values, pa.Array) else binary(values)


def _shown(texts: pa.Array, values: _Values) -> list[str]:
    """The texts, and the bytes in hexadecimal where there is none."""
    return [bare if text is None else text for text, bare in zip(texts.to_pylist(), hexadecimal(_binary(values)).to_pylist(), strict=True)]


def _shortened(text: str) -> str:
    return text[:_SHOWN_MAX] + ("..." if len(text) > _SHOWN_MAX else "")


def _offender(convert: _Convert, values: _Values) -> _Values:
    """The first value that can't be converted, found by halving."""
    while len(values) > 1:
        half = len(values) // 2
        left = _some(values, range(half))
        try:
            convert(left)
            values = _some(values, range(half, len(values)))
        except ValueError:
            values = left
    return values


@cache
def _reading(my_type: MyType, column: Column) -> Converter:
    """The converter to what a column is kept as, which says how it was overridden."""
    made = converter(my_type)
    if (column.type, column.store_type) == _mapped(my_type):
        return made
    if pa.types.is_binary(column.type):
        return replace(made, wire=lambda values, _: binary(values), text=lambda raw: raw)
    if pa.types.is_decimal(column.type):
        return replace(
            made,
            wire=lambda values, wire: exact(made.wire_text(values, wire), column.type),
            text=lambda raw: exact(made.text_text(raw), column.type),
        )
    return replace(made, wire=made.wire_text, text=made.text_text)


def make_field(name: str, my_type: MyType, override: str | None, key: bool = False) -> Field:
    """How a column is kept. `override` is its `types` in the config; `key`: it is one of the key's columns. Raises ConfigError."""
    wanted = (override or "").strip().lower()
    if wanted == "null" and key:
        raise ConfigError("decode.override_key", column=name)
    arrow, store = _mapped(my_type) if wanted == "null" or override is None else _overridden(name, my_type, wanted)
    columns = (Column(name, arrow, store, str(my_type)),)
    return Field(name, my_type, (*columns, Column(f"{name}#{UNFIT}", *_TEXT, UNFIT)) if wanted == "null" else columns)


def fields_of(schema: TableSchema) -> tuple[Field, ...]:
    """The fields of a schema that was made of fields. Raises SchemaUnknown if it was not."""
    fields: list[Field] = []
    for column in schema.columns:
        if column.source_type == UNFIT:
            fields[-1] = replace(fields[-1], columns=(*fields[-1].columns, column))
        else:
            fields.append(Field(column.name, parse_type(column.source_type), (column,)))
    return tuple(fields)


def select_expression(field: Field) -> str:
    """The SQL a snapshot selects a field by, so that the server's text is exact."""
    quoted = "`" + field.name.replace("`", "``") + "`"
    # A FLOAT is printed with six digits, and FLOAT(M,D) and DOUBLE(M,D) with D; times one it is a DOUBLE, with all, and the sign of zero.
    return f"{quoted} * 1e0" if field.my_type.name in ("float", "double") else quoted


def _mapped(my_type: MyType) -> tuple[pa.DataType, str]:
    name = my_type.name
    if name in INTEGERS:
        return integer_kind(my_type), "U" * my_type.unsigned + _STORED[name]
    if my_type.digits:
        return _decimal(*my_type.digits) if my_type.digits[0] <= DIGITS_MAX else _TEXT
    return _MAPPED.get(name, _TEXT)


def _overridden(name: str, my_type: MyType, wanted: str) -> tuple[pa.DataType, str]:
    if wanted == "text":
        return _TEXT
    if wanted == "binary" and my_type.name in TEXTS:
        return _BLOB
    match = _OVERRIDE.fullmatch(wanted)
    fits = match and max(1, int(match[2])) <= int(match[1]) <= DIGITS_MAX
    if not match or not fits or my_type.name not in (*NUMBERS, *TEXTS):
        raise ConfigError("decode.mysql_override", column=name, override=wanted, type=my_type)
    return _decimal(int(match[1]), int(match[2]))


def _decimal(precision: int, scale: int) -> tuple[pa.DataType, str]:
    return pa.decimal128(precision, scale), f"DECIMAL({precision},{scale})"
