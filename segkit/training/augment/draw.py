"""Random parameters. All live on the generator's device: small, and moved by whoever uses them.

A generator on the CPU makes the same choices for data on any device, and deciding which samples
a transform touches then never waits for an accelerator.
"""

from __future__ import annotations

import math

import torch

Range = tuple[float, float]


def uniform(generator: torch.Generator, shape: tuple[int, ...], bounds: Range) -> torch.Tensor:
    """Draw float32 uniform in [low, high)."""
    low, high = bounds
    return low + (high - low) * _unit(generator, shape)


def log_uniform(generator: torch.Generator, shape: tuple[int, ...], bounds: Range) -> torch.Tensor:
    """Draw float32 in [low, high) whose logarithm is uniform; low is positive."""
    return uniform(generator, shape, (math.log(bounds[0]), math.log(bounds[1]))).exp_()


def normal(generator: torch.Generator, shape: tuple[int, ...], std: float) -> torch.Tensor:
    """Draw float32 normal around 0."""
    return std * torch.randn(shape, generator=generator, device=generator.device)


def integers(
    generator: torch.Generator, shape: tuple[int, ...], bounds: tuple[int, int]
) -> torch.Tensor:
    """Draw int64 from low to high, both included."""
    low, high = bounds
    return torch.randint(low, high + 1, shape, generator=generator, device=generator.device)


def either(
    generator: torch.Generator, shape: tuple[int, ...], first: Range, second: Range
) -> torch.Tensor:
    """Draw float32 from one range or the other with equal chance."""
    one = uniform(generator, shape, first)
    other = uniform(generator, shape, second)
    return torch.where(fires(generator, shape, 0.5), one, other)


def fires(generator: torch.Generator, shape: tuple[int, ...], p: float) -> torch.Tensor:
    """Draw booleans, true with probability ``p``."""
    return _unit(generator, shape) < p


def one_of(generator: torch.Generator, count: int, shares: tuple[float, ...]) -> torch.Tensor:
    """Draw (count,) int64: number i with probability ``shares[i]``, ``len(shares)`` with the rest.

    The shares sum to 1 at most.
    """
    unit = _unit(generator, (count,))
    chosen, above = torch.zeros(count, dtype=torch.int64, device=generator.device), 0.0
    for share in shares:
        above += share
        chosen += unit >= above
    return chosen


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
    return either(generator, shape, (low, 1.0), (1.0, high))


def channels(
    generator: torch.Generator, samples: torch.Tensor, count: int, p_channel: float
) -> torch.Tensor:
    """Choose channels of the chosen samples; returns rows of the (B * count, ...) view.

    Args:
        generator: Source of the choices.
        samples: (B,) bool.
        count: Channels of a sample.
        p_channel: Chance of each.
    """
    if p_channel == 1:
        return indices(samples.repeat_interleave(count))
    each = fires(generator, (len(samples), count), p_channel)
    return indices((samples[:, None] & each).flatten())


def on_device(generator: torch.Generator, device: torch.device) -> torch.Generator:
    """Return a generator for many numbers, where they are needed: itself, or one it seeds."""
    if generator.device == device:
        return generator
    return torch.Generator(device).manual_seed(seed(generator))


def seed(generator: torch.Generator) -> int:
    """Draw a seed for another source of random numbers."""
    return int(torch.randint(2**62, (), generator=generator, device=generator.device))


def indices(mask: torch.Tensor) -> torch.Tensor:
    """Positions of the true entries of a 1D mask, ascending, int64."""
    return mask.nonzero().flatten()


def _unit(generator: torch.Generator, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.rand(shape, generator=generator, device=generator.device)
