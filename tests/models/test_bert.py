"""Our BERT against `transformers`', in each way it is called, and what of a folder is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from luban.errors import ModelError, PromptError
from luban.models import hf
from luban.models.base import Shape
from luban.models.bert import Bert, BertConfig
from tests.models.encoders import (
    CONTEXT,
    VOCAB,
    Weights,
    assert_same,
    changed_folder,
    clean_load,
    encoder,
    padding_of,
    put,
    tokens_of,
    without,
)

WITH_WORDS = ["BertForPreTraining", "BertForMaskedLM"]
ALL = [*WITH_WORDS, "BertModel", "BertForNextSentencePrediction"]
SEGMENTS = torch.tensor([[0] * 7 + [1] * 9, [0] * 11 + [1] * 5])


def words_of(theirs: Any, tokens: torch.Tensor, **arguments: Any) -> torch.Tensor:
    made = theirs(tokens, **arguments)
    return made.prediction_logits if hasattr(made, "prediction_logits") else made.logits


@torch.no_grad()
@pytest.mark.parametrize("architecture", ALL)
def test_states_equal_transformers(architecture: str) -> None:
    theirs, folder = encoder(architecture)
    tokens = tokens_of(2, 16)
    expected = theirs.base_model(tokens, token_type_ids=SEGMENTS).last_hidden_state
    assert_same(hf.load(folder).hidden(tokens, segments=SEGMENTS), expected)


@torch.no_grad()
@pytest.mark.parametrize("architecture", WITH_WORDS)
def test_logits_of_words_equal_transformers(architecture: str) -> None:
    theirs, folder = encoder(architecture)
    tokens = tokens_of(2, 16)
    expected = words_of(theirs, tokens, token_type_ids=SEGMENTS)
    assert_same(hf.load(folder)(tokens, SEGMENTS), expected)


@torch.no_grad()
@pytest.mark.parametrize("activation", ["gelu_new", "relu"])
def test_other_activations_equal_transformers(activation: str) -> None:
    theirs, folder = encoder("BertForMaskedLM", hidden_act=activation)
    tokens = tokens_of(2, 16)
    assert_same(hf.load(folder)(tokens), words_of(theirs, tokens))


@torch.no_grad()
def test_logits_of_pairs_and_the_pooled_state_equal_transformers() -> None:
    theirs, folder = encoder("BertForPreTraining")
    model, tokens = hf.load(folder), tokens_of(2, 16)
    states = model.hidden(tokens, segments=SEGMENTS)
    assert_same(model.follows(states), theirs(tokens, token_type_ids=SEGMENTS).seq_relationship_logits)
    assert_same(model.pooled(states), theirs.bert(tokens, token_type_ids=SEGMENTS).pooler_output)


@torch.no_grad()
@pytest.mark.parametrize("side", ["right", "left"])
def test_padded_rows_equal_transformers_with_an_attention_mask(side: str) -> None:
    theirs, folder = encoder("BertForPreTraining")
    tokens, valid = tokens_of(3, 16), padding_of([16, 9, 1], 16)
    valid = valid if side == "right" else valid.flip(1)
    expected = words_of(theirs, tokens, attention_mask=valid.long())
    assert_same(hf.load(folder)(tokens, valid=valid)[valid], expected[valid])


@torch.no_grad()
def test_a_padded_row_is_read_as_if_alone() -> None:
    model = hf.load(encoder("BertForPreTraining")[1])
    tokens, lengths = tokens_of(3, 16), [16, 9, 4]
    batched = model(tokens, valid=padding_of(lengths, 16))
    for row, length in enumerate(lengths):
        alone = model(tokens[row : row + 1, :length])[0]
        torch.testing.assert_close(batched[row, :length], alone, atol=1e-5, rtol=0)


@torch.no_grad()
def test_documents_packed_in_a_row_are_as_separate_ones() -> None:
    model = hf.load(encoder("BertForPreTraining")[1])
    lengths = [5, 1, 10]
    tokens = tokens_of(2, 16)
    documents = torch.repeat_interleave(torch.arange(3), torch.tensor(lengths)).expand(2, -1)
    positions = torch.cat([torch.arange(length) for length in lengths]).expand(2, -1)
    packed = model.hidden(tokens, positions, model.isolate(documents))
    separate = torch.cat([model.hidden(part) for part in tokens.split(lengths, 1)], 1)
    torch.testing.assert_close(packed, separate, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_every_token_sees_both_sides() -> None:
    model = hf.load(encoder("BertModel")[1])
    tokens = tokens_of(1, 10)
    changed = tokens.clone()
    changed[0, 5] = tokens[0, 5] % (VOCAB - 1) + 1
    moved = (model.hidden(tokens) - model.hidden(changed)).abs().amax(-1)[0]
    assert (moved > 1e-3).all()


def test_gradients_equal_transformers() -> None:
    theirs, folder = encoder("BertForPreTraining")
    model, tokens = hf.load(folder), tokens_of(2, 16)
    states = model.hidden(tokens)
    (model.head(states).logsumexp(-1).sum() + model.follows(states).logsumexp(-1).sum()).backward()
    theirs.zero_grad()
    made = theirs(tokens)
    (made.prediction_logits.logsumexp(-1).sum() + made.seq_relationship_logits.logsumexp(-1).sum()).backward()
    expected = theirs.get_input_embeddings().weight.grad
    ours = model.embedding.weight.grad.clone()
    ours[0], expected[0] = 0, 0  # theirs keeps the padding's row without a gradient of its lookup
    torch.testing.assert_close(ours, expected, atol=1e-3, rtol=1e-3)
    assert [name for name, value in model.named_parameters() if value.grad is None] == []


@torch.no_grad()
@pytest.mark.parametrize("architecture", ALL)
def test_what_we_save_transformers_loads_with_the_same_results(architecture: str, tmp_path: Path) -> None:
    original, folder = encoder(architecture)
    hf.save(hf.load(folder), tmp_path)
    theirs, tokens = clean_load(architecture, tmp_path), tokens_of(2, 16)
    for ours, expected in zip(theirs(tokens).to_tuple(), original(tokens).to_tuple(), strict=True):
        assert_same(ours, expected)


@pytest.mark.parametrize("architecture", ALL)
def test_loading_what_was_saved_is_the_identity(architecture: str, tmp_path: Path) -> None:
    model = hf.load(encoder(architecture)[1])
    hf.save(model, tmp_path)
    again = hf.load(tmp_path)
    assert again.config == model.config
    assert model.state_dict().keys() == again.state_dict().keys()
    for key, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key


def test_a_new_model_has_both_heads_and_ties_its_words() -> None:
    shape = Shape(model_type="bert", vocab=VOCAB, context=16, dim=128, layers=1, bos_id=2, eos_id=3, pad_id=0)
    config = BertConfig.sized(shape)
    assert (config.heads, config.hidden, config.word_head, config.pair_head) == (2, 512, True, True)
    model = Bert(config)
    assert model.head is not None
    assert model.head.weight is model.embedding.weight
    assert BertConfig.from_hf(config.to_hf()) == config


@torch.no_grad()
def test_files_of_the_first_years_load(tmp_path: Path) -> None:
    def as_in_2018(weights: Weights) -> None:
        for name in list(weights):
            old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
                "LayerNorm.bias", "LayerNorm.beta"
            )
            weights[old] = weights.pop(name)
        weights["bert.embeddings.position_ids"] = torch.arange(CONTEXT)[None]
        weights["cls.predictions.decoder.weight"] = weights["bert.embeddings.word_embeddings.weight"].clone()
        weights["cls.predictions.decoder.bias"] = weights["cls.predictions.bias"].clone()

    theirs, _ = encoder("BertForPreTraining")
    tokens = tokens_of(2, 16)
    assert_same(
        hf.load(changed_folder(tmp_path, "BertForPreTraining", as_in_2018))(tokens), words_of(theirs, tokens)
    )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (without("bert.pooler.dense.weight"), r"weight 'bert\.pooler\.dense\.weight' is missing"),
        (without("cls.seq_relationship.bias"), r"weight 'cls\.seq_relationship\.bias' is missing"),
        (without("cls.predictions.bias"), r"weight 'cls\.predictions\.bias' is missing"),
        (put("bert.pooler.extra", 3), r"unknown weight 'bert\.pooler\.extra'"),
        (put("cls.seq_relationship.weight", 3, 32), r"'cls\.seq_relationship\.weight' has shape \[3, 32\]"),
        (put("cls.predictions.decoder.weight", VOCAB, 32), "ties the head to the embedding, but"),
    ],
)
def test_a_weight_that_does_not_fit_is_named(
    change: Callable[[Weights], object], told: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=told):
        hf.load(changed_folder(tmp_path, "BertForPreTraining", change))


def test_a_file_with_more_parts_than_its_architecture_is_refused_with_advice(tmp_path: Path) -> None:
    folder = changed_folder(tmp_path, "BertForPreTraining", architectures=["BertForMaskedLM"])
    with pytest.raises(ModelError, match=r"unknown weight '(bert\.pooler|cls\.seq_rel).*\n.*fewer parts"):
        hf.load(folder)


def test_an_encoder_saved_without_pooler_loads_where_its_config_says_so(tmp_path: Path) -> None:
    gone = without("pooler.dense.weight", "pooler.dense.bias")
    folder = changed_folder(tmp_path, "BertModel", gone, add_pooling_layer=False)
    assert hf.load(folder).pooler is None


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        ({"is_decoder": True}, "'is_decoder' is True; supported: False"),
        ({"position_embedding_type": "relative_key"}, "'position_embedding_type' is 'relative_key'"),
        ({"hidden_act": "swish"}, "'hidden_act'"),
        ({"tie_word_embeddings": False}, "'tie_word_embeddings' is False"),
        ({"vocab_size": None}, "'vocab_size' is missing"),
        (
            {"vocab_size": 60},
            r"word_embeddings.weight' has shape \[61, 32\], config.json makes it \[60, 32\]",
        ),
        ({"num_attention_heads": 5}, "dim 32 is not a multiple of heads 5"),
        ({"architectures": ["BertLMHeadModel"]}, "architecture 'BertLMHeadModel'"),
        ({"architectures": ["BertForMultipleChoice"]}, "architecture 'BertForMultipleChoice'"),
    ],
)
def test_a_config_we_do_not_compute_with_is_refused(
    entries: dict[str, Any], told: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=told):
        hf.load(changed_folder(tmp_path, "BertForPreTraining", **entries))


def test_positions_and_segments_it_never_learned_are_refused() -> None:
    model = hf.load(encoder("BertModel")[1])
    with pytest.raises(PromptError, match="position 24 is beyond the 24 positions"):
        model.hidden(tokens_of(1, 25))
    with pytest.raises(PromptError, match="segment 2 is beyond the 2 segments"):
        model.hidden(tokens_of(1, 4), segments=torch.tensor([[0, 0, 1, 2]]))


def test_a_part_that_is_not_there_is_named() -> None:
    model = hf.load(encoder("BertForMaskedLM")[1])
    with pytest.raises(ModelError, match="a BertForMaskedLM has no pooler"):
        model.pooled(model.hidden(tokens_of(1, 4)))
    bare = hf.load(encoder("BertModel")[1])
    with pytest.raises(ModelError, match="a BertModel has no head"):
        bare(tokens_of(1, 4))


def test_a_cache_of_another_depth_is_refused() -> None:
    model = hf.load(encoder("BertModel")[1])
    with pytest.raises(ValueError, match="shorter"):
        model.hidden(tokens_of(1, 4), cache=model.padded(None)[:1])


@pytest.mark.parametrize(
    ("change", "told"),
    [({"kv_heads": 1}, "kv_heads 1 for 2 heads"), ({"heads": 3}, "dim 128 is not a multiple of heads 3")],
)
def test_a_shape_that_makes_no_bert_is_refused(change: dict[str, int], told: str) -> None:
    shape = Shape(model_type="bert", vocab=VOCAB, context=16, dim=128, layers=1)
    with pytest.raises(ModelError, match=told):
        BertConfig.sized(dataclasses.replace(shape, **change))


@pytest.mark.slow
def test_a_compiled_step_equals_an_eager_one() -> None:
    torch.manual_seed(0)
    model, tokens = (
        Bert(BertConfig(vocab=VOCAB, dim=32, layers=1, heads=4, context=CONTEXT)),
        tokens_of(2, 16),
    )
    arguments = (tokens, None, model.padded(padding_of([16, 9], 16)), None, SEGMENTS)
    eager = model.hidden(*arguments)
    eager.square().sum().backward()
    expected = [parameter.grad for parameter in model.blocks.parameters()]
    model.zero_grad()
    compiled = torch.compile(model.hidden, fullgraph=True)(*arguments)
    compiled.square().sum().backward()
    torch.testing.assert_close(compiled, eager, atol=1e-5, rtol=1e-5)
    for ours, theirs in zip(model.blocks.parameters(), expected, strict=True):
        torch.testing.assert_close(ours.grad, theirs, atol=1e-3, rtol=1e-3)
