"""Teacher forcing against free running: the same loss without the model's own words, another one with them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from luban.data.batch import Batch, Origin
from luban.errors import ConfigError
from luban.inference.local import open_lm
from luban.models import FAMILIES, hf
from luban.models.base import Shape
from luban.training import pretrain
from luban.training.free_running import free_running, own_tokens
from luban.training.step import Accumulated, Updater, next_token
from tests.conftest import Workspace

VOCAB, SEQ = 12, 16


def batch_of(rows: int) -> Batch:
    tokens = torch.randint(0, VOCAB, (rows, SEQ + 1), generator=torch.Generator().manual_seed(rows))
    return Batch(
        tokens=tokens[:, :-1],
        targets=tokens[:, 1:],
        positions=torch.arange(SEQ).expand(rows, SEQ),
        documents=torch.zeros(rows, SEQ, dtype=torch.int64),
        ids=[Origin("test", row) for row in range(rows)],
        packed=False,
    )


def model_of(name: str, *, dim: int = 16) -> Any:
    torch.manual_seed(0)
    shape = Shape(model_type=name, vocab=VOCAB, context=SEQ + 1, dim=dim, layers=1, tied=False)
    return hf.build(FAMILIES[name].config.sized(shape))


def test_a_share_of_none_is_teacher_forcing() -> None:
    model, batch = model_of("gru"), batch_of(4)
    assert free_running(0.0)(model, batch).loss == next_token()(model, batch).loss


@pytest.mark.parametrize("name", ["lstm", "feedforward", "llama"])
def test_a_share_of_all_reads_what_the_model_would_write(name: str) -> None:
    model, batch = model_of(name), batch_of(3)
    model.head.weight.data.mul_(1e5)  # so sure of itself that a draw is the likeliest token
    read = own_tokens(model, batch, 1.0)
    assert torch.equal(read[:, 0], batch.tokens[:, 0])
    assert torch.equal(model(read)[:, :-1].argmax(-1), read[:, 1:])


def test_a_share_between_mixes_the_two() -> None:
    model, batch = model_of("rnn"), batch_of(64)
    model.head.weight.data.zero_()  # draws are uniform: 1 in 12 is the true one by chance
    torch.manual_seed(0)
    changed = (own_tokens(model, batch, 0.5) != batch.tokens)[:, 1:].float().mean()
    assert changed.item() == pytest.approx(0.5 * 11 / 12, abs=0.05)


def test_no_gradient_goes_through_the_draws_and_all_weights_get_one() -> None:
    model, batch = model_of("gru"), batch_of(4)
    torch.manual_seed(1)
    read = own_tokens(model, batch, 1.0)
    next_token()(model, dataclasses.replace(batch, tokens=read)).loss.backward()
    expected = [parameter.grad for parameter in model.parameters()]
    model.zero_grad()
    torch.manual_seed(1)
    free_running(1.0)(model, batch).loss.backward()
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        assert gradient is not None
        assert torch.equal(parameter.grad, gradient)


def test_texts_packed_in_a_row_are_read_on_from_their_own_beginnings() -> None:
    model, rows = model_of("gru"), batch_of(2)
    model.head.weight.data.mul_(1e5)
    lengths = [5, 1, 10]
    positions = torch.cat([torch.arange(length) for length in lengths]).expand(2, -1)
    documents = torch.repeat_interleave(torch.arange(3), torch.tensor(lengths)).expand(2, -1)
    packed = dataclasses.replace(rows, positions=positions, documents=documents, packed=True)
    read = own_tokens(model, packed, 1.0)
    for part, true in zip(*(x.split(lengths, 1) for x in (read, rows.tokens)), strict=True):
        assert torch.equal(part[:, 0], true[:, 0])
        assert torch.equal(model(part)[:, :-1].argmax(-1), part[:, 1:])


def test_a_share_beyond_one_and_a_model_that_is_not_causal_are_refused(
    workspace: Workspace, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"a share of 1\.5 is not between 0 and 1"):
        free_running(1.5)
    config = pretrain.Config(
        data=(workspace.shards,),
        tokenizer=workspace.tokenizer,
        model=Path("ngram"),
        out=tmp_path / "run",
        free_running=0.5,
    )
    with pytest.raises(ConfigError, match="'counted' models do not read what they write"):
        pretrain.run(config, open_lm)
    assert not config.out.exists()


def counting(rows: int, seed: int) -> Batch:
    """Rows that count on from any number, by ones, twos or threes."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.randint(VOCAB, (rows, 1), generator=generator)
    stride = torch.randint(1, 4, (rows, 1), generator=generator)
    tokens = (start + stride * torch.arange(SEQ + 1)) % VOCAB
    return dataclasses.replace(batch_of(rows), tokens=tokens[:, :-1], targets=tokens[:, 1:])


def test_a_taught_model_is_lost_among_its_own_words_and_scheduled_sampling_helps() -> None:
    taught, alone = {}, {}
    for share in (0.0, 0.5):
        model = model_of("gru", dim=32)
        updater = Updater(
            torch.optim.Adam(model.parameters()), Accumulated(model, free_running(share)), max_grad_norm=1.0
        )
        for step in range(60):
            updater.update([counting(32, step)], learning_rate=1e-2)
        held_out = counting(200, 10**6)
        with torch.no_grad():
            taught[share], alone[share] = (
                free_running(read)(model, held_out).loss.item() / held_out.target_count for read in (0.0, 1.0)
            )
    assert taught[0.0] < 0.3
    assert alone[0.0] > 10 * taught[0.0]
    assert alone[0.5] < alone[0.0] - 1.0
    assert taught[0.5] > taught[0.0]
