"""What is masked has no influence: gradients exactly zero, at every scale and in every variant."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segkit.config import LossConfig
from segkit.dataset.labels import LabelClass, LabelSchema, Region
from segkit.training.losses import SegmentationLoss
from segkit.training.targets import resize_segmentation

CLASSES = tuple(LabelClass(name=name, value=2**i) for i, name in enumerate("abc"))
REGION_LIST = (
    Region(name="whole", members=(1, 2, 4), paint=1),
    Region(name="core", members=(2, 4), paint=2),
    Region(name="middle", members=(4,), paint=4),
)
LABELS = LabelSchema(classes=CLASSES)
REGIONS = LabelSchema(classes=CLASSES, regions=REGION_LIST)
STRUCTURES = LabelSchema(classes=CLASSES, overlapping=True)
SCHEMAS = {"labels": LABELS, "regions": REGIONS, "structures": STRUCTURES}
VARIANTS = {
    "plain": LossConfig(),
    "focal": LossConfig(cross_entropy="focal", focal_gamma=0.5),
    "topk": LossConfig(cross_entropy="topk", topk_percent=60.0),
    "smoothed": LossConfig(label_smoothing=0.2),
    "one vs rest": LossConfig(one_vs_rest=True),
    "no smooth": LossConfig(dice_smooth=0.0),
    "dice alone": LossConfig(cross_entropy_weight=0.0),
    "cross-entropy alone": LossConfig(dice_weight=0.0),
}
EVERY_KIND = pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
EVERY_VARIANT = pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
EVERY_DICE = pytest.mark.parametrize("batch_dice", [True, False], ids=["batch", "sample"])
WEIGHTED = pytest.mark.parametrize("weighted", [True, False], ids=["weighted", "unweighted"])
SIZES = (8, 4, 2)


def make_loss(schema, config, batch_dice=True, weighted=False):
    weights = torch.linspace(0.5, 1.5, schema.num_outputs) if weighted else None
    return SegmentationLoss(
        schema=schema, config=config, batch_dice=batch_dice, class_weights=weights
    )


def random_batch(schema, seed=0, *, lowest=-1):
    """Logits at three scales and a segmentation (2, 1 or S, 8, 8) with every index."""
    rng = np.random.default_rng(seed)
    channels = schema.num_outputs
    outputs = [
        torch.from_numpy(rng.normal(size=(2, channels, n, n)) * 3).float().requires_grad_()
        for n in SIZES
    ]
    shape = (2, schema.seg_channels, 8, 8)
    seg = rng.integers(lowest, schema.ignore_index + 1, size=shape).astype(np.int16)
    return outputs, torch.from_numpy(seg)


def gradients(loss, outputs, seg):
    """Gradient at every scale that is trained; the lowest has weight 0."""
    loss(outputs, seg).backward()
    assert outputs[-1].grad is None
    return [output.grad for output in outputs[:-1]]


@EVERY_KIND
@EVERY_VARIANT
@EVERY_DICE
@WEIGHTED
def test_gradient_is_exactly_zero_under_the_mask(schema, config, batch_dice, weighted):
    outputs, seg = random_batch(schema)
    loss = make_loss(schema, config, batch_dice, weighted)
    for gradient in gradients(loss, outputs, seg):
        small = resize_segmentation(seg, gradient.shape[2:])
        masked = ((small == -1) | (small == schema.ignore_index)).expand_as(gradient)
        assert masked.any()
        assert (gradient[masked] == 0).all()
        assert (gradient[~masked] != 0).all()


@EVERY_VARIANT
@EVERY_DICE
@WEIGHTED
def test_a_structure_not_annotated_in_a_case_learns_nothing_from_it(config, batch_dice, weighted):
    outputs, seg = random_batch(STRUCTURES, lowest=0)
    seg[0, 1] = STRUCTURES.ignore_index
    loss = make_loss(STRUCTURES, config, batch_dice, weighted)
    for gradient in gradients(loss, outputs, seg):
        assert (gradient[0, 1] == 0).all()
        assert (gradient[1, 1] != 0).any()
        assert (gradient[0, 0] != 0).any()


@EVERY_KIND
@EVERY_VARIANT
def test_masked_voxels_may_hold_any_logit_and_any_mask(schema, config):
    outputs, seg = random_batch(schema)
    loss = make_loss(schema, config)
    ignore = schema.ignore_index
    masked = (seg == -1) | (seg == ignore)
    other = torch.where(masked, 50.0, outputs[0])
    swapped = torch.where(masked, torch.where(seg == -1, ignore, -1), seg)
    assert float(loss(other, swapped).detach()) == float(loss(outputs[0], seg).detach())


@EVERY_KIND
@EVERY_VARIANT
@EVERY_DICE
@WEIGHTED
@pytest.mark.parametrize("smooth", [1e-5, 0.0])
def test_nothing_to_learn_from_gives_zero(schema, config, batch_dice, weighted, smooth):
    outputs, seg = random_batch(schema)
    loss = make_loss(schema, replace(config, dice_smooth=smooth), batch_dice, weighted)
    empty = torch.full_like(seg, -1)
    assert float(loss(outputs, empty).detach()) == 0
    # A large factor, as the loss scaler of fp16 has.
    for gradient in gradients(lambda *x: 2**16 * loss(*x), outputs, empty):
        assert (gradient == 0).all()


@pytest.mark.parametrize("variant", ["plain", "focal", "topk", "smoothed"])
def test_only_classes_of_weight_zero_give_zero(variant):
    outputs, seg = random_batch(LABELS)
    loss = SegmentationLoss(
        schema=LABELS,
        config=replace(VARIANTS[variant], dice_weight=0.0),
        batch_dice=True,
        class_weights=torch.tensor([0.0, 1.0, 1.0, 2.0]),
    )
    background = torch.zeros_like(seg)
    assert float(loss(outputs, background).detach()) == 0
    assert all((gradient == 0).all() for gradient in gradients(loss, outputs, background))


@EVERY_KIND
@EVERY_VARIANT
def test_sure_predictions_right_or_wrong_have_finite_gradients(schema, config):
    outputs, seg = random_batch(schema)
    sure = [(output.detach().sign() * 200).requires_grad_() for output in outputs]
    loss = make_loss(schema, config)
    assert all(gradient.isfinite().all() for gradient in gradients(loss, sure, seg))


@EVERY_KIND
@EVERY_VARIANT
@EVERY_DICE
def test_invalid_voxels_can_be_trained_as_background(schema, config, batch_dice):
    outputs, seg = random_batch(schema)
    loss = make_loss(schema, replace(config, invalid_voxels="background"), batch_dice)
    masking = make_loss(schema, config, batch_dice)
    trained, expected = loss(outputs, seg), masking(outputs, torch.where(seg == -1, 0, seg))
    assert float(trained.detach()) == float(expected.detach())


@EVERY_KIND
@EVERY_VARIANT
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
def test_half_precision_logits_are_compared_in_float32(schema, config, dtype):
    outputs, seg = random_batch(schema)
    halves = [output.detach().to(dtype) for output in outputs]
    loss = make_loss(schema, config, weighted=True)
    assert loss(halves, seg).dtype == torch.float32
    assert float(loss(halves, seg)) == float(loss([half.float() for half in halves], seg))


@EVERY_KIND
@EVERY_VARIANT
def test_nothing_is_read_back_from_the_device(schema, config):
    """Tensors on the device meta have no values, so reading one would be an error."""
    outputs, seg = random_batch(schema)
    loss = make_loss(schema, config, weighted=True)
    loss = replace(loss, class_weights=loss.class_weights.to("meta"))
    result = loss([output.to("meta") for output in outputs], seg.to("meta"))
    assert result.shape == ()


def reordered(schema, order):
    """The schema with its classes, and regions, in another order."""
    return replace(
        schema,
        classes=tuple(schema.classes[i] for i in order),
        regions=tuple(schema.regions[i] for i in order) if schema.regions else (),
    )


def reorder_batch(schema, order, logits, seg):
    """What the same voxels and the same network look like under the reordered schema."""
    if schema.overlapping:
        return logits[:, order], seg[:, order]
    renumbered = seg.clone()
    for new, old in enumerate(order, start=1):
        renumbered[seg == old + 1] = new
    channels = order if schema.has_regions else [0, *(i + 1 for i in order)]
    return logits[:, channels], renumbered


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(sorted(SCHEMAS)),
    variant=st.sampled_from(sorted(VARIANTS)),
    order=st.permutations(range(3)),
    seed=st.integers(0, 2**32 - 1),
    batch_dice=st.booleans(),
)
def test_the_order_of_declaration_changes_nothing(kind, variant, order, seed, batch_dice):
    schema, config = SCHEMAS[kind], VARIANTS[variant]
    outputs, seg = random_batch(schema, seed)
    weights = torch.tensor([0.5, 1.5, 2.5])
    background = [] if schema.sigmoid else [torch.tensor([1.0])]
    first = SegmentationLoss(
        schema=schema,
        config=config,
        batch_dice=batch_dice,
        class_weights=torch.cat([*background, weights]),
    )
    other = replace(
        first,
        schema=reordered(schema, order),
        class_weights=torch.cat([*background, weights[list(order)]]),
    )
    logits, renumbered = reorder_batch(schema, list(order), outputs[0].detach(), seg)
    expected = float(first(outputs[0].detach(), seg))
    assert float(other(logits, renumbered)) == pytest.approx(expected, rel=1e-5)
