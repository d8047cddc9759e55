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
from luban.alignment.likelihood import chosen_states, expected_from, likelihood_from
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
        return self.of(chosen_states(model, batch), model, batch)

    def of(self, states: Float[Tensor, "chosen dim"], model: Any, batch: Any) -> Step:
        """The same where `model`'s states are at hand."""
        entropic = self.config.entropy_coef > 0
        now = likelihood_from(states, model, batch, temperature=self.temperature, entropic=entropic)
        each = self._surrogate(now.logps, batch) - self._bonus(now.entropies)
        with torch.no_grad():
            self.tally.add("policy/moved", kl_of_samples(now.logps, batch.logps), batch.there)
            self.tally.add("policy/entropy", now.entropies, batch.there)
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
        self.tally.add("policy/clipped", held.float(), batch.there)
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
        each = self.each(chosen_states(model.backbone, batch), model, batch)
        return Step(each[batch.there].sum(), batch.target_count)

    def each(
        self, states: Float[Tensor, "chosen dim"], model: Any, batch: Any
    ) -> Float[Tensor, "batch actions"]:
        """The loss before each action, from the states of `model`'s backbone."""
        values, clip = expected_from(states, model, batch), self.config.cliprange_value
        if not clip:
            return critic_loss(values, batch.returns)
        far = (values.detach() - batch.values).abs() > clip
        self.tally.add("value/clipped", far.float(), batch.there)
        return clipped_value_loss(values, batch.values, batch.returns, clip=clip)


class SharedObjective:
    """The policy's loss plus `vf_coef` times the critic's, from one pass through the trunk that both stand on.

    The model is the critic, whose backbone is the policy.
    """

    def __init__(self, policy: PolicyObjective, critic: CriticObjective, *, vf_coef: float) -> None:
        self.policy, self.critic, self.vf_coef = policy, critic, vf_coef
        self.tally = critic.tally = policy.tally

    def __call__(self, model: Any, batch: Any) -> Step:
        states = chosen_states(model.backbone, batch)
        acted = self.policy.of(states, model.backbone, batch)
        valued = self.critic.each(states, model, batch)
        self.tally.add("value/loss", valued, batch.there)
        return Step(acted.loss + self.vf_coef * valued[batch.there].sum(), acted.targets)
