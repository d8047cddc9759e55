"""AdamW whose moments stand in a file and are in memory only while they are used.

They take twice the bytes of what is trained. Here they are mapped from a file without a name (those of an accelerator's
parameters: kept in the CPU's memory, pinned), and a step goes through them slice by slice, giving each one's pages back
to the system. What it computes is `torch.optim.AdamW`'s to the bit, and either goes on from the other's checkpoint.

Source: Dettmers et al. 2023, section 3, paged optimizers (arXiv:2305.14314), who leave it to a GPU's driver.
"""

from __future__ import annotations

import errno
import mmap
import os
import tempfile
from collections.abc import Callable, Sequence
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from luban import folder
from luban.errors import MachineError

SLICE = 1 << 20
"""Numbers of a parameter whose moments are in memory at one time: whole pages, and whole vectors of the CPU."""
MOMENTS = ("exp_avg", "exp_avg_sq")


class Pages:
    """Room for tensors in a file that has no name and vanishes with the process."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        """Room for tensors like these; raises MachineError where the disk has none."""
        self.used, size = 0, sum(_whole_pages(tensor) for tensor in tensors) or mmap.PAGESIZE
        place = folder.home()
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place) as file:
            try:
                os.posix_fallocate(file.fileno(), 0, size)  # now, as a mapping that cannot be filled kills
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                what = f"no room for the {size / 1e6:,.1f} MB of the optimizer's moments"
                raise MachineError(what, where=place, hint="free space, or optimizer.paged=false") from None
            self.map = mmap.mmap(file.fileno(), size)
        self.begin = torch.frombuffer(self.map, dtype=torch.uint8).data_ptr()

    def zeros_like(self, tensor: Tensor) -> Tensor:
        """A tensor of zeros in the file."""
        offset, self.used = self.used, self.used + _whole_pages(tensor)
        made = torch.frombuffer(self.map, dtype=tensor.dtype, count=tensor.numel(), offset=offset)
        return made.view(tensor.shape)

    def release(self, part: Tensor) -> None:
        """Give the memory of a part that begins with a page back; the file keeps what it holds."""
        self.map.madvise(mmap.MADV_DONTNEED, part.data_ptr() - self.begin, _whole_pages(part))


class PagedAdamW(torch.optim.AdamW):
    """`torch.optim.AdamW` (fused) over contiguous parameters, its moments paged."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        assert not any(self.defaults[name] for name in ("amsgrad", "maximize")), "a plain AdamW is paged"
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        self.pages = Pages([p for p in parameters if p.is_cpu for _ in MOMENTS])
        self.rooms = {p: {name: self._room(p) for name in MOMENTS} for p in parameters}
        """Each parameter's moments, all zero before its first step."""

    def _room(self, parameter: Tensor) -> Tensor:
        if parameter.is_cpu:
            return self.pages.zeros_like(parameter)
        return torch.zeros(parameter.shape, dtype=parameter.dtype, pin_memory=True)

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """See `torch.optim.Optimizer.step`; no closure."""
        assert closure is None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See `torch.optim.Optimizer.load_state_dict`; what is loaded moves into the file."""
        super().load_state_dict(state_dict)
        for parameter, moments in self.rooms.items():
            loaded = self.state.get(parameter)
            for name, moment in moments.items():
                moment.copy_(loaded[name]) if loaded else moment.zero_()
                self._release(moment)
            if loaded:
                self.state[parameter] = {"step": loaded["step"], **moments}

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        if not self.state[parameter]:
            step = torch.zeros((), dtype=torch.float32, device=parameter.device)
            self.state[parameter] = {"step": step, **self.rooms[parameter]}
        step = self.state[parameter]["step"]
        whole = (parameter, gradient.contiguous(), *self.rooms[parameter].values())
        for numbers, slope, *kept in zip(*(tensor.view(-1).split(SLICE) for tensor in whole), strict=True):
            used = [moment.to(parameter.device) for moment in kept]  # themselves, on a CPU
            _move(numbers, slope, used, step.clone(), group)
            for moment, now in zip(kept, used, strict=True):
                if now is not moment:
                    moment.copy_(now)
                self._release(moment)
        step += 1

    def _release(self, moment: Tensor) -> None:
        if not moment.is_pinned():
            self.pages.release(moment)


def _move(numbers: Tensor, slope: Tensor, moments: list[Tensor], step: Tensor, group: dict[str, Any]) -> None:
    """PyTorch's own update of some numbers of a parameter; `step` counts those before it."""
    (first, second), (beta1, beta2) = moments, group["betas"]
    adamw(
        [numbers], [slope], [first], [second], [], [step], fused=True, amsgrad=False, maximize=False,
        beta1=beta1, beta2=beta2, lr=group["lr"], weight_decay=group["weight_decay"], eps=group["eps"],
    )  # fmt: skip


def _whole_pages(tensor: Tensor) -> int:
    """The bytes of the pages that a tensor needs."""
    return -(-tensor.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
