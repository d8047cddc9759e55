"""What PPO makes of an iteration's answers: advantages, and the objectives of policy and critic."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from luban.alignment.experience import Experience
from luban.alignment.ladder.actor_critic import critic_loss
from luban.alignment.ladder.gae import gae, whitened
from luban.alignment.ladder.importance import surrogate_loss
from luban.alignment.ladder.ppo_clip import bound, clipped_loss, clipped_value_loss
from luban.alignment.ladder.ppo_penalty import kl_of_samples
from luban.alignment.likelihood import expected, likelihood
from luban.alignment.ppo_config import AdvantageConfig, LossConfig
from luban.alignment.tally import Tally
from luban.data.batch import Batch
from luban.training.step import Step, next_token


def weighed(
    experience: Experience, rewards: Float[Tensor, "batch actions"], config: AdvantageConfig
) -> Experience:
    """The experience with advantages, and with what the critic should have said."""
    advantages = gae(rewards, experience.values, gamma=config.gamma, lam=config.lam)
    returns = advantages + experience.values
    if config.whiten:
        advantages = whitened(advantages, experience.there)
    if config.clip:
        advantages = advantages.clamp(-config.clip, config.clip)
    return dataclasses.replace(experience, advantages=advantages, returns=returns)


def explained_variance(experience: Experience) -> float:
    """How much of the returns' variance the critic foresaw: 1 all, 0 none, below 0 less than nothing."""
    returns, values = experience.returns[experience.there], experience.values[experience.there]
    spread = float(returns.var(correction=0)) if len(returns) else 0.0
    return 1 - float((returns - values).var(correction=0)) / spread if spread else 0.0


class PolicyObjective:
    """The clipped surrogate, less a bonus for entropy, plus the loss of some pretraining text where there is any."""

    def __init__(
        self,
        config: LossConfig,
        *,
        temperature: float,
        texts: Iterator[Batch] | None = None,
        text_coef: float = 0.0,
    ) -> None:
        self.config, self.temperature = config, temperature
        self.texts, self.text_coef = texts, text_coef
        self.tally = Tally()

    def __call__(self, model: Any, batch: Any) -> Step:
        now = likelihood(model, batch, temperature=self.temperature)
        each = self._surrogate(now.logps, batch) - self._bonus(now.entropies)
        with torch.no_grad():
            self.tally.add("moved", kl_of_samples(now.logps, batch.logps), batch.there)
            self.tally.add("entropy", now.entropies, batch.there)
        loss, targets = each[batch.there].sum(), batch.target_count
        if self.texts is not None:
            text = next_token()(model, next(self.texts).to(batch.tokens.device))
            loss = loss + self.text_coef * targets * text.loss / text.targets
        return Step(loss, targets)

    def _surrogate(self, logps: Tensor, batch: Experience) -> Tensor:
        clip = self.config.cliprange
        if not clip:
            return surrogate_loss(logps, batch.logps, batch.advantages)
        held = bound(logps, batch.logps, batch.advantages, low=clip, high=clip)
        self.tally.add("clipped", held.float(), batch.there)
        return clipped_loss(logps, batch.logps, batch.advantages, low=clip, high=clip)

    def _bonus(self, entropies: Tensor) -> Tensor:
        if self.config.entropy_clip:
            entropies = entropies.clamp(max=self.config.entropy_clip)
        return self.config.entropy_coef * entropies


class CriticObjective:
    """Half the squared distance of values from returns, clipped against the values of before."""

    def __init__(self, config: LossConfig) -> None:
        self.config = config
        self.tally = Tally()

    def __call__(self, model: Any, batch: Any) -> Step:
        values, clip = expected(model, batch), self.config.cliprange_value
        if not clip:
            each = critic_loss(values, batch.returns)
        else:
            each = clipped_value_loss(values, batch.values, batch.returns, clip=clip)
            far = (values.detach() - batch.values).abs() > clip
            self.tally.add("clipped", far.float(), batch.there)
        return Step(each[batch.there].sum(), batch.target_count)
