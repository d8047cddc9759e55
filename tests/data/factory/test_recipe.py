"""A recipe is checked whole before anything runs, and says where it is wrong."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import yaml

from luban.data.document import Document
from luban.data.factory.catalogue import STEPS
from luban.data.factory.only import Only
from luban.data.factory.recipe import Recipe, load_recipe, presets
from luban.data.step import Batch, Drop
from luban.data.steps.length import Length
from luban.errors import ConfigError


def recipe(tmp_path: Path, text: str) -> Recipe:
    path = tmp_path / "r.yaml"
    path.write_text(text, encoding="utf-8")
    return load_recipe(str(path))


@pytest.mark.parametrize("name", presets())
def test_a_preset_written_out_is_the_same_recipe(name: str, tmp_path: Path) -> None:
    preset = load_recipe(name)
    again = recipe(tmp_path, yaml.safe_dump(preset.to_dict()))
    assert again == preset
    assert again.key("x") == preset.key("x")
    assert preset.about


def test_the_presets_of_the_scope_are_there() -> None:
    assert {"refinedweb", "slimpajama", "roots", "ccnet", "gopher", "code", "zh-web"} <= set(presets())


@pytest.mark.parametrize("name", STEPS)
def test_every_setting_of_every_step_is_documented(name: str) -> None:
    from luban.config import leaves

    limits = ("min_", "max_")  # a limit's name says what it limits
    found = {key.rpartition(".")[2]: doc for key, _, doc in leaves(STEPS[name])}
    assert not [key for key, doc in found.items() if not doc and not key.startswith(limits)]


def test_a_changed_setting_changes_the_keys_from_its_stage_on() -> None:
    def keys(**changes: dict[str, float]) -> list[str]:
        stages = load_recipe("gopher", changes).stages
        return list(itertools.accumulate(stages, lambda before, stage: stage.key(before), initial="raw"))[1:]

    same = [one == other for one, other in zip(keys(), keys(minhash={"threshold": 0.7}), strict=True)]
    assert same == [True, True, True, True, False]


def test_a_changed_file_that_a_step_names_changes_its_key(tmp_path: Path) -> None:
    words = tmp_path / "words.jsonl"
    words.write_text('{"text": "one two three four five six seven eight nine"}\n', encoding="utf-8")
    text = f"stages: [{{name: a, steps: [normalise]}}, {{name: b, steps: [{{decontaminate: {{against: [{words}]}}}}]}}]"
    before = recipe(tmp_path, text).key("x")
    words.write_text('{"text": "nine eight seven six five four three two one"}\n', encoding="utf-8")
    assert recipe(tmp_path, text).key("x") != before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: x", "a recipe has `stages`"),
        (
            "stages: [{name: a, steps: [lenght]}]",
            r"stages\[0\]: unknown step 'lenght'; did you mean 'length'",
        ),
        ("stages: [{name: a, steps: [{length: {min: 3}}]}]", r"stages\[0\]\.length: unknown setting 'min'"),
        (
            "stages: [{name: a, steps: [length, exact]}]",
            "'exact' needs the whole corpus, so it begins a stage",
        ),
        ("stages: [{name: a, steps: [exact]}]", "'exact' needs documents that are read"),
        ("stages: [{steps: [length]}]", "a stage is {name, steps"),
        ("stages: [{name: a, steps: [{length: 3}]}]", "a step is `name` or"),
        ("stages: [{name: a, steps: [{length: {}, only: en}]}]", "a step is `name` or"),
    ],
)
def test_a_wrong_recipe_says_where_and_what(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        recipe(tmp_path, text)


def test_unknown_presets_and_changes_name_the_choices() -> None:
    with pytest.raises(ConfigError, match=r"unknown recipe 'goper'; did you mean 'gopher'"):
        load_recipe("goper")
    with pytest.raises(ConfigError, match="no step 'c4' to change"):
        load_recipe("gopher", {"c4": {"min_sentences": 2}})


def test_a_step_for_one_language_leaves_the_others_alone() -> None:
    texts = {"en": "short", "zh": "短", "": "kurz"}
    batch = Batch(
        [Document(id=k, text=t, source="s", meta={"language": k} if k else {}) for k, t in texts.items()]
    )
    step = Only(Length(min_characters=100), ("zh",))
    assert step(batch) == [None, Drop("short", 1.0), None]
