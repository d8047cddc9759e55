"""`luban data contamination`: what is dirty, where it stands, and what scores are without it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from luban.data import contamination
from luban.data.contamination import Config
from luban.errors import ConfigError, DataError

SHOWN = "seven small boats sailed slowly past the old grey harbour wall at dawn yesterday"
OTHER = "eight large ships waited quietly beyond the new white lighthouse tower until noon today"
COMMON = "all rights reserved no part of this may be copied in any form without permission"


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    texts = [
        "It was said that " + SHOWN.upper() + ", as ever.",
        "An unrelated text.",
        *[COMMON + " indeed"] * 3,
    ]
    lines = [json.dumps({"id": f"doc{number}", "text": text}) for number, text in enumerate(texts)]
    path = tmp_path / "corpus.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def evaluation(tmp_path: Path) -> Path:
    rows = [
        {"id": "seen", "question": SHOWN, "answer": "yes"},
        {"id": "unseen", "question": OTHER, "answer": "no"},
        {"id": "half", "question": " ".join([*SHOWN.split()[:9], *OTHER.split()[:9]])},
        {"id": "common", "question": COMMON},
        {"id": "short", "question": "Is it so?"},
    ]
    path = tmp_path / "quiz.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_each_row_is_judged_with_its_evidence(corpus: Path, evaluation: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    config = Config(data=(corpus,), against=(evaluation,), out=out, common=2, min_n=8, max_n=13)
    results = contamination.run(config)
    rows = {row["id"]: row for row in read(out / "rows.jsonl")}
    # The file's 5th percentile is the short row's 3 words, so n is 8; "yes" is one of 15 words.
    assert rows["seen"] == {
        "file": "quiz", "id": "seen", "words": 15, "overlap_8": 0.9333, "overlap_13": 0.9333, "longest": 14,
        "dirty": True, "document": "doc0",
    }  # fmt: skip
    assert (rows["half"]["overlap_8"], rows["half"]["overlap_13"], rows["half"]["longest"]) == (0.5, 0, 9)
    assert [name for name, row in rows.items() if row["dirty"]] == ["seen", "half"]
    assert results["files"]["quiz"] == {"rows": 5, "n": 8, "dirty": 2, "dirty_share": 0.4, "short": 1}
    assert [row["id"] for row in read(out / "quiz" / "dirty.jsonl")] == ["seen", "half"]
    assert [row["id"] for row in read(out / "quiz" / "clean.jsonl")] == ["unseen", "common", "short"]


def test_scores_are_compared_over_all_clean_and_dirty_rows(
    corpus: Path, evaluation: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = tmp_path / "scores.jsonl"
    given = {"seen": 1, "unseen": 0, "half": 1, "common": 0.5}
    scores.write_text(
        "".join(json.dumps({"id": k, "score": v}) + "\n" for k, v in given.items()), encoding="utf-8"
    )
    config = Config(data=(corpus,), against=(evaluation,), out=tmp_path / "out", results=scores, common=2)
    results = contamination.run(config)
    assert results["files"]["quiz"]["score"] == {
        "all": 0.625, "clean": 0.25, "dirty": 1.0, "rows": {"all": 4, "clean": 2, "dirty": 2}, "unscored": 1,
    }  # fmt: skip
    contamination.show(results)
    assert "-0.3750" in capsys.readouterr().out


def test_how_the_corpus_is_cut_into_batches_changes_nothing(
    corpus: Path, evaluation: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config(data=(corpus,), against=(evaluation,), out=tmp_path / "one", common=2)
    contamination.run(config)
    monkeypatch.setattr(contamination, "BATCH_CHARS", 1)
    contamination.run(Config(data=(corpus,), against=(evaluation,), out=tmp_path / "two", common=2))
    assert (tmp_path / "one" / "rows.jsonl").read_text() == (tmp_path / "two" / "rows.jsonl").read_text()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": "nobody", "score": 1}', r"scores\.jsonl:2: 0 evaluation rows have the id 'nobody'"),
        ('{"id": "seen", "score": 1}', "two scores for 'seen'"),
        ('{"id": "half", "score": "good"}', "a number as 'score'"),
    ],
)
def test_scores_that_belong_to_no_row_are_told(
    corpus: Path, evaluation: Path, tmp_path: Path, line: str, message: str
) -> None:
    scores = tmp_path / "scores.jsonl"
    scores.write_text('{"id": "seen", "score": 1}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=message):
        contamination.run(Config(data=(corpus,), against=(evaluation,), out=tmp_path / "out", results=scores))


def test_an_empty_file_and_crossed_bounds_are_told(corpus: Path, evaluation: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    with pytest.raises(DataError, match=r"empty\.jsonl: there are no rows"):
        contamination.run(Config(data=(corpus,), against=(empty,), out=tmp_path / "out"))
    with pytest.raises(ConfigError, match="min_n"):
        contamination.run(Config(data=(corpus,), against=(evaluation,), out=tmp_path / "out", min_n=20))


@pytest.mark.parametrize(("common", "dirty"), [(3, True), (2, False)])
def test_what_more_documents_hold_is_a_common_phrase(
    corpus: Path, evaluation: Path, tmp_path: Path, common: int, dirty: bool
) -> None:
    config = Config(data=(corpus,), against=(evaluation,), out=tmp_path / "out", common=common)
    contamination.run(config)
    assert next(row for row in read(config.out / "rows.jsonl") if row["id"] == "common")["dirty"] is dirty
