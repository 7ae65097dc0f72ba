"""What changes while training, and what is told of every epoch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(kw_only=True)
class TrainingState:
    """What changes while training, and is kept in checkpoints."""

    epoch: int = 0
    """Epochs completed."""
    iteration: int = 0
    """Steps taken."""
    seconds: float = 0.0
    """Time spent so far, over all sessions of the run."""
    longest_closing: float = 0.0
    """Most seconds that validation and checkpoints took after an epoch."""
    ema_dice: float | None = None
    best_dice: float | None = None
    best_epoch: int | None = None
    """The one of the best Dice."""
    epoch_losses: list[float] = field(default_factory=list)
    """Losses of the epoch under way; NaN where a step was left out."""

    def content(self) -> dict[str, Any]:
        """Return plain values for a checkpoint."""
        return asdict(self)

    def close_epoch(self, ema_dice: float | None) -> None:
        """Count an epoch, and remember it if its smoothed Dice is a new best."""
        self.epoch += 1
        self.epoch_losses = []
        self.ema_dice = ema_dice
        if ema_dice is not None and (self.best_dice is None or ema_dice > self.best_dice):
            self.best_dice, self.best_epoch = ema_dice, self.epoch

    def epochs_without_progress(self) -> int:
        """Epochs since the one of the best smoothed Dice."""
        return self.epoch - (self.best_epoch or 0)


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """One line of log.jsonl."""

    epoch: int
    iterations: int
    learning_rate: float
    train_loss: float
    validation_loss: float | None
    dice: dict[str, float | None]
    """Online Dice of each target on validation patches; null where it was absent."""
    mean_dice: float | None
    ema_dice: float | None
    seconds: float
    data_wait_share: float
    """Share of the epoch the loop waited for patches."""
    eta_seconds: float | None
