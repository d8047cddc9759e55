"""Gradients in fewer bytes on their way between copies of a model, as hooks of DDP; nothing is lost for good.

    gradient + residual -> compress -> what is sent;   residual = what was not sent, for the next step

"onebit" sends a sign per element and a scale per block, "powersgd" two thin factors per matrix. Both err, and
the errors do not pile up only because each process adds what it could not say to its next gradient.
Adam divides by a variance that such gradients make too large, so the first steps are sent whole (Tang et al.).
"""

# Annotations stay objects here (no `from __future__`): DDP looks at those of a hook before it takes it.
import sys
from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.distributed as dist
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState, powerSGD_hook

from luban.training.parallel.world import World

BLOCK = 1024
"""Elements that share one scale: 1 + 32/1024 bits are sent for each."""
RANK = 4
"""Columns of the factors that stand for a matrix."""
WHOLE_STEPS = 20
"""Backward passes whose gradients are sent whole; DDP lays its buckets anew after the first, so at least 2."""
GUARD = 1e-8
"""Added to the length of a factor's column, which is 0 where a matrix has fewer directions than the rank."""

Future = torch.futures.Future[Tensor]
Hook = Callable[[Any, dist.GradBucket], Future]


class OneBit:
    """What a process keeps between steps for `one_bit`: its residual per bucket, and counts of bytes."""

    def __init__(self, group: dist.ProcessGroup, *, whole_steps: int = WHOLE_STEPS) -> None:
        assert whole_steps >= 2, "DDP lays its buckets anew after the first step"
        self.group, self.whole_steps = group, whole_steps
        self.step = self.sent_bytes = self.whole_bytes = 0
        self.residuals: dict[int, Tensor] = {}


class LowRank(PowerSGDState):
    """PyTorch's state of PowerSGD (residuals, warm factors, generator) with counts of bytes."""

    def __init__(self, group: dist.ProcessGroup, *, rank: int = RANK, whole_steps: int = WHOLE_STEPS) -> None:
        super().__init__(
            group,
            matrix_approximation_rank=rank,
            start_powerSGD_iter=whole_steps,
            orthogonalization_epsilon=GUARD,  # pyright: ignore[reportArgumentType] - its page says 1e-8
            compression_stats_logging_frequency=sys.maxsize,
        )
        self.sent_bytes = self.whole_bytes = 0


def hook(
    name: Literal["powersgd", "onebit"], world: World, *, rank: int = RANK, whole_steps: int = WHOLE_STEPS
) -> tuple[OneBit | LowRank, Hook]:
    """What `DistributedDataParallel.register_comm_hook` takes: the state, which counts bytes, and the hook.

    As without a hook, gradients come out averaged over the copies, the same on each. One that is not finite
    makes the average so too, and leaves the residuals as they were. `rank` is for "powersgd".
    """
    group = world.group("dp")
    assert group is not None, "a process that is alone has nobody to send to"
    if name == "onebit":
        return OneBit(group, whole_steps=whole_steps), one_bit
    return LowRank(group, rank=rank, whole_steps=whole_steps), low_rank


def sent(state: OneBit | LowRank) -> int:
    """Bytes this process has sent for gradients since the hook was made."""
    return state.sent_bytes


def one_bit(state: OneBit, bucket: dist.GradBucket) -> Future:
    """The average over processes of `scale * sign(gradient + residual)`.

    Every process sends its bits to every other one: less than whole gradients in a ring up to some 60 processes.

    Source: Seide et al. 2014 (residual; we send one scale, the mean magnitude, which is the best one for signs,
    where they send two means per column); Tang et al. 2021 (arXiv:2102.02888) compress the momentum instead.
    """
    buffer, copies = bucket.buffer(), dist.get_world_size(state.group)
    whole = ring_bytes(_bytes(buffer), copies)
    state.whole_bytes += whole
    if state.step < state.whole_steps:
        state.step += bucket.is_last()
        state.sent_bytes += whole
        return _averaged(buffer, state.group)
    meant = buffer + state.residuals.get(bucket.index(), 0.0)
    message = signs(meant)
    state.sent_bytes += (copies - 1) * _bytes(message)
    received = [torch.empty_like(message) for _ in range(copies)]
    work: Any = dist.all_gather(received, message, group=state.group, async_op=True)

    def read(_: Any) -> Tensor:
        buffer.zero_()
        for one in received:
            buffer.add_(unsigned(one, len(buffer)), alpha=1 / copies)
        if bool(buffer.isfinite().all()):  # the same on every process, so all keep or all replace
            state.residuals[bucket.index()] = meant - unsigned(message, len(meant))
        return buffer

    return work.get_future().then(read)


def low_rank(state: LowRank, bucket: dist.GradBucket) -> Future:
    """The average over processes as `P Q^T`, from one step of power iteration on the last step's factors.

    Source: Vogels et al. 2019, algorithm 1 (arXiv:1905.13727), by PyTorch. Vectors, and matrices that factors
    would not halve, go whole.
    """
    buffer, copies = bucket.buffer(), dist.get_world_size(state.process_group)
    size, index = buffer.element_size(), bucket.index()
    state.whole_bytes += ring_bytes(_bytes(buffer), copies)
    compressed = state.iter >= state.start_powerSGD_iter
    counted, residual = state.total_numel_after_compression, state.error_dict.get(index)
    future = powerSGD_hook(state, bucket)
    elements = state.total_numel_after_compression - counted if compressed else buffer.numel()
    state.sent_bytes += ring_bytes(elements * size, copies)

    def check(done: Future) -> Tensor:
        averaged = done.value()
        if compressed and not bool(averaged.isfinite().all()):
            _forget(state, index, residual)
        return averaged

    return future.then(check)


def signs(values: Float[Tensor, " n"]) -> UInt8[Tensor, " bytes"]:
    """One message: the scales of all blocks (float32), then a bit per element, 1 where it is not negative.

    A block's scale is its mean magnitude, not finite where an element is not; the last block is filled with zeros.
    """
    blocks = torch.nn.functional.pad(values.float(), (0, -len(values) % BLOCK)).view(-1, BLOCK)
    counts = torch.full((len(blocks),), float(BLOCK), device=values.device)
    counts[-1] = BLOCK - -len(values) % BLOCK
    scales = blocks.abs().sum(dim=1) / counts
    bits = (blocks >= 0).view(-1, 8).to(torch.uint8)
    packed = (bits << torch.arange(8, dtype=torch.uint8, device=values.device)).sum(dim=1, dtype=torch.uint8)
    return torch.cat([scales.view(torch.uint8), packed])


def unsigned(message: UInt8[Tensor, " bytes"], length: int) -> Float[Tensor, " n"]:
    """What a message of `signs` says of `length` elements: `scale` or `-scale` each."""
    blocks = -(-length // BLOCK)
    scales = message[: 4 * blocks].view(torch.float32)
    places = torch.arange(8, dtype=torch.uint8, device=message.device)
    bits = (message[4 * blocks :, None] >> places) & 1
    return (bits.view(blocks, BLOCK).float().mul_(2).sub_(1) * scales[:, None]).view(-1)[:length]


def ring_bytes(size: int, processes: int) -> int:
    """Bytes each of `processes` sends to sum `size` bytes in a ring: all but its own share, twice."""
    return 2 * size * (processes - 1) // processes


def _averaged(buffer: Tensor, group: dist.ProcessGroup) -> Future:
    buffer.div_(dist.get_world_size(group))
    work: Any = dist.all_reduce(buffer, group=group, async_op=True)
    return work.get_future().then(lambda done: done.value()[0])


def _forget(state: LowRank, index: int, residual: Tensor | None) -> None:
    """Undo what a gradient that is not finite did to the memory of a bucket."""
    state.p_memory_dict.pop(index, None)
    state.q_memory_dict.pop(index, None)
    if residual is None:
        state.error_dict.pop(index, None)
    else:
        state.error_dict[index] = residual


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
