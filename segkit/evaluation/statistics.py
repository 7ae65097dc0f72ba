"""Statistics over the cases; undefined values are left out of every one of them, and counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from segkit.evaluation.overlap import Scores

RESAMPLES = 1000
"""Of the bootstrap."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Statistics:
    """One metric of one target over the cases in which it is defined."""

    mean: float | None
    std: float | None
    """Of the population (divided by n), as nnU-Net users know it from ``np.std``."""
    median: float | None
    ci95: tuple[float, float] | None
    """Bounds of the 95% confidence interval of the mean (percentile bootstrap)."""
    n: int
    """Cases with a value."""
    undefined: int
    """Cases without one."""


Table = dict[str, dict[str, Statistics]]
"""Target name -> metric -> statistics."""


def tabulate(cases: Sequence[Mapping[str, Scores]], metrics: Sequence[str]) -> Table:
    """Gather the scores of all cases into statistics per target and metric."""
    targets = cases[0].keys() if cases else ()
    return {
        target: {metric: describe([case[target][metric] for case in cases]) for metric in metrics}
        for target in targets
    }


def describe(values: Sequence[float | None]) -> Statistics:
    """Compute the statistics of the values that are defined; all None where there is none."""
    defined = np.array([value for value in values if value is not None], dtype=np.float64)
    undefined = len(values) - len(defined)
    if not len(defined):
        return Statistics(mean=None, std=None, median=None, ci95=None, n=0, undefined=undefined)
    return Statistics(
        mean=float(defined.mean()),
        std=float(defined.std()),
        median=float(np.median(defined)),
        ci95=bootstrap_ci95(defined),
        n=len(defined),
        undefined=undefined,
    )


def bootstrap_ci95(values: np.ndarray) -> tuple[float, float]:
    """Return the 95% interval of the mean of (n >= 1) values by the percentile bootstrap.

    Seeded: equal values give equal bounds. One value gives itself twice.
    """
    chosen = np.random.default_rng(0).integers(0, len(values), size=(RESAMPLES, len(values)))
    low, high = np.percentile(values[chosen].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def foreground_mean(table: Table, metrics: Sequence[str]) -> dict[str, float | None]:
    """Average the means of all targets, leaving undefined ones out; None over nothing."""
    result: dict[str, float | None] = {}
    for metric in metrics:
        means = [target[metric].mean for target in table.values()]
        defined = [mean for mean in means if mean is not None]
        result[metric] = sum(defined) / len(defined) if defined else None
    return result
