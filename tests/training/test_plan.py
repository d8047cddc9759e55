"""`luban plan`: any model, here or on a cluster, as numbers and as tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from luban.cli import main
from luban.errors import LubanError
from luban.models import hf
from luban.models.presets import PRESETS
from luban.training import plan
from luban.training.architecture import ArchitectureConfig
from luban.training.layout import LayoutConfig

CLUSTER = """\
about: four small machines
nodes: 4
devices_per_node: 2
memory_gb: 16
tflop_per_s: {bfloat16: 65}
memory_gb_per_s: 300
node_gb_per_s: 12
network_gb_per_s: 1.2
watts: 70
price_per_hour: 0.5
"""


@pytest.fixture
def gpt3() -> dict[str, Any]:
    return {
        "params": 175e9,
        "layers": 96,
        "dim": 12288,
        "vocab": 50257,
        "tokens": 300e9,
        "max_length": 2048,
        "cluster": "1024xH100",
    }


def told(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main(["plan", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_gpt3_is_planned_from_plain_words(capsys: pytest.CaptureFixture[str]) -> None:
    numbers = ("params=175e9", "layers=96", "dim=12288", "vocab=50257", "tokens=300e9", "max_length=2048")
    results = told(capsys, *numbers, "--cluster", "1024xH100")
    assert results["devices"] == 1024
    assert results["flops_per_token"] == pytest.approx(6 * 175e9, rel=0.02)
    layout = results["layout"]
    assert layout["dp"] * layout["tp"] * layout["pp"] == 1024
    assert results["step_seconds"] == pytest.approx(sum(results["step"].values()))
    assert results["days"] == pytest.approx(300e9 / results["tokens_per_second"] / 86400)
    assert results["energy_mwh"] == pytest.approx(1024 * results["days"] * 24 * 700 * 1.1 / 1e6)
    assert results["cost"] == pytest.approx(1024 * results["days"] * 24 * 2.5)
    assert f"parallel.tp={layout['tp']}" in results["settings"]


def test_the_share_of_the_peak_is_6nd_over_the_time(gpt3: dict[str, Any]) -> None:
    results = plan.run(plan.Config(**gpt3))
    assert results["mfu"] == pytest.approx(
        results["total_flops"] / (results["seconds"] * 1024 * 989e12), rel=1e-6
    )
    assert 0.3 < results["mfu"] < 0.6


@pytest.mark.parametrize(
    ("name", "parameters"), [("llama3-8b", 8_030_261_248), ("smollm2-135m", 134_515_008)]
)
def test_a_published_size_is_planned_by_its_name(name: str, parameters: int) -> None:
    results = plan.run(plan.Config(model=Path(name), cluster="8xA100"))
    assert results["parameters"] == parameters
    assert results["tokens"] == 20 * parameters
    assert results["settings"][-1] == f"loop.max_length={PRESETS[name]().context}" or (
        "loop.max_length=8192" in results["settings"]
    )


def test_a_published_size_needs_no_cluster_and_no_memory() -> None:
    results = plan.run(plan.Config(model=Path("llama3-8b"), per_device_train_batch_size=1, threads=1))
    assert results["parameters"] == 8_030_261_248
    assert results["memory_bytes"]["weights"] == 4 * 8_030_261_248
    assert not results["fits"]


def test_a_family_and_a_folder_are_planned_by_name(tmp_path: Path) -> None:
    assert plan.run(plan.Config(model=Path("gpt2"), threads=1))["parameters"] > 0
    config = PRESETS["smollm2-135m"]()
    (tmp_path / "config.json").write_text(json.dumps(config.to_hf()), encoding="utf-8")
    assert plan.run(plan.Config(model=tmp_path, threads=1))["parameters"] == 134_515_008
    assert hf.load_config(tmp_path).layers == config.layers


def test_an_own_cluster_is_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(CLUSTER, encoding="utf-8")
    results = told(capsys, "--cluster", str(path), "--model", "smollm2-360m", "--batch-tokens", "524288")
    assert results["devices"] == 8
    assert results["fits"]
    assert results["layout"]["tp"] <= 2
    path.write_text(CLUSTER.replace("watts", "wats"), encoding="utf-8")
    assert main(["plan", "--cluster", str(path)]) == 2
    assert "did you mean 'watts'?" in capsys.readouterr().err


def test_what_is_fixed_of_the_layout_stays(gpt3: dict[str, Any]) -> None:
    fixed = LayoutConfig(tp=8, pp=16, zero=1, micro_batch=1, chunks=1, recompute=True)
    layout = plan.run(plan.Config(**gpt3, layout=fixed))["layout"]
    assert (layout["tp"], layout["pp"], layout["dp"]) == (8, 16, 8)
    assert (layout["zero"], layout["chunks"], layout["recompute"]) == (1, 1, True)


def test_less_is_held_where_blocks_are_recomputed_and_more_where_weights_have_copies(
    gpt3: dict[str, Any],
) -> None:
    def held(**changes: Any) -> dict[str, float]:
        fixed = LayoutConfig(
            tp=8, pp=8, micro_batch=1, chunks=1, zero=0, recompute=changes.pop("again", False)
        )
        return plan.run(plan.Config(**(gpt3 | changes), layout=fixed))["memory_bytes"]

    plain = held()
    assert held(again=True)["activations"] < 0.2 * plain["activations"]
    assert held(precision="autocast")["weights"] == 3 * plain["weights"]
    assert held(precision="autocast")["total"] > plain["total"]


def test_recomputing_takes_less_here_and_compiling_more() -> None:
    def activations(**changes: Any) -> float:
        return plan.run(plan.Config(threads=1, **changes))["memory_bytes"]["activations"]

    eager = activations()
    assert activations(compile=True) > eager  # eager blocks make some tensors again
    assert activations(gradient_checkpointing=True) < eager / 2


def test_numbers_that_contradict_each_other_are_noted(gpt3: dict[str, Any]) -> None:
    assert not [one for one in plan.run(plan.Config(**gpt3))["warnings"] if "come to" in one]
    gpt3["layers"] = 48
    notes = plan.run(plan.Config(**gpt3))["warnings"]
    assert "48 layers of 12288 come to 8.76e+10 parameters, not 1.75e+11" in notes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"params": 1e9}, "layers and dim how they lie"),
        (
            {"params": 1e6, "layers": 2, "dim": 512, "vocab": 50257, "cluster": "8xA100"},
            "fewer than the embedding's",
        ),
        ({"cluster": "8xA10"}, "no cluster '8xA10'; did you mean '8xA100'"),
        ({"cluster": "nowhere.yaml"}, "no such config file"),
        ({"cluster": "8xA100", "minutes": 5.0}, "found by trials on this machine"),
        ({"cluster": "8xA100", "model": Path("mamba")}, "spreads over devices is not known"),
        ({"architecture": ArchitectureConfig(model_type="vit")}, "reads images"),
        ({"model": Path("llama9-8b")}, "llama9-8b"),
    ],
)
def test_a_plan_that_cannot_be_made_says_why(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(LubanError, match=message):
        plan.run(plan.Config(**changes))


def test_the_tables_show_layout_memory_step_and_notes(
    gpt3: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    plan.show(plan.run(plan.Config(**gpt3)))
    shown = capsys.readouterr().out
    for word in ("days", "activations", "again", "bubble", "nodes that one group spans", "note: 1.71 tokens"):
        assert word in shown
    assert "torchrun --nnodes 128 --nproc-per-node 8 -m luban pretrain parallel.dp=" in shown


def test_the_tables_of_this_machine_show_its_memory(capsys: pytest.CaptureFixture[str]) -> None:
    plan.show(plan.run(plan.Config(threads=1)))
    shown = capsys.readouterr().out
    assert "runtime" in shown
    assert "note" not in shown


@pytest.mark.slow
def test_the_planned_speed_here_is_that_of_real_steps_within_a_factor_of_two() -> None:
    """Real steps of a small model against the rate of a product, both now: the machine's own drift is in both."""
    from luban.training.local_plan import _trial

    config = plan.Config(
        architecture=ArchitectureConfig(layers=4, dim=256), per_device_train_batch_size=8, threads=1
    )
    planned = plan.run(config)["tokens_per_second"]
    import torch

    assert 0.5 < _trial(config.new_model(), config, torch.device("cpu")) / planned < 2
