"""How likely a text is under a model: batched by similar length, with the large head on needed rows only.

Rows are padded on the right, which a causal model cannot see, so no mask is needed. What is alike is computed once:
a context that several answers of one token follow, and what all rows of a batch begin with (`prefix.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from luban.errors import PromptError
from luban.inference.prefix import read_rows
from luban.lm import Score
from luban.models.ngram import NgramLM
from luban.tokenizers.base import Tokenizer

BATCH_TOKENS = 4096
"""How many positions, padding included, go through the blocks at once."""
LOGITS_AT_ONCE = 1 << 24
"""How many logits exist at once: 64 MB of float32."""


@dataclass(frozen=True)
class Window:
    """One row of work: what the model reads, and the `targets` it is asked for at the row's end."""

    pair: int
    first: int  # where `targets` begin in the pair's continuation
    tokens: list[int]
    targets: list[int]


def split_pair(tokenizer: Tokenizer, context: str, continuation: str) -> tuple[list[int], list[int]]:
    """Ids of context and continuation, cut from the ids of the whole, as a reader of the whole sees them.

    Spaces at the end of the context go to the continuation, where byte-level vocabularies have them. A token
    across the border counts to the context, unless the continuation would then be empty.

    Source: the convention of EleutherAI's lm-evaluation-harness.
    """
    if not context:
        return [], tokenizer.encode(continuation)
    spaces = len(context) - len(context.rstrip())
    border = len(context) - spaces
    whole = tokenizer.encode(context + continuation)
    left = len(tokenizer.encode(context[:border])) if border else 0
    left = min(left, len(whole) - 1) if continuation else left
    return whole[:left], whole[left:]


def score_tokens(
    model: Any, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], *, begin: int
) -> list[Score]:
    """For each pair of context and continuation ids: the log-probability of each continuation token.

    An empty context becomes the token `begin`. Raises PromptError if a pair with a context does not fit.
    """
    windows = [
        window
        for index, (context, continuation) in enumerate(pairs)
        for window in cut_windows(index, context, continuation, begin=begin, size=model.config.context)
    ]
    logps = [[0.0] * len(continuation) for _, continuation in pairs]
    greedy = [True] * len(pairs)
    for batch in batches(windows):
        for window, (values, likeliest) in zip(batch, score_batch(model, batch), strict=True):
            logps[window.pair][window.first : window.first + len(values)] = values
            greedy[window.pair] &= likeliest
    return [Score(logps=values, greedy=flag) for values, flag in zip(logps, greedy, strict=True)]


def cut_windows(
    pair: int, context: Sequence[int], continuation: Sequence[int], *, begin: int, size: int
) -> Iterator[Window]:
    """The rows that score one pair: one, or for a long document without context as many as it takes."""
    if context:
        length = len(context) + len(continuation) - 1  # the last token is predicted, never read
        if length > size:
            raise PromptError(
                f"context and continuation have {length + 1} tokens, the model's window {size}",
                where=f"pair {pair}",
            )
        if continuation:
            yield Window(pair, 0, [*context, *continuation][:-1], list(continuation))
        return
    for first in range(0, len(continuation), size):
        targets = list(continuation[first : first + size])
        yield Window(pair, first, [begin, *targets[:-1]], targets)


def batches(windows: Sequence[Window]) -> Iterator[list[Window]]:
    """Windows of similar length together, the longest first, so that a lack of memory shows at once.

    Windows that read the same stand side by side and count as one.
    """
    batch: list[Window] = []
    rows = 0
    for window in sorted(windows, key=lambda window: (-len(window.tokens), window.tokens)):
        again = bool(batch) and window.tokens == batch[-1].tokens
        if batch and not again and (rows + 1) * len(batch[0].tokens) > BATCH_TOKENS:
            yield batch
            batch, rows = [], 0
        batch.append(window)
        rows += not again
    if batch:
        yield batch


@torch.inference_mode()
def score_batch(model: Any, batch: Sequence[Window]) -> list[tuple[list[float], bool]]:
    """For each window: its targets' log-probabilities, and whether all of them were the likeliest."""
    device = model.embedding.weight.device
    rows = {row: number for number, row in enumerate(dict.fromkeys(tuple(window.tokens) for window in batch))}
    first_asked = min(len(window.tokens) - len(window.targets) for window in batch)
    states, first = read_rows(model, list(rows), from_place=first_asked)
    places = [
        rows[tuple(window.tokens)] * states.shape[1] + place - first
        for window in batch
        for place in range(len(window.tokens) - len(window.targets), len(window.tokens))
    ]
    asked = torch.tensor(places, device=device)
    targets = torch.tensor([token for window in batch for token in window.targets], device=device)
    sizes = [len(window.targets) for window in batch]
    states = states.flatten(0, 1)
    if isinstance(model, NgramLM):
        parts = zip(states[asked].split(sizes), targets.split(sizes), strict=True)
        return [_looked_up(model, *part) for part in parts]
    logps, likeliest = _through_head(model, states, asked, targets)
    return [
        (values.tolist(), bool(flags.all()))
        for values, flags in zip(logps.split(sizes), likeliest.split(sizes), strict=True)
    ]


def _looked_up(
    model: NgramLM, states: Int[Tensor, "tokens order"], targets: Int[Tensor, " tokens"]
) -> tuple[list[float], bool]:
    """One window's result, each target looked up alone; all tokens are asked for only while it is the likeliest."""
    pairs = zip(states, targets, strict=True)
    return model.logps(states, targets).tolist(), all(
        model.head(state).argmax() == target for state, target in pairs
    )


def _through_head(
    model: Any,
    states: Float[Tensor, "places dim"],
    asked: Int[Tensor, " tokens"],
    targets: Int[Tensor, " tokens"],
) -> tuple[Float[Tensor, " tokens"], Tensor]:
    """Each target's log-probability after the state at its place, and whether it was the likeliest.

    A bounded number of rows goes through the head at a time, one for all targets asked for at one place.
    """
    at_once = max(1, LOGITS_AT_ONCE // model.config.vocab)
    logps, likeliest = [], []
    for some, wanted in zip(asked.split(at_once), targets.split(at_once), strict=True):
        places, row = some.unique_consecutive(return_inverse=True)
        logits = model.head(states[places]).float()
        logps.append(logits[row, wanted] - logits.logsumexp(-1)[row])
        likeliest.append(logits.argmax(-1)[row] == wanted)
    return torch.cat(logps).cpu(), torch.cat(likeliest).cpu()
