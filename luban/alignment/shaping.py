"""From an answer's score to a reward for each of its tokens, as PPO for language models has it.

    r_t = -eta * (log pi(a_t) - log pi_ref(a_t))  +  [t is the last] * score

The score is first scaled by what scores have been until now (running moments) and clipped, so that one coefficient
and one learning rate serve rewards of any size.

Source: Ziegler et al. 2019, eq. 2 (arXiv:1909.08593); scaling and clipping: Zheng et al. 2023, section 5.3.1
(arXiv:2307.04964).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from luban.alignment.experience import Experience
from luban.alignment.rollout import Answer

Scaling = Literal["none", "scale", "normalise"]


class RunningMoments:
    """Mean and standard deviation of all numbers seen, without keeping them.

    Source: Chan, Golub and LeVeque 1979, eq. 2.1.
    """

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0, 0.0, 0.0

    def see(self, numbers: Sequence[float]) -> None:
        """Take `numbers` in."""
        if not numbers:
            return
        count, mean = len(numbers), math.fsum(numbers) / len(numbers)
        squares = math.fsum((number - mean) ** 2 for number in numbers)
        both, apart = self.count + count, mean - self.mean
        self.squares += squares + apart**2 * self.count * count / both
        self.mean += apart * count / both
        self.count = both

    @property
    def deviation(self) -> float:
        """The standard deviation of all seen; 1 where they do not differ, so that dividing by it is safe."""
        spread = math.sqrt(self.squares / self.count) if self.count else 0.0
        return spread if spread > 1e-8 else 1.0

    def state(self) -> dict[str, Any]:
        """JSON-able; `restore` goes on from here."""
        return {"count": self.count, "mean": self.mean, "squares": self.squares}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.count, self.mean, self.squares = state["count"], state["mean"], state["squares"]


def told_truncated(
    answers: Sequence[Answer], scores: Sequence[float], *, reward: float | None
) -> list[float]:
    """The scores, but `reward` for answers that did not end; None leaves those as they are."""
    if reward is None:
        return list(scores)
    return [score if answer.finished else reward for answer, score in zip(answers, scores, strict=True)]


def scaled(
    scores: Sequence[float], moments: RunningMoments, *, scaling: Scaling, clip: float
) -> Float[Tensor, " batch"]:
    """Scores after `moments` has seen them: as they are, over the deviation, or less the mean too; then clipped.

    A `clip` of 0 clips nothing.
    """
    moments.see(scores)
    told = torch.tensor(scores, dtype=torch.float64)
    if scaling == "normalise":
        told -= moments.mean
    if scaling != "none":
        told /= moments.deviation
    return (told.clamp(-clip, clip) if clip else told).float()


def token_rewards(
    experience: Experience, scores: Float[Tensor, " batch"], *, kl_coef: float
) -> Float[Tensor, "batch actions"]:
    """What each action gets: the price of its distance from the reference, and the last one the score."""
    rewards = -kl_coef * (experience.logps - experience.reference_logps)
    last = experience.there.sum(1) - 1
    rewards[torch.arange(len(rewards)), last] += scores.to(rewards.device)
    return rewards
