"""AdamW with paged moments: the same steps to the bit, less memory, and either goes on from the other's state."""

from __future__ import annotations

import dataclasses
import io
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from luban import folder
from luban.errors import ConfigError, MachineError
from luban.training import paged, pretrain
from luban.training.config import OptimizerConfig
from luban.training.optim import adamw
from luban.training.paged import PagedAdamW
from tests.conftest import Workspace
from tests.ranks import exit_code
from tests.training.test_pretrain import LOOP, config_for, final_weights
from tests.training.test_resume import open_lm, run_and_die

PLAIN = OptimizerConfig(learning_rate=0.01, weight_decay=0.3)
PAGED = dataclasses.replace(PLAIN, paged=True)


@pytest.fixture(autouse=True)
def small_slices(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(paged, "SLICE", 2048)  # so that a parameter has two, the last one ragged
    monkeypatch.setenv("LUBAN_HOME", str(tmp_path / "home"))


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(67, 53), nn.Linear(53, 3))


def stepped(net: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> list[torch.Tensor]:
    for step in steps:
        torch.manual_seed(step)
        for number, parameter in enumerate(net.parameters()):
            parameter.grad = None if (number, step) == (2, 0) else torch.randn_like(parameter)
        optimizer.step()
    return [parameter.detach().clone() for parameter in net.parameters()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_paged_steps_are_adamws_to_the_bit(dtype: torch.dtype) -> None:
    one, other = model().to(dtype), model().to(dtype)
    expected = stepped(one, adamw(one, PLAIN), range(5))
    optimizer = adamw(other, PAGED)
    assert isinstance(optimizer, PagedAdamW)
    for value, wanted in zip(stepped(other, optimizer, range(5)), expected, strict=True):
        assert torch.equal(value, wanted)


@pytest.mark.parametrize("first", [PLAIN, PAGED])
@pytest.mark.parametrize("then", [PLAIN, PAGED])
def test_either_goes_on_where_the_other_was_saved(first: OptimizerConfig, then: OptimizerConfig) -> None:
    whole = model()
    expected = stepped(whole, adamw(whole, PLAIN), range(6))
    cut = model()
    begun = adamw(cut, first)
    stepped(cut, begun, range(3))
    file = io.BytesIO()
    torch.save(begun.state_dict(), file)
    assert file.tell() < 80_000  # 3,768 numbers twice, and no page more
    file.seek(0)
    again = adamw(cut, then)
    again.load_state_dict(torch.load(file, weights_only=True))
    for value, wanted in zip(stepped(cut, again, range(3, 6)), expected, strict=True):
        assert torch.equal(value, wanted)


def test_loading_a_state_forgets_the_steps_before_it() -> None:
    fresh, used = model(), model()
    blank = adamw(fresh, PAGED).state_dict()
    optimizer = adamw(used, PAGED)
    stepped(used, optimizer, range(2))
    used.load_state_dict(model().state_dict())
    optimizer.load_state_dict(blank)
    expected = stepped(fresh, adamw(fresh, PLAIN), range(1, 3))
    for value, wanted in zip(stepped(used, optimizer, range(1, 3)), expected, strict=True):
        assert torch.equal(value, wanted)


def test_no_file_is_left_behind() -> None:
    net = model()
    optimizer = adamw(net, PAGED)
    stepped(net, optimizer, range(1))
    assert not list(folder.home().iterdir())


def test_a_full_disk_is_told_before_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(MachineError, match=r"no room for the 0\.1 MB(.|\n)*optimizer.paged=false"):
        adamw(model(), PAGED)


def test_moments_that_processes_share_out_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"'optimizer\.paged'"):
        adamw(model(), PAGED, kind=torch.optim.SGD)


MEASURED = r"""
import re, sys, torch
from luban.training.config import OptimizerConfig
from luban.training.optim import adamw
torch.set_num_threads(1)
weight = torch.nn.Linear(4096, 2048, bias=False)
weight.weight.grad = torch.ones_like(weight.weight)
def peak():  # since this program began: getrusage would tell that of the process it was started by
    return 1024 * int(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1])
adamw(torch.nn.Linear(1, 1), OptimizerConfig()).step()  # loads what any optimizer needs
before = peak()
optimizer = adamw(weight, OptimizerConfig(paged=sys.argv[1] == "paged"))
for _ in range(2):
    optimizer.step()
print(peak() - before)
"""


@pytest.mark.slow
def test_the_process_is_smaller_by_the_moments() -> None:
    def growth(kind: str) -> int:
        run = subprocess.run(
            [sys.executable, "-c", MEASURED, kind], capture_output=True, text=True, check=True
        )
        return int(run.stdout)

    moments = 2 * 4 * 4096 * 2048  # 67 MB
    kept, mapped = growth("kept"), growth("paged")
    assert kept > 0.9 * moments
    assert mapped < 0.4 * moments  # two slices of 4 MB, and what the first step loads


@pytest.mark.slow
def test_a_paged_run_that_was_killed_ends_as_any(workspace: Workspace, tmp_path: Path) -> None:
    loop = dataclasses.replace(LOOP, max_steps=6, save_steps=3)
    plain = config_for(workspace, tmp_path / "plain", loop=loop, optimizer=PLAIN)
    pretrain.run(plain, open_lm)
    config = dataclasses.replace(plain, out=tmp_path / "paged", optimizer=PAGED)
    assert exit_code(run_and_die, config, "sum", 5) == -signal.SIGKILL
    pretrain.run(config, open_lm)
    assert final_weights(config.out) == final_weights(plain.out)
