"""Tiny real objects for tests: a tokenizer, models, documents. Nothing here is a mock."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from luban.models.bert import Bert
    from luban.models.bloom import Bloom
    from luban.models.gpt2 import GPT2
    from luban.models.llama import Llama
    from luban.models.mamba import Mamba
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


def bert(**changes: Any) -> Bert:
    """A two-layer BERT with both heads of pretraining, over 384 ids; seed before calling."""
    from luban.models.bert import Bert, BertConfig

    numbers: dict[str, Any] = {"vocab": 384, "dim": 32, "layers": 2, "heads": 4, "context": 64}
    return Bert(BertConfig(**(numbers | changes)))


def bloom(**changes: Any) -> Bloom:
    """A two-layer BLOOM over the tiny tokenizer's ids; seed before calling."""
    from luban.models.bloom import Bloom, BloomConfig

    numbers: dict[str, Any] = {"vocab": 384, "dim": 32, "layers": 2, "heads": 4}
    return Bloom(BloomConfig(**(numbers | changes)))


def mamba(**changes: Any) -> Mamba:
    """A two-layer Mamba over the tiny tokenizer's ids; seed before calling."""
    from luban.models.mamba import Mamba, MambaConfig

    numbers: dict[str, Any] = {"vocab": 384, "dim": 32, "layers": 2, "context": 64}
    return Mamba(MambaConfig(**(numbers | changes)))


VENDOR_CHATML = (
    "{% for message in messages %}"
    "{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are helpful<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""What most published chat models ship: no generation blocks, a system turn of its own."""


def tokenizer_with(template: str | None, **settings: Any) -> FileTokenizer:
    """The tiny tokenizer's vocabulary with another chat template and other settings."""
    import tokenizers

    from luban.tokenizers.files import FileTokenizer

    backend = tokenizers.Tokenizer.from_str(tokenizer().to_json())
    roles = dict.fromkeys(("bos_token", "eos_token", "pad_token"), "<|endoftext|>")
    return FileTokenizer(backend, settings=roles | settings, chat_template=template)


def sentencepiece_like() -> FileTokenizer:
    """A character vocabulary that puts a space before a text's first word, as LLaMA-2's does."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers

    from luban.tokenizers.files import FileTokenizer

    words = ["<s>", "</s>", "<unk>", *sorted(set("▁Helo wrd,aginbc[]INST/")), *map(chr, range(97, 123))]
    vocab = {word: number for number, word in enumerate(dict.fromkeys(words))}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.decoder = decoders.Metaspace(prepend_scheme="first", split=False)
    roles = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    template = (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
        "{% else %}{{ m.content + eos_token }}{% endif %}{% endfor %}"
    )
    return FileTokenizer(backend, settings=roles, chat_template=template)


def with_bos(template: str) -> FileTokenizer:
    """The tiny vocabulary, its post-processor putting a bos before plain text, as LLaMA-3's does."""
    import tokenizers
    from tokenizers import processors

    from luban.tokenizers.files import FileTokenizer

    backend = tokenizers.Tokenizer.from_str(tokenizer().to_json())
    backend.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)]
    )
    roles = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
    return FileTokenizer(backend, settings=roles, chat_template=template)
