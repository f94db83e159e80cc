r"""Account names of other systems that hold more than the account, taken apart by functions that rules may call.

    1122.01 应收账款—客户A(币种:美元, 部门:华东)

`code_part` 1122.01 · `account_part` 应收账款 · `detail_part(name, 1)` 客户A · `qualifier(name, '部门')` 华东 · `currency_part` USD;
and `currency_code('美元')` USD, `account_code('应收账款')` its code in the chart of the rule's book.

A name is divided by its first separator outside of brackets (a dash of any width, _ / \ | : . or a wide comma), wherever that one stands;
others belong to what they stand in. So do a hyphen between small letters (short-term) and a dot that is not between letters (Inc.). Of
brackets those with `key: value` and those with a currency are no part of a name; [...] and 【...】 are parts of their own, as is (...) at
the end of the account's name; others belong to what they stand in (某某（上海）公司). Where a bracket is never closed, every answer is
NULL. So it is of what is not there; but a currency nobody knows, or several (EUR/USD), are told as they are, lest they pass for none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import duckdb

from cdc.accounting.sql import literal, quote

FUNCTIONS = frozenset({"code_part", "account_part", "detail_part", "qualifier", "currency_part", "currency_code", "account_code"})

_CURRENCIES = {
    "CNY": "RMB 人民币 人民币元 renminbi yuan chinese_yuan",
    "HKD": "港币 港元 港幣 hong_kong_dollar HK$",
    "TWD": "NTD 新台币 台币 新臺幣 new_taiwan_dollar NT$",
    "MOP": "澳门元 澳门币 葡币 pataca macanese_pataca",
    "USD": "美元 美金 us_dollar u.s._dollar US$",
    "EUR": "欧元 歐元 euro €",
    "GBP": "英镑 英鎊 pound_sterling british_pound sterling £",
    "JPY": "日元 日圆 日圓 日币 yen japanese_yen",
    "KRW": "韩元 韩圆 韩币 won korean_won south_korean_won",
    "SGD": "新加坡元 新加坡币 新币 坡币 singapore_dollar S$",
    "MYR": "马来西亚林吉特 林吉特 马币 令吉 ringgit malaysian_ringgit",
    "THB": "泰铢 泰国铢 baht thai_baht",
    "VND": "越南盾 dong vietnamese_dong",
    "IDR": "印尼盾 印尼卢比 印度尼西亚卢比 印度尼西亚盾 rupiah indonesian_rupiah",
    "PHP": "菲律宾比索 philippine_peso",
    "INR": "印度卢比 indian_rupee",
    "AUD": "澳元 澳大利亚元 澳币 australian_dollar A$",
    "NZD": "新西兰元 纽元 纽币 new_zealand_dollar NZ$",
    "CAD": "加元 加拿大元 加币 canadian_dollar C$",
    "CHF": "瑞士法郎 瑞郎 swiss_franc",
    "SEK": "瑞典克朗 swedish_krona",
    "NOK": "挪威克朗 norwegian_krone",
    "DKK": "丹麦克朗 danish_krone",
    "RUB": "卢布 俄罗斯卢布 ruble rouble russian_ruble",
    "TRY": "土耳其里拉 新土耳其里拉 turkish_lira",
    "BRL": "雷亚尔 巴西雷亚尔 巴西里亚尔 brazilian_real",
    "MXN": "墨西哥比索 墨西哥元 mexican_peso",
    "ZAR": "兰特 南非兰特 rand south_african_rand",
    "AED": "迪拉姆 阿联酋迪拉姆 uae_dirham",
    "SAR": "沙特里亚尔 沙特阿拉伯里亚尔 saudi_riyal",
    "ILS": "谢克尔 新谢克尔 以色列谢克尔 israeli_shekel new_shekel",
    "PLN": "兹罗提 波兰兹罗提 zloty polish_zloty",
    "CZK": "捷克克朗 czech_koruna",
    "HUF": "福林 匈牙利福林 forint hungarian_forint",
    "KZT": "坚戈 哈萨克斯坦坚戈 tenge kazakhstani_tenge",
    "PKR": "巴基斯坦卢比 pakistani_rupee",
    "EGP": "埃及镑 egyptian_pound",
    "NGN": "奈拉 尼日利亚奈拉 naira nigerian_naira",
}

# Classes and groups of brackets, which may hold others one deep.
_OPEN, _CLOSE = r"(（\[［【", r")）\]］】"
_BRACKET = rf"[{_OPEN}{_CLOSE}]"
_FLAT = rf"[{_OPEN}][^{_OPEN}{_CLOSE}]*[{_CLOSE}]"
_INSIDE = rf"(?:[^{_OPEN}{_CLOSE}]|{_FLAT})*"
_GROUP = rf"[{_OPEN}]{_INSIDE}[{_CLOSE}]"
_SEPARATORS = r"—–－―_＿/／\\＼|｜:：，．\x1c\-"
_KEYED = rf"[{_OPEN}]{_INSIDE}[:：=]{_INSIDE}[{_CLOSE}]"
_KEY = r"^([^:：=]+)[:：=]"

# Marks: 1F divides, 1E is the spaces around a separator, 1D a hyphen within a word, 1C a dot that may be a separator.
_SPACED = rf"\s+([{_SEPARATORS}])[{_SEPARATORS}]*\s+"
_HEAD = rf"^\s*[{_OPEN}]?([0-9]{{3,}}(?:[.\-][0-9]+)*)[{_CLOSE}]?(?:[\s{_SEPARATORS}.]+|$|([^\s0-9a-zA-Z]))"
_SEPARATOR = rf"\x1e?[{_SEPARATORS}]"
_TOKENS = rf"{_GROUP}|{_SEPARATOR}|[^{_OPEN}{_SEPARATORS}\x1e]+"
_FIRST_DETAIL = rf"^([^\x1f]*?)[(（]({_INSIDE})[)）]\s*(\x1f|$)"
_NEXT_KEY = rf"[\s,，;；]+([^\s:：=,，;；{_OPEN}{_CLOSE}]+\s*[:：=])"


_MACROS = [
    # What can be told: brackets are closed, and nothing is taken for a mark that is none.
    f"""composite_body(name) AS CASE WHEN NOT regexp_matches(name, '[\\x1c-\\x1f]')
        AND NOT regexp_matches(regexp_replace(name, {literal(_GROUP)}, '', 'g'), {literal(_BRACKET)})
        THEN regexp_replace(regexp_replace(regexp_replace(regexp_replace(name, {literal(_HEAD)}, '\\2'),
            '([\\pL\\pN]{{2}})[.]([\\pL\\pN])', '\\1' || chr(28) || '\\2', 'g'), '([a-z])-([a-z])', '\\1' || chr(29) || '\\2', 'g'),
            {literal(_SPACED)}, chr(30) || '\\1', 'g') END""",
    f"""composite_separator(body) AS regexp_extract(regexp_replace(body, {literal(_GROUP)}, '', 'g'), {literal(_SEPARATOR)})""",
    f"""composite_token(token, separator) AS CASE
        WHEN token = separator THEN chr(31)
        WHEN regexp_full_match(token, {literal(_KEYED)}) THEN ''
        WHEN NOT regexp_full_match(token, {literal(_GROUP)}) THEN token
        WHEN currency_code(token[2:-2]) IS NOT NULL THEN ''
        WHEN token[1] IN ('[', '［', '【') THEN concat(chr(31), token[2:-2], chr(31))
        ELSE token END""",
    f"""composite_divided(body, separator) AS regexp_replace(array_to_string(list_transform(regexp_extract_all(body, {literal(_TOKENS)}),
        lambda token: composite_token(token, separator)), ''), {literal(_FIRST_DETAIL)}, '\\1' || chr(31) || '\\2\\3')""",
    """composite_parts(name) AS list_transform(list_transform([CAST(name AS VARCHAR)], lambda name: composite_body(name)), lambda body:
        list_filter(list_transform(
            string_split(translate(composite_divided(body, composite_separator(body)), chr(28) || chr(29), '.-'), chr(31)),
            lambda part: trim(regexp_replace(part, '\\x1e(.)', ' \\1 ', 'g'))), lambda part: part <> ''))[1]""",
    f"""composite_items(name) AS flatten(list_transform(
        regexp_extract_all(CASE WHEN composite_body(name) IS NOT NULL THEN name END, {literal(_GROUP)}),
        lambda part: string_split(regexp_replace(part[2:-2], {literal(_NEXT_KEY)}, chr(31) || '\\1', 'g'), chr(31))))""",
    f"composite_key(item) AS lower(trim(regexp_extract(item, {literal(_KEY)}, 1)))",
    f"composite_value(item) AS trim(regexp_replace(item, {literal(_KEY)}, ''))",
    f"""code_part(name) AS nullif(regexp_extract(
        CASE WHEN composite_body(CAST(name AS VARCHAR)) IS NOT NULL THEN CAST(name AS VARCHAR) END, {literal(_HEAD)}, 1), '')""",
    "account_part(name) AS composite_value(composite_parts(name)[1])",
    """detail_part(name, n) AS list_filter(list_transform(composite_parts(name)[2:], lambda part: composite_value(part)),
        lambda part: currency_code(part) IS NULL)[n]""",
    """qualifier(name, key) AS nullif(list_transform([composite_parts(name)], lambda parts: coalesce(
        composite_value(list_filter(list_concat(composite_items(CAST(name AS VARCHAR)), parts),
            lambda item: composite_key(item) = lower(trim(key)))[1]),
        parts[nullif(list_position(list_transform(parts, lambda part: lower(part)), lower(trim(key))), 0) + 1]))[1], '')""",
    """currency_part(name) AS list_transform([list_distinct(list_transform(
            list_concat(composite_items(CAST(name AS VARCHAR)), composite_parts(name)[2:]),
            lambda item: coalesce(currency_code(composite_value(item)),
                CASE WHEN composite_key(item) IN ('币种', '币别', '货币', '外币', 'currency', 'ccy') THEN composite_value(item) END)))],
        lambda found: nullif(array_to_string(list_sort(found), '/'), ''))[1]""",
]


def called(expressions: Iterable[str]) -> bool:
    """Whether expressions may call the functions, which it takes 50 ms to make."""
    return any(name in text.lower() for text in expressions for name in FUNCTIONS)


def install(connection: duckdb.DuckDBPyConnection, codes: Mapping[str, Mapping[str, str]]) -> None:
    """Make the functions. `codes`: by book, the codes of its accounts by their names."""
    names = ((name.replace("_", " "), code) for code, written in _CURRENCIES.items() for name in [code, *written.split()])
    # One text to search is faster than a MAP. An account of a bank is called by its currency, too: 美元户.
    known = "|".join(["", *(f"{each}={code}" for name, code in names for each in [name.lower(), *[f"{name}s"] * name.islower()])])
    connection.execute(
        f"""CREATE MACRO currency_code(name) AS nullif(regexp_extract(split_part({literal(known)}, concat('|',
            regexp_replace(lower(trim(CAST(name AS VARCHAR))), '(账户|帐户|户|现汇|现钞)$', ''), '='), 2), '^[A-Z]{{3}}'), '')"""
    )
    for macro in _MACROS:
        connection.execute(f"CREATE MACRO {macro}")
    for book, by_name in codes.items():
        keys, values = (", ".join(map(literal, texts)) for texts in (by_name.keys(), by_name.values()))
        accounts_of = f"MAP([{keys}]::VARCHAR[], [{values}]::VARCHAR[])"
        connection.execute(f"CREATE MACRO {quote(account_code(book))}(name) AS {accounts_of}[trim(CAST(name AS VARCHAR))]")


def account_code(book: str) -> str:
    """What `account_code` is called in the expressions of a book's rules."""
    return f"account_code#{book}"
