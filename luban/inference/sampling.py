"""From logits to the next token: pure functions on one request's logits, and the `Sampler` that chains them.

Each request has its own `Sampler` with its own random stream, so what it draws never depends on the batch it
is in. The order is that of Hugging Face: penalties, temperature, top-k, top-p, min-p, then one draw.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from luban.lm import Sampling

NEVER = float("-inf")
NUCLEUS_GUESS = 1024
"""How many of the likeliest tokens `keep_top_p` sorts first; the rest only if these do not reach the mass."""


def penalize_repetition(
    logits: Float[Tensor, " vocab"], seen: Bool[Tensor, " vocab"], penalty: float
) -> Float[Tensor, " vocab"]:
    """Make tokens already in prompt or answer less likely, by a factor that works on either sign.

    Source: Keskar et al. 2019, CTRL, section 4.1 (arXiv:1909.05858); negative logits as in Hugging Face.
    """
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def penalize_presence(
    logits: Float[Tensor, " vocab"], counts: Float[Tensor, " vocab"], penalty: float
) -> Float[Tensor, " vocab"]:
    """Subtract `penalty` once from each token already in the answer."""
    return logits - penalty * (counts > 0)


def penalize_frequency(
    logits: Float[Tensor, " vocab"], counts: Float[Tensor, " vocab"], penalty: float
) -> Float[Tensor, " vocab"]:
    """Subtract `penalty` from each token as often as it is already in the answer."""
    return logits - penalty * counts


def keep_top_k(logits: Float[Tensor, " vocab"], k: int) -> Float[Tensor, " vocab"]:
    """Rule out all but the `k` likeliest tokens (those that tie with the last one stay).

    Source: Fan et al. 2018, section 5.4 (arXiv:1805.04833).
    """
    threshold = logits.topk(min(k, logits.shape[-1])).values[-1]
    return logits.masked_fill(logits < threshold, NEVER)


def keep_top_p(logits: Float[Tensor, " vocab"], p: float) -> Float[Tensor, " vocab"]:
    """Rule out all but the smallest set of likeliest tokens that together have probability `p`.

    Source: Holtzman et al. 2020, section 3.1 (arXiv:1904.09751).
    """
    probabilities = logits.softmax(-1)
    best, ids = probabilities.topk(min(NUCLEUS_GUESS, logits.shape[-1]))
    if best.sum() < p:
        best, ids = probabilities.sort(descending=True, stable=True)
    likelier = best.cumsum(-1) - best  # the mass of all tokens that come before this one
    kept = ids[likelier < p]
    return torch.full_like(logits, NEVER).scatter_(0, kept, logits[kept])


def keep_min_p(logits: Float[Tensor, " vocab"], share: float) -> Float[Tensor, " vocab"]:
    """Rule out tokens less likely than `share` of the likeliest one.

    Source: Nguyen et al. 2024 (arXiv:2407.01082).
    """
    probabilities = logits.softmax(-1)
    return logits.masked_fill(probabilities < share * probabilities.max(), NEVER)


def log_probability(logits: Float[Tensor, " vocab"], token: int) -> float:
    """The natural log-probability of `token` under `logits`."""
    return float(logits[token] - logits.logsumexp(-1))


class Sampler:
    """Draws one request's tokens from its logits and remembers what the penalties need.

    A request without a seed takes one from the process's random stream when it is made.
    """

    def __init__(self, sampling: Sampling, *, prompt: Sequence[int], vocab: int) -> None:
        self.sampling = sampling
        self.generator = torch.Generator()
        if sampling.temperature > 0:
            seed = int(torch.randint(2**62, ())) if sampling.seed is None else sampling.seed
            self.generator.manual_seed(seed)
        repeats, presence = sampling.repetition_penalty != 1, sampling.presence_penalty
        self.seen = torch.zeros(vocab, dtype=torch.bool) if repeats else None
        self.counts = torch.zeros(vocab) if presence or sampling.frequency_penalty else None
        if self.seen is not None:
            self.seen[list(prompt)] = True

    def draw(self, logits: Float[Tensor, " vocab"]) -> int:
        """The next token; `logits` are the model's own, float32 on the CPU, and are not changed."""
        logits = self._penalize(logits)
        greedy = self.sampling.temperature == 0
        token = int(logits.argmax()) if greedy else self._draw_from(self._shape(logits))
        if self.seen is not None:
            self.seen[token] = True
        if self.counts is not None:
            self.counts[token] += 1
        return token

    def _penalize(self, logits: Float[Tensor, " vocab"]) -> Float[Tensor, " vocab"]:
        sampling = self.sampling
        if self.seen is not None:
            logits = penalize_repetition(logits, self.seen, sampling.repetition_penalty)
        if self.counts is not None:
            logits = penalize_presence(logits, self.counts, sampling.presence_penalty)
            logits = penalize_frequency(logits, self.counts, sampling.frequency_penalty)
        return logits

    def _shape(self, logits: Float[Tensor, " vocab"]) -> Float[Tensor, " vocab"]:
        """Temperature and the three ways to cut off the unlikely."""
        sampling = self.sampling
        # The largest logit becomes 0 first, so that no temperature, however small, makes it infinite.
        logits = (logits - logits.max()) / sampling.temperature
        if sampling.top_k:
            logits = keep_top_k(logits, sampling.top_k)
        if sampling.top_p < 1:
            logits = keep_top_p(logits, sampling.top_p)
        if sampling.min_p > 0:
            logits = keep_min_p(logits, sampling.min_p)
        return logits

    def _draw_from(self, logits: Float[Tensor, " vocab"]) -> int:
        """One uniform number, looked up in the running sum of the probabilities.

        In float64, since a running sum over a large vocabulary loses the small terms in float32. The number
        is drawn below the total mass, and a token of no mass is never the first to exceed it.
        """
        mass = logits.double().softmax(-1).cumsum(-1)
        uniform = torch.rand((), generator=self.generator, dtype=torch.float64) * mass[-1]
        return int(torch.searchsorted(mass, uniform, right=True))
