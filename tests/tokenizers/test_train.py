import pytest
import tiktoken
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from luban.errors import DataError, TokenizerError
from luban.tokenizers.train import LLAMA3_SPLIT, SPECIAL_TOKENS, Pattern, train_bpe
from tests import tiny

MIXED = [
    "It's 12345 o'clock;  well,\n\n\tI'LL go.   \r\n",
    "鲁班造锯：木匠的祖师，２０２４年。",
    "def f(x):\n    return x**2  # 注释 👨‍👩‍👧",
    "العربية हिन्दी ไทย e\u0301 \u00a0\u3000x",
]


def test_ids_are_specials_then_bytes_then_merges():
    tokenizer = train_bpe(["ab ab ab"], vocab=261)
    assert tokenizer.special_tokens == {"<|endoftext|>": 0, "<|im_start|>": 1, "<|im_end|>": 2}
    assert tokenizer.vocab_size == 261
    singles = tokenizer.encode_batch([chr(number) for number in range(128)])
    assert all(len(ids) == 1 and 3 <= ids[0] < 259 for ids in singles)
    # "ab" occurs three times and " ab" twice, so these are the two merges, in this order.
    assert tokenizer.encode("ab ab") == [259, 260]


def test_documents_end_with_one_token_and_answers_with_another():
    tokenizer = tiny.tokenizer()
    assert tokenizer.eos_id == tokenizer.bos_id == tokenizer.pad_id == 0
    assert tokenizer.stop_ids == (0, 2)


def test_the_same_texts_give_the_same_tokenizer():
    first, second = (train_bpe(tiny.TEXTS, vocab=330).to_json() for _ in range(2))
    assert first == second


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("llama3", ["It", "'s", "Ġ", "123", "45", "Ġx", "ĊĊ", "ĠĠ", "Ġ(", "you", ")"]),
        ("gpt2", ["It", "'s", "Ġ12345", "Ġx", "ĊĊĠĠ", "Ġ(", "you", ")"]),
    ],
)
def test_text_is_split_as_the_published_patterns_do(pattern: Pattern, expected: list[str]):
    backend = tokenizers.Tokenizer.from_str(train_bpe(["x"], vocab=300, pattern=pattern).to_json())
    assert backend.pre_tokenizer is not None
    pieces = [piece for piece, _ in backend.pre_tokenizer.pre_tokenize_str("It's 12345 x\n\n   (you)")]
    assert pieces == expected


def test_too_small_a_vocabulary_is_refused_with_the_least_possible():
    with pytest.raises(TokenizerError, match=r"258 is too small.*at least 259"):
        train_bpe(["text"], vocab=258)
    assert train_bpe(["text"], vocab=259).vocab_size == 259


@pytest.mark.parametrize("texts", [[], ["", " \n"]])
def test_an_empty_corpus_is_refused(texts: list[str]):
    with pytest.raises(DataError, match="no text"):
        train_bpe(texts, vocab=300)


def test_rare_pairs_are_not_merged():
    assert train_bpe(["abc abc xyz"], vocab=300, min_frequency=3).vocab_size == 259


@settings(max_examples=60, deadline=None)
@given(st.text())
def test_decode_of_encode_is_identity(text: str):
    tokenizer = tiny.tokenizer()
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("text", [*tiny.TEXTS[:5], *MIXED, *SPECIAL_TOKENS])
def test_decode_of_encode_is_identity_on_real_text(text: str):
    for pattern in ("llama3", "gpt2"):
        tokenizer = train_bpe(tiny.TEXTS + MIXED, vocab=500, pattern=pattern)
        assert tokenizer.decode(tokenizer.encode(text)) == text


def as_tiktoken() -> tiktoken.Encoding:
    """The tiny vocabulary run by another library."""
    layout = tokenizers.Tokenizer.from_str(tiny.tokenizer().to_json())
    bytes_of = {sign: byte for byte, sign in gpt2_byte_signs().items()}
    ranks = {
        bytes(bytes_of[sign] for sign in token): number
        for token, number in layout.get_vocab(with_added_tokens=False).items()
        if token not in SPECIAL_TOKENS
    }
    return tiktoken.Encoding("tiny", pat_str=LLAMA3_SPLIT, mergeable_ranks=ranks, special_tokens={})


def gpt2_byte_signs() -> dict[int, str]:
    """GPT-2's printable sign for each byte: itself where printable, else the next free one from U+0100."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}


ORACLE = as_tiktoken()


@settings(max_examples=100, deadline=None)
@given(st.text() | st.sampled_from(tiny.TEXTS + MIXED))
def test_ids_equal_those_of_tiktoken_with_the_same_merges(text: str):
    assert tiny.tokenizer().encode(text) == ORACLE.encode_ordinary(text)
