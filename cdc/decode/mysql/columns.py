"""Column definitions as statements write them (manuals: CREATE TABLE, Data Types), and the types they come to."""

from __future__ import annotations

from dataclasses import dataclass, replace

from cdc.decode.mysql.charsets import extends_ascii, width
from cdc.decode.mysql.lexer import END, Form, Token, Tokens, Unreadable
from cdc.decode.mysql.types import BYTES, GEOMETRIES, INTEGERS, INTERNET, MEMBERS, TEXTS, TIMES, MyType

REAL_AS_FLOAT, ORACLE, MAXDB = 1, 512, 4096  # of sql_mode
VARCHAR_BYTES_MAX = 65_535
FLOAT_BITS_MAX = 24
_DEFAULT_LENGTHS = {"char": 1, "binary": 1, "bit": 1, "vector": 2048}
_SIZES = (0xFF, 0xFFFF, 0xFFFFFF, 0xFFFFFFFF)  # bytes that the four kinds of TEXT and of BLOB hold
LOB_SIZES = {name: size for kinds in (TEXTS[2:], BYTES[2:]) for name, size in zip(kinds, _SIZES, strict=True)}
_BYTES_FOR = dict(zip(TEXTS, BYTES, strict=True))

_SYNONYMS = {
    "bool": "tinyint",
    "boolean": "tinyint",
    "int1": "tinyint",
    "int2": "smallint",
    "int3": "mediumint",
    "middleint": "mediumint",
    "int4": "int",
    "integer": "int",
    "int8": "bigint",
    "dec": "decimal",
    "numeric": "decimal",
    "fixed": "decimal",
    "float4": "float",
    "float8": "double",
    "character": "char",
    "varcharacter": "varchar",
    "geomcollection": "geometrycollection",
}
_SIMPLE = {*INTEGERS, *GEOMETRIES, *INTERNET, *MEMBERS, *TIMES, *TEXTS, *BYTES}
_SIMPLE |= {"decimal", "float", "double", "bit", "date", "year", "json", "vector"}


@dataclass(frozen=True, slots=True)
class DeclaredType:
    """A type as a statement says it; which MyType it is depends on the table's character set where it names none.

    `name` is a MyType's, `numbers` what stood in parentheses, `charset` the one it names itself.
    """

    name: str
    numbers: tuple[int, ...] = ()
    members: tuple[str, ...] = ()
    unsigned: bool = False
    charset: str | None = None
    mariadb: bool = False

    @property
    def wants_charset(self) -> bool:
        """Whether the table's character set counts."""
        return self.charset is None and self.name in (*TEXTS, *MEMBERS)

    def in_any_charset(self) -> DeclaredType:
        """A text in the table's character set, whatever it says itself."""
        return replace(self, charset=None) if self.name in TEXTS and self.charset != "binary" else self

    def resolve(self, table_charset: str | None) -> MyType | None:
        """The type in a table of a character set; None where that counts and is not known, or the server makes another type of it."""
        if self.name in TEXTS or self.name in MEMBERS:
            charset = self.charset or table_charset
            return None if charset is None else self._text(charset)
        if self.name in LOB_SIZES and self.numbers:
            return MyType(_smallest(BYTES[2:], self.numbers[0], self.mariadb))
        if self.name in ("varbinary", "binary"):
            return _variable(MyType(self.name, length=self._length()))
        if self.name == "decimal":
            return MyType(self.name, self.unsigned, digits=((*self.numbers, 0)[0] or 10, (*self.numbers, 0, 0)[1]))
        if self.name == "float" and len(self.numbers) == 1 and self.numbers[0] > FLOAT_BITS_MAX:
            return MyType("double", self.unsigned)
        if self.name in TIMES:
            return MyType(self.name, fraction=self.numbers[0] if self.numbers else 0)
        if self.name in ("bit", "vector"):
            return MyType(self.name, length=self._length() or 1)
        return MyType(self.name, self.unsigned)

    def _length(self) -> int:
        return self.numbers[0] if self.numbers else _DEFAULT_LENGTHS[self.name]

    def _text(self, charset: str) -> MyType | None:
        if self.name in MEMBERS:
            # The server takes the padding off, which only bytes do not have.
            members = self.members if charset == "binary" else tuple(member.rstrip(" ") for member in self.members)
            return MyType(self.name, charset=charset, members=members)
        if self.name in LOB_SIZES:
            name = _smallest(TEXTS[2:], self.numbers[0] * width(charset), self.mariadb) if self.numbers else self.name
            return in_charset(MyType(name), charset)
        return _variable(in_charset(MyType(self.name, length=self._length()), charset))


def in_charset(my_type: MyType, charset: str) -> MyType:
    """A type of text with its character set; `binary` makes it the type of bytes."""
    return MyType(_BYTES_FOR[my_type.name], length=my_type.length) if charset == "binary" else replace(my_type, charset=charset)


def converted(my_type: MyType, charset: str) -> MyType | None:
    """What CONVERT TO CHARACTER SET makes of a column's type; None where that is not known.

    A TEXT becomes the kind that still holds as many characters. The names of members keep their bytes, whatever these come to mean.
    """
    if my_type.charset in (None, "binary", charset):
        return my_type
    if my_type.name in MEMBERS:
        ascii_only = all(member.isascii() for member in my_type.members) and all(map(extends_ascii, (my_type.charset, charset)))
        return replace(my_type, charset=charset) if ascii_only or (my_type.charset, charset) == ("utf8mb3", "utf8mb4") else None
    name = my_type.name
    if name in LOB_SIZES:
        name = _smallest(TEXTS[2:], min(LOB_SIZES[name] // width(my_type.charset) * width(charset), _SIZES[-1]), mariadb=False)
    return in_charset(replace(my_type, name=name), charset)


def _variable(my_type: MyType) -> MyType | None:
    """A VARCHAR or VARBINARY too long for one is made another type, where the server lets it pass."""
    return None if (my_type.length or 0) * width(my_type.charset or "binary") > VARCHAR_BYTES_MAX else my_type


def _smallest(kinds: tuple[str, ...], size: int, mariadb: bool) -> str:
    if mariadb and size == 0:  # MariaDB takes 0 for no length at all
        return kinds[1]
    return next(kind for kind in kinds if size <= LOB_SIZES[kind])


@dataclass(frozen=True, slots=True)
class ColumnDefinition:
    """A column as a statement defines it. `type` is None where it is one we don't know.

    `nullable` is None for a TIMESTAMP that does not say: explicit_defaults_for_timestamp decides. `default`: other than NULL.
    """

    name: str
    type: DeclaredType | None
    nullable: bool | None = True
    default: bool = False
    generated: bool = False
    auto_increment: bool = False
    primary: bool = False
    unique: bool = False


def read_definition(tokens: Tokens) -> ColumnDefinition:
    """The definition that makes up all of the tokens. Raises Unreadable."""
    name = tokens.name()
    if tokens.accept("SERIAL"):
        serial = ColumnDefinition(name, DeclaredType("bigint", unsigned=True), auto_increment=True, unique=True)
        return _attributes(tokens, serial)
    return _attributes(tokens, ColumnDefinition(name, _read_type(tokens)))


def _read_type(tokens: Tokens) -> DeclaredType | None:
    """What stands before the attributes: name and parentheses."""
    sql_mode, mariadb = tokens.statement.sql_mode, tokens.dialect.mariadb
    name, charset = _type_name(tokens)
    inside = tokens.group() if tokens.peek().word == "(" else []
    if (mariadb and sql_mode & ORACLE) or (name == "timestamp" and sql_mode & MAXDB) or name not in _SIMPLE:
        return None
    if name == "varchar" and not inside:
        return None
    if name == "json" and mariadb:
        return DeclaredType("longtext", charset="utf8mb4", mariadb=True)
    arguments = [token for token in inside if token.word != ","]
    if name in MEMBERS:
        strings = all(token.form is Form.STRING for token in arguments)
        return DeclaredType(name, members=tuple(token.text for token in arguments), charset=charset) if strings else None
    if not all(token.text.isdecimal() for token in arguments):
        return None
    return DeclaredType(name, tuple(int(token.text) for token in arguments), charset=charset, mariadb=mariadb)


def _type_name(tokens: Tokens) -> tuple[str, str | None]:
    """The name of MyType that the words stand for, or the first as it is; and the character set that lies in them."""
    if tokens.accept("LONG"):
        if tokens.accept("VARBINARY"):
            return "mediumblob", None
        _ = tokens.accept_any("VARCHAR", "VARCHARACTER") or (tokens.accept_any("CHAR", "CHARACTER") and tokens.accept("VARYING"))
        return "mediumtext", None
    national = "utf8mb3" if tokens.accept("NATIONAL") or tokens.peek().word in ("NCHAR", "NVARCHAR") else None
    name = tokens.name().lower()
    name = {"nchar": "char", "nvarchar": "varchar"}.get(name, name) if national else _SYNONYMS.get(name, name)
    name = _SYNONYMS.get(name, name)
    if name == "double":
        tokens.accept("PRECISION")
    if name == "real":
        name = "float" if tokens.statement.sql_mode & REAL_AS_FLOAT else "double"
    if name == "char" and tokens.accept_any("VARYING", "VARCHAR", "VARCHARACTER"):
        name = "varchar"
    return name, national


def _attributes(tokens: Tokens, column: ColumnDefinition) -> ColumnDefinition:
    """The column with all that stands behind its type."""
    timestamp = column.type is not None and column.type.name == "timestamp"
    told_nullable: bool | None = False if column.auto_increment else None
    default_null = False
    while (token := tokens.skip()) is not END:
        match token.word:
            case "NULL":
                told_nullable = True
            case "NOT" if tokens.accept("NULL"):
                told_nullable = False
            case "DEFAULT" if tokens.accept("NULL"):
                default_null = True
            case "DEFAULT":
                tokens.skip()
                column = replace(column, default=True)
            case "AS":
                if tokens.peek().word != "(":  # ROW START or ROW END of a system-versioned table
                    raise Unreadable("a generated column without expression")
                column = replace(column, generated=True)
            case "AUTO_INCREMENT" | "SERIAL":
                tokens.accept("DEFAULT", "VALUE")
                told_nullable, column = False, replace(column, auto_increment=True)
            case "UNIQUE":
                tokens.accept("KEY")
                column = replace(column, unique=True)
            case "PRIMARY" | "KEY":
                tokens.accept("KEY")
                column = replace(column, primary=True)
            case "COMMENT" | "COLUMN_FORMAT" | "STORAGE":
                tokens.next()
            case "REFERENCES":
                break
            case _:
                column = _type_attribute(tokens, token, column)
    if told_nullable is None:
        told_nullable = None if timestamp and not default_null else True
    return replace(column, nullable=False if column.primary else told_nullable)


def _type_attribute(tokens: Tokens, token: Token, column: ColumnDefinition) -> ColumnDefinition:
    """The column with an attribute of its type, or as it was if the token is none."""
    if column.type is None:
        return column
    charset = None
    match token.word:
        case "UNSIGNED" | "ZEROFILL":
            return replace(column, type=replace(column.type, unsigned=True))
        case "CHARSET" | "CHARACTER" | "CHAR":
            tokens.accept("SET")
            charset = read_charset(tokens)
        case "COLLATE":
            charset = column.type.charset or read_collation(tokens)
        case "ASCII":
            charset = "latin1"
        case "UNICODE":
            charset = "ucs2"
        case "BYTE":
            charset = "binary"
    return replace(column, type=replace(column.type, charset=charset)) if charset else column


def read_charset(tokens: Tokens) -> str | None:
    """The character set that comes next; None for DEFAULT, which is the database's."""
    token = tokens.next()
    return None if token.word == "DEFAULT" else _charset_name(token.text)


def read_collation(tokens: Tokens) -> str | None:
    """The character set of the collation that comes next; None for DEFAULT, and for MariaDB's that are of any character set."""
    token = tokens.next()
    name = token.text.lower()
    return None if token.word == "DEFAULT" or name.startswith("uca1400") else _charset_name(name.partition("_")[0])


def _charset_name(name: str) -> str:
    return "utf8mb3" if name.lower() == "utf8" else name.lower()
