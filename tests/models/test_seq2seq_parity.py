"""BART's and T5's logits against `transformers`', in every way an encoder-decoder is called."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from luban.errors import ModelError
from luban.models import hf
from luban.models.seq2seq import Seq2Seq, Source
from luban.training.answers import Halves, Sides, learn_targets
from tests.models.seq2seq_references import CONFIGS, logits_of, reference, tokens_of

SOURCE, SEQ = 14, 11


@pytest.fixture(params=CONFIGS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def load(name: str) -> tuple[Any, Seq2Seq]:
    """The reference and ours; a head of its own is told as T5 1.1's published files do."""
    theirs, folder = reference(name)
    if name != "t5 own head":
        return theirs, hf.load(folder)
    published = folder.parent / "published"
    shutil.copytree(folder, published, dirs_exist_ok=True)
    entries = json.loads((published / "config.json").read_text(encoding="utf-8"))
    (published / "config.json").write_text(
        json.dumps(entries | {"tie_word_embeddings": False}), encoding="utf-8"
    )
    return theirs, hf.load(published)


def assert_same(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


@torch.no_grad()
def in_chunks(model: Seq2Seq, source: Source, tokens: torch.Tensor, sizes: list[int]) -> torch.Tensor:
    cache = model.make_cache(source, batch=len(tokens), capacity=tokens.shape[1])
    logits, start = [], 0
    for size in sizes:
        positions = torch.arange(start, start + size)[None]
        states = model.hidden(tokens[:, start : start + size], source, positions, cache)
        logits.append(model.logits(states))
        for slot in cache:
            slot.advance(size)
        start += size
    return torch.cat(logits, 1)


@torch.no_grad()
def test_plain_logits_equal_transformers(name: str) -> None:
    theirs, model = load(name)
    source, tokens = tokens_of(2, SOURCE), tokens_of(2, SEQ, seed=2)
    assert_same(model(source, tokens), logits_of(theirs, source, tokens))


@pytest.mark.parametrize("sizes", [[1] * SEQ, [4, 1, 6]])
def test_logits_with_a_cache_equal_transformers(name: str, sizes: list[int]) -> None:
    theirs, model = load(name)
    source, tokens = tokens_of(2, SOURCE), tokens_of(2, SEQ, seed=2)
    with torch.no_grad():
        read = model.encode(source)
    assert_same(in_chunks(model, read, tokens, sizes), logits_of(theirs, source, tokens))


@torch.no_grad()
def test_padded_sources_equal_transformers_with_an_attention_mask(name: str) -> None:
    theirs, model = load(name)
    source, tokens = tokens_of(3, SOURCE), tokens_of(3, SEQ, seed=2)
    valid = torch.arange(SOURCE) < torch.tensor([SOURCE, 5, 9])[:, None]
    expected = logits_of(theirs, source, tokens, attention_mask=valid.long())
    assert_same(model(source, tokens, valid), expected)
    assert_same(in_chunks(model, model.encode(source, valid), tokens, [3, 1, 7]), expected)


@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_a_row_of_a_padded_batch_is_as_if_alone(name: str, side: str) -> None:
    _, model = load(name)
    lengths = [3, 9, 6]
    texts, tokens = [tokens_of(1, n, seed=n) for n in lengths], tokens_of(3, SEQ, seed=2)
    source, valid = torch.zeros(3, 9, dtype=torch.long), torch.zeros(3, 9, dtype=torch.bool)
    for row, (text, length) in enumerate(zip(texts, lengths, strict=True)):
        place = slice(0, length) if side == "right" else slice(9 - length, 9)
        source[row, place], valid[row, place] = text[0], True
    batched = model(source, tokens, valid)
    for row, text in enumerate(texts):
        torch.testing.assert_close(batched[row], model(text, tokens[row][None])[0], atol=1e-5, rtol=1e-5)


def test_gradients_equal_transformers(name: str) -> None:
    theirs, model = load(name)
    source, tokens = tokens_of(2, SOURCE), tokens_of(2, SEQ, seed=2)
    model(source, tokens).logsumexp(-1).sum().backward()
    theirs.zero_grad()
    theirs(input_ids=source, decoder_input_ids=tokens).logits.logsumexp(-1).sum().backward()
    expected = theirs.get_input_embeddings().weight.grad
    torch.testing.assert_close(model.embedding.weight.grad, expected, atol=1e-3, rtol=1e-3)


@torch.no_grad()
def test_what_we_save_transformers_loads_with_the_same_logits(name: str, tmp_path: Path) -> None:
    _, model = load(name)
    hf.save(model, tmp_path)
    loaded: Any = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path, output_loading_info=True)
    theirs, report = loaded
    assert not any(report.values()), report
    source, tokens = tokens_of(2, SOURCE), tokens_of(2, SEQ, seed=2)
    assert_same(model(source, tokens), logits_of(theirs.eval(), source, tokens))


def test_loading_what_was_saved_is_the_identity(name: str, tmp_path: Path) -> None:
    _, model = load(name)
    hf.save(model, tmp_path)
    again = hf.load(tmp_path)
    assert again.config == model.config
    assert model.state_dict().keys() == again.state_dict().keys()
    for key, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key


@torch.no_grad()
def test_generate_gives_the_tokens_of_transformers(name: str) -> None:
    theirs, model = load(name)
    source = tokens_of(1, SOURCE)
    start = model.config.decoder_start_id
    expected = theirs.generate(
        source, max_new_tokens=8, min_new_tokens=8, do_sample=False, num_beams=1,
        decoder_start_token_id=start, forced_eos_token_id=None,
    )  # fmt: skip
    decoder = model.given(model.encode(source))
    cache, tokens = decoder.make_cache(batch=1, capacity=9), [start]
    for place in range(8):
        states = decoder.hidden(torch.tensor([tokens[-1:]]), torch.tensor([[place]]), cache)
        for slot in cache:
            slot.advance(1)
        logits = decoder.head(states[0, -1])
        logits[model.config.eos_id] = -torch.inf  # as `min_new_tokens` does
        tokens.append(int(logits.argmax()))
    assert tokens == expected[0].tolist()


@pytest.mark.parametrize("copy", ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"])
def test_a_repeated_embedding_is_read_and_another_one_refused(name: str, copy: str, tmp_path: Path) -> None:
    _, model = load(name)
    hf.save(model, tmp_path)
    full = f"model.{copy}" if name.startswith("bart") else copy
    edit(tmp_path, lambda weights: weights.update({full: model.embedding.weight.detach().clone()}))
    hf.load(tmp_path)
    edit(tmp_path, lambda weights: weights[full].add_(1))
    with pytest.raises(ModelError, match=f"'{full}' differs from"):
        hf.load(tmp_path)


def edit(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    weights = {key: tensor.clone() for key, tensor in load_file(folder / "model.safetensors").items()}
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_weight_that_is_missing_misshaped_or_unknown_is_named(name: str, tmp_path: Path) -> None:
    _, model = load(name)
    hf.save(model, tmp_path)
    key = next(key for key in load_file(tmp_path / "model.safetensors") if ".0." in key and "norm" not in key)
    good = (tmp_path / "model.safetensors").read_bytes()
    changes: dict[str, Callable[[dict[str, torch.Tensor]], Any]] = {
        f"weight '{key}' is missing": lambda weights: weights.pop(key),
        f"weight '{key}' has shape": lambda weights: weights.update({key: torch.zeros(3, 5)}),
        "unknown weight 'pooler.weight'": lambda weights: weights.update({"pooler.weight": torch.zeros(2)}),
    }
    for told, change in changes.items():
        (tmp_path / "model.safetensors").write_bytes(good)
        edit(tmp_path, change)
        with pytest.raises(ModelError) as error:
            hf.load(tmp_path)
        assert told in str(error.value)


def test_a_corrupted_file_is_named(name: str, tmp_path: Path) -> None:
    _, model = load(name)
    hf.save(model, tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x05" * 999)
    with pytest.raises(ModelError, match="not readable as safetensors"):
        hf.load(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bart", "t5 gated"])
def test_a_training_step_with_a_compiled_decoder_equals_an_eager_one(name: str) -> None:
    _, model = load(name)
    del model.blocks[1:]
    valid = torch.arange(SOURCE) < torch.tensor([SOURCE, 9])[:, None]
    sides = Sides(tokens_of(2, SOURCE), valid, tokens_of(2, SEQ, seed=2))
    compiled = Halves(model.encode, torch.compile(model.hidden))
    gradients = []
    for halves in (None, compiled):
        model.zero_grad()
        learn_targets(model, sides, halves=halves).loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters() if parameter.requires_grad])
    for eager, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(theirs, eager, atol=1e-3, rtol=1e-3)
