"""Random parameters. All live on the generator's device: small, and moved by whoever uses them.

A generator on the CPU makes the same choices for data on any device, and deciding which samples
a transform touches then never waits for an accelerator.
"""

from __future__ import annotations

import torch

Range = tuple[float, float]


def uniform(generator: torch.Generator, shape: tuple[int, ...], bounds: Range) -> torch.Tensor:
    """Draw float32 uniform in [low, high)."""
    low, high = bounds
    unit = torch.rand(shape, generator=generator, device=generator.device)
    return low + (high - low) * unit


def fires(generator: torch.Generator, shape: tuple[int, ...], p: float) -> torch.Tensor:
    """Draw booleans, true with probability ``p``."""
    return torch.rand(shape, generator=generator, device=generator.device) < p


def factor_around_one(
    generator: torch.Generator, shape: tuple[int, ...], bounds: Range
) -> torch.Tensor:
    """Draw B(low, high): U(low, 1) or U(1, high) with equal chance.

    Shrinking and stretching are thus equally frequent however lopsided the range; a range on
    one side of 1 is plainly uniform.
    """
    low, high = bounds
    if low >= 1 or high <= 1:
        return uniform(generator, shape, bounds)
    shrink = uniform(generator, shape, (low, 1.0))
    stretch = uniform(generator, shape, (1.0, high))
    return torch.where(fires(generator, shape, 0.5), shrink, stretch)


def on_device(generator: torch.Generator, device: torch.device) -> torch.Generator:
    """Return a generator for many numbers, where they are needed: itself, or one it seeds."""
    if generator.device == device:
        return generator
    seed = torch.randint(2**62, (), generator=generator, device=generator.device)
    return torch.Generator(device).manual_seed(int(seed))


def indices(mask: torch.Tensor) -> torch.Tensor:
    """Positions of the true entries of a 1D mask, ascending, int64."""
    return mask.nonzero().flatten()
