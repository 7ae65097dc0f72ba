"""Orthogonal updates, and what is left to Adam."""

import pytest
import torch
from torch import nn

from segkit.training.muon import ITERATIONS, RMS, Muon, is_matrix, orthogonalized


@pytest.mark.parametrize("shape", [(40, 40), (32, 300), (300, 32)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_singular_values_come_near_one_and_vectors_stay(shape, dtype):
    torch.manual_seed(0)
    u, s, v = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    result = orthogonalized((u * s @ v).to(dtype)).float()
    found = torch.diagonal(u.T @ result @ v.T)
    large = s > 0.1 * s.max()
    assert ((found[large] > 0.6) & (found[large] < 1.3)).all()
    rest = u.T @ result @ v.T - torch.diag(found)
    assert rest.abs().max() < 0.05


def test_nothing_stays_nothing():
    assert torch.equal(orthogonalized(torch.zeros(3, 5)), torch.zeros(3, 5))
    assert ITERATIONS == 5


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((64, 32, 3, 3, 3), True),
        ((32, 1, 3, 3, 3), False),
        ((3, 64, 1, 1, 1), False),
        ((64, 32, 2, 2), True),
        ((64,), False),
        ((), False),
    ],
)
def test_kernels_of_hidden_layers_are_matrices(shape, expected):
    assert is_matrix(torch.zeros(shape)) == expected


def test_a_kernel_moves_by_steps_of_adams_size():
    kernel = nn.Parameter(torch.zeros(64, 32, 3, 3))
    torch.manual_seed(0)
    kernel.grad = 1e-6 * torch.randn_like(kernel)
    Muon([kernel], lr=0.1, weight_decay=0.0).step()
    moved = kernel.detach()
    assert moved.square().mean().sqrt().item() == pytest.approx(0.1 * RMS, rel=0.25)
    # Downhill.
    assert (moved * kernel.grad).sum() < 0


def test_what_is_no_matrix_moves_like_adam():
    ours, torchs = (nn.Parameter(torch.ones(5)) for _ in range(2))
    muon = Muon([ours], lr=0.1, weight_decay=0.01)
    adam = torch.optim.AdamW([torchs], lr=0.1, betas=(0.9, 0.99), weight_decay=0.01)
    for step in range(4):
        for parameter in (ours, torchs):
            parameter.grad = torch.linspace(-1, 1, 5) * (step + 1)
        muon.step()
        adam.step()
    assert torch.allclose(ours, torchs, atol=1e-6)


def test_without_gradient_nothing_moves():
    kernel = nn.Parameter(torch.ones(64, 64))
    muon = Muon([kernel], lr=0.1, weight_decay=0.5)
    muon.step()
    assert torch.equal(kernel, torch.ones(64, 64))
    assert not muon.state
