"""How weights are updated."""

from __future__ import annotations

from dataclasses import dataclass

from segkit.config.checks import check


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerConfig:
    """SGD with Nesterov momentum and the polynomial schedule lr (1 - progress)^power."""

    learning_rate: float = 0.01
    momentum: float = 0.99
    weight_decay: float = 3e-5
    poly_power: float = 0.9
    gradient_clip: float = 12.0
    """Largest L2 norm of the gradient."""
    adapt_to_short_runs: bool = True
    """Lower the momentum (and raise the learning rate) in runs of a few thousand steps."""

    def __post_init__(self) -> None:
        check(self.learning_rate > 0, f"learning_rate must be positive, got {self.learning_rate}")
        check(0 <= self.momentum < 1, f"momentum must lie in [0, 1), got {self.momentum}")
        check(self.weight_decay >= 0, f"weight_decay must not be negative, got {self.weight_decay}")
        check(self.gradient_clip > 0, f"gradient_clip must be positive, got {self.gradient_clip}")
        check(self.poly_power >= 0, f"poly_power must not be negative, got {self.poly_power}")
