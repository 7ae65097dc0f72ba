import numpy as np
import pytest

from segkit.errors import UserError
from segkit.planning.plan import IntensityStatistics
from segkit.preprocessing.normalize import clear_outside, normalize

STATISTICS = IntensityStatistics(
    mean=10, median=9, std=4, min=-100, max=500, percentile_00_5=0, percentile_99_5=30
)


def run(values, valid, scheme, *, inside=False, statistics=STATISTICS):
    image = np.array(values, np.float32).reshape(1, 1, 1, -1)
    mask = np.array(valid, bool).reshape(1, 1, -1)
    result = normalize(image, [mask], [scheme], [statistics])
    clear_outside(result, mask, [inside])
    assert result.dtype == np.float32
    return result.ravel()


def test_zscore_by_hand_leaves_invalid_voxels_out():
    # Mean 4 and deviation 2 over the valid voxels 2, 2, 6, 6.
    result = run([2, 2, 6, 6, 0, 0], [1, 1, 1, 1, 0, 0], "zscore")
    np.testing.assert_allclose(result, [-1, -1, 1, 1, -2, -2], rtol=1e-6)


@pytest.mark.parametrize("scheme", ["zscore", "ct", "rescale_to_0_1"])
def test_inside_mask_keeps_invalid_voxels_at_zero(scheme):
    result = run([2, 6, 0], [1, 1, 0], scheme, inside=True)
    assert result[2] == 0


def test_ct_clips_then_uses_the_training_statistics():
    result = run([-1000, 10, 14, 1000], [1, 1, 1, 1], "ct")
    np.testing.assert_allclose(result, [-2.5, 0, 1, 5])


def test_rescale_uses_the_valid_range_and_stays_inside_it():
    np.testing.assert_allclose(
        run([100, 200, 150, 0], [1, 1, 1, 0], "rescale_to_0_1"), [0, 1, 0.5, 0]
    )


def test_rgb_divides_by_255():
    np.testing.assert_allclose(run([0, 51, 255], [1, 1, 1], "rgb_to_0_1"), [0, 0.2, 1], rtol=1e-6)


@pytest.mark.parametrize("value", [-1, 256])
def test_rgb_refuses_other_ranges(value):
    with pytest.raises(UserError, match="not 8-bit colours"):
        run([0, value], [1, 1], "rgb_to_0_1")


def test_none_changes_nothing():
    np.testing.assert_array_equal(run([-5, 7], [1, 0], "none"), [-5, 7])


@pytest.mark.parametrize("scheme", ["zscore", "ct", "rescale_to_0_1", "rgb_to_0_1", "none"])
@pytest.mark.parametrize("valid", [[1, 1], [0, 0], [1, 0]])
def test_constant_and_empty_channels_stay_small_and_finite(scheme, valid):
    flat = IntensityStatistics(
        mean=7, median=7, std=0, min=7, max=7, percentile_00_5=7, percentile_99_5=7
    )
    result = run([7, 7 * valid[1]], valid, scheme, statistics=flat)
    assert np.abs(result).max() <= 7


def test_channels_have_their_own_scheme_and_the_input_is_left_alone():
    image = np.arange(8, dtype=np.float64).reshape(2, 1, 2, 2)
    before = image.copy()
    valid = np.ones((1, 2, 2), bool)
    result = normalize(image, [valid] * 2, ["none", "zscore"], [STATISTICS] * 2)
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(result[0], image[0])
    assert abs(result[1].mean()) < 1e-6
    assert abs(result[1].std() - 1) < 1e-6


def test_large_offsets_keep_their_precision():
    rng = np.random.default_rng(0)
    values = (1e5 + rng.normal(size=4096)).astype(np.float32)
    result = run(values, np.ones(4096), "zscore")
    exact = values.astype(np.float64)
    np.testing.assert_allclose(result, (exact - exact.mean()) / exact.std(), atol=0.02)
