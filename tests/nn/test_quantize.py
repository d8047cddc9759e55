"""NF4 by hand and against bitsandbytes; a layer in four bits against `F.linear` with the same rounded weight."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from luban.errors import ConfigError, ModelError
from luban.models import hf
from luban.nn import quantize, surgery
from luban.nn.quantize import Nf4Linear, dequantise, dynamic_values, nf4_values, quantise, weight_bytes
from tests import tiny
from tests.nn.peak import PeakBytes

TABLE = (-1.0, -0.6962, -0.5251, -0.3949, -0.2844, -0.1848, -0.0911, 0.0,
         0.0796, 0.1609, 0.2461, 0.3379, 0.4407, 0.5626, 0.7230, 1.0)  # fmt: skip
"""Dettmers et al. 2023, appendix E, to four places."""


def plain(outputs: int, inputs: int, *, bias: bool = False, dtype: torch.dtype = torch.float32) -> nn.Linear:
    torch.manual_seed(0)
    layer = nn.Linear(inputs, outputs, bias=bias)
    nn.init.normal_(layer.weight, std=0.02)
    return layer.to(dtype)


def codes_of(layer: Nf4Linear) -> torch.Tensor:
    return dict(layer.named_parameters())["weight"]


def test_the_values_are_the_papers_with_seven_below_an_exact_zero_and_eight_above() -> None:
    values = nf4_values().tolist()
    assert values == pytest.approx(TABLE, abs=5e-5)
    assert (values[0], values[7], values[15]) == (-1.0, 0.0, 1.0)
    assert sum(value < 0 for value in values) == 7


def test_the_values_are_quantiles_as_statistics_has_them() -> None:
    from statistics import NormalDist

    def quantile(share: float) -> float:
        return NormalDist().inv_cdf(share) / NormalDist().inv_cdf(quantize.OUTERMOST)

    assert math.isclose(quantize.OUTERMOST, 1 - (1 / 32 + 1 / 30) / 2, abs_tol=1e-7)
    step = (quantize.OUTERMOST - 0.5) / 8
    assert nf4_values()[8:].tolist() == pytest.approx(
        [quantile(0.5 + i * step) for i in range(1, 9)], abs=1e-6
    )
    step = (quantize.OUTERMOST - 0.5) / 7
    assert nf4_values()[:8].tolist() == pytest.approx(
        [-quantile(0.5 + i * step) for i in range(7, -1, -1)], abs=1e-6
    )


def test_a_block_by_hand() -> None:
    layer = plain(1, 64)
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[0, :4] = torch.tensor([2.0, -2.0, 0.9, 0.07])
    packed = Nf4Linear(layer, double=False)
    # over the greatest, 2: 1, -1, 0.45 (nearest 0.4407), 0.035 (below 0.0398, the middle of 0 and 0.0796)
    expected = [2.0, -2.0, 2 * nf4_values()[12].item(), 0.0]
    assert packed.weight[0, :4].tolist() == expected
    assert packed.weight[0, 4:].count_nonzero() == 0
    assert codes_of(packed)[:3].tolist() == [0xF0, 0xC7, 0x77]


def test_a_layer_of_zeros_stays_zero() -> None:
    layer = plain(4, 64)
    nn.init.zeros_(layer.weight)
    assert Nf4Linear(layer).weight.count_nonzero() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_codes_scales_and_weights_are_those_of_bitsandbytes(dtype: torch.dtype) -> None:
    bnb: Any = pytest.importorskip("bitsandbytes.functional")
    assert torch.equal(nf4_values(), bnb.get_4bit_type("nf4", device="cpu"))
    assert torch.equal(dynamic_values(), bnb.create_dynamic_map())
    layer = plain(256, 512, dtype=dtype)
    codes, state = bnb.quantize_4bit(layer.weight.data, blocksize=64, quant_type="nf4")
    mine = Nf4Linear(layer, double=False)
    assert torch.equal(codes_of(mine), codes[:, 0])
    assert torch.equal(mine.scales.view(torch.float32), state.absmax)
    assert torch.equal(mine.weight, bnb.dequantize_4bit(codes, state))


def test_scales_rounded_twice_are_those_of_bitsandbytes_or_nearer() -> None:
    bnb: Any = pytest.importorskip("bitsandbytes.functional")
    layer = plain(256, 512)
    exact = Nf4Linear(layer, double=False).scales.view(torch.float32)
    _, state = bnb.quantize_4bit(layer.weight.data, blocksize=64, quant_type="nf4", compress_statistics=True)
    mine: Any = Nf4Linear(layer)
    assert torch.equal(mine.ranges.view(torch.float32), state.state2.absmax)
    assert mine.mean.view(torch.float32) == state.offset
    differ = mine.scales != state.absmax  # its CPU kernel does not always take the nearest
    assert differ.float().mean() < 0.005
    values, shares = dynamic_values(), (exact - state.offset) / state.state2.absmax.repeat_interleave(256)
    ours, theirs = ((values[codes.int()] - shares).abs()[differ] for codes in (mine.scales, state.absmax))
    assert bool((ours <= theirs).all())


def test_scales_cost_an_eighth_and_a_512th_of_a_bit() -> None:
    numbers = 256 * 512
    double, single = Nf4Linear(plain(256, 512)), Nf4Linear(plain(256, 512), double=False)
    mean = 4  # bytes, once for the layer
    assert (double.stored_bytes() - mean) * 8 / numbers == 4 + 8 / 64 + 32 / (64 * 256)
    assert single.stored_bytes() * 8 / numbers == 4.5


@pytest.mark.parametrize(("outputs", "inputs"), [(96, 64), (5, 33), (40, 96)])
def test_a_quantised_layer_is_a_linear_layer_with_the_rounded_weight(outputs: int, inputs: int) -> None:
    layer = Nf4Linear(plain(outputs, inputs, bias=True))
    x = torch.randn(2, 3, inputs, requires_grad=True)
    same = x.detach().clone().requires_grad_()
    expected = F.linear(same, layer.weight, layer.bias)
    y = layer(x)
    torch.testing.assert_close(y, expected, atol=1e-6, rtol=1e-5)
    weights = torch.randn_like(y)
    (y * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(x.grad, same.grad, atol=1e-6, rtol=1e-5)
    assert codes_of(layer).grad is None


def test_rows_that_are_made_in_pieces_are_the_rows_made_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = Nf4Linear(plain(50, 48)), torch.randn(3, 48, requires_grad=True)
    whole, at_once = layer.weight, layer(x)
    (gradient,) = torch.autograd.grad(at_once.sum(), x)
    monkeypatch.setattr(quantize, "PIECE", 200)
    pieces = list(layer.pieces(torch.float32))
    assert len(pieces) == 13  # of four rows, 192 numbers, three blocks; the last of two
    assert torch.equal(layer.weight, whole)
    torch.testing.assert_close(layer(x), at_once)
    torch.testing.assert_close(torch.autograd.grad(layer(x).sum(), x)[0], gradient)


def test_neither_pass_holds_the_float_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantize, "PIECE", 1 << 13)
    layer, x = Nf4Linear(plain(512, 512)), torch.randn(1, 512, requires_grad=True)
    layer(x).sum().backward()  # tables are made once
    with PeakBytes() as memory:
        layer(x).sum().backward()
    assert memory.peak < 512 * 512 * 4 / 4


def test_the_result_has_the_dtype_that_a_plain_layer_would_give() -> None:
    layer = Nf4Linear(plain(64, 64, bias=True, dtype=torch.bfloat16))
    x = torch.randn(2, 64)
    assert layer.weight.dtype == torch.bfloat16
    assert layer(x.bfloat16()).dtype == torch.bfloat16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    narrow = Nf4Linear(plain(64, 64), compute=torch.bfloat16)
    assert narrow(x).dtype == torch.float32
    torch.testing.assert_close(narrow(x), F.linear(x.bfloat16(), narrow.weight.bfloat16()).float())


def test_the_compiler_takes_it_whole() -> None:
    layer, x = Nf4Linear(plain(40, 96, bias=True)), torch.randn(3, 96, requires_grad=True)
    compiled: Any = torch.compile(layer, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), layer(x))
    gradients = [torch.autograd.grad(y.square().sum(), x)[0] for y in (compiled(x), layer(x))]
    torch.testing.assert_close(*gradients)


def test_a_state_dict_and_a_copy_give_the_layer_back() -> None:
    layer = Nf4Linear(plain(32, 64, bias=True))
    other = Nf4Linear(nn.Linear(64, 32))
    assert not torch.equal(other.weight, layer.weight)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other.weight, layer.weight)
    assert torch.equal(copy.deepcopy(layer).weight, layer.weight)


def test_changing_the_models_dtype_leaves_the_rounded_weight() -> None:
    layer = Nf4Linear(plain(32, 64))
    before = layer.weight
    assert torch.equal(layer.to(torch.bfloat16).weight, before)


def test_a_model_is_quantised_but_for_its_head_and_restored_to_the_bit() -> None:
    torch.manual_seed(0)
    model, tokens = tiny.llama(), torch.arange(6)[None]
    before, names = model(tokens), list(model.state_dict())
    replaced = quantise(model)
    kinds = {name.rpartition(".")[2] for name in replaced}
    assert kinds == {"q", "k", "v", "o", "gate", "up", "down"}
    assert not torch.equal(model(tokens), before)
    surgery.put(model, replaced)
    assert torch.equal(model(tokens), before)
    assert list(model.state_dict()) == names


def test_only_the_layers_of_a_pattern_are_quantised() -> None:
    model = tiny.llama()
    replaced = quantise(model, ("mlp.up", "blocks.0.*.q"))
    assert set(replaced) == {"blocks.0.mlp.up", "blocks.1.mlp.up", "blocks.0.attention.q"}
    assert not quantise(model, ("mlp.up",))  # they are already
    with pytest.raises(ConfigError, match="'head' cannot be quantised"):
        quantise(model, ("head",))
    with pytest.raises(ConfigError, match=r"'mlp.upp' matches no layer"):
        quantise(model, ("mlp.upp",))


def test_a_layer_that_has_an_adapter_is_refused() -> None:
    model: Any = tiny.llama()
    surgery.attach(model.blocks[1].mlp.up, "own", surgery.Part())
    with pytest.raises(ConfigError, match=r"'blocks.1.mlp.up' has an adapter already"):
        quantise(model)
    assert not quantize.is_quantised(model)


def test_dequantised_computes_the_same_and_can_be_saved(tmp_path: Any) -> None:
    torch.manual_seed(0)
    model, tokens = tiny.llama(), torch.arange(6)[None]
    quantise(model)
    expected = model(tokens)
    with pytest.raises(ModelError, match="weights are quantised"):
        hf.save(model, tmp_path / "model")
    assert not (tmp_path / "model").exists()
    dequantise(model)
    torch.testing.assert_close(model(tokens), expected, atol=1e-6, rtol=1e-5)
    hf.save(model, tmp_path / "model")
    assert torch.equal(hf.load(tmp_path / "model")(tokens), model(tokens))


def test_the_bytes_of_a_quantised_model_are_reported() -> None:
    model = tiny.llama()
    before = weight_bytes(model)
    assert before["quantised"] == 0
    replaced = quantise(model)
    after = weight_bytes(model)
    floats = sum(layer.weight.nbytes for layer in replaced.values())
    assert after["kept"] == before["kept"] - floats
    assert after["quantised"] < floats * 4.5 / 32
