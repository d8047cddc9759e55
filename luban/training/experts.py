"""What a mixture of experts learns beside the text: to use its experts evenly.

Without it the router, trained only by the experts it already chooses, soon sends everything to a few.
"""

from __future__ import annotations

from typing import Any

import torch

from luban.data.batch import Batch
from luban.nn.moe import MoE, balance_loss, router_logits
from luban.training.step import Objective, Step


def evenly_used(objective: Objective, model: Any) -> Objective:
    """`objective` with the balance loss's gradient, `config.balance` times per target; as it is without experts.

    Only the gradient: the loss that is logged and compared stays the text's.

    Source: Fedus et al. 2021, section 2.2 (arXiv:2101.03961).
    """
    chosen = next((module.chosen for module in model.modules() if isinstance(module, MoE)), 0)
    if not chosen:
        return objective

    def balanced(model: Any, batch: Batch) -> Step:
        if not torch.is_grad_enabled():
            return objective(model, batch)
        with router_logits(model) as logits:
            step = objective(model, batch)
        uneven = balance_loss(logits, chosen=chosen) * (model.config.balance * step.targets)
        return Step(step.loss + (uneven - uneven.detach()), step.targets)

    return balanced
