"""A vocabulary learnt from text, of any kind, in a form that other tools read and export.

The split patterns are exactly GPT-2's and LLaMA-3's, because converters recognise a tokenizer by them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import tokenizers
from tokenizers import AddedToken, models, pre_tokenizers

from luban.errors import DataError, TokenizerError
from luban.tokenizers.files import FileTokenizer
from luban.tokenizers.kinds import (
    BYTES,
    KINDS,
    LLAMA3_SPLIT,
    MASK,
    SPECIAL_TOKENS,
    UNKNOWN,
    Kind,
    Pattern,
    Setup,
    byte_level,
)

FIRST_SIGN = 0xF0000
"""Private use from here on: room for 131,072 letters."""
AT_ONCE = 1000

__all__ = ["LLAMA3_SPLIT", "SPECIAL_TOKENS", "Kind", "Pattern", "byte_level", "train", "train_bpe"]


def train_bpe(
    texts: Iterable[str], *, vocab: int, pattern: Pattern = "llama3", min_frequency: int = 2
) -> FileTokenizer:
    """`train` of the kind that most models have: byte-level BPE, with special tokens for chats."""
    return train(texts, kind="byte_bpe", vocab=vocab, pattern=pattern, min_frequency=min_frequency)


def train(
    texts: Iterable[str],
    *,
    kind: Kind,
    vocab: int,
    pattern: Pattern = "llama3",
    min_frequency: int = 2,
    special_tokens: Sequence[str] = (),
) -> FileTokenizer:
    """A tokenizer of at most `vocab` ids: specials first, then single symbols, then what was learnt.

    More `special_tokens` come last; `<mask>` among them is the mask. Fewer ids come out when nothing occurs
    `min_frequency` times any more. The same texts give the same tokenizer; only `unigram` scores, sums over a hash
    table's order, differ by 0.0001 or so. Raises TokenizerError if `vocab` cannot hold symbols and specials,
    DataError if there is no text.
    """
    added = list(dict.fromkeys(special_tokens))
    setup = KINDS[kind](max(0, vocab - len(added)), pattern, min_frequency)
    _check_room(vocab, kind, specials=len(setup.special_tokens) + len(added))
    stream = _nonempty(texts)
    if setup.letters_inside:
        setup.backend.model = _learn_wordpiece(setup, stream)
    else:
        _learn(setup, stream)
    setup.backend.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in added])
    roles = {**setup.roles, **({"mask_token": MASK} if MASK in added else {})}
    return FileTokenizer(setup.backend, settings=roles, chat_template=setup.chat_template)


def _learn(setup: Setup, texts: Iterable[str]) -> None:
    try:
        setup.backend.train_from_iterator(texts, setup.trainer)
    except Exception as error:
        if "not large enough" not in str(error):
            raise
        raise TokenizerError(
            "the vocabulary is too small: not every character of the text finds room in it",
            hint="a larger --vocab, or --type byte_bpe, which needs 259",
        ) from None


def _learn_wordpiece(setup: Setup, texts: Iterable[str]) -> models.WordPiece:
    """BERT's pieces by the trainer of BPE, letters inside words being signs of their own until the end.

    The library's own trainer does the same, but numbers the inner letters in a hash table's order, and with it
    breaks ties.
    """
    words: Counter[str] = Counter()
    for text in texts:
        normal = setup.backend.normalizer.normalize_str(text)
        words.update(word for word, _ in setup.backend.pre_tokenizer.pre_tokenize_str(normal))
    letters = sorted({letter for word in words for letter in word[1:]})
    inside = {ord(letter): chr(FIRST_SIGN + number) for number, letter in enumerate(letters)}
    letter_of = {sign: chr(point) for point, sign in inside.items()}
    learner = tokenizers.Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    marked = ((word[0] + word[1:].translate(inside), count) for word, count in words.items())
    repeated = (
        " ".join([word] * min(AT_ONCE, count - done))
        for word, count in marked
        if word[0] < chr(FIRST_SIGN)
        for done in range(0, count, AT_ONCE)
    )
    learner.train_from_iterator(repeated, setup.trainer)
    vocab = {
        ("##" if piece[0] in letter_of else "") + "".join(letter_of.get(sign, sign) for sign in piece): number
        for piece, number in learner.get_vocab().items()
    }
    return models.WordPiece(vocab=vocab, unk_token=UNKNOWN)


def _check_room(vocab: int, kind: Kind, *, specials: int) -> None:
    symbols = BYTES if kind == "byte_bpe" else 0
    least = symbols + specials
    if vocab < least:
        have = f"{symbols} bytes and {specials}" if symbols else str(specials)
        reason = f"{have} special tokens need at least {least}"
        raise TokenizerError(f"a vocabulary of {vocab} is too small: {reason}")


def _nonempty(texts: Iterable[str]) -> Iterator[str]:
    empty = True
    for text in texts:
        empty = empty and not text.strip()
        yield text
    if empty:
        raise DataError("no text to learn a vocabulary from", hint="check the path and the text key")
