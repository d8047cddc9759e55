"""What a dataset card can tell; a section whose facts are missing is left out of the page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Amount:
    """How much text."""

    documents: int
    bytes: int


@dataclass(frozen=True, kw_only=True)
class StageFacts:
    """One stage of the chain, after it has run."""

    name: str
    after: Amount
    """What was left after it."""
    dropped: Mapping[str, int] = field(default_factory=dict)
    """Documents by reason code."""
    changed: Mapping[str, int] = field(default_factory=dict)
    """Changes inside documents that stayed, by rule."""
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A document to look at; `stage` and `reason` say why it went, if it went."""

    id: str
    text: str
    source: str = ""
    url: str = ""
    stage: str = ""
    reason: str = ""
    value: str = ""
    """The value that broke the rule."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """All that is known of a corpus; what is not known stays empty."""

    title: str
    summary: str = ""
    before: Amount | None = None
    """What came in."""
    stages: tuple[StageFacts, ...] = ()
    """In the order in which they ran."""
    tokens: int | None = None
    sources: Mapping[str, Amount] = field(default_factory=dict)
    """What was kept, by source; so are languages and licenses."""
    languages: Mapping[str, Amount] = field(default_factory=dict)
    """By ISO 639 code."""
    licenses: Mapping[str, Amount] = field(default_factory=dict)
    """By SPDX identifier or the name that the source gives."""
    lengths: Mapping[int, int] = field(default_factory=dict)
    """Kept documents by `octave` of their characters."""
    clusters: Mapping[int, int] = field(default_factory=dict)
    """Groups of duplicates by `octave` of their size."""
    dates: Mapping[int, int] = field(default_factory=dict)
    """Kept documents by year."""
    quarantined: Mapping[str, int] = field(default_factory=dict)
    """Records that could not be processed, by kind of error."""
    kept: tuple[Sample, ...] = ()
    """Some documents that stayed, drawn at random; `dropped`: some that went."""
    dropped: tuple[Sample, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    """The corpus's files for a loader: split name to a glob relative to the card."""
    provenance: Mapping[str, str] = field(default_factory=dict)
    """What it was made from and with: inputs and their hashes, versions, seed, date."""

    @property
    def after(self) -> Amount | None:
        """What is left at the end."""
        return self.stages[-1].after if self.stages else self.before


def octave(size: int) -> int:
    """The power of two at or below `size` (0 for 0), the bucket in which a histogram counts it."""
    return 1 << (size.bit_length() - 1) if size > 0 else 0
