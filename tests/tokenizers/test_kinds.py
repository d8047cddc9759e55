"""Every kind of vocabulary: learnt, saved, loaded, used, read by others."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
from transformers import AutoTokenizer

from luban.errors import TokenizerError
from luban.tokenizers import files
from luban.tokenizers.files import FileTokenizer
from luban.tokenizers.kinds import KINDS, Kind
from luban.tokenizers.train import train
from tests import tiny

OTHERS: tuple[Kind, ...] = ("bpe", "unigram", "wordpiece", "words")
LOSSLESS: tuple[Kind, ...] = ("byte_bpe", "bpe", "unigram")


@pytest.fixture(scope="module")
def trained() -> dict[Kind, FileTokenizer]:
    return {kind: train(tiny.TEXTS, kind=kind, vocab=400) for kind in KINDS}


def test_every_kind_has_its_way_of_training():
    assert tuple(KINDS) == get_args(Kind)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_saved_is_loaded_and_transformers_gives_the_same_ids(
    kind: Kind, trained: dict[Kind, FileTokenizer], tmp_path: Path
):
    trained[kind].save(tmp_path)
    ours, theirs = files.load(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    if kind != "unigram":  # the last digit of a score may change when it is read
        assert ours.to_json() == trained[kind].to_json()
    for text in [*tiny.TEXTS[:5], "Zebra ж\n\n  x"]:
        ids = ours.encode(text)
        assert ids == trained[kind].encode(text) == theirs.encode(text, add_special_tokens=False)
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
    assert (ours.eos_id, ours.unk_id) == (theirs.eos_token_id, theirs.unk_token_id)


@pytest.mark.parametrize("kind", LOSSLESS)
def test_text_of_known_characters_comes_back_as_it_was(kind: Kind, trained: dict[Kind, FileTokenizer]):
    for text in [*tiny.TEXTS[:5], "a  b\n the  tools", " and", ""]:
        assert trained[kind].decode(trained[kind].encode(text)) == text


@pytest.mark.parametrize("kind", OTHERS)
def test_a_character_never_seen_is_one_unknown_and_all_else_stays(
    kind: Kind, trained: dict[Kind, FileTokenizer]
):
    tokenizer = trained[kind]
    ids = tokenizer.encode("the ж tools")
    assert ids.count(tokenizer.unk_id or 0) == 1
    assert tokenizer.decode(ids, skip_special=False).replace(" ", "") == "the[UNK]tools"


@pytest.mark.parametrize("kind", ["byte_bpe", "bpe", "wordpiece", "words"])
def test_the_same_texts_give_the_same_vocabulary(kind: Kind, trained: dict[Kind, FileTokenizer]):
    assert train(tiny.TEXTS, kind=kind, vocab=400).to_json() == trained[kind].to_json()


def test_words_are_words_signs_and_single_chinese_characters(trained: dict[Kind, FileTokenizer]):
    tokenizer = trained["words"]
    pieces = [tokenizer.decode([number]) for number in tokenizer.encode("The dog, 鲁班")]
    assert pieces == ["The", "dog", ",", "鲁", "班"]
    assert tokenizer.decode(tokenizer.encode("The tools , the  dog .")) == "The tools, the dog."


def test_words_have_the_four_special_tokens_of_word_vocabularies(trained: dict[Kind, FileTokenizer]):
    tokenizer = trained["words"]
    assert tokenizer.special_tokens == {"[UNK]": 0, "[BOS]": 1, "[EOS]": 2, "<|endoftext|>": 3}
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id) == (1, 2, 0)
    assert tokenizer.encode("unheard")[0] == 0


def test_wordpiece_has_berts_special_tokens_and_documents_end_with_sep(trained: dict[Kind, FileTokenizer]):
    tokenizer = trained["wordpiece"]
    assert list(tokenizer.special_tokens) == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert (tokenizer.bos_id, tokenizer.eos_id) == (2, 3)


def test_the_rarest_characters_find_no_room_in_a_small_bpe():
    tokenizer = train(["aaaa bbb cc d"], kind="bpe", vocab=4 + 3, min_frequency=1)
    assert tokenizer.vocab_size == 7
    # Room for three characters: a (4 times), b and the space (3 times each).
    assert [tokenizer.encode(letter) == [tokenizer.unk_id] for letter in "abcd"] == [False, False, True, True]


def test_a_unigram_vocabulary_too_small_for_its_characters_is_refused():
    with pytest.raises(TokenizerError, match="too small: not every character"):
        train(tiny.TEXTS, kind="unigram", vocab=20)


@pytest.mark.parametrize("kind", OTHERS)
def test_specials_alone_must_find_room(kind: Kind):
    with pytest.raises(TokenizerError, match=r"3 is too small: \d special tokens need at least \d"):
        train(tiny.TEXTS, kind=kind, vocab=3)


@pytest.mark.parametrize("kind", KINDS)
def test_more_special_tokens_come_last_and_are_never_read_from_text(kind: Kind, tmp_path: Path):
    more = ("<mask>", "<extra_id_0>")
    train(tiny.TEXTS, kind=kind, vocab=322, special_tokens=more).save(tmp_path)
    made, plain = files.load(tmp_path), train(tiny.TEXTS, kind=kind, vocab=320)
    assert [made.special_tokens[token] for token in more] == [plain.vocab_size, plain.vocab_size + 1]
    assert made.mask_id == plain.vocab_size
    if kind != "unigram":  # whose scores differ a little each time
        assert made.encode(tiny.TEXTS[0]) == plain.encode(tiny.TEXTS[0])
    assert not {*made.encode("a <mask> <extra_id_0>")} & {made.special_tokens[token] for token in more}


def test_more_special_tokens_take_part_of_the_room():
    with pytest.raises(
        TokenizerError, match="261 is too small: 256 bytes and 6 special tokens need at least 262"
    ):
        train(tiny.TEXTS, kind="byte_bpe", vocab=261, special_tokens=("a1", "a2", "a3", "a3"))
