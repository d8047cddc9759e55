"""Stage `extend`: a trained model with a longer window, tuned a little on longer rows if there is text for it.

luban extend --model base/final --method yarn --context 1024 --data shards --documents held-out --out long

The rotation, or the learned table of positions, is changed first (`longer`); that alone makes a usable model, and
some hundred steps on rows of the new length a good one. `--documents` measures perplexity against length as the
model was, as it is changed, and as it is tuned.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Gt

from luban.device import DeviceConfig
from luban.errors import ConfigError
from luban.lm import OpenLM
from luban.training.config import LAYOUT, LoopConfig, OptimizerConfig, ParallelConfig

if TYPE_CHECKING:
    import torch

    from luban.data.loader import Loader, Source
    from luban.tokenizers.files import FileTokenizer
    from luban.training.loop import Validate
    from luban.training.parallel.world import World
    from luban.training.step import Objective
    from luban.tuning.adapted import Adapted

BASE = "base"
"""The model with its longer window, not tuned: what an adapter's folder in `final/` stands on."""
CURVES, PICTURE = "lengths.json", "lengths.png"


@dataclass(frozen=True, kw_only=True)
class ExtensionOptimizer(OptimizerConfig):
    """AdamW with smaller steps than a new model takes."""

    learning_rate: Annotated[float, Gt(0)] = 5e-4
    """Peak learning rate."""


@dataclass(frozen=True, kw_only=True)
class ExtensionLoop(LoopConfig):
    """How long to tune, how often to look, when to save."""

    max_steps: Annotated[int, Ge(0)] = 200
    """Optimizer steps of the whole run; 0 counts them from `num_train_epochs`."""
    per_device_train_batch_size: Annotated[int, Ge(1)] = 4
    """Rows in one forward pass."""
    max_length: Annotated[int, Ge(0)] = 0
    """Tokens per row; 0 means the new window."""


@dataclass(frozen=True, kw_only=True)
class Config(DeviceConfig):
    """Give a model a longer window."""

    model: Path
    """Model folder to start from."""
    out: Path
    """Folder for `final/`, perplexity against length, and what training writes."""
    context: Annotated[int, Ge(2)]
    """The new window, in tokens."""
    method: Literal["none", "linear", "ntk", "dynamic", "yarn", "alibi"] = "yarn"
    """LLaMA's family: `linear` (position interpolation), `ntk`, `dynamic` NTK, `yarn`, or `none`, which only declares
    the window; BLOOM: `alibi`, which needs no more; GPT-2: `linear`, on its learned positions."""
    attention_factor: Annotated[float, Gt(0)] | None = None
    """YaRN's temperature: queries and keys grow by this; none means `0.1 ln(context / old context) + 1`."""
    data: tuple[Path, ...] = ()
    """Folders from `luban data shards` to tune on; none tunes nothing."""
    weights: tuple[Annotated[float, Gt(0)], ...] = ()
    """Share of tokens to draw from each `data` folder; none means by size."""
    packing: Literal["pack", "windows"] = "pack"
    """Rows of whole documents that do not see each other, or `windows` over the text as it stands, across documents."""
    validation: Path | None = None
    """Shards of held-out documents; their loss is logged as val/loss."""
    documents: tuple[Path, ...] = ()
    """Held-out documents to measure perplexity against length on."""
    lengths: tuple[Annotated[int, Ge(2)], ...] = ()
    """Lengths of that, in tokens; none doubles the old window up to the new one."""
    tokens: Annotated[int, Ge(2)] = 32768
    """Read about so many tokens of the documents, from their beginning."""
    peft: Mapping[str, Any] = field(default_factory=dict)
    """Tune fewer weights: `peft.method=lora peft.r=8 ...` (docs/tuning.md); `final/` is then an adapter's folder on
    `base/`, the model with its longer window, unless `peft.merge=true` writes one model."""
    optimizer: ExtensionOptimizer = field(default_factory=ExtensionOptimizer)
    loop: ExtensionLoop = field(default_factory=ExtensionLoop)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    seed: Annotated[int, Ge(0)] = 0
    """Seed of the data order."""

    def __post_init__(self) -> None:
        if self.peft and not self.data:
            raise ConfigError("an adapter learns from text", where="setting 'peft'", hint="--data SHARDS")


def run(config: Config, open_lm: OpenLM) -> dict[str, Any]:
    """Write `<out>/final/`; returns its window, what tuning cost, and perplexity by length and state of the model.

    Started by torchrun, each process does its part of the tuning (`config.parallel`).
    """
    from luban import device
    from luban.training.parallel.world import joined

    place = device.start(config, seed=config.seed)
    loop = dataclasses.replace(config.loop, max_length=config.loop.max_length or config.context)
    with joined(config.parallel, place) as world:
        return _run(config, dataclasses.replace(config, loop=loop), open_lm, place, world)


def show(results: dict[str, Any]) -> None:
    """Print perplexity by length as a table, and the other figures."""
    from luban.evaluation.lengths import show as show_curves

    for key, value in results.items():
        if key != "perplexity":
            print(f"{key}: {value}")
    if "perplexity" in results:
        show_curves(results)


def _run(given: Config, config: Config, open_lm: OpenLM, place: torch.device, world: World) -> dict[str, Any]:
    """`given` is the config as the user wrote it, for the record; `config` has the rows' length in it."""
    from luban import folder
    from luban.models import hf
    from luban.tokenizers.files import load as load_tokenizer
    from luban.training.parallel.claim import claim, finish
    from luban.tuning.longer import longer_shape

    inputs = [config.model, *config.data, *config.documents, *filter(None, (config.validation,))]
    folder.check_out(config.out, stage="extend", config=given, inputs=inputs, free=LAYOUT)
    tokenizer = load_tokenizer(config.model)
    old = hf.load_config(config.model)
    shape = longer_shape(old, config.method, config.context, attention_factor=config.attention_factor)
    sources = _sources(config, shape, tokenizer, world)
    lengths = _lengths(config, old.context)
    model, learner = _opened(config, shape, tokenizer, place)
    claim(config.out, world, stage="extend", config=given, inputs=inputs)
    results: dict[str, Any] = {"method": config.method, "context": shape.context, "before": old.context}
    results |= _make(config, model, learner, sources, tokenizer, place, world)
    if config.documents and world.main:
        results["perplexity"] = _curves(config, shape, tokenizer, lengths, open_lm)
    finish(config.out, results, world)
    return results


def _sources(config: Config, shape: Any, tokenizer: FileTokenizer, world: World) -> list[Source]:
    """The text to tune on; raises where it, the new shape and the processes do not fit."""
    from luban.data.shard_sources import shard_sources
    from luban.training.architecture import check_fit
    from luban.training.objectives import check_tokenizer
    from luban.training.run import check_layout

    check_layout(config, shape, world)
    check_fit(shape, tokenizer, max_length=config.loop.max_length)
    check_tokenizer(shape, tokenizer, longest=config.loop.max_length)
    return shard_sources(config.data, tokenizer.vocab_size, config.weights, owner="model")


def _opened(
    config: Config, shape: Any, tokenizer: FileTokenizer, place: torch.device
) -> tuple[Any, Adapted | None]:
    """The model with its new window and what of it is tuned; raises for an adapter that does not fit."""
    from luban.models import hf
    from luban.training.architecture import check_fit
    from luban.tuning.adapted import adapted
    from luban.tuning.longer import lengthened

    model = lengthened(hf.load(config.model), shape).to(place)
    learner = adapted(model, config.peft, base=config.out / BASE, parallel=config.parallel)
    if learner is not None:
        check_fit(shape, tokenizer, max_length=config.loop.max_length + learner.adapter.places)
    return model, learner


def _make(
    config: Config,
    model: Any,
    learner: Adapted | None,
    sources: list[Source],
    tokenizer: FileTokenizer,
    place: torch.device,
    world: World,
) -> dict[str, Any]:
    """Write `final/`, tuned if there is text; returns what tuning cost."""
    from luban.training.objectives import objective_for
    from luban.training.run import train

    if not sources:
        if world.main:
            _write(config.out / "final", model, tokenizer)
        return {}
    if learner is not None and world.main:
        print(f"extend: {learner.told()}", file=sys.stderr)
        if not learner.merges:
            _write_base(config, model.config, tokenizer)
    made = train(
        config,
        title="extend",
        model=model,
        tokenizer=tokenizer,
        loader=lambda epochs: _loader(config, sources, world, epochs=epochs),
        objective=lambda model, compiles: objective_for(model, tokenizer, compiled=compiles),
        validation=lambda model, asked: _validation(config, model, asked, tokenizer, world),
        learner=learner,
        world=world,
        device=place,
    )
    return made if learner is None else {**made, **learner.counts()}


def _write_base(config: Config, shape: Any, tokenizer: FileTokenizer) -> None:
    """Write what the adapter stands on, unless a run that was stopped has written it."""
    from luban.models import hf
    from luban.tuning.longer import lengthened

    if not (config.out / BASE).exists():
        _write(config.out / BASE, lengthened(hf.load(config.model), shape), tokenizer)


def _write(folder: Path, model: Any, tokenizer: FileTokenizer) -> None:
    from luban.folder import atomic_folder
    from luban.training.checkpoint import write_model_folder

    with atomic_folder(folder) as work:
        write_model_folder(work, model, tokenizer)


def _loader(config: Config, sources: list[Source], world: World, *, epochs: int | None) -> Loader:
    from luban.training.rows import rows

    return rows(config, sources, world, epochs=epochs, packing=config.packing)


def _validation(
    config: Config, model: Any, objective: Objective, tokenizer: FileTokenizer, world: World
) -> Validate:
    from luban.data.shard_sources import shard_sources
    from luban.training.validate import held_out_loss

    if config.validation is None:
        return dict
    held_out = shard_sources([config.validation], tokenizer.vocab_size, owner="model")
    loader = _loader(config, held_out, world, epochs=1)
    return held_out_loss(model, loader, objective, batches=config.loop.eval_batches, world=world)


def _lengths(config: Config, before: int) -> tuple[int, ...]:
    """The lengths to measure at, the new window the last if none are given; raises for one beyond it."""
    if any(length > config.context for length in config.lengths):
        what = f"{max(config.lengths)} tokens are more than the new window of {config.context}"
        raise ConfigError(what, where="setting 'lengths'")
    if config.lengths:
        return config.lengths
    doubled = [before]
    while doubled[-1] * 2 < config.context:
        doubled.append(doubled[-1] * 2)
    return (*doubled, config.context)


def _curves(
    config: Config, shape: Any, tokenizer: FileTokenizer, lengths: tuple[int, ...], open_lm: OpenLM
) -> dict[str, dict[int, float]]:
    """Perplexity by length of the model in each of its states, also as lengths.json and a picture."""
    from luban.evaluation import lengths as measuring
    from luban.folder import write_json

    text = measuring.read_text(config.documents)
    curves = {}
    with _states(config, shape, tokenizer) as states:
        for state, folder in states.items():
            print(f"extend: perplexity, {state}", file=sys.stderr)
            curves[state] = measuring.perplexities(
                open_lm(str(folder)), tokenizer, text, lengths, tokens=config.tokens
            )
    write_json(config.out / CURVES, {"perplexity": curves})
    measuring.draw(curves, config.out / PICTURE)
    return curves


@contextlib.contextmanager
def _states(config: Config, shape: Any, tokenizer: FileTokenizer) -> Iterator[dict[str, Path]]:
    """Model folders: in its old window, the new window only declared, changed, tuned; those that there are."""
    from luban.models import hf
    from luban.tuning.longer import WAYS, lengthened, longer_shape

    old = hf.load_config(config.model)
    shapes = {}
    if "none" in WAYS[type(shape)] and config.method != "none":
        shapes["only declared longer"] = longer_shape(old, "none", config.context)
    if config.data:
        shapes[config.method] = shape
    with tempfile.TemporaryDirectory() as made:
        found = {f"in its window of {old.context}": config.model}
        for state, its_shape in shapes.items():
            found[state] = Path(made) / state
            _write(found[state], lengthened(hf.load(config.model), its_shape), tokenizer)
        yield {**found, f"{config.method}, tuned" if config.data else config.method: config.out / "final"}
