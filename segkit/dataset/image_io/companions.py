"""Files that belong to an image file and lie beside it: voxels of MetaImage, spacings of TIFF."""

from __future__ import annotations

import re
from pathlib import Path

from segkit.dataset.image_io.dicom_folders import dicom_files
from segkit.dataset.image_io.formats import TIFF, io_module

COMPANION_ENDINGS = (".json", ".raw", ".zraw")
"""Endings of files that nobody asks about where images are looked for."""

_LONGEST_HEADER = 1 << 16


def companions(path: Path) -> tuple[Path, ...]:
    """Return the files beside an image file that are a part of it, as far as they are there.

    Of MetaImage they hold the voxels, of TIFF the spacing; other formats have none. A folder with a
    DICOM series has its files, which lie in it.
    """
    if path.is_dir():
        return tuple(sorted(dicom_files(path)))
    ending = path.suffix.lower()
    if ending in TIFF:
        spacing = io_module("tiff").spacing_file(path)
        return () if spacing is None else (spacing,)
    return tuple(file for file in _voxels(path) if file.is_file()) if ending == ".mhd" else ()


def _voxels(path: Path) -> list[Path]:
    """Return what the last line of a MetaImage header names: a file, a list, or numbered ones."""
    with path.open("rb") as stream:
        header = stream.read(_LONGEST_HEADER).decode("utf-8", "surrogateescape")
    first, *rest = header.partition("ElementDataFile")[2].lstrip(" =").splitlines() or [""]
    if first.startswith("LIST"):
        return [path.parent / name.strip() for name in rest]
    if numbered := re.fullmatch(r"(\S*)%\d*d(\S*)\s.*", first):
        before, after = map(re.escape, numbered.groups())
        files = sorted(path.parent.iterdir())
        return [file for file in files if re.fullmatch(rf"{before}\d+{after}", file.name)]
    return [path.parent / first.strip()]
