"""Intensity changes that are strong in one place and fade out: wide Gaussians as weights.

In place, of channels (n, *S); after batchgeneratorsv2's local transforms (nnU-Net's DA5).
"""

from __future__ import annotations

import math
from functools import reduce

import torch

TINY = 1e-8
"""Smallest divisor: a constant channel stays what it is."""


def bump_profiles(
    centre: torch.Tensor, extent: torch.Tensor, shape: tuple[int, ...]
) -> list[torch.Tensor]:
    """Mass of a Gaussian in the voxels along every axis, relative to that of the fullest one.

    Args:
        centre: (n, ndim) in voxels; voxel i reaches from i - 0.5 to i + 0.5.
        extent: (n, ndim) standard deviations in voxels.
        shape: Of the image, ndim axes.

    Returns:
        (n, size) float32 for every axis. The Gaussian of an image is their product.
    """
    profiles = []
    for axis, size in enumerate(shape):
        edges = torch.arange(size + 1, device=centre.device) - 0.5
        z = (edges - centre[:, axis, None].double()) / extent[:, axis, None].double()
        # Twice the distribution function, from the side where little is not lost beside 1.
        below = torch.special.erfc(-z * math.sqrt(0.5)).diff(dim=1)
        above = -torch.special.erfc(z * math.sqrt(0.5)).diff(dim=1)
        mass = torch.where(z[:, :-1] + z[:, 1:] < 0, below, above)
        profiles.append((mass / mass.amax(1, keepdim=True).clamp(min=1e-300)).float())
    return profiles


def bump(profiles: list[torch.Tensor]) -> torch.Tensor:
    """Multiply profiles (n, size) to (n, *S) weights, stretched to reach from 0 to 1.

    All 0 where the image is a single voxel.
    """
    ndim = len(profiles)
    spread = [
        p.view(len(p), *(1,) * axis, -1, *(1,) * (ndim - 1 - axis))
        for axis, p in enumerate(profiles)
    ]
    lowest = reduce(torch.mul, [p.amin(1) for p in profiles]).view(-1, *(1,) * ndim)
    weights = reduce(torch.mul, spread)
    return weights.sub_(lowest).div_((1 - lowest).clamp(min=TINY))


def add_gradient(
    channels: torch.Tensor, profiles: list[torch.Tensor], height: torch.Tensor
) -> None:
    """Add a Gaussian of the given height (n,) to every channel."""
    weights = bump(profiles)
    channels.add_(weights.mul_(height.view(-1, *(1,) * len(profiles))))


def local_gamma(
    channels: torch.Tensor, profiles: list[torch.Tensor], exponent: torch.Tensor
) -> None:
    """Raise the range-normalised channel to its exponent (n,) as far as the Gaussian weighs."""
    flat = channels.flatten(1)
    per_row = (-1, *(1,) * len(profiles))
    low, high = flat.amin(1).view(per_row), flat.amax(1).view(per_row)
    span = (high - low).clamp_(min=TINY)
    shares = (channels - low).div_(span)
    bent = shares.pow(exponent.view(per_row))
    channels.copy_(shares.lerp_(bent, bump(profiles)).mul_(span).add_(low))
