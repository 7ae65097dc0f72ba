"""Image files to and from volumes; the file's ending chooses the reader.

What is written for a geometry that was read equals the input's size, spacing, origin and
direction, as SimpleITK and as nibabel see them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from segkit.dataset.image_io import image2d_io, nibabel_io, sitk_io, tiff_io
from segkit.errors import UserError, nearest
from segkit.types import Geometry, Volume

Kind = Literal["sitk", "nibabel", "plane", "tiff"]

KNOWN_ENDINGS = (
    ".nii.gz",
    ".nii",
    ".nrrd",
    ".mha",
    ".mhd",
    ".gipl",
    ".png",
    ".bmp",
    ".tif",
    ".tiff",
    ".jpg",
    ".jpeg",
)
_PLANES = (".png", ".bmp", ".tif", ".tiff", ".jpg", ".jpeg")
_TIFF = (".tif", ".tiff")
_NIFTI = (".nii.gz", ".nii")

READERS: dict[str, tuple[Kind, tuple[str, ...]]] = {
    "SimpleITKIO": ("sitk", KNOWN_ENDINGS[:6]),
    "SimpleITKIOWithReorient": ("sitk", KNOWN_ENDINGS[:6]),
    "NibabelIO": ("nibabel", _NIFTI),
    "NibabelIOWithReorient": ("nibabel", _NIFTI),
    "NaturalImage2DIO": ("plane", _PLANES),
    "Tiff3DIO": ("tiff", _TIFF),
}
"""nnU-Net's reader names: (what reads here, endings it reads)."""

SPACING_TOLERANCE = 1e-3
"""Largest relative difference between the spacings of files of one case."""


def read_image(paths: Sequence[Path], reader: str | None = None) -> Volume:
    """Read the files of one case and stack them on the channel axis.

    Args:
        paths: One file a channel, or files that hold several (RGB, RGBA, 4D).
        reader: Name from :data:`READERS`; None chooses by ending.

    Returns:
        (C, Z, Y, X) float32, with the geometry of the first file; 2D images have Z = 1 and the
        spacing (999, 1, 1).

    Raises:
        UserError: missing, empty, truncated or not an image; or the files differ in shape or
            spacing.
    """
    volumes = [_read(path, reader, labels=False) for path in paths]
    first = volumes[0]
    for path, volume in zip(paths[1:], volumes[1:], strict=True):
        if volume.shape != first.shape:
            what = f"shape {volume.shape} (z, y, x) differs from {first.shape} of {paths[0].name}"
            raise UserError(what, where=path, fix="resample the channels to one grid")
        ours, theirs = volume.geometry.spacing_mm, first.geometry.spacing_mm
        if not np.allclose(ours, theirs, rtol=SPACING_TOLERANCE, atol=0):
            what = f"spacing {ours} mm (z, y, x) differs from {theirs} of {paths[0].name}"
            raise UserError(what, where=path, fix="resample the channels to one grid")
    with np.errstate(over="ignore"):
        arrays = [volume.array.astype(np.float32, copy=False) for volume in volumes]
    array = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
    return Volume(array=np.ascontiguousarray(array), geometry=first.geometry)


def read_labels(path: Path, reader: str | None = None) -> Volume:
    """Read a label map as raw values.

    Palette images give their indices, and grey maps saved as RGB their grey values.

    Returns:
        (1, Z, Y, X), of the file's integer type, or float where the file holds floats.

    Raises:
        UserError: unreadable, or the file holds several different channels.
    """
    volume = _read(path, reader, labels=True)
    array = volume.array
    if array.shape[0] in (2, 4) and _kind(path, reader) == "plane":
        array = array[:-1]  # alpha is no label
    if (array[1:] != array[:1]).any():
        what = f"a label map has one channel; this file holds {volume.array.shape[0]}"
        fix = "store one integer a voxel; structures that overlap are not supported yet"
        raise UserError(what, where=path, fix=fix)
    array = array[:1].astype(np.uint8) if array.dtype == bool else array[:1]
    return Volume(array=np.ascontiguousarray(array), geometry=volume.geometry)


def write_labels(path: Path, labels_zyx: np.ndarray, geometry: Geometry) -> None:
    """Write raw label values with the geometry of the input, atomically.

    Args:
        path: Its ending chooses the format.
        labels_zyx: (Z, Y, X), none negative. uint8 and uint16 are stored as they are, other types
            as the smallest of uint8, uint16 and int32 that holds all values.
        geometry: As read from the input.

    Raises:
        UserError: the format cannot hold these labels, or the place cannot be written.
    """
    highest = int(labels_zyx.max(initial=0))
    dtype = np.uint8 if highest < 256 else np.uint16 if highest < 65536 else np.int32
    kept = labels_zyx.dtype in (np.uint8, np.uint16)
    labels = np.ascontiguousarray(labels_zyx, dtype=None if kept else dtype)
    ending = ending_of(path)
    try:
        if ending in _NIFTI:
            nibabel_io.write(path, labels, geometry)
        elif ending in _TIFF and geometry.stored_ndim == 3:
            tiff_io.write(path, labels, geometry)
        elif ending in _PLANES:
            image2d_io.write(path, labels)
        else:
            sitk_io.write(path, labels, geometry)
    except OSError as error:
        fix = "check free space and permissions"
        raise UserError(f"cannot write the file: {error}", where=path, fix=fix) from None


def count_channels(path: Path, reader: str | None = None) -> int:
    """Number of channels of one file; only the header is read where that suffices.

    Raises:
        UserError: as for :func:`read_image`.
    """
    if ending_of(path) in _NIFTI:
        return nibabel_io.count_channels(path)
    return _read(path, reader, labels=False).array.shape[0]


def ending_of(path: Path) -> str:
    """Return the known ending of a file name, in lower case.

    Raises:
        UserError: the ending is not known.
    """
    name = path.name.lower()
    for ending in KNOWN_ENDINGS:
        if name.endswith(ending):
            return ending
    fix = f"convert the file to one of {', '.join(KNOWN_ENDINGS)}"
    raise UserError(f"unknown image format {path.suffix!r}", where=path, fix=fix)


def check_reader(reader: str | None) -> None:
    """Check a reader name (``overwrite_image_reader_writer``); None and "None" mean no choice.

    Raises:
        UserError: there is no such reader.
    """
    if reader not in (None, "None", *READERS):
        raise UserError(
            f"unknown image reader {reader!r}",
            where="overwrite_image_reader_writer",
            fix=nearest(str(reader), READERS),
        )


def required_orientation(reader: str | None) -> str | None:
    """Orientation all cases are to be brought to because of the reader's name, or None.

    ``...WithReorient`` readers mean RAS. Files are read as stored all the same, so that what is
    written back lies on the input's grid: the plan's orientation does the work.
    """
    return "RAS" if reader is not None and reader.endswith("WithReorient") else None


def _kind(path: Path, reader: str | None) -> Kind:
    check_reader(reader)
    ending = ending_of(path)
    if reader is None or reader == "None":
        if ending in _TIFF:
            return "plane" if tiff_io.count_pages(path) == 1 else "tiff"
        return "plane" if ending in _PLANES else "sitk"
    kind, endings = READERS[reader]
    if ending not in endings:
        what = f"the reader {reader} does not read {ending} files"
        fix = f"leave overwrite_image_reader_writer out; {reader} reads {', '.join(endings)}"
        raise UserError(what, where=path, fix=fix)
    return kind


def _read(path: Path, reader: str | None, *, labels: bool) -> Volume:
    sitk_io.check_readable(path)
    kind = _kind(path, reader)
    if kind == "plane":
        return image2d_io.read(path, keep_indices=labels)
    if kind == "tiff":
        return tiff_io.read(path)
    return nibabel_io.read(path) if kind == "nibabel" else sitk_io.read(path)
