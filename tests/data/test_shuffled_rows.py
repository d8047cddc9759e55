"""Pieces of a long document get apart, each still comes once, and an interruption anywhere changes nothing."""

from __future__ import annotations

import json
from itertools import islice

import numpy as np
import torch

from luban.data.loader import Loader, Source
from luban.data.packing import Documents, Packed

LONG = [np.arange(640) + 1000 * number for number in range(40)]  # 40 documents of 80 rows each
ROWS = 40 * 80


def loader(*, epochs: int | None = 1, batch: int = 8, seed: int = 0) -> Loader:
    return Loader([Source(examples=LONG)], batch=batch, context=8, seed=seed, epochs=epochs)


def distinct(documents: list[list[int]]) -> float:
    return float(np.mean([len(set(batch)) for batch in documents]))


def test_a_batch_holds_rows_of_many_documents_however_long_they_are() -> None:
    lengths = [np.array([len(document) for document in LONG])]
    plain = Packed(Documents(lengths, [np.arange(40)], [1.0], seed=0, epochs=1), context=8)
    in_order = [[plain.next_row()[0].document for _ in range(8)] for _ in range(ROWS // 8)]
    shuffled = [[origin.document for origin in batch.ids] for batch in loader()]
    assert distinct(in_order) == 1.0
    assert distinct(shuffled) > 3.5  # blocks of 400 rows hold 5 to 6 documents


def test_each_row_of_an_epoch_comes_once() -> None:
    first_tokens = torch.cat([batch.tokens[:, 0] for batch in loader()])
    assert len(first_tokens) == ROWS
    assert len(set(first_tokens.tolist())) == ROWS


def test_epochs_follow_one_another_with_little_overlap() -> None:
    tokens = torch.cat([batch.tokens[:, 0] for batch in islice(loader(epochs=None), 2 * ROWS // 8)])
    seen_twice_in_the_first = ROWS - len(set(tokens[:ROWS].tolist()))
    assert seen_twice_in_the_first < ROWS / 8


def test_an_interruption_inside_a_block_changes_no_row() -> None:
    whole = [batch.tokens for batch in islice(loader(epochs=None), 120)]
    for after in (0, 1, 49, 50, 51, 99):  # a block ends with batch 50
        cut = loader(epochs=None)
        list(islice(cut, after))
        fresh = loader(epochs=None)
        fresh.restore(json.loads(json.dumps(cut.state())))
        rest = [batch.tokens for batch in islice(fresh, 120 - after)]
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(rest, whole[after:], strict=True))


def test_epochs_are_counted_as_their_rows_are_given_out() -> None:
    reading = loader()
    seen = []
    for number, _ in enumerate(reading, 1):
        seen.append(reading.counts.epochs["data"])
        assert abs(seen[-1] - number * 8 / ROWS) < 1 / 40  # but for the document at a block's end
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


def test_another_seed_is_another_order_of_rows() -> None:
    first, second = (next(loader(seed=seed)).tokens for seed in (0, 1))
    assert not torch.equal(first, second)
