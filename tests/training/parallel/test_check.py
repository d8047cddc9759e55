"""`luban dist check`: nine exchanges right on two and three processes; a wrong number and a silent rank are named."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from luban.cli import main
from luban.errors import ConfigError, MachineError
from luban.training.parallel import check
from luban.training.parallel.examine import REFUSED, RIGHT, RollCall, Terms, examine
from luban.training.parallel.exchanges import COLLECTIVES, Collective, Exchange, Place, message
from tests.ranks import run_ranks

NAMES = [collective.name for collective in COLLECTIVES]
TERMS = Terms(largest_bytes=4096, measure_s=0.01, timeout_s=60)


def spoiled(name: str, *, at: int, spoil: Any) -> list[Collective]:
    """The collective called `name`, alone, with `spoil(exchange)` in place of its call on rank `at`."""
    (whole,) = (collective for collective in COLLECTIVES if collective.name == name)

    def ready(place: Place, count: int) -> Exchange:
        made = whole.ready(place, count)
        return dataclasses.replace(made, call=lambda: spoil(made)) if place.rank == at else made

    return [dataclasses.replace(whole, ready=ready)]


def flip(sender: int) -> Any:
    """Do the exchange, then change a number of what is from `sender`."""

    def spoil(exchange: Exchange) -> None:
        exchange.call()
        exchange.received[sender][-1] += 1

    return spoil


def refuse(_exchange: Exchange) -> None:
    raise RuntimeError("Backend gloo does not support reduce_scatter\nand a trace")


def fail(_exchange: Exchange) -> None:
    raise RuntimeError("the cable is out")


def dawdle(_exchange: Exchange) -> None:
    time.sleep(8)


def refused_by_all() -> list[Collective]:
    def ready(place: Place, count: int) -> Exchange:
        made = COLLECTIVES[0].ready(place, count)
        return dataclasses.replace(made, call=lambda: refuse(made))

    return [dataclasses.replace(COLLECTIVES[0], ready=ready)]


def findings(size: int) -> dict[str, Any]:
    """By name: the rows of an examination, or what it complained of."""
    with check._joined(check.Config()) as store:

        def found(name: str, collectives: Sequence[Collective], *, timeout_s: float = 60) -> Any:
            place = check._place("gloo", timeout_s)
            roll = RollCall(check._apart(store, name), place, timeout_s=timeout_s)
            terms = dataclasses.replace(TERMS, timeout_s=timeout_s)
            try:
                return list(examine(place, roll, terms, backend="gloo", collectives=collectives))
            except MachineError as error:
                return str(error)

        told = {"all": found("all", COLLECTIVES)}
        if size == 3:
            told["gathered"] = found("gathered", spoiled("all-gather", at=2, spoil=flip(1)))
            told["summed"] = found("summed", spoiled("all-reduce", at=1, spoil=flip(0)))
            told["paired"] = found(
                "paired", spoiled("send/recv", at=0, spoil=flip(1))
            )  # rank 0's second is rank 2
            told["refused"] = found("refused", refused_by_all())
            told["failed"] = found("failed", spoiled("reduce", at=1, spoil=fail), timeout_s=2.0)
        else:
            told["silent"] = found("silent", spoiled("broadcast", at=1, spoil=dawdle), timeout_s=2.0)
        return told


@pytest.fixture(scope="module")
def two() -> list[dict[str, Any]]:
    return run_ranks(2, findings, 2)


@pytest.fixture(scope="module")
def three() -> list[dict[str, Any]]:
    return run_ranks(3, findings, 3)


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3])
def test_every_collective_brings_the_right_numbers(size: int, request: pytest.FixtureRequest) -> None:
    world = request.getfixturevalue({2: "two", 3: "three"}[size])
    rows = world[0]["all"]
    assert [row["collective"] for row in rows] == [name for name in NAMES for _ in TERMS.sizes()]
    assert all(row["status"] in (RIGHT,) or "left out" in row["status"] for row in rows)
    assert {row["collective"] for row in rows if row["status"] == RIGHT} == set(NAMES)


@pytest.mark.slow
def test_bus_bandwidth_is_what_the_slowest_link_carried(three: list[dict[str, Any]]) -> None:
    rows = {row["collective"]: row for row in three[0]["all"] if row["status"] == RIGHT}
    factors = {name: row["bus_bandwidth"] / row["bandwidth"] for name, row in rows.items()}
    assert factors["all-reduce"] == pytest.approx(2 * 2 / 3)
    for name in ("all-gather", "reduce-scatter", "all-to-all"):
        assert factors[name] == pytest.approx(2 / 3)
    for name in ("broadcast", "reduce", "send/recv"):
        assert factors[name] == pytest.approx(1)
    assert all(row["bandwidth"] == pytest.approx(row["bytes"] / row["seconds"]) for row in rows.values())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("gathered", "all-gather over gloo, 12 bytes: rank 2 got wrong numbers from rank 1: element 0 of 1 is 32, not"),
        ("paired", "send/recv over gloo, 8 bytes: rank 0 got wrong numbers from rank 2: element 0 of 1 is 63, not 62"),
        ("summed", "all-reduce over gloo, 4 bytes: rank 1 got wrong numbers from all ranks: element 0 of 1 is 94, not"),
        ("failed", "reduce over gloo, 4 bytes: rank 1 failed after 0.0 s: the cable is out; "),
    ],
)  # fmt: skip
def test_a_wrong_number_names_the_collective_and_both_ranks(
    three: list[dict[str, Any]], name: str, told: str
) -> None:
    assert three[0][name].startswith(told)
    assert three[1][name] == three[2][name] == []  # only the first one speaks


@pytest.mark.slow
def test_a_rank_that_does_not_answer_is_named_with_those_that_waited(two: list[dict[str, Any]]) -> None:
    assert two[0]["silent"].startswith(
        "broadcast over gloo, 4 bytes: rank 1 did not answer in 2 s; rank 0 waited in vain"
    )
    assert two[1]["silent"] == []


@pytest.mark.slow
def test_what_a_backend_does_not_have_is_told_and_the_rest_goes_on(three: list[dict[str, Any]]) -> None:
    assert [row["status"] for row in three[0]["refused"]] == [REFUSED]


@pytest.mark.slow
def test_the_command_starts_processes_and_tells_what_it_did_not_check(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = "dist check --processes 2 --backends gloo --largest-mb 0.001 --measure-s 0.01"
    assert main([*words.split(), "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert results["processes"] == 2
    assert {row["collective"] for row in results["rows"]} == set(NAMES)
    assert results["absent"]
    check.show(results)
    assert "all numbers right" in capsys.readouterr().out


def test_messages_differ_by_sender_receiver_and_place() -> None:
    place = Place(rank=0, size=8)
    told = [
        message(place, 5, sender=sender, receiver=receiver) for sender in range(8) for receiver in range(8)
    ]
    assert len({tuple(numbers.tolist()) for numbers in told}) == 64
    assert told[0].tolist() == [0, 1, 2, 3, 4]
    assert told[9].tolist() == [7950, 7951, 7952, 7953, 7954]  # from 1 to 1: 31 + 7919


def test_sizes_grow_to_the_largest() -> None:
    assert TERMS.sizes() == [0, 1024, 4096]


def test_one_process_alone_and_processes_twice_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(ConfigError, match="one process has nobody to talk to"):
        check.run(check.Config())
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="torchrun has started 2 processes already"):
        check.run(check.Config(processes=2))


def test_a_backend_that_is_not_here_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    if torch.distributed.is_mpi_available():
        pytest.skip("this torch has MPI")
    with pytest.raises(MachineError, match="no backend 'mpi' here: this torch is built without it"):
        check.run(check.Config(backends=("mpi",)))
