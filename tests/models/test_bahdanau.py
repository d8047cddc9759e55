"""RNNsearch: against its equations written out, in every way it is called, and reversing strings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from luban.errors import ModelError
from luban.models import FAMILIES, hf
from luban.models.bahdanau import RNNSearch, RNNSearchConfig
from luban.models.base import Shape
from luban.models.seq2seq import shifted_right
from luban.nn.recurrent import Recurrence

VOCAB, DIM = 23, 16
PAD, START, END = 0, 1, 2
STEPS = 200


def model_of(**changes: Any) -> RNNSearch:
    torch.manual_seed(0)
    numbers: dict[str, Any] = {"vocab": VOCAB, "dim": DIM, "context": 32, "decoder_start_id": START}
    return RNNSearch(RNNSearchConfig(**(numbers | changes)))


def drawn_model(**changes: Any) -> RNNSearch:
    """Large weights, and biases too, or a mistake in them would not show."""
    model = model_of(**changes)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    return model


def tokens_of(batch: int, seq: int) -> Tensor:
    return torch.randint(VOCAB, (batch, seq), generator=torch.Generator().manual_seed(seq))


def copied(ours: Recurrence, theirs: nn.Module, ending: str) -> None:
    for part, name in ((ours.input, "ih"), (ours.recurrent, "hh")):
        theirs.get_parameter(f"weight_{name}{ending}").copy_(part.weight)
        theirs.get_parameter(f"bias_{name}{ending}").copy_(part.bias)


@torch.no_grad()
def written_out(model: RNNSearch, source: list[int], tokens: list[int]) -> tuple[Tensor, Tensor]:
    """Logits and attention weights for one row, from the paper's equations and `torch.nn`'s GRUs."""
    reader, layer = nn.GRU(DIM, DIM, bidirectional=True, batch_first=True), model.encoder[0]
    copied(layer.get_submodule("forwards"), reader, "_l0")  # pyright: ignore[reportArgumentType] - a Recurrence
    copied(layer.get_submodule("backwards"), reader, "_l0_reverse")  # pyright: ignore[reportArgumentType] - a Recurrence
    h = reader(model.embedding.weight[source][None])[0][0]
    first: Any = model.blocks[0]
    writer = nn.GRUCell(DIM + 2 * DIM, DIM)
    writer.weight_ih.copy_(torch.cat([first.cell.input.weight, first.context.weight], 1))
    writer.bias_ih.copy_(first.cell.input.bias)
    writer.weight_hh.copy_(first.cell.recurrent.weight)
    writer.bias_hh.copy_(first.cell.recurrent.bias)
    w, u, v = (first.alignment.get_parameter(f"{name}.weight") for name in ("state", "source", "score"))
    s = torch.tanh(first.begin.weight @ h[0, DIM:] + first.begin.bias)
    logits, weights = [], []
    for y in model.embedding.weight[tokens]:
        e = torch.stack([v[0] @ torch.tanh(w @ s + u @ h_j) for h_j in h])
        alpha = e.exp() / e.exp().sum()
        c = torch.stack([a * h_j for a, h_j in zip(alpha, h, strict=True)]).sum(0)
        s = writer(torch.cat([y, c])[None], s[None])[0]
        t = model.maxout.weight @ torch.cat([s, y, c]) + model.maxout.bias
        t = torch.stack([torch.maximum(t[2 * k], t[2 * k + 1]) for k in range(DIM)])
        logits.append(model.head.weight @ t)
        weights.append(alpha)
    return torch.stack(logits), torch.stack(weights)


@torch.no_grad()
def test_logits_and_weights_are_the_equations_of_the_paper() -> None:
    model, source, tokens = drawn_model(), tokens_of(2, 9), tokens_of(2, 6)
    logits, weights = model(source, tokens), model.attention_weights(source, tokens)
    for row in range(2):
        expected = written_out(model, source[row].tolist(), tokens[row].tolist())
        torch.testing.assert_close((logits[row], weights[row]), expected, atol=1e-5, rtol=0)


@torch.no_grad()
def stepped(model: RNNSearch, source: Tensor, tokens: Tensor, valid: Tensor | None = None) -> Tensor:
    decoder = model.given(model.encode(source, valid))
    cache = decoder.make_cache(batch=len(tokens), capacity=tokens.shape[1])
    logits = []
    for token in tokens.split(1, 1):
        logits.append(decoder.head(decoder.hidden(token, None, cache)))
        for slot in cache:
            slot.advance(1)
    return torch.cat(logits, 1)


@pytest.mark.parametrize("layers", [1, 2])
@torch.no_grad()
def test_writing_step_by_step_gives_the_same_logits(layers: int) -> None:
    model, source, tokens = drawn_model(layers=layers), tokens_of(2, 9), tokens_of(2, 6)
    torch.testing.assert_close(stepped(model, source, tokens), model(source, tokens), atol=1e-5, rtol=0)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("layers", [1, 2])
@torch.no_grad()
def test_a_padded_source_is_read_as_if_alone(side: str, layers: int) -> None:
    model, source, tokens = drawn_model(layers=layers), tokens_of(3, 9), tokens_of(3, 6)
    lengths = [4, 9, 6]
    valid = torch.arange(9) < torch.tensor(lengths)[:, None]
    valid = valid.flip(1) if side == "left" else valid
    batched = stepped(model, source, tokens, valid)
    for row in range(3):
        real = source[row : row + 1, valid[row]]
        torch.testing.assert_close(
            batched[row : row + 1], model(real, tokens[row : row + 1]), atol=1e-5, rtol=0
        )
    weights = model.attention_weights(source, tokens, valid)
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 6))
    assert not weights.masked_select(~valid[:, None]).any()


@torch.no_grad()
def test_answers_begun_at_different_places_are_as_if_alone() -> None:
    model, source, tokens, padding = drawn_model(layers=2), tokens_of(2, 9), tokens_of(2, 6), [0, 3]
    valid = torch.arange(6) >= torch.tensor(padding)[:, None]
    read = model.encode(source)
    out = model.hidden(tokens, read, None, model.make_cache(read, batch=2, capacity=6, valid=valid))
    for row, pad in enumerate(padding):
        one = model.encode(source[row : row + 1])
        torch.testing.assert_close(out[row, pad:], model.hidden(tokens[row : row + 1, pad:], one)[0])


@torch.no_grad()
def test_chosen_rows_go_on_with_their_own_sources() -> None:
    model, source, tokens = drawn_model(layers=2), tokens_of(3, 9), tokens_of(3, 6)
    read, rows = model.encode(source), torch.tensor([2, 0])
    cache = model.make_cache(read, batch=3, capacity=6)
    model.hidden(tokens[:, :5], read, None, cache)
    for slot in cache:
        slot.advance(5)
        slot.select(rows)
    after = model.hidden(tokens[rows, 5:], read, None, cache)
    expected = model.hidden(tokens, read)[rows, 5:]
    torch.testing.assert_close(after, expected, atol=1e-5, rtol=0)


def test_every_parameter_gets_a_gradient() -> None:
    model = drawn_model(layers=2)
    model(tokens_of(2, 5), tokens_of(2, 4)).logsumexp(-1).sum().backward()
    assert [name for name, value in model.named_parameters() if value.grad is None] == []


@pytest.mark.parametrize("tied", [True, False])
def test_loading_what_was_saved_is_the_identity(tied: bool, tmp_path: Path) -> None:
    model, source, tokens = drawn_model(layers=2, tied=tied), tokens_of(2, 5), tokens_of(2, 4)
    hf.save(model, tmp_path)
    again = hf.load(tmp_path)
    assert again.config == model.config
    assert torch.equal(again(source, tokens), model(source, tokens))


@pytest.mark.parametrize("fault", ["unknown", "missing", "misshaped"])
def test_weights_that_do_not_fit_are_named(fault: str, tmp_path: Path) -> None:
    hf.save(drawn_model(), tmp_path)
    weights, key = load_file(tmp_path / "model.safetensors"), "blocks.0.alignment.score.weight"
    tensor = weights.pop(key)
    weights |= {"unknown": {f"{key}s": tensor, key: tensor.clone()}, "misshaped": {key: tensor[:, 1:]}}.get(
        fault, {}
    )
    save_file(weights, tmp_path / "model.safetensors")
    told = {
        "unknown": f"unknown weight '{key}s'",
        "missing": f"weight '{key}' is missing",
        "misshaped": rf"weight '{key}' has shape \[1, 15\]",
    }
    with pytest.raises(ModelError, match=told[fault]):
        hf.load(tmp_path)


def test_an_answer_needs_a_token_to_begin_with() -> None:
    config = FAMILIES["rnnsearch"].config
    shape: dict[str, Any] = {"model_type": "rnnsearch", "vocab": 9, "context": 8, "dim": 4, "layers": 1}
    assert config.sized(Shape(**shape, bos_id=3)).decoder_start_id == 3
    with pytest.raises(ModelError, match="neither bos, pad nor eos"):
        config.sized(Shape(**shape))
    with pytest.raises(ModelError, match="decoder_start_id 9 is outside of a vocab of 9"):
        RNNSearchConfig(vocab=9, dim=4, context=8, decoder_start_id=9)


def reversals(batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Random strings of 3 to 8 tokens, where they are valid, and the same backwards with an end."""
    lengths = torch.randint(3, 9, (batch, 1), generator=generator)
    places = torch.arange(9)
    tokens = torch.randint(3, VOCAB, (batch, 9), generator=generator)
    source = tokens.masked_fill(places >= lengths, PAD)
    backwards = source.gather(1, (lengths - 1 - places).clamp(min=0))
    targets = backwards.masked_fill(places == lengths, END).masked_fill(places > lengths, -100)
    return source, places < lengths, targets


@torch.no_grad()
def greedy(model: RNNSearch, source: Tensor, valid: Tensor, steps: int) -> Tensor:
    decoder = model.given(model.encode(source, valid))
    cache = decoder.make_cache(batch=len(source), capacity=steps)
    token, answer = torch.full_like(source[:, :1], START), []
    for _ in range(steps):
        token = decoder.head(decoder.hidden(token, None, cache)).argmax(-1)
        answer.append(token)
    return torch.cat(answer, 1)


@pytest.mark.slow
def test_it_learns_to_reverse_strings_by_looking_backwards() -> None:
    model = model_of(dim=48)
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
    for step in range(STEPS):
        source, valid, targets = reversals(64, generator)
        tokens = shifted_right(targets, start=START, ignored=-100, pad=PAD)
        loss = F.cross_entropy(model(source, tokens, valid).flatten(0, 1), targets.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = 4e-3 * (1 - step / STEPS)
        optimizer.step()
        optimizer.zero_grad()
    source, valid, targets = reversals(1000, torch.Generator().manual_seed(99))
    answers = greedy(model, source, valid, 9)
    right = ((answers == targets) | (targets == -100)).all(1)
    assert right.float().mean() > 0.99
    tokens = shifted_right(targets, start=START, ignored=-100, pad=PAD)
    looked = model.attention_weights(source, tokens, valid).argmax(-1)
    lengths = valid.sum(1, keepdim=True)
    places = torch.arange(9)
    inside = places < lengths
    assert (looked == lengths - 1 - places)[inside].float().mean() > 0.95
