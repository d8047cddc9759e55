"""Every token is learned once, from its own document, on one rank, whatever the interruption."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from luban.data.batch import IGNORED, Batch, Origin
from luban.data.document import Document
from luban.data.loader import Examples, Loader, Source
from luban.data.shards import TokenShards, write_shards
from luban.errors import CheckpointError, ConfigError, TrainingError
from tests import tiny

STEP = 1000
"""Tests number tokens `document * STEP + place`: a target is its token plus one, or the borders are wrong."""
LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=12).filter(lambda lengths: max(lengths) > 1)
LAYOUTS: list[dict[str, Any]] = [
    {"packing": "pack"},
    {"packing": "pack", "split_documents": False},
    {"packing": "pad"},
    {"packing": "windows"},
    {"packing": "windows", "stride": 2},
]


def numbered(lengths: Sequence[int], first: int = 1) -> list[np.ndarray]:
    return [np.arange(length) + STEP * (first + place) for place, length in enumerate(lengths)]


def one(examples: Examples, **settings: Any) -> Loader:
    return Loader([Source(examples=examples)], **{"batch": 1, "context": 6, **settings})


def document(*ids: int) -> list[np.ndarray]:
    return [np.array(ids)]


def learned(batches: Sequence[Batch]) -> Counter[int]:
    return Counter(int(t) for batch in batches for t in batch.targets.flatten() if t != IGNORED)


def rows(batches: Sequence[Batch]) -> torch.Tensor:
    fields = [torch.stack([b.tokens, b.targets, b.positions, b.documents], dim=-1) for b in batches]
    return torch.cat(fields)


# --- by hand ---


def test_a_document_cut_at_the_rows_end_goes_on_in_the_next_and_keeps_its_target() -> None:
    a = Source(examples=document(10, 11, 12, 9), name="a")
    b = Source(examples=document(20, 21, 22, 23, 9), name="b")
    first, second = Loader([a, b], batch=1, context=6, epochs=1)
    assert first.tokens.tolist() == [[10, 11, 12, 9, 20, 21]]
    assert first.targets.tolist() == [[11, 12, 9, IGNORED, 21, 22]]
    assert first.positions.tolist() == [[0, 1, 2, 3, 0, 1]]
    assert first.documents.tolist() == [[0, 0, 0, 0, 1, 1]]
    assert first.ids == [Origin("a", 0), Origin("b", 0)]
    assert (first.packed, first.target_count) == (True, 5)
    assert second.tokens.tolist() == [[22, 23, 9, 0, 0, 0]]
    assert second.targets.tolist() == [[23, 9, IGNORED, IGNORED, IGNORED, IGNORED]]
    assert second.positions.tolist() == [[0, 1, 2, 0, 1, 2]]
    assert second.documents.tolist() == [[0, 0, 0, 1, 1, 1]]
    assert (second.packed, second.target_count) == (False, 2)


def test_a_last_token_that_would_stand_alone_in_the_next_row_is_left_out() -> None:
    batches = list(one(document(1, 2, 3, 4, 5, 6, 7), epochs=1))
    assert [batch.targets.tolist() for batch in batches] == [[[2, 3, 4, 5, 6, 7]]]


def test_the_mask_says_which_tokens_are_targets() -> None:
    example = (np.array([1, 2, 3, 4]), np.array([True, False, True, True]))
    (batch,) = one([example], epochs=1)
    assert batch.targets.tolist() == [[IGNORED, 3, 4, IGNORED, IGNORED, IGNORED]]


def test_whole_documents_are_fitted_into_gaps_and_never_cut() -> None:
    lengths = {"a": 5, "b": 6, "c": 3}
    sources = [Source(examples=[np.arange(n)], name=name) for name, n in lengths.items()]
    first, second = Loader(sources, batch=1, context=8, epochs=1, split_documents=False)
    assert first.tokens.tolist() == [[0, 1, 2, 3, 4, 0, 1, 2]]
    assert first.targets.tolist() == [[1, 2, 3, 4, IGNORED, 1, 2, IGNORED]]
    assert second.tokens.tolist() == [[0, 1, 2, 3, 4, 5, 0, 0]]


def test_padded_rows_hold_one_document_and_count_what_they_cut() -> None:
    loader = one(numbered([9, 7, 3, 1]), packing="pad", epochs=1)
    batches = sorted(loader, key=lambda batch: batch.ids)
    assert [batch.ids for batch in batches] == [[Origin("data", n)] for n in range(3)]
    assert batches[0].targets.tolist() == [[1001, 1002, 1003, 1004, 1005, 1006]]
    assert batches[1].targets.tolist() == [[2001, 2002, 2003, 2004, 2005, 2006]]  # all 7 tokens were of use
    assert batches[2].targets.tolist() == [[3001, 3002, IGNORED, IGNORED, IGNORED, IGNORED]]
    counts = loader.counts
    assert (counts.truncated, counts.truncated_targets, counts.dropped) == (1, 2, 1)
    assert (counts.tokens, counts.padding, counts.batches) == (15, 3, 3)


def test_windows_slide_by_stride_and_keep_documents_apart() -> None:
    loader = one(numbered([4, 5]), packing="windows", context=4, stride=3, epochs=1)
    batches = sorted(loader, key=lambda batch: batch.tokens.tolist())
    assert [batch.tokens[0].tolist() for batch in batches] == [
        [1000, 1001, 1002, 1003],
        [1003, 2000, 2001, 2002],
        [2002, 2003, 2004, 0],
    ]
    assert batches[1].targets.tolist() == [[IGNORED, 2001, 2002, 2003]]
    assert batches[1].positions.tolist() == [[0, 0, 1, 2]]
    assert batches[1].documents.tolist() == [[0, 1, 1, 1]]


def test_the_last_batch_is_completed_with_rows_of_padding() -> None:
    (batch,) = one(numbered([3]), batch=3, epochs=1)
    assert batch.tokens.shape == (3, 6)
    assert batch.target_count == 2
    assert batch.documents[1:].tolist() == [[0] * 6] * 2
    assert not batch.packed


def test_a_batch_moves_to_a_device_whole() -> None:
    (batch,) = one(numbered([3]), epochs=1)
    moved = batch.to("meta")
    assert {moved.tokens.device.type, moved.targets.device.type, moved.documents.device.type} == {"meta"}
    assert moved.ids == batch.ids


# --- properties ---


@pytest.mark.parametrize("layout", LAYOUTS[:4])
@given(lengths=LENGTHS, context=st.integers(2, 50), batch=st.integers(1, 3), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_each_token_of_an_epoch_is_a_target_once_and_from_its_own_document(
    layout: dict[str, Any], lengths: list[int], context: int, batch: int, seed: int
) -> None:
    batches = list(one(numbered(lengths), context=context, batch=batch, seed=seed, epochs=1, **layout))
    whole = layout["packing"] == "pad" or not layout.get("split_documents", True)
    reach = context if whole else max(lengths)
    expected = {
        STEP * n + place for n, length in enumerate(lengths, 1) for place in range(1, min(length, reach + 1))
    }
    assert learned(batches) == Counter(expected)
    for tokens, target, _, _ in rows(batches).flatten(0, 1).tolist():
        assert target in (IGNORED, tokens + 1)


@pytest.mark.parametrize("layout", LAYOUTS)
@given(lengths=LENGTHS, context=st.integers(2, 30), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_positions_and_ordinals_change_exactly_at_the_borders(
    layout: dict[str, Any], lengths: list[int], context: int, seed: int
) -> None:
    for batch in one(numbered(lengths), context=context, seed=seed, epochs=1, **layout):
        tokens, _, positions, documents = rows([batch])[0].T
        own = torch.where(tokens > 0, tokens // STEP, -1)
        border = torch.cat([torch.tensor([True]), own[1:] != own[:-1]])
        assert torch.equal(positions == 0, border)
        assert torch.equal(documents, border.cumsum(0) - 1)
        assert batch.packed == (len(set(own.tolist()) - {-1}) > 1)


@given(lengths=LENGTHS, context=st.integers(2, 12), data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_token_is_learned_as_often_as_windows_cover_the_one_before(
    lengths: list[int], context: int, data: st.DataObject
) -> None:
    stride = data.draw(st.integers(1, context))
    loader = one(numbered(lengths), context=context, stride=stride, packing="windows", epochs=1)
    stream = np.concatenate(numbered(lengths))
    starts = range(0, max(1, len(stream) - context + stride), stride)
    covered = Counter(int(token) for start in starts for token in stream[start : start + context])
    ends = {int(ids[-1]) for ids in numbered(lengths)}
    expected = {token + 1: times for token, times in covered.items() if token not in ends}
    assert learned(list(loader)) == expected


@pytest.mark.parametrize("layout", LAYOUTS)
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_a_restored_loader_goes_on_with_identical_batches(
    layout: dict[str, Any], data: st.DataObject
) -> None:
    parts = data.draw(st.lists(LENGTHS, min_size=1, max_size=3))
    weights = data.draw(st.lists(st.floats(0.1, 9), min_size=len(parts), max_size=len(parts)))
    sources = [
        Source(examples=numbered(lengths, 100 * place), weight=weight, name=str(place))
        for place, (lengths, weight) in enumerate(zip(parts, weights, strict=True))
    ]
    settings: dict[str, Any] = {"batch": 2, "context": 7, "epochs": data.draw(st.sampled_from([None, 2]))}
    whole = Loader(sources, **settings, **layout)
    before = len(list(islice(whole, data.draw(st.integers(0, 20)))))
    state = json.loads(json.dumps(whole.state()))
    restored = Loader(sources, **settings, **layout)
    restored.restore(state)
    expected, found = list(islice(whole, 10)), list(islice(restored, 10))
    assert len(found) == len(expected)
    assert all(
        torch.equal(rows([a]), rows([b])) and a.ids == b.ids for a, b in zip(expected, found, strict=True)
    )
    assert restored.counts == whole.counts
    assert restored.counts.batches == before + len(found)


@pytest.mark.parametrize("layout", LAYOUTS)
@given(lengths=LENGTHS, world=st.integers(2, 4))
@settings(max_examples=20, deadline=None)
def test_ranks_share_one_stream_so_that_1x8_is_2x4(
    layout: dict[str, Any], lengths: list[int], world: int
) -> None:
    single = list(one(numbered(lengths), batch=2 * world, epochs=2, **layout))
    ranks = [one(numbered(lengths), batch=2, world=world, rank=r, epochs=2, **layout) for r in range(world)]
    shared = list(zip(*ranks, strict=True))
    assert len(shared) == len(single)
    for whole, parts in zip(single, shared, strict=True):
        assert torch.equal(rows([whole]), rows(parts))
    assert all(rank.counts == ranks[0].counts for rank in ranks)
    assert all(rank.state() == ranks[0].state() for rank in ranks)


def test_a_cursor_of_one_process_is_good_for_two() -> None:
    single = one(numbered([30, 20, 7, 9]), batch=4)
    list(islice(single, 3))
    halves = [one(numbered([30, 20, 7, 9]), batch=2, world=2, rank=rank) for rank in range(2)]
    for half in halves:
        half.restore(single.state())
    assert torch.equal(rows([next(single)]), rows([next(half) for half in halves]))


# --- order and mix ---


def test_epochs_are_shuffled_differently_and_alike_for_the_same_seed() -> None:
    examples = numbered([3] * 20)

    def order(seed: int) -> list[Origin]:
        return [
            origin for b in one(examples, context=2, packing="pad", seed=seed, epochs=2) for origin in b.ids
        ]

    assert sorted(order(0)[:20]) == sorted(order(0)[20:]) == sorted(set(order(0)))
    assert order(0)[:20] != order(0)[20:]
    assert order(0) == order(0) != order(1)


def test_tokens_of_each_source_keep_to_its_weight() -> None:
    big = Source(examples=numbered([50] * 40), weight=1, name="big")
    small = Source(examples=numbered([5] * 30, 500), weight=3, name="small")
    loader = Loader([big, small], batch=4, context=100)
    tokens = torch.cat([batch.tokens.flatten() for batch in islice(loader, 50)])
    share = ((tokens // STEP) >= 500).float().mean().item()
    assert share == pytest.approx(0.75, abs=0.005)
    assert loader.counts.epochs == {"big": pytest.approx(2.5, abs=0.1), "small": pytest.approx(100, abs=1)}


def test_a_source_that_is_through_leaves_the_others_to_go_on() -> None:
    a, b = numbered([5] * 3), numbered([5] * 30, 500)
    sources = [Source(examples=a, name="a"), Source(examples=b, name="b")]
    loader = Loader(sources, batch=1, context=5, epochs=1)
    origins = [origin.source for batch in loader for origin in batch.ids]
    assert Counter(origins) == {"a": 3, "b": 30}
    assert set(origins[8:]) == {"b"}  # a and b by turns, in shuffled blocks of four rows, until a is through
    assert loader.counts.epochs == {"a": 1, "b": 1}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_remaining_counts_the_batches_to_come_without_taking_them(layout: dict[str, Any]) -> None:
    loader = one(numbered([9, 20, 3, 5, 31]), batch=2, epochs=3, **layout)
    next(loader)
    promised = loader.remaining()
    assert len(list(loader)) == promised > 0
    assert loader.remaining() == 0


def test_shards_load_like_any_other_documents(tmp_path: Path) -> None:
    texts = ["鲁班是中国古代的木匠，他自己做工具。", "In the beginning the builder made his own tools."]
    documents = [Document(id=str(n), text=text, source="s") for n, text in enumerate(texts)]
    write_shards(documents, tiny.tokenizer(), tmp_path)
    shards = TokenShards.open(tmp_path)
    loader = Loader([Source(examples=shards)], batch=2, context=128, packing="pad", epochs=1)
    (batch,) = loader
    found = {tiny.tokenizer().decode(row[row != IGNORED].tolist()) for row in batch.targets}
    assert found == set(texts)
    assert batch.target_count == shards.targets


# --- refusals ---


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"context": 1}, "context is 1"),
        ({"batch": 0}, "batch is 0"),
        ({"epochs": 0}, "epochs 0"),
        ({"packing": "pak"}, "unknown packing 'pak'; did you mean 'pack'"),
        ({"packing": "windows", "stride": 7}, "stride is 7; .* from 1 to context"),
        ({"packing": "pack", "stride": 3}, "stride is 3; it is for packing 'windows'"),
        ({"rank": 2, "world": 2}, "rank is 2; it must be from 0 to world - 1"),
    ],
)
def test_a_bad_setting_is_refused_by_name(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        one(numbered([5]), **settings)


@pytest.mark.parametrize("weight", [0, -1, float("inf"), float("nan")])
def test_a_weight_that_is_not_above_zero_is_refused(weight: float) -> None:
    with pytest.raises(ConfigError, match=f"the weight of 'x' is {weight}"):
        Loader([Source(examples=numbered([5]), weight=weight, name="x")], batch=1, context=4)


def test_sources_must_exist_and_have_names_of_their_own() -> None:
    with pytest.raises(ConfigError, match="no source"):
        Loader([], batch=1, context=4)
    with pytest.raises(ConfigError, match="two sources have one name"):
        Loader([Source(examples=numbered([5]))] * 2, batch=1, context=4)


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([], "data: the source holds no documents"),
        (numbered([1, 1]), "none of 2 documents has a token to learn"),
        ([(np.arange(4), np.zeros(4, bool))], "none of 1 documents has a token to learn"),
        ([(np.arange(4), np.ones(3, bool))], "data document 0: 4 ids but a mask of 3"),
    ],
)
def test_nothing_to_learn_is_refused_at_the_start(examples: Examples, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        one(examples)


def test_an_answer_beyond_the_rows_end_is_dropped_and_counted() -> None:
    late = (np.arange(20), np.arange(20) > 10)
    loader = one([late, *numbered([4])], packing="pad", epochs=1)
    assert [batch.ids for batch in loader] == [[Origin("data", 1)]]
    assert loader.counts.dropped == 1


def test_a_cursor_of_another_stream_is_refused() -> None:
    state = one(numbered([5])).state()
    with pytest.raises(CheckpointError, match="'context' was 6, now 7"):
        one(numbered([5]), context=7).restore(state)
    with pytest.raises(CheckpointError, match=r"'sources' was .*'tokens': 5.*now .*'tokens': 6"):
        one(numbered([6])).restore(state)
    with pytest.raises(CheckpointError, match="version 9, expected 2"):
        one(numbered([5])).restore({**state, "version": 9})


def test_an_endless_stream_has_no_number_of_batches() -> None:
    with pytest.raises(ConfigError, match="give epochs"):
        one(numbered([5])).remaining()
