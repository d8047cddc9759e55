"""Encoder-decoders behind the language model's face, and kinds of models that cannot write."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from luban.errors import PromptError
from luban.inference.generate import generate_tokens
from luban.inference.local import LocalLM, open_lm
from luban.inference.reading import beginnings, read_prompts
from luban.lm import Sampling
from luban.models import FAMILIES, hf
from luban.models.transformer import Transformer, TransformerConfig
from luban.training.checkpoint import write_model_folder
from tests import tiny
from tests.inference.test_generate import loud

GREEDY = Sampling(temperature=0, max_tokens=6, ignore_eos=True)


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(1)
    numbers: dict[str, Any] = {"vocab": 384, "dim": 32, "layers": 2, "heads": 4, "context": 24}
    return loud(Transformer(TransformerConfig(**numbers, decoder_start_id=1)))


def uncached_greedy(model: Any, source: list[int], count: int) -> list[int]:
    tokens = [1]
    for _ in range(count):
        tokens.append(int(model(torch.tensor([source]), torch.tensor([tokens]))[0, -1].argmax()))
    return tokens[1:]


def test_greedy_answers_are_the_argmax_of_uncached_forwards_for_sources_of_any_length(model: Any) -> None:
    sources = [[5, 300, 17], [8], [44, 2, 9, 9, 70]]
    made = generate_tokens(
        read_prompts(model, sources),
        beginnings(model, 3),
        [GREEDY] * 3,
        tokenizer=tiny.tokenizer(),
        stop_ids=frozenset(),
    )
    assert [one.tokens for one in made] == [uncached_greedy(model, source, 6) for source in sources]


def test_a_prompt_is_read_with_an_end_token_and_counted(model: Any) -> None:
    lm, tokenizer = LocalLM(model, tiny.tokenizer(), name="tiny"), tiny.tokenizer()
    (made,) = lm.generate(["The quick"], GREEDY)
    source = [*tokenizer.encode("The quick"), tokenizer.eos_id]
    assert made.tokens == uncached_greedy(model, source, 6)
    assert made.prompt_tokens == len(source)


@pytest.mark.parametrize("beams", [1, 3])
def test_a_streamed_chat_is_the_same_answer(model: Any, beams: int) -> None:
    lm = LocalLM(model, tiny.tokenizer(), name="tiny")
    sampling = Sampling(temperature=0, max_tokens=6, beams=beams)
    (made,) = lm.chat([[{"role": "user", "content": "Hi"}]], sampling)
    assert "".join(lm.stream([{"role": "user", "content": "Hi"}], sampling)) == made.text


def test_transformers_gives_the_same_answers_out_of_a_folder_that_we_wrote(tmp_path: Path) -> None:
    torch.manual_seed(2)
    shape: dict[str, Any] = {"vocab_size": 384, "d_model": 16, "max_position_embeddings": 32, "init_std": 0.5}
    shape |= {
        f"{side}_{name}": 2 for side in ("encoder", "decoder") for name in ("layers", "attention_heads")
    }
    shape |= {"encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "forced_eos_token_id": None}
    config = transformers.BartConfig(**shape, decoder_start_token_id=7)
    transformers.BartForConditionalGeneration(config).save_pretrained(tmp_path / "theirs")
    tokenizer = tiny.tokenizer()
    write_model_folder(tmp_path, hf.load(tmp_path / "theirs"), tokenizer)
    theirs: Any = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path).eval()
    source = [*tokenizer.encode("The quick"), tokenizer.eos_id]
    expected = theirs.generate(torch.tensor([source]), max_new_tokens=6, do_sample=False, num_beams=1)
    (made,) = open_lm(str(tmp_path)).generate(["The quick"], Sampling(temperature=0, max_tokens=6))
    assert [7, *made.tokens] == expected[0, : len(made.tokens) + 1].tolist()


def test_a_source_without_tokens_is_refused(model: Any) -> None:
    with pytest.raises(PromptError, match="the prompt is empty"):
        read_prompts(model, [[5], []])


@pytest.mark.parametrize("deed", ["generate", "stream", "score"])
def test_a_model_that_fills_in_words_is_refused_with_the_families_that_write(
    deed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FAMILIES, "llama", dataclasses.replace(FAMILIES["llama"], kind="masked"))
    lm = LocalLM(tiny.llama(), tiny.tokenizer(), name="tiny")
    calls = {
        "generate": lambda: lm.generate(["a"], GREEDY),
        "stream": lambda: lm.stream([{"role": "user", "content": "Hi"}], GREEDY),
        "score": lambda: lm.score([("a", "b")]),
    }
    with pytest.raises(
        PromptError, match=r"'llama' model cannot .* of the kind 'masked'\n.*luban fill-mask.*gpt2"
    ):
        calls[deed]()
