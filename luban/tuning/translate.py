"""Stage `translate`: pairs of texts to a model that turns one into the other, and how good it is at it.

The source goes to the encoder, the loss is on the target. At the end held-out pairs are translated as
`luban generate` would, by greedy decoding and by beam search, and compared by BLEU with a copy of the source.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt

from luban.device import DeviceConfig
from luban.errors import ConfigError, DataError, MachineError
from luban.folder import write_text
from luban.lm import LM, OpenLM, Sampling
from luban.training.architecture import ArchitectureConfig, family_named
from luban.training.config import LoopConfig, OptimizerConfig

if TYPE_CHECKING:
    from luban.data.pairs import Pair, PairExamples, PairLoader
    from luban.tokenizers.files import FileTokenizer
    from luban.training.answers import Halves
    from luban.training.loop import Validate

TRANSLATIONS = "translations.jsonl"


@dataclass(frozen=True, kw_only=True)
class TranslatorShape(ArchitectureConfig):
    """The shape of a new encoder-decoder; both sides are alike."""

    model_type: str = "transformer"
    """Family: transformer, rnnsearch, or another encoder-decoder that `luban models` lists."""
    layers: Annotated[int, Ge(1)] = 2
    """Blocks of each side."""
    dim: Annotated[int, Ge(8)] = 128
    """Width of the residual stream."""


@dataclass(frozen=True, kw_only=True)
class TranslatorOptimizer(OptimizerConfig):
    """AdamW with the schedule of the Transformer paper."""

    learning_rate: Annotated[float, Gt(0)] = 1e-3
    """Peak learning rate."""
    lr_scheduler_type: Literal["cosine", "wsd", "linear", "constant", "inverse_sqrt"] = "inverse_sqrt"
    """Shape after warm-up; `inverse_sqrt` falls with the root of the step, the others as in `luban pretrain`."""
    warmup_steps: Annotated[int, Ge(0)] = 400
    """Steps of linear warm-up from 0."""
    adam_beta2: Annotated[float, Ge(0), Le(1)] = 0.98
    """Decay of the squared gradient's running mean."""


@dataclass(frozen=True, kw_only=True)
class TranslatorLoop(LoopConfig):
    """How long to train, how often to look, when to save."""

    max_length: Annotated[int, Ge(2)] = 64
    """Tokens of a source and of a target, end token included; longer pairs are left out and counted."""
    compile: bool | Literal["auto"] = False
    """Compile the model (torch.compile); batches as wide as their longest pair gain nothing by it on a CPU."""


@dataclass(frozen=True, kw_only=True)
class Config(DeviceConfig):
    """Train an encoder-decoder on pairs of texts, and measure its BLEU on held-out ones.

    `luban generate --model OUT/final --prompt TEXT --beams 4` then translates.
    """

    data: tuple[Path, ...]
    """Rows of {"source", "target"} or {"prompt", "completion"}; JSONL or a JSON list."""
    out: Path
    """Folder for checkpoints, log, curves, translations and `final/`."""
    validation: tuple[Path, ...] = ()
    """Held-out pairs: their loss is logged as val/loss, and BLEU is measured on them."""
    model: Path | None = None
    """Go on from this encoder-decoder's folder; or the name of a family, for a new model of `architecture`."""
    architecture: TranslatorShape = field(default_factory=TranslatorShape)
    norm: Literal["pre", "post"] = "pre"
    """Where a new transformer norms: before each part, or after each sum as in the paper of 2017."""
    tokenizer: Path | None = None
    """Folder of a tokenizer for a new model; none learns a byte-level BPE from both sides of the pairs."""
    vocab: Annotated[int, Ge(1)] = 4096
    """How many ids to learn, where no tokenizer is given."""
    label_smoothing: Annotated[float, Ge(0), Lt(1)] = 0.1
    """Share of each target that is spread over the whole vocabulary."""
    optimizer: TranslatorOptimizer = field(default_factory=TranslatorOptimizer)
    loop: TranslatorLoop = field(default_factory=TranslatorLoop)
    bleu_pairs: Annotated[int, Ge(0)] = 200
    """Translate so many of the held-out pairs when training is over."""
    beams: Annotated[int, Ge(2)] = 4
    """Beams of the second of the two translations; the first is greedy."""
    length_penalty: float = 1.0
    """As in `luban generate`: more favours long translations."""
    seed: Annotated[int, Ge(0)] = 0
    """Seed of the weights and the data order."""


def run(config: Config, open_lm: OpenLM) -> dict[str, Any]:
    """Train, write `<out>/final/`, translate; returns the last validation, BLEU, and what became of the pairs."""
    from luban import device, folder
    from luban.models import FAMILIES, hf
    from luban.models.base import parameter_count
    from luban.training.answers import answers, compiled_halves
    from luban.training.loop import Fit, finish_model

    config = family_named(config)
    inputs = [*config.data, *config.validation, *filter(None, (config.model, config.tokenizer))]
    folder.check_out(config.out, stage="translate", config=config, inputs=inputs)
    if config.validation and config.bleu_pairs:
        corpus_bleu(["a"], ["a"])  # that it cannot be measured must not come out after hours of training
    train, held_out, tokenizer = _read(config)
    shape = _shape(config, tokenizer)
    out = folder.claim(config.out, stage="translate", config=config, inputs=inputs)
    place = device.start(config, seed=config.seed)
    model = (hf.load(config.model) if config.model else hf.build(shape)).to(place)
    compiles = config.loop.compile is True and FAMILIES[shape.model_type].compiles
    halves = compiled_halves(model) if compiles else None
    fit = Fit(
        title="translate",
        out=out,
        model=model,
        tokenizer=tokenizer,
        loader=_loader(config, train, epochs=None),
        objective=answers(smoothing=config.label_smoothing, halves=halves),
        loop=config.loop,
        optimizer=config.optimizer,
        steps=config.loop.steps(lambda: _loader(config, train, epochs=1).remaining()),
        validate=_validation(config, model, halves, held_out),
        device=place,
    )
    results = {**fit.train(), "steps": fit.steps, "parameters": parameter_count(model)}
    results |= {"pairs": len(train.pairs), "too_long": train.too_long}
    final = finish_model(fit)
    if held_out and config.bleu_pairs:
        results["bleu"] = measure(open_lm(str(final)), held_out.pairs[: config.bleu_pairs], config)
    folder.finish(out, results)
    return results


def show(results: dict[str, Any]) -> None:
    """Print BLEU beside that of a copy, and the other figures."""
    for key, value in results.items():
        if key != "bleu":
            print(f"{key}: {value}")
    for how, value in results.get("bleu", {}).items():
        print(f"BLEU {how}: {value}")


def measure(lm: LM, pairs: Sequence[Pair], config: Config) -> dict[str, float]:
    """BLEU of copying, greedy decoding and beam search on `pairs`, and how many these are.

    Writes all translations to `translations.jsonl`.
    """
    sources, targets = [pair.source for pair in pairs], [pair.target for pair in pairs]
    length = config.loop.max_length
    greedy = Sampling(temperature=0, max_tokens=length)
    beams = Sampling(beams=config.beams, length_penalty=config.length_penalty, max_tokens=length)
    made = {"copy": sources}
    for name, sampling in (("greedy", greedy), (f"beam {config.beams}", beams)):
        made[name] = [answer.text for answer in lm.generate(sources, sampling)]
    rows = [
        {"source": pair.source, "target": pair.target, **{name: made[name][place] for name in made}}
        for place, pair in enumerate(pairs)
    ]
    lines = (json.dumps(row, ensure_ascii=False) for row in rows)
    write_text(config.out / TRANSLATIONS, "".join(f"{line}\n" for line in lines))
    return {"pairs": len(pairs), **{name: corpus_bleu(texts, targets) for name, texts in made.items()}}


def corpus_bleu(texts: Sequence[str], references: Sequence[str]) -> float:
    """BLEU of a corpus, 0 to 100, by sacrebleu's defaults (13a tokens, exponential smoothing).

    Raises MachineError if sacrebleu is not installed. Source: Papineni et al. 2002; Post 2018 (arXiv:1804.08771).
    """
    try:
        import sacrebleu
    except ModuleNotFoundError:
        raise MachineError(
            "BLEU needs sacrebleu, which is not installed", hint="pip install 'luban[eval]', or bleu_pairs=0"
        ) from None
    return round(sacrebleu.corpus_bleu(list(texts), [list(references)]).score, 2)


def _read(config: Config) -> tuple[PairExamples, PairExamples | None, FileTokenizer]:
    """The pairs to train on and the held-out ones, both without too long ones, and the tokenizer."""
    from luban.data.pairs import read_pairs, to_examples

    pairs = list(read_pairs(config.data))
    tokenizer = _tokenizer(config, pairs)
    train = to_examples(tokenizer, pairs, max_tokens=config.loop.max_length)
    print(f"translate: {len(train.pairs)} pairs, {train.too_long} more are too long", file=sys.stderr)
    if not config.validation:
        return train, None, tokenizer
    known = {pair.source for pair in pairs}
    held_out = list(read_pairs(config.validation))
    unseen = [pair for pair in held_out if pair.source not in known]
    if not unseen:
        raise DataError("every held-out source is in the training data", where=held_out[0].where)
    if len(unseen) < len(held_out):
        print(
            f"translate: {len(held_out) - len(unseen)} held-out sources are in the data, left out",
            file=sys.stderr,
        )
    return train, to_examples(tokenizer, unseen, max_tokens=config.loop.max_length), tokenizer


def _tokenizer(config: Config, pairs: Sequence[Pair]) -> FileTokenizer:
    from luban.tokenizers.files import load
    from luban.tokenizers.train import train_bpe

    if config.model is not None and config.tokenizer is not None:
        raise ConfigError("a model folder has its own tokenizer", where="setting 'tokenizer'")
    folder = config.model or config.tokenizer
    if folder is not None:
        return load(folder)
    return train_bpe((text for pair in pairs for text in (pair.source, pair.target)), vocab=config.vocab)


def _shape(config: Config, tokenizer: FileTokenizer) -> Any:
    """The family config of the model to train; raises ConfigError where it is not one for pairs."""
    from luban.models import FAMILIES, hf
    from luban.training.architecture import check_fit, new_config

    length = config.loop.max_length
    if config.model is not None:
        shape = hf.load_config(config.model)
    else:
        ids = {"bos_id": tokenizer.bos_id, "eos_id": tokenizer.eos_id, "pad_id": tokenizer.pad_id}
        shape = new_config(config.architecture, vocab=tokenizer.vocab_size, context=length, **ids)
        if shape.model_type == "transformer":
            shape = dataclasses.replace(shape, norm=config.norm)
        elif config.norm != "pre":
            raise ConfigError(f"norm={config.norm} is for a transformer", where="setting 'norm'")
    if FAMILIES[shape.model_type].kind != "seq2seq":
        fitting = ", ".join(name for name, family in FAMILIES.items() if family.kind == "seq2seq")
        what = f"'{shape.model_type}' is no encoder-decoder; choose from: {fitting}"
        raise ConfigError(what, where="setting 'model'")
    check_fit(shape, tokenizer, max_length=length)
    return shape


def _validation(config: Config, model: Any, halves: Halves | None, held_out: PairExamples | None) -> Validate:
    from luban.training.answers import answers
    from luban.training.validate import held_out_loss

    if held_out is None:
        return dict
    loader = _loader(config, held_out, epochs=1)
    return held_out_loss(model, loader, answers(halves=halves), batches=config.loop.eval_batches)


def _loader(config: Config, pairs: PairExamples, *, epochs: int | None) -> PairLoader:
    """Batches of one pair a row; a side is at most `max_length` long."""
    from luban.data.loader import Source
    from luban.data.pairs import PairLoader

    return PairLoader(
        [Source(examples=pairs.examples, name="pairs")],
        batch=config.loop.per_device_train_batch_size,
        context=2 * config.loop.max_length,
        seed=config.seed,
        packing="pad",
        epochs=epochs,
    )
