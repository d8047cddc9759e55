"""The fast encoder gives the same ids, or is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from luban.errors import TokenizerError
from luban.fetch import bible
from luban.tokenizers.fast import PROBES, FastEncoder, NotConvertible, byte_signs, fast_encoder
from luban.tokenizers.files import FileTokenizer
from luban.tokenizers.kinds import Pattern
from luban.tokenizers.train import train, train_bpe
from tests import tiny
from tests.conftest import WEB

ROLES: dict[str, str] = dict.fromkeys(("bos_token", "eos_token", "pad_token"), "<|endoftext|>")


def changed(change: Any) -> FileTokenizer:
    """The tiny tokenizer after `change` of its file's content."""
    layout = json.loads(tiny.tokenizer().to_json())
    change(layout)
    return FileTokenizer(tokenizers.Tokenizer.from_str(json.dumps(layout)), settings=ROLES)


def digits_apart() -> FileTokenizer:
    """A vocabulary split as SmolLM2's: digits alone, then GPT-2's rule."""
    backend = tokenizers.Tokenizer.from_str(train_bpe(tiny.TEXTS, vocab=384, pattern="gpt2").to_json())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return FileTokenizer(backend, settings=ROLES)


TOKENIZERS = {
    "llama3": tiny.tokenizer(),
    "gpt2": train_bpe(tiny.TEXTS, vocab=384, pattern="gpt2"),
    "digits": digits_apart(),
}
ENCODERS = {name: fast_encoder(tokenizer) for name, tokenizer in TOKENIZERS.items()}


@settings(max_examples=150, deadline=None)
@given(text=st.text() | st.text("a1 \n\t's,鲁é١"), name=st.sampled_from(list(ENCODERS)))
def test_ids_equal_those_of_the_tokenizer_it_was_made_from(text: str, name: str):
    assert ENCODERS[name].encode(text).tolist() == TOKENIZERS[name].encode(text)


@pytest.mark.parametrize("pattern", ["llama3", "gpt2"])
def test_ids_are_equal_on_a_real_text_with_a_real_vocabulary(pattern: Pattern):
    texts = ["\n".join(verses) for _, verses in bible.chapters(WEB)][::10]
    tokenizer = train_bpe([*texts, *PROBES, *tiny.TEXTS], vocab=3000, pattern=pattern)
    encoder = fast_encoder(tokenizer, samples=texts[:3])
    assert [ids.tolist() for ids in encoder.encode_batch(texts)] == tokenizer.encode_batch(texts)


@pytest.mark.slow
@pytest.mark.parametrize("name", ENCODERS)
def test_every_character_of_unicode_is_split_as_by_the_tokenizer(name: str):
    points = [point for point in range(0x110000) if not 0xD800 <= point < 0xE000]
    texts = [f"{c} 12{c}{c}  {c} a{c}\n{c}'s{c}" for c in map(chr, points)]
    together = ["".join(texts[start : start + 64]) for start in range(0, len(texts), 64)]
    fast = [ids.tolist() for ids in ENCODERS[name].encode_batch(together)]
    assert fast == TOKENIZERS[name].encode_batch(together)


@pytest.mark.parametrize("text", [" " * 1_200_000, "x" + "\n" * 700_000, "a" * 600_000])
def test_huge_gaps_and_words_are_encoded_too(text: str):
    # More than a million spaces overflow the stack of tiktoken's regular expressions.
    assert ENCODERS["llama3"].encode(text).tolist() == tiny.tokenizer().encode(text)


def test_half_of_a_surrogate_pair_is_refused_as_by_the_tokenizer():
    with pytest.raises(TokenizerError, match="half of a surrogate pair"):
        ENCODERS["llama3"].encode("a\ud800")


def test_bytes_without_a_token_go_the_slow_way():
    def forget_a_letter(layout: dict[str, Any]) -> None:
        del layout["model"]["vocab"]["Q"]
        layout["model"]["merges"] = []

    tokenizer = changed(forget_a_letter)
    encoder = fast_encoder(tokenizer)
    for text in ("a Queen", "queen"):
        assert encoder.encode(text).tolist() == tokenizer.encode(text)


def test_added_tokens_are_found_where_the_tokenizer_finds_them():
    def add(layout: dict[str, Any]) -> None:
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
        for number, text in enumerate(("木匠", "木", "<x>"), 384):
            layout["added_tokens"].append({"id": number, "content": text, **flags})

    tokenizer = changed(add)
    encoder = fast_encoder(tokenizer)
    for text in ("是木匠木<x><x>的", "木匠", "none"):
        assert encoder.encode(text).tolist() == tokenizer.encode(text)
    assert 384 in encoder.encode("木匠")


def swap(layout: dict[str, Any]) -> None:
    merges = layout["model"]["merges"]
    merges[0], merges[-1] = merges[-1], merges[0]


def repeat(layout: dict[str, Any]) -> None:
    """Make `abc` both of `a` and `bc` and of `ab` and `c`."""
    pairs = [["a", "b"], ["b", "c"], ["a", "bc"], ["ab", "c"]]
    layout["model"]["merges"] = pairs
    layout["model"]["vocab"].update({"".join(pair): 1000 + number for number, pair in enumerate(pairs)})


def hide(layout: dict[str, Any]) -> None:
    """Make `abc` of `ab` and `c`, while `bc` is merged first: no text ever reaches it."""
    vocab = layout["model"]["vocab"]
    wanted = [["b", "c"], ["a", "b"], ["ab", "c"]]
    layout["model"]["merges"] = wanted
    vocab.update({"".join(pair): 1000 + number for number, pair in enumerate(wanted)})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (swap, "stands before its parts"),
        (repeat, "two merges make the same token"),
        (hide, "merges cannot reach 1 of its tokens, such as 'abc'"),
        (lambda layout: layout.update(normalizer={"type": "NFC"}), r"normalises text \(NFC\)"),
        (lambda layout: layout["model"].update(dropout=0.1), "has a dropout"),
        (lambda layout: layout.update(pre_tokenizer={"type": "Whitespace"}), "not split into bytes"),
        (
            lambda layout: layout["pre_tokenizer"]["pretokenizers"][0].update(pattern={"Regex": r"\p{L}+"}),
            None,
        ),
        (
            lambda layout: layout["pre_tokenizer"]["pretokenizers"][0].update(behavior="Removed"),
            "its split is not known",
        ),
    ],
)
def test_what_could_differ_is_refused_with_the_reason(change: Any, reason: str | None):
    tokenizer = changed(change)
    if reason is None:  # a pattern that passes over some text: `tokenizers` keeps it, tiktoken would lose it
        encoder = fast_encoder(tokenizer)
        assert encoder.encode("a 12 b!").tolist() == tokenizer.encode("a 12 b!")
        return
    with pytest.raises(NotConvertible, match=reason):
        fast_encoder(tokenizer)


def test_other_kinds_are_refused():
    for kind in ("bpe", "unigram", "words"):
        with pytest.raises(NotConvertible):
            fast_encoder(train(tiny.TEXTS, kind=kind, vocab=300))


def test_a_difference_on_a_sample_is_noticed(monkeypatch: pytest.MonkeyPatch):
    plain = FastEncoder.encode
    monkeypatch.setattr(
        FastEncoder, "encode", lambda self, text: plain(self, text)[: -1 if text == "sample" else None]
    )
    with pytest.raises(NotConvertible, match="other ids on 'sample'"):
        fast_encoder(tiny.tokenizer(), samples=["fine", "sample"])


def test_byte_signs_are_those_of_the_library():
    assert sorted(byte_signs()) == sorted(pre_tokenizers.ByteLevel.alphabet())
    assert byte_signs()[ord("A")] == "A"
    assert byte_signs()[ord(" ")] == "Ġ"


def test_an_old_vocabulary_file_with_merges_as_strings_is_read():
    def old(layout: dict[str, Any]) -> None:
        layout["model"]["merges"] = [" ".join(pair) for pair in layout["model"]["merges"]]

    assert fast_encoder(changed(old)).encode("the tools").tolist() == tiny.tokenizer().encode("the tools")
