"""The servers' character sets: which one a collation's number means, and what its bytes mean in Unicode.

Every set was compared with CONVERT(... USING utf8mb4) of MySQL 9.7 and MariaDB 10.11 and 11.8, for all sequences of one and two bytes,
all three-byte ones of ujis and eucjpms, all four-byte ones of gb18030 and samples of the other long ones; where Python's codec differs the
server's meaning is kept here. Bytes that the server has no character for are refused: it would show `?` or U+FFFD for them.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterator
from functools import cache

Decode = Callable[[bytes], str]

# Longest character in bytes, where it is more than one.
_WIDTHS = {"utf8mb4": 4, "gb18030": 4, "utf16": 4, "utf16le": 4, "utf32": 4, "utf8mb3": 3, "ujis": 3, "eucjpms": 3}
_WIDTHS |= dict.fromkeys(("big5", "cp932", "euckr", "gb2312", "gbk", "sjis", "ucs2"), 2)

# Collations below 1024 as numbers and ranges. MariaDB adds 1024 for its NOPAD twins and keeps 2048 and up for UCA 14.0.0.
_COLLATIONS = {
    "armscii8": "32 64",
    "ascii": "11 65",
    "big5": "1 84",
    "binary": "63",
    "cp1250": "26 34 44 66 99",
    "cp1251": "14 23 50-52",
    "cp1256": "57 67",
    "cp1257": "29 58-59",
    "cp850": "4 80",
    "cp852": "40 81",
    "cp866": "36 68",
    "cp932": "95-96",
    "dec8": "3 69",
    "eucjpms": "97-98",
    "euckr": "19 85",
    "gb18030": "248-250",
    "gb2312": "24 86",
    "gbk": "28 87",
    "geostd8": "92-93",
    "greek": "25 70",
    "hebrew": "16 71",
    "hp8": "6 72",
    "keybcs2": "37 73",
    "koi8r": "7 74",
    "koi8u": "22 75",
    "latin1": "5 8 15 31 47-49 94",
    "latin2": "2 9 21 27 77",
    "latin5": "30 78",
    "latin7": "20 41-42 79",
    "macce": "38 43",
    "macroman": "39 53",
    "sjis": "13 88",
    "swe7": "10 82",
    "tis620": "18 89",
    "ucs2": "35 90 128-151 159 640-642",
    "ujis": "12 91",
    "utf16": "54-55 101-124 672-674",
    "utf16le": "56 62",
    "utf32": "60-61 160-183 736-738",
    "utf8mb3": "33 76 83 192-215 223 576-579",
    "utf8mb4": "45-46 224-247 255-323 608-611",
}
_NOPAD, _UCA1400, _UCA1400_SETS = 1024, 2048, ("utf8mb3", "utf8mb4", "ucs2", "utf16", "utf32")


def _numbers(ranges: str) -> Iterator[int]:
    for part in ranges.split():
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)


_CHARSETS = {number: charset for charset, ranges in _COLLATIONS.items() for number in _numbers(ranges)}


def charset_of(collation: int) -> str | None:
    """The character set of a collation by its number (information_schema.collations.ID); None where the number is not known."""
    if collation >= _UCA1400:
        group = (collation - _UCA1400) // 256
        return _UCA1400_SETS[group] if group < len(_UCA1400_SETS) else None
    return _CHARSETS.get(collation - _NOPAD if collation >= _NOPAD else collation)


def width(charset: str) -> int:
    """Bytes of the set's longest character."""
    return _WIDTHS.get(charset, 1)


def beyond_bmp(charset: str) -> bool:
    """Whether it has characters past U+FFFF, which the servers' catalogs, kept in utf8mb3, show as `?`."""
    return width(charset) == 4


def extends_ascii(charset: str) -> bool:
    """Whether bytes below 0x80 are ASCII wherever no byte is above."""
    return charset not in ("swe7", "ucs2", "utf16", "utf16le", "utf32")


@cache
def decoder(charset: str) -> Decode | None:
    """What turns bytes of the set into text, or raises UnicodeDecodeError; None for a set that is not known."""
    if charset in _CODECS:
        return _by_codec(_CODECS[charset])
    if charset in _SINGLE:
        return _by_table(charset, *_SINGLE[charset])
    if parts := _multiple(charset):
        return _by_character(charset, *parts)
    return _ucs2 if charset == "ucs2" else None


# Sets that Python's codec means the same by. `binary` is one of ENUM and SET only, whose names the servers then show as utf8.
_CODECS = {
    "ascii": "ascii",
    "binary": "utf-8",
    "cp1250": "cp1250",
    "cp1251": "cp1251",
    "cp1257": "cp1257",
    "cp850": "cp850",
    "cp852": "cp852",
    "euckr": "cp949",
    "gb2312": "gb2312",
    "gbk": "gbk",
    "hp8": "hp-roman8",
    "koi8r": "koi8-r",
    "latin2": "iso8859-2",
    "latin5": "iso8859-9",
    "latin7": "iso8859-13",
    "macce": "mac-latin2",
    "macroman": "mac-roman",
    "tis620": "tis-620",
    "utf16": "utf-16-be",
    "utf16le": "utf-16-le",
    "utf32": "utf-32-be",
    "utf8mb3": "utf-8",
    "utf8mb4": "utf-8",
}


def _by_codec(codec: str) -> Decode:
    decode = codecs.getdecoder(codec)
    return lambda value: decode(value, "strict")[0]


def _ucs2(value: bytes) -> str:
    text = value.decode("utf-16-be")
    if 2 * len(text) != len(value):
        raise UnicodeDecodeError("ucs2", value, 0, len(value), "surrogates")
    return text


# Sets of one byte a character: Python's codec, runs of characters that replace its own, and ranges of bytes that mean nothing.
_SINGLE: dict[str, tuple[str, dict[int, str], str]] = {
    "armscii8": (
        "latin-1",
        {
            0xA1: "❁§։)(»«—.՝,-՟…՜՛՞ԱաԲբԳգԴդԵեԶզԷէԸըԹթԺժԻիԼլԽխԾծԿկՀհՁձՂղՃճՄմՅյՆնՇշՈոՉչՊպՋջՌռՍսՎվՏտՐրՑցՒւՓփՔքՕօՖֆ’'",
        },
        "",
    ),
    "cp1256": ("cp1256", {}, "8A 8F 98 9A 9F AA C0 FF"),
    "cp866": ("cp866", {0xFC: "ⁿ²"}, ""),
    "dec8": ("latin-1", {0xA8: "¤", 0xD7: "Œ", 0xDD: "Ÿ", 0xF7: "œ", 0xFD: "ÿ"}, "A4 A6 AC-AF B4 B8 BE D0 DE F0 FE-FF"),
    "geostd8": (
        "cp1252",
        {0xC0: "აბგდევზჱთიკლმნჲოპჟრსტჳუფქღყშჩცძწჭხჴჯჰჵ", 0xFD: "№"},
        "83 88 8A 8C 8E 98-9A 9C 9E-9F E6-FC FE-FF",
    ),
    "greek": ("iso8859-7", {0xA1: "ʽʼ"}, "A4-A5 AA"),
    "hebrew": ("iso8859-8", {0xAF: "‾"}, ""),
    "keybcs2": ("cp437", {0x80: "ČüéďäĎŤčěĚĹÍľĺÄÁÉžŽôöÓůÚýÖÜŠĽÝŘťáíóúňŇŮÔšřŕŔ"}, ""),
    "koi8u": ("koi8-u", {0x95: "•"}, ""),
    # The server's latin1 is Windows' cp1252, and takes the bytes that has left free for the control characters of ISO 8859-1.
    "latin1": ("cp1252", {0x81: "\x81", 0x8D: "\x8d", 0x8F: "\x8f\x90", 0x9D: "\x9d"}, ""),
    "swe7": ("ascii", {0x40: "É", 0x5B: "ÄÖÅÜ", 0x60: "é", 0x7B: "äöåü"}, "7F"),
}
_UNDEFINED = "\ufffe"  # as the codecs module marks bytes without character


def _by_table(charset: str, codec: str, replaced: dict[int, str], refused: str) -> Decode:
    table = [bytes([byte]).decode(codec, "replace").replace("\ufffd", _UNDEFINED) for byte in range(256)]
    for start, characters in replaced.items():
        table[start : start + len(characters)] = characters
    for part in refused.split():
        first, _, last = part.partition("-")
        for byte in range(int(first, 16), int(last or first, 16) + 1):
            table[byte] = _UNDEFINED
    meanings = "".join(table)

    def decode(value: bytes) -> str:
        try:
            return codecs.charmap_decode(value, "strict", meanings)[0]
        except UnicodeDecodeError as error:
            raise UnicodeDecodeError(charset, value, error.start, error.end, error.reason) from None

    return decode


def _private() -> dict[bytes, str | None]:
    """The user-defined rows 85 to 94 of both planes of Japanese EUC, which go to Unicode's private use area."""
    cells = [bytes([row, cell]) for row in range(0xF5, 0xFF) for cell in range(0xA1, 0xFF)]
    first: dict[bytes, str | None] = {cell: chr(0xE000 + place) for place, cell in enumerate(cells)}
    return first | {b"\x8f" + cell: chr(0xE3AC + place) for place, cell in enumerate(cells)}


def _vendors() -> dict[bytes, str | None]:
    """NEC's row 13, and IBM's characters from code 8FF3F3 on: those of code page 932, less what JIS X 0208 and 0212 have."""
    trails = [trail for trail in range(0x40, 0xFD) if trail != 0x7F]
    nec = [bytes([0x87, trail]).decode("cp932", "replace") for trail in trails[:94]]
    row: dict[bytes, str | None] = {bytes([0xAD, 0xA1 + cell]): text for cell, text in enumerate(nec) if len(text) == 1}
    ibm = [bytes([lead, trail]).decode("cp932") for lead in (0xFA, 0xFB, 0xFC) for trail in trails if lead < 0xFC or trail < 0x4C]
    added = [text for text in ibm if text not in "￢￤" and (text == "№" or not text.encode("euc-jp", "ignore"))]
    cells = [bytes([0x8F, 0xF3, cell]) for cell in range(0xF3, 0xFF)] + [bytes([0x8F, 0xF4, cell]) for cell in range(0xA1, 0xFF)]
    return row | dict(zip(cells, added, strict=True))


def _codes(meanings: dict[str, str | None]) -> dict[bytes, str | None]:
    return {bytes.fromhex(code): meaning for code, meaning in meanings.items()}


_EUC = rb"\x8f[\xa1-\xfe]{2}|[\x8e\xa1-\xfe][\xa1-\xfe]|."
_SJIS = rb"[\x81-\x9f\xe0-\xfc][\x40-\x7e\x80-\xfc]|."
_BIG5 = rb"[\x81-\xfe][\x40-\x7e\xa1-\xfe]|."
_GB18030 = rb"[\x81-\xfe][\x30-\x39][\x81-\xfe][\x30-\x39]|[\x81-\xfe][\x40-\x7e\x80-\xfe]|."
_ETEN = dict(zip(("F9D6", "F9D7", "F9D8", "F9D9", "F9DA", "F9DB", "F9DC"), "碁銹裏墻恒粧嫺", strict=True))
_BIG5_DOUBTFUL = dict.fromkeys(("A15A", "A1C3", "A1C5", "A1FE", "A240", "A2CC", "A2CE"))  # the server gives U+FFFD
_JIS_WIDE = {"A1C1": "～", "A1C2": "∥", "A1DD": "－", "A1F1": "￠", "A1F2": "￡", "A2CC": "￢", "8FA2B7": "～", "8FA2C3": "￤"}


def _multiple(charset: str) -> tuple[str, bytes, dict[bytes, str | None]] | None:
    """Of a set of several bytes a character: Python's codec, what a character looks like, and what the server means by codes that
    Python reads otherwise or not at all (None: nothing).
    """
    match charset:
        case "big5":
            return "big5", _BIG5, _codes({**_ETEN, **_BIG5_DOUBTFUL})
        case "cp932":
            return "cp932", _SJIS, _codes(dict.fromkeys(("80", "A0", "FD", "FE", "FF")))
        case "eucjpms":
            return "euc-jp", _EUC, _codes({**_JIS_WIDE}) | _vendors() | _private()
        case "gb18030":
            return "gb18030", _GB18030, _codes({"A8BC": "\u1e3f", "8135F437": "\ue7c7"})
        case "sjis":
            return "shift-jis", _SJIS, _codes({"815F": "\\"})
        case "ujis":
            return "euc-jp", _EUC, _codes({"A1C0": "\\"}) | _private()
    return None


def _by_character(charset: str, codec: str, character: bytes, meanings: dict[bytes, str | None]) -> Decode:
    whole = codecs.getdecoder(codec)
    characters = re.compile(character, re.DOTALL)
    # Codes that Python would read, and otherwise. They may also appear across two characters: then nothing is lost but time.
    misread = re.compile(b"|".join(re.escape(code) for code in meanings if _readable(whole, code)))

    def meaning(code: bytes) -> str:
        text = meanings[code] if code in meanings else whole(code, "strict")[0]
        if text is None:
            raise UnicodeDecodeError(charset, code, 0, len(code), "no such character")
        return text

    def each(value: bytes) -> str:
        return "".join(map(meaning, characters.findall(value)))

    def decode(value: bytes) -> str:
        try:
            return each(value) if misread.search(value) else whole(value, "strict")[0]
        except UnicodeDecodeError:  # also of codes that Python does not know
            return each(value)

    return decode


def _readable(decode: Callable[[bytes, str], tuple[str, int]], code: bytes) -> bool:
    try:
        return bool(decode(code, "strict"))
    except UnicodeDecodeError:
        return False
