"""The stage `eval` on a real tiny model, through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from luban.cli import main
from tests.conftest import Workspace


def test_the_table_holds_the_model_its_baselines_and_the_questions(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["eval", "--model", str(workspace.model), "--data", str(workspace.documents)]
    words += ["--baselines", str(workspace.documents), "--questions", str(workspace.rows)]
    words += ["--max-questions", "4", "--out", str(tmp_path / "eval"), "--threads", "1", "--json"]
    assert main(words) == 0
    results = json.loads(capsys.readouterr().out)
    assert set(results["bits_per_byte"]) == {"model", "uniform", "unigram", "bigram", "5-gram", "gzip"}
    # A random model knows nothing: it is as good as uniform.
    bits = {name: row["per_byte"] for name, row in results["bits_per_byte"].items()}
    assert bits["model"] == pytest.approx(bits["uniform"], rel=0.02)
    assert results["questions"]["asked"] == 4
    assert json.loads((tmp_path / "eval" / "results.json").read_text()) == results
    assert main(words) == 0  # finished: the same results, without measuring again
    assert json.loads(capsys.readouterr().out) == results


def test_nothing_to_measure_is_said(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "--model", str(workspace.model)]) == 2
    assert "--data DOCUMENTS or --questions FILE" in capsys.readouterr().err
