"""What of a model a run trains, and how that is written: all of it (`Whole`), or an adapter (`tuning/adapted.py`).

The loop asks its learner at the same moments whatever it is; a model that is trained whole needs none of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import torch

from luban.data.batch import Batch
from luban.errors import ModelError
from luban.models import hf
from luban.nn.quantize import is_quantised
from luban.tokenizers.files import FileTokenizer
from luban.training.checkpoint import write_model_folder
from luban.training.parallel.whole import put_weights
from luban.training.step import Gradients, Objective


class Learner(Protocol):
    """What a run trains."""

    @property
    def divides(self) -> bool:
        """Whether several processes may each hold a part of what is trained, and write it."""
        ...

    def objective(self, objective: Objective) -> Objective:
        """`objective` with what is minimised beside it."""
        ...

    def gradients(self, gradients: Gradients) -> Gradients:
        """`gradients` as they are to be clipped and applied."""
        ...

    def begin(self, batches: Iterable[Batch], objective: Objective) -> None:
        """Look at some of the data before step 1, and before a checkpoint is read."""
        ...

    def rate_factor(self, step: int, steps: int) -> float:
        """What the learning rate of step `step` (from 1) of `steps` is multiplied by."""
        ...

    def after_step(self, step: int, steps: int, optimizer: torch.optim.Optimizer) -> None:
        """Change weights or the optimizer after step `step` (from 1) of `steps`."""
        ...

    def write(self, work: Path, model: Any, tokenizer: FileTokenizer) -> None:
        """Fill a checkpoint's folder with what `read` takes, and a model folder to look at; `model` is whole."""
        ...

    def read(self, checkpoint: Path, model: Any) -> None:
        """Put the weights of a checkpoint into `model`, or into this process's part of it."""
        ...

    def finish(self, work: Path, model: Any, tokenizer: FileTokenizer) -> None:
        """Fill `final/`."""
        ...

    def state(self) -> dict[str, Any]:
        """What an exact resume needs beside the weights; JSON."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken; called before `read`."""
        ...


class Whole:
    """See `Learner`: all weights that are not frozen, written as a model folder."""

    divides = True

    def objective(self, objective: Objective) -> Objective:
        """See `Learner.objective`."""
        return objective

    def gradients(self, gradients: Gradients) -> Gradients:
        """See `Learner.gradients`."""
        return gradients

    def begin(self, batches: Iterable[Batch], objective: Objective) -> None:
        """See `Learner.begin`."""

    def rate_factor(self, step: int, steps: int) -> float:  # noqa: ARG002 - an adapter's may depend on them
        """See `Learner.rate_factor`."""
        return 1.0

    def after_step(self, step: int, steps: int, optimizer: torch.optim.Optimizer) -> None:
        """See `Learner.after_step`."""

    def write(self, work: Path, model: Any, tokenizer: FileTokenizer) -> None:
        """See `Learner.write`."""
        write_model_folder(work, model, tokenizer)

    def read(self, checkpoint: Path, model: Any) -> None:
        """See `Learner.read`."""
        put_weights(dict(hf.load(checkpoint).named_parameters()), model)

    finish = write

    def state(self) -> dict[str, Any]:
        """See `Learner.state`."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """See `Learner.restore`."""


def all_of(model: Any) -> Whole:
    """The learner that trains all of `model`. Raises ModelError for one in fewer bits."""
    if is_quantised(model):
        hint = "train an adapter (peft.method=lora), or the model it was made of"
        raise ModelError("the model's weights are in fewer bits, and only floats can be trained", hint=hint)
    return Whole()
