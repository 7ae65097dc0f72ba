"""The update rule, against the algorithm of the paper in plain numbers."""

import math

import pytest
import torch
from torch import nn

from segkit.training.adan import Adan


def by_hand(gradients, *, start, rate, decay, eps):
    """Algorithm 1 of the paper, with its betas: what an average takes up at every step."""
    take = (0.02, 0.08, 0.01)
    theta, m, v, n, before = start, 0.0, 0.0, 0.0, gradients[0]
    for k, g in enumerate(gradients, start=1):
        m = (1 - take[0]) * m + take[0] * g
        v = (1 - take[1]) * v + take[1] * (g - before)
        n = (1 - take[2]) * n + take[2] * (g + (1 - take[1]) * (g - before)) ** 2
        m_, v_, n_ = (x / (1 - (1 - t) ** k) for x, t in zip((m, v, n), take, strict=True))
        step = rate * (m_ + (1 - take[1]) * v_) / (math.sqrt(n_) + eps)
        theta = (theta - step) / (1 + rate * decay)
        before = g
    return theta


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_it_is_the_papers(decay):
    gradients = [0.5, -1.0, 2.0, 0.25, 0.25]
    weight = nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    adan = Adan([weight], lr=0.1, weight_decay=decay)
    for gradient in gradients:
        weight.grad = torch.tensor([gradient], dtype=torch.float64)
        adan.step()
    expected = by_hand(gradients, start=2.0, rate=0.1, decay=decay, eps=1e-8)
    assert weight.item() == pytest.approx(expected, rel=1e-12)


def test_without_gradient_nothing_moves():
    weight = nn.Parameter(torch.ones(2))
    adan = Adan([weight], lr=0.1, weight_decay=0.5)
    adan.step()
    assert torch.equal(weight, torch.ones(2))
    assert not adan.state
