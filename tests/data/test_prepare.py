"""`data prepare`: what goes in comes out clean, counted, and on one side only."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from luban.data.prepare import Config, run, show
from luban.data.sources import read_documents
from luban.errors import ConfigError, DataError
from luban.folder import AlreadyDone

TEXTS = [f"document {number}: 第{number}篇" for number in range(300)]


def write(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


def prepare(tmp_path: Path, texts: list[str], name: str = "out", **settings: Any) -> dict[str, Any]:
    raw = tmp_path / f"{name}.jsonl"
    if not raw.exists():  # the time of a file's last change is a part of what a run knows it by
        write(raw, texts)
    return run(Config(data=(raw,), out=tmp_path / name, workers=1, **settings))


def sides(folder: Path) -> tuple[set[str], set[str]]:
    train, held = (list(read_documents([folder], holdout=holdout)) for holdout in (False, True))
    assert len({d.id for d in train + held}) == len(train) + len(held)
    return {d.text for d in train}, {d.text for d in held}


@pytest.mark.parametrize("holdout", [0.1, 30])
def test_train_and_holdout_are_disjoint_and_together_everything(tmp_path: Path, holdout: float) -> None:
    results = prepare(tmp_path, TEXTS + TEXTS[:50], holdout=holdout)
    train, held = sides(tmp_path / "out")
    assert train | held == set(TEXTS)
    assert not train & held
    assert results["dropped"] == {"duplicate": 50}
    assert results["train"]["documents"] == len(train)
    assert len(held) == 30 if holdout == 30 else 15 <= len(held) <= 45


@pytest.mark.parametrize("holdout", [0.1, 30])
def test_the_order_of_the_input_does_not_move_a_document(tmp_path: Path, holdout: float) -> None:
    shuffled = random.Random(1).sample(TEXTS, len(TEXTS))
    prepare(tmp_path, TEXTS, "a", holdout=holdout)
    prepare(tmp_path, shuffled, "b", holdout=holdout)
    assert sides(tmp_path / "a") == sides(tmp_path / "b")


def test_another_seed_holds_out_other_documents(tmp_path: Path) -> None:
    prepare(tmp_path, TEXTS, "a", holdout=30)
    prepare(tmp_path, TEXTS, "b", holdout=30, seed=1)
    assert sides(tmp_path / "a")[1] != sides(tmp_path / "b")[1]


def test_documents_are_cleaned_and_every_drop_is_counted(tmp_path: Path) -> None:
    texts = ["a\0 clean text\r\n", "   ", "short", "a clean text", "一段足够长的中文文本"]
    results = prepare(tmp_path, texts, steps={"length": {"min_characters": 8}}, holdout=0)
    assert sides(tmp_path / "out") == ({"a clean text", "一段足够长的中文文本"}, set())
    assert results["dropped"] == {"duplicate": 1, "short": 2}
    assert results["cleaned"] == {"blank_lines": 1, "invisible": 1, "newline": 1, "trailing_space": 1}
    assert results["train"] == {"documents": 2, "chars": 22}


def test_repeated_ids_are_made_unique_and_counted(tmp_path: Path) -> None:
    rows = [
        {"id": 1, "text": "a"},
        {"id": 1, "text": "b"},
        {"id": "1#2", "text": "c"},
        {"id": 1, "text": "d"},
    ]
    raw = tmp_path / "raw.jsonl"
    raw.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    results = run(Config(data=(raw,), out=tmp_path / "out", holdout=0))
    ids = [d.id for d in read_documents([tmp_path / "out"])]
    assert len(set(ids)) == 4
    assert ids[::2] == ["1", "1#2"]
    assert results["cleaned"] == {"renamed": 2}


def test_a_bad_record_goes_to_quarantine_with_its_place_and_reason(tmp_path: Path) -> None:
    raw = tmp_path / "raw.jsonl"
    raw.write_text('{"text": "a"}\n{"text":\n{"text": "b"}\n{"no": 1}\n', encoding="utf-8")
    results = run(Config(data=(raw,), out=tmp_path / "out", holdout=0))
    rows = (tmp_path / "out/quarantine.jsonl").read_text(encoding="utf-8").splitlines()
    assert results["quarantined"] == {"bad_json": 1, "no_text": 1}
    assert json.loads(rows[0]) == {
        "reason": "bad_json",
        "where": f"{raw}:2",
        "error": "not valid JSON: Expecting value at column 9",
        "shown": '{"text":',
    }
    assert sides(tmp_path / "out")[0] == {"a", "b"}


def test_a_bad_record_stops_the_run_when_that_is_asked_for(tmp_path: Path) -> None:
    raw = tmp_path / "raw.jsonl"
    raw.write_text('{"text": "a"}\n{"text":\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"raw\.jsonl:2: not valid JSON"):
        run(Config(data=(raw,), out=tmp_path / "out", on_error="raise"))
    assert not list((tmp_path / "out").glob("*.jsonl"))


def test_an_empty_corpus_is_an_error_that_says_why(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no document is left to train on: 0 held out; 3 short"):
        prepare(tmp_path, ["abc", "\0", "木"], steps={"length": {"min_characters": 7}}, holdout=0)


def test_a_holdout_that_takes_everything_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"2 held out; none dropped(.|\n)*a smaller --holdout"):
        prepare(tmp_path, ["a", "b"], holdout=2)


def test_nothing_held_out_is_said_on_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare(tmp_path, ["only one"], holdout=0.001)
    assert "none was held out" in capsys.readouterr().err


def test_the_same_run_again_is_already_done(tmp_path: Path) -> None:
    prepare(tmp_path, TEXTS)
    with pytest.raises(AlreadyDone):
        prepare(tmp_path, TEXTS)


def test_the_page_shows_counts_by_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    show(prepare(tmp_path, ["a", "a", "b"], holdout=0))
    page = capsys.readouterr().out
    assert "2 documents" in page
    assert "duplicate 1" in page


def test_a_split_that_the_rows_bring_is_kept(tmp_path: Path) -> None:
    rows = [{"text": f"document {n}", "split": ("train", "test")[n % 2]} for n in range(40)]
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    run(Config(data=(source,), out=tmp_path / "out", holdout=0.5))
    for side, split in (("train", "train"), ("holdout", "test")):
        found = list(read_documents([tmp_path / "out"], holdout=side == "holdout"))
        assert len(found) == 20
        assert {(int(d.text.split()[1]) % 2, d.meta["split"]) for d in found} == {(split == "test", side)}


def test_another_recipe_into_the_same_folder_reruns_only_what_depends_on_the_change(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(tmp_path, TEXTS, holdout=0)
    capsys.readouterr()
    prepare(tmp_path, TEXTS, holdout=0.1)
    told = capsys.readouterr().err
    assert "text: 300 of 300 documents stay (100.0%), as before" in told
    assert "exact: 300 of 300 documents stay (100.0%), as before" in told
    assert "split: 300 of 300 documents stay (100.0%), as before" not in told


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.txt").write_text("my thesis", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"not empty and not one of data prepare"):
        prepare(tmp_path, TEXTS)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]
