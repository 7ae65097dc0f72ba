"""Rotation, mirroring and the sampled patch that follow from the patch shape."""

import pytest

from segkit.config import AugmentConfig
from segkit.errors import UserError
from segkit.planning.sides import PatchSides
from segkit.training.augment import sampled_patch_size, spatial_settings

CONFIG = AugmentConfig()


@pytest.mark.parametrize(
    ("patch", "angle", "dummy_2d", "sampled"),
    [
        ((128, 128, 128), 30, False, (205, 205, 205)),
        ((96, 160, 160), 30, False, (191, 257, 219)),
        ((20, 256, 224), 180, True, (20, 301, 301)),
        ((512, 320), 15, False, (679, 376)),
        ((256, 256), 180, False, (301, 301)),
    ],
)
def test_nnunets_numbers(patch, angle, dummy_2d, sampled):
    settings = spatial_settings(patch, CONFIG)
    assert settings.max_angle_degrees == angle
    assert settings.dummy_2d is dummy_2d
    assert settings.mirror_axes == tuple(range(len(patch)))
    assert sampled_patch_size(settings, CONFIG) == sampled


def test_thresholds_are_exclusive():
    assert not spatial_settings((20, 60, 60), CONFIG).dummy_2d
    assert spatial_settings((20, 61, 60), CONFIG).dummy_2d
    assert spatial_settings((30, 20), CONFIG).max_angle_degrees == 180
    assert spatial_settings((31, 20), CONFIG).max_angle_degrees == 15


def test_the_recipe_overrides_angle_and_mirroring():
    settings = spatial_settings((64, 64, 64), AugmentConfig(rotation_degrees=10, mirror=False))
    assert settings.max_angle_degrees == 10
    assert settings.mirror_axes == ()


def test_nothing_extra_is_read_when_nothing_moves():
    config = AugmentConfig(p_rotation=0, p_scaling=0)
    assert sampled_patch_size(spatial_settings((40, 56, 40), config), config) == (40, 56, 40)


@pytest.mark.parametrize(
    "setting",
    [
        {"rotation_degrees": -1.0},
        {"scaling": (0.0, 1.0)},
        {"low_resolution": (0.5, 1.5)},
        {"noise_std": (-0.1, 0.1)},
    ],
)
def test_impossible_ranges_are_refused(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        AugmentConfig(**setting)


def test_slices_are_kept_apart_or_not_as_the_recipe_says():
    thick, cube = (20, 256, 224), (64, 64, 64)
    assert not spatial_settings(thick, AugmentConfig(dummy_2d=False)).dummy_2d
    assert spatial_settings(thick, AugmentConfig(dummy_2d=False)).max_angle_degrees == 30
    assert spatial_settings(cube, AugmentConfig(dummy_2d=True)).dummy_2d
    assert spatial_settings(cube, AugmentConfig(dummy_2d=True)).max_angle_degrees == 180
    assert not spatial_settings((64, 64), AugmentConfig(dummy_2d=True)).dummy_2d


def test_single_axes_can_be_mirrored():
    assert spatial_settings((8, 8, 8), AugmentConfig(mirror=(1, 0))).mirror_axes == (0, 1)
    assert spatial_settings((8, 8), AugmentConfig(mirror=(0,))).mirror_axes == (0,)
    with pytest.raises(UserError, match=r"no axis 2 to mirror: the patch has 2"):
        spatial_settings((8, 8), AugmentConfig(mirror=(2,)))


def test_deformation_reads_beyond_the_patch():
    config = AugmentConfig(p_rotation=0, p_scaling=0, p_elastic=0.1)
    assert sampled_patch_size(spatial_settings((85, 85), config), config) == (100, 100)


PAIRS = (("left", "right"),)


@pytest.mark.parametrize(
    ("patch", "sides", "axes", "angle"),
    [
        ((64, 64, 64), PatchSides(pairs=PAIRS, axis=2), (0, 1, 2), 30),
        ((64, 64, 64), PatchSides(axis=2, apart=True), (0, 1), 30),
        ((64, 64), PatchSides(pairs=PAIRS, axis=1), (0, 1), 30),
        ((64, 64), PatchSides(axis=1, apart=True), (0,), 30),
        # Left and right are not in the plane: nothing changes.
        ((64, 64), PatchSides(pairs=PAIRS), (0, 1), 180),
        ((64, 64), PatchSides(apart=True), (0, 1), 180),
        # Nobody knows where they are.
        ((64, 64), PatchSides(apart=True, known=False), (), 30),
        # Turned in slices that run between left and right, or across them.
        ((20, 256, 224), PatchSides(pairs=PAIRS, axis=1), (0, 1, 2), 30),
        ((20, 256, 224), PatchSides(pairs=PAIRS, axis=0), (0, 1, 2), 180),
        ((31, 20), PatchSides(pairs=PAIRS, axis=1), (0, 1), 15),
        # The labels do not tell them apart.
        ((64, 64), PatchSides(axis=1), (0, 1), 180),
    ],
)
def test_left_and_right_stay_what_they_are(patch, sides, axes, angle):
    settings = spatial_settings(patch, CONFIG, sides)
    assert settings.mirror_axes == axes
    assert settings.max_angle_degrees == angle
    assert settings.side_axis == (sides.axis if sides.matter else None)


def test_what_the_recipe_asks_for_is_done_to_left_and_right_too():
    apart = PatchSides(axis=2, apart=True)
    assert spatial_settings((8, 8, 8), AugmentConfig(mirror=(2,)), apart).mirror_axes == (2,)
    wide = AugmentConfig(rotation_degrees=90)
    assert spatial_settings((8, 8), wide, PatchSides(pairs=PAIRS, axis=1)).max_angle_degrees == 90


def test_pairs_without_a_known_axis_are_refused_where_anything_is_mirrored():
    unknown = PatchSides(pairs=PAIRS, known=False)
    with pytest.raises(UserError, match='"left_right_axis": "x"'):
        spatial_settings((8, 8), CONFIG, unknown)
    assert spatial_settings((8, 8), AugmentConfig(mirror=False), unknown).mirror_axes == ()
