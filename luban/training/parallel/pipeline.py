"""A model whose blocks lie on several processes, one stage after another, run by PyTorch's schedules.

The life of a step: (1) every process of a pipeline has the same micro-batches; (2) a schedule (GPipe, 1F1B,
interleaved) says in which order it runs them through its stages, states going on and gradients coming back;
(3) every stage runs the objective as far as it goes, the last one to its end; (4) the ends of a tied embedding add
their gradients; (5) copies of the pipeline (dp) add theirs; (6) losses and counts become everyone's. `clock.py`
foretells the waiting, which is measured here; `stages.py` cuts the model.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import (
    PipelineStage,
    Schedule1F1B,
    ScheduleGPipe,
    ScheduleInterleaved1F1B,
    ScheduleLoopedBFS,
)

from luban.data.batch import Batch
from luban.errors import ConfigError
from luban.training.config import OptimizerConfig, ParallelConfig
from luban.training.parallel.clock import bubble
from luban.training.parallel.copies import optimizer_of_copies
from luban.training.parallel.divided import add_copies
from luban.training.parallel.norms import global_norm, local
from luban.training.parallel.stages import Stage, check_model, check_step, split, stage_count, stages_of
from luban.training.parallel.tensor import split as split_layers
from luban.training.parallel.world import World
from luban.training.step import Objective, Step, Sums

TRAINING: dict[str, Any] = {
    "gpipe": ScheduleGPipe,
    "1f1b": Schedule1F1B,
    "interleaved": ScheduleInterleaved1F1B,
}
LOOKING: dict[str, Any] = {
    "gpipe": ScheduleGPipe,
    "1f1b": ScheduleGPipe,
    "interleaved": ScheduleLoopedBFS,
}
"""Forward passes only, which leave nothing to interleave with."""


class Staged:
    """See `Spread`: a model of which each process of a pipeline holds its stages, and shares them with others (tp)."""

    compiles = False  # an objective would compile the whole model

    def __init__(self, model: Any, world: World, config: ParallelConfig) -> None:
        """Cuts `model` in place. Raises ConfigError where it cannot be cut so."""
        check_model(model.config, config)
        self.world, self.config = world, config
        self.model = split_layers(split(model, world, config), world)

    def asked(self, objective: Objective) -> Objective:
        """See `Spread.asked`; all processes of a pipeline ask at the same time and hear the same."""
        return Pipelined(self.model, objective, self.world, self.config).look

    def gradients(self, objective: Objective) -> Pipelined:
        """See `Spread.gradients`."""
        return Pipelined(self.model, objective, self.world, self.config)

    def optimizer(self, config: OptimizerConfig) -> torch.optim.Optimizer:
        """See `Spread.optimizer`."""
        return optimizer_of_copies(self.model, config, self.world, zero=self.config.zero)


class Pipelined:
    """The gradients of a pipeline; see `Gradients`. `model` has been `split`.

    `objective` must get its states from `model.hidden`, with the model that it is given.
    """

    def __init__(self, model: Any, objective: Objective, world: World, config: ParallelConfig) -> None:
        self.model, self.world, self.config = model, world, config
        self.device = next(model.parameters()).device
        self.work = _Work(objective)
        self.modules = [_StageModule(stage, self.work) for stage in stages_of(model, world, config)]
        self.schedules: dict[tuple[Any, ...], Any] = {}
        self.bubble = 0.0
        """Of the last step: the time that stages waited over the time that they worked, in the whole pipeline."""

    def sum(self, batches: Sequence[Batch], *, scale: float = 1.0) -> Sums:
        """See `Gradients.sum`. Raises ConfigError where the schedule cannot run so many micro-batches."""
        check_step(self.config, len(batches))
        self.model.train()
        begun = time.perf_counter()
        loss, targets = self._run(batches, scale=scale, learn=True)
        waited = time.perf_counter() - begun - self.work.seconds
        self._add_tied_ends()
        add_copies((p for p in self.model.parameters() if p.requires_grad), self.world)
        loss, targets, waited, worked = self.world.total(loss, targets, waited, self.work.seconds, axis="pp")
        self.bubble = waited / worked
        loss, targets = self.world.total(loss, targets)
        return Sums(loss, int(targets))

    def norm(self) -> float:
        """See `Gradients.norm`; a tied matrix counts once."""
        skipped = self.model.head.weight if self._tied_end() and self.modules[-1].stage.last else None
        return global_norm([p for p in self.model.parameters() if p is not skipped], self.world)

    def look(self, _model: Any, batch: Batch) -> Step:
        """The objective of a batch through the pipeline, without gradients: the same step on each of its processes.

        An `Objective`, so that validation can use it; all processes of the pipeline call it at the same time.
        """
        with torch.no_grad():
            found = self._run([batch], scale=1.0, learn=False)
        loss, targets = self.world.total(*found, axis="pp")
        return Step(torch.tensor(loss, device=self.device), int(targets))

    def figures(self) -> dict[str, float]:
        """What the log says of the last step: `train/bubble`, and what the clock foretells of it."""
        chunks = stage_count(self.config) // self.config.pp
        foretold = bubble(self.config.schedule, self.config.pp, len(self.work.batches), chunks)
        return {"train/bubble": round(self.bubble, 4), "train/bubble_foretold": round(foretold, 4)}

    def _run(self, batches: Sequence[Batch], *, scale: float, learn: bool) -> tuple[float, int]:
        """Loss and number of targets, where this process has the last stage; 0 and 0 elsewhere."""
        self.work.begin(batches, scale)
        key = (learn, len(batches), tuple(batches[0].tokens.shape))
        assert all(batch.tokens.shape == batches[0].tokens.shape for batch in batches), "rows of one shape"
        if key not in self.schedules:
            self.schedules[key] = self._schedule(len(batches), learn=learn)
        numbers = torch.arange(len(batches))  # the micro-batches lie in `work`; what travels is their numbers
        self.schedules[key].step(number=numbers, target=numbers, return_outputs=False)
        steps = self.work.steps.values()
        return sum(step.loss.item() for step in steps), sum(step.targets for step in steps)

    def _schedule(self, micro_batches: int, *, learn: bool) -> Any:
        """PyTorch's schedule for steps of one shape; its first step also finds out the shapes that are sent."""
        stages = [
            _TimedStage(
                module,
                module.stage.number,
                stage_count(self.config),
                self.device,
                group=self.world.group("pp"),
            )
            for module in self.modules
        ]
        kind = (TRAINING if learn else LOOKING)[self.config.schedule]
        interleaved = self.config.schedule == "interleaved"
        return kind(
            stages if interleaved else stages[0],
            n_microbatches=micro_batches,
            loss_fn=_already_a_loss if learn else None,
            scale_grads=False,  # the updater divides once, by targets; PyTorch would by micro-batches
        )

    def _tied_end(self) -> bool:
        """Whether this process holds one of the two copies of a matrix that embedding and head share."""
        return self.model.config.tied and (self.modules[0].stage.first or self.modules[-1].stage.last)

    def _add_tied_ends(self) -> None:
        """Add the other end's gradient of a tied matrix to this end's: a + b is b + a, so both are the same."""
        if not self._tied_end():
            return
        first = self.modules[0].stage.first
        weight = self.model.embedding.weight if first else self.model.head.weight
        group, peer = self.world.group("pp"), self.world.pp - 1 if first else 0
        mine = local(weight.grad)
        theirs = torch.empty_like(mine)
        sending = dist.P2POp(dist.isend, mine, group=group, group_peer=peer)
        receiving = dist.P2POp(dist.irecv, theirs, group=group, group_peer=peer)
        for request in dist.batch_isend_irecv([sending, receiving]):
            request.wait()
        mine += theirs


class _Work:
    """What a process's stages are working on: the step's micro-batches, what came of them, and the time it took."""

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self.begin([], 1.0)

    def begin(self, batches: Sequence[Batch], scale: float) -> None:
        self.batches, self.scale = list(batches), scale
        self.steps: dict[int, Step] = {}
        self.seconds = 0.0


class _StageModule(nn.Module):
    """A stage as a schedule calls it: states in (into the first: none), states out, or at the end the loss."""

    def __init__(self, stage: Stage, work: _Work) -> None:
        super().__init__()
        self.stage, self.model, self.work = stage, stage.model, work

    def forward(self, states: Tensor | None = None, *, number: Tensor) -> Tensor:
        place = int(number)
        batch = self.work.batches[place]
        try:
            step = self.work.objective(_Seen(self.stage, states, batch), batch)
        except _Leaves as leaving:
            return leaving.states
        self.work.steps[place] = Step(step.loss.detach().clone(), step.targets)
        return step.loss * self.work.scale


class _Seen:
    """A stage as an objective sees it: the model, whose `hidden` begins and ends where the stage does."""

    def __init__(self, stage: Stage, states: Tensor | None, batch: Batch) -> None:
        self._stage, self._states, self._tokens = stage, states, batch.tokens

    def hidden(self, tokens: Tensor, positions: Tensor | None = None, cache: Any = None) -> Tensor:
        """The last stage's states. Raises _Leaves on others, so that an objective goes only as far as its stage."""
        if tokens is not self._tokens:
            what = "this objective asks the model of other tokens than the batch's, and stages pass on one answer"
            raise ConfigError(what, where="setting 'parallel.pp'", hint="parallel.pp=1")
        states = self._stage.model.hidden(
            tokens if self._stage.first else None, positions, cache, self._states
        )
        if not self._stage.last:
            raise _Leaves(states)
        return states

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stage.model, name)


class _Leaves(Exception):  # noqa: N818 - no error: states leave for the next stage
    def __init__(self, states: Tensor) -> None:
        self.states = states


class _TimedStage(PipelineStage):
    """PyTorch's stage, which also says how long it worked."""

    submod: _StageModule

    def forward_one_chunk(self, *arguments: Any, **settings: Any) -> Any:
        return self._timed(super().forward_one_chunk, *arguments, **settings)

    def backward_one_chunk(self, *arguments: Any, **settings: Any) -> None:
        self._timed(super().backward_one_chunk, *arguments, **settings)

    def _timed(self, run: Callable[..., Any], *arguments: Any, **settings: Any) -> Any:
        begun = time.perf_counter()
        result = run(*arguments, **settings)
        if self.device.type != "cpu":  # where a call returns before its work is done
            torch.accelerator.synchronize(self.device)
        self.submod.work.seconds += time.perf_counter() - begun
        return result


def _already_a_loss(loss: Tensor, _number: Tensor) -> Tensor:
    return loss
