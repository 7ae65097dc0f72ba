"""nnU-Net's plans to a plan of segkit that preprocesses and predicts alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from segkit.dataset.image_io import required_orientation
from segkit.errors import UserError, nearest
from segkit.interop.nnunet.architecture import network_plan
from segkit.interop.nnunet.plans import Configuration, Plans
from segkit.planning.checks import SAFE_NAME, check_plan
from segkit.planning.plan import ConfigurationPlan, IntensityStatistics, Normalization, Plan

SCHEMES: dict[str, Normalization] = {
    "ZScoreNormalization": "zscore",
    "CTNormalization": "ct",
    "RescaleTo01Normalization": "rescale_to_0_1",
    "RGBTo01Normalization": "rgb_to_0_1",
    "NoNormalization": "none",
}
"""nnU-Net's normalisation classes -> our schemes."""
RESAMPLING = "resample_data_or_seg_to_shape"
RESAMPLING_KWARGS: dict[str, dict[str, Any]] = {
    "data": {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None},
    "seg": {"is_seg": True, "order": 1, "order_z": 0, "force_separate_z": None},
    "probabilities": {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None},
}
"""What nnU-Net resamples images, labels and logits with, unless its plans were edited."""
_RESTORE = "restore the plans.json that was trained with"


def plan_from_nnunet(plans: Plans, channel_names: tuple[str, ...], names: Sequence[str]) -> Plan:
    """Turn nnU-Net's plans into a plan.

    Voxels are counted as nnU-Net does (``voxel_rules``), and black ones are predicted like any
    other.

    Args:
        plans: As read.
        channel_names: Of dataset.json.
        names: The configurations to convert.

    Raises:
        UserError: something in the plans that segkit does not do, or that cannot be meant.
    """
    if plans.label_manager != "LabelManager":
        what = f"the label manager {plans.label_manager!r} is not known here"
        raise UserError(what, where=plans.source, fix="only LabelManager can be imported")
    if SAFE_NAME.fullmatch(plans.plans_name) is None:
        what = f"plans_name {plans.plans_name!r} cannot be a file name"
        raise UserError(what, where=plans.source, fix="use letters, digits, _ and -")
    plan = Plan(
        planner=plans.plans_name,
        dataset=plans.dataset_name,
        channel_names=channel_names,
        transpose_forward=plans.transpose_forward,
        orientation=required_orientation(plans.image_reader_writer),
        intensities=tuple(_statistics(plans, i) for i in range(len(channel_names))),
        force_invalid_to_background=False,
        voxel_rules="nnunet",
        configurations={name: _configuration(plans, name, len(channel_names)) for name in names},
        reasons=(f"from nnU-Net's plans {plans.plans_name} of {plans.dataset_name}",),
    )
    check_plan(plan, plans.source)
    return plan.sealed()


def _statistics(plans: Plans, channel: int) -> IntensityStatistics:
    found = plans.intensities(channel)
    return IntensityStatistics(
        mean=found.mean,
        median=found.median,
        std=found.std,
        min=found.min,
        max=found.max,
        percentile_00_5=found.percentile_00_5,
        percentile_99_5=found.percentile_99_5,
    )


def _configuration(plans: Plans, name: str, channels: int) -> ConfigurationPlan:
    found, where = plans.configuration(name), f"{plans.source}, key configurations.{name}"
    if len(found.patch_size) not in (2, 3) or min(found.patch_size) < 1:
        raise UserError(f"patch_size is {list(found.patch_size)}", where=where, fix=_RESTORE)
    for key in ("normalization_schemes", "use_mask_for_norm"):
        if (given := len(getattr(found, key))) != channels:
            what = f"{key} has {given} entries for {channels} channels"
            raise UserError(what, where=where, fix=_RESTORE)
    if problems := _other_methods(found):
        raise UserError("; ".join(problems), where=where, fix=_RESTORE)
    schemes = tuple(_scheme(scheme, where) for scheme in found.normalization_schemes)
    masked = zip(schemes, found.use_mask_for_norm, strict=True)
    return ConfigurationPlan(
        spacing_mm=found.spacing,
        patch_size=found.patch_size,
        batch_size=found.batch_size,
        median_shape=found.median_image_size_in_voxels or tuple(map(float, found.patch_size)),
        normalization=schemes,
        # nnU-Net's other schemes do not look at the mask, whatever the plans say.
        normalize_inside_mask=tuple(inside and scheme == "zscore" for scheme, inside in masked),
        batch_dice=found.batch_dice,
        network=network_plan(found.architecture, where),
    )


def _scheme(name: str, where: str) -> Normalization:
    if name not in SCHEMES:
        fix = nearest(name, SCHEMES)
        raise UserError(f"the normalization {name!r} is not known here", where=where, fix=fix)
    return SCHEMES[name]


def _other_methods(found: Configuration) -> list[str]:
    """Say what nnU-Net does otherwise with these plans than segkit can."""
    problems = []
    if found.preprocessor_name != "DefaultPreprocessor":
        problems.append(f"the preprocessor {found.preprocessor_name!r} is not known here")
    for kind, usual in RESAMPLING_KWARGS.items():
        function = getattr(found, f"resampling_fn_{kind}")
        given = getattr(found, f"resampling_fn_{kind}_kwargs")
        if function != RESAMPLING:
            problems.append(f"the resampling {function!r} of {kind} is not known here")
        elif other := {k: v for k, v in given.items() if k not in usual or usual[k] != v}:
            problems.append(f"resampling {kind} with {other} is not known here")
    return problems
