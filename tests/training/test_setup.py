"""Parts built from plan and recipe."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import tiny_configuration, tiny_network, tiny_plan

from segkit.config import AugmentConfig, LossConfig, OptimizerConfig, Recipe, SamplingConfig
from segkit.dataset.labels import LabelClass, LabelSchema
from segkit.dataset.sides import Sides
from segkit.dataset.splits import Split
from segkit.errors import UserError
from segkit.training.parts import load_batch
from segkit.training.setup import build_parts
from segkit.training.step import train_step
from segkit.training.task import TrainingTask, shrink_patch

NETWORK = tiny_network(
    stages=3,
    features_per_stage=(2, 4, 4),
    strides=((1, 1, 1), (1, 2, 2), (2, 2, 2)),
    kernel_sizes=((1, 3, 3), (3, 3, 3), (3, 3, 3)),
)
CONFIGURATION = tiny_configuration(
    patch_size=(16, 16, 16),
    batch_size=3,
    median_shape=(16.0, 16.0, 16.0),
    batch_dice=True,
    network=NETWORK,
)
PLAN = tiny_plan(CONFIGURATION)
SCHEMA = LabelSchema(classes=(LabelClass(name="a", value=1),))
STRUCTURES = LabelSchema(
    classes=(LabelClass(name="b", value=1), LabelClass(name="c", value=2)), overlapping=True
)


def task(fold=0, **sampling):
    return TrainingTask(
        plan=PLAN,
        configuration="3d_fullres",
        schema=SCHEMA,
        split=Split(train=("x",), val=("y",)),
        fold=fold,
        recipe=Recipe(sampling=SamplingConfig(**sampling)),
    )


def weights(parts):
    return torch.cat([p.detach().flatten() for p in parts.network.parameters()])


def test_sizes_come_from_the_recipe_else_from_the_plan():
    assert (task().patch_size, task().batch_size) == ((16, 16, 16), 3)
    other = task(patch_size=(4, 8, 8), batch_size=5)
    parts = build_parts(other, None, torch.device("cpu"))
    assert parts.validation_loader.settings.sampled_size == (4, 8, 8)
    assert parts.train_loader.settings.batch_size == 5
    assert all(
        sampled >= final
        for sampled, final in zip(parts.train_loader.settings.sampled_size, (4, 8, 8), strict=True)
    )


def loss_weights(given, schema=SCHEMA, frequencies=None):
    recipe = Recipe(loss=LossConfig(class_weights=given))
    changed = replace(task(), schema=schema, recipe=recipe, frequencies=frequencies)
    return build_parts(changed, None, torch.device("cpu")).loss.class_weights


def test_loss_weights_are_ordered_like_the_network_outputs_and_have_mean_1():
    assert loss_weights(None) is None
    assert loss_weights({}) is None
    assert loss_weights({"a": 3.0}).tolist() == [0.5, 1.5]
    assert loss_weights({"background": 0.0}).tolist() == [0.0, 2.0]
    assert loss_weights({"b": 3.0}, STRUCTURES).tolist() == [1.5, 0.5]


def test_automatic_loss_weights_favour_what_is_rare():
    shares = {"background": 0.98, "a": 0.02}
    raw = torch.tensor([1 / math.log(2.0), 1 / math.log(1.04)])
    assert torch.allclose(loss_weights("auto", frequencies=shares), raw / raw.mean())


@pytest.mark.parametrize(
    ("given", "schema", "frequencies", "message"),
    [
        ({"background": 0.0, "a": 0.0}, SCHEMA, None, "every weight is 0"),
        ({"background": 2.0}, STRUCTURES, None, "no 'background' to give a weight"),
        ({"backgruond": 2.0}, SCHEMA, None, "did you mean 'background'"),
        ("auto", SCHEMA, None, "run segkit plan_and_preprocess again"),
        ("auto", SCHEMA, {"background": 1.0}, "nobody has counted how frequent 'a' is"),
    ],
)
def test_loss_weights_that_cannot_be_are_refused(given, schema, frequencies, message):
    with pytest.raises(UserError, match=message) as caught:
        loss_weights(given, schema, frequencies)
    assert "loss.class_weights" in str(caught.value)


def test_weights_follow_from_seed_and_fold():
    cpu = torch.device("cpu")
    first = weights(build_parts(task(), None, cpu))
    assert torch.equal(first, weights(build_parts(task(), None, cpu)))
    assert not torch.equal(first, weights(build_parts(task(fold=1), None, cpu)))
    assert not torch.equal(first, weights(build_parts(task(fold="all"), None, cpu)))


def test_sigmoids_are_asked_for_where_there_is_a_choice():
    wanted = replace(task(), recipe=Recipe(loss=LossConfig(one_vs_rest=True)))
    assert wanted.loss.one_vs_rest
    with pytest.raises(UserError, match=r"one_vs_rest has no effect"):
        build_parts(replace(wanted, schema=STRUCTURES), None, torch.device("cpu"))


@pytest.mark.parametrize("size", [(3, 8, 8), (4, 6, 8), (8, 8), (2, 4, 4)])
def test_patches_the_network_cannot_halve_are_refused(size):
    with pytest.raises(UserError, match="multiples of 2 x 4 x 4"):
        build_parts(task(patch_size=size), None, torch.device("cpu"))


@pytest.mark.parametrize(
    ("size", "divisors", "most", "expected"),
    [
        ((128, 160, 112), (32, 32, 16), None, (128, 160, 112)),
        ((128, 160, 112), (32, 32, 16), 10**9, (128, 160, 112)),
        ((128, 160, 112), (32, 32, 16), 200_000, (64, 64, 48)),
        ((16, 16), (8, 8), 1, (16, 16)),
        ((20, 320, 256), (4, 64, 64), 1, (8, 128, 128)),
    ],
)
def test_patches_shrink_step_by_step(size, divisors, most, expected):
    assert shrink_patch(size, divisors, most) == expected


def test_sampling_weights_are_for_training_only():
    given = {"class_weights": {"a": 3}, "case_weights": {"x": 2, "y": 5}}
    parts = build_parts(task(**given), None, torch.device("cpu"))
    settings = parts.train_loader.settings
    assert settings.class_weights == {1: 3}
    assert settings.case_weights == (2,)
    assert settings.epoch_batches is None
    settings = parts.validation_loader.settings
    assert settings.class_weights is settings.case_weights is None
    assert settings.epoch_batches == 50


def test_sampling_weights_of_strangers_are_refused():
    with pytest.raises(UserError, match=r"no 'A'(.|\n)*sampling\.class_weights"):
        build_parts(task(class_weights={"A": 3}), None, torch.device("cpu"))
    with pytest.raises(UserError, match=r"no 'z'(.|\n)*sampling\.case_weights"):
        build_parts(task(case_weights={"z": 3}), None, torch.device("cpu"))
    with pytest.raises(UserError, match=r"every weight is 0 \(1 in all\)"):
        build_parts(task(case_weights={"x": 0, "y": 1}), None, torch.device("cpu"))


def test_cases_without_annotation_are_never_drawn_for_training():
    def settings(given, *unannotated):
        split = Split(train=("w", "x", "z"), val=("y",))
        made = replace(task(case_weights=given), split=split, unannotated=unannotated)
        parts = build_parts(made, None, torch.device("cpu"))
        assert parts.validation_loader.settings.case_weights is None
        return parts.train_loader.settings.case_weights

    assert settings(None, "y") is None
    assert settings(None, "x", "y") == (1, 0, 1)
    assert settings({"x": 3, "z": 2}, "x") == (1, 0, 2)
    with pytest.raises(UserError, match="no training case that may be drawn has an annotated"):
        settings({"w": 0, "z": 0}, "x")
    with pytest.raises(UserError, match="no training case that may be drawn has an annotated"):
        settings(None, "w", "x", "z")


@pytest.mark.parametrize(
    ("forced", "given", "expected"),
    [
        (True, None, "masked"),
        (False, None, "background"),
        (False, "masked", "masked"),
        (True, "background", "background"),
    ],
)
def test_invalid_voxels_are_trained_where_they_are_predicted(forced, given, expected):
    plan = replace(PLAN, force_invalid_to_background=forced)
    changed = replace(task(), plan=plan, recipe=Recipe(loss=LossConfig(invalid_voxels=given)))
    parts = build_parts(changed, None, torch.device("cpu"))
    assert parts.invalid_voxels == parts.loss.config.invalid_voxels == expected


class Balls:
    """Cases with a bright ball, class 1, somewhere in noise."""

    def __init__(self, channels=1):
        self.channels = channels

    def _ball(self, case_id):
        centre = np.random.default_rng(ord(case_id)).integers(6, 18, (3, 1, 1, 1))
        return ((np.indices((24, 24, 24)) - centre) ** 2).sum(0, keepdims=True) < 30

    def image(self, case_id):
        noise = np.random.default_rng(1).standard_normal((1, 24, 24, 24))
        return (self._ball(case_id) + 0.5 * noise).astype(np.float32)

    def seg(self, case_id):
        return self._ball(case_id).astype(np.int16).repeat(self.channels, axis=0)

    def locations(self, case_id):
        return {int(self.channels == 1): np.argwhere(self._ball(case_id)[0])}


CASCADE_PLAN = replace(
    PLAN,
    configurations={
        "3d_lowres": replace(CONFIGURATION, spacing_mm=(2.0, 2.0, 2.0)),
        "3d_cascade_fullres": replace(CONFIGURATION, previous_stage="3d_lowres"),
    },
)


@pytest.mark.parametrize("schema", [SCHEMA, STRUCTURES])
def test_a_cascade_takes_a_channel_more_for_every_class(schema):
    source = Balls(schema.seg_channels)
    staged = replace(
        task(),
        plan=CASCADE_PLAN,
        configuration="3d_cascade_fullres",
        schema=schema,
        previous=source.seg,
    )
    parts = build_parts(staged, source, torch.device("cpu"))
    first = next(parts.network.parameters())
    assert first.shape[1] == 1 + len(schema.classes)
    batch = load_batch(parts.train_loader, parts.device)
    assert batch.seg.shape[1] == 2 * schema.seg_channels
    assert np.isfinite(train_step(parts, [batch], 0))
    batch = load_batch(parts.validation_loader, parts.device)
    arranged, seg = parts.arrange(batch.image, batch.seg)
    assert torch.equal(arranged[:, 1:], (seg == 1).float())
    for wrong in (replace(staged, previous=None), replace(staged, configuration="3d_lowres")):
        with pytest.raises(AssertionError, match="a previous stage is read where there is one"):
            build_parts(wrong, source, torch.device("cpu"))


def losses_of_a_short_training(precision):
    recipe = Recipe(precision=precision, optimizer=OptimizerConfig(momentum=0.9))
    wide = replace(CONFIGURATION.network, features_per_stage=(8, 16, 16))
    plan = replace(PLAN, configurations={"3d_fullres": replace(CONFIGURATION, network=wide)})
    device = torch.device("cpu")
    parts = build_parts(replace(task(), plan=plan, recipe=recipe), Balls(), device)
    batches = (load_batch(parts.train_loader, device) for _ in range(60))
    return [train_step(parts, [batch], step) for step, batch in enumerate(batches)]


def test_a_short_training_in_bf16_ends_where_one_in_fp32_ends():
    exact, rounded = map(losses_of_a_short_training, ("fp32", "bf16"))
    last, last_rounded = np.mean(exact[-20:]), np.mean(rounded[-20:])
    assert last < 0.6 * exact[0]
    assert last_rounded == pytest.approx(last, abs=0.02)


SIDED = LabelSchema(
    classes=tuple(LabelClass(name=name, value=i) for i, name in enumerate(("l", "m", "r"), 1))
)


def test_labels_are_swapped_where_the_axis_between_left_and_right_is_mirrored():
    plan = replace(PLAN, orientation="LPS")
    sided = replace(task(), plan=plan, schema=SIDED, sides=Sides(pairs=(("l", "r"),)))
    swap = build_parts(sided, None, torch.device("cpu")).augment.swap
    assert (swap.axis, swap.classes, swap.overlapping) == (2, (2, 1, 0), False)
    for other in (
        replace(sided, sides=None),  # looks like a pair, but nobody said so: not mirrored
        replace(sided, sides=Sides(pairs=())),
        replace(sided, recipe=replace(sided.recipe, augment=AugmentConfig(mirror=(0, 1)))),
    ):
        assert build_parts(other, None, torch.device("cpu")).augment.swap is None
    assert replace(sided, sides=None).spatial.mirror_axes == (0, 1)
