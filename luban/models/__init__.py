"""One file per model family: config, wiring, Hugging Face names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from luban.models import (
    bahdanau,
    bart,
    bart_files,
    bert,
    bloom,
    feedforward,
    gpt2,
    llama,
    llama_files,
    mamba,
    ngram,
    rnn,
    roberta,
    t5,
    t5_files,
    transformer,
    vit,
)
from luban.models.names import Names

Kind = Literal["causal", "masked", "seq2seq", "counted", "vision"]
"""How a family is trained and used: next token, masked tokens, source to target, counting, images."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """What it takes to read, build and write a model of one `model_type`, and to tell of it."""

    config: type[Any]  # a ModelConfig
    model: type[Any]
    """A `CausalLM`, a `Seq2Seq`, or the family's own kind of module."""
    names: Names
    kind: Kind = "causal"
    positions: str
    """How a token's place is told, in a few words."""
    paper: str
    """First author, year, arXiv number."""
    compiles: bool = True
    """Whether `torch.compile` of its training step pays; False for loops over time."""
    tp_plan: Mapping[str, str] | None = None
    """How tensor parallelism cuts each layer (`training/parallel/tensor.py`); None where nobody has said."""


_LLAMA = {
    "config": llama.LlamaConfig,
    "model": llama.Llama,
    "names": llama_files.NAMES,
    "positions": "rotary",
}

_RECURRENT = {
    "config": rnn.RNNConfig,
    "model": rnn.RecurrentLM,
    "names": rnn.NAMES,
    "positions": "none: read in order",
    "compiles": False,  # compiling would unroll the loop over time, step by step
}

FAMILIES = {
    "ngram": Family(
        config=ngram.NgramConfig,
        model=ngram.NgramLM,
        names=ngram.NAMES,
        kind="counted",
        positions="the order of a few tokens",
        paper="Kneser and Ney 1995; Chen and Goodman 1998",
        compiles=False,  # nothing is trained
    ),
    "feedforward": Family(
        config=feedforward.FeedForwardConfig,
        model=feedforward.FeedForwardLM,
        names=feedforward.NAMES,
        positions="place in its window",
        paper="Bengio et al. 2003",
    ),
    "rnn": Family(**_RECURRENT, paper="Mikolov et al. 2010"),
    "lstm": Family(**_RECURRENT, paper="Sundermeyer et al. 2012"),
    "gru": Family(**_RECURRENT, paper="Cho et al. 2014, arXiv:1406.1078"),
    "rnnsearch": Family(
        config=bahdanau.RNNSearchConfig,
        model=bahdanau.RNNSearch,
        names=bahdanau.NAMES,
        kind="seq2seq",
        positions="none: read in order",
        paper="Bahdanau et al. 2015, arXiv:1409.0473",
        compiles=False,  # as for the recurrent ones; and noise gives every batch lengths of its own
    ),
    "gpt2": Family(
        config=gpt2.GPT2Config,
        model=gpt2.GPT2,
        names=gpt2.NAMES,
        positions="learned",
        paper="Radford et al. 2019",
        tp_plan=gpt2.TP_PLAN,
    ),
    "llama": Family(**_LLAMA, paper="Touvron et al. 2023, arXiv:2302.13971", tp_plan=llama.TP_PLAN),
    "mistral": Family(**_LLAMA, paper="Jiang et al. 2023, arXiv:2310.06825", tp_plan=llama.TP_PLAN),
    "mixtral": Family(
        config=llama.LlamaConfig,
        model=llama.Llama,
        names=llama_files.MIXTRAL_NAMES,
        positions="rotary",
        paper="Jiang et al. 2024, arXiv:2401.04088",
        tp_plan=llama.MOE_PLAN,
        compiles=False,  # how many tokens an expert gets is known only when it runs
    ),
    "qwen2": Family(**_LLAMA, paper="Yang et al. 2024, arXiv:2407.10671", tp_plan=llama.TP_PLAN),
    "qwen3": Family(
        **_LLAMA,
        paper="Yang et al. 2025, arXiv:2505.09388",
        tp_plan=llama.TP_PLAN | llama.QK_NORM_PLAN,
    ),
    "qwen3_moe": Family(
        **_LLAMA,
        paper="Yang et al. 2025, arXiv:2505.09388",
        tp_plan=llama.MOE_PLAN | llama.QK_NORM_PLAN,
        compiles=False,
    ),
    "bloom": Family(
        config=bloom.BloomConfig,
        model=bloom.Bloom,
        names=bloom.NAMES,
        positions="ALiBi",
        paper="BigScience 2022, arXiv:2211.05100",
        tp_plan=bloom.TP_PLAN,
    ),
    "mamba": Family(
        config=mamba.MambaConfig,
        model=mamba.Mamba,
        names=mamba.NAMES,
        positions="none: read in order",
        paper="Gu and Dao 2023, arXiv:2312.00752",
        compiles=False,  # its scan is a loop over time, with a backward pass of its own
    ),
    "transformer": Family(
        config=transformer.TransformerConfig,
        model=transformer.Transformer,
        names=transformer.NAMES,
        kind="seq2seq",
        positions="sinusoidal",
        paper="Vaswani et al. 2017, arXiv:1706.03762",
        tp_plan=transformer.TP_PLAN,
    ),
    "bart": Family(
        config=bart.BartConfig,
        model=bart.Bart,
        names=bart_files.NAMES,
        kind="seq2seq",
        positions="learned",
        paper="Lewis et al. 2020, arXiv:1910.13461",
        compiles=False,  # noise gives every batch lengths of its own
        tp_plan=bart.TP_PLAN,
    ),
    "t5": Family(
        config=t5.T5Config,
        model=t5.T5,
        names=t5_files.NAMES,
        kind="seq2seq",
        positions="relative bias",
        paper="Raffel et al. 2020, arXiv:1910.10683",
        compiles=False,  # noise gives every batch lengths of its own
        tp_plan=t5.TP_PLAN,
    ),
    "bert": Family(
        config=bert.BertConfig,
        model=bert.Bert,
        names=bert.NAMES,
        kind="masked",
        positions="learned",
        paper="Devlin et al. 2019, arXiv:1810.04805",
        tp_plan=bert.TP_PLAN,
    ),
    "roberta": Family(
        config=roberta.RobertaConfig,
        model=bert.Bert,
        names=roberta.NAMES,
        kind="masked",
        positions="learned",
        paper="Liu et al. 2019, arXiv:1907.11692",
        tp_plan=bert.TP_PLAN,
    ),
    "vit": Family(
        config=vit.ViTConfig,
        model=vit.ViT,
        names=vit.NAMES,
        kind="vision",
        positions="learned",
        paper="Dosovitskiy et al. 2021, arXiv:2010.11929",
    ),
}
"""By the `model_type` in `config.json`."""
