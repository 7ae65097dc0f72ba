"""Quarter turns and transpositions: exact, and the same for image and labels."""

import numpy as np
import pytest
import torch

from segkit.config import AugmentConfig
from segkit.planning.sides import PatchSides
from segkit.training.augment import LabelSwap, spatial_settings
from segkit.training.augment.turns import Turn, equal_axes, mirror, turn

EVERY = AugmentConfig(p_quarter_turn=1, p_transpose=1)


def test_a_turn_is_rot90_and_a_permutation():
    sample = torch.arange(2 * 27).reshape(2, 3, 3, 3)
    turned = Turn(quarters=3, plane=(0, 2), order=(1, 0, 2))(sample)
    expected = np.rot90(sample.numpy(), 3, (1, 3)).transpose(0, 2, 1, 3)
    np.testing.assert_array_equal(turned, expected)
    still = Turn(quarters=0, plane=(0, 1), order=(0, 1, 2))(sample)
    assert torch.equal(still, sample)


@pytest.mark.parametrize(("patch", "ways"), [((3, 3), 8), ((3, 3, 3), 42), ((2, 3, 3), 8)])
def test_all_ways_to_lay_a_patch_occur_and_image_and_labels_go_together(patch, ways):
    # Of the 48 in 3D all but those that flip three axes: a sample is turned in one plane only.
    image = torch.arange(float(np.prod(patch))).reshape(patch).expand(900, 2, *patch).clone()
    seg = image[:, :1].to(torch.int16).clone()
    config = AugmentConfig(p_quarter_turn=1, p_transpose=1, dummy_2d=False)
    turn(image, seg, spatial_settings(patch, config), config, torch.Generator().manual_seed(0))
    assert torch.equal(image[:, :1].to(torch.int16), seg)
    assert torch.equal(image[:, 0], image[:, 1])
    found = {tuple(row) for row in seg.flatten(1).tolist()}
    assert len(found) == ways
    assert all(sorted(row) == list(range(int(np.prod(patch)))) for row in found)


def test_a_patch_of_unequal_edges_and_what_has_no_chance_stay():
    for patch, config in (((3, 4, 5), EVERY), ((3, 3, 3), AugmentConfig())):
        image, seg = torch.randn(4, 1, *patch), torch.zeros(4, 1, *patch, dtype=torch.int16)
        before = image.clone()
        turn(image, seg, spatial_settings(patch, config), config, torch.Generator())
        assert torch.equal(image, before)


def test_the_axis_between_left_and_right_takes_no_others_place():
    for axis, expected in ((0, (1, 2)), (2, (0, 1))):
        sides = PatchSides(axis=axis, apart=True)
        assert equal_axes(spatial_settings((3, 3, 3), EVERY, sides)) == expected
    assert equal_axes(spatial_settings((3, 3), EVERY, PatchSides(axis=1, apart=True))) == ()


def body(shape, axis, overlapping=False):
    """Ground truth by a rule of where things are: 1 left, 2 right, 3 in the middle, 4 ignored."""
    place = torch.arange(shape[axis]).view(*(-1 if a == axis else 1 for a in range(len(shape))))
    middle = (shape[axis] - 1) / 2
    side = torch.where(place < middle - 1, 1, torch.where(place > middle + 1, 2, 3)).expand(shape)
    if overlapping:
        return torch.stack([(side == i).to(torch.int8) for i in (1, 2, 3)])
    return side.to(torch.int16)[None]


def label_swap(axis, overlapping=False):
    return LabelSwap(axis=axis, classes=(1, 0, 2), overlapping=overlapping)


@pytest.mark.parametrize(("shape", "axis"), [((5, 6), 1), ((4, 7, 5), 1), ((4, 5, 8), 2)])
@pytest.mark.parametrize("overlapping", [False, True])
def test_a_flip_with_a_swap_is_the_ground_truth_of_the_flipped_image(shape, axis, overlapping):
    truth = body(shape, axis, overlapping)
    seg = truth.expand(64, *truth.shape).clone()
    image = torch.arange(float(np.prod(shape))).reshape(shape).expand(64, 1, *shape).clone()
    before = image.clone()
    axes = tuple(range(len(shape)))
    mirror(image, seg, axes, torch.Generator().manual_seed(0), label_swap(axis, overlapping))
    # The rule says the same of every mirrored body: left is where left was.
    assert torch.equal(seg, truth.expand_as(seg))
    assert not torch.equal(image, before)
    blind = truth.expand(64, *truth.shape).clone()
    mirror(before, blind, axes, torch.Generator().manual_seed(0))
    assert not torch.equal(blind, seg)
    assert torch.equal(before, image)


def test_only_pairs_change_places_and_ignored_invalid_and_background_stay():
    maps = torch.tensor([[[-1, 0, 1, 2, 3, 4]], [[4, 3, 2, 1, 0, -1]]], dtype=torch.int16)
    expected = [[[-1, 0, 2, 1, 3, 4]], [[4, 3, 1, 2, 0, -1]]]
    result = label_swap(1)(maps)
    assert result.tolist() == expected
    assert result.dtype == torch.int16


def test_maps_of_two_segmentations_of_structures_are_swapped_each():
    maps = torch.arange(6, dtype=torch.int8).view(6, 1, 1)
    assert label_swap(1, overlapping=True)(maps).flatten().tolist() == [1, 0, 2, 4, 3, 5]


def test_flips_along_other_axes_swap_nothing():
    seg = body((6, 7), 1).expand(20, 1, 6, 7).clone()
    before = seg.clone()
    mirror(torch.zeros(20, 1, 6, 7), seg, (0,), torch.Generator().manual_seed(0), label_swap(1))
    assert torch.equal(seg, before)
