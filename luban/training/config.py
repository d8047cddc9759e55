"""Settings of a training run that every stage shares. No torch here: `--help` must answer at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW, its schedule and gradient clipping."""

    learning_rate: Annotated[float, Gt(0)] = 3e-3
    """Peak learning rate."""
    lr_scheduler_type: Literal["cosine", "wsd", "linear", "constant", "inverse_sqrt"] = "cosine"
    """Shape after warm-up; `wsd` stays at the peak and falls linearly over the last `decay_ratio` of the run,
    `inverse_sqrt` falls with the root of the step however long the run is, and knows no `min_lr_ratio`."""
    warmup_steps: Annotated[int, Ge(0)] = 20
    """Steps of linear warm-up from 0."""
    min_lr_ratio: Annotated[float, Ge(0), Le(1)] = 0.1
    """Final learning rate as a share of the peak."""
    decay_ratio: Annotated[float, Gt(0), Le(1)] = 0.2
    """Share of the run in which `wsd` falls."""
    weight_decay: Annotated[float, Ge(0)] = 0.1
    """Decoupled decay of matrices; vectors (norms, biases) are not decayed."""
    adam_beta1: Annotated[float, Ge(0), Le(1)] = 0.9
    """Decay of the gradient's running mean."""
    adam_beta2: Annotated[float, Ge(0), Le(1)] = 0.95
    """Decay of the squared gradient's running mean."""
    adam_epsilon: Annotated[float, Gt(0)] = 1e-8
    """Added to the root of the second moment."""
    max_grad_norm: Annotated[float, Gt(0)] = 1.0
    """Scale gradients down to this global norm."""


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How long to train, how often to look, when to save."""

    max_steps: Annotated[int, Ge(0)] = 0
    """Optimizer steps of the whole run; 0 counts them from `num_train_epochs`."""
    num_train_epochs: Annotated[float, Gt(0)] = 1.0
    """Passes over the data, where `max_steps` is 0."""
    per_device_train_batch_size: Annotated[int, Ge(1)] = 32
    """Rows in one forward pass."""
    gradient_accumulation_steps: Annotated[int, Ge(1)] = 1
    """Forward passes per optimizer step; the loss is the same as in one large batch."""
    max_length: Annotated[int, Ge(2)] = 256
    """Tokens per row."""
    compile: bool = True
    """Compile the model (torch.compile); where no C++ compiler is found this says so and runs eagerly."""
    logging_steps: Annotated[int, Ge(1)] = 10
    """Steps between lines of log.jsonl."""
    eval_steps: Annotated[int, Ge(0)] = 0
    """Steps between validations; 0 validates at the start and the end only."""
    eval_batches: Annotated[int, Ge(1)] = 8
    """Batches per validation, always the same ones."""
    save_steps: Annotated[int, Ge(0)] = 200
    """Steps between checkpoints; 0 saves at the end only."""
    save_total_limit: Annotated[int, Ge(1)] = 2
    """Checkpoints kept; older ones are deleted."""

    def steps(self, batches_per_epoch: Callable[[], int]) -> int:
        """Optimizer steps of the run: as told, or what `num_train_epochs` take; the data is counted only then."""
        if self.max_steps:
            return self.max_steps
        return max(1, round(self.num_train_epochs * batches_per_epoch() / self.gradient_accumulation_steps))


@dataclass(frozen=True, kw_only=True)
class ParallelConfig:
    """A run on several processes, which torchrun starts: dp x tp x pp of them."""

    dp: Annotated[int, Ge(0)] = 0
    """Copies of the model, each with its share of the rows; 0 means as many as `tp` and `pp` leave."""
    tp: Annotated[int, Ge(1)] = 1
    """Processes that share every layer (tensor parallel)."""
    pp: Annotated[int, Ge(1)] = 1
    """Stages of a pipeline, each with its part of the blocks; micro-batches are `gradient_accumulation_steps`."""
    zero: Literal[0, 1, 2, 3] = 0
    """What the copies share out among them: 1 the optimizer's state, 2 also gradients, 3 also weights (FSDP2)."""
    offload: bool = False
    """Keep shared-out weights, gradients and optimizer state in the CPU's memory (with `zero` 2 or 3)."""
    schedule: Literal["gpipe", "1f1b", "interleaved"] = "1f1b"
    """Order of the pipeline's forward and backward passes."""
    chunks: Annotated[int, Ge(2)] = 2
    """Pieces of the model on each stage of an interleaved pipeline."""
    compress: Literal["none", "powersgd", "onebit"] = "none"
    """How copies send their gradients (with `zero` 0): whole, as low-rank factors, or one bit each."""
