import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pytest
from annotated_types import Ge
from hypothesis import given, settings
from hypothesis import strategies as st

from luban import config
from luban.errors import ConfigError

WHERE = "luban stage"


@dataclass(frozen=True, kw_only=True)
class Inner:
    """How to learn."""

    learning_rate: Annotated[float, Ge(0)] = 1e-3
    """Step size."""
    schedule: Literal["cosine", "linear"] = "cosine"
    """How it falls."""


@dataclass(frozen=True, kw_only=True)
class Outer:
    """A stage."""

    POSITIONAL: ClassVar[str] = "data"

    data: tuple[Path, ...]
    """What to read,
    one or more."""
    name: str = "run"
    """What to call it."""
    steps: Annotated[int, Ge(1)] | None = None
    """How many."""
    fast: bool = False
    """Hurry."""
    optimizer: Inner = field(default_factory=Inner)
    """Nested."""


@dataclass(frozen=True, kw_only=True)
class Single:
    """One positional that is no list."""

    POSITIONAL: ClassVar[str] = "model"

    model: str = "none"
    """Which."""
    seed: int = 0
    """Where from."""


@dataclass(frozen=True, kw_only=True)
class Plain:
    """No positional."""

    seed: int = 0
    """Where from."""


def load(*words: str, cls: type[Any] = Outer) -> Any:
    return config.load(cls, words, where=WHERE)


@pytest.mark.parametrize(
    "words",
    [
        ("data=a", "steps=5"),
        ("--data", "a", "--steps", "5"),
        ("--data=a", "--steps=5"),
        ("a", "--steps", "5"),
        ("--steps", "5", "a"),
        ("steps=5", "a"),
    ],
)
def test_all_ways_to_write_a_setting_say_the_same(words: tuple[str, ...]):
    assert load(*words) == Outer(data=(Path("a"),), steps=5)


def test_dots_and_dashes_reach_nested_settings():
    expected = Inner(learning_rate=0.5, schedule="linear")
    assert load("a", "optimizer.learning_rate=0.5", "--optimizer.schedule", "linear").optimizer == expected
    assert load("a", "--optimizer.learning-rate", "0.5").optimizer.learning_rate == 0.5
    assert load("a", "optimizer.learning_rate=1e-4").optimizer.learning_rate == 1e-4


def test_a_list_takes_all_words_up_to_the_next_option():
    paths = (Path("a"), Path("b"))
    assert load("--data", "a", "b", "--fast").data == paths
    assert load("data=[a, b]").data == paths


def test_one_word_that_is_no_yaml_is_a_list_of_itself():
    assert config.load(Outer, ["data={text}: {answer}"], where=WHERE).data == (Path("{text}: {answer}"),)


def test_bare_words_fill_the_positional_list():
    assert load("a", "b", "--name", "x").data == (Path("a"), Path("b"))
    assert load("a", "b", "name=x") == load("--data", "a", "b", "--name", "x")
    assert load("dir/a.jsonl", "--fast").fast


def test_one_bare_word_fills_a_positional_that_is_no_list():
    assert load("smollm2", "--seed", "3", cls=Single) == Single(model="smollm2", seed=3)
    assert load("--seed", "3", "hf:org/name", cls=Single) == Single(model="hf:org/name", seed=3)


def test_a_second_bare_word_is_refused():
    with pytest.raises(ConfigError, match="cannot read 'b': 'model' is already given"):
        load("a", "b", cls=Single)
    with pytest.raises(ConfigError, match="cannot read 'b': 'data' is already given"):
        load("a", "--name", "x", "b")


def test_a_bare_word_without_a_positional_is_refused_with_a_hint():
    with pytest.raises(ConfigError, match=r"luban stage: cannot read 'word'(.|\n)*key=value or --key value"):
        load("word", cls=Plain)


def test_the_positional_marker_is_no_setting():
    with pytest.raises(ConfigError, match="unknown setting 'POSITIONAL'"):
        load("a", "POSITIONAL=name")
    with pytest.raises(ConfigError, match="unknown setting 'POSITIONAL'"):
        config.build(Outer, {"data": ["a"], "POSITIONAL": "name"}, where=WHERE)


def test_a_flag_is_true_alone_and_takes_a_value():
    assert load("a", "--fast").fast
    assert not load("a", "--fast", "false").fast


def test_none_empties_an_optional_setting():
    assert load("a", "steps=none").steps is None


def test_text_is_never_taken_for_a_number():
    assert load("a", "name=007").name == "007"
    assert load("a", "name=a=b").name == "a=b"


def test_overrides_win_over_files_and_later_files_over_earlier(tmp_path: Path):
    first, second = tmp_path / "1.yaml", tmp_path / "2.json"
    first.write_text(
        "data: [a]\nname: one\noptimizer: {learning_rate: 1, schedule: linear}\n", encoding="utf-8"
    )
    second.write_text('{"name": "二", "optimizer": {"learning_rate": 2}}', encoding="utf-8")
    loaded = load("--config", str(first), "--config", str(second), "steps=3")
    assert loaded == Outer(
        data=(Path("a"),), name="二", steps=3, optimizer=Inner(learning_rate=2, schedule="linear")
    )
    assert load("--config", str(first), "optimizer.learning_rate=7").optimizer.learning_rate == 7


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("a", "nmae=x"), "unknown setting 'nmae'; did you mean 'name'?"),
        (
            ("a", "--learning-rate", "1"),
            "unknown setting 'learning_rate'; did you mean 'optimizer.learning_rate'?",
        ),
        (("a", "optimizer.learning_rat=1"), "did you mean 'optimizer.learning_rate'?"),
        (("a", "name.x=1"), "unknown setting 'name.x'"),
        ((), "setting 'data' is required"),
        (("a", "steps=0"), "setting 'steps' is 0: Input should be greater than or equal to 1"),
        (("a", "steps=many"), "setting 'steps' is 'many': Input should be a valid integer"),
        (
            ("a", "optimizer.schedule=steep"),
            "setting 'optimizer.schedule' is 'steep': Input should be 'cosine'",
        ),
        (("a", "--name"), "--name needs a value"),
        (("--data", "--fast"), "--data needs a value"),
    ],
)
def test_a_wrong_setting_is_refused_with_its_path(words: tuple[str, ...], message: str):
    with pytest.raises(ConfigError) as caught:
        load(*words)
    assert str(caught.value).startswith(WHERE)
    assert message in str(caught.value)


def test_an_unknown_name_in_a_file_is_refused_with_its_path(tmp_path: Path):
    (tmp_path / "c.yaml").write_text("data: [a]\noptimizer: {lerning_rate: 1}\n", encoding="utf-8")
    with pytest.raises(
        ConfigError, match=r"'optimizer\.lerning_rate'; did you mean 'optimizer\.learning_rate'"
    ):
        load("--config", str(tmp_path / "c.yaml"))


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"- a\n", "name: value"), (b"a: [", "not readable"), (b"a: \xff", "not readable")],
)
def test_a_broken_config_file_is_named(tmp_path: Path, content: bytes, message: str):
    (tmp_path / "c.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=rf"c\.yaml: .*{message}"):
        config.read_file(tmp_path / "c.yaml")
    with pytest.raises(ConfigError, match="no such config file"):
        config.read_file(tmp_path / "none.yaml")


@settings(max_examples=60, deadline=None)
@given(
    st.builds(
        Outer,
        data=st.lists(st.text(min_size=1).map(Path)).map(tuple),
        name=st.text(),
        steps=st.none() | st.integers(1, 10**9),
        fast=st.booleans(),
        optimizer=st.builds(
            Inner, learning_rate=st.floats(0, 1e6), schedule=st.sampled_from(["cosine", "linear"])
        ),
    )
)
def test_build_of_to_dict_is_identity(original: Outer):
    assert config.build(Outer, config.to_dict(original), where=WHERE) == original


def test_leaves_are_all_settings_with_their_words():
    found = {name: doc for name, _, doc in config.leaves(Outer)}
    assert found["data"] == "What to read, one or more."
    assert found["optimizer.learning_rate"] == "Step size."
    assert list(found) == ["data", "name", "steps", "fast", "optimizer.learning_rate", "optimizer.schedule"]


def test_settings_of_a_base_class_keep_their_words():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Child(Plain):
        """More."""

        more: int = 1
        """Extra."""

    assert config.field_docs(Child) == {"seed": "Where from.", "more": "Extra."}


def test_help_shows_usage_choices_defaults_and_words():
    page = config.help_text(Outer, stage="stage")
    assert page.startswith("usage: luban stage DATA... [--config FILE.yaml]")
    assert "A stage." in page
    assert "--data PATH...  (required)\n        What to read, one or more." in page
    assert "--name TEXT  [run]" in page
    assert "--optimizer.schedule cosine|linear  [cosine]" in page
    assert "POSITIONAL" not in page


def test_help_brackets_a_positional_that_may_be_left_out():
    assert config.help_text(Single, stage="stage").startswith("usage: luban stage [MODEL] [--config")
    assert config.help_text(Plain, stage="stage").startswith("usage: luban stage [--config")


def test_equal_values_have_one_canonical_text():
    assert config.canonical_json({"b": 1, "a": "木"}) == config.canonical_json({"a": "木", "b": 1})
    assert config.canonical_json({"a": [1, "木"]}) == '{"a":[1,"木"]}'


def test_below_a_field_of_free_names_dots_descend_too() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Free:
        steps: dict[str, dict[str, Any]] = field(default_factory=dict)

    words = ["steps.language.keep=[zh]", "--steps.minhash.threshold", "0.7", "steps.minhash.ngram=5"]
    loaded = config.load(Free, words, where="test")
    assert loaded.steps == {"language": {"keep": ["zh"]}, "minhash": {"threshold": 0.7, "ngram": 5}}
