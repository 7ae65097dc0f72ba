"""The label files of a case taken apart: whatever the layout, arrays of one integer a voxel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

import numpy as np

from segkit.dataset.case_files import MULTILABEL
from segkit.dataset.cases import Case
from segkit.dataset.checks.expectations import Expectations, unreadable
from segkit.dataset.checks.geometry import Grid, grid_of
from segkit.dataset.image_io import read_labels, read_masks
from segkit.dataset.label_files import LabelLayout, count_masks, structure_files
from segkit.dataset.problems import Problem, problem
from segkit.dataset.structures import check_bitmask
from segkit.errors import UserError

_WIDEST_COUNT = 1 << 12


@dataclass(frozen=True, kw_only=True)
class Part:
    """One label file, or one mask of it."""

    voxels: np.ndarray
    """(Z, Y, X), never empty."""
    grid: Grid
    """Of the file."""
    encoding: Literal["classes", "bits", "mask"]
    structure: str | None = None
    """Whose mask it is; None for a mask that no structure has."""

    @cached_property
    def values(self) -> tuple[np.ndarray, np.ndarray]:
        """Values that occur, rising, and the voxels of each."""
        return count_values(self.voxels)


def count_values(voxels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the values of an array (Z, ...), rising, and how often each occurs.

    Integers that lie close together are counted in place; ``np.unique`` would sort them.
    """
    low, high = voxels.min(), voxels.max()
    exact = np.can_cast(voxels.dtype, np.int64)
    if not exact or int(high) - int(low) >= _WIDEST_COUNT:
        return np.unique(voxels, return_counts=True)
    counts = np.zeros(int(high) - int(low) + 1, dtype=np.int64)
    for plane in voxels:
        places = np.subtract(plane.ravel(), low, dtype=np.int64)
        counts += np.bincount(places, minlength=len(counts))
    (found,) = np.nonzero(counts)
    return (found + int(low)).astype(voxels.dtype), counts[found]


def layout_of(parts: list[Part], label: Path) -> LabelLayout | None:
    """Tell how a case's labels are stored; None where nothing could be read."""
    if not parts:
        return None
    if label.is_dir():
        return "folder"
    return "masks" if parts[0].encoding == "mask" else "integers"


def read_parts(label: Path, expected: Expectations, case: Case) -> tuple[list[Part], list[Problem]]:
    """Read a label file or folder, and return what keeps its parts from being read."""
    if label.is_dir():
        return _read_folder(label, expected, case)
    try:
        volume = (read_masks if expected.overlapping else read_labels)(label, expected.reader)
    except UserError as error:
        return [], [_refused(error, label, expected, case)]
    grid = grid_of(volume, label)
    if len(volume.array) > 1:
        return _split(volume.array, grid, expected, case)
    if expected.overlapping:
        return _take_bitmask(volume.array[0], grid, expected, case)
    return [Part(voxels=volume.array[0], grid=grid, encoding="classes")], []


def _refused(error: UserError, file: Path, expected: Expectations, case: Case) -> Problem:
    """Tell a label file with several volumes from one that cannot be read."""
    count = 1 if expected.overlapping else count_masks(file, expected.reader)
    if count == 1:
        return unreadable(error, file, case)
    what = f"the label file holds {count} volumes (4D, or colours); labels are one integer a voxel"
    fix = f"store one integer a voxel; are they masks of structures, then write {MULTILABEL}"
    return problem("SK-G006", what, where=file, fix=fix, case=case.id)


def _take_bitmask(
    voxels: np.ndarray, grid: Grid, expected: Expectations, case: Case
) -> tuple[list[Part], list[Problem]]:
    """Take a file with one integer a voxel, if that can tell the structures apart."""
    try:
        if expected.labels is not None:
            check_bitmask(expected.labels, grid.file)
    except UserError as error:
        fix = error.fix or "store one mask a structure"
        return [], [problem("SK-F026", error.what, where=grid.file, fix=fix, case=case.id)]
    return [Part(voxels=voxels, grid=grid, encoding="bits")], []


def _split(
    masks: np.ndarray, grid: Grid, expected: Expectations, case: Case
) -> tuple[list[Part], list[Problem]]:
    """Take apart a file with a mask a structure."""
    schema = expected.labels
    if schema is None:
        return [Part(voxels=mask, grid=grid, encoding="mask") for mask in masks], []
    if len(masks) != schema.structures_on_disk:
        what = f"the file holds {len(masks)} masks; labels declares {schema.structures_on_disk}"
        fix = "store one mask a structure along the last axis, in the order of their numbers"
        return [], [problem("SK-F012", what, where=grid.file, fix=fix, case=case.id)]
    owners = {
        bit: structure.name
        for bit, structure in zip(schema.structure_bits, schema.classes, strict=True)
    }
    return [
        Part(voxels=mask, grid=grid, encoding="mask", structure=owners.get(place))
        for place, mask in enumerate(masks)
    ], []


def _read_folder(
    folder: Path, expected: Expectations, case: Case
) -> tuple[list[Part], list[Problem]]:
    """Read a folder with a file a structure."""
    try:
        files, schema = structure_files(folder), expected.labels
    except UserError as error:
        return [], [unreadable(error, folder, case)]
    declared = [structure.name for structure in schema.classes] if schema else sorted(files)
    parts, problems = [], _check_folder(folder, files, declared, case)
    for name in (name for name in declared if len(files.get(name, ())) == 1):
        (file,) = files[name]
        try:
            volume = read_labels(file, expected.reader)
        except UserError as error:
            problems.append(_refused(error, file, expected, case))
            continue
        grid = grid_of(volume, file)
        part = Part(voxels=volume.array[0], grid=grid, encoding="mask", structure=name)
        parts.append(part)
    return parts, problems


def _check_folder(
    folder: Path, files: Mapping[str, Sequence[Path]], declared: list[str], case: Case
) -> list[Problem]:
    told = partial(problem, where=folder, case=case.id)
    surplus = sorted(files.keys() - set(declared))
    problems = []
    for name in declared:
        if len(files.get(name, ())) > 1:
            what = f"the files of {name!r}: {', '.join(file.name for file in files[name])}"
            problems.append(told("SK-F028", what, fix="keep one of them"))
        elif name not in files and name not in case.unannotated:
            fix = 'add a mask, empty if the structure is not there, or name it under "unannotated"'
            if close := get_close_matches(name, surplus, n=1):
                fix = f"rename {close[0]} to {name}"
            problems.append(told("SK-F022", f"there is no file for {name!r}", fix=fix))
    if not problems and not files.keys() & set(declared):
        fix = "add a mask of one of them, which tells the grid, or remove the case"
        problems.append(told("SK-F022", "there is no file of any structure", fix=fix))
    if surplus:
        listed = ", ".join(surplus[:5]) + (", ..." if len(surplus) > 5 else "")
        what = f"{len(surplus)} files are named after no structure: {listed}"
        fix = f"declare the structures under labels, or leave them; declared: {', '.join(declared)}"
        problems.append(told("SK-F023", what, fix=fix))
    return problems
