"""Time and memory of each kind of attention against the length of the text.

    python benchmarks/attention.py [KIND ...] [--longest 8192] [--rounds 3]

Forward and backward pass of one causal layer (1 row, 2 heads of 64), one thread. Each kind has a process of its
own; time is CPU time, the median of the rounds; memory is how far the process grew over what it held before (its
high-water mark, reset before each pass). Prints a table.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from luban.nn.flash import flash_attention
from luban.nn.lowrank import favor_attention, orthogonal_features
from luban.nn.lsh import lsh_attention
from luban.nn.routing import Routing
from luban.nn.sparse import bigbird, blocks_of, longformer, sparse_attention

HEADS, HEAD_DIM, BLOCK = 2, 64, 64
SHORTEST = 256
Kind = Callable[[Tensor, Tensor, Tensor], Tensor]


def dense(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The definition: the whole square."""
    ahead = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool).triu(1)
    return (q @ k.mT / math.sqrt(HEAD_DIM)).masked_fill(ahead, -torch.inf).softmax(-1) @ v


def kernel(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """PyTorch's own, FlashAttention in C++."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def flash(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The same algorithm in plain PyTorch."""
    return flash_attention(q, k, v, causal=True, tile=256)


def banded(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Longformer: each block of 64 sees the two before it and the first."""
    pattern = longformer(blocks_of(q.shape[2], BLOCK), window=5, count=1)
    return sparse_attention(q, k, v, pattern, block=BLOCK, causal=True)


def banded_and_random(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """BigBird: and two random ones."""
    pattern = bigbird(blocks_of(q.shape[2], BLOCK), window=5, count=1, random=2)
    return sparse_attention(q, k, v, pattern, block=BLOCK, causal=True)


def hashed(q: Tensor, k: Tensor, v: Tensor) -> Tensor:  # noqa: ARG001 - queries are the keys
    """Reformer: chunks of 64, two rounds, about one bucket a chunk."""
    return lsh_attention(q, v, buckets=2 * -(-q.shape[2] // 128), chunk=64, rounds=2, causal=True)


def routed(q: Tensor, k: Tensor, v: Tensor) -> Tensor:  # noqa: ARG001 - queries are the keys
    """Routing Transformer: sqrt(seq) clusters of sqrt(seq)."""
    clusters = 2 ** round(math.log2(q.shape[2]) / 2)
    layer = Routing(heads=HEADS, head_dim=HEAD_DIM, clusters=clusters, top=q.shape[2] // clusters)
    return layer(q, q, v, causal=True)


def random_features(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Performer: 128 features."""
    return favor_attention(q, k, v, orthogonal_features(128, HEAD_DIM), causal=True)


KINDS: dict[str, Kind] = {
    "dense": dense,
    "PyTorch's kernel": kernel,
    "flash, written out": flash,
    "Longformer": banded,
    "BigBird": banded_and_random,
    "Reformer": hashed,
    "Routing": routed,
    "Performer": random_features,
}


def measure(kind: str, lengths: list[int], rounds: int) -> list[tuple[float, float]]:
    """For each length: CPU milliseconds of forward and backward, and megabytes on top of the inputs."""
    torch.set_num_threads(1)
    _one_pass(kind, SHORTEST)  # imports and first allocations
    return [_measure_length(kind, seq, rounds) for seq in lengths]


def _measure_length(kind: str, seq: int, rounds: int) -> tuple[float, float]:
    seconds, grown = [], []
    for _ in range(rounds):
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the high-water mark starts anew
        before = _status("VmHWM")
        seconds.append(_one_pass(kind, seq))
        grown.append(_status("VmHWM") - before)
    return 1e3 * statistics.median(seconds), statistics.median(grown)


def _one_pass(kind: str, seq: int) -> float:
    q, k, v = (torch.randn(1, HEADS, seq, HEAD_DIM, requires_grad=True) for _ in range(3))
    begun = time.process_time()
    KINDS[kind](q, k, v).sum().backward()
    return time.process_time() - begun


def _status(name: str) -> float:
    """A line of this process's status, in MB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))


def table(results: dict[str, list[tuple[float, float]]], lengths: list[int]) -> str:
    """Markdown: a row per kind, in each cell milliseconds and megabytes."""
    lines = [f"| ms, MB | {' | '.join(map(str, lengths))} |", f"|---|{'---|' * len(lengths)}"]
    for kind, cells in results.items():
        lines.append(f"| {kind} | {' | '.join(f'{ms:,.0f}, {mb:,.0f}' for ms, mb in cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--longest", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    lengths = [SHORTEST * 2**power for power in range((options.longest // SHORTEST).bit_length())]
    kinds = options.kinds or list(KINDS)
    if options.child:
        print(json.dumps(measure(kinds[0], lengths, options.rounds)))
        return
    results = {}
    for kind in kinds:
        words = [
            __file__,
            kind,
            "--longest",
            str(options.longest),
            "--rounds",
            str(options.rounds),
            "--child",
        ]
        results[kind] = json.loads(subprocess.check_output([sys.executable, *words], text=True))
        print(f"{kind}: done", file=sys.stderr)
    print(table(results, lengths))


if __name__ == "__main__":
    main()
