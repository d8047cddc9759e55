"""The objective of BART and T5: rows to sources and targets, exact on resume, better than a count of words."""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from luban.cli import main
from luban.data.batch import IGNORED, Batch, Origin
from luban.data.corrupt import Noise, drop_spans, infill, restore_spans
from luban.data.loader import Loader, Source
from luban.data.shards import TokenShards
from luban.errors import TokenizerError
from luban.inference.local import open_lm
from luban.models import hf
from luban.models.bart import Bart, BartConfig
from luban.models.t5 import T5, T5Config
from luban.tokenizers.added import with_tokens
from luban.tokenizers.files import FileTokenizer, load
from luban.tokenizers.train import train
from luban.training import objectives, pretrain
from luban.training.answers import learn_targets
from luban.training.architecture import ArchitectureConfig
from luban.training.config import LoopConfig, OptimizerConfig
from luban.training.denoising import (
    Damage,
    damage_for,
    denoising,
    infilling,
    sentence_ends,
    sentinels_of,
    side_by_side,
    texts_of,
)
from luban.training.metrics import read_log
from luban.training.step import Objective, Step
from tests import tiny
from tests.conftest import Workspace

SPECIALS = ("<mask>", *(f"<extra_id_{number}>" for number in range(9)))


@pytest.fixture(scope="module")
def tokenizer() -> FileTokenizer:
    return train(tiny.TEXTS, kind="byte_bpe", vocab=400, special_tokens=SPECIALS)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def batch_of(rows: list[list[list[int]]], *, context: int) -> Batch:
    """Rows of documents; a target is the next token of the same document."""
    shape = (len(rows), context)
    tokens, targets, documents = np.zeros(shape, np.int64), np.full(shape, IGNORED), np.zeros(shape, np.int64)
    for place, row in enumerate(rows):
        start = 0
        for number, ids in enumerate([*row, [0] * (context - sum(map(len, row)))]):
            tokens[place, start : start + len(ids)] = ids
            documents[place, start : start + len(ids)] = number
            if number < len(row):
                targets[place, start : start + len(ids) - 1] = ids[1:]
            start += len(ids)
    parts = {"tokens": tokens, "targets": targets, "positions": documents, "documents": documents}
    return Batch(
        **{name: torch.from_numpy(part) for name, part in parts.items()}, ids=[Origin("t", 0)], packed=True
    )


def bart(tokenizer: FileTokenizer, **changes: Any) -> Bart:
    torch.manual_seed(0)
    numbers: dict[str, Any] = {
        "vocab": tokenizer.vocab_size,
        "dim": 16,
        "layers": 1,
        "heads": 2,
        "context": 24,
        "decoder_start_id": 0,
        "pad_id": 0,
    }
    return Bart(BartConfig(**(numbers | changes)))


def t5(tokenizer: FileTokenizer) -> T5:
    torch.manual_seed(0)
    return T5(
        T5Config(
            vocab=tokenizer.vocab_size,
            dim=16,
            layers=1,
            heads=2,
            head_dim=8,
            hidden=32,
            decoder_start_id=0,
            pad_id=0,
        )
    )


def test_rows_give_their_documents_without_padding() -> None:
    batch = batch_of([[[5, 6, 7], [8, 9]], [[4] * 8], []], context=8)
    texts = [[piece.tolist() for piece in row] for row in texts_of(batch)]
    assert texts == [[[5, 6, 7], [8, 9]], [[4] * 8], []]


def test_infilling_shows_masks_and_asks_for_the_whole_text(tokenizer: FileTokenizer) -> None:
    damage, mask = infilling(bart(tokenizer).config, tokenizer), tokenizer.special_tokens["<mask>"]
    text = np.arange(100, 116)
    example = damage([text], rng())
    assert example is not None
    source, target = example
    assert target.tolist() == [*range(100, 116), tokenizer.eos_id]
    assert mask in source
    assert source[-1] == tokenizer.eos_id
    kept = [int(token) for token in source if token >= 100 and token != mask]
    assert kept == sorted(kept)
    assert 10 <= len(kept) <= 12


def test_a_row_as_long_as_the_window_gives_its_last_token_for_the_end(tokenizer: FileTokenizer) -> None:
    damage, end = infilling(bart(tokenizer).config, tokenizer), tokenizer.eos_id
    for last, expected in ((123, end), (end, end)):
        example = damage([np.array([*range(100, 123), last])], rng())
        assert example is not None
        assert example[1].tolist() == [*range(100, 123), expected]


def test_masks_that_stand_for_nothing_never_outgrow_the_window(tokenizer: FileTokenizer) -> None:
    config = bart(tokenizer, context=4).config
    damage = infilling(config, tokenizer, Noise(infilling=0.9, mean_span=0.1))
    assert max(len(made[0]) for seed in range(20) if (made := damage([np.arange(100, 104)], rng(seed)))) == 4


def test_bart_moves_sentences_within_their_document_only(tokenizer: FileTokenizer) -> None:
    damage, end = damage_for(bart(tokenizer).config, tokenizer), tokenizer.eos_id
    assert end is not None
    (stop,) = tokenizer.encode(".")
    documents = [np.array([100, stop, 101, stop, end]), np.array([end]), np.array([200, stop, 201, end])]
    orders = set()
    for seed in range(40):
        example = damage(documents, rng(seed))
        assert example is not None
        source, target = example
        assert np.array_equal(target, np.concatenate(documents))
        assert [int(token) for token in source if token == end] == [end] * 3
        seen = [int(token) for token in source if token in (100, 101, 200, 201)]
        assert seen == sorted(seen, key=lambda token: token // 200)
        orders.add(tuple(seen))
    assert {(100, 101, 200, 201), (101, 100, 201, 200)} <= orders


def test_t5_drops_spans_of_the_text_without_the_marks_of_documents(tokenizer: FileTokenizer) -> None:
    config, end = t5(tokenizer).config, tokenizer.eos_id
    sentinels = sentinels_of(tokenizer)
    assert len(sentinels) == 9
    example = damage_for(config, tokenizer)([np.array([end, 100, 101, end]), np.arange(110, 130)], rng())
    assert example is not None
    source, target = example
    assert source[-1] == target[-1] == end
    whole = restore_spans(source[:-1], target[:-1], sentinels=sentinels)
    assert whole.tolist() == [100, 101, *range(110, 130)]


def test_t5_leaves_out_rows_with_too_little_text(tokenizer: FileTokenizer) -> None:
    damage = damage_for(t5(tokenizer).config, tokenizer)
    assert damage([np.array([100, tokenizer.eos_id])], rng()) is None


@pytest.mark.parametrize("make", [bart, t5])
def test_the_loss_of_a_batch_is_that_of_its_rows_alone(make: Any, tokenizer: FileTokenizer) -> None:
    model = make(tokenizer)
    rows = [[list(range(100, 120))], [list(range(50, 56)), list(range(70, 75))], []]
    torch.manual_seed(5)
    step = denoising(model, tokenizer)(model, batch_of(rows, context=20))
    torch.manual_seed(5)
    generator = rng(int(torch.randint(2**62, ())))
    damage = damage_for(model.config, tokenizer)
    loss, count = torch.tensor(0.0), 0
    for row in rows[:2]:
        example = damage([np.array(ids) for ids in row], generator)
        assert example is not None
        source, target = (torch.from_numpy(side)[None] for side in example)
        begun = torch.cat([torch.zeros(1, 1, dtype=torch.long), target[:, :-1]], 1)
        loss = loss + F.cross_entropy(model(source, begun)[0], target[0], reduction="sum")
        count += target.numel()
    assert step.targets == count
    torch.testing.assert_close(step.loss, loss, atol=1e-3, rtol=1e-5)


def test_a_batch_of_padding_teaches_nothing(tokenizer: FileTokenizer) -> None:
    model = bart(tokenizer)
    step = denoising(model, tokenizer)(model, batch_of([[], []], context=8))
    step.loss.backward()
    assert (step.loss.item(), step.targets) == (0.0, 0)
    sides = side_by_side([], pad=0)
    assert learn_targets(model, sides).targets == 0


def test_noise_comes_from_torchs_generator(tokenizer: FileTokenizer) -> None:
    model, batch = bart(tokenizer), batch_of([[list(range(100, 124))]], context=24)
    objective = denoising(model, tokenizer)
    torch.manual_seed(1)
    first, second = (objective(model, batch).loss.item() for _ in range(2))
    torch.manual_seed(1)
    assert objective(model, batch).loss.item() == first != second


def test_ends_of_sentences_are_told_from_the_tokens_text(tokenizer: FileTokenizer) -> None:
    ends = {tokenizer.decode([number]) for number in sentence_ends(tokenizer)}
    assert {".", "!", "?", "\n"} <= ends
    assert not {",", "a", " ", ";", "(", ""} & ends


@pytest.mark.parametrize(
    ("make", "told", "hint"),
    [
        (bart, "no mask token '<mask>'", "--special-tokens"),
        (t5, "no sentinels '<extra_id_0>'", "--sentinels"),
    ],
)
def test_what_the_tokenizer_lacks_is_named_with_the_command_that_adds_it(
    make: Any, told: str, hint: str
) -> None:
    model = make(tiny.tokenizer())
    with pytest.raises(TokenizerError, match=told) as error:
        denoising(model, tiny.tokenizer())
    assert hint in str(error.value)
    added = with_tokens(tiny.tokenizer(), ["<mask>", "<extra_id_0>"], special=True).tokenizer
    assert damage_for(model.config, added)


def test_rows_that_need_more_sentinels_than_there_are_are_refused(tokenizer: FileTokenizer) -> None:
    with pytest.raises(TokenizerError, match="9 sentinels; rows of 256 tokens need 14"):
        damage_for(t5(tokenizer).config, tokenizer, longest=256)


@pytest.mark.parametrize("family", ["bart", "t5"])
def test_a_tokenizer_without_the_tokens_stops_pretraining_before_anything_is_written(
    family: str, workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["pretrain", "--model", family, "--data", str(workspace.shards), "--tokenizer"]
    assert main([*words, str(workspace.tokenizer), "--out", str(tmp_path / "run")]) == 2
    assert "luban tokenizer train --s" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def marked(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A vocabulary with mask and sentinels, made as a user would, and shards of it."""
    root = tmp_path_factory.mktemp("marked")
    made = {name: root / name for name in ("tokenizer", "shards", "held_out")}
    words = ["tokenizer", "train", "--data", str(workspace.documents), "--out", str(made["tokenizer"])]
    assert main([*words, "--vocab", "500", "--special-tokens", "<mask>", "--sentinels", "12"]) == 0
    for name, holdout in (("shards", "false"), ("held_out", "true")):
        words = ["data", "shards", "--data", str(workspace.documents), "--tokenizer", str(made["tokenizer"])]
        assert main([*words, "--out", str(made[name]), "--holdout", holdout]) == 0
    return made


def test_special_tokens_come_last_and_count_in_the_vocabulary(marked: dict[str, Path]) -> None:
    tokenizer = load(marked["tokenizer"])
    assert tokenizer.vocab_size == 500
    assert tokenizer.mask_id == tokenizer.special_tokens["<mask>"] == 487
    assert sentinels_of(tokenizer) == list(range(488, 500))
    assert tokenizer.mask_id not in tokenizer.encode("a <mask> here")


def config_for(marked: dict[str, Path], out: Path, family: str, **changes: Any) -> pretrain.Config:
    loop: dict[str, Any] = {"max_steps": 8, "per_device_train_batch_size": 2, "max_length": 24}
    return pretrain.Config(
        data=(marked["shards"],),
        tokenizer=marked["tokenizer"],
        validation=marked["held_out"],
        out=out,
        model=Path(family),
        architecture=ArchitectureConfig(layers=1, dim=16, heads=2),
        optimizer=OptimizerConfig(warmup_steps=2),
        loop=LoopConfig(**(loop | changes)),
        threads=1,
    )


SLOWLY = [pytest.param(name, marks=pytest.mark.slow) for name in ("t5", "transformer")]


@pytest.mark.parametrize("family", ["bart", *SLOWLY])
def test_a_stopped_run_goes_on_to_the_same_weights(
    family: str, marked: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretrain.run(config_for(marked, tmp_path / "whole", family), open_lm)
    calls = []

    def stopping(model: Any, tokenizer: FileTokenizer, _compiled: bool) -> Objective:
        objective = denoising(model, tokenizer)

        def counted(model: Any, batch: Batch) -> Step:
            calls.append(torch.is_grad_enabled())
            if sum(calls) == 3:
                signal.raise_signal(signal.SIGTERM)
            return objective(model, batch)

        return counted

    monkeypatch.setitem(objectives.OBJECTIVES, "seq2seq", stopping)
    with pytest.raises(SystemExit):
        pretrain.run(config_for(marked, tmp_path / "cut", family), open_lm)
    monkeypatch.undo()
    pretrain.run(config_for(marked, tmp_path / "cut", family), open_lm)
    weights = [(tmp_path / name / "final" / "model.safetensors").read_bytes() for name in ("whole", "cut")]
    assert weights[0] == weights[1]
    assert "val/bpb" not in read_log(tmp_path / "whole")[-1]  # a loss of some tokens is no bits per byte


def held_out_targets(marked: dict[str, Path], name: str, damage: Damage, *, batches: int) -> np.ndarray:
    """All target tokens of the first batches, noised in any way: what a count of words has to tell."""
    shards = TokenShards.open(marked[name])
    loader = Loader([Source(examples=shards)], batch=8, context=32, epochs=1)
    generator = rng()
    rows = (row for batch, _ in zip(loader, range(batches), strict=False) for row in texts_of(batch) if row)
    return np.concatenate([example[1] for row in rows if (example := damage(row, generator))])


def unigram_loss(train_targets: np.ndarray, targets: np.ndarray, vocab: int) -> float:
    counts = np.bincount(train_targets, minlength=vocab) + 1.0
    return float(-np.log(counts / counts.sum())[targets].mean())


def last_loss(model: Any, steps: int, make: Callable[[np.random.Generator], tuple[Any, Any]]) -> float:
    """Nats per target token after so many steps on fresh examples."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    generator, losses = rng(), []
    for _ in range(steps):
        step = learn_targets(model, side_by_side([make(generator) for _ in range(32)], pad=0))
        (step.loss / step.targets).backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(step.loss.item() / step.targets)
    return float(np.mean(losses[-10:]))


WORDS = 30


@pytest.mark.slow
def test_bart_learns_to_copy_what_it_is_shown() -> None:
    def make(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        text = generator.integers(
            10, 10 + WORDS, 12
        )  # nothing in it can be told but by looking at the source
        return infill(text, generator, rate=0.15, mask=1), text

    torch.manual_seed(0)
    numbers: dict[str, Any] = {"vocab": 10 + WORDS, "dim": 64, "layers": 2, "heads": 4, "context": 32}
    assert last_loss(Bart(BartConfig(**numbers, decoder_start_id=0)), 250, make) < 0.4 * math.log(WORDS)


@pytest.mark.slow
def test_t5_learns_to_fill_in_what_its_source_tells() -> None:
    def make(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        text = (
            10 + (generator.integers(WORDS) + np.arange(14)) % WORDS
        )  # missing ones follow from those around
        return drop_spans(text, generator, sentinels=range(1, 9))

    torch.manual_seed(0)
    numbers: dict[str, Any] = {"vocab": 10 + WORDS, "dim": 64, "layers": 2, "heads": 4, "head_dim": 16}
    loss = last_loss(T5(T5Config(**numbers, hidden=128, decoder_start_id=0)), 250, make)
    # Of 4 targets the first word is in the source alone; the second follows from it, sentinels from their order.
    assert loss < 0.2 * math.log(WORDS) / 4


SMALL = """architecture.layers=2 architecture.dim=48 architecture.heads=3 loop.max_steps=300
    loop.per_device_train_batch_size=8 loop.max_length=32 loop.logging_steps=50 loop.save_steps=0
    optimizer.warmup_steps=60 --threads 1 --seed 3"""


@pytest.mark.slow
@pytest.mark.parametrize(("family", "rate"), [("bart", 0.002), ("t5", 0.005)])
def test_a_short_run_beats_a_count_of_words_on_held_out_text(
    family: str, rate: float, marked: dict[str, Path], tmp_path: Path
) -> None:
    words = ["--model", family, "--tokenizer", str(marked["tokenizer"]), "--data", str(marked["shards"])]
    words += ["--validation", str(marked["held_out"]), "--out", str(tmp_path / "run"), *SMALL.split()]
    words += [f"optimizer.learning_rate={rate}"]
    assert main(["pretrain", *words]) == 0
    final = tmp_path / "run" / "final"
    model, tokenizer = hf.load(final), load(final)
    damage = damage_for(model.config, tokenizer)
    held_out = held_out_targets(marked, "held_out", damage, batches=8)
    counted = unigram_loss(
        held_out_targets(marked, "shards", damage, batches=400), held_out, tokenizer.vocab_size
    )
    loss = read_log(tmp_path / "run")[-1]["val/loss"]
    print(json.dumps({"family": family, "unigram": counted, "val/loss": loss}))
    assert math.isfinite(loss)
    assert loss < counted - 0.3


def test_a_plan_counts_both_sides_and_finds_no_shape_for_a_time(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["plan", "architecture.model_type=bart", "architecture.layers=2", "--vocab", "100", "--json"])
        == 0
    )
    # Widths of 256: a decoder's block has two attentions, an encoder's one; both an MLP of 4 times the width.
    matrices = 2 * 256 * 256 * (4 + 8 + 2 * 8)
    counted = json.loads(capsys.readouterr().out)["body_parameters"]
    assert matrices <= counted <= matrices + 100  # the fixed bias is a matrix of one row
    assert main(["plan", "architecture.model_type=bart", "--minutes", "1"]) == 2
    assert "'bart' is not trained so" in capsys.readouterr().err
