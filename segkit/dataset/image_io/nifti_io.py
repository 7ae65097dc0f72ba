"""NIfTI files as SimpleITK's users know them: nibabel's voxels, ITK's geometry.

The voxels are nibabel's because ITK turns NaN into 0 and reads truncated files. Where both take the
same affine of the header, the geometry is nibabel's too, for ITK bends an affine that shears into
a rotation and lets the voxel sizes overrule the lengths of its columns. Where ITK takes another
affine or a unit other than mm, the geometry is ITK's (as in nnU-Net), unless it refuses the file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from segkit.dataset.image_io import nibabel_io
from segkit.types import Geometry, Shape, Volume


def read(path: Path) -> Volume:
    """Read a file as (C, Z, Y, X) of its own type; a 4D image has its channels first.

    Raises:
        UserError: not a NIfTI file, truncated, or of a voxel type that is no number.
    """
    image = nibabel_io.load(path)
    return Volume(array=nibabel_io.read_voxels(image, path), geometry=_geometry(image, path))


def read_grid(path: Path) -> tuple[Shape, Geometry]:
    """Return the shape (C, Z, Y, X) and the geometry a file is read with, from its header.

    Raises:
        UserError: not a NIfTI file, or of a voxel type that is no number.
    """
    image = nibabel_io.load(path)
    return nibabel_io.stored_shape(image, path), _geometry(image, path)


def _geometry(image: Any, path: Path) -> Geometry:
    if nibabel_io.is_plain(image):
        return nibabel_io.header_geometry(image)
    from segkit.dataset.image_io import sitk_io

    try:
        return sitk_io.header_geometry(path)
    except RuntimeError:
        return nibabel_io.header_geometry(image)
