"""Model folders whose weights are in fewer bits: what `config.json` says of them, and how files hold them.

Whole numbers of eight and four bits lie as compressed-tensors has them (`pack-quantized`: vLLM and transformers read
it), NF4 as bitsandbytes has it. A weight `X.weight` becomes a few tensors under names that begin with `X.weight`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from luban.errors import ConfigError, ModelError
from luban.models.names import Stored
from luban.nn.integers import Bits, IntLinear, rounded
from luban.nn.linear import Linear
from luban.nn.quantize import BLOCK, GROUP, Nf4Linear, dynamic_values, nf4_values

Method = Literal["int8", "int4", "nf4"]
ENTRY = "quantization_config"
PACKED, SCALE, SHAPE = "weight_packed", "weight_scale", "weight_shape"
NF4_STATE = "weight.quant_state.bitsandbytes__nf4"
NF4_PARTS = (
    "weight.absmax",
    "weight.quant_map",
    "weight.nested_absmax",
    "weight.nested_quant_map",
    NF4_STATE,
)
WORD = 4
"""Bytes in which packed rows are counted."""
NF4_ENTRIES: dict[str, Any] = {
    "quant_method": "bitsandbytes",
    "load_in_4bit": True,
    "load_in_8bit": False,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
    "bnb_4bit_compute_dtype": "float32",
    "bnb_4bit_quant_storage": "uint8",
}


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """How the matrices of a folder are kept in fewer bits."""

    method: Method
    group: int = 64
    """Inputs that share a scale, in int4."""
    head: bool = False
    """Whether the head is kept in eight bits, apart from the embedding (int8, int4)."""

    def chosen(self, stored: Mapping[str, Stored], model: Any, head: str) -> list[str]:
        """HF's names of the weights that are rounded: of linear layers, the head only if it is to be.

        Raises ModelError where the layout cannot hold one.
        """
        names = []
        for name, entry in stored.items():
            kept = (name == head and not self.head) or any(".router." in ours for ours in entry.parameters)
            if _is_linear(name, entry, model) and not kept:
                names.append(name)
        fused = [name for name in names if self.method == "nf4" and stored[name].transposed]
        if fused:
            what = f"'{fused[0]}' holds several matrices the other way round, which NF4's layout cannot"
            raise ModelError(what, hint="--quantize int8 or int4")
        return names

    def to_entries(self, chosen: Sequence[str], stored: Mapping[str, Stored], model: Any) -> dict[str, Any]:
        """What config.json says where of HF's weights `stored` those of `chosen` are rounded."""
        linear = [name for name, entry in stored.items() if _is_linear(name, entry, model)]
        kept = [name.removesuffix(".weight") for name in linear if name not in chosen]
        if not self.head and "lm_head" not in kept:
            kept.append("lm_head")  # a tied head is in no file, and its class would take it for rounded
        if self.method == "nf4":
            return {ENTRY: NF4_ENTRIES | {"llm_int8_skip_modules": sorted(kept) or None}}
        groups = {"group_0": _group(["Linear"], 8 if self.method == "int8" else 4, self.group)}
        if self.head and self.method == "int4":
            groups["group_1"] = _group(["lm_head"], 8, 0)
        return {
            ENTRY: {
                "quant_method": "compressed-tensors",
                "format": "pack-quantized",
                "quantization_status": "compressed",
                "config_groups": groups,
                "ignore": sorted(kept),
            }
        }

    def encode(self, name: str, matrix: Tensor, *, head: bool) -> dict[str, Tensor]:
        """The file's tensors for the weight [outputs, inputs] of HF's `name`.

        Raises ModelError where groups do not fill its rows.
        """
        module = name.removesuffix("weight")
        if self.method == "nf4":
            plain = nn.Linear(1, 1, bias=False, device="meta")
            plain.out_features, plain.in_features = matrix.shape
            plain.weight = nn.Parameter(matrix, requires_grad=False)
            return {module + leaf: value for leaf, value in _nf4_tensors(Nf4Linear(plain)).items()}
        bits: Bits = 8 if head or self.method == "int8" else 4
        try:
            codes, scales = rounded(matrix, bits, self.group if bits == 4 else 0)
        except ConfigError as error:
            raise ModelError(error.what, where=f"'{name}'", hint=error.hint) from None
        shape = torch.tensor(matrix.shape, dtype=torch.int64)
        return {module + PACKED: _packed(codes, bits), module + SCALE: scales, module + SHAPE: shape}


def _is_linear(name: str, entry: Stored, model: Any) -> bool:
    layers = [model.get_submodule(ours.rpartition(".")[0]) for ours in entry.parameters]
    return name.endswith(".weight") and all(isinstance(layer, Linear) for layer in layers)


def _group(targets: list[str], bits: int, group: int) -> dict[str, Any]:
    size = group if bits == 4 else None
    weights = {"num_bits": bits, "type": "int", "symmetric": True, "dynamic": False, "group_size": size}
    weights["strategy"] = "group" if size else "channel"
    return {"targets": targets, "weights": weights, "input_activations": None, "output_activations": None}


def is_known(entries: Mapping[str, Any]) -> bool:
    """Whether config.json says that weights are quantised, in a layout that is read here."""
    told = entries.get(ENTRY)
    if not isinstance(told, Mapping):
        return False
    if told.get("quant_method") == "bitsandbytes":
        return bool(told.get("load_in_4bit")) and told.get("bnb_4bit_quant_type") == "nf4"
    packed = told.get("quant_method") == "compressed-tensors" and told.get("format") == "pack-quantized"
    return packed and all(_is_plain(group) for group in told.get("config_groups", {}).values())


def _is_plain(group: Mapping[str, Any]) -> bool:
    """Whether only weights are whole numbers, of four or eight bits, and zero means zero."""
    weights = group.get("weights") or {}
    usual = weights.get("type", "int") == "int" and weights.get("symmetric", True)
    return usual and weights.get("num_bits") in (4, 8) and not group.get("input_activations")


def parts_of(name: str) -> tuple[str, ...]:
    """Names under which a file may hold parts of HF's weight `name`."""
    module = name.removesuffix("weight")
    return tuple(module + leaf for leaf in (PACKED, SCALE, SHAPE, *NF4_PARTS))


def take_layers(
    found: dict[str, Tensor], stored: Mapping[str, Stored], model: Any
) -> Iterator[tuple[str, dict[str, nn.Linear]]]:
    """Each weight of `stored` that the file holds in fewer bits, with the layers, by our names, that compute with it.

    Takes its parts out of `found`. Raises ModelError where some are missing or do not fit the model.
    """
    for name, entry in stored.items():
        module = name.removesuffix("weight")
        if module + PACKED in found:
            layers = _int_layers(name, found, entry, model)
        elif module + NF4_STATE in found:
            layers = {entry.parameters[0]: _nf4_layer(name, found, entry, model)}
        else:
            continue
        yield name, {ours.removesuffix(".weight"): layer for ours, layer in layers.items()}


def _int_layers(name: str, found: dict[str, Tensor], entry: Stored, model: Any) -> dict[str, nn.Linear]:
    module = name.removesuffix("weight")
    packed = found.pop(module + PACKED)
    scales, told = (_part(found, module + leaf) for leaf in (SCALE, SHAPE))
    plain = [_plain(model, ours) for ours in entry.parameters]
    shape = [sum(layer.out_features for layer in plain), plain[0].in_features]
    bits = packed.shape[-1] * 32 // max(1, shape[1])
    if told.tolist() != shape or packed.shape[0] != shape[0] or scales.shape[0] != shape[0]:
        raise ModelError(f"weight '{name}' has shape {told.tolist()}, config.json makes it {shape}")
    if bits not in (4, 8) or shape[1] % scales.shape[1]:
        raise ModelError(f"weight '{name}' is neither of four nor of eight bits")
    codes = _unpacked(packed, bits, shape[1])
    sizes = [layer.out_features for layer in plain]
    rows = zip(entry.parameters, codes.split(sizes), scales.bfloat16().split(sizes), plain, strict=True)
    return {
        ours: IntLinear(own.contiguous(), scale, bits=bits, bias=layer.bias)
        for ours, own, scale, layer in rows
    }


def _packed(codes: Tensor, bits: Bits) -> Tensor:
    """Whole numbers as words of 32 bits, the first in the lowest bits, each made positive."""
    shifted = (codes.to(torch.int16) + 2 ** (bits - 1)).to(torch.uint8)
    if bits == 4:
        shifted = nn.functional.pad(shifted, (0, -shifted.shape[1] % 2))
        shifted = shifted[:, ::2] | shifted[:, 1::2] << 4
    return nn.functional.pad(shifted, (0, -shifted.shape[1] % WORD)).contiguous().view(torch.int32)


def _unpacked(packed: Tensor, bits: int, inputs: int) -> Tensor:
    """The inverse of `_packed`."""
    octets = packed.contiguous().view(torch.uint8)
    if bits == 4:
        octets = torch.stack([octets & 15, octets >> 4], -1).flatten(1)
    return (octets[:, :inputs].to(torch.int16) - 2 ** (bits - 1)).to(torch.int8)


def _nf4_tensors(layer: Nf4Linear) -> dict[str, Tensor]:
    """A layer as bitsandbytes writes it."""
    codes = layer._parameters["weight"]
    assert codes is not None
    assert layer.ranges is not None
    assert layer.mean is not None
    state = {
        "quant_type": "nf4",
        "blocksize": BLOCK,
        "dtype": str(layer.dtype).removeprefix("torch."),
        "shape": [layer.out_features, layer.in_features],
        "nested_blocksize": GROUP,
        "nested_dtype": "float32",
        "nested_offset": layer.mean.view(torch.float32).item(),
    }
    return {
        "weight": codes.data[:, None],
        "weight.absmax": layer.scales,
        "weight.quant_map": nf4_values().clone(),
        "weight.nested_absmax": layer.ranges.view(torch.float32),
        "weight.nested_quant_map": dynamic_values().clone(),
        NF4_STATE: torch.frombuffer(bytearray(json.dumps(state).encode("utf-8")), dtype=torch.uint8),
    }


def _nf4_layer(name: str, found: dict[str, Tensor], entry: Stored, model: Any) -> Nf4Linear:
    module = name.removesuffix("weight")
    told = json.loads(bytes(found.pop(module + NF4_STATE).tolist()))
    plain = _plain(model, entry.parameters[0])
    shape = [plain.out_features, plain.in_features]
    usual = told.get("blocksize") == BLOCK and told.get("nested_blocksize") == GROUP
    if told.get("shape") != shape or len(entry.parameters) > 1:
        raise ModelError(f"weight '{name}' has shape {told.get('shape')}, config.json makes it {shape}")
    if not usual or told.get("quant_type") != "nf4":
        raise ModelError(f"weight '{name}' is not in NF4 with blocks of {BLOCK} and groups of {GROUP}")
    codes = _part(found, name).flatten()
    scales, values, ranges, levels = (_part(found, module + leaf) for leaf in NF4_PARTS[:-1])
    if not (torch.equal(values, nf4_values()) and torch.allclose(levels, dynamic_values())):
        raise ModelError(f"weight '{name}' is rounded to other values than NF4's")
    mean = torch.tensor(told["nested_offset"], dtype=torch.float32)
    return Nf4Linear.stored(plain, codes, scales, ranges, mean)


def _plain(model: Any, ours: str) -> nn.Linear:
    layer = model.get_submodule(ours.rpartition(".")[0])
    if not isinstance(layer, nn.Linear):
        raise ModelError(f"weight '{ours}' is in fewer bits and not a linear layer's")
    return layer


def _part(found: dict[str, Tensor], name: str) -> Tensor:
    if name not in found:
        raise ModelError(f"'{name}' is missing")
    return found.pop(name)
