"""Bytes of any encoding become the text that was meant, or are refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luban.data.sources import RecordError
from luban.data.sources.charset import declared_in, to_text

CHINESE = "鲁班是中国古代的木匠，他发明了锯子和许多别的工具。后来的人都记得他。" * 3
RUSSIAN = "Плотник взял пилу и начал работать, потому что день был коротким и холодным. " * 3
FRENCH = "Le menuisier a été étonné par la qualité du bois que son élève avait préparé à l'atelier. " * 3


@given(st.text(st.characters(exclude_characters="\0\x1b\ufeff", exclude_categories=["Cs"])))
def test_utf8_is_always_read_as_it_is_whatever_was_declared(text: str) -> None:
    assert to_text(text.encode(), "x", "iso-8859-1") == (text, "utf-8")


@pytest.mark.parametrize(
    ("text", "encoding"),
    [(CHINESE, "gb18030"), (CHINESE.replace("鲁", "魯"), "utf-16-le"), (CHINESE, "utf-16-be"), (RUSSIAN, "cp1251"),
     (RUSSIAN, "koi8-r"), (FRENCH, "cp1252"), ("西元前的木匠發明了許多工具，後來的人都記得他。" * 4, "big5")],
)  # fmt: skip
def test_an_undeclared_encoding_is_found(text: str, encoding: str) -> None:
    padded = text if not encoding.startswith("utf-16") else "The saw: " * 20 + text
    assert to_text(padded.encode(encoding), "x")[0] == padded


@pytest.mark.parametrize("mark", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_decides_and_is_not_text(mark: str) -> None:
    assert to_text(CHINESE.encode(mark), "x", "koi8-r")[0] == CHINESE


def test_stray_bytes_in_utf8_are_mended_and_the_rest_is_untouched() -> None:
    raw = CHINESE.encode() + b" caf\xe9 \x93quoted\x94 \x81 " + CHINESE.encode()
    assert to_text(raw, "x") == (f"{CHINESE} café “quoted” \ufffd {CHINESE}", "utf-8+windows-1252")


def test_a_wrong_declaration_does_not_spoil_utf8_with_a_stray_byte() -> None:
    assert to_text(CHINESE.encode() + b"\xe9", "x", "windows-1252")[0] == CHINESE + "é"


def test_an_encoding_that_hides_in_ascii_is_believed_when_declared() -> None:
    assert to_text("木工".encode("iso2022_jp"), "x", "iso-2022-jp")[0] == "木工"


@pytest.mark.parametrize("raw", ["中".encode("gbk"), b"\xff\xfe\xfd\xfc\x80"[1:], b"a \x81\x8d\x8f b"])
def test_too_little_to_judge_by_is_refused_with_line_and_column(raw: bytes) -> None:
    with pytest.raises(RecordError, match=r"f:2: byte 0x\w\w at column \d is not UTF-8") as caught:
        to_text(b"fine\n" + raw, "f")
    assert caught.value.reason == "bad_encoding"


def test_bytes_of_a_program_are_no_text() -> None:
    with pytest.raises(RecordError) as caught:
        to_text(b"\x7fELF\x02\x01\x01" + b"\0\1\0\0\2\0\0\0" * 20, "x")
    assert caught.value.reason == "binary"


@pytest.mark.parametrize(
    "raw",
    [b'<html><meta charset="gbk">', b"<META http-equiv=x content='text/html; charset=gbk'>",
     b'<?xml version="1.0" encoding="gbk"?>'],
)  # fmt: skip
def test_a_page_tells_its_encoding(raw: bytes) -> None:
    assert declared_in(raw) == "gbk"
