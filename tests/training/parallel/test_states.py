"""Checkpoints of several processes: read back into any layout, they go on to the uninterrupted run's numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from luban import folder
from luban.errors import CheckpointError
from luban.models import hf
from luban.training import checkpoint
from luban.training.config import OptimizerConfig, ParallelConfig
from luban.training.learner import Whole
from luban.training.parallel.spread import spread
from luban.training.parallel.whole import gathered
from luban.training.parallel.world import ALONE, World, joined
from luban.training.step import Updater, next_token
from tests import tiny
from tests.ranks import run_ranks
from tests.training.test_step import cut, ragged_rows

COPIES = {f"zero {zero}": ParallelConfig(zero=zero) for zero in (0, 1, 2, 3)}
OTHERS = {"tp": ParallelConfig(tp=2), "pp": ParallelConfig(pp=2, schedule="gpipe")}
CHANGES = [
    ("one", "zero 1"), ("one", "zero 3"), ("zero 0", "zero 2"), ("zero 1", "zero 0"), ("zero 3", "zero 1"),
    ("zero 1", "zero 1"), ("zero 3", "zero 3"),
]  # fmt: skip
TO_OTHERS = [("one", "tp"), ("zero 3", "tp"), ("one", "pp"), ("tp", "pp"), ("pp", "pp")]
BEFORE, AFTER = 2, 2
OPTIMIZER = OptimizerConfig(adam_epsilon=1e-3)


class Run:
    """A model in training, in any layout."""

    def __init__(self, world: World = ALONE, config: ParallelConfig | None = None, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.world = world
        self.laid_out = spread(tiny.llama(tied=True), world, config)
        self.optimizer = self.laid_out.optimizer(OPTIMIZER)
        self.updater = Updater(self.optimizer, self.laid_out.gradients(next_token()), max_grad_norm=1.0)

    def steps(self, count: int) -> list[float]:
        rows = cut(ragged_rows(), 2)[self.world.place("dp") :: self.world.dp]
        return [self.updater.update(rows, learning_rate=1e-2).loss for _ in range(count)]

    def save(self, out: Path, step: int = BEFORE, limit: int = 2) -> None:
        model, optimizer, tokenizer = self.laid_out.model, self.optimizer, tiny.tokenizer()
        checkpoint.save(
            out,
            step,
            model=model,
            optimizer=optimizer,
            tokenizer=tokenizer,
            learner=Whole(),
            state={},
            limit=limit,
            world=self.world,
        )

    def load(self, out: Path) -> int:
        newest = checkpoint.latest(out)
        assert newest is not None
        model, optimizer = self.laid_out.model, self.optimizer
        return checkpoint.load(
            newest,
            model=model,
            optimizer=optimizer,
            learner=Whole(),
            restore=lambda _: None,
            world=self.world,
        )

    def weights(self) -> dict[str, np.ndarray]:
        whole = gathered(self.laid_out.model, self.world)
        return {} if whole is None else {name: p.detach().numpy() for name, p in whole.named_parameters()}


def copies(root: Path) -> dict[Any, Any]:
    with joined(ParallelConfig(), torch.device("cpu")) as world:
        found: dict[Any, Any] = {}
        for name, config in COPIES.items():
            run = Run(world, config)
            run.steps(BEFORE)
            run.save(root / name)
        for before, after in CHANGES:
            found[before, after] = gone_on(root / before, world, COPIES[after])
        found["random"] = random_numbers(root / "random", world)
        run = Run(world)
        for step in (1, 2, 3):
            run.save(root / "many", step, limit=2)
        return found


def shared(root: Path, name: str, changes: list[tuple[str, str]]) -> dict[Any, Any]:
    """The same in a world in which two processes share a model."""
    with joined(OTHERS[name], torch.device("cpu")) as world:
        run = Run(world, OTHERS[name])
        run.steps(BEFORE)
        run.save(root / name)
        return {change: gone_on(root / change[0], world, OTHERS[name]) for change in changes}


def gone_on(out: Path, world: World, config: ParallelConfig) -> tuple[list[float], dict[str, np.ndarray]]:
    run = Run(world, config, seed=9)  # other weights, which the checkpoint replaces
    assert run.load(out) == BEFORE
    return run.steps(AFTER), run.weights()


def random_numbers(out: Path, world: World) -> tuple[float, float]:
    """The next random number of this process when it saved, and after it went on."""
    torch.manual_seed(100 + world.rank)
    run = Run(world)
    torch.manual_seed(100 + world.rank)
    run.save(out)
    expected = torch.rand(1).item()
    Run(world).load(out)
    return expected, torch.rand(1).item()


@pytest.fixture(scope="module")
def uninterrupted() -> tuple[list[float], dict[str, np.ndarray]]:
    run = Run()
    return run.steps(BEFORE + AFTER)[BEFORE:], run.weights()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints by the layout they were made in; `one` is a single process's."""
    root = tmp_path_factory.mktemp("states")
    run = Run()
    run.steps(BEFORE)
    run.save(root / "one")
    return root


@pytest.fixture(scope="module")
def found(root: Path) -> list[dict[Any, Any]]:
    """What went on in each layout, per rank."""
    ranks = run_ranks(2, copies, root)
    for name in OTHERS:
        changes = [change for change in TO_OTHERS if change[1] == name]
        for rank, more in zip(ranks, run_ranks(2, shared, root, name, changes), strict=True):
            rank |= more
    return ranks


@pytest.mark.slow
@pytest.mark.parametrize("change", [*CHANGES, *TO_OTHERS], ids=lambda change: " to ".join(change))
def test_a_run_goes_on_in_another_layout(
    change: tuple[str, str],
    found: list[dict[Any, Any]],
    uninterrupted: tuple[list[float], dict[str, np.ndarray]],
) -> None:
    same_as(found[0][change], uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize("before", [*COPIES, *OTHERS])
def test_one_process_goes_on_where_two_left(
    before: str,
    found: list[dict[Any, Any]],
    root: Path,
    uninterrupted: tuple[list[float], dict[str, np.ndarray]],
) -> None:
    assert found
    same_as(gone_on(root / before, ALONE, ParallelConfig()), uninterrupted)


def four(root: Path, config: ParallelConfig) -> list[tuple[list[float], dict[str, np.ndarray]]]:
    """Go on from one process's checkpoint, and from one of this layout."""
    with joined(config, torch.device("cpu")) as world:
        from_one = gone_on(root / "one", world, config)
        run = Run(world, config)
        run.steps(BEFORE)
        run.save(root / "four")
        return [from_one, gone_on(root / "four", world, config)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [ParallelConfig(tp=2, zero=3), ParallelConfig(pp=2, schedule="gpipe", zero=1)],
    ids=["tp 2 x zero 3", "pp 2 x zero 1"],
)
def test_four_processes_that_share_in_two_ways_go_on_too(
    config: ParallelConfig, uninterrupted: tuple[list[float], dict[str, np.ndarray]], tmp_path: Path
) -> None:
    run = Run()
    run.steps(BEFORE)
    run.save(tmp_path / "one")
    for got in run_ranks(4, four, tmp_path, config)[0]:
        same_as(got, uninterrupted)
    same_as(gone_on(tmp_path / "four", ALONE, ParallelConfig()), uninterrupted)


def same_as(got: tuple[list[float], dict[str, np.ndarray]], expected: Any) -> None:
    losses, weights = got
    assert losses == pytest.approx(expected[0], abs=1e-6)
    assert list(weights) == list(expected[1])
    for name, weight in weights.items():
        np.testing.assert_allclose(weight, expected[1][name], atol=1e-6, rtol=0, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("before", [*COPIES, *OTHERS])
def test_a_checkpoint_of_several_processes_is_one_model_folder(
    before: str, found: list[dict[Any, Any]], root: Path
) -> None:
    assert found
    newest = checkpoint.latest(root / before)
    assert newest is not None
    one = checkpoint.latest(root / "one")
    assert one is not None
    expected = dict(hf.load(one).named_parameters())
    for name, weight in hf.load(newest).named_parameters():
        torch.testing.assert_close(weight, expected[name], atol=1e-6, rtol=0)


@pytest.mark.slow
def test_each_process_goes_on_with_its_own_random_numbers(found: list[dict[Any, Any]]) -> None:
    (first, resumed), (second, also) = (rank["random"] for rank in found)
    assert first == resumed
    assert second == also
    assert first != second


@pytest.mark.slow
def test_several_processes_keep_the_newest_checkpoints_too(found: list[dict[Any, Any]], root: Path) -> None:
    assert found
    names = sorted(path.name for path in (root / "many" / "checkpoints").iterdir())
    assert names == ["latest", "step-00000002", "step-00000003"]


@pytest.mark.slow
def test_a_damaged_part_is_refused_by_name(found: list[dict[Any, Any]], root: Path) -> None:
    assert found
    newest = checkpoint.latest(root / "many")
    assert newest is not None
    part = next((newest / checkpoint.PARTS).glob("*.distcp"))
    content = part.read_bytes()
    part.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(CheckpointError, match="'parts' is missing or not as it was written"):
        Run().load(root / "many")


@pytest.mark.slow
def test_a_weight_that_a_checkpoint_lacks_is_named(found: list[dict[Any, Any]], root: Path) -> None:
    assert found
    newest = checkpoint.latest(root / "zero 3")
    assert newest is not None
    from luban.training.parallel import states

    model = tiny.llama(tied=True, layers=3)
    with pytest.raises(CheckpointError, match=r"no weight 'blocks\.2\."):
        states.read(newest / checkpoint.PARTS, model, Run().optimizer, ALONE)


def test_what_a_kill_left_of_a_checkpoint_is_cleared_away(tmp_path: Path) -> None:
    left = tmp_path / "checkpoints" / ".step-00000001.abc"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"half")
    Run().save(tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints").glob(".*")] == []
    assert folder.read_json(tmp_path / "checkpoints" / "step-00000002" / checkpoint.STATE)["step"] == BEFORE
