"""Where the files of one case lie: their grids against each other, and headers that contradict."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from segkit.dataset.cases import Case
from segkit.dataset.image_io import SPACING_TOLERANCE, read_header
from segkit.dataset.image_io.formats import NIFTI, ending_of
from segkit.dataset.orientation import reorient_grid
from segkit.dataset.problems import Problem, problem
from segkit.types import Geometry, Shape, Volume

ORIGIN_TOLERANCE = 0.01
"""Largest distance between origins, in voxels."""
DIRECTION_TOLERANCE = 1e-3
"""Largest difference of an entry of the direction matrix."""
SAME_VOXEL = 0.49
"""Largest distance of voxel centres that belong together, along each axis, in voxels of the image.

Below one half nearest-neighbour resampling moves no label; a hair less keeps draws out."""
FORM_TOLERANCE = 0.1
"""Largest distance between the places sform and qform give to one voxel, in voxels."""
_REORIENT = (
    "reorient the file onto the image (its world coordinates are right), or validate --fix; do not "
    "copy the header, which would mirror it for good"
)


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The grid of one file."""

    file: Path
    shape: Shape
    geometry: Geometry
    several: bool = False
    """Whether the file has several values a voxel."""

    @property
    def is_plane(self) -> bool:
        """Whether there is one slice only, or the file holds two axes."""
        return self.shape[0] == 1 or self.geometry.stored_ndim == 2


def grid_of(volume: Volume, file: Path) -> Grid:
    """Return the grid of what was read."""
    several = len(volume.array) > 1
    return Grid(file=file, shape=volume.shape, geometry=volume.geometry, several=several)


def read_grid(file: Path, reader: str | None) -> Grid:
    """Return the grid a file has by its header.

    Raises:
        UserError: it cannot be read.
    """
    header = read_header(file, reader)
    several = header.channels > 1
    return Grid(file=file, shape=header.shape, geometry=header.geometry, several=several)


def compare_grids(other: Grid, first: Grid, case: Case) -> list[Problem]:
    """Return the problems of a file whose grid differs from that of the first image."""
    told = partial(problem, where=other.file, case=case.id)
    if other.several and other.shape[0] == 1 and _stored(first) == 2:
        other = _without_third_axis(other, first)
    if _is_reoriented(other, first):
        what = (
            f"stored as {other.geometry.orientation()}, while {first.file.name} is stored as "
            f"{first.geometry.orientation()}; both cover the same points in space"
        )
        return [told("SK-G008", what, fix=_REORIENT)]
    if other.is_plane != first.is_plane or _stored(other) != _stored(first):
        what = f"{_kind(other)}, while {first.file.name} is {_kind(first)}"
        return [told("SK-G006", what, fix="export the file again with all axes of the image")]
    if other.shape != first.shape:
        fix = "resample the file onto the grid of the first image (labels: nearest neighbour)"
        if sorted(other.shape) == sorted(first.shape):
            fix = "the axes are in another order: transpose the file's array"
        what = f"shape {other.shape} (z, y, x) differs from {first.shape} of {first.file.name}"
        return [told("SK-G001", what, fix=fix)]
    return _compare_headers(other, first, told)


def _without_third_axis(masks: Grid, plane: Grid) -> Grid:
    """Take masks of a plane for planes: NIfTI gives them a third axis, to have a fourth."""
    spacing_mm = (plane.geometry.spacing_mm[0], *masks.geometry.spacing_mm[1:])
    return replace(masks, geometry=replace(plane.geometry, spacing_mm=spacing_mm))


def _is_reoriented(other: Grid, first: Grid) -> bool:
    """Whether two grids have the same points once axes of one are put in order and flipped.

    Not where voxels of the same index are at the same place already (axes of one voxel).
    """
    target = first.geometry.orientation()
    if _stored(other) != _stored(first) or other.geometry.orientation() == target:
        return False
    turned, shape = reorient_grid(other.geometry, other.shape, target)
    if shape != first.shape or farthest_centres(turned, first.geometry, shape) > SAME_VOXEL:
        return False
    same_shape = other.shape == shape
    here = same_shape and farthest_centres(other.geometry, first.geometry, shape) <= SAME_VOXEL
    return not here


def farthest_centres(geometry: Geometry, image: Geometry, shape_zyx: Shape) -> float:
    """Largest distance of a voxel centre from the image's of the same index.

    It is the largest along any axis of the image, in its voxels. Both grids are affine, so that
    their eight corners tell for all voxels.

    Args:
        geometry: Of a file.
        image: Of the first image of its case.
        shape_zyx: Of both.
    """
    corners = _corners(shape_zyx)
    return float(np.abs(_seen_from(image, geometry, corners) - corners).max())


def _apart(other: Grid, first: Grid) -> bool:
    """Whether the voxels of two grids fill boxes that a face of one of them keeps apart."""
    return _is_beside(other, first) or _is_beside(first, other)


def _is_beside(grid: Grid, box: Grid) -> bool:
    edges = _corners(grid.shape, margin=0.5)
    seen = _seen_from(box.geometry, grid.geometry, edges)
    ends = np.array(box.shape[::-1]) - 0.5
    return bool(((seen.max(axis=1) <= -0.5) | (seen.min(axis=1) >= ends)).any())


def _seen_from(image: Geometry, geometry: Geometry, points: np.ndarray) -> np.ndarray:
    """Turn (3, N) voxel indices x, y, z of a grid into those of the image's grid."""
    world = _axes(geometry) @ points + np.reshape(geometry.origin, (3, 1))
    return np.linalg.solve(_axes(image), world - np.reshape(image.origin, (3, 1)))


def _axes(geometry: Geometry) -> np.ndarray:
    """(3, 3): column j is the step of array axis x, y, z [j] in the world, in mm."""
    return np.reshape(geometry.direction, (3, 3)) * np.array(geometry.spacing_mm[::-1])


def _corners(shape_zyx: Shape, margin: float = 0.0) -> np.ndarray:
    """(3, 8): the outermost voxel centres as x, y, z, moved outwards by a margin, in voxels."""
    ends = [(-margin, size - 1 + margin) for size in shape_zyx[::-1]]
    return np.array(list(itertools.product(*ends)), dtype=np.float64).T


def _compare_headers(other: Grid, first: Grid, told: Callable[..., Problem]) -> list[Problem]:
    ours, theirs = other.geometry, first.geometry
    header = f"copy the header's geometry from {first.file.name} if the voxels do belong together"
    found = []
    if not np.allclose(ours.spacing_mm, theirs.spacing_mm, rtol=SPACING_TOLERANCE, atol=0):
        what = (
            f"spacing {_numbers(ours.spacing_mm)} mm (z, y, x) differs from "
            f"{_numbers(theirs.spacing_mm)} of {first.file.name} "
            f"(by more than {SPACING_TOLERANCE:g} of itself)"
        )
        found.append(told("SK-G002", what, fix=header))
    offset = np.subtract(ours.origin, theirs.origin)
    voxels = float(np.linalg.norm(np.linalg.solve(_axes(theirs), offset)))
    if voxels > ORIGIN_TOLERANCE:
        what = (
            f"the origin lies {voxels:.3g} voxels from that of {first.file.name} "
            f"(tolerance {ORIGIN_TOLERANCE:g})"
        )
        found.append(told("SK-G003", what, fix=header))
    turn = float(np.abs(np.subtract(ours.direction, theirs.direction)).max())
    if turn > DIRECTION_TOLERANCE:
        what = (
            f"the direction ({ours.orientation()}) differs by {turn:.3g} from that of "
            f"{first.file.name} ({theirs.orientation()}; tolerance {DIRECTION_TOLERANCE:g})"
        )
        found.append(told("SK-G004", what, fix=header))
    if found and _apart(other, first):
        what = f"{found[0].message}; the two do not overlap in space at all"
        found[0] = replace(found[0], message=what)
    return found


def check_forms(grid: Grid, case: Case) -> list[Problem]:
    """Tell a NIfTI header whose sform and qform place the voxels differently.

    Readers differ in which of the two they believe; the message says which one segkit uses, and
    how far apart they put the corner where they differ most.
    """
    if ending_of(grid.file) not in NIFTI:
        return []
    from segkit.dataset.image_io import nibabel_io

    forms = nibabel_io.header_affines(grid.file)
    if len(forms) < 2:
        return []
    sform, qform = forms["sform"], forms["qform"]
    # In voxels, because the header's unit need not be mm.
    sizes = np.linalg.norm(sform[:3, :3], axis=0)
    voxels = _farthest(sform - qform, grid.shape) / float(sizes[sizes > 0].min(initial=np.inf))
    if voxels <= FORM_TOLERANCE:
        return []
    ours = nibabel_io.affine_of(grid.geometry)
    used = min(forms, key=lambda name: _farthest(forms[name] - ours, grid.shape))
    what = (
        f"sform and qform of the header place one voxel up to {voxels:.3g} voxels apart "
        f"(tolerance {FORM_TOLERANCE:g}); the {used} is used"
    )
    fix = (
        f"if the {used} is right, nothing needs to be done here, but other programs may read the "
        "other one: write one affine as both (nibabel: set_sform and set_qform)"
    )
    return [problem("SK-G007", what, where=grid.file, fix=fix, case=case.id)]


def _farthest(difference: np.ndarray, shape_zyx: Shape) -> float:
    """Return how far a difference of affines moves the corner it moves most, in their unit."""
    moved = difference[:3, :3] @ _corners(shape_zyx) + difference[:3, 3:]
    return float(np.linalg.norm(moved, axis=0).max())


def _stored(grid: Grid) -> int:
    return grid.geometry.stored_ndim


def _kind(grid: Grid) -> str:
    if grid.geometry.stored_ndim == 2:
        return "a plane (2D)"
    return "a single slice stored in 3D" if grid.is_plane else "a volume (3D)"


def _numbers(values: Sequence[float]) -> str:
    return " x ".join(f"{value:.6g}" for value in values)
