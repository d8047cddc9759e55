"""Stage `merge`: adapters put into their base, or several models of one base made one; a plain model folder.

luban merge --model base/final --adapters tuned/adapter --out merged
luban merge --models one/final two/final --method average --out both
luban merge --model base/final --models one/final two/final --method ties --out both
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Gt, Le

from luban.errors import ConfigError, ModelError
from luban.folder import stage_folder

if TYPE_CHECKING:
    from torch import Tensor

    from luban.tokenizers.files import FileTokenizer

COMPARED = ("causal", "masked")
"""Kinds of models that give logits for one row of tokens."""
OVER_A_BASE = ("task_arithmetic", "ties")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Make one model of a base and adapters, or of several models."""

    out: Path
    """The folder to make."""
    model: Path | None = None
    """The base: of the adapters, or of the models that `task_arithmetic` and `ties` compare with it."""
    adapters: tuple[Path, ...] = ()
    """Adapter folders (peft's layout), each put into the base."""
    models: tuple[Path, ...] = ()
    """Model folders of one shape, in place of adapters."""
    method: Literal["average", "linear", "task_arithmetic", "ties"] = "average"
    """Of models: their mean; their mean by `weights`; the base and what each learnt; the same, what is small or
    contradicts the others left out."""
    weights: tuple[float, ...] = ()
    """One per adapter or model: how much of it; 1 each if none is given."""
    density: Annotated[float, Gt(0), Le(1)] = 0.2
    """Share of each model's changes, the largest, that `ties` counts."""
    scale: float = 1.0
    """What `task_arithmetic` and `ties` multiply the whole change by."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the weights to write; `auto` is as the base, or the first model, has them."""
    text: Path | None = None
    """A text on which the merged model is compared with the attached adapters; random tokens if none is given."""
    tokens: Annotated[int, Ge(1)] = 256
    """At most so many tokens are compared."""

    def __post_init__(self) -> None:
        if bool(self.adapters) == bool(self.models):
            raise ConfigError(
                "either adapters or models are merged", hint="--adapters FOLDER... or --models FOLDER..."
            )
        needs = "adapters" if self.adapters else self.method if self.method in OVER_A_BASE else None
        if needs and self.model is None:
            raise ConfigError(f"{needs} need the base they were trained on", hint="--model FOLDER")
        if self.model is not None and not needs:
            raise ConfigError(
                f"'{self.method}' has no base", hint=f"leave out --model, or --method {OVER_A_BASE[0]}"
            )
        self._check_weights()

    def _check_weights(self) -> None:
        count = len(self.adapters or self.models)
        if self.weights and len(self.weights) != count:
            raise ConfigError(f"{len(self.weights)} weights for {count} folders", where="weights")
        if self.models and self.method == "average" and self.weights:
            raise ConfigError("an average has no weights", hint="--method linear")
        if self.models and self.method not in OVER_A_BASE and sum(self.shares) <= 0:
            raise ConfigError("the weights of a mean add up to more than 0", where="weights")

    @property
    def shares(self) -> tuple[float, ...]:
        """One weight per adapter or model."""
        return self.weights or (1.0,) * len(self.adapters or self.models)


def run(config: Config) -> dict[str, Any]:
    """Make the folder; returns what was merged, and for adapters how far the logits moved."""
    from luban.device import dtype_named
    from luban.models import hf
    from luban.models.first_tokens import first_tokens
    from luban.tokenizers.files import load
    from luban.training.checkpoint import write_model_folder

    parts = config.adapters or config.models
    inputs = [path for path in (config.model, *parts, config.text) if path]
    first = config.model or config.models[0]
    with stage_folder(config.out, stage="merge", config=config, inputs=inputs) as (folder, metrics):
        kind = dtype_named(hf.load_config(first).dtype if config.dtype == "auto" else config.dtype)
        tokenizer = load(first)
        if config.adapters:
            shape = hf.load_config(first)
            count = min(config.tokens, shape.context)
            tokens = first_tokens(config.text, tokenizer.encode, count=count, vocab=shape.vocab)
            model, told = with_adapters(first, config.adapters, config.shares, tokens, kind)
        else:
            model, told = _of_models(config), {}
            _tell_other_tokenizers(first, config.models, tokenizer)
            model.to(kind)
        write_model_folder(folder, model, tokenizer)
        metrics.update(
            method="adapters" if config.adapters else config.method,
            merged=[
                {"folder": str(path), "share": share}
                for path, share in zip(parts, config.shares, strict=True)
            ],
            dtype=str(kind).removeprefix("torch."),
            **told,
        )
    return metrics


def show(results: dict[str, Any]) -> None:
    """What was merged, and how far from the attached adapters it is."""
    print(f"merged ({results['method']}, {results['dtype']})")
    for part in results["merged"]:
        print(f"  {part['share']:>6g} x {part['folder']}")
    if "logits_moved_max" in results:
        base = " on the base in four bits" if results["quantised_base"] else ""
        print(f"logits against the attached adapters{base}, {results['tokens']} tokens:")
        print(
            f"  moved by at most  {results['logits_moved_max']:.2e} of a spread of {results['logits_spread']:.2e}"
        )
        print(f"  moved on average  {results['logits_moved_mean']:.2e}")
        print(f"  same first choice {results['same_choice']:.1%}")


def with_adapters(
    base: Path, adapters: Sequence[Path], shares: Sequence[float], tokens: Tensor, kind: Any
) -> tuple[Any, dict[str, Any]]:
    """The base with `shares` of the adapters in its weights, of dtype `kind`, and how far its logits moved by that.

    The sum is made in float32. The base of a QLoRA is rounded to four bits first, as in its training, and what is
    added to is what was rounded. Raises ConfigError for an adapter that no weight can hold.
    """
    import torch

    from luban.models import FAMILIES, hf
    from luban.nn import surgery
    from luban.nn.quantize import is_quantised
    from luban.peft import files
    from luban.peft.opening import layer_names

    model = hf.load(base).eval()
    if (kind_of := FAMILIES[model.config.model_type].kind) not in COMPARED:
        what = f"adapters of a {kind_of} model cannot be merged; those of {' and '.join(COMPARED)} ones can"
        raise ModelError(what, where=base)
    names = layer_names(model)
    loaded = [files.load(model, path, names=names, name=str(number)) for number, path in enumerate(adapters)]
    with torch.no_grad():
        with surgery.shared(model, {item.name: share for item, share in zip(loaded, shares, strict=True)}):
            attached = model(tokens)
        quantised = is_quantised(model)
        for adapter, share in zip(loaded, shares, strict=True):
            adapter.merge(share, for_good=True)
        rounded = {name: value.to(kind).to(value.dtype) for name, value in model.named_parameters()}
        merged = torch.func.functional_call(model, rounded, (tokens,))
    return model.to(kind), {"quantised_base": quantised, **_moved(attached, merged)}


def _moved(attached: Tensor, merged: Tensor) -> dict[str, float]:
    far = (merged - attached).abs()
    return {
        "tokens": attached.shape[:-1].numel(),
        "logits_moved_max": far.max().item(),
        "logits_moved_mean": far.mean().item(),
        "logits_spread": attached.std().item(),
        "same_choice": (merged.argmax(-1) == attached.argmax(-1)).float().mean().item(),
    }


def _of_models(config: Config) -> Any:
    """One model of several; its weights are in float32 until they are written."""
    import torch

    from luban.models import hf

    models = [hf.load(path, dtype="auto") for path in config.models]
    base = hf.load(config.model, dtype="auto") if config.model else None
    first = base if base is not None else models[0]
    for path, model in zip(config.models, models, strict=True):
        _check_shape(first, model, path)
    made = hf.load(config.model or config.models[0])
    weights = [dict(model.named_parameters()) for model in models]
    origin = dict(base.named_parameters()) if base is not None else {}
    floors = _floors(origin, weights, config) if config.method == "ties" else []
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if parameter.is_floating_point():
                parameter.copy_(_merged(config, origin.get(name), [own[name] for own in weights], floors))
    return made


def _merged(
    config: Config, base: Tensor | None, weights: Sequence[Tensor], floors: Sequence[float]
) -> Tensor:
    """One weight of the merged model."""
    from luban.tuning import arithmetic

    if base is None:
        return arithmetic.mean(weights, config.shares)
    if config.method == "ties":
        whole = arithmetic.ties(base, weights, config.shares, floors)
    else:
        whole = arithmetic.task_arithmetic(base, weights, config.shares)
    return base.float() + config.scale * (whole - base.float())


def _floors(
    base: Mapping[str, Tensor], weights: Sequence[Mapping[str, Tensor]], config: Config
) -> list[float]:
    """For each model the size from which on its changes count."""
    from luban.tuning import arithmetic

    return [
        arithmetic.floor(
            [
                (own[name] - before).detach().float()
                for name, before in base.items()
                if before.is_floating_point()
            ],
            config.density,
        )
        for own in weights
    ]


def _check_shape(first: Any, model: Any, path: Path) -> None:
    """Raise ModelError unless `model` has the weights of `first`."""
    theirs = {name: list(value.shape) for name, value in model.named_parameters()}
    for name, value in first.named_parameters():
        if theirs.pop(name, None) != list(value.shape):
            what = f"'{name}' is {list(value.shape)} in the first model and not here"
            raise ModelError(what, where=path, hint="models of one base can be merged")
    if theirs:
        raise ModelError(f"'{next(iter(theirs))}' is not in the first model", where=path)


def _tell_other_tokenizers(first: Path, models: Sequence[Path], tokenizer: FileTokenizer) -> None:
    """Say on stderr which models have another tokenizer than that of `first`, which is copied."""
    from luban.tokenizers.files import load

    for path in models:
        if load(path).to_json() != tokenizer.to_json():
            print(f"merge: {path} has another tokenizer than {first}, whose is taken", file=sys.stderr)
