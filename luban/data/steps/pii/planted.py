"""Texts whose personal data is known, because it was put there: for recall and precision.

Values are drawn with valid check digits and in the forms in which people write them; none is anybody's on purpose.
Where words belong to a form, brackets hold what is personal: `tel: [555 1234]`.
"""

from __future__ import annotations

import itertools
import random
import string
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from luban.data.step import Packed
from luban.data.steps.pii import checks
from luban.data.steps.pii.candidates import candidates
from luban.data.steps.pii.step import by_text, find

Random = random.Random
CARRIERS = (
    " ({})", " {}.", ", {},", " \n{}\n", " [{}]", " Please note {} for later.", " Details: {}; more follows.", '"{}"',
    "，资料：{}，", "（{}）", " siehe {}, danke.", " voir {} pour la suite.", "：{}。",
)  # fmt: skip
GIVEN = ("anna", "j.smith", "li_wei", "m-mueller", "jean.dupont+news", "x99", "o'brien", "Marta.K")
DOMAINS = ("mail.com", "uni-bonn.de", "cs.ox.ac.uk", "qq.com", "web.fr", "sub.office.gov.au", "a1.io")
# Country, account format: A letter, N digit, C either.
ACCOUNTS = {"DE": "N" * 18, "GB": "AAAA" + "N" * 14, "FR": "N" * 10 + "C" * 11 + "NN", "NL": "AAAA" + "N" * 10,
            "ES": "N" * 20, "CH": "NNNNN" + "C" * 12, "NO": "N" * 11}  # fmt: skip
PHONES = (
    "+1 NEE-NEE-DDDD", "+1NEENEEDDDD", "(NEE) NEE-DDDD", "NEE-NEE-DDDD", "NEE.NEE.DDDD", "1-NEE-NEE-DDDD",
    "NEE-NEE-DDDD x123", "+44 20 7DDD DDDD", "+44 (0)161 4DD DDDD", "020 7DDD DDDD", "07700 9DDDDD", "07NDDDDDDDD",
    "(0161) 4DD DDDD", "01632 9DDDDD", "+49 30 NDDDDDDD", "+49 (0)89 NDDDDD", "030/NDDDDDD", "0171 NDDDDDD",
    "(089) ND DD DD DD", "0221-NDDDDDD", "+33 N DD DD DD DD", "0N DD DD DD DD", "06.DD.DD.DD.DD", "06DDDDDDDD",
    "+86 138 DDDD DDDD", "+86-10-6DDDDDDD", "139DDDDDDDD", "186-DDDD-DDDD", "150 DDDD DDDD", "010-6DDDDDDD",
    "(021)5DDDDDDD", "0755-8DDDDDD", "400-8DD-DDDD", "0033 1 ND DD DD DD", "+81-3-NDDD-DDDD", "+55 (11) 9DDDD-DDDD",
    "tel: [NDD DDDD]", "Telefon [NDDDDDDD]", "电话：[6DDDDDDD]", "call [NEENEEDDDD]",
)  # fmt: skip
PROVINCES = ("110105", "310104", "440305", "510107", "330106")
SIGNS = string.ascii_letters + string.digits


def _pick(rng: Random, signs: str, count: int) -> str:
    return "".join(rng.choice(signs) for _ in range(count))


def email(rng: Random) -> str:
    return f"{rng.choice(GIVEN)}{rng.choice(['', rng.randrange(100)])}@{rng.choice(DOMAINS)}"


def phone(rng: Random) -> str:
    """A form with N 2-9, E 2-9 or 0, D any digit."""
    signs = {"N": "23456789", "E": "02345678", "D": string.digits}
    return "".join(rng.choice(signs.get(sign, sign)) for sign in rng.choice(PHONES))


def ip(rng: Random) -> str:
    while True:
        value = ".".join(str(rng.randrange(1, 255)) for _ in range(4))
        if rng.random() < 0.3:
            groups = [f"{rng.randrange(1, 65536):x}" for _ in range(8)]
            short = rng.random() < 0.5
            value = f"2a00:{groups[0]}::{groups[1]}" if short else ":".join(["2a00", *groups[1:]])
        if checks.is_public_ip(value.encode()):
            return value


def card(rng: Random) -> str:
    prefix, size = rng.choice(
        [("4", 16), ("53", 16), ("2221", 16), ("37", 15), ("6011", 16), ("36", 14), ("62", 19)]
    )
    number = prefix + _pick(rng, string.digits, size - len(prefix) - 1)
    number += next(digit for digit in string.digits if checks.luhn((number + digit).encode()))
    gap = rng.choice(["", " ", "-"])
    cuts = [0, 4, 10, 15] if size == 15 else [*range(0, size, 4), size]
    return gap.join(number[a:b] for a, b in itertools.pairwise(cuts))


def id_card(rng: Random) -> str:
    return rng.choice([_chinese_id, _french_id, _spanish_id, _italian_id])(rng)


def _until(rng: Random, check: Callable[[bytes], bool], stem: str, signs: str, size: int = 1) -> str:
    while True:
        value = stem + _pick(rng, signs, size)
        if check(value.encode()):
            return value


def _chinese_id(rng: Random) -> str:
    born = f"{rng.randrange(1940, 2010)}{rng.randrange(1, 13):02}{rng.randrange(1, 29):02}"
    stem = rng.choice(PROVINCES) + born + _pick(rng, string.digits, 3)
    return _until(rng, checks.is_chinese_id, stem, "0123456789X")


def _french_id(rng: Random) -> str:
    stem = f"{rng.choice('12')}{rng.randrange(40, 99)}{rng.randrange(1, 13):02}{rng.randrange(10, 96)}"
    stem += _pick(rng, string.digits, 6)
    value = f"{stem}{97 - int(stem) % 97:02}"
    if rng.random() < 0.5:
        return value
    return " ".join((value[0], value[1:3], value[3:5], value[5:7], value[7:10], value[10:13], value[13:]))


def _spanish_id(rng: Random) -> str:
    stem = rng.choice(["X", "Y", ""]) + _pick(rng, string.digits, 7)
    stem += "" if stem[0] in "XY" else rng.choice(string.digits)
    return _until(rng, checks.is_spanish_id, stem, string.ascii_uppercase)


def _italian_id(rng: Random) -> str:
    stem = _pick(rng, "BCDFGLMNPRSTVZ", 6) + f"{rng.randrange(40, 99)}{rng.choice('ABCDEHLMPRST')}"
    stem += f"{rng.randrange(1, 29):02}{rng.choice('ABCDEFGHL')}{rng.randrange(100, 999)}"
    return _until(rng, checks.is_italian_id, stem, string.ascii_uppercase)


def ssn(rng: Random) -> str:
    value = f"{rng.randrange(1, 666):03}-{rng.randrange(1, 100):02}-{rng.randrange(1, 10000):04}"
    return value if rng.random() < 0.7 else f"SSN: [{value.replace('-', '')}]"


def iban(rng: Random) -> str:
    country = rng.choice(sorted(ACCOUNTS))
    kinds = {"A": string.ascii_uppercase, "N": string.digits, "C": string.ascii_uppercase + string.digits}
    account = "".join(rng.choice(kinds[kind]) for kind in ACCOUNTS[country])
    check = 98 - int("".join(str(int(sign, 36)) for sign in f"{account}{country}00")) % 97
    value = f"{country}{check:02}{account}"
    return value if rng.random() < 0.5 else " ".join(value[at : at + 4] for at in range(0, len(value), 4))


def key(rng: Random) -> str:
    def b64(count: int) -> str:
        return _pick(rng, SIGNS, count)

    return rng.choice([
        f"AKIA{_pick(rng, string.ascii_uppercase + '234567', 14)}{_pick(rng, '234567', 2)}",
        f"gh{rng.choice('pos')}_1{b64(35)}", f"eyJ{b64(20)}.eyJ1{b64(60)}.{b64(43)}", f"xoxb-{b64(40)}1a",
        f'api_key = "[1a{b64(30)}]"', f"token: [a1{b64(38)}]", f"SECRET_KEY='[9z{b64(40)}]'",
        f"-----BEGIN RSA PRIVATE KEY-----\n{b64(64)}\n{b64(64)}\n{b64(20)}==\n-----END RSA PRIVATE KEY-----",
    ])  # fmt: skip


def credentials(rng: Random) -> str:
    user, password = rng.choice(GIVEN).replace("+", ""), _pick(rng, SIGNS + "!$_-", rng.randrange(6, 20))
    return f"{rng.choice(['https', 'postgres', 'ftp', 'redis'])}://[{user}:{password}]@db.{rng.choice(DOMAINS)}/x"


GENERATORS: dict[str, Callable[[Random], str]] = {
    made.__name__: made for made in (email, phone, ip, card, id_card, ssn, iban, key, credentials)
}


@dataclass(frozen=True)
class Planted:
    """A text and the (start, end, kind) of what was put into it, in bytes."""

    text: str
    truth: tuple[tuple[int, int, str], ...]


def plant(text: str, rng: Random, *, values: int, kinds: Sequence[str] = tuple(GENERATORS)) -> Planted:
    """`values` values at random ends of words in `text`, each in a carrier phrase."""
    gaps = [place for place, sign in enumerate(text) if sign in " \n"] or [len(text)]
    places = sorted(rng.sample(gaps, min(values, len(gaps))))
    pieces, truth, done, size = [], [], 0, 0
    for place in places:
        kind = rng.choice(kinds)
        before, value, after = _parts(GENERATORS[kind](rng), rng.choice(CARRIERS))
        head = (text[done:place] + before).encode()
        truth.append((size + len(head), size + len(head) + len(value), kind))
        pieces.append(head + value.encode() + after.encode())
        size, done = size + len(pieces[-1]), place
    return Planted(b"".join([*pieces, text[done:].encode()]).decode(), tuple(truth))


def _parts(form: str, carrier: str) -> tuple[str, str, str]:
    """What stands before the personal part, the part, and what stands after it."""
    before, after = carrier.split("{}")
    if "[" not in form:
        return before, form, after
    lead, _, rest = form.partition("[")
    value, _, tail = rest.rpartition("]")
    return before + lead, value, tail + after


@dataclass(frozen=True)
class Score:
    """Per kind: how many were planted, how many found whole, how many marks are of it, how many of those right."""

    planted: Counter[str]
    found: Counter[str]
    marks: Counter[str]
    right: Counter[str]
    missed: list[tuple[str, str]]
    wrong: list[tuple[str, str]]

    def recall(self, kind: str) -> float:
        return self.found[kind] / self.planted[kind]

    def precision(self, kind: str) -> float:
        return self.right[kind] / self.marks[kind]


def score(texts: Sequence[Planted]) -> Score:
    """What the rules find of what was planted, value by value; a mark that meets no planted value is wrong."""
    result = Score(Counter(), Counter(), Counter(), Counter(), [], [])
    windows = dict(by_text(candidates(Packed.of([planted.text for planted in texts]))))
    for index, planted in enumerate(texts):
        content = planted.text.encode()
        spans = find(content, windows.get(index, []))
        _score_one(result, content, planted.truth, spans)
    return result


def _score_one(
    result: Score,
    content: bytes,
    truth: Sequence[tuple[int, int, str]],
    spans: Sequence[tuple[int, int, str]],
) -> None:
    for start, end, kind in truth:
        result.planted[kind] += 1
        if any(mark[0] <= start and end <= mark[1] and mark[2] == kind for mark in spans):
            result.found[kind] += 1
        else:
            result.missed.append((kind, content[start - 12 : end + 12].decode(errors="replace")))
    for start, end, kind in spans:
        result.marks[kind] += 1
        if any(start < other[1] and other[0] < end and kind == other[2] for other in truth):
            result.right[kind] += 1
        else:
            result.wrong.append((kind, content[start - 12 : end + 12].decode(errors="replace")))
