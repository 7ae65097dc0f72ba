"""The learning rate over a run."""

from __future__ import annotations

import math

from segkit.config import OptimizerConfig


def learning_rate(progress: float, step: int, config: OptimizerConfig) -> float:
    """Learning rate of one step.

    A warm-up by share comes before the annealing, which then has the rest of the run. One by
    steps, whose share of a time budget nobody knows, multiplies it.

    Args:
        progress: How much of the run is over: 0..1, of its steps or of its time.
        step: Steps taken before.
        config: Highest learning rate, warm-up and annealing.
    """
    progress = min(max(progress, 0.0), 1.0)
    share = config.warmup if config.warmup < 1 else 0.0
    rising = min(progress / share, 1.0) if share else 1.0
    if config.warmup >= 1:
        rising = min((step + 1) / config.warmup, 1.0)
    over = max((progress - share) / (1 - share), 0.0)
    return config.peak_learning_rate * rising * annealed(over, config)


def annealed(over: float, config: OptimizerConfig) -> float:
    """Return what is left of the learning rate, 1 at the beginning, when 0..1 is over.

    ``cosine`` is half a wave (Loshchilov & Hutter 2017, SGDR, without restarts).
    """
    if config.annealing == "poly":
        return (1 - over) ** config.poly_power
    return 1.0 if config.annealing == "constant" else 0.5 * (1 + math.cos(math.pi * over))
