"""The stage as a whole: real text, real trainings in small."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from luban.ablate import Config, run
from luban.data.document import Document
from luban.device import DeviceConfig
from luban.errors import ConfigError, DataError
from luban.fetch import bible
from luban.folder import read_json
from luban.inference.local import open_lm
from tests.conftest import WEB

SMALL = {
    "vocab": 320,
    "tokens": 50_000,
    "layers": 1,
    "dim": 64,
    "per_device_train_batch_size": 2,
    "max_length": 64,
    "learning_rate": 0.01,
    "seeds": (0,),
    "threads": 1,
    "max_documents": 3,
}


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Chapters of two books as corpora, and of a third as held-out text."""
    folder = tmp_path_factory.mktemp("texts")
    books = {"mark": "Mark", "john": "John", "holdout": "Luke"}
    chapters = [(name, "\n".join(verses)) for name, verses in bible.chapters(WEB)]
    for file, book in books.items():
        lines = [
            Document(id=name, text=text, source=book).to_json()
            for name, text in chapters
            if name.split()[0] == book
        ]
        (folder / f"{file}.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return folder


def test_what_is_planted_often_is_learnt_by_heart_and_what_is_not_is_not(texts: Path, tmp_path: Path) -> None:
    config = Config(
        data=(f"john:{texts / 'john.jsonl'}",),
        holdout=texts / "holdout.jsonl",
        out=tmp_path / "out",
        repeats=(300,),
        probes=2,
        prefix=8,
        continuation=8,
        **SMALL,
    )
    results = run(config, lambda folder: open_lm(folder, DeviceConfig(threads=1)))
    control, often = results["memorisation"]["rows"]
    assert (control["repeats"], often["repeats"]) == (0, 300)
    assert often["gain"] > 2
    assert abs(control["gain"]) < 0.5
    assert often["verbatim"] >= 1
    assert control["verbatim"] == 0
    budget = 50_000 // 128 * 128
    models = config.out / "models"
    assert {
        read_json(models / f"{name}-seed0" / "run.json")["metrics"]["tokens"] for name in results["variants"]
    } == {budget}
    assert results["tokens"] == budget
    assert results["variants"]["john"]["per_byte"] < 8
    assert (config.out / "ablation.svg").read_text("utf-8").count("times planted") >= 1
    assert read_json(config.out / "results.json") == json.loads(json.dumps(results))


def ablate(*words: object) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "luban", "data", "ablate", *map(str, words), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
def test_a_second_run_trains_only_what_is_missing(texts: Path, tmp_path: Path) -> None:
    words = ("--data", f"mark:{texts / 'mark.jsonl'}", f"john:{texts / 'john.jsonl'}", "--mixtures", "mark:1,john:3",
             "--duplicate", 4, "--holdout", texts / "holdout.jsonl", "--out", tmp_path / "out", "--tokens", 20_000,
             "--layers", 1, "--dim", 32, "--vocab", 320, "--threads", 1, "--repeats", 1, 20, "--probes", 2)  # fmt: skip
    code, first, said = ablate(*words, "--seeds", 0)
    assert code == 0, said
    models = tmp_path / "out" / "models"
    names = ["mark", "john", "mark-1+john-3", "john-x4", "john+probes"]
    assert sorted(path.name for path in models.iterdir()) == sorted(f"{name}-seed0" for name in names)
    written = {path: path.stat().st_mtime_ns for path in models.rglob("model.safetensors")}
    shutil.rmtree(models / "mark-seed0")

    code, second, said = ablate(*words, "--seeds", 0)
    assert code == 0, said
    assert json.loads(second) == json.loads(first)  # stdout holds the results alone, and they come out again
    again = {path: path.stat().st_mtime_ns for path in models.rglob("model.safetensors")}
    assert {path for path in written if again[path] != written[path]} == {
        path for path in written if "mark-seed0" in path.parts
    }

    code, third, said = ablate(*words, "--seeds", 0, 1)
    assert code == 0, said
    row = json.loads(third)["variants"]["john"]
    assert row["by_seed"][0] == json.loads(first)["variants"]["john"]["per_byte"]
    assert row["low"] < row["per_byte"] < row["high"]
    assert len(list(models.iterdir())) == 10


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seeds": ()}, "seeds that differ"),
        ({"seeds": (1, 1)}, "seeds that differ"),
        ({"mixtures": ("john:1,mark:1", "john:1,mark:1")}, "two variants are called 'john-1\\+mark-1'"),
        ({"data": ("john:missing.jsonl",)}, "no such file or folder"),
    ],
)
def test_settings_that_contradict_each_other_are_refused_before_any_training(
    texts: Path, tmp_path: Path, changes: dict[str, object], said: str
) -> None:
    data = tuple(f"{name}:{texts / name}.jsonl" for name in ("mark", "john"))
    settings = {"data": data, "holdout": texts / "holdout.jsonl", "out": tmp_path / "out", **SMALL, **changes}
    with pytest.raises((ConfigError, DataError), match=said):
        run(Config(**settings), open_lm)
    assert not (tmp_path / "out").exists()


def test_a_corpus_may_not_be_called_what_the_stage_makes_itself(texts: Path, tmp_path: Path) -> None:
    settings = {"holdout": texts / "holdout.jsonl", "out": tmp_path / "out", **SMALL}
    for names, duplicate in ((("probes",), ()), (("john-x2-few", "john"), (2,))):
        data = tuple(f"{name}:{texts / 'john.jsonl'}" for name in names)
        with pytest.raises(ConfigError, match=f"two variants are called '{names[0]}'"):
            run(Config(data=data, duplicate=duplicate, **settings), open_lm)
