"""What the header of an image file tells: channels, shape and geometry, without the voxels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segkit.dataset.image_io.formats import check_readable, io_module, kind_of
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
    check_readable(path)
    (channels, *shape), geometry = io_module(kind_of(path, reader)).read_grid(path)
    check_geometry(geometry, path)
    return Header(channels=channels, shape=tuple(shape), geometry=geometry)


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
