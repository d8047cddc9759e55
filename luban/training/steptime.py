"""How long one step of a layout takes, part by part: computing, sharing layers, waiting, exchanging gradients.

A model of a machine, not the machine: kernels reach the cluster's `mfu` of the stated rate, links `LINK_SHARE` of
theirs, all nodes are equally fast and none fails. Checked against published runs in tests/training/test_layout.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from luban.training.clusters.cluster import Cluster
from luban.training.layout import Layout
from luban.training.memory import ACTIVATION_BYTES, STATE_BYTES, Precision, block_numbers
from luban.training.parallel.clock import bubble
from luban.training.sizes import Sizes

LINK_SHARE = 0.8
"""Share of a link's stated rate that large collectives see; NCCL's own tests show 75-85 % on NVLink and InfiniBand."""

BACKWARD = 2
"""Times the forward pass's arithmetic that a backward pass takes."""


@dataclass(frozen=True, kw_only=True)
class StepTime:
    """Seconds of one step, by what they are spent on; all of them add up to it."""

    compute: float
    """Forward and backward."""
    recompute: float
    """Forward again."""
    tensor: float
    """All-reduces of devices that share layers."""
    pipeline: float
    """Sending activations from stage to stage, where that is not hidden behind computing."""
    bubble: float
    """Waiting for other stages."""
    gradients: float
    """Exchange among copies that is not hidden behind the backward pass; with ZeRO 3 of weights too."""
    optimizer: float
    """Reading and writing all states once."""

    @property
    def passes(self) -> float:
        """Forward and backward passes, with what they send."""
        return self.compute + self.recompute + self.tensor + self.pipeline

    @property
    def waiting(self) -> float:
        """The bubble as a share of the passes."""
        return self.bubble / self.passes

    @property
    def total(self) -> float:
        """The whole step."""
        return self.passes + self.bubble + self.gradients + self.optimizer


def step_time(layout: Layout, sizes: Sizes, cluster: Cluster, *, seq: int, precision: Precision) -> StepTime:
    """The step of the slowest stage: its micro-batches, the bubble, then what comes once per step."""
    peak = cluster.peak("float32" if precision == "float32" else "bfloat16")
    count, tokens = layout.micro_batches, layout.micro_batch * seq
    # The last stage has the head as well.
    flops = tokens * (layout.layers(sizes) * sizes.block_flops(seq) + sizes.head_flops) / layout.tp
    forward = flops / (peak * cluster.mfu) + _moving(layout, sizes, cluster, seq=seq, precision=precision)
    compute, recompute = count * (1 + BACKWARD) * forward, count * forward * layout.recompute
    tensor = count * _tensor_time(layout, sizes, cluster, tokens, precision)
    pipeline = count * (1 - cluster.overlap) * _pipeline_time(layout, sizes, cluster, tokens, precision)
    waiting = bubble(layout.schedule, layout.pp, count, layout.chunks)
    return StepTime(
        compute=compute,
        recompute=recompute,
        tensor=tensor,
        pipeline=pipeline,
        bubble=waiting * (compute + recompute + tensor + pipeline),
        gradients=(1 - cluster.overlap) * _exchange_time(layout, sizes, cluster, precision),
        optimizer=_optimizer_time(layout, sizes, cluster, precision),
    )


def all_reduce_time(size: float, ranks: int, cluster: Cluster, *, apart: int = 1) -> float:
    """Seconds to sum `size` bytes over `ranks` devices whose ranks are `apart` from each other.

    2 (n-1)/n of the bytes pass every link; where a node has several of the ranks these sum first, and each then sends
    its share over the network.

    Source: Patarasuk and Yuan 2009, "Bandwidth optimal all-reduce algorithms for clusters of workstations".
    """
    inside = max(1, min(ranks, cluster.devices_per_node // apart))
    outside = ranks / inside
    within = 2 * (inside - 1) / inside * size / (cluster.node_gb_per_s * 1e9 * LINK_SHARE)
    across = 2 * (outside - 1) / outside * size / inside / (cluster.network_gb_per_s * 1e9 * LINK_SHARE)
    return within + across


def _moving(layout: Layout, sizes: Sizes, cluster: Cluster, *, seq: int, precision: Precision) -> float:
    """Seconds of a forward pass that go to memory: weights come once, what blocks leave is written and read.

    It is what makes small models and small micro-batches slow: their products do not hide it.
    """
    if not cluster.memory_gb_per_s:  # measured rates have it in them
        return 0.0
    left = layout.layers(sizes) * layout.micro_batch * seq * block_numbers(sizes.block, seq=seq, tp=layout.tp)
    numbers = layout.parameters(sizes) + 2 * left
    return numbers * ACTIVATION_BYTES[precision] / (cluster.memory_gb_per_s * 1e9)


def _tensor_time(layout: Layout, sizes: Sizes, cluster: Cluster, tokens: int, precision: Precision) -> float:
    """All-reduces of one micro-batch: attention and MLP sum once forward and once backward, forward twice if again.

    Source: Shoeybi et al. 2019, section 3 (arXiv:1909.08053).
    """
    sums = layout.layers(sizes) * 2 * (3 if layout.recompute else 2)
    size = tokens * sizes.block.dim * ACTIVATION_BYTES[precision]
    return sums * all_reduce_time(size, layout.tp, cluster)


def _pipeline_time(
    layout: Layout, sizes: Sizes, cluster: Cluster, tokens: int, precision: Precision
) -> float:
    """Sending states forward and their gradients back, from each chunk to the next."""
    if layout.pp == 1:
        return 0.0
    inside = layout.dp * layout.tp < cluster.devices_per_node and cluster.nodes == 1
    rate = (cluster.node_gb_per_s if inside else cluster.network_gb_per_s) * 1e9 * LINK_SHARE
    return 2 * layout.chunks * tokens * sizes.block.dim * ACTIVATION_BYTES[precision] / rate


def _exchange_time(layout: Layout, sizes: Sizes, cluster: Cluster, precision: Precision) -> float:
    """What copies exchange in a step: one all-reduce of gradients, halves of it more often with ZeRO 2 and 3.

    An all-reduce is a reduce-scatter and an all-gather. Level 1 needs just both; level 2 keeps no whole gradients
    and so reduces after every micro-batch; level 3 gathers weights twice for each: 1.5 times as much for one.

    Source: Rajbhandari et al. 2020, section 7 (arXiv:1910.02054).
    """
    # Autocast keeps float32 weights and gathers their half-precision copies.
    weights = min(STATE_BYTES[precision].weights, 4)
    parameters, count = layout.parameters(sizes), layout.micro_batches

    def half(bytes_each: int) -> float:
        return all_reduce_time(parameters * bytes_each, layout.dp, cluster, apart=layout.tp) / 2

    reduce, gather = half(STATE_BYTES[precision].gradients), half(weights)
    if layout.zero == 0:
        return 2 * reduce
    if layout.zero == 3:
        return count * (reduce + 2 * gather)
    return (count if layout.zero == 2 else 1) * reduce + gather


def _optimizer_time(layout: Layout, sizes: Sizes, cluster: Cluster, precision: Precision) -> float:
    if not cluster.memory_gb_per_s:
        return 0.0
    owners = layout.dp if layout.zero else 1
    touched = 2 * sum(STATE_BYTES[precision]) * layout.parameters(sizes) / owners
    return touched / (cluster.memory_gb_per_s * 1e9)
