"""Folders in fewer bits: read back exactly, read by transformers, refused by name where they do not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from luban.errors import ModelError
from luban.models import hf
from luban.models.quantised import Scheme
from luban.nn.integers import IntLinear
from luban.nn.quantize import dequantise, is_quantised
from tests import tiny

SCHEMES = {
    "int8": Scheme(method="int8"),
    "int8 head": Scheme(method="int8", head=True),
    "int4": Scheme(method="int4", group=32),
    "int4 head": Scheme(method="int4", group=64, head=True),
    "nf4": Scheme(method="nf4"),
}
FAMILIES = ("llama", "qwen2", "mixtral", "gpt2", "bloom", "mamba", "bert")
NEAR = {"int8": 0.01, "int4": 0.13, "nf4": 0.12}


def model_of(family: str) -> Any:
    torch.manual_seed(0)
    sized: dict[str, Any] = {"dim": 64, "hidden": 128}
    if family in ("gpt2", "bloom", "mamba", "bert"):
        return getattr(tiny, family)(dim=64).eval()
    if family == "mixtral":
        sized |= {"experts": 4, "experts_per_token": 2}
    return tiny.llama(model_type=family, **sized).eval()


def saved(folder: Path, scheme: str, family: str = "llama") -> Any:
    model = model_of(family)
    hf.save(model, folder, scheme=SCHEMES[scheme])
    return model


@pytest.mark.parametrize(
    ("family", "scheme"),
    [
        (family, scheme)
        for family in FAMILIES
        for scheme in ("int8", "int4")
        if (family, scheme) != ("mamba", "int4")
    ],
)
def test_each_family_is_read_again_as_its_rounded_self(family: str, scheme: str, tmp_path: Path) -> None:
    model = saved(tmp_path, scheme, family)
    made = hf.load(tmp_path).eval()
    assert is_quantised(made)
    assert made.config == model.config
    for name, weight in model.named_parameters():
        module, _, leaf = name.rpartition(".")
        other = getattr(made.get_submodule(module), leaf)
        layer = made.get_submodule(module)
        near = NEAR[scheme] if isinstance(layer, IntLinear) and leaf == "weight" else 0.0
        assert (other - weight).norm() <= near * weight.norm(), name
    tokens = torch.randint(384, (2, 24))
    with torch.no_grad():
        given = made(tokens)
        dequantise(made)
        exact = made(tokens)
    assert (given - exact).abs().max() < 0.05 * exact.std()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_rounding_happens_once(scheme: str, tmp_path: Path) -> None:
    """What is read and written again as floats rounds to the same numbers: a file holds all there is."""
    saved(tmp_path / "first", scheme)
    made = hf.load(tmp_path / "first")
    dequantise(made)
    hf.save(made, tmp_path / "second", scheme=SCHEMES[scheme])
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("first", "second"))
    assert list(first) == list(second)
    if scheme.startswith("int8"):
        assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", SCHEMES)
def test_transformers_reads_the_same_model(scheme: str, tmp_path: Path) -> None:
    if scheme != "nf4":
        pytest.importorskip("compressed_tensors", reason="transformers reads whole numbers through it")
    from transformers import AutoModelForCausalLM

    saved(tmp_path, scheme, "qwen2")
    made = hf.load(tmp_path).eval()
    dequantise(made)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    tokens = torch.randint(384, (2, 24))
    with torch.no_grad():
        expected, given = made(tokens), theirs(tokens).logits
    # bitsandbytes multiplies NF4 in bfloat16 on a CPU.
    assert (given - expected).abs().max() < (0.05 if scheme == "nf4" else 1e-5) * expected.std()


def test_a_routers_weight_stays_as_it_is(tmp_path: Path) -> None:
    saved(tmp_path, "int4", "mixtral")
    made = hf.load(tmp_path)
    assert not isinstance(made.blocks[0].mlp.router, IntLinear)
    assert isinstance(made.blocks[0].mlp.experts[0].gate, IntLinear)


def test_shards_hold_the_parts(tmp_path: Path) -> None:
    model = model_of("llama")
    hf.save(model, tmp_path, scheme=SCHEMES["int4"], shard_bytes=100_000)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text("utf-8"))
    assert len(set(index["weight_map"].values())) > 1
    assert is_quantised(hf.load(tmp_path))
    sizes = [tensor.nbytes for file in tmp_path.glob("*.safetensors") for tensor in load_file(file).values()]
    assert index["metadata"]["total_size"] == sum(sizes)


def test_a_model_in_fewer_bits_is_not_saved_as_floats(tmp_path: Path) -> None:
    saved(tmp_path / "made", "int8")
    with pytest.raises(ModelError, match="weights are quantised"):
        hf.save(hf.load(tmp_path / "made"), tmp_path / "again")


@pytest.mark.parametrize(
    ("scheme", "broken", "message"),
    [
        ("int8", "weight_scale", "'model.layers.0.self_attn.q_proj.weight_scale' is missing"),
        ("int8", "weight_packed", "'model.layers.0.self_attn.q_proj.weight' is missing"),
        ("nf4", "weight.absmax", "'model.layers.0.self_attn.q_proj.weight.absmax' is missing"),
        ("nf4", "weight.quant_state.bitsandbytes__nf4", r"weight' has shape \[2048, 1\]"),
    ],
)
def test_a_missing_part_is_named(scheme: str, broken: str, message: str, tmp_path: Path) -> None:
    saved(tmp_path, scheme)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors[f"model.layers.0.self_attn.q_proj.{broken}"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=message):
        hf.load(tmp_path)


def test_a_part_that_does_not_fit_the_model_is_named(tmp_path: Path) -> None:
    saved(tmp_path, "int8")
    entries = json.loads((tmp_path / "config.json").read_text("utf-8"))
    (tmp_path / "config.json").write_text(json.dumps(entries | {"intermediate_size": 96}), "utf-8")
    with pytest.raises(
        ModelError, match=r"gate_proj.weight' has shape \[128, 64\], config.json makes it \[96, 64\]"
    ):
        hf.load(tmp_path)


@pytest.mark.parametrize(
    "told",
    [
        {"quant_method": "gptq", "bits": 4},
        {"quant_method": "bitsandbytes", "load_in_8bit": True},
        {"quant_method": "compressed-tensors", "format": "float-quantized", "config_groups": {}},
    ],
)
def test_another_layout_is_refused(told: dict[str, Any], tmp_path: Path) -> None:
    saved(tmp_path, "int8")
    entries = json.loads((tmp_path / "config.json").read_text("utf-8"))
    (tmp_path / "config.json").write_text(json.dumps(entries | {"quantization_config": told}), "utf-8")
    with pytest.raises(ModelError, match="'quantization_config' is"):
        hf.load(tmp_path)


def test_nf4_refuses_matrices_that_a_file_holds_together(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"c_attn.*NF4"):
        saved(tmp_path, "nf4", "gpt2")


def test_a_row_that_groups_do_not_fill_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ModelError, match=r"dt_proj.weight': rows of 4 weights do not divide into groups of 32"
    ):
        saved(tmp_path, "int4", "mamba")
