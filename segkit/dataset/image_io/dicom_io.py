"""DICOM series: a folder of slices (or one multi-frame file) read as a volume."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from segkit.dataset.image_io import sitk_io
from segkit.dataset.image_io.dicom_folders import dicom_files
from segkit.errors import UserError, listing
from segkit.types import Geometry, Shape, Volume

UNEVEN = 0.02
"""Largest difference between distances of slices, as a share of their median."""
_POSITION, _DIRECTION = "0020|0032", "0020|0037"


def series_in(folder: Path) -> dict[str, tuple[str, ...]]:
    """Return the series of a folder: UID -> files, sorted along the slices.

    Raises:
        UserError: DICOM files that belong to no series, for they are damaged or hold no image.
    """
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    reader = sitk.ImageSeriesReader
    found = {
        uid: tuple(reader.GetGDCMSeriesFileNames(str(folder), uid))
        for uid in reader.GetGDCMSeriesIDs(str(folder))
    }
    known = {Path(file).name for files in found.values() for file in files}
    if left := sorted(path.name for path in dicom_files(folder) if path.name not in known):
        what = f"DICOM files that are damaged or hold no image: {listing(left)}"
        raise UserError(what, where=folder, fix="restore them, or move them elsewhere")
    return found


def slice_files(folder: Path) -> tuple[str, ...]:
    """Return the files of the one series of a folder, in the order of the volume's slices.

    Raises:
        UserError: no series, or several.
    """
    found = series_in(folder)
    if len(found) != 1:
        sizes = ", ".join(f"{uid} ({len(files)} files)" for uid, files in found.items())
        what = (
            f"the folder holds {len(found)} DICOM series: {sizes}" if found else "no DICOM series"
        )
        fix = "give a folder of one series; segkit convert FOLDER -o OUT separates them"
        raise UserError(what, where=folder, fix=fix)
    return next(iter(found.values()))


def read(path: Path) -> Volume:
    """Read the series of a folder as (1, Z, Y, X); intensities are rescaled as it says.

    Raises:
        UserError: no series or several, slices that are missing or uneven, colours, or damage.
    """
    image = load_series(slice_files(path), path)
    array = sitk_io.channels_first(image, path)
    if len(array) != 1 or image.GetDimension() != 3:
        what = f"expected a grey volume, got {len(array)} channels in {image.GetDimension()}D"
        raise UserError(what, where=path, fix="give a CT, MR or PET series")
    return Volume(array=array, geometry=sitk_io.geometry_of(image))


def read_grid(path: Path) -> tuple[Shape, Geometry]:
    """Return the shape (1, Z, Y, X) and the geometry of a folder's series."""
    volume = read(path)
    return volume.array.shape, volume.geometry


def load_series(files: tuple[str, ...], where: Path) -> sitk.Image:
    """Read files of one series, sorted, as an image of SimpleITK.

    Raises:
        UserError: as for :func:`read`.
    """
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    if len(files) == 1:
        return sitk_io.load_image(Path(files[0]))
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(files)
    reader.MetaDataDictionaryArrayUpdateOn()
    try:
        image = reader.Execute()
        _check_spacing(reader, len(files), where)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].replace("sitk::ERROR: ", "")
        what = f"not a readable DICOM series: {reason}"
        raise UserError(what, where=where, fix="export the series again") from None
    return image


def _check_spacing(reader: sitk.ImageSeriesReader, count: int, where: Path) -> None:
    """Refuse series that are no evenly spaced stack: a slice missing, or several volumes."""
    if not all(reader.HasMetaDataKey(i, _POSITION) for i in range(count)):
        return  # secondary captures say nothing of where they lie
    positions = np.array([_numbers(reader.GetMetaData(i, _POSITION)) for i in range(count)])
    rows = np.reshape(_numbers(reader.GetMetaData(0, _DIRECTION)), (2, 3))
    steps = np.diff(positions @ np.cross(rows[0], rows[1]))
    usual = float(np.median(np.abs(steps)))
    wrong = np.flatnonzero(np.abs(np.abs(steps) - usual) > max(UNEVEN * usual, 1e-3))
    if usual == 0 or len(wrong):
        place = int(wrong[0]) if len(wrong) else 0
        what = (
            f"the slices are not evenly spaced: {abs(steps[place]):.3f} mm between number "
            f"{place + 1} and {place + 2}, {usual:.3f} mm elsewhere"
        )
        fix = "is a slice missing, or are there several volumes? Export the series again"
        raise UserError(what, where=where, fix=fix)


def _numbers(text: str) -> list[float]:
    return [float(part) for part in text.split("\\")]
