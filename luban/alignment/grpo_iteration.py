"""One iteration of GRPO: a group of answers to each prompt, compared with one another."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from luban.alignment.experience import Experience, only_finished
from luban.alignment.grpo_step import GroupObjective, group_advantages
from luban.alignment.pupil import Pupil, learn
from luban.alignment.roles import Reference, compared, difference, reference_of, remembered
from luban.alignment.rollout import Answer
from luban.alignment.rounds import Rounds
from luban.alignment.saved import Kept, Learning
from luban.alignment.shaping import told_truncated
from luban.alignment.shares import read_by_all
from luban.alignment.summary import drift, summary
from luban.training.parallel.whole import everywhere

if TYPE_CHECKING:
    from luban.alignment.grpo import Config


class Iteration:
    """The roles of a run, and what an iteration does with them; called with its number, from 1."""

    def __init__(self, rounds: Rounds, config: Config) -> None:
        self.rounds, self.config = rounds, config
        self.how: dict[str, Any] = {
            "temperature": config.rollout.temperature,
            "rows": config.loop.per_device_train_batch_size,
        }
        """How roles read the answers."""
        self.reference = reference_of(rounds.policy, base=config.model, device=rounds.device)
        objective = GroupObjective(
            low=config.epsilon,
            high=config.epsilon_high or config.epsilon,
            beta=config.beta,
            loss_type=config.loss_type,
            temperature=config.rollout.temperature,
        )
        told: dict[str, Any] = {"loop": config.loop, "world": rounds.world, "learner": rounds.learner}
        self.policy = Pupil("policy", rounds.spread(rounds.policy), objective, config.optimizer, **told)

    def __call__(self, step: int) -> dict[str, float]:
        """Answer, judge, read, compare, learn; returns the figures of all that."""
        config, phases = self.config, self.rounds.phases
        group = config.num_generations
        answers, scores = self.rounds.answered(step, prompts=config.rollout.prompts, times=group)
        with phases.during("reading"):
            priced = config.beta > 0
            experience, entropies = self._remembered(answers, self.reference if priced else None)
            # A reference without a price only tells how far the policy is: one answer to each prompt will do.
            both = experience if priced else self._compared(experience.select(range(0, len(answers), group)))
        figures = summary(answers, scores, experience, entropies) | drift(both)
        figures |= difference(experience, answers, bound=config.rollout.max_difference)
        advantages = group_advantages(self._told(answers, scores), group=group, scale=config.scale_rewards)
        groups = advantages.view(-1, group)
        figures["rollout/silent_groups"] = float((groups == 0).all(1).float().mean())
        if config.rollout.truncated == "mask":
            experience = only_finished(experience, answers)
        spread = advantages[:, None].to(experience.there.device) * experience.there
        experience = dataclasses.replace(experience, advantages=spread)
        with phases.during("learning"):
            told: dict[str, Any] = {"loop": config.loop, "seed": config.seed}
            figures |= learn(experience.learnable(), [self.policy], step=step, **told)
        return figures

    @property
    def learning(self) -> dict[str, Learning]:
        """The models that learn, by the folders they have in a checkpoint."""
        return {"policy": self.policy}

    def kept(self) -> dict[str, Kept]:
        """All that a checkpoint holds beside the models that learn: nothing."""
        return {}

    def _remembered(self, answers: Sequence[Answer], reference: Reference | None) -> tuple[Experience, Any]:
        policy = everywhere(self.rounds.policy, self.rounds.device)
        return read_by_all(
            answers, partial(remembered, policy, reference, None, **self.how), self.rounds.world
        )

    def _compared(self, experience: Experience) -> Experience:
        return compared(experience, self.reference, **self.how)

    def _told(self, answers: Sequence[Answer], scores: Sequence[float]) -> list[float]:
        rollout = self.config.rollout
        penalty = rollout.truncated_reward if rollout.truncated == "penalise" else None
        return told_truncated(answers, scores, reward=penalty)
