"""The batch size under a time budget."""

import pytest

from segkit.config import OptimizerConfig
from segkit.training.pace import ENOUGH_STEPS, adapt_optimizer, batch_size_for


@pytest.mark.parametrize(
    ("seconds", "per_sample", "planned", "expected"),
    [
        (1200, 0.21, 7, 2),
        (ENOUGH_STEPS * 0.2 * 3.5, 0.2, 7, 3),
        (1e6, 0.2, 7, 7),
        (1, 10.0, 9, 2),
    ],
)
def test_as_large_as_leaves_enough_steps(seconds, per_sample, planned, expected):
    assert batch_size_for(seconds, per_sample, planned=planned) == expected


@pytest.mark.parametrize(
    ("steps", "momentum", "learning_rate"),
    [
        (250_000, 0.99, 0.01),
        (4000, 0.99, 0.01),
        (800, 0.95, 0.01 * 5**0.5),
        (10, 0.9, 0.01 * 10**0.5),
    ],
)
def test_momentum_averages_over_a_small_part_of_the_run(steps, momentum, learning_rate):
    adapted = adapt_optimizer(OptimizerConfig(), steps)
    assert adapted.momentum == pytest.approx(momentum)
    assert adapted.peak_learning_rate == pytest.approx(learning_rate)


def test_what_is_low_enough_or_switched_off_stays():
    low = OptimizerConfig(momentum=0.8)
    assert adapt_optimizer(low, 100) == low
    fixed = OptimizerConfig(adapt_to_short_runs=False)
    assert adapt_optimizer(fixed, 100) == fixed
