"""What a classifier learns: losses by hand, alike in any packing, and the text's own loss beside them."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import sklearn.metrics
import torch
import torch.nn.functional as F
from sklearn.utils.class_weight import compute_class_weight

from luban.data.batch import Batch
from luban.data.loader import Loader, Source, Targeted
from luban.models.classifier import Classifier
from luban.training.parallel.world import ALONE
from luban.tuning.class_loss import ClassLoss, balanced, class_loss, told_by
from luban.tuning.class_rows import targeted
from tests import tiny

LENGTHS, CODES = (5, 9, 3, 7), (0, 2, 1, 2)


def examples(*, first: bool = False, pairs: bool = False) -> list[Targeted]:
    random = np.random.default_rng(0)
    rows = []
    for length, code in zip(LENGTHS, CODES, strict=True):
        ids = random.integers(5, 300, length)
        if pairs:
            ids[[length // 2, -1]] = 2
        rows.append(targeted(ids, code, first=first))
    return rows


def batches(rows: list[Targeted], packing: Any, *, batch: int = 4) -> list[Batch]:
    return list(
        Loader(
            [Source(examples=rows)], batch=batch, context=24, packing=packing, split_documents=False, epochs=1
        )
    )


def model_of(kind: str, **settings: Any) -> Classifier:
    torch.manual_seed(0)
    return Classifier(getattr(tiny, kind)(), 3, **settings)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bloom", "mamba", "bert"])
@pytest.mark.parametrize("pairs", [False, True])
def test_packed_texts_have_the_loss_of_texts_read_alone(kind: str, pairs: bool) -> None:
    model = model_of(kind)
    rows = examples(first=kind == "bert", pairs=pairs)
    loss = ClassLoss(3, separator=2 if pairs and kind == "bert" else None)
    alone = 0.0
    for row, code in zip(rows, CODES, strict=True):
        ids = torch.from_numpy(row.ids)[None]
        segments = None
        if loss.separator is not None:
            segments = (torch.arange(ids.shape[1]) > ids.shape[1] // 2).long()[None]
        alone += F.cross_entropy(model(ids, segments), torch.tensor([code])).item()
    for packing in ("pack", "pad"):
        (batch,) = batches(rows, packing)
        step = loss.learned(model, batch)
        assert step.targets == 4
        assert step.loss.item() == pytest.approx(alone, rel=1e-5)


def test_small_batches_add_up_to_a_large_one_with_and_without_the_texts_loss() -> None:
    model = model_of("gpt2")
    for words in (0.0, 0.5):
        loss = ClassLoss(3, words=words)
        (whole,) = [loss.learned(model, batch) for batch in batches(examples(), "pack")]
        parts = [loss.learned(model, batch) for batch in batches(examples(), "pad", batch=1)]
        assert sum(part.loss.item() for part in parts) == pytest.approx(whole.loss.item(), rel=1e-5)
        assert sum(part.targets for part in parts) == whole.targets == 4


def test_the_texts_own_loss_is_the_mean_of_its_next_tokens() -> None:
    model = model_of("gpt2")
    (batch,) = batches(examples(), "pack")
    plain, both = (ClassLoss(3, words=words).learned(model, batch).loss.item() for words in (0.0, 0.5))
    each = [
        F.cross_entropy(model.backbone(ids[None, :-1])[0], ids[1:])
        for ids in (torch.from_numpy(row.ids) for row in examples())
    ]
    assert both - plain == pytest.approx(0.5 * sum(each).item(), rel=1e-4)  # type: ignore[union-attr] - of tensors


def test_weighted_and_several_labels_by_hand() -> None:
    scores, codes = torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 1])
    right, half = -np.log(np.exp(2) / (np.exp(2) + 1)), np.log(2)
    assert class_loss(scores, codes, multi_label=False).item() == pytest.approx(right + half, rel=1e-6)
    weights = torch.tensor([1.0, 3.0])
    weighted = class_loss(scores, codes, multi_label=False, weights=weights)
    assert weighted.item() == pytest.approx(right + 3 * half, rel=1e-6)
    both, none = torch.tensor([[2.0, 0.0]]), torch.tensor([3])  # bits 1 and 2: both labels are right
    assert class_loss(both, none, multi_label=True).item() == pytest.approx((right + half) / 2, rel=1e-6)
    weighted = class_loss(both, none, multi_label=True, weights=weights)
    assert weighted.item() == pytest.approx((right + 3 * half) / 2, rel=1e-6)


def test_balanced_weights_let_each_label_weigh_alike() -> None:
    truth = np.eye(3, dtype=np.int64)[[0, 0, 0, 1]]
    assert balanced(truth, multi_label=False).tolist() == pytest.approx([4 / 9, 4 / 3, 0])
    known = compute_class_weight("balanced", classes=np.arange(2), y=truth.argmax(1))
    assert balanced(truth[:, :2], multi_label=False).tolist() == pytest.approx([4 / 6, 2.0])
    assert known.tolist() == pytest.approx([4 / 6, 2.0])
    assert balanced(truth, multi_label=True).tolist() == pytest.approx([1 / 3, 3, 0])


@torch.no_grad()
def test_validation_tells_accuracy_and_macro_f1_of_the_same_texts_each_time() -> None:
    model, loss = model_of("llama"), ClassLoss(3, weights=torch.tensor([9.0, 9.0, 9.0]))
    found = batches(examples(), "pad", batch=1)
    guesses = [int(model(torch.from_numpy(row.ids)[None]).argmax()) for row in examples()]

    def validate() -> dict[str, float]:
        return {"val/loss": sum(loss.judged(model, batch).loss.item() for batch in found) / 4}

    whole = told_by(loss, validate, ALONE)
    first, second = whole(), whole()
    assert first == second
    assert first["val/accuracy"] == sum(a == b for a, b in zip(guesses, CODES, strict=True)) / 4
    metrics: Any = sklearn.metrics  # its stubs do not know zero_division=0
    known = metrics.f1_score(CODES, guesses, labels=[0, 1, 2], average="macro", zero_division=0)
    assert first["val/macro_f1"] == pytest.approx(known)
    unweighted = sum(class_loss(model(torch.from_numpy(r.ids)[None]), torch.tensor([c]), multi_label=False).item()
                     for r, c in zip(examples(), CODES, strict=True))  # fmt: skip
    assert first["val/loss"] == pytest.approx(unweighted / 4, rel=1e-5)


def test_one_batch_is_learnt_by_heart() -> None:
    model, loss = model_of("llama"), ClassLoss(3)
    (batch,) = batches(examples(), "pack")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        step = loss.learned(model, batch)
        losses.append(step.loss.item() / step.targets)
        step.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[0] == pytest.approx(np.log(3), rel=0.2)
    assert losses[-1] < 0.02
    assert sum(later < before for before, later in pairwise(losses)) > 20
