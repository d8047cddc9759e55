"""The weights a recording notes are those of `transformers`, and noting them changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from luban.models import hf
from luban.nn.recording import Recording
from tests.models import encoders, references, seq2seq_references

DECODERS = ("llama", "llama wide heads", "gpt2", "mistral window", "bloom")


def tokens_of(seq: int, vocab: int) -> torch.Tensor:
    return torch.randint(4, vocab, (2, seq), generator=torch.Generator().manual_seed(1))


def assert_same(ours: dict[str, torch.Tensor], *theirs: tuple[torch.Tensor, ...]) -> None:
    expected = [layer for layers in theirs for layer in layers]
    assert len(ours) == len(expected)
    for (name, weights), layer in zip(ours.items(), expected, strict=True):
        torch.testing.assert_close(
            weights, layer, atol=1e-5, rtol=0, msg=lambda text, at=name: f"{at}: {text}"
        )
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))


@torch.no_grad()
@pytest.mark.parametrize("name", DECODERS)
def test_a_decoders_weights_equal_transformers(name: str) -> None:
    _, folder = references.reference(name)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    model, tokens = hf.load(folder), tokens_of(12, references.VOCAB)
    with Recording(model) as seen:
        logits = model(tokens)
    assert_same(seen.maps, theirs(tokens, output_attentions=True).attentions)
    torch.testing.assert_close(logits, model(tokens), atol=1e-5, rtol=1e-5)
    assert list(seen.maps) == [f"blocks.{number}.attention" for number in range(3)]


@torch.no_grad()
def test_an_encoders_weights_equal_transformers() -> None:
    _, folder = encoders.encoder("BertForMaskedLM")
    theirs = transformers.AutoModelForMaskedLM.from_pretrained(folder, attn_implementation="eager")
    model, tokens = hf.load(folder), tokens_of(12, encoders.VOCAB)
    with Recording(model) as seen:
        model.hidden(tokens)
    assert_same(seen.maps, theirs(tokens, output_attentions=True).attentions)


@torch.no_grad()
@pytest.mark.parametrize("name", ["bart", "t5 relu"])
def test_an_encoder_decoders_weights_equal_transformers(name: str) -> None:
    _, folder = seq2seq_references.reference(name)
    theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder, attn_implementation="eager")
    model = hf.load(folder)
    source, target = (tokens_of(seq, seq2seq_references.VOCAB) for seq in (9, 6))
    with Recording(model) as seen:
        model(source, target)
    expected: Any = theirs(input_ids=source, decoder_input_ids=target, output_attentions=True)
    decoder = [
        layer
        for both in zip(expected.decoder_attentions, expected.cross_attentions, strict=True)
        for layer in both
    ]
    assert_same(seen.maps, expected.encoder_attentions, tuple(decoder))


def test_nothing_is_noted_outside_of_the_block() -> None:
    _, folder = references.reference("llama")
    model, tokens = hf.load(folder), tokens_of(5, references.VOCAB)
    with Recording(model) as seen:
        model(tokens[:, :3])
    before = {name: weights.clone() for name, weights in seen.maps.items()}
    model(tokens)
    assert all(torch.equal(seen.maps[name], weights) for name, weights in before.items())


def test_cached_steps_note_the_rows_of_the_whole() -> None:
    _, folder = references.reference("llama")
    model, tokens = hf.load(folder), tokens_of(6, references.VOCAB)
    with Recording(model) as whole:
        model(tokens)
    cache = model.make_cache(batch=2, capacity=6)
    for place in range(6):
        with Recording(model) as seen:
            model(tokens[:, place : place + 1], torch.tensor([[place]]), cache)
        for slot in cache:
            slot.advance(1)
        for name, weights in seen.maps.items():
            torch.testing.assert_close(weights[:, :, 0], whole.maps[name][:, :, place, : place + 1])
