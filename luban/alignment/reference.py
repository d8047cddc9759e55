"""What the policy thought of each answer before it learnt: DPO's reference, asked once or at every step.

Asked once, the log-probabilities are written beside the run, some hundred pairs to a file, so that an interrupted
run, or one of another number of processes, goes on where it was; a step of training then costs no second model.
Where adapters are trained, the reference is the policy with them switched off, and never a second copy.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from luban.alignment.pair_batch import Answers, answers_of, target_logps
from luban.alignment.preferences import Pairs
from luban.data.loader import Loader, Source
from luban.errors import CheckpointError
from luban.folder import atomic_file
from luban.peft.adapter import switched_off
from luban.training.parallel.world import ALONE, World

BLOCK = 256
"""Pairs of a file."""
ROWS = 8
"""Rows of one pass."""

Reference = Callable[[Any, Answers], Tensor]
"""From the policy and a batch's answers to each one's log-probability under the reference, [pairs 2]."""


def precomputed(model: Any, pairs: Pairs, folder: Path, *, context: int, world: World = ALONE) -> Reference:
    """The reference asked once of all `pairs`, which stand in `folder` from then on.

    `model` is the policy before its first step, whole; each copy of `world` asks of its share of the files.
    Raises CheckpointError where a file is of other pairs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    blocks = [range(begin, min(begin + BLOCK, len(pairs))) for begin in range(0, len(pairs), BLOCK)]
    for number, block in enumerate(blocks):
        path = _block_file(folder, number)
        if number % world.dp == world.place("dp") and not path.is_file():
            _write(path, _ask(model, pairs, block, context))
    world.wait()
    told = torch.from_numpy(np.concatenate([_read(folder, n, block) for n, block in enumerate(blocks)]))

    def reference(_model: Any, answers: Answers) -> Tensor:
        return told[answers.pairs].to(answers.batch.tokens.device)

    return reference


def live(model: Any, *, adapted: bool) -> Reference:
    """The reference asked at every step: the policy without its adapters if it is `adapted`, else a frozen copy."""
    frozen = None if adapted else copy.deepcopy(model).requires_grad_(False)

    @torch.no_grad()
    def reference(policy: Any, answers: Answers) -> Tensor:
        if frozen is not None:
            return answers.totals(target_logps(frozen, answers.batch))
        with switched_off(policy):
            return answers.totals(target_logps(policy, answers.batch))

    return reference


def none(_model: Any, answers: Answers) -> Tensor:
    """No reference: zeros."""
    return torch.zeros(len(answers.pairs), 2, device=answers.batch.tokens.device)


@torch.no_grad()
def _ask(model: Any, pairs: Pairs, block: Sequence[int], context: int) -> Float[np.ndarray, "pairs 2"]:
    """The log-probabilities of a block's answers, under the model as it was before any adapter."""
    told = np.zeros((len(block), 2), np.float32)
    device = next(model.parameters()).device
    some = Pairs(pairs.all[number] for number in block)
    with switched_off(model):
        for batch in _batches(some, context):
            answers = answers_of(batch.to(device), some)
            told[answers.pairs] = answers.totals(target_logps(model, answers.batch)).float().cpu().numpy()
    return told


def _batches(pairs: Pairs, context: int) -> Iterator[Any]:
    """All pairs once."""
    return Loader([Source(examples=pairs)], batch=ROWS, context=context, split_documents=False, epochs=1)


def _block_file(folder: Path, number: int) -> Path:
    return folder / f"reference-{number:05d}.npy"


def _write(path: Path, values: np.ndarray) -> None:
    with atomic_file(path) as work, work.open("wb") as file:
        np.save(file, values)


def _read(folder: Path, number: int, block: Sequence[int]) -> np.ndarray:
    path = _block_file(folder, number)
    values = np.load(path, allow_pickle=False)
    if values.shape != (len(block), 2):
        what = f"it holds {len(values)} pairs, and there are {len(block)} here"
        raise CheckpointError(what, where=path, hint=f"delete {folder}")
    return values
