"""One plain cached loop: prefill the prompts, then one token per request and step.

Prompts are padded on the left to one batch; a request's tokens are the same alone and in any batch. The loop
works on `Request`s and does not know where they come from; `local.py` builds them from text.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from luban.errors import PromptError
from luban.inference.constrain import Constraint, Form, form_of
from luban.inference.sampling import Sampler, log_probability
from luban.inference.stopping import StopText
from luban.lm import Generation, Sampling
from luban.tokenizers.base import Tokenizer
from luban.tokenizers.stream import StreamDecoder


class Request:
    """One prompt and the answer that grows on it, until a stop id, a stop string, or its budget ends it."""

    def __init__(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        *,
        tokenizer: Tokenizer,
        stop_ids: frozenset[int],
        context: int,
        vocab: int,
        form: Form | None = None,
    ) -> None:
        """`form`, which this takes over, is what the answer must be; it is made with `ends_of(sampling, stop_ids)`.

        Raises PromptError if `prompt` is empty or leaves no room in a window of `context` tokens, and for a token
        id in `sampling` that the model does not have.
        """
        check_prompt(prompt, context=context)
        if sampling.min_tokens > sampling.max_tokens:
            what = f"at least {sampling.min_tokens} tokens are asked for and at most {sampling.max_tokens}"
            raise PromptError(what, where="min_tokens")
        self.prompt, self.sampling = list(prompt), sampling
        self.budget = min(sampling.max_tokens, context - len(prompt))
        self.tokens: list[int] = []
        self.logps: list[float] = []
        self.text = ""
        self.finish_reason: Literal["stop", "length"] | None = None
        self._stop_ids = ends_of(sampling, stop_ids)
        self._sampler = Sampler(
            sampling,
            prompt=prompt,
            vocab=vocab,
            stop_ids=self._stop_ids,
            bad_runs=_runs_of(sampling.bad_words, tokenizer),
        )
        self._form = form
        self._decoder = StreamDecoder(tokenizer, skip_special=sampling.skip_special)
        self._gate = StopText(sampling.stop)

    def step(self, logits: Float[Tensor, " vocab"]) -> str:
        """Take the next token from `logits`; returns the text that is now certain to be in the answer."""
        token = self._sampler.draw(logits, self._form.allowed if self._form else None)
        self.tokens.append(token)
        if self.sampling.logprobs:
            self.logps.append(log_probability(logits, token))
        ended = token in self._stop_ids
        piece = "" if ended else self._pass(self._decoder.push(token))
        if ended or self._gate.stopped or self._is_whole(token):
            self.finish_reason = "stop"
        elif len(self.tokens) == self.budget or (self._form and self._form.over):
            self.finish_reason = "length"
        if self.finish_reason:
            piece += self._rest()
        self.text += piece
        return piece

    def result(self) -> Generation:
        """The finished answer; `tokens` includes the stop id that ended it, `text` never does."""
        assert self.finish_reason, "the answer is not finished"
        return Generation(
            text=self.text,
            tokens=self.tokens,
            logps=self.logps,
            finish_reason=self.finish_reason,
            prompt_tokens=len(self.prompt),
        )

    def _pass(self, piece: str) -> str:
        """What of `piece` is certain to be in the answer; no stop string counts before `min_tokens`."""
        return self._gate.push(piece) if len(self.tokens) > self.sampling.min_tokens else piece

    def _is_whole(self, token: int) -> bool:
        """Whether with `token` the answer has the form that was asked for and cannot go on."""
        if self._form is None:
            return False
        self._form.take(token)
        return self._form.over and self._form.complete

    def _rest(self) -> str:
        """What decoder and gate still hold back; a stop string may come true in it."""
        if self._gate.stopped:
            return ""
        piece = self._pass(self._decoder.finish())
        if self._gate.stopped:
            self.finish_reason = "stop"
            return piece
        return piece + self._gate.finish()


def ends_of(sampling: Sampling, stop_ids: frozenset[int]) -> frozenset[int]:
    """The token ids that end an answer."""
    return (frozenset() if sampling.ignore_eos else stop_ids) | frozenset(sampling.stop_ids)


def check_prompt(prompt: Sequence[int], *, context: int) -> None:
    """Raise PromptError if `prompt` is empty or leaves no room for one token in the window."""
    if not prompt:
        raise PromptError("the prompt is empty", where="prompt")
    if len(prompt) >= context:
        raise PromptError(
            f"the prompt has {len(prompt)} tokens and the model's window {context}: no room for an answer",
            where="prompt",
            hint="shorten the prompt",
        )


def generate_tokens(
    model: Any,
    prompts: Sequence[Sequence[int]],
    samplings: Sequence[Sampling],
    *,
    tokenizer: Tokenizer,
    stop_ids: frozenset[int],
    constraint: Constraint | None = None,
) -> list[Generation]:
    """Each prompt's answer, computed as one batch; all answers are of the form `constraint`.

    Raises PromptError for a prompt that leaves no room in `model.config.context`; an answer that reaches the
    end of the window stops there with finish_reason "length".
    """
    requests = [
        _request(model, prompt, sampling, tokenizer, stop_ids, constraint)
        for prompt, sampling in zip(prompts, samplings, strict=True)
    ]
    if requests:
        for _ in run_batch(model, requests):
            pass
    return [request.result() for request in requests]


def stream_tokens(
    model: Any, prompt: Sequence[int], sampling: Sampling, *, tokenizer: Tokenizer, stop_ids: frozenset[int]
) -> Generator[str, None, str | None]:
    """Pieces of one answer's text as they become certain; the generator returns the answer's finish reason.

    Raises PromptError at the call, not later.
    """
    return _pieces(model, _request(model, prompt, sampling, tokenizer, stop_ids))


def _pieces(model: Any, request: Request) -> Generator[str, None, str | None]:
    for pieces in run_batch(model, [request]):
        yield from filter(None, pieces)
    return request.finish_reason


@torch.inference_mode()
def run_batch(model: Any, requests: Sequence[Request]) -> Iterator[list[str]]:
    """Work on `requests` until all are finished; yields each step's new text, one piece per request."""
    device = model.embedding.weight.device
    tokens, positions, valid = pad_left([request.prompt for request in requests], device=device)
    longest = tokens.shape[1]
    capacity = longest + max(request.budget for request in requests)
    valid = None if valid is None else torch.nn.functional.pad(valid, (0, capacity - longest), value=True)
    cache = model.make_cache(batch=len(requests), capacity=capacity, valid=valid)
    while True:
        states = model.hidden(tokens, positions, cache)
        for slot in cache:
            slot.advance(tokens.shape[1])
        logits = model.head(states[:, -1]).float().cpu()
        yield [
            "" if request.finish_reason else request.step(row)
            for request, row in zip(requests, logits.unbind(0), strict=True)
        ]
        if all(request.finish_reason for request in requests):
            return
        tokens = torch.tensor([[request.tokens[-1]] for request in requests], device=device)
        # A finished row idles in place, so that it never walks past the model's last position.
        going = torch.tensor([[not request.finish_reason] for request in requests], device=device)
        positions = positions[:, -1:] + going


def pad_left(
    prompts: Sequence[Sequence[int]], *, device: torch.device
) -> tuple[Int[Tensor, "batch seq"], Int[Tensor, "batch seq"], Tensor | None]:
    """One batch of tokens, positions that count from each prompt's first token, and where there are tokens.

    The last is None if all prompts are of one length, which lets attention take its unmasked path.
    """
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    longest = int(lengths.max())
    rows = [[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    positions = torch.arange(longest) - (longest - lengths)[:, None]
    valid = None if bool((lengths == longest).all()) else (positions >= 0).to(device)
    return torch.tensor(rows, device=device), positions.clamp(min=0).to(device), valid


def _request(
    model: Any,
    prompt: Sequence[int],
    sampling: Sampling,
    tokenizer: Tokenizer,
    stop_ids: frozenset[int],
    constraint: Constraint | None = None,
) -> Request:
    vocab, form = model.config.vocab, None
    if constraint:
        form = form_of(constraint, tokenizer, vocab=vocab, stop_ids=ends_of(sampling, stop_ids))
    return Request(
        prompt,
        sampling,
        tokenizer=tokenizer,
        stop_ids=stop_ids,
        context=model.config.context,
        vocab=vocab,
        form=form,
    )


def _runs_of(words: Sequence[str], tokenizer: Tokenizer) -> list[list[int]]:
    """How the tokenizer writes each word, alone and after a space. Raises PromptError for an empty one."""
    if "" in words:
        raise PromptError("a bad word is empty", where="bad_words")
    spelled = [tokenizer.encode(before + word) for word in words for before in ("", " ")]
    return [list(run) for run in dict.fromkeys(map(tuple, spelled))]
