"""What a reward model learns from: two answers and which is better, or the steps of one answer and which are right.

    pair      -log s(r_chosen - r_rejected - margin)     Bradley-Terry; Ouyang et al. 2022, eq. 1 (arXiv:2203.02155);
                                                         the margin: Touvron et al. 2023, eq. 2 (arXiv:2307.09288)
    centring  (r_chosen + r_rejected)^2                  Eisenstein et al. 2023 (arXiv:2312.09244)
    imitation -log p(chosen) per token, by a head for words on the same states
                                                         Askell et al. 2021 (arXiv:2112.00861); Zheng et al. 2023
                                                         (arXiv:2307.04964)
    step      cross-entropy of a step being right        Lightman et al. 2023, section 2.6 (arXiv:2305.20050)

Only differences are learnt from pairs: any constant may be added to all rewards. Centring takes that freedom away.
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def pair_loss(rewards: Float[Tensor, "pairs 2"], margins: Float[Tensor, " pairs"]) -> Float[Tensor, " pairs"]:
    """The cost of each pair, the better answer's reward first; 0 where it wins by far more than its margin."""
    return -F.logsigmoid(rewards[:, 0] - rewards[:, 1] - margins)


def centring(rewards: Float[Tensor, "pairs 2"]) -> Float[Tensor, " pairs"]:
    """How far each pair's rewards are from being 0 in the middle."""
    return rewards.sum(1) ** 2


def step_loss(rewards: Float[Tensor, " steps"], right: Float[Tensor, " steps"]) -> Float[Tensor, " steps"]:
    """The cost of each step; a reward is the log-odds of the step being right."""
    return F.binary_cross_entropy_with_logits(rewards, right, reduction="none")
