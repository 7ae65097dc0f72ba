"""TIFF: pages, and stacks of pages as volumes with their spacing in a JSON file beside them."""

from __future__ import annotations

import re
import shutil
import struct
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import SimpleITK as sitk

from segkit.dataset.image_io import sitk_io
from segkit.errors import UserError
from segkit.files import read_json, write_json
from segkit.runtime import log
from segkit.types import Geometry, Shape, Spacing, Volume

_BIG_TIFF = 43
_SUBFILE_TYPE = 254
_THUMBNAIL_OR_MASK = 0b101
_LAYOUT = (256, 257, 258, 277, 284, 339)
"""Tags: width, height, bits, values a pixel, how these are arranged, integers or floats."""
_SIZES = {3: 2, 4: 4}
"""Bytes of the number types these tags have."""

_Page = dict[int, int]
"""Tag -> its value, 0 where that lies elsewhere in the file."""


def count_pages(path: Path) -> int:
    """Count the pages of a TIFF file by walking its directories; thumbnails at the end are none.

    ITK takes a file that breaks off for one with fewer pages, reads past its memory where
    thumbnails come first, and garbles pages of several sizes, so the walk is done here.

    Raises:
        UserError: not a TIFF file, truncated, or its pages differ.
    """
    fix = "restore the file from its source"
    try:
        with path.open("rb") as stream:
            return _count_images(_walk(stream))
    except (struct.error, OverflowError, OSError):
        raise UserError("the TIFF file is truncated", where=path, fix=fix) from None
    except ValueError as error:
        raise UserError(f"not a readable TIFF file: {error}", where=path, fix=fix) from None


def _walk(stream: BinaryIO) -> list[_Page]:
    """Follow the chain of directories: each holds a count, entries, and where the next one is."""
    mark = stream.read(2)
    if mark not in (b"II", b"MM"):
        raise ValueError("it does not begin as one")
    little = mark == b"II"

    def numbers(code: str) -> tuple[Any, ...]:
        ordered = ("<" if little else ">") + code
        return struct.unpack(ordered, stream.read(struct.calcsize(ordered)))

    big = numbers("H") == (_BIG_TIFF,)
    count_code, offset_code, entry_code = ("Q", "Q", "HHQ8s") if big else ("H", "I", "HHI4s")
    stream.seek(8 if big else 4)
    pages: dict[int, _Page] = {}
    while (offset := numbers(offset_code)[0]) != 0:
        if offset in pages:
            raise ValueError("its pages form a loop")
        stream.seek(offset)
        page = pages[offset] = {}
        for _ in range(numbers(count_code)[0]):
            tag, kind, count, value = numbers(entry_code)
            size = _SIZES.get(kind, len(value)) * count
            inside = value[:size] if size <= len(value) else b""
            page[tag] = int.from_bytes(inside, "little" if little else "big")
    return list(pages.values())


def _count_images(pages: list[_Page]) -> int:
    """Count the pages before the thumbnails and masks."""
    extra = [bool(page.get(_SUBFILE_TYPE, 0) & _THUMBNAIL_OR_MASK) for page in pages]
    images = pages[: len(pages) - sum(extra)]
    if any(extra[: len(images)]):
        raise ValueError("a thumbnail or a mask lies between its pages")
    if any(page.get(tag) != images[0].get(tag) for page in images for tag in _LAYOUT):
        raise ValueError("its pages differ in size or type")
    return len(images) or len(pages)


def read(path: Path) -> Volume:
    """Read all pages as (C, Z, Y, X), each a slice.

    The spacing is in CASE.json beside the file, ``{"spacing": [z, y, x]}`` in mm.

    Raises:
        UserError: unreadable, truncated, or its spacing file is malformed.
    """
    pages, slices = count_pages(path), sitk_io.stored_shape(path)[1]
    if slices != pages:  # ITK would make room for these and read those
        what = f"{slices} of {pages} pages are declared to be pages (NewSubfileType)"
        raise UserError(what, where=path, fix="export the file again as a plain stack of pages")
    array = sitk_io.channels_first(sitk_io.load_image(path), path)
    return Volume(array=array, geometry=_geometry(path))


def read_grid(path: Path) -> tuple[Shape, Geometry]:
    """Return the shape (C, Z, Y, X) and the geometry of a TIFF volume; no voxel is read.

    Raises:
        UserError: it or the file with its spacing is unreadable or malformed.
    """
    return sitk_io.stored_shape(path), _geometry(path)


def _geometry(path: Path) -> Geometry:
    return Geometry(spacing_mm=_spacing(path))


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
