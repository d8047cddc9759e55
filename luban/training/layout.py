"""Where the parts of a model stand on a cluster, and what each device then holds.

Ranks lie pp x dp x tp, neighbours sharing a layer (`parallel/world.py`): tensor parallel fills a node before anything
crosses the network, copies come next, pipeline stages last.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge

from luban.errors import ConfigError
from luban.training import memory
from luban.training.clusters.cluster import Cluster
from luban.training.memory import Precision
from luban.training.sizes import Sizes

BATCH_MARGIN = 0.1
"""By how much the batch may differ from the one asked for, so that it divides among the copies."""

CHUNKS = (1, 2, 4)
"""Pieces of the model on each stage that are tried; 1 is a plain 1F1B pipeline."""

MICRO_BATCHES = (1, 2, 4, 8, 16, 32, 64)
"""Rows of one forward pass that are tried."""


@dataclass(frozen=True, kw_only=True)
class LayoutConfig:
    """What is fixed of the layout; the rest is searched for."""

    dp: Annotated[int, Ge(0)] = 0
    """Copies of the model; 0 searches."""
    tp: Annotated[int, Ge(0)] = 0
    """Devices that share every layer; 0 searches."""
    pp: Annotated[int, Ge(0)] = 0
    """Stages of a pipeline; 0 searches."""
    zero: Literal[0, 1, 2, 3] | None = None
    """What copies share out (ZeRO); none searches."""
    micro_batch: Annotated[int, Ge(0)] = 0
    """Rows of one forward pass; 0 searches."""
    chunks: Annotated[int, Ge(0)] = 0
    """Pieces of the model on each stage, more than 1 of them interleaved; 0 searches."""
    recompute: bool | None = None
    """Compute blocks again in the backward pass (gradient_checkpointing); none searches."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One way to put a run on devices."""

    dp: int
    tp: int
    pp: int
    zero: int = 0
    micro_batch: int = 1
    micro_batches: int = 1
    """Forward passes of one copy in a step."""
    chunks: int = 1
    recompute: bool = False

    @property
    def rows(self) -> int:
        """Rows of one step, of all copies."""
        return self.dp * self.micro_batch * self.micro_batches

    @property
    def schedule(self) -> Literal["1f1b", "interleaved"]:
        """The pipeline's order, by `ParallelConfig`'s names."""
        return "interleaved" if self.chunks > 1 else "1f1b"

    def layers(self, sizes: Sizes) -> int:
        """Blocks on the stage that has the most."""
        return math.ceil(sizes.layers / self.pp)

    def parameters(self, sizes: Sizes) -> float:
        """Weights on one device of the stage that has the most; an end of the model has an embedding or a head."""
        untied_or_apart = 2 if self.pp == 1 and not sizes.tied else 1
        ends = untied_or_apart * sizes.head_parameters
        return (self.layers(sizes) * sizes.block_parameters + ends) / self.tp


Axis = Literal["pp", "dp", "tp"]


def groups(layout: Layout, axis: Axis) -> list[list[int]]:
    """The ranks that exchange along `axis`: those that differ in it only, in the mesh of `parallel/world.py`."""
    sizes = {"pp": layout.pp, "dp": layout.dp, "tp": layout.tp}
    apart = {"pp": layout.dp * layout.tp, "dp": layout.tp, "tp": 1}[axis]
    ranks = range(layout.pp * layout.dp * layout.tp)
    firsts = (rank for rank in ranks if rank // apart % sizes[axis] == 0)
    return [[first + place * apart for place in range(sizes[axis])] for first in firsts]


def nodes_met(layout: Layout, axis: Axis, cluster: Cluster) -> int:
    """On how many nodes the ranks of one group along `axis` stand, at most."""
    return max(len({rank // cluster.devices_per_node for rank in group}) for group in groups(layout, axis))


def memory_of(layout: Layout, sizes: Sizes, *, seq: int, precision: Precision) -> dict[str, float]:
    """Bytes on the fullest device, by part: weights, gradients, optimizer, activations, logits, and their total."""
    states = memory.state_bytes(
        layout.parameters(sizes), precision=precision, zero=layout.zero, copies=layout.dp
    )
    gathered = 0.0
    if (
        layout.zero == 3 and layout.dp > 1
    ):  # two blocks' weights whole: the one at work and the one on its way
        weights = memory.STATE_BYTES[precision].weights
        gathered = 2 * weights * sizes.block_parameters / layout.tp
    tokens = layout.micro_batch * seq
    activations = memory.activation_bytes(
        sizes.block,
        tokens=tokens,
        seq=seq,
        layers=layout.layers(sizes),
        tp=layout.tp,
        in_flight=memory.micro_batches_in_flight(layout.pp, layout.micro_batches, chunks=layout.chunks),
        recompute=layout.recompute,
        precision=precision,
    )
    parts = {
        **states,
        "gathered": gathered,
        "activations": activations,
        "logits": memory.logits_bytes(sizes.vocab, tokens, tp=layout.tp),
    }
    return {**parts, "total": sum(parts.values())}


def layouts(sizes: Sizes, cluster: Cluster, *, fixed: LayoutConfig, rows: int) -> Iterator[Layout]:
    """Every layout of all devices that the model, the batch of about `rows` rows and what is `fixed` allow."""
    for dp, tp, pp in triples(sizes, cluster, fixed):
        per_copy = max(1, round(rows / dp))
        if abs(per_copy * dp / rows - 1) > BATCH_MARGIN:
            continue
        for micro_batch in [fixed.micro_batch] if fixed.micro_batch else MICRO_BATCHES:
            if per_copy % micro_batch == 0:
                yield from _variants(sizes, fixed, (dp, tp, pp), micro_batch, per_copy // micro_batch)


def triples(sizes: Sizes, cluster: Cluster, fixed: LayoutConfig) -> Iterator[tuple[int, int, int]]:
    """Each dp, tp, pp whose product is the number of devices and that divide heads and layers."""
    devices, block = cluster.devices, sizes.block
    widest = math.gcd(block.heads, block.kv_heads, block.hidden) if sizes.shared else 1
    longest = sizes.layers if sizes.staged else 1
    for tp in [fixed.tp] if fixed.tp else _divisors(math.gcd(devices, widest)):
        if devices % tp or widest % tp:
            continue
        for pp in [fixed.pp] if fixed.pp else _divisors(devices // tp):
            dp = devices // (tp * pp)
            if dp * tp * pp == devices and pp <= longest and fixed.dp in (0, dp):
                yield dp, tp, pp


def _variants(
    sizes: Sizes, fixed: LayoutConfig, triple: tuple[int, int, int], micro_batch: int, micro_batches: int
) -> Iterator[Layout]:
    dp, tp, pp = triple
    if micro_batches < pp:  # stages would stand empty all the time (`parallel/stages.py` refuses it)
        return
    most_zero = 0 if dp == 1 else (3 if pp == 1 else 1)  # stages keep their gradients: `parallel/stages.py`
    for zero in [fixed.zero] if fixed.zero is not None else range(most_zero + 1):
        for chunks in [fixed.chunks] if fixed.chunks else CHUNKS:
            if zero > most_zero or not _can_interleave(sizes, pp, chunks, micro_batches):
                continue
            for recompute in [fixed.recompute] if fixed.recompute is not None else (False, True):
                yield Layout(
                    dp=dp,
                    tp=tp,
                    pp=pp,
                    zero=zero,
                    micro_batch=micro_batch,
                    micro_batches=micro_batches,
                    chunks=chunks,
                    recompute=recompute,
                )


def _can_interleave(sizes: Sizes, pp: int, chunks: int, micro_batches: int) -> bool:
    return chunks == 1 or (pp > 1 and sizes.layers % (pp * chunks) == 0 and micro_batches % pp == 0)


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]


def no_layout(sizes: Sizes, cluster: Cluster, *, fixed: LayoutConfig, rows: int) -> ConfigError:
    """Why `layouts` finds none, and what to change."""
    if not list(triples(sizes, cluster, fixed)):
        told = f"dp {fixed.dp or '?'} x tp {fixed.tp or '?'} x pp {fixed.pp or '?'}"
        block = sizes.block
        what = (
            f"{told} does not come to {cluster.devices} devices for {block.heads} heads ({block.kv_heads} of keys) "
            f"and {sizes.layers} layers"
        )
        return ConfigError(what, where="setting 'layout'", hint="leave dp, tp or pp at 0")
    what = (
        f"a batch of {rows} rows does not divide among copies and micro-batches on {cluster.devices} devices"
    )
    return ConfigError(
        what, where="setting 'batch_tokens'", hint="a larger batch, a power of two, or fewer devices"
    )
