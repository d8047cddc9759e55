"""One head of scores for classes, rewards and values: every place of it, its files, and what training asks of it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from luban.errors import ModelError
from luban.models import hf
from luban.models.classifier import Classifier
from luban.models.names import module_names
from tests import tiny
from tests.models.encoders import clean_load, tokens_of

TOKENS = tokens_of(2, 12)


def critic(**changes: Any) -> Classifier:
    torch.manual_seed(0)
    return Classifier(tiny.llama(**changes), 1)


@torch.no_grad()
def test_the_score_of_the_last_place_is_the_texts_score() -> None:
    model = critic()
    every = model.scores(TOKENS)
    assert every.shape == (2, 12, 1)
    assert every.dtype == torch.float32
    torch.testing.assert_close(every[:, -1], model(TOKENS))


@torch.no_grad()
def test_a_decoders_score_of_a_place_does_not_see_what_follows() -> None:
    model = critic()
    torch.testing.assert_close(model.scores(TOKENS)[:, :5], model.scores(TOKENS[:, :5]))


@torch.no_grad()
def test_scores_of_packed_texts_equal_those_of_each_alone() -> None:
    model = critic()
    documents = torch.tensor([[0] * 5 + [1] * 7]).expand(2, -1)
    positions = torch.tensor([[*range(5), *range(7)]]).expand(2, -1)
    packed = model.scores(TOKENS, positions, model.isolate(documents))
    torch.testing.assert_close(packed[:, 5:], model.scores(TOKENS[:, 5:]))


@torch.no_grad()
def test_an_encoder_is_read_through_its_pooler() -> None:
    torch.manual_seed(0)
    model = Classifier(tiny.bert(), ["no", "yes"])
    torch.testing.assert_close(model.scores(TOKENS)[:, 0], model(TOKENS))


@torch.no_grad()
@pytest.mark.parametrize("tied", [True, False])
def test_a_reward_model_is_one_that_transformers_reads(tied: bool, tmp_path: Path) -> None:
    model = critic(tied=tied)
    hf.save(model, tmp_path)
    theirs = clean_load("LlamaForSequenceClassification", tmp_path)
    torch.testing.assert_close(model(TOKENS[:1]), theirs(input_ids=TOKENS[:1]).logits)
    again = hf.load(tmp_path)
    assert again.config == model.config
    torch.testing.assert_close(again(TOKENS), model(TOKENS))


def test_several_answers_and_first_token_pooling_survive_the_folder(tmp_path: Path) -> None:
    labels = ["spam", "urgent"]
    model = Classifier(tiny.gpt2(), labels, problem="multi_label_classification", pooling="first", words=True)
    hf.save(model, tmp_path)
    config = hf.load_config(tmp_path)
    assert (config.problem, config.pooling, config.words) == ("multi_label_classification", "first", True)
    assert config.labels == ("spam", "urgent")


@torch.no_grad()
def test_first_token_pooling_reads_the_first_token() -> None:
    model = Classifier(tiny.llama(), 2, pooling="first")
    torch.testing.assert_close(model(TOKENS), model(TOKENS[:, :1]))


def test_an_untied_head_for_words_goes_unless_it_is_asked_for(tmp_path: Path) -> None:
    assert critic(tied=False).backbone.head is None
    model = Classifier(tiny.llama(tied=False), 2, words=True)
    hf.save(model, tmp_path)
    assert torch.equal(hf.load(tmp_path).backbone.head.weight, model.backbone.head.weight)


def test_the_config_is_the_backbones_with_the_labels() -> None:
    model = critic()
    assert (model.config.dim, model.config.model_type, model.config.labels) == (32, "llama", ("LABEL_0",))
    assert model.config.problem == "regression"
    assert copy.deepcopy(model).config == model.config
    with pytest.raises(AttributeError, match="no attribute 'unheard'"):
        _ = model.config.unheard


def test_adapters_find_the_names_of_its_layers() -> None:
    model = critic()
    names = module_names(hf.names_of(model.config), dict(model.named_parameters()))
    assert names["backbone.blocks.0.attention.q"] == "model.layers.0.self_attn.q_proj"
    assert names["score"] == "score"


def test_a_family_that_is_neither_decoder_nor_encoder_takes_no_head() -> None:
    torch.manual_seed(0)
    from luban.models.t5 import T5, T5Config

    t5 = T5(
        T5Config(vocab=60, dim=16, layers=1, heads=2, head_dim=8, hidden=16, context=24, decoder_start_id=0)
    )
    with pytest.raises(ModelError, match="'t5' takes no head for tasks: its kind is 'seq2seq'"):
        Classifier(t5, 2)
