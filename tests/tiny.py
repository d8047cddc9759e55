"""Tiny real objects for tests: a tokenizer, models, documents. Nothing here is a mock."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from luban.models.gpt2 import GPT2
    from luban.models.llama import Llama
    from luban.tokenizers.files import FileTokenizer

TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "In the beginning the builder made his own tools, and the tools were good.",
    "鲁班是中国古代的木匠，他自己做工具。",
    "What is the capital of France? The capital of France is Paris.",
    "numbers: 1 23 456 7890; tabs\tand\nnew lines — and émigré café 🙂",
] * 4


@functools.cache
def tokenizer() -> FileTokenizer:
    """A byte-level BPE tokenizer of 384 ids with the house's chat template."""
    from luban.tokenizers.train import train_bpe

    return train_bpe(TEXTS, vocab=384)


def llama(**changes: Any) -> Llama:
    """A two-layer LLaMA with grouped heads over the tiny tokenizer's ids; seed before calling."""
    from luban.models.llama import Llama, LlamaConfig

    numbers: dict[str, Any] = {
        "vocab": 384,
        "dim": 32,
        "layers": 2,
        "heads": 4,
        "kv_heads": 2,
        "hidden": 48,
        "context": 64,
    }
    return Llama(LlamaConfig(**(numbers | changes)))


def gpt2(**changes: Any) -> GPT2:
    """A two-layer GPT-2 over the tiny tokenizer's ids; seed before calling."""
    from luban.models.gpt2 import GPT2, GPT2Config

    numbers: dict[str, Any] = {"vocab": 384, "dim": 32, "layers": 2, "heads": 4, "context": 64}
    return GPT2(GPT2Config(**(numbers | changes)))
