"""Intensities of one case as a few hundred quantiles, and of a data set as a pool of them.

nnU-Net draws the same number of foreground voxels from every case and pools them, so that every
case weighs the same however large its foreground. The same comes out here without moving voxels
between processes: every case gives its mean, variance, range (over all its voxels) and quantile
function; pooling draws equally many values from each quantile function.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from segkit.planning.plan import IntensityStatistics

MAX_VOXELS = 1_000_000
"""Voxels of a case and channel that its quantiles are taken from; of more, a seeded sample."""
SEED = 1234
POOL = 4_000_000
"""Values a data set's percentiles are taken from."""
_TAIL = np.concatenate(
    [[0, 0.0001, 0.0002, 0.0005], np.linspace(0.001, 0.01, 10), np.linspace(0.0125, 0.05, 16)]
)
LEVELS = np.concatenate([_TAIL, np.linspace(0.06, 0.94, 89), 1 - _TAIL[::-1]])
"""Probabilities of the stored quantiles, denser towards the ends."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CaseIntensities:
    """Intensities of one channel of one case."""

    mean: float
    std: float
    quantiles: tuple[float, ...]
    """At :data:`LEVELS`, seven significant digits; the first and last are minimum and maximum."""


def summarize_case(values: np.ndarray) -> CaseIntensities:
    """Summarize the voxels of one channel.

    Args:
        values: (n,) finite numbers, n > 0; of more than :data:`MAX_VOXELS`, the quantiles are
            those of a sample (with replacement, fixed seed).
    """
    mean, std = values.mean(dtype=np.float64), values.std(dtype=np.float64)
    ends = values.min(), values.max()
    if values.size > MAX_VOXELS:
        drawn = np.random.default_rng(SEED).integers(values.size, size=MAX_VOXELS)
        values = values[drawn]
    quantiles = np.quantile(values.astype(np.float64), LEVELS)
    quantiles[[0, -1]] = ends
    return CaseIntensities(
        mean=float(mean),
        std=float(std),
        quantiles=tuple(float(f"{value:.7g}") for value in quantiles),
    )


def pool_cases(cases: Sequence[CaseIntensities]) -> IntensityStatistics:
    """Pool one channel over cases, each weighing the same.

    Args:
        cases: At least one.
    """
    means = np.array([case.mean for case in cases])
    mean = means.mean()
    # The variance of a mixture: variance within the cases plus variance of their means.
    variance = np.mean([case.std**2 for case in cases]) + np.mean((means - mean) ** 2)
    draws = np.linspace(0, 1, max(1001, POOL // len(cases)))
    pool = np.concatenate([np.interp(draws, LEVELS, case.quantiles) for case in cases])
    low, median, high = np.percentile(pool, [0.5, 50, 99.5])
    return IntensityStatistics(
        mean=float(mean),
        median=float(median),
        std=float(np.sqrt(variance)),
        min=min(case.quantiles[0] for case in cases),
        max=max(case.quantiles[-1] for case in cases),
        percentile_00_5=float(low),
        percentile_99_5=float(high),
    )
