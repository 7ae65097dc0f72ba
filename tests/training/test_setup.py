"""Parts built from plan and recipe."""

import pytest
import torch

from segkit.config import Recipe, SamplingConfig
from segkit.dataset.labels import LabelClass, LabelSchema
from segkit.dataset.splits import Split
from segkit.errors import UserError
from segkit.planning.plan import ConfigurationPlan, IntensityStatistics, NetworkPlan, Plan
from segkit.training.setup import TrainingTask, build_parts, shrink_patch

STATISTICS = IntensityStatistics(
    mean=0.0, median=0.0, std=1.0, min=0.0, max=1.0, percentile_00_5=0.0, percentile_99_5=1.0
)
CONFIGURATION = ConfigurationPlan(
    spacing_mm=(1.0, 1.0, 1.0),
    patch_size=(16, 16, 16),
    batch_size=3,
    median_shape=(16.0, 16.0, 16.0),
    normalization=("zscore",),
    normalize_inside_mask=(False,),
    batch_dice=True,
    network=NetworkPlan(
        features_per_stage=(2, 4, 4),
        strides=((1, 1, 1), (1, 2, 2), (2, 2, 2)),
        kernel_sizes=((1, 3, 3), (3, 3, 3), (3, 3, 3)),
        convs_per_stage=(1, 1, 1),
        convs_per_decoder_stage=(1, 1),
    ),
)
PLAN = Plan(
    planner="default",
    dataset="Dataset001_Toy",
    channel_names=("MR",),
    transpose_forward=(0, 1, 2),
    orientation=None,
    intensities=(STATISTICS,),
    configurations={"3d_fullres": CONFIGURATION},
)


def task(fold=0, **sampling):
    return TrainingTask(
        plan=PLAN,
        configuration="3d_fullres",
        schema=LabelSchema(classes=(LabelClass(name="a", value=1),)),
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


def test_weights_follow_from_seed_and_fold():
    cpu = torch.device("cpu")
    first = weights(build_parts(task(), None, cpu))
    assert torch.equal(first, weights(build_parts(task(), None, cpu)))
    assert not torch.equal(first, weights(build_parts(task(fold=1), None, cpu)))
    assert not torch.equal(first, weights(build_parts(task(fold="all"), None, cpu)))


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
