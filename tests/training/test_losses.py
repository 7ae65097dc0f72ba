"""Dice and cross-entropy of every kind against float64 loops over voxels."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from segkit.config import LossConfig
from segkit.dataset.labels import LabelClass, LabelSchema, Region
from segkit.training.comparison import compare
from segkit.training.losses import (
    SegmentationLoss,
    comparison_kind,
    deep_supervision_weights,
    dice_loss,
    mean_cross_entropy,
)
from segkit.training.targets import Target, make_target, resize_segmentation
from segkit.training.weights import inverse_log_weights

CLASSES = (LabelClass(name="a", value=7), LabelClass(name="b", value=200))
LABELS = LabelSchema(classes=CLASSES)
REGIONS = LabelSchema(
    classes=CLASSES,
    regions=(
        Region(name="whole", members=(7, 200), paint=7),
        Region(name="core", members=(200,), paint=200),
    ),
)
STRUCTURES = LabelSchema(
    classes=tuple(LabelClass(name=n, value=2**i) for i, n in enumerate("abc")), overlapping=True
)
MEMBERS = [(1, 2), (2,)]
KINDS = pytest.mark.parametrize(
    "schema", [LABELS, REGIONS, STRUCTURES], ids=["labels", "regions", "structures"]
)
SMOOTH = 1e-5
PLAIN = LossConfig()


def random_case(seed, schema, *, masked, samples=2):
    """Logits (B, O, 3, 4, 5) and a segmentation on the same grid."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(samples, schema.num_outputs, 3, 4, 5)) * 3
    low, high = (-1, schema.ignore_index + 1) if masked else (0, schema.ignore_index)
    shape = (samples, schema.seg_channels, 3, 4, 5)
    return logits, rng.integers(low, high, size=shape).astype(np.int16)


def is_masked(seg, schema, channel):
    index = seg[channel if schema.overlapping else 0]
    return index in (-1, schema.ignore_index)


def is_inside(seg, schema, channel):
    """Whether a voxel, a column of the segmentation, belongs to an output channel."""
    if schema.overlapping:
        return seg[channel] == 1
    return seg[0] in MEMBERS[channel] if schema.has_regions else seg[0] == channel


def probabilities_of(logits, sigmoid):
    if sigmoid:
        return 1 / (1 + np.exp(-logits))
    return np.exp(logits) / np.exp(logits).sum()


def entropy_by_hand(probabilities, inside, channel, sigmoid, smoothing):
    """Cross-entropy of a channel (sigmoid), or of a voxel, with the target made less sure."""
    if sigmoid:
        yes = inside * (1 - smoothing) + smoothing / 2
        p = probabilities[channel]
        return -yes * np.log(p) - (1 - yes) * np.log(1 - p)
    others = -np.log(probabilities).mean()
    return -(1 - smoothing) * np.log(probabilities[channel]) + smoothing * others


def loops(logits, seg, schema, weights, config=PLAIN):
    """Collect (cross-entropy, weight) of what counts, and the Dice sums of (sample, channel)."""
    sigmoid = schema.sigmoid or config.one_vs_rest
    weights = np.ones(schema.num_outputs) if weights is None else np.array(weights)
    entropies, sums = [], {}
    for b, *position in np.ndindex(logits.shape[0], *logits.shape[2:]):
        column = seg[(b, slice(None), *position)]
        probabilities = probabilities_of(logits[(b, slice(None), *position)], sigmoid)
        for c, p in enumerate(probabilities):
            if is_masked(column, schema, c):
                continue
            inside = is_inside(column, schema, c)
            if sigmoid or inside:
                entropy = entropy_by_hand(probabilities, inside, c, sigmoid, config.label_smoothing)
                entropies.append((entropy, weights[c]))
            if schema.sigmoid or c > 0:
                sums[b, c] = sums.get((b, c), 0) + np.array([p * inside, p, inside])
    return entropies, sums, weights


def compared_in_float64(logits, seg, schema, weights, config=PLAIN):
    target = make_target(torch.from_numpy(seg), schema)
    target = Target(channels=target.channels.double(), valid=target.valid.double())
    weights = weights and torch.tensor(weights, dtype=torch.float64)
    kind = comparison_kind(schema, config)
    return compare(kind, torch.from_numpy(logits), target, weights, config.label_smoothing)


def cross_entropy_by_hand(entropies, config):
    if config.cross_entropy == "focal":
        entropies = [((1 - np.exp(-e)) ** config.focal_gamma * e, w) for e, w in entropies]
    if config.cross_entropy == "topk":
        hardest = sorted((x for x in entropies if x[1] > 0), key=lambda x: -x[0] * x[1])
        entropies = hardest[: math.ceil(len(hardest) * config.topk_percent / 100)]
    return sum(e * w for e, w in entropies) / sum(w for _, w in entropies)


def dice_by_hand(sums, weights, batch_dice):
    if batch_dice:
        channels = sorted({c for _, c in sums})
        sums = {(0, c): sum(x for (_, d), x in sums.items() if c == d) for c in channels}
    ratios = {
        key: (2 * overlap + SMOOTH) / (predicted + reference + SMOOTH)
        for key, (overlap, predicted, reference) in sums.items()
    }
    total = sum(weights[c] for _, c in ratios)
    return 1 - sum(weights[c] * ratio for (_, c), ratio in ratios.items()) / total


@KINDS
@pytest.mark.parametrize("masked", [True, False], ids=["masked", "whole"])
@pytest.mark.parametrize("weighted", [None, "some", "zero"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"cross_entropy": "focal"},
        {"cross_entropy": "focal", "focal_gamma": 0.5},
        {"cross_entropy": "topk"},
        {"cross_entropy": "topk", "topk_percent": 37.0},
        {"label_smoothing": 0.3},
        {"label_smoothing": 0.1, "cross_entropy": "topk"},
        {"one_vs_rest": True},
        {"one_vs_rest": True, "cross_entropy": "focal"},
        {"one_vs_rest": True, "cross_entropy": "topk", "label_smoothing": 0.2},
    ],
    ids=lambda settings: " ".join(map(str, settings.values())) or "plain",
)
def test_both_terms_equal_loops_in_float64(schema, masked, weighted, settings):
    config = LossConfig(**settings)
    given = {None: None, "some": [0.3, 1.1, 1.6], "zero": [0.0, 1.0, 2.0]}[weighted]
    given = given and given[: schema.num_outputs]
    logits, seg = random_case(1, schema, masked=masked)
    compared = compared_in_float64(logits, seg, schema, given, config)
    entropies, sums, weights = loops(logits, seg, schema, given, config)
    expected = cross_entropy_by_hand(entropies, config)
    assert float(mean_cross_entropy(compared, config)) == pytest.approx(expected, rel=1e-9)
    for batch_dice in (True, False):
        expected = dice_by_hand(sums, weights, batch_dice)
        dice = dice_loss(compared, batch_dice=batch_dice, smooth=SMOOTH)
        assert float(dice) == pytest.approx(expected, rel=1e-9)


def test_weighted_cross_entropy_is_torchs():
    logits, seg = random_case(5, LABELS, masked=False)
    weights = [0.5, 1.0, 1.5]
    compared = compared_in_float64(logits, seg, LABELS, weights)
    expected = F.cross_entropy(
        torch.from_numpy(logits), torch.from_numpy(seg[:, 0]).long(), torch.tensor(weights).double()
    )
    assert float(mean_cross_entropy(compared, LossConfig())) == pytest.approx(float(expected))


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])
def test_label_smoothing_is_torchs(smoothing):
    logits, seg = random_case(6, LABELS, masked=False)
    config = LossConfig(label_smoothing=smoothing)
    compared = compared_in_float64(logits, seg, LABELS, None, config)
    expected = F.cross_entropy(
        torch.from_numpy(logits), torch.from_numpy(seg[:, 0]).long(), label_smoothing=smoothing
    )
    assert float(mean_cross_entropy(compared, config)) == pytest.approx(float(expected))


@KINDS
def test_terms_of_weight_zero_are_left_out(schema):
    logits, seg = map(torch.from_numpy, random_case(7, schema, masked=True))

    def loss(**weights):
        config = LossConfig(**weights)
        return float(SegmentationLoss(schema=schema, config=config, batch_dice=True)(logits, seg))

    parts = loss(dice_weight=0.0) + 2 * loss(cross_entropy_weight=0.0)
    assert loss(dice_weight=2.0) == pytest.approx(parts, rel=1e-6)


@KINDS
def test_variants_without_effect_are_the_plain_loss(schema):
    logits, seg = map(torch.from_numpy, random_case(2, schema, masked=True))
    equal = torch.full((schema.num_outputs,), 0.7)
    plain = SegmentationLoss(schema=schema, config=LossConfig(), batch_dice=False)(logits, seg)
    for config, weights in [
        (LossConfig(cross_entropy="focal", focal_gamma=0.0), None),
        (LossConfig(cross_entropy="topk", topk_percent=100.0), None),
        (LossConfig(), equal),
    ]:
        loss = SegmentationLoss(
            schema=schema, config=config, batch_dice=False, class_weights=weights
        )
        assert float(loss(logits, seg)) == pytest.approx(float(plain), rel=1e-5)


def test_a_channel_that_nobody_annotated_does_not_dilute_dice():
    logits, seg = random_case(3, STRUCTURES, masked=False)
    seg[0, 1] = 2
    compared = compared_in_float64(logits, seg, STRUCTURES, None)
    _, sums, weights = loops(logits, seg, STRUCTURES, None)
    assert len(sums) == 5
    expected = dice_by_hand(sums, weights, False)
    assert float(dice_loss(compared, batch_dice=False, smooth=SMOOTH)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [(1, [1]), (2, [1, 0]), (3, [2 / 3, 1 / 3, 0]), (5, [8 / 15, 4 / 15, 2 / 15, 1 / 15, 0])],
)
def test_deep_supervision_weights(outputs, expected):
    assert deep_supervision_weights(outputs) == pytest.approx(expected)


@KINDS
def test_deep_supervision_is_the_weighted_sum_over_scales(schema):
    rng = np.random.default_rng(0)
    shape = (2, schema.seg_channels, 8, 8)
    indices = rng.integers(-1, schema.ignore_index + 1, size=shape)
    seg = torch.from_numpy(indices.astype(np.int16))
    channels = schema.num_outputs
    outputs = [torch.from_numpy(rng.normal(size=(2, channels, n, n))).float() for n in (8, 4, 2)]
    loss = SegmentationLoss(schema=schema, config=LossConfig(), batch_dice=True)
    small = resize_segmentation(seg, (4, 4))
    expected = 2 / 3 * loss(outputs[0], seg) + 1 / 3 * loss(outputs[1], small)
    assert float(loss(outputs, seg)) == pytest.approx(float(expected), rel=1e-6)


def test_resizing_picks_the_nearest_voxel_of_every_channel():
    seg = torch.tensor([[[[-1, 0, 1, 3], [0, 0, 3, 3], [2, 2, 1, 1], [2, 2, 1, 1]]]])
    both = torch.cat([seg, seg.flip(-1)], dim=1).short()
    small = resize_segmentation(both, (2, 2))
    assert small.dtype == torch.int16
    assert small.tolist() == [[[[0, 3], [2, 1]], [[3, 0], [1, 2]]]]


@pytest.mark.parametrize(
    ("old", "new"),
    [((12, 20, 16), (6, 5, 2)), ((9, 15), (3, 5)), ((7, 5, 12), (7, 3, 8)), ((4, 6), (8, 6))],
)
def test_resizing_takes_the_voxel_at_the_centre_whatever_the_factors(old, new):
    seg = torch.randint(-1, 100, (2, 1, *old), generator=torch.Generator().manual_seed(0)).short()
    found = resize_segmentation(seg, new)
    expected = torch.empty(2, 1, *new, dtype=torch.int16)
    for place in np.ndindex(*new):
        # The centre of the coarse voxel on the fine grid; an edge belongs to what is above.
        source = [int((i + 0.5) * o / n) for i, o, n in zip(place, old, new, strict=True)]
        expected[(..., *place)] = seg[(..., *source)]
    assert torch.equal(found, expected)
    assert found.is_contiguous()


def test_target_channels():
    seg = torch.tensor([[[-1, 0, 1, 2, 3]]], dtype=torch.int16)
    target = make_target(seg, LABELS)
    assert target.valid.tolist() == [[[0, 1, 1, 1, 0]]]
    assert target.channels.tolist() == [[[0, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 1, 0]]]
    assert make_target(seg, REGIONS).channels.tolist() == [[[0, 0, 1, 1, 0], [0, 0, 0, 1, 0]]]
    structures = torch.tensor([[[-1, 0, 1, 2], [1, 2, 2, 0], [0, 0, 0, 0]]], dtype=torch.int16)
    target = make_target(structures, STRUCTURES)
    assert target.channels.tolist() == [[[0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]]]
    assert target.valid.tolist() == [[[0, 1, 1, 0], [1, 0, 0, 1], [1, 1, 1, 1]]]


def test_inverse_log_weights_are_bounded_and_what_never_occurs_weighs_little():
    weights = inverse_log_weights({"never": 0.0, "rare": 1e-9, "half": 0.5, "always": 1.0})
    assert list(weights) == ["never", "rare", "half", "always"]
    assert weights["never"] == weights["always"]
    assert inverse_log_weights({"never": 0.0}) == {"never": 1.0}
    assert weights["rare"] == pytest.approx(1 / math.log(1.02))
    assert weights["half"] == pytest.approx(1 / math.log(1.52))
    assert weights["always"] == pytest.approx(1 / math.log(2.02))
