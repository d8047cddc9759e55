"""Rows of preferences in all the shapes that people keep them: where the prompt ends, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from luban.alignment.preference_rows import Judged, Preference, to_preferences
from luban.errors import DataError

HELLO = {"role": "user", "content": "Hello?"}


def said(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def one(raw: Any) -> Preference:
    (told,) = to_preferences(raw, where="f:1")
    assert isinstance(told, Preference)
    return told


def test_texts_stay_texts() -> None:
    told = one({"prompt": "2+2=", "chosen": "4", "rejected": "5", "margin": 2})
    assert (told.chosen.prompt, told.chosen.completion, told.rejected.completion) == ("2+2=", "4", "5")
    assert told.margin == 2.0


@pytest.mark.parametrize(
    "raw",
    [
        {"prompt": [HELLO], "chosen": [said("Hi!")], "rejected": [said("What?")]},
        {"prompt": [HELLO], "chosen": "Hi!", "rejected": "What?"},
        {"prompt": "Hello?", "chosen": [said("Hi!")], "rejected": said("What?")},
        {"prompt": "Hello?", "chosen": [HELLO, said("Hi!")], "rejected": [HELLO, said("What?")]},
        {"chosen": [HELLO, said("Hi!")], "rejected": [HELLO, said("What?")]},
        {
            "chosen": "\n\nHuman: Hello?\n\nAssistant: Hi!",
            "rejected": "\n\nHuman: Hello?\n\nAssistant: What?",
        },
    ],
)
def test_conversations_are_read_alike_whatever_their_shape(raw: dict[str, Any]) -> None:
    told = one(raw)
    assert told.chosen.messages == (HELLO, said("Hi!"))
    assert told.rejected.messages == (HELLO, said("What?"))
    assert told.chosen.given_answers == 0


def test_the_prompt_of_a_long_dialogue_is_all_that_both_share() -> None:
    shared = "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:"
    told = one({"chosen": f"{shared} yes, Human", "rejected": f"{shared} yes, but\n\nstill"})
    assert [turn["content"] for turn in told.rejected.messages] == ["a", "b", "c", "yes, but\n\nstill"]
    assert told.chosen.given_answers == told.rejected.given_answers == 1


def test_a_shared_beginning_of_text_ends_before_the_word_that_differs() -> None:
    told = one({"chosen": "Q: sky? A: blue", "rejected": "Q: sky? A: black"})
    assert (told.chosen.prompt, told.chosen.completion) == ("Q: sky? A:", " blue")
    assert told.rejected.completion == " black"


def test_ranked_answers_become_a_pair_of_each_two() -> None:
    raw = {"prompt": "p", "answers": ["best", "good", "bad"]}
    pairs = [(t.chosen.completion, t.rejected.completion) for t in to_preferences(raw, where="f:1")]  # pyright: ignore[reportAttributeAccessIssue] - all are preferences
    assert pairs == [("best", "good"), ("best", "bad"), ("good", "bad")]


def test_scores_decide_the_order_and_equal_ones_make_no_pair() -> None:
    raw = {"prompt": "p", "answers": ["a", "b", "c"], "scores": [1, 3, 1]}
    told = to_preferences(raw, where="f:1")
    pairs = [(t.where, t.chosen.completion, t.rejected.completion) for t in told]  # pyright: ignore[reportAttributeAccessIssue] - all are preferences
    assert pairs == [("f:1 answers 2 and 1", "b", "a"), ("f:1 answers 2 and 3", "b", "c")]


@pytest.mark.parametrize(("label", "good"), [(True, True), ("false", False), (1, True)])
def test_a_single_answer_is_judged(label: Any, good: bool) -> None:
    (told,) = to_preferences({"prompt": "p", "completion": "c", "label": label}, where="f:1")
    assert isinstance(told, Judged)
    assert (told.answer.completion, told.good) == ("c", good)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ({"prompt": "p", "chosen": "a", "rejected": "a"}, "chosen and rejected are the same"),
        ({"prompt": "p", "chosen": " ", "rejected": "a"}, "the chosen answer is empty"),
        ({"prompt": [HELLO], "chosen": [said("a")], "rejected": [said("")]}, "the rejected answer is empty"),
        ({"prompt": "p", "chosen": "a"}, "unknown preference format with keys: prompt, chosen"),
        ({"prompt": "p", "chosen": "a", "rejected": "b", "margin": "much"}, "'margin' is 'much', not a number"),
        ({"chosen": [HELLO], "rejected": [said("a")]}, "share no prompt"),
        ({"chosen": [HELLO, HELLO], "rejected": [HELLO, said("a")]}, "part before the assistant's turn"),
        ({"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "c"}, "one answer is HH-RLHF's text"),
        ({"chosen": "\n\nHuman: a\n\nAssistant:", "rejected": "\n\nHuman: a\n\nAssistant: b"}, "not an answer"),
        ({"prompt": [HELLO], "chosen": [HELLO], "rejected": [said("a")]}, "ends with the assistant's message"),
        ({"prompt": "p", "answers": ["a"]}, "a list of two or more"),
        ({"prompt": "p", "answers": ["a", "b"], "scores": [1]}, "'scores' must be 2 numbers"),
        ({"prompt": "p", "completion": "c", "label": "perhaps"}, "'label' is 'perhaps'; it says true or false"),
        (["a"], "a row of preferences is an object"),
    ],
)  # fmt: skip
def test_a_row_that_prefers_nothing_is_named_with_the_reason(raw: Any, reason: str) -> None:
    with pytest.raises(DataError, match=f"^f:1.*{reason}"):
        to_preferences(raw, where="f:1")
