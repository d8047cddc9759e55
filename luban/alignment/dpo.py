"""Stage `dpo`: a policy learns from pairs of answers which of them people prefer, without a reward model.

One iteration: (1) the loader packs pairs into rows, (2) `pair_batch` parts their answers, (3) the policy says how
likely each is, in one pass, (4) the reference has said so before (`reference`), (5) `preference_losses` compares.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Gt, Lt

from luban.alignment.pair_stage import (
    HELD_OUT,
    LEARNT,
    PairConfig,
    check_room,
    pair_loader,
    tell,
)
from luban.errors import ConfigError
from luban.training.config import LAYOUT

if TYPE_CHECKING:
    import torch

    from luban.alignment.preferences import Pairs
    from luban.alignment.preferring import Known
    from luban.data.rejected import Tally
    from luban.tokenizers.files import FileTokenizer
    from luban.training.parallel.world import World
    from luban.training.step import Objective
    from luban.tuning.adapted import Adapted


@dataclass(frozen=True, kw_only=True)
class Config(PairConfig):
    """Tune a model on preferences."""

    model: Path
    """Model folder to start from, usually one that `luban sft` wrote."""
    data: tuple[Path, ...]
    """Rows with prompt, chosen and rejected (docs/preferences.md lists the formats); for kto also single answers."""
    loss: Literal["sigmoid", "hinge", "ipo", "kto", "simpo"] = "sigmoid"
    """What is learnt from a pair: DPO's own, or one of its relatives."""
    beta: Annotated[float, Gt(0)] = 0.1
    """How dear it is to move away from the reference: larger stays closer. SimPO's is larger: 2 to 10."""
    label_smoothing: Annotated[float, Ge(0), Lt(0.5)] = 0.0
    """Share of the pairs that may be the wrong way round (sigmoid and simpo)."""
    gamma: Annotated[float, Ge(0)] = 0.5
    """By how much SimPO wants the better answer to win."""
    imitation: Annotated[float, Ge(0)] = 0.0
    """Weight of the language-model loss of the good answers; 1 keeps them likely where DPO alone lets them fall."""
    good_weight: Annotated[float, Gt(0)] = 1.0
    """Weight of good answers in KTO; with few of them, more."""
    bad_weight: Annotated[float, Gt(0)] = 1.0
    """Weight of bad answers in KTO."""
    reference: Literal["precomputed", "live"] = "precomputed"
    """Ask the reference once and write its answers to `<out>/reference`, or at each step: a second model in memory."""

    def __post_init__(self) -> None:
        if self.label_smoothing and self.loss not in ("sigmoid", "simpo"):
            what = f"loss {self.loss} has no label_smoothing; sigmoid and simpo have"
            raise ConfigError(what, where="setting 'label_smoothing'")
        super().__post_init__()


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
    from luban.training.parallel.claim import claim, finish

    inputs = [config.model, *config.data]
    folder.check_out(config.out, stage="dpo", config=config, inputs=inputs, free=LAYOUT)
    tokenizer, pairs, tally = _read(config)
    model, learner = _opened(config, place)
    check_room(model, learner, pairs.longest)
    learnt, held_out = pairs.split(config.validation, seed=config.seed, most=config.max_rows)
    claim(config.out, world, stage="dpo", config=config, inputs=inputs)
    told = tell(config.out, "dpo", tally, learnt, held_out, learner, world)
    known = _known(config, model, learner, {LEARNT: learnt, HELD_OUT: held_out}, place, world)
    results = {**_tune(config, model, learner, tokenizer, known, place, world), **told}
    finish(config.out, results, world)
    return results


def _read(config: Config) -> tuple[FileTokenizer, Pairs, Tally]:
    """The tokenizer and the pairs; raises where they, the model's window and the rows do not fit."""
    from luban.alignment.preferences import Limits, read_pairs
    from luban.models import FAMILIES, hf
    from luban.tokenizers.files import load
    from luban.training.architecture import check_fit

    shape, tokenizer = hf.load_config(config.model), load(config.model)
    if FAMILIES[shape.model_type].kind != "causal":
        what = f"'{shape.model_type}' models predict no next token: there is no answer to prefer"
        raise ConfigError(what, where="setting 'model'")
    check_fit(shape, tokenizer, max_length=min(config.loop.max_length, shape.context))
    limits = Limits(row=config.loop.max_length, window=shape.context)
    judged = config.loss == "kto"
    pairs, tally = read_pairs(config.data, tokenizer, limits, judged=judged, on_bad_row=config.on_bad_row)
    return tokenizer, pairs, tally


def _opened(config: Config, place: torch.device) -> tuple[Any, Adapted | None]:
    from luban.models import hf
    from luban.tuning.adapted import adapted

    model = hf.load(config.model).to(place)
    return model, adapted(model, config.peft, base=config.model, parallel=config.parallel)


def _known(
    config: Config,
    model: Any,
    learner: Adapted | None,
    sets: Mapping[str, Pairs],
    place: torch.device,
    world: World,
) -> dict[str, Known]:
    """Each set of pairs with its reference; the precomputed ones are asked now."""
    from luban.alignment import reference
    from luban.alignment.preference_losses import WITHOUT_REFERENCE
    from luban.alignment.preferring import Known
    from luban.training.precision import computing_in, precision_named

    sets = {name: pairs for name, pairs in sets.items() if len(pairs)}
    if config.loss in WITHOUT_REFERENCE:
        return {name: Known(pairs=pairs, reference=reference.none) for name, pairs in sets.items()}
    if config.reference == "live":
        frozen = reference.live(model, adapted=learner is not None and not learner.adapter.changes_base)
        return {name: Known(pairs=pairs, reference=frozen) for name, pairs in sets.items()}
    with computing_in(precision_named(config.loop.precision, place), place):
        return {
            name: Known(
                pairs=pairs,
                reference=reference.precomputed(
                    model,
                    pairs,
                    config.out / "reference" / name,
                    context=config.loop.max_length,
                    world=world,
                ),
            )
            for name, pairs in sets.items()
        }


def _tune(
    config: Config,
    model: Any,
    learner: Adapted | None,
    tokenizer: FileTokenizer,
    known: Mapping[str, Known],
    place: torch.device,
    world: World,
) -> dict[str, Any]:
    from luban.alignment.preference_losses import Strength
    from luban.alignment.preferring import Preferring, held_out_pairs
    from luban.training import run as training
    from luban.training.experts import evenly_used
    from luban.training.step import compiled_hidden

    numbers = ("beta", "gamma", "label_smoothing", "good_weight", "bad_weight")
    strength = Strength(**{name: getattr(config, name) for name in numbers})
    preferring = Preferring(known, loss=config.loss, strength=strength, imitation=config.imitation)

    def objective(model: Any, compiles: bool) -> Objective:
        preferring.hidden = compiled_hidden(model) if compiles else None
        return evenly_used(preferring, model)

    def validation(model: Any, asked: Any) -> Any:
        if HELD_OUT not in known:
            return dict
        loader = pair_loader(config, known[HELD_OUT].pairs, HELD_OUT, world, epochs=1)
        batches = config.loop.eval_batches
        return held_out_pairs(model, loader, asked, preferring, batches=batches, world=world)

    return training.train(
        config,
        title="dpo",
        model=model,
        tokenizer=tokenizer,
        loader=lambda epochs: pair_loader(config, known[LEARNT].pairs, LEARNT, world, epochs=epochs),
        objective=objective,
        validation=validation,
        learner=learner,
        world=world,
        device=place,
    )
