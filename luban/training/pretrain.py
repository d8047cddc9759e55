"""Stage `pretrain`: token shards to a base model.

Rows are packed from whole shuffled documents that do not see each other; the loss is over every token.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Le

from luban.device import DeviceConfig
from luban.errors import ConfigError
from luban.folder import write_text
from luban.lm import OpenLM, Sampling
from luban.training.architecture import ArchitectureConfig, family_named
from luban.training.config import LoopConfig, OptimizerConfig, ParallelConfig
from luban.training.counting import CountingConfig

if TYPE_CHECKING:
    import torch

    from luban.data.loader import Loader, Source
    from luban.tokenizers.files import FileTokenizer
    from luban.training.loop import Sample, Validate
    from luban.training.parallel.world import World
    from luban.training.step import Objective


@dataclass(frozen=True, kw_only=True)
class Config(DeviceConfig):
    """Train a base model on token shards."""

    data: tuple[Path, ...]
    """Folders from `luban data shards`."""
    tokenizer: Path
    """Folder of the tokenizer the shards were made with."""
    out: Path
    """Folder for checkpoints, log, curves and `final/`."""
    weights: tuple[float, ...] = ()
    """Share of tokens to draw from each `data` folder; none means by size."""
    validation: Path | None = None
    """Shards of held-out documents; their loss and bits per byte are logged as val/loss and val/bpb."""
    model: Path | None = None
    """Go on from this model folder; or the name of a family (`luban models`), for a new model of `architecture`."""
    architecture: ArchitectureConfig = field(default_factory=ArchitectureConfig)
    packing: Literal["pack", "windows"] = "pack"
    """`pack` fills rows with whole shuffled documents; `windows` slides over the token stream by `stride`."""
    stride: Annotated[int, Ge(0)] = 0
    """Tokens between the starts of two windows; 0 means no overlap."""
    free_running: Annotated[float, Ge(0), Le(1)] = 0.0
    """Share of tokens that training reads as the model wrote them (scheduled sampling); 0 is teacher forcing."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    counting: CountingConfig = field(default_factory=CountingConfig)
    prompts: tuple[str, ...] = ()
    """Continue these as training goes on, and write samples.jsonl."""
    sample_steps: Annotated[int, Ge(0)] = 0
    """Steps between these samples; 0 takes them at the start, in the middle and at the end."""
    seed: Annotated[int, Ge(0)] = 0
    """Seed of weights, data order and sampling."""


def run(config: Config, open_lm: OpenLM) -> dict[str, Any]:
    """Train and write `<out>/final/`; returns the last validation, tokens, seconds, steps and parameters.

    Started by torchrun, each process does its part (`config.parallel`) and returns the same.
    """
    from luban import device
    from luban.training.parallel.world import joined

    place = device.start(config, seed=config.seed)
    with joined(config.parallel, place) as world:
        return _run(family_named(config), open_lm, place, world)


def _run(config: Config, open_lm: OpenLM, place: torch.device, world: World) -> dict[str, Any]:
    from luban.data.shard_sources import shard_sources
    from luban.models import FAMILIES
    from luban.tokenizers.files import load as load_tokenizer
    from luban.training import counting
    from luban.training.objectives import check_tokenizer
    from luban.training.parallel.claim import claim, finish
    from luban.training.run import check_layout

    tokenizer = load_tokenizer(config.tokenizer)
    sources = shard_sources(config.data, tokenizer.vocab_size, config.weights)
    shape = _shape(config, tokenizer)
    check_tokenizer(shape, tokenizer, longest=config.loop.max_length)
    kind = FAMILIES[shape.model_type].kind
    _check_free_running(config, kind=kind)
    check_layout(config, shape, world)
    if kind == "counted":
        counting.check(config, processes=world.size)
    claim(config.out, world, stage="pretrain", config=config, inputs=_inputs(config))
    if kind == "counted":
        results = _count(config, shape, sources, tokenizer, open_lm)
    else:
        results = _train(config, shape, sources, tokenizer, open_lm, place, world)
    finish(config.out, results, world)
    return results


def _train(
    config: Config,
    shape: Any,
    sources: list[Source],
    tokenizer: FileTokenizer,
    open_lm: OpenLM,
    place: torch.device,
    world: World,
) -> dict[str, Any]:
    """What `_run` does with a family that learns by gradients."""
    from luban.models import hf
    from luban.models.base import parameter_count
    from luban.training.free_running import free_running
    from luban.training.objectives import objective_for
    from luban.training.run import train

    model = (hf.load(config.model) if config.model else hf.build(shape)).to(place)
    parameters = parameter_count(model)
    results = train(
        config,
        title="pretrain",
        model=model,
        tokenizer=tokenizer,
        loader=lambda epochs: _loader(config, sources, world, epochs=epochs),
        objective=lambda model, compiles: objective_for(model, tokenizer, compiled=compiles),
        learnt=lambda asked: free_running(config.free_running, asked) if config.free_running else asked,
        validation=lambda model, asked: _validation(config, model, asked, tokenizer, world),
        sample=_sampler(config, open_lm),
        sample_steps=lambda steps: _sample_steps(config, steps),
        world=world,
        device=place,
    )
    return {**results, "parameters": parameters}


def _inputs(config: Config) -> list[Path]:
    optional = (config.validation, config.model, config.counting.from_arpa)
    return [*config.data, config.tokenizer, *filter(None, optional)]


def _check_free_running(config: Config, *, kind: str) -> None:
    """Raise ConfigError where a model cannot read on in its own words."""
    if config.free_running and kind != "causal":
        raise ConfigError(f"'{kind}' models do not read what they write", where="setting 'free_running'")
    if config.free_running and config.parallel.pp > 1:
        what = f"a pipeline reads whole rows, and free_running={config.free_running} token by token"
        raise ConfigError(what, where="setting 'parallel.pp'")


def _count(
    config: Config, shape: Any, sources: list[Source], tokenizer: FileTokenizer, open_lm: OpenLM
) -> dict[str, Any]:
    """What `run` does with a family that is counted instead of trained."""
    from luban.training import counting
    from luban.training.objectives import objective_for
    from luban.training.parallel.world import ALONE

    def validate(model: Any) -> dict[str, float]:
        objective = objective_for(model, tokenizer, compiled=False)
        return _validation(config, model, objective, tokenizer, ALONE)()

    shards: Any = [source.examples for source in sources]
    results = counting.run(config.counting, shape, shards, tokenizer, config.out, validate=validate)
    if config.prompts:
        print(_sampler(config, open_lm)(0, config.out / "final"), file=sys.stderr)
    return results


def _loader(config: Config, sources: list[Source], world: World, *, epochs: int | None) -> Loader:
    from luban.training.rows import rows

    layout = {"packing": config.packing, "stride": config.stride or None}
    return rows(config, sources, world, epochs=epochs, **layout)


def _validation(
    config: Config, model: Any, objective: Objective, tokenizer: FileTokenizer, world: World
) -> Validate:
    from luban.data.loader import Source
    from luban.data.shard_sources import open_shards
    from luban.models import FAMILIES
    from luban.training.validate import held_out_loss

    if config.validation is None:
        return dict
    every_token = FAMILIES[model.config.model_type].kind in (
        "causal",
        "counted",
    )  # else the loss is of some only
    shards = open_shards(config.validation, tokenizer.vocab_size)
    held_out = [Source(examples=shards, weight=1.0, name=str(config.validation))]
    loader = _loader(config, held_out, world, epochs=1)
    return held_out_loss(
        model,
        loader,
        objective,
        batches=config.loop.eval_batches,
        tokens_per_byte=shards.targets / shards.bytes if every_token else None,
        world=world,
    )


def _shape(config: Config, tokenizer: FileTokenizer) -> Any:
    """The family config of the model to train; raises before anything is made if its numbers do not fit."""
    from luban.models import hf
    from luban.training.architecture import check_fit, new_config

    length = config.loop.max_length
    if config.model is not None:
        shape = hf.load_config(config.model)
        check_fit(shape, tokenizer, max_length=length)
        return shape
    ids = {"bos_id": tokenizer.bos_id, "eos_id": tokenizer.eos_id, "pad_id": tokenizer.pad_id}
    shape = new_config(config.architecture, vocab=tokenizer.vocab_size, context=length, **ids)
    check_fit(shape, tokenizer, max_length=length)
    return shape


def _sample_steps(config: Config, steps: int) -> frozenset[int]:
    """After which steps of the run the prompts are continued."""
    if not config.prompts:
        return frozenset()
    every = config.sample_steps
    return frozenset(range(0, steps + 1, every) if every else (0, steps // 2, steps))


def _sampler(config: Config, open_lm: OpenLM) -> Sample:
    """Continue the prompts with the checkpoint just written, through the engine that will serve it."""
    sampling = Sampling(max_tokens=48, temperature=0.8, top_k=50, seed=config.seed)
    path = config.out / "samples.jsonl"

    def sample(step: int, checkpoint: Path) -> str:
        told = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        if any(json.loads(line)["step"] == step for line in told):
            return ""  # a run that was killed right after this sample
        answers = open_lm(str(checkpoint)).generate(config.prompts, sampling)
        rows = [
            {"step": step, "prompt": p, "text": a.text} for p, a in zip(config.prompts, answers, strict=True)
        ]
        lines = [*told, *(json.dumps(row, ensure_ascii=False) for row in rows)]
        write_text(path, "".join(f"{line}\n" for line in lines))
        return "\n".join(f"step {row['step']}: {row['prompt']} ▸{row['text']}" for row in rows)

    return sample
