"""The servers' collations and character sets: what their bytes mean here is what the servers convert them to."""

from __future__ import annotations

from cdc.decode.mysql.charsets import charset_of, decoder, width
from tests.servers.mysql import MyDatabase


def test_collations(any_mysql_database: MyDatabase) -> None:
    names = "full_collation_name" if any_mysql_database.server.is_mariadb else "collation_name"
    source = "collation_character_set_applicability" if any_mysql_database.server.is_mariadb else "collations"
    found = any_mysql_database.execute(f"SELECT id, character_set_name, {names} FROM information_schema.{source}")
    assert len(found) > 250
    assert [row for row in found if charset_of(row[0]) != row[1]] == []


def sequences(charset: str) -> list[bytes]:
    """All single bytes and, of a set that has more, all pairs beginning above ASCII, and samples of what is longer."""
    if charset in ("utf8mb3", "utf8mb4"):
        return []
    if charset in ("ucs2", "utf16", "utf16le"):
        return [number.to_bytes(2) for number in range(0, 65536, 17)]
    if charset == "utf32":
        return [number.to_bytes(4) for number in range(0, 0x110100, 997)]
    found = [bytes([byte]) for byte in range(256)]
    if width(charset) > 1:
        found += [bytes([lead, trail]) for lead in range(0x80, 0x100) for trail in range(0x30, 0x100)]
    if charset in ("ujis", "eucjpms"):
        found += [bytes([0x8F, row, cell]) for row in range(0xA0, 0x100) for cell in range(0xA0, 0x100)]
    if charset == "gb18030":
        four = [(a, b, c, d) for a in range(0x81, 0xFF) for b in range(0x30, 0x3A) for c in range(0x81, 0xFF) for d in range(0x30, 0x3A)]
        found += [bytes(code) for code in (*four[::211], (0x81, 0x35, 0xF4, 0x37))]
    return found


def test_character_sets(any_mysql_database: MyDatabase) -> None:
    """Each sequence means what the server converts it to, or is refused where it has no character for it."""
    database = any_mysql_database
    database.execute("SET SESSION sql_mode = '', sql_log_bin = 0")
    charsets = [name for (name,) in database.execute("SELECT character_set_name FROM information_schema.character_sets")]
    assert len(charsets) >= 40
    database.execute("CREATE TEMPORARY TABLE bytes (b varbinary(4))")
    for charset in charsets:
        codes = sequences(charset)
        database.execute("DELETE FROM bytes")
        if not codes:
            continue
        database.execute("INSERT INTO bytes VALUES " + ",".join(f"(x'{code.hex()}')" for code in codes))
        text = f"CONVERT(b USING {charset})"
        found = database.execute(f"SELECT b, CAST({text} AS BINARY) = b, CAST(CONVERT({text} USING utf8mb4) AS BINARY) FROM bytes")
        expected = {code: meant(code, shown) if sound else None for code, sound, shown in found}
        assert {code: ours(charset, code) for code in codes} == expected, charset


def meant(code: bytes, shown: bytes) -> str | None:
    """The server's text of some bytes; None where it shows something in place of a character."""
    text = shown.decode("utf-8", "surrogatepass")
    lost = ("?" in text and b"?" not in code) or "\ufffd" in text or any("\ud800" <= character <= "\udfff" for character in text)
    return None if lost or not text else text


def ours(charset: str, code: bytes) -> str | None:
    decode = decoder(charset)
    assert decode is not None
    try:
        return decode(code)
    except UnicodeDecodeError:
        return None
