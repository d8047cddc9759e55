"""Stage `classify`: a pretrained decoder or encoder and labelled texts to a classifier, and how good it is.

Held-out texts choose the checkpoint, others that nothing has seen are the test: figures, pictures and each
prediction are in the folder, beside a TF-IDF baseline. `luban classify apply` then reads new texts.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt

from luban.device import DeviceConfig
from luban.errors import ConfigError
from luban.training.config import LAYOUT, LoopConfig, OptimizerConfig, ParallelConfig
from luban.tuning.labelled import Columns

if TYPE_CHECKING:
    import torch

    from luban.tokenizers.files import FileTokenizer
    from luban.training.parallel.world import World
    from luban.tuning.class_data import ClassData


@dataclass(frozen=True, kw_only=True)
class ClassifyOptimizer(OptimizerConfig):
    """AdamW with small steps: most of the model is to stay as it is."""

    learning_rate: Annotated[float, Gt(0)] = 1e-4
    """Peak learning rate; a head on a frozen model takes 10 to 100 times as much."""
    lr_scheduler_type: Literal["cosine", "wsd", "linear", "constant", "inverse_sqrt"] = "linear"
    """Shape after warm-up, as in `luban pretrain`."""
    weight_decay: Annotated[float, Ge(0)] = 0.01
    """Decoupled decay of matrices; vectors (norms, biases) are not decayed."""
    adam_beta2: Annotated[float, Ge(0), Le(1)] = 0.999
    """Decay of the squared gradient's running mean."""


@dataclass(frozen=True, kw_only=True)
class ClassifyLoop(LoopConfig):
    """How long to train, how often to look, when to save."""

    num_train_epochs: Annotated[float, Gt(0)] = 3.0
    """Passes over the texts, where `max_steps` is 0."""
    per_device_train_batch_size: Annotated[int, Ge(1)] = 16
    """Rows in one forward pass: a text each, or several with `packing`."""
    eval_batches: Annotated[int, Ge(1)] = 64
    """Batches per validation, always the same ones."""


@dataclass(frozen=True, kw_only=True)
class Config(DeviceConfig):
    """Tune a model to tell classes of texts apart, and measure it on texts it has not seen."""

    model: Path
    """Model folder to start from: a decoder, an encoder, or a classifier of the same labels."""
    data: tuple[Path, ...]
    """Labelled texts: JSONL, JSON, CSV, TSV, Parquet, or a folder with a folder of text files for each class."""
    out: Path
    """Folder for checkpoints, log, curves, `final/`, report and predictions."""
    columns: Columns = field(default_factory=Columns)
    labels: tuple[str, ...] = ()
    """The classes in order; nothing takes all that the rows name, sorted."""
    multi_label: bool = False
    """Any number of labels may be right: rows have a list of them (in a table parted by `;`)."""
    on_bad_row: Literal["stop", "reject"] = "stop"
    """What to do with a row that has no text or a wrong label: stop there, or put it into rejected.jsonl."""
    validation: Annotated[float, Ge(0), Lt(1)] = 0.1
    """Share of each class held out for val/loss, val/accuracy and val/macro_f1, which choose the checkpoint."""
    test: Annotated[float, Ge(0), Lt(1)] = 0.1
    """Share of each class held out for the report, where `test_data` gives none."""
    test_data: tuple[Path, ...] = ()
    """Labelled texts to report on, instead of a share of `data`."""
    pooling: Literal["last", "first"] = "last"
    """Where a decoder is read: at its last token, which has seen the text, or at its first, which has not."""
    separator: str = "\n"
    """What stands between the two texts of a decoder's row; an encoder has its [SEP]."""
    packing: bool = False
    """Fill rows of `loop.max_length` with several texts, which do not see each other; off: a text a row."""
    class_weights: Literal["none", "balanced"] = "none"
    """Let each text count alike, or each class (rare ones' texts more)."""
    lm_weight: Annotated[float, Ge(0)] = 0.0
    """How much a decoder also learns the texts themselves: GPT-1's lambda, 0.5 there."""
    frozen: bool = False
    """Train the head only; the model itself stays as it is."""
    peft: Mapping[str, Any] = field(default_factory=dict)
    """Tune fewer weights: `peft.method=lora peft.r=8 ...` (docs/tuning.md lists methods and settings); nothing
    tunes them all. `final/` is then an adapter's folder with the head in it; `peft.merge=true` writes a model."""
    baseline: bool = True
    """Report TF-IDF with logistic regression, learnt from the same texts, beside the model (needs scikit-learn)."""
    optimizer: ClassifyOptimizer = field(default_factory=ClassifyOptimizer)
    loop: ClassifyLoop = field(default_factory=ClassifyLoop)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    seed: Annotated[int, Ge(0)] = 0
    """Seed of the split, the head and the data order."""
    max_rows: Annotated[int, Gt(0)] | None = None
    """Use only this many rows of `data`, drawn with `seed`."""

    def __post_init__(self) -> None:
        if self.frozen and self.peft:
            raise ConfigError("a frozen model takes no adapter", where="setting 'frozen'")
        if self.frozen and self.lm_weight:
            raise ConfigError("a frozen model learns no text", where="setting 'lm_weight'")


def run(config: Config) -> dict[str, Any]:
    """Tune, test, and write `<out>/final/`, `report.json`, `report.md`, `report.png` and `predictions.jsonl`.

    Started by torchrun, each process does its part (`config.parallel`) and returns the same but for the report.
    """
    from luban import device
    from luban.training.parallel.world import joined

    place = device.start(config, seed=config.seed)
    with joined(config.parallel, place) as world:
        return _run(config, place, world)


def show(results: dict[str, Any]) -> None:
    """Print the test figures beside the baseline's, then the others."""
    for name in ("test", "baseline"):
        if figures := results.get(name):
            print(f"{name}: accuracy {figures['accuracy']:.4f}, macro F1 {figures['macro_f1']:.4f}")
    for key, value in results.items():
        if key not in ("test", "baseline"):
            print(f"{key}: {value}")


def _run(config: Config, place: torch.device, world: World) -> dict[str, Any]:
    from luban import folder
    from luban.models import hf
    from luban.tokenizers.files import load as load_tokenizer
    from luban.training.parallel.claim import claim, finish
    from luban.training.parallel.spread import check
    from luban.tuning.class_data import read_data
    from luban.tuning.class_model import check_model, open_classifier
    from luban.tuning.classified import Reading, write_reading

    inputs = [config.model, *config.data, *config.test_data]
    folder.check_out(config.out, stage="classify", config=config, inputs=inputs, free=LAYOUT)
    check(config.parallel, world)
    tokenizer = load_tokenizer(config.model)
    shape = hf.load_config(config.model)
    check_model(config, shape, tokenizer)
    data = read_data(config)
    model, learner = open_classifier(config, data.labels, place)
    data.encode(tokenizer, model.config, separator=config.separator, max_tokens=config.loop.max_length)
    claim(config.out, world, stage="classify", config=config, inputs=inputs)
    if world.main:
        _tell(config, data)
    results = _train(config, model, learner, tokenizer, data, place, world)
    if world.main:
        write_reading(
            config.out / "final", Reading(max_length=config.loop.max_length, separator=config.separator)
        )
        results |= _test(config, data, place)
    finish(config.out, results, world)
    return results


def _tell(config: Config, data: ClassData) -> None:
    """Say what became of the rows, and keep those that are none."""
    from luban.data.rejected import write_rejected

    write_rejected(config.out, data.tally)
    print(f"classify: {data.told()}", file=sys.stderr)


def _train(
    config: Config,
    model: Any,
    learner: Any,
    tokenizer: FileTokenizer,
    data: ClassData,
    place: torch.device,
    world: World,
) -> dict[str, Any]:
    from luban.data.loader import Loader
    from luban.training.run import train
    from luban.training.step import Objective, compiled_hidden
    from luban.training.validate import held_out_loss
    from luban.tuning.class_loss import told_by

    loss = data.loss(config, model.config, place)

    def loader(epochs: int | None, part: str = "train") -> Loader:
        return data.loader(config, part, world, epochs=epochs)

    def objective(laid_out: Any, compiled: bool) -> Objective:
        loss.hidden = compiled_hidden(laid_out) if compiled else None
        return loss.judged

    def validation(laid_out: Any, asked: Objective) -> Any:
        if not data.parts["validation"]:
            return dict
        held_out = loader(1, "validation")
        found = held_out_loss(laid_out, held_out, asked, batches=config.loop.eval_batches, world=world)
        return told_by(loss, found, world)

    made = train(
        config,
        title="classify",
        model=model,
        tokenizer=tokenizer,
        loader=loader,
        objective=objective,
        learnt=lambda _: loss.learned,
        validation=validation,
        world=world,
        device=place,
        learner=learner,
    )
    return {**made, **data.counts()}


def _test(config: Config, data: ClassData, place: torch.device) -> dict[str, Any]:
    """Read the test rows with the finished model, write the report; returns its totals."""
    from luban.tuning.class_report import write_report
    from luban.tuning.classified import open_reader

    if not data.parts["test"]:
        return {}
    reader = open_reader(config.out / "final", device=place)
    return write_report(
        config.out,
        reader,
        data.parts["test"],
        known=data.parts["train"] if config.baseline else [],
        batch=config.loop.per_device_train_batch_size,
    )
