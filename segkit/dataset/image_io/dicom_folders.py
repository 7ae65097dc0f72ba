"""Which files and folders are DICOM; nothing is decoded, so nothing heavy is imported."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from segkit.dataset.image_io.formats import KNOWN_ENDINGS

_MAGIC, _MAGIC_AT = b"DICM", 128
_DIRECTORY = "DICOMDIR"
"""An index of other files, not an image."""


def dicom_files(folder: Path) -> Iterator[Path]:
    """Yield the DICOM files of a folder itself, not of folders in it."""
    for path in folder.iterdir():
        if not (path.name[0] == "." or path.name.lower().endswith(KNOWN_ENDINGS)) and (
            path.is_file() and path.name != _DIRECTORY
        ):
            with path.open("rb") as stream:
                if stream.read(_MAGIC_AT + len(_MAGIC))[_MAGIC_AT:] == _MAGIC:
                    yield path


def holds_dicom(folder: Path) -> bool:
    """Whether a file of the folder itself is DICOM."""
    return next(dicom_files(folder), None) is not None


def series_folders(folder: Path) -> Iterator[Path]:
    """Yield every folder with DICOM files, the given one and all below it, sorted."""
    for place in sorted([folder, *(path for path in folder.rglob("*") if path.is_dir())]):
        if holds_dicom(place):
            yield place
