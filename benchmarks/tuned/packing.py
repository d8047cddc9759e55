"""Tuning on texts as long as real ones are: Luban's packed rows beside padded ones.

The texts are film reviews, sentences and whole ones (half have under 190 tokens, a tenth over 540), cut at 512. All
sides take the same ones, learn every token with LoRA on SmolLM2-135M, and count the texts' own tokens only. The
Trainer pads to the longest text of a batch, Luban's own loader without packing to the full row.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.tuned import turns
from benchmarks.tuned.lora_step import ALPHA, RANK, RATE, folder, start, trainer_step
from benchmarks.tuned.reviews import reviews

SIDES = ("packed", "padded", "peft", "peft+malloc")
"""Luban both ways, and the Trainer, which pads."""
LONGEST, IN_A_BATCH = 512, 8
Ids = list[int]


def texts(rows: int) -> list[Ids]:
    """Ids of so many reviews."""
    from luban.tokenizers.files import load

    tokenizer = load(Path(folder()))
    return [ids[:LONGEST] for ids in tokenizer.encode_batch([row["text"] for row in reviews()[:rows]])]


def luban(rows: list[Ids], *, packed: bool) -> Callable[[], int]:
    """An update for each batch: one row of several conversations, or a padded batch of some."""
    from luban.data.loader import Loader, Source
    from luban.models import hf
    from luban.peft import lora
    from luban.training.trial import updater

    model: Any = hf.load(Path(folder()), device=torch.device("cpu"))
    lora.apply(model, lora.LoraConfig(r=RANK, lora_alpha=ALPHA))
    ours = updater(model)
    examples = [(np.array(ids), None) for ids in rows]

    def batches() -> Iterator[Any]:
        loader = Loader(
            [Source(examples=examples, name="reviews")],
            batch=4 if packed else IN_A_BATCH,
            context=LONGEST,
            seed=0,
            packing="pack" if packed else "pad",
            split_documents=False,
            epochs=1,
            rank=0,
            world=1,
        )
        yield from loader

    def epoch() -> int:
        for batch in batches():
            ours.update([batch], learning_rate=RATE)
        return sum(map(len, rows))

    return epoch


def peft(rows: list[Ids]) -> Callable[[], int]:
    """The Trainer's steps on batches that are padded to their longest row."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    step = trainer_step(
        get_peft_model(AutoModelForCausalLM.from_pretrained(folder(), dtype=torch.float32), config)
    )

    def epoch() -> int:
        for first in range(0, len(rows), IN_A_BATCH):
            step(padded(rows[first : first + IN_A_BATCH]))
        return sum(map(len, rows))

    return epoch


def padded(rows: list[Ids]) -> dict[str, torch.Tensor]:
    """A batch as the usual collator makes it."""
    longest = max(map(len, rows))
    ids = [row + [0] * (longest - len(row)) for row in rows]
    labels = [row + [-100] * (longest - len(row)) for row in rows]
    mask = [[1] * len(row) + [0] * (longest - len(row)) for row in rows]
    return {
        "input_ids": torch.tensor(ids),
        "labels": torch.tensor(labels),
        "attention_mask": torch.tensor(mask),
    }


if __name__ == "__main__":
    name, rows_told, threads_told, *more = sys.argv[1:]
    start(name, int(threads_told))
    drawn = texts(int(rows_told))
    made = peft(drawn) if name.startswith("peft") else luban(drawn, packed=name == "packed")
    turns.serve(made, cpu=turns.CPU in more)
