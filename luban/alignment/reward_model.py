"""A trained reward model at work: what answers, or the steps of answers, are worth to it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from luban.errors import ModelError, PromptError
from luban.models.classifier import Classifier
from luban.peft.opening import open_model

BATCH_TOKENS = 8192
"""How many places, padding included, are read at once."""


def load_reward(folder: Path, *, device: str | torch.device = "cpu") -> Classifier:
    """The reward model in `folder`, as `luban reward` wrote it; raises ModelError for a model without one score."""
    model = open_model(folder, device=device, merge=True)
    if not isinstance(model, Classifier) or len(model.config.labels) != 1:
        scores = len(model.config.labels) if isinstance(model, Classifier) else "no head for any"
        what = f"a reward model has one score, this one has {scores}"
        raise ModelError(what, where=folder, hint="luban reward writes one")
    return model.eval()


def rewards(model: Classifier, rows: Sequence[Sequence[int]]) -> Float[Tensor, " rows"]:
    """The reward of each row of ids, a prompt and its answer up to the end token, read at its last token.

    Raises PromptError naming the row that is empty or longer than the model's window.
    """
    return torch.tensor([told[-1] for told in rewards_at(model, rows, [[len(row) - 1] for row in rows])])


@torch.no_grad()
def rewards_at(
    model: Classifier, rows: Sequence[Sequence[int]], places: Sequence[Sequence[int]]
) -> list[list[float]]:
    """The rewards at chosen `places` of each row, rows of like length being read together."""
    _check(model, rows)
    device = model.embedding.weight.device
    found: list[list[float]] = [[] for _ in rows]
    for batch in _batches(rows):
        longest = max(len(rows[number]) for number in batch)
        tokens = [[*rows[number], *[0] * (longest - len(rows[number]))] for number in batch]
        told = model.scores(torch.tensor(tokens, device=device))[..., 0].cpu()
        for number, values in zip(batch, told, strict=True):
            found[number] = values[list(places[number])].tolist()
    return found


def answer_reward(steps: Sequence[float], *, whole: str = "min") -> float:
    """One number for an answer from its steps' log-odds: the worst step's, or that of all being right (`product`).

    Source: Lightman et al. 2023, appendix F (arXiv:2305.20050), which compares both.
    """
    if whole == "min":
        return min(steps)
    log_all = torch.nn.functional.logsigmoid(torch.tensor(steps, dtype=torch.float64)).sum()
    return float(log_all - torch.log(-torch.expm1(log_all)))


def _check(model: Classifier, rows: Sequence[Sequence[int]]) -> None:
    for number, row in enumerate(rows):
        if not 0 < len(row) <= model.config.context:
            what = f"it has {len(row)} tokens, and the reward model reads 1 to {model.config.context}"
            raise PromptError(what, where=f"row {number}")


def _batches(rows: Sequence[Sequence[int]]) -> list[list[int]]:
    """Numbers of rows, the longest first, as many at once as `BATCH_TOKENS` allow."""
    batches: list[list[int]] = []
    for number in sorted(range(len(rows)), key=lambda number: -len(rows[number])):
        if not batches or (len(batches[-1]) + 1) * len(rows[batches[-1][0]]) > BATCH_TOKENS:
            batches.append([])
        batches[-1].append(number)
    return batches
