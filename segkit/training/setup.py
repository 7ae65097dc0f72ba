"""Builds the parts of a training run from plan, recipe and preprocessed cases."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import nn

from segkit.config import AveragingConfig
from segkit.dataset.sides import class_swap
from segkit.errors import UserError
from segkit.networks.build import build_network
from segkit.networks.demands import Demands, check_own_network
from segkit.networks.own import OwnNetwork
from segkit.planning.topology import total_stride
from segkit.precision import Precision, choose_precision
from segkit.preprocessing.locations import target_keys
from segkit.training.augment import (
    Augmenter,
    CascadeAugmenter,
    LabelSwap,
    as_input,
    load_extra,
    sampled_patch_size,
)
from segkit.training.averaging import WeightAverage
from segkit.training.losses import SegmentationLoss
from segkit.training.optim import Stepper, build_optimizer
from segkit.training.parts import Arrange, Augment, TrainingParts, as_it_is
from segkit.training.patches import PatchLoader, PatchSettings, PatchSource
from segkit.training.sampling import weights_in_order
from segkit.training.task import TrainingTask
from segkit.training.weights import output_weights

TRAINING_STREAM, VALIDATION_STREAM = 0, 1


def build_parts(task: TrainingTask, source: PatchSource, device: torch.device) -> TrainingParts:
    """Build network, optimiser, loss, loaders and augmentation, seeded by recipe and fold.

    Raises:
        UserError: a patch size that the network cannot halve as often as planned, or weights of
            classes that do not exist or whose frequencies are unknown.
    """
    _check_patch_size(task)
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
            class_weights=output_weights(loss.class_weights, task.schema.output_names, device),
        ),
        schema=task.schema,
        invalid_voxels=loss.invalid_voxels,
        augment=_augment(task),
        arrange=_arrange(task),
        train_loader=training_loader(task, source),
        validation_loader=_loader(task, source, task.split.val, VALIDATION_STREAM),
        device=device,
        precision=precision,
    )


def _build_network(task: TrainingTask, precision: Precision, device: torch.device) -> nn.Module:
    seed, fold = task.seed
    torch.manual_seed(seed * 1000 + fold)
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


def training_loader(task: TrainingTask, source: PatchSource) -> PatchLoader:
    """Return what draws the patches that a fold is trained on."""
    return _loader(task, source, task.split.train, TRAINING_STREAM)


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
        seed=(*task.seed, stream),
        class_weights=_class_weights(task) if training else None,
        case_weights=_case_weights(task) if training else None,
        epoch_batches=None if training else task.recipe.schedule.validation_iterations,
    )
    return PatchLoader(source, cases, settings, task.previous)


def _augment(task: TrainingTask) -> Augment:
    augment = build_augmenter(task)
    if not _is_cascade(task):
        return augment
    return CascadeAugmenter(augment=augment, schema=task.schema, config=task.recipe.cascade)


def build_augmenter(task: TrainingTask) -> Augmenter:
    """Build the transforms of images and labels, without what becomes of a previous stage's.

    Raises:
        UserError: a transform from outside that cannot be made, or settings that fit no patch.
    """
    _check_channel_dropout(task)
    config, schema = task.recipe.augment, task.schema
    extras = tuple(load_extra(one, schema.ignore_index) for one in config.extra)
    for extra in extras:
        extra.try_out(len(task.plan.channel_names), schema.seg_channels, task.patch_size)
    return Augmenter(
        config,
        task.spatial,
        task.configured.normalize_inside_mask,
        reference_maps=task.schema.seg_channels,
        swap=_label_swap(task),
        extras=extras,
    )


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


def _check_channel_dropout(task: TrainingTask) -> None:
    if task.recipe.augment.p_channel_dropout and len(task.plan.channel_names) == 1:
        what = "there is one channel only, and one at least has to stay"
        raise UserError(what, where="augment.p_channel_dropout", fix="leave it at 0")


def _check_patch_size(task: TrainingTask) -> None:
    strides = np.asarray(total_stride(task.network.strides))
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
