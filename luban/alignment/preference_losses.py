"""What a policy learns from two answers to one prompt: `loss` of `luban dpo`, by name.

    ratio(y) = log pi(y | x) - log pi_ref(y | x),   h = ratio(chosen) - ratio(rejected)

    sigmoid   -log s(beta h)                                  Rafailov et al. 2023, eq. 7 (arXiv:2305.18290)
    hinge     max(0, 1 - beta h)                              Liu et al. 2024 (RSO, arXiv:2309.06657)
    ipo       (h, each ratio per token, - 1 / (2 beta))^2     Azar et al. 2023, eq. 17 (arXiv:2310.12036)
    simpo     -log s(beta (logp per token of chosen - that of rejected) - gamma), without a reference
                                                              Meng et al. 2024, eq. 6 (arXiv:2405.14734)
    kto       1 - s(beta (ratio - z)) for a good answer, 1 - s(beta (z - ratio)) for a bad one; z is the mean ratio
              of answers to other prompts, no less than 0      Ethayarajh et al. 2024 (arXiv:2402.01306)

IPO's paper has sums where we take means over tokens, as its authors do in their runs and TRL does.
`label_smoothing` e takes a pair to be the wrong way round with chance e (Mitchell 2023, "cDPO").
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Two answers of each pair; in KTO the second is a stranger to the prompt."""

    logps: Float[Tensor, "pairs 2"]
    """Log-probability of each answer, summed over its tokens."""
    reference: Float[Tensor, "pairs 2"]
    """The same under the reference; zeros where there is none."""
    tokens: Float[Tensor, "pairs 2"]
    good: Bool[Tensor, " pairs"]
    """KTO's judgement of the first answer."""

    @property
    def ratios(self) -> Float[Tensor, "pairs 2"]:
        """How much likelier each answer has become, in nats."""
        return self.logps - self.reference


@dataclass(frozen=True, kw_only=True)
class Strength:
    """The numbers in the losses, by the names that they have above."""

    beta: float = 0.1
    gamma: float = 0.0
    label_smoothing: float = 0.0
    good_weight: float = 1.0
    bad_weight: float = 1.0


PairLoss = Callable[[Compared, Strength], Tensor]


def sigmoid(compared: Compared, of: Strength) -> Float[Tensor, " pairs"]:
    """DPO's own: the reward model it implies is taught by Bradley-Terry."""
    return _either_way(of.beta * _difference(compared.ratios), of)


def hinge(compared: Compared, of: Strength) -> Float[Tensor, " pairs"]:
    """Nothing more to learn once beta h is 1."""
    return F.relu(1 - of.beta * _difference(compared.ratios))


def ipo(compared: Compared, of: Strength) -> Float[Tensor, " pairs"]:
    """A goal for h instead of ever more of it: pairs on which all agree do not outweigh the reference."""
    return (_difference(compared.ratios / compared.tokens) - 1 / (2 * of.beta)) ** 2


def simpo(compared: Compared, of: Strength) -> Float[Tensor, " pairs"]:
    """What is compared is what generation goes by: the mean log-probability of an answer's tokens."""
    return _either_way(of.beta * _difference(compared.logps / compared.tokens) - of.gamma, of)


def kto(compared: Compared, of: Strength) -> Float[Tensor, " pairs"]:
    """Each answer by itself, against how far the policy has moved as a whole; z has no gradient."""
    ratios, strangers = compared.ratios.unbind(1)
    z = (strangers.detach().sum() / max(1, len(strangers))).clamp(min=0)
    gain = torch.sigmoid(of.beta * torch.where(compared.good, ratios - z, z - ratios))
    return torch.where(compared.good, of.good_weight, of.bad_weight) * (1 - gain)


LOSSES: Mapping[str, PairLoss] = {
    "sigmoid": sigmoid,
    "hinge": hinge,
    "ipo": ipo,
    "simpo": simpo,
    "kto": kto,
}
SMOOTHED = ("sigmoid", "simpo")
"""Losses that know `label_smoothing`."""
WITHOUT_REFERENCE = ("simpo",)


def imitation_loss(compared: Compared) -> Float[Tensor, " pairs"]:
    """Nats per token of each good answer: minimised too, it keeps good answers likely where only h would count.

    Source: Pang et al. 2024, eq. 1 (arXiv:2404.19733).
    """
    return torch.where(compared.good, -compared.logps[:, 0] / compared.tokens[:, 0], 0.0)


def rewards(compared: Compared, of: Strength, *, loss: str) -> Float[Tensor, "pairs 2"]:
    """The rewards that the policy implies: beta times the ratio, for SimPO times the mean log-probability."""
    implied = compared.logps / compared.tokens if loss in WITHOUT_REFERENCE else compared.ratios
    return of.beta * implied.detach()


def _difference(values: Float[Tensor, "pairs 2"]) -> Float[Tensor, " pairs"]:
    return values[:, 0] - values[:, 1]


def _either_way(logits: Float[Tensor, " pairs"], of: Strength) -> Float[Tensor, " pairs"]:
    """Cross-entropy of the first answer being the better one, with chance `1 - label_smoothing`."""
    wrong = of.label_smoothing
    return -(1 - wrong) * F.logsigmoid(logits) - wrong * F.logsigmoid(-logits)
