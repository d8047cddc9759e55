"""AdamW over a model's parameters, and the learning rate of each step as a plain function."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from luban.errors import ConfigError
from luban.training.config import OptimizerConfig
from luban.training.paged import PagedAdamW
from luban.training.parallel.norms import is_part


def adamw(
    model: nn.Module,
    config: OptimizerConfig,
    *,
    kind: Callable[..., torch.optim.Optimizer] = torch.optim.AdamW,
) -> torch.optim.Optimizer:
    """Fused AdamW over the trainable parameters; only matrices are decayed. `kind` makes it, sharded for example.

    Raises ConfigError where `config` asks for paged moments and `kind` has its own.

    Source: Loshchilov and Hutter 2019 (arXiv:1711.05101); no decay of vectors as in GPT-3.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if config.paged:
        if kind is not torch.optim.AdamW or any(is_part(parameter) for parameter in trainable):
            what = "moments that processes share out cannot be paged"
            raise ConfigError(what, where="setting 'optimizer.paged'", hint="parallel.offload=true")
        kind = PagedAdamW
    groups = [
        {
            "params": [p for p in trainable if (p.ndim >= 2) == decayed and is_part(p) == part],
            "weight_decay": config.weight_decay if decayed else 0.0,
        }
        for decayed in (True, False)
        for part in (False, True)  # the fused update takes plain tensors or DTensors, not both at once
    ]
    made = kind(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_epsilon,
        fused=True,
    )
    if kind is torch.optim.AdamW:
        _make_moments(made)
    return made


def _make_moments(optimizer: torch.optim.Optimizer) -> None:
    """Give AdamW its state before the first step, which would put it between that step's activations, for good."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            optimizer.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
                "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
            }


def learning_rate_at(step: int, total_steps: int, config: OptimizerConfig) -> float:
    """The learning rate of step `step` (0-based): linear warm-up, then the chosen fall to `min_lr_ratio`.

    Source: cosine, Loshchilov and Hutter 2017 (arXiv:1608.03983); WSD, Hu et al. 2024 (arXiv:2404.06395);
    inverse square root, Vaswani et al. 2017, eq. 3 (arXiv:1706.03762), whose peak is (dim * warmup)^-0.5.
    """
    peak, warmup = config.learning_rate, min(config.warmup_steps, total_steps)
    if step < warmup:
        return peak * (step + 1) / warmup
    if config.lr_scheduler_type == "inverse_sqrt":
        return peak * math.sqrt(max(1, warmup) / (step + 1))
    done = (step - warmup) / max(1, total_steps - warmup)
    return peak * (config.min_lr_ratio + (1 - config.min_lr_ratio) * _remaining(done, config))


def _remaining(done: float, config: OptimizerConfig) -> float:
    """What is left of the peak, from 1 to 0, when the share `done` of the steps after warm-up is over."""
    match config.lr_scheduler_type:
        case "cosine":
            return 0.5 * (1 + math.cos(math.pi * done))
        case "linear":
            return 1 - done
        case "wsd":
            return min(1.0, (1 - done) / config.decay_ratio)
        case "constant" | "inverse_sqrt":  # the latter falls by steps, not by shares of the run
            return 1.0
