"""One iteration of PPO: `Iteration.__call__` is what docs/alignment.md follows line by line."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from luban.alignment.experience import Experience, only_finished
from luban.alignment.ladder.ppo_penalty import ProportionalKL
from luban.alignment.ppo_step import (
    CriticObjective,
    PolicyObjective,
    SharedObjective,
    explained_variance,
    weighed,
)
from luban.alignment.pupil import Pupil, learn
from luban.alignment.replay import Replay
from luban.alignment.roles import critic_for, critic_on, difference, reference_of, remembered
from luban.alignment.rollout import Answer
from luban.alignment.rounds import Rounds
from luban.alignment.saved import Kept, Learning, Weights
from luban.alignment.shaping import RunningMoments, scaled, token_rewards, told_truncated
from luban.alignment.shares import read_by_all
from luban.alignment.summary import drift, summary
from luban.alignment.texts import open_texts
from luban.training.parallel.whole import everywhere

if TYPE_CHECKING:
    from luban.alignment.ppo import Config


class Iteration:
    """The roles of a run, and what an iteration does with them; called with its number, from 1."""

    def __init__(self, rounds: Rounds, config: Config) -> None:
        self.rounds, self.config = rounds, config
        base: dict[str, Any] = {"base": config.model, "device": rounds.device}
        self.reference = reference_of(rounds.policy, **base)
        self.shared = config.critic_trunk == "shared"
        self.critic_model = (
            critic_on(rounds.policy) if self.shared else critic_for(rounds.judge, config.critic, **base)
        )
        self.texts = open_texts(config.pretraining, rounds.tokenizer, seed=config.seed, world=rounds.world)
        acting, valuing = self._policy_objective(), CriticObjective(config.loss)
        objective = SharedObjective(acting, valuing, vf_coef=config.loss.vf_coef) if self.shared else acting
        acts = rounds.spread(self.critic_model if self.shared else rounds.policy)
        told: dict[str, Any] = {"loop": config.loop, "world": rounds.world}
        self.policy = Pupil("policy", acts, objective, config.optimizer, learner=rounds.learner, **told)
        self.critic = None
        if not self.shared:
            values = rounds.spread(self.critic_model)
            self.critic = Pupil("value", values, valuing, config.critic_optimizer, **told)
        self.moments, self.replay = RunningMoments(), Replay(config.replay)
        price = config.shaping
        self.price = ProportionalKL(price.kl_coef, target=price.kl_target, horizon=price.kl_horizon)

    def _policy_objective(self) -> PolicyObjective:
        config = self.config
        return PolicyObjective(
            config.loss,
            temperature=config.rollout.temperature,
            texts=None if self.texts is None else iter(self.texts),
            text_coef=config.pretraining.coef,
        )

    def __call__(self, step: int) -> dict[str, float]:
        """Answer, judge, read, weigh, learn, adapt the price of the KL; returns the figures of all that."""
        config, phases = self.config, self.rounds.phases
        answers, scores = self.rounds.answered(step, prompts=config.rollout.prompts)
        with phases.during("reading"):
            experience, entropies = self._remembered(answers)
        figures = summary(answers, scores, experience, entropies) | drift(experience)
        figures |= difference(experience, answers, bound=config.rollout.max_difference)
        rewards = token_rewards(experience, self._scaled(answers, scores), kl_coef=self.price.coefficient)
        if config.rollout.truncated == "mask":
            experience = only_finished(experience, answers)
        experience = weighed(experience, rewards, config.advantage)
        figures |= {"value/explained": explained_variance(experience), "kl/coef": self.price.coefficient}
        with phases.during("learning"):
            figures |= self._learn(step, self.replay.with_past(experience.learnable()))
        self.price.see(figures["rollout/kl"], answers=len(answers))
        return figures

    @property
    def learning(self) -> dict[str, Learning]:
        """The models that learn, by the folders they have in a checkpoint."""
        return (
            {"policy": self.policy} if self.critic is None else {"policy": self.policy, "critic": self.critic}
        )

    def kept(self) -> dict[str, Kept]:
        """All that a checkpoint holds beside the models that learn."""
        kept: dict[str, Kept] = {"moments": self.moments, "price": self.price, "replay": self.replay}
        if self.shared:
            kept["value_head"] = Weights(self.critic_model.score)
        return kept if self.texts is None else {**kept, "texts": self.texts}

    def _remembered(self, answers: Sequence[Answer]) -> tuple[Experience, Any]:
        rounds = self.rounds
        critic = everywhere(self.critic_model, rounds.device)
        policy = critic.backbone if self.shared else everywhere(rounds.policy, rounds.device)
        told: dict[str, Any] = {
            "temperature": self.config.rollout.temperature,
            "rows": self.config.loop.per_device_train_batch_size,
        }
        read = partial(remembered, policy, self.reference, critic, **told)
        return read_by_all(answers, read, rounds.world)

    def _scaled(self, answers: Sequence[Answer], scores: Sequence[float]) -> Any:
        rollout, shaping = self.config.rollout, self.config.shaping
        penalty = rollout.truncated_reward if rollout.truncated == "penalise" else None
        told = told_truncated(answers, scores, reward=penalty)
        return scaled(told, self.moments, scaling=shaping.scaling, clip=shaping.clip)

    def _learn(self, step: int, experience: Experience) -> dict[str, float]:
        warm = step <= self.config.critic_warmup
        pupils = [pupil for pupil in (self.critic, None if warm else self.policy) if pupil is not None]
        told: dict[str, Any] = {"loop": self.config.loop, "seed": self.config.seed}
        return learn(experience, pupils, step=step, stop_kl=self.config.loss.stop_kl, **told)
