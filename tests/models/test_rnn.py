"""Recurrent and feed-forward language models: against their equations, and in every way a model is called."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from luban.errors import ModelError
from luban.models import FAMILIES, hf
from luban.models.base import CausalLM, Shape, parameter_count
from luban.models.feedforward import FeedForwardLM
from luban.models.rnn import RecurrentLM
from luban.nn.cache import Cache

VOCAB, DIM, LAYERS = 37, 16, 2
TORCH = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}
every_family = pytest.mark.parametrize("name", [*TORCH, "feedforward"])
every_unit = pytest.mark.parametrize("name", TORCH)


def shape_of(name: str, **changes: Any) -> Shape:
    numbers: dict[str, Any] = {"vocab": VOCAB, "context": 64, "dim": DIM, "layers": LAYERS, "tied": False}
    return Shape(model_type=name, **(numbers | changes))


def model_of(name: str, **changes: Any) -> CausalLM:
    torch.manual_seed(0)
    model = hf.build(FAMILIES[name].config.sized(shape_of(name, **changes)))
    for parameter in model.parameters():  # biases too, or a mistake in them would not show
        nn.init.normal_(parameter, std=0.4)
    return model


def tokens_of(batch: int, seq: int) -> Tensor:
    return torch.randint(VOCAB, (batch, seq), generator=torch.Generator().manual_seed(1))


def in_chunks(model: CausalLM, tokens: Tensor, sizes: list[int], cache: Cache) -> Tensor:
    logits = []
    for part in tokens.split(sizes, 1):
        logits.append(model(part, None, cache))
        for slot in cache:
            slot.advance(part.shape[1])
    return torch.cat(logits, 1)


@every_unit
@torch.no_grad()
def test_logits_equal_a_stack_of_torch_layers(name: str) -> None:
    model, tokens = model_of(name), tokens_of(2, 20)
    stack = TORCH[name](DIM, DIM, num_layers=LAYERS, batch_first=True)
    for number, block in enumerate(model.blocks):
        for ours, theirs in (("input", "ih"), ("recurrent", "hh")):
            for leaf in ("weight", "bias"):
                parameter = block.get_parameter(f"{ours}.{leaf}")
                stack.get_parameter(f"{leaf}_{theirs}_l{number}").copy_(parameter)
    expected = stack(model.embedding(tokens))[0] @ model.head.weight.T
    torch.testing.assert_close(model(tokens), expected, atol=1e-4, rtol=0)


@torch.no_grad()
def test_the_feed_forward_model_is_the_equation_of_its_paper() -> None:
    model = model_of("feedforward", layers=1)
    assert isinstance(model, FeedForwardLM)
    tokens, hidden, window = tokens_of(1, 9)[0].tolist(), 4 * DIM, 4 * DIM
    u, w, b = model.head.weight.split([hidden, window, 1], 1)
    h, d = model.blocks[0].get_parameter("weight"), model.blocks[0].get_parameter("bias")
    embedding = [torch.zeros(DIM)] * 3 + [model.embedding.weight[token] for token in tokens]
    for place, logits in enumerate(model(torch.tensor([tokens]))[0]):
        x = torch.cat([embedding[place + 3 - back] for back in range(4)])
        expected = b[:, 0] + w @ x + u @ torch.tanh(d + h @ x)
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)


@torch.no_grad()
def test_the_feed_forward_model_sees_its_window_and_no_more() -> None:
    model, tokens = model_of("feedforward"), tokens_of(1, 12)
    changed = tokens.clone()
    changed[0, 3] = (tokens[0, 3] + 1) % VOCAB
    differ = (model(tokens) != model(changed)).any(-1)[0].tolist()
    assert differ == [3 <= place < 3 + 4 for place in range(12)]


@every_family
@torch.no_grad()
def test_a_text_read_in_pieces_gives_the_same_logits(name: str) -> None:
    model, tokens = model_of(name), tokens_of(2, 20)
    for sizes in ([1] * 20, [7, 5, 1, 7]):
        cache = model.make_cache(batch=2, capacity=20)
        torch.testing.assert_close(in_chunks(model, tokens, sizes, cache), model(tokens), atol=1e-5, rtol=0)


@every_family
@torch.no_grad()
def test_a_left_padded_row_decodes_as_if_alone(name: str) -> None:
    model, tokens, padding = model_of(name), tokens_of(3, 12), [6, 0, 3]
    valid = torch.arange(12) >= torch.tensor(padding)[:, None]
    cache = model.make_cache(batch=3, capacity=12, valid=valid)
    batched = in_chunks(model, tokens, [8, 1, 1, 1, 1], cache)
    for row, pad in enumerate(padding):
        alone = model(tokens[row : row + 1, pad:])
        torch.testing.assert_close(batched[row : row + 1, pad:], alone, atol=1e-5, rtol=0)


@every_family
@torch.no_grad()
def test_documents_packed_in_a_row_are_as_separate_ones(name: str) -> None:
    model, lengths = model_of(name), [5, 9, 1, 6]
    tokens = tokens_of(2, sum(lengths))
    documents = torch.repeat_interleave(torch.arange(4), torch.tensor(lengths)).expand(2, -1)
    packed = model(tokens, None, model.isolate(documents))
    separate = torch.cat([model(part) for part in tokens.split(lengths, 1)], 1)
    torch.testing.assert_close(packed, separate, atol=1e-5, rtol=0)


@every_family
@torch.no_grad()
def test_chosen_rows_of_a_cache_go_on_alone(name: str) -> None:
    model, tokens, rows = model_of(name), tokens_of(3, 8), torch.tensor([2, 2, 0])
    cache = model.make_cache(batch=3, capacity=8)
    in_chunks(model, tokens[:, :7], [7], cache)
    for slot in cache:
        slot.select(rows)
    after = model(tokens[rows, 7:], None, cache)
    torch.testing.assert_close(after, model(tokens)[rows, 7:], atol=1e-5, rtol=0)


@every_family
def test_embeds_replace_tokens_and_forward_is_the_head_of_hidden(name: str) -> None:
    model, tokens = model_of(name), tokens_of(2, 8)
    assert torch.equal(model.hidden(None, embeds=model.embedding(tokens)), model.hidden(tokens))
    assert torch.equal(model(tokens), model.head(model.hidden(tokens)))


@every_family
def test_what_a_model_remembers_does_not_grow(name: str) -> None:
    model = model_of(name)
    cache = model.make_cache(batch=1, capacity=60)

    def remembered() -> list[list[torch.Size]]:
        return [[part.shape for part in slot.state] for slot in cache]

    in_chunks(model, tokens_of(1, 4), [4], cache)
    early = remembered()
    in_chunks(model, tokens_of(1, 56), [56], cache)
    assert remembered() == early


@every_family
def test_every_parameter_gets_a_gradient(name: str) -> None:
    model = model_of(name)
    model(tokens_of(2, 8)).logsumexp(-1).sum().backward()
    assert [key for key, value in model.named_parameters() if value.grad is None] == []


@every_unit
def test_a_tied_head_is_the_embedding(name: str) -> None:
    model = model_of(name, tied=True)
    assert isinstance(model, RecurrentLM)
    assert model.head.weight is model.embedding.weight
    assert parameter_count(model_of(name)) - parameter_count(model) == VOCAB * DIM


@every_family
@pytest.mark.parametrize("tied", [True, False])
def test_loading_what_was_saved_is_the_identity(name: str, tied: bool, tmp_path: Path) -> None:
    model, tokens = model_of(name, tied=tied, eos_id=3), tokens_of(2, 8)
    hf.save(model, tmp_path)
    again = hf.load(tmp_path)
    assert again.config == model.config
    assert torch.equal(again(tokens), model(tokens))


@every_family
@pytest.mark.parametrize("fault", ["unknown", "missing", "misshaped"])
def test_weights_that_do_not_fit_are_named(name: str, fault: str, tmp_path: Path) -> None:
    hf.save(model_of(name), tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    key = next(key for key in weights if key.startswith("blocks.1") and key.endswith("weight"))
    tensor = weights.pop(key)
    weights |= {"unknown": {f"{key}s": tensor, key: tensor.clone()}, "misshaped": {key: tensor[1:]}}.get(
        fault, {}
    )
    save_file(weights, tmp_path / "model.safetensors")
    told = {
        "unknown": f"unknown weight '{key}s'",
        "missing": f"weight '{key}' is missing",
        "misshaped": rf"weight '{key}' has shape \[{len(tensor) - 1}, ",
    }
    with pytest.raises(ModelError, match=told[fault]):
        hf.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"layer": 3}, "unknown entry 'layer'; did you mean 'layers'?"),
        ({"vocab": None}, "'vocab' is None"),
        ({"dim": 0}, "'dim' is 0"),
        ({"model_type": "lstn"}, "unknown model_type 'lstn'; did you mean 'lstm'?"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(change: dict[str, Any], told: str, tmp_path: Path) -> None:
    hf.save(model_of("lstm"), tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | change), "utf-8")
    with pytest.raises(ModelError, match=told.replace("?", r"\?")):
        hf.load_config(tmp_path)


def test_a_config_that_lacks_an_entry_is_refused(tmp_path: Path) -> None:
    hf.save(model_of("gru"), tmp_path)
    path = tmp_path / "config.json"
    entries = json.loads(path.read_text("utf-8"))
    del entries["vocab"]
    path.write_text(json.dumps(entries), "utf-8")
    with pytest.raises(ModelError, match=r"config\.json: entry 'vocab' is missing"):
        hf.load_config(tmp_path)


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        ("lstm", {"heads": 4}, "heads is 4 for a model of type 'lstm'; it can be 0"),
        ("rnn", {"hidden": 99}, "hidden is 99 for a model of type 'rnn'; it can be 0 or 16"),
        ("feedforward", {"kv_heads": 1}, "kv_heads is 1, but a feed-forward model has none"),
    ],
)
def test_numbers_that_make_no_such_model_are_refused(name: str, change: dict[str, Any], told: str) -> None:
    with pytest.raises(ModelError, match=told):
        FAMILIES[name].config.sized(dataclasses.replace(shape_of(name), **change))


@pytest.mark.slow
def test_the_compiled_feed_forward_model_equals_the_eager_one_on_packed_rows() -> None:
    model, tokens = model_of("feedforward"), tokens_of(2, 12)
    documents = torch.arange(12)[None] // torch.tensor([[5], [7]])
    results = []
    for hidden in (model.hidden, torch.compile(model.hidden, fullgraph=True)):
        model.zero_grad()
        states = hidden(tokens, None, model.isolate(documents))
        states.square().sum().backward()
        results.append([states.detach(), *(block.get_parameter("weight").grad for block in model.blocks)])
    torch.testing.assert_close(*results, atol=1e-4, rtol=1e-4)
