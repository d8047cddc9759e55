"""The outer loop of learning from rewards, once: PPO and GRPO say what an iteration learns, this does the rest.

The life of an iteration: (1) the next prompts are answered, (2) the answers are judged and recorded, (3) the stage
learns from them, (4) the log and the bar report, (5) at their steps: greedy answers to held-out prompts, a checkpoint.
Interrupted, the same call goes on from the last checkpoint, bit for bit, and answers no prompt a second time.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
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
from luban.alignment.rollout import Answer, answer_all
from luban.errors import ConfigError
from luban.folder import atomic_folder
from luban.models import FAMILIES, hf
from luban.peft.opening import is_adapter
from luban.tokenizers.files import FileTokenizer
from luban.tokenizers.files import load as load_tokenizer
from luban.training.architecture import check_fit
from luban.training.learner import Learner, Whole
from luban.training.loop import stoppable
from luban.training.metrics import Bar, Log
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
    phases: Phases = field(default_factory=Phases)

    @property
    def out(self) -> Path:
        return self.config.out

    def run(self, iterate: Iterate, kept: Mapping[str, saved.Kept]) -> dict[str, Any]:
        """All iterations, or those that are left; returns the last figures, and writes `final/` and the curves."""
        loop, kept = self.config.loop, {**kept, "order": self.order}
        first = saved.resume(self.out, policy=self.policy, learner=self.learner, kept=kept)
        self.record = Record(self.out, resumed_at=first)
        self.log, figures = Log(self.out, resumed_at=first), dict[str, float]()
        self.bar = Bar(self.title, total=loop.max_steps, done=first)
        with self.log, self.bar, stoppable() as stop:
            results = self._evaluate(first) if first in (0, loop.max_steps) else {}
            for step in range(first + 1, loop.max_steps + 1):
                figures = self._told(step, iterate(step))
                if step == loop.max_steps or (loop.eval_steps and step % loop.eval_steps == 0):
                    results = self._evaluate(step)
                due = loop.save_steps and step % loop.save_steps == 0
                if due or stop or step == loop.max_steps:
                    self._save(step, kept)
                if stop and step < loop.max_steps:
                    raise KeyboardInterrupt if stop[0] == signal.SIGINT else SystemExit(0)
        save_page(self.out)
        with atomic_folder(self.out / "final") as work:
            self.learner.finish(work, self.policy, self.tokenizer)
        seconds = {f"seconds/{phase}": round(spent, 2) for phase, spent in self.phases.totals.items()}
        return {**figures, **results, **seconds, "steps": loop.max_steps}

    def answered(self, step: int, *, prompts: int, times: int = 1) -> tuple[list[Answer], list[float]]:
        """`times` answers to each of the next prompts, and what each is worth; both are recorded."""
        told = self.config.rollout
        with self.phases.during("answering"):
            answers = answer_all(
                self.policy,
                self.order.take(prompts),
                tokenizer=self.tokenizer,
                max_tokens=told.max_tokens,
                temperature=told.temperature,
                times=times,
            )
        with self.phases.during("scoring"):
            rewards = judged(self.judge, answers)
        self.record.write(step, answers, rewards)
        return answers, rewards

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
        with self.phases.during("evaluating"):
            limit = self.config.rollout.max_tokens
            told: dict[str, Any] = {"tokenizer": self.tokenizer, "max_tokens": limit, "temperature": 0.0}
            answers = answer_all(self.policy, self.held_out, **told)
            rewards = judged(self.judge, answers)
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

    def _save(self, step: int, kept: Mapping[str, saved.Kept]) -> None:
        with self.phases.during("saving"):
            saved.save(
                self.out,
                step,
                policy=self.policy,
                learner=self.learner,
                tokenizer=self.tokenizer,
                kept=kept,
                limit=self.config.loop.save_total_limit,
            )


def prepared(title: str, config: RewardedConfig, device: torch.device) -> Rounds:
    """A run whose settings, rows and folders have been looked through; nothing is written.

    Raises ConfigError, DataError or ModelError for whatever cannot be.
    """
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
    learner = adapted(policy, config.peft, base=config.model) or Whole()
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
    )
