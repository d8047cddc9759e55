"""The stage `prompt`: files in, labels and figures out; what does not fit is refused before a model is opened."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from luban.cli import main
from luban.errors import ConfigError, DataError
from luban.lm import LM
from luban.tuning import prompt
from tests.conftest import Workspace
from tests.tuning.prompting.asked import Ruled

ROWS = [
    {"text": f"{cue} {number}", "label": label}
    for number in range(5)
    for cue, label in (("fun", "+"), ("dull", "-"))
]
WORDS = {"+": ("good",), "-": ("bad",)}


def opened(_folder: str) -> LM:
    return Ruled({"good": 0.5, "bad": 0.01, "long": 0.9}, {"fun": "good", "dull": "bad"}, boost=4)


def not_opened(_folder: str) -> LM:
    raise AssertionError("the model is not to be opened")


@pytest.fixture
def files(tmp_path: Path) -> dict[str, tuple[Path, ...]]:
    return {
        "data": (written(tmp_path / "data.jsonl", ROWS),),
        "train": (written(tmp_path / "train.jsonl", ROWS[:6]),),
    }


def written(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def test_calibrated_answers_stand_beside_uncalibrated_ones_and_baselines(files: Any) -> None:
    results = prompt.run(prompt.Config(model="m", words=WORDS, **files), opened)
    accuracy = {name: figures["accuracy"] for name, figures in results["figures"].items()}
    assert accuracy == {
        "uncalibrated": 0.5,  # always good, which the model favours
        "calibrated (contextual)": 1.0,
        "TF-IDF + logistic regression on 6 rows": 1.0,
        "always '+'": 0.5,
    }
    assert results["figures"]["calibrated (contextual)"]["macro_f1"] == 1.0


def test_each_row_gets_a_line_with_all_its_chances(files: Any, tmp_path: Path) -> None:
    config = prompt.Config(model=str(files["data"][0]), words=WORDS, out=tmp_path / "out", **files)
    prompt.run(config, opened)
    lines = [
        json.loads(line) for line in (tmp_path / "out/predictions.jsonl").read_text("utf-8").splitlines()
    ]
    assert [line["label"] for line in lines] == [row["label"] for row in ROWS]
    assert lines[0]["probabilities"] == pytest.approx({"+": 0.8, "-": 0.2}, abs=1e-5)
    assert (lines[1]["text"], lines[1]["is"]) == ("dull 0", "-")
    assert json.loads((tmp_path / "out/report.json").read_text("utf-8"))["words"] == {
        "+": ["good"],
        "-": ["bad"],
    }


def test_texts_without_labels_are_answered_without_figures(tmp_path: Path) -> None:
    data = (written(tmp_path / "new.jsonl", [{"text": "dull"}, {"text": "fun"}]),)
    config = prompt.Config(model=str(data[0]), data=data, words=WORDS, out=tmp_path / "out")
    assert "figures" not in prompt.run(config, opened)
    lines = (tmp_path / "out/predictions.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line)["label"] for line in lines] == ["-", "+"]


def test_searched_words_and_examples_come_from_the_labelled_rows(files: Any) -> None:
    asked: list[Ruled] = []

    def remembered(folder: str) -> LM:
        asked.append(opened(folder))  # type: ignore[arg-type] - it is a Ruled
        return asked[-1]

    candidates = ("long", "bad", "good")
    config = prompt.Config(model="m", search=1, candidates=candidates, shots=2, **files)
    results = prompt.run(config, remembered)
    assert results["words"] == {"+": ["good"], "-": ["bad"]}
    assert results["tried"][0]["accuracy"] == 1.0
    contexts = {context for context, _ in asked[0].asked if context.endswith("dull 4\nAll in all, it was ")}
    (with_examples,) = contexts
    assert with_examples.count("it was good.\n\n") == with_examples.count("it was bad.\n\n") == 1


def test_labels_without_words_stand_for_themselves(tmp_path: Path) -> None:
    rows = [{"text": "fun", "label": "good"}, {"text": "dull", "label": "bad"}]
    results = prompt.run(prompt.Config(model="m", data=(written(tmp_path / "d.jsonl", rows),)), opened)
    assert results["words"] == {"bad": ["bad"], "good": ["good"]}


def test_long_texts_are_cut_and_counted(tmp_path: Path) -> None:
    data = (written(tmp_path / "long.jsonl", [{"text": "dull" + " fun" * 9, "label": "-"}, ROWS[0]]),)
    config = prompt.Config(
        model="m", data=data, words=WORDS, max_characters=4
    )  # what is left of the first is "dull"
    results = prompt.run(config, opened)
    assert (results["cut"], results["figures"]["calibrated (contextual)"]["accuracy"]) == (2, 1.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"template": ("{text}",)}, r"a template holds \{answer\} once"),
        ({"template": ("{text} {second} {answer}",)}, "has two texts, the rows do not"),
        ({"words": {"+": ("good",)}}, "nothing to tell apart|label '-' is not in the set"),
        ({"words": {"+": ("good",), "-": ("good",)}}, "'good' stands twice"),
        ({"words": {"+": ("good",), "x": ("bad",)}}, "label '-' is not in the set"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_model_is_opened(
    files: Any, changes: dict[str, Any], message: str
) -> None:
    config = prompt.Config(model="m", **{"words": WORDS, **files, **changes})
    with pytest.raises((ConfigError, DataError), match=message):
        prompt.run(config, not_opened)


@pytest.mark.parametrize(
    "changes", [{"search": 1}, {"shots": 1}, {"template": ("{text} {answer}", "{text}: {answer}")}]
)
def test_what_needs_labelled_rows_says_so(changes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--train FILE"):
        prompt.Config(model="m", data=(tmp_path,), **changes)


def test_unlabelled_rows_without_words_are_refused(tmp_path: Path) -> None:
    config = prompt.Config(model="m", data=(written(tmp_path / "d.jsonl", [{"text": "fun"}]),))
    with pytest.raises(ConfigError, match="no row has a label"):
        prompt.run(config, not_opened)


def test_a_model_folder_answers_from_the_command_line(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = written(
        tmp_path / "data.jsonl",
        [{**row, "label": {"+": "up", "-": "down"}[row["label"]]} for row in ROWS[:4]],
    )
    words = f"prompt --model {workspace.model} --data {data} --train {data} --words.up yes --words.down no --shots 2"
    assert (
        main([*words.split(), "--threads", "1", "--out", str(tmp_path / "out"), "--baseline", "false"]) == 0
    )
    shown = capsys.readouterr().out
    assert "uncalibrated: " in shown
    assert "calibrated (contextual): " in shown
    assert len((tmp_path / "out/predictions.jsonl").read_text("utf-8").splitlines()) == 4
