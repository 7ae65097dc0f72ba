"""What post-processing does to label maps: a target's pieces are taken away, or its holes filled.

A target is all foreground together, or one of what the model predicts: a class, a region, or a
structure that may overlap others. Its pieces are connected components, 26-connected (in a plane
8-connected); a hole is what it encloses, connected by faces.

Where a piece is taken away, a class becomes background. A region takes the regions inside it
along, and what is left is the region around it, so that a false core within a tumour becomes
tumour, not healthy tissue. A hole is filled only where that takes nothing away from other targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, reduce

import numpy as np

from segkit.dataset.labels import BACKGROUND, LabelSchema
from segkit.dataset.nonzero import fill_holes
from segkit.evaluation.overlap import as_classes

Box = tuple[slice, ...]
_NEIGHBOURS = np.ones((3, 3, 3), dtype=bool)


@dataclass(frozen=True, kw_only=True, slots=True)
class Edit:
    """How a target changes one map, as tables over the K classes of the map."""

    map: int
    """Channel of the segmentation: the structure, else 0."""
    member: np.ndarray
    """(K,) bool: the class belongs to the target."""
    removed: np.ndarray
    """(K,) class that is left where the target is taken away."""
    filled: np.ndarray
    """(K,) class that is written into a hole; the class itself where it has to stay."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pieces:
    """The connected components of a target."""

    box: Box
    numbers: np.ndarray
    """(Z, Y, X) within the box: number of the component, 0 for none."""
    sizes: np.ndarray
    """(n + 1,) voxels of each; 0 for number 0."""


class LabelEditor:
    """A label map that is looked at and changed target by target."""

    def __init__(self, indices: np.ndarray, schema: LabelSchema) -> None:
        """Copy (1 or S, Z, Y, X) schema indices; whatever is no class becomes background."""
        self.maps = as_classes(indices, schema.num_classes)
        self.schema = schema
        self._boxes: list[list[Box | None]] | None = None

    def mask(self, target: str | None) -> tuple[Box, np.ndarray] | None:
        """Return a box around a target and where in it the target is; None where it is not."""
        if (box := self._box(target)) is None:
            return None
        masks = [_any_of(edit.member, self.maps[edit.map][box]) for edit in self._edits(target)]
        return box, reduce(np.logical_or, masks)

    def pieces(self, target: str | None) -> Pieces | None:
        """Find the connected components of a target; None where it is not there."""
        from scipy import ndimage

        if (found := self.mask(target)) is None:
            return None
        numbers, count = ndimage.label(found[1], _NEIGHBOURS)
        if count == 0:  # all of it was removed before
            return None
        sizes = np.bincount(numbers.ravel())
        sizes[0] = 0
        return Pieces(box=found[0], numbers=numbers, sizes=sizes)

    def holes(self, target: str) -> tuple[Box, np.ndarray] | None:
        """Return a box around a target and the holes in it; None where there is no target."""
        if (found := self.mask(target)) is None:
            return None
        box, mask = found
        shape = self.maps.shape[1:]
        return box, fill_holes(mask, shape.index(1) if 1 in shape else None) & ~mask

    def remove(self, target: str | None, box: Box, where: np.ndarray) -> None:
        """Take a target away in a part (bool) of a box."""
        for edit in self._edits(target):
            self._write(edit.map, box, where, edit.removed)

    def fill(self, target: str, box: Box, where: np.ndarray) -> None:
        """Put a target into a part (bool) of a box."""
        for edit in self._edits(target):
            self._write(edit.map, box, where, edit.filled)

    def _write(self, number: int, box: Box, where: np.ndarray, table: np.ndarray) -> None:
        view = self.maps[number][box]
        view[where] = table[view[where]]
        # Nothing grows out of the box of its target, but with regions their classes do.
        if self.schema.has_regions:
            self._boxes = None

    def _edits(self, target: str | None) -> tuple[Edit, ...]:
        return edits_of(self.schema, target)

    def _box(self, target: str | None) -> Box | None:
        from scipy import ndimage

        if self._boxes is None:
            # All classes at once: a class of a hundred is looked at only where it is.
            most = self.schema.num_classes - 1
            self._boxes = [ndimage.find_objects(each, max_label=most) for each in self.maps]
        boxes = [
            box
            for edit in self._edits(target)
            for index in np.flatnonzero(edit.member)
            if (box := self._boxes[edit.map][index - 1]) is not None
        ]
        return _around(boxes) if boxes else None


def _around(boxes: Sequence[Box]) -> Box:
    return tuple(
        slice(min(box[axis].start for box in boxes), max(box[axis].stop for box in boxes))
        for axis in range(3)
    )


def _any_of(member: np.ndarray, indices: np.ndarray) -> np.ndarray:
    classes = np.flatnonzero(member)
    mask: np.ndarray = indices == classes[0] if len(classes) == 1 else member[indices]
    return mask


@cache
def edits_of(schema: LabelSchema, target: str | None) -> tuple[Edit, ...]:
    """Return how a target changes each map it is in; None is all foreground together."""
    if schema.overlapping:
        names = [each.name for each in schema.classes]
        maps = range(len(names)) if target is None else [names.index(target)]
        member, kept = np.array([False, True]), np.array([0, 1])
        return tuple(
            Edit(map=number, member=member, removed=0 * kept, filled=0 * kept + 1)
            for number in maps
        )
    members = target_members(schema)
    if target is None:
        inside = np.arange(schema.num_classes) != BACKGROUND
        nothing = np.zeros(schema.num_classes, dtype=np.int64)
        return (Edit(map=0, member=inside, removed=nothing, filled=nothing),)
    number = schema.target_names.index(target)
    paint = int(schema.paint_indices[number]) if schema.has_regions else 1 + number
    return (
        Edit(
            map=0,
            member=members[number],
            removed=np.array([_left(members, number, k) for k in range(members.shape[1])]),
            filled=np.array([_filled(members, paint, k) for k in range(members.shape[1])]),
        ),
    )


def target_members(schema: LabelSchema) -> np.ndarray:
    """Return (T, K) bool: whether class k of a map belongs to target t, the regions if any.

    Of structures that overlap it is the one target of a map.
    """
    if schema.overlapping:
        return np.array([[False, True]])
    return (
        schema.region_members if schema.has_regions else np.eye(schema.num_classes, dtype=bool)[1:]
    )


def _left(members: np.ndarray, target: int, index: int) -> int:
    """Return the class of the targets of a class without one of them and those inside it.

    Background, where no class is in just these.
    """
    if not members[target, index]:
        return index
    inside = (members <= members[target]).all(axis=1)
    kept = members[:, index] & ~inside
    same = np.flatnonzero((members == kept[:, None]).all(axis=0))
    return int(same[0]) if kept.any() and len(same) else BACKGROUND


def _filled(members: np.ndarray, paint: int, index: int) -> int:
    """Return the class that is painted over another; that itself, if a target would lose it."""
    return paint if (members[:, index] <= members[:, paint]).all() else index
