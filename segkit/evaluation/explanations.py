"""Why a label scores lower than the region around it.

The region around a label is the smallest one that holds the label and other classes too. Every
voxel in which the label is wrong (missed or invented) is one of two kinds: *inherited*, where the
region is wrong as well, or *confused* with another part of the region. Besides, it may lie *at
the border*: within one voxel (26 neighbours, 8 in a plane) of the surface of the label in the
reference. Voxels that are ignored count nowhere.

A label whose value ``regions_class_order`` leaves out is never written by a model of regions: that
is all there is to say of it, unless the predictions come from elsewhere and hold it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from segkit.dataset.labels import BACKGROUND, LabelSchema, Region
from segkit.dataset.nonzero import bounding_box, box_slices, widened
from segkit.evaluation.overlap import Scores, annotated_classes, ratio


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelErrors:
    """Voxels of one case in which a label is wrong, and the volumes they are to be seen with."""

    label: str
    region: str
    """The smallest region around the label."""
    label_ml: float
    region_ml: float
    """Volumes in the reference."""
    wrong: int
    border: int
    """Wrong voxels within one voxel of the label's surface."""
    inherited: int
    """Wrong voxels in which the region is wrong too."""
    unpainted: int | None = None
    """The label's value on disk, where no region writes it and the prediction does not hold it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Explanation:
    """Why a label's mean Dice is lower than that of the region around it.

    All means are over the same cases: those in which the label's Dice is defined.
    """

    label: str
    region: str
    dice_label: float
    dice_region: float
    volume_label_ml: float
    volume_region_ml: float
    """Mean volumes in the reference."""
    wrong_voxels: int
    border: float | None
    """Share (0..1) of the wrong voxels at the label's border; None where none is wrong."""
    inherited: float | None
    """Share in which the region is wrong too; the rest is confusion inside the region."""
    text: str
    """All of it in one line."""


def label_errors(
    ref: np.ndarray, pred: np.ndarray, schema: LabelSchema, voxel_ml: float
) -> tuple[LabelErrors, ...]:
    """Count the errors of every label that has a region around it.

    Args:
        ref: Schema indices of the reference (Z, Y, X).
        pred: Schema indices of the prediction, same shape.
        schema: One of exclusive classes.
        voxel_ml: Volume of a voxel in millilitres.

    Returns:
        One entry a label with a region around it; none where nothing is annotated.
    """
    if not schema.has_regions or not (annotated := ref != schema.ignore_index).any():
        return ()
    ref, pred = annotated_classes(ref, pred, schema.num_classes)
    labelled = bounding_box((ref != BACKGROUND) | (pred != BACKGROUND))
    box = box_slices(widened(labelled, ref.shape, 1))
    ref, pred, annotated = ref[box], pred[box], annotated[box]
    found, painted = [], {region.paint for region in schema.regions}
    for index, label in enumerate(schema.classes, start=1):
        if (region := enclosing_region(label.value, schema.regions)) is None:
            continue
        members = schema.region_members[schema.regions.index(region)]
        region_ref = members[ref]
        in_ref, in_pred = ref == index, pred == index
        wrong = in_ref != in_pred
        errors = LabelErrors(
            label=label.name,
            region=region.name,
            label_ml=_count(in_ref) * voxel_ml,
            region_ml=_count(region_ref) * voxel_ml,
            wrong=_count(wrong),
            border=_at_border(in_ref, annotated & ~in_ref, wrong),
            inherited=_count(wrong & (region_ref != members[pred])),
            unpainted=None if label.value in painted or in_pred.any() else label.value,
        )
        found.append(errors)
    return tuple(found)


def enclosing_region(value: int, regions: Sequence[Region]) -> Region | None:
    """Return the region of fewest classes that holds a raw value and at least one other.

    Among equally small ones the name decides, so that the order of declaration does not.
    """
    around = [region for region in regions if value in region.members and len(region.members) > 1]
    return min(around, key=lambda region: (len(region.members), region.name), default=None)


def _at_border(label: np.ndarray, other: np.ndarray, wrong: np.ndarray) -> int:
    """Count wrong voxels that touch both the label and annotated voxels outside it."""
    if not (label.any() and wrong.any()):
        return 0
    box = box_slices(widened(bounding_box(label), label.shape, 1))
    near = _grow(label[box]) & _grow(other[box])
    return _count(wrong[box] & near)


def _count(mask: np.ndarray) -> int:
    return int(np.count_nonzero(mask))


def _grow(mask: np.ndarray) -> np.ndarray:
    from scipy import ndimage

    # Three times as fast as binary_dilation with 26 neighbours.
    grown: np.ndarray = ndimage.maximum_filter(mask, size=3, mode="constant")
    return grown


def explain(
    cases: Sequence[Sequence[LabelErrors]],
    labels: Sequence[Mapping[str, Scores]],
    regions: Sequence[Mapping[str, Scores]],
) -> tuple[Explanation, ...]:
    """Explain every label whose mean Dice is lower than that of the region around it.

    Both means are over the cases in which the label's Dice is defined: where it is absent, the
    region may still be easy or hard.

    Args:
        cases: The errors of every case.
        labels: The scores of its labels; without Dice nothing is explained.
        regions: The scores of its regions.

    Returns:
        In the order of ``labels``.
    """
    found = []
    for name in labels[0] if labels else ():
        compared = [
            _Compared(errors=errors, own=own, around=around)
            for case, of_label, of_region in zip(cases, labels, regions, strict=True)
            for errors in case
            if errors.label == name
            and (own := of_label[name].get("dice")) is not None
            and (around := of_region[errors.region].get("dice")) is not None
        ]
        if sum(case.own - case.around for case in compared) < 0:
            found.append(_explanation(compared, len(cases)))
    return tuple(found)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Compared:
    """A label and the region around it in one case."""

    errors: LabelErrors
    own: float
    """Dice of the label."""
    around: float
    """Dice of the region."""


def _explanation(compared: Sequence[_Compared], total: int) -> Explanation:
    errors = [case.errors for case in compared]
    own = sum(case.own for case in compared) / len(compared)
    around = sum(case.around for case in compared) / len(compared)
    wrong = sum(entry.wrong for entry in errors)
    border = ratio(sum(entry.border for entry in errors), wrong)
    inherited = ratio(sum(entry.inherited for entry in errors), wrong)
    label_ml = sum(entry.label_ml for entry in errors) / len(errors)
    region_ml = sum(entry.region_ml for entry in errors) / len(errors)
    label, region = errors[0].label, errors[0].region
    return Explanation(
        label=label,
        region=region,
        dice_label=own,
        dice_region=around,
        volume_label_ml=label_ml,
        volume_region_ml=region_ml,
        wrong_voxels=wrong,
        border=border,
        inherited=inherited,
        text=f"'{label}' (Dice {own:.3f}) scores below '{region}' around it "
        f"({around:.3f}{_where(label, len(compared), total)})"
        + (
            f": {_unpainted(errors[0])}."
            if all(entry.unpainted is not None for entry in errors)
            else f". {_volumes(label_ml, region_ml)} {_kinds(border, inherited, region)}"
        ),
    )


def _where(label: str, compared: int, total: int) -> str:
    if compared == total:
        return ""
    return f", in the {compared} of {total} cases where '{label}' is scored"


def _unpainted(errors: LabelErrors) -> str:
    return (
        f"its value {errors.unpainted} is not in regions_class_order, so that no prediction holds "
        f"it; it comes out as another part of '{errors.region}'"
    )


def _volumes(label_ml: float, region_ml: float) -> str:
    why = ", so that each wrong voxel weighs more" if label_ml < region_ml else ""
    return f"It fills {_ml(label_ml)} of {_ml(region_ml)} ml on average{why}."


def _ml(volume: float) -> str:
    return f"{volume:.2f}" if volume >= 1 else f"{volume:.2g}"


def _kinds(border: float | None, inherited: float | None, region: str) -> str:
    if border is None or inherited is None:
        return "None of its voxels is wrong, but absence counts less than a perfect score."
    return (
        f"Of its wrong voxels, {border:.0%} lie at its border (within one voxel); {inherited:.0%} "
        f"are inherited from '{region}' (missed or invented there too), {1 - inherited:.0%} are "
        f"confused with other parts of '{region}'."
    )
