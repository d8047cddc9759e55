"""A GGUF file as a model folder in Hugging Face layout.

Weights are dequantised exactly, to float32; llama.cpp's reordering of query and key rows (for its kind of rotary
embedding) is undone; tokenizer and chat template are rebuilt from the file's own metadata.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luban.errors import MachineError, ModelError
from luban.folder import atomic_file, write_json
from luban.gguf import rope, vocabulary
from luban.gguf.architectures import Architecture, config_of, for_file, special_ids, turned

if TYPE_CHECKING:
    import numpy as np


def convert(file: Path, out: Path) -> dict[str, Any]:
    """Write the model folder into `out`; returns its architecture, parameter count and the types of its weights.

    Raises ModelError if the file is no GGUF or of an architecture, vocabulary or tensor that is not known
    here, MachineError without the `gguf` package.
    """
    reader = opened(file)
    metadata = {name: entry.contents() for name, entry in reader.fields.items()}
    architecture = for_file(metadata, where=file)
    config = config_of(architecture, metadata, where=file)
    weights = weights_of(reader, architecture, config, where=file)
    if (slow := weights.pop(rope.TENSOR, None)) is not None:
        config |= rope.published(slow, config, where=file)
    head = "lm_head.weight"
    config["tie_word_embeddings"] = head not in weights
    tokenizer = vocabulary.tokenizer_json(metadata, where=file)
    context = metadata[f"{architecture.name}.context_length"]
    _save_weights(weights, out)
    write_json(out / "generation_config.json", special_ids(metadata))
    write_json(out / "tokenizer.json", tokenizer)
    write_json(out / "tokenizer_config.json", vocabulary.tokenizer_config(metadata, context))
    write_json(out / "config.json", config)
    kinds = sorted({tensor.tensor_type.name for tensor in reader.tensors})
    return {
        "architecture": architecture.name,
        "parameters": sum(array.size for array in weights.values()),
        "types": kinds,
    }


def opened(file: Path) -> Any:
    """The file as gguf's reader, its tensors mapped; raises ModelError where it is broken."""
    try:
        import gguf
    except ImportError:
        raise MachineError("GGUF takes the package gguf", hint="pip install 'luban[export]'") from None
    if not file.is_file():
        raise ModelError("no such file", where=file)
    try:
        return gguf.GGUFReader(file)
    except (ValueError, IndexError, KeyError, OverflowError) as error:
        hint = "a whole file that begins with the letters GGUF"
        raise ModelError(f"not a GGUF file: {error}", where=file, hint=hint) from None


def weights_of(
    reader: Any, architecture: Architecture, config: Mapping[str, Any], *, where: object
) -> dict[str, np.ndarray]:
    """The weights in float32 under HF's names, laid out as HF has them; `rope_freqs.weight` keeps its name."""
    import gguf

    weights: dict[str, np.ndarray] = {}
    for tensor in reader.tensors:
        try:
            array = gguf.dequantize(tensor.data, tensor.tensor_type)
        except NotImplementedError:
            what = f"tensor '{tensor.name}' is of the type {tensor.tensor_type.name}, which is not known here"
            raise ModelError(what, where=where) from None
        if tensor.name == rope.TENSOR and "head_dim" in config:
            weights[tensor.name] = array
            continue
        try:
            name = architecture.read(tensor.name)
        except ModelError as error:
            raise ModelError(error.what, where=where) from None
        weights[name] = laid_out(name, array, architecture, config)
    return weights


def laid_out(
    name: str, array: np.ndarray, architecture: Architecture, config: Mapping[str, Any]
) -> np.ndarray:
    """A weight of HF's `name` as HF has it."""
    module, _, leaf = name.rpartition(".")
    if leaf == "weight" and module.rpartition(".")[2] in architecture.transposed:
        return array.T
    heads = turned(architecture, name, config)
    return unpermute(array, heads) if heads else array


def unpermute(array: np.ndarray, heads: int) -> np.ndarray:
    """Rows of `heads` heads in Hugging Face's order.

    llama.cpp rotates neighbouring rows of a head (2i, 2i+1), Hugging Face rows i and i + head_dim / 2.
    """
    halves = array.reshape(heads, array.shape[0] // heads // 2, 2, -1)
    return halves.swapaxes(1, 2).reshape(array.shape)


def _save_weights(weights: Mapping[str, np.ndarray], out: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    plain = {name: np.ascontiguousarray(array, dtype=np.float32) for name, array in weights.items()}
    with atomic_file(out / "model.safetensors") as work:
        save_file(plain, work, metadata={"format": "pt"})
