"""The whole pipeline: shapes, frequencies, determinism, masks."""

import dataclasses

import pytest
import torch

from segkit.config import AugmentConfig
from segkit.training.augment import Augmenter, sampled_patch_size, spatial_settings

OFF = {
    field.name: 0.0
    for field in dataclasses.fields(AugmentConfig)
    if field.name.startswith("p_") and not field.name.endswith(("_channel", "_axis"))
}
EVERYTHING = {**dict.fromkeys(OFF, 1.0), "p_blur": 0.5, "p_median": 0.5, "p_contrast": 0.5}
EVERYTHING |= {"p_contrast_unclamped": 0.5, "p_channel_dropout": 0.0, "median_size": (2, 3)}


def make(patch, mask_channels=(False,), **settings):
    config = AugmentConfig(**settings)
    return Augmenter(config, spatial_settings(patch, config), mask_channels)


def batch_for(augmenter, count, channels=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    size = sampled_patch_size(augmenter.settings, augmenter.config)
    image = torch.randn(count, channels, *size, generator=generator)
    seg = torch.randint(-1, 3, (count, 1, *size), generator=generator, dtype=torch.int16)
    return image, seg


def run(augmenter, image, seg, seed=0):
    return augmenter(image, seg, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("patch", [(16, 12), (8, 10, 12), (4, 16, 14)])
@pytest.mark.parametrize("channels", [1, 3])
def test_shapes_types_and_finite_values_with_everything_on(patch, channels):
    augmenter = make(patch, (True,) * channels, **EVERYTHING)
    image, seg = run(augmenter, *batch_for(augmenter, 5, channels))
    assert image.shape == (5, channels, *patch)
    assert seg.shape == (5, 1, *patch)
    assert (image.dtype, seg.dtype) == (torch.float32, torch.int16)
    assert torch.isfinite(image).all()
    assert set(seg.unique().tolist()) <= {-1, 0, 1, 2}


def test_the_same_seed_gives_the_same_batch_and_leaves_the_input():
    augmenter = make((8, 10, 12), (False, True), **EVERYTHING)
    image, seg = batch_for(augmenter, 4, 2)
    before = image.clone(), seg.clone()
    first, second, other = (run(augmenter, image, seg, seed) for seed in (1, 1, 2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[0], other[0])
    assert torch.equal(image, before[0])
    assert torch.equal(seg, before[1])


def test_only_the_given_generator_is_used():
    augmenter = make((16, 12), **EVERYTHING)
    image, seg = batch_for(augmenter, 4)
    state = torch.get_rng_state()
    run(augmenter, image, seg)
    assert torch.equal(torch.get_rng_state(), state)


def test_everything_off_is_the_centre_crop():
    augmenter = make((6, 6, 6), mirror=False, **OFF)
    image, seg = torch.randn(2, 1, 9, 8, 6), torch.zeros(2, 1, 9, 8, 6, dtype=torch.int16)
    result, _ = run(augmenter, image, seg)
    assert torch.equal(result, image[..., 1:7, 1:7, :])


@pytest.mark.parametrize(
    ("name", "share"),
    [
        ("p_noise", 1.0),
        ("p_brightness", 1.0),
        ("p_contrast", 1.0),
        ("p_gamma", 1.0),
        ("p_gamma_inverted", 1.0),
        ("p_blur", 0.5),
        ("p_low_resolution", 0.5),
    ],
)
def test_a_transform_touches_its_share_of_samples_and_channels(name, share):
    augmenter = make((8, 8), (False, False), mirror=False, **{**OFF, name: 0.3})
    image, seg = batch_for(augmenter, 1500, 2)
    result, labels = run(augmenter, image, seg)
    touched = (result != image).flatten(2).any(2)
    assert torch.equal(labels, seg)
    assert touched.float().mean().item() == pytest.approx(0.3 * share, abs=0.03)
    # Channels of a sample fire together, or each with probability 1/2 of its own.
    both = touched.all(1).float().mean().item()
    assert both == pytest.approx(0.3 * share * share, abs=0.03)


def test_low_resolution_keeps_axis_0_of_slices_rotated_in_plane():
    settings = {**OFF, "p_low_resolution": 1.0}
    augmenter = make((6, 24, 24), mirror=False, **settings)
    assert augmenter.settings.dummy_2d
    image, seg = batch_for(augmenter, 6)
    image[:, :, 3] = 0
    result, _ = run(augmenter, image, seg)
    assert (result[:, :, 3] == 0).all()
    assert not torch.equal(result, image)


def test_masked_channels_are_zero_at_invalid_voxels_only():
    augmenter = make((8, 10, 12), (False, True), **EVERYTHING)
    image, seg = run(augmenter, *batch_for(augmenter, 4, 2))
    invalid = seg[:, 0] < 0
    assert invalid.any()
    assert (image[:, 1][invalid] == 0).all()
    assert (image[:, 0][invalid] != 0).any()
    assert (image[:, 1][~invalid] != 0).float().mean() > 0.99


def test_a_wrong_number_of_channels_is_refused():
    augmenter = make((16, 12), (False, False))
    with pytest.raises(ValueError, match="3 channels, mask_channels 2"):
        run(augmenter, *batch_for(augmenter, 2, 3))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("patch", [(16, 12), (8, 10, 12), (4, 16, 14)])
def test_cuda_agrees_with_the_cpu_for_a_cpu_generator(patch):
    # Noise, and that displacements are made of, comes from a generator of the device.
    augmenter = make(patch, (False, True), **{**EVERYTHING, "p_noise": 0.0, "p_elastic": 0.0})
    image, seg = batch_for(augmenter, 4, 2)
    expected, expected_seg = run(augmenter, image, seg)
    result, result_seg = run(augmenter, image.cuda(), seg.cuda())
    torch.testing.assert_close(result.cpu(), expected, atol=1e-3, rtol=1e-3)
    assert (result_seg.cpu() == expected_seg).float().mean() > 0.999


def test_a_structure_nobody_annotated_does_not_hide_where_others_are_invalid():
    augmenter = make((8, 10, 12), (True,), **EVERYTHING)
    image, seg = batch_for(augmenter, 4)
    seg = torch.cat([torch.full_like(seg, 2), seg.clamp(max=1)], dim=1).to(torch.int8)
    image, result = run(augmenter, image, seg)
    assert result.dtype == torch.int8
    invalid = (result[:, 1] == -1) | (result[:, 0] == -1)
    assert (result[:, 0] == 2)[invalid].any()
    assert (image[:, 0][invalid] == 0).all()
    assert (image[:, 0][~invalid] != 0).float().mean() > 0.99
