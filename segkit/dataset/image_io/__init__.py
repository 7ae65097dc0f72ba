"""Image files to and from volumes; the file's ending chooses the reader.

What is written for a geometry that was read equals the input's size, spacing, origin and
direction, as SimpleITK and as nibabel see them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from segkit.dataset.image_io.companions import COMPANION_ENDINGS, companions
from segkit.dataset.image_io.formats import (
    KNOWN_ENDINGS,
    NIFTI,
    PLANES,
    READERS,
    SEVERAL_MASKS,
    TIFF,
    check_readable,
    check_reader,
    ending_of,
    io_module,
    kind_of,
    required_orientation,
)
from segkit.dataset.image_io.header import Header, check_geometry, read_header
from segkit.errors import UserError
from segkit.files import failures_told
from segkit.types import Geometry, Volume

__all__ = [
    "COMPANION_ENDINGS",
    "KNOWN_ENDINGS",
    "PLANES",
    "READERS",
    "SPACING_TOLERANCE",
    "Header",
    "check_reader",
    "companions",
    "ending_of",
    "read_header",
    "read_image",
    "read_labels",
    "read_masks",
    "required_orientation",
    "write_geometry",
    "write_labels",
    "write_masks",
]

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
    if array.shape[0] in (2, 4) and kind_of(path, reader) == "plane":
        array = array[:-1]  # alpha is no label
    if (array[1:] != array[:1]).any():
        what = f"a label map has one channel; this file holds {volume.array.shape[0]}"
        fix = 'store one integer a voxel, or declare "label_encoding": "multilabel"'
        raise UserError(what, where=path, fix=fix)
    array = array[:1].astype(np.uint8) if array.dtype == bool else array[:1]
    return Volume(array=np.ascontiguousarray(array), geometry=volume.geometry)


def read_masks(path: Path, reader: str | None = None) -> Volume:
    """Read a label file that may hold several masks, one a channel (the file's last axis).

    Returns:
        (D, Z, Y, X), of the file's integer type, or float where the file holds floats.

    Raises:
        UserError: unreadable.
    """
    volume = _read(path, reader, labels=True)
    array = volume.array.astype(np.uint8) if volume.array.dtype == bool else volume.array
    return Volume(array=array, geometry=volume.geometry)


def write_labels(path: Path, labels_zyx: np.ndarray, geometry: Geometry) -> None:
    """Write raw label values with the geometry of the input, atomically.

    Args:
        path: Its ending chooses the format.
        labels_zyx: (Z, Y, X), none negative. uint8 and uint16 are stored as they are, other types
            as the smallest of uint8, uint16, int32 and int64 that holds all values.
        geometry: As read from the input.

    Raises:
        UserError: the format cannot hold these labels, or the place cannot be written.
    """
    highest = int(labels_zyx.max(initial=0))
    kept = labels_zyx.dtype in (np.uint8, np.uint16)
    labels = np.ascontiguousarray(labels_zyx, dtype=None if kept else _smallest_type(highest))
    ending = ending_of(path)
    with failures_told(path):
        if ending in NIFTI:
            io_module("nibabel").write(path, labels, geometry)
        elif ending in TIFF and geometry.stored_ndim == 3:
            io_module("tiff").write(path, labels, geometry)
        elif ending in PLANES:
            io_module("plane").write(path, labels)
        else:
            io_module("sitk").write(path, labels, geometry)


def write_masks(path: Path, masks_czyx: np.ndarray, geometry: Geometry) -> None:
    """Write several masks into one file, one a channel (the file's last axis), atomically.

    Args:
        path: Its ending chooses the format: NIfTI, NRRD or MetaImage.
        masks_czyx: (D, Z, Y, X) uint8.
        geometry: As read from the input. A plane becomes a volume of one slice in NIfTI, whose
            fourth axis needs a third.

    Raises:
        UserError: the format cannot hold several masks, or the place cannot be written.
    """
    ending = ending_of(path)
    if ending not in SEVERAL_MASKS:
        what = f"a {ending} file cannot hold several masks"
        fix = f"use one of {', '.join(SEVERAL_MASKS)}, or store bitmasks or one file a structure"
        raise UserError(what, where=path, fix=fix)
    with failures_told(path):
        if ending in NIFTI:
            io_module("nibabel").write(path, masks_czyx, replace(geometry, stored_ndim=3))
        else:
            io_module("sitk").write(path, masks_czyx, geometry)


def write_geometry(
    source: Path,
    target: Path,
    geometry: Geometry,
    move: Callable[[np.ndarray], np.ndarray] | None = None,
) -> None:
    """Copy an image or label file with another geometry, atomically.

    Its voxels, their type and their scaling stay as they are, to the last bit.

    Args:
        source: The file.
        target: The copy, with the same ending.
        geometry: Of the copy.
        move: Puts the voxels (..., Z, Y, X), as stored, into another order; None keeps it.

    Raises:
        UserError: a 2D image or a TIFF to be reordered, which have no direction; or the place
            cannot be written.
    """
    ending = ending_of(source)
    with failures_told(target):
        if ending in NIFTI:
            io_module("nibabel").write_geometry(source, target, geometry, move)
        elif ending in TIFF and move is None:
            io_module("tiff").write_geometry(source, target, geometry)
        elif ending in (*PLANES, *TIFF):
            fix = "check which image the file belongs to"
            raise UserError(f"{ending} files hold no geometry", where=source, fix=fix)
        else:
            io_module("sitk").write_geometry(source, target, geometry, move)


def _smallest_type(highest: int) -> type[np.integer]:
    if highest < 65536:
        return np.uint8 if highest < 256 else np.uint16
    return np.int32 if highest < 2**31 else np.int64


def _read(path: Path, reader: str | None, *, labels: bool) -> Volume:
    check_readable(path)
    kind = kind_of(path, reader)
    module = io_module(kind)
    volume: Volume = (
        module.read(path, keep_indices=labels) if kind == "plane" else module.read(path)
    )
    if volume.array.size == 0:
        fix = "restore the file from its source"
        raise UserError("the file holds no voxels", where=path, fix=fix)
    check_geometry(volume.geometry, path)
    return volume
