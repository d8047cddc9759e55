"""Stage `dist server`: a model trained by a parameter server, to see what staleness does.

The loop of `luban pretrain` on copies (all-reduce) is the better way on equal machines; a server lets unequal ones
go at their own pace, and pays for it with gradients of parameters that have moved on meanwhile.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge

from luban.errors import ConfigError
from luban.training.architecture import ArchitectureConfig
from luban.training.config import OptimizerConfig

if TYPE_CHECKING:
    from luban.training.parallel.scheduler import Crew, Push
    from luban.training.parallel.server import Worker

TAIL = 0.25
"""Share of the pushes, the last ones, whose mean loss is told as the run's."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Train a base model by a parameter server, on CPUs."""

    data: tuple[Path, ...]
    """Folders from `luban data shards`."""
    tokenizer: Path
    """Folder of the tokenizer the shards were made with."""
    out: Path
    """Folder for the log and `final/`."""
    mode: Literal["sync", "async"] = "sync"
    """`sync` steps when all workers have pushed, as all-reduce would; `async` on each push, as it comes."""
    workers: Annotated[int, Ge(1)] = 2
    """Processes that compute gradients, each on rows of its own."""
    servers: Annotated[int, Ge(1)] = 2
    """Processes that hold the parameters, each its share."""
    bound: Annotated[int, Ge(0)] | None = None
    """With `async`: a worker waits while it is more than this many pushes ahead of the slowest; none never waits."""
    slow_down: bool = False
    """With `async`: divide a push's learning rate by 1 + its staleness."""
    engine: Literal["ray", "embedded"] = "ray"
    """Real processes (the extra `scale`; RAY_ADDRESS names a cluster), or this one with a made-up clock."""
    delays: tuple[Annotated[float, Ge(0)], ...] = ()
    """Seconds by which each worker's turn is longer, to see what stragglers do; none means no delay."""
    pushes: Annotated[int, Ge(1)] = 400
    """Gradients in all, over all workers."""
    architecture: ArchitectureConfig = field(default_factory=ArchitectureConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    per_device_train_batch_size: Annotated[int, Ge(1)] = 8
    """Rows in one gradient of a worker."""
    max_length: Annotated[int, Ge(2)] = 256
    """Tokens per row."""
    logging_steps: Annotated[int, Ge(1)] = 10
    """Pushes between lines of log.jsonl."""
    seed: Annotated[int, Ge(0)] = 0
    """Seed of weights and data order."""
    threads: Annotated[int, Ge(0)] = 0
    """CPU threads for one operation where the engine is `embedded`, 0 for all; on Ray each worker has one."""

    @property
    def updates(self) -> int:
        """Steps of the optimizer."""
        return self.pushes if self.mode == "async" else self.pushes // self.workers


def run(config: Config) -> dict[str, Any]:
    """Train and write `<out>/final/`; returns the last pushes' mean loss, and how often each staleness was met."""
    from luban import device, folder
    from luban.data.shard_sources import shard_sources
    from luban.training import checkpoint
    from luban.training.metrics import Log, save_curves
    from luban.training.parallel.scheduler import asynchronous, synchronous
    from luban.training.parallel.server import take_over

    check(config)
    tokenizer, model = _made(config)
    shard_sources(config.data, tokenizer.vocab_size)  # raises where they were made with another tokenizer
    out = folder.claim(
        config.out, stage="dist server", config=config, inputs=[*config.data, config.tokenizer]
    )
    device.start(device.DeviceConfig(device="cpu", threads=config.threads), seed=config.seed)
    limit = config.optimizer.max_grad_norm
    with _crew(config, model) as crew:
        if config.mode == "sync":
            pushes = synchronous(crew, config.updates, max_grad_norm=limit)
        else:
            pushes = asynchronous(crew, config.pushes, max_grad_norm=limit, bound=config.bound)
        story = _told(pushes, config, Log(out, resumed_at=0))
        take_over(model, crew.pull())
    with folder.atomic_folder(out / "final") as work:
        checkpoint.write_model_folder(work, model, tokenizer)
    save_curves(out)
    results = _results(story)
    folder.finish(out, results)
    return results


def check(config: Config) -> None:
    """Raise ConfigError where settings contradict each other."""
    if config.mode == "sync" and (config.bound is not None or config.slow_down):
        name = "slow_down" if config.slow_down else "bound"
        raise ConfigError("nothing is stale where all wait", where=f"setting '{name}'", hint="--mode async")
    if config.delays and len(config.delays) != config.workers:
        what = f"{len(config.delays)} delays for {config.workers} workers"
        raise ConfigError(what, where="setting 'delays'", hint="give one per worker")
    if config.mode == "sync" and config.pushes % config.workers:
        what = f"{config.pushes} pushes do not make whole rounds of {config.workers} workers"
        raise ConfigError(what, where="setting 'pushes'")


def _made(config: Config) -> tuple[Any, Any]:
    """The tokenizer and a new model, the same for all who call it."""
    import torch

    from luban.models import FAMILIES, hf
    from luban.tokenizers.files import load
    from luban.training.architecture import new_config
    from luban.training.objectives import check_tokenizer

    tokenizer = load(config.tokenizer)
    ids = {"bos_id": tokenizer.bos_id, "eos_id": tokenizer.eos_id, "pad_id": tokenizer.pad_id}
    shape = new_config(config.architecture, vocab=tokenizer.vocab_size, context=config.max_length, **ids)
    check_tokenizer(shape, tokenizer, longest=config.max_length)
    if FAMILIES[shape.model_type].kind == "counted":
        what = f"a '{shape.model_type}' is counted and has no gradients to push"
        raise ConfigError(what, where="setting 'architecture.model_type'", hint="luban pretrain")
    torch.manual_seed(config.seed)
    return tokenizer, hf.build(shape)


def made_worker(config: Config, number: int) -> Worker:
    """Worker `number` with its copy of the model and its share of the rows, where it is called."""
    from luban.training.objectives import objective_for
    from luban.training.parallel.server import Worker

    tokenizer, model = _made(config)
    objective = objective_for(model, tokenizer, compiled=False)
    return Worker(model, objective, _batches(config, number, tokenizer.vocab_size), servers=config.servers)


def _batches(config: Config, number: int, vocab: int) -> Iterator[Any]:
    from luban.data.loader import Loader
    from luban.data.shard_sources import shard_sources

    sources = shard_sources(config.data, vocab)
    loader = Loader(
        sources,
        batch=config.per_device_train_batch_size,
        context=config.max_length,
        seed=config.seed,
        rank=number,
        world=config.workers,
    )
    return iter(loader)


@contextmanager
def _crew(config: Config, model: Any) -> Iterator[Crew]:
    """The shards and workers, wherever `engine` has them; they end with the block."""
    from luban.training.parallel.crews import Embedded, OnRay
    from luban.training.parallel.server import Rules, Shard, parts_of

    parts = [[parameter.detach() for parameter in part] for part in parts_of(model, config.servers)]
    rules = Rules(optimizer=config.optimizer, updates=config.updates, slow_down=config.slow_down)
    makers = [partial(made_worker, config, number) for number in range(config.workers)]
    delays = config.delays or (0.0,) * config.workers
    if config.engine == "embedded":
        shards = [Shard(part, rules) for part in parts]
        yield Embedded(shards, [make() for make in makers], [1.0 + delay for delay in delays])
        return
    with closing(OnRay(parts, rules, makers, delays)) as crew:
        yield crew


def _told(pushes: Iterator[Push], config: Config, log: Any) -> list[Push]:
    """All pushes, logged as they come."""
    from luban.training.metrics import Bar
    from luban.training.optim import learning_rate_at

    story: list[Push] = []
    with Bar("dist server", total=config.pushes, done=0) as bar:
        for count, push in enumerate(pushes, 1):
            story.append(push)
            bar.step(count)
            if count % config.logging_steps and count < config.pushes:
                continue
            update = count if config.mode == "async" else count // config.workers
            recent = story[-config.logging_steps :]
            values = {
                "train/loss": sum(one.loss for one in recent) / len(recent),
                "train/lr": learning_rate_at(max(0, update - 1), config.updates, config.optimizer),
                "train/staleness": _histogram(recent),
            }
            log.write(count, values)
            bar.report(count, values)
    return story


def _histogram(pushes: list[Push]) -> dict[str, int]:
    """How often each staleness was met."""
    return {
        str(staleness): count for staleness, count in sorted(Counter(p.staleness for p in pushes).items())
    }


def _results(story: list[Push]) -> dict[str, Any]:
    last = story[-max(1, round(len(story) * TAIL)) :]
    return {
        "loss": sum(push.loss for push in last) / len(last),
        "staleness": sum(push.staleness for push in story) / len(story),
        "staleness_counts": _histogram(story),
        "pushes": dict(sorted(Counter(f"worker {push.worker}" for push in story).items())),
    }
