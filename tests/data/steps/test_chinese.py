"""Chinese prose stays; fragments, lists, copies and other languages go."""

from __future__ import annotations

import pytest

from luban.data.steps.chinese import Chinese
from luban.data.steps.words import words_of
from tests.data.steps.batches import reasons
from tests.data.steps.test_roots import CHINESE, ENGLISH

STEP = Chinese(min_ideographs=50)
TRADITIONAL = (
    "山上那座房子屬於一個有三個孩子的人家。他們先後離開了家,老人和狗留了下來。有一年冬天,大雪封住了道路,兩個星期沒有人能來看望,"
    "他們就靠地窖裡的東西過日子。春天終於來的時候,大兒子回來看了看。"
)


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        (None, CHINESE),
        (None, TRADITIONAL),
        ("chinese_short", CHINESE[:40]),
        ("chinese_share", CHINESE + ENGLISH * 3),
        ("chinese_short_lines", "\n".join(CHINESE[i : i + 6] for i in range(0, 90, 6))),
        ("chinese_terminal_lines", "\n".join(CHINESE[i : i + 13] + "、" for i in range(0, 78, 13))),
        ("chinese_character_repetition", CHINESE + "哈" * 60 + "。"),
    ],
)
def test_a_text_that_breaks_a_rule_is_dropped_with_its_name(reason: str | None, text: str) -> None:
    assert reasons(STEP, [text]) == [reason]


def test_a_text_said_twice_is_dropped() -> None:
    assert reasons(Chinese(min_ideographs=50, max_repetition=1), [CHINESE * 2]) == [
        "chinese_repeated_13_grams"
    ]


def test_one_script_can_be_asked_for() -> None:
    step = Chinese(min_ideographs=50, max_traditional=0.5)
    assert reasons(step, [CHINESE, TRADITIONAL]) == [None, "chinese_traditional"]


def test_the_scripts_lists_are_pairs_of_different_characters() -> None:
    simplified, traditional = words_of("simplified"), words_of("traditional")
    assert len(simplified) == len(traditional) > 300
    assert not simplified & traditional
