"""Labelled rows: out of every format, each fault at its place, and parts that have every class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from luban.data.rejected import Tally, raise_rejected
from luban.errors import DataError
from luban.tuning.labelled import (
    Columns,
    Labelled,
    counts_of,
    label_set,
    read_labelled,
    split_rows,
    targets_of,
)


def read(path: Path, columns: Columns | None = None, **settings: Any) -> list[Labelled]:
    return list(read_labelled([path], columns or Columns(), reject=raise_rejected, **settings))


def written(tmp_path: Path, name: str, content: str | bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return path


def row(label: str, number: int = 0) -> Labelled:
    return Labelled(text=f"{label} {number}", labels=(label,), where=f"rows:{number}")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.jsonl", '{"text": "buy now", "label": "spam"}\n\n{"text": "hi, mum", "label": "ham"}\n'),
        ("rows.json", '[{"text": "buy now", "label": "spam"}, {"text": "hi, mum", "label": "ham"}]'),
        ("rows.csv", 'text,label\nbuy now,spam\n"hi, mum",ham\n'),
        ("rows.tsv", "label\ttext\nspam\tbuy now\nham\thi, mum\n"),
    ],
)
def test_rows_are_the_same_in_every_format(name: str, content: str, tmp_path: Path) -> None:
    rows = read(written(tmp_path, name, content))
    assert [(row.text, row.labels) for row in rows] == [("buy now", ("spam",)), ("hi, mum", ("ham",))]


def test_parquet_holds_rows_too(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table({"text": ["one", "two"], "label": [0, 1]}), tmp_path / "rows.parquet")
    assert [row.labels for row in read(tmp_path / "rows.parquet")] == [("0",), ("1",)]


def test_a_folder_for_each_class_names_them(tmp_path: Path) -> None:
    for name in ("pos", "neg"):
        (tmp_path / name).mkdir()
        written(tmp_path / name, "1.txt", f"a {name} film\nwith two lines")
    assert [(row.labels, row.text) for row in read(tmp_path)] == [
        (("neg",), "a neg film\nwith two lines"),
        (("pos",), "a pos film\nwith two lines"),
    ]
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="the folder of class 'none' holds no texts"):
        read(tmp_path)


def test_columns_may_have_other_names_and_a_row_two_texts(tmp_path: Path) -> None:
    path = written(tmp_path, "nli.jsonl", '{"premise": "it rains", "hypothesis": "it is dry", "gold": 2}\n')
    (found,) = read(path, Columns(text="premise", second="hypothesis", label="gold"))
    assert (found.text, found.second, found.labels) == ("it rains", "it is dry", ("2",))
    assert found.whole == "it rains\nit is dry"


@pytest.mark.parametrize(
    ("content", "name", "labels"),
    [
        ('{"text": "a", "labels": ["x", 3]}\n{"text": "b", "labels": []}\n', "r.jsonl", [("x", "3"), ()]),
        ('text,labels\na,x; y\nb,"[""x""]"\n', "r.csv", [("x", "y"), ("x",)]),
    ],
)
def test_a_row_may_have_any_number_of_labels(content: str, name: str, labels: Any, tmp_path: Path) -> None:
    assert [row.labels for row in read(written(tmp_path, name, content), multi_label=True)] == labels


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"text": "a"}', r"rows\.jsonl:2: there is no 'label'; "),
        ('{"txt": "a", "label": 1}', r"rows\.jsonl:2: there is no 'text'.*'txt'"),
        ('{"text": " ", "label": 1}', r"rows\.jsonl:2: 'text' is empty"),
        ('{"text": ["a"], "label": 1}', r"rows\.jsonl:2: 'text' is list, not a text"),
        ('{"text": "a", "label": 1.5}', r"rows\.jsonl:2: a label is a name or a whole number, not 1\.5"),
        ('{"text": "a", "label": ["x"]}', r"(?s)rows\.jsonl:2: a label is a name.*multi_label=true"),
        ('{"text": "a", "label": ""}', r"rows\.jsonl:2: a label is a name or a whole number, not ''"),
        ('["a", 1]', r"rows\.jsonl:2: a row is an object, not list"),
        ('{"text": "a", ', r"rows\.jsonl:2: not valid JSON"),
    ],
)
def test_a_wrong_row_is_named_with_its_place_and_reason(line: str, told: str, tmp_path: Path) -> None:
    path = written(tmp_path, "rows.jsonl", '{"text": "fine", "label": 0}\n' + line + "\n")
    with pytest.raises(DataError, match=told):
        read(path)
    tally = Tally()
    kept = list(read_labelled([path], Columns(), reject=tally.reject))
    assert (len(kept), len(tally.rejected)) == (1, 1)


@pytest.mark.parametrize(
    ("content", "told"), [(b"", "no rows in this file"), (b'{"text": "caf\xe9", "label": 1}\n', "UTF-8")]
)
def test_a_wrong_file_is_an_error(content: bytes, told: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"rows\.jsonl.*{told}"):
        read(written(tmp_path, "rows.jsonl", content))


def test_labels_stand_in_the_order_told_or_sorted_numbers_first() -> None:
    rows = [row("10"), row("9"), row("b"), row("a")]
    assert label_set(rows, ()) == ("9", "10", "a", "b")
    assert label_set(rows[:2], ("10", "9", "8")) == ("10", "9", "8")


def test_a_label_outside_the_set_is_named_with_its_row() -> None:
    with pytest.raises(DataError, match="rows:7: label 'spma' is not in the set; did you mean 'spam'"):
        label_set([row("ham"), row("spma", 7)], ("ham", "spam"))
    with pytest.raises(DataError, match="all 2 rows are labelled ham: there is nothing to tell apart"):
        label_set([row("ham"), row("ham", 1)], ())


def test_truth_values_are_names() -> None:
    rows = [row("a"), Labelled(text="both", labels=("b", "a"), where="r:1")]
    assert targets_of(rows, ("a", "b")).tolist() == [[1, 0], [1, 1]]
    assert counts_of(rows, ("a", "b", "c")) == {"a": 2, "b": 1, "c": 0}


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    shares=st.tuples(st.floats(0, 0.4), st.floats(0, 0.4)),
    seed=st.integers(0, 99),
)
def test_parts_share_no_row_lose_none_and_have_their_share_of_each_class(
    sizes: list[int], shares: tuple[float, float], seed: int
) -> None:
    rows = [row(f"c{label}", n) for label, size in enumerate(sizes) for n in range(size)]
    train, held = split_rows(rows, shares, seed=seed)
    parts = [train, *held]
    assert sorted(r.text for part in parts for r in part) == sorted(r.text for r in rows)
    labels = [f"c{label}" for label in range(len(sizes))]
    for label, size in zip(labels, sizes, strict=True):
        assert counts_of(train, labels)[label] >= 1
        for part, share in zip(held, shares, strict=True):
            wanted = max(1, round(share * size)) if share else 0
            assert counts_of(part, labels)[label] <= wanted
            if size >= 6:
                assert counts_of(part, labels)[label] == wanted
    assert split_rows(rows, shares, seed=seed) == (train, held)


def test_another_seed_draws_other_rows() -> None:
    rows = [row("a", n) for n in range(50)]
    drawn = [{r.text for r in split_rows(rows, (0.2,), seed=seed)[1][0]} for seed in (0, 1)]
    assert drawn[0] != drawn[1]
    assert np.all([len(part) == 10 for part in drawn])
