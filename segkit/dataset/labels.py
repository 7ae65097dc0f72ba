"""``LabelSchema``: every meaning a voxel can have, in one place.

On disk a label map holds raw values (any distinct integers). Inside segkit it holds indices:
-1 invalid, 0 background, 1..K-1 the classes in declaration order, K ignore. Structures that may
overlap have a channel each, whose indices are -1 invalid, 0 absent, 1 present, 2 ignore: a binary
label map with K = 2. On disk they are bits of one integer or separate masks (see ``structures``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from segkit.errors import UserError

INVALID = -1
"""Index of voxels that carry no image information. Never on disk as a class."""
BACKGROUND = 0
_UNDECLARED = -2
_WIDEST_TABLE = 2**20
_AT_ONCE = 2**16
UNANNOUNCED_IGNORE = -1
"""Raw value read as ignore even where dataset.json does not announce it."""
SPECIAL_NAMES = ("background", "ignore")
"""Names in ``labels`` that stand for no class."""
FRACTION_TOLERANCE = 1e-3
"""Largest distance of a label from an integer."""


@dataclass(frozen=True, kw_only=True)
class LabelClass:
    """One class: its name and its value on disk."""

    name: str
    value: int


@dataclass(frozen=True, kw_only=True)
class Region:
    """A union of classes with a sigmoid channel of its own.

    ``paint`` is the raw value written where the region is predicted; regions are painted in
    order, later ones over earlier ones (``regions_class_order``).
    """

    name: str
    members: tuple[int, ...]
    paint: int


@dataclass(frozen=True, kw_only=True)
class LabelSchema:
    """Classes, regions and ignore values of a dataset.

    Args:
        classes: Foreground classes in declaration order; index i + 1 is ``classes[i]``.
        regions: Regions in declaration order; empty for ordinary label training.
        ignore_values: Raw values that mean "nobody annotated this".
        overlapping: The classes are structures that may share voxels
            (``"label_encoding": "multilabel"``).
        left_out: Structures that are on disk but neither trained nor predicted.
    """

    classes: tuple[LabelClass, ...]
    regions: tuple[Region, ...] = ()
    ignore_values: tuple[int, ...] = ()
    overlapping: bool = False
    left_out: tuple[LabelClass, ...] = ()

    @property
    def num_classes(self) -> int:
        """K: how many indices a channel tells apart, background included; 2 for structures."""
        return 2 if self.overlapping else 1 + len(self.classes)

    @property
    def seg_channels(self) -> int:
        """Channels of a segmentation: one a structure where they overlap, else 1."""
        return len(self.classes) if self.overlapping else 1

    @property
    def ignore_index(self) -> int:
        """K, the index that marks ignored voxels."""
        return self.num_classes

    @property
    def output_names(self) -> tuple[str, ...]:
        """What each network channel predicts: the targets (sigmoid), after background (softmax)."""
        return self.target_names if self.sigmoid else ("background", *self.target_names)

    @property
    def num_outputs(self) -> int:
        """Network channels."""
        return len(self.output_names)

    @property
    def has_regions(self) -> bool:
        """Whether the targets are regions, made of the classes."""
        return bool(self.regions)

    @property
    def sigmoid(self) -> bool:
        """Whether the targets may overlap (regions, structures), so that each is a yes or no."""
        return self.has_regions or self.overlapping

    @property
    def target_names(self) -> tuple[str, ...]:
        """Names of what is trained: the regions, else the foreground classes or structures."""
        return tuple(target.name for target in self.regions or self.classes)

    @cached_property
    def ignored_values(self) -> frozenset[int]:
        """Raw values read as ignore, announced or not."""
        return frozenset({*self.ignore_values, UNANNOUNCED_IGNORE})

    @cached_property
    def raw_values(self) -> np.ndarray:
        """Raw value of the background and of every class, in declaration order."""
        return np.array([0, *(c.value for c in self.classes)], dtype=np.int64)

    @cached_property
    def region_members(self) -> np.ndarray:
        """(R, K) bool: whether class index k belongs to region r."""
        members = [np.isin(self.raw_values, region.members) for region in self.regions]
        return np.array(members, dtype=bool).reshape(len(self.regions), self.num_classes)

    @cached_property
    def structure_bits(self) -> tuple[int, ...]:
        """Bit of every structure in a bitmask, which is its place among separate masks too."""
        return self._bits_on_disk[: len(self.classes)]

    @cached_property
    def left_out_bits(self) -> tuple[int, ...]:
        """Bits of the structures left out."""
        return self._bits_on_disk[len(self.classes) :]

    @property
    def structures_on_disk(self) -> int:
        """Masks a label file holds, one a bit, those left out among them."""
        return 1 + max(self._bits_on_disk)

    @property
    def _bits_on_disk(self) -> tuple[int, ...]:
        return tuple(bit_numbers([s.value for s in (*self.classes, *self.left_out)]))

    def without(self, names: Sequence[str]) -> LabelSchema:
        """Leave structures out of training and prediction; they keep their place on disk.

        Raises:
            ValueError: the structures do not overlap, or none would be left.
        """
        kept = tuple(c for c in self.classes if c.name not in names)
        if names and not (self.overlapping and kept):
            raise ValueError("only structures that overlap can be left out, and not all of them")
        gone = tuple(c for c in self.classes if c.name in names)
        return replace(self, classes=kept, left_out=(*self.left_out, *gone))

    @cached_property
    def paint_indices(self) -> np.ndarray:
        """(R,) class index painted for every region, in declaration order."""
        index = {int(value): i for i, value in enumerate(self.raw_values)}
        return np.array([index[region.paint] for region in self.regions], dtype=np.int64)

    def encode(
        self, raw: np.ndarray, *, source: object = None, undeclared: set[int] | None = None
    ) -> np.ndarray:
        """Turn raw values into indices 0..K (K = ignore), int16, same shape.

        Not for overlapping structures: see ``structures.encode_structures``.

        Args:
            raw: Label values.
            source: File they are from, for messages.
            undeclared: Takes the values that are not declared, which become background; None
                refuses them.

        Raises:
            UserError: values that are fractional or that dataset.json does not declare; their
                counts are given.
        """
        integers = as_integers(raw, source)
        table = {int(value): i for i, value in enumerate(self.raw_values)}
        table.update(dict.fromkeys(self.ignored_values - table.keys(), self.ignore_index))
        indices = _look_up(integers, table)
        if (unknown := indices == _UNDECLARED).any():
            if undeclared is None:
                raise self._undeclared(integers[unknown], source)
            undeclared.update(np.unique(integers[unknown]).tolist())
            indices[unknown] = BACKGROUND
        return indices

    def decode(self, indices: np.ndarray) -> np.ndarray:
        """Turn class indices 0..K-1 into raw values (smallest unsigned type that holds them).

        Invalid voxels become background. Not for overlapping structures.
        """
        highest = int(self.raw_values.max())
        dtype = np.uint8 if highest < 256 else np.uint16 if highest < 65536 else np.int32
        return self.raw_values.astype(dtype)[np.maximum(indices, BACKGROUND)]

    def _undeclared(self, values: np.ndarray, source: object) -> UserError:
        found, counts = np.unique(values, return_counts=True)
        listing = ", ".join(
            f"{v} ({n} voxels)" for v, n in zip(found[:10], counts[:10], strict=True)
        )
        listing += f" and {len(found) - 10} more" if len(found) > 10 else ""
        return UserError(
            f"label values not declared in dataset.json: {listing}",
            where=source,
            fix=f"declare them under 'labels' or correct the file; declared: {self.describe()}",
        )

    def describe(self) -> str:
        """List the declared values, e.g. ``0 background, 1 liver``."""
        return ", ".join(["0 background", *(f"{c.value} {c.name}" for c in self.classes)])

    @classmethod
    def from_description(cls, labels: Mapping[str, Any], content: Mapping[str, Any]) -> LabelSchema:
        """Build the schema from a checked dataset.json (see ``checks.content``)."""
        entries = class_entries(labels).items()
        lists = {n: tuple(v) if isinstance(v, list) else (v,) for n, v in entries}
        names = {members[0]: n for n, members in lists.items() if len(members) == 1}
        values = dict.fromkeys(value for members in lists.values() for value in members)
        classes = [LabelClass(name=names.get(v, f"label_{v}"), value=v) for v in values]
        regions: list[Region] = []
        if any(len(members) > 1 for members in lists.values()):
            order = content["regions_class_order"]
            regions = [
                Region(name=name, members=members, paint=paint)
                for (name, members), paint in zip(lists.items(), order, strict=True)
            ]
        ignore = content.get("ignore_label", [])
        ignore = [ignore] if isinstance(ignore, int) else list(ignore)
        ignore += [labels["ignore"]] if "ignore" in labels else []
        return cls(
            classes=tuple(classes),
            regions=tuple(regions),
            ignore_values=tuple(ignore),
            overlapping=is_multilabel(content),
        )


def class_entries(labels: Mapping[str, Any]) -> dict[str, Any]:
    """Return what ``labels`` of a dataset.json says besides background and ignore."""
    return {name: value for name, value in labels.items() if name not in SPECIAL_NAMES}


def is_multilabel(content: Mapping[str, Any]) -> bool:
    """Whether the labels of a dataset.json are structures that may overlap."""
    return content.get("label_encoding") == "multilabel"


def bit_numbers(values: Sequence[int]) -> list[int]:
    """Return the bit each structure occupies in a bitmask, from its value in dataset.json.

    Values that all are powers of two are the bits' own values (1, 2, 4, 8); else they are the
    structures' numbers 1, 2, 3, 4, and number n is bit n - 1.
    """
    if all(value > 0 and value & (value - 1) == 0 for value in values):
        return [value.bit_length() - 1 for value in values]
    return [value - 1 for value in values]


def _look_up(integers: np.ndarray, table: Mapping[int, int]) -> np.ndarray:
    """Replace every value by its entry in the table, or ``_UNDECLARED``; int16."""
    lowest, highest = int(integers.min(initial=0)), int(integers.max(initial=0))
    few = highest - lowest < len(table)
    if few and all(table.get(value) == value for value in range(lowest, highest + 1)):
        return integers.astype(np.int16)  # most datasets number their classes as we do
    low, high = min(table), max(table)
    if high - low >= _WIDEST_TABLE:
        values, inverse = np.unique(integers, return_inverse=True)
        entries = [table.get(int(value), _UNDECLARED) for value in values]
        return np.array(entries, dtype=np.int16)[inverse].reshape(integers.shape)
    # The last entry is for everything outside the table.
    entries_by_value = np.full(high - low + 2, _UNDECLARED, dtype=np.int16)
    entries_by_value[[value - low for value in table]] = list(table.values())
    flat, indices = integers.ravel(), np.empty(integers.size, dtype=np.int16)
    for start in range(0, flat.size, _AT_ONCE):
        values = flat[start : start + _AT_ONCE]
        inside = (values >= low) & (values <= high)
        places = np.where(inside, values.astype(np.int64) - low, -1)
        indices[start : start + _AT_ONCE] = entries_by_value[places]
    return indices.reshape(integers.shape)


def as_integers(raw: np.ndarray, source: object) -> np.ndarray:
    """Return label values as integers.

    Raises:
        UserError: NaN, infinity or fractional values.
    """
    if np.issubdtype(raw.dtype, np.integer):
        return raw
    if not np.isfinite(raw).all():
        raise UserError("the label map holds NaN or infinity", where=source, fix="correct the file")
    if not is_whole(raw).all():
        fix = "export the label map with nearest-neighbour interpolation and an integer type"
        raise UserError("the label map holds fractional values", where=source, fix=fix)
    return np.rint(raw).astype(np.int64)


def is_whole(values: np.ndarray) -> np.ndarray:
    """Tell of each value whether it is an integer but for noise; NaN and infinity are not."""
    if np.issubdtype(values.dtype, np.integer):
        return np.ones(values.shape, dtype=bool)
    with np.errstate(invalid="ignore"):
        whole: np.ndarray = np.abs(values - np.rint(values)) <= FRACTION_TOLERANCE
    return whole
