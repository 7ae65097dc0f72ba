"""SimpleITK: NRRD, MetaImage, GIPL, and the geometry of NIfTI files (see ``nifti_io``)."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from segkit.errors import UserError
from segkit.files import atomic_write
from segkit.types import FAR_APART, Geometry, Shape, Volume

_GIPL_HEADER = 256


def read(path: Path) -> Volume:
    """Read a file as (C, Z, Y, X) of its own type; a 4D image has its channels first.

    Raises:
        UserError: empty, truncated, not an image, or complex-valued.
    """
    image = load_image(path)
    if path.suffix.lower() == ".gipl":
        _check_complete(path, image)
    return Volume(array=channels_first(image, path), geometry=geometry_of(image))


def read_grid(path: Path) -> tuple[Shape, Geometry]:
    """Return the shape (C, Z, Y, X) and the geometry a file is read with, from its header alone.

    Raises:
        UserError: SimpleITK cannot read it, or its voxels cannot be used.
    """
    shape = stored_shape(path)
    with _refusing(path):
        return shape, header_geometry(path)


def header_geometry(path: Path) -> Geometry:
    """Return the geometry of a file as its header tells it.

    Raises:
        RuntimeError: SimpleITK cannot read it.
    """
    return geometry_of(_load_header(path))


def stored_shape(path: Path) -> Shape:
    """Return the shape (C, Z, Y, X) a file is read with, from its header alone.

    Raises:
        UserError: SimpleITK cannot read it, or its voxels cannot be used.
    """
    with _refusing(path):
        header = _load_header(path)
    _check_voxels(header, path)
    size, channels = header.GetSize()[::-1], header.GetNumberOfComponents()
    return tuple(size) if len(size) == 4 else (channels, *(1,) * (3 - len(size)), *size)


def _load_header(path: Path) -> sitk.ImageFileReader:
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    header = sitk.ImageFileReader()
    header.SetFileName(str(path))
    header.ReadImageInformation()
    return header


def load_image(path: Path) -> sitk.Image:
    """Read a file with SimpleITK, silently but for errors.

    Raises:
        UserError: SimpleITK cannot read it.
    """
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    with _refusing(path):
        return sitk.ReadImage(str(path))


@contextlib.contextmanager
def _refusing(path: Path) -> Iterator[None]:
    """Turn what SimpleITK raises into a user's error."""
    try:
        yield
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[-1].replace("sitk::ERROR: ", "") if lines else "no reason given"
        what = f"not a readable image (damaged, truncated or another format): {reason}"
        raise UserError(what, where=path, fix="restore the file from its source") from None


def channels_first(image: sitk.Image, path: Path) -> np.ndarray:
    """Return the voxels as (C, Z, Y, X), or (C, 1, Y, X) for a plane.

    Raises:
        UserError: complex-valued, or of more dimensions than that.
    """
    _check_voxels(image, path)
    array = sitk.GetArrayFromImage(image)
    ndim = image.GetDimension()
    if array.ndim > ndim:
        array = np.moveaxis(array, -1, 0)
    elif ndim < 4:
        array = array[None]
    return array[:, None] if ndim == 2 else array


def _check_voxels(image: sitk.Image | sitk.ImageFileReader, path: Path) -> None:
    ndim, kind = image.GetDimension(), sitk.GetPixelIDValueAsString(image.GetPixelIDValue())
    if ndim > 4 or (ndim == 4 and "vector" in kind) or "complex" in kind:
        what = f"cannot use {ndim}-dimensional voxels of type {kind}"
        raise UserError(what, where=path, fix="store a real-valued 2D, 3D or 4D image")


def geometry_of(image: sitk.Image | sitk.ImageFileReader) -> Geometry:
    """Return the geometry of an image or a header; a plane's slice lies far from any other."""
    ndim = image.GetDimension()
    spatial = min(ndim, 3)
    direction = np.eye(3)
    stored = np.reshape(image.GetDirection(), (ndim, ndim))
    direction[:spatial, :spatial] = stored[:spatial, :spatial]
    x, y, *z = image.GetOrigin()[:spatial]
    spacing_mm = image.GetSpacing()[:spatial][::-1]
    if ndim == 2:
        spacing_mm = (FAR_APART * max(spacing_mm), *spacing_mm)
    return Geometry(
        spacing_mm=spacing_mm,
        origin=(x, y, z[0] if z else 0.0),
        direction=tuple(direction.ravel().tolist()),
        stored_ndim=spatial,
    )


def _check_complete(path: Path, image: sitk.Image) -> None:
    """Compare file size and voxels: ITK fills what a truncated GIPL file lacks with rubbish."""
    voxels = image.GetNumberOfPixels() * image.GetNumberOfComponentsPerPixel()
    expected = _GIPL_HEADER + voxels * image.GetSizeOfPixelComponent()
    if path.stat().st_size < expected:
        what = f"the file is truncated: {path.stat().st_size} bytes, {expected} expected"
        raise UserError(what, where=path, fix="restore the file from its source")


def write(path: Path, labels_zyx: np.ndarray, geometry: Geometry) -> None:
    """Write a label map, compressed where the format can be.

    Args:
        path: Of the file.
        labels_zyx: (Z, Y, X), or (D, Z, Y, X), stored as one vector of D numbers a voxel.
        geometry: Of the voxels.

    Raises:
        UserError: SimpleITK cannot write it.
    """
    ndim, vector = geometry.stored_ndim, labels_zyx.ndim == 4
    array = np.moveaxis(labels_zyx, 0, -1) if vector else labels_zyx
    image = sitk.GetImageFromArray(array[0] if ndim == 2 else array, isVector=vector)
    image.SetSpacing(geometry.spacing_mm[::-1][:ndim])
    image.SetOrigin(geometry.origin[:ndim])
    direction = np.reshape(geometry.direction, (3, 3))[:ndim, :ndim]
    image.SetDirection(direction.ravel().tolist())
    write_image(path, image)


def write_geometry(
    source: Path,
    target: Path,
    geometry: Geometry,
    move: Callable[[np.ndarray], np.ndarray] | None,
) -> None:
    """Copy a file with another geometry; its voxels and their type stay.

    Args:
        source: The file.
        target: The copy.
        geometry: Of the copy.
        move: Puts the voxels (..., Z, Y, X) into another order, which loses the header's notes.

    Raises:
        UserError: SimpleITK cannot read or write it.
    """
    image = load_image(source)
    if move is not None:
        image = _moved(image, move)
    ndim = image.GetDimension()
    spatial = min(ndim, 3)
    direction = np.reshape(image.GetDirection(), (ndim, ndim)).copy()
    direction[:spatial, :spatial] = np.reshape(geometry.direction, (3, 3))[:spatial, :spatial]
    image.SetSpacing((*geometry.spacing_mm[::-1][:spatial], *image.GetSpacing()[spatial:]))
    image.SetOrigin((*geometry.origin[:spatial], *image.GetOrigin()[spatial:]))
    image.SetDirection(direction.ravel().tolist())
    write_image(target, image)


def _moved(image: sitk.Image, move: Callable[[np.ndarray], np.ndarray]) -> sitk.Image:
    array = sitk.GetArrayFromImage(image)
    vector = image.GetNumberOfComponentsPerPixel() > 1
    if vector:
        array = np.moveaxis(array, -1, 0)
    flat = array.ndim - vector == 2
    moved = move(np.expand_dims(array, -3) if flat else array)
    moved = moved.squeeze(-3) if flat else moved
    return sitk.GetImageFromArray(np.moveaxis(moved, 0, -1) if vector else moved, isVector=vector)


def write_image(path: Path, image: sitk.Image, compressor: str = "") -> None:
    """Write any SimpleITK image atomically; of a pair of files, the one with voxels first.

    Args:
        path: Its ending chooses the format.
        image: What to write.
        compressor: ITK's name of one; empty takes the format's default.

    Raises:
        UserError: SimpleITK cannot write it.
    """
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / path.name
        try:
            sitk.WriteImage(image, str(draft), useCompression=True, compressor=compressor)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            fix = "choose another file ending"
            raise UserError(f"cannot write the file: {reason}", where=path, fix=fix) from None
        for part in sorted(Path(folder).iterdir(), key=lambda file: file == draft):
            with atomic_write(path.parent / part.name) as stream:
                stream.write(part.read_bytes())
