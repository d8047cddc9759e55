from __future__ import annotations

import dataclasses

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from luban.data.document import Document
from luban.data.step import Batch
from luban.data.text.statistics import Statistics

TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=60), max_size=6)


@given(TEXTS, st.data())
def test_a_narrowed_batch_says_what_a_new_batch_of_the_same_texts_says(
    texts: list[str], data: st.DataObject
) -> None:
    batch = Batch([Document(id=str(i), text=text, source="") for i, text in enumerate(texts)])
    chosen = [i for i in range(len(texts)) if data.draw(st.booleans())]
    batch.statistics  # noqa: B018 - counted, so that it is taken over
    narrowed = batch.narrowed([batch.documents[i] for i in chosen], chosen, 7)
    new = Batch(narrowed.documents)
    assert narrowed.first == 7
    assert [_text(narrowed, i) for i in range(len(chosen))] == [texts[i] for i in chosen]
    for field in dataclasses.fields(Statistics):
        np.testing.assert_array_equal(
            getattr(narrowed.statistics, field.name), getattr(new.statistics, field.name)
        )


def _text(batch: Batch, index: int) -> str:
    start, length = batch.packed.starts[index], batch.packed.lengths[index]
    return batch.packed.buffer[start : start + length].tobytes().decode("utf-8")
