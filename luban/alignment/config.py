"""Settings that PPO and GRPO share: how answers are drawn, and how long to go on. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt

from luban.device import DeviceConfig
from luban.errors import ConfigError
from luban.training.config import GuardConfig, OptimizerConfig, ParallelConfig


@dataclass(frozen=True, kw_only=True)
class PolicyOptimizer(OptimizerConfig):
    """AdamW with the small, steady steps of a policy."""

    learning_rate: Annotated[float, Gt(0)] = 1e-5
    """Peak learning rate; whole tiny models take 1e-4 and more, adapters 1e-4."""
    lr_scheduler_type: Literal["cosine", "wsd", "linear", "constant", "inverse_sqrt"] = "constant"
    """Shape after warm-up, over the iterations of the run."""
    warmup_steps: Annotated[int, Ge(0)] = 0
    """Iterations of linear warm-up from 0."""
    weight_decay: Annotated[float, Ge(0)] = 0.0
    """Decoupled decay of matrices; vectors (norms, biases) are not decayed."""


@dataclass(frozen=True, kw_only=True)
class RolloutConfig:
    """How answers are drawn from the policy."""

    prompts: Annotated[int, Ge(1)] = 32
    """Prompts answered in an iteration."""
    max_tokens: Annotated[int, Ge(1)] = 64
    """Longest answer; one that does not end by then is truncated."""
    temperature: Annotated[float, Gt(0)] = 1.0
    """Divides the logits wherever the policy's probabilities are meant, in drawing as in learning."""
    truncated: Literal["score", "penalise", "mask"] = "score"
    """An answer that does not end: `score` it as it stands, `penalise` it (`truncated_reward`), or learn nothing
    from it (`mask`)."""
    truncated_reward: float = -1.0
    """What a truncated answer gets where it is to be penalised."""
    max_difference: Annotated[float, Gt(0)] = 0.05
    """Stop where sampler and trainer differ by more in an answer's tokens, on average, in nats (logged as
    rollout/difference)."""


@dataclass(frozen=True, kw_only=True)
class RoundsConfig:
    """How many iterations there are, and what each of them learns from its answers."""

    max_steps: Annotated[int, Ge(1)] = 100
    """Iterations: answer, judge, learn."""
    epochs: Annotated[int, Ge(1)] = 1
    """Times an iteration's answers are learned from."""
    minibatch: Annotated[int, Ge(0)] = 0
    """Answers in one optimizer step; 0 means all of an iteration's."""
    per_device_train_batch_size: Annotated[int, Ge(1)] = 32
    """Answers in one forward pass of a process; a smaller number takes less memory and changes nothing else."""
    eval_steps: Annotated[int, Ge(0)] = 0
    """Iterations between greedy answers to the held-out prompts; 0 asks at the start and the end only."""
    save_steps: Annotated[int, Ge(0)] = 50
    """Iterations between checkpoints; 0 saves at the end only."""
    save_total_limit: Annotated[int, Ge(1)] = 2
    """Checkpoints kept; older ones are deleted."""
    samples: Annotated[int, Ge(0)] = 2
    """Answers shown on stderr at each evaluation."""
    guard: GuardConfig = field(default_factory=GuardConfig)


@dataclass(frozen=True, kw_only=True)
class RewardedConfig(DeviceConfig):
    """What a stage needs that lets a model answer and learns from what the answers are worth."""

    model: Path
    """Model folder to start from; it is also the reference."""
    data: tuple[Path, ...]
    """Rows with a `prompt`, text or messages, and whatever columns the reward asks for; JSONL or a JSON list."""
    reward: str
    """What an answer is worth: `verify:arithmetic|regex|json|python`, a reward model's folder, a Python function
    `file.py:name`, or an `http://` endpoint."""
    out: Path
    """Folder for checkpoints, log, rollouts, curves and `final/`."""
    validation: tuple[Path, ...] = ()
    """Held-out rows, answered greedily for val/reward."""
    plain: bool = False
    """Let the model continue text prompts instead of answering them through its chat template."""
    peft: Mapping[str, Any] = field(default_factory=dict)
    """Tune fewer weights: `peft.method=lora peft.r=8 ...` (docs/tuning.md lists methods and settings); nothing
    tunes them all."""
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    optimizer: PolicyOptimizer = field(default_factory=PolicyOptimizer)
    loop: RoundsConfig = field(default_factory=RoundsConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    seed: Annotated[int, Ge(0)] = 0
    """Seed of the prompts' order and of the answers."""

    def __post_init__(self) -> None:
        """Raises ConfigError where a model's layers would be cut up."""
        for name in ("tp", "pp"):
            if getattr(self.parallel, name) > 1:
                what = "answers are drawn by copies of a model, not by one that is cut up"
                raise ConfigError(
                    what, where=f"setting 'parallel.{name}'", hint="parallel.dp, parallel.zero=3"
                )

    @property
    def inputs(self) -> list[Path]:
        """The files and folders that the run is made from; a reward's too, where it is one."""
        judge = Path(self.reward.partition(".py:")[0] + ".py" if ".py:" in self.reward else self.reward)
        return [self.model, *self.data, *self.validation, *([judge] if judge.exists() else [])]
