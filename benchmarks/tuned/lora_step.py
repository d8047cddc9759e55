"""One LoRA step of rank 8 on queries and values, forward to optimizer: Luban beside peft in transformers' Trainer.

`m` is config M (134 M random weights, 4 rows of 512), `real` SmolLM2-135M with the same rows, `s` config S (17 M, 4
rows of 256), `tiny` for trying out. `peft+malloc` has Luban's allocator settings too.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.tuned import turns

SHAPES: dict[str, dict[str, Any]] = {
    "m": {"layers": 12, "dim": 768, "heads": 12, "hidden": 2048, "vocab": 32000, "context": 512},
    "s": {"layers": 6, "dim": 384, "heads": 6, "hidden": 1024, "vocab": 8192, "context": 256},
    "tiny": {"layers": 2, "dim": 64, "heads": 2, "hidden": 176, "vocab": 512, "context": 64},
}
SIZES = (*SHAPES, "real")
ROWS = 4
RANK, ALPHA, RATE = 8, 16, 3e-4
SIDES = ("luban", "peft", "peft+malloc")


def length(size: str) -> int:
    """Tokens in a row."""
    return SHAPES.get(size, SHAPES["m"])["context"]


def luban(size: str) -> Callable[[], int]:
    """A step of Luban's own updater on an adapted model."""
    from luban.data.batch import Batch
    from luban.models import hf
    from luban.models.llama import LlamaConfig
    from luban.peft import lora
    from luban.training.trial import updater

    place = torch.device("cpu")
    if size == "real":
        model: Any = hf.load(folder(), device=place)
    else:
        model = hf.build(LlamaConfig(**SHAPES[size], tied=False), device=place)
    lora.apply(model, lora.LoraConfig(r=RANK, lora_alpha=ALPHA))
    seq = length(size)
    tokens = torch.randint(0, model.config.vocab, (ROWS, seq + 1))
    batch = Batch(
        tokens=tokens[:, :-1].contiguous(),
        targets=tokens[:, 1:].contiguous(),
        positions=torch.arange(seq).expand(ROWS, seq).contiguous(),
        documents=torch.zeros(ROWS, seq, dtype=torch.int64),
        ids=[],
        packed=False,
    )
    ours = updater(model)

    def step() -> int:
        ours.update([batch], learning_rate=RATE)
        return ROWS * seq

    return step


def peft(size: str) -> Callable[[], int]:
    """A step of the Trainer on a model of peft."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    base = (
        AutoModelForCausalLM.from_pretrained(folder(), dtype=torch.float32)
        if size == "real"
        else theirs(size)
    )
    tokens = torch.randint(0, base.config.vocab_size, (ROWS, length(size)))
    batch = {"input_ids": tokens, "labels": tokens}
    step = trainer_step(get_peft_model(base, config))

    def counted() -> int:
        step(batch)
        return tokens.numel()

    return counted


def theirs(size: str) -> Any:
    """transformers' model of a shape, with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = SHAPES[size]
    config = LlamaConfig(
        num_hidden_layers=shape["layers"],
        hidden_size=shape["dim"],
        num_attention_heads=shape["heads"],
        num_key_value_heads=shape["heads"],
        intermediate_size=shape["hidden"],
        vocab_size=shape["vocab"],
        max_position_embeddings=shape["context"],
        tie_word_embeddings=False,
    )
    return LlamaForCausalLM(config)


def trainer_step(model: Any) -> Callable[[dict[str, torch.Tensor]], None]:
    """The Trainer's own step and its optimizer's, on a batch that its loader could have given."""
    from transformers import Trainer, TrainingArguments

    threads = torch.get_num_threads()
    arguments = TrainingArguments(
        output_dir=tempfile.mkdtemp(),
        optim="adamw_torch_fused",
        learning_rate=RATE,
        max_steps=1_000_000,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
        logging_strategy="no",
        use_cpu=True,
    )
    torch.set_num_threads(threads)
    trainer: Any = Trainer(model=model, args=arguments)
    trainer.create_optimizer_and_scheduler(num_training_steps=1_000_000)
    trainer.current_gradient_accumulation_steps = 1
    trainer.model_wrapped, trainer.optimizer = trainer.accelerator.prepare(model, trainer.optimizer)

    def step(batch: dict[str, torch.Tensor]) -> None:
        loss = trainer.training_step(trainer.model_wrapped, batch)
        trainer.accelerator.clip_grad_norm_(model.parameters(), 1.0)
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
        model.zero_grad()
        loss.item()

    return step


def folder() -> str:
    """The real model's."""
    from luban.fetch import fetch_known

    return str(fetch_known("smollm2"))


def start(side: str, threads: int) -> None:
    """Threads, seed and, for who has it, the allocator of Luban's training."""
    from luban.device import reuse_memory

    if side != "peft":
        reuse_memory()
    torch.set_num_threads(threads)
    torch.manual_seed(0)


if __name__ == "__main__":
    name, size_named, threads_told, *more = sys.argv[1:]
    start(name, int(threads_told))
    turns.serve((luban if name == "luban" else peft)(size_named), cpu=turns.CPU in more)
