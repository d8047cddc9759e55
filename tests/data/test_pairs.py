"""Pairs of texts: which rows are pairs, what an encoder-decoder's example looks like, what is left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from luban.data.pairs import Pair, read_pairs, to_examples
from luban.errors import DataError
from tests import tiny


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_both_kinds_of_rows_are_pairs(tmp_path: Path) -> None:
    file = write(
        tmp_path / "pairs.jsonl",
        {"source": "the cat", "target": "le chat", "id": "x"},
        {"prompt": "a dog", "completion": "un chien"},
    )
    assert [(pair.source, pair.target) for pair in read_pairs([file])] == [
        ("the cat", "le chat"),
        ("a dog", "un chien"),
    ]


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"source": "the cat", "target": " "}, "a side of the pair is empty"),
        ({"text": "alone"}, "a side of the pair is empty"),
        ({"source": 3, "target": "x"}, "'source' must be text"),
        ({"messages": [{"role": "user", "content": "hi"}]}, "not a pair of two texts"),
        ({"from": "a", "to": "b"}, "unknown row format"),
    ],
)
def test_a_row_that_is_no_pair_is_named_by_its_line(tmp_path: Path, row: Any, told: str) -> None:
    file = write(tmp_path / "pairs.jsonl", {"source": "a", "target": "b"}, row)
    with pytest.raises(DataError, match=rf"pairs\.jsonl:2: {told}"):
        list(read_pairs([file]))


def test_an_example_is_source_end_target_end_and_only_the_target_is_learnt() -> None:
    tokenizer = tiny.tokenizer()
    source, target = tokenizer.encode("The fox"), tokenizer.encode("quick")
    made = to_examples(tokenizer, [Pair(source="The fox", target="quick", where="x")], max_tokens=16)
    ((ids, mask),) = made.examples
    assert ids.tolist() == [*source, tokenizer.eos_id, *target, tokenizer.eos_id]
    assert mask.tolist() == [False] * (len(source) + 1) + [True] * (len(target) + 1)


def test_a_begin_token_stands_before_both_sides_where_models_expect_it() -> None:
    tokenizer = tiny.with_bos("")
    made = to_examples(tokenizer, [Pair(source="a", target="b", where="x")], max_tokens=16)
    begin, (a,), (b,) = tokenizer.bos_id, tokenizer.encode("a"), tokenizer.encode("b")
    assert made.examples[0][0].tolist() == [begin, a, tokenizer.eos_id, begin, b, tokenizer.eos_id]


def test_pairs_with_a_long_side_are_left_out_and_counted() -> None:
    pairs = [Pair(source="a", target="b", where="1"), Pair(source="a", target="b" * 40, where="2")]
    made = to_examples(tiny.tokenizer(), pairs, max_tokens=8)
    assert ([pair.where for pair in made.pairs], made.too_long) == (["1"], 1)
    with pytest.raises(DataError, match="none of 1 pairs has at most 8 tokens"):
        to_examples(tiny.tokenizer(), pairs[1:], max_tokens=8)
