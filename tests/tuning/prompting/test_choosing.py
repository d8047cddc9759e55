"""Words, templates and examples, chosen with a few labelled rows: what must be found is planted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from luban.errors import ConfigError, DataError
from luban.tuning.prompting.choosing import Searching, choose, draw_examples, with_examples
from luban.tuning.prompting.classifier import PromptClassifier
from luban.tuning.prompting.search import best_words, preference, said_in_slot
from luban.tuning.prompting.template import Frame, Template
from luban.tuning.prompting.verbaliser import Verbaliser
from tests.tuning.prompting.asked import Ruled, row

KNOWN = [row(f"{cue} {number}", label) for number in range(4) for cue, label in (("fun", "+"), ("dull", "-"))]
PLAIN = Template("{text} It was {answer}.")
WORDS = {"long": 0.5, "good": 0.05, "bad": 0.01, "short": 0.2}


def ruled() -> Ruled:
    """Says `long` most of all, but it is `good` and `bad` that depend on the text."""
    return Ruled(WORDS, {"fun": "good", "dull": "bad"}, boost=4)


def searching(**changes: Any) -> Searching:
    settings: dict[str, Any] = {
        "lm": ruled(),
        "rows": KNOWN,
        "words": {"+": ("+",), "-": ("-",)},
        "per_label": 1,
        "candidates": tuple(WORDS),
        "calibration": "contextual",
        "premise": "",
        "seed": 0,
    }
    return Searching(**(settings | changes))


def test_the_words_that_depend_on_the_text_are_found_and_not_the_frequent_ones() -> None:
    best, trials = choose(searching(), [PLAIN])
    assert best.words == {"+": ("good",), "-": ("bad",)}
    assert (best.accuracy, trials) == (1.0, [best])


def test_found_words_beat_the_given_ones_of_a_model_that_does_not_heed_them() -> None:
    given, _ = choose(searching(per_label=0, words={"+": ("long",), "-": ("short",)}), [PLAIN])
    found, _ = choose(searching(), [PLAIN])
    assert given.loss == pytest.approx(np.log(2))
    # After "fun" `good` has 4 to 1 against `bad` once their prior is off.
    assert found.loss == pytest.approx(-np.log(4 / 5))


def test_without_a_list_the_candidates_are_what_the_model_says() -> None:
    said = said_in_slot(
        Ruled({"good": 0.1, "bad": 0.1}, {"fun": "good", "dull": "bad"}), PLAIN, KNOWN, seed=3
    )
    assert sorted(said) == ["bad", "good"]
    best, _ = choose(searching(lm=Ruled({"good": 0.1, "bad": 0.1}, {"dull": "bad"}), candidates=()), [PLAIN])
    assert best.words == {"+": ("good",), "-": ("bad",)}


def test_a_model_that_would_answer_before_it_reads_is_asked_for_no_candidates() -> None:
    with pytest.raises(ConfigError, match="the model would answer before it reads"):
        choose(searching(candidates=()), [Template("A {answer} film: {text}")])


def test_too_few_words_for_a_label_are_an_error_that_counts_them() -> None:
    with pytest.raises(DataError, match=r"1 of 4 candidate words favour '\+', and 2 are wanted"):
        choose(searching(per_label=2), [PLAIN])


def test_preference_is_a_difference_of_means_in_standard_errors() -> None:
    shares = np.log([[0.8, 0.2], [0.8, 0.2], [0.2, 0.8], [0.2, 0.8]])
    # The rows of a label agree, so each variance is the 0.1 that is always added: error sqrt(0.1 / 2 * 2).
    found = preference(shares, [True, True, False, False])
    assert found == pytest.approx(np.array([np.log(4), -np.log(4)]) / np.sqrt(0.1))


def test_no_word_stands_for_two_labels() -> None:
    logps = np.log([[0.5, 0.3, 0.2], [0.3, 0.5, 0.2], [0.2, 0.3, 0.5]])
    words = best_words(logps, ["a", "b", "c"], ["x", "y", "z"], labels=["a", "b", "c"], per_label=1)
    assert words == {"a": ("x",), "b": ("y",), "c": ("z",)}


def test_the_template_that_explains_the_labels_best_is_taken() -> None:
    deaf = Template("Is it good? {answer} was said of {text}")  # answers before it reads
    best, trials = choose(searching(per_label=0, words={"+": ("good",), "-": ("bad",)}), [deaf, PLAIN])
    assert best.template == PLAIN
    assert [trial.template for trial in trials] == [deaf, PLAIN]
    assert trials[0].loss > trials[1].loss


@pytest.mark.parametrize("shots", [0, 1, 2, 5, 8])
def test_examples_are_of_all_labels_alike(shots: int) -> None:
    drawn = draw_examples(KNOWN, ["+", "-"], shots=shots, seed=1)
    counts = [sum(example.labels == (label,) for example in drawn) for label in "+-"]
    assert sum(counts) == shots
    assert abs(counts[0] - counts[1]) <= 1
    assert len({example.text for example in drawn}) == shots


def test_examples_differ_by_seed_and_not_by_run() -> None:
    def drawn(seed: int) -> list[str]:
        return [example.text for example in draw_examples(KNOWN, ["+", "-"], shots=4, seed=seed)]

    assert drawn(1) == drawn(1)
    assert len({tuple(drawn(seed)) for seed in range(8)}) > 1


def test_more_examples_than_rows_are_refused() -> None:
    with pytest.raises(ConfigError, match="9 examples are wanted of 8 labelled rows"):
        draw_examples(KNOWN, ["+", "-"], shots=9, seed=0)


def test_an_example_is_answered_with_its_labels_first_word() -> None:
    verbaliser = Verbaliser({"+": ("good", "long"), "-": ("bad",)})
    plain = PromptClassifier(lm=ruled(), frame=Frame(PLAIN), verbaliser=verbaliser)
    shown = with_examples(plain, [row("fun", "+")], shots=1, separator="\n", seed=0)
    assert shown.frame.examples == "fun It was good.\n"
