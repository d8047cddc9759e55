"""Stage `export`: a model folder in fewer bits, or one file for llama.cpp; read back and compared before it counts.

luban export --model tuned/final --quantize int4 --out small     # a model folder, for every stage that takes one
luban export --model tuned/final --gguf q8_0 --out for-llama     # for-llama/model.gguf
"""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge

from luban.errors import ConfigError, ModelError
from luban.folder import stage_folder

if TYPE_CHECKING:
    from torch import Tensor

    from luban.tokenizers.files import FileTokenizer

GGUF_FILE = "model.gguf"
FARTHEST = {"int8": 0.03, "int4": 0.3, "nf4": 0.3, "bfloat16": 0.01, "float16": 0.01}
FARTHEST |= {"f32": 0.0, "f16": 0.01, "bf16": 0.01, "q8_0": 0.03, "q4_0": 0.3}
"""By how much of its size a weight may differ from what it was (root mean square)."""
NEAR = 0.1
"""By how much of their spread logits may differ from those of the same weights in float32 (root mean square)."""
COMPARED = ("causal", "masked")
"""Kinds of models that give logits for one row of tokens."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Write a model with weights in fewer bits, or as a GGUF file."""

    model: Path
    """Model folder."""
    out: Path
    """The folder to make."""
    quantize: Literal["int8", "int4", "nf4", "bfloat16", "float16"] | None = None
    """A model folder whose matrices have 8, 4 or 16 bits: whole numbers with a scale by row (int8) or by `group`
    (int4), quantiles of a normal distribution (nf4), or shorter floats."""
    gguf: Literal["f32", "f16", "bf16", "q8_0", "q4_0"] | None = None
    """A file for llama.cpp, with matrices of this type."""
    group: Literal[32, 64, 128] = 64
    """Inputs that share a scale in int4."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of what int8, int4 and nf4 leave in floats: embeddings, norms, biases; `auto` is as the model has it."""
    head: bool = True
    """Keep the head in 8 bits too (int8, int4), apart from an embedding that it shared; not in nf4."""
    text: Path | None = None
    """A text on which the result is compared with the model; random tokens if none is given."""
    tokens: Annotated[int, Ge(2)] = 256
    """At most so many tokens are compared."""

    def __post_init__(self) -> None:
        if (self.quantize is None) == (self.gguf is None):
            raise ConfigError(
                "either --quantize or --gguf says what to write", hint="--quantize int8, or --gguf q8_0"
            )
        if self.dtype != "auto" and self.quantize not in ("int8", "int4", "nf4"):
            raise ConfigError(
                "int8, int4 and nf4 leave something in floats", where="dtype", hint="leave it out"
            )


def run(config: Config) -> dict[str, Any]:
    """Make the folder; returns bytes before and after, and how far weights and logits moved.

    Raises ModelError where what was written, read again, is not what it should be; then there is no folder.
    """
    import torch

    from luban.models import hf
    from luban.models.first_tokens import first_tokens
    from luban.nn.quantize import is_quantised
    from luban.tokenizers.files import load

    inputs = [path for path in (config.model, config.text) if path]
    with stage_folder(config.out, stage="export", config=config, inputs=inputs) as (folder, metrics):
        _refuse_adapter(config.model)
        model = hf.load(config.model, dtype="auto").eval()
        if is_quantised(model):
            hint = "export the model that it was made of"
            raise ModelError("the model is in fewer bits already", where=config.model, hint=hint)
        tokenizer = load(config.model)
        shape = model.config
        count = min(config.tokens, shape.context)
        tokens = first_tokens(config.text, tokenizer.encode, count=count, vocab=shape.vocab, least=2)
        before = sum(weight.nbytes for weight in model.parameters())
        with torch.no_grad():
            made, written = _write(config, model, tokenizer, folder)
            del model  # it may have other types by now, or a head of its own
            original = hf.load(config.model).eval()
            told = compared(original, made, tokens, farthest=FARTHEST[written["format"]], where=config.out)
        metrics.update(bytes_before=before, **written, **told)
    return metrics


def show(results: dict[str, Any]) -> None:
    """What was written, and how near it is to the model."""
    before, after = results["bytes_before"] / 1e6, results["bytes"] / 1e6
    print(f"{results['format']}: {before:,.1f} MB -> {after:,.1f} MB")
    print(f"weights, read again: at most {results['weights_moved']:.2%} off ({results['farthest']})")
    if "logits_moved_max" in results:
        moved, spread = results["logits_moved_max"], results["logits_spread"]
        print(f"logits on {results['tokens']} tokens: at most {moved:.2e} off, of a spread of {spread:.2e}")
        print(f"  same first choice {results['same_choice']:.1%}")
    if "loss" in results:
        print(f"  loss {results['loss_before']:.4f} -> {results['loss']:.4f} nats per token")


def compared(model: Any, made: Any, tokens: Tensor, *, farthest: float, where: object) -> dict[str, Any]:
    """How far the weights and logits of `made`, read back, are from those of `model`.

    Raises ModelError for a weight that is farther off than rounding explains, and for a model in fewer bits whose
    logits are not those of its own weights.
    """
    import torch

    from luban.models import FAMILIES
    from luban.nn.quantize import dequantise, is_quantised

    moved = {}
    for name, weight in model.named_parameters(remove_duplicate=False):
        module, _, leaf = name.rpartition(".")
        other = getattr(made.get_submodule(module), leaf).float()
        moved[name] = ((other - weight).norm() / weight.norm().clamp(min=1e-12)).item()
    worst = max(moved, key=lambda name: moved[name])
    if not moved[worst] <= farthest:
        what = f"'{worst}', read again, is {moved[worst]:.1%} off; rounding explains {farthest:.0%}"
        raise ModelError(what, where=where)
    told: dict[str, Any] = {"weights_moved": moved[worst], "farthest": worst}
    if FAMILIES[model.config.model_type].kind not in COMPARED:
        return told
    expected, given = model(tokens), made(tokens).float()
    if is_quantised(made):
        dequantise(made)
        off = (given - made(tokens)).square().mean().sqrt() / given.std()
        if not off <= NEAR:
            raise ModelError(
                f"logits are {off:.1%} of their spread off those of the same weights", where=where
            )
    far = (given - expected).abs()
    same = (given.argmax(-1) == expected.argmax(-1)).float().mean()
    losses = [torch.nn.functional.cross_entropy(each[0, :-1], tokens[0, 1:]) for each in (expected, given)]
    return told | {
        "tokens": tokens.numel(),
        "logits_moved_max": far.max().item(),
        "logits_moved_mean": far.mean().item(),
        "logits_spread": expected.std().item(),
        "same_choice": same.item(),
        "loss_before": losses[0].item(),
        "loss": losses[1].item(),
    }


def _write(config: Config, model: Any, tokenizer: FileTokenizer, folder: Path) -> tuple[Any, dict[str, Any]]:
    """Write what was asked for; returns the model as it is read again, in float32, and figures."""
    if config.gguf:
        return _write_gguf(config, model, tokenizer, folder)
    from luban.device import dtype_named
    from luban.models import hf
    from luban.models.quantised import Scheme

    assert config.quantize
    scheme = None
    if config.quantize in ("bfloat16", "float16"):
        model.to(dtype_named(config.quantize))
    else:
        if config.dtype != "auto":
            model.to(dtype_named(config.dtype))
        head = config.head and config.quantize != "nf4" and _untied(model)
        scheme = Scheme(method=config.quantize, group=config.group, head=head)
    hf.save(model, folder, scheme=scheme)
    tokenizer.save(folder)
    if (settings := config.model / "generation_config.json").is_file():
        shutil.copyfile(settings, folder / settings.name)
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    return hf.load(folder).eval(), {"format": config.quantize, "bytes": size}


def _write_gguf(
    config: Config, model: Any, tokenizer: FileTokenizer, folder: Path
) -> tuple[Any, dict[str, Any]]:
    from luban.gguf import read, write
    from luban.models import hf

    assert config.gguf
    file = folder / GGUF_FILE
    written = write.write(model, tokenizer, file, config.gguf, name=config.model.resolve().name)
    with tempfile.TemporaryDirectory(dir=folder) as again:
        read.convert(file, Path(again))
        return hf.load(again).eval(), {"format": config.gguf, **written}


def _untied(model: Any) -> bool:
    """Give a tied head a weight of its own; returns whether the model has a head that can be rounded."""
    from torch import nn

    from luban.models.base import CausalLM
    from luban.nn.linear import Linear

    if not isinstance(model, CausalLM) or type(model.head) is not Linear:
        return False
    if model.config.tied:
        model.head.weight = nn.Parameter(model.embedding.weight.detach().clone())
        model.config = dataclasses.replace(model.config, tied=False)
    return True


def _refuse_adapter(folder: Path) -> None:
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        hint = f"luban merge --model BASE --adapters {folder} --out merged"
        raise ModelError("this is an adapter, and a model is exported whole", where=folder, hint=hint)
