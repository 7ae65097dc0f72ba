"""2D images: PNG, BMP, JPEG and single-page TIFF."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from PIL import Image

from segkit.dataset.image_io import sitk_io, tiff_io
from segkit.errors import UserError
from segkit.types import FAR_APART, Geometry, Shape, Volume

PLANE = Geometry(spacing_mm=(FAR_APART, 1.0, 1.0), stored_ndim=2)
"""Geometry of every 2D image, as in nnU-Net: axis 0 is planned as the slice axis."""

# Microscopes make images that Pillow takes for an attack. Threads share the filters: set once.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

_LOSSY = (".jpg", ".jpeg")
# ITK scales bilevel images, cannot read grey with alpha, and expands every palette; it reads
# truncated JPEG without complaint and takes grey BMP for RGB. Pillow cannot read 16-bit RGB.
_PILLOW_MODES = ("1", "P", "PA", "LA")
_READ_AS_RGB = ("P", "PA", "CMYK")
_PILLOW_ENDINGS = (".bmp", *_LOSSY)
_UNREADABLE = (OSError, ValueError, SyntaxError, TypeError, Image.DecompressionBombError)
_LARGEST = {".png": 65535, ".bmp": 255}


def read(path: Path, *, keep_indices: bool) -> Volume:
    """Read a 2D image as (C, 1, Y, X): grey 1, grey and alpha 2, RGB 3, RGBA 4 channels.

    Args:
        path: PNG, BMP, JPEG or single-page TIFF.
        keep_indices: Give a palette image's indices (labels) and not its colours (images).

    Raises:
        UserError: empty, truncated or not an image.
    """
    array = _read_with_pillow(path, keep_indices=keep_indices)
    if array is None:
        if path.suffix.lower() in (".tif", ".tiff"):
            tiff_io.count_pages(path)  # refuses a truncated file
        array = sitk_io.channels_first(sitk_io.load_image(path), path)
    else:
        array = (np.moveaxis(array, -1, 0) if array.ndim == 3 else array[None])[:, None]
    if array.shape[1] != 1:
        what = f"expected a 2D image, got {array.shape[1]} slices"
        raise UserError(what, where=path, fix="name Tiff3DIO as overwrite_image_reader_writer")
    return Volume(array=np.ascontiguousarray(array), geometry=PLANE)


def read_grid(path: Path) -> tuple[Shape, Geometry]:
    """Return the shape (C, 1, Y, X) and the geometry of an image, from its header alone.

    Raises:
        UserError: not an image.
    """
    return _stored_shape(path), PLANE


def _stored_shape(path: Path) -> Shape:
    ours = path.suffix.lower() in _PILLOW_ENDINGS
    try:
        with Image.open(path) as picture:
            if ours or picture.mode in _PILLOW_MODES:
                colours = 3 if picture.mode in _READ_AS_RGB else len(picture.getbands())
                return (colours, 1, picture.height, picture.width)
    except _UNREADABLE as error:
        if ours:
            raise _refusal(path, error) from None
    return sitk_io.stored_shape(path)


def _refusal(path: Path, error: Exception) -> UserError:
    what = f"not a readable image (damaged, truncated or another format): {error}"
    return UserError(what, where=path, fix="restore the file from its source")


def _read_with_pillow(path: Path, *, keep_indices: bool) -> np.ndarray | None:
    """Decode what Pillow decodes better as (Y, X) or (Y, X, C); None for all else."""
    ours = path.suffix.lower() in _PILLOW_ENDINGS
    try:
        with Image.open(path) as picture:
            if not ours and picture.mode not in _PILLOW_MODES:
                return None
            if picture.mode == "1":
                return np.asarray(picture).astype(np.uint8)
            if picture.mode in ("P", "PA"):
                if not keep_indices:
                    return np.asarray(picture.convert("RGB"))
                return np.asarray(picture.getchannel(0))
            return np.asarray(picture.convert("RGB") if picture.mode == "CMYK" else picture)
    except _UNREADABLE as error:
        if not ours:
            return None  # ITK knows formats that Pillow does not, and else names the fault
        raise _refusal(path, error) from None


def write(path: Path, labels_zyx: np.ndarray) -> None:
    """Write a plane of labels, (1, Y, X).

    Raises:
        UserError: the format would change the values, or there are several slices.
    """
    ending = path.suffix.lower()
    highest = int(labels_zyx.max(initial=0))
    if ending in _LOSSY:
        what = "JPEG would change label values"
        raise UserError(what, where=path, fix="convert the data set to .png (file_ending too)")
    if labels_zyx.shape[0] != 1 or highest > _LARGEST.get(ending, highest):
        what = f"a {ending} file cannot hold {labels_zyx.shape[0]} slices with values to {highest}"
        raise UserError(what, where=path, fix="use another file ending, such as .nii.gz")
    sitk_io.write_image(path, sitk.GetImageFromArray(labels_zyx[0]))
