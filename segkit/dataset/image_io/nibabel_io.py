"""nibabel: NIfTI voxels, headers and writing.

Labels are written through nibabel because it stores the affine to the last bit; ITK recomputes it
from a quaternion.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from segkit.errors import UserError
from segkit.files import atomic_write
from segkit.types import FAR_APART, Geometry, Shape, Volume

LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0])
_SCANNER = 1
_UNKNOWN_UNIT, _MM = 0, 2
_COMPRESSION = 4
_UNREADABLE = (
    ImageFileError,
    HeaderDataError,
    OSError,
    EOFError,
    ValueError,
    zlib.error,
)


def load(path: Path) -> Any:
    """Open a NIfTI file and check that all of its voxels are there; none is read yet.

    ITK reads a truncated NIfTI file without complaint, so sizes are compared here.

    Raises:
        UserError: not a NIfTI file, or truncated.
    """
    fix = "restore the file from its source"
    try:
        image = nib.load(path, mmap=False)
        shape, itemsize = image.shape, image.header.get_data_dtype().itemsize
        expected = int(image.dataobj.offset) + int(np.prod(shape, dtype=np.int64)) * itemsize
    except (*_UNREADABLE, AttributeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"not a readable NIfTI file: {reason}", where=path, fix=fix) from None
    if (found := _content_size(path, expected)) < expected:
        what = f"the file is truncated: {found} bytes of {expected} (uncompressed)"
        raise UserError(what, where=path, fix=fix)
    return image


def _content_size(path: Path, expected: int) -> int:
    """Bytes of the file, uncompressed; for gzip, counted only where its trailer tells otherwise."""
    if path.suffix.lower() != ".gz":
        return path.stat().st_size
    with path.open("rb") as stream:
        stream.seek(max(-4, -path.stat().st_size), 2)
        if int.from_bytes(stream.read(), "little") == expected % 2**32:
            return expected
    count = 0
    try:
        with gzip.open(path) as content:
            while chunk := content.read(1 << 14):
                count += len(chunk)
    except (OSError, EOFError, zlib.error):
        # The stream ends early or is corrupt: even if enough bytes came out, do not trust them.
        count = min(count, expected - 1)
    return count


def read(path: Path) -> Volume:
    """Read a NIfTI file as (C, Z, Y, X) of its own type (float64 where the header scales it).

    Raises:
        UserError: not a NIfTI file, truncated, or of a voxel type that is no number.
    """
    image = load(path)
    return Volume(array=read_voxels(image, path), geometry=header_geometry(image))


def read_grid(path: Path) -> tuple[Shape, Geometry]:
    """Return the shape (C, Z, Y, X) and the geometry a file is read with, from its header alone.

    Raises:
        UserError: not a NIfTI file, truncated, or of a voxel type that is no number.
    """
    image = load(path)
    return stored_shape(image, path), header_geometry(image)


def read_voxels(image: Any, path: Path) -> np.ndarray:
    """Read the voxels of an opened file; see :func:`read`.

    NaN and infinity come as they are, whereas ITK turns them into 0.

    Raises:
        UserError: they cannot be read, or are no numbers.
    """
    shape = stored_shape(image, path)
    try:
        array = np.asanyarray(image.dataobj)
    except _UNREADABLE as error:
        fix = "restore the file from its source"
        raise UserError(f"the voxels cannot be read: {error}", where=path, fix=fix) from None
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    return np.ascontiguousarray(array.T.reshape(shape))


def stored_shape(image: Any, path: Path) -> Shape:
    """Return the shape (C, Z, Y, X) an opened file is read with; no voxel is read.

    Raises:
        UserError: it has no voxels, or they are no numbers.
    """
    shape, dtype = tuple(map(int, image.shape)), image.header.get_data_dtype()
    if 0 in shape:
        fix = "restore the file from its source"
        raise UserError("the file holds no voxels", where=path, fix=fix)
    if len(shape) == 5 and shape[3] == 1:
        shape = (*shape[:3], shape[4])
    if len(shape) not in (2, 3, 4) or dtype.kind not in "iufb":
        what = f"cannot use voxels of type {dtype} and shape {shape}"
        raise UserError(what, where=path, fix="store a real-valued 2D, 3D or 4D image")
    return (*(1,) * (4 - len(shape)), *shape[::-1])


def header_geometry(image: Any) -> Geometry:
    """Return the affine of a NIfTI header as spacing, origin and direction.

    The spacing is the header's; the direction is what times it gives the affine, and is no
    rotation where the affine shears.

    Raises:
        UserError: the affine has a column of zeros.
    """
    affine = np.asarray(image.affine, dtype=np.float64)
    zooms = np.ones(3)
    given = np.asarray(image.header.get_zooms()[:3], dtype=np.float64)
    zooms[: len(given)] = given
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    zooms = np.where(zooms > 0, zooms, lengths)
    if not np.isfinite(affine).all() or not lengths.all():
        fix = "correct the affine in the file's header"
        raise UserError("the affine is singular or not finite", where=image.get_filename(), fix=fix)
    flat = min(len(image.shape), 3) == 2
    spacing = zooms[::-1]
    if flat:
        spacing = np.array([FAR_APART * zooms[:2].max(), *zooms[1::-1]])
    origin = LPS_FROM_RAS @ affine[:3, 3]
    return Geometry(
        spacing_mm=tuple(spacing.tolist()),
        origin=(float(origin[0]), float(origin[1]), float(origin[2])),
        direction=tuple((LPS_FROM_RAS @ affine[:3, :3] / zooms).ravel().tolist()),
        stored_ndim=2 if flat else 3,
    )


def is_plain(image: Any) -> bool:
    """Whether a header is one of which ITK takes the same affine as nibabel, in mm.

    Of planes, ITK would keep only what lies in the first two axes.
    """
    qform, sform = int(image.header["qform_code"]), int(image.header["sform_code"])
    both_use_sform = sform == _SCANNER or (sform > 0 and qform == 0)
    in_mm = int(image.header["xyzt_units"]) % 8 in (_UNKNOWN_UNIT, _MM)
    return both_use_sform and in_mm


def header_affines(path: Path) -> dict[str, np.ndarray]:
    """Return the affines a header declares valid (4, 4): ``sform``, ``qform``, both or none.

    None where the header or its quaternion cannot be read.
    """
    try:
        header = nib.load(path, mmap=False).header
        with np.errstate(all="ignore"):
            forms = {"sform": header.get_sform(coded=True), "qform": header.get_qform(coded=True)}
    except (*_UNREADABLE, AttributeError):
        return {}
    affines = {name: np.asarray(affine) for name, (affine, code) in forms.items() if code > 0}
    return affines if all(np.isfinite(affine).all() for affine in affines.values()) else {}


def affine_of(geometry: Geometry) -> np.ndarray:
    """Return the (4, 4) affine from voxel (x, y, z) to RAS mm, as nibabel has it.

    The slice axis of a plane has unit length.
    """
    spacing = np.array(geometry.spacing_mm[::-1], dtype=np.float64)
    if geometry.stored_ndim == 2:
        spacing[2] = 1.0
    affine = np.eye(4)
    affine[:3, :3] = LPS_FROM_RAS @ (np.reshape(geometry.direction, (3, 3)) * spacing)
    affine[:3, 3] = LPS_FROM_RAS @ np.asarray(geometry.origin)
    return affine


def write(path: Path, labels_zyx: np.ndarray, geometry: Geometry) -> None:
    """Write a label map as NIfTI-1, gzipped by the ending; equal labels give equal bytes.

    Args:
        path: Of the file.
        labels_zyx: (Z, Y, X), or (D, Z, Y, X) for a file of four axes, x first.
        geometry: Of the voxels.

    Raises:
        UserError: an axis is longer than the format allows.
    """
    array = labels_zyx[0].T if geometry.stored_ndim == 2 else labels_zyx.T
    if max(array.shape) > 32767:
        what = f"NIfTI holds at most 32767 voxels an axis, got {array.shape}"
        raise UserError(what, where=path, fix="use another file ending, such as .nrrd")
    image = nib.Nifti1Image(array, None, dtype=array.dtype)
    _put_geometry(image.header, geometry)
    with _writing(path) as stream:
        image.to_stream(stream)


def write_geometry(
    source: Path,
    target: Path,
    geometry: Geometry,
    move: Callable[[np.ndarray], np.ndarray] | None,
) -> None:
    """Copy a file with another geometry in its header; all that follows the header stays.

    Args:
        source: The file.
        target: The copy.
        geometry: Of the copy.
        move: Puts the voxels (..., Z, Y, X), not yet scaled, into another order.
    """
    with gzip.open(source) if source.suffix.lower() == ".gz" else source.open("rb") as stream:
        content = stream.read()
    header = nib.load(source).header.from_fileobj(io.BytesIO(content), check=False)
    if move is not None:
        content = _moved(content, header, move)
    _put_geometry(header, geometry)
    with _writing(target) as stream:
        stream.write(header.binaryblock + content[len(header.binaryblock) :])


def _moved(content: bytes, header: Any, move: Callable[[np.ndarray], np.ndarray]) -> bytes:
    """Put the voxels of a file's content into another order, and their shape into its header."""
    shape, dtype, start = header.get_data_shape(), header.get_data_dtype(), header.get_data_offset()
    count = int(np.prod(shape, dtype=np.int64))
    stored = np.frombuffer(content, dtype, count, start).reshape(shape[::-1])
    moved = move(stored.reshape((*(1,) * (3 - len(shape)), *shape[::-1])))
    header.set_data_shape(moved.shape[::-1][: len(shape)])
    return content[:start] + moved.tobytes() + content[start + stored.nbytes :]


def _put_geometry(header: Any, geometry: Geometry) -> None:
    affine = affine_of(geometry)
    header.set_sform(affine, _SCANNER)
    header.set_qform(affine, _SCANNER, strip_shears=True)
    # set_qform takes the voxel size from the affine; the header's own is the exact one.
    zooms = (*geometry.spacing_mm[::-1], *header.get_zooms()[3:])
    header.set_zooms(zooms[: len(header.get_zooms())])
    header.set_xyzt_units("mm", header.get_xyzt_units()[1])


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[Any]:
    """Open a file to write atomically, gzipped by the ending; equal content, equal bytes."""
    with atomic_write(path) as stream:
        if path.suffix.lower() != ".gz":
            yield stream
            return
        with gzip.GzipFile("", "wb", _COMPRESSION, stream, mtime=0) as zipped:
            yield zipped
