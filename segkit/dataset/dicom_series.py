"""Folders of DICOM series, sorted into cases and channels by their names."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from segkit.dataset.case_files import Groups
from segkit.dataset.description import DatasetDescription
from segkit.dataset.image_io.dicom_folders import series_folders
from segkit.errors import UserError

_CHANNEL = re.compile(r"(?P<case>.+)_(?P<number>\d{4})", re.DOTALL)


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
    single = len(description.channel_names) == 1
    groups: Groups = {}
    for folder in (found for path in paths for found in _series_folders(path, files)):
        name = folder.resolve().name
        match = _CHANNEL.fullmatch(name)
        # patient_0007 of a data set with one channel is a case of that name, not channel 7.
        if match and single and match["number"] != "0000":
            match = None
        case, number = (match["case"], int(match["number"])) if match else (name, 0)
        if (other := groups.setdefault(case, {}).setdefault(number, folder)) is not folder:
            what = f"channel {number} of case {case} is also {other}"
            raise UserError(what, where=folder, fix="rename one of the folders")
    return groups


def _series_folders(path: Path, files: Collection[Path]) -> Iterator[Path]:
    if path.is_dir() and not any(file.parent == path for file in files):
        yield from series_folders(path)
