"""How far a run is, and how much time is left."""

from __future__ import annotations

import math
import time


class Clock:
    """How far the run is: by steps, or by the time spent when there is a budget."""

    def __init__(
        self,
        *,
        total_iterations: int,
        budget_seconds: float | None,
        started: float,
        spent: float,
        longest_closing: float = 0.0,
    ) -> None:
        self.total_iterations = total_iterations
        self.budget_seconds = budget_seconds
        self.started = started
        self.spent = spent
        self.longest_closing = longest_closing
        """Most seconds that the end of an epoch (validation, checkpoints) took so far."""

    @property
    def reserve_seconds(self) -> float:
        """What to keep of the budget for the end of the last epoch."""
        if self.longest_closing:
            return 1.25 * self.longest_closing + 1.0
        return 0.05 * (self.budget_seconds or 0.0)

    def seconds(self) -> float:
        """Time spent on the run, earlier sessions included."""
        return self.spent + time.monotonic() - self.started

    def seconds_left(self) -> float | None:
        """What is left of the budget; None without one."""
        return None if self.budget_seconds is None else self.budget_seconds - self.seconds()

    def progress(self, iteration: int) -> float:
        """Return 0 at the start; 1 or more when training must end."""
        if self.budget_seconds is None:
            return iteration / self.total_iterations
        return self.seconds() / max(self.budget_seconds - self.reserve_seconds, 1e-9)

    def validation_seconds(self, iteration: int) -> float:
        """How long a validation that begins now may take.

        It leaves some of the reserve for the checkpoints; with more training to come it takes a
        quarter of what is left at most, which only matters when a run goes on with little left.
        """
        left = self.seconds_left()
        if left is None:
            return math.inf
        if self.progress(iteration) < 1:
            return 0.25 * left
        return left - 0.4 * self.reserve_seconds

    def learn_reserve(self, closing_seconds: float) -> None:
        """Take note of what the end of an epoch took."""
        self.longest_closing = max(self.longest_closing, closing_seconds)

    def eta_seconds(self, iteration: int) -> float | None:
        """Time to the end, from the progress so far."""
        left = self.seconds_left()
        if left is not None:
            return max(left, 0.0)
        done = self.progress(iteration)
        return self.seconds() * (1 - done) / done if done > 0 else None
