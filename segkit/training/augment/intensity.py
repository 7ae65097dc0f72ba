"""Pointwise intensity transforms, in place, of rows (n, V): one row a channel of a sample.

Factors are (n,), one per row. Statistics are over the voxels of a row.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

TINY = 1e-7
"""Smallest divisor: a constant channel stays what it is."""
ALMOST_ZERO = 1e-37
"""Far below any difference of intensities, and so is a power of it unless the exponent is tiny."""
CPU_CHUNK = 1 << 16
"""Voxels of a row treated at once on a CPU, so that several operations find them in the cache."""


def add_noise(rows: torch.Tensor, std: torch.Tensor, generator: torch.Generator) -> None:
    """Add normal noise of deviation ``std``; the generator lives where the rows do."""
    for part in _chunks(rows):
        noise = torch.empty_like(part).normal_(generator=generator)
        part.addcmul_(noise, std[:, None])


def scale_brightness(rows: torch.Tensor, factor: torch.Tensor) -> None:
    """Multiply every row by its factor."""
    rows.mul_(factor[:, None])


def shift_brightness(rows: torch.Tensor, shift: torch.Tensor) -> None:
    """Add its shift to every row."""
    rows.add_(shift[:, None])


def scale_contrast(rows: torch.Tensor, factor: torch.Tensor) -> None:
    """Stretch every row about its mean, clamped to its former range."""
    low, high = rows.amin(1, keepdim=True), rows.amax(1, keepdim=True)
    shift = rows.mean(1, keepdim=True) * (1 - factor[:, None])
    for part in _chunks(rows):
        part.mul_(factor[:, None]).add_(shift).clamp_(low, high)


def scale_contrast_unclamped(rows: torch.Tensor, factor: torch.Tensor) -> None:
    """Stretch every row about its mean, beyond its former range."""
    shift = rows.mean(1, keepdim=True) * (1 - factor[:, None])
    for part in _chunks(rows):
        part.mul_(factor[:, None]).add_(shift)


def gamma(rows: torch.Tensor, exponent: torch.Tensor) -> None:
    """Raise the range-normalised row to its exponent; its mean and deviation are kept."""
    low, mean = rows.amin(1, keepdim=True), rows.mean(1, keepdim=True)
    spread = _spread(rows, mean)
    for part in _chunks(rows):
        # Several times faster than pow on a CPU, but for the logarithm of 0. To divide by the
        # range would only scale the result, which the restored deviation undoes.
        part.sub_(low).clamp_(min=ALMOST_ZERO).log_().mul_(exponent[:, None]).exp_()
    mean_now = rows.mean(1, keepdim=True)
    stretch = spread / _spread(rows, mean_now).clamp_(min=TINY)
    for part in _chunks(rows):
        part.sub_(mean_now).mul_(stretch).add_(mean)


def gamma_inverted(rows: torch.Tensor, exponent: torch.Tensor) -> None:
    """Gamma of the negative image: bends the bright end where ``gamma`` bends the dark one."""
    gamma(rows.neg_(), exponent)
    rows.neg_()


def _spread(rows: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """(n, 1) root of the summed squares of the differences from the mean."""
    norms = [torch.linalg.vector_norm(part - mean, dim=1) for part in _chunks(rows)]
    return torch.linalg.vector_norm(torch.stack(norms), dim=0)[:, None]


def _chunks(rows: torch.Tensor) -> Iterator[torch.Tensor]:
    """Views of some voxels of all rows."""
    yield from rows.split(CPU_CHUNK if rows.device.type == "cpu" else rows.shape[1], dim=1)
