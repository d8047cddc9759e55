"""Which side a document goes to depends on its text and the seed alone, and ids come out unique."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from luban.data.document import Document
from luban.data.factory import split
from luban.data.factory.split import Split, occurrences
from luban.data.step import Batch, Edit
from luban.errors import ConfigError


def documents(texts: list[str], **meta: str) -> list[Document]:
    return [Document(id=str(n), text=text, source="s", meta=dict(meta)) for n, text in enumerate(texts)]


def sides(step: Split, parts: list[list[Document]], folder: Path) -> dict[str, str]:
    """Text -> side, through the three moves of a corpus step, one batch per part."""
    folder.mkdir(exist_ok=True)
    collected, decisions = [], []
    for number, part in enumerate(parts):
        path = folder / f"facts-{number}.npy"
        np.save(path, step.collect(Batch(part))["facts"])
        collected.append({"facts": path})
        decisions.append(folder / f"decisions-{number}.npy")
    step.resolve(collected, decisions, memory=1 << 20)
    found: dict[str, str] = {}
    for part, path in zip(parts, decisions, strict=True):
        for document, edit in zip(part, step.apply(Batch(part), np.load(path)), strict=True):
            assert isinstance(edit, Edit)
            found[document.text] = edit.meta["split"]
    return found


@pytest.mark.parametrize("holdout", [0.1, 30])
def test_neither_order_nor_parts_move_a_document(tmp_path: Path, holdout: float) -> None:
    made = documents([f"document {n}" for n in range(300)])
    whole = sides(Split(holdout=holdout), [made], tmp_path / "a")
    parted = sides(Split(holdout=holdout), [made[200:], [], made[:200][::-1]], tmp_path / "b")
    assert whole == parted
    held = sum(side == "holdout" for side in whole.values())
    assert held == 30 if holdout == 30 else 15 <= held <= 45


def test_a_smaller_holdout_is_part_of_a_larger_one(tmp_path: Path) -> None:
    made = documents([f"document {n}" for n in range(300)])

    def held(holdout: float) -> set[str]:
        found = sides(Split(holdout=holdout), [made], tmp_path / f"{holdout}")
        return {text for text, side in found.items() if side == "holdout"}

    assert held(5) < held(20)
    assert held(0.05) < held(0.2)
    assert held(0) == set()


def test_a_split_that_a_row_brings_is_kept(tmp_path: Path) -> None:
    brought = documents(["a", "b"], split="test") + documents(["c"], split="train")
    assert sides(Split(holdout=0.0), [brought], tmp_path / "x") == {
        "a": "holdout",
        "b": "holdout",
        "c": "train",
    }


def test_a_repeated_id_is_made_unique_and_counted(tmp_path: Path) -> None:
    made = [
        Document(id=key, text=text, source="s")
        for key, text in (("1", "a"), ("1", "b"), ("2", "c"), ("1", "d"))
    ]
    step, facts, decisions = Split(holdout=0.0), tmp_path / "f.npy", tmp_path / "d.npy"
    np.save(facts, step.collect(Batch(made))["facts"])
    step.resolve([{"facts": facts}], [decisions], memory=1 << 20)
    edits = [edit for edit in step.apply(Batch(made), np.load(decisions)) if isinstance(edit, Edit)]
    ids = [edit.id or document.id for edit, document in zip(edits, made, strict=True)]
    assert ids[0] == "1"
    assert ids[2] == "2"
    assert ids[1].startswith("1#2.")
    assert ids[3].startswith("1#3.")
    assert sum(edit.changes.get("renamed", 0) for edit in edits) == 2


@given(st.lists(st.integers(0, 5)))
def test_occurrences_count_what_came_before(keys: list[int]) -> None:
    before = np.zeros(len(keys), np.int64)
    hashes = np.array([(key + 1) * 0x9E3779B97F4A7C15 % 2**64 for key in keys], np.uint64)
    for rows, times in occurrences(hashes, memory=1):
        before[rows] = times
    assert before.tolist() == [keys[:at].count(key) for at, key in enumerate(keys)]


def test_decisions_do_not_depend_on_how_many_rows_are_looked_at_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = documents([f"document {n % 90}" for n in range(100)])
    step, facts = Split(holdout=20), tmp_path / "facts.npy"
    np.save(facts, step.collect(Batch(made))["facts"])
    paths = [tmp_path / name / "decisions.npy" for name in ("whole", "few")]
    for path, rows in zip(paths, (1 << 18, 7), strict=True):
        monkeypatch.setattr(split, "ROWS", rows)
        path.parent.mkdir()
        step.resolve([{"facts": facts}], [path], memory=1 << 20)
    assert np.array_equal(*map(np.load, paths))
    assert (np.load(paths[0])["side"] == split.HOLDOUT).sum() == 20


def test_a_holdout_that_is_neither_share_nor_number_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"1\.5: neither share nor number"):
        Split(holdout=1.5)
