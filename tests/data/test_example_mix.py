"""Several files of rows as the loader's sources: held-out rows apart, shares of the tokens kept."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from luban.data.conversations import Examples, read_examples
from luban.data.example_mix import ALL, check_weights, sources, split
from luban.data.loader import Loader, Source
from luban.errors import ConfigError, DataError
from tests import tiny


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A large file of rows about a and a small one about b."""
    folder = tmp_path_factory.mktemp("rows")
    for name, count in (("a", 90), ("b", 10)):
        rows = [
            json.dumps({"prompt": f"{name} {number:02d}?", "completion": f" {name}"})
            for number in range(count)
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return [folder / "a.jsonl", folder / "b.jsonl"]


@pytest.fixture(scope="module")
def examples(paths: list[Path]) -> Examples:
    return read_examples(paths, tiny.tokenizer())


def drawn(parts: list[Source], steps: int = 100) -> Counter[str]:
    """How many tokens a loader draws of each file, told by the first letter of a row."""
    loader = Loader(parts, batch=4, context=16, packing="pad")
    letters = Counter[str]()
    for _ in range(steps):
        for row in next(loader).tokens:
            text = tiny.tokenizer().decode(row.tolist())
            letters[text[0]] += len(tiny.tokenizer().encode(text)) + 1
    return letters


def test_without_weights_all_files_are_one_source(examples: Examples, paths: list[Path]) -> None:
    train, held = split(examples)
    (only,) = sources(examples, train, paths)
    assert (only.name, len(only.examples), held) == (ALL, 100, [])


def test_weights_are_shares_of_what_is_drawn(examples: Examples, paths: list[Path]) -> None:
    letters = drawn(sources(examples, range(100), paths, weights=(1, 3)))
    assert letters["b"] / letters.total() == pytest.approx(0.75, abs=0.02)


def test_temperature_lifts_small_files_by_the_root_of_their_size(
    examples: Examples, paths: list[Path]
) -> None:
    large, small = (sum(len(examples[n][0]) for n in numbers) for numbers in (range(90), range(90, 100)))
    ratio = (large / small) ** 0.5
    assert 3 < ratio < 3.5  # of about 9 : 1
    letters = drawn(sources(examples, range(100), paths, temperature=2.0))
    assert letters["b"] / letters.total() == pytest.approx(1 / (1 + ratio), abs=0.02)


def test_held_out_rows_are_never_trained_on_and_of_any_file(examples: Examples, paths: list[Path]) -> None:
    train, held = split(examples, validation=0.3, seed=1)
    assert (len(train), len(held)) == (70, 30)
    assert sorted([*train, *held]) == list(range(100))
    assert {number < 90 for number in held} == {True, False}
    parts = sources(examples, train, paths, weights=(1, 1))
    assert sum(len(part.examples) for part in parts) == 70


def test_rows_can_be_limited_and_are_drawn_with_the_seed(examples: Examples) -> None:
    train, held = split(examples, validation=0.5, seed=2, max_rows=10)
    assert (len(train), len(held)) == (5, 5)
    assert split(examples, max_rows=10, seed=2) != split(examples, max_rows=10, seed=3)


def test_each_source_holds_the_rows_of_its_own_file(examples: Examples, paths: list[Path]) -> None:
    parts = sources(examples, range(100), paths, weights=(1, 1))
    assert [(part.name, len(part.examples)) for part in parts] == [(str(paths[0]), 90), (str(paths[1]), 10)]
    first = parts[1].examples[0]
    assert not isinstance(first, np.ndarray)
    assert first[0].tolist() == examples[90][0].tolist()


def test_a_file_of_which_no_row_is_left_to_train_on_is_refused(examples: Examples, paths: list[Path]) -> None:
    with pytest.raises(DataError, match=r"b\.jsonl: no row of it is left to train on"):
        sources(examples, range(90), paths, weights=(1, 1))


def test_weights_that_do_not_fit_the_files_are_refused() -> None:
    two = [Path("a"), Path("b")]
    with pytest.raises(ConfigError, match="1 weights for 2 paths"):
        check_weights(two, (1.0,))
    with pytest.raises(ConfigError, match="shares by temperature are not"):
        check_weights(two, (1.0, 2.0), 2.0)
    with pytest.raises(ConfigError, match="named twice"):
        check_weights([Path("a"), Path("a")], (1.0, 2.0))
