"""What the tests of several methods share: a batch, a few steps on it, and a base whose file `peft` can read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from luban.data.batch import IGNORED, Batch, Origin
from luban.models import FAMILIES
from luban.models.names import module_names
from luban.nn.surgery import own_parameters
from luban.training.recompute import recompute_blocks
from luban.training.step import next_token


def names_of(model: Any) -> dict[str, str]:
    return module_names(FAMILIES[model.config.model_type].names, own_parameters(model))


def tokens(rows: int = 2, seq: int = 9) -> Tensor:
    return torch.randint(0, 384, (rows, seq), generator=torch.Generator().manual_seed(1))


def packed() -> Batch:
    """Two rows of 12 tokens: three documents of 5, 4 and 3, and two of 7 and 5."""
    places = [[*range(5), *range(4), *range(3)], [*range(7), *range(5)]]
    documents = [[0] * 5 + [1] * 4 + [2] * 3, [0] * 7 + [1] * 5]
    read = tokens(2, 12)
    targets = read.roll(-1, 1)
    numbers = torch.tensor(documents)
    targets[:, :-1][numbers[:, 1:] != numbers[:, :-1]] = IGNORED
    targets[:, -1] = IGNORED
    return Batch(
        tokens=read,
        targets=targets,
        positions=torch.tensor(places),
        documents=numbers,
        ids=[Origin("test", 0)],
        packed=True,
    )


def loss_of(model: Any) -> float:
    """Of the packed batch, per target."""
    with torch.no_grad():
        return next_token()(model.eval(), packed()).loss.item() / packed().target_count


def train(adapter: Any, *, steps: int = 8, rate: float = 0.02, decay: float = 0.0) -> list[float]:
    """The loss per target of each of `steps` steps on the packed batch, all of the adapter's moments called."""
    model, batch, objective = adapter.model.train(), packed(), next_token()
    optimizer = torch.optim.AdamW(adapter.trained().values(), lr=rate, weight_decay=decay)
    adapter.before_training([batch], objective)
    losses: list[float] = []
    for step in range(1, steps + 1):
        whole = objective(model, batch).loss / batch.target_count
        losses.append(whole.item())
        penalty = adapter.loss()
        (whole if penalty is None else whole + penalty).backward()
        adapter.after_backward()
        optimizer.step()
        adapter.after_step(step, steps, optimizer)
        optimizer.zero_grad()
    model.eval()
    return losses


def copied(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in own_parameters(model).items()}


def unchanged(model: nn.Module, before: dict[str, Tensor]) -> bool:
    """Whether the model's own weights are what they were, to the bit."""
    return all(torch.equal(value, before[name]) for name, value in own_parameters(model).items())


def gradients(adapter: Any) -> dict[str, Tensor]:
    """Of the packed batch's loss per target, for every trained weight."""
    batch = packed()
    adapter.model.train()
    (next_token()(adapter.model, batch).loss / batch.target_count).backward()
    found: dict[str, Tensor] = {}
    for name, weight in adapter.trained().items():
        assert weight.grad is not None, name
        found[name] = weight.grad
    return found


def disturb(adapter: Any, *, by: float = 0.1) -> None:
    """Give every trained weight a value that means something."""
    torch.manual_seed(2)
    with torch.no_grad():
        for weight in adapter.trained().values():
            weight += by * torch.randn_like(weight)


def check_recomputing(make: Callable[[], tuple[Any, Any]]) -> None:
    """Blocks that are computed twice give the gradients of blocks that are not; `make` gives model and adapter."""
    _, adapter = make()
    disturb(adapter)
    expected = gradients(adapter)
    model, again = make()
    disturb(again)
    recompute_blocks(model)
    for name, gradient in gradients(again).items():
        assert gradient.norm() > 0
        torch.testing.assert_close(gradient, expected[name], atol=1e-7, rtol=1e-5)


def check_bfloat16_base(model: Any, adapter: Any) -> None:
    """On a base in bfloat16 float32 weights are trained, and the model computes about the same."""
    disturb(adapter)
    expected = model(tokens())
    for weight in own_parameters(model).values():
        weight.data = weight.data.bfloat16()
    assert model(tokens()).dtype == torch.bfloat16
    torch.testing.assert_close(model(tokens()).float(), expected, atol=0.1, rtol=0.1)
    assert {gradient.dtype for gradient in gradients(adapter).values()} == {torch.float32}


def count(adapter: Any) -> int:
    return sum(weight.numel() for weight in adapter.trained().values())
