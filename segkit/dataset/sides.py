"""Left and right: which labels are each other's mirror image.

An image that is flipped along its left-right axis shows what would be the right kidney where the
left one was. Labels that come in pairs then change places, so that left stays where left is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from segkit.dataset.labels import LabelSchema

PAIRS_KEY, AXIS_KEY = "mirror_pairs", "left_right_axis"
FileAxis = Literal["x", "y", "z"]
FILE_AXES: tuple[FileAxis, ...] = ("x", "y", "z")
Pair = tuple[str, str]

_LEFT_RIGHT = (
    *(("left", "right"), ("l", "r"), ("lt", "rt"), ("lh", "rh"), ("lft", "rgt")),
    *(("sinister", "dexter"), ("sin", "dex"), ("sinistra", "dextra"), ("sinistrum", "dextrum")),
    *(("links", "rechts"), ("linke", "rechte"), ("linker", "rechter"), ("linkes", "rechtes")),
    *(("gauche", "droite"), ("gauche", "droit"), ("sinistro", "destro"), ("sx", "dx")),
    *(("izquierdo", "derecho"), ("izquierda", "derecha"), ("esquerdo", "direito")),
)
"""Parts of names that say left and right."""
_UNLIKE = frozenset(
    {"atrium", "atria", "atrial", "ventricle", "ventricular", "heart", "cardiac", "myocardium"}
    | {"coronary", "liver", "hepatic", "bundle"}
)
"""Of these left and right are different things, not mirror images."""
_YET_ALIKE = frozenset({"lateral"})
"""But of these they are: the lateral ventricles of the brain."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sides:
    """What dataset.json says of left and right."""

    pairs: tuple[Pair, ...]
    """Names of classes, or of structures that overlap, which are each other's mirror image."""
    axis: FileAxis | None = None
    """Axis of the image files that runs between left and right; None: as their headers say."""
    widowed: tuple[str, ...] = ()
    """Structures that are trained although their other half is left out."""

    def without(self, names: Sequence[str]) -> Sides:
        """Leave structures out."""
        kept = tuple(pair for pair in self.pairs if not set(pair) & set(names))
        parted = {name for pair in self.pairs if pair not in kept for name in pair}
        widowed = (*self.widowed, *(parted - set(names)))
        return Sides(pairs=kept, axis=self.axis, widowed=tuple(sorted(widowed)))


def sides_from_content(content: Mapping[str, Any]) -> Sides | None:
    """Read the sides of a checked dataset.json; None where it says nothing of pairs."""
    pairs = content.get(PAIRS_KEY)
    if pairs is None:
        return None
    axis = content.get(AXIS_KEY)
    return Sides(pairs=tuple((first, second) for first, second in pairs), axis=axis)


def class_swap(schema: LabelSchema, pairs: Iterable[Pair]) -> tuple[int, ...]:
    """Number of the class (or structure) that takes the place of each, from 0 on."""
    names = [one.name for one in schema.classes]
    swap = list(range(len(names)))
    for pair in pairs:
        first, second = map(names.index, pair)
        swap[first], swap[second] = second, first
    return tuple(swap)


def output_swap(schema: LabelSchema, pairs: Iterable[Pair]) -> tuple[int, ...]:
    """Number of the network output that takes the place of each.

    Regions follow their classes.

    Raises:
        ValueError: the mirror image of a region is no region.
    """
    pairs = tuple(pairs)
    swap = class_swap(schema, pairs)
    if schema.has_regions:
        members = [frozenset(region.members) for region in schema.regions]
        swap = tuple(map(members.index, _mirrored_regions(schema, pairs)))
    return swap if schema.sigmoid else (0, *(1 + i for i in swap))


def regions_without_mirror_image(schema: LabelSchema, pairs: Sequence[Pair]) -> tuple[str, ...]:
    """Names of the regions whose classes, once swapped, are no region's."""
    members = {frozenset(region.members) for region in schema.regions}
    mirrored = _mirrored_regions(schema, pairs)
    regions = zip(schema.regions, mirrored, strict=True)
    return tuple(region.name for region, image in regions if image not in members)


def _mirrored_regions(schema: LabelSchema, pairs: Iterable[Pair]) -> list[frozenset[int]]:
    """Values of every region once the classes of the pairs have changed places."""
    swap, values = class_swap(schema, pairs), [one.value for one in schema.classes]
    moved = {value: values[swap[i]] for i, value in enumerate(values)}
    return [frozenset(map(moved.__getitem__, region.members)) for region in schema.regions]


def suspected_pairs(schema: LabelSchema) -> tuple[Pair, ...]:
    """Pairs of labels whose names differ by left and right only, in declaration order.

    Empty where regions would be torn by them.
    """
    names = [one.name for one in schema.classes]
    parts = {name: _parts(name) for name in names}
    pairs = []
    for name in names:
        partners = [other for other in names if parts[other] in _mirrored(parts[name])]
        if len(partners) == 1:
            pairs.append((name, partners[0]))
    taken = [name for pair in pairs for name in pair]
    found = tuple(pair for pair in pairs if all(taken.count(name) == 1 for name in pair))
    return () if regions_without_mirror_image(schema, found) else found


def _parts(name: str) -> tuple[str, ...]:
    """Divide a name at everything but letters and digits, and before capitals."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    return tuple(re.findall(r"[^\W_]+", spaced.lower()))


def _mirrored(parts: tuple[str, ...]) -> list[tuple[str, ...]]:
    """The names that say right wherever this one says left, one for each way to say so."""
    if set(parts) & _UNLIKE and not set(parts) & _YET_ALIKE:
        return []
    return [
        tuple(right if part == left else part for part in parts)
        for left, right in _LEFT_RIGHT
        if left in parts and right not in parts
    ]
