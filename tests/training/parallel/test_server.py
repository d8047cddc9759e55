"""The parameter server: synchronous it is all-reduce, asynchronous it pays for staleness; on Ray as in one process."""

from __future__ import annotations

import dataclasses
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from luban.data.loader import Loader, Source
from luban.data.shards import TokenShards
from luban.errors import ConfigError, MachineError, TrainingError
from luban.models import hf
from luban.training.architecture import ArchitectureConfig
from luban.training.config import OptimizerConfig
from luban.training.metrics import read_log
from luban.training.optim import adamw, learning_rate_at
from luban.training.parallel import by_server
from luban.training.parallel.crews import Embedded, OnRay
from luban.training.parallel.scheduler import allowed, asynchronous, synchronous
from luban.training.parallel.server import Rules, Shard, Worker, parts_of, share_out, take_over
from luban.training.step import Accumulated, Step, Updater, next_token
from tests.conftest import Workspace

PUSHES = 12
RULES = Rules(optimizer=OptimizerConfig(), updates=1)


def never() -> Worker:
    raise AssertionError("no worker was to be made")


def config_for(workspace: Workspace, out: Path, **changes: Any) -> by_server.Config:
    config = by_server.Config(
        data=(workspace.shards,),
        tokenizer=workspace.tokenizer,
        out=out,
        engine="embedded",
        pushes=PUSHES,
        architecture=ArchitectureConfig(layers=1, dim=32, heads=2),
        optimizer=OptimizerConfig(
            warmup_steps=2, adam_epsilon=1e-4
        ),  # else rounding counts where gradients are ~0
        per_device_train_batch_size=2,
        max_length=32,
        logging_steps=2,
        threads=1,
    )
    return dataclasses.replace(config, **changes)


def final_weights(out: Path) -> dict[str, Tensor]:
    return dict(hf.load(out / "final").named_parameters())


def weights_of_one_process(config: by_server.Config) -> dict[str, Tensor]:
    """What the usual loop makes of the same rows, all workers' in one batch."""
    _, model = by_server._made(config)
    shards = TokenShards.open(config.data[0])
    rows = config.per_device_train_batch_size * config.workers
    source = Source(examples=shards, name=str(config.data[0]))
    batches = iter(Loader([source], batch=rows, context=config.max_length, seed=config.seed))
    updater = Updater(
        adamw(model, config.optimizer),
        Accumulated(model, next_token()),
        max_grad_norm=config.optimizer.max_grad_norm,
    )
    for step in range(config.updates):
        rate = learning_rate_at(step, config.updates, config.optimizer)
        updater.update([next(batches)], learning_rate=rate)
    return dict(model.named_parameters())


def furthest(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    assert ours.keys() == theirs.keys()
    return max(float((ours[name] - theirs[name]).detach().abs().max()) for name in ours)


def test_synchronous_workers_make_the_weights_of_one_process(workspace: Workspace, tmp_path: Path) -> None:
    config = config_for(workspace, tmp_path / "run", workers=3, servers=2)
    by_server.run(config)
    assert furthest(final_weights(config.out), weights_of_one_process(config)) < 1e-6


@pytest.mark.slow
@pytest.mark.usefixtures("ray_ends")
def test_on_ray_the_weights_are_the_same_and_stale_pushes_go_on_learning(
    workspace: Workspace, tmp_path: Path
) -> None:
    config = config_for(workspace, tmp_path / "run", engine="ray")
    _, model = by_server._made(config)
    with by_server._crew(config, model) as crew:  # one crew for both: its processes are dear to start
        first = list(synchronous(crew, config.updates, max_grad_norm=1.0))
        take_over(model, crew.pull())
        pushed = list(asynchronous(crew, 24, max_grad_norm=1.0, bound=1))
        assert isinstance(crew, OnRay)
        crew.ray.kill(crew.stations[1])
        crew.start(1)
        with pytest.raises(MachineError, match="a worker or a server of the parameter server has ended"):
            crew.finished()
        with pytest.raises(MachineError, match="99 workers, and Ray has 2 CPUs"):
            OnRay([], RULES, [never] * 99, [0.0] * 99)
    assert furthest(dict(model.named_parameters()), weights_of_one_process(config)) < 1e-6
    assert pushed[-1].loss < first[0].loss
    turns = Counter(push.worker for push in pushed)
    assert abs(turns[0] - turns[1]) <= 2  # the bound, and the turn that ended last
    assert {push.staleness for push in pushed} <= {0, 1, 2, 3, 4}
    assert any(push.staleness for push in pushed)


class Point(nn.Module):
    """Parameters that are pulled to the origin, more strongly along some axes, with noise of each worker's own."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.full((4,), 3.0))
        self.other = nn.Parameter(torch.full((2, 2), 3.0))


def pull_to_origin(model: Any, batch: Any) -> Step:
    where = torch.cat([model.place, model.other.flatten()])
    strength = torch.linspace(2.0, 4.0, 8)
    return Step(0.5 * (strength * where * where).sum() + (batch * where).sum(), 1)


def noise(seed: int) -> Iterator[Any]:
    drawn = torch.Generator().manual_seed(seed)
    while True:
        yield 0.01 * torch.randn(8, generator=drawn)


def crew_of(seconds: list[float], *, rate: float = 0.05, pushes: int = 60, **rules: Any) -> Embedded:
    """Workers on `Point`; with so large an epsilon AdamW is plain gradient descent, so what is seen is staleness."""
    optimizer = OptimizerConfig(
        learning_rate=rate * 1e6,
        lr_scheduler_type="constant",
        warmup_steps=0,
        weight_decay=0,
        adam_beta1=0.0,
        adam_epsilon=1e6,
        max_grad_norm=1e9,
    )
    made = Rules(optimizer=optimizer, updates=pushes, **rules)
    shards = [Shard(part, made) for part in parts_of(Point(), 2)]
    workers = [Worker(Point(), pull_to_origin, noise(number), servers=2) for number in range(len(seconds))]
    return Embedded(shards, workers, seconds)


def distance(crew: Embedded) -> float:
    return float(torch.cat([tensor.flatten() for part in crew.pull() for tensor in part.tensors]).norm())


def test_servers_share_the_parameters_about_evenly_and_each_has_some() -> None:
    assert share_out([3, 9, 4, 2], 2) == [1, 0, 1, 1]
    assert sorted(share_out([1, 1, 1], 3)) == [0, 1, 2]


def test_without_ray_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MachineError, match=r"pip install 'luban\[scale\]'"):
        OnRay([], RULES, [], [])


def test_staleness_is_the_number_of_updates_by_others_since_the_pull() -> None:
    story = list(asynchronous(crew_of([1.0, 1.0, 1.0]), 6, max_grad_norm=1e9))
    assert [push.staleness for push in story] == [0, 1, 2, 2, 2, 2]  # all three start on version 0
    assert [push.worker for push in story] == [0, 1, 2, 0, 1, 2]


def test_a_straggler_pushes_gradients_that_are_stale_by_all_the_others_did() -> None:
    story = list(asynchronous(crew_of([1.0, 5.5]), 12, max_grad_norm=1e9))
    late = [push for push in story if push.worker == 1]
    assert [push.staleness for push in late] == [5, 5]


@pytest.mark.parametrize("bound", [0, 1, 3])
def test_no_worker_gets_further_ahead_than_the_bound(bound: int) -> None:
    clocks, ahead = [0, 0, 0], 0
    for push in asynchronous(crew_of([1.0, 1.5, 20.0]), 40, max_grad_norm=1e9, bound=bound):
        clocks[push.worker] += 1
        ahead = max(ahead, max(clocks) - min(clocks))
    assert ahead == bound + 1  # it may push once more when it is `bound` ahead, then it waits


def test_without_a_bound_a_fast_worker_does_most_of_the_work() -> None:
    story = list(asynchronous(crew_of([1.0, 20.0]), 40, max_grad_norm=1e9))
    assert sum(push.worker == 0 for push in story) > 36
    assert allowed(0, [99, 0], bound=None)


def test_the_more_stale_the_gradients_the_worse_the_same_number_of_pushes() -> None:
    left = []
    for workers in (1, 4, 8):
        crew = crew_of([1.0] * workers, rate=0.1)
        story = list(asynchronous(crew, 60, max_grad_norm=1e9))
        assert story[-1].staleness == workers - 1
        left.append(distance(crew))
    assert left[0] < left[1] / 2 < left[2] / 4


def test_gradients_too_stale_for_the_rate_swing_out_of_bounds_unless_slowed_down() -> None:
    """Descent on a curvature of 4 with gradients 7 updates old is stable up to a rate of 2 sin(pi / 30) / 4 = 0.052."""
    left = {}
    for slow_down in (False, True):
        crew = crew_of([1.0] * 8, rate=0.1, slow_down=slow_down)
        start = distance(crew)
        list(asynchronous(crew, 60, max_grad_norm=1e9))
        left[slow_down] = distance(crew) / start
    assert left[False] > 2
    assert left[True] < 0.5


def test_a_gradient_that_is_not_finite_moves_nothing() -> None:
    crew = crew_of([1.0, 1.0])
    broken: Any = iter([torch.full((8,), float("nan"))])
    crew.staff[1].batches = broken
    before = distance(crew)
    with pytest.raises(TrainingError, match="the loss is nan"):
        list(synchronous(crew, 1, max_grad_norm=1.0))
    assert distance(crew) == before
    assert [shard.version for shard in crew.shards] == [0, 0]


def test_asynchronous_runs_are_told_with_their_staleness(workspace: Workspace, tmp_path: Path) -> None:
    config = config_for(workspace, tmp_path / "run", mode="async", workers=3, delays=(0.0, 0.0, 2.5))
    results = by_server.run(config)
    log = read_log(config.out)
    assert results["staleness_counts"].keys() - {"0", "1"}
    assert sum(count for line in log for count in line["train/staleness"].values()) == PUSHES
    assert [line["step"] for line in log] == list(range(2, PUSHES + 1, 2))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"bound": 1}, "nothing is stale where all wait"),
        ({"slow_down": True}, "nothing is stale where all wait"),
        ({"delays": (1.0,)}, "1 delays for 2 workers"),
        ({"pushes": 5}, "5 pushes do not make whole rounds of 2 workers"),
        ({"servers": 99}, "99 servers and 11 tensors"),
        ({"architecture": ArchitectureConfig(model_type="ngram")}, "is counted and has no gradients"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    workspace: Workspace, tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        by_server.run(config_for(workspace, tmp_path / "run", **changes))
