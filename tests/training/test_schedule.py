"""The learning rate over a run, checked by hand."""

import pytest

from segkit.config import OptimizerConfig
from segkit.training.schedule import learning_rate


def test_the_default_is_nnunets_polynomial():
    config = OptimizerConfig()
    for epoch in (0, 1, 500, 999):
        expected = 0.01 * (1 - epoch / 1000) ** 0.9
        assert learning_rate(epoch / 1000, 0, config) == pytest.approx(expected)
    assert learning_rate(1.0, 0, config) == 0
    assert learning_rate(1.5, 0, config) == 0


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"annealing": "constant"}, [2, 2, 2, 2, 2]),
        ({"annealing": "cosine"}, [2, 1 + 0.5**0.5, 1, 1 - 0.5**0.5, 0]),
        ({"poly_power": 1.0}, [2, 1.5, 1, 0.5, 0]),
        ({"poly_power": 1.0, "warmup": 0.5}, [0, 1, 2, 1, 0]),
        ({"annealing": "constant", "warmup": 0.75}, [0, 2 / 3, 4 / 3, 2, 2]),
    ],
)
def test_by_progress(settings, expected):
    config = OptimizerConfig(learning_rate=2.0, **settings)
    found = [learning_rate(quarter / 4, 10**6, config) for quarter in range(5)]
    assert found == pytest.approx(expected)


def test_a_warm_up_of_steps_multiplies_the_rest():
    config = OptimizerConfig(learning_rate=2.0, poly_power=1.0, warmup=4)
    found = [learning_rate(0.25, step, config) for step in range(6)]
    assert found == pytest.approx([0.375, 0.75, 1.125, 1.5, 1.5, 1.5])
