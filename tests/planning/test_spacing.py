import pytest

from segkit.errors import UserError
from segkit.planning.spacing import (
    coarser,
    common_spacing,
    median_shape,
    shape_at,
    slice_axis_first,
    target_spacing,
)


def test_median_per_axis():
    spacings = [(1, 2, 1), (3, 1, 1), (2, 1, 1)]
    spacing, reason = target_spacing(spacings, [(50, 50, 50)] * 3)
    assert spacing == (2, 1, 1)
    assert reason == "the median of 3 case(s)"


def test_thick_slices_take_the_tenth_percentile():
    spacings = [(z, 1, 1) for z in (2, 5, 5, 5, 5, 6, 6, 6, 6, 6, 6)]
    spacing, reason = target_spacing(spacings, [(20, 300, 300)] * 11)
    assert spacing == (5, 1, 1)
    assert "10th percentile" in reason
    many_slices, _ = target_spacing(spacings, [(100, 300, 300)] * 11)
    assert many_slices == (6, 1, 1)


def test_thick_slices_never_get_finer_than_the_plane():
    spacings = [(z, 1, 1) for z in (0.5, 0.5, 6, 6, 6)]
    spacing, _ = target_spacing(spacings, [(20, 300, 300)] * 5)
    assert spacing == pytest.approx((1 + 1e-5, 1, 1), abs=1e-9)


def test_exactly_three_times_is_not_anisotropic():
    spacings = [(1, 1, 1), (3, 1, 1), (3, 1, 1)]
    assert target_spacing(spacings, [(20, 300, 300)] * 3)[0] == (3, 1, 1)


@pytest.mark.parametrize(
    ("spacing", "order"),
    [
        ((1, 1, 1), (0, 1, 2)),
        ((1, 3, 1), (1, 0, 2)),
        ((1, 1, 2), (2, 0, 1)),
        ((1, 2, 2), (1, 0, 2)),
    ],
)
def test_axis_order(spacing, order):
    assert slice_axis_first(spacing, (20, 20, 20)) == order


def test_a_single_slice_comes_first_whatever_its_spacing():
    assert slice_axis_first((0.5, 2, 2), (1, 64, 64)) == (0, 1, 2)
    assert slice_axis_first((2, 2, 0.5), (64, 64, 1)) == (2, 0, 1)


def test_median_shape_rounds_every_case_half_to_even():
    # 0.5 x 5 = 2.5 -> 2 and 0.5 x 7 = 3.5 -> 4
    spacings = [(1, 1, 1), (1, 1, 1)]
    assert median_shape(spacings, [(5, 5, 5), (7, 7, 5)], (2, 2, 1)) == (3, 3, 5)
    assert median_shape([(1, 1, 1)] * 2, [(5, 5, 5), (6, 6, 6)], (1, 1, 1)) == (5.5, 5.5, 5.5)


def test_coarser_catches_up_before_it_goes_on():
    assert coarser((5, 1, 1)) == (5, 1.03, 1.03)
    assert coarser((2, 1, 1)) == pytest.approx((2.06, 1.03, 1.03))


def test_shape_at():
    assert shape_at((10, 20), (1, 2), (2, 1)) == (5, 40)


@pytest.mark.parametrize(
    ("rule", "size", "expected", "ordered_by"),
    [
        ("median", 20, (4, 0.5, 0.7), (4, 0.5, 0.7)),
        ("isotropic", 20, (0.5, 0.5, 0.5), (4, 0.5, 0.7)),
        ("isotropic", 1, (3.2, 0.5, 0.5), (3.2, 0.5, 0.7)),  # a single slice: as the rule says
        ("original", 20, (4, 0.5, 0.7), (4, 0.5, 0.7)),
        ((1, 2, 3), 20, (1, 2, 3), (1, 2, 3)),
    ],
)
def test_the_rules_of_the_common_spacing(rule, size, expected, ordered_by):
    spacings = [(z, 0.5, 0.7) for z in (3, 4, 5)]
    common = common_spacing(rule, spacings, [(size, 60, 60)] * 3)
    assert common.spacing_mm == pytest.approx(expected)
    assert common.ordering_mm == pytest.approx(ordered_by)


@pytest.mark.parametrize("numbers", [(1.0, 1.0), (0.0, 1.0, 1.0), (1.0, float("nan"), 1.0)])
def test_what_is_no_spacing(numbers):
    with pytest.raises(UserError, match="three positive numbers"):
        common_spacing(numbers, [(1, 1, 1)], [(9, 9, 9)])
