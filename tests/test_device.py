"""Device, seeds and their states."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from luban import device
from luban.errors import ConfigError, MachineError


def test_an_unknown_device_is_refused_with_the_choices() -> None:
    with pytest.raises(ConfigError, match="unknown device 'tpu7'; choose from: auto, cpu, cuda, mps"):
        device.pick("tpu7")


@pytest.mark.skipif(torch.accelerator.is_available(), reason="an accelerator is there, so it is not refused")
def test_a_device_that_is_not_here_is_refused() -> None:
    with pytest.raises(MachineError, match="device 'cuda' is not available here"):
        device.pick("cuda")


def draws() -> list[float]:
    return [random.random(), float(np.random.rand()), torch.rand(()).item()]


def test_a_restored_random_state_repeats_the_draws_of_all_generators() -> None:
    device.seed_all(5)
    state = device.random_state()
    first = draws()
    assert draws() != first
    device.restore_random_state(state)
    assert draws() == first


def test_the_number_of_threads_is_set() -> None:
    before = torch.get_num_threads()
    device.start(device.DeviceConfig(threads=1), seed=None)
    assert torch.get_num_threads() == 1
    torch.set_num_threads(before)


def test_processes_of_one_machine_share_its_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = device.threads_of_this_process()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert device.threads_of_this_process() == max(1, alone // 2)


def test_copies_of_a_model_draw_different_numbers_and_the_first_goes_on() -> None:
    device.seed_all(5)
    expected = draws()
    device.seed_all(5)
    device.seed_copy(5, 0)
    assert draws() == expected
    seen = []
    for place in (1, 2):
        device.seed_copy(5, place)
        seen.append(draws())
    assert seen[0] != seen[1] != expected
