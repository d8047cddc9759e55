"""Tensors that are made again for the backward pass instead of being kept for it.

A norm's output, or what an MLP bends, follows in one quick pass from tensors that autograd keeps anyway; kept too, they
would be a third of a decoder's activations. Who makes such a tensor notes how (`can_be_made_again`); a product that
needs its input for the weight's gradient keeps the note's sources instead of the input (`Kept`). Everything between
the two sees an ordinary tensor, and one that was changed, or came from elsewhere, is kept as ever.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

_NOTE = "made_again_by"

Make = Callable[..., Tensor]


class _Maker:
    """Makes a tensor once for all products that need it, and forgets it with the last of them."""

    def __init__(self, make: Make) -> None:
        self.make = make
        self.users = self.waiting = 0
        self.made: Tensor | None = None

    def __call__(self, *sources: Tensor) -> Tensor:
        if torch.is_grad_enabled():  # a gradient that is differentiated again leads back to the sources
            return self.make(*sources)
        if self.made is None:
            self.made, self.waiting = self.make(*sources), self.users
        made, self.waiting = self.made, self.waiting - 1
        if not self.waiting:
            self.made = None
        return made


class _Note(NamedTuple):
    maker: _Maker
    sources: tuple[Tensor, ...]
    version: int
    """The tensor's, to see whether it was changed since."""


def can_be_made_again(tensor: Tensor, make: Make, *sources: Tensor) -> Tensor:
    """`tensor`, with the note that `make(*sources)` gives it again to the bit."""
    # The compiler decides by itself what it computes again, and of an inference tensor nothing is.
    if not torch.compiler.is_compiling() and not tensor.is_inference():
        setattr(tensor, _NOTE, _Note(_Maker(make), sources, tensor._version))
    return tensor


class Kept:
    """What a product keeps of its input: `tensors`, from which `input` gives it again."""

    def __init__(self, x: Tensor) -> None:
        note = None if torch.compiler.is_compiling() else getattr(x, _NOTE, None)
        if note is not None and note.version != x._version:  # changed in place since
            note = None
        self.maker: _Maker | None = None if note is None else note.maker
        self.tensors: tuple[Tensor, ...] = (x,) if note is None else note.sources
        if self.maker is not None:
            self.maker.users += 1

    def input(self, *tensors: Tensor) -> Tensor:
        """The product's input."""
        return tensors[0] if self.maker is None else self.maker(*tensors)
