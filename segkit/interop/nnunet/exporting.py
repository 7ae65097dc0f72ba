"""A trained model of segkit into a folder that nnU-Net predicts with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segkit.checkpoint import load_checkpoint
from segkit.errors import UserError
from segkit.files import atomic_folder, atomic_write, failures_told, write_json
from segkit.inference.model import Model
from segkit.interop.nnunet.architecture import Architecture, architecture_of, network_plan
from segkit.interop.nnunet.description import nnunet_description
from segkit.interop.nnunet.order import classes_by_value
from segkit.interop.nnunet.planning import nnunet_plans, statistics_of
from segkit.interop.nnunet.results import CHECKPOINTS
from segkit.interop.nnunet.weights import to_nnunet
from segkit.planning.fingerprint import Fingerprint
from segkit.planning.plan import NetworkPlan
from segkit.structs import to_mapping

TRAINER = "nnUNetTrainer"
"""What nnU-Net is told that it trained the model with: it builds the network as the plans say."""
_NO_FIX = "predict with segkit, or train a model within what nnU-Net knows"


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportedModel:
    """What was exported."""

    checkpoints: tuple[str, ...]
    """As nnU-Net names them, in the folder."""
    notes: tuple[str, ...]
    """Where nnU-Net will do otherwise than segkit with it, a sentence each."""


def export_trained(model: Model, output: Path, fingerprint: Fingerprint | None) -> ExportedModel:
    """Export every fold of a model; a folder that is there already is replaced.

    Args:
        model: A model folder, read.
        output: nnU-Net's folder to write; it appears when all of it is there.
        fingerprint: Of the data set it was trained on, where it is at hand; nnU-Net does not
            predict with it.

    Raises:
        UserError: nothing is trained, or the model is of a kind that nnU-Net does not have; every
            reason is given.
    """
    if reasons := list(_refusals(model)):
        what = f"nnU-Net cannot predict with this model: {'; '.join(reasons)}"
        raise UserError(what, where=model.folder, fix=_NO_FIX)
    kinds = {f"{kind}.pt": name for name, kind in CHECKPOINTS.items()}
    found = [path for path in sorted(model.folder.glob("fold_*/*.pt")) if path.name in kinds]
    if not found:
        fix = "finish training, or give a model folder"
        raise UserError("no fold of this model is trained", where=model.folder, fix=fix)
    plans = nnunet_plans(model.plan, model.settings, model.description)
    description = nnunet_description(model.description)
    with failures_told(output), atomic_folder(output) as draft:
        write_json(draft / "plans.json", plans)
        write_json(draft / "dataset.json", description)
        write_json(draft / "dataset_fingerprint.json", _fingerprint(model, fingerprint))
        targets = {path: f"{path.parent.name}/{kinds[path.name]}" for path in found}
        for path, target in targets.items():
            content = _checkpoint(model, load_checkpoint(path)["network"], plans, description)
            content["init_args"]["fold"] = _fold(path)
            with atomic_write(draft / target) as stream:
                torch.save(content, stream)
    return ExportedModel(checkpoints=tuple(targets.values()), notes=tuple(_notes(model)))


def _refusals(model: Model) -> Iterator[str]:
    """Say what of a model nnU-Net has no counterpart of."""
    labels, network = model.description.labels, model.network
    if labels.overlapping:
        yield "its structures may overlap, nnU-Net's are one label a voxel (or regions of them)"
    elif (values := sorted(int(v) for v in labels.raw_values)) != list(range(len(values))):
        yield f"its label values are {values}, nnU-Net's are consecutive"
    if model.description.file_ending.lower() in (".jpg", ".jpeg"):
        yield "nnU-Net does not read .jpg"
    if _other_network(network):
        yield "its network is none of nnU-Net's"


def _other_network(network: NetworkPlan) -> bool:
    """Whether a network does not come back from nnU-Net's way to write it."""
    if network.class_ is not None:
        return True
    written = {k: v for k, v in architecture_of(network).items() if not k.startswith("_")}
    return network_plan(Architecture(**written), "plans.json") != network


def _notes(model: Model) -> Iterator[str]:
    """Say what nnU-Net will do otherwise."""
    plan, schemes = model.plan, model.configuration.normalization
    if plan.voxel_rules == "segkit" and {"zscore", "rescale_to_0_1"} & set(schemes):
        yield (
            "nnU-Net counts black voxels in the mean and range of an image, segkit leaves them "
            "out: where images are black around, predictions differ"
        )
    if plan.force_invalid_to_background:
        yield "nnU-Net may put labels on black voxels, which are background in segkit"
    reader = model.description.reader or ""
    if plan.orientation is not None and not reader.endswith("WithReorient"):
        yield f"nnU-Net does not turn images: give it such as are stored in {plan.orientation}"
    if model.settings.swap_axis is not None:
        yield "nnU-Net will not mirror left and right, where labels change places"
    if model.is_cascade:
        yield "nnU-Net wants the segmentations of the first stage (-prev_stage_predictions)"


def _checkpoint(
    model: Model,
    weights: Mapping[str, Tensor],
    plans: Mapping[str, Any],
    description: Mapping[str, Any],
) -> dict[str, Any]:
    settings = model.settings
    axes = tuple(axis for axis in settings.mirror_axes if axis != settings.swap_axis)
    configuration = {"configuration": settings.configuration, "device": torch.device("cpu")}
    return {
        "network_weights": to_nnunet(classes_by_value(weights, model), model.network),
        "optimizer_state": {},
        "grad_scaler_state": None,
        "logging": {},
        "_best_ema": None,
        "current_epoch": 0,
        "init_args": {**configuration, "plans": dict(plans), "dataset_json": dict(description)},
        "trainer_name": TRAINER,
        # nnU-Net fails over an empty list of axes.
        "inference_allowed_mirroring_axes": axes or None,
    }


def _fingerprint(model: Model, fingerprint: Fingerprint | None) -> dict[str, Any]:
    cases = () if fingerprint is None else fingerprint.cases
    return {
        "foreground_intensity_properties_per_channel": statistics_of(model.plan),
        "median_relative_size_after_cropping": 1.0
        if fingerprint is None
        else fingerprint.median_relative_size_after_crop,
        "shapes_after_crop": [to_mapping(case.shape_after_crop) for case in cases],
        "spacings": [to_mapping(case.spacing_mm) for case in cases],
    }


def _fold(path: Path) -> int | str:
    name = path.parent.name.removeprefix("fold_")
    return int(name) if name.isdigit() else name
