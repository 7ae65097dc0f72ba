"""How weights are updated."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Literal

from segkit.config.checks import check

OptimizerName = Literal["sgd", "adam", "adamw", "adan", "muon"]
Annealing = Literal["poly", "cosine", "constant"]

_LEARNING_RATE: dict[str, float] = {
    "sgd": 0.01,
    "adam": 1e-3,
    "adamw": 1e-3,
    "adan": 3e-3,
    "muon": 3e-3,
}
_WEIGHT_DECAY: dict[str, float] = {
    "sgd": 3e-5,
    "adam": 3e-5,
    "adamw": 1e-2,
    "adan": 1e-2,
    "muon": 1e-2,
}
_ONLY_FOR: dict[str, tuple[str, ...]] = {
    "momentum": ("sgd",),
    "adapt_to_short_runs": ("sgd",),
    "betas": ("adam", "adamw"),
    "amsgrad": ("adam", "adamw"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerConfig:
    """The update rule, and the learning rate over the run."""

    name: OptimizerName = "sgd"
    """sgd has Nesterov momentum, as in nnU-Net; adamw decouples weight decay from the gradient;
    muon makes the update of every layer orthogonal; adan is for those who know it."""
    learning_rate: float | None = None
    """The highest of the run; null takes the optimiser's: 0.01 for sgd, 0.001 for adam and adamw,
    0.003 for muon and adan."""
    weight_decay: float | None = None
    """Null takes the optimiser's: 3e-5 for sgd and adam, 0.01 for the others."""
    momentum: float = 0.99
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of Adam's averages of the gradient and of its square."""
    amsgrad: bool = False
    """Divide by the largest average of squares so far (Reddi et al. 2018)."""
    annealing: Annealing = "poly"
    """How the learning rate falls with the share of the run that is over: poly is
    (1 - share)^poly_power, cosine half a wave, constant not at all."""
    poly_power: float = 0.9
    warmup: float = 0.0
    """Let the learning rate rise linearly from 0 at the beginning, for a share of the run (below
    1) or a number of steps (from 1 on)."""
    gradient_clip: float | None = 12.0
    """Largest L2 norm of the gradient; null for no limit."""
    accumulate: int = 1
    """Batches whose mean gradient makes one step: as good as a batch so many times as large, on a
    device that has no memory for it. Only ``loss.batch_dice`` is still over each batch."""
    adapt_to_short_runs: bool = True
    """Lower the momentum (and raise the learning rate) in runs of a few thousand steps."""

    def __post_init__(self) -> None:
        rate, decay = self.learning_rate, self.weight_decay
        check(rate is None or rate > 0, f"learning_rate must be positive, got {rate}")
        check(0 <= self.momentum < 1, f"momentum must lie in [0, 1), got {self.momentum}")
        fits = all(0 <= beta < 1 for beta in self.betas)
        check(fits, f"betas must lie in [0, 1), got {list(self.betas)}")
        check(decay is None or decay >= 0, f"weight_decay must not be negative, got {decay}")
        clip = self.gradient_clip
        check(clip is None or clip > 0, f"gradient_clip must be positive, got {clip}")
        check(self.poly_power >= 0, f"poly_power must not be negative, got {self.poly_power}")
        check(self.accumulate >= 1, f"accumulate must be at least 1, got {self.accumulate}")
        self._check_warmup()
        self._check_effect()

    def _check_warmup(self) -> None:
        warmup = self.warmup
        check(warmup >= 0, f"warmup must not be negative, got {warmup}")
        whole = warmup < 1 or warmup == int(warmup)
        check(whole, f"warmup is a share below 1 or a whole number of steps, got {warmup}")

    def _check_effect(self) -> None:
        """Refuse what was changed and does nothing."""
        for field in fields(self):
            changed = getattr(self, field.name) != field.default
            names = _ONLY_FOR.get(field.name, (self.name,))
            what = f"{field.name} has no effect unless name is {' or '.join(names)}"
            check(self.name in names or not changed, what)
        changed = self.poly_power != self.__dataclass_fields__["poly_power"].default
        what = "poly_power has no effect unless annealing is poly"
        check(self.annealing == "poly" or not changed, what)

    @property
    def peak_learning_rate(self) -> float:
        """The learning rate, else the optimiser's."""
        rate = self.learning_rate
        return _LEARNING_RATE[self.name] if rate is None else rate

    def settled(self) -> OptimizerConfig:
        """Return the same with numbers in place of null, where null means the optimiser's."""
        decay = _WEIGHT_DECAY[self.name] if self.weight_decay is None else self.weight_decay
        return replace(self, learning_rate=self.peak_learning_rate, weight_decay=decay)
