"""`luban tokenizer train`: documents to a vocabulary, the first model of the text."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge

from luban.data.document import Document
from luban.errors import ConfigError
from luban.folder import stage_folder, write_json, write_text

if TYPE_CHECKING:
    from luban.tokenizers.files import FileTokenizer
    from luban.tokenizers.report import Sample

GROUP_BYTES = 1_000_000
GROUPS = 100
MANY = 12
DEFAULT_PATTERN, DEFAULT_FREQUENCY = "llama3", 2


@dataclass(frozen=True, kw_only=True)
class Config:
    """Learn a vocabulary from documents; byte-level BPE unless told otherwise."""

    POSITIONAL: ClassVar[str] = "data"

    data: tuple[Path, ...]
    """Documents folders (their held-out part is left out) or files."""
    out: Path
    """The tokenizer folder to make."""
    type: Literal["byte_bpe", "bpe", "unigram", "wordpiece", "words"] = "byte_bpe"
    """What to learn: byte_bpe (as GPT-2, Llama 3), bpe and unigram over characters, wordpiece (as BERT), words."""
    vocab: Annotated[int, Ge(1)] = 8192
    """How many ids: special tokens, single symbols, what was learnt. Longer tokens against more parameters."""
    pattern: Literal["llama3", "gpt2"] = DEFAULT_PATTERN
    """How text is split before merging, as in these models; wordpiece and words have their own way."""
    min_frequency: Annotated[int, Ge(1)] = DEFAULT_FREQUENCY
    """Learn only what occurs this often; unigram has no such threshold."""
    special_tokens: tuple[str, ...] = ()
    """More special tokens, behind all others: `<mask>` for what is hidden from BART."""
    sentinels: Annotated[int, Ge(0)] = 0
    """T5's special tokens for missing spans, `<extra_id_0>` and so on; rows of 256 tokens take 14 of them."""
    max_bytes: Annotated[int, Ge(0)] = 200_000_000
    """Learn from the first documents up to this many bytes of text; 0 takes all."""

    def __post_init__(self) -> None:
        if self.type in ("wordpiece", "words") and self.pattern != DEFAULT_PATTERN:
            raise ConfigError(
                f"setting 'pattern' is {self.pattern!r}, but '{self.type}' splits by its own rule"
            )
        if self.type == "unigram" and self.min_frequency != DEFAULT_FREQUENCY:
            raise ConfigError(
                f"setting 'min_frequency' is {self.min_frequency}, but 'unigram' has no such threshold"
            )


def run(config: Config) -> dict[str, Any]:
    """Make the tokenizer folder with `report.json` and `report.html`; returns the report."""
    from luban.data.progress import announce
    from luban.data.sources import read_documents
    from luban.tokenizers.kinds import SENTINEL
    from luban.tokenizers.train import train

    stage = "tokenizer train"
    started = time.monotonic()
    with stage_folder(config.out, stage=stage, config=config, inputs=config.data) as (folder, metrics):
        stream = announce(read_documents(config.data), stage=stage, noun="documents")
        used = Capped(stream, config.max_bytes)
        tokenizer = train(
            used,
            kind=config.type,
            vocab=config.vocab,
            pattern=config.pattern,
            min_frequency=config.min_frequency,
            special_tokens=(*config.special_tokens, *map(SENTINEL.format, range(config.sentinels))),
        )
        tokenizer.save(folder)
        results = {
            "type": config.type,
            "vocab": tokenizer.vocab_size,
            "vocab_asked": config.vocab,
            "documents": used.texts,
            "bytes": used.bytes,
            "capped": used.capped,
            **report(tokenizer, used.samples),
        }
        write_json(folder / "report.json", results)
        write_text(folder / "report.html", _page(results))
        metrics.update(results, seconds=round(time.monotonic() - started, 2))
    _warn(metrics)
    return metrics


def report(tokenizer: FileTokenizer, samples: Iterable[Sample]) -> dict[str, Any]:
    """Figures on `samples`, and what the vocabulary itself shows."""
    from luban.tokenizers.report import digits_and_spaces, longest_tokens, measure, spellings

    figures = measure(tokenizer, samples).figures()
    return {
        "sample_documents": figures.pop("documents"),
        "sample_bytes": figures.pop("bytes"),
        "sample_tokens": figures.pop("tokens"),
        **figures,
        "longest": longest_tokens(tokenizer),
        **digits_and_spaces(tokenizer),
        "spellings": spellings(tokenizer),
    }


def show(results: dict[str, Any]) -> None:
    """The report as a short page."""
    capped = " (the first ones: max_bytes reached)" if results["capped"] else ""
    use = results["vocabulary_use"]
    lost = f"{results['unknown_rate']:.3%} of the tokens, {results['changed']:,} documents not given back"
    print(
        f"vocabulary       {results['vocab']:,} ids of {results['vocab_asked']:,} asked for ({results['type']})"
    )
    print(f"learnt from      {results['documents']:,} documents, {results['bytes']:,} bytes{capped}")
    print(f"bytes per token  {results['bytes_per_token']} on a sample of {results['sample_bytes']:,} bytes")
    print(f"tokens per word  {results['tokens_per_word']}")
    print(f"unknown          {lost}")
    print(
        f"used             {use['used']:,} of {use['ids']:,} ids; {use['for_90_percent']:,} make 90 % of it"
    )
    print(f"longest tokens   {' '.join(map(repr, results['longest']))}")
    print(
        f"digits, spaces   up to {results['longest_digits']} digits and {results['longest_spaces']} spaces a token"
    )
    for kind in ("language", "source"):
        groups = results[f"by_{kind}"]
        for name, figures in list(groups.items())[:MANY] if len(groups) > 1 else ():
            ratio, unknown = figures["bytes_per_token"], figures["unknown_rate"]
            print(f"{kind:<16} {name:<24} {ratio:>6} bytes per token, {unknown:.3%} unknown")
        if len(groups) > MANY:
            print(f"{kind:<16} {len(groups) - MANY} more in report.html")
    print(f"seconds          {results['seconds']}")


class Capped:
    """The texts up to `limit` bytes of UTF-8 (0: no limit), the last one whole; counts what went by.

    `samples` are the first texts of each source in each language, up to GROUP_BYTES for one pair, GROUPS pairs.
    """

    def __init__(self, documents: Iterable[Document], limit: int) -> None:
        self._documents, self._limit = documents, limit
        self._sampled: Counter[tuple[str, str]] = Counter()
        self.samples: list[Sample] = []
        self.texts = self.bytes = 0
        self.capped = False

    def __iter__(self) -> Iterator[str]:
        """The texts to learn from."""
        for made, size in self._counted():
            self._keep(made, size)
            yield made.text

    def samples_of_all(self) -> Iterator[Sample]:
        """The same documents, each as a sample."""
        return (made for made, _ in self._counted())

    def _counted(self) -> Iterator[tuple[Sample, int]]:
        from luban.tokenizers.report import Sample

        for document in self._documents:
            if self._limit and self.bytes >= self._limit:
                self.capped = True
                return
            size = len(document.text.encode("utf-8", "surrogatepass"))
            self.texts += 1
            self.bytes += size
            language = str(document.meta.get("language", "unknown"))
            yield Sample(document.text, document.source, language), size

    def _keep(self, made: Sample, size: int) -> None:
        group = (made.source, made.language)
        known = group in self._sampled or len(self._sampled) < GROUPS
        if known and self._sampled[group] < GROUP_BYTES:
            self._sampled[group] += size
            self.samples.append(made)


def _page(results: dict[str, Any]) -> str:
    from luban.tokenizers.report import page

    def table(groups: dict[str, Any]) -> list[list[object]]:
        names = list(next(iter(groups.values()), {}))
        return [["", *names], *([group, *figures.values()] for group, figures in groups.items())]

    plain = [[name, value] for name, value in results.items() if isinstance(value, int | float | str)]
    cuts = [
        [kind, repr(text), " ".join(map(repr, pieces))]
        for kind, texts in results["spellings"].items()
        for text, pieces in texts.items()
    ]
    return page(
        "Vocabulary",
        {
            "Figures": [["", ""], *plain, *results["vocabulary_use"].items()],
            "By language": table(results["by_language"]),
            "By source": table(results["by_source"]),
            "Longest tokens": [["token", "characters"], *([repr(t), len(t)] for t in results["longest"])],
            "How it cuts": [["", "text", "tokens"], *cuts],
        },
    )


def _warn(metrics: dict[str, Any]) -> None:
    if metrics["vocab"] < metrics["vocab_asked"]:
        short = (
            f"only {metrics['vocab']:,} of {metrics['vocab_asked']:,} ids: nothing else is frequent enough"
        )
        print(f"tokenizer train: {short} in {metrics['bytes']:,} bytes", file=sys.stderr)
