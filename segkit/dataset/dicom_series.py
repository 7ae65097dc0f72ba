"""Folders of DICOM series, sorted into cases and channels by their names."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from segkit.dataset.case_files import Groups, case_and_number
from segkit.dataset.description import DatasetDescription
from segkit.dataset.image_io.dicom_folders import series_folders
from segkit.errors import UserError


def group_series(
    paths: Sequence[Path], files: Collection[Path], description: DatasetDescription
) -> Groups:
    """Sort the folders with DICOM files into case -> channel number -> folder.

    A folder is named CASE, or CASE_0000, one a channel. It is not opened here.

    Args:
        paths: Folders to look into and below; one that holds images is passed over.
        files: The images found.
        description: Of the data set; it says how many channels there are.

    Raises:
        UserError: two folders for one channel.
    """
    folders = [found for path in paths for found in _series_folders(path, files)]
    names = {folder: folder.resolve().name for folder in folders}
    groups: Groups = {}
    for folder, name in names.items():
        stems = set(names.values())
        case, number = case_and_number(name, stems, description, numbers_needed=False)
        channel = number or 0
        if (other := groups.setdefault(case, {}).setdefault(channel, folder)) is not folder:
            what = f"channel {channel} of case {case} is also {other}"
            raise UserError(what, where=folder, fix="rename one of the folders")
    return groups


def _series_folders(path: Path, files: Collection[Path]) -> Iterator[Path]:
    if path.is_dir() and not any(file.parent == path for file in files):
        yield from series_folders(path)
