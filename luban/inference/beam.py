"""Beam search: several answers to a prompt grow side by side, and the likeliest ones go on.

The model sees `beams` rows per prompt; after each step their memory is put in the order of the answers that go
on (`select` of the slots). An answer's score is its log-probability over its length to the power of
`length_penalty`: 0 compares plain log-probabilities, which short answers win; 1 those per token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from luban.errors import PromptError
from luban.inference.generate import check_prompt, pad_left
from luban.lm import Generation, Sampling
from luban.tokenizers.base import Tokenizer

DRAWING = (
    *("top_k", "top_p", "min_p", "typical_p", "repetition_penalty", "presence_penalty", "frequency_penalty"),
    *("no_repeat_ngram", "logit_bias", "allowed_ids", "bad_words", "stop", "stop_ids", "min_tokens"),
)
"""Settings that beam search has no use for; one that is set is refused rather than passed over."""


@dataclass(frozen=True)
class Hypothesis:
    """An answer, or the beginning of one: its tokens, a stop id at its end included, and their log-probabilities."""

    tokens: tuple[int, ...] = ()
    logps: tuple[float, ...] = ()
    finish_reason: Literal["stop", "length"] | None = None

    @property
    def logp(self) -> float:
        """How likely the whole is, in nats."""
        return math.fsum(self.logps)

    def score(self, length_penalty: float) -> float:
        """What answers are compared by.

        Source: `transformers`' formula; Wu et al. 2016, eq. 14 (arXiv:1609.08144) has another power of the length.
        """
        return self.logp / len(self.tokens) ** length_penalty


@dataclass(frozen=True)
class Growth:
    """A hypothesis made longer by `token`: the beam it grows on, and the log-probability of the token."""

    beam: int
    token: int
    logp: float


class Search:
    """One prompt's beams: which hypotheses are open, which are finished, and whether better ones can come.

    It is over when all `beams` finished ones score at least as high as the best open one, judged at its present
    length. That is `transformers`' rule (`early_stopping=False`): exact where `length_penalty` is at most 0,
    a heuristic above.
    """

    def __init__(self, *, beams: int, budget: int, length_penalty: float, stop_ids: frozenset[int]) -> None:
        self.beams, self.budget, self.length_penalty = beams, budget, length_penalty
        self.stop_ids = stop_ids
        self.open = [Hypothesis()]
        self.finished: list[Hypothesis] = []

    @property
    def over(self) -> bool:
        """Whether nothing better is to be expected."""
        if not self.open:
            return True
        if len(self.finished) < self.beams or not self.open[0].tokens:
            return False
        return self._score(self.open[0]) <= self._score(self.finished[-1])

    def step(self, logps: Float[Tensor, "beams vocab"]) -> list[int]:
        """Go on by one token, `logps` being each open hypothesis' next ones; returns the rows that go on."""
        places: list[int] = []
        before, self.open = self.open, []
        for rank, growth in enumerate(self._likeliest(before, logps)):
            old = before[growth.beam]
            grown = Hypothesis((*old.tokens, growth.token), (*old.logps, growth.logp), self._end(old, growth))
            if grown.finish_reason is None and len(self.open) < self.beams:
                self.open.append(grown)
                places.append(growth.beam)
            elif grown.finish_reason and rank < self.beams:  # a stop id among the others is not worth keeping
                self.finished.append(grown)
        self.finished.sort(key=self._score, reverse=True)
        del self.finished[self.beams :]
        return places

    def _likeliest(self, before: list[Hypothesis], logps: Float[Tensor, "beams vocab"]) -> list[Growth]:
        """The likeliest growths of all beams, the best first: enough of them that `beams` go on."""
        totals = logps[: len(before)] + torch.tensor([[hypothesis.logp] for hypothesis in before])
        wanted = self.beams * (1 + max(1, len(self.stop_ids)))
        best = totals.flatten().topk(min(wanted, totals.numel())).indices
        vocab = logps.shape[1]
        return [
            Growth(place // vocab, place % vocab, logp)
            for place, logp in zip(best.tolist(), logps.flatten()[best].tolist(), strict=True)
        ]

    def _end(self, old: Hypothesis, growth: Growth) -> Literal["stop", "length"] | None:
        if growth.token in self.stop_ids:
            return "stop"
        return "length" if len(old.tokens) + 1 == self.budget else None

    def _score(self, hypothesis: Hypothesis) -> float:
        return hypothesis.score(self.length_penalty)


def generate_beams(
    model: Any,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    tokenizer: Tokenizer,
    stop_ids: frozenset[int],
) -> list[Generation]:
    """Each prompt's best answer of `sampling.beams`, as `generate_tokens` gives one that was drawn.

    Raises PromptError as `beam_search` does, and for a setting of `sampling` that is of no use here.
    """
    plain = Sampling()
    for name in DRAWING:
        if getattr(sampling, name) != getattr(plain, name):
            what = (
                f"{name} is {getattr(sampling, name)!r}, but beam search draws nothing and ends at end tokens"
            )
            raise PromptError(what, where=f"beams {sampling.beams}", hint=f"leave out {name}, or beams=1")
    answers = beam_search(
        model,
        prompts,
        beams=sampling.beams,
        max_tokens=sampling.max_tokens,
        length_penalty=sampling.length_penalty,
        stop_ids=frozenset() if sampling.ignore_eos else stop_ids,
    )
    return [
        _generation(best[0], tokenizer, len(prompt), sampling)
        for best, prompt in zip(answers, prompts, strict=True)
    ]


def _generation(best: Hypothesis, tokenizer: Tokenizer, prompt_tokens: int, sampling: Sampling) -> Generation:
    assert best.finish_reason, "the answer is not finished"
    told = best.tokens[:-1] if best.finish_reason == "stop" else best.tokens
    return Generation(
        text=tokenizer.decode(told, skip_special=sampling.skip_special),
        tokens=list(best.tokens),
        logps=list(best.logps) if sampling.logprobs else [],
        finish_reason=best.finish_reason,
        prompt_tokens=prompt_tokens,
    )


@torch.inference_mode()
def beam_search(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    beams: int,
    max_tokens: int,
    length_penalty: float = 1.0,
    stop_ids: frozenset[int] = frozenset(),
) -> list[list[Hypothesis]]:
    """For each prompt its `beams` best answers (or as many as there are), the best first; one batch.

    `model` is a `CausalLM`, or `Seq2Seq.given(source.repeat(beams))` with the answers' beginnings as prompts.
    Raises PromptError for a prompt that leaves no room in the window.
    """
    context = model.config.context
    for prompt in prompts:
        check_prompt(prompt, context=context)
    searches = [
        Search(
            beams=beams,
            budget=min(max_tokens, context - len(prompt)),
            length_penalty=length_penalty,
            stop_ids=stop_ids,
        )
        for prompt in prompts
    ]
    _run(model, [prompt for prompt in prompts for _ in range(beams)], searches)
    return [search.finished for search in searches]


def _run(model: Any, rows: list[Sequence[int]], searches: list[Search]) -> None:
    """Feed all searches, each with its `beams` of the `rows`, until they are over."""
    device = model.embedding.weight.device
    tokens, positions, valid = pad_left(rows, device=device)
    room = max(search.budget for search in searches)
    valid = None if valid is None else torch.nn.functional.pad(valid, (0, room), value=True)
    cache = model.make_cache(batch=len(rows), capacity=tokens.shape[1] + room, valid=valid)
    while True:
        states = model.hidden(tokens, positions, cache)
        logps = model.head(states[:, -1]).float().log_softmax(-1).cpu()
        chosen, following, going = _advance(searches, logps)
        if not any(going):
            return
        order = torch.tensor(chosen, device=device)
        for slot in cache:
            slot.advance(tokens.shape[1])
            slot.select(order)
        tokens = torch.tensor(following, device=device)[:, None]
        # A search that is over idles in place, so that it never walks past the model's last position.
        positions = positions[order, -1:] + torch.tensor(going, device=device)[:, None]


def _advance(
    searches: list[Search], logps: Float[Tensor, "rows vocab"]
) -> tuple[list[int], list[int], list[bool]]:
    """One step of each search: for each row of the next pass which row it goes on from, its token, if it goes on.

    Rows without an open hypothesis, at first all but one of a prompt, repeat what does not matter.
    """
    chosen, following, going = list[int](), list[int](), list[bool]()
    for number, search in enumerate(searches):
        first, beams = number * search.beams, search.beams
        places = [] if search.over else search.step(logps[first : first + beams])
        if search.over:
            places = []
        idle = beams - len(places)
        chosen += [first + place for place in places] + [first] * idle
        following += [hypothesis.tokens[-1] for hypothesis in search.open[: len(places)]] + [0] * idle
        going += [True] * len(places) + [False] * idle
    return chosen, following, going
