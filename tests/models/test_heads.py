"""Heads for tasks against `transformers`' classes, the auxiliary loss by hand, and that each one learns its task."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from luban.errors import ModelError, PromptError
from luban.models import hf
from luban.models.bert import Bert, BertConfig
from luban.models.classifier import Classifier
from luban.models.gpt2 import GPT2, GPT2Config
from luban.models.heads import SpanReader, TokenClassifier, best_spans
from tests import tiny
from tests.models.encoders import (
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

ENCODERS = ["BertForSequenceClassification", "BertForTokenClassification", "BertForQuestionAnswering"]
ROBERTAS = [name.replace("Bert", "Roberta") for name in ENCODERS]
DECODERS = [
    "GPT2ForSequenceClassification",
    "GPT2ForTokenClassification",
    "LlamaForSequenceClassification",
    "Qwen2ForSequenceClassification",
]
LENGTHS = [16, 9, 2]
VALID = padding_of(LENGTHS, 16)
PADDED = tokens_of(3, 16) * VALID
SEGMENTS = (torch.arange(16) >= torch.tensor([5, 3, 1])[:, None]).long() * VALID


def made_by(theirs: Any, **arguments: Any) -> torch.Tensor:
    made = theirs(**arguments)
    return made.logits if hasattr(made, "logits") else torch.stack([made.start_logits, made.end_logits], -1)


@torch.no_grad()
@pytest.mark.parametrize("architecture", [*ENCODERS, *ROBERTAS])
def test_an_encoders_head_equals_transformers_on_pairs_with_padding(architecture: str) -> None:
    theirs, folder = encoder(architecture)
    segments = SEGMENTS * 0 if architecture in ROBERTAS else SEGMENTS
    arguments = {"attention_mask": VALID.long(), "token_type_ids": segments}
    expected = made_by(theirs, input_ids=PADDED, **arguments)
    ours = hf.load(folder)(PADDED, segments, VALID)
    every_token = ours.ndim == 3
    assert_same(ours[VALID] if every_token else ours, expected[VALID] if every_token else expected)


@torch.no_grad()
@pytest.mark.parametrize("architecture", DECODERS)
def test_a_decoders_head_equals_transformers_with_padding(architecture: str) -> None:
    theirs, folder = encoder(architecture, num_labels=3, pad_token_id=0)
    expected = made_by(theirs, input_ids=PADDED, attention_mask=VALID.long())
    ours = hf.load(folder)(PADDED, valid=VALID)
    every_token = ours.ndim == 3
    assert_same(ours[VALID] if every_token else ours, expected[VALID] if every_token else expected)


@torch.no_grad()
@pytest.mark.parametrize(
    "architecture", [*ENCODERS, *ROBERTAS, *DECODERS, "GPT2ForQuestionAnswering", "LlamaForQuestionAnswering"]
)
def test_what_we_save_transformers_loads_with_the_same_logits(architecture: str, tmp_path: Path) -> None:
    model = hf.load(encoder(architecture)[1])
    hf.save(model, tmp_path)
    tokens = tokens_of(1, 16)
    assert_same(model(tokens), made_by(clean_load(architecture, tmp_path), input_ids=tokens))
    again = hf.load(tmp_path)
    assert again.config == model.config
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_labels_keep_their_names(tmp_path: Path) -> None:
    model = TokenClassifier(small_bert(), ["O", "B-PER", "I-PER"])
    hf.save(model, tmp_path)
    assert hf.load(tmp_path).config.labels == ("O", "B-PER", "I-PER")


def test_a_head_stands_on_a_pretrained_model_and_leaves_its_body_as_it_was() -> None:
    body = hf.load(encoder("BertForPreTraining")[1])
    tokens = tokens_of(2, 16)
    states = body.hidden(tokens)
    model = Classifier(body, ["no", "yes"])
    assert torch.equal(model.states(tokens), states)
    names = [name for name, _ in model.named_parameters()]
    assert not [name for name in names if name.startswith(("backbone.head", "backbone.pair_head"))]
    assert model.score.weight.std().item() == pytest.approx(0.02, rel=0.5)


def test_a_decoder_is_read_at_its_last_real_token() -> None:
    torch.manual_seed(0)
    model = Classifier(tiny.gpt2(vocab=VOCAB), ["no", "yes"])
    batched = model(PADDED, valid=VALID)
    for row, length in enumerate(LENGTHS):
        torch.testing.assert_close(batched[row], model(PADDED[row : row + 1, :length])[0], atol=1e-5, rtol=0)


def test_the_best_span_ends_no_sooner_than_it_begins_and_within_bounds() -> None:
    logits = torch.zeros(1, 5, 2)
    logits[0, :, 0] = torch.tensor([1.0, 0.0, 0.0, 9.0, 8.0])  # begins
    logits[0, :, 1] = torch.tensor([2.0, 9.0, 5.0, 0.0, 4.0])  # ends
    everywhere = torch.ones(1, 5, dtype=torch.bool)
    assert best_spans(logits, everywhere, longest=5).tolist() == [
        [3, 4]
    ]  # 9 + 4; not 9 + 9, which is backwards
    assert best_spans(logits, everywhere, longest=1).tolist() == [[4, 4]]  # 8 + 4
    first_three = torch.tensor([[True, True, True, False, False]])
    assert best_spans(logits, first_three, longest=5).tolist() == [[0, 1]]  # 1 + 9


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (without("classifier.bias"), r"weight 'classifier\.bias' is missing"),
        (without("bert.pooler.dense.bias"), r"weight 'bert\.pooler\.dense\.bias' is missing"),
        (
            put("classifier.weight", 3, 32),
            r"'classifier\.weight' has shape \[3, 32\], config.json makes it \[2, 32\]",
        ),
        (put("score.weight", 2, 32), r"unknown weight 'score\.weight'"),
    ],
)
def test_a_weight_that_does_not_fit_is_named(
    change: Callable[[Weights], object], told: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=told):
        hf.load(changed_folder(tmp_path, ENCODERS[0], change))


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        ({"architectures": ["BertModel"]}, r"unknown weight 'classifier\.(bias|weight)'"),
        ({"problem_type": "regression"}, "'problem_type' is 'regression'"),
        ({"model_type": "unheard"}, "unknown model_type 'unheard'"),
        (
            {"id2label": {"0": "twice", "1": "twice"}},
            "labels are twice, twice; a head tells two or more apart",
        ),
    ],
)
def test_a_config_we_do_not_compute_with_is_refused(
    entries: dict[str, Any], told: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=told):
        hf.load(changed_folder(tmp_path, ENCODERS[0], **entries))


def test_what_a_body_cannot_do_is_told() -> None:
    decoder = Classifier(tiny.gpt2(vocab=VOCAB), ["no", "yes"])
    with pytest.raises(PromptError, match="a decoder has no segments"):
        decoder(PADDED, SEGMENTS, VALID)
    with pytest.raises(PromptError, match="padded on the right"):
        decoder(PADDED, valid=VALID.flip(1))
    with pytest.raises(ModelError, match="a BertForMaskedLM has no pooler"):
        Classifier(hf.load(encoder("BertForMaskedLM")[1]), ["no", "yes"])


def small_bert() -> Bert:
    return Bert(BertConfig(vocab=VOCAB, dim=32, layers=2, heads=4, context=24))


def small_gpt2() -> GPT2:
    return GPT2(GPT2Config(vocab=VOCAB, dim=32, layers=2, heads=4, context=24))


def learned(model: torch.nn.Module, loss_of: Callable[[], torch.Tensor], *, steps: int, rate: float) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    for _ in range(steps):
        loss_of().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


def pair_rows(*parts: torch.Tensor) -> torch.Tensor:
    """Rows `[CLS] A [SEP] B [SEP]`."""
    cls, sep = (torch.full((len(parts[0]), 1), mark) for mark in (1, 2))
    return torch.cat([cls, parts[0], sep, parts[1], sep], 1)


def numbers_of(count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pairs of two words, their segments, and whether the first word of the second is the larger number."""
    words = torch.randint(5, VOCAB, (count, 2, 2))
    segments = torch.tensor([0, 0, 0, 0, 1, 1, 1]).expand(count, -1)
    return pair_rows(words[:, 0], words[:, 1]), segments, (words[:, 0, 0] < words[:, 1, 0]).long()


@pytest.mark.slow
@pytest.mark.parametrize("body", [small_bert, small_gpt2])
def test_it_learns_which_of_two_texts_names_the_larger_number(body: Callable[[], Any]) -> None:
    torch.manual_seed(0)
    model = Classifier(body(), ["first", "second"])
    encodes = model.config.encoder

    def loss_of() -> torch.Tensor:
        rows, segments, labels = numbers_of(64)
        return F.cross_entropy(model(rows, segments if encodes else None), labels)

    learned(model, loss_of, steps=300, rate=1e-3)
    rows, segments, labels = numbers_of(1000)
    right = (model(rows, segments if encodes else None).argmax(-1) == labels).float().mean()
    assert right > 0.9  # by chance 0.5


@pytest.mark.slow
def test_it_learns_to_label_tokens_by_their_right_neighbour() -> None:
    torch.manual_seed(0)
    model = TokenClassifier(small_bert(), ["even", "odd"])

    def rows_and_labels(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        rows = torch.randint(5, 25, (count, 12))
        return rows, rows[:, 1:] % 2

    def loss_of() -> torch.Tensor:
        rows, labels = rows_and_labels(32)
        return F.cross_entropy(model(rows)[:, :-1].flatten(0, 1), labels.flatten())

    learned(model, loss_of, steps=250, rate=3e-3)
    rows, labels = rows_and_labels(200)
    assert (model(rows)[:, :-1].argmax(-1) == labels).float().mean() > 0.95  # by chance 0.5


def questions_of(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Texts with a run of small and one of large numbers among fillers; a question asks for one of the runs."""
    place = torch.arange(12)
    text = torch.randint(15, 25, (count, 12))
    small_first = torch.rand(count) < 0.5
    starts = torch.stack([torch.randint(0, 3, (count,)), torch.randint(6, 9, (count,))])
    lengths = torch.randint(1, 4, (2, count))
    for start, length, small in zip(starts, lengths, (small_first, ~small_first), strict=True):
        run = (place >= start[:, None]) & (place < (start + length)[:, None])
        numbers = torch.where(small, 5, 10)[:, None] + torch.randint(0, 5, (count, 12))
        text = torch.where(run, numbers, text)
    asks_first = torch.rand(count) < 0.5
    start, length = (torch.where(asks_first, both[0], both[1]) for both in (starts, lengths))
    question = torch.where(asks_first == small_first, 30, 31)
    return pair_rows(question[:, None], text), torch.stack([start, start + length - 1], 1) + 3


@pytest.mark.slow
def test_it_learns_to_point_at_the_span_that_a_question_asks_for() -> None:
    torch.manual_seed(0)
    model = SpanReader(small_bert())

    def loss_of() -> torch.Tensor:
        rows, spans = questions_of(64)
        return F.cross_entropy(model(rows), spans)

    learned(model, loss_of, steps=800, rate=3e-3)
    rows, spans = questions_of(500)
    allowed = (torch.arange(16) >= 3).expand(500, -1)
    right = (best_spans(model(rows), allowed, longest=4) == spans).all(1).float().mean()
    assert right > 0.9  # without the question 0.5
