"""Ten thousand mixed requests against the server, each compared with the answer that it gets alone.

    python benchmarks/serve_soak.py [REQUESTS]

A tiny model with too few pages; among the requests are some whose callers hang up, prompts beyond the window, broken
JSON and fields that do not exist. Told: what came of them, the engine's counts, and the process's memory over time.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from tests.serving.mixed import ask_all, make
from tests.serving.running import running

AT_ONCE = 32
SETTINGS = {"pages": 20, "seats": 8, "host_pages": 24, "policy": "mlfq"}
MB = 1 << 20


def memory_mb() -> float:
    """What this process holds."""
    fields = Path("/proc/self/statm").read_text(encoding="utf-8").split()
    return int(fields[1]) * 4096 / MB


def notes(requests: int) -> Callable[[int], None]:
    """Called after each request: prints the memory ten times in all."""
    done = [0]

    def note(_number: int) -> None:
        done[0] += 1
        if done[0] % max(1, requests // 10) == 0:
            print(f"{done[0]} requests: {memory_mb():.0f} MB", flush=True)

    return note


def main() -> None:
    requests = int(sys.argv[1] if len(sys.argv) > 1 else 10_000)
    torch.set_num_threads(1)
    generator = random.Random(1)
    asks = [make(generator) for _ in range(requests)]
    began, used = time.perf_counter(), time.process_time()
    with running(**SETTINGS) as server:
        report = asyncio.run(ask_all(server.url, asks, at_once=AT_ONCE, tell=notes(requests)))
        stats = server.served.engine.stats()
    for kind, count in sorted(report.kinds.items()):
        print(f"{count:6} {kind}")
    print(f"{len(report.wrong)} wrong", *report.wrong[:5], sep="\n")
    print(stats)
    print(f"{time.perf_counter() - began:.0f} s, {time.process_time() - used:.0f} s of CPU, client included")
    sys.exit(bool(report.wrong))


if __name__ == "__main__":
    main()
