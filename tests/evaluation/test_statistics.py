import numpy as np
import pytest

from segkit.evaluation.statistics import (
    Statistics,
    bootstrap_ci95,
    describe,
    foreground_mean,
    tabulate,
)


def test_describe_by_hand():
    found = describe([0.5, None, 1.0, 0.0, None])
    assert (found.mean, found.median, found.n, found.undefined) == (0.5, 0.5, 3, 2)
    assert found.std == pytest.approx((0.5 / 3) ** 0.5)
    low, high = found.ci95
    assert 0 <= low <= 0.5 <= high <= 1


def test_nothing_defined_gives_none_and_no_warning():
    expected = Statistics(mean=None, std=None, median=None, ci95=None, n=0, undefined=2)
    assert describe([None, None]) == expected


def test_one_value_is_its_own_interval():
    found = describe([0.3])
    assert (found.mean, found.std, found.ci95, found.n) == (0.3, 0.0, (0.3, 0.3), 1)


def test_equal_values_have_an_interval_without_width():
    assert describe([0.1] * 7).ci95 == (describe([0.1] * 7).mean,) * 2


def test_bootstrap_is_seeded_and_agrees_with_the_normal_interval():
    values = np.random.default_rng(0).normal(5, 2, size=400)
    low, high = bootstrap_ci95(values)
    assert (low, high) == bootstrap_ci95(values)
    half = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - half, abs=0.05)
    assert high == pytest.approx(values.mean() + half, abs=0.05)


def test_foreground_mean_leaves_undefined_targets_out():
    cases = [
        {"a": {"dice": 0.4, "nsd": None}, "b": {"dice": None, "nsd": None}},
        {"a": {"dice": 0.8, "nsd": None}, "b": {"dice": None, "nsd": None}},
    ]
    table = tabulate(cases, ("dice", "nsd"))
    assert table["b"]["dice"].undefined == 2
    assert foreground_mean(table, ("dice", "nsd")) == {"dice": pytest.approx(0.6), "nsd": None}


def test_targets_weigh_the_same_however_often_they_occur():
    cases = [{"a": {"dice": 1.0}, "b": {"dice": v}} for v in (0.0, None, None)]
    table = tabulate(cases, ("dice",))
    assert foreground_mean(table, ("dice",)) == {"dice": 0.5}
