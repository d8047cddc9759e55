"""Lower precision: what is computed in it, what is not, and the state machine of the float16 loss scale."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from luban.data.batch import Batch
from luban.errors import TrainingError
from luban.training.config import OptimizerConfig
from luban.training.losses import linear_cross_entropy
from luban.training.optim import adamw
from luban.training.precision import FAST_BFLOAT16, Scaler, computing_in, in_precision, precision_named
from luban.training.step import OVERFLOW, Accumulated, Step, Updater, next_token
from tests import tiny
from tests.training.test_step import ragged_rows

CPU = torch.device("cpu")
LOW = (torch.bfloat16, torch.float16)


def updater_in(
    dtype: torch.dtype, model: Any, scaler: Scaler | None = None, objective: Any = None
) -> Updater:
    objective = in_precision(objective or next_token(), dtype, CPU)
    return Updater(
        adamw(model, OptimizerConfig()), Accumulated(model, objective), max_grad_norm=1.0, scaler=scaler
    )


@pytest.mark.parametrize("dtype", LOW)
def test_products_are_computed_in_the_lower_precision_and_weights_stay_float32(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = tiny.llama()
    seen: list[torch.dtype] = []
    model.get_submodule("blocks.0.mlp.down").register_forward_hook(lambda *call: seen.append(call[-1].dtype))
    updater = updater_in(dtype, model)
    updater.gradients.sum([ragged_rows()])
    assert seen == [dtype]
    assert {p.grad.dtype for p in model.parameters() if p.grad is not None} == {torch.float32}
    updater.update([ragged_rows()], learning_rate=1e-3)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("dtype", LOW)
def test_the_loss_of_rounded_states_is_summed_in_float32(dtype: torch.dtype) -> None:
    """Against the same rounded product with the softmax in float64: only sums of float32 are in between."""
    torch.manual_seed(0)
    states, weight = torch.randn(300, 32), torch.randn(4000, 32)
    targets = torch.randint(0, 4000, (300,))
    with computing_in(dtype, CPU):
        loss = linear_cross_entropy(states, weight, targets, chunk_tokens=64)
    logits = (states.to(dtype) @ weight.to(dtype).T).double()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(
        loss.double(), torch.nn.functional.cross_entropy(logits, targets, reduction="sum"), rtol=1e-5, atol=0
    )


@pytest.mark.parametrize("dtype", LOW)
def test_gradients_of_the_head_are_those_of_float32_but_for_rounding(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    states, weight = torch.randn(40, 32), torch.randn(100, 32)
    targets = torch.randint(0, 100, (40,))

    def gradients(dtype: torch.dtype) -> tuple[Tensor, ...]:
        leaves = states.clone().requires_grad_(), weight.clone().requires_grad_()
        with computing_in(dtype, CPU):
            loss = linear_cross_entropy(*leaves, targets)
        return torch.autograd.grad(loss, leaves)

    for got, expected in zip(gradients(dtype), gradients(torch.float32), strict=True):
        assert (got - expected).norm() < 0.02 * expected.norm()


def test_training_in_lower_precision_learns_what_float32_learns() -> None:
    losses = {}
    for dtype in (torch.float32, *LOW):
        torch.manual_seed(0)
        scaler = Scaler(scale=1024.0) if dtype == torch.float16 else None
        updater = updater_in(dtype, tiny.llama(), scaler)
        losses[dtype] = [updater.update([ragged_rows()], learning_rate=1e-2).loss for _ in range(25)]
    assert losses[torch.float32][0] > 5.5
    assert losses[torch.float32][-1] < 3.5
    for dtype in LOW:
        assert losses[dtype] == pytest.approx(losses[torch.float32], rel=0.05)


def test_float32_is_the_objective_itself() -> None:
    objective = next_token()
    assert in_precision(objective, torch.float32, CPU) is objective


def test_auto_is_bfloat16_on_a_cpu_that_multiplies_it_and_float32_on_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for word in FAST_BFLOAT16:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda word=word: {word: True})
        assert precision_named("auto", CPU) == torch.bfloat16
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, FAST_BFLOAT16[0]: False})
    assert precision_named("auto", CPU) == torch.float32
    assert precision_named("float16", CPU) == torch.float16


def test_the_scale_doubles_after_enough_good_steps_and_halves_after_a_bad_one() -> None:
    scaler = Scaler(scale=8.0, interval=3)
    seen = []
    for good in (True, True, True, True, False, True, True, False, True, True, True):
        (scaler.passed if good else scaler.overflowed)()
        seen.append(scaler.scale)
    #         the third good one doubles; a bad one halves, and the count of good ones begins anew
    assert seen == [8, 8, 16, 16, 8, 8, 8, 4, 4, 4, 8]
    assert scaler.skipped == 2
    assert Scaler().scale == 65536
    assert Scaler().interval == 2000


def test_the_scales_are_those_of_torchs_own_scaler() -> None:
    ours = Scaler(scale=2.0**16, interval=4)
    theirs = torch.amp.GradScaler("cpu", init_scale=2.0**16, growth_interval=4)
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0.0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        finite = bool(torch.rand((), generator=generator) < 0.8)
        theirs.scale(weight * 0)  # creates its scale
        weight.grad = torch.tensor([1.0 if finite else float("inf")])
        theirs.step(optimizer)
        theirs.update()
        (ours.passed if finite else ours.overflowed)()
        assert ours.scale == theirs.get_scale()
        assert ours.good == theirs._get_growth_tracker()


def test_a_scaler_goes_on_from_its_state() -> None:
    scaler = Scaler(scale=4.0, interval=3)
    scaler.passed()
    scaler.overflowed()
    scaler.passed()
    twin = Scaler(interval=3)
    twin.restore(scaler.state())
    for each in (scaler, twin):
        each.passed()
        each.passed()
    assert vars(twin) == vars(scaler) | {"interval": 3}
    assert twin.scale == 4.0


def exploding_above(limit: float) -> Any:
    """An objective whose gradient is not finite where the loss is scaled by more than `limit`."""

    class Overflowing(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, loss: Tensor) -> Tensor:  # noqa: ARG004 - torch's signature
            return loss.clone()

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ARG004 - torch's signature
            (gradient,) = gradients
            return torch.where(gradient > limit, torch.inf, gradient)

    def objective(model: Any, batch: Batch) -> Step:
        step = next_token()(model, batch)
        return dataclasses.replace(step, loss=Overflowing.apply(step.loss))

    return objective


def test_an_overflow_moves_nothing_and_the_next_step_is_that_of_an_unscaled_run() -> None:
    torch.manual_seed(0)
    model = tiny.llama()
    plain, before = copy.deepcopy(model), copy.deepcopy(model.state_dict())
    scaler = Scaler(scale=256.0)
    scaled = updater_in(torch.float32, model, scaler, exploding_above(64.0))
    for _ in range(2):  # 256 and 128 are too much
        assert scaled.update([ragged_rows()], learning_rate=1e-2).fault == OVERFLOW
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    taken = scaled.update([ragged_rows()], learning_rate=1e-2)
    expected = updater_in(torch.float32, plain).update([ragged_rows()], learning_rate=1e-2)
    assert (taken.fault, scaler.scale, scaler.skipped) == ("", 64.0, 2)
    assert taken == dataclasses.replace(expected, grad_norm=pytest.approx(expected.grad_norm, rel=1e-6))
    for mine, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=0)


def test_a_gradient_that_no_scale_mends_stops_the_run() -> None:
    updater = updater_in(torch.float32, tiny.llama(), Scaler(scale=2.0**-22), exploding_above(0.0))
    for _ in range(2):
        assert updater.update([ragged_rows()], learning_rate=1e-2).fault == OVERFLOW
    with pytest.raises(TrainingError, match=r"not finite at any scale(.|\n)*bfloat16 or float32"):
        updater.update([ragged_rows()], learning_rate=1e-2)


def test_a_loss_that_is_not_finite_is_the_guards_business_not_the_scalers() -> None:
    def broken(model: Any, batch: Batch) -> Step:
        step = next_token()(model, batch)
        return dataclasses.replace(step, loss=step.loss * float("nan"))

    scaler = Scaler()
    with pytest.raises(TrainingError, match="the loss is nan"):
        updater_in(torch.float32, tiny.llama(), scaler, broken).update([ragged_rows()], learning_rate=1e-2)
    assert scaler.skipped == 0
