"""What a model is shown, and which part of it is judged."""

from __future__ import annotations

import pytest

from luban.errors import ConfigError
from luban.tuning.prompting.template import Frame, Template, written_out
from tests.tuning.prompting.asked import row


def test_the_word_is_judged_after_the_text() -> None:
    frame = Frame(Template("{text}\nIt was {answer}."))
    assert frame.pair(row("fine"), "good") == ("fine\nIt was ", "good")


def test_a_text_after_the_answer_is_judged_with_it() -> None:
    frame = Frame(Template("A {answer} film: {text}"))
    assert frame.pair(row("fine"), "good") == ("A ", "good film: fine")


def test_two_texts_have_their_slots() -> None:
    template = Template("{text} ? {answer}, {second}")
    assert Frame(template).pair(row("it rains", second="it is wet"), "Yes") == (
        "it rains ? ",
        "Yes, it is wet",
    )
    assert template.judges_text


def test_examples_are_whole_frames_before_the_text() -> None:
    template = Template("{text} It was {answer}.")
    examples = written_out(template, [(row("dull"), "bad"), (row("fine"), "good")], separator="\n\n")
    assert examples == "dull It was bad.\n\nfine It was good.\n\n"
    assert Frame(template, examples).pair(row("so so"), "bad") == (f"{examples}so so It was ", "bad")


def test_slots_written_in_a_text_mean_nothing() -> None:
    asked = Template("{text} / {second} = {answer}").asked(row("{second} {answer}", second="{text}"))
    assert asked == ("{second} {answer} / {text} = ", "")


@pytest.mark.parametrize("pattern", ["no slot", "{text} only", "{answer} only", "{text} {text} {answer}"])
def test_a_template_without_each_slot_once_is_refused(pattern: str) -> None:
    with pytest.raises(ConfigError, match=r"a template holds \{.*\} once, this one [02] times"):
        Template(pattern)


@pytest.mark.parametrize(
    ("pattern", "premise"),
    [
        ("{text}\nIt was {answer}.", "It was "),
        ("{text}, {second}: {answer}", ": "),
        ("A {answer} film: {text}", "A "),
    ],
)
def test_the_premise_is_what_stands_before_every_answer(pattern: str, premise: str) -> None:
    assert Template(pattern).premise() == premise
