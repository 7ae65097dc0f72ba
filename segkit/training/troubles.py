"""Losses and gradients that are no numbers: counted while an epoch is trained, told at its end."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from segkit.errors import UserError, listing
from segkit.runtime import log

MOST_IN_A_ROW = 20
"""With so many useless steps one after the other the weights are lost."""


@dataclass(kw_only=True)
class Troubles:
    """What went wrong in the steps of an epoch."""

    rescued: int = 0
    """Batches whose loss was a number in float32 only, and was computed in it."""
    useless: int = 0
    """Batches whose loss was none in float32 either; they were left out."""
    stalled: int = 0
    """Steps with a loss but without a gradient; they changed nothing."""
    cases: Counter[str] = field(default_factory=Counter)
    """How often each case was in a useless batch."""

    def leave_out(self, cases: Sequence[str]) -> None:
        """Count a useless batch."""
        self.useless += 1
        self.cases.update({*cases})

    def suspects(self) -> str:
        """Name the cases in most of the useless batches."""
        return listing([f"{case} in {times}" for case, times in self.cases.most_common()])

    def tell(self, epoch: int) -> None:
        """Say what happened in an epoch, a line each, and forget it."""
        lines = {
            f"in {self.rescued} batches half precision overflowed; computed in fp32": self.rescued,
            f"the loss of {self.useless} batches was no number; left out: {self.suspects()}": (
                self.useless
            ),
            f"{self.stalled} steps had no finite gradient and changed nothing": self.stalled,
        }
        for line, count in lines.items():
            if count:
                log.warning("epoch %d: %s", epoch, line)
        self.rescued = self.useless = self.stalled = 0
        self.cases.clear()


def is_lost(losses: Sequence[float]) -> bool:
    """Whether the last steps of an epoch, NaN where one was left out, were all of no use."""
    recent = losses[-MOST_IN_A_ROW:]
    return len(recent) == MOST_IN_A_ROW and not any(map(math.isfinite, recent))


def usable(losses: Sequence[float], troubles: Troubles, *, best: float | None) -> list[float]:
    """Return the losses of an epoch that are numbers.

    Args:
        losses: Of its steps; NaN for those that were left out.
        troubles: To name the cases.
        best: The best Dice so far; None if no checkpoint was kept for it.

    Raises:
        UserError: most of all or all of the last are none: the weights, or the data, are of no use.
    """
    finite = [loss for loss in losses if math.isfinite(loss)]
    if len(finite) > len(losses) / 2 and not is_lost(losses):
        return finite
    what = "the training loss is no longer a number"
    if suspects := troubles.suspects():
        what += f"; cases of these batches: {suspects}"
    fix = "look at the images of these cases, or use a lower --set optimizer.learning_rate"
    saved = "" if best is None else "; best.pt holds the best weights so far"
    raise UserError(what, fix=fix + saved)
