"""RoBERTa: BERT's blocks, pretrained longer on hidden words alone; only numbers and names of the files differ.

Positions begin after the padding's id, there is one segment, and a classifier's first layer stands in its head.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from luban.models import bert
from luban.models.bert import Architecture, BertConfig
from luban.models.names import Names

PAD_ID = 1
"""Where the config says none, as in Hugging Face."""
HEAD = {
    "lm_head.dense": "head.transform",
    "lm_head.layer_norm": "head.norm",
    "lm_head.bias": "head.bias",
}
NAMES = Names(
    modules={
        theirs.replace("bert.", "roberta.", 1): ours
        for theirs, ours in bert.NAMES.modules.items()
        if theirs.startswith("bert.")
    }
    | HEAD,
    prefix="roberta.",
    # The decoder's bias is another name of `lm_head.bias`.
    buffers=("embeddings.position_ids", "embeddings.token_type_ids", "lm_head.decoder.bias"),
    head="lm_head.decoder.weight",
)


@dataclass(frozen=True, kw_only=True)
class RobertaConfig(BertConfig):
    """The numbers of one RoBERTa.

    Source: Liu et al. 2019 (arXiv:1907.11692).
    """

    encoder_alone: ClassVar[Architecture] = "RobertaModel"
    model_type: Literal["bert", "roberta"] = "roberta"
    """Hugging Face's name of the family."""
    architecture: Architecture = "RobertaForMaskedLM"
    """Which heads stand on the encoder."""
    segments: int = 1
    """Number of learned segments; texts are told apart by their marks alone."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pad_id is None:  # positions are counted from it
            object.__setattr__(self, "pad_id", PAD_ID)

    @property
    def first_position(self) -> int:
        """The one after the padding's."""
        assert self.pad_id is not None, "it was set"
        return 1 + self.pad_id

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> Self:
        """Read an HF `config.json`; raises ModelError naming a missing or unsupported entry."""
        told = {"architectures": ["RobertaForMaskedLM"], **config}
        if (places := config.get("max_position_embeddings")) is not None:
            pad = config.get("pad_token_id")
            told["max_position_embeddings"] = places - 1 - (PAD_ID if pad is None else pad)
        return super().from_hf(told)

    def to_hf(self) -> dict[str, Any]:
        """HF's `config.json`."""
        places = self.context + self.first_position
        return {**super().to_hf(), "max_position_embeddings": places}
