"""BERT's objective: what is hidden and how, which texts are paired, the losses by hand, and that it is learned."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from luban.cli import main
from luban.data.batch import IGNORED, Batch
from luban.data.shards import TokenShards
from luban.errors import ConfigError, TokenizerError, TrainingError
from luban.folder import read_json, write_json
from luban.inference.local import open_lm
from luban.models import hf
from luban.tokenizers.files import FileTokenizer
from luban.tokenizers.files import load as load_tokenizer
from luban.tokenizers.train import train
from luban.training import masked, pretrain
from luban.training.architecture import ArchitectureConfig
from luban.training.config import LoopConfig, OptimizerConfig
from luban.training.masked import FOLLOWS, SWAPPED, Vocabulary, hide, masked_tokens, pair_up
from luban.training.metrics import read_log
from tests import tiny
from tests.conftest import Workspace

PAD, UNK, CLS, SEP, MASK = range(5)
LENGTH = 24
WORDS = torch.arange(100) >= 5
VOCABULARY = Vocabulary(cls=CLS, sep=SEP, pad=PAD, mask=MASK, ordinary=WORDS)


def inside(count: int, of: int, share: float) -> bool:
    """Whether `count` lies within 4 standard deviations of a binomial's mean: 1 run in 16,000 is outside."""
    return abs(count - of * share) < 4 * math.sqrt(of * share * (1 - share))


def test_hidden_tokens_are_as_many_as_the_binomial_allows() -> None:
    torch.manual_seed(0)
    tokens = torch.randint(5, 100, (200, 500))
    seen, targets = hide(tokens, VOCABULARY)
    hidden = targets != IGNORED
    count = int(hidden.sum())
    assert inside(count, tokens.numel(), 0.15)
    assert inside(int((seen[hidden] == MASK).sum()), count, 0.8)
    # A token shown as another one is itself by chance in 1 of 95 cases.
    assert inside(int((seen[hidden] == tokens[hidden]).sum()), count, 0.1 + 0.1 / 95)
    others = hidden & (seen != MASK) & (seen != tokens)
    assert inside(int(others.sum()), count, 0.1 * 94 / 95)
    assert seen[others].unique().tolist() == list(range(5, 100))


def test_targets_are_the_hidden_tokens_and_the_rest_is_shown() -> None:
    torch.manual_seed(0)
    tokens = torch.randint(5, 100, (20, 50))
    seen, targets = hide(tokens, VOCABULARY)
    hidden = targets != IGNORED
    assert torch.equal(targets[hidden], tokens[hidden])
    assert torch.equal(seen[~hidden], tokens[~hidden])


def test_special_tokens_are_never_hidden_nor_put_in() -> None:
    torch.manual_seed(0)
    tokens = torch.randint(0, 8, (100, 200))
    seen, targets = hide(tokens, VOCABULARY)
    special = tokens < 5
    assert (targets[special] == IGNORED).all()
    assert torch.equal(seen[special], tokens[special])
    assert set(seen[~special].unique().tolist()) <= {MASK, *range(5, 100)}


def test_what_is_hidden_follows_torchs_seed() -> None:
    tokens = torch.randint(5, 100, (4, 50))
    torch.manual_seed(3)
    first = hide(tokens, VOCABULARY)
    second = hide(tokens, VOCABULARY)
    torch.manual_seed(3)
    assert all(torch.equal(a, b) for a, b in zip(first, hide(tokens, VOCABULARY), strict=True))
    assert not torch.equal(first[0], second[0])


def test_pairs_are_laid_out_as_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = torch.tensor(
        [
            [CLS, 10, 11, 12, 13, 14, SEP, CLS, 15],  # five words, then a shorter document
            [20, SEP, CLS, 21, 22, 23, UNK, SEP, PAD],  # a document's end, then four words
            [CLS, 30, SEP, PAD, PAD, PAD, PAD, PAD, PAD],  # one word: no pair
        ]
    )
    documents = torch.tensor([[0] * 7 + [1] * 2, [0] * 2 + [1] * 6 + [2], [0] * 3 + [1] * 6])
    monkeypatch.setattr(masked, "_swapped", lambda _usable: torch.tensor([1, 1, 2]))
    pairs = pair_up(tokens, documents, VOCABULARY)
    assert pairs.tokens.tolist() == [
        [CLS, 10, 11, SEP, 23, UNK, SEP, PAD, PAD],
        [CLS, 21, 22, SEP, 23, UNK, SEP, PAD, PAD],
        [CLS, SEP, SEP, PAD, PAD, PAD, PAD, PAD, PAD],
    ]
    assert pairs.segments.tolist() == [[0] * 4 + [1] * 3 + [0] * 2] * 2 + [[0, 0, 1] + [0] * 6]
    assert pairs.valid.tolist() == [[True] * 7 + [False] * 2] * 2 + [[True] * 3 + [False] * 6]
    assert pairs.labels.tolist() == [SWAPPED, FOLLOWS, IGNORED]


@st.composite
def rows(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of packed documents `[CLS] words [SEP]`, cut at their ends; each word tells its row and document."""
    seq, made, numbers = draw(st.integers(5, 24)), [], []
    for row in range(draw(st.integers(2, 6))):
        tokens, documents = [], []
        while len(tokens) < seq:
            number = len(set(documents))
            words = [5 + 10 * row + number] * draw(st.integers(0, 12))
            tokens += [CLS, *words, SEP]
            documents += [number] * (len(words) + 2)
        made.append(tokens[:seq])
        numbers.append(documents[:seq])
    return torch.tensor(made), torch.tensor(numbers)


@settings(max_examples=60)
@given(rows(), st.integers(0, 100))
def test_each_half_is_of_one_document_and_a_label_says_whether_of_the_same(
    batch: tuple[torch.Tensor, torch.Tensor], seed: int
) -> None:
    torch.manual_seed(seed)
    tokens, documents = batch
    pairs = pair_up(tokens, documents, Vocabulary(CLS, SEP, PAD, MASK, torch.arange(300) >= 5))
    for row, segments, valid, label in zip(
        pairs.tokens, pairs.segments, pairs.valid, pairs.labels.tolist(), strict=True
    ):
        first = row[valid & (segments == 0)].tolist()
        second = row[valid & (segments == 1)].tolist()
        assert (first[0], first[-1], second[-1]) == (CLS, SEP, SEP)
        assert (row[~valid] == PAD).all()
        words = set(first[1:-1]), set(second[:-1])
        if label == IGNORED:
            assert words == (set(), set())
        else:
            assert [len(half) for half in words] == [1, 1]
            assert (words[0] == words[1]) == (label == FOLLOWS)


def test_half_of_the_pairs_are_swapped_with_all_other_rows() -> None:
    torch.manual_seed(0)
    tokens = (torch.arange(64) + 5)[:, None].expand(-1, 12).contiguous()
    swapped, partners = 0, set()
    for _ in range(50):
        pairs = pair_up(tokens, torch.zeros_like(tokens), VOCABULARY)
        swapped += int(pairs.labels.sum())
        partners |= set(pairs.tokens[pairs.labels == SWAPPED, 8].tolist())
    assert inside(swapped, 50 * 64, 0.5)
    assert partners == set(range(5, 69))


def test_a_batch_that_makes_no_pairs_is_refused() -> None:
    row = torch.full((1, 12), 7)
    with pytest.raises(
        TrainingError, match=r"1 rows of 12 tokens make no pairs.*\n.*per_device_train_batch_size"
    ):
        pair_up(row, torch.zeros_like(row), VOCABULARY)
    with pytest.raises(TrainingError, match="2 rows of 4 tokens make no pairs of texts: at least 2 of 5 do"):
        pair_up(row[:, :4].expand(2, -1), torch.zeros(2, 4).long(), VOCABULARY)


@pytest.fixture(scope="module")
def pieces() -> FileTokenizer:
    return train(tiny.TEXTS, kind="wordpiece", vocab=200)


def batch_of(tokenizer: FileTokenizer, rows_of: int = 4, seq: int = 24) -> Batch:
    torch.manual_seed(1)
    tokens = torch.randint(5, tokenizer.vocab_size, (rows_of, seq))
    documents = (torch.arange(seq) > seq // 3).long().expand(rows_of, -1)
    positions = torch.arange(seq).expand(rows_of, -1)
    return Batch(tokens=tokens, targets=tokens, positions=positions, documents=documents, ids=[], packed=True)


def test_the_loss_is_that_of_words_and_of_pairs_by_hand(pieces: FileTokenizer) -> None:
    torch.manual_seed(0)
    model, batch = tiny.bert(), batch_of(pieces)
    torch.nn.init.normal_(model.head.bias, std=0.5)  # type: ignore[union-attr] - it has one
    objective = masked_tokens(model, pieces)
    torch.manual_seed(5)
    step = objective(model, batch)
    torch.manual_seed(5)
    vocabulary = Vocabulary.of(pieces)
    pairs = pair_up(batch.tokens, batch.documents, vocabulary)
    seen, targets = hide(pairs.tokens, vocabulary)
    logits = model(seen, pairs.segments, pairs.valid)
    states = model.hidden(seen, cache=model.padded(pairs.valid), segments=pairs.segments)
    words = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
    follows = F.cross_entropy(model.follows(states), pairs.labels)
    assert step.targets == int((targets != IGNORED).sum()) > 0
    assert step.loss.item() == pytest.approx((words + step.targets * follows).item(), rel=1e-5)


def test_gradients_are_those_of_the_plain_loss(pieces: FileTokenizer) -> None:
    model, batch = tiny.bert(architecture="BertForMaskedLM"), batch_of(pieces)
    torch.manual_seed(5)
    masked_tokens(model, pieces)(model, batch).loss.backward()
    ours = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
    assert ours.keys() == dict(model.named_parameters()).keys()
    model.zero_grad()
    assert model.head is not None
    torch.manual_seed(5)
    seen, targets = hide(batch.tokens, Vocabulary.of(pieces))
    states = model.hidden(seen, batch.positions, model.isolate(batch.documents))
    F.cross_entropy(model.head(states).flatten(0, 1), targets.flatten(), reduction="sum").backward()
    for name, value in model.named_parameters():
        torch.testing.assert_close(ours[name], value.grad, atol=1e-4, rtol=1e-4)


def test_a_tokenizer_without_mask_is_refused_by_name() -> None:
    with pytest.raises(TokenizerError, match=r"no cls_token, mask_token, sep_token: .*\n.*--type wordpiece"):
        masked_tokens(tiny.bert(), tiny.tokenizer())


@dataclasses.dataclass(frozen=True)
class Pieces:
    """The workspace's documents over a WordPiece vocabulary."""

    tokenizer: Path
    shards: Path
    held_out: Path


@pytest.fixture(scope="module")
def made(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Pieces:
    root = tmp_path_factory.mktemp("pieces")
    made = Pieces(*(root / name for name in ("tokenizer", "shards", "held_out")))
    documents = f"--data {workspace.documents}"
    assert (
        main(f"tokenizer train {documents} --type wordpiece --vocab 300 --out {made.tokenizer}".split()) == 0
    )
    shards = f"data shards {documents} --tokenizer {made.tokenizer}"
    assert main(f"{shards} --out {made.shards}".split()) == 0
    assert main(f"{shards} --holdout true --out {made.held_out}".split()) == 0
    return made


def config_for(made: Pieces, out: Path, **changes: Any) -> pretrain.Config:
    loop = LoopConfig(
        max_steps=12,
        per_device_train_batch_size=4,
        max_length=48,
        compile=False,
        logging_steps=1,
        save_steps=5,
    )
    config = pretrain.Config(
        data=(made.shards,),
        tokenizer=made.tokenizer,
        validation=made.held_out,
        out=out,
        model=Path("bert"),
        architecture=ArchitectureConfig(layers=2, dim=32, heads=4),
        optimizer=OptimizerConfig(warmup_steps=2),
        loop=loop,
        threads=1,
    )
    return dataclasses.replace(config, **changes)


def test_a_resumed_run_ends_with_the_same_weights_and_validation_is_the_same_each_time(
    made: Pieces, tmp_path: Path
) -> None:
    config = config_for(made, tmp_path / "run")
    pretrain.run(config, open_lm)
    weights = (config.out / "final" / "model.safetensors").read_bytes()
    logged = [line for line in read_log(config.out) if "val/loss" in line]
    assert len(logged) == 2
    assert not [line for line in logged if "val/bpb" in line]  # not every byte is guessed
    (config.out / "checkpoints" / "latest").write_text("step-00000010")
    shutil.rmtree(config.out / "checkpoints" / "step-00000012")
    write_json(config.out / "run.json", read_json(config.out / "run.json") | {"done": False})
    pretrain.run(config, open_lm)
    assert (config.out / "final" / "model.safetensors").read_bytes() == weights
    again = [line for line in read_log(config.out) if "val/loss" in line]
    assert again[-1]["val/loss"] == logged[-1]["val/loss"]


def test_images_are_not_trained_on_text(made: Pieces, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'vit' models read images, not text"):
        pretrain.run(config_for(made, tmp_path / "run", model=Path("vit")), open_lm)
    assert not (tmp_path / "run").exists()


def test_an_encoder_without_head_for_words_is_refused(made: Pieces, tmp_path: Path) -> None:
    hf.save(tiny.bert(architecture="BertModel"), tmp_path / "encoder")
    with pytest.raises(ConfigError, match="a BertModel has no head for hidden words"):
        pretrain.run(config_for(made, tmp_path / "run", model=tmp_path / "encoder"), open_lm)
    assert not (tmp_path / "run").exists()


@torch.no_grad()
def nats_per_hidden_word(model: Any, made: Pieces, chances: torch.Tensor) -> tuple[float, float]:
    """On pairs of held-out texts: the model's, and that of `chances`, which know no context."""
    tokens = torch.cat(
        [torch.from_numpy(document.astype("int64")) for document in TokenShards.open(made.held_out)]
    )
    rows = tokens[: len(tokens) // LENGTH * LENGTH].view(-1, LENGTH)
    vocabulary = Vocabulary.of(load_tokenizer(made.tokenizer))
    torch.manual_seed(0)
    pairs = pair_up(rows, torch.zeros_like(rows), vocabulary)
    seen, targets = hide(pairs.tokens, vocabulary)
    kept = targets != IGNORED
    logits = model(seen, pairs.segments, pairs.valid)[kept]
    return F.cross_entropy(logits, targets[kept]).item(), -chances[targets[kept]].log().mean().item()


@pytest.mark.slow
def test_it_beats_the_unigram_on_hidden_words_of_held_out_text_and_fills_masks(
    made: Pieces, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = f"pretrain --model bert --data {made.shards} --tokenizer {made.tokenizer} --validation {made.held_out}"
    words += f" --out {tmp_path / 'run'} --threads 1 loop.max_steps=500 loop.max_length={LENGTH}"
    words += " loop.per_device_train_batch_size=64 loop.compile=false"
    words += " architecture.layers=2 architecture.dim=64 architecture.heads=4"
    assert main(words.split()) == 0
    final = tmp_path / "run" / "final"
    counts = torch.ones(load_tokenizer(made.tokenizer).vocab_size)
    for document in TokenShards.open(made.shards):
        counts += torch.bincount(torch.from_numpy(document.astype("int64")), minlength=len(counts))
    counts[:5] = 0
    ours, unigram = nats_per_hidden_word(hf.load(final).eval(), made, counts / counts.sum())
    assert ours < unigram - 0.15, (ours, unigram)
    capsys.readouterr()
    assert main(["fill-mask", "--model", str(final), "--prompt", "the [MASK] of God", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["texts"]
    assert [len(candidates) for candidates in row["masks"]] == [5]
    assert min(one["id"] for one in row["masks"][0]) >= 5
