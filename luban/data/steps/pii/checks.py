"""Check digits, dates, country tables: what tells a card, an account or an identity number from other digits.

Every check takes the matched bytes as they stand in the text, separators included.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections import Counter
from collections.abc import Callable
from datetime import date

Check = Callable[[bytes], bool]

DIGIT = re.compile(rb"\d")
EXTENSION = re.compile(rb"[ex].*$")
# ISO 13616 registry: IBAN length by country.
IBAN_LENGTHS = {
    code: length
    for length, codes in {
        15: "NO", 16: "BE", 18: "DK FK FI FO GL NL SD", 19: "MK SI", 20: "AT BA EE KZ LT LU MN XK",
        21: "CH HR LI LV", 22: "BG BH CR DE GB GE IE ME RS VA", 23: "AE GI IL IQ OM SO TL",
        24: "AD CZ ES MD PK RO SA SE SK TN VG", 25: "LY PT ST", 26: "IS TR", 27: "BI DJ FR GR IT MC MR SM",
        28: "AL AZ BY CY DO GT HU LB NI PL SV", 29: "BR EG PS QA UA", 30: "JO KW MU", 31: "MT SC",
        32: "LC", 33: "RU",
    }.items()
    for code in codes.split()
}  # fmt: skip
# ISO/IEC 7812 issuer ranges of the payment systems: first prefix, last prefix, lengths.
CARD_ISSUERS = (
    (b"4", b"4", (13, 16, 19)), (b"51", b"55", (16,)), (b"2221", b"2720", (16,)), (b"34", b"34", (15,)),
    (b"37", b"37", (15,)), (b"6011", b"6011", (16, 19)), (b"644", b"649", (16, 19)), (b"65", b"65", (16, 19)),
    (b"35", b"35", (16, 19)), (b"1800", b"1800", (15,)), (b"2131", b"2131", (15,)), (b"300", b"305", (14, 16)),
    (b"36", b"36", (14,)), (b"38", b"39", (14, 16)), (b"62", b"62", (16, 17, 18, 19)), (b"81", b"81", (16,)),
    (b"2200", b"2204", (16,)), (b"50", b"50", range(12, 20)), (b"56", b"58", range(12, 20)),
    (b"63", b"63", range(12, 20)), (b"67", b"67", range(12, 20)), (b"0604", b"0604", (12,)),
)  # fmt: skip
# GB/T 2260: the first two digits of a Chinese identity number.
PROVINCES = {11, 12, 13, 14, 15, 21, 22, 23, 31, 32, 33, 34, 35, 36, 37, 41, 42, 43, 44, 45, 46,
             50, 51, 52, 53, 54, 61, 62, 63, 64, 65, 71, 81, 82, 83}  # fmt: skip
HIGHEST_VERSION = 25
FISCAL_ODD = (1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23)
# ITU-T E.164 country codes: one digit, two digits, or the first two of three.
CALLING_CODES = re.compile(
    rb"1|7|2[07]|3[0-469]|4[013-9]|5[1-8]|6[0-6]|8[1246]|9[0-58]|"
    rb"2[1-689]\d|3[578]\d|42[013]|50\d|59\d|6[789]\d|80[08]|85[02356]|87\d|88[0236]|96\d|97\d|99[2-68]"
)


def digits(value: bytes) -> bytes:
    """Only the ASCII digits."""
    return b"".join(DIGIT.findall(value))


def luhn(number: bytes) -> bool:
    """Whether the last digit is the check digit of the others (ISO/IEC 7812-1, annex B)."""
    total = 0
    for place, digit in enumerate(reversed(number)):
        value = (digit - 48) << (place & 1)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def is_card(value: bytes) -> bool:
    """A number that some payment system issues, of its length, with its check digit."""
    number = digits(value)
    known = any(
        len(number) in lengths and first <= number[: len(first)] <= last
        for first, last, lengths in CARD_ISSUERS
    )
    return known and luhn(number)


def is_iban(value: bytes) -> bool:
    """An account number of its country's length whose remainder is 1 (ISO 13616, ISO 7064 mod 97-10)."""
    text = value.replace(b" ", b"").decode("ascii")
    if len(text) != IBAN_LENGTHS.get(text[:2]):
        return False
    return int("".join(str(int(sign, 36)) for sign in text[4:] + text[:4])) % 97 == 1


def is_chinese_id(value: bytes) -> bool:
    """18 digits with province, birth date and check sign (GB 11643, ISO 7064 mod 11-2)."""
    text = value.decode("ascii").upper()
    total = sum(int(digit) * pow(2, 17 - place, 11) for place, digit in enumerate(text[:17]))
    if int(text[:2]) not in PROVINCES or "10X98765432"[total % 11] != text[17]:
        return False
    return _is_birth_date(int(text[6:10]), int(text[10:12]), int(text[12:14]))


def _is_birth_date(year: int, month: int, day: int) -> bool:
    try:
        return date(1850, 1, 1) <= date(year, month, day) <= date(2100, 1, 1)
    except ValueError:
        return False


def is_french_id(value: bytes) -> bool:
    """A social security number (NIR): sex, year, month, place, order, and the key 97 - number mod 97."""
    text = value.replace(b" ", b"").replace(b"2A", b"19").replace(b"2B", b"18")
    return len(text) == 15 and 97 - int(text[:13]) % 97 == int(text[13:])


def is_spanish_id(value: bytes) -> bool:
    """A DNI or NIE: the letter is the number mod 23."""
    text = value.replace(b"-", b"").upper()
    number = text[:-1].replace(b"X", b"0").replace(b"Y", b"1").replace(b"Z", b"2")
    return b"TRWAGMYFPDXBNJZSQVHLCKE"[int(number) % 23] == text[-1]


def is_italian_id(value: bytes) -> bool:
    """A codice fiscale: the last letter sums the others by place (odd places by the ministry's table)."""
    ranks = [int(chr(sign), 36) - (10 if chr(sign).isalpha() else 0) for sign in value]
    total = sum(rank if place % 2 else FISCAL_ODD[rank] for place, rank in enumerate(ranks[:15]))
    return total % 26 == ranks[15]


def is_ssn(value: bytes) -> bool:
    """A US social security number that can have been issued: no area 000, 666 or 900+, no zero part."""
    number = digits(value)
    area, group, serial = number[:3], number[3:5], number[5:]
    return area not in (b"000", b"666") and area < b"900" and group != b"00" and serial != b"0000"


def is_public_ip(value: bytes) -> bool:
    """A valid address that the whole internet can reach: not private, loopback, documentation, multicast."""
    try:
        address = ipaddress.ip_address(value.decode("ascii"))
    except ValueError:
        return False
    return address.is_global and not address.is_multicast


def is_address_not_version(value: bytes) -> bool:
    """A public address; with four small and unequal numbers (1.2.3.4) it is a version or a section."""
    numbers = {int(number) for number in value.split(b".")}
    return (max(numbers) > HIGHEST_VERSION or len(numbers) == 1) and is_public_ip(value)


def is_international_phone(value: bytes) -> bool:
    """A country code and 7-15 digits in all (ITU-T E.164), after + or 00; the trunk 0 in (0) does not count."""
    number = digits(EXTENSION.sub(b"", value.replace(b"(0)", b"")))
    number = number.removeprefix(b"00") if not value.lstrip(b"(").startswith(b"+") else number
    return 8 <= len(number) <= 15 and CALLING_CODES.match(number) is not None


def is_not_a_date(value: bytes) -> bool:
    """Not only a day, a month and a year in some order."""
    parts = [int(part) for part in re.findall(rb"\d+", value)]
    if len(parts) != 3:
        return True
    year = max(parts)
    return not (1000 <= year <= 2999 and all(part <= 31 for part in parts if part != year))


def is_not_a_size(value: bytes) -> bool:
    """Not whole mebibytes, nor one off: 17179869184 has a Chinese mobile number's form, 4294967295 an American one."""
    number = int(digits(value))
    return all((number + off) % (1 << 20) for off in (-1, 0, 1))


def is_random(value: bytes) -> bool:
    """Letters and digits mixed with at least 3 bits of entropy per sign: a secret, not a word or a name."""
    counts = Counter(value)
    entropy = -sum(count / len(value) * math.log2(count / len(value)) for count in counts.values())
    text = value.decode("latin-1")
    return entropy >= 3 and any(sign.isdigit() for sign in text) and any(sign.isalpha() for sign in text)
