"""Averages of the weights."""

from __future__ import annotations

from dataclasses import dataclass

from segkit.config.checks import check


@dataclass(frozen=True, kw_only=True, slots=True)
class AveragingConfig:
    """A moving average of the weights, which is then what is validated and saved."""

    decay: float | None = None
    """What the average keeps at every step, for example 0.999; null trains without an average."""

    def __post_init__(self) -> None:
        decay = self.decay
        check(decay is None or 0 <= decay < 1, f"decay must lie in [0, 1), got {decay}")
