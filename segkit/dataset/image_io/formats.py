"""The image formats: which endings there are, and what reads a file."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Literal

from segkit.errors import UserError, nearest

Kind = Literal["sitk", "nifti", "nibabel", "plane", "tiff", "dicom"]

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
PLANES = (".png", ".bmp", ".tif", ".tiff", ".jpg", ".jpeg")
TIFF = (".tif", ".tiff")
NIFTI = (".nii.gz", ".nii")
SEVERAL_MASKS = (*NIFTI, ".nrrd", ".mha", ".mhd")

READERS: dict[str, tuple[Kind, tuple[str, ...]]] = {
    "SimpleITKIO": ("sitk", KNOWN_ENDINGS[:6]),
    "SimpleITKIOWithReorient": ("sitk", KNOWN_ENDINGS[:6]),
    "NibabelIO": ("nibabel", NIFTI),
    "NibabelIOWithReorient": ("nibabel", NIFTI),
    "NaturalImage2DIO": ("plane", PLANES),
    "Tiff3DIO": ("tiff", TIFF),
}
"""nnU-Net's reader names: (what reads here, endings it reads)."""


_MODULES: dict[Kind, str] = {
    "sitk": "sitk_io",
    "nifti": "nifti_io",
    "nibabel": "nibabel_io",
    "plane": "image2d_io",
    "tiff": "tiff_io",
    "dicom": "dicom_io",
}


def io_module(kind: Kind) -> ModuleType:
    """Return the module that reads (and writes) a kind of files.

    It is imported when first used, for the libraries behind it take long to import.
    """
    return importlib.import_module(f"{__package__}.{_MODULES[kind]}")


def check_readable(path: Path) -> None:
    """Check that there is a file with something in it, or a folder with a DICOM series.

    Raises:
        UserError: missing, another folder, empty, or not readable.
    """
    fix = "restore the file from its source"
    try:
        if path.is_dir() and _holds_dicom(path):
            return
        if not path.is_file():
            raise UserError("file not found", where=path, fix="check the path")
        if path.stat().st_size == 0:
            raise UserError("the file is empty (0 bytes)", where=path, fix=fix)
        with path.open("rb"):
            pass
    except OSError as error:
        what = f"cannot read the file: {error.strerror}"
        raise UserError(what, where=path, fix="check its permissions") from None


def _holds_dicom(folder: Path) -> bool:
    from segkit.dataset.image_io.dicom_folders import holds_dicom

    return holds_dicom(folder)


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


def kind_of(path: Path, reader: str | None) -> Kind:
    """Tell what reads a file: the reader named, else what its ending (and its pages) ask for.

    Raises:
        UserError: no such reader, or it does not read this ending; or a damaged TIFF file.
    """
    check_reader(reader)
    if path.is_dir():
        return "dicom"
    ending = ending_of(path)
    if reader is None or reader == "None":
        if ending in TIFF:
            return "plane" if io_module("tiff").count_pages(path) == 1 else "tiff"
        return "plane" if ending in PLANES else _itk_kind(ending)
    kind, endings = READERS[reader]
    if ending not in endings:
        what = f"the reader {reader} does not read {ending} files"
        fix = f"leave overwrite_image_reader_writer out; {reader} reads {', '.join(endings)}"
        raise UserError(what, where=path, fix=fix)
    return _itk_kind(ending) if kind == "sitk" else kind


def _itk_kind(ending: str) -> Kind:
    return "nifti" if ending in NIFTI else "sitk"
