"""Personal data: what goes, what stays, and how much of what was planted is found."""

from __future__ import annotations

import pickle
import random
import re
import sysconfig
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import luban
from luban.data.document import Document
from luban.data.step import Batch, Edit, Packed
from luban.data.steps.pii import Pii
from luban.data.steps.pii.candidates import AT, COLONS, IBAN, NUMBER, PEM, TOKEN, candidates
from luban.data.steps.pii.planted import GENERATORS, plant, score
from luban.data.steps.pii.step import by_text, find
from luban.errors import ConfigError, MachineError
from luban.fetch import bible

WEB = Path(luban.__file__).parent / "fetch" / "web.tsv.gz"


def scrub(text: str, step: Pii | None = None) -> str:
    (outcome,) = (step or Pii())(batch([text]))
    return outcome.text or "" if isinstance(outcome, Edit) else text


def batch(texts: Sequence[str]) -> Batch:
    return Batch([Document(id=str(index), text=text, source="test") for index, text in enumerate(texts)])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Write to jane.doe+x@mail.co.uk.", "Write to <EMAIL>."),
        ("请联系foo@qq.com或13812345678。", "请联系<EMAIL>或<PHONE>。"),
        ("Call (415) 555-2671 or 1-415-555-2671 x12!", "Call <PHONE> or <PHONE>!"),
        ("Tel.: +49 (0)30 123456; fax 030/1234567", "Tel.: <PHONE>; fax <PHONE>"),
        ("06 12 34 56 78, 020 7946 0958, 0755-8612345", "<PHONE>, <PHONE>, <PHONE>"),
        ("from 8.8.8.8 to [2001:4860:4860::8888]", "from <IP> to [<IP>]"),
        ("card 4111 1111 1111 1111", "card <CARD>"),
        ("card 4012-8888-8888-1881", "card <CARD>"),
        ("身份证11010519491231002X", "身份证<ID_CARD>"),  # GB 11643's own example
        ("12345678Z, RSSMRA85T10A562S, 255081416802538", "<ID_CARD>, <ID_CARD>, <ID_CARD>"),
        ("SSN 123-45-6789", "SSN <SSN>"),
        ("DE89 3704 0044 0532 0130 00 and GB29NWBK60161331926819", "<IBAN> and <IBAN>"),
        ("AKIAQYLPMN5HHHFPZAM2", "<KEY>"),
        ('API_KEY = "a8f5f167f44f4964e6c998dee827110c"', 'API_KEY = "<KEY>"'),
        ("https://bob:secret@host.com/x", "https://<CREDENTIALS>@host.com/x"),
        (f"-----BEGIN RSA PRIVATE KEY-----\n{'aB3/' * 20}\n-----END RSA PRIVATE KEY-----\nend", "<KEY>\nend"),
    ],
)
def test_personal_data_gives_way_to_its_kind(text: str, expected: str) -> None:
    assert scrub(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "192.168.0.1, 10.1.2.3, 127.0.0.1, 192.0.2.1, 2001:db8::1 and fe80::1 reach nobody",
        "zlib 1.2.3.4, section 4.8.3.1, version 99.1.2.3, OID 1.3.6.1.4.1.311",
        "4012-8888-8888-1882 fails Luhn's check, DE88 3704 0044 0532 0130 00 the bank's",
        "110105194912310021 has a wrong check sign, 000-12-3456 a wrong area",
        "2021-03-04 12:30:45, 1612345678, 17179869184, 4294967295, ISBN 978-0-262-03384-8, 01/02/2003",
        "std::vector<int>, a::b::c, 12:30:45, @decorator, user@host, f(x)@y",
        "git commit da39a3ee5e6b4b0d3255bfef95601890afd80709 and token = tokenizer.next_token_value",
        "pi is 3.14159265358979, and 1,234,567,890 people; 1234567 12345678",
    ],
)
def test_what_only_looks_like_it_stays(text: str) -> None:
    assert scrub(text) == text


def test_what_is_planted_in_real_text_is_found() -> None:
    rng = random.Random(11)
    texts = ["\n".join(lines) for _, lines in bible.chapters(WEB)][:250]
    result = score([plant(text, rng, values=12) for text in texts])
    for kind in GENERATORS:
        assert result.planted[kind] > 200
        assert result.recall(kind) >= 0.99, (kind, result.missed[:5])
        assert result.precision(kind) >= 0.99, (kind, result.wrong[:5])


def test_clean_technical_text_has_few_marks() -> None:
    """Python's own modules: addresses of authors and examples are marks too."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    texts = [file.read_text("utf-8", errors="replace") for file in files]
    outcomes = Pii()(batch(texts))
    marks = sum(sum(outcome.changes.values()) for outcome in outcomes if isinstance(outcome, Edit))
    assert marks / sum(map(len, texts)) * 100_000 < 4


def test_only_the_kinds_asked_for_go_and_none_is_taken_for_another() -> None:
    text = "jane@mail.com, DE89 3704 0044 0532 0130 00"
    assert scrub(text, Pii(kinds=("email", "phone", "card"))) == "<EMAIL>, DE89 3704 0044 0532 0130 00"


def test_counts_are_told_by_kind() -> None:
    (outcome,) = Pii()(batch(["a@b.de c@d.fr 8.8.8.8"]))
    assert isinstance(outcome, Edit)
    assert outcome.changes == {"email": 2, "ip": 1}


def test_a_value_has_one_fake_and_fakes_stay() -> None:
    fakes = Pii(replace="fake")
    first, second, third = scrub("jane@mail.com, joe@mail.com, jane@mail.com", fakes).split(", ")
    assert first == third
    assert {first, second} <= {"email@example.com", "firstname.lastname@example.org", "contact@example.net"}
    assert scrub(f"{first}, {second}", fakes) == f"{first}, {second}"


def test_postal_addresses_go_when_asked() -> None:
    step = Pii(kinds=("address",))
    text = "at 12 Old Main Street, Springfield, IL 62704; Hauptstraße 12, 10115 Berlin; 北京市海淀区中关村大街27号"
    assert scrub(text, step) == "at <ADDRESS>; <ADDRESS>; <ADDRESS>"
    assert scrub(text) == text


def test_names_go_by_any_package_with_load_and_pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "xx_names_tiny.py").write_text(
        "import re, types\n"
        "def load(): return types.SimpleNamespace(pipe=lambda texts: map(read, texts))\n"
        "def read(text):\n"
        "    found = [(m, 'PERSON') for m in re.finditer('Ruth|路得', text)]\n"
        "    found += [(m, 'ORG') for m in re.finditer('Moab', text)]\n"
        "    ents = [types.SimpleNamespace(start_char=m.start(), end_char=m.end(), label_=k) for m, k in found]\n"
        "    return types.SimpleNamespace(ents=ents)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    step = Pii(kinds=("email", "person"), ner="xx_names_tiny")
    assert scrub("é Ruth of Moab, 路得 ruth@mail.com", step) == "é <PERSON> of Moab, <PERSON> <EMAIL>"


def test_a_model_that_is_not_installed_is_named() -> None:
    with pytest.raises(MachineError, match="xx_absent_model"):
        Pii(kinds=("person",), ner="xx_absent_model")(batch(["text"]))


def test_names_and_their_model_are_asked_for_together() -> None:
    with pytest.raises(ConfigError, match="person"):
        Pii(kinds=("email", "person"))
    with pytest.raises(ConfigError, match="neither"):
        Pii(ner="xx_names_tiny")


def test_a_step_travels_and_batches_do_not_matter() -> None:
    rng = random.Random(3)
    texts = [plant("So it is. " * 40, rng, values=5).text for _ in range(6)]
    step = pickle.loads(pickle.dumps(Pii()))
    assert list(step(batch(texts))) == [step(batch([text]))[0] for text in texts]


@given(st.integers(0, 10_000))
def test_the_scan_hides_nothing_from_the_rules(seed: int) -> None:
    planted = plant("We were there in 1984, all 12 of us: x::y, x@y. " * 4, random.Random(seed), values=6)
    content = planted.text.encode()
    windows = dict(by_text(candidates(Packed.of([planted.text])))).get(0, [])
    everywhere = [(group, 0, len(content)) for group in range(6) if group != PEM]
    everywhere += [(PEM, place.start(), place.end()) for place in re.finditer(rb"-----BEGIN", content)]
    everywhere += [(IBAN, place.start(), place.end()) for place in re.finditer(rb"[A-Z]{2}\d\d", content)]
    everywhere += [(COLONS, m.start(), m.end()) for m in re.finditer(rb"[0-9a-fA-F:.]{3,}", content)]
    assert find(content, windows) == find(content, everywhere)


def oracle(content: bytes) -> set[tuple[int, int, int]]:
    """The candidates by regular expressions."""
    joint = rb"[ \-./()\xc2\xa0\xe2\x80\x90-\x95]"
    found = {(AT, m.start(), m.end()) for m in re.finditer(rb"(?s)(?<=.)@(?=[A-Za-z0-9])", content)}
    found |= {
        (IBAN, m.start(), m.start() + 4) for m in re.finditer(rb"(?<![A-Za-z0-9])[A-Z]{2}\d(?=\d)", content)
    }
    found |= {(PEM, m.start(), m.end()) for m in re.finditer(rb"(?s)-----BEGIN(?=.)", content)}
    for m in re.finditer(rb"[A-Za-z0-9_+/=.-]{16,}", content):
        if re.search(rb"\d", m[0]) and re.search(rb"[A-Za-z]", m[0]):
            found.add((TOKEN, m.start(), m.end()))
    for m in re.finditer(rb"[0-9A-Fa-f]*:[0-9A-Fa-f:.]*", content):
        bordered = (
            not content[m.start() - 1 : m.start()].isalnum() and not content[m.end() : m.end() + 1].isalnum()
        )
        if bordered and re.search(rb"\d", m[0]) and (b"::" in m[0] or m[0].count(b":") == 7):
            found.add((COLONS, m.start(), m.end()))
    for m in re.finditer(rb"\d(?:" + joint + rb"{0,3}[\xc2\xa0\xe2\x80\x90-\x95]{0,3}\d)*", content):
        digits, dots = len(re.findall(rb"\d", m[0])), len(re.findall(rb"\.\d", m[0]))
        if digits >= 7 or (dots >= 3 and digits >= 4):
            found.add((NUMBER, m.start(), m.end()))
    return found


PIECES = st.sampled_from([
    "@", ":", "::", "-----BEGIN", ".", " ", "-", "(", "+", "\u00a0", "–", "“", "AB", "af", "7", "12", "345678",
    "x9Y_x9Y_x9Y_x9Y_", "\n", "é", "电",
])  # fmt: skip


@example(["345678––7", "345678–––7"])
@given(
    st.lists(
        st.lists(PIECES | st.characters(exclude_categories=["Cs"]), max_size=40).map("".join), max_size=4
    )
)
def test_candidates_are_those_of_the_plain_rule(texts: list[str]) -> None:
    packed = Packed.of(texts)
    rows = candidates(packed)
    for index, text in enumerate(texts):
        mine = {tuple(row) for row in rows[rows[:, 0] == index][:, 1:].tolist()}
        assert mine == oracle(text.encode())
    assert np.all(np.diff(rows[:, 0]) >= 0)


def test_hostile_text_costs_no_more_than_its_size() -> None:
    """Nested markers, once quadratic, end in well under the test's time limit."""
    for unit in ("-----BEGIN RSA PRIVATE KEY-----\n", "1", "1 ", "a1::", "8.8.8.8 ", "eyJaaaaaaaa."):
        scrub(unit * (300_000 // len(unit)))
