"""Rotation, mirroring and the sampled patch that follow from the patch shape."""

import pytest

from segkit.config import AugmentConfig
from segkit.errors import UserError
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
