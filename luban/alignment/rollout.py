"""Answers drawn from the policy, with the log-probabilities they were drawn by: tokens in, tokens out.

The cached decoding of `inference/generate.py` for whole batches: prompts are read once however many answers each
gets, rows that have ended leave the batch, and nothing is turned into text before the answer is whole. Each token has
a uniform number of its own to be drawn by, so that an answer does not depend on which others are drawn beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from luban.alignment.prompts import Prompt
from luban.errors import TrainingError
from luban.inference.generate import pad_left
from luban.tokenizers.files import FileTokenizer

CACHED_TOKENS = 65536
"""How many cached positions one batch of answers may take."""
DRAWN = 1
"""Tells the stream of random numbers that draws answers from the one that shuffles them (`pupil.ORDER`)."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the policy answered to a prompt."""

    prompt: Prompt
    tokens: list[int]
    """The token that ended it is the last one; a truncated answer has none."""
    logps: list[float]
    """Natural log-probability of each token as the sampler knew it, temperature included."""
    finished: bool
    text: str


@dataclass(kw_only=True)
class Growing:
    """An answer while it is drawn."""

    prompt: Prompt
    budget: int
    tokens: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)
    finished: bool = False

    def grow(self, token: int, logp: float, stops: frozenset[int]) -> bool:
        """Add a token; True where there is room and reason for another."""
        self.tokens.append(token)
        self.logps.append(logp)
        self.finished = token in stops
        return not self.finished and len(self.tokens) < self.budget


def uniforms(seed: int, step: int, *, answers: int, max_tokens: int) -> Float[Tensor, "answers max_tokens"]:
    """What the tokens of all answers of iteration `step` are drawn by, the same on whatever process asks."""
    stream = np.random.default_rng((seed, step, DRAWN))
    return torch.from_numpy(stream.random((answers, max_tokens)))


def answer_all(
    policy: Any,
    prompts: Sequence[Prompt],
    *,
    tokenizer: FileTokenizer,
    max_tokens: int,
    temperature: float = 1.0,
    times: int = 1,
    drawn_by: Float[Tensor, "answers max_tokens"] | None = None,
) -> list[Answer]:
    """`times` answers to each prompt, those to one prompt side by side.

    `drawn_by` are numbers between 0 and 1; without them torch's own stream gives some. A `temperature` of 0 takes the
    likeliest token. Prompts leave room in the window (`read_prompts`).
    """
    if drawn_by is None:
        drawn_by = torch.rand(len(prompts) * times, max_tokens, dtype=torch.float64)
    numbers = drawn_by.view(len(prompts), times, max_tokens)
    answers: dict[int, list[Growing]] = {}
    waiting = sorted(range(len(prompts)), key=lambda number: -len(prompts[number].ids))
    policy.eval()
    while waiting:
        longest = len(prompts[waiting[0]].ids) + max_tokens
        rows = max(1, CACHED_TOKENS // (longest * times))
        batch, waiting = waiting[:rows], waiting[rows:]
        asked = [prompts[number] for number in batch]
        drawn = _draw(policy, asked, frozenset(tokenizer.stop_ids), numbers[batch], temperature)
        answers |= {number: drawn[place * times : (place + 1) * times] for place, number in enumerate(batch)}
    return [_whole(growing, tokenizer) for number in range(len(prompts)) for growing in answers[number]]


@torch.inference_mode()
def _draw(
    policy: Any,
    prompts: Sequence[Prompt],
    stops: frozenset[int],
    numbers: Float[Tensor, "prompts times budget"],
    temperature: float,
) -> list[Growing]:
    device = policy.embedding.weight.device
    times, budget = numbers.shape[1:]
    uniform = numbers.flatten(0, 1).T.to(device, torch.float32 if device.type == "mps" else None)
    tokens, positions, valid = pad_left([prompt.ids for prompt in prompts], device=device)
    capacity = tokens.shape[1] + budget
    valid = None if valid is None else torch.nn.functional.pad(valid, (0, budget), value=True)
    cache = policy.make_cache(batch=len(prompts), capacity=capacity, valid=valid)
    states = _read(policy, tokens, positions, cache)
    chosen = torch.arange(len(prompts), device=device).repeat_interleave(times)
    states, last = states[chosen], positions[chosen, -1:]
    _select(cache, chosen, rows=len(prompts))
    everyone = [Growing(prompt=prompt, budget=budget) for prompt in prompts for _ in range(times)]
    going = everyone
    while going:
        _check(states, going)
        drawn, logps = draw(policy.head(states), temperature, uniform[len(going[0].tokens)])
        told = zip(going, drawn.tolist(), logps.tolist(), strict=True)
        kept = [place for place, (one, token, logp) in enumerate(told) if one.grow(token, logp, stops)]
        if not kept:
            break
        left = torch.tensor(kept, device=device)
        _select(cache, left, rows=len(going))
        uniform = uniform[:, left]
        going, last = [going[place] for place in kept], last[left] + 1
        states = _read(policy, drawn[left][:, None], last, cache)
    return everyone


def _check(states: Float[Tensor, "batch dim"], going: Sequence[Growing]) -> None:
    """Raise TrainingError naming a prompt where the policy computes no numbers any more."""
    broken = (~states.isfinite().all(1)).nonzero()
    if len(broken):
        hint = "lower optimizer.learning_rate; an earlier checkpoint may be whole"
        where = going[int(broken[0])].prompt.where
        raise TrainingError("the policy is broken: its states are not finite", where=where, hint=hint)


def _read(policy: Any, tokens: Tensor, positions: Tensor, cache: Any) -> Float[Tensor, "batch dim"]:
    """The states after the last of `tokens`, which the cache then remembers."""
    states = policy.hidden(tokens, positions, cache)
    for slot in cache:
        slot.advance(tokens.shape[1])
    return states[:, -1]


def _select(cache: Any, rows_kept: Int[Tensor, " kept"], *, rows: int) -> None:
    """Go on with `rows_kept` of the cache's rows; nothing is copied where that is all of them."""
    if len(rows_kept) != rows:
        for slot in cache:
            slot.select(rows_kept)


def draw(
    logits: Float[Tensor, "batch vocab"], temperature: float, uniform: Float[Tensor, " batch"]
) -> tuple[Int[Tensor, " batch"], Float[Tensor, " batch"]]:
    """A token a row, and its log-probability under softmax(logits / temperature); at 0 the likeliest token.

    The token is the first one at which the running sum of the probabilities exceeds `uniform`. The sum is in float64
    where the device has it: over a large vocabulary float32 loses the small terms.
    """
    logps = (logits.float() / (temperature or 1.0)).log_softmax(-1)
    if temperature:
        exact = torch.float32 if logits.device.type == "mps" else torch.float64
        mass = logps.exp().cumsum(-1, dtype=exact)
        sought = uniform[:, None].to(exact) * mass[:, -1:]
        drawn = torch.searchsorted(mass, sought, right=True)[:, 0].clamp(max=logits.shape[1] - 1)
    else:
        drawn = logps.argmax(-1)
    return drawn, logps.gather(1, drawn[:, None])[:, 0]


def _whole(growing: Growing, tokenizer: FileTokenizer) -> Answer:
    said = growing.tokens[:-1] if growing.finished else growing.tokens
    return Answer(
        prompt=growing.prompt,
        tokens=growing.tokens,
        logps=growing.logps,
        finished=growing.finished,
        text=tokenizer.decode(said),
    )
