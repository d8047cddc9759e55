"""Stage `continual`: one task after another, with an adapter for each, against tuning all weights in turn.

luban continual --model base/final --tasks one.jsonl two.jsonl three.jsonl --out tasks

After every task the held-out answers of all tasks are asked for. An adapter is not touched by later tasks, so what
it knows stays; a model that is tuned as a whole forgets. Each tuning is a run of `luban sft` in a folder of its own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Gt, Lt

from luban.device import DeviceConfig
from luban.errors import ConfigError
from luban.training.config import LoopConfig
from luban.tuning.sft import TuningOptimizer

if TYPE_CHECKING:
    from luban.tokenizers.files import FileTokenizer
    from luban.tuning.forgetting import Known, Pair

Way = Literal["adapters", "full"]
RESULTS, PICTURE = "forgetting.json", "forgetting.png"


@dataclass(frozen=True, kw_only=True)
class Config(DeviceConfig):
    """Learn tasks in their order, and measure what is forgotten."""

    model: Path
    """Model folder to start from."""
    tasks: tuple[Path, ...]
    """A file of conversation or prompt/completion rows for each task, in the order in which they are learnt."""
    out: Path
    """Folder for the tuned models and adapters, forgetting.json and forgetting.png."""
    ways: tuple[Way, ...] = ("adapters", "full")
    """`adapters` learns one for each task on the model as it was; `full` goes on with all weights."""
    validation: Annotated[float, Gt(0), Lt(1)] = 0.2
    """Share of each task's rows that is held out and asked for."""
    peft: Mapping[str, Any] = field(default_factory=dict)
    """The adapters' method, LoRA if none is given, and settings: `peft.method=ia3`, `peft.r=16` (docs/tuning.md)."""
    adapter_learning_rate: Annotated[float, Gt(0)] = 5e-3
    """Peak learning rate of adapters; that of `full` is the optimizer's."""
    optimizer: TuningOptimizer = field(default_factory=TuningOptimizer)
    loop: LoopConfig = field(default_factory=LoopConfig)
    seed: Annotated[int, Ge(0)] = 0
    """Seed of the splits and the data order."""
    max_rows: Annotated[int, Gt(0)] | None = None
    """Use only this many rows of each task, drawn with `seed`."""


def run(config: Config) -> dict[str, Any]:
    """Learn all tasks in each way; returns the matrices and what they come to."""
    from luban import device, folder
    from luban.tokenizers.files import load as load_tokenizer
    from luban.tuning import forgetting

    inputs = [config.model, *config.tasks]
    folder.check_out(config.out, stage="continual", config=config, inputs=inputs)
    place = device.start(config, seed=config.seed)
    tasks = _tasks(config, load_tokenizer(config.model))
    _check_keeps_adapters(config)
    folder.claim(config.out, stage="continual", config=config, inputs=inputs)
    matrices = {way: MATRICES[way](config, tasks, place) for way in config.ways}
    results = {"tasks": list(tasks), "ways": matrices}
    folder.write_json(config.out / RESULTS, results)
    forgetting.draw(matrices, list(tasks), config.out / PICTURE)
    folder.finish(config.out, results)
    return results


def show(results: dict[str, Any]) -> None:
    """The matrices: a row for each stage, a column for each task."""
    from rich.console import Console
    from rich.table import Table

    for way, matrix in results["ways"].items():
        table = Table("held-out answers right", *results["tasks"], title=way)
        table.add_row("before", *(f"{share:.0%}" for share in matrix["before"]))
        for task, row in zip(results["tasks"], matrix["after"], strict=True):
            table.add_row(f"after {task}", *(f"{share:.0%}" for share in row))
        average, transfer = matrix["average_accuracy"], matrix["backward_transfer"]
        table.caption = f"average accuracy {average:.1%}, backward transfer {transfer:+.1%}"
        Console().print(table)


def _tasks(config: Config, tokenizer: FileTokenizer) -> dict[str, list[Pair]]:
    """The held-out rows of each task by its file's name; raises ConfigError where they do not make a sequence."""
    from luban.data.conversations import read_examples
    from luban.data.example_mix import split

    names = [path.name.partition(".")[0] for path in config.tasks]
    if len(set(names)) < len(names) or len(names) < 2:
        what = f"a sequence is two or more tasks in files of different names, not {names}"
        raise ConfigError(what, where="setting 'tasks'")
    if not config.ways or len(set(config.ways)) < len(config.ways):
        raise ConfigError("each way once", where="setting 'ways'", hint="--ways adapters full")
    held_out = {}
    for name, path in zip(names, config.tasks, strict=True):
        examples = read_examples((path,), tokenizer, max_tokens=config.loop.max_length)
        _, held = split(examples, validation=config.validation, seed=config.seed, max_rows=config.max_rows)
        held_out[name] = [examples[number] for number in held]
        if not held_out[name]:
            what = f"of {len(examples)} rows a share of {config.validation} is none"
            raise ConfigError(what, where=path, hint="more rows, or a larger --validation")
    return held_out


def _tuning(config: Config, task: str, model: Path, way: Way) -> Any:
    """The run of `luban sft` that learns `task` on `model`."""
    from luban.tuning import sft

    optimizer = config.optimizer
    if way == "adapters":
        optimizer = dataclasses.replace(optimizer, learning_rate=config.adapter_learning_rate)
    path = next(path for path in config.tasks if path.name.partition(".")[0] == task)
    return sft.Config(
        model=model,
        data=(path,),
        out=config.out / way / task,
        validation=config.validation,
        peft=_method(config) if way == "adapters" else {},
        optimizer=optimizer,
        loop=config.loop,
        seed=config.seed,
        max_rows=config.max_rows,
        device=config.device,
        threads=config.threads,
    )


def _method(config: Config) -> dict[str, Any]:
    return {"method": "lora", **config.peft}


def _check_keeps_adapters(config: Config) -> None:
    """Raise ConfigError for a method that changes the model itself: the next task would not find it as it was."""
    from luban.models import hf
    from luban.tuning.adapted import adapted

    if "adapters" not in config.ways:
        return
    learner = adapted(hf.load(config.model), _method(config), base=config.model)
    if learner is None or learner.merges:
        what = f"'{_method(config)['method']}' with these settings leaves no adapter beside the model"
        raise ConfigError(what, where="setting 'peft'", hint="peft.method=lora, and no peft.merge")


def _learn(config: Config, task: str, model: Path, way: Way) -> Path:
    """Learn `task` on `model` unless that is done; the folder of what came of it."""
    from luban.folder import AlreadyDone
    from luban.tuning import sft

    print(f"continual: {way}, {task}", file=sys.stderr)
    tuning = _tuning(config, task, model, way)
    with contextlib.suppress(AlreadyDone):
        sft.run(tuning)
    return tuning.out / "final"


def _with_adapters(config: Config, tasks: Mapping[str, Sequence[Pair]], place: Any) -> dict[str, Any]:
    """The matrix of one model with an adapter more after each task, which works where its task is asked for."""
    from luban.models import hf
    from luban.nn.surgery import shared
    from luban.peft import files
    from luban.peft.opening import layer_names

    model = hf.load(config.model, device=place)
    names = layer_names(model)
    before = _ask(config, model, tasks)
    after, learnt = [], set[str]()
    for task in tasks:
        files.load(model, _learn(config, task, config.model, "adapters"), names=names, name=task)
        learnt.add(task)
        row = []
        for asked, examples in tasks.items():
            with shared(model, {asked: 1.0} if asked in learnt else {}):
                row += _ask(config, model, {asked: examples})
        after.append(row)
    return _matrix(before, after)


def _in_turn(config: Config, tasks: Mapping[str, Sequence[Pair]], place: Any) -> dict[str, Any]:
    """The matrix of a model all of whose weights go on from task to task."""
    from luban.models import hf

    folder = config.model
    before = _ask(config, hf.load(folder, device=place), tasks)
    after = []
    for task in tasks:
        folder = _learn(config, task, folder, "full")
        after.append(_ask(config, hf.load(folder, device=place), tasks))
    return _matrix(before, after)


MATRICES = {"adapters": _with_adapters, "full": _in_turn}


def _ask(config: Config, model: Any, tasks: Mapping[str, Sequence[Pair]]) -> list[Known]:
    from luban.tuning.forgetting import known

    return [known(model, examples, longest=config.loop.max_length) for examples in tasks.values()]


def _matrix(before: Sequence[Known], after: Sequence[Sequence[Known]]) -> dict[str, Any]:
    """Shares of right answers and what they come to, and the losses beside them."""
    from luban.tuning.forgetting import summary

    right = [one.right for one in before], [[one.right for one in row] for row in after]
    loss = {"before": [one.loss for one in before], "after": [[one.loss for one in row] for row in after]}
    return {"before": right[0], "after": right[1], "loss": loss, **summary(right[1])}
