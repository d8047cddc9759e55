"""Luban: raw text to a language model that is aligned, evaluated and served.

Importing this package is cheap on purpose (no torch): every stage imports what it needs, and `luban.LLM` comes when
it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from luban.inference.llm import LLM as LLM
    from luban.inference.params import SamplingParams as SamplingParams

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    if name == "LLM":
        from luban.inference.llm import LLM

        return LLM
    if name == "SamplingParams":
        from luban.inference.params import SamplingParams

        return SamplingParams
    raise AttributeError(f"module 'luban' has no attribute '{name}'")
