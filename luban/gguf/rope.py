"""Slowed rotation in GGUF: what `config.json` says of it as metadata, or as one number for each pair of a head.

Linear and YaRN scaling are metadata. Llama 3's is a tensor, `rope_freqs.weight`, of how many times slower each pair
turns; read back, it is known by trying the published numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from luban.errors import ModelError

if TYPE_CHECKING:
    import numpy as np

TENSOR = "rope_freqs.weight"
ORIGINAL = "original_max_position_embeddings"
PUBLISHED = {ORIGINAL: 8192, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
"""Llama 3.1's and 3.2's; they differ by `factor` only."""
YARN = {"beta_fast": 32.0, "beta_slow": 1.0, "attention_factor": None}
"""What llama.cpp takes where the file does not say; other values are refused."""


def metadata_of(name: str, entries: Mapping[str, Any], *, where: object) -> dict[str, Any]:
    """Keys for the scaling in config.json's `entries`; raises ModelError for a kind that llama.cpp lacks."""
    scaling: Mapping[str, Any] = entries.get("rope_scaling") or {"rope_type": None}
    kind = scaling["rope_type"]
    if kind in (None, "llama3"):
        return {}
    odd = [key for key, usual in YARN.items() if scaling.get(key, usual) != usual]
    if kind not in ("linear", "yarn") or odd:
        told = f"'{odd[0]}' of {scaling[odd[0]]}" if odd else f"'{kind}'"
        raise ModelError(f"rotation scaled by {told} has no GGUF names here", where=where)
    keys = {"type": kind, "factor": float(scaling["factor"])}
    if kind == "yarn":
        keys["original_context_length"] = scaling[ORIGINAL]
    return {f"{name}.rope.scaling.{key}": value for key, value in keys.items()}


def entries_of(name: str, metadata: Mapping[str, Any], *, where: object) -> dict[str, Any]:
    """`rope_scaling` for config.json out of a file's metadata; raises ModelError for an unknown kind."""
    told = {
        key.removeprefix(f"{name}.rope.scaling."): value
        for key, value in metadata.items()
        if key.startswith(f"{name}.rope.scaling.")
    }
    kind = told.pop("type", "none" if not told else "linear")
    if kind == "none":
        return {}
    unknown = sorted(set(told) - {"factor", "original_context_length", "finetuned"})
    if kind not in ("linear", "yarn") or unknown or "factor" not in told:
        raise ModelError(f"rotation scaled as '{kind}' with {sorted(told)} is not known here", where=where)
    scaling = {"rope_type": kind, "factor": told["factor"]}
    if kind == "yarn":
        scaling[ORIGINAL] = told.get("original_context_length", metadata[f"{name}.context_length"])
    return {"rope_scaling": scaling}


def slowness(entries: Mapping[str, Any]) -> np.ndarray | None:
    """For each pair of a head how many times slower it turns, with Llama 3's scaling; None with any other."""
    scaling = entries.get("rope_scaling")
    if not scaling or scaling["rope_type"] != "llama3":
        return None
    from luban.models.llama_files import read_rope
    from luban.nn.rope_scaling import rotation_speeds

    rope = read_rope(entries)
    plain = rotation_speeds(entries["head_dim"], rope["rope_theta"])
    return (plain / rotation_speeds(entries["head_dim"], rope["rope_theta"], rope["rope_scaling"])).numpy()


def published(slow: np.ndarray, entries: Mapping[str, Any], *, where: object) -> dict[str, Any]:
    """`rope_scaling` that slows each pair as `slow` says; raises ModelError where no published one does."""
    scaling = {"rope_type": "llama3", "factor": float(slow.max()), **PUBLISHED}
    made = slowness({**entries, "rope_scaling": scaling})
    assert made is not None
    if made.shape != slow.shape or abs(made - slow).max() > 1e-3:
        what = f"tensor '{TENSOR}' scales the rotation as no published model does"
        raise ModelError(what, where=where)
    return {"rope_scaling": scaling}
