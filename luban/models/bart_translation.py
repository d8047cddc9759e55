"""Translation into a BART's language: a new encoder turns foreign words into what BART's encoder can read.

It stands where BART's encoder looks up embeddings, with a vocabulary of its own. First it learns to speak to a BART
that hardly moves; then all learn together.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from luban.errors import ModelError
from luban.models.bart import Bart, Encoder
from luban.models.seq2seq import Seq2Seq, Source
from luban.nn.cache import Cache
from luban.nn.init import initialise, unset_embedding

Phase = Literal["source", "all"]
"""What is trained: the new encoder and what it speaks to; then everything."""
PHASES: tuple[Phase, ...] = ("source", "all")
FIRST = (
    "source_embedding.",
    "source_encoder.",
    "bart.encoder.stem.positions.",
    "bart.stem.positions.",
    "bart.encoder.blocks.0.attention.q.weight",
    "bart.encoder.blocks.0.attention.k.weight",
    "bart.encoder.blocks.0.attention.v.weight",
)
"""How names of parameters begin that the first phase trains."""


class BartTranslator(Seq2Seq):
    """A BART that reads another language through a new encoder of `layers` blocks over `source_vocab` ids.

    Source: Lewis et al. 2020, section 3.4 and figure 3b (arXiv:1910.13461).
    """

    def __init__(self, bart: Bart, *, source_vocab: int, layers: int = 6) -> None:
        super().__init__()
        if source_vocab < 1 or layers < 1:
            raise ModelError(
                f"a source encoder of {layers} layers over {source_vocab} ids: both must be at least 1"
            )
        self.config = bart.config
        self.source_embedding = unset_embedding(source_vocab, bart.config.dim)
        self.source_encoder = Encoder(dataclasses.replace(bart.config, encoder_layers=layers))
        for part in (self.source_embedding, self.source_encoder):
            initialise(part, layers=layers, std=bart.config.dim**-0.5)
        self.bart = bart

    @property
    def blocks(self) -> nn.ModuleList:  # pyright: ignore[reportIncompatibleVariableOverride] - BART's own
        return self.bart.blocks

    @property
    def embedding(self) -> nn.Embedding:  # pyright: ignore[reportIncompatibleVariableOverride] - BART's own
        return self.bart.embedding

    @property
    def head(self) -> nn.Linear:  # pyright: ignore[reportIncompatibleVariableOverride] - BART's own
        return self.bart.head

    def train_phase(self, phase: Phase) -> None:
        """Let only the parameters of `phase` learn; make a new optimizer afterwards."""
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(phase == "all" or name.startswith(FIRST))
        if self.bart.final_bias is not None:
            self.bart.final_bias.requires_grad_(False)

    def encode(
        self, tokens: Int[Tensor, "batch source"], valid: Bool[Tensor, "batch source"] | None = None
    ) -> Source:
        """See `Seq2Seq.encode`; `tokens` are of the source's own vocabulary."""
        return self.bart.encode(None, valid, embeds=self.source_encoder(self.source_embedding(tokens), valid))

    def hidden(
        self,
        tokens: Int[Tensor, "batch seq"],
        source: Source,
        positions: Int[Tensor, "batch seq"] | None = None,
        cache: Cache | None = None,
    ) -> Float[Tensor, "batch seq dim"]:
        """See `Seq2Seq.hidden`."""
        return self.bart.hidden(tokens, source, positions, cache)

    def head_bias(self) -> Float[Tensor, " vocab"] | None:
        """See `Seq2Seq.head_bias`."""
        return self.bart.head_bias()
