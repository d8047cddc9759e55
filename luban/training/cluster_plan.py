"""A run on a cluster, before it is run: the layout that takes least time, what it holds, how long, how much energy.

All valid layouts are tried with the cost model of `steptime.py`; of those that fit, the quickest is taken.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, get_args

from luban.training import memory
from luban.training.clusters.cluster import Cluster
from luban.training.layout import Axis, Layout, LayoutConfig, layouts, memory_of, no_layout, nodes_met
from luban.training.memory import Precision
from luban.training.sizes import Sizes
from luban.training.steptime import StepTime, step_time

ALTERNATIVES = 3
"""Layouts shown beside the best one, each with another dp x tp x pp."""

OPTIMAL_TOKENS = 20
"""Tokens per parameter at which a budget of compute gives the lowest loss: Hoffmann et al. 2022 (arXiv:2203.15556)."""

LARGE_BUBBLE = 0.2
"""Waiting over working from which more micro-batches are worth asking for."""

SAME = 0.001
"""By how much speeds may differ and still count as equal: then less of everything is better."""

MOST_TIMES = 64
"""How many times the nodes are looked at, where a model does not fit, to say how many would do."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What is to be trained, and in what steps."""

    sizes: Sizes
    tokens: float
    batch_tokens: float
    seq: int
    precision: Precision = "mixed"

    @property
    def rows(self) -> int:
        """Rows of one step as asked for; a layout takes the nearest number that divides."""
        return max(1, round(self.batch_tokens / self.seq))


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A layout with what it costs."""

    layout: Layout
    step: StepTime
    memory: dict[str, float]
    tokens_per_second: float


def candidates(run: Run, cluster: Cluster, fixed: LayoutConfig) -> list[Candidate]:
    """Every valid layout and its costs; raises ConfigError where there is none."""
    found = []
    for layout in layouts(run.sizes, cluster, fixed=fixed, rows=run.rows):
        step = step_time(layout, run.sizes, cluster, seq=run.seq, precision=run.precision)
        held = memory_of(layout, run.sizes, seq=run.seq, precision=run.precision)
        speed = layout.rows * run.seq / step.total
        found.append(Candidate(layout=layout, step=step, memory=held, tokens_per_second=speed))
    if not found:
        raise no_layout(run.sizes, cluster, fixed=fixed, rows=run.rows)
    return found


def ranked(found: list[Candidate], cluster: Cluster) -> list[Candidate]:
    """The best layout of each dp x tp x pp, quickest first, of those that fit; where none fits, the smallest first."""
    fitting = [one for one in found if one.memory["total"] <= cluster.usable_bytes]
    best: dict[tuple[int, int, int], Candidate] = {}
    for one in sorted(fitting or found, key=_preference if fitting else _size):
        best.setdefault((one.layout.dp, one.layout.tp, one.layout.pp), one)
    return list(best.values())


def _size(one: Candidate) -> tuple[float, ...]:
    return (one.memory["total"],)


def _preference(one: Candidate) -> tuple[float, ...]:
    """Quickest first; of about equal ones the simplest: few stages, nothing twice, little shared out, large batches."""
    speed, layout = round(math.log(one.tokens_per_second) / SAME), one.layout
    return -speed, layout.pp, layout.tp, layout.recompute, layout.zero, layout.chunks, -layout.micro_batch


def forecast(run: Run, cluster: Cluster, fixed: LayoutConfig) -> dict[str, Any]:
    """The plan as plain numbers: bytes, seconds, FLOP, MWh and the cluster's currency."""
    order = ranked(candidates(run, cluster, fixed), cluster)
    best, sizes = order[0], run.sizes
    layout, seconds = best.layout, run.tokens / best.tokens_per_second
    fits = best.memory["total"] <= cluster.usable_bytes
    per_token = sizes.flops(run.seq)
    return {
        "nodes": cluster.nodes,
        "devices": cluster.devices,
        "parameters": sizes.parameters,
        "tokens": run.tokens,
        "flops_per_token": per_token,
        "total_flops": per_token * run.tokens,
        "batch_tokens": layout.rows * run.seq,
        "steps": max(1, round(run.tokens / (layout.rows * run.seq))),
        "step_seconds": best.step.total,
        "seconds": seconds,
        "days": seconds / 86400,
        "tokens_per_second": best.tokens_per_second,
        "mfu": best.tokens_per_second * per_token / cluster.devices / _peak(cluster, run.precision),
        "bubble": best.step.waiting,
        "energy_mwh": energy_mwh(cluster, seconds),
        "cost": cluster.devices * seconds / 3600 * cluster.price_per_hour,
        "gradient_traffic_bytes": gradient_traffic(run, layout),
        "cache_bytes_per_token": memory.cache_bytes(sizes.block, layers=sizes.layers, tokens=1),
        "fits": fits,
        "memory_bytes": best.memory,
        "usable_bytes": cluster.usable_bytes,
        "layout": dataclasses.asdict(layout) | {"schedule": layout.schedule},
        "nodes_met": {axis: nodes_met(layout, axis, cluster) for axis in get_args(Axis)},
        "step": dataclasses.asdict(best.step),
        "alternatives": [_summary(one) for one in order[1 : ALTERNATIVES + 1]],
        "warnings": _warnings(run, cluster, best) + ([] if fits else [remedy(run, cluster, fixed, best)]),
        "settings": _settings(layout, run),
    }


def _peak(cluster: Cluster, precision: Precision) -> float:
    return cluster.peak("float32" if precision == "float32" else "bfloat16")


def energy_mwh(cluster: Cluster, seconds: float) -> float:
    """Megawatt-hours: devices x hours x watts x PUE.

    Source: Touvron et al. 2023, section 6 (arXiv:2302.13971).
    """
    return cluster.devices * seconds / 3600 * cluster.watts * cluster.pue / 1e6


def gradient_traffic(run: Run, layout: Layout) -> float:
    """Bytes of gradients that all copies together make in a step and that must come together."""
    return memory.STATE_BYTES[run.precision].gradients * run.sizes.parameters * layout.dp


def ideal_seconds(
    *, params: float, tokens: float, devices: int, flop_per_s: float, recompute: bool = False
) -> float:
    """The bare formula: 6 FLOPs per parameter and token, 8 where activations are recomputed, at a sustained rate.

    Source: Narayanan et al. 2021, equation 4 (arXiv:2104.04473).
    """
    return (8 if recompute else 6) * params * tokens / (devices * flop_per_s)


def _summary(one: Candidate) -> dict[str, Any]:
    return {
        **dataclasses.asdict(one.layout),
        "step_seconds": one.step.total,
        "tokens_per_second": one.tokens_per_second,
        "memory_bytes": one.memory["total"],
    }


def _warnings(run: Run, cluster: Cluster, best: Candidate) -> list[str]:
    """What the run should be told, in whole sentences."""
    layout, waiting = best.layout, best.step.waiting
    told: list[str] = []
    if layout.tp > cluster.devices_per_node:
        told.append(
            f"layers are shared by {layout.tp} devices, more than the {cluster.devices_per_node} of a node: every "
            "layer waits for the network"
        )
    if waiting > LARGE_BUBBLE:
        more = 4 * layout.pp * layout.dp * layout.micro_batch * run.seq
        told.append(
            f"stages wait {waiting:.0%} as long as they work: the batch is too small for the layout; "
            f"batch_tokens={more} would bring it to {(layout.pp - 1) / (4 * layout.pp * layout.chunks):.0%}"
        )
    if layout.rows != run.rows:
        told.append(
            f"the batch is {layout.rows} rows instead of {run.rows}, so that it divides among the copies"
        )
    per_parameter = run.tokens / run.sizes.parameters
    if not OPTIMAL_TOKENS / 2 <= per_parameter <= OPTIMAL_TOKENS * 2:
        better = (
            "a smaller model on more tokens would be better for the same compute"
            if per_parameter < OPTIMAL_TOKENS
            else "a larger model would reach this loss with less compute; a small one is cheaper to use"
        )
        told.append(
            f"{per_parameter:.3g} tokens per parameter, where about {OPTIMAL_TOKENS} are optimal: {better}"
        )
    return told


def remedy(run: Run, cluster: Cluster, fixed: LayoutConfig, best: Candidate) -> str:
    """One sentence on a model that fits in no layout: by how much, and what would make it fit."""
    needed, usable = best.memory["total"] / 1e9, cluster.usable_bytes / 1e9
    what = f"it does not fit: the smallest layout needs {needed:.4g} GB of a device's usable {usable:.4g} GB"
    if fixed != LayoutConfig():
        free = ranked(candidates(run, cluster, LayoutConfig()), cluster)[0]
        if free.memory["total"] <= cluster.usable_bytes:
            return f"{what}; without the settings of 'layout' it fits"
    times = 2
    while times <= MOST_TIMES:
        larger = dataclasses.replace(cluster, nodes=cluster.nodes * times)
        grown = dataclasses.replace(run, batch_tokens=run.batch_tokens * times)
        found = layouts(run.sizes, larger, fixed=LayoutConfig(), rows=grown.rows)
        if min((_total(one, grown) for one in found), default=math.inf) <= larger.usable_bytes:
            return f"{what}; {larger.nodes} nodes instead of {cluster.nodes} would hold it"
        times *= 2
    return f"{what}; no {MOST_TIMES} times as many nodes would hold it: shorter rows, a smaller model, larger devices"


def _total(layout: Layout, run: Run) -> float:
    return memory_of(layout, run.sizes, seq=run.seq, precision=run.precision)["total"]


def _settings(layout: Layout, run: Run) -> list[str]:
    """The words of `luban pretrain` that ask for this layout."""
    parallel: dict[str, Any] = {"dp": layout.dp, "tp": layout.tp, "pp": layout.pp, "zero": layout.zero}
    if layout.pp > 1:
        parallel["schedule"] = layout.schedule
    if layout.chunks > 1:
        parallel["chunks"] = layout.chunks
    loop: dict[str, Any] = {
        "per_device_train_batch_size": layout.micro_batch,
        "gradient_accumulation_steps": layout.micro_batches,
        "max_length": run.seq,
    }
    if layout.recompute:
        loop["gradient_checkpointing"] = "true"
    words = [f"parallel.{name}={value}" for name, value in parallel.items()]
    return words + [f"loop.{name}={value}" for name, value in loop.items()]
