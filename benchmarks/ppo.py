"""An iteration of PPO and of GRPO, and answers alone: Luban beside TRL and transformers, in turns.

    python -m benchmarks.ppo --peers peers/trl19/bin/python peers/trl/bin/python

The peers' Pythons are made by

    python3 -m venv peers/trl19 && peers/trl19/bin/pip install trl==1.9.2 torch==2.13.0 transformers
    python3 -m venv peers/trl && peers/trl/bin/pip install trl==1.16.0 torch==2.13.0 transformers

TRL 1.9.2 is the last with a PPOTrainer that runs here; 1.16 has GRPO. Policy, reference, reward model and critic have
13.8 million random weights each; an iteration answers 32 prompts of 64 tokens with 64 tokens, and learns once from all
of them, in float32. Each side is a process of its own, and they take turns; without peers only Luban is measured.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from benchmarks.aligned import memory, setting
from benchmarks.tuned.turns import CPU, Side, in_turn, show

RACES: dict[str, tuple[tuple[str, ...], str]] = {
    "ppo": (("luban-ppo-shared", "luban-ppo-separate"), "trl-ppo"),
    "grpo": (("luban-grpo",), "trl-grpo"),
    "generate": (("luban-generate",), "generate"),
}
"""Luban's sides and the peer's."""
MEMORY = "memory"
"""PPO's peak beside its plan."""


def main() -> None:
    """Print each race's rates, ratios and peaks of memory."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    choices = [*RACES, MEMORY]
    parser.add_argument("races", nargs="*", default=choices, help=", ".join(choices))
    parser.add_argument("--peers", nargs=2, default=(None, None), help="Pythons with TRL 1.9.2 and TRL 1.16")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cpu", action="store_true", help="CPU seconds, where others load the machine")
    parser.add_argument("--tiny", action="store_true", help="small models, to try it out")
    told = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        root = Path(made)
        setting.make(root / "setting", tiny=told.tiny)
        for race in told.races:
            if race == MEMORY:
                memory.compare(root / "setting", root / race)
                continue
            ours, peer = RACES[race]
            words = [str(root / "setting"), str(root / race), str(told.threads), *([CPU] if told.cpu else [])]
            sides = [Side("benchmarks.aligned.ours", name, words) for name in ours]
            if python := told.peers[0 if race == "ppo" else 1]:
                sides.append(Side("benchmarks.aligned.theirs", peer, words, python=python))
            found = in_turn(sides, told.rounds)
            for first in ours:
                rest = {name: side for name, side in found.items() if name not in ours}
                show(f"{race}: {first}", {first: found[first], **rest})


if __name__ == "__main__":
    main()
