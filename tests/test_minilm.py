"""A real encoder, fetched and read by us, against `transformers` reading the same files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, BertModel

from luban.fetch import fetch_known
from luban.models import hf
from luban.models.bert import Bert
from luban.tokenizers.files import load as load_tokenizer

pytestmark = pytest.mark.slow

TEXTS = [
    "The carpenter planed the board until it was smooth.",
    "A joiner made the plank even with his plane.",
    "Stock prices fell sharply on Monday.",
    "What is the capital of France?",
    "Paris is the capital of France.",
    "numbers: 1 23 456 7890; 2026-11-21 3.14",
    "鲁班是中国古代的木匠，他自己做工具。",
    "émigré café naïve Ελληνικά русский",
    "def f(x):\n\treturn x ** 2  # square",
    "don't you'll we're  two  spaces",
    "antidisestablishmentarianism and floccinaucinihilipilification",
    "Why is the sky blue?",
    "Bees turn nectar into honey.",
    "The quick brown fox jumps over the lazy dog.",
    "In the beginning was the word.",
    "HELLO WORLD, hello World!",
    "a",
    "?!...",
    "She sells sea shells by the sea shore, and the shells she sells are sea shells, I am sure.",
    "Translate 'good morning' into French.",
]


@pytest.fixture(scope="module")
def folder() -> Path:
    return fetch_known("minilm")


@pytest.fixture(scope="module")
def model(folder: Path) -> Bert:
    return hf.load(folder).eval()


@torch.no_grad()
def states_of(model: Bert, folder: Path, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """States of `[CLS] text [SEP]`, padded on the right, and which places are text."""
    tokenizer = load_tokenizer(folder)
    assert tokenizer.cls_id is not None
    assert tokenizer.sep_id is not None
    rows = [[tokenizer.cls_id, *ids, tokenizer.sep_id] for ids in tokenizer.encode_batch(texts)]
    longest = max(map(len, rows))
    tokens = torch.tensor([row + [tokenizer.pad_id or 0] * (longest - len(row)) for row in rows])
    valid = torch.arange(longest) < torch.tensor([len(row) for row in rows])[:, None]
    return model.hidden(tokens, cache=model.padded(valid)), valid


@torch.no_grad()
def test_states_and_pooled_states_of_twenty_texts_equal_transformers(model: Bert, folder: Path) -> None:
    theirs = BertModel.from_pretrained(folder).eval()
    inputs = AutoTokenizer.from_pretrained(folder)(TEXTS, return_tensors="pt", padding=True)
    expected = theirs(**inputs)
    ours, valid = states_of(model, folder, TEXTS)
    assert torch.equal(inputs["attention_mask"].bool(), valid)
    torch.testing.assert_close(ours[valid], expected.last_hidden_state[valid], atol=1e-4, rtol=0)
    torch.testing.assert_close(model.pooled(ours), expected.pooler_output, atol=1e-4, rtol=0)


def test_texts_of_one_meaning_lie_together(model: Bert, folder: Path) -> None:
    states, valid = states_of(model, folder, TEXTS[:3])
    means = (states * valid[..., None]).sum(1) / valid.sum(1, keepdim=True)
    alike = torch.nn.functional.cosine_similarity(means[:1], means[1:])
    assert alike[0] > 0.5
    assert alike[1] < 0.2
