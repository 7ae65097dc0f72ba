"""Where left and right are in planned arrays."""

from __future__ import annotations

from dataclasses import dataclass

from segkit.dataset.checks.sides import line_to_paste
from segkit.dataset.labels import LabelSchema
from segkit.dataset.sides import FILE_AXES, FileAxis, Pair, Sides, suspected_pairs
from segkit.errors import listing
from segkit.planning.plan import Plan


@dataclass(frozen=True, kw_only=True, slots=True)
class PatchSides:
    """Left and right as they matter to a patch."""

    pairs: tuple[Pair, ...] = ()
    """Labels that change places when the patch is flipped along ``axis``."""
    axis: int | None = None
    """Axis of the patch that runs between left and right; None where none does."""
    known: bool = True
    """Whether that axis is known at all."""
    apart: bool = False
    """Whether some labels are left or right, and nothing can take their place: the patch must not
    be flipped along ``axis``."""

    @property
    def matter(self) -> bool:
        """Whether the labels tell left from right."""
        return bool(self.pairs) or self.apart


def patch_sides(plan: Plan, ndim: int, schema: LabelSchema, sides: Sides | None) -> PatchSides:
    """Find out what a patch of 2 or 3 axes has to do with left and right."""
    axis = left_right_axis(plan, sides)
    apart = bool(suspected_pairs(schema)) if sides is None else bool(sides.widowed)
    pairs = () if sides is None else sides.pairs
    # A 2D patch lacks the first planned axis.
    in_patch = None if axis is None or axis < 3 - ndim else axis - (3 - ndim)
    return PatchSides(pairs=pairs, axis=in_patch, known=axis is not None, apart=apart)


def left_right_axis(plan: Plan, sides: Sides | None) -> int | None:
    """Return the planned axis (0 to 2) that runs between left and right; None if unknown."""
    stated = sides.axis if sides is not None and sides.axis is not None else None
    if stated is None and plan.orientation is not None:
        stated = _across(plan.orientation)
    # Array axes run z, y, x.
    return None if stated is None else plan.transpose_forward.index(2 - FILE_AXES.index(stated))


def _across(orientation: str) -> FileAxis:
    """The axis of the files that an orientation code says runs between left and right."""
    return next(axis for axis, letter in zip(FILE_AXES, orientation, strict=True) if letter in "RL")


def explain_sides(plan: Plan, schema: LabelSchema, sides: Sides | None) -> tuple[str, ...]:
    """Say in one line what becomes of left and right; nothing where no label tells them apart."""
    axis = left_right_axis(plan, sides)
    where = "an unknown axis" if axis is None else f"planned axis {axis}"
    if sides is None:
        pairs = suspected_pairs(schema)
        if not pairs:
            return ()
        names = listing([" / ".join(pair) for pair in pairs])
        return (
            f"left and right: {names} look like mirror images, so {where} is not mirrored; add "
            f"{line_to_paste(pairs)} to dataset.json to mirror and let them change places, or "
            '"mirror_pairs": [] to mirror regardless',
        )
    lines = []
    if sides.pairs:
        count = f"{len(sides.pairs)} pair{'s' * (len(sides.pairs) != 1)}"
        lines.append(f"left and right: {count} of labels change places when {where} is mirrored")
    if sides.widowed:
        names = listing(sides.widowed)
        lines.append(f"left and right: {where} is not mirrored, for {names} lost its other half")
    return tuple(lines)
