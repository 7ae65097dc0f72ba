import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segkit.planning.topology import MIN_EDGE, plan_topology


def axes(text):
    """Write (1, 2, 2) as 122."""
    return tuple(tuple(int(digit) for digit in word) for word in text.split())


def test_prostate_waits_for_the_coarse_axis():
    topology = plan_topology((3.6, 0.62, 0.62), (16, 320, 320))
    assert topology.patch_size == (16, 320, 320)
    assert topology.strides == axes("111 122 122 222 222 122 122")
    assert topology.kernel_sizes == axes("133 133 333 333 333 333 333")


def test_patch_is_padded_to_what_poolings_divide():
    topology = plan_topology((5, 1.56, 1.56), (12, 237, 208))
    assert topology.patch_size == (12, 256, 224)
    assert topology.strides == axes("111 122 222 122 122 122")
    assert topology.divisor == (2, 32, 32)


def test_isotropic_cube_and_plane():
    assert plan_topology((1, 1, 1), (128, 128, 128)).n_stages == 6
    plane = plan_topology((1, 1), (512, 512))
    assert plane.n_stages == 8
    assert plane.kernel_sizes == ((3, 3),) * 8


@pytest.mark.parametrize(("size", "stages"), [(11, 1), (12, 2), (24, 3)])
def test_a_lone_axis_needs_twelve_voxels(size, stages):
    assert plan_topology((1, 1, 1), (size, 4, 4)).n_stages == stages


@pytest.mark.parametrize(("size", "stages"), [(7, 1), (8, 2), (16, 3)])
def test_two_axes_need_eight_voxels(size, stages):
    assert plan_topology((1, 1), (size, size)).n_stages == stages


def test_spacing_exactly_twice_the_finest_waits():
    assert plan_topology((2, 1, 1), (32, 32, 32)).strides[1] == (1, 2, 2)
    assert plan_topology((1.99, 1, 1), (32, 32, 32)).strides[1] == (2, 2, 2)


def test_a_median_shape_with_a_half_is_rounded_up():
    assert plan_topology((1, 1, 1), (36, 50.5, 35)).patch_size == (40, 56, 40)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.floats(0.1, 10), st.integers(1, 400)), min_size=2, max_size=3))
def test_invariants(pairs):
    spacing, patch = zip(*pairs, strict=True)
    topology = plan_topology(spacing, patch)
    assert len(topology.kernel_sizes) == topology.n_stages
    assert set(topology.strides[0]) == {1}
    for wished, padded, divisor in zip(patch, topology.patch_size, topology.divisor, strict=True):
        assert padded % divisor == 0
        assert wished <= padded < wished + divisor
        assert divisor == 1 or padded // divisor >= MIN_EDGE
        assert math.log2(divisor).is_integer()
    for earlier, later in zip(topology.kernel_sizes, topology.kernel_sizes[1:], strict=False):
        assert all(a <= b for a, b in zip(earlier, later, strict=True))
