"""Tuning fewer weights: Luban beside peft and transformers' Trainer on this machine, and its methods beside each other.

    python -m benchmarks.peft step    [--sizes m real s tiny] [--rounds 5] a LoRA step: speed, memory
    python -m benchmarks.peft packing [--texts 64] [--rounds 5]            packed rows beside padded ones
    python -m benchmarks.peft memory  [--sizes m s tiny]                   LoRA and QLoRA: planned, and taken
    python -m benchmarks.peft methods [--steps 60] [--methods lora ia3]    every method on one task; the table of
                                      [--train 800] [--test 300] [--write] docs/tuning.md
    python -m benchmarks.peft rates [--write]                              their speed and memory again, quiet

`--threads 1 --cpu` counts CPU seconds, which say more on a busy machine. To be run from the repository's root: as a
script it would stand where Python looks for the library `peft`. Needs `pip install peft transformers accelerate`.
"""

from __future__ import annotations

import argparse

from benchmarks.tuned import lora_step, memory, methods, packing, turns


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("comparison", choices=list(COMPARISONS))
    parser.add_argument("--sizes", nargs="+", choices=lora_step.SIZES, default=["m", "real"])
    parser.add_argument("--sides", nargs="+")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cpu", action="store_true", help="CPU seconds, for --threads 1 on a busy machine")
    parser.add_argument("--texts", type=int, default=64)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--methods", nargs="+", choices=list(methods.WAYS))
    parser.add_argument("--train", type=int, default=800, help="labelled sentences to learn from")
    parser.add_argument("--test", type=int, default=300, help="others to be judged by")
    parser.add_argument("--model", help="a model folder in SmolLM2-135M's place")
    parser.add_argument("--out", default="runs/benchmarks/peft")
    parser.add_argument("--write", action="store_true", help="put the table into docs/tuning.md")
    options = parser.parse_args()
    COMPARISONS[options.comparison](options)


def step(options: argparse.Namespace) -> None:
    """A LoRA step of each side in turn, size by size."""
    for size in options.sizes:
        words = [size, str(options.threads), *([turns.CPU] if options.cpu else [])]
        sides = options.sides or lora_step.SIDES
        turns.show(size, turns.compare("benchmarks.tuned.lora_step", sides, words, options.rounds))


def pack(options: argparse.Namespace) -> None:
    """The same texts once through, each side in turn."""
    words = [str(options.texts), str(options.threads), *([turns.CPU] if options.cpu else [])]
    sides = options.sides or packing.SIDES
    title = f"{options.texts} texts"
    turns.show(title, turns.compare("benchmarks.tuned.packing", sides, words, options.rounds))


def planned(options: argparse.Namespace) -> None:
    """Memory of each method, of shapes whose weights are random."""
    for size in options.sizes:
        if size in lora_step.SHAPES:
            memory.compare(size)


COMPARISONS = {
    "step": step,
    "packing": pack,
    "memory": planned,
    "methods": methods.run,
    "rates": methods.rates,
}


if __name__ == "__main__":
    main()
