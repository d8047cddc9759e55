"""The stage `models`: every family and every published size, each with what it is."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from luban.catalogue import Config, run
from luban.cli import main
from luban.models import FAMILIES, hf
from luban.models.presets import PRESETS
from tests import tiny


@pytest.fixture(scope="module")
def listed() -> dict[str, dict[str, object]]:
    return {row["name"]: row for row in run(Config())["families"]}


def test_every_family_is_listed_with_its_kind_positions_and_paper(
    listed: dict[str, dict[str, object]],
) -> None:
    assert list(listed) == list(FAMILIES)
    for name, family in FAMILIES.items():
        told = (listed[name]["kind"], listed[name]["positions"], listed[name]["paper"])
        assert told == (family.kind, family.positions, family.paper)
        assert re.search(r"\b(19|20)\d\d\b", family.paper), f"{name}: a paper has a year"


def test_parameters_are_those_of_a_new_model_of_the_stated_shape(
    listed: dict[str, dict[str, object]],
) -> None:
    attention, mlp = 4 * 256 * 256, 3 * 256 * 704  # the MLP is 8/3 of 256, rounded up to 32s
    assert listed["llama"]["parameters"] == 4096 * 256 + 4 * (attention + mlp + 2 * 256) + 256


def test_the_cache_of_a_token_is_told_where_there_is_one(listed: dict[str, dict[str, object]]) -> None:
    assert listed["llama"]["cache_bytes_per_token"] == 2 * 4 * 256 * 4
    assert listed["lstm"]["cache_bytes_per_token"] is None


def test_a_folder_is_told_of_by_its_own_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hf.save(tiny.gpt2(), tmp_path)
    (tmp_path / "model.safetensors").unlink()  # the config is enough
    assert main(["models", str(tmp_path), "--json"]) == 0
    row = json.loads(capsys.readouterr().out)["model"]
    assert (row["family"], row["context"], row["positions"]) == ("gpt2", 64, "learned")
    assert row["parameters"] == sum(p.numel() for p in tiny.gpt2().parameters())


def test_a_published_size_is_told_of_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "smollm2-135m"]) == 0
    shown = capsys.readouterr().out
    assert "134,515,008" in shown
    assert "arXiv:2502.02737" in shown


def test_every_size_names_its_paper() -> None:
    for name, preset in PRESETS.items():
        assert re.match(r"\w.* \d{4}", preset.__doc__ or ""), name


def test_an_unknown_name_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "smollm2-135"]) == 2
    assert "did you mean 'smollm2-135m'?" in capsys.readouterr().err


def test_the_tables_fit_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 100
    for name in (*FAMILIES, *PRESETS):
        assert f" {name} " in shown
