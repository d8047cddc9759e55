"""Normalising: each rule by hand, together stable, and never to the harm of correct text."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luban.data.document import Document
from luban.data.step import Batch, Edit, Packed
from luban.data.steps.normalise import RULES, Normalise, find_marks, normalise, repair_mojibake

MESSY = st.text(
    st.sampled_from("aé Ãâ€™©\n\t\r\x85\x00\u200b\xad&amp;lt;#x3;\xa0\u3000ＡÄã文e\u0301\u212a"), max_size=60
)
ANY = st.text(st.characters(exclude_categories=["Cs"]), max_size=80) | MESSY


def changed(text: str, step: Normalise = Normalise()) -> tuple[str, list[str]]:  # noqa: B008 - frozen
    [outcome] = step(Batch([Document(id="0", text=text, source="")]))
    if outcome is None:
        return text, []
    assert isinstance(outcome, Edit)
    assert outcome.text is not None
    return outcome.text, list(outcome.changes)


@pytest.mark.parametrize(
    ("text", "expected", "codes"),
    [
        ("clean\n\n  text", "clean\n\n  text", []),
        ("a\r\nb\rc\u2028d\x85e\ff", "a\nb\nc\nd\ne\nf", ["newline"]),
        ("N\x00UL z\u200be\ufeffro so\xadft", "NUL zero soft", ["invisible"]),
        ("zero-width joiner: \U0001f469\u200d\U0001f4bb می\u200cخواهم", None, []),
        ("cafe\u0301", "café", ["nfc"]),
        ("end  \n\tindented \t\nx", "end\n\tindented\nx", ["trailing_space"]),
        ("\n\na\n\n\n\nb\n", "a\n\nb", ["blank_lines"]),
        ("5&nbsp;&euro; &#233; &#x4e2d; &amp;lt;", "5\xa0€ é 中 <", ["entity"]),
        ("AT&T &unknown; Q&A;", None, []),
        ("write <b>&amp;</b> for an ampersand", None, []),
        ("e\u200b\u0301", "é", ["invisible", "nfc"]),
    ],
)
def test_each_rule_does_what_its_code_says(text: str, expected: str | None, codes: list[str]) -> None:
    assert changed(text) == (text if expected is None else expected, codes)


@pytest.mark.parametrize(
    "text", ["Größe: naïve café", "Это по-русски, и давно.", "中文也会乱码，所以要修。", "“it’s”"]
)
def test_utf8_read_as_windows_1252_or_latin_1_is_repaired(text: str) -> None:
    for encoding in ("sloppy-windows-1252", "latin-1"):
        pytest.importorskip("ftfy")  # registers the first of them
        broken = f"plain words before. {text.encode().decode(encoding)}"
        repaired, codes = changed(broken)
        assert repaired.replace("'", "’") == f"plain words before. {text}".replace("'", "’")
        assert "mojibake" in codes


def test_gb18030_read_as_latin_1_is_repaired() -> None:
    text = "我们在这里说的是中文，不是别的。"
    assert changed(text.encode("gb18030").decode("latin-1")) == (text, ["mojibake"])
    mixed = "用 apt 装 GCC：见 README，再看手册里的说明。"
    assert changed(mixed.encode("gb18030").decode("latin-1")) == (mixed, ["mojibake"])


@pytest.mark.parametrize(
    "text",
    [
        "Il est là\xa0», dit-elle. «\xa0Déjà\xa0?\xa0» Voilà…",
        "Øl på Ærø; ÅÄÖ åäö; São João; „Übergröße“ – ‚süß‘",
        "Đặng Hữu Phúc Ã là chữ hoa",
        "价格：１２３元。“引号”和《书名》",
        "¡Señor! ¿Qué? 50 % · ½ × ±2°",
    ],
)
def test_correct_text_is_left_alone(text: str) -> None:
    assert "mojibake" not in changed(text)[1]


def test_full_width_letters_become_narrow_only_where_asked() -> None:
    text = "Ｌｕｂａｎ\u3000１２，好！"
    assert changed(text) == (text, [])
    assert changed(text, Normalise(full_width=True)) == ("Luban 12，好！", ["full_width"])


def test_rules_can_be_switched_off() -> None:
    step = Normalise(mojibake=False, entities=False)
    assert changed("cafÃ© &nbsp;.", step) == ("cafÃ© &nbsp;.", [])


@given(ANY)
@settings(max_examples=400)
def test_what_the_kernel_leaves_unmarked_no_rule_would_change(text: str) -> None:
    [mark] = find_marks(Packed.of([text])).tolist()
    for bit, (code, rule) in enumerate(RULES.items()):
        assert mark >> bit & 1 or rule(text) == text, code


@given(ANY)
@settings(max_examples=400)
def test_normalising_twice_changes_nothing_more(text: str) -> None:
    once, _ = changed(text, Normalise(full_width=True))
    assert changed(once, Normalise(full_width=True)) == (once, [])
    assert unicodedata.is_normalized("NFC", once)


def test_every_character_that_could_change_under_nfc_is_marked() -> None:
    codes = [code for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    parts = [unicodedata.decomposition(chr(code)).split() for code in codes]
    composing = {int(pair[1], 16) for pair in parts if len(pair) == 2 and pair[0][0] != "<"}
    composing |= set(range(0x1161, 0x11C3))  # the parts of Hangul syllables
    marks = find_marks(Packed.of([chr(code) for code in codes]))
    unmarked = [code for code, mark in zip(codes, marks.tolist(), strict=True) if not mark & 16]
    assert [c for c in unmarked if unicodedata.normalize("NFC", chr(c)) != chr(c)] == []
    assert [c for c in unmarked if unicodedata.combining(chr(c)) or c in composing] == []


@given(st.lists(ANY, max_size=5))
def test_a_batch_is_no_more_than_its_documents(texts: list[str]) -> None:
    step = Normalise()
    together = step(Batch([Document(id=str(i), text=text, source="") for i, text in enumerate(texts)]))
    assert together == [step(Batch([Document(id="0", text=text, source="")]))[0] for text in texts]


def test_a_long_line_of_spaces_takes_linear_time() -> None:
    found = normalise("a" + " " * 2_000_000 + "b" + "\n" * 1_000_000 + "&" * 500_000, RULES)
    assert found is not None
    assert len(found.text or "") == 2_500_004


def test_a_page_that_quotes_mojibake_to_explain_it_stays() -> None:
    page = "Der Umlaut „ä“ wird dann zu „Ã¤“, und „é“ zu „Ã©“: für Leserinnen schwer verständlich."
    assert repair_mojibake(page) == page
