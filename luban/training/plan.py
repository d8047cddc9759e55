"""Stage `plan`: parameters, FLOPs, memory by part, time, energy and cost of a run, before running it.

On this machine (`local_plan.py`) speed is measured and memory read off the code; on a cluster that need not be at hand
(`cluster_plan.py`) the best layout of data, tensor and pipeline parallelism is searched for.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Gt

from luban.device import DeviceConfig
from luban.errors import ConfigError
from luban.training.architecture import ArchitectureConfig, new_config
from luban.training.clusters.cluster import Cluster, load
from luban.training.config import LoopConfig
from luban.training.layout import LayoutConfig

if TYPE_CHECKING:
    from luban.training.sizes import Sizes
    from luban.training.weights import Adapt

CLUSTER_ROW = 8192
"""Longest row on a cluster unless told: what published runs of long-window models began with."""

PLAIN_ROW = 2048
"""Row of a model given by plain numbers, as GPT-3's."""

BATCH_TOKENS = 2**22
"""Tokens of a step on a cluster unless told: about what published models of 7 to 175 billion parameters took
(Brown et al. 2020, table 2.1: 3.2 million; Touvron et al. 2023, table 2: 4 million)."""

SHAPE_MARGIN = 0.1
"""By how much plain `params` may differ from what layers and dim come to before it is said."""


@dataclass(frozen=True, kw_only=True)
class Config(DeviceConfig):
    """Forecast a training run, here or on a cluster."""

    model: Path | None = None
    """Plan for this published size (`llama3-8b`), family or model folder (only its config.json is read) instead of
    `architecture`."""
    architecture: ArchitectureConfig = field(default_factory=ArchitectureConfig)
    params: Annotated[float, Ge(0)] = 0.0
    """Plan for a GPT of so many parameters, with `layers` and `dim`, instead of `architecture`: 175e9."""
    layers: Annotated[int, Ge(0)] = 0
    """Blocks, with `params`."""
    dim: Annotated[int, Ge(0)] = 0
    """Width of the residual stream, with `params`."""
    heads: Annotated[int, Ge(0)] = 0
    """Heads, with `params`; 0 means one per 128 of `dim`."""
    vocab: Annotated[int, Ge(2)] = 4096
    """Vocabulary of a new model."""
    per_device_train_batch_size: Annotated[int, Ge(1)] = LoopConfig.per_device_train_batch_size
    """Rows in one forward pass, on this machine."""
    gradient_accumulation_steps: Annotated[int, Ge(1)] = LoopConfig.gradient_accumulation_steps
    """Forward passes per optimizer step, on this machine."""
    max_length: Annotated[int, Ge(0)] = 0
    """Tokens per row; 0 means 256 on this machine and the model's window, up to 8192, on a cluster."""
    compile: bool = False
    """Plan for `loop.compile`, on this machine."""
    gradient_checkpointing: bool = LoopConfig.gradient_checkpointing
    """Plan for `loop.gradient_checkpointing`, on this machine."""
    tokens: Annotated[float, Ge(0)] = 0.0
    """Training tokens; 0 takes 20 per parameter (Hoffmann et al. 2022, arXiv:2203.15556)."""
    minutes: Annotated[float, Gt(0)] | None = None
    """Time budget: propose the architecture and the number of steps that fill it, on this machine."""
    cluster: str = "laptop"
    """Where to run: `laptop` is this machine; 8xA100, 48x8-A100, 1024xH100, or a YAML file of yours."""
    batch_tokens: Annotated[float, Ge(0)] = 0.0
    """Tokens of one optimizer step on a cluster; 0 takes about 4 million."""
    precision: Literal["mixed", "autocast", "float32"] = "mixed"
    """What a parameter takes on a cluster: 16 bytes with half-precision weights and gradients (mixed), 18 as
    `loop.precision=bfloat16` has it (autocast), 16 in float32, whose arithmetic is slower."""
    layout: LayoutConfig = field(default_factory=LayoutConfig)

    @property
    def row(self) -> int:
        """Tokens per row on this machine."""
        return self.max_length or LoopConfig.max_length

    @property
    def row_tokens(self) -> int:
        """Tokens in one forward pass on this machine."""
        return self.per_device_train_batch_size * self.row

    def new_model(self) -> Any:
        """The config of a new model of `architecture`; special tokens, not known here, change no number of it."""
        return new_config(self.architecture, vocab=self.vocab, context=self.row, eos_id=0)


def run(config: Config, adapt: Adapt | None = None) -> dict[str, Any]:
    """The forecast as a dict of numbers: sizes in bytes, time in seconds, rates in FLOP/s.

    `adapt` puts a method of tuning fewer weights on a model; `tuning/plan.py`, the stage, has the setting for it.
    """
    cluster = load(config.cluster)
    model = model_of(config)
    if adapt is not None and (config.minutes or not cluster.here):
        setting = "minutes" if config.minutes else "cluster"
        what = "tuning fewer weights is planned for a known model on this machine"
        raise ConfigError(what, where=f"setting 'peft' with '{setting}'", hint=f"leave out {setting}")
    if cluster.here:
        return _here(model, config, cluster, adapt)
    if config.minutes:
        what = "a shape for a time is found by trials on this machine"
        raise ConfigError(what, where="setting 'minutes'", hint="--cluster laptop")
    return _there(model, config, cluster)


def show(results: dict[str, Any]) -> None:
    """Print the forecast as tables."""
    from luban.training.plan_tables import show as print_tables

    print_tables(results)


def model_of(config: Config) -> Any:
    """The family config that is asked for; raises ConfigError for what is not trained on text."""
    from luban.models import FAMILIES, hf
    from luban.models.presets import PRESETS

    name = str(config.model)
    if config.params:
        return _plain_model(config)
    if config.model is None or config.model.exists():
        model = hf.load_config(config.model) if config.model else None
    elif name in PRESETS:
        model = PRESETS[name]()
    elif name in FAMILIES:
        config, model = replace(config, architecture=replace(config.architecture, model_type=name)), None
    else:
        model = hf.load_config(config.model)
    model_type = config.architecture.model_type if model is None else model.model_type
    kind = FAMILIES[model_type].kind if model_type in FAMILIES else "causal"
    if kind == "counted":
        raise ConfigError(f"a model of the family '{model_type}' is counted, not trained: nothing to plan")
    if kind == "vision":
        raise ConfigError(f"a plan is for training on text, and '{model_type}' reads images")
    if config.minutes and kind != "causal":
        what = f"a shape for a time is found by trials of next-token training, and '{model_type}' is not trained so"
        raise ConfigError(
            what, where="setting 'minutes'", hint="architecture.layers=..., architecture.dim=..."
        )
    return config.new_model() if model is None else model


def _plain_model(config: Config) -> Any:
    """The GPT that plain numbers describe."""
    from luban.models.gpt2 import GPT2Config
    from luban.training.sizes import HEAD_DIM

    if not (config.layers and config.dim):
        raise ConfigError(
            "params says how many, layers and dim how they lie",
            where="setting 'params'",
            hint="layers=96 dim=12288",
        )
    return GPT2Config(
        vocab=config.vocab,
        dim=config.dim,
        layers=config.layers,
        heads=config.heads or max(1, config.dim // HEAD_DIM),
        hidden=4 * config.dim,
        context=config.max_length or PLAIN_ROW,
        eos_id=0,
    )


def _here(model: Any, config: Config, cluster: Cluster, adapt: Adapt | None) -> dict[str, Any]:
    from luban import device
    from luban.nn.linear import measure_flops
    from luban.training import local_plan

    place = device.start(config, seed=0)
    if config.minutes:
        return local_plan.propose(config, cluster, seconds=config.minutes * 60, place=place)
    return local_plan.forecast(model, config, cluster, flop_per_s=measure_flops(place), adapt=adapt)


def _there(model: Any, config: Config, cluster: Cluster) -> dict[str, Any]:
    from luban.training.cluster_plan import OPTIMAL_TOKENS, Run, forecast

    sizes = _sizes(model, config)
    asked = Run(
        sizes=sizes,
        tokens=config.tokens or OPTIMAL_TOKENS * sizes.parameters,
        batch_tokens=config.batch_tokens or BATCH_TOKENS,
        seq=config.max_length or min(model.context, CLUSTER_ROW),
        precision=config.precision,
    )
    told = forecast(asked, cluster, config.layout)
    shape = sizes.layers * 12 * sizes.block.dim**2 + sizes.head_parameters
    if config.params and abs(shape / config.params - 1) > SHAPE_MARGIN:
        told["warnings"].append(
            f"{config.layers} layers of {config.dim} come to {shape:.3g} parameters, not {config.params:.3g}"
        )
    return {"cluster": config.cluster, "about": cluster.about, **told}


def _sizes(model: Any, config: Config) -> Sizes:
    from luban.training.sizes import plain_sizes, sizes_of

    if not config.params:
        return sizes_of(model)
    return plain_sizes(
        params=config.params, layers=config.layers, dim=config.dim, heads=config.heads, vocab=config.vocab
    )
