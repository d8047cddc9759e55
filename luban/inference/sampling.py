"""From logits to the next token: pure functions on one request's logits, and the `Sampler` that chains them.

Each request has its own `Sampler` with its own random stream, so what it draws never depends on the batch it
is in. The order is that of Hugging Face: bias and penalties, rules that exclude tokens, temperature, top-k, top-p,
min-p, typical-p, then one draw. What a constraint on the form forbids (`constrain.py`) is excluded before all.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from luban.errors import PromptError
from luban.lm import Sampling

NEVER = float("-inf")
SMALLEST = torch.finfo(torch.float32).tiny
"""Below it a temperature would be 0 in float32."""
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


def add_bias(logits: Float[Tensor, " vocab"], bias: Mapping[int, float]) -> Float[Tensor, " vocab"]:
    """Add to the logits of the tokens in `bias` what it says."""
    ids, amounts = list(bias), list(bias.values())
    return logits.index_add(0, torch.tensor(ids), torch.tensor(amounts, dtype=logits.dtype))


def rule_out(logits: Float[Tensor, " vocab"], ids: Collection[int]) -> Float[Tensor, " vocab"]:
    """Rule out the tokens `ids`, unless that leaves none: then the logits stay as they are."""
    if not ids:
        return logits
    left = logits.index_fill(0, torch.tensor(list(ids)), NEVER)
    return left if bool((left > NEVER).any()) else logits


def keep_only(logits: Float[Tensor, " vocab"], ids: Collection[int]) -> Float[Tensor, " vocab"]:
    """Rule out all tokens but `ids`, unless that leaves none."""
    left = torch.full_like(logits, NEVER)
    kept = torch.tensor(list(ids))
    left[kept] = logits[kept]
    return left if bool((left > NEVER).any()) else logits


def run_ends(tokens: Sequence[int], runs: Collection[Sequence[int]]) -> set[int]:
    """The tokens that would complete one of `runs` right after `tokens`."""
    return {run[-1] for run in runs if len(run) <= 1 or list(run[:-1]) == list(tokens[1 - len(run) :])}


def repeated_ends(tokens: Sequence[int], size: int) -> set[int]:
    """The tokens that after `tokens` would complete a run of `size` that is in them already.

    Source: Paulus et al. 2017, section 2.5 (arXiv:1705.04304).
    """
    if len(tokens) < size:
        return set()
    begun = list(tokens[len(tokens) - size + 1 :])
    starts = range(len(tokens) - size + 1)
    return {tokens[at + size - 1] for at in starts if list(tokens[at : at + size - 1]) == begun}


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
    kept = ids[likelier.double() < p]  # in float32 the smallest p would be 0 and keep nothing
    return torch.full_like(logits, NEVER).scatter_(0, kept, logits[kept])


def keep_min_p(logits: Float[Tensor, " vocab"], share: float) -> Float[Tensor, " vocab"]:
    """Rule out tokens less likely than `share` of the likeliest one.

    Source: Nguyen et al. 2024 (arXiv:2407.01082).
    """
    probabilities = logits.softmax(-1)
    return logits.masked_fill(probabilities < share * probabilities.max(), NEVER)


def keep_typical(logits: Float[Tensor, " vocab"], p: float) -> Float[Tensor, " vocab"]:
    """Rule out all but the smallest set, of probability `p`, of tokens whose surprise is nearest to the expected one.

    Source: Meister et al. 2023, eq. 10 (arXiv:2202.00666).
    """
    logps = logits.log_softmax(-1)
    probabilities = logps.exp()
    expected = torch.special.entr(probabilities).sum()
    order = (logps + expected).abs().argsort(stable=True)
    mass = probabilities[order]
    kept = order[(mass.cumsum(-1) - mass).double() < p]  # as in `keep_top_p`
    return torch.full_like(logits, NEVER).scatter_(0, kept, logits[kept])


def log_probability(logits: Float[Tensor, " vocab"], token: int) -> float:
    """The natural log-probability of `token` under `logits`."""
    return float(logits[token] - logits.logsumexp(-1))


class Sampler:
    """Draws one request's tokens from its logits and remembers what penalties and rules need.

    A request without a seed takes one from the process's random stream when it is made. A rule that would exclude
    the last token that those before it have left is passed over for that token.
    """

    def __init__(
        self,
        sampling: Sampling,
        *,
        prompt: Sequence[int],
        vocab: int,
        stop_ids: Collection[int] = (),
        bad_runs: Collection[Sequence[int]] = (),
    ) -> None:
        """`stop_ids` do not come before `sampling.min_tokens`; `bad_runs` are its `bad_words` as token ids.

        Raises PromptError for an id that is none of the vocabulary.
        """
        _check_ids(sampling, vocab)
        self.sampling, self.stop_ids, self.bad_runs = sampling, stop_ids, bad_runs
        self.generator = torch.Generator()
        if sampling.temperature > 0:
            seed = int(torch.randint(2**62, ())) if sampling.seed is None else sampling.seed
            self.generator.manual_seed(seed)
        repeats, presence = sampling.repetition_penalty != 1, sampling.presence_penalty
        self.seen = torch.zeros(vocab, dtype=torch.bool) if repeats else None
        self.counts = torch.zeros(vocab) if presence or sampling.frequency_penalty else None
        self.tokens, self.prompt = list(prompt), len(prompt)
        if self.seen is not None:
            self.seen[list(prompt)] = True

    def draw(self, logits: Float[Tensor, " vocab"], allowed: Bool[Tensor, " vocab"] | None = None) -> int:
        """The next token, one of those `allowed`; `logits` are float32 on the CPU, and are not changed."""
        if allowed is not None:
            logits = logits.masked_fill(~allowed, NEVER)
        logits = self._exclude(self._penalize(logits))
        greedy = self.sampling.temperature == 0
        token = int(logits.argmax()) if greedy else self._draw_from(self._shape(logits))
        self.tokens.append(token)
        if self.seen is not None:
            self.seen[token] = True
        if self.counts is not None:
            self.counts[token] += 1
        return token

    def _penalize(self, logits: Float[Tensor, " vocab"]) -> Float[Tensor, " vocab"]:
        sampling = self.sampling
        if sampling.logit_bias:
            logits = add_bias(logits, sampling.logit_bias)
        if self.seen is not None:
            logits = penalize_repetition(logits, self.seen, sampling.repetition_penalty)
        if self.counts is not None:
            logits = penalize_presence(logits, self.counts, sampling.presence_penalty)
            logits = penalize_frequency(logits, self.counts, sampling.frequency_penalty)
        return logits

    def _exclude(self, logits: Float[Tensor, " vocab"]) -> Float[Tensor, " vocab"]:
        """Rules on which tokens may come at all, the firmest first."""
        sampling = self.sampling
        if sampling.allowed_ids:
            logits = keep_only(logits, sampling.allowed_ids)
        if len(self.tokens) - self.prompt < sampling.min_tokens:
            logits = rule_out(logits, self.stop_ids)
        if self.bad_runs:
            logits = rule_out(logits, run_ends(self.tokens[self.prompt :], self.bad_runs))
        if sampling.no_repeat_ngram:
            logits = rule_out(logits, repeated_ends(self.tokens, sampling.no_repeat_ngram))
        return logits

    def _shape(self, logits: Float[Tensor, " vocab"]) -> Float[Tensor, " vocab"]:
        """Temperature and the ways to cut off the unlikely."""
        sampling = self.sampling
        # The largest logit becomes 0 first, so that no temperature, however small, makes it infinite.
        logits = (logits - logits.max()) / max(sampling.temperature, SMALLEST)
        if sampling.top_k:
            logits = keep_top_k(logits, sampling.top_k)
        if sampling.top_p < 1:
            logits = keep_top_p(logits, sampling.top_p)
        if sampling.min_p > 0:
            logits = keep_min_p(logits, sampling.min_p)
        if sampling.typical_p < 1:
            logits = keep_typical(logits, sampling.typical_p)
        return logits

    def _draw_from(self, logits: Float[Tensor, " vocab"]) -> int:
        """One uniform number, looked up in the running sum of the probabilities.

        In float64, since a running sum over a large vocabulary loses the small terms in float32. The number
        is drawn below the total mass, and a token of no mass is never the first to exceed it.
        """
        mass = logits.double().softmax(-1).cumsum(-1)
        uniform = torch.rand((), generator=self.generator, dtype=torch.float64) * mass[-1]
        return int(torch.searchsorted(mass, uniform, right=True))


def _check_ids(sampling: Sampling, vocab: int) -> None:
    """Raise PromptError for a token id that the model does not have."""
    for name in ("logit_bias", "allowed_ids", "stop_ids"):
        for token in getattr(sampling, name):
            if not 0 <= token < vocab:
                raise PromptError(f"token {token} is not one of the model's {vocab}", where=name)
