"""llama.cpp on the files that Luban writes: the same ids of a text, the same logits, the same greedy tokens.

`llama_cpp` is built from source, so it is no dependency; `LUBAN_LLAMA_CPP` names a Python that has it.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from luban.fetch import fetch_known
from luban.gguf import write
from luban.models import hf
from luban.nn.rope_scaling import RopeScaling
from luban.tokenizers import files
from luban.tokenizers.files import FileTokenizer
from luban.tokenizers.train import train_bpe
from tests import tiny

TEXTS = (
    *tiny.TEXTS[:5],
    "It's we'LL  they'Re 1 23 456 7890 3.14\r\n\r\n\tgo.   \n \n x",
    "<|im_start|>user <|endoftext|> def f(x):\n    return x**2  # 注释 👨‍👩‍👧",
    "",
)


@functools.cache
def python() -> str:
    """A Python that has llama.cpp, or the reason why there is none."""
    found = os.environ.get("LUBAN_LLAMA_CPP", sys.executable)
    tried = subprocess.run([found, "-c", "import llama_cpp"], capture_output=True, check=False)
    return found if tried.returncode == 0 else ""


def ask(file: Path, *, prompt: list[int], new: int, context: int) -> dict[str, Any]:
    if not python():
        pytest.skip("needs llama_cpp: pip install llama-cpp-python, or LUBAN_LLAMA_CPP=a Python that has it")
    script = Path(__file__).parent / "llama_cpp_answers.py"
    asked = {"file": str(file), "texts": TEXTS, "prompt": prompt, "new": new, "context": context}
    told = subprocess.run(
        [python(), str(script)], input=json.dumps(asked), capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stderr
    return json.loads(told.stdout)


@torch.no_grad()
def greedy(model: Any, prompt: list[int], new: int) -> list[int]:
    ids = list(prompt)
    for _ in range(new):
        ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    return ids[len(prompt) :]


def peaked(model: Any) -> Any:
    """The model with larger weights: its first choice is ahead of the second by more than rounding."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 2 and "embedding" not in name:
                weight.mul_(3)
    return model.eval()


FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "tied": {"tied": True},
    "qwen2": {"model_type": "qwen2"},
    "qwen3": {"model_type": "qwen3", "head_dim": 16},
    "linear": {"rope_scaling": RopeScaling(kind="linear", factor=2.0)},
    "llama3": {"rope_theta": 500_000.0, "rope_scaling": RopeScaling(kind="llama3", factor=8.0)},
    "yarn": {"rope_scaling": RopeScaling(kind="yarn", factor=4.0, original_context=16)},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", [*FAMILIES, "gpt2"])
def test_a_family_has_llama_cpps_logits_and_greedy_tokens(name: str, tmp_path: Path) -> None:
    torch.manual_seed(3)
    model = peaked(tiny.gpt2() if name == "gpt2" else tiny.llama(**FAMILIES[name]))
    write.write(model, tiny.tokenizer(), tmp_path / "model.gguf", "f32", name=name)
    prompt = torch.randint(384, (24,)).tolist()
    told = ask(tmp_path / "model.gguf", prompt=prompt, new=16, context=64)
    with torch.no_grad():
        own = model(torch.tensor([prompt]))[0]
    # Keys and values are in 16 bits there, and GPT-2's activation comes out of a table.
    assert (torch.tensor(told["logits"]) - own).abs().max() < 0.01 * own.std()
    assert told["greedy"] == greedy(model, prompt, 16)


def with_pattern(pattern: Any) -> FileTokenizer:
    return train_bpe(tiny.TEXTS, vocab=384, pattern=pattern)


@pytest.mark.slow
@pytest.mark.parametrize("pattern", ["gpt2", "llama3", "bos"])
def test_a_vocabulary_cuts_texts_in_llama_cpp_as_it_does_here(pattern: str, tmp_path: Path) -> None:
    tokenizer = tiny.with_bos("{{ messages }}") if pattern == "bos" else with_pattern(pattern)
    torch.manual_seed(0)
    write.write(tiny.llama().eval(), tokenizer, tmp_path / "model.gguf", "f32", name="tiny")
    told = ask(tmp_path / "model.gguf", prompt=[5], new=1, context=64)
    ids = tokenizer.encode_batch(list(TEXTS))
    assert told["ids"] == ids
    begin = [tokenizer.bos_id] if tokenizer.adds_bos else []
    assert told["begun"] == [[*begin, *own] for own in ids]


@pytest.mark.slow
def test_the_real_model_speaks_the_same_greedy_tokens_in_llama_cpp(tmp_path: Path) -> None:
    folder = fetch_known("smollm2")
    model, tokenizer = hf.load(folder).eval(), files.load(folder)
    write.write(model, tokenizer, tmp_path / "model.gguf", "f32", name="smollm2")
    prompt = tokenizer.encode("The master builder looked at the beam for a long time, then he said")
    told = ask(tmp_path / "model.gguf", prompt=prompt, new=24, context=256)
    assert told["ids"] == tokenizer.encode_batch(list(TEXTS))
    assert told["greedy"] == greedy(model, prompt, 24)
