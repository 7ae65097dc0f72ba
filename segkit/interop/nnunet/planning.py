"""nnU-Net's plans to a plan of segkit that preprocesses and predicts alike, and back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segkit.dataset.description import DatasetDescription
from segkit.dataset.image_io import required_orientation
from segkit.dataset.image_io.formats import PLANES, TIFF
from segkit.errors import UserError, nearest
from segkit.interop.nnunet.architecture import architecture_of, network_plan
from segkit.interop.nnunet.plans import Plans, read_plans
from segkit.interop.nnunet.resampling import nnunet_resampling, resampling_of
from segkit.planning.checks import SAFE_NAME, check_plan
from segkit.planning.plan import ConfigurationPlan, IntensityStatistics, Normalization, Plan
from segkit.structs import to_mapping
from segkit.types import FAR_APART

if TYPE_CHECKING:
    from segkit.inference.model import ModelSettings  # brings torch, which planning does without

SCHEMES: dict[str, Normalization] = {
    "ZScoreNormalization": "zscore",
    "CTNormalization": "ct",
    "RescaleTo01Normalization": "rescale_to_0_1",
    "RGBTo01Normalization": "rgb_to_0_1",
    "NoNormalization": "none",
}
"""nnU-Net's normalisation classes -> our schemes."""
_RESTORE = "restore the plans.json that was trained with"


def plan_from_nnunet(plans: Plans, channel_names: tuple[str, ...], names: Sequence[str]) -> Plan:
    """Turn nnU-Net's plans into a plan.

    Voxels are counted as nnU-Net does (``voxel_rules``), and black ones are predicted like any
    other.

    Args:
        plans: As read.
        channel_names: Of dataset.json.
        names: The configurations to convert; what comes before one in a cascade is converted too.

    Raises:
        UserError: something in the plans that segkit does not do, or that cannot be meant.
    """
    if plans.label_manager != "LabelManager":
        what = f"the label manager {plans.label_manager!r} is not known here"
        raise UserError(what, where=plans.source, fix="only LabelManager can be imported")
    if SAFE_NAME.fullmatch(plans.plans_name) is None:
        what = f"plans_name {plans.plans_name!r} cannot be a file name"
        raise UserError(what, where=plans.source, fix="use letters, digits, _ and -")
    before = [plans.configuration(name).previous_stage for name in names]
    every = dict.fromkeys([*(name for name in before if name is not None), *names])
    plan = Plan(
        planner=plans.plans_name,
        dataset=plans.dataset_name,
        channel_names=channel_names,
        transpose_forward=plans.transpose_forward,
        orientation=required_orientation(plans.image_reader_writer),
        intensities=tuple(_statistics(plans, i) for i in range(len(channel_names))),
        force_invalid_to_background=False,
        voxel_rules="nnunet",
        configurations={name: _configuration(plans, name, len(channel_names)) for name in every},
        reasons=(f"from nnU-Net's plans {plans.plans_name} of {plans.dataset_name}",),
    )
    check_plan(plan, plans.source)
    return plan.sealed()


def whole_plan(path: Path, channel_names: Sequence[str], names: Sequence[str] = ()) -> Plan:
    """Read a plans.json with all its configurations, or those named.

    Args:
        path: The file.
        channel_names: Of the data set it is to be used for; where their number is another one, the
            channels of the plan are numbered.
        names: Configurations; empty takes all.

    Raises:
        UserError: see :func:`plan_from_nnunet`.
    """
    plans = read_plans(path)
    chosen = tuple(names or plans.configurations)
    count = max((len(plans.configuration(n).normalization_schemes) for n in chosen), default=0)
    fits = count == len(channel_names)
    channels = tuple(channel_names) if fits else tuple(map(str, range(count)))
    return plan_from_nnunet(plans, channels, chosen)


def nnunet_plans(
    plan: Plan, settings: ModelSettings, description: DatasetDescription
) -> dict[str, Any]:
    """Write a plan as nnU-Net's plans.json, with the configuration of a model.

    In a cascade the configuration of the first stage is written too.

    Args:
        plan: Of the model.
        settings: Of the model; its patch size and network may be others than the plan's.
        description: Of the data set, for the image reader.
    """
    name, previous = settings.configuration, plan.previous_stage(settings.configuration)
    names = [name] if previous is None else [previous, name]
    configurations = {each: _nnunet_configuration(plan, each) for each in names}
    configurations[name]["patch_size"] = list(settings.patch_size)
    if settings.network is not None:
        configurations[name]["architecture"] = architecture_of(settings.network)
    if previous is not None:
        configurations[name]["previous_stage"] = previous
        configurations[previous]["next_stage"] = name
    chosen = plan.configuration(name)
    # Nobody but nnU-Net's planner asks how far apart the slices of a 2D model were.
    apart, count = (FAR_APART,) * (3 - chosen.ndim), (1.0,) * (3 - chosen.ndim)
    return {
        "dataset_name": plan.dataset,
        "plans_name": plan.name,
        "original_median_spacing_after_transp": [*apart, *chosen.spacing_mm],
        "original_median_shape_after_transp": [round(n) for n in (*count, *chosen.median_shape)],
        "image_reader_writer": _reader(description, chosen.ndim),
        "transpose_forward": list(plan.transpose_forward),
        "transpose_backward": list(plan.transpose_backward),
        "configurations": configurations,
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": statistics_of(plan),
    }


def statistics_of(plan: Plan) -> dict[str, Any]:
    """Write the intensity statistics of every channel as nnU-Net does."""
    return {str(i): to_mapping(channel) for i, channel in enumerate(plan.intensities)}


def _nnunet_configuration(plan: Plan, name: str) -> dict[str, Any]:
    chosen = plan.configuration(name)
    schemes = {own: theirs for theirs, own in SCHEMES.items()}
    return {
        "data_identifier": f"{plan.name}_{name}",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": chosen.batch_size,
        "patch_size": list(chosen.patch_size),
        "median_image_size_in_voxels": list(chosen.median_shape),
        "spacing": list(chosen.spacing_mm),
        "normalization_schemes": [schemes[scheme] for scheme in chosen.normalization],
        "use_mask_for_norm": list(chosen.normalize_inside_mask),
        "batch_dice": chosen.batch_dice,
        **nnunet_resampling(chosen.resampling),
        "architecture": architecture_of(chosen.network),
    }


def _reader(description: DatasetDescription, ndim: int) -> str:
    """Name nnU-Net's reader of the images: the one asked for, else what reads them here."""
    if description.reader is not None:
        return description.reader
    ending = description.file_ending.lower()
    if ending in TIFF:
        return "Tiff3DIO" if ndim == 3 else "NaturalImage2DIO"
    return "NaturalImage2DIO" if ending in PLANES else "SimpleITKIO"


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
    if found.preprocessor_name != "DefaultPreprocessor":
        what = f"the preprocessor {found.preprocessor_name!r} is not known here"
        raise UserError(what, where=where, fix="such a model cannot be imported")
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
        resampling=resampling_of(found, where),
        previous_stage=found.previous_stage,
        network=network_plan(found.architecture, where),
    )


def _scheme(name: str, where: str) -> Normalization:
    if name not in SCHEMES:
        fix = nearest(name, SCHEMES)
        raise UserError(f"the normalization {name!r} is not known here", where=where, fix=fix)
    return SCHEMES[name]
