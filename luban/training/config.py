"""Settings of a training run that every stage shares. No torch here: `--help` must answer at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from luban.errors import ConfigError


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
    paged: bool = False
    """Keep AdamW's moments in a file (under $LUBAN_HOME) and in memory only while they are used: less, and slower."""


@dataclass(frozen=True, kw_only=True)
class GuardConfig:
    """What to do about a batch whose loss or gradient is not finite, or whose loss jumps."""

    action: Literal["stop", "skip"] = "stop"
    """`stop` names the batch's documents and ends the run; `skip` leaves the batch out and writes skipped.jsonl."""
    spike: Annotated[float, Ge(0)] = 0.0
    """A loss so many standard deviations above the last 64 is a jump (6, say); 0 looks for none."""
    most_skipped: Annotated[int, Ge(0)] = 8
    """Batches that `skip` leaves out in a row before it stops after all."""


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
    compile: bool | Literal["auto"] = "auto"
    """Compile the model (torch.compile); `auto` where the run is long enough for it to pay (compile.json says why).
    Where no C++ compiler is found this says so and runs eagerly."""
    precision: Literal["float32", "bfloat16", "float16", "auto"] = "float32"
    """Numbers of the forward pass; weights stay float32. `auto` is bfloat16 where the device is faster in it."""
    gradient_checkpointing: bool = False
    """Keep only each block's input for the gradients and compute the rest again: less memory, more time."""
    guard: GuardConfig = field(default_factory=GuardConfig)
    logging_steps: Annotated[int, Ge(1)] = 10
    """Steps between lines of log.jsonl."""
    eval_steps: Annotated[int, Ge(0)] = 0
    """Steps between validations; 0 validates at the start and the end only."""
    eval_batches: Annotated[int, Ge(1)] = 8
    """Batches per validation, always the same ones."""
    save_steps: Annotated[int, Ge(0)] = 200
    """Steps between checkpoints; 0 saves at the end only."""
    save_total_limit: Annotated[int, Ge(1)] = 2
    """Checkpoints kept; older ones are deleted, but never the best."""
    metric_for_best: Literal["none", "val/loss", "val/bpb", "val/accuracy", "val/macro_f1"] = "none"
    """Keep the checkpoint of the evaluation where this was best, named in the file `checkpoints/best`; accuracy and
    F1, which `luban classify` measures, are best where they are highest."""
    load_best: bool = False
    """Make `final/` from the best checkpoint instead of the last."""
    patience: Annotated[int, Ge(0)] = 0
    """End the run after so many evaluations without a better one; 0 goes on to the last step."""
    report_to: tuple[Literal["tensorboard", "wandb", "mlflow", "swanlab"], ...] = ()
    """Send the log to these as well; log.jsonl is always written."""

    def __post_init__(self) -> None:
        for name in ("load_best", "patience"):
            if getattr(self, name) and self.metric_for_best == "none":
                where = f"setting 'loop.{name}'"
                raise ConfigError(
                    "there is no best without a metric", where=where, hint="loop.metric_for_best=val/loss"
                )

        if self.patience and not self.eval_steps:
            what = "one evaluation at the end leaves nothing to wait for"
            raise ConfigError(what, where="setting 'loop.patience'", hint="loop.eval_steps=100")

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


LAYOUT = ("parallel", "loop.per_device_train_batch_size", "loop.gradient_accumulation_steps")
"""Settings that may be others when a run goes on: how a step's rows, always as many, are dealt out."""
