"""The contract of encoder-decoders: a text is read whole, another one is written token by token.

`encode` gives a `Source`; with it `hidden` is a decoder's, and `given(source)` is that decoder as the plain loop
of generation, beam search and scoring know it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from luban.errors import ModelError
from luban.models.base import Shape, dense_slot
from luban.nn.cache import Cache, DecoderSlot, Remembered


@dataclass(frozen=True)
class Source:
    """What the encoder made of its input; `valid` is False at padding, None where there is none."""

    states: Float[Tensor, "batch source dim"]
    valid: Bool[Tensor, "batch source"] | None = None

    def repeat(self, times: int) -> Source:
        """Each row `times` times in a row, for as many answers to it."""
        valid = None if self.valid is None else self.valid.repeat_interleave(times, 0)
        return Source(self.states.repeat_interleave(times, 0), valid)


class Seq2Seq(nn.Module):
    """An encoder-decoder over token ids. A family's module derives from it.

    The config says, beside what every family's does, `decoder_start_id`: the token every answer begins with.
    """

    config: Any
    blocks: nn.ModuleList
    """The decoder's."""
    embedding: nn.Embedding
    """The decoder's tokens; most families read the source through it too."""
    head: nn.Linear

    def encode(
        self, tokens: Int[Tensor, "batch source"], valid: Bool[Tensor, "batch source"] | None = None
    ) -> Source:
        """Read a batch of sources; `valid` is False at padding, on either side."""
        raise NotImplementedError

    def hidden(
        self,
        tokens: Int[Tensor, "batch seq"],
        source: Source,
        positions: Int[Tensor, "batch seq"] | None = None,
        cache: Cache | None = None,
    ) -> Float[Tensor, "batch seq dim"]:
        """The decoder's states after its last norm; `positions` as in `CausalLM.hidden`."""
        raise NotImplementedError

    def forward(
        self,
        source: Int[Tensor, "batch source"],
        tokens: Int[Tensor, "batch seq"],
        valid: Bool[Tensor, "batch source"] | None = None,
    ) -> Float[Tensor, "batch seq vocab"]:
        """Logits of what follows each of the decoder's `tokens`."""
        return self.logits(self.hidden(tokens, self.encode(source, valid)))

    def before_head(self, states: Float[Tensor, "... dim"]) -> Float[Tensor, "... dim"]:
        """What the head takes: the states as they are, unless a family says otherwise (T5 scales)."""
        return states

    def head_bias(self) -> Float[Tensor, " vocab"] | None:
        """What is added to what the head gives (BART); None where there is no such thing."""
        return None

    def logits(self, states: Float[Tensor, "... dim"]) -> Float[Tensor, "... vocab"]:
        """Logits of what follows each state."""
        logits, bias = self.head(self.before_head(states)), self.head_bias()
        return logits if bias is None else logits + bias

    def tie(self) -> None:
        """Share the embedding's weight with the head."""
        self.head.weight = self.embedding.weight

    def make_cache(self, source: Source, *, batch: int, capacity: int, valid: Tensor | None = None) -> Cache:
        """Empty slots for `capacity` decoded tokens a row."""
        return [
            DecoderSlot(
                dense_slot(self, batch=batch, capacity=capacity, valid=valid), Remembered(source.valid)
            )
            for _ in self.blocks
        ]

    def given(self, source: Source) -> Decoder:
        """The decoder that answers `source`, row by row, called as a `CausalLM` is."""
        return Decoder(self, source)


class Decoder:
    """A `Seq2Seq` with its source: what generation asks of a causal model, and no more."""

    def __init__(self, model: Seq2Seq, source: Source) -> None:
        self.model, self.source = model, source
        self.config, self.embedding, self.head = model.config, model.embedding, model.logits

    def hidden(
        self, tokens: Tensor, positions: Tensor | None = None, cache: Cache | None = None
    ) -> Float[Tensor, "batch seq dim"]:
        """See `CausalLM.hidden`."""
        return self.model.hidden(tokens, self.source, positions, cache)

    def make_cache(self, *, batch: int, capacity: int, valid: Tensor | None = None) -> Cache:
        """See `CausalLM.make_cache`."""
        return self.model.make_cache(self.source, batch=batch, capacity=capacity, valid=valid)


def places_of(x: Tensor, valid: Bool[Tensor, "batch seq"] | None = None) -> Int[Tensor, "#batch seq"]:
    """Positions of a batch of tokens or of their embeddings, counted from each row's first valid one."""
    if valid is None:
        return torch.arange(x.shape[1], device=x.device)[None]
    return (valid.cumsum(1) - 1).clamp(min=0)


def slots_for(source: Source, layers: int) -> Cache:
    """A pass over whole targets without memory: causal attention, and the source."""
    return [DecoderSlot(None, Remembered(source.valid)) for _ in range(layers)]


def check_start(start: int, vocab: int) -> None:
    """Raise ModelError unless the token that answers begin with is one of the vocabulary."""
    if start >= vocab:
        raise ModelError(f"decoder_start_id {start} is outside of a vocab of {vocab}")


def start_token(shape: Shape) -> int:
    """What answers of a new model begin with: the first of begin, padding and end token that there is."""
    for token in (shape.bos_id, shape.pad_id, shape.eos_id):
        if token is not None:
            return token
    raise ModelError(
        "an answer needs a token to begin with, and the tokenizer has neither bos, pad nor eos",
        hint="luban tokenizer train makes one that has them",
    )


def shifted_right(
    targets: Int[Tensor, "batch seq"], *, start: int, ignored: int, pad: int
) -> Int[Tensor, "batch seq"]:
    """The decoder's input: `start`, then the targets without the last; ignored ones read as `pad`."""
    first = torch.full_like(targets[:, :1], start)
    shifted = torch.cat([first, targets[:, :-1]], 1)
    return shifted.masked_fill(shifted == ignored, pad)
