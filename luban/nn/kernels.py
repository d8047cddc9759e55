"""C++ that computes on tensors: built once, run on PyTorch's own team of threads.

A module with inner loops of its own has a C++ file beside it and says for which tensors it pays; `why_not` tells
what is missing where there is no compiler. Then, and for all other tensors, PyTorch's operations do the same.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from luban.errors import MachineError
from luban.native import build

_PLAIN: set[type] = {Tensor, nn.Parameter}
_IMAGINED: set[type] = set()


def plain(*tensors: Tensor) -> bool:
    """Whether all are float32 on a CPU and are only that: not spread over processes, quantised or traced."""
    return all(type(each) in _PLAIN and each.dtype == torch.float32 and each.is_cpu for each in tensors)


def is_imagined(tensor: Tensor) -> bool:
    """Whether `tensor` has no address and nothing is to be computed."""
    return type(tensor) in _IMAGINED


@contextmanager
def imagined(kind: type) -> Iterator[None]:
    """A block in which tensors of `kind`, which have a shape but no memory, count as plain; nothing is computed."""
    _PLAIN.add(kind)
    _IMAGINED.add(kind)
    try:
        yield
    finally:
        _PLAIN.discard(kind)
        _IMAGINED.discard(kind)


class Kernels:
    """The functions of one C++ file."""

    def __init__(self, source: Path) -> None:
        self.source = source
        self._looked: list[str | None] = []

    def why_not(self) -> str | None:
        """What keeps them from running here, or None; the first time the file is built."""
        if not self._looked:
            try:
                self._functions()
                self._looked.append(None)
            except (MachineError, OSError) as error:
                self._looked.append(str(error))
        return self._looked[0]

    def available(self) -> bool:
        """Whether they can run here. While code is compiled nothing is built: ask once before."""
        return self._looked == [None] if torch.compiler.is_compiling() else self.why_not() is None

    def run(self, name: str, task: ctypes.Structure, *, tasks: int) -> None:
        """Call the function `name` with `task` on as many threads as PyTorch uses, `tasks` at the most."""
        # The team of threads that PyTorch's own kernels run on: a second team would fight with it for the cores.
        threads = min(torch.get_num_threads(), tasks)
        _openmp().GOMP_parallel(self._functions()[name], ctypes.byref(task), threads, 0)

    @functools.cached_property
    def _library(self) -> ctypes.CDLL:
        return build.load(self.source)

    def _functions(self) -> Any:
        """The library; raises MachineError or OSError where it, or PyTorch's OpenMP, is missing."""
        _openmp()
        return self._library


@functools.cache
def _openmp() -> ctypes.CDLL:
    return ctypes.CDLL("libgomp.so.1")
