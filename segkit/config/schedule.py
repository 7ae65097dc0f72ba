"""How long to train."""

from __future__ import annotations

from dataclasses import dataclass

from segkit.config.checks import check


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduleConfig:
    """How long to train."""

    epochs: int = 1000
    iterations_per_epoch: int = 250
    validation_iterations: int = 50
    """Patch batches of the online validation after every epoch; 0 for none. There are more where
    so few cannot show every target."""
    checkpoint_every_minutes: float = 5.0
    """``last.pt`` is written at the end of an epoch once this much time has passed."""
    early_stopping: int | None = None
    """End after so many epochs without a new best of the smoothed Dice; null trains to the end."""

    @property
    def steps(self) -> int:
        """Of the whole run, where no time budget rules."""
        return self.epochs * self.iterations_per_epoch

    def __post_init__(self) -> None:
        check(self.epochs >= 1, f"epochs must be at least 1, got {self.epochs}")
        count = self.iterations_per_epoch
        check(count >= 1, f"iterations_per_epoch must be at least 1, got {count}")
        count = self.validation_iterations
        check(count >= 0, f"validation_iterations must not be negative, got {count}")
        minutes = self.checkpoint_every_minutes
        check(minutes >= 0, f"checkpoint_every_minutes must not be negative, got {minutes}")
        patience = self.early_stopping
        if patience is not None:
            check(patience >= 1, f"early_stopping must be at least 1, got {patience}")
            check(count >= 1, "early_stopping needs a Dice: set validation_iterations above 0")
