"""How often every transform fires, and that its parameters have the distributions they should.

5000 samples each. A share may be off by four standard deviations, a distribution function by what
chance exceeds once in a thousand times (Kolmogorov and Smirnov): 1.95 by the root of the number.
"""

import dataclasses

import numpy as np
import pytest
import torch
from scipy import stats

from segkit.config import AugmentConfig, load_recipe
from segkit.training.augment import choices, spatial_settings
from segkit.training.augment.blank import size_bounds
from segkit.training.augment.choices import Batch
from segkit.training.augment.spatial import draw_moves
from segkit.training.augment.turns import draw_turns, equal_axes

COUNT, CHANNELS = 5000, 2
DEFAULT, DA5 = AugmentConfig(), load_recipe("da5").augment


def batch(config, shape=(12, 10, 8), seed=0):
    """A batch of which only the shape counts."""
    image = torch.zeros(1).expand(COUNT, CHANNELS, *shape)
    return Batch(image=image, config=config, generator=torch.Generator().manual_seed(seed))


def share_of(rows):
    """Share of the channels of all samples."""
    assert len(set(rows.tolist())) == len(rows)
    return len(rows) / (COUNT * CHANNELS)


def near(share):
    """Equal to a share but for chance; channels are drawn with their samples."""
    return pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / COUNT))


def follows(values, cdf):
    """Compare the distribution of all values with its function."""
    values = torch.as_tensor(values).flatten().double().numpy()
    assert len(values) > 400
    return stats.kstest(values, cdf).statistic < 1.95 / np.sqrt(len(values))


def uniform(low, high):
    return stats.uniform(low, high - low).cdf


def halves(low, high, second_low, second_high):
    """Distribution function of one range or the other with equal chance."""
    first, second = uniform(low, high), uniform(second_low, second_high)
    return lambda x: (first(x) + second(x)) / 2


def test_noise_takes_samples_with_one_deviation():
    for config in (DEFAULT, DA5):
        chosen = choices.draw_noise(batch(config))
        assert len(chosen.rows) / COUNT == near(0.1)
        assert int(chosen.rows.max()) < COUNT
        assert follows(chosen.values, uniform(0, 0.1))


def test_blur_by_default_has_a_width_for_every_axis():
    blurred, filtered = choices.draw_blur(batch(DEFAULT))
    assert share_of(blurred.rows) == near(0.2 * 0.5)
    assert blurred.values.shape == (len(blurred.rows), 3)
    assert follows(blurred.values, uniform(0.5, 1))
    assert abs(np.corrcoef(blurred.values.T)[0, 1]) < 0.1
    assert len(filtered.rows) == 0


def test_da5_blurs_or_filters_never_both():
    blurred, filtered = choices.draw_blur(batch(DA5))
    # One of two is picked, which then fires with 0.2.
    assert share_of(blurred.rows) == near(0.5 * 0.2 * 0.5)
    assert share_of(filtered.rows) == near(0.5 * 0.2 * 0.5)
    samples = [set((chosen.rows // CHANNELS).tolist()) for chosen in (blurred, filtered)]
    assert not samples[0] & samples[1]
    assert torch.equal(blurred.values, blurred.values[:, :1].expand(-1, 3))
    assert follows(blurred.values[:, 0], uniform(0.3, 1.5))
    sizes, counts = filtered.values.unique(return_counts=True)
    assert sizes.tolist() == [2, 3, 4, 5, 6, 7]
    assert (counts / counts.sum()).tolist() == pytest.approx([1 / 6] * 6, abs=0.06)


def test_brightness_is_a_factor_around_one():
    chosen = choices.draw_brightness(batch(DEFAULT))
    assert share_of(chosen.rows) == near(0.15)
    assert follows(chosen.values, halves(0.75, 1, 1, 1.25))


def test_da5_shifts_the_brightness_of_some_channels():
    chosen = choices.draw_shift(batch(DA5))
    assert share_of(chosen.rows) == near(0.1 * 0.5)
    assert follows(chosen.values, stats.norm(0, 0.5).cdf)


def test_contrast_by_default_is_clamped_and_takes_all_channels():
    clamped, unclamped = choices.draw_contrast(batch(DEFAULT))
    assert share_of(clamped.rows) == near(0.15)
    assert torch.equal(clamped.rows[::2] + 1, clamped.rows[1::2])
    assert follows(clamped.values, halves(0.75, 1, 1, 1.25))
    assert len(unclamped.rows) == 0


def test_da5_stretches_within_the_range_or_beyond_it():
    chosen = choices.draw_contrast(batch(DA5))
    for one in chosen:
        assert share_of(one.rows) == near(0.5 * 0.2 * 0.5)
        assert follows(one.values, halves(0.5, 1, 1, 2))
    samples = [set((one.rows // CHANNELS).tolist()) for one in chosen]
    assert not samples[0] & samples[1]


@pytest.mark.parametrize(("config", "p", "low"), [(DEFAULT, 0.25, 0.5), (DA5, 0.15, 0.25)])
def test_low_resolution_takes_half_of_the_channels(config, p, low):
    chosen = choices.draw_low_resolution(batch(config))
    assert share_of(chosen.rows) == near(p * 0.5)
    assert chosen.values.ndim == 1  # the same for all axes
    assert follows(chosen.values, uniform(low, 1))


@pytest.mark.parametrize(("inverted", "p"), [(False, 0.3), (True, 0.1)])
def test_gamma_takes_all_channels_with_exponents_of_their_own(inverted, p):
    chosen = choices.draw_gamma(batch(DEFAULT), inverted=inverted)
    assert share_of(chosen.rows) == near(p)
    assert follows(chosen.values, halves(0.7, 1, 1, 1.5))


def test_da5_has_two_chances_of_inverted_gamma_and_none_of_the_other():
    assert DA5.intensity_order.count("gamma_inverted") == 2
    assert (DA5.p_gamma_inverted, DA5.p_gamma) == (0.1, 0)


def test_da5_blanks_one_to_four_boxes_of_a_tenth_to_a_third():
    shape = (40, 30, 60)
    boxes = choices.draw_blank(batch(DA5, shape))
    rows, counts = boxes.rows.unique(return_counts=True)
    assert share_of(rows) == near(0.4 * 0.5)
    numbers, often = counts.unique(return_counts=True)
    assert numbers.tolist() == [1, 2, 3, 4]
    assert (often / often.sum()).tolist() == pytest.approx([0.25] * 4, abs=0.06)
    for axis, (length, low, high) in enumerate(((40, 4, 12), (30, 3, 9), (60, 6, 19))):
        assert size_bounds(length, DA5.blank_size) == (low, high)
        sizes, starts = boxes.sizes[:, axis], boxes.starts[:, axis]
        assert (int(sizes.min()), int(sizes.max())) == (low, high)
        assert follows(sizes + torch.rand(len(sizes)), uniform(low, high + 1))
        assert int(starts.min()) == 0
        assert int((starts + sizes).max()) == length
        assert follows((starts + torch.rand(len(starts))) / (length - sizes + 1), uniform(0, 1))


def test_da5_adds_gradients_of_any_place_and_width():
    chosen = choices.draw_gradient(batch(DA5, (60, 30, 12)))
    assert share_of(chosen.rows) == near(0.3 * 0.5)
    assert follows(chosen.values, halves(-5, -1, 1, 5))
    for axis, size in enumerate((60, 30, 12)):
        assert follows(chosen.centre[:, axis], uniform(-0.5 * size, 1.5 * size))
        assert follows(chosen.extent[:, axis].log(), uniform(np.log(size / 6), np.log(size)))


def test_da5_bends_intensities_around_a_place():
    chosen = choices.draw_local_gamma(batch(DA5))
    assert share_of(chosen.rows) == near(0.3 * 0.5)
    assert follows(chosen.values, halves(0.01, 0.8, 1.5, 4))


def test_da5_sharpens():
    chosen = choices.draw_sharpen(batch(DA5))
    assert share_of(chosen.rows) == near(0.2 * 0.5)
    assert follows(chosen.values, uniform(0.1, 1))


@pytest.mark.parametrize("p", [0.2, 1.0])
def test_channels_are_dropped_but_never_all(p):
    rows = choices.draw_dropped(batch(AugmentConfig(p_channel_dropout=p)))
    samples, counts = (rows // CHANNELS).unique(return_counts=True)
    assert int(counts.max()) < CHANNELS
    # Both would be dropped with p * p; then one is, each as often.
    assert len(samples) / COUNT == near(1 - (1 - p) ** 2)
    assert (rows % CHANNELS).float().mean().item() == near(0.5)


def moves(config, patch):
    settings = spatial_settings(patch, config)
    drawn = draw_moves(COUNT, settings, config, torch.Generator().manual_seed(0))
    some = [move for move in drawn if move is not None]
    angles = torch.stack([move.angles for move in some]).rad2deg()
    return angles, torch.stack([move.scaling for move in some]), some


@pytest.mark.parametrize(
    ("patch", "angle", "axes"), [((8, 8, 8), 30, 3), ((9, 8), 180, 1), ((4, 16, 16), 180, 1)]
)
def test_rotation_and_scaling_by_default(patch, angle, axes):
    angles, scaling, _ = moves(DEFAULT, patch)
    assert angles.shape[1] == axes
    turned = angles.ne(0).any(1)
    assert angles.ne(0).all(1).equal(turned)
    assert turned.sum().item() / COUNT == near(0.2)
    assert follows(angles[turned][:, 0], uniform(-angle, angle))
    assert scaling.shape[1] == 1
    scaled = scaling[scaling != 1]
    assert len(scaled) / COUNT == near(0.2)
    assert follows(scaled, uniform(0.7, 1.4))


@pytest.mark.parametrize(("patch", "axes"), [((8, 8, 8), 3), ((9, 8), 2), ((4, 16, 16), 2)])
def test_da5_turns_about_some_axes_and_scales_each(patch, axes):
    angles, scaling, _ = moves(DA5, patch)
    for axis in range(angles.shape[1]):
        turned = angles[:, axis] != 0
        assert turned.sum().item() / COUNT == near(0.4 * 0.5)
    assert scaling.shape[1] == axes
    scaled = scaling[(scaling != 1).any(1)]
    assert len(scaled) / COUNT == near(0.2)
    assert follows(scaled, uniform(0.7, 1.43))
    assert abs(np.corrcoef(scaled.T)[0, 1]) < 0.1


def test_deformation_has_a_scale_and_a_strength():
    config = AugmentConfig(p_elastic=0.3, p_rotation=0, p_scaling=0)
    _, _, some = moves(config, (8, 8, 8))
    assert len(some) / COUNT == near(0.3)
    scale, strength = zip(*(move.elastic for move in some), strict=True)
    assert follows(scale, uniform(0.05, 0.25))
    assert follows(strength, uniform(0.125, 0.5))


def test_da5_turns_by_any_quarter_in_any_plane_and_permutes_axes():
    settings = spatial_settings((8, 8, 8), DA5)
    turns = draw_turns(COUNT, settings, DA5, torch.Generator().manual_seed(0))
    quarters = np.bincount([turn.quarters for turn in turns], minlength=4) / COUNT
    np.testing.assert_allclose(quarters, [0.5 + 0.125, 0.125, 0.125, 0.125], atol=0.03)
    planes, often = np.unique([turn.plane for turn in turns], axis=0, return_counts=True)
    assert planes.tolist() == [[0, 1], [0, 2], [1, 2]]
    np.testing.assert_allclose(often / COUNT, 1 / 3, atol=0.03)
    orders, often = np.unique([turn.order for turn in turns], axis=0, return_counts=True)
    assert len(orders) == 6
    np.testing.assert_allclose(often[1:] / COUNT, 0.5 / 6, atol=0.03)


@pytest.mark.parametrize(
    ("patch", "axes"),
    [
        ((8, 8, 8), (0, 1, 2)),
        ((8, 9, 8), (0, 2)),
        ((20, 256, 256), (1, 2)),
        ((8, 9, 10), ()),
        ((7, 7), (0, 1)),
        ((7, 8), ()),
        ((16, 16, 64), ()),  # slices are kept apart
    ],
)
def test_only_axes_of_equal_length_change_places(patch, axes):
    settings = spatial_settings(patch, DA5)
    assert equal_axes(settings) == axes
    turns = draw_turns(50, settings, DA5, torch.Generator().manual_seed(0))
    assert len(turns) == (50 if axes else 0)
    for turn in turns:
        assert set(turn.plane) <= set(axes)
        assert [
            axis for axis, new in enumerate(turn.order) if axis != new and axis not in axes
        ] == []


def test_what_has_no_chance_draws_nothing():
    from segkit.training.augment.steps import STEPS

    off = {f.name: 0.0 for f in dataclasses.fields(AugmentConfig) if f.name.startswith("p_")}
    config = AugmentConfig(**off)
    assert not any(step.occurs(config) for step in STEPS.values())
