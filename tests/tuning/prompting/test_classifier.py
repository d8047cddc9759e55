"""From a frozen model's words to labels, with the prior taken off: by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from luban.errors import ConfigError
from luban.tuning.prompting.calibration import calibrated, mean_share
from luban.tuning.prompting.classifier import PromptClassifier
from luban.tuning.prompting.template import Frame, Template
from luban.tuning.prompting.verbaliser import Verbaliser
from tests.tuning.prompting.asked import Ruled, row

GOOD_BAD = Verbaliser({"positive": ("good",), "negative": ("bad",)})


def biased() -> Ruled:
    """Prefers `good` nine to one whatever it reads; `fun` and `dull` double the chances of their words."""
    return Ruled({"good": 0.09, "bad": 0.01}, {"fun": "good", "dull": "bad"})


def classifier(lm: Ruled, verbaliser: Verbaliser = GOOD_BAD) -> PromptClassifier:
    return PromptClassifier(lm=lm, frame=Frame(Template("{text} It was {answer}.")), verbaliser=verbaliser)


def test_label_probabilities_are_the_words_made_to_sum_to_one() -> None:
    plain = classifier(biased())
    found = np.exp(plain.read(plain.ask([row("dull"), row("fun")])))
    # 0.09 against 2 * 0.01, and 2 * 0.09 against 0.01.
    assert found[0] == pytest.approx([9 / 11, 2 / 11])
    assert found[1] == pytest.approx([18 / 19, 1 / 19])


@pytest.mark.parametrize("method", ["contextual", "domain"])
def test_what_the_model_favours_anyway_is_taken_off(method: str) -> None:
    plain = classifier(biased())
    logps = plain.ask([row("dull"), row("fun"), row("neither")])
    found = np.exp(plain.calibrate(method, logps).read(logps))  # type: ignore[arg-type] - one of its choices
    assert found[:, 0] == pytest.approx([1 / 3, 2 / 3, 1 / 2])


def test_contextual_calibration_asks_about_texts_that_say_nothing() -> None:
    lm = biased()
    classifier(lm).calibrate("contextual", np.zeros((1, 2)))
    assert [context for context, _ in lm.asked[::2]] == ["N/A It was ", "[MASK] It was ", " It was "]


def test_domain_calibration_asks_after_the_premise_alone() -> None:
    lm = biased()
    classifier(lm).calibrate("domain", np.zeros((1, 2)))
    classifier(lm).calibrate("domain", np.zeros((1, 2)), premise="The film is")
    assert [context for context, _ in lm.asked[::2]] == ["It was ", "The film is"]


def test_batch_calibration_takes_off_the_mean_over_the_rows() -> None:
    # Two rows of 3 : 1 and 1 : 1 have the mean shares 5/8 and 3/8, so they become 9 : 5 and 3 : 5.
    logps = np.log([[0.3, 0.1], [0.2, 0.2]])
    prior = mean_share(logps)
    assert np.exp(prior) == pytest.approx([5 / 8, 3 / 8])
    assert np.exp(calibrated(logps, prior)) == pytest.approx(np.array([[9 / 14, 5 / 14], [3 / 8, 5 / 8]]))


def test_without_calibration_the_answer_stays_as_it_is() -> None:
    plain = classifier(biased())
    logps = plain.ask([row("dull")])
    none = plain.calibrate("contextual", logps).calibrate("none", logps)
    assert none.read(logps) == pytest.approx(plain.read(logps))


def test_a_label_of_several_words_has_their_mean_probability() -> None:
    verbaliser = Verbaliser({"positive": ("good", "great"), "negative": ("bad",)})
    found = np.exp(verbaliser.label_logps(np.log([[0.1, 0.3, 0.2]])))
    assert found[0] == pytest.approx([0.5, 0.5])


@given(st.lists(st.floats(-20, 0), min_size=3, max_size=3), st.floats(-5, 5))
def test_a_prior_shifted_as_a_whole_changes_nothing(prior: list[float], shift: float) -> None:
    logps = np.log([[0.5, 0.1, 0.2], [0.1, 0.1, 0.7]])
    assert calibrated(logps, np.array(prior) + shift) == pytest.approx(
        calibrated(logps, np.array(prior)), abs=1e-6
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"positive": ("good",)}, "two labels at least"),
        ({"positive": ("good",), "negative": ()}, "label 'negative' needs answer words"),
        ({"positive": ("good",), "negative": (" ",)}, "none may be empty"),
        (
            {"positive": ("good",), "negative": ("good",)},
            "'good' stands twice: for 'positive' and 'negative'",
        ),
    ],
)
def test_words_that_tell_no_labels_apart_are_refused(words: dict[str, tuple[str, ...]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Verbaliser(words)
