"""Policies against first come, first served, in simulation: near saturation, pages for a quarter of the seats.

    python benchmarks/scheduling.py [SEEDS]

Every policy meets the same requests on the same simulated machine; figures are medians over seeds, in seconds. The
last column is how many times better than FCFS short answers' p95, TTFT's p99 and the mean completion are.
"""

from __future__ import annotations

import statistics
import sys

from luban.inference.engine.config import POLICIES, PolicyName
from luban.inference.engine.simulate import Arrival, Machine, bursts, mixed_lengths, play, poisson, rate_for

REQUESTS, SEATS, PAGE_SIZE, UTILISATION = 2000, 32, 16, 0.9
FIRST_SEED = 11  # the first level's quantum was chosen on seeds 1 to 3
SHOWN = ("jct_mean", "jct_p95", "ttft_mean", "ttft_p99", "short_jct_p95", "short_blocked")
COMPARED = ("short_jct_p95", "ttft_p99", "jct_mean")


def machine_for(arrivals: list[Arrival]) -> Machine:
    """Room for a quarter of the seats' requests at their mean length, and host memory ten times that."""
    needed = [-(-(one.prompt + one.answer) // PAGE_SIZE) for one in arrivals]
    pages = round(SEATS / 4 * statistics.mean(needed))
    return Machine(pages=pages, page_size=PAGE_SIZE, host_pages=10 * pages, seats=SEATS)


def loads(seed: int) -> tuple[Machine, dict[str, list[Arrival]]]:
    """The machine, and a Poisson and a bursty load at `UTILISATION` of what it carries."""
    base = poisson(REQUESTS, 1.0, mixed_lengths, seed=seed)
    machine = machine_for(base)
    rate = rate_for(UTILISATION, base, machine, together=SEATS / 4)
    return machine, {
        "poisson": poisson(REQUESTS, rate, mixed_lengths, seed=seed),
        "bursts": bursts(REQUESTS, rate, mixed_lengths, seed=seed, size=4),
    }


def main() -> None:
    seeds = range(FIRST_SEED, FIRST_SEED + int(sys.argv[1] if len(sys.argv) > 1 else 5))
    found: dict[tuple[str, PolicyName], list[dict[str, float]]] = {}
    for seed in seeds:
        machine, made = loads(seed)
        for load, arrivals in made.items():
            for name, policy in POLICIES.items():
                played = play(arrivals, policy(machine.profile, machine.seats), machine)
                found.setdefault((load, name), []).append(played.figures(machine))
    print("| load | policy |", " | ".join(SHOWN), "| better than FCFS:", ", ".join(COMPARED), "|")
    print("|---" * (len(SHOWN) + 3) + "|")
    for (load, name), runs in found.items():
        shown = [f"{statistics.median(run[key] for run in runs):.2f}" for key in SHOWN]
        pairs = list(zip(found[load, "fcfs"], runs, strict=True))
        times = [
            f"{statistics.median(one[key] / other[key] for one, other in pairs):.1f}x" for key in COMPARED
        ]
        print(f"| {load} | {name} |", " | ".join(shown), "|", ", ".join(times), "|")


if __name__ == "__main__":
    main()
