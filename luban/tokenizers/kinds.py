"""The five kinds of vocabulary, each with its model, its split of text, its special tokens and its decoder.

`byte_bpe` starts from all 256 bytes and meets nothing unknown. `bpe` and `unigram` work on characters and
keep spaces (as U+2581), so only characters outside their alphabet are lost. `wordpiece` (as in BERT) and `words`
forget where the spaces were: decoding puts them back by rule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers

from luban.tokenizers.chat import CHATML

Kind = Literal["byte_bpe", "bpe", "unigram", "wordpiece", "words"]
Pattern = Literal["llama3", "gpt2"]
SPLITS_BY_PATTERN: tuple[Kind, ...] = ("byte_bpe", "bpe", "unigram")
"""The kinds that a `Pattern` cuts text for; the others have their own rule."""

END_OF_TEXT = "<|endoftext|>"
SPECIAL_TOKENS = (END_OF_TEXT, "<|im_start|>", "<|im_end|>")
"""`<|endoftext|>` parts raw documents (bos, eos and padding); the others begin and end a turn of a chat."""
UNKNOWN = "[UNK]"
BERT_TOKENS = ("[PAD]", UNKNOWN, "[CLS]", "[SEP]", "[MASK]")
WORD_TOKENS = (UNKNOWN, "[BOS]", "[EOS]", END_OF_TEXT)
"""A word that is not in the vocabulary; a text's begin and end; the border between unrelated sources."""
MASK = "<mask>"
"""What stands for hidden text in a vocabulary that is not BERT's (BART)."""
SENTINEL = "<extra_id_{}>"
"""Numbered from 0: what stands for one missing span each (T5)."""
END_ROLES: dict[str, str] = dict.fromkeys(("bos_token", "eos_token", "pad_token"), END_OF_TEXT)

# Source: encoder.py of GPT-2 (Radford et al. 2019); the expression inside `pre_tokenizers.ByteLevel`.
GPT2_SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# Source: tokenizer.json of Llama 3 (Meta 2024), after tiktoken's cl100k: digits in threes, a word takes one sign.
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
HAN = r"\p{Han}"
NO_PREFIX = "\ufffc"
"""Begins no word, so that the decoder of `##` pieces only puts spaces between words and none before a comma."""
BYTES = 256


@dataclass(frozen=True)
class Setup:
    """An untrained tokenizer, what trains it, and what its folder says of it."""

    backend: tokenizers.Tokenizer
    trainer: Any
    special_tokens: tuple[str, ...]
    roles: Mapping[str, str]
    """Roles of special tokens, as in `tokenizer_config.json`."""
    chat_template: str | None = None
    letters_inside: bool = False
    """Whether letters that do not begin a word are other symbols than those that do."""


def byte_level(model: models.BPE, pattern: Pattern) -> tokenizers.Tokenizer:
    """`model` behind the split of `pattern`, on bytes; nothing is normalised, so decoding is exact."""
    backend = tokenizers.Tokenizer(model)
    if pattern == "gpt2":
        split = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    else:
        words = pre_tokenizers.Split(Regex(LLAMA3_SPLIT), behavior="isolated", invert=False)
        split = pre_tokenizers.Sequence(
            [words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
    backend.pre_tokenizer = split
    backend.decoder = decoders.ByteLevel()
    return backend


def byte_bpe(vocab: int, pattern: Pattern, min_frequency: int) -> Setup:
    """BPE over bytes (Radford et al. 2019, GPT-2)."""
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        min_frequency=min_frequency,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    return Setup(byte_level(models.BPE(), pattern), trainer, SPECIAL_TOKENS, END_ROLES, CHATML)


def bpe(vocab: int, pattern: Pattern, min_frequency: int) -> Setup:
    """BPE over characters (Sennrich et al. 2016, arXiv:1508.07909); the rarest characters may find no room."""
    specials = (*SPECIAL_TOKENS, UNKNOWN)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        min_frequency=min_frequency,
        special_tokens=list(specials),
        limit_alphabet=max(vocab - len(specials), 0),
        show_progress=False,
    )
    backend = _with_visible_spaces(models.BPE(unk_token=UNKNOWN), pattern)
    return Setup(backend, trainer, specials, {**END_ROLES, "unk_token": UNKNOWN}, CHATML)


def unigram(vocab: int, pattern: Pattern, min_frequency: int) -> Setup:  # noqa: ARG001 - EM has no such threshold
    """Pieces with probabilities, found by EM and pruning (Kudo 2018, arXiv:1804.10959)."""
    specials = (*SPECIAL_TOKENS, UNKNOWN)
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab, special_tokens=list(specials), unk_token=UNKNOWN, show_progress=False
    )
    backend = _with_visible_spaces(models.Unigram(), pattern)
    return Setup(backend, trainer, specials, {**END_ROLES, "unk_token": UNKNOWN}, CHATML)


def wordpiece(vocab: int, pattern: Pattern, min_frequency: int) -> Setup:  # noqa: ARG001 - BERT's own split
    """BERT's pieces, cased (Schuster and Nakajima 2012, Devlin et al. 2019); a document is [CLS] ... [SEP]."""
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        min_frequency=min_frequency,
        special_tokens=list(BERT_TOKENS),
        limit_alphabet=max(vocab - len(BERT_TOKENS), 0),
        show_progress=False,
    )
    backend = tokenizers.Tokenizer(models.WordPiece(unk_token=UNKNOWN))
    backend.normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    # For other readers of the folder: here whoever needs the marks writes them.
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(mark, BERT_TOKENS.index(mark)) for mark in ("[CLS]", "[SEP]")],
    )
    roles = {"bos_token": "[CLS]", "eos_token": "[SEP]", "pad_token": "[PAD]", "unk_token": UNKNOWN}
    roles |= {"cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    return Setup(backend, trainer, BERT_TOKENS, roles, letters_inside=True)


def words(vocab: int, pattern: Pattern, min_frequency: int) -> Setup:  # noqa: ARG001 - words have their own split
    """Whole words and signs, Chinese characters one by one; any other word is [UNK]."""
    trainer = trainers.WordLevelTrainer(
        vocab_size=vocab, min_frequency=min_frequency, special_tokens=list(WORD_TOKENS), show_progress=False
    )
    backend = tokenizers.Tokenizer(models.WordLevel(unk_token=UNKNOWN))
    split = [pre_tokenizers.Split(Regex(HAN), behavior="isolated"), pre_tokenizers.Whitespace()]
    backend.pre_tokenizer = pre_tokenizers.Sequence(split)
    backend.decoder = decoders.WordPiece(prefix=NO_PREFIX)
    roles = {"bos_token": "[BOS]", "eos_token": "[EOS]", "pad_token": END_OF_TEXT, "unk_token": UNKNOWN}
    return Setup(backend, trainer, WORD_TOKENS, roles)


def _with_visible_spaces(model: Any, pattern: Pattern) -> tokenizers.Tokenizer:
    """`model` behind the split of `pattern`, each space written as U+2581; decoding turns them back."""
    backend = tokenizers.Tokenizer(model)
    split = GPT2_SPLIT if pattern == "gpt2" else LLAMA3_SPLIT
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(split), behavior="isolated"),
            pre_tokenizers.Metaspace(prepend_scheme="never", split=False),
        ]
    )
    backend.decoder = decoders.Metaspace(prepend_scheme="never", split=False)
    return backend


KINDS: Mapping[Kind, Callable[[int, Pattern, int], Setup]] = {
    "byte_bpe": byte_bpe,
    "bpe": bpe,
    "unigram": unigram,
    "wordpiece": wordpiece,
    "words": words,
}
