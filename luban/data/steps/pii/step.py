"""`pii`: personal data goes, typed placeholders or fakes stay. See the package's docstring."""

from __future__ import annotations

import bisect
import itertools
import operator
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from luban.data.step import Batch, Edit, Outcome
from luban.data.steps.pii.candidates import candidates
from luban.data.steps.pii.names import find_names
from luban.data.steps.pii.replacements import Replace, is_fake, replacement
from luban.data.steps.pii.rules import RULES
from luban.data.steps.pii.streets import find_streets
from luban.errors import ConfigError

Kind = Literal[
    "email",
    "phone",
    "ip",
    "card",
    "id_card",
    "ssn",
    "iban",
    "key",
    "credentials",
    "address",
    "person",
    "location",
]
Span = tuple[int, int, str]
"""Start, end, kind."""
RANKED = list(enumerate(RULES))
AT_CANDIDATE = {group: [(rank, rule) for rank, rule in RANKED if group == rule.group] for group in range(6)}


@dataclass(frozen=True, kw_only=True)
class Pii:
    """Replace personal data; counts per kind are told as changes, and nothing is dropped."""

    kinds: tuple[Kind, ...] = ("email", "phone", "ip", "card", "id_card", "ssn", "iban", "key", "credentials")
    """What to replace. `address` is a cheap rule for postal addresses; `person` and `location` need `ner`."""
    replace: Replace = "placeholder"
    """`placeholder`: <EMAIL>, <PHONE>, ...; `fake`: values reserved for examples, as FineWeb has them."""
    ner: str | None = None
    """An installed spaCy model package (en_core_web_sm) for names of people and places; about 1000x slower."""

    def __post_init__(self) -> None:
        named = sorted({"person", "location"} & set(self.kinds))
        if named and not self.ner:
            raise ConfigError(
                f"kinds has {', '.join(named)}, and no model to find them", hint="ner: en_core_web_sm"
            )
        if self.ner and not named:
            raise ConfigError(f"ner is {self.ner}, and kinds has neither person nor location")

    def __call__(self, batch: Batch) -> list[Outcome]:
        """An edit for every document in which something was found."""
        texts = list(batch.texts)
        counts = [Counter[str]() for _ in texts]
        for index, windows in by_text(candidates(batch.packed)):
            content = texts[index].encode()
            spans = find(content, windows)
            texts[index] = self._replace(content, spans, counts[index]).decode()
        if "address" in self.kinds:
            for index, text in enumerate(texts):
                spans = [(*span, "address") for span in find_streets(text)]
                texts[index] = self._replace(text.encode(), _in_bytes(text, spans), counts[index]).decode()
        if self.ner:
            for index, spans in enumerate(find_names(texts, self.ner)):
                content = texts[index].encode()
                texts[index] = self._replace(content, _in_bytes(texts[index], spans), counts[index]).decode()
        return [
            Edit(text, changes=dict(count)) if count else None
            for text, count in zip(texts, counts, strict=True)
        ]

    def _replace(self, content: bytes, spans: Iterable[Span], counts: Counter[str]) -> bytes:
        pieces, done = [], 0
        for start, end, kind in sorted(spans):
            value = content[start:end].decode()
            if kind in self.kinds and not (self.replace == "fake" and is_fake(value)):
                pieces += [content[done:start], replacement(kind, value, self.replace).encode()]
                counts[kind] += 1
                done = end
        return b"".join([*pieces, content[done:]]) if pieces else content


def find(content: bytes, windows: Iterable[Sequence[int]]) -> list[Span]:
    """All personal data in a UTF-8 text, by byte, not overlapping; of two readings the earlier rule's counts.

    Every rule is asked, whichever kinds are wanted: what is an account number is not also a phone.
    """
    ranked = {
        (rank, *found)
        for group, start, end in windows
        for rank, rule in AT_CANDIDATE[group]
        for found in rule.spans(content, start, end)
    }
    kept: list[Span] = []
    for rank, start, end in sorted(ranked):
        at = bisect.bisect(kept, (start, end, ""))
        before, after = kept[at - 1 : at], kept[at : at + 1]
        if (not at or before[0][1] <= start) and (not after or end <= after[0][0]):
            kept.insert(at, (start, end, RULES[rank].kind))
    return kept


def by_text(rows: np.ndarray) -> Iterator[tuple[int, list[list[int]]]]:
    """Each text's number with its (group, start, end) windows."""
    for index, members in itertools.groupby(rows.tolist(), key=operator.itemgetter(0)):
        yield index, [row[1:] for row in members]


def _in_bytes(text: str, spans: Iterable[Span]) -> Iterator[Span]:
    """The same spans, counted in UTF-8 bytes."""
    done = offset = 0
    for start, end, kind in sorted(spans):
        offset += len(text[done:start].encode())
        size = len(text[start:end].encode())
        yield offset, offset + size, kind
        offset, done = offset + size, end
