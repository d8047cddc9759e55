"""What a model still knows of each task of a sequence, after each of them: the matrix of continual learning."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from luban.data.batch import IGNORED
from luban.data.loader import Loader, Source
from luban.folder import atomic_file
from luban.training.losses import linear_cross_entropy

if TYPE_CHECKING:
    import numpy as np

    Pair = tuple[np.ndarray, np.ndarray]

ROWS = 16
"""Rows of one forward pass."""


class Known(NamedTuple):
    """What a model knows of a task: the share of answers it would write, and its loss in nats per token of them."""

    right: float
    loss: float


@torch.no_grad()
def known(model: Any, examples: Sequence[Pair], *, longest: int) -> Known:
    """How a model answers `examples`, pairs of ids and mask, cut to `longest` tokens.

    An answer is right where each of its tokens is the likeliest after the right ones before it: what greedy decoding
    would write.
    """
    model.eval()
    sources = [Source(examples=examples, name="held out")]
    loader = Loader(sources, batch=ROWS, context=longest, packing="pad", split_documents=False, epochs=1)
    right = asked = targets = 0
    loss = 0.0
    device = next(model.parameters()).device
    for batch in (each.to(device) for each in loader):
        states = model.hidden(batch.tokens, batch.positions).flatten(0, 1)
        loss += linear_cross_entropy(states, model.head.weight, batch.targets.flatten()).item()
        wanted = batch.targets != IGNORED
        likeliest = torch.zeros_like(batch.targets)
        likeliest[wanted] = model.head(states[wanted.flatten()]).argmax(-1)
        rows = wanted.any(1)  # the last batch has rows of nothing
        right += int(((likeliest == batch.targets) | ~wanted).all(1)[rows].sum())
        asked, targets = asked + int(rows.sum()), targets + batch.target_count
    return Known(right / asked, loss / targets)


def summary(after: Sequence[Sequence[float]]) -> dict[str, float]:
    """What a matrix comes to; `after[stage][task]` are scores.

    `average_accuracy`: of all tasks at the end. `backward_transfer`: by how much a task's score has changed from when
    it was learnt to the end, on average; below 0 is forgetting. `learnt`: the scores right after learning.

    Source: Lopez-Paz and Ranzato 2017, eq. 2 and 3 (arXiv:1706.08840).
    """
    last, tasks = after[-1], len(after)
    changes = [last[task] - after[task][task] for task in range(tasks - 1)]
    return {
        "learnt": sum(after[task][task] for task in range(tasks)) / tasks,
        "average_accuracy": sum(last) / tasks,
        "backward_transfer": sum(changes) / len(changes),
    }


def draw(matrices: Mapping[str, Mapping[str, Any]], tasks: Sequence[str], path: Path) -> None:
    """A heat map for each way of tuning: a row for each stage, a column for each task."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    size = (1.5 + 1.3 * len(tasks)) * len(matrices), 1.6 + 0.5 * len(tasks)
    figure, panes = plt.subplots(1, len(matrices), figsize=size, squeeze=False, constrained_layout=True)
    for pane, (way, matrix) in zip(panes[0], matrices.items(), strict=True):
        rows = [matrix["before"], *matrix["after"]]
        pane.imshow(rows, cmap="RdYlGn", vmin=0, vmax=1, aspect="auto")
        pane.set(title=way, xlabel="answers right, by task")
        pane.set_xticks(range(len(tasks)), tasks)
        pane.set_yticks(range(len(rows)), ["before", *(f"after {task}" for task in tasks)])
        for down, across in itertools.product(range(len(rows)), range(len(tasks))):
            pane.text(across, down, f"{rows[down][across]:.0%}", ha="center", va="center")
    with atomic_file(path) as work:
        figure.savefig(work, format="png", dpi=110)
    plt.close(figure)
