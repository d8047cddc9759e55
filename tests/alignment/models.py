"""What the tests of alignment share: a tiny policy in a folder, rows of prompts, and rewards to be had at once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from luban.alignment.prompts import Prompt, read_prompts
from luban.training.checkpoint import write_model_folder
from tests import tiny

ASKED = ("one", "two words", "three more words", "a", "and the fifth", "six", "seven?", "eight!")


def write_policy(folder: Path, *, seed: int = 0, **changes: Any) -> Path:
    """A random tiny LLaMA with the tiny tokenizer, in a model folder."""
    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    write_model_folder(folder, tiny.llama(**changes), tiny.tokenizer())
    return folder


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_prompts(path: Path) -> Path:
    """Rows of a few prompts, with an answer that a verifier can compare with."""
    return write_rows(path, [{"prompt": asked, "answer": "7"} for asked in ASKED])


def prompts(path: Path, *, window: int = 40) -> list[Prompt]:
    return read_prompts([write_prompts(path / "prompts.jsonl")], tiny.tokenizer(), window=window)


SHORT_IS_GOOD = '''
def shortness(rows, answers):
    """Short answers are worth more."""
    return [-len(answer) / 10 for answer in answers]

def wrong_count(rows, answers):
    return [1.0]

def not_a_number(rows, answers):
    return [float("nan")] * len(answers)
'''


def write_function(path: Path) -> Path:
    path.write_text(SHORT_IS_GOOD, encoding="utf-8")
    return path
