"""New tokens leave old ones as they were."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from luban.tokenizers import files
from luban.tokenizers.added import is_spaced_word, with_tokens
from tests import tiny

WORDS = ["builder's", "木匠", "cat", " Paris!"]


def test_new_tokens_stand_behind_the_old_ids_and_are_one_token_each():
    made = with_tokens(tiny.tokenizer(), WORDS)
    assert made.added == {word: 384 + number for number, word in enumerate(WORDS)}
    assert made.tokenizer.vocab_size == 388
    assert made.before["木匠"] == tiny.tokenizer().encode("木匠")
    ids = made.tokenizer.encode("是木匠的, a cat")
    assert [number for number in ids if number >= 384] == [385, 386]
    assert made.tokenizer.decode(ids) == "是木匠的, a cat"


def test_the_tokenizer_itself_and_its_roles_stay():
    before = tiny.tokenizer().to_json()
    made = with_tokens(tiny.tokenizer(), WORDS).tokenizer
    assert tiny.tokenizer().to_json() == before
    assert (made.eos_id, made.stop_ids) == (tiny.tokenizer().eos_id, tiny.tokenizer().stop_ids)
    assert made.render([{"role": "user", "content": "a"}]) == tiny.tokenizer().render(
        [{"role": "user", "content": "a"}]
    )


def test_what_is_not_new_is_skipped_and_counted():
    made = with_tokens(tiny.tokenizer(), [" the", "cat", "cat", "", "  ", "<|im_end|>"])
    assert list(made.added) == ["cat"]
    assert made.skipped == {"known": 2, "repeated": 1, "empty": 2}


def test_what_the_decoder_would_break_is_skipped_and_counted():
    # é is a sign for byte 0xE9 in byte-level vocabularies, and the decoder cannot know that it is text here.
    made = with_tokens(tiny.tokenizer(), ["cat", "naïve"])
    assert list(made.added) == ["cat"]
    assert made.skipped == {"undecodable": 1}


def test_a_spaced_word_leaves_longer_words_alone():
    made = with_tokens(tiny.tokenizer(), ["cat"]).tokenizer
    assert made.encode("concatenate") == tiny.tokenizer().encode("concatenate")
    assert made.encode("(cat)")[1] == 384


@pytest.mark.parametrize(
    ("text", "spaced"), [("cat", True), ("don't", True), ("木匠", False), ("cat!", False), (" cat", False)]
)
def test_which_tokens_are_spaced_words(text: str, spaced: bool):
    assert is_spaced_word(text) == spaced


def test_special_ones_are_written_by_templates_only():
    made = with_tokens(tiny.tokenizer(), ["<think>"], special=True).tokenizer
    assert made.special_tokens["<think>"] == 384
    assert 384 not in made.encode("<think>")


@settings(max_examples=60, deadline=None)
@given(st.text())
def test_text_without_new_tokens_keeps_its_ids_and_all_text_comes_back(text: str):
    made = with_tokens(tiny.tokenizer(), WORDS).tokenizer
    assert made.decode(made.encode(text)) == text
    if not any(word in text for word in WORDS):
        assert made.encode(text) == tiny.tokenizer().encode(text)


def test_transformers_reads_the_same_tokens(tmp_path):
    made = with_tokens(tiny.tokenizer(), WORDS).tokenizer
    made.save(tmp_path)
    theirs, ours = AutoTokenizer.from_pretrained(tmp_path), files.load(tmp_path)
    for text in ("是木匠的, a cat", "concatenate the builder's tools in Paris!"):
        assert theirs.encode(text) == ours.encode(text) == made.encode(text)
        assert theirs.decode(theirs.encode(text)) == text
