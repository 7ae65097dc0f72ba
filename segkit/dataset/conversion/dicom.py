"""Folders of DICOM series to NIfTI files, one a series."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from segkit.dataset.conversion.conversion import Conversion, Write
from segkit.dataset.image_io.dicom_folders import series_folders
from segkit.dataset.image_io.dicom_io import load_series, series_in
from segkit.errors import UserError


def convert_dicom(folder: Path) -> Conversion:
    """Write every series below a folder as CASE_0000.nii.gz, ready to be predicted or annotated.

    A case is named after its folder, as seen from ``folder``; where a folder holds several
    series, they are numbered.

    Raises:
        UserError: there is no series.
    """
    files: dict[str, Write] = {}
    for place in series_folders(folder):
        path = place.relative_to(folder)
        name = "_".join(path.parts) if path.parts else folder.resolve().name
        found = series_in(place)
        for number, slices in enumerate(found.values(), start=1):
            case = name if len(found) == 1 else f"{name}_s{number}"
            files[f"{case}_0000.nii.gz"] = partial(_write_series, slices, place)
    if not files:
        fix = "give a folder with DICOM files in it, or in folders below"
        raise UserError("no DICOM series", where=folder, fix=fix)
    return Conversion(content=None, files=files, notes=_notes(files))


def _notes(files: Mapping[str, Write]) -> tuple[str, ...]:
    return (f"{len(files)} series; labels and a dataset.json make a dataset of them",)


def _write_series(slices: tuple[str, ...], place: Path, target: Path) -> None:
    from segkit.dataset.image_io.sitk_io import write_image

    write_image(target, load_series(slices, place))
