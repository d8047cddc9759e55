from __future__ import annotations

import torch

from luban.nn.norms import RMSNorm


def test_rms_norm_scales_to_root_mean_square_one_then_by_its_weight() -> None:
    norm = RMSNorm(2, eps=0.0)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 10.0]))
    root_mean_square = ((9 + 16) / 2) ** 0.5
    expected = torch.tensor([3 / root_mean_square, 40 / root_mean_square])
    torch.testing.assert_close(norm(torch.tensor([3.0, 4.0])), expected)


def test_rms_norm_of_zeros_is_zero() -> None:
    assert torch.equal(RMSNorm(3, eps=1e-6)(torch.zeros(3)), torch.zeros(3))
