"""ROOTS's filters: the same measures for every language, with limits of its own for each.

Source: Laurençon et al. 2022, appendix (arXiv:2303.03915); the limits are those published with the corpus's code.
Words are ours instead of SentencePiece's or white space's, and the lists are our own: so in Chinese each character
is a word, and entries of several characters are found joined.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from luban.data.step import Batch, Outcome, drop_where
from luban.data.steps.words import words_of
from luban.data.text.listed import count_listed
from luban.data.text.repetition import roots_repetition
from luban.data.text.statistics import share


@dataclass(frozen=True, kw_only=True)
class RootsLimits:
    """What a text of one language must keep to. The defaults are for languages without limits of their own."""

    min_words: int = 10
    """Words with a letter or figure."""
    max_words: int = 100_000
    character_n: int = 10
    """Length of the character n-grams."""
    max_character_repetition: float = 0.2
    """Share that the most frequent character n-grams have."""
    word_n: int = 5
    """Length of the word n-grams."""
    max_word_repetition: float = 0.3
    """Share of the word n-grams that come more than once."""
    max_specials: float = 0.4
    """Share of the characters that are figures, white space or signs."""
    min_closed: float = 0.1
    """Share of the words that are of a closed class; not asked for in languages without a list."""
    max_flagged: float = 0.1
    """Share of the words that stand in the language's list of adult advertising."""


def _published() -> dict[str, RootsLimits]:
    return {
        "en": RootsLimits(
            min_words=20,
            max_character_repetition=0.106,
            max_word_repetition=0.19,
            min_closed=0.3,
            max_flagged=0.01,
        ),
        "es": RootsLimits(
            min_words=16,
            max_character_repetition=0.14,
            max_word_repetition=0.25,
            max_specials=0.34,
            min_closed=0.4,
            max_flagged=0.01,
        ),
        "fr": RootsLimits(
            min_words=13,
            max_character_repetition=0.14,
            max_word_repetition=0.13,
            max_specials=0.34,
            min_closed=0.27,
            max_flagged=0.008,
        ),
        "zh": RootsLimits(
            min_words=1,
            max_words=1_000_000,
            character_n=3,
            max_word_repetition=0.96,
            max_specials=0.3,
            min_closed=0.1691,
            max_flagged=0.001,
        ),
    }


@dataclass(frozen=True, kw_only=True)
class Roots:
    """Drop texts that repeat themselves, hold too many signs, too few closed-class or too many flagged words."""

    language: str = "en"
    """Of documents that do not say theirs (`language`)."""
    limits: Mapping[str, RootsLimits] = field(default_factory=_published)
    """By language."""
    other: RootsLimits = field(default_factory=RootsLimits)
    """For languages without limits."""

    def __call__(self, batch: Batch) -> Sequence[Outcome]:
        languages = [str(document.meta.get("language") or self.language) for document in batch.documents]
        limits = [self.limits.get(language, self.other) for language in languages]

        def column(value: Callable[[RootsLimits], float]) -> np.ndarray:
            return np.array([value(limit) for limit in limits])

        table = batch.statistics
        words, closed, flagged = _listed(batch, languages)
        characters, grams = roots_repetition(
            batch.packed,
            column(lambda limit: limit.character_n).astype(np.int64),
            column(lambda limit: limit.word_n).astype(np.int64),
        )
        specials = share(table.specials, table.characters)
        has_list = np.array([bool(words_of(f"closed_{language}")) for language in languages], bool)
        few_closed = has_list & (closed < column(lambda limit: limit.min_closed))
        return drop_where(
            len(limits),
            [
                ("roots_few_words", words < column(lambda limit: limit.min_words), words),
                ("roots_many_words", words > column(lambda limit: limit.max_words), words),
                (
                    "roots_character_repetition",
                    characters > column(lambda limit: limit.max_character_repetition),
                    characters,
                ),
                ("roots_word_repetition", grams > column(lambda limit: limit.max_word_repetition), grams),
                ("roots_special_characters", specials > column(lambda limit: limit.max_specials), specials),
                ("roots_closed_class_words", few_closed, closed),
                ("roots_flagged_words", flagged > column(lambda limit: limit.max_flagged), flagged),
            ],
        )


def _listed(batch: Batch, languages: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each text's words, and the shares of closed-class and flagged ones by its own language's lists."""
    words, closed, flagged = (np.zeros(len(languages)) for _ in range(3))
    for language in dict.fromkeys(languages):
        chosen = np.flatnonzero(np.array([other == language for other in languages]))
        lists = [words_of(f"closed_{language}"), words_of(f"flagged_{language}")]
        words[chosen], listed = count_listed(batch.packed.take(chosen), lists)
        closed[chosen], flagged[chosen] = (share(count, words[chosen]) for count in listed.T)
    return words, closed, flagged
