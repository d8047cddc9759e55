"""AdaLoRA: scores by hand, the budget, `peft`'s allocator step by step, exact resuming, files both ways."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from luban.errors import ConfigError
from luban.models import hf
from luban.peft import files
from luban.peft.adalora import AdaLora, AdaLoraConfig, Importance, apply
from tests import tiny
from tests.peft import learning
from tests.peft.learning import disturb, names_of, tokens

OURS = {"a": "lora_A", "b": "lora_B", "e": "lora_E"}


def model_and_adapter(base: Path | None = None, **changes: Any) -> tuple[Any, AdaLora]:
    """A model, written to `base` where it is given, and its triplets."""
    torch.manual_seed(0)
    model = tiny.llama()
    if base:
        hf.save(model, base)
    numbers: dict[str, Any] = {"init_r": 4, "target_r": 2, "target_modules": ("q", "v")}
    adapter = apply(model, AdaLoraConfig(**(numbers | changes)))
    assert isinstance(adapter, AdaLora)
    return model, adapter


def give_gradients(adapter: AdaLora, step: int) -> None:
    """Fixed gradients, others in every step, for every trained weight."""
    generator = torch.Generator().manual_seed(step)
    for weight in adapter.trained().values():
        weight.grad = torch.randn(weight.shape, generator=generator)


def test_it_starts_as_the_model_itself() -> None:
    torch.manual_seed(0)
    expected = tiny.llama()(tokens())
    model, _ = model_and_adapter()
    torch.testing.assert_close(model(tokens()), expected, atol=1e-6, rtol=0)


def test_trained_weights_are_r_times_inputs_outputs_and_one() -> None:
    _, adapter = model_and_adapter()
    dim, kv, r, layers = 32, 16, 4, 2
    assert learning.count(adapter) == layers * r * ((dim + dim + 1) + (dim + kv + 1))


def test_a_numbers_importance_is_as_by_hand() -> None:
    felt = Importance(torch.zeros(1))
    for now in (2.0, 4.0):
        felt.now = torch.tensor([now])
        felt.smooth(0.5, 0.75)
    # sensitivity 1, then 0.5 + 2 = 2.5; uncertainty 0.25 |2 - 1|, then 0.1875 + 0.25 |4 - 2.5|
    assert felt.smoothed.item() == 2.5
    assert felt.uncertainty.item() == 0.5625
    assert felt.score().item() == 2.5 * 0.5625


def test_a_triplets_score_is_its_number_and_the_means_of_its_row_and_column() -> None:
    _, adapter = model_and_adapter(init_r=2, target_r=1)
    part = next(iter(adapter.triplets().values()))
    with torch.no_grad():
        for weight in part.weights().values():
            weight.fill_(1.0)
    part.a.grad, part.b.grad = torch.zeros_like(part.a), torch.zeros_like(part.b)
    part.e.grad = torch.tensor([[3.0], [0.0]])
    part.a.grad[1, :16], part.b.grad[:, 0] = 2.0, 1.0  # half of a row of Q; all of a column of P
    part.measure()
    for felt in part.felt.values():
        felt.smooth(0.5, 0.5)
    # |w g| = g here: smoothed g/2, uncertainty (g - g/2)/2 = g/4, score g*g/8
    torch.testing.assert_close(part.scores(), torch.tensor([9 / 8 + 1 / 8, (4 / 8) / 2]))


def test_the_budget_falls_by_a_cubic_from_all_to_the_target() -> None:
    config = AdaLoraConfig(init_r=4, target_r=2, tinit=2, tfinal=3)
    budgets = [config.budget(step, 15, start=40, end=20) for step in range(1, 16)]
    cubic = [int(20 + 20 * (1 - (step - 2) / 10) ** 3) for step in range(3, 12)]
    assert budgets == [40, 40, *cubic, 20, 20, 20, 20]


def test_ranks_sum_to_the_budget_and_stay_with_it_to_the_end() -> None:
    _, adapter = model_and_adapter(tinit=1, tfinal=3)
    losses = learning.train(adapter, steps=12, rate=0.05)
    assert losses[-1] < losses[0]
    assert sum(adapter.ranks().values()) == 2 * 4
    for part in adapter.triplets().values():
        assert int((part.e != 0).sum()) == int(part.kept.sum())


def test_the_penalty_is_the_mean_distance_from_orthogonal() -> None:
    _, adapter = model_and_adapter(init_r=2, target_r=1, orth_reg_weight=0.5)
    with torch.no_grad():
        for part in adapter.triplets().values():
            part.a.zero_()
            part.b.copy_(torch.eye(len(part.b), 2))
    penalty = adapter.loss()
    assert penalty is not None
    # P is orthogonal: 0; Q Q' - I = -I: sqrt(2)
    torch.testing.assert_close(penalty, torch.tensor(0.5 * 2**0.5 / 2))


def test_training_leaves_the_models_own_weights_to_the_bit() -> None:
    model, adapter = model_and_adapter()
    before = learning.copied(model)
    losses = learning.train(adapter, steps=12, rate=0.1)
    assert losses[-1] < losses[0] - 0.1
    assert learning.unchanged(model, before)


def test_merged_is_attached() -> None:
    model, adapter = model_and_adapter()
    disturb(adapter)
    attached = model(tokens())
    adapter.merge()
    torch.testing.assert_close(model(tokens()), attached, atol=1e-5, rtol=1e-5)


def test_resumed_is_uninterrupted() -> None:
    def steps(adapter: AdaLora, numbers: range) -> None:
        optimizer = torch.optim.SGD(adapter.trained().values(), lr=0.1)
        for step in numbers:
            give_gradients(adapter, step)
            adapter.after_backward()
            optimizer.step()
            adapter.after_step(step, 10, optimizer)

    _, whole = model_and_adapter(tfinal=2)
    steps(whole, range(1, 11))
    _, first = model_and_adapter(tfinal=2)
    steps(first, range(1, 6))
    state = json.loads(json.dumps(first.state()))
    _, second = model_and_adapter(tfinal=2)
    with torch.no_grad():
        for name, weight in second.trained().items():
            weight.copy_(first.trained()[name])
    second.restore(state)
    steps(second, range(6, 11))
    assert second.ranks() == whole.ranks()
    for name, weight in whole.trained().items():
        assert torch.equal(second.trained()[name], weight)


def test_a_schedule_without_a_step_to_fall_is_refused() -> None:
    _, adapter = model_and_adapter(tinit=5, tfinal=5)
    with pytest.raises(ConfigError, match="tinit 5 and tfinal 5 leave no step of 10"):
        adapter.after_step(1, 10, torch.optim.SGD(adapter.trained().values()))
    with pytest.raises(ConfigError, match="target_r 9 is more than init_r 4"):
        AdaLoraConfig(init_r=4, target_r=9)


def test_blocks_that_are_computed_twice_give_the_same_gradients() -> None:
    learning.check_recomputing(model_and_adapter)


def test_on_a_base_in_bfloat16_float32_weights_are_trained() -> None:
    learning.check_bfloat16_base(*model_and_adapter())


def oracle_of(folder: Path, adapter: AdaLora, **changes: Any) -> Any:
    """`peft`'s, on the base in `folder`, with the same weights."""
    from peft import AdaLoraConfig as Config
    from peft import get_peft_model

    config = Config(
        init_r=4,
        target_r=2,
        lora_alpha=16,
        target_modules=["q_proj", "v_proj"],
        task_type="CAUSAL_LM",
        **changes,
    )
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(folder), config)
    with torch.no_grad():
        for weight, theirs in paired(adapter, model):
            theirs.copy_(weight)
    return model


def paired(adapter: AdaLora, oracle: Any) -> list[tuple[Tensor, Tensor]]:
    """Our weights and `peft`'s of the same name."""
    names, theirs = names_of(adapter.model), dict(oracle.named_parameters())
    return [
        (weight, theirs[f"base_model.model.{names[place]}.{OURS[own]}.default"])
        for place, part in adapter.triplets().items()
        for own, weight in part.weights().items()
    ]


@pytest.mark.slow
def test_every_step_is_that_of_pefts_allocator(tmp_path: Path) -> None:
    _, adapter = model_and_adapter(tmp_path, tinit=2, tfinal=3, deltaT=2)
    disturb(adapter)
    oracle = oracle_of(tmp_path, adapter, tinit=2, tfinal=3, deltaT=2, total_step=14)
    optimizer = torch.optim.SGD(adapter.trained().values())
    for step in range(1, 15):
        with (
            torch.no_grad()
        ):  # the same move for both, before gradients: theirs measures after it, ours before
            for number, (ours, theirs) in enumerate(paired(adapter, oracle)):
                move = 0.1 * torch.randn(
                    ours.shape, generator=torch.Generator().manual_seed(100 * step + number)
                )
                ours += move
                theirs += move
        give_gradients(adapter, step)
        for ours, theirs in paired(adapter, oracle):
            theirs.grad = ours.grad
        adapter.after_backward()
        adapter.after_step(step, 14, optimizer)
        oracle.base_model.update_and_allocate(step)
        for ours, theirs in paired(adapter, oracle):
            torch.testing.assert_close(ours, theirs, atol=0, rtol=0)
    assert sum(adapter.ranks().values()) == 8


@pytest.mark.slow
def test_peft_computes_what_we_do_from_our_triplets_and_we_from_its(tmp_path: Path) -> None:
    from peft import PeftModel

    model, adapter = model_and_adapter(tmp_path / "base", tfinal=2)
    learning.train(adapter, steps=6, rate=0.1)
    assert len(set(adapter.ranks().values())) > 1  # files have ranks of different size
    expected = model(tokens())
    files.save(adapter, tmp_path / "ours", names=names_of(model))
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    oracle = PeftModel.from_pretrained(base, str(tmp_path / "ours"))
    torch.testing.assert_close(oracle(tokens()).logits, expected, atol=1e-5, rtol=1e-5)
    oracle.save_pretrained(str(tmp_path / "theirs"))
    for folder in ("ours", "theirs"):
        again = hf.load(tmp_path / "base")
        loaded = files.load(again, tmp_path / folder, names=names_of(again))
        torch.testing.assert_close(again(tokens()), expected, atol=1e-5, rtol=1e-5)
        assert isinstance(loaded, AdaLora)
        assert loaded.ranks() == adapter.ranks()


@pytest.mark.slow
def test_the_penalty_is_pefts(tmp_path: Path) -> None:
    _, adapter = model_and_adapter(tmp_path)
    disturb(adapter)
    oracle = oracle_of(tmp_path, adapter, total_step=10, orth_reg_weight=0.5)
    labels = tokens()
    with_penalty = oracle(labels, labels=labels).loss
    without = oracle.base_model.model(labels, labels=labels).loss
    penalty = adapter.loss()
    assert penalty is not None
    torch.testing.assert_close(penalty, with_penalty - without, atol=1e-5, rtol=1e-5)
