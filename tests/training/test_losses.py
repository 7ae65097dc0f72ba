"""Dice and cross-entropy against float64 loops, and gradients that are exactly zero."""

import itertools

import numpy as np
import pytest
import torch

from segkit.config import LossConfig
from segkit.dataset.labels import LabelClass, LabelSchema, Region
from segkit.training.losses import (
    SegmentationLoss,
    deep_supervision_weights,
    label_terms,
    make_target,
    region_terms,
    resize_segmentation,
)

CLASSES = (LabelClass(name="a", value=7), LabelClass(name="b", value=200))
LABELS = LabelSchema(classes=CLASSES)
REGIONS = LabelSchema(
    classes=CLASSES,
    regions=(
        Region(name="whole", members=(7, 200), paint=7),
        Region(name="core", members=(200,), paint=200),
    ),
)
SMOOTH = 1e-5


def random_case(seed, outputs, *, masked):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(2, outputs, 3, 4, 5)) * 3
    low, high = (-1, 4) if masked else (0, 3)
    return logits, rng.integers(low, high, size=(2, 1, 3, 4, 5)).astype(np.int16)


def voxels(seg):
    """Yield (sample, position, index) of every voxel that counts."""
    for b, *position in np.ndindex(seg.shape[0], *seg.shape[2:]):
        index = seg[(b, 0, *position)]
        if 0 <= index < 3:
            yield b, tuple(position), index


def dice_by_hand(shares, wanted, batch_dice):
    """Mean soft Dice; ``shares`` and ``wanted`` map (sample, channel) to lists of numbers."""
    channels = sorted({c for _, c in shares})
    groups = [(0, 1)] if batch_dice else [(0,), (1,)]
    ratios = []
    for group, channel in itertools.product(groups, channels):
        p = [x for b in group for x in shares[b, channel]]
        g = [x for b in group for x in wanted[b, channel]]
        overlap = sum(x * y for x, y in zip(p, g, strict=True))
        ratios.append((2 * overlap + SMOOTH) / max(sum(p) + sum(g) + SMOOTH, 1e-8))
    return sum(ratios) / len(ratios)


def labels_by_hand(logits, seg, batch_dice):
    shares = {(b, c): [] for b in range(2) for c in (1, 2)}
    wanted = {(b, c): [] for b in range(2) for c in (1, 2)}
    entropies = []
    for b, position, index in voxels(seg):
        column = np.exp(logits[(b, slice(None), *position)])
        probability = column / column.sum()
        entropies.append(-np.log(probability[index]))
        for c in (1, 2):
            shares[b, c].append(probability[c])
            wanted[b, c].append(float(index == c))
    return np.mean(entropies), 1 - dice_by_hand(shares, wanted, batch_dice)


def regions_by_hand(logits, seg, batch_dice):
    shares = {(b, r): [] for b in range(2) for r in (0, 1)}
    wanted = {(b, r): [] for b in range(2) for r in (0, 1)}
    entropies = []
    for b, position, index in voxels(seg):
        for r, members in enumerate([(1, 2), (2,)]):
            probability = 1 / (1 + np.exp(-logits[(b, r, *position)]))
            inside = float(index in members)
            entropies.append(-np.log(probability if inside else 1 - probability))
            shares[b, r].append(probability)
            wanted[b, r].append(inside)
    return np.mean(entropies), 1 - dice_by_hand(shares, wanted, batch_dice)


@pytest.mark.parametrize("batch_dice", [True, False])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_label_terms_equal_loops_in_float64(seed, masked, batch_dice):
    logits, seg = random_case(seed, 3, masked=masked)
    target = make_target(torch.from_numpy(seg), LABELS)
    terms = label_terms(torch.from_numpy(logits), target, batch_dice=batch_dice, smooth=SMOOTH)
    cross_entropy, dice = labels_by_hand(logits, seg, batch_dice)
    assert float(terms.cross_entropy) == pytest.approx(cross_entropy, rel=1e-9)
    assert float(terms.dice) == pytest.approx(dice, rel=1e-9)


@pytest.mark.parametrize("batch_dice", [True, False])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_region_terms_equal_loops_in_float64(seed, masked, batch_dice):
    logits, seg = random_case(seed, 2, masked=masked)
    target = make_target(torch.from_numpy(seg), REGIONS)
    terms = region_terms(torch.from_numpy(logits), target, batch_dice=batch_dice, smooth=SMOOTH)
    cross_entropy, dice = regions_by_hand(logits, seg, batch_dice)
    assert float(terms.cross_entropy) == pytest.approx(cross_entropy, rel=1e-7)
    assert float(terms.dice) == pytest.approx(dice, rel=1e-7)


@pytest.mark.parametrize("schema", [LABELS, REGIONS], ids=["labels", "regions"])
@pytest.mark.parametrize("batch_dice", [True, False])
def test_gradient_is_exactly_zero_under_the_mask_and_nowhere_else(schema, batch_dice):
    logits, seg = random_case(5, schema.num_outputs, masked=True)
    outputs = torch.from_numpy(logits).float().requires_grad_()
    loss = SegmentationLoss(schema=schema, config=LossConfig(), batch_dice=batch_dice)
    loss(outputs, torch.from_numpy(seg)).backward()
    masked = np.broadcast_to((seg == -1) | (seg == 3), logits.shape)
    gradient = outputs.grad.numpy()
    assert masked.any()
    assert (gradient[masked] == 0).all()
    assert (gradient[~masked] != 0).all()


@pytest.mark.parametrize("schema", [LABELS, REGIONS], ids=["labels", "regions"])
def test_masked_voxels_may_hold_any_logit_and_any_label(schema):
    logits, seg = random_case(6, schema.num_outputs, masked=True)
    loss = SegmentationLoss(schema=schema, config=LossConfig(), batch_dice=True)
    masked = (seg == -1) | (seg == 3)
    other = np.where(np.broadcast_to(masked, logits.shape), 50.0, logits)
    swapped = np.where(masked, np.where(seg == -1, 3, -1), seg).astype(np.int16)
    first = loss(torch.from_numpy(logits), torch.from_numpy(seg))
    assert float(loss(torch.from_numpy(other), torch.from_numpy(swapped))) == float(first)


@pytest.mark.parametrize("schema", [LABELS, REGIONS], ids=["labels", "regions"])
def test_nothing_to_learn_from_gives_zero_loss_and_gradient(schema):
    outputs = torch.randn(1, schema.num_outputs, 4, 4, requires_grad=True)
    seg = torch.full((1, 1, 4, 4), -1, dtype=torch.int16)
    loss = SegmentationLoss(schema=schema, config=LossConfig(), batch_dice=False)(outputs, seg)
    loss.backward()
    assert float(loss.detach()) == 0
    assert (outputs.grad == 0).all()


def test_invalid_voxels_can_be_trained_as_background():
    logits, seg = random_case(7, 3, masked=True)
    config = LossConfig(invalid_voxels="background")
    loss = SegmentationLoss(schema=LABELS, config=config, batch_dice=True)
    masked_out = SegmentationLoss(schema=LABELS, config=LossConfig(), batch_dice=True)
    as_background = np.where(seg == -1, 0, seg).astype(np.int16)
    first = loss(torch.from_numpy(logits), torch.from_numpy(seg))
    assert float(first) == float(
        masked_out(torch.from_numpy(logits), torch.from_numpy(as_background))
    )


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [(1, [1]), (2, [1, 0]), (3, [2 / 3, 1 / 3, 0]), (5, [8 / 15, 4 / 15, 2 / 15, 1 / 15, 0])],
)
def test_deep_supervision_weights(outputs, expected):
    assert deep_supervision_weights(outputs) == pytest.approx(expected)


def test_deep_supervision_is_the_weighted_sum_over_scales():
    rng = np.random.default_rng(0)
    seg = torch.from_numpy(rng.integers(-1, 4, size=(2, 1, 8, 8)).astype(np.int16))
    outputs = [torch.from_numpy(rng.normal(size=(2, 3, n, n))).float() for n in (8, 4, 2)]
    loss = SegmentationLoss(schema=LABELS, config=LossConfig(), batch_dice=True)
    small = resize_segmentation(seg, (4, 4))
    expected = 2 / 3 * loss(outputs[0], seg) + 1 / 3 * loss(outputs[1], small)
    assert float(loss(outputs, seg)) == pytest.approx(float(expected), rel=1e-6)


def test_resizing_picks_the_nearest_voxel():
    seg = torch.tensor([[[[-1, 0, 1, 3], [0, 0, 3, 3], [2, 2, 1, 1], [2, 2, 1, 1]]]])
    assert resize_segmentation(seg.short(), (2, 2)).tolist() == [[[[0, 3], [2, 1]]]]


def test_target_channels():
    seg = torch.tensor([[[-1, 0, 1, 2, 3]]], dtype=torch.int16)
    target = make_target(seg, LABELS)
    assert target.valid.tolist() == [[[0, 1, 1, 1, 0]]]
    assert target.channels.tolist() == [[[0, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 1, 0]]]
    assert make_target(seg, REGIONS).channels.tolist() == [[[0, 0, 1, 1, 0], [0, 0, 0, 1, 0]]]
