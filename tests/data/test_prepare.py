"""`data prepare`: what goes in comes out clean, counted, and on one side only."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from luban.data.document import Document
from luban.data.prepare import Config, Split, run, show
from luban.data.sources import read_documents
from luban.errors import ConfigError, DataError
from luban.folder import AlreadyDone

TEXTS = [f"document {number}: 第{number}篇" for number in range(300)]


def write(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


def prepare(tmp_path: Path, texts: list[str], name: str = "out", **settings: Any) -> dict[str, Any]:
    raw = write(tmp_path / f"{name}.jsonl", texts)
    return run(Config(data=(raw,), out=tmp_path / name, **settings))


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


def test_a_smaller_holdout_is_part_of_a_larger_one() -> None:
    documents = [Document(id=str(n), text=text, source="") for n, text in enumerate(TEXTS)]
    few, many = Split(5, seed=0), Split(20, seed=0)
    for document in documents:
        assert len(list(few.place(document))) <= 1
        assert len(list(many.place(document))) <= 1
    assert [d.id for _, d in many.rest()][:5] == [d.id for _, d in few.rest()]


def test_documents_are_cleaned_and_every_drop_is_counted(tmp_path: Path) -> None:
    texts = ["a\0 clean text\r\n", "   ", "short", "a clean text", "一段足够长的中文文本"]
    results = prepare(tmp_path, texts, min_chars=8, holdout=0)
    assert sides(tmp_path / "out") == ({"a clean text", "一段足够长的中文文本"}, set())
    assert results["dropped"] == {"duplicate": 1, "empty": 1, "short": 1}
    assert results["cleaned"] == {"blank_lines": 1, "invisible": 1, "newline": 1}
    assert results["train"] == {"documents": 2, "chars": 22}


def test_a_repeated_id_is_made_unique_and_counted(tmp_path: Path) -> None:
    rows = [
        {"id": 1, "text": "a"},
        {"id": 1, "text": "b"},
        {"id": "1#2", "text": "c"},
        {"id": 1, "text": "d"},
    ]
    raw = tmp_path / "raw.jsonl"
    raw.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    results = run(Config(data=(raw,), out=tmp_path / "out", holdout=0))
    assert [d.id for d in read_documents([tmp_path / "out"])] == ["1", "1#2", "1#2#2", "1#3"]
    assert results["cleaned"] == {"renamed": 3}


def test_a_malformed_row_stops_the_run_and_leaves_nothing_behind(tmp_path: Path) -> None:
    raw = tmp_path / "raw.jsonl"
    raw.write_text('{"text": "a"}\n{"text":\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"raw\.jsonl:2: not valid JSON"):
        run(Config(data=(raw,), out=tmp_path / "out"))
    assert [path.name for path in tmp_path.iterdir()] == ["raw.jsonl"]


def test_quarantine_keeps_malformed_rows_with_their_reason(tmp_path: Path) -> None:
    raw = tmp_path / "raw.jsonl"
    raw.write_text('{"text": "a"}\n{"text":\n{"text": "b"}\n', encoding="utf-8")
    results = run(Config(data=(raw,), out=tmp_path / "out", holdout=0, on_error="quarantine"))
    rows = (tmp_path / "out/quarantine.jsonl").read_text(encoding="utf-8").splitlines()
    assert results["dropped"] == {"malformed": 1}
    assert json.loads(rows[0]) == {
        "where": f"{raw}:2",
        "reason": "not valid JSON: Expecting value at column 9",
        "line": '{"text":',
    }
    assert sides(tmp_path / "out")[0] == {"a", "b"}


def test_an_empty_corpus_is_an_error_that_says_why(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no document is left to train on: 0 held out; 1 empty, 2 short"):
        prepare(tmp_path, ["abc", "\0", "木"], min_chars=7, holdout=0)
    assert not (tmp_path / "out").exists()


def test_a_holdout_that_takes_everything_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"2 held out; none dropped(.|\n)*a smaller --holdout"):
        prepare(tmp_path, ["a", "b"], holdout=2)


def test_a_holdout_that_is_neither_share_nor_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"1\.5: neither share nor number"):
        prepare(tmp_path, TEXTS, holdout=1.5)


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
        lines = (tmp_path / "out" / f"{side}.jsonl").read_text(encoding="utf-8").splitlines()
        assert [json.loads(line)["split"] for line in lines] == [split] * 20
