"""Who looks at whom: the softmax weights of every attention a model computes, noted as it runs.

All slots end in PyTorch's `scaled_dot_product_attention`, whose kernels never form the weights. Inside a
`Recording` that one function is replaced by its definition, so no model, slot or family has to know of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

Weights = Float[Tensor, "batch heads queries keys"]


class Recording(TorchFunctionMode):
    """Inside the block, `maps` fills with the weights of each attention of `model`, by its module's name.

    The order is that of the model's; a module that attends again replaces its entry. Rows sum to 1.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.maps: dict[str, Weights] = {}
        self._running: list[str] = []
        self._hooks: list[Any] = []

    def __enter__(self) -> Recording:
        for name, module in self.model.named_modules():
            self._hooks.append(module.register_forward_pre_hook(self._entering(name)))
            self._hooks.append(module.register_forward_hook(self._leaving, always_call=True))
        return super().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hook in self._hooks:
            hook.remove()
        super().__exit__(kind, error, trace)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        out, weights = written_out(*args, **(kwargs or {}))
        self.maps[self._running[-1] if self._running else ""] = weights.detach()
        return out

    def _entering(self, name: str) -> Callable[..., None]:
        return lambda *_: self._running.append(name)

    def _leaving(self, *_: Any) -> None:
        self._running.pop()


def written_out(
    query: Float[Tensor, "batch heads queries head_dim"],
    key: Float[Tensor, "batch kv_heads keys head_dim"],
    value: Float[Tensor, "batch kv_heads keys head_dim"],
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> tuple[Float[Tensor, "batch heads queries head_dim"], Weights]:
    """`F.scaled_dot_product_attention` as its documentation defines it, and its weights; no dropout."""
    assert dropout_p == 0, "Luban's attention drops nothing"
    if enable_gqa:
        key, value = (part.repeat_interleave(query.shape[1] // part.shape[1], 1) for part in (key, value))
    scores = query @ key.mT * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -torch.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    weights = scores.softmax(-1)
    return weights @ value, weights
