"""Recurrent and feed-forward families through the stages: they learn real text, are scored, and write."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch

from luban.cli import main
from luban.data.batch import IGNORED, Batch, Origin
from luban.models import FAMILIES, hf
from luban.models.base import Shape
from luban.training.metrics import read_log
from luban.training.step import Accumulated, Updater, next_token
from tests.conftest import Workspace

SETTINGS = (
    "architecture.layers=1",
    "architecture.dim=32",
    "loop.max_steps=30",
    "loop.per_device_train_batch_size=8",
    "loop.max_length=32",
    "loop.logging_steps=10",
    "loop.compile=false",
    "optimizer.learning_rate=0.01",
    "optimizer.warmup_steps=2",
    "--threads",
    "1",
)


@pytest.mark.parametrize("family", ["feedforward", "rnn", "lstm", "gru", "mamba"])
def test_a_family_is_pretrained_scored_and_writes(
    family: str, workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, final = tmp_path / "run", str(tmp_path / "run" / "final")
    data = ["--data", str(workspace.shards), "--validation", str(workspace.held_out)]
    folders = [*data, "--tokenizer", str(workspace.tokenizer), "--out", str(out)]
    assert main(["pretrain", "--model", family, *folders, *SETTINGS]) == 0
    log = read_log(out)
    assert log[0]["val/loss"] > 5.7  # near log(384) = 5.95: knows nothing
    assert log[-1]["val/loss"] < log[0]["val/loss"] - 0.5
    capsys.readouterr()
    held_out = str(workspace.documents)
    assert main(["eval", "--model", final, "--data", held_out, "--threads", "1", "--json"]) == 0
    bits = json.loads(capsys.readouterr().out)["bits_per_byte"]
    assert 1.0 < bits["model"]["per_byte"] < 8.0
    words = ["--prompt", "In the", "And he said to them", "--max-tokens", "8", "--ignore-eos", "--seed", "0"]
    assert main(["generate", "--model", final, *words, "--threads", "1", "--json"]) == 0
    together = json.loads(capsys.readouterr().out)["generations"]
    assert [row["tokens"] for row in together] == [8, 8]


def test_a_run_in_its_own_words_is_validated_on_the_text(workspace: Workspace, tmp_path: Path) -> None:
    out = tmp_path / "run"
    data = ["--data", str(workspace.shards), "--validation", str(workspace.held_out)]
    folders = [*data, "--tokenizer", str(workspace.tokenizer), "--out", str(out)]
    assert main(["pretrain", "--model", "gru", *folders, *SETTINGS, "--free-running", "0.5"]) == 0
    log = read_log(out)
    assert log[-1]["val/loss"] < log[0]["val/loss"] - 0.4
    last = next(line for line in reversed(log) if "train/loss" in line)
    assert last["train/loss"] > log[-1]["val/loss"]  # harder to follow than the text itself


def recall(seed: int) -> Batch:
    """Rows of 20 tokens whose first, one of five, is asked for after the last; the others are blank."""
    tokens = torch.zeros(32, 20, dtype=torch.long)
    tokens[:, 0] = torch.randint(1, 6, (32,), generator=torch.Generator().manual_seed(seed))
    targets = torch.full_like(tokens, IGNORED)
    targets[:, -1] = tokens[:, 0]
    return Batch(
        tokens=tokens,
        targets=targets,
        positions=torch.arange(20).expand(32, -1),
        documents=torch.zeros_like(tokens),
        ids=[Origin("recall", seed)],
        packed=False,
    )


def test_an_rnn_learns_to_remember_only_with_its_gradients_clipped() -> None:
    """Pascanu et al. 2013 (arXiv:1211.5063): one step off a cliff undoes what many have learned."""
    ended, steepest = {1.0: 0.0, 1e9: 0.0}, []
    for limit, seed in itertools.product(ended, range(3)):
        torch.manual_seed(seed)
        shape = Shape(model_type="rnn", vocab=6, context=20, dim=32, layers=1, tied=False)
        model = hf.build(FAMILIES["rnn"].config.sized(shape))
        optimizer = torch.optim.SGD(model.parameters())
        updater = Updater(optimizer, Accumulated(model, next_token()), max_grad_norm=limit)
        updates = [updater.update([recall(step)], learning_rate=0.3) for step in range(200)]
        ended[limit] += sum(update.loss for update in updates[-10:]) / 10 / 3
        steepest.append(max(update.grad_norm for update in updates))
    assert min(steepest) > 5  # against a limit of 1
    assert ended[1.0] < 0.25
    assert ended[1e9] > 1.0  # hardly better than guessing, log 5 = 1.61
