"""Losses on fixed numbers beside those of TRL 1.16.0.

The figures are what `DPOTrainer._compute_loss`, `KTOTrainer._compute_loss`, `RewardTrainer.compute_loss` and the
experimental `CPOTrainer.cpo_loss` of that release (torch 2.13, CPU) give for the log-probabilities below, each fed in
as a model's output; TRL is not installed where these tests run.
"""

from __future__ import annotations

import pytest
import torch

from luban.alignment.preference_losses import LOSSES, Compared, Strength
from luban.alignment.reward_losses import centring, pair_loss

LOGPS = torch.tensor([[-3.75, -4.25], [-4.5, -5.75]])
REFERENCE = torch.tensor([[-5.0, -3.5], [-4.0, -6.5]])
TOKENS = torch.tensor([[4.0, 3.0], [2.0, 3.0]])
PAIRS = Compared(logps=LOGPS, reference=REFERENCE, tokens=TOKENS, good=torch.tensor([True, True]))


@pytest.mark.parametrize(
    ("loss", "of", "theirs"),
    [
        ("sigmoid", Strength(beta=0.3), 0.6678056120872498),
        ("sigmoid", Strength(beta=0.3, label_smoothing=0.1), 0.6790555715560913),
        ("hinge", Strength(beta=0.3), 0.887499988079071),
        ("ipo", Strength(beta=0.3), 2.9568138122558594),
        ("simpo", Strength(beta=2.0, gamma=0.5), 0.9638884663581848),
        ("simpo", Strength(beta=2.0, gamma=0.5, label_smoothing=0.1), 0.9284718036651611),
    ],
)
def test_losses_of_pairs_are_trls(loss: str, of: Strength, theirs: float) -> None:
    assert LOSSES[loss](PAIRS, of).mean().item() == pytest.approx(theirs, rel=1e-6)


def test_kto_is_trls() -> None:
    # The same four answers one by one: both chosen ones, then both rejected ones, judged in turn; strangers' ratios.
    first = torch.cat([LOGPS[:, 0], LOGPS[:, 1]]), torch.cat([REFERENCE[:, 0], REFERENCE[:, 1]])
    strangers = torch.tensor([-1.0, 0.5, 2.0, 0.1])
    judged = Compared(
        logps=torch.stack([first[0], strangers], 1),
        reference=torch.stack([first[1], torch.zeros(4)], 1),
        tokens=torch.ones(4, 2),
        good=torch.tensor([True, False, True, False]),
    )
    loss = LOSSES["kto"](judged, Strength(beta=0.3, bad_weight=1.5)).mean().item()
    assert loss == pytest.approx(0.6151742935180664, rel=1e-6)


def test_rewards_of_pairs_cost_what_they_do_in_trl() -> None:
    rewards = torch.tensor([[1.2, 0.4], [-0.3, 0.9]])
    assert pair_loss(rewards, torch.zeros(2)).mean().item() == pytest.approx(0.9171915650367737, rel=1e-6)
    losses = pair_loss(rewards, torch.tensor([0.5, 0.0])) + 0.01 * centring(rewards)
    assert losses.mean().item() == pytest.approx(1.02341890335083, rel=1e-6)
