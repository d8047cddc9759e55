"""Telephone numbers as their countries write them, and any digits that a word calls a telephone's."""

from __future__ import annotations

from luban.data.steps.pii import checks
from luban.data.steps.pii.candidates import NUMBER
from luban.data.steps.pii.rule import CLOSE, CONTEXT, OPEN, Rule

GAP = r"(?: [ .-] | \xc2\xa0 | \xe2\x80[\x90-\x95\xaf] )"
"""Between groups: a space, point or hyphen, or a no-break space or dash in UTF-8."""
ALONE = rf"{OPEN} (?<! \d[ ] )"
"""Not in a row of figures either: forms with few signs of their own."""
EXTENSION = r"(?: \ ?(?:x|ext\.?)\ ?\d{1,6} )?"
CHINESE_OPEN, CHINESE_CLOSE = r"(?<![A-Za-z0-9.+/=_-])", r"(?! [A-Za-z0-9_%] | [.-]\d )"


def _has_digits(fewest: int, most: int) -> checks.Check:
    return lambda value: fewest <= len(checks.digits(value)) <= most and checks.is_not_a_date(value)


PHONES = (
    # +44 20 7946 0958, +49 (0)30 123456, 0033 1 23 45 67 89
    Rule(
        "phone",
        NUMBER,
        rf"""(?<![\w.+/=-]) (?: \(?\+\d | (?<!\d[ ])00[1-9] ) (?: (?:{GAP}|[/()]){{0,3}} \d ){{6,14}} {EXTENSION}
        (?! [\w%] | \.\d )""",
        checks.is_international_phone,
        after=16,
    ),
    # North America: 415-555-2671, (415) 555-2671, 1.415.555.2671 x12
    Rule(
        "phone",
        NUMBER,
        rf"""{OPEN} (?:1{GAP})? (?: \([2-9]\d\d\)\ ? | [2-9]\d\d{GAP} ) [2-9]\d\d{GAP}\d{{4}}
        {EXTENSION} {CLOSE}""",
        after=16,
    ),
    # 4155552671
    Rule("phone", NUMBER, rf"{OPEN} [2-9]\d\d[2-9]\d{{6}} {CLOSE}", checks.is_not_a_size),
    # United Kingdom: 020 7946 0958, (0161) 496 0000, 07700 900123; with Germany 11 digits in one
    Rule(
        "phone",
        NUMBER,
        rf"{ALONE} (?: \(0[1237]\d{{2,4}}\) | 0[1237]\d{{1,4}} ) {GAP}? \d{{3,4}} {GAP} \d{{3,6}} {CLOSE}",
        _has_digits(10, 11),
    ),
    Rule("phone", NUMBER, rf"{OPEN} 0[1-9]\d{{9}} {CLOSE}", checks.is_not_a_date),
    # France: 01 23 45 67 89, 06.12.34.56.78, 0612345678
    Rule("phone", NUMBER, rf"{ALONE} (?!0123456789|0987654321) 0[1-9] (?: {GAP}?\d\d ){{4}} {CLOSE}"),
    # Germany: 030/1234567, (089) 12 34 56 78, 0171-1234567
    Rule(
        "phone",
        NUMBER,
        rf"""{ALONE} (?: \(0[1-9]\d{{1,4}}\)\ ? | 0[1-9]\d{{1,4}} (?: \ ?/\ ? | {GAP} ) ) [1-9] (?:[ -]?\d){{4,8}}
        {CLOSE}""",
        _has_digits(9, 12),
    ),
    # China: 13812345678, 138-1234-5678, 86 138 1234 5678
    Rule(
        "phone",
        NUMBER,
        rf"""{CHINESE_OPEN} (?:86[ -]?)? 1(?:3\d|4[5-9]|5[0-35-9]|6[2567]|7[0-8]|8\d|9[0-35-9])
        [ -]?\d{{4}}[ -]?\d{{4}} {CHINESE_CLOSE}""",
        checks.is_not_a_size,
    ),
    # 010-12345678, (0755) 8612345, 400-123-4567
    Rule(
        "phone",
        NUMBER,
        rf"""{CHINESE_OPEN} (?: \(0(?:10|2\d|[3-9]\d\d)\) | （0(?:10|2\d|[3-9]\d\d)） | 0(?:10|2\d|[3-9]\d\d) )
        [ -]? [2-9]\d{{6,7}} {CHINESE_CLOSE}""",
    ),
    Rule("phone", NUMBER, rf"{CHINESE_OPEN} [48]00-\d{{3,4}}-\d{{3,4}} {CHINESE_CLOSE}"),
    # tel: 555 1234, 联系方式：62345678
    Rule(
        "phone",
        NUMBER,
        rf"""(?i: \b (?: (?:tele)?phone | telefon | t(?:é|e)l(?:(?:é|e)phone)? | fax | mobile? | handy | cell | call
        | dial | ring | sms | whatsapp | ruf(?:nummer)? | portable )
        | 电话 | 手机 | 電話 | 热线 | 传真 | 联系方式 | 致电 | 号码 | ☎ | ✆ | 📞 )
        (?: [ \t]?(?:no|nr|number|us|me|at|on|is|est|ist)\b\.? ){{0,3}}
        [ \t]? (?: [:.=)-] | ： | 为 | 是 )? [ \t]{{0,2}}
        (?P<value> \(? \+? \d (?: (?:{GAP}|[/()]){{0,2}} \d ){{6,14}} ) (?! [\w.]?\d )""",
        checks.is_not_a_date,
        before=CONTEXT,
    ),
)
