"""Our logits against `transformers`', for each family, in every way a model is called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from luban.models import hf
from luban.models.base import CausalLM
from luban.nn.cache import Cache
from tests.models.references import CONFIGS, VOCAB, logits_of, reference

pytestmark = pytest.mark.parametrize("name", CONFIGS)


def tokens_of(batch: int, seq: int) -> torch.Tensor:
    return torch.randint(VOCAB, (batch, seq), generator=torch.Generator().manual_seed(1))


def assert_same(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def advance(cache: Cache, tokens: int) -> None:
    for slot in cache:
        slot.advance(tokens)


@torch.no_grad()
def in_chunks(model: CausalLM, tokens: torch.Tensor, sizes: list[int]) -> torch.Tensor:
    cache = model.make_cache(batch=len(tokens), capacity=tokens.shape[1])
    logits, start = [], 0
    for size in sizes:
        positions = torch.arange(start, start + size)[None]
        logits.append(model(tokens[:, start : start + size], positions, cache))
        advance(cache, size)
        start += size
    return torch.cat(logits, 1)


@torch.no_grad()
def test_plain_logits_equal_transformers(name: str) -> None:
    theirs, folder = reference(name)
    tokens = tokens_of(2, 40)
    assert_same(hf.load(folder)(tokens), logits_of(theirs, tokens))


def test_step_by_step_logits_equal_transformers(name: str) -> None:
    theirs, folder = reference(name)
    tokens = tokens_of(2, 20)
    ours = in_chunks(hf.load(folder), tokens, [1] * 20)
    assert_same(ours, logits_of(theirs, tokens))


def test_a_prompt_read_in_chunks_gives_the_same_logits(name: str) -> None:
    theirs, folder = reference(name)
    tokens = tokens_of(2, 20)
    ours = in_chunks(hf.load(folder), tokens, [7, 5, 1, 7])
    assert_same(ours, logits_of(theirs, tokens))


@torch.no_grad()
def test_a_left_padded_row_decodes_as_if_alone(name: str) -> None:
    _, folder = reference(name)
    model = hf.load(folder)
    lengths, steps = torch.tensor([3, 9, 6]), 4
    rows = [tokens_of(1, 9 + steps)[0].roll(shift) for shift in range(3)]
    longest = int(lengths.max())
    padded = torch.zeros(3, longest, dtype=torch.long)
    for row, text, length in zip(padded, rows, lengths.tolist(), strict=True):
        row[longest - length :] = text[:length]
    positions = (torch.arange(longest) - (longest - lengths)[:, None]).clamp(min=0)
    valid = torch.ones(3, longest + steps, dtype=torch.bool)
    valid[:, :longest] = torch.arange(longest) >= (longest - lengths)[:, None]
    cache = model.make_cache(batch=3, capacity=longest + steps, valid=valid)
    batched = [model(padded, positions, cache)[:, -1]]
    advance(cache, longest)
    for step in range(steps):
        new = torch.stack([text[length + step] for text, length in zip(rows, lengths.tolist(), strict=True)])
        batched.append(model(new[:, None], (lengths + step)[:, None], cache)[:, -1])
        advance(cache, 1)
    for i, (text, length) in enumerate(zip(rows, lengths.tolist(), strict=True)):
        alone = model(text[None, : length + steps])[0, length - 1 :]
        assert_same(torch.stack([step[i] for step in batched]), alone)


@torch.no_grad()
def test_left_padded_logits_equal_transformers_with_an_attention_mask(name: str) -> None:
    theirs, folder = reference(name)
    model = hf.load(folder)
    tokens, padding = tokens_of(2, 12), torch.tensor([0, 5])
    valid = torch.arange(12) >= padding[:, None]
    positions = (torch.arange(12) - padding[:, None]).clamp(min=0)
    cache = model.make_cache(batch=2, capacity=12, valid=valid)
    ours = model(tokens, positions, cache)
    expected = logits_of(theirs, tokens, attention_mask=valid.long(), position_ids=positions)
    assert_same(ours[valid], expected[valid])


@torch.no_grad()
def test_documents_packed_in_a_row_are_as_separate_ones(name: str) -> None:
    _, folder = reference(name)
    model = hf.load(folder)
    lengths = [5, 9, 1, 6]
    tokens = tokens_of(2, sum(lengths))
    documents = torch.repeat_interleave(torch.arange(4), torch.tensor(lengths)).expand(2, -1)
    positions = torch.cat([torch.arange(length) for length in lengths]).expand(2, -1)
    packed = model(tokens, positions, model.isolate(documents))
    separate = torch.cat([model(part) for part in tokens.split(lengths, 1)], 1)
    torch.testing.assert_close(packed, separate, atol=1e-5, rtol=1e-5)


def test_gradients_equal_transformers(name: str) -> None:
    theirs, folder = reference(name)
    model, tokens = hf.load(folder), tokens_of(2, 16)
    model(tokens).logsumexp(-1).sum().backward()
    theirs.zero_grad()
    theirs(tokens).logits.logsumexp(-1).sum().backward()
    expected = theirs.get_input_embeddings().weight.grad
    torch.testing.assert_close(model.embedding.weight.grad, expected, atol=1e-3, rtol=1e-3)


@torch.no_grad()
def test_what_we_save_transformers_loads_with_the_same_logits(name: str, tmp_path: Path) -> None:
    _, folder = reference(name)
    model, tokens = hf.load(folder), tokens_of(2, 16)
    hf.save(model, tmp_path)
    loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    theirs, report = loaded
    assert not any(report.values()), report
    assert_same(model(tokens), logits_of(theirs.eval(), tokens))


def test_loading_what_was_saved_is_the_identity(name: str, tmp_path: Path) -> None:
    _, folder = reference(name)
    model = hf.load(folder)
    hf.save(model, tmp_path)
    again = hf.load(tmp_path)
    assert again.config == model.config
    assert model.state_dict().keys() == again.state_dict().keys()
    for key, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key


@torch.no_grad()
def test_bfloat16_logits_are_close_to_transformers(name: str) -> None:
    theirs, folder = reference(name)
    tokens = tokens_of(2, 16)
    ours = hf.load(folder, dtype="bfloat16")(tokens).float()
    exact = logits_of(theirs, tokens)
    rounded = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    their_error = (logits_of(rounded, tokens).float() - exact).abs().mean()
    assert (ours - exact).abs().mean() < 1.5 * their_error + 1e-3
