"""What all sides start from: a random S-sized policy, a reward model, prompts of exactly 64 tokens, all as files.

Imports nothing but what a peer's Python has too.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

SHAPE: dict[str, Any] = {"layers": 6, "dim": 384, "heads": 6, "hidden": 1024, "vocab": 8192, "context": 256}
TINY: dict[str, Any] = {"layers": 2, "dim": 64, "heads": 2, "hidden": 128, "vocab": 512, "context": 256}
ROWS, PROMPT, ANSWER = 32, 64, 64
GROUP = 8
"""Answers to a prompt where they are compared: 4 prompts, 32 answers."""
RATE, CRITIC_RATE = 1e-5, 1e-5
PROMPTS = "prompts.jsonl"
COUNT = 256


def make(folder: Path, *, tiny: bool = False) -> None:
    """Write `policy/`, `reward/` and `prompts.jsonl`; needs Luban."""
    import torch

    from luban.models.classifier import Classifier
    from luban.models.llama import Llama, LlamaConfig
    from luban.tokenizers.train import train_bpe
    from luban.training.checkpoint import write_model_folder

    drawn, shape = random.Random(0), TINY if tiny else SHAPE
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(drawn.choices(letters, k=drawn.randint(3, 9))) for _ in range(6000)]
    texts = [" ".join(drawn.choices(words, k=40)) for _ in range(1500)]
    tokenizer = train_bpe(texts, vocab=shape["vocab"])
    torch.manual_seed(0)
    for name in ("policy", "reward"):
        model: Any = Llama(LlamaConfig(**shape, eos_id=tokenizer.eos_id, tied=True))
        (folder / name).mkdir(parents=True)
        write_model_folder(folder / name, Classifier(model, 1) if name == "reward" else model, tokenizer)
    found: list[str] = []
    while len(found) < COUNT:
        text = tokenizer.decode(tokenizer.encode(" ".join(drawn.choices(words, k=80)))[:PROMPT])
        if len(tokenizer.encode(text)) == PROMPT:
            found.append(text)
    rows = "".join(json.dumps({"prompt": text}) + "\n" for text in found)
    (folder / PROMPTS).write_text(rows, encoding="utf-8")


def prompts(folder: Path) -> list[str]:
    """The texts of `prompts.jsonl`."""
    lines = (folder / PROMPTS).read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["prompt"] for line in lines]


def worth(text: str) -> float:
    """A reward that costs nothing, where groups are compared."""
    return text.count("a") / (1 + len(text))
