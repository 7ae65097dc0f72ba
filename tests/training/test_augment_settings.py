"""Rotation, mirroring and the sampled patch that follow from the patch shape."""

import pytest

from segkit.config import AugmentConfig
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
