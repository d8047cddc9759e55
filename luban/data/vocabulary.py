"""`luban tokenizer train`: documents to a byte-level BPE vocabulary, the first model of the text."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge

from luban.folder import stage_folder

SAMPLE_BYTES = 1_000_000
LONGEST = 10


@dataclass(frozen=True, kw_only=True)
class Config:
    """Learn a byte-level BPE vocabulary from documents."""

    POSITIONAL: ClassVar[str] = "data"

    data: tuple[Path, ...]
    """Documents folders (their held-out part is left out) or files."""
    out: Path
    """The tokenizer folder to make."""
    vocab: Annotated[int, Ge(1)] = 8192
    """How many ids: special tokens, 256 bytes, and merges. Longer tokens against more parameters."""
    pattern: Literal["llama3", "gpt2"] = "llama3"
    """How text is split before merging, as in these models; exporters know both."""
    min_frequency: Annotated[int, Ge(1)] = 2
    """Merge only pairs that occur this often."""
    max_bytes: Annotated[int, Ge(0)] = 200_000_000
    """Learn from the first documents up to this many bytes of text; 0 takes all."""


def run(config: Config) -> dict[str, Any]:
    """Make the tokenizer folder; returns its size, how many bytes of text a token holds, its longest tokens."""
    from luban.data.progress import announce
    from luban.data.sources import read_documents
    from luban.tokenizers.train import train_bpe

    stage = "tokenizer train"
    started = time.monotonic()
    with stage_folder(config.out, stage=stage, config=config, inputs=config.data) as (folder, metrics):
        texts = (document.text for document in read_documents(config.data))
        used = Capped(announce(texts, stage=stage, noun="documents"), config.max_bytes)
        tokenizer = train_bpe(
            used, vocab=config.vocab, pattern=config.pattern, min_frequency=config.min_frequency
        )
        tokenizer.save(folder)
        sample = Capped((document.text for document in read_documents(config.data)), SAMPLE_BYTES)
        tokens = sum(map(len, tokenizer.encode_batch(list(sample))))
        metrics.update(
            vocab=tokenizer.vocab_size,
            vocab_asked=config.vocab,
            documents=used.texts,
            bytes=used.bytes,
            capped=used.capped,
            sample_bytes=sample.bytes,
            bytes_per_token=round(sample.bytes / tokens, 3),
            longest=longest_tokens(tokenizer),
            seconds=round(time.monotonic() - started, 2),
        )
    _warn(metrics)
    return metrics


def show(results: dict[str, Any]) -> None:
    """The result as a short page."""
    capped = " (the first ones: max_bytes reached)" if results["capped"] else ""
    print(f"vocabulary       {results['vocab']:,} ids of {results['vocab_asked']:,} asked for")
    print(f"learnt from      {results['documents']:,} documents, {results['bytes']:,} bytes{capped}")
    print(f"bytes per token  {results['bytes_per_token']} on a sample of {results['sample_bytes']:,} bytes")
    print(f"longest tokens   {' '.join(map(repr, results['longest']))}")
    print(f"seconds          {results['seconds']}")


class Capped:
    """The texts up to `limit` bytes of UTF-8 (0: no limit), the last one whole; counts what went by."""

    def __init__(self, texts: Iterable[str], limit: int) -> None:
        self._texts, self._limit = texts, limit
        self.texts = self.bytes = 0
        self.capped = False

    def __iter__(self) -> Iterator[str]:
        for text in self._texts:
            if self._limit and self.bytes >= self._limit:
                self.capped = True
                return
            self.texts += 1
            self.bytes += len(text.encode("utf-8", "surrogatepass"))
            yield text


def longest_tokens(tokenizer: Any) -> list[str]:
    """The tokens of most characters, special ones left out: they tell what the text repeats."""
    texts = {tokenizer.decode([number]) for number in range(tokenizer.vocab_size)}
    return list(itertools.islice(sorted(texts, key=lambda text: (-len(text), text)), LONGEST))


def _warn(metrics: dict[str, Any]) -> None:
    if metrics["vocab"] < metrics["vocab_asked"]:
        short = (
            f"only {metrics['vocab']:,} of {metrics['vocab_asked']:,} ids: no other pair is frequent enough"
        )
        print(f"tokenizer train: {short} in {metrics['bytes']:,} bytes", file=sys.stderr)
