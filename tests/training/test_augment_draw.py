"""Random parameters: ranges and frequencies."""

import pytest
import torch

from segkit.training.augment import draw


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(5)


def test_uniform_fills_its_range(generator):
    values = draw.uniform(generator, (10_000,), (0.7, 1.4))
    assert 0.7 <= values.min() < 0.71
    assert 1.39 < values.max() < 1.4
    assert values.mean().item() == pytest.approx(1.05, abs=0.01)


def test_factors_shrink_and_stretch_equally_often(generator):
    values = draw.factor_around_one(generator, (20_000,), (0.7, 1.5))
    below = values < 1
    assert below.float().mean().item() == pytest.approx(0.5, abs=0.015)
    assert values[below].mean().item() == pytest.approx(0.85, abs=0.01)
    assert values[~below].mean().item() == pytest.approx(1.25, abs=0.01)


@pytest.mark.parametrize("bounds", [(1.1, 1.5), (0.5, 0.9)])
def test_a_range_on_one_side_is_uniform(generator, bounds):
    values = draw.factor_around_one(generator, (10_000,), bounds)
    assert values.min() >= bounds[0]
    assert values.max() <= bounds[1]
    assert values.mean().item() == pytest.approx(sum(bounds) / 2, abs=0.01)


def test_fires_counts(generator):
    assert draw.fires(generator, (20_000,), 0.15).float().mean() == pytest.approx(0.15, abs=0.01)
    assert not draw.fires(generator, (1000,), 0.0).any()
    assert draw.fires(generator, (1000,), 1.0).all()
