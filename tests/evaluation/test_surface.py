import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segkit.dataset.nonzero import bounding_box, box_slices
from segkit.evaluation.surface import SURFACE_METRICS, surface_scores


def border_voxels(mask):
    """List border voxels by looking at every neighbour of every voxel."""
    axes = (1, 2) if mask.shape[0] == 1 else (0, 1, 2)
    found = []
    for voxel in zip(*np.nonzero(mask), strict=True):
        for axis, step in itertools.product(axes, (-1, 1)):
            other = list(voxel)
            other[axis] += step
            outside = not 0 <= other[axis] < mask.shape[axis]
            if outside or not mask[tuple(other)]:
                found.append(voxel)
                break
    return found


def percentile_95(values):
    """Interpolate linearly between the two values around rank 0.95 (n - 1)."""
    values = sorted(values)
    rank = 0.95 * (len(values) - 1)
    low = math.floor(rank)
    high = min(low + 1, len(values) - 1)
    return values[low] + (rank - low) * (values[high] - values[low])


def brute_force(mask_ref, mask_pred, spacing_mm, tolerance_mm):
    ref, pred = border_voxels(mask_ref), border_voxels(mask_pred)
    if not ref or not pred:
        return dict.fromkeys(SURFACE_METRICS)

    def distance(a, b):
        return math.sqrt(sum(((i - j) * s) ** 2 for i, j, s in zip(a, b, spacing_mm, strict=True)))

    forth = [min(distance(a, b) for b in pred) for a in ref]
    back = [min(distance(a, b) for a in ref) for b in pred]
    both = forth + back
    return {
        "hd95_mm": max(percentile_95(forth), percentile_95(back)),
        "assd_mm": sum(both) / len(both),
        "nsd": sum(d <= tolerance_mm for d in both) / len(both),
    }


@pytest.mark.parametrize("seed", range(60))
def test_agrees_with_brute_force(seed):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 7, size=3))
    density = rng.choice([0.03, 0.3, 0.7])
    mask_ref, mask_pred = rng.random((2, *shape)) < density
    spacing_mm = tuple(rng.choice([0.7, 1.0, 2.5], size=3))
    # No distance of this grid equals the tolerance, so that rounding cannot matter.
    expected = brute_force(mask_ref, mask_pred, spacing_mm, 1.1234)
    found = surface_scores(mask_ref, mask_pred, spacing_mm, tolerance_mm=1.1234)
    assert found == pytest.approx(expected)


def test_a_cube_shifted_by_two_slices():
    mask_ref = np.zeros((9, 5, 5), dtype=bool)
    mask_ref[1:4, 1:4, 1:4] = True
    mask_pred = np.roll(mask_ref, 2, axis=0)
    found = surface_scores(mask_ref, mask_pred, (3.0, 1.0, 1.0), tolerance_mm=1.0)
    assert found["hd95_mm"] == 6.0
    assert found == pytest.approx(brute_force(mask_ref, mask_pred, (3.0, 1.0, 1.0), 1.0))


def test_two_single_voxels():
    mask_ref, mask_pred = np.zeros((2, 1, 1, 8), dtype=bool)
    mask_ref[0, 0, 1] = mask_pred[0, 0, 5] = True
    found = surface_scores(mask_ref, mask_pred, (999.0, 1.0, 0.5), tolerance_mm=2.0)
    assert found == {"hd95_mm": 2.0, "assd_mm": 2.0, "nsd": 1.0}


def test_float32_spacing_does_not_lose_the_tolerance():
    mask_ref, mask_pred = np.zeros((2, 1, 1, 4), dtype=bool)
    mask_ref[0, 0, 1] = mask_pred[0, 0, 2] = True
    spacing_mm = (1.0, 1.0, 1.0 + 1e-7)
    assert surface_scores(mask_ref, mask_pred, spacing_mm, tolerance_mm=1.0)["nsd"] == 1


@pytest.mark.parametrize(("ref", "pred"), [(0, 0), (0, 1), (1, 0)])
def test_undefined_when_either_is_empty(ref, pred):
    masks = [np.full((3, 3, 3), bool(filled)) for filled in (ref, pred)]
    assert surface_scores(*masks, (1.0, 1.0, 1.0)) == dict.fromkeys(SURFACE_METRICS)


def test_a_plane_has_an_outline():
    mask = np.ones((1, 5, 5), dtype=bool)
    smaller = np.zeros_like(mask)
    smaller[0, 1:4, 1:4] = True
    # The inner voxels of the larger square are no border: only 16 + 8 outline voxels count.
    found = surface_scores(mask, smaller, (999.0, 1.0, 1.0), tolerance_mm=0.5)
    corners, sides = 4 * math.sqrt(2), 12 * 1.0
    assert found["assd_mm"] == pytest.approx((corners + sides + 8 * 1.0) / 24)
    assert found["nsd"] == 0


def test_bounding_box():
    mask = np.zeros((3, 4, 5), dtype=bool)
    mask[1, 2, 1] = mask[2, 2, 4] = True
    assert box_slices(bounding_box(mask)) == (slice(1, 3), slice(2, 3), slice(1, 5))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_symmetric_and_zero_on_itself(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.random((2, 3, 4, 4)) < 0.4
    a[0, 0, 0] = b[1, 1, 1] = True
    spacing_mm = (2.0, 1.0, 1.5)
    forth, back = surface_scores(a, b, spacing_mm), surface_scores(b, a, spacing_mm)
    assert forth == pytest.approx(back)
    assert surface_scores(a, a, spacing_mm) == {"hd95_mm": 0, "assd_mm": 0, "nsd": 1}
