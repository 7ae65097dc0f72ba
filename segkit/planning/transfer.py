"""A plan of one dataset for another: nnU-Net's way to pretrain and fine-tune with one network.

Spacing, patch, batch and network are the source's. So are, as in nnU-Net, the normalisation and
the intensity statistics it uses: the weights expect the numbers they were trained on.
"""

from __future__ import annotations

from dataclasses import replace

from segkit.errors import UserError
from segkit.planning.fingerprint import Fingerprint, reoriented
from segkit.planning.patch import times
from segkit.planning.plan import ConfigurationPlan, Plan, Side
from segkit.planning.spacing import median_shape
from segkit.types import Spacing


def transfer_plan(source: Plan, own: Plan, fingerprint: Fingerprint, intensities: Side) -> Plan:
    """Take a plan over.

    Args:
        source: Plan of another dataset.
        own: What the target's planner says; channels, labels and left out structures are its.
        fingerprint: Of the target.
        intensities: Whose normalisation and statistics are used.

    Raises:
        UserError: the channels do not correspond, or planes are to be segmented in 3D.
    """
    normalized = source
    if intensities == "target":
        source, normalized = _normalized_as(own, source), own
    _check_channels(source, own)
    # nnU-Net predicts black voxels like any other, and leaves images as they are stored.
    as_nnunet = source.voxel_rules == "nnunet"
    moved = replace(
        own,
        planner=source.planner,
        request=replace(source.request, min_cases=own.request.min_cases, intensities=intensities),
        intensities=normalized.intensities,
        voxel_rules=normalized.voxel_rules,
        force_invalid_to_background=own.force_invalid_to_background and not as_nnunet,
        reasons=(
            f"spacing, patch, batch and network of plan {source.name} of {source.dataset}",
            f"normalisation and intensity statistics of the {intensities}",
            f"labels as planned for {own.dataset}, empty voxels as "
            + ("in nnU-Net" if as_nnunet else f"planned for {own.dataset}"),
        ),
    )
    chosen = source.configurations
    if all(case.shape[0] == 1 for case in fingerprint.cases):
        chosen = {name: there for name, there in chosen.items() if there.ndim == 2}
    else:
        # The weights have learnt which way the axes run.
        axes, code = source.transpose_forward, source.orientation
        code = code or (None if as_nnunet else own.orientation)
        moved = replace(moved, transpose_forward=axes, orientation=code)
    if not chosen:
        what = f"{own.dataset} holds planes, and the plan has 3D configurations only"
        raise UserError(what, where="--from", fix="take the plan of a dataset that has a 2d one")
    chosen = {name: _for_cases(there, moved, fingerprint) for name, there in chosen.items()}
    return replace(moved, configurations=chosen).sealed()


def _normalized_as(own: Plan, source: Plan) -> Plan:
    """Return the source with the channels of the target and their normalisation."""
    planned = own.configuration("2d")
    configurations = {
        name: replace(
            there,
            normalization=planned.normalization,
            normalize_inside_mask=planned.normalize_inside_mask,
        )
        for name, there in source.configurations.items()
    }
    return replace(source, channel_names=own.channel_names, configurations=configurations)


def _check_channels(source: Plan, own: Plan) -> None:
    before, now = source.channel_names, own.channel_names
    if len(before) == len(now):
        return
    what = (
        f"the plan is for {len(before)} channel(s) ({', '.join(before)}), {own.dataset} has "
        f"{len(now)} ({', '.join(now)})"
    )
    fix = "add --intensities target: each channel is then normalised by its own name and numbers"
    raise UserError(what, where="--from", fix=fix)


def _for_cases(
    configuration: ConfigurationPlan, moved: Plan, fingerprint: Fingerprint
) -> ConfigurationPlan:
    shape = _median_shape(moved, fingerprint, configuration.spacing_mm)
    reason = (
        f"spacing {times(configuration.spacing_mm)} mm, patch {times(configuration.patch_size)}, "
        f"batch size {configuration.batch_size}: as in the source; the median case has "
        f"{times(shape)} voxels"
    )
    return replace(configuration, median_shape=shape, reasons=(reason,))


def _median_shape(moved: Plan, fingerprint: Fingerprint, spacing_mm: Spacing) -> tuple[float, ...]:
    """Median shape of the target's cases at a spacing, as the moved plan turns them."""
    cases, old, new = fingerprint.cases, fingerprint.orientation, moved.orientation
    if old is not None and new is not None:
        cases = tuple(reoriented(case, old, new) for case in cases)
    axes = moved.transpose_forward[-len(spacing_mm) :]
    spacings = [tuple(case.spacing_mm[axis] for axis in axes) for case in cases]
    shapes = [tuple(case.shape_after_crop[axis] for axis in axes) for case in cases]
    return median_shape(spacings, shapes, spacing_mm)
