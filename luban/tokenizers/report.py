"""What a vocabulary does to text, in figures: how much of it a token holds, what gets lost, what is never used.

`measure` reads texts once; the same figures serve one tokenizer (`luban tokenizer train`) and several beside one
another (`luban tokenizer compare`).
"""

from __future__ import annotations

import html
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from luban.tokenizers.files import FileTokenizer

LONGEST = 10
BATCH = 256
WORD = re.compile(r"[㐀-䶿一-鿿豈-﫿𠀀-𳑯]|(?:(?![㐀-䶿一-鿿豈-﫿𠀀-𳑯])[^\W_])+")
"""A run of letters and digits; Chinese characters, which no space parts, count one by one."""
SPELLINGS = {
    "digits": ("1234567", "2024-11-22", "3.14159"),
    "spaces": ("a b", "    return x", "a  b", "\tx", "a\n\nb"),
    "letters": ("don't", "HELLO", "naïve", "鲁班造锯", "🙂"),
}


@dataclass(frozen=True)
class Sample:
    """A text to measure on, and what is known of it."""

    text: str
    source: str
    language: str


@dataclass
class Sums:
    """What is added up over texts."""

    documents: int = 0
    bytes: int = 0
    words: int = 0
    tokens: int = 0
    unknown: int = 0
    changed: int = 0
    """Documents that decoding does not give back."""

    def figures(self) -> dict[str, Any]:
        """Sums and ratios under readable names."""
        return {
            "documents": self.documents,
            "bytes": self.bytes,
            "tokens": self.tokens,
            "bytes_per_token": round(self.bytes / max(self.tokens, 1), 3),
            "tokens_per_word": round(self.tokens / max(self.words, 1), 3),
            "unknown_rate": round(self.unknown / max(self.tokens, 1), 6),
            "changed": self.changed,
        }


@dataclass
class Measured:
    """Figures of one tokenizer on some texts."""

    all: Sums = field(default_factory=Sums)
    by_language: dict[str, Sums] = field(default_factory=dict)
    by_source: dict[str, Sums] = field(default_factory=dict)
    uses: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """How often each id occurred."""
    seconds: float = 0.0
    """Spent on encoding."""

    def figures(self) -> dict[str, Any]:
        """All figures as plain values; groups with the most bytes first."""
        return {
            **self.all.figures(),
            "by_language": _figures(self.by_language),
            "by_source": _figures(self.by_source),
            "vocabulary_use": vocabulary_use(self.uses),
        }


def measure(tokenizer: FileTokenizer, samples: Iterable[Sample]) -> Measured:
    """Encode and decode `samples`, and count."""
    made = Measured(uses=np.zeros(tokenizer.vocab_size, np.int64))
    batch: list[Sample] = []
    for sample in samples:
        batch.append(sample)
        if len(batch) == BATCH:
            _measure_batch(tokenizer, batch, made)
            batch = []
    _measure_batch(tokenizer, batch, made)
    return made


def vocabulary_use(uses: np.ndarray) -> dict[str, Any]:
    """How many ids occur, how many only once, and how many of the most frequent make up 90 % of the tokens."""
    total = np.cumsum(np.sort(uses)[::-1])
    return {
        "ids": len(uses),
        "used": int((uses > 0).sum()),
        "once": int((uses == 1).sum()),
        "for_90_percent": int(np.searchsorted(total, 0.9 * total[-1])) + 1 if len(uses) and uses.any() else 0,
    }


def longest_tokens(tokenizer: FileTokenizer) -> list[str]:
    """The tokens of most characters, special ones left out: they tell what the text repeats."""
    return sorted(_texts(tokenizer), key=lambda text: (-len(text), text))[:LONGEST]


def digits_and_spaces(tokenizer: FileTokenizer) -> dict[str, int]:
    """How many digits, and how many spaces, the longest token made of nothing else holds."""
    texts = _texts(tokenizer)
    return {
        "longest_digits": max((len(text) for text in texts if text.strip().isdecimal()), default=0),
        "longest_spaces": max((len(text) for text in texts if text and not text.strip(" ")), default=0),
    }


def spellings(tokenizer: FileTokenizer) -> dict[str, dict[str, list[str]]]:
    """How the tokenizer cuts some telling texts; a piece that is no whole character shows as U+FFFD."""

    def cut(text: str) -> list[str]:
        return [tokenizer.decode([number], skip_special=False) for number in tokenizer.encode(text)]

    return {kind: {text: cut(text) for text in texts} for kind, texts in SPELLINGS.items()}


def page(title: str, tables: Mapping[str, Sequence[Sequence[object]]]) -> str:
    """A self-contained HTML page of tables; the first row of each is its head."""
    parts = [f"<!doctype html><meta charset=utf-8><title>{html.escape(title)}</title>", STYLE]
    parts.append(f"<h1>{html.escape(title)}</h1>")
    for name, (head, *rows) in tables.items():
        parts.append(f"<h2>{html.escape(name)}</h2><table><tr>{_cells('th', head)}</tr>")
        parts += [f"<tr>{_cells('td', row)}</tr>" for row in rows]
        parts.append("</table>")
    return "\n".join(parts) + "\n"


STYLE = """<style>
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { border-bottom: 1px solid #8886; padding: .2rem .8rem; text-align: right; white-space: pre }
th:first-child, td:first-child { text-align: left }
</style>"""


def _measure_batch(tokenizer: FileTokenizer, batch: Sequence[Sample], made: Measured) -> None:
    started = time.perf_counter()
    encoded = tokenizer.encode_batch([sample.text for sample in batch])
    made.seconds += time.perf_counter() - started
    for sample, ids in zip(batch, encoded, strict=True):
        made.uses += np.bincount(ids, minlength=len(made.uses)) if ids else 0
        counted = {
            "documents": 1,
            "bytes": len(sample.text.encode("utf-8")),
            "words": len(WORD.findall(sample.text)),
            "tokens": len(ids),
            "unknown": 0 if tokenizer.unk_id is None else ids.count(tokenizer.unk_id),
            "changed": int(tokenizer.decode(ids) != sample.text),
        }
        languages = made.by_language.setdefault(sample.language, Sums())
        for sums in (made.all, languages, made.by_source.setdefault(sample.source, Sums())):
            _add(sums, counted)


def _add(sums: Sums, counted: Mapping[str, int]) -> None:
    for name, value in counted.items():
        setattr(sums, name, getattr(sums, name) + value)


def _figures(groups: Mapping[str, Sums]) -> dict[str, Any]:
    ordered = sorted(groups.items(), key=lambda item: (-item[1].bytes, item[0]))
    return {name: sums.figures() for name, sums in ordered}


def _texts(tokenizer: FileTokenizer) -> set[str]:
    """The distinct texts of single tokens."""
    return {tokenizer.decode([number]) for number in range(tokenizer.vocab_size)}


def _cells(tag: str, row: Sequence[object]) -> str:
    return "".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in row)
