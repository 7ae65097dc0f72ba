"""The previous stage's segmentation on its way to the network: how often it is changed, and how."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from segkit.config import AugmentConfig, CascadeConfig
from segkit.dataset.labels import LabelClass, LabelSchema
from segkit.training.augment import Augmenter, CascadeAugmenter, as_input, spatial_settings
from segkit.training.augment.cascade import drop_component, drop_components, vary_shapes

SCHEMA = LabelSchema(classes=tuple(LabelClass(name=f"c{i}", value=i) for i in (1, 2)))
STRUCTURES = dataclasses.replace(SCHEMA, overlapping=True)
DRAWS = 5000


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def within(found, expected, draws=DRAWS, deviations=4.0):
    """Whether a share of ``draws`` is within four standard deviations (1 in 16 000 is not)."""
    return abs(found - expected) < deviations * math.sqrt(expected * (1 - expected) / draws)


def marked(samples=DRAWS):
    """One class a sample: a block with a hole, and a voxel by itself, on a 36 x 36 plane."""
    masks = torch.zeros(samples, 1, 36, 36, dtype=torch.bool)
    masks[:, :, 2:9, 2:13] = True
    masks[:, :, 4, 4] = False
    masks[:, :, 22, 18] = True
    return masks


def what_happened(before, after):
    """Name the operator: only dilation moves outlines out, only closing fills the hole alone."""
    grown, lone, hole = after[:, 22, 19], after[:, 22, 18], after[:, 4, 4]
    same = (before == after).flatten(1).all(1)
    eroded = ~after[:, 2:9, 2:13].flatten(1).any(1) | ~after[:, 2, 8]
    return torch.where(
        same, 0, torch.where(grown, 1, torch.where(lone & hole, 3, torch.where(eroded, 2, 4)))
    )


def test_how_often_shapes_change_and_how():
    masks = marked()
    before = masks[:, 0].clone()
    # Small radii only: opening leaves the block, and closing fills nothing but the hole.
    config = CascadeConfig(morphology_radius=(1.0, 1.4))
    vary_shapes(masks, config, seeded(), exclusive=True)
    counts = np.bincount(what_happened(before, masks[:, 0]), minlength=5) / DRAWS
    nothing, *operators = counts
    assert within(nothing, 1 - 0.4 * 0.5)
    assert all(within(share, 0.4 * 0.5 / 4) for share in operators), counts


def test_radii_are_uniform():
    masks = marked()
    always = CascadeConfig(p_morphology=1.0, p_morphology_per_class=1.0)
    vary_shapes(masks, always, seeded(1), exclusive=True)
    # A voxel that was dilated reaches as many voxels to each side as fit into the radius.
    reach = masks[:, 0, 22, 19:30].sum(1)
    dilated = reach[reach > 0]
    shares = np.bincount(dilated, minlength=9) / len(dilated)
    assert within(len(dilated) / DRAWS, 0.25)
    assert shares[0] == shares[8] == 0
    assert all(within(share, 1 / 7, len(dilated)) for share in shares[1:8]), shares


def test_how_often_components_are_dropped_and_which():
    # Components of 1, 2 and 4 voxels, and one of 30, which is more than 15 % of 196.
    masks = torch.zeros(DRAWS, 2, 14, 14, dtype=torch.bool)
    masks[:, 0, 0, 0] = True
    masks[:, 0, 3, 0] = masks[:, 0, 4, 1] = True  # they touch by a corner
    masks[:, 0, 8:10, 0:2] = True
    masks[:, 0, 2:8, 6:11] = True
    masks[:, 1] = masks[:, 0]
    sizes = masks[:, :, :, :].sum((2, 3))
    assert (sizes == 37).all()
    drop_components(masks, CascadeConfig(), seeded(2))
    lost = (sizes - masks.sum((2, 3))).numpy()
    assert set(np.unique(lost)) == {0, 1, 2, 4}
    for each in lost.T:
        shares = np.bincount(each, minlength=5) / DRAWS
        assert within(shares[0], 1 - 0.2 * 0.5)
        assert all(within(shares[size], 0.2 * 0.5 / 3) for size in (1, 2, 4)), shares
    # The sample decides once, then each class for itself.
    assert within((lost > 0).all(1).mean(), 0.2 * 0.25)


@pytest.mark.parametrize(("largest", "gone"), [(4.0, (False, False)), (4.1, (True, False))])
def test_the_largest_size_is_excluded(largest, gone):
    mask = torch.zeros(6, 6, dtype=torch.bool)
    mask[0:2, 0:2] = True
    mask[3:6, 3:6] = True
    for lot in (0.0, 0.5, 0.999):
        changed = mask.clone()
        drop_component(changed, largest, lot)
        assert (not changed[0, 0], not changed[4, 4]) == gone
    nothing = torch.zeros(6, 6, dtype=torch.bool)
    drop_component(nothing, 9.0, 0.5)
    assert not nothing.any()


def two_classes():
    channels = torch.zeros(1, 2, 5, 9, dtype=torch.bool)
    channels[:, 0, :, :4] = True
    channels[:, 1, :, 4:] = True
    return channels


def test_what_a_class_gains_the_others_lose():
    always = CascadeConfig(
        p_morphology=1.0, p_morphology_per_class=1.0, morphology_radius=(1.0, 3.0)
    )
    gained = lost = 0
    for seed in range(200):
        channels = two_classes()
        vary_shapes(channels, always, seeded(seed), exclusive=True)
        assert not (channels[0, 0] & channels[0, 1]).any()
        gained += int((channels & ~two_classes()).any())
        both = two_classes()
        vary_shapes(both, always, seeded(seed), exclusive=False)
        lost += int((both[0, 0] & both[0, 1]).any())
    assert gained > 50, "the order is random: either class may gain last"
    assert lost > 50, "structures may overlap, and do"


def augmenter(schema, patch=(6, 8, 10), masked=False, **changes):
    config = AugmentConfig(**changes)
    settings = spatial_settings(patch, config)
    plain = Augmenter(config, settings, (masked,), reference_maps=schema.seg_channels)
    return CascadeAugmenter(augment=plain, schema=schema, config=CascadeConfig())


def batch(schema, size=(12, 14, 16), count=3):
    maps = torch.randint(-1, 3, (count, 2 * schema.seg_channels, *size), dtype=torch.int16)
    return torch.randn(count, 1, *size), maps


@pytest.mark.parametrize("schema", [SCHEMA, STRUCTURES])
@pytest.mark.parametrize("patch", [(6, 8, 10), (8, 10)])
def test_the_network_is_given_a_channel_a_class(schema, patch):
    torch.manual_seed(0)
    image, maps = batch(schema, size=(12, 14, 16)[-len(patch) :])
    before = image.clone(), maps.clone()
    augment = augmenter(schema, patch)
    joined, seg = augment(image, maps, seeded())
    again, _ = augment(image, maps, seeded())
    assert joined.shape == (3, 3, *patch)
    assert seg.shape == (3, schema.seg_channels, *patch)
    assert torch.equal(joined, again)
    assert set(joined[:, 1:].unique().tolist()) <= {0.0, 1.0}
    assert torch.equal(image, before[0])
    assert torch.equal(maps, before[1])


def test_validation_changes_nothing():
    image, maps = batch(SCHEMA)
    joined, seg = as_input(image, maps, SCHEMA)
    assert torch.equal(seg, maps[:, :1])
    assert torch.equal(joined[:, :1], image)
    assert torch.equal(joined[:, 1:], torch.cat([maps[:, 1:] == 1, maps[:, 1:] == 2], 1).float())


def test_the_previous_stage_has_no_say_in_what_is_invalid():
    image, maps = batch(SCHEMA)
    maps[:, 0], maps[:, 1] = 0, -1
    joined, _ = augmenter(SCHEMA, masked=True, p_rotation=0, p_scaling=0)(image, maps, seeded())
    assert (joined[:, 0] != 0).all()


@pytest.mark.parametrize(
    "wrong",
    [
        {"p_morphology": 1.5},
        {"p_drop_component": -0.1},
        {"drop_component_max_share": 1.1},
        {"morphology_radius": (3.0, 2.0)},
        {"morphology_radius": (1.0, 65.0)},
        {"morphology_radius": (-1.0, 2.0)},
    ],
)
def test_settings_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        CascadeConfig(**wrong)
