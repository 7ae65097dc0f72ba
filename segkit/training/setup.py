"""Builds the parts of a training run from plan, recipe and preprocessed cases."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from segkit.config import AveragingConfig, InvalidVoxels, LossConfig, Recipe
from segkit.dataset.labels import LabelSchema
from segkit.dataset.sides import Sides, class_swap
from segkit.dataset.splits import Split
from segkit.errors import UserError
from segkit.networks.build import build_network
from segkit.networks.demands import Demands, check_own_network
from segkit.networks.inputs import input_channels
from segkit.networks.own import OwnNetwork
from segkit.networks.settle import settled_network, settled_unet
from segkit.planning.plan import ConfigurationPlan, NetworkPlan, Plan
from segkit.planning.sides import PatchSides, patch_sides
from segkit.precision import Precision, choose_precision
from segkit.preprocessing.locations import target_keys
from segkit.training.augment import (
    Augmenter,
    CascadeAugmenter,
    LabelSwap,
    SpatialSettings,
    as_input,
    load_extra,
    sampled_patch_size,
    spatial_settings,
)
from segkit.training.averaging import WeightAverage
from segkit.training.losses import SegmentationLoss, inverse_log_weights
from segkit.training.optim import Stepper, build_optimizer
from segkit.training.parts import Arrange, Augment, TrainingParts, as_it_is
from segkit.training.patches import LabelMaps, PatchLoader, PatchSettings, PatchSource
from segkit.training.sampling import weights_in_order

TRAINING_STREAM, VALIDATION_STREAM = 0, 1
Fold = int | Literal["all"]
_LOSS_WEIGHTS = "loss.class_weights"


@dataclass(frozen=True, kw_only=True)
class TrainingTask:
    """What is to be trained: one fold of one planned configuration."""

    plan: Plan
    configuration: str
    schema: LabelSchema
    split: Split
    fold: Fold
    recipe: Recipe
    frequencies: Mapping[str, float] | None = None
    """Share of the annotated voxels for every target, for ``loss.class_weights: auto``."""
    sides: Sides | None = None
    """Labels that are each other's mirror image; None where nobody said."""
    previous: LabelMaps | None = None
    """In a cascade: reads what the previous stage predicts of a case, on the grid of this one."""
    unannotated: Collection[str] = ()
    """Cases without an annotated voxel: there is nothing to learn from them, and they are never
    drawn for training."""

    @property
    def configured(self) -> ConfigurationPlan:
        """The planned configuration."""
        return self.plan.configuration(self.configuration)

    @property
    def patch_size(self) -> tuple[int, ...]:
        """The recipe's patch size, else the plan's, shrunk where the recipe says so."""
        sampling, planned = self.recipe.sampling, self.configured
        if sampling.patch_size is not None:
            return sampling.patch_size
        divisors = np.prod(np.asarray(self._unet.strides), axis=0).tolist()
        return shrink_patch(planned.patch_size, divisors, sampling.max_patch_voxels)

    @property
    def _unet(self) -> NetworkPlan:
        return settled_unet(self.configured.network, self.recipe.network)

    @property
    def network(self) -> NetworkPlan:
        """The network that is trained: the planned one as the recipe changes it, or a class.

        Raises:
            UserError: more stages than planned, or a class that only the plan names.
        """
        return settled_network(
            self._unet,
            self.configured.network,
            self.recipe.network,
            patch_size=self.patch_size,
            deep_supervision=self.recipe.loss.deep_supervision,
        )

    @property
    def batch_size(self) -> int:
        """The recipe's batch size, else the plan's."""
        return self.recipe.sampling.batch_size or self.configured.batch_size

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(B, C, *S) of every batch that the network sees in training."""
        channels = input_channels(self.plan, self.configuration, self.schema)
        return (self.batch_size, channels, *self.patch_size)

    @property
    def loss(self) -> LossConfig:
        """The recipe's loss with what it leaves to plan and data settled: weights in numbers.

        Raises:
            UserError: weights are to follow frequencies that are unknown, or a setting has no
                effect on these labels.
        """
        loss = self.recipe.loss
        if loss.one_vs_rest and self.schema.sigmoid:
            what = "loss.one_vs_rest has no effect: regions and structures have sigmoids anyway"
            raise UserError(what, where="loss.one_vs_rest", fix="leave it out")
        return replace(
            loss, invalid_voxels=self.invalid_voxels, class_weights=_settled_weights(self)
        )

    @property
    def settled_recipe(self) -> Recipe:
        """The recipe with numbers where it left them to plan, data or the optimiser."""
        optimizer = self.recipe.optimizer.settled()
        return replace(self.recipe, loss=self.loss, optimizer=optimizer)

    @property
    def invalid_voxels(self) -> InvalidVoxels:
        """The recipe's treatment of invalid voxels, else what fits the plan's at prediction."""
        forced = self.plan.force_invalid_to_background
        return self.recipe.loss.invalid_voxels or ("masked" if forced else "background")

    @property
    def spatial(self) -> SpatialSettings:
        """Rotation range, dummy 2D and mirror axes for this patch."""
        return spatial_settings(self.patch_size, self.recipe.augment, self.patch_sides)

    @property
    def patch_sides(self) -> PatchSides:
        """What left and right are to this patch."""
        return patch_sides(self.plan, len(self.patch_size), self.schema, self.sides)

    @property
    def swap_axis(self) -> int | None:
        """Axis of the patch along which a flip makes labels change places; None where none does."""
        sides = self.patch_sides
        return sides.axis if sides.pairs and sides.axis in self.spatial.mirror_axes else None


def shrink_patch(
    size: tuple[int, ...], divisors: Sequence[int], max_voxels: int | None
) -> tuple[int, ...]:
    """Take from the axis with most steps, a divisor at a time, until few enough voxels are left.

    Every axis keeps two steps, two voxels at the lowest resolution, even if that is too many.
    """
    patch = list(size)
    while max_voxels is not None and math.prod(patch) > max_voxels:
        steps = [n / divisor for n, divisor in zip(patch, divisors, strict=True)]
        axis = steps.index(max(steps))
        if steps[axis] <= 2:
            break
        patch[axis] -= divisors[axis]
    return tuple(patch)


def build_parts(task: TrainingTask, source: PatchSource, device: torch.device) -> TrainingParts:
    """Build network, optimiser, loss, loaders and augmentation, seeded by recipe and fold.

    Raises:
        UserError: a patch size that the network cannot halve as often as planned, or weights of
            classes that do not exist or whose frequencies are unknown.
    """
    _check_patch_size(task)
    _check_channel_dropout(task)
    recipe, configured, loss = task.settled_recipe, task.configured, task.loss
    precision = choose_precision(recipe.precision, device)
    network = _build_network(task, precision, device)
    optimizer = build_optimizer(network, recipe.optimizer)
    scaled = precision.dtype == torch.float16
    return TrainingParts(
        network=network,
        stepper=Stepper(network, optimizer, recipe.optimizer.gradient_clip, scaled=scaled),
        average=_average(network, recipe.averaging),
        loss=SegmentationLoss(
            schema=task.schema,
            config=loss,
            batch_dice=configured.batch_dice if loss.batch_dice is None else loss.batch_dice,
            class_weights=_output_weights(task, device),
        ),
        schema=task.schema,
        invalid_voxels=loss.invalid_voxels,
        augment=_augment(task),
        arrange=_arrange(task),
        train_loader=_loader(task, source, task.split.train, TRAINING_STREAM),
        validation_loader=_loader(task, source, task.split.val, VALIDATION_STREAM),
        device=device,
        precision=precision,
    )


def _build_network(task: TrainingTask, precision: Precision, device: torch.device) -> nn.Module:
    torch.manual_seed(_seed(task)[0] * 1000 + _seed(task)[1])
    channels, outputs = task.input_shape[1], task.schema.num_outputs
    network = build_network(
        task.network,
        in_channels=channels,
        out_channels=outputs,
        deep_supervision=task.recipe.loss.deep_supervision,
        checkpointing=task.recipe.network.checkpointing,
    ).to(device)
    if isinstance(network, OwnNetwork):
        demands = Demands(
            in_channels=channels,
            out_channels=outputs,
            patch_size=task.patch_size,
            batch_size=min(task.batch_size, 2),
            precision=precision,
            device=device,
        )
        check_own_network(network, demands)
    return network


def _average(network: nn.Module, averaging: AveragingConfig) -> WeightAverage | None:
    return None if averaging.decay is None else WeightAverage(network, averaging.decay)


def _settled_weights(task: TrainingTask) -> dict[str, float] | None:
    """Return ``loss.class_weights`` in numbers."""
    given, names = task.recipe.loss.class_weights, task.schema.output_names
    if given != "auto":
        return given
    known = task.frequencies or {}
    if missing := [name for name in names if name not in known]:
        what = f"{_LOSS_WEIGHTS} is auto, but nobody has counted how frequent {missing[0]!r} is"
        fix = "run segkit plan_and_preprocess again, or give the weights: "
        fix += f"--set '{_LOSS_WEIGHTS}={{{names[-1]}: 2}}'"
        raise UserError(what, where=_LOSS_WEIGHTS, fix=fix)
    return inverse_log_weights({name: known[name] for name in names})


def _output_weights(task: TrainingTask, device: torch.device) -> Tensor | None:
    """(O,) weight of every network output with mean 1, or None where all weigh the same."""
    given, names = _settled_weights(task), task.schema.output_names
    weights = weights_in_order(given, names, key=_LOSS_WEIGHTS)
    if weights is None or len(set(weights)) == 1:
        return None
    mean = sum(weights) / len(weights)
    return torch.tensor([weight / mean for weight in weights], device=device)


def _loader(
    task: TrainingTask, source: PatchSource, cases: tuple[str, ...], stream: int
) -> PatchLoader:
    training = stream == TRAINING_STREAM
    sampling = task.recipe.sampling
    settings = PatchSettings(
        sampled_size=sampled_patch_size(task.spatial, task.recipe.augment)
        if training
        else task.patch_size,
        final_size=task.patch_size,
        batch_size=task.batch_size,
        foreground_share=sampling.foreground_share,
        probabilistic=training and sampling.foreground == "probabilistic",
        seed=(*_seed(task), stream),
        class_weights=_class_weights(task) if training else None,
        case_weights=_case_weights(task) if training else None,
        epoch_batches=None if training else task.recipe.schedule.validation_iterations,
    )
    return PatchLoader(source, cases, settings, task.previous)


def _augment(task: TrainingTask) -> Augment:
    recipe, masked = task.recipe, task.configured.normalize_inside_mask
    maps = task.schema.seg_channels
    augment = Augmenter(
        recipe.augment,
        task.spatial,
        masked,
        reference_maps=maps,
        swap=_label_swap(task),
        extras=tuple(load_extra(one, task.schema.ignore_index) for one in recipe.augment.extra),
    )
    if not _is_cascade(task):
        return augment
    return CascadeAugmenter(augment=augment, schema=task.schema, config=recipe.cascade)


def _label_swap(task: TrainingTask) -> LabelSwap | None:
    if task.swap_axis is None:
        return None
    return LabelSwap(
        axis=task.swap_axis,
        classes=class_swap(task.schema, task.patch_sides.pairs),
        overlapping=task.schema.overlapping,
    )


def _arrange(task: TrainingTask) -> Arrange:
    return partial(as_input, schema=task.schema) if _is_cascade(task) else as_it_is


def _is_cascade(task: TrainingTask) -> bool:
    cascade = task.plan.previous_stage(task.configuration) is not None
    assert cascade == (task.previous is not None), "a previous stage is read where there is one"
    return cascade


def _class_weights(task: TrainingTask) -> dict[int, float] | None:
    given, key = task.recipe.sampling.class_weights, "sampling.class_weights"
    weights = weights_in_order(given, task.schema.target_names, key=key)
    return None if weights is None else dict(zip(target_keys(task.schema), weights, strict=True))


def _case_weights(task: TrainingTask) -> tuple[float, ...] | None:
    given, key = task.recipe.sampling.case_weights, "sampling.case_weights"
    cases = task.split.train
    weights = weights_in_order(given, cases, key=key, without_effect=task.split.val)
    if not set(task.unannotated) & set(cases):
        return weights
    weights = tuple(
        0.0 if case in task.unannotated else weight
        for case, weight in zip(cases, weights or (1.0,) * len(cases), strict=True)
    )
    if not any(weights):
        what = "no training case that may be drawn has an annotated voxel"
        fix = "annotate some, or see what segkit validate says of them"
        raise UserError(what, where=f"fold {task.fold}", fix=fix)
    return weights


def _seed(task: TrainingTask) -> tuple[int, int]:
    return task.recipe.seed, 999 if task.fold == "all" else task.fold


def _check_channel_dropout(task: TrainingTask) -> None:
    if task.recipe.augment.p_channel_dropout and len(task.plan.channel_names) == 1:
        what = "there is one channel only, and one at least has to stay"
        raise UserError(what, where="augment.p_channel_dropout", fix="leave it at 0")


def _check_patch_size(task: TrainingTask) -> None:
    strides = np.prod(np.asarray(task.network.strides), axis=0)
    size = np.asarray(task.patch_size)
    if task.network.class_ is not None and len(size) == len(strides):
        # What a class can take is found out by trying.
        return
    fits = len(size) == len(strides) and not any(size % strides)
    # Instance norm needs more than one voxel, also at the lowest resolution.
    if fits and np.prod(size // strides) > 1:
        return
    needed = " x ".join(map(str, strides))
    raise UserError(
        f"patch size {size.tolist()} does not fit the planned network",
        where="sampling.patch_size",
        fix=f"use {len(strides)} multiples of {needed}, larger than these; planned: "
        f"{list(task.configured.patch_size)}",
    )
