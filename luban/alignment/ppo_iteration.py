"""One iteration of PPO: `Iteration.__call__` is what docs/alignment.md follows line by line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from luban.alignment.experience import Experience, only_finished
from luban.alignment.ladder.ppo_penalty import ProportionalKL
from luban.alignment.ppo_step import CriticObjective, PolicyObjective, explained_variance, weighed
from luban.alignment.pupil import Pupil, learn
from luban.alignment.replay import Replay
from luban.alignment.roles import critic_for, difference, reference_of, remembered
from luban.alignment.rollout import Answer
from luban.alignment.rounds import Rounds
from luban.alignment.saved import Kept, Weights
from luban.alignment.shaping import RunningMoments, scaled, token_rewards, told_truncated
from luban.alignment.summary import summary
from luban.alignment.texts import open_texts
from luban.training.parallel.spread import Undivided

if TYPE_CHECKING:
    from luban.alignment.ppo import Config


class Iteration:
    """The roles of a run, and what an iteration does with them; called with its number, from 1."""

    def __init__(self, rounds: Rounds, config: Config) -> None:
        self.rounds, self.config = rounds, config
        base: dict[str, Any] = {"base": config.model, "device": rounds.device}
        self.reference = reference_of(rounds.policy, **base)
        self.critic_model = critic_for(rounds.judge, config.critic, **base)
        self.texts = open_texts(config.pretraining, rounds.tokenizer, seed=config.seed)
        objective = PolicyObjective(
            config.loss,
            temperature=config.rollout.temperature,
            texts=None if self.texts is None else iter(self.texts),
            text_coef=config.pretraining.coef,
        )
        self.policy = Pupil(
            "policy",
            Undivided(rounds.policy),
            objective,
            config.optimizer,
            loop=config.loop,
            learner=rounds.learner,
        )
        critic, valuing = Undivided(self.critic_model), CriticObjective(config.loss)
        self.critic = Pupil("value", critic, valuing, config.critic_optimizer, loop=config.loop)
        self.moments, self.replay = RunningMoments(), Replay(config.replay)
        told = config.shaping
        self.price = ProportionalKL(told.kl_coef, target=told.kl_target, horizon=told.kl_horizon)

    def __call__(self, step: int) -> dict[str, float]:
        """Answer, judge, read, weigh, learn, adapt the price of the KL; returns the figures of all that."""
        config, phases = self.config, self.rounds.phases
        answers, scores = self.rounds.answered(step, prompts=config.rollout.prompts)
        with phases.during("reading"):
            experience, entropies = self._remembered(answers)
        figures = summary(answers, scores, experience, entropies)
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

    def kept(self) -> dict[str, Kept]:
        """All that a checkpoint holds beside the policy's weights."""
        kept: dict[str, Kept] = {
            "policy": self.policy,
            "critic": self.critic,
            "critic_weights": Weights(self.critic_model),
            "moments": self.moments,
            "price": self.price,
            "replay": self.replay,
        }
        return kept if self.texts is None else {**kept, "texts": self.texts}

    def _remembered(self, answers: Sequence[Answer]) -> tuple[Experience, Any]:
        return remembered(
            self.rounds.policy,
            self.reference,
            self.critic_model,
            answers,
            temperature=self.config.rollout.temperature,
            rows=self.config.loop.per_device_train_batch_size,
        )

    def _scaled(self, answers: Sequence[Answer], scores: Sequence[float]) -> Any:
        rollout, shaping = self.config.rollout, self.config.shaping
        penalty = rollout.truncated_reward if rollout.truncated == "penalise" else None
        told = told_truncated(answers, scores, reward=penalty)
        return scaled(told, self.moments, scaling=shaping.scaling, clip=shaping.clip)

    def _learn(self, step: int, experience: Experience) -> dict[str, float]:
        warm = step <= self.config.critic_warmup
        pupils = [self.critic] if warm else [self.critic, self.policy]
        return learn(experience, pupils, step=step, loop=self.config.loop, stop_kl=self.config.loss.stop_kl)
