"""Layers that a file of the family fuses (GPT-2's q, k and v): one adapter in `peft`'s files, one each here.

On the way out the LoRAs of such layers, which have one input, become one of the sum of their ranks: A's on each
other, B's along the diagonal. On the way in each layer has its rows of B, and of A what these rows use.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from luban.errors import ConfigError, ModelError
from luban.peft.adapter import Adapter
from luban.peft.ia3 import FACTORS, Factors
from luban.peft.lora import Lora, rank_share

A, B, LENGTH = "lora_A.weight", "lora_B.weight", "lora_magnitude_vector"
RANKED = (A, "lora_embedding_A")
Layers = Mapping[str, Mapping[str, Tensor]]
"""By the name of a layer: its tensors by the ends of their names."""


def stacked(adapter: Adapter, names: Mapping[str, str]) -> Layers:
    """The adapter's tensors by the files' names of layers, those of fused layers made one.

    Raises ConfigError where they are no LoRA.
    """
    layers = adapter.tensors()
    members = {names[place] if place else "": place for place in layers}
    found: dict[str, Mapping[str, Tensor]] = {}
    for theirs, place in members.items():
        places = siblings(theirs, names)
        found[theirs] = layers[place] if len(places) <= 1 else _stack(adapter, theirs, places)
    return found


def split(written: Layers, names: Mapping[str, str], model: Any) -> dict[str, Mapping[str, Tensor]]:
    """A file's tensors by our layers; the inverse of `stacked`. "" is for those of no layer."""
    held: dict[str, Mapping[str, Tensor]] = {}
    for theirs, ends in written.items():
        places = siblings(theirs, names) if theirs else [""]
        if len(places) > 1 and FACTORS in ends:
            held |= _divided(
                ends[FACTORS], {place: model.get_submodule(place).out_features for place in places}
            )
        elif len(places) > 1 and A in ends:
            held |= _unstack(ends, {place: model.get_submodule(place).out_features for place in places})
        else:
            held |= dict.fromkeys(places, ends)
    return held


def siblings(theirs: str, names: Mapping[str, str]) -> list[str]:
    """Our layers of one of the files' modules, in its order."""
    return [ours for ours, name in names.items() if name == theirs]


def own_ranks(
    entries: Mapping[str, Any], written: Layers, held: Layers, names: Mapping[str, str], where: Path
) -> dict[str, Any]:
    """`rank_pattern` and `alpha_pattern` of our layers, from those of a file's.

    Raises ModelError where a file's tensors have another rank than it says.
    """
    ranks: dict[str, int] = {}
    alphas: dict[str, float] = {}
    r, alpha, root = entries.get("r", 8), entries.get("lora_alpha", 8), bool(entries.get("use_rslora"))
    for ours in filter(None, held):
        theirs, own = names[ours], _rank(held[ours])
        told = _told(entries.get("rank_pattern"), theirs, r)
        if _rank(written[theirs]) != told:
            what = f"the adapter of '{theirs}' has rank {_rank(written[theirs])}, the config says {told}"
            raise ModelError(what, where=where)
        scale = _told(entries.get("alpha_pattern"), theirs, alpha) / rank_share(told, root=root)
        ranks |= {ours: own} if own != r else {}
        own_alpha = scale * rank_share(own, root=root)
        alphas |= {} if math.isclose(own_alpha, alpha) else {ours: own_alpha}
    return {"rank_pattern": ranks, "alpha_pattern": alphas}


def _stack(adapter: Adapter, theirs: str, places: Sequence[str]) -> dict[str, Tensor]:
    parts = {place: part for place, (_, part) in adapter.parts().items() if place in places}
    loras = {place: part for place, part in parts.items() if isinstance(part, Lora)}
    if all(isinstance(part, Factors) and not part.of_inputs for part in parts.values()):
        return _beside_ones(adapter, places)
    if len(loras) < len(parts):
        what = f"peft's files have one adapter for '{theirs}', which only LoRAs and IA3 on outputs can become"
        raise ConfigError(what, where="target_modules")
    scale = next(iter(loras.values())).scale
    lower: list[Tensor] = []
    upper: list[Tensor] = []
    lengths: list[Tensor] = []
    for place in places:
        layer: Any = adapter.model.get_submodule(place)
        ends = loras[place].tensors() if place in loras else {}
        nothing = torch.zeros(layer.out_features, 0, device=layer.weight.device)
        lower += [ends[A]] if ends else []
        upper.append(ends[B] * (loras[place].scale / scale) if ends else nothing)
        lengths.append(ends[LENGTH] if LENGTH in ends else layer.weight.detach().float().norm(dim=1))
    dora = any(part.length is not None for part in loras.values())
    return {
        A: torch.cat(lower),
        B: torch.block_diag(*upper),
        **({LENGTH: torch.cat(lengths)} if dora else {}),
    }


def _unstack(ends: Mapping[str, Tensor], outputs: Mapping[str, int]) -> dict[str, Mapping[str, Tensor]]:
    """Each layer's own; a column of B that is zero for a layer is left out there, unless B is all zero, or DoRA."""
    sizes = list(outputs.values())
    if sum(sizes) != len(ends[B]):
        raise ModelError(f"B has {len(ends[B])} rows, the layers {', '.join(outputs)} have {sum(sizes)}")
    lengths = ends[LENGTH].split(sizes) if LENGTH in ends else [None] * len(sizes)
    whole = LENGTH in ends or not ends[B].any()
    found: dict[str, Mapping[str, Tensor]] = {}
    for place, rows, length in zip(outputs, ends[B].split(sizes), lengths, strict=True):
        used = rows.any(dim=0) | whole
        if used.any():
            found[place] = {
                A: ends[A][used],
                B: rows[:, used],
                **({} if length is None else {LENGTH: length}),
            }
    return found


def _beside_ones(adapter: Adapter, places: Sequence[str]) -> dict[str, Tensor]:
    """The layers' factors on each other, 1 for layers without."""
    layers: dict[str, Any] = {place: adapter.model.get_submodule(place) for place in places}
    own = adapter.tensors()
    columns = [
        own[place][FACTORS]
        if place in own
        else layer.weight.new_ones(layer.out_features, 1, dtype=torch.float32)
        for place, layer in layers.items()
    ]
    return {FACTORS: torch.cat(columns)}


def _divided(factors: Tensor, outputs: Mapping[str, int]) -> dict[str, Mapping[str, Tensor]]:
    """Each layer's own factors; a layer whose are all 1 has none, unless all are. Factors of inputs are everyone's."""
    if factors.shape[1] > 1:
        return {place: {FACTORS: factors} for place in outputs}
    rows = dict(zip(outputs, factors.split(list(outputs.values())), strict=True))
    used = {place: own for place, own in rows.items() if (own != 1).any()}
    return {place: {FACTORS: own} for place, own in (used or rows).items()}


def _rank(ends: Mapping[str, Tensor]) -> int:
    return next((len(ends[end]) for end in RANKED if end in ends), 0)


def _told(pattern: Mapping[str, Any] | None, theirs: str, default: Any) -> Any:
    """What `peft`'s `rank_pattern` or `alpha_pattern` says of a module: its keys are ends of names, as regexes."""
    return next(
        (value for key, value in (pattern or {}).items() if re.match(rf"(.*\.)?({key})$", theirs)), default
    )
