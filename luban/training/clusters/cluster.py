"""A cluster as numbers: what its devices compute, hold and send, draw and cost. Shipped ones stand beside this file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Gt, Le

from luban.config import build, read_file
from luban.errors import ConfigError, nearest

Share = Annotated[float, Gt(0), Le(1)]


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Equal nodes of equal devices. Where no rate is told it is this machine (`laptop`), and it is measured."""

    about: str = ""
    """What it is and where its numbers come from."""
    nodes: Annotated[int, Ge(1)] = 1
    """Machines."""
    devices_per_node: Annotated[int, Ge(1)] = 1
    """Devices of one machine."""
    memory_gb: Annotated[float, Ge(0)] = 0.0
    """Memory of a device, in 10^9 bytes."""
    tflop_per_s: dict[str, float] = field(default_factory=dict[str, float])
    """Dense rate of matrix products by dtype, as its maker states it: float32, bfloat16."""
    memory_gb_per_s: Annotated[float, Ge(0)] = 0.0
    """How fast a device reads its own memory."""
    node_gb_per_s: Annotated[float, Gt(0)] = 1.0
    """What a device sends to others of its node while it receives as much."""
    network_gb_per_s: Annotated[float, Gt(0)] = 1.0
    """What a device sends to other nodes while it receives as much: its share of its node's cards."""
    mfu: Share = 0.5
    """Share of the stated rate that a device reaches while it computes; waiting and sending come on top."""
    overlap: Annotated[float, Ge(0), Le(1)] = 0.5
    """Share of the traffic among copies and among stages that is hidden behind computing."""
    usable: Share = 0.9
    """Share of the memory that tensors can have; the rest is the runtime's, the network's and lost between blocks."""
    watts: Annotated[float, Ge(0)] = 0.0
    """Power of a device at work, with its share of the node if that is to count."""
    pue: Annotated[float, Ge(1)] = 1.0
    """Power of the whole building over power of the machines."""
    price_per_hour: Annotated[float, Ge(0)] = 0.0
    """Of one device."""

    @property
    def devices(self) -> int:
        """All of them."""
        return self.nodes * self.devices_per_node

    @property
    def here(self) -> bool:
        """Whether it is this machine."""
        return not any(self.tflop_per_s.values())

    @property
    def usable_bytes(self) -> float:
        """Memory of one device that tensors can have."""
        return self.memory_gb * 1e9 * self.usable

    def peak(self, dtype: str) -> float:
        """FLOP/s of one device; raises ConfigError where the file does not say it."""
        if dtype not in self.tflop_per_s:
            told = ", ".join(self.tflop_per_s)
            raise ConfigError(f"no rate for {dtype}; the cluster has {told}", where="setting 'precision'")
        return self.tflop_per_s[dtype] * 1e12


def shipped() -> dict[str, Path]:
    """The cluster files of the package, by name."""
    return {path.stem: path for path in sorted(Path(__file__).parent.glob("*.yaml"))}


def load(name: str) -> Cluster:
    """The shipped cluster called `name`, or the one in the file `name`; raises ConfigError if there is neither."""
    found = shipped().get(name)
    if found is None and not name.endswith((".yaml", ".yml", ".json")):
        hint = "or the path of a YAML file"
        raise ConfigError(
            f"no cluster '{name}'; {nearest(name, shipped())}", where="setting 'cluster'", hint=hint
        )
    path = found or Path(name)
    return build(Cluster, read_file(path), where=str(path))
