"""Compressed gradients: a step by hand, nothing lost over many steps, bytes as the formulas say, and learning."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from luban.training.config import ParallelConfig
from luban.training.parallel.compression import BLOCK, OneBit, hook, ring_bytes, sent, signs, unsigned
from luban.training.parallel.world import World, joined
from tests import tiny
from tests.ranks import run_ranks

SIZE = (48, 40)
STEPS = 120


def test_a_message_is_the_mean_magnitude_and_a_sign_each() -> None:
    values = torch.tensor([3.0, -1.0, 0.0, 4.0])
    message = signs(values)
    assert message[:4].view(torch.float32).item() == 2.0  # (3 + 1 + 0 + 4) / 4
    assert (
        message[4].item() == 0b11111101
    )  # the lowest bit is the first element; zeros fill up and count as +
    assert unsigned(message, 4).tolist() == [2.0, -2.0, 2.0, 2.0]
    assert (values - unsigned(message, 4)).tolist() == [1.0, 1.0, -2.0, 2.0]  # the residual


def test_each_block_has_its_own_scale_and_the_last_is_not_thinned_by_filling() -> None:
    values = torch.cat([torch.full((BLOCK,), 3.0), torch.full((8,), -0.5)])
    message = signs(values)
    assert len(message) == 2 * 4 + 2 * BLOCK // 8
    assert torch.equal(unsigned(message, len(values)), values)


def test_a_long_gradient_takes_a_thirty_second_and_its_scales() -> None:
    elements = 64 * BLOCK
    assert len(signs(torch.randn(elements))) == elements // 8 + 4 * 64


def test_a_ring_sends_all_but_its_own_share_twice() -> None:
    assert ring_bytes(400, 2) == 400
    assert ring_bytes(400, 4) == 600


class Quadratic(nn.Module):
    """A loss whose gradient is what it is given, for a matrix and a vector."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix, self.vector = nn.Parameter(torch.zeros(*SIZE)), nn.Parameter(torch.zeros(SIZE[0]))

    def forward(self, matrix: Tensor, vector: Tensor) -> Tensor:
        return (self.matrix * matrix).sum() + (self.vector * vector).sum()


def spread(
    name: Any, world: World, module: nn.Module, **settings: int
) -> tuple[Any, DistributedDataParallel]:
    ddp, (state, told) = DistributedDataParallel(module), hook(name, world, **settings)
    ddp.register_comm_hook(state, told)
    return state, ddp


def sent_sums(name: Any, world: World) -> dict[str, Any]:
    """How far the sum of what was sent is from the sum of true averages, early and late, and the bytes."""
    torch.manual_seed(0)
    module = Quadratic()
    state, ddp = spread(name, world, module, rank=2, whole_steps=2)
    drawn = torch.Generator().manual_seed(world.rank)
    matrix = torch.randn(SIZE, generator=drawn)  # the same gradient each step, another one on each process
    vector = torch.randn(SIZE[0], generator=drawn)
    truth = matrix.clone()
    dist.all_reduce(truth)
    got, errors, last = torch.zeros(SIZE), [], 0
    for step in range(STEPS):
        module.zero_grad()
        before = sent(state)
        ddp(matrix, vector).backward()
        assert module.matrix.grad is not None
        got += module.matrix.grad
        last = sent(state) - before
        errors.append(float((got / (step + 1) - truth / 2).norm() / truth.norm()))
    mine = module.matrix.grad.clone()  # pyright: ignore[reportOptionalMemberAccess] - filled above
    theirs = mine.clone()
    dist.broadcast(theirs, 0)
    return {"errors": errors, "last": last, "whole": state.whole_bytes, "alike": torch.equal(mine, theirs)}


def after_a_bad_gradient(name: Any, world: World) -> tuple[bool, bool]:
    """Whether every process saw that one process's gradient was not finite, and whether the next one was fine."""
    torch.manual_seed(0)
    module = Quadratic()
    _, ddp = spread(name, world, module, rank=2, whole_steps=2)
    fine = []
    for step in range(6):
        module.zero_grad()
        matrix = torch.ones(SIZE)
        matrix[3, 4] = float("nan") if step == 4 and world.rank == 1 else 1.0
        ddp(matrix, torch.ones(SIZE[0])).backward()
        assert module.matrix.grad is not None
        fine.append(bool(module.matrix.grad.isfinite().all()))
    return not fine[4], fine[5]


def learned(kind: str, world: World, tokens: list[int], *, steps: int = 100) -> float:
    """The mean loss of the last ten steps of SGD on a tiny LLaMA; "plain" are signs without residuals."""
    torch.manual_seed(0)

    class Loss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = tiny.llama()

        def forward(self, rows: Tensor) -> Tensor:
            return nn.functional.cross_entropy(self.model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())

    if kind == "none":
        state, ddp = None, DistributedDataParallel(Loss())
    else:
        state, ddp = spread("onebit" if kind == "plain" else kind, world, Loss(), whole_steps=2)
    optimizer = torch.optim.SGD(ddp.parameters(), lr=1.0)
    drawn, text, losses = torch.Generator().manual_seed(world.rank), torch.tensor(tokens), []
    for _ in range(steps):
        starts = torch.randint(0, len(text) - 33, (4,), generator=drawn).tolist()
        loss = ddp(torch.stack([text[start : start + 33] for start in starts]))
        loss.backward()
        nn.utils.clip_grad_norm_(ddp.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if kind == "plain":
            assert isinstance(state, OneBit)
            state.residuals.clear()
        losses.append(loss.item())
    return world.total(sum(losses[-10:]) / 10)[0] / world.size


def everything(tokens: list[int]) -> dict[str, Any]:
    with joined(ParallelConfig(), torch.device("cpu")) as world:
        names = ("onebit", "powersgd")
        return {
            "sums": {name: sent_sums(name, world) for name in names},
            "bad": {name: after_a_bad_gradient(name, world) for name in names},
            "losses": {kind: learned(kind, world, tokens) for kind in ("none", "plain", *names)},
        }


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return run_ranks(2, everything, tiny.tokenizer().encode("".join(tiny.TEXTS)))[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["onebit", "powersgd"])
def test_what_is_sent_adds_up_to_the_gradients_themselves(found: dict[str, Any], name: str) -> None:
    errors = found["sums"][name]["errors"]
    assert errors[0] < 1e-6  # whole
    assert errors[2] > 0.1  # compressed: wrong in any one step
    assert errors[-1] < max(errors) / 3  # the residuals catch up; without them the error would stay


@pytest.mark.slow
@pytest.mark.parametrize("name", ["onebit", "powersgd"])
def test_all_processes_get_the_same_gradient(found: dict[str, Any], name: str) -> None:
    assert found["sums"][name]["alike"]


@pytest.mark.slow
def test_bytes_are_what_the_formulas_say(found: dict[str, Any]) -> None:
    rows, columns = SIZE
    elements = rows * columns + rows
    blocks = -(-elements // BLOCK)
    assert found["sums"]["onebit"]["whole"] == STEPS * elements * 4
    assert found["sums"]["onebit"]["last"] == blocks * (BLOCK // 8 + 4)
    assert found["sums"]["powersgd"]["last"] == 4 * (
        2 * (rows + columns) + rows
    )  # r(n + m), and the vector whole


@pytest.mark.slow
@pytest.mark.parametrize("name", ["onebit", "powersgd"])
def test_a_bad_gradient_is_seen_by_all_and_forgotten(found: dict[str, Any], name: str) -> None:
    assert found["bad"][name] == (True, True)


@pytest.mark.slow
def test_signs_learn_as_well_as_whole_gradients_only_with_their_residuals(found: dict[str, Any]) -> None:
    losses = found["losses"]
    assert losses["onebit"] < losses["none"] + 0.1
    assert losses["plain"] > losses["onebit"] + 0.2
    assert losses["powersgd"] < losses["none"] + 0.2
