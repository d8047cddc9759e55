"""Fewer weights, same model: one file per method, each applied from outside through `nn/surgery.py`."""

from __future__ import annotations

from luban.peft import lora
from luban.peft.adapter import Method

METHODS = {
    "lora": Method(
        config=lora.LoraConfig,
        apply=lora.apply,
        peft_type="LORA",
        summary="a low-rank change of chosen layers",
        paper="Hu et al. 2022, arXiv:2106.09685",
    ),
}
"""By name, as `peft.method` of a stage gives it."""
