"""QLoRA: LoRA on a base in four bits. The base is made float again wherever it is used; only A and B are trained.

Merged, the model is a plain one in the base's own dtype: its weights are the rounded ones plus the change, so it
computes what was trained, but for the rounding of its dtype (`luban merge` tells how much that is). Loaded in `peft`,
the adapter is a LoRA that goes on any base, rounded there the same way (bitsandbytes, NF4) or not at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from luban.device import dtype_named
from luban.errors import ConfigError
from luban.nn import surgery
from luban.nn.quantize import quantise
from luban.nn.surgery import own_parameters
from luban.peft.adapter import base_hash
from luban.peft.lora import LAYERS, Lora, LoraConfig, LowRank, attach_low_rank
from luban.peft.targets import ALL_LINEAR


@dataclass(frozen=True, kw_only=True)
class QloraConfig(LoraConfig):
    """Low-rank adaptation of a model in four bits."""

    target_modules: tuple[str, ...] = (ALL_LINEAR,)
    """Layers by the ends of their names; as in the paper every linear layer, `all-linear`."""
    quantised_modules: tuple[str, ...] = ()
    """Linear layers that are kept in four bits, by the ends of their names; none given, all but heads are."""
    double_quant: bool = True
    """Round the blocks' scales too: 0.127 bits more than 4 for each weight, and not 0.5."""
    compute_dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """What the rounded weights are multiplied in; `auto` is what the layer is given."""


class Qlora(LowRank):
    """LoRA on rounded weights; `remove` leaves the model rounded, as what was rounded off is gone.

    Source: Dettmers et al. 2023, section 3, equation 5 (arXiv:2305.14314).
    """

    config: QloraConfig

    def entries(self, names: Mapping[str, str]) -> dict[str, Any]:
        """See `Adapter.entries`; to `peft` it is a LoRA."""
        return super().entries(names) | {"luban_method": "qlora"}


def apply(model: Any, config: QloraConfig, *, name: str = "default") -> Qlora:
    """Round `model`'s linear layers where they are not, and LoRA on those of `config.target_modules`.

    Raises ConfigError, with the model as it was, where a name means no layer.
    """
    base = base_hash(model)
    compute = None if config.compute_dtype == "auto" else dtype_named(config.compute_dtype)
    before = quantise(model, config.quantised_modules, double=config.double_quant, compute=compute)
    try:
        attach_low_rank(model, config, LAYERS, name, Lora)
    except ConfigError:
        surgery.put(model, before)
        raise
    model.quantised_from = base
    _let_go_of_files(model)
    return Qlora(model, "qlora", config, name=name)


def _let_go_of_files(model: Any) -> None:
    """Hold what is left in floats in memory of its own: one weight mapped to a file keeps all that was read of it.

    Of a base of 537 MB that was 405 MB of a run's peak.
    """
    for weight in own_parameters(model).values():
        weight.data = weight.data.clone()
