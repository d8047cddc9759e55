"""What the log says of an iteration's answers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from luban.alignment.experience import Experience
from luban.alignment.rollout import Answer


def summary(
    answers: Sequence[Answer], rewards: Sequence[float], experience: Experience, entropies: Tensor
) -> dict[str, float]:
    """Reward, entropy, length, perplexity under the policy, share that ended."""
    there = experience.there
    return {
        "rollout/reward": sum(rewards) / len(rewards),
        "rollout/entropy": float(entropies[there].mean()),
        "rollout/length": float(there.sum(1).float().mean()),
        "rollout/finished": sum(answer.finished for answer in answers) / len(answers),
        "rollout/perplexity": math.exp(-float(experience.logps[there].mean())),
    }


def drift(experience: Experience) -> dict[str, float]:
    """How far the policy is from the reference: the KL per answer and per token, and the reference's perplexity."""
    there = experience.there
    apart = experience.logps - experience.reference_logps
    return {
        "rollout/kl": float(apart.sum(1).mean()),
        "rollout/kl_per_token": float(apart[there].mean()),
        "rollout/reference_perplexity": math.exp(min(80.0, -float(experience.reference_logps[there].mean()))),
    }
