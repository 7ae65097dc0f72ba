import numpy as np
import pytest

from segkit.dataset.checks.label_parts import count_values


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "int64", "uint64", "float32"])
@pytest.mark.parametrize("spread", [1, 5, 100])
def test_values_are_counted_like_numpy_does(dtype, spread):
    rng = np.random.default_rng(spread)
    voxels = (rng.integers(0, spread, (3, 4, 50)) + (0 if dtype[0] == "u" else -3)).astype(dtype)
    found, expected = count_values(voxels), np.unique(voxels, return_counts=True)
    assert found[0].dtype == voxels.dtype
    assert all(np.array_equal(*pair) for pair in zip(found, expected, strict=True))


@pytest.mark.parametrize("value", [2**62, -(2**62), 2**63])
def test_values_far_apart(value):
    voxels = np.array([[[0, value]]], dtype=np.uint64 if value > 0 else np.int64)
    assert [part.tolist() for part in count_values(voxels)] == [sorted([0, value]), [1, 1]]
    voxels = np.array([[[np.nan, 1.5]]])
    assert count_values(voxels)[1].tolist() == [1, 1]
