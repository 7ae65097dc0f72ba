"""TIFF: pages, and stacks of pages as volumes with their spacing in a JSON file beside them."""

from __future__ import annotations

import re
import shutil
import struct
from functools import cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
import SimpleITK as sitk

from segkit.dataset.image_io import sitk_io
from segkit.errors import UserError
from segkit.files import read_json, write_json
from segkit.runtime import log
from segkit.types import Geometry, Spacing, Volume

_BIG_TIFF = 43


def count_pages(path: Path) -> int:
    """Count the pages of a TIFF file by walking its directories.

    ITK takes a file that breaks off for one with fewer pages, so the walk is done here.

    Raises:
        UserError: not a TIFF file, or truncated.
    """
    fix = "restore the file from its source"
    try:
        with path.open("rb") as stream:
            return _walk(stream)
    except struct.error:
        raise UserError("the TIFF file is truncated", where=path, fix=fix) from None
    except ValueError as error:
        raise UserError(f"not a readable TIFF file: {error}", where=path, fix=fix) from None


def _walk(stream: BinaryIO) -> int:
    """Follow the chain of directories: each holds a count, entries, and where the next one is."""
    order = {b"II": "<", b"MM": ">"}.get(stream.read(2))
    if order is None:
        raise ValueError("it does not begin as one")

    def number(code: str) -> int:
        return int(struct.unpack(order + code, stream.read(struct.calcsize(order + code)))[0])

    big = number("H") == _BIG_TIFF
    count_code, offset_code, entry = ("Q", "Q", 20) if big else ("H", "I", 12)
    stream.seek(8 if big else 4)
    seen: set[int] = set()
    while (offset := number(offset_code)) != 0:
        if offset in seen:
            raise ValueError("its pages form a loop")
        seen.add(offset)
        stream.seek(offset)
        stream.seek(number(count_code) * entry, 1)
    return len(seen)


def read(path: Path) -> Volume:
    """Read all pages as (C, Z, Y, X), each a slice.

    The spacing is in CASE.json beside the file, ``{"spacing": [z, y, x]}`` in mm.

    Raises:
        UserError: unreadable, truncated, or its spacing file is malformed.
    """
    count_pages(path)
    array = sitk_io.channels_first(sitk_io.load_image(path), path)
    return Volume(array=array, geometry=Geometry(spacing_mm=_spacing(path)))


def spacing_file(path: Path) -> Path | None:
    """Return the JSON file with the spacing of a TIFF volume, or None where there is none."""
    stems = dict.fromkeys((path.stem, re.sub(r"_\d{4}$", "", path.stem)))
    files = (path.with_name(f"{stem}.json") for stem in stems)
    return next((file for file in files if file.is_file()), None)


def _spacing(path: Path) -> Spacing:
    file = spacing_file(path)
    if file is None:
        _tell_missing(path.parent)
        return (1.0, 1.0, 1.0)
    content = read_json(file)
    spacing = content.get("spacing") if isinstance(content, dict) else None
    numbers = isinstance(spacing, list) and [
        v for v in spacing if type(v) in (int, float) and v > 0
    ]
    if not numbers or len(numbers) != 3 or spacing != numbers:
        fix = 'write {"spacing": [z, y, x]} with three positive numbers (mm)'
        raise UserError(f"cannot use the spacing {spacing!r}", where=file, fix=fix)
    return tuple(float(value) for value in numbers)


@cache
def _tell_missing(folder: Path) -> None:
    """Warn once a folder, not once a file."""
    log.warning("%s: TIFF volumes without CASE.json have the spacing 1 x 1 x 1 mm", folder)


def write(path: Path, labels_zyx: np.ndarray, geometry: Geometry) -> None:
    """Write a label map as a stack of pages, and its spacing beside it."""
    write_json(path.with_name(f"{path.stem}.json"), {"spacing": list(geometry.spacing_mm)})
    sitk_io.write_image(path, sitk.GetImageFromArray(labels_zyx), "Deflate")


def write_geometry(source: Path, target: Path, geometry: Geometry) -> None:
    """Copy a stack of pages as it is, and write another spacing beside it."""
    known = spacing_file(source)
    content = {} if known is None else read_json(known)
    shutil.copyfile(source, target)
    spacing = {"spacing": list(geometry.spacing_mm)}
    write_json(target.with_name(f"{target.stem}.json"), {**content, **spacing})
