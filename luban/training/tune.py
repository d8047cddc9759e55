"""What is fastest on this machine, by measuring real training steps: `luban doctor --tune`.

One choice after another is varied while the others stay as found so far, its candidates in turn, round after round,
so that a machine whose speed drifts is the same for all. A candidate must beat what would happen anyway by a margin.
Steps run in processes of their own, because memory settings cannot be taken back.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from luban.machine import Tuned, keep

MARGIN = 1.02
"""How many times faster than the default a candidate has to be."""
CHUNKS = (256, 512, 1024, 2048)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """The training step that is measured."""

    layers: int = 4
    dim: int = 128
    vocab: int = 4096
    rows: int = 8
    length: int = 256
    rounds: int = 5
    """Steps of each candidate; their median counts."""


class Measured(dict[str, dict[str, float]]):
    """Seconds of a step by choice and candidate."""


def tune(cpus: int, *, trial: Trial, compiling: bool, say: Callable[[str], None]) -> tuple[Tuned, Measured]:
    """Measure every choice, write the winners to the user's settings file, and return both.

    `compiling` also compiles the step, which can take a minute.
    """
    best, seconds = Tuned(), Measured()
    with _worker(trial, reuse_memory=True) as kept, _worker(trial, reuse_memory=False) as plain:
        times = _in_turn({"true": lambda: kept.step(best), "false": lambda: plain.step(best)}, trial.rounds)
        seconds["reuse_memory"] = times
        best = dataclasses.replace(best, reuse_memory=_winner(times, default="true") == "true")
        worker = kept if best.reuse_memory else plain
        for name, candidates in _choices(cpus):
            say(f"tune: {name}")
            best = _choose(name, candidates, best, worker, seconds, trial.rounds)
        if best.threads and best.threads < cpus:
            best = _choose("pin", [False, True], best, worker, seconds, trial.rounds)
        if compiling:
            say("tune: compile")
            best = _measure_compile(best, worker, seconds, trial.rounds)
    keep(best)
    return best, seconds


def _choices(cpus: int) -> list[tuple[str, list[Any]]]:
    """Settings and their candidates, the default first."""
    return [
        ("threads", [0, *range(1, cpus)]),
        ("chunk_tokens", [0, *CHUNKS]),
        ("precision", ["float32", "bfloat16"]),
    ]


def _choose(
    name: str, candidates: list[Any], best: Tuned, worker: _Worker, seconds: Measured, rounds: int
) -> Tuned:
    """`best` with the fastest candidate for `name`, or the first one where none is clearly faster."""
    steps = {
        str(each): lambda each=each: worker.step(dataclasses.replace(best, **{name: each}))
        for each in candidates
    }
    seconds[name] = _in_turn(steps, rounds)
    fastest = _winner(seconds[name], default=str(candidates[0]))
    return dataclasses.replace(best, **{name: next(each for each in candidates if str(each) == fastest)})


def _measure_compile(best: Tuned, worker: _Worker, seconds: Measured, rounds: int) -> Tuned:
    took = worker.ask("compile", best)
    times = _in_turn(
        {"false": lambda: worker.step(best), "true": lambda: worker.ask("compiled", best)}, rounds
    )
    seconds["compile"] = times
    return dataclasses.replace(
        best, compile_s=round(took, 1), compile_gain=round(times["false"] / times["true"], 3)
    )


def _in_turn(steps: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """The median seconds of each step, after one of each that does not count."""
    found: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds + 1):
        for name, step in steps.items():
            found[name].append(step())
    return {name: statistics.median(times[1:]) for name, times in found.items()}


def _winner(times: dict[str, float], *, default: str) -> str:
    fastest = min(times, key=lambda name: times[name])
    return fastest if times[default] > MARGIN * times[fastest] else default


class _Worker:
    """A process that does training steps as told and answers with their seconds."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def step(self, settings: Tuned) -> float:
        """Seconds of one eager step under `settings`."""
        return self.ask("eager", settings)

    def ask(self, what: Literal["eager", "compile", "compiled"], settings: Tuned) -> float:
        """Seconds of one step of the kind."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"what": what, "settings": dataclasses.asdict(settings)}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process that measures '{what}' ended with {self.process.wait()}")
        return float(line)


@contextmanager
def _worker(trial: Trial, *, reuse_memory: bool) -> Iterator[_Worker]:
    """A worker that is ended with the block."""
    words = json.dumps({**dataclasses.asdict(trial), "reuse_memory": reuse_memory})
    process = subprocess.Popen(
        [sys.executable, "-m", "luban.training.tune", words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield _Worker(process)
    finally:
        process.kill()
        process.communicate()


def _work(trial: Trial, *, reuse_memory: bool) -> None:
    """Answer each line on stdin, a kind of step and its settings, with the seconds that it took."""
    import torch

    from luban import device
    from luban.models import FAMILIES, hf
    from luban.models.base import Shape
    from luban.training.losses import CHUNK_TOKENS, linear_cross_entropy
    from luban.training.step import Step, compiled_hidden
    from luban.training.trial import random_batch, updater

    if reuse_memory:
        device.reuse_memory()
    torch.manual_seed(0)
    shape = Shape(
        model_type="llama",
        vocab=trial.vocab,
        context=trial.length,
        dim=trial.dim,
        layers=trial.layers,
        eos_id=0,
    )
    model: Any = hf.build(FAMILIES["llama"].config.sized(shape))
    batch = random_batch(trial.vocab, rows=trial.rows, length=trial.length, device=torch.device("cpu"))
    hidden = {"eager": model.hidden}
    asked = {"what": "eager", "settings": Tuned()}

    def objective(model: Any, batch: Any) -> Step:
        settings: Tuned = asked["settings"]
        autocast = torch.autocast("cpu", torch.bfloat16, enabled=settings.precision == "bfloat16")
        with autocast:
            states = hidden[asked["what"]](batch.tokens, batch.positions, model.isolate(batch.documents))
            chunk = settings.chunk_tokens or CHUNK_TOKENS
            loss = linear_cross_entropy(
                states.flatten(0, 1), model.head.weight, batch.targets.flatten(), chunk_tokens=chunk
            )
        return Step(loss, batch.target_count)

    ours = updater(model, objective)
    for line in sys.stdin:
        question = json.loads(line)
        settings = Tuned(**question["settings"])
        if question["what"] == "compile":
            hidden["compiled"] = compiled_hidden(model)
        asked.update(what="eager" if question["what"] == "eager" else "compiled", settings=settings)
        device.use_cpus(settings.threads, pin=settings.pin)
        begun = time.perf_counter()
        ours.update([batch], learning_rate=0.0)
        print(time.perf_counter() - begun, flush=True)


def _main() -> None:
    told = json.loads(sys.argv[1])
    reuse_memory = told.pop("reuse_memory")
    _work(Trial(**told), reuse_memory=reuse_memory)


if __name__ == "__main__":
    _main()
