"""The updater: any split into micro-batches is the same step, and a bad batch is named before anything moves."""

from __future__ import annotations

import copy

import pytest
import torch

from luban.data.batch import IGNORED, Batch, Origin
from luban.errors import TrainingError
from luban.training.config import OptimizerConfig
from luban.training.optim import adamw
from luban.training.step import Accumulated, Step, Updater, next_token
from tests import tiny

ROWS, SEQ = 8, 12


def ragged_rows() -> Batch:
    """Rows with very different numbers of targets, where averaging per micro-batch would go wrong."""
    torch.manual_seed(3)
    tokens = torch.randint(0, 384, (ROWS, SEQ + 1))
    targets = tokens[:, 1:].clone()
    for row in range(ROWS):
        targets[row, row + 2 :] = IGNORED
    return Batch(
        tokens=tokens[:, :-1],
        targets=targets,
        positions=torch.arange(SEQ).expand(ROWS, SEQ),
        documents=torch.zeros(ROWS, SEQ, dtype=torch.int64),
        ids=[Origin("test", row) for row in range(ROWS)],
        packed=False,
    )


def cut(batch: Batch, rows: int) -> list[Batch]:
    return [
        Batch(
            tokens=batch.tokens[start : start + rows],
            targets=batch.targets[start : start + rows],
            positions=batch.positions[start : start + rows],
            documents=batch.documents[start : start + rows],
            ids=batch.ids[start : start + rows],
            packed=False,
        )
        for start in range(0, ROWS, rows)
    ]


@pytest.mark.parametrize("rows", [4, 2, 1])
def test_micro_batches_of_any_size_are_the_same_step_as_one_batch(rows: int) -> None:
    torch.manual_seed(0)
    whole, split = tiny.llama(), None
    split = copy.deepcopy(whole)
    losses = []
    # Adam divides by a gradient's size: without this epsilon, rounding of one near 0 would be as large as any other.
    config = OptimizerConfig(adam_epsilon=1e-5)
    for model, batches in ((whole, [ragged_rows()]), (split, cut(ragged_rows(), rows))):
        optimizer = adamw(model, config)
        updater = Updater(optimizer, Accumulated(model, next_token()), max_grad_norm=1.0)
        losses.append([updater.update(batches, learning_rate=1e-2).loss for _ in range(3)])
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    for mine, theirs in zip(split.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=0)


def test_the_loss_is_the_mean_over_all_targets() -> None:
    torch.manual_seed(0)
    model, batch = tiny.llama(), ragged_rows()
    expected = torch.nn.functional.cross_entropy(
        model(batch.tokens).flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORED
    ).item()
    updater = Updater(adamw(model, OptimizerConfig()), Accumulated(model, next_token()), max_grad_norm=1.0)
    update = updater.update(cut(batch, 2), learning_rate=0.0)
    assert update.loss == pytest.approx(expected, abs=1e-5)
    assert update.targets == batch.target_count


def test_gradients_are_scaled_down_to_the_norm_limit() -> None:
    torch.manual_seed(0)
    model = tiny.llama()
    updater = Updater(adamw(model, OptimizerConfig()), Accumulated(model, next_token()), max_grad_norm=1e-3)
    seen: list[float] = []
    weights = [p for group in updater.optimizer.param_groups for p in group["params"]]
    updater.optimizer.register_step_pre_hook(
        lambda *_: seen.append(torch.stack([p.grad.norm() for p in weights]).norm().item())
    )
    update = updater.update([ragged_rows()], learning_rate=1e-3)
    assert update.grad_norm > 1e-2
    assert seen == [pytest.approx(1e-3, rel=1e-2)]


def test_packed_documents_train_as_if_they_were_apart() -> None:
    torch.manual_seed(0)
    model = tiny.llama()
    tokens, targets = torch.randint(0, 384, (1, 10)), torch.randint(0, 384, (1, 10))
    border = 4
    positions = torch.cat((torch.arange(border), torch.arange(10 - border)))[None]
    packed = Batch(
        tokens=tokens,
        targets=targets,
        positions=positions,
        documents=(positions == 0).cumsum(1),
        ids=[],
        packed=True,
    )
    loss = next_token()(model, packed).loss
    apart = sum(
        torch.nn.functional.cross_entropy(model(tokens[:, part])[0], targets[0, part], reduction="sum")
        for part in (slice(0, border), slice(border, 10))
    )
    torch.testing.assert_close(loss, torch.as_tensor(apart), atol=1e-4, rtol=1e-5)


def test_a_loss_that_is_not_finite_names_the_documents_and_moves_nothing() -> None:
    model = tiny.llama()
    before = copy.deepcopy(model.state_dict())

    def broken(model: torch.nn.Module, batch: Batch) -> Step:
        return Step(next_token()(model, batch).loss * float("nan"), 1)

    updater = Updater(adamw(model, OptimizerConfig()), Accumulated(model, broken), max_grad_norm=1.0)
    with pytest.raises(TrainingError, match="test #0, test #1"):
        updater.update([ragged_rows()], learning_rate=1.0)
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, before[name])


def test_a_batch_without_targets_is_refused() -> None:
    model, batch = tiny.llama(), ragged_rows()
    batch.targets.fill_(IGNORED)
    updater = Updater(adamw(model, OptimizerConfig()), Accumulated(model, next_token()), max_grad_norm=1.0)
    with pytest.raises(TrainingError, match="no token of this batch is a target"):
        updater.update([batch], learning_rate=1.0)


def test_a_few_steps_on_one_batch_learn_it_by_heart() -> None:
    torch.manual_seed(0)
    model = tiny.llama()
    updater = Updater(adamw(model, OptimizerConfig()), Accumulated(model, next_token()), max_grad_norm=1.0)
    losses = [updater.update([ragged_rows()], learning_rate=1e-2).loss for _ in range(80)]
    assert losses[0] > 5
    assert losses[-1] < 0.3
