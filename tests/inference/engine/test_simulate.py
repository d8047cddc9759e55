"""Loads played through by the engine's own scheduler: times by hand, and the order of the policies."""

from __future__ import annotations

import random

import pytest

from luban.inference.engine.config import POLICIES, PolicyName
from luban.inference.engine.fcfs import FirstCome
from luban.inference.engine.profile import Profile
from luban.inference.engine.simulate import (
    Arrival,
    Machine,
    alone,
    bursts,
    mixed_lengths,
    percentile,
    play,
    poisson,
    rate_for,
)

SECOND_A_TOKEN = Profile(base=0.0, row=0.0, token=1.0, key=0.0, moved=0.0)
SCARCE = Machine(pages=96, host_pages=960, seats=32)


def figures(policy: PolicyName, arrivals: list[Arrival], machine: Machine) -> dict[str, float]:
    made = POLICIES[policy](machine.profile, machine.seats)
    return play(arrivals, made, machine).figures(machine)


def test_the_times_of_two_requests_are_those_on_paper() -> None:
    machine = Machine(profile=SECOND_A_TOKEN, seats=1)
    arrivals = [Arrival(at=0.0, prompt=3, answer=3), Arrival(at=1.0, prompt=1, answer=2)]
    played = play(arrivals, FirstCome(), machine)
    # The first: 3 seconds to read and draw, 2 more tokens. The second begins at 5, and is done at 7.
    assert [(one.first, one.whole) for one in played.outcomes] == [(3.0, 5.0), (5.0, 6.0)]
    assert alone(arrivals[0], machine) == 5.0


def test_a_step_takes_its_base_once_and_the_rest_for_each_row() -> None:
    profile = Profile(base=10.0, row=1.0, token=0.5, key=0.25, moved=2.0)
    # 10 + (1 + 2 * 0.5 + (4 + 5) * 0.25) + (1 + 0.5 + 8 * 0.25) + 3 pages * 2
    assert profile.step([(2, 3), (1, 7)], moved=3) == 10 + 4.25 + 3.5 + 6


def test_a_load_is_the_same_again_and_its_lengths_do_not_follow_its_rate() -> None:
    first, again = (poisson(50, 2.0, mixed_lengths, seed=3) for _ in range(2))
    faster = poisson(50, 4.0, mixed_lengths, seed=3)
    assert first == again
    assert [one.prompt for one in first] == [one.prompt for one in faster]
    assert first[-1].at == pytest.approx(2 * faster[-1].at)


@pytest.mark.parametrize("make", [poisson, bursts])
def test_a_load_comes_at_its_rate(make: type) -> None:
    arrivals = make(20000, 5.0, lambda _: (1, 1), seed=1)
    assert len(arrivals) / arrivals[-1].at == pytest.approx(5.0, rel=0.1)


def test_percentiles_are_values_that_were_seen() -> None:
    values = [float(value) for value in random.Random(0).sample(range(1, 101), 100)]
    assert [percentile(values, percent) for percent in (50, 95, 99, 100)] == [50.0, 95.0, 99.0, 100.0]
    assert percentile([7.0], 1) == 7.0


def test_where_there_is_room_for_all_every_policy_does_the_same() -> None:
    arrivals = poisson(100, 1.0, mixed_lengths, seed=1)
    machine = Machine(pages=10000, seats=1000, chunk_tokens=100000)
    results = [figures(policy, arrivals, machine)["jct_mean"] for policy in POLICIES]
    assert results == pytest.approx([results[0]] * 3, rel=1e-6)


@pytest.mark.parametrize("seed", [1, 2])
def test_near_saturation_with_scarce_pages_short_answers_overtake_and_the_oracle_is_best(seed: int) -> None:
    base = poisson(1200, 1.0, mixed_lengths, seed=seed)
    arrivals = poisson(1200, rate_for(0.9, base, SCARCE, together=8), mixed_lengths, seed=seed)
    fcfs, mlfq, srpt = (figures(policy, arrivals, SCARCE) for policy in ("fcfs", "mlfq", "srpt"))
    assert fcfs["short_jct_p95"] > 2 * mlfq["short_jct_p95"]
    assert fcfs["ttft_p99"] > 2 * mlfq["ttft_p99"]
    assert fcfs["short_blocked"] > 1.5 * mlfq["short_blocked"]
    assert srpt["jct_mean"] < mlfq["jct_mean"] < 1.15 * fcfs["jct_mean"]


def test_no_policy_lets_a_request_starve_under_bursts() -> None:
    arrivals = bursts(400, 6.0, mixed_lengths, seed=4)
    for policy in POLICIES:
        made = POLICIES[policy](SCARCE.profile, SCARCE.seats)
        assert len(play(arrivals, made, SCARCE).outcomes) == 400
