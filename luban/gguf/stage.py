"""Stage `import`: a GGUF file of llama.cpp's to a model folder, weights in float32, tokenizer and template included.

luban import model.gguf --out model
luban chat --model model
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from luban.folder import stage_folder


@dataclass(frozen=True, kw_only=True)
class Config:
    """Make a model folder of a GGUF file."""

    POSITIONAL: ClassVar[str] = "gguf"

    gguf: Path
    """The file."""
    out: Path
    """The folder to make."""


def run(config: Config) -> dict[str, Any]:
    """Make the folder; returns architecture, parameters and the types that the file has its weights in."""
    from luban.errors import ModelError
    from luban.gguf import read

    if not config.gguf.is_file():
        raise ModelError("no such file", where=config.gguf)
    with stage_folder(config.out, stage="import", config=config, inputs=(config.gguf,)) as (folder, metrics):
        metrics.update(read.convert(config.gguf, folder))
    return metrics


def show(results: dict[str, Any]) -> None:
    """What was read."""
    types = ", ".join(results["types"])
    print(f"{results['architecture']}, {results['parameters']:,} parameters, from {types} to float32")
