"""What sets a RoBERTa apart from a BERT; more of it against `transformers` in test_families_page and test_heads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from luban.errors import PromptError
from luban.models import hf
from luban.models.base import Shape
from luban.models.classifier import Classifier
from luban.models.roberta import RobertaConfig
from luban.tokenizers.train import train
from luban.tuning.class_rows import Layout
from tests import tiny
from tests.models.encoders import CONTEXT, assert_same, clean_load, encoder, tokens_of


@torch.no_grad()
def test_states_and_the_pooled_state_equal_transformers() -> None:
    theirs, folder = encoder("RobertaModel")
    model, tokens = hf.load(folder), tokens_of(2, 16)
    made = theirs(tokens)
    states = model.hidden(tokens)
    assert_same(states, made.last_hidden_state)
    assert_same(model.pooled(states), made.pooler_output)


@torch.no_grad()
@pytest.mark.parametrize("pad_id", [None, 1, 3])
def test_positions_begin_after_the_paddings_id(pad_id: int | None, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = RobertaConfig(vocab=61, dim=32, layers=2, heads=4, context=CONTEXT, pad_id=pad_id)
    model = hf.build(config)
    hf.save(model, tmp_path)
    assert hf.load_config(tmp_path) == config
    tokens = tokens_of(2, 16) % 50 + 5  # none is the padding
    assert_same(model(tokens), clean_load("RobertaForMaskedLM", tmp_path)(tokens).logits)


def test_a_text_longer_than_its_positions_is_refused_and_the_longest_is_not() -> None:
    model = hf.load(encoder("RobertaModel")[1])
    model.hidden(tokens_of(1, CONTEXT))
    with pytest.raises(PromptError, match=f"position {CONTEXT} is beyond the {CONTEXT} positions"):
        model.hidden(tokens_of(1, CONTEXT + 1))


def test_a_new_one_has_the_head_for_words_and_one_segment() -> None:
    config = RobertaConfig.sized(
        Shape(model_type="roberta", vocab=60, context=24, dim=32, layers=1, pad_id=0)
    )
    assert (config.word_head, config.segments, config.first_position) == (True, 1, 1)


def test_two_texts_of_a_classifier_are_parted_by_two_marks() -> None:
    pieces = train(tiny.TEXTS, kind="wordpiece", vocab=200)
    config = Classifier(
        hf.build(
            RobertaConfig(vocab=200, dim=32, layers=1, heads=4, context=24, architecture="RobertaModel")
        ),
        2,
    ).config
    layout = Layout.of(pieces, config, separator="", max_tokens=16)
    assert layout.between == (pieces.sep_id, pieces.sep_id)
    assert layout.row([7], [8]) == [pieces.cls_id, 7, pieces.sep_id, pieces.sep_id, 8, pieces.sep_id]
