"""The language filter: what a document is written in, by letter n-grams, and how much of it.

A document is judged by pieces spread over it rather than by its beginning, so that a page whose menu is in
English and whose text is not, or a text with a long quotation, is told from one that is wholly in one language.
"""

from __future__ import annotations

import functools
import importlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from luban.data.step import Batch, Drop, Edit, Outcome
from luban.errors import ConfigError, MachineError, nearest

UNKNOWN = "und"


@dataclass(frozen=True, kw_only=True)
class Language:
    """Writes `language` (ISO 639-1, `und` if none is told) and `language_score` to meta; drops the others.

    `language`: not one that is kept. `language_score`: too little of the text is in it. The score is the share
    of the sampled characters in pieces that alone are told to be in the document's language, each weighted by
    the identifier's own confidence: 0.65 is CCNet's and RefinedWeb's threshold, on another identifier's scale.

    Chinese is `zh` in either script. Code has no language of its own: mostly `en`, with a low score.
    Source of the identifier: ELD (`eldc`), 60 languages, its model inside the package.
    """

    keep: tuple[str, ...] = ()
    """The languages to keep, as ISO 639-1 codes; none: all are kept and only described."""
    threshold: float = 0.65
    """Drop a document whose score is below; 0 keeps any score."""
    pieces: int = 5
    """How many pieces of the text are looked at."""
    piece_chars: int = 200
    """The length of a piece."""

    def __call__(self, batch: Batch) -> list[Outcome]:
        known = _languages()
        for code in self.keep:
            if code not in known:
                raise ConfigError(f"language {code!r} is not told apart here; {nearest(code, known)}")
        return [self._judge(text) for text in batch.texts]

    def _judge(self, text: str) -> Outcome:
        language, score = identify(text, pieces=self.pieces, piece_chars=self.piece_chars)
        if self.keep and language not in self.keep:
            return Drop("language", language)
        if self.keep and score < self.threshold:
            return Drop("language_score", score)
        return Edit(meta={"language": language, "language_score": score})


def identify(text: str, *, pieces: int, piece_chars: int) -> tuple[str, float]:
    """The language of most of the sampled characters, and its weighted share of them in [0, 1]."""
    votes: Counter[str] = Counter()
    confidence: Counter[str] = Counter()
    looked = 0
    detect = _detector()
    for piece in sample(text, pieces=pieces, piece_chars=piece_chars):
        found = detect(piece)
        looked += len(piece)
        if found.language == UNKNOWN:
            continue
        votes[found.language] += len(piece)
        confidence[found.language] += len(piece) * found.scores.get(found.language, 0.0)
    if not votes:
        return UNKNOWN, 0.0
    language = min(votes, key=lambda code: (-votes[code], code))
    return language, round(confidence[language] / looked, 3)


def sample(text: str, *, pieces: int, piece_chars: int) -> list[str]:
    """Pieces evenly spread over the text, from its beginning to its end; a short text is one piece."""
    if len(text) <= 2 * piece_chars:
        return [text]
    if len(text) <= pieces * piece_chars:
        starts = range(0, len(text), piece_chars)
    else:
        starts = [index * (len(text) - piece_chars) // max(pieces - 1, 1) for index in range(pieces)]
    return [text[start : start + piece_chars] for start in starts]


@functools.cache
def _detector() -> Callable[[str], Any]:
    eldc = _package()
    eldc.init()
    return eldc.detect_details


@functools.cache
def _languages() -> frozenset[str]:
    return frozenset(_package().LANGUAGES)


def _package() -> Any:
    try:
        return importlib.import_module("eldc")
    except ImportError:
        raise MachineError("the language filter needs 'eldc'", hint="pip install 'luban[data]'") from None
