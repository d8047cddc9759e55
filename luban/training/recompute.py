"""Activation checkpointing: blocks keep their input only, and run a second time when their gradient is taken.

Memory for activations falls from all a block computes to its input, for about a third more arithmetic. It is done
from outside, by an instance's `forward`: no module is wrapped, so names in checkpoints stay as they are.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from luban.nn.cache import DecoderSlot, LookedUp, Recurrent, Remembered


def recompute_blocks(model: nn.Module) -> int:
    """Have all blocks of `model`, encoders' too, recompute what they need for gradients; returns how many.

    Passes without gradients are as before. Dropout falls on the same places both times. Under `torch.compile` the
    compiler may keep what it finds cheap to keep.

    Source: Chen et al. 2016 (arXiv:1604.06174).
    """
    lists = [
        blocks
        for module in model.modules()
        if isinstance(blocks := getattr(module, "blocks", None), nn.ModuleList)
    ]
    found = list(dict.fromkeys(block for blocks in lists for block in blocks))
    for block in found:
        block.forward = functools.partial(_run_twice, block, block.forward)
    return len(found)


def _run_twice(block: nn.Module, forward: Callable[..., Any], *arguments: Any) -> Any:
    if not (block.training and torch.is_grad_enabled()):
        return forward(*arguments)
    return checkpoint(_from_the_start, forward, *arguments, use_reentrant=False)


def _from_the_start(forward: Callable[..., Any], *arguments: Any) -> Any:
    """`forward` with slots as they were given, whatever an earlier run put into them."""
    return forward(*(_as_given(argument) for argument in arguments))


def _as_given(argument: Any) -> Any:
    if isinstance(argument, Recurrent | Remembered | LookedUp):
        return copy.copy(argument)
    if isinstance(argument, DecoderSlot):
        return DecoderSlot(_as_given(argument.own), _as_given(argument.source))
    return argument
