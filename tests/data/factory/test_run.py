"""Recipes over real files: killed at any moment, on any engine, in parts of any size, the result is the same."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from luban.data.factory import catalogue
from luban.data.prepare import Config, run
from luban.data.sources import read_documents
from luban.data.step import Batch, Drop, Outcome
from luban.errors import MachineError
from luban.fetch import fetch_known
from luban.folder import read_json, write_json

RECIPE = """
name: test
stages:
  - name: text
    steps: [normalise, {length: {min_characters: 900}}]
  - name: exact
    steps: [exact, gopher_repetition]
  - name: fuzzy
    steps: [{minhash: {bands: 14, rows: 8}}]
"""


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real chapters, some of them twice and nearly twice, and a few rows that are none."""
    folder = tmp_path_factory.mktemp("raw")
    rows = list(read_documents([fetch_known("web", folder / "web") / "documents.jsonl"]))[:400]
    copies = [row.text + "\nAnd he said it again." for row in rows[:40]]
    lines = [row.to_json() for row in rows] + [json.dumps({"text": text}) for text in copies]
    lines += [rows[number].to_json() for number in range(50)] + ["{broken", '{"no": "text"}']
    random.Random(0).shuffle(lines)
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "rows.jsonl"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE, encoding="utf-8")
    return path


def prepare(raw: Path, recipe: Path, out: Path, **settings: Any) -> dict[str, Any]:
    return run(
        Config(
            **{"data": (raw,), "recipe": str(recipe), "out": out, "part_mb": 0.2, "workers": 2, **settings}
        )
    )


def content(out: Path) -> dict[str, str]:
    """Every file of the run by its hash; only times and the run's own description may differ."""
    files = (path for path in out.rglob("*") if path.is_file() and path.suffix in (".jsonl", ".npy"))
    return {path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def documents(out: Path) -> list[str]:
    """The documents of both sides, whatever files they are in."""
    files = [*out.glob("train-*.jsonl"), out / "holdout.jsonl"]
    return sorted(line for path in files for line in path.read_text("utf-8").splitlines())


def test_every_record_is_kept_or_rejected_with_a_reason_or_in_quarantine(
    raw: Path, recipe: Path, tmp_path: Path
) -> None:
    results = prepare(raw, recipe, tmp_path / "out")
    lines = raw.read_text("utf-8").splitlines()
    rejected = [
        json.loads(line)
        for path in (tmp_path / "out/stages").rglob("rejected/*.jsonl")
        for line in path.open(encoding="utf-8")
    ]
    quarantined = (tmp_path / "out/quarantine.jsonl").read_text("utf-8").splitlines()
    kept = documents(tmp_path / "out")
    assert len(kept) + len(rejected) + len(quarantined) == len(lines)
    assert results["quarantined"] == {"bad_json": 1, "no_text": 1}
    assert sum(results["dropped"].values()) == len(rejected)
    assert {"step", "reason", "value"} == set(rejected[0]["dropped"])
    assert set(results["dropped"]) >= {"short", "duplicate", "near_duplicate"}


@pytest.mark.parametrize("settings", [{"workers": 1}, {"part_mb": 0.05}, {"memory": 0.1}, {"part_mb": 99.0}])
def test_workers_parts_and_memory_do_not_change_the_documents(
    raw: Path, recipe: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    prepare(raw, recipe, tmp_path / "usual")
    prepare(raw, recipe, tmp_path / "other", **settings)
    assert documents(tmp_path / "usual") == documents(tmp_path / "other")


@pytest.mark.slow
@pytest.mark.usefixtures("ray_ends")
def test_ray_and_the_pool_write_the_same_bytes(raw: Path, recipe: Path, tmp_path: Path) -> None:
    prepare(raw, recipe, tmp_path / "pool")
    prepare(raw, recipe, tmp_path / "ray", engine="ray")
    assert content(tmp_path / "pool") == content(tmp_path / "ray")


@pytest.mark.slow
def test_a_run_killed_at_any_moment_goes_on_without_loss_or_doubling(
    raw: Path, recipe: Path, tmp_path: Path
) -> None:
    prepare(raw, recipe, tmp_path / "whole", part_mb=0.02)
    words = [
        "data",
        "prepare",
        "--data",
        str(raw),
        "--recipe",
        str(recipe),
        "--out",
        str(tmp_path / "killed"),
    ]
    command = [sys.executable, "-m", "luban", *words, "--part-mb", "0.02", "--workers", "2"]
    kills, wait = 0, 0.4
    while True:
        process = subprocess.Popen(
            command, start_new_session=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        try:
            process.wait(wait)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            kills, wait = kills + 1, wait + 0.11
            continue
        assert process.returncode == 0
        break
    assert kills >= 3
    assert content(tmp_path / "whole") == content(tmp_path / "killed")


def test_what_a_power_cut_left_short_is_made_again(raw: Path, recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(raw, recipe, out)
    whole = content(out)
    write_json(out / "run.json", read_json(out / "run.json") | {"done": False})
    fuzzy = out / "stages" / "02-fuzzy"
    for path in (out / "stages/00-text/kept/00000.jsonl", fuzzy / "collected/keys-00000.npy"):
        path.write_bytes(path.read_bytes()[:-1])
    (out / "stages/01-exact/stats/00000.json").write_bytes(b"")
    (fuzzy / "stats/00000.json").unlink()
    (fuzzy / "decisions/00000.npy").unlink()
    prepare(raw, recipe, out)
    assert content(out) == whole


@dataclass(frozen=True, kw_only=True)
class Poisoned:
    """Fails on one document, as a bug or a hostile record would."""

    def __call__(self, batch: Batch) -> Sequence[Outcome]:
        if any("In the beginning, God created" in text for text in batch.texts):
            raise RecursionError("too deep")
        return [Drop("short") if len(text) < 900 else None for text in batch.texts]


def test_a_poisoned_document_goes_to_quarantine_and_the_others_go_on(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(catalogue.STEPS, "poisoned", Poisoned)
    (tmp_path / "r.yaml").write_text(
        "stages: [{name: a, steps: [poisoned]}, {name: b, steps: [exact]}]", "utf-8"
    )
    results = prepare(raw, tmp_path / "r.yaml", tmp_path / "out", workers=1)
    assert results["quarantined"]["poisoned_failed"] >= 1
    rows = [json.loads(line) for line in (tmp_path / "out/quarantine.jsonl").open(encoding="utf-8")]
    broken = next(row for row in rows if row["reason"] == "poisoned_failed")
    assert broken["error"] == "RecursionError: too deep"
    assert broken["where"] == "Genesis 1"
    assert "In the beginning" in broken["shown"]
    assert results["train"]["documents"] > 300


def test_a_changed_stage_reruns_only_what_depends_on_it(raw: Path, recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(raw, recipe, out)
    before = {path: path.stat().st_mtime_ns for path in (out / "stages").rglob("kept/*.jsonl")}
    recipe.write_text(RECIPE.replace("rows: 8", "rows: 6"), encoding="utf-8")
    prepare(raw, recipe, out)
    again = {path.parts[-3] for path, changed in before.items() if path.stat().st_mtime_ns != changed}
    assert again == {"02-fuzzy", "03-split"}
    prepare(raw, recipe, tmp_path / "fresh")
    assert content(out) == content(tmp_path / "fresh")


def test_stages_that_are_no_longer_in_the_recipe_leave_no_folder(
    raw: Path, recipe: Path, tmp_path: Path
) -> None:
    prepare(raw, recipe, tmp_path / "out")
    recipe.write_text("stages: [{name: text, steps: [normalise]}]", encoding="utf-8")
    prepare(raw, recipe, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out/stages").iterdir()) == ["00-text", "01-split"]


def test_counts_add_up_from_stage_to_stage(raw: Path, recipe: Path, tmp_path: Path) -> None:
    prepare(raw, recipe, tmp_path / "out")
    folders = sorted((tmp_path / "out/stages").iterdir())
    counts = [read_json(folder / "stats.json") for folder in folders]
    for stage, following in itertools.pairwise(counts):
        assert (stage["documents_kept"], stage["bytes_kept"]) == (
            following["documents_in"],
            following["bytes_in"],
        )
    for stage in counts:
        dropped = sum(row["documents"] for reasons in stage["dropped"].values() for row in reasons.values())
        assert stage["documents_in"] == stage["documents_kept"] + dropped


@dataclass(frozen=True, kw_only=True)
class Deadly:
    """Takes its process with it, as a crash in a library would."""

    def __call__(self, batch: Batch) -> Sequence[Outcome]:
        os.kill(os.getpid(), signal.SIGKILL)
        return [None] * len(batch.documents)


def test_a_worker_that_dies_is_reported_and_the_finished_parts_are_kept(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(catalogue.STEPS, "deadly", Deadly)
    (tmp_path / "r.yaml").write_text(
        "stages: [{name: a, steps: [normalise]}, {name: b, steps: [deadly]}]", "utf-8"
    )
    with pytest.raises(MachineError, match="worker process was killed"):
        prepare(raw, tmp_path / "r.yaml", tmp_path / "out")
    assert list((tmp_path / "out/stages/00-a/stats").glob("*.json"))
