"""The peers' sides, which their own Python runs: TRL's PPOTrainer and GRPOTrainer, and transformers' `generate`.

A trainer's loop is one function; a callback at each step's end tells how long it took and waits for its next turn.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.aligned.setting import ANSWER, GROUP, PROMPT, RATE, ROWS, prompts, worth
from benchmarks.tuned import turns

LONG = 1_000_000
QUIET: dict[str, Any] = {
    "report_to": [],
    "save_strategy": "no",
    "disable_tqdm": True,
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "logging_strategy": "no",
}


def ppo(folder: Path, out: Path) -> Callable[[Any], Any]:
    """A PPOTrainer of random weights, to be given its callback."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    tokenizer = AutoTokenizer.from_pretrained(folder / "policy", padding_side="left")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    policy, reference = (
        AutoModelForCausalLM.from_pretrained(folder / "policy", dtype=torch.float32) for _ in range(2)
    )
    reward, value = (
        AutoModelForSequenceClassification.from_pretrained(
            folder / "reward", dtype=torch.float32, num_labels=1
        )
        for _ in range(2)
    )
    rows = [{"input_ids": tokenizer(text)["input_ids"]} for text in prompts(folder)]
    assert all(len(row["input_ids"]) == PROMPT for row in rows), "the prompts' length is not theirs"
    config = PPOConfig(
        output_dir=str(out),
        per_device_train_batch_size=ROWS,
        gradient_accumulation_steps=1,
        num_mini_batches=1,
        num_ppo_epochs=1,
        local_rollout_forward_batch_size=ROWS,
        response_length=ANSWER,
        total_episodes=LONG,
        num_sample_generations=0,
        learning_rate=RATE,
        temperature=1.0,
        **QUIET,
    )
    return lambda callback: PPOTrainer(
        args=config,
        processing_class=tokenizer,
        model=policy,
        ref_model=reference,
        reward_model=reward,
        value_model=value,
        train_dataset=Dataset.from_list(rows),
        eval_dataset=Dataset.from_list(rows[:ROWS]),
        callbacks=[callback],
    )


def grpo(folder: Path, out: Path) -> Callable[[Any], Any]:
    """A GRPOTrainer, to be given its callback."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    tokenizer = AutoTokenizer.from_pretrained(folder / "policy", padding_side="left")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    policy = AutoModelForCausalLM.from_pretrained(folder / "policy", dtype=torch.float32)

    def worths(completions: list[str], **_: Any) -> list[float]:
        return [worth(text) for text in completions]

    config = GRPOConfig(
        output_dir=str(out),
        per_device_train_batch_size=ROWS,
        num_generations=GROUP,
        max_completion_length=ANSWER,
        max_steps=LONG,
        learning_rate=RATE,
        temperature=1.0,
        **QUIET,
    )
    return lambda callback: GRPOTrainer(
        model=policy,
        reward_funcs=worths,
        args=config,
        processing_class=tokenizer,
        train_dataset=Dataset.from_list([{"prompt": text} for text in prompts(folder)]),
        callbacks=[callback],
    )


def generate(folder: Path) -> Callable[[], int]:
    """`ROWS` answers of `generate`."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder / "policy")
    policy: Any = AutoModelForCausalLM.from_pretrained(folder / "policy", dtype=torch.float32).eval()
    policy.generation_config.eos_token_id = None
    tokens = torch.tensor([tokenizer(text)["input_ids"] for text in prompts(folder)[:ROWS]])
    told = {"do_sample": True, "top_k": 0, "max_new_tokens": ANSWER, "pad_token_id": 0}

    def work() -> int:
        with torch.inference_mode():
            made = policy.generate(tokens, attention_mask=torch.ones_like(tokens), **told)
        return made[:, PROMPT:].numel()

    return work


def stepped(trainer: Callable[[Any], Any]) -> Callable[[], int]:
    """One step of a trainer for each call; its loop waits in a thread of its own."""
    from transformers import TrainerCallback

    turn, done = queue.Queue[int](), queue.Queue[int]()

    class Waits(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            done.put(ROWS * (PROMPT + ANSWER))
            turn.get()

    def loop() -> None:
        turn.get()
        threads = torch.get_num_threads()
        made = trainer(Waits())
        torch.set_num_threads(threads)
        made.train()

    threading.Thread(target=loop, daemon=True).start()

    def work() -> int:
        turn.put(1)
        return done.get()

    return work


def side(name: str, folder: Path, out: Path) -> Callable[[], int]:
    """The work of a side."""
    if name == "generate":
        return generate(folder)
    return stepped((ppo if name == "trl-ppo" else grpo)(folder, out))


if __name__ == "__main__":
    named, folder_told, out_told, threads_told, *switches = sys.argv[1:]
    torch.set_num_threads(int(threads_told))
    torch.manual_seed(0)
    turns.serve(side(named, Path(folder_told), Path(out_told) / named), cpu=turns.CPU in switches)
