"""ROOTS's measures with each language's limits."""

from __future__ import annotations

import pickle

import pytest

from luban.data.steps.roots import Roots, RootsLimits
from luban.data.steps.words import words_of
from tests.data.steps.batches import reasons

ENGLISH = (
    "The house that stood on the hill belonged to a family with three children. Each of them left it in turn, and "
    "the old people stayed behind with their dog. One winter the road was closed by snow for two weeks."
)
GERMAN = (
    "Das Haus auf dem Hügel gehörte einer Familie mit drei Kindern. Jedes von ihnen ging zu seiner Zeit fort, und die "
    "Alten blieben mit ihrem Hund zurück. In einem Winter war die Straße zwei Wochen lang vom Schnee versperrt."
)
CHINESE = (
    "山上那座房子属于一个有三个孩子的人家。他们先后离开了家,老人和狗留了下来。有一年冬天,大雪封住了道路,两个星期没有人能来看望,"
    "他们就靠地窖里的东西过日子。春天终于来的时候,大儿子回来看了看。"
)


@pytest.mark.parametrize(
    ("reason", "text", "language"),
    [
        (None, ENGLISH, "en"),
        (None, GERMAN, "de"),
        (None, CHINESE, "zh"),
        ("roots_few_words", "Too few words to be kept.", "en"),
        (None, "Words enough for a language that has no list at all, it seems.", "xx"),
        ("roots_character_repetition", ENGLISH + " ha ha ha ha ha ha ha ha ha ha ha ha ha ha ha ha ha ha ha", "en"),
        ("roots_special_characters", ENGLISH + " 1!" * 90 + "".join(map(chr, range(0x2500, 0x2560))), "es"),
        ("roots_closed_class_words", "Stone river mountain table window garden summer winter yellow purple orange "
         "castle market bridge forest meadow harbour village church school kitchen", "en"),
        ("roots_flagged_words", ENGLISH + " Porn.", "en"),
    ],
)  # fmt: skip
def test_a_text_that_breaks_a_limit_of_its_language_is_dropped(
    reason: str | None, text: str, language: str
) -> None:
    spanish = RootsLimits(max_character_repetition=1, max_word_repetition=1)
    step = Roots(limits={**Roots().limits, "es": spanish})
    assert reasons(step, [text], language=language) == [reason]


def test_words_repeated_are_dropped() -> None:
    """Of the 5-grams of a text said twice, nearly all come twice."""
    limits = {"en": RootsLimits(max_character_repetition=1, max_word_repetition=0.19)}
    assert reasons(Roots(limits=limits), [ENGLISH + " " + ENGLISH, ENGLISH]) == [
        "roots_word_repetition",
        None,
    ]


def test_a_document_without_a_language_is_of_the_recipes_own() -> None:
    assert reasons(Roots(language="zh"), [CHINESE]) == [None]
    assert reasons(Roots(language="fr"), [CHINESE]) == ["roots_closed_class_words"]


def test_each_limited_language_has_its_lists() -> None:
    for language in (*Roots().limits, "de"):
        assert len(words_of(f"closed_{language}")) > 50
        assert words_of(f"flagged_{language}")


def test_limits_travel_to_other_processes() -> None:
    step = Roots(language="fr")
    assert pickle.loads(pickle.dumps(step)) == step
