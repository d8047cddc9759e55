"""A model folder as one GGUF file, which llama.cpp and what is built on it read.

Matrices are rounded to the type that was asked for; vectors and learned positions stay in float32. Query and key rows
are put into the order in which llama.cpp turns them. The tensors are written one by one: only one is in memory twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from luban.errors import MachineError, ModelError
from luban.folder import atomic_file, require_space
from luban.gguf import rope, vocabulary
from luban.gguf.architectures import Architecture, for_family, metadata_of, turned

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

Kind = Literal["f32", "f16", "bf16", "q8_0", "q4_0"]
"""Types of a file's matrices, by llama.cpp's names."""
FILE_TYPES: Mapping[Kind, int] = {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 7, "bf16": 32}
"""`general.file_type` of each."""
ENDS = ("token_embd.weight", "output.weight")
"""Matrices that are as wide as the vocabulary; in 4 bits they would lose too much, and get 8."""


def write(model: Any, tokenizer: Any, file: Path, kind: Kind, *, name: str) -> dict[str, Any]:
    """Write `file`; returns its architecture, bytes and how many tensors have which type.

    Raises ModelError for a family, tokenizer, rotation or row length that GGUF, or this type, cannot hold;
    MachineError without the `gguf` package.
    """
    gguf = _package()
    entries = model.config.to_hf()
    architecture = for_family(entries["model_type"], where=file)
    metadata = {
        "general.name": name,
        "general.file_type": FILE_TYPES[kind],
        **metadata_of(architecture, entries, where=file),
        **vocabulary.metadata_of(tokenizer, entries["vocab_size"], where=file),
    }
    shapes = {written: array.shape for written, array in tensors(model, architecture, entries)}
    types = {written: _type_of(written, shape, kind, gguf, where=file) for written, shape in shapes.items()}
    with atomic_file(file) as work:
        writer = gguf.GGUFWriter(work, architecture.name)
        _add_metadata(writer, metadata, gguf)
        for written, shape in shapes.items():
            _announce(writer, written, shape, types[written], gguf)
        require_space(file, sum(info.nbytes for info in writer.tensors[0].values()))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for written, array in tensors(model, architecture, entries):
            writer.write_tensor_data(gguf.quantize(array, types[written]))
        writer.close()
    names = [each.name for each in types.values()]
    return {
        "architecture": architecture.name,
        "bytes": file.stat().st_size,
        "types": {each: names.count(each) for each in sorted(set(names))},
    }


def tensors(
    model: Any, architecture: Architecture, entries: Mapping[str, Any]
) -> Iterator[tuple[str, np.ndarray]]:
    """The model's weights in float32 under llama.cpp's names, laid out as it has them."""
    import numpy as np

    for name, value in stored(model):
        module, _, leaf = name.rpartition(".")
        array = value.float().numpy()
        if leaf == "weight" and module.rpartition(".")[2] in architecture.transposed:
            array = array.T
        if heads := turned(architecture, name, entries):
            array = permute(array, heads)
        yield architecture.written(name), np.ascontiguousarray(array)
    if (slow := rope.slowness(entries)) is not None:
        yield rope.TENSOR, slow


def stored(model: Any) -> Iterator[tuple[str, Tensor]]:
    """The model's weights under Hugging Face's names, one at a time."""
    from luban.models import hf
    from luban.models.names import plan

    parameters = dict(model.named_parameters())
    for name, entry in plan(hf.names_of(model.config), parameters).items():
        yield name, entry.join(parameters)


def permute(array: np.ndarray, heads: int) -> np.ndarray:
    """Rows of `heads` heads in llama.cpp's order; undone by `read.unpermute`."""
    halves = array.reshape(heads, 2, array.shape[0] // heads // 2, -1)
    return halves.swapaxes(1, 2).reshape(array.shape)


def _type_of(name: str, shape: tuple[int, ...], kind: Kind, gguf: Any, *, where: object) -> Any:
    """The type in which a tensor is written; raises ModelError where its rows do not divide into blocks."""
    if len(shape) < 2 or name == "position_embd.weight":
        return gguf.GGMLQuantizationType.F32
    chosen = "q8_0" if kind == "q4_0" and name in ENDS else kind
    made = gguf.GGMLQuantizationType[chosen.upper()]
    block = gguf.GGML_QUANT_SIZES[made][0]
    if shape[-1] % block:
        what = (
            f"tensor '{name}' has rows of {shape[-1]} numbers, and {chosen} rounds them in groups of {block}"
        )
        raise ModelError(what, where=where, hint="--gguf f16")
    return made


def _announce(writer: Any, name: str, shape: tuple[int, ...], made: Any, gguf: Any) -> None:
    """Tell the file's table of a tensor that comes later."""
    import numpy as np

    block, size = gguf.GGML_QUANT_SIZES[made]
    count = int(np.prod(shape))
    writer.add_tensor_info(name, shape, np.dtype(np.float32), count // block * size, raw_dtype=made)


def _add_metadata(writer: Any, metadata: Mapping[str, Any], gguf: Any) -> None:
    """The file's keys, each in the type that llama.cpp reads it in."""
    for key, value in metadata.items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def _package() -> Any:
    try:
        import gguf
    except ImportError:
        raise MachineError("GGUF takes the package gguf", hint="pip install 'luban[export]'") from None
    return gguf
