"""Stage `sft`: a base model and conversation rows to an assistant.

Rows go through the model's own chat template; the loss is on what the assistant says, its end token included.
Whole conversations are packed into rows and do not see each other.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Gt, Lt

from luban.device import DeviceConfig
from luban.errors import ConfigError
from luban.training.config import LAYOUT, LoopConfig, OptimizerConfig, ParallelConfig

if TYPE_CHECKING:
    import torch

    from luban.data.conversations import Examples
    from luban.data.loader import Source
    from luban.tokenizers.files import FileTokenizer
    from luban.training.loop import Validate
    from luban.training.parallel.world import World
    from luban.training.step import Objective
    from luban.tuning.adapted import Adapted


@dataclass(frozen=True, kw_only=True)
class TuningOptimizer(OptimizerConfig):
    """AdamW with smaller steps than a new model takes."""

    learning_rate: Annotated[float, Gt(0)] = 1e-3
    """Peak learning rate."""


@dataclass(frozen=True, kw_only=True)
class Config(DeviceConfig):
    """Tune a model on conversations."""

    model: Path
    """Model folder to start from."""
    data: tuple[Path, ...]
    """Conversation rows (messages, alpaca, sharegpt, prompt/completion, text): .jsonl .json .csv .tsv .parquet .txt
    files, or folders of them (docs/sft-data.md)."""
    out: Path
    """Folder for checkpoints, log, curves and `final/`."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """What the rows call their entries: `columns.instruction=question columns.output=answer`."""
    weights: tuple[Annotated[float, Gt(0)], ...] = ()
    """Share of the tokens that each path of `data` gets, relative to the others; without them as `temperature` says."""
    temperature: Annotated[float, Ge(1)] = 1.0
    """Shares by size^(1/temperature): 1 keeps the sizes' proportions, more lifts small files."""
    on_bad_row: Literal["reject", "stop"] = "reject"
    """A row that cannot be learnt goes to `<out>/rejected.jsonl` with the reason and the run goes on, or stops it."""
    validation: Annotated[float, Ge(0), Lt(1)] = 0.02
    """Share of the conversations held out for val/loss."""
    loss_on: Literal["assistant", "last", "all"] = "assistant"
    """Train every assistant turn, only the last one, or all tokens."""
    overlong: Literal["right", "drop"] = "right"
    """What to do with a conversation longer than `loop.max_length`: keep its beginning, or drop it (counted)."""
    packing: bool = True
    """Fill rows with several whole conversations; off gives each its own padded row."""
    peft: Mapping[str, Any] = field(default_factory=dict)
    """Tune fewer weights: `peft.method=lora peft.r=8 ...` (docs/tuning.md lists methods and settings)."""
    neftune_alpha: Annotated[float, Ge(0)] = 0.0
    """Noise on the embeddings in training (NEFTune; 5 is usual); 0 is none."""
    label_smoothing: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Share of each target that is spread over the whole vocabulary."""
    optimizer: TuningOptimizer = field(default_factory=TuningOptimizer)
    loop: LoopConfig = field(default_factory=LoopConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    seed: Annotated[int, Ge(0)] = 0
    """Seed of the split and the data order."""
    max_rows: Annotated[int, Gt(0)] | None = None
    """Use only this many rows, drawn with `seed`."""


def run(config: Config) -> dict[str, Any]:
    """Tune and write `<out>/final/`; returns the last validation, what became of the rows, and the time.

    Started by torchrun, each process does its part (`config.parallel`) and returns the same.
    """
    from luban import device
    from luban.training.parallel.world import joined

    place = device.start(config, seed=config.seed)
    with joined(config.parallel, place) as world:
        return _run(config, place, world)


def _run(config: Config, place: torch.device, world: World) -> dict[str, Any]:
    from luban import folder
    from luban.data.conversations import read_examples
    from luban.data.example_mix import check_weights, sources, split
    from luban.data.rejected import write_rejected
    from luban.tokenizers.files import load as load_tokenizer
    from luban.training.parallel.claim import claim, finish

    inputs = [config.model, *config.data]
    folder.check_out(config.out, stage="sft", config=config, inputs=inputs, free=LAYOUT)
    check_weights(config.data, config.weights, config.temperature)
    tokenizer = load_tokenizer(config.model)
    model, learner = _opened(config, tokenizer, place, world)
    examples = read_examples(
        config.data,
        tokenizer,
        columns=config.columns,
        on_bad_row=config.on_bad_row,
        max_tokens=config.loop.max_length,
        loss_on=config.loss_on,
        overlong=config.overlong,
    )
    kept, held = split(examples, validation=config.validation, seed=config.seed, max_rows=config.max_rows)
    shares = {"weights": config.weights, "temperature": config.temperature}
    train = sources(examples, kept, config.data, **shares)
    held_out = sources(examples, held, config.data) if held else []
    claim(config.out, world, stage="sft", config=config, inputs=inputs)
    if world.main:
        write_rejected(config.out, examples.tally)
    told = _tell(examples, train, held_out, learner, shown=world.main)
    results = {**_tune(config, model, learner, tokenizer, train, held_out, place, world), **told}
    finish(config.out, results, world)
    return results


def _opened(
    config: Config, tokenizer: FileTokenizer, place: torch.device, world: World
) -> tuple[Any, Adapted | None]:
    """The model to tune and what of it is tuned; raises where they, the tokenizer and the processes do not fit."""
    from luban.models import FAMILIES, hf
    from luban.training.architecture import check_fit
    from luban.training.run import check_layout
    from luban.tuning.adapted import adapted
    from luban.tuning.noise import add_noise

    shape = hf.load_config(config.model)
    check_layout(config, shape, world)
    if FAMILIES[shape.model_type].kind != "causal":
        what = f"'{shape.model_type}' models predict no next token: they are not tuned on conversations"
        raise ConfigError(what, where="setting 'model'")
    check_fit(shape, tokenizer, max_length=config.loop.max_length)
    model = hf.load(config.model).to(place)
    learner = adapted(model, config.peft, base=config.model, parallel=config.parallel)
    if learner is not None:
        check_fit(shape, tokenizer, max_length=config.loop.max_length + learner.adapter.places)
    add_noise(model, config.neftune_alpha)
    return model, learner


def _tell(
    examples: Examples, train: list[Source], held_out: list[Source], learner: Adapted | None, *, shown: bool
) -> dict[str, int]:
    """What became of the rows, and how many weights are trained, printed where it is to be `shown`."""
    tally = examples.tally
    rows = {"rows": tally.rows, "rejected": len(tally.rejected), "truncated": tally.truncated}
    if shown:
        trained, held = (sum(len(source.examples) for source in part) for part in (train, held_out))
        print(f"sft: {rows}, {trained} to train on, {held} held out", file=sys.stderr)
        for reason in tally.rejected[:5]:
            print(f"  rejected {reason}", file=sys.stderr)
        if learner is not None:
            print(f"sft: {learner.told()}", file=sys.stderr)
    return rows if learner is None else {**rows, **learner.counts()}


def _tune(
    config: Config,
    model: Any,
    learner: Adapted | None,
    tokenizer: FileTokenizer,
    train: list[Source],
    held_out: list[Source],
    place: torch.device,
    world: World,
) -> dict[str, Any]:
    from luban.training import run as training
    from luban.training.objectives import next_tokens
    from luban.training.rows import whole_documents

    return training.train(
        config,
        title="sft",
        model=model,
        tokenizer=tokenizer,
        loader=lambda epochs: whole_documents(config, train, world, epochs=epochs),
        objective=lambda model, compiles: next_tokens(
            model, compiled=compiles, smoothing=config.label_smoothing
        ),
        validation=lambda model, asked: _validation(config, model, asked, held_out, world),
        learner=learner,
        world=world,
        device=place,
    )


def _validation(
    config: Config, model: Any, objective: Objective, held_out: list[Source], world: World
) -> Validate:
    from luban.training.rows import whole_documents
    from luban.training.validate import held_out_loss

    if not held_out:
        return dict
    loader = whole_documents(config, held_out, world, epochs=1)
    return held_out_loss(model, loader, objective, batches=config.loop.eval_batches, world=world)
