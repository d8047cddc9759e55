"""The outer loop of learning from rewards, once: PPO and GRPO say what an iteration learns, this does the rest.

The life of an iteration: (1) the next prompts are answered, (2) the answers are judged and recorded, (3) the stage
learns from them, (4) the log and the bar report, (5) at their steps: greedy answers to held-out prompts, a checkpoint.
Interrupted, the same call goes on from the last checkpoint, bit for bit, and answers no prompt a second time.
Several processes answer and judge each its share, and then all know all of it (`shares.py`); the first one writes.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from luban.alignment import saved
from luban.alignment.config import RewardedConfig
from luban.alignment.curves import save_page
from luban.alignment.judge import Judge, judged, open_judge
from luban.alignment.phases import Phases
from luban.alignment.prompts import Prompt, PromptOrder, read_prompts
from luban.alignment.record import Record
from luban.alignment.rollout import Answer, answer_all, uniforms
from luban.alignment.shares import share
from luban.device import seed_copy
from luban.errors import ConfigError
from luban.folder import atomic_folder
from luban.models import FAMILIES, hf
from luban.peft.opening import is_adapter
from luban.tokenizers.files import FileTokenizer
from luban.tokenizers.files import load as load_tokenizer
from luban.training.architecture import check_fit
from luban.training.learner import Learner, all_of
from luban.training.loop import stoppable
from luban.training.metrics import Bar, Log, Silent
from luban.training.parallel.spread import Spread, check, spread
from luban.training.parallel.whole import everywhere, gathered
from luban.training.parallel.world import ALONE, World
from luban.tuning.adapted import adapted

Iterate = Callable[[int], dict[str, float]]
"""One iteration, by its number from 1; returns its figures."""


@dataclass(kw_only=True)
class Rounds:
    """One run: who answers, who judges, what is asked."""

    title: str
    config: RewardedConfig
    policy: Any
    learner: Learner
    tokenizer: FileTokenizer
    judge: Judge
    order: PromptOrder
    held_out: Sequence[Prompt]
    device: torch.device
    world: World = ALONE

    def __post_init__(self) -> None:
        self.phases = Phases(self.world)

    @property
    def out(self) -> Path:
        return self.config.out

    def spread(self, model: Any) -> Spread:
        """`model`, alike on every process, as the processes are to hold it while it learns."""
        return spread(model, self.world, self.config.parallel)

    def run(
        self, iterate: Iterate, *, learning: Mapping[str, saved.Learning], kept: Mapping[str, saved.Kept]
    ) -> dict[str, Any]:
        """All iterations, or those that are left; returns the last figures, and writes `final/` and the curves."""
        loop, kept = self.config.loop, {**kept, "order": self.order}
        seed_copy(self.config.seed, self.world.place("dp"))
        first = saved.resume(self.out, learning=learning, kept=kept, world=self.world)
        self._open(first)
        figures = dict[str, float]()
        with self.log, self.bar, stoppable(alone=self.world.size == 1) as stop:
            results = self._evaluate(first) if first in (0, loop.max_steps) else {}
            for step in range(first + 1, loop.max_steps + 1):
                figures = self._told(step, iterate(step))
                if step == loop.max_steps or (loop.eval_steps and step % loop.eval_steps == 0):
                    results = self._evaluate(step)
                due = loop.save_steps and step % loop.save_steps == 0
                signalled = self.world.most(stop[0] if stop else 0)
                if due or signalled or step == loop.max_steps:
                    self._save(step, learning, kept)
                if signalled and step < loop.max_steps:
                    raise KeyboardInterrupt if signalled == signal.SIGINT else SystemExit(0)
        self._finish()
        return {**figures, **results, **self.phases.in_all(), "steps": loop.max_steps}

    def answered(self, step: int, *, prompts: int, times: int = 1) -> tuple[list[Answer], list[float]]:
        """`times` answers to each of the next prompts, and what each is worth; both are recorded."""
        told = self.config.rollout
        drawn_by = uniforms(self.config.seed, step, answers=prompts * times, max_tokens=told.max_tokens)
        mine = share(prompts, self.world)
        asked = self.order.take(prompts)[mine.start : mine.stop]
        with self.phases.during("answering"):
            numbers = drawn_by[mine.start * times : mine.stop * times]
            answers = self._answers(asked, temperature=told.temperature, times=times, drawn_by=numbers)
        with self.phases.during("scoring"):
            rewards = judged(self.judge, answers)
        answers, rewards = self.world.everyones(answers), self.world.everyones(rewards)
        self.record.write(step, answers, rewards)
        return answers, rewards

    def _answers(self, prompts: Sequence[Prompt], **how: Any) -> list[Answer]:
        policy = everywhere(self.policy, self.device)
        limit = self.config.rollout.max_tokens
        return answer_all(policy, prompts, tokenizer=self.tokenizer, max_tokens=limit, **how)

    def _open(self, first: int) -> None:
        """The record, the log and the bar of a run that goes on after iteration `first`; the main process has them."""
        if self.world.main:
            self.record, self.log = Record(self.out, resumed_at=first), Log(self.out, resumed_at=first)
            self.bar = Bar(self.title, total=self.config.loop.max_steps, done=first)
        else:
            self.record = self.log = self.bar = Silent()

    def _told(self, step: int, figures: dict[str, float]) -> dict[str, float]:
        figures = {**figures, "rollout/epochs": self.order.epochs, **self.phases.told()}
        self.log.write(step, figures)
        self.bar.step(step)
        self.bar.report(step, figures)
        return figures

    def _evaluate(self, step: int) -> dict[str, float]:
        """The mean worth of greedy answers to the held-out prompts, logged; nothing where there are none."""
        if not self.held_out:
            return {}
        mine = share(len(self.held_out), self.world)
        with self.phases.during("evaluating"):
            answers = self._answers(self.held_out[mine.start : mine.stop], temperature=0.0)
            rewards = judged(self.judge, answers) if answers else []
        answers, rewards = self.world.everyones(answers), self.world.everyones(rewards)
        for answer, reward in list(zip(answers, rewards, strict=True))[: self.config.loop.samples]:
            asked = str(answer.prompt.row["prompt"])[-60:]
            self.bar.say(f"step {step}: {asked} ▸{answer.text[:120]} ({reward:.3g})")
        results = {
            "val/reward": sum(rewards) / len(rewards),
            "val/finished": sum(answer.finished for answer in answers) / len(answers),
            "val/length": sum(len(answer.tokens) for answer in answers) / len(answers),
        }
        self.log.write(step, results)
        self.bar.report(step, results)
        return results

    def _save(
        self, step: int, learning: Mapping[str, saved.Learning], kept: Mapping[str, saved.Kept]
    ) -> None:
        with self.phases.during("saving"):
            saved.save(
                self.out,
                step,
                learning=learning,
                kept=kept,
                tokenizer=self.tokenizer,
                limit=self.config.loop.save_total_limit,
                world=self.world,
            )

    def _finish(self) -> None:
        whole = gathered(self.policy, self.world)
        if self.world.main:
            save_page(self.out)
            with atomic_folder(self.out / "final") as work:
                self.learner.finish(work, whole, self.tokenizer)
        self.world.wait()


def prepared(title: str, config: RewardedConfig, device: torch.device, world: World = ALONE) -> Rounds:
    """A run whose settings, rows and folders have been looked through, as a process of `world` takes part in it.

    Nothing is written. Raises ConfigError, DataError or ModelError for whatever cannot be.
    """
    check(config.parallel, world)
    if config.rollout.prompts < world.dp:
        what = f"{config.rollout.prompts} prompts are fewer than the {world.dp} processes that answer them"
        raise ConfigError(what, where="setting 'rollout.prompts'")
    if is_adapter(config.model):
        what = "the model is an adapter's folder: which of the two would the reference be?"
        raise ConfigError(what, where="setting 'model'", hint="luban merge puts it into its base first")
    tokenizer, shape = load_tokenizer(config.model), hf.load_config(config.model)
    if FAMILIES[shape.model_type].kind != "causal":
        raise ConfigError(f"'{shape.model_type}' models write no answers", where="setting 'model'")
    check_fit(shape, tokenizer, max_length=config.rollout.max_tokens)
    judge = open_judge(config.reward, tokenizer, device=device)

    def prompts(paths: Sequence[Path]) -> list[Prompt]:
        window = shape.context - config.rollout.max_tokens
        return read_prompts(paths, tokenizer, window=window, plain=config.plain, check=judge.check)

    order = PromptOrder(prompts(config.data), seed=config.seed)
    held_out = prompts(config.validation) if config.validation else []
    policy = hf.load(config.model).to(device)
    learner = adapted(policy, config.peft, base=config.model, parallel=config.parallel) or all_of(policy)
    return Rounds(
        title=title,
        config=config,
        policy=policy,
        learner=learner,
        tokenizer=tokenizer,
        judge=judge,
        order=order,
        held_out=held_out,
        device=device,
        world=world,
    )
