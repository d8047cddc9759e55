"""Texts as rows with their class as a target: laid out and cut as told, packed without a change."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from luban.data.batch import IGNORED
from luban.data.loader import Loader, Source
from luban.errors import ConfigError, DataError, TokenizerError
from luban.models.classifier import Classifier
from luban.tokenizers.train import train
from luban.tuning.class_rows import (
    ClassLoader,
    Layout,
    codes_of,
    encode_rows,
    real,
    segments_in,
    targeted,
    truth_in,
)
from luban.tuning.labelled import Labelled
from tests import tiny

DECODER = Layout(before=(1,), between=(2,), after=(), max_tokens=8, encoder=False, first=False)
ENCODER = Layout(before=(1,), between=(2,), after=(2,), max_tokens=8, encoder=True, first=True)


def texts(*pairs: tuple[str, str | None]) -> list[Labelled]:
    return [Labelled(text=one, second=two, where=f"r:{n}") for n, (one, two) in enumerate(pairs, 1)]


@pytest.mark.parametrize(
    ("layout", "one", "two", "row"),
    [
        (DECODER, [5, 6], None, [1, 5, 6]),
        (DECODER, [5, 6], [7], [1, 5, 6, 2, 7]),
        (ENCODER, [5, 6], None, [1, 5, 6, 2]),
        (ENCODER, [5, 6], [7], [1, 5, 6, 2, 7, 2]),
        (ENCODER, [5] * 9, None, [1, *[5] * 6, 2]),
        (ENCODER, [5] * 9, [7], [1, *[5] * 4, 2, 7, 2]),
        (ENCODER, [5], [7] * 9, [1, 5, 2, *[7] * 4, 2]),
        (ENCODER, [5] * 9, [7] * 9, [1, *[5] * 3, 2, *[7] * 2, 2]),
    ],
)
def test_a_row_has_its_marks_and_its_longer_text_is_cut(
    layout: Layout, one: list[int], two: list[int] | None, row: list[int]
) -> None:
    assert layout.row(one, two) == row


def test_the_layout_is_the_models_and_cut_texts_are_counted() -> None:
    tokenizer = tiny.tokenizer()
    config = Classifier(tiny.llama(), 2).config
    layout = Layout.of(tokenizer, config, separator="\n", max_tokens=6)
    assert (layout.between, layout.first) == (tuple(tokenizer.encode("\n")), False)
    made = encode_rows(tokenizer, texts(("the", None), ("the quick brown fox jumps over", None)), layout)
    assert made.truncated == 1
    assert made.ids[0].tolist() == tokenizer.encode("the")
    assert len(made.ids[1]) == 6


def test_an_encoder_needs_its_marks_and_rows_some_room() -> None:
    encoder = Classifier(tiny.bert(), 2).config
    with pytest.raises(TokenizerError, match=r"an encoder reads \[CLS\] and \[SEP\]"):
        Layout.of(tiny.tokenizer(), encoder, separator="", max_tokens=8)
    pieces = train(tiny.TEXTS, kind="wordpiece", vocab=200)
    assert Layout.of(pieces, encoder, separator="", max_tokens=8).before == (pieces.cls_id,)
    with pytest.raises(ConfigError, match="rows of 4 tokens have no room for a text"):
        Layout.of(pieces, encoder, separator="", max_tokens=4)


def test_a_text_without_tokens_is_named() -> None:
    class Silent:
        def encode_batch(self, given: list[str]) -> list[list[int]]:
            return [[5] if text != "\u200b" else [] for text in given]

    with pytest.raises(DataError, match="r:2: the tokenizer makes no token of a text"):
        encode_rows(Silent(), texts(("a", None), ("\u200b", None)), DECODER)  # type: ignore[arg-type] - it can do this much


@given(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=9))
def test_codes_of_several_labels_come_back(rows: list[list[bool]]) -> None:
    truth = np.array(rows, dtype=np.int64)
    codes = torch.from_numpy(codes_of(truth, multi_label=True))
    assert torch.equal(truth_in(codes, 3, multi_label=True), torch.from_numpy(truth))


def test_codes_of_one_label_are_its_number_and_bits_are_limited() -> None:
    truth = np.eye(3, dtype=np.int64)[[2, 0]]
    codes = codes_of(truth, multi_label=False)
    assert codes.tolist() == [2, 0]
    assert truth_in(torch.from_numpy(codes), 3, multi_label=False).tolist() == truth.tolist()
    with pytest.raises(DataError, match="63 labels are more than the 62"):
        codes_of(np.zeros((1, 63), np.int64), multi_label=True)


def loader(kind: type[Loader], packing: str, *, first: bool = False) -> Loader:
    rows = [targeted(np.arange(1, length + 1), length, first=first) for length in (3, 1, 5, 2, 4)]
    return kind([Source(examples=rows)], batch=2, context=8, packing=packing, split_documents=False, epochs=1)  # type: ignore[arg-type] - a Packing


@pytest.mark.parametrize("packing", ["pack", "pad"])
@pytest.mark.parametrize("first", [False, True])
def test_every_text_has_its_target_where_it_is_read_once_an_epoch(packing: str, first: bool) -> None:
    found = []
    for batch in loader(Loader, packing, first=first):
        places = (batch.targets != IGNORED).nonzero().tolist()
        found += [int(batch.targets[row, place]) for row, place in places]
        for row, place in places:  # token n is the n-th of its text, and the text's length is its target
            assert batch.tokens[row, place] == (1 if first else batch.targets[row, place])
        assert batch.target_count == len(places)
    assert sorted(found) == [1, 2, 3, 4, 5]


def test_a_text_of_one_token_is_learnt_too() -> None:
    rows = [targeted(np.array([7]), 1, first=False)]
    (batch,) = Loader([Source(examples=rows)], batch=1, context=4, packing="pad", epochs=1)
    assert batch.targets.tolist() == [[1, IGNORED, IGNORED, IGNORED]]


def test_batches_are_as_wide_as_their_longest_row() -> None:
    widths = [batch.tokens.shape[1] for batch in loader(ClassLoader, "pad")]
    assert len(widths) == 3
    assert max(widths) == 5
    for batch in loader(ClassLoader, "pad"):
        assert real(batch).sum(1).max() == batch.tokens.shape[1]
        assert torch.equal(real(batch), batch.tokens != 0)


def test_segments_begin_anew_in_each_text_of_a_packed_row() -> None:
    rows = [targeted(np.array(ids), 0, first=True) for ids in ([1, 5, 2, 6, 2], [1, 7, 7, 2, 8, 8, 2])]
    (batch,) = Loader(
        [Source(examples=rows)], batch=1, context=15, packing="pack", split_documents=False, epochs=1
    )
    segments = segments_in(batch, 2)[0]
    by_text = {
        tuple(batch.tokens[0][batch.documents[0] == n].tolist()): segments[batch.documents[0] == n].tolist()
        for n in range(3)
    }
    assert by_text[1, 5, 2, 6, 2] == [0, 0, 0, 1, 1]
    assert by_text[1, 7, 7, 2, 8, 8, 2] == [0, 0, 0, 0, 1, 1, 1]
    assert by_text[0, 0, 0] == [0, 0, 0]
