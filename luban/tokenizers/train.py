"""A byte-level BPE vocabulary learnt from text, in a form that other tools read and export.

The split patterns are exactly GPT-2's and LLaMA-3's, because converters recognise a tokenizer by them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from luban.errors import DataError, TokenizerError
from luban.tokenizers.chat import CHATML
from luban.tokenizers.files import FileTokenizer

Pattern = Literal["llama3", "gpt2"]

END_OF_TEXT = "<|endoftext|>"
SPECIAL_TOKENS = (END_OF_TEXT, "<|im_start|>", "<|im_end|>")
"""`<|endoftext|>` parts raw documents (bos, eos and padding); the others begin and end a turn of a chat."""

# Source: tokenizer.json of Llama 3 (Meta 2024), after tiktoken's cl100k: digits in threes, a word takes one sign.
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BYTES = 256


def train_bpe(
    texts: Iterable[str],
    *,
    vocab: int,
    pattern: Pattern = "llama3",
    special_tokens: Sequence[str] = SPECIAL_TOKENS,
    min_frequency: int = 2,
    chat_template: str | None = CHATML,
) -> FileTokenizer:
    """A tokenizer of at most `vocab` ids: specials first, then 256 bytes, then merges in order of frequency.

    Fewer ids come out when no pair occurs `min_frequency` times any more. The same texts give the same
    tokenizer. `special_tokens[0]` ends documents. Raises TokenizerError if `vocab` cannot hold the bytes and
    specials, DataError if there is no text.
    """
    least = BYTES + len(special_tokens)
    if vocab < least:
        reason = f"{BYTES} bytes and {len(special_tokens)} special tokens need at least {least}"
        raise TokenizerError(f"a vocabulary of {vocab} is too small: {reason}")
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        min_frequency=min_frequency,
        special_tokens=list(special_tokens),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend = byte_level(models.BPE(), pattern)
    backend.train_from_iterator(_nonempty(texts), trainer)
    end = special_tokens[0] if special_tokens else None
    settings = {"bos_token": end, "eos_token": end, "pad_token": end}
    return FileTokenizer(backend, settings=settings, chat_template=chat_template)


def byte_level(model: models.BPE, pattern: Pattern) -> tokenizers.Tokenizer:
    """`model` behind the split of `pattern`, on bytes; nothing is normalised, so decoding is exact."""
    backend = tokenizers.Tokenizer(model)
    if pattern == "gpt2":
        split = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    else:
        words = pre_tokenizers.Split(tokenizers.Regex(LLAMA3_SPLIT), behavior="isolated", invert=False)
        split = pre_tokenizers.Sequence(
            [words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
    backend.pre_tokenizer = split
    backend.decoder = decoders.ByteLevel()
    return backend


def _nonempty(texts: Iterable[str]) -> Iterator[str]:
    empty = True
    for text in texts:
        empty = empty and not text.strip()
        yield text
    if empty:
        raise DataError("no text to learn a vocabulary from", hint="check the path and the text key")
