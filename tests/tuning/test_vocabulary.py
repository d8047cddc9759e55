"""New tokens get rows, and nothing else changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from luban.errors import ConfigError, DataError
from luban.folder import read_json
from luban.models import hf
from luban.tokenizers.files import load
from luban.training.checkpoint import write_model_folder
from luban.tuning import vocabulary
from tests import tiny

WORDS = ("木匠", " Paris!", "cat", "cat", "a")
TEXT = "The quick brown fox: 鲁班"
SHAPES = {
    "tied": lambda: tiny.llama(tied=True),
    "untied": lambda: tiny.llama(tied=False),
    "gpt2": lambda: tiny.gpt2(),
    "padded": lambda: tiny.llama(vocab=386, tied=False),
}


@pytest.fixture(params=SHAPES)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    torch.manual_seed(0)
    write_model_folder(tmp_path / "model", SHAPES[request.param](), tiny.tokenizer())
    return tmp_path / "model"


def extended(folder: Path, **settings: Any) -> tuple[Path, dict[str, Any]]:
    out = folder.parent / "out"
    return out, vocabulary.run(vocabulary.Config(model=folder, out=out, **{"add": WORDS, **settings}))


def logits(folder: Path, text: str = TEXT) -> torch.Tensor:
    with torch.no_grad():
        return hf.load(folder)(torch.tensor([load(folder).encode(text)]))[0]


def test_counts_and_sizes_are_told(folder: Path):
    out, results = extended(folder)
    assert (results["added"], results["skipped"]) == (3, {"repeated": 1, "known": 1})
    assert (results["vocab_before"], results["vocab"], results["rows"]) == (384, 387, 387)
    assert read_json(out / "config.json")["vocab_size"] == load(out).vocab_size == 387


def test_old_ids_keep_their_logits_on_old_text(folder: Path):
    out, _ = extended(folder)
    assert load(out).encode(TEXT) == load(folder).encode(TEXT)
    torch.testing.assert_close(logits(out)[:, :384], logits(folder)[:, :384])


def test_a_new_row_is_the_mean_of_the_rows_its_text_had(folder: Path):
    out, results = extended(folder)
    before, after = hf.load(folder), hf.load(out)
    old = tiny.tokenizer().encode("木匠")
    assert results["tokens"]["木匠"] == {"id": 384, "was": old}
    for name in ("embedding", "head"):
        rows, new = getattr(before, name).weight, getattr(after, name).weight
        torch.testing.assert_close(new[384], rows[old].mean(0))
        torch.testing.assert_close(new[:384], rows[:384])


def test_a_new_token_is_never_the_greedy_choice_nor_likelier_than_its_parts(folder: Path):
    out, results = extended(folder)
    found = logits(out)
    assert found.argmax(-1).max() < 384
    for token in results["tokens"].values():
        parts = found.softmax(-1)[:, token["was"]].mean(-1)
        assert (found.softmax(-1)[:, token["id"]] <= parts + 1e-7).all()


def test_tied_weights_stay_tied(folder: Path):
    tied = hf.load(folder).config.tied
    out, _ = extended(folder)
    after = hf.load(out)
    assert after.config.tied == tied
    assert (after.head.weight is after.embedding.weight) == tied


def test_transformers_loads_it_and_computes_the_same(folder: Path):
    out, _ = extended(folder)
    theirs, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    text = "a cat, 是木匠的"
    ids = tokenizer.encode(text)
    assert ids == load(out).encode(text)
    assert max(ids) >= 384
    with torch.no_grad():
        torch.testing.assert_close(
            theirs(torch.tensor([ids])).logits[0], logits(out, text), atol=1e-4, rtol=1e-4
        )


def test_special_tokens_get_the_mean_of_all_rows(folder: Path):
    out, _ = extended(folder, add=("<think>",), special=True)
    assert load(out).special_tokens["<think>"] == 384
    before, after = hf.load(folder), hf.load(out)
    torch.testing.assert_close(after.embedding.weight[384], before.embedding.weight[:384].mean(0))


def test_tokens_come_from_a_file_too_and_a_space_in_front_is_kept(folder: Path, tmp_path: Path):
    (tmp_path / "new.txt").write_text(" Paris!\n木匠\n", encoding="utf-8")
    _, results = extended(folder, add=("cat",), file=tmp_path / "new.txt")
    assert list(results["tokens"]) == ["cat", " Paris!", "木匠"]


def test_a_tokenizer_alone_is_extended_too(tmp_path: Path):
    tiny.tokenizer().save(tmp_path / "tokenizer")
    out, results = extended(tmp_path / "tokenizer")
    assert "rows" not in results
    assert load(out).vocab_size == 387


def test_nothing_to_add_and_a_missing_file_are_refused(tmp_path: Path):
    tiny.tokenizer().save(tmp_path / "tokenizer")
    with pytest.raises(ConfigError, match="nothing to add"):
        extended(tmp_path / "tokenizer", add=())
    with pytest.raises(DataError, match="no such file"):
        extended(tmp_path / "tokenizer", file=tmp_path / "none.txt")


@pytest.mark.parametrize("architecture", ["BertForPreTraining", "BertModel"])
@torch.no_grad()
def test_an_encoder_gets_rows_and_biases_too(architecture: str, tmp_path: Path):
    torch.manual_seed(0)
    write_model_folder(tmp_path / "model", tiny.bert(architecture=architecture), tiny.tokenizer())
    out, results = extended(tmp_path / "model")
    before, after, tokens = hf.load(tmp_path / "model"), hf.load(out), torch.arange(20)[None]
    assert results["rows"] == after.embedding.num_embeddings == 387
    assert torch.equal(after.hidden(tokens), before.hidden(tokens))
    if architecture != "BertModel":
        torch.testing.assert_close(after(tokens)[..., :384], before(tokens))
