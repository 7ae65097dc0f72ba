"""What the header of an image file tells: channels, shape and geometry, without the voxels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segkit.dataset.image_io import image2d_io, nibabel_io, sitk_io, tiff_io
from segkit.dataset.image_io.formats import NIFTI, ending_of, kind_of
from segkit.errors import UserError
from segkit.types import Geometry, Shape

_FLAT = 1e-6
"""Least determinant of the directions of three axes that span space."""


@dataclass(frozen=True, kw_only=True)
class Header:
    """The grid of one file, and how many values it has a voxel."""

    channels: int
    shape: Shape
    """(Z, Y, X)."""
    geometry: Geometry


def read_header(path: Path, reader: str | None = None) -> Header:
    """Read what the file would be read as; a damage of its voxels is not noticed.

    Args:
        path: An image or label file.
        reader: Name from :data:`READERS`; None chooses by ending.

    Raises:
        UserError: missing, empty, not an image, of voxels that cannot be used, or no grid.
    """
    sitk_io.check_readable(path)
    (channels, *shape), geometry = _read(path, reader)
    check_geometry(geometry, path)
    return Header(channels=channels, shape=tuple(shape), geometry=geometry)


def _read(path: Path, reader: str | None) -> tuple[Shape, Geometry]:
    """Return the shape (C, Z, Y, X) and the geometry."""
    kind = kind_of(path, reader)
    if kind == "plane":
        return image2d_io.stored_shape(path), image2d_io.PLANE
    if kind == "tiff":
        return sitk_io.stored_shape(path), tiff_io.read_geometry(path)
    if ending_of(path) not in NIFTI:
        return sitk_io.stored_shape(path), sitk_io.read_geometry(path)
    image = nibabel_io.load(path)
    nibabel = kind == "nibabel"
    geometry = nibabel_io.header_geometry(image) if nibabel else sitk_io.nifti_geometry(image, path)
    return nibabel_io.stored_shape(image, path), geometry


def check_geometry(geometry: Geometry, path: Path) -> None:
    """Refuse what is no grid: sizes that are not positive, axes that lie in one plane."""
    numbers = (*geometry.spacing_mm, *geometry.origin, *geometry.direction)
    grid = np.isfinite(numbers).all() and min(geometry.spacing_mm) > 0
    if not grid or abs(np.linalg.det(np.reshape(geometry.direction, (3, 3)))) < _FLAT:
        what = (
            f"the header describes no grid: spacing {geometry.spacing_mm} (z, y, x), "
            f"origin {geometry.origin}, direction {geometry.direction}"
        )
        raise UserError(what, where=path, fix="correct the header, or export the file again")
