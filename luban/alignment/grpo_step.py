"""What GRPO makes of groups of answers: advantages without a critic, and the policy's objective.

    A_i = (r_i - mean of its group) / (deviation of its group)

Every token of an answer has the answer's advantage.

Source: Shao et al. 2024, section 4.1 (arXiv:2402.03300); "clip higher" and token-level normalisation: Yu et al. 2025
(arXiv:2503.14476); no division by the deviation: Liu et al. 2025 (arXiv:2503.20783).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from luban.alignment.ladder.ppo_clip import bound, clipped_loss
from luban.alignment.ladder.ppo_penalty import kl_of_samples
from luban.alignment.likelihood import likelihood
from luban.alignment.tally import Tally
from luban.training.step import Step

ScaleRewards = Literal["group", "batch", "none"]
LossType = Literal["token", "sequence"]


def group_advantages(rewards: Sequence[float], *, group: int, scale: ScaleRewards) -> Float[Tensor, " batch"]:
    """How much better each answer is than its group's mean; rewards of a group stand side by side.

    Divided by the group's deviation, by that of all answers, or by nothing. A group whose answers are all worth the
    same teaches nothing: its advantages are 0.
    """
    told = torch.tensor(rewards, dtype=torch.float64).view(-1, group)
    above = told - told.mean(1, keepdim=True)
    if scale == "group":
        above = above / (told.std(1, keepdim=True) + 1e-4)
    elif scale == "batch":
        above = above / (told.std() + 1e-4)
    return above.flatten().float()


class GroupObjective:
    """The clipped surrogate, plus `beta` times the KL to the reference, averaged over tokens or over answers first."""

    def __init__(
        self, *, low: float, high: float, beta: float, loss_type: LossType, temperature: float
    ) -> None:
        self.low, self.high, self.beta = low, high, beta
        self.loss_type, self.temperature = loss_type, temperature
        self.tally = Tally()

    def __call__(self, model: Any, batch: Any) -> Step:
        now = likelihood(model, batch, temperature=self.temperature)
        clip = {"low": self.low, "high": self.high}
        each = clipped_loss(now.logps, batch.logps, batch.advantages, **clip)
        if self.beta:
            each = each + self.beta * kl_of_samples(batch.reference_logps, now.logps)
        with torch.no_grad():
            self.tally.add(
                "policy/clipped", bound(now.logps, batch.logps, batch.advantages, **clip).float(), batch.there
            )
            self.tally.add("policy/moved", kl_of_samples(now.logps, batch.logps), batch.there)
            self.tally.add("policy/entropy", now.entropies, batch.there)
        each = torch.where(batch.there, each, 0.0)
        if self.loss_type == "token":
            return Step(each.sum(), batch.target_count)
        lengths = batch.there.sum(1)
        return Step((each.sum(1) / lengths.clamp(min=1)).sum(), int((lengths > 0).sum()))
