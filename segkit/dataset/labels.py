"""``LabelSchema``: every meaning a voxel can have, in one place.

On disk a label map holds raw values (any distinct integers). Inside segkit it holds indices:
-1 invalid, 0 background, 1..K-1 the classes in declaration order, K ignore.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from segkit.errors import UserError

INVALID = -1
"""Index of voxels that carry no image information. Never on disk as a class."""
BACKGROUND = 0
_UNDECLARED = -2
_WIDEST_TABLE = 2**20
UNANNOUNCED_IGNORE = -1
"""Raw value read as ignore even where dataset.json does not announce it."""


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
    """

    classes: tuple[LabelClass, ...]
    regions: tuple[Region, ...] = ()
    ignore_values: tuple[int, ...] = ()

    @property
    def num_classes(self) -> int:
        """K: background plus the foreground classes."""
        return 1 + len(self.classes)

    @property
    def ignore_index(self) -> int:
        """K, the index that marks ignored voxels."""
        return self.num_classes

    @property
    def num_outputs(self) -> int:
        """Network channels: one a region (sigmoid), else one a class with background (softmax)."""
        return len(self.regions) or self.num_classes

    @property
    def has_regions(self) -> bool:
        """Whether the network predicts regions (sigmoid) and not classes (softmax)."""
        return bool(self.regions)

    @property
    def target_names(self) -> tuple[str, ...]:
        """Names of what is trained: the regions, else the foreground classes."""
        return tuple(target.name for target in self.regions or self.classes)

    @cached_property
    def raw_values(self) -> np.ndarray:
        """(K,) raw value of every index 0..K-1."""
        return np.array([0, *(c.value for c in self.classes)], dtype=np.int64)

    @cached_property
    def region_members(self) -> np.ndarray:
        """(R, K) bool: whether class index k belongs to region r."""
        members = [np.isin(self.raw_values, region.members) for region in self.regions]
        return np.array(members, dtype=bool).reshape(len(self.regions), self.num_classes)

    @cached_property
    def paint_indices(self) -> np.ndarray:
        """(R,) class index painted for every region, in declaration order."""
        index = {int(value): i for i, value in enumerate(self.raw_values)}
        return np.array([index[region.paint] for region in self.regions], dtype=np.int64)

    def encode(self, raw: np.ndarray, *, source: object = None) -> np.ndarray:
        """Turn raw values into indices 0..K (K = ignore), int16, same shape.

        Raises:
            UserError: values that are fractional or that dataset.json does not declare; their
                counts are given.
        """
        integers = _as_integers(raw, source)
        ignored = {*self.ignore_values, UNANNOUNCED_IGNORE}
        table = {int(value): i for i, value in enumerate(self.raw_values)}
        table.update(dict.fromkeys(ignored - table.keys(), self.ignore_index))
        indices = _look_up(integers, table)
        if (unknown := indices == _UNDECLARED).any():
            raise self._undeclared(integers[unknown], source)
        return indices

    def decode(self, indices: np.ndarray) -> np.ndarray:
        """Turn class indices 0..K-1 into raw values (smallest unsigned type that holds them).

        Invalid voxels become background.
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
        """Build the schema from a checked dataset.json (see ``description.check``)."""
        entries = {n: v for n, v in labels.items() if n not in ("background", "ignore")}
        lists = {n: tuple(v) if isinstance(v, list) else (v,) for n, v in entries.items()}
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
        return cls(classes=tuple(classes), regions=tuple(regions), ignore_values=tuple(ignore))


def _look_up(integers: np.ndarray, table: Mapping[int, int]) -> np.ndarray:
    """Replace every value by its entry in the table, or ``_UNDECLARED``; int16."""
    low, high = min(table), max(table)
    if high - low >= _WIDEST_TABLE:
        values, inverse = np.unique(integers, return_inverse=True)
        entries = [table.get(int(value), _UNDECLARED) for value in values]
        return np.array(entries, dtype=np.int16)[inverse].reshape(integers.shape)
    # The last entry is for everything outside the table.
    entries_by_value = np.full(high - low + 2, _UNDECLARED, dtype=np.int16)
    entries_by_value[[value - low for value in table]] = list(table.values())
    inside = (integers >= low) & (integers <= high)
    return entries_by_value[np.where(inside, integers.astype(np.int64) - low, -1)]


def _as_integers(raw: np.ndarray, source: object) -> np.ndarray:
    if np.issubdtype(raw.dtype, np.integer):
        return raw
    if not np.isfinite(raw).all():
        raise UserError("the label map holds NaN or infinity", where=source, fix="correct the file")
    integers = np.rint(raw)
    if np.abs(raw - integers).max(initial=0) > 1e-3:
        fix = "export the label map with nearest-neighbour interpolation and an integer type"
        raise UserError("the label map holds fractional values", where=source, fix=fix)
    return integers.astype(np.int64)
