import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.transform import Rotation

from segkit.dataset.orientation import reorient, reorient_array
from segkit.errors import UserError
from segkit.types import Geometry, Volume

CODES = [
    "".join(letters)
    for order in itertools.permutations(("RL", "AP", "IS"))
    for letters in itertools.product(*order)
]


def volume(direction, shape=(3, 4, 5)):
    array = np.arange(2 * np.prod(shape), dtype=np.float32).reshape(2, *shape)
    geometry = Geometry(
        spacing_mm=(2.5, 0.75, 1.5),
        origin=(10.25, -20.5, 30.0),
        direction=tuple(np.asarray(direction, dtype=float).ravel()),
    )
    return Volume(array=array, geometry=geometry)


def signed_permutations():
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1.0, -1.0), repeat=3):
            yield np.eye(3)[:, order] * signs


def world_of(volume, value):
    """World position of the voxel of channel 0 that holds ``value``."""
    (z,), (y,), (x,) = np.nonzero(volume.array[0] == value)
    geometry = volume.geometry
    axes = np.reshape(geometry.direction, (3, 3)) * geometry.spacing_mm[::-1]
    return axes @ (x, y, z) + geometry.origin


def test_there_are_48_codes():
    assert len(set(CODES)) == 48


def test_known_example():
    # LPS to RPS: only x is flipped, and voxel 0 moves to the other end: 10.25 + 4 * 1.5.
    result = reorient(volume(np.eye(3)), "RPS")
    assert np.array_equal(result.array, volume(np.eye(3)).array[..., ::-1])
    assert result.geometry.origin == (16.25, -20.5, 30.0)
    assert result.geometry.direction == (-1, 0, 0, 0, 1, 0, 0, 0, 1)


def test_permutation_moves_the_spacing_with_its_axis():
    result = reorient(volume(np.eye(3)), "SLP")
    assert result.shape == (4, 5, 3)
    assert result.geometry.spacing_mm == (0.75, 1.5, 2.5)


@pytest.mark.parametrize("target", CODES)
def test_all_pairs_of_codes_come_back_exactly(target):
    # The numbers are dyadic, so that even the origin is exact.
    for direction in signed_permutations():
        before = volume(direction)
        there = reorient(before, target)
        assert there.geometry.orientation() == target
        back = reorient(there, before.geometry.orientation())
        assert np.array_equal(back.array, before.array)
        assert back.geometry == before.geometry


@settings(max_examples=60, deadline=None)
@given(arrays(np.float64, 4, elements=st.floats(-1, 1)), st.sampled_from(CODES), st.booleans())
def test_oblique_directions_keep_every_voxel_in_its_place(quaternion, target, mirrored):
    if np.linalg.norm(quaternion) < 1e-3:
        quaternion = np.array([0.0, 0.0, 0.0, 1.0])
    direction = Rotation.from_quat(quaternion).as_matrix() * (1, 1, -1 if mirrored else 1)
    before = volume(direction)
    there = reorient(before, target)
    assert there.geometry.orientation() == target
    for value in (0, 7, 23, 59):
        assert np.allclose(world_of(there, value), world_of(before, value), atol=1e-9)
    back = reorient(there, before.geometry.orientation())
    assert np.array_equal(back.array, before.array)
    assert back.geometry.direction == before.geometry.direction
    assert back.geometry.spacing_mm == before.geometry.spacing_mm
    assert np.allclose(back.geometry.origin, before.geometry.origin, rtol=0, atol=1e-9)


@pytest.mark.parametrize("target", CODES)
def test_exactly_45_degrees_is_no_ambiguity(target):
    half = np.sqrt(0.5)
    before = volume([[half, -half, 0], [half, half, 0], [0, 0, 1]])
    there = reorient(before, target)
    assert there.geometry.orientation() == target
    assert np.array_equal(reorient(there, before.geometry.orientation()).array, before.array)


def test_reorient_array_undoes_itself_without_a_geometry():
    array = np.arange(60).reshape(3, 4, 5)
    for code in CODES:
        assert np.array_equal(
            reorient_array(reorient_array(array, "PSR", code), code, "PSR"), array
        )


def test_the_same_code_changes_nothing():
    before = volume(np.eye(3))
    assert reorient(before, "LPS") is before


@pytest.mark.parametrize("code", ["", "RA", "RRS", "RLS", "ras", "RASS"])
def test_wrong_codes_are_refused(code):
    with pytest.raises(UserError, match="not an orientation"):
        reorient(volume(np.eye(3)), code)
