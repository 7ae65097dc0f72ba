"""Quarter turns and transpositions: exact, and the same for image and labels."""

import numpy as np
import pytest
import torch

from segkit.config import AugmentConfig
from segkit.training.augment import spatial_settings
from segkit.training.augment.turns import Turn, turn

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
