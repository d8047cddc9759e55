"""One token at a time: as text where it is text, as bytes where it is a part of a character."""

from __future__ import annotations

import pytest

from luban.tokenizers.files import FileTokenizer
from luban.tokenizers.spelling import Spelling
from tests import tiny

TEXT = "The quick 鲁班 🙂 café"


@pytest.mark.parametrize("tokenizer", [tiny.tokenizer(), tiny.sentencepiece_like()])
def test_the_bytes_of_tokens_side_by_side_are_the_texts(tokenizer: FileTokenizer) -> None:
    text = TEXT if tokenizer is tiny.tokenizer() else "Hello, world"
    spelling = Spelling(tokenizer)
    spelled = b"".join(bytes(spelling.bytes(token)) for token in tokenizer.encode(text))
    assert spelled.decode().lstrip() == text


def test_a_part_of_a_character_is_told_by_its_bytes() -> None:
    spelling, tokenizer = Spelling(tiny.tokenizer()), tiny.tokenizer()
    (first, *_) = tokenizer.encode("🙂")
    byte = "🙂".encode()[0]
    assert spelling.text(first).startswith(f"bytes:\\x{byte:02x}")
    assert spelling.bytes(first)[0] == byte


def test_every_token_has_a_text_and_none_of_them_is_broken() -> None:
    spelling = Spelling(tiny.tokenizer())
    texts = [spelling.text(token) for token in range(tiny.tokenizer().vocab_size)]
    assert all(texts)
    assert not [text for text in texts if "\N{REPLACEMENT CHARACTER}" in text]


def test_special_tokens_are_told_as_they_are_spelled_and_unused_rows_as_nothing() -> None:
    spelling = Spelling(tiny.tokenizer())
    for text, token in tiny.tokenizer().special_tokens.items():
        assert spelling.text(token) == text
    assert spelling.text(10**6) == ""
