import dataclasses

import numpy as np
import pytest

from segkit.planning import intensities
from segkit.planning.intensities import pool_cases, summarize_case


def test_one_case_equals_its_voxels():
    values = np.random.default_rng(0).gamma(2, 50, size=5000).astype(np.float32)
    pooled = pool_cases([summarize_case(values)])
    low, median, high = np.percentile(values, [0.5, 50, 99.5])
    assert pooled.mean == pytest.approx(values.mean(dtype=np.float64))
    assert pooled.std == pytest.approx(values.std(dtype=np.float64))
    assert (pooled.min, pooled.max) == pytest.approx((values.min(), values.max()))
    assert pooled.percentile_00_5 == pytest.approx(low, rel=1e-4)
    assert pooled.median == pytest.approx(median, rel=1e-4)
    assert pooled.percentile_99_5 == pytest.approx(high, rel=1e-4)


def test_every_case_weighs_the_same():
    """The oracle is nnU-Net's: as many draws with replacement from each case."""
    rng = np.random.default_rng(1)
    cases = [
        rng.normal(m, s, size=n) for m, s, n in ((0, 1, 200_000), (50, 9, 9000), (20, 3, 5000))
    ]
    pooled = pool_cases([summarize_case(case) for case in cases])
    drawn = np.concatenate([rng.choice(case, 1_000_000) for case in cases])
    assert pooled.mean == pytest.approx(drawn.mean(), rel=2e-3)
    assert pooled.std == pytest.approx(drawn.std(), rel=2e-3)
    expected = np.percentile(drawn, [0.5, 50, 99.5])
    found = [pooled.percentile_00_5, pooled.median, pooled.percentile_99_5]
    np.testing.assert_allclose(found, expected, atol=0.1)


def test_a_single_voxel_and_ties():
    pooled = pool_cases([summarize_case(np.array([7.0]))] * 3)
    assert dataclasses.astuple(pooled) == (7, 7, 0, 7, 7, 7, 7)
    half = np.repeat([0.0, 1.0], [70, 30])
    assert pool_cases([summarize_case(half)]).median == 0


def test_a_large_case_is_sampled_the_same_way_every_time(monkeypatch):
    monkeypatch.setattr(intensities, "MAX_VOXELS", 10_000)
    values = np.random.default_rng(2).normal(size=50_000)
    first, second = summarize_case(values), summarize_case(values)
    assert first == second
    assert first.mean == pytest.approx(values.mean())
    assert first.quantiles[0] == pytest.approx(values.min())
    assert first.quantiles[-1] == pytest.approx(values.max())
    middle = intensities.LEVELS.round(9).tolist().index(0.5)
    assert first.quantiles[middle] == pytest.approx(np.median(values), abs=0.05)


def test_levels_rise_from_zero_to_one():
    assert intensities.LEVELS[[0, -1]].tolist() == [0, 1]
    assert (np.diff(intensities.LEVELS) > 0).all()
    assert {0.005, 0.5, 0.995} <= set(intensities.LEVELS.round(9).tolist())
