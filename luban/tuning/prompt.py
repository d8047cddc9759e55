"""Stage `prompt`: a model as it is, asked in a sentence, as a classifier of texts.

A template puts the text beside a slot, the model says how likely each answer word is there, and the words stand for
labels. A few labelled rows can be shown as examples, and can choose the template and the words. Nothing is trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge

from luban.device import DeviceConfig
from luban.errors import ConfigError
from luban.lm import LM, OpenLM
from luban.tuning.labelled import Columns

if TYPE_CHECKING:
    from luban.tuning.prompting.asked import Asked
    from luban.tuning.prompting.choosing import Trial
    from luban.tuning.prompting.figures import Probabilities


@dataclass(frozen=True, kw_only=True)
class Config(DeviceConfig):
    r"""Classify texts with a model as it is: `luban prompt --data rows.jsonl --words.spam ad --words.ham private`."""

    model: str
    """Model folder."""
    data: tuple[Path, ...]
    """Texts to classify, in the formats of `luban classify`; where all have labels, the answers are compared."""
    train: tuple[Path, ...] = ()
    """A few labelled texts: to show as examples, and to choose template and words by."""
    out: Path | None = None
    """Folder for report.json and predictions.jsonl; nothing prints the figures only."""
    columns: Columns = field(default_factory=Columns)
    template: tuple[str, ...] = ("{text}\\nAll in all, it was {answer}.",)
    r"""What the model reads, with {text}, {answer} and, for two texts, {second}; `\n` breaks the line. Of several the
    one that explains the labels of `train` best is taken."""
    words: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Answer words of each label: `--words.spam ad advertisement`; a label without stands for itself."""
    search: Annotated[int, Ge(0)] = 0
    """Look for so many answer words of each label instead, by the rows of `train`; 0 takes `words`."""
    candidates: tuple[str, ...] = ()
    """Words to search among; nothing takes what the model itself says in the slot."""
    shots: Annotated[int, Ge(0)] = 0
    """Show so many rows of `train` as examples before each text, as many of each label as can be."""
    separator: str = "\\n\\n"
    r"""What stands behind each example; `\n` breaks the line."""
    calibration: Literal["none", "contextual", "domain", "batch"] = "contextual"
    """Take off what the model favours anyway: its answers to texts that say nothing (contextual), to `premise` alone
    (domain), or in the mean over `data` (batch, which takes labels to be about equally frequent)."""
    premise: str = ""
    """A few words of the kind of text, for calibration=domain; nothing takes the template's own before the answer."""
    baseline: bool = True
    """Report TF-IDF with logistic regression, learnt from `train`, beside the model (needs scikit-learn)."""
    max_characters: Annotated[int, Ge(1)] = 2000
    """Longer texts are cut there, and counted."""
    max_rows: Annotated[int, Ge(1)] | None = None
    """Classify only so many rows of `data`, drawn with `seed`."""
    seed: Annotated[int, Ge(0)] = 0
    """Seed of the examples, the draws of candidates, and `max_rows`."""

    def __post_init__(self) -> None:
        for name in ("search", "shots"):
            if getattr(self, name) and not self.train:
                raise ConfigError(
                    "there are no labelled rows", where=f"setting '{name}'", hint="--train FILE"
                )
        if len(self.template) > 1 and not self.train:
            what = "several templates are chosen from by labelled rows"
            raise ConfigError(what, where="setting 'template'", hint="--train FILE, or one template")


def unescaped(text: str) -> str:
    r"""The text with its `\n` as line breaks, which a shell does not pass on."""
    return text.replace("\\n", "\n")


def run(config: Config, open_lm: OpenLM) -> dict[str, Any]:
    """Classify the rows; returns what was asked and, where the labels are known, the figures beside the baselines'."""
    from luban.folder import stage_folder, write_json
    from luban.tuning.prompting.asked import read_asked
    from luban.tuning.prompting.figures import write_predictions

    asked = read_asked(config)
    if config.out is None:
        return _classify(config, open_lm(config.model), asked)[0]
    inputs = [Path(config.model), *config.data, *config.train]
    with stage_folder(config.out, stage="prompt", config=config, inputs=inputs) as (folder, metrics):
        results, probabilities = _classify(config, open_lm(config.model), asked)
        write_predictions(folder / "predictions.jsonl", asked.rows, probabilities, list(asked.words))
        write_json(folder / "report.json", results)
        metrics.update(results)
    return metrics


def show(results: dict[str, Any]) -> None:
    """Print what was asked, then a line of figures for each way to answer."""
    print(f"template: {results['template']!r}, {results['shots']} examples")
    for label, words in results["words"].items():
        print(f"  {label}: {', '.join(words)}")
    for trial in results["tried"]:
        print(
            f"tried on the labelled rows: {trial['template']!r}: {trial['loss']:.3f} nats, {trial['accuracy']:.1%}"
        )
    for name, figures in results.get("figures", {}).items():
        interval = f"{figures['low']:.1%} to {figures['high']:.1%}"
        f1 = f"macro F1 {figures['macro_f1']:.3f}"
        print(f"{name}: {figures['accuracy']:.1%} of {results['rows']} right (95 %: {interval}), {f1}")
    if results["cut"]:
        print(f"{results['cut']} texts were cut: --max-characters")


def _classify(config: Config, lm: LM, asked: Asked) -> tuple[dict[str, Any], Probabilities]:
    """What was asked and how it went, and each row's probabilities."""
    import numpy as np

    from luban.tuning.prompting.choosing import with_examples
    from luban.tuning.prompting.classifier import PromptClassifier
    from luban.tuning.prompting.figures import compare
    from luban.tuning.prompting.template import Frame
    from luban.tuning.prompting.verbaliser import Verbaliser

    chosen, tried = _chosen(config, lm, asked)
    verbaliser = Verbaliser(chosen.words)
    plain = PromptClassifier(lm=lm, frame=Frame(chosen.template), verbaliser=verbaliser)
    plain = with_examples(
        plain, asked.known, shots=config.shots, separator=unescaped(config.separator), seed=config.seed
    )
    logps = plain.ask(asked.rows)
    read = plain.calibrate(config.calibration, logps, premise=config.premise)
    answers = {"uncalibrated": np.exp(plain.read(logps))}
    if config.calibration != "none":
        answers[f"calibrated ({config.calibration})"] = np.exp(read.read(logps))
    results: dict[str, Any] = {
        "template": chosen.template.pattern,
        "words": {label: list(words) for label, words in chosen.words.items()},
        "shots": config.shots,
        "rows": len(asked.rows),
        "cut": asked.cut,
        "tried": [trial.told() for trial in tried],
    }
    if all(row.labels for row in asked.rows):
        known = asked.known if config.baseline else []
        results["figures"] = compare(asked.rows, answers, verbaliser.labels, known=known)
    return results, list(answers.values())[-1]


def _chosen(config: Config, lm: LM, asked: Asked) -> tuple[Trial, list[Trial]]:
    """Template and words to use, and what was tried on the labelled rows to choose them."""
    from luban.tuning.prompting.choosing import Searching, Trial, choose

    if len(asked.templates) == 1 and not config.search:
        return Trial(template=asked.templates[0], words=asked.words), []
    searching = Searching(
        lm=lm,
        rows=asked.known,
        words=asked.words,
        per_label=config.search,
        candidates=config.candidates,
        calibration=config.calibration,
        premise=config.premise,
        seed=config.seed,
    )
    return choose(searching, asked.templates)
