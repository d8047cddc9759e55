"""The stage `data expand`: labelled rows asked in several ways and styles."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from luban.data import expand
from luban.data.conversations import read_examples
from luban.data.expand import STYLES, Config
from luban.data.task_template import open_templates, shipped
from luban.errors import ConfigError, DataError
from tests import tiny

NONE = dict.fromkeys(STYLES, 0)
OWN = """
about: colours
fields: [thing, label]
labels: {r: red, g: green}
direct:
  - {ask: "What colour is {{ thing }}?", answer: "{{ label }}"}
  - {ask: "{{ thing }}: {{ choices | join('/') }}?", answer: "{{ label }}!"}
chain_of_thought:
  - {ask: "Why, and what colour is {{ thing }}?", answer: "{{ rationale }} So {{ label }}."}
"""
THINGS = [("a leaf", "g"), ("blood", "r"), ("grass", "green"), ("a brick", "r"), ("a frog", "g")]
COMPLETE: dict[str, list[dict[str, Any]]] = {
    "arithmetic": [{"question": "2+2?", "answer": 4, "rationale": "Two and two are four."}],
    "choice": [{"question": "2+2?", "choices": ["3", "4"], "answer": "4", "rationale": "Count."}],
    "definition": [{"word": "adze", "definition": "a tool to shape wood"}],
    "inference": [
        {"premise": "It rains.", "hypothesis": "It is wet.", "label": 0, "rationale": "Rain is wet."}
    ],
    "paraphrase": [{"first": "He ran.", "second": "He was running.", "label": 1}],
    "question": [
        {"question": "Who?", "answer": "Lu Ban", "context": "Lu Ban did.", "rationale": "It says so."}
    ],
    "sentiment": [{"text": "Good work.", "label": "pos", "rationale": "It praises."}],
    "summary": [{"text": "Long.", "summary": "Short."}],
    "topic": [{"text": "They scored.", "label": "sport"}],
}


def write_rows(path: Path, rows: list[Any]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


@pytest.fixture
def colours(tmp_path: Path) -> Config:
    (tmp_path / "colours.yaml").write_text(OWN, encoding="utf-8")
    rows = [{"thing": thing, "label": label} for thing, label in THINGS]
    return Config(
        data=(write_rows(tmp_path / "things.jsonl", rows),),
        templates=(str(tmp_path / "colours.yaml"),),
        out=tmp_path / "out",
    )


def made(config: Config, **changes: Any) -> list[dict[str, Any]]:
    config = dataclasses.replace(config, **changes)
    expand.run(config)
    lines = (config.out / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def asked(row: dict[str, Any]) -> str:
    return row["messages"][0]["content"]


def answered(row: dict[str, Any]) -> str:
    return row["messages"][1]["content"]


def test_a_row_is_asked_and_answered_in_the_templates_words(colours: Config) -> None:
    rows = made(colours, **(NONE | {"zero_shot": 2}))
    of_leaf = {(asked(row), answered(row)) for row in rows if "leaf" in asked(row)}
    assert of_leaf == {("What colour is a leaf?", "green"), ("a leaf: red/green?", "green!")}
    assert len(rows) == 2 * len(THINGS)


def test_worked_examples_are_of_other_rows_and_answered_and_the_last_is_not(colours: Config) -> None:
    rows = made(colours, **(NONE | {"few_shot": 1}), shots=2)
    assert len(rows) == len(THINGS)
    for row, (thing, _) in zip(rows, THINGS, strict=True):
        blocks = asked(row).split("\n\n")
        assert len(blocks) == 3
        assert [block.count(thing) for block in blocks] == [0, 0, 1]
        assert all(block.split("\nA: ")[1].rstrip("!") in ("red", "green") for block in blocks[:2])
        assert blocks[2].endswith("\nA:")
        assert answered(row).rstrip("!") in ("red", "green")


def test_reasons_precede_the_answer_where_rows_have_them(colours: Config) -> None:
    rows = [{"thing": "a leaf", "label": "g", "rationale": "It grows."}, {"thing": "blood", "label": "r"}]
    write_rows(colours.data[0], rows)
    (row,) = made(colours, **(NONE | {"chain_of_thought": 3}))
    assert (asked(row), answered(row)) == ("Why, and what colour is a leaf?", "It grows. So green.")


def test_reasons_can_stand_in_worked_examples_too(colours: Config) -> None:
    rows = [{"thing": thing, "label": label, "rationale": f"See {thing}."} for thing, label in THINGS]
    write_rows(colours.data[0], rows)
    results = made(colours, **(NONE | {"few_shot_chain": 1}), shots=1)
    assert len(results) == len(THINGS)
    assert all(asked(row).count("See ") == 1 and answered(row).startswith("See ") for row in results)


def test_the_same_seed_makes_the_same_rows_and_another_one_others(colours: Config, tmp_path: Path) -> None:
    first = made(colours)
    assert made(colours, out=tmp_path / "again") == first
    assert made(colours, out=tmp_path / "other", seed=1) != first
    assert Counter(row["style"] for row in first) == {"zero_shot": 5, "few_shot": 5}


def test_a_wrong_row_is_rejected_with_its_reason_and_the_others_are_made(colours: Config) -> None:
    rows = [{"thing": "a leaf", "label": "g"}, {"thing": "snow", "label": "white"}, {"thing": ""}, ["x"]]
    write_rows(colours.data[0], rows)
    results = made(colours, **(NONE | {"zero_shot": 1}))
    assert len(results) == 1
    lines = (colours.out / "rejected.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["reason"].partition(",")[0] for line in lines] == [
        "the label 'white' is outside of the set; choose from: g",
        "there is no 'thing'",
        "a labelled row is an object",
    ]
    assert json.loads(lines[0])["where"] == f"{colours.data[0]}:2"


def test_a_row_that_cannot_be_written_down_is_rejected(colours: Config) -> None:
    write_rows(colours.data[0], [{"thing": "\ud83d", "label": "g"}, {"thing": "a leaf", "label": "g"}])
    assert len(made(colours, **(NONE | {"zero_shot": 1}))) == 1
    (line,) = (colours.out / "rejected.jsonl").read_text(encoding="utf-8").splitlines()
    assert "surrogates not allowed" in json.loads(line)["reason"]
    assert json.loads(line)["row"] == {"thing": "\ud83d", "label": "g"}


def test_columns_and_labels_are_the_users_own(colours: Config, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("what;hue\nsnow;0\ncoal;1\n", encoding="utf-8")
    rows = made(
        colours,
        data=(tmp_path / "table.csv",),
        columns={"thing": "what", "label": "hue"},
        labels={"0": "white", "1": "black"},
        **(NONE | {"zero_shot": 2}),
    )
    assert {answered(row).rstrip("!") for row in rows} == {"white", "black"}
    assert "snow: white/black?" in {asked(row) for row in rows}


def test_without_labels_the_choices_are_those_in_the_data(tmp_path: Path) -> None:
    rows = [{"text": f"story {number}", "label": label} for number, label in enumerate(["war", "art", "war"])]
    config = Config(
        data=(write_rows(tmp_path / "t.jsonl", rows),), templates=("topic",), out=tmp_path / "out"
    )
    questions = [asked(row) for row in made(config, **(NONE | {"zero_shot": 5}))]
    assert any("A. art\nB. war" in question for question in questions)


def test_data_of_which_no_row_fits_are_refused_and_nothing_is_written(colours: Config) -> None:
    write_rows(colours.data[0], [{"thin": "a leaf", "label": "g"}])
    with pytest.raises(
        DataError, match=r"none of 1 rows .*things\.jsonl:1: there is no 'thing'.*did you mean 'thin'"
    ):
        expand.run(colours)
    assert not colours.out.exists()
    with pytest.raises(ConfigError, match="nothing is asked for"):
        expand.run(dataclasses.replace(colours, **NONE))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1]", "holds `name: value` lines"),
        ("a: [", "not readable as YAML"),
        ("fields: [a]", "no way to ask"),
        ("dirct: []", "unknown entry 'dirct'; did you mean 'direct'"),
        ("direct: [{ask: x}]", "direct 1 needs 'ask' and 'answer' and nothing else"),
        ("direct: [{ask: '{{ x', answer: y}]", "direct 1, ask: line 1:"),
    ],
)
def test_a_malformed_template_file_is_refused(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"own\.yaml: ") as caught:
        open_templates(str(tmp_path / "own.yaml"))
    assert message in str(caught.value)


def test_unknown_templates_are_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="no templates 'sentimant'; did you mean 'sentiment'"):
        open_templates("sentimant")


def test_a_template_cannot_reach_out_of_its_sandbox(colours: Config) -> None:
    own = Path(colours.templates[0])
    evil = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    own.write_text(f'fields: [thing]\ndirect: [{{ask: "{evil}", answer: "x"}}]', encoding="utf-8")
    with pytest.raises(DataError, match="unsafe"):
        expand.run(colours)


def test_a_field_that_a_template_uses_and_rows_lack_is_named(colours: Config) -> None:
    Path(colours.templates[0]).write_text('direct: [{ask: "{{ colour }}?", answer: "x"}]', encoding="utf-8")
    with pytest.raises(DataError, match=r"template 'colours' direct 1 fails: 'colour' is undefined"):
        expand.run(colours)


@pytest.mark.parametrize("name", shipped())
def test_every_shipped_template_puts_a_complete_row_into_words(name: str, tmp_path: Path) -> None:
    task = open_templates(name)
    ways = {manner: len(found) for manner, found in task.ways.items()}
    assert ways["direct"] >= 3
    data = write_rows(tmp_path / "rows.jsonl", COMPLETE[name])
    config = Config(data=(data,), templates=(name,), out=tmp_path / "out", zero_shot=9, chain_of_thought=9)
    rows = made(config)
    assert Counter(row["style"] for row in rows) == {
        style: ways[manner]
        for style, manner in (("zero_shot", "direct"), ("chain_of_thought", "chain_of_thought"))
        if manner in ways
    }
    assert len({asked(row) for row in rows}) == len(rows)
    assert not any("{" in asked(row) + answered(row) for row in rows)


def test_the_folder_is_what_sft_reads(colours: Config) -> None:
    count = len(made(colours))
    assert len(read_examples([colours.out], tiny.tokenizer())) == count


def test_the_template_file_on_the_page_works(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "sft-data.md").read_text(encoding="utf-8")
    (tmp_path / "urgent.yaml").write_text(page.split("```yaml\n")[1].split("```")[0], encoding="utf-8")
    data = write_rows(tmp_path / "mails.jsonl", [{"text": "Fire!", "label": 1, "rationale": "It burns."}])
    config = Config(
        data=(data,), templates=(str(tmp_path / "urgent.yaml"),), out=tmp_path / "out", zero_shot=2
    )
    assert {(asked(row), answered(row)) for row in made(config)} == {
        ("Fire!\nDoes this have to be answered today?", "urgent"),
        ("Choose: urgent or can wait.\nFire!", "urgent"),
        ("Fire!\nThink first: is it urgent?", "It burns. So it is urgent."),
    }
