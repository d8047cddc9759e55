"""Stage `reward`: a model with one score learns which answers people prefer, or which steps of one are right.

The score is read at an answer's last token, its end token, or at each step's; any decoder will do, whole or with an
adapter. `final/` is what `luban ppo` takes as its reward; `report.json` and `rewards.png` say how far to trust it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge

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
    from luban.alignment.process_rows import Steps
    from luban.alignment.rewarding import Rewarding
    from luban.data.rejected import Tally
    from luban.models.classifier import Classifier
    from luban.tokenizers.files import FileTokenizer
    from luban.training.learner import Learner
    from luban.training.parallel.world import World
    from luban.training.step import Objective
    from luban.tuning.adapted_head import AdaptedHead


@dataclass(frozen=True, kw_only=True)
class Config(PairConfig):
    """Train a reward model."""

    model: Path
    """Model folder to start from, usually what `luban sft` wrote; or a reward model that is to go on."""
    data: tuple[Path, ...]
    """Rows with prompt, chosen and rejected; for kind=steps with prompt, steps and labels (docs/preferences.md)."""
    kind: Literal["answers", "steps"] = "answers"
    """Reward whole answers, or each step (line) of them."""
    margin: Annotated[float, Ge(0)] = 1.0
    """What the `margin` of a row is multiplied by: how much higher the better answer's reward is to be."""
    centre: Annotated[float, Ge(0)] = 0.0
    """Weight of the square of each pair's summed rewards, which draws them to 0 (0.01 is usual)."""
    imitation: Annotated[float, Ge(0)] = 0.0
    """Weight of the language-model loss on the better answers, by the model's own head for words."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, usual in (("margin", 1.0), ("centre", 0.0), ("imitation", 0.0)):
            if self.kind == "steps" and getattr(self, name) != usual:
                raise ConfigError(f"{name} is of pairs of answers", where=f"setting '{name}'")


def run(config: Config) -> dict[str, Any]:
    """Train and write `<out>/final/` and the report; returns its figures, what became of the rows, and the time.

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
    folder.check_out(config.out, stage="reward", config=config, inputs=inputs, free=LAYOUT)
    tokenizer, rows, tally = _read(config)
    model, learner = _opened(config, place)
    check_room(model, learner, rows.longest)
    learnt, held_out = rows.split(config.validation, seed=config.seed, most=config.max_rows)
    claim(config.out, world, stage="reward", config=config, inputs=inputs)
    told = tell(config.out, "reward", tally, learnt, held_out, learner, world)
    results = {**_tune(config, model, learner, tokenizer, learnt, held_out, place, world), **told}
    if len(held_out) and world.main:
        results |= {"report": _report(config, held_out, place)}
    finish(config.out, results, world)
    return results


def show(results: dict[str, Any]) -> None:
    """Print the report, then the rest."""
    report = results.get("report", {})
    for name, value in {**report, **results}.items():
        if not isinstance(value, dict | list):
            print(f"{name}: {value}")


def _read(config: Config) -> tuple[FileTokenizer, Any, Tally]:
    """The tokenizer and the pairs or steps; raises where they, the model's window and the rows do not fit."""
    from luban.alignment.preferences import Limits, read_pairs
    from luban.alignment.process_rows import read_steps
    from luban.models import FAMILIES, hf
    from luban.tokenizers.files import load
    from luban.training.architecture import check_fit

    shape, tokenizer = hf.load_config(config.model), load(config.model)
    if FAMILIES[shape.model_type].kind != "causal":
        what = f"'{shape.model_type}' is no decoder: an answer is rewarded where all of it has been read in order"
        raise ConfigError(what, where="setting 'model'")
    row, window = config.loop.max_length, shape.context
    check_fit(shape, tokenizer, max_length=min(row, window))
    if config.kind == "steps":
        room = min(row, window)
        return tokenizer, *read_steps(config.data, tokenizer, room=room, on_bad_row=config.on_bad_row)
    limits = Limits(row=row, window=window)
    return tokenizer, *read_pairs(config.data, tokenizer, limits, on_bad_row=config.on_bad_row)


def _opened(config: Config, place: torch.device) -> tuple[Classifier, AdaptedHead | None]:
    """The model with one score, new or as it was, and what of it is trained."""
    from luban.models import hf
    from luban.models.classifier import Classifier
    from luban.tuning.adapted_head import adapted_head

    model = hf.load(config.model)
    if not isinstance(model, Classifier):
        model = Classifier(model, 1, words=config.imitation > 0 and not model.config.tied)
    elif len(model.config.labels) != 1:
        what = f"a reward model has one score, this one has {len(model.config.labels)}"
        raise ConfigError(what, where="setting 'model'", hint="start from the model that it was made of")
    elif config.imitation and model.backbone.head is None:
        what = "this reward model was trained without its head for words, so it cannot imitate"
        raise ConfigError(what, where="setting 'imitation'", hint="start from the model that it was made of")
    model = model.to(place)
    return model, adapted_head(model, config.peft, base=config.model, parallel=config.parallel)


def _tune(
    config: Config,
    model: Classifier,
    learner: Learner | None,
    tokenizer: FileTokenizer,
    learnt: Pairs | Steps,
    held_out: Pairs | Steps,
    place: torch.device,
    world: World,
) -> dict[str, Any]:
    from luban.alignment.rewarding import held_out_rewards
    from luban.training import run as training
    from luban.training.experts import evenly_used
    from luban.training.step import compiled_hidden

    rewarding = _rewarding(config, {LEARNT: learnt, HELD_OUT: held_out})

    def objective(model: Any, compiles: bool) -> Objective:
        rewarding.hidden = compiled_hidden(model) if compiles else None
        return evenly_used(rewarding, model)

    def validation(model: Any, asked: Any) -> Callable[[], dict[str, float]]:
        if not len(held_out):
            return dict
        loader = pair_loader(config, held_out, HELD_OUT, world, epochs=1)
        batches = config.loop.eval_batches
        return held_out_rewards(model, loader, asked, rewarding, batches=batches, world=world)

    return training.train(
        config,
        title="reward",
        model=model,
        tokenizer=tokenizer,
        loader=lambda epochs: pair_loader(config, learnt, LEARNT, world, epochs=epochs),
        objective=objective,
        validation=validation,
        learner=learner,
        world=world,
        device=place,
    )


def _rewarding(config: Config, rows: Mapping[str, Any]) -> Rewarding:
    from luban.alignment.rewarding import RewardingPairs, RewardingSteps

    if config.kind == "steps":
        return RewardingSteps()
    return RewardingPairs(rows, margin=config.margin, centre=config.centre, imitation=config.imitation)


def _report(config: Config, held_out: Any, place: torch.device) -> dict[str, Any]:
    """Ask the model that was written of all rows held out; write `report.json` and `rewards.png`."""
    from luban.alignment.reward_model import load_reward
    from luban.alignment.reward_report import draw
    from luban.folder import write_json

    model = load_reward(config.out / "final", device=place)
    of = _of_steps if config.kind == "steps" else _of_pairs
    report, good, bad = of(model, held_out)
    write_json(config.out / "report.json", report)
    draw(config.out / "rewards.png", good, bad, report.get("calibration", []))
    print(f"reward: {report['accuracy']:.1%} of held-out {config.kind} right", file=sys.stderr)
    return report


def _of_pairs(model: Classifier, pairs: Pairs) -> tuple[dict[str, Any], Any, Any]:
    import numpy as np

    from luban.alignment.reward_model import rewards
    from luban.alignment.reward_report import pair_report

    answers = [answer for pair in pairs.all for answer in (pair.first, pair.second)]
    told = rewards(model, [answer.ids.tolist() for answer in answers]).double().numpy().reshape(-1, 2)
    tokens = np.array([answer.mask.sum() for answer in answers], float).reshape(-1, 2)
    return pair_report(told, tokens), told[:, 0], told[:, 1]


def _of_steps(model: Classifier, steps: Steps) -> tuple[dict[str, Any], Any, Any]:
    import numpy as np

    from luban.alignment.reward_model import rewards_at
    from luban.alignment.reward_report import step_report
    from luban.data.batch import IGNORED

    ends = [np.flatnonzero(one.targets != IGNORED) for one in steps.all]
    labels = [one.targets[at].tolist() for one, at in zip(steps.all, ends, strict=True)]
    told = rewards_at(model, [one.ids.tolist() for one in steps.all], [at.tolist() for at in ends])
    flat, right = np.concatenate(told), np.concatenate(labels).astype(bool)
    return step_report(told, labels), flat[right], flat[~right]
