"""How a model is cut into stages, and which pipelines are refused before a run begins."""

from __future__ import annotations

from typing import Any

import pytest

from luban.errors import ConfigError
from luban.models.gpt2 import GPT2Config
from luban.models.llama import LlamaConfig
from luban.models.mamba import MambaConfig
from luban.training.config import ParallelConfig
from luban.training.parallel.stages import balanced_spans, check, check_model, check_step, spans
from tests import tiny


def test_the_largest_share_of_blocks_is_as_small_as_can_be() -> None:
    assert spans([1, 1, 1, 1], 2) == [range(2), range(2, 4)]
    assert spans([5, 1, 1, 1], 2) == [range(1), range(1, 4)]
    # an embedding as heavy as 2 blocks and a head as heavy as 3: each stage has 5
    assert spans([1] * 10, 3, before=2, behind=3) == [range(3), range(3, 8), range(8, 10)]


def test_the_embedding_and_the_head_count_as_blocks_do() -> None:
    small = tiny.llama(layers=4, vocab=8, tied=False)
    assert balanced_spans(small, 2) == [range(2), range(2, 4)]
    only_embedding = tiny.gpt2(
        layers=4, vocab=8, context=4096
    )  # learned positions weigh as much as 10 blocks
    assert balanced_spans(only_embedding, 2) == [range(1), range(1, 4)]


LLAMA: dict[str, Any] = {"vocab": 384, "dim": 32, "heads": 4, "kv_heads": 4, "hidden": 48, "context": 64}


def test_fewer_layers_than_stages_are_told_with_both_numbers() -> None:
    with pytest.raises(ConfigError, match="3 layers are too few for pp 2 of 2 chunks each"):
        check_model(LlamaConfig(layers=3, **LLAMA), ParallelConfig(pp=2, schedule="interleaved"))
    check_model(LlamaConfig(layers=4, **LLAMA), ParallelConfig(pp=2, schedule="interleaved"))


def test_a_family_that_is_not_cut_names_those_that_are() -> None:
    with pytest.raises(ConfigError, match="'mamba' model is not cut into stages") as told:
        check_model(MambaConfig(vocab=384, dim=32, layers=4, context=64), ParallelConfig(pp=2))
    assert "gpt2, llama, mistral" in str(told.value)
    check_model(GPT2Config(vocab=384, dim=32, layers=4, heads=4, context=64), ParallelConfig(pp=2))


def test_a_mixture_of_experts_is_not_cut() -> None:
    config = LlamaConfig(model_type="mixtral", layers=4, experts=4, experts_per_token=2, **LLAMA)
    with pytest.raises(ConfigError, match="evenly used over all layers at once"):
        check_model(config, ParallelConfig(pp=2))


def test_too_few_micro_batches_for_1f1b_say_what_would_do() -> None:
    with pytest.raises(ConfigError, match="too few micro-batches to fill 2 stages: 1") as told:
        check_step(ParallelConfig(pp=2, schedule="1f1b"), 1)
    assert "loop.gradient_accumulation_steps=8, or parallel.schedule=gpipe" in str(told.value)
    check_step(ParallelConfig(pp=2, schedule="gpipe"), 1)
    with pytest.raises(ConfigError, match="5 micro-batches do not divide into 2 equal groups"):
        check_step(ParallelConfig(pp=2, schedule="interleaved"), 5)


def test_a_run_is_checked_before_it_begins() -> None:
    llama = LlamaConfig(layers=4, **LLAMA)
    with pytest.raises(ConfigError, match="too few micro-batches to fill 4 stages: 3"):
        check(llama, ParallelConfig(pp=4), micro_batches=3)
    with pytest.raises(ConfigError, match="too few for pp 8"):
        check(llama, ParallelConfig(pp=8), micro_batches=8)
    check(llama, ParallelConfig(pp=1), micro_batches=1)
