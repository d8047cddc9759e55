"""Templates and answer words tried on the labelled rows, without examples; the pair that explains their labels best.

Each template finds its own words, if words are searched, and is read with the calibration of the run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from luban.errors import ConfigError
from luban.lm import LM
from luban.tuning.labelled import Labelled, targets_of
from luban.tuning.prompting.calibration import Calibration
from luban.tuning.prompting.classifier import PromptClassifier, word_logps
from luban.tuning.prompting.search import best_words, said_in_slot
from luban.tuning.prompting.template import Frame, Template, written_out
from luban.tuning.prompting.verbaliser import Verbaliser

Words = Mapping[str, Sequence[str]]


@dataclass(frozen=True, kw_only=True)
class Searching:
    """What may be chosen, and with which rows. `words` are as given; with `per_label` they are looked for."""

    lm: LM
    rows: Sequence[Labelled]
    words: Words
    per_label: int
    candidates: Sequence[str]
    calibration: Calibration
    premise: str
    seed: int


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A template with its words on the labelled rows: mean nats of their labels, and the share read rightly."""

    template: Template
    words: Words
    loss: float = math.nan
    accuracy: float = math.nan

    def told(self) -> dict[str, Any]:
        """The same as plain values."""
        words = {label: list(of_label) for label, of_label in self.words.items()}
        return {
            "template": self.template.pattern,
            "words": words,
            "loss": self.loss,
            "accuracy": self.accuracy,
        }


def choose(searching: Searching, templates: Sequence[Template]) -> tuple[Trial, list[Trial]]:
    """The best trial, by loss, and all of them in the order of `templates`."""
    trials = [try_template(searching, template) for template in templates]
    return min(trials, key=lambda trial: trial.loss), trials


def try_template(searching: Searching, template: Template) -> Trial:
    """How well one template does, with the words found for it if they are searched.

    Raises ConfigError where the model can name no candidates, DataError where too few favour a label.
    """
    frame, words = Frame(template), searching.words
    if searching.per_label:
        candidates = _candidates(searching, template)
        logps = word_logps(searching.lm, frame, searching.rows, candidates)
        given = [row.labels[0] for row in searching.rows]
        words = best_words(logps, given, candidates, labels=list(words), per_label=searching.per_label)
    verbaliser = Verbaliser(words)
    plain = PromptClassifier(lm=searching.lm, frame=frame, verbaliser=verbaliser)
    logps = plain.ask(searching.rows)
    found = plain.calibrate(searching.calibration, logps, premise=searching.premise).read(logps)
    truth = targets_of(searching.rows, verbaliser.labels)
    return Trial(
        template=template,
        words=words,
        loss=float(-found[truth == 1].mean()),
        accuracy=float((found.argmax(axis=1) == truth.argmax(axis=1)).mean()),
    )


def with_examples(
    classifier: PromptClassifier, rows: Sequence[Labelled], *, shots: int, separator: str, seed: int
) -> PromptClassifier:
    """The same classifier after `shots` of `rows` as examples, each answered with its label's first word."""
    verbaliser, template = classifier.verbaliser, classifier.frame.template
    drawn = draw_examples(rows, verbaliser.labels, shots=shots, seed=seed)
    answered = [(row, verbaliser.by_label[row.labels[0]][0]) for row in drawn]
    return replace(classifier, frame=Frame(template, written_out(template, answered, separator=separator)))


def draw_examples(
    rows: Sequence[Labelled], labels: Sequence[str], *, shots: int, seed: int
) -> list[Labelled]:
    """`shots` of the rows in random order, as many of each label as can be; raises ConfigError if they are too few."""
    if shots > len(rows):
        what = f"{shots} examples are wanted of {len(rows)} labelled rows"
        raise ConfigError(what, where="setting 'shots'", hint="fewer, or more rows in --train")
    random = np.random.default_rng(seed)
    order = [rows[place] for place in random.permutation(len(rows))]
    by_label = {label: [row for row in order if row.labels[0] == label] for label in labels}
    turns = [(turn, label) for label in labels for turn in range(len(by_label[label]))]
    drawn = [by_label[label][turn] for turn, label in sorted(turns, key=lambda pair: pair[0])[:shots]]
    return [drawn[place] for place in random.permutation(shots)]


def _candidates(searching: Searching, template: Template) -> list[str]:
    if searching.candidates:
        return list(dict.fromkeys(searching.candidates))
    if template.judges_text:
        what = f"in {template.pattern!r} the model would answer before it reads"
        raise ConfigError(what, where="setting 'search'", hint="--candidates WORDS, or {answer} after {text}")
    return said_in_slot(searching.lm, template, searching.rows, seed=searching.seed)
