"""Resample images and label maps to another spacing, one small matrix an axis.

Axis-aligned spline interpolation is separable, so a resampling is three matrices, one for each
axis, and BLAS does the work. The numbers are those of ``skimage.transform.resize(mode="edge",
anti_aliasing=False)``, which nnU-Net uses (Isensee et al., Nature Methods 2021); highly
anisotropic images are interpolated in-plane only, with nearest neighbour across slices.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from segkit.types import Shape, Spacing

ANISOTROPY_THRESHOLD = 3.0
"""Above this ratio of the largest to the smallest spacing the coarse axis is kept apart."""
_NEGLIGIBLE = 1e-8
_TIE = 1e-6
_BLOCK = 64

Matrices = tuple[np.ndarray | None, ...]
"""One (n_out, n_in) float32 matrix an axis, z, y, x; None where the axis keeps its size."""


def separate_axis(current_spacing: Spacing, new_spacing: Spacing) -> int | None:
    """Return the axis that is resampled on its own (nearest neighbour), or None.

    The current spacing decides if its largest value is more than three times its smallest, else
    the new spacing does. Axes that share the largest spacing are never separated.
    """
    for spacing in (current_spacing, new_spacing):
        largest = max(spacing)
        if largest / min(spacing) > ANISOTROPY_THRESHOLD:
            axes = [axis for axis, value in enumerate(spacing) if value == largest]
            return axes[0] if len(axes) == 1 else None
    return None


def resampled_shape(shape: Shape, spacing_mm: Spacing, new_spacing_mm: Spacing) -> Shape:
    """Return the shape of the same extent at another spacing; at least one voxel an axis."""
    return tuple(
        max(1, round(old / new * size))
        for old, new, size in zip(spacing_mm, new_spacing_mm, shape, strict=True)
    )


def axis_matrices(
    shape: Shape, new_shape: Shape, order: int, separate_axis: int | None
) -> Matrices:
    """Return the interpolation matrices that take ``shape`` to ``new_shape``.

    Args:
        shape: (z, y, x) of the input.
        new_shape: (z, y, x) of the result.
        order: Spline order in-plane: 0, 1 or 3.
        separate_axis: Axis that takes the nearest neighbour (see :func:`separate_axis`).
    """
    orders = [0 if axis == separate_axis else order for axis in range(len(shape))]
    return tuple(
        None if old == new else _matrix(old, new, order)
        for old, new, order in zip(shape, new_shape, orders, strict=True)
    )


def apply_matrices(array_zyx: np.ndarray, matrices: Matrices) -> np.ndarray:
    """Interpolate one (Z, Y, X) array; float32. The array itself comes back if nothing changes.

    The axis that shrinks most goes first, so that the others have less to do.
    """
    result = np.asarray(array_zyx, dtype=np.float32)
    growth = {a: m.shape[0] / m.shape[1] for a, m in enumerate(matrices) if m is not None}
    for axis in sorted(growth, key=growth.__getitem__):
        matrix = matrices[axis]
        assert matrix is not None
        result = _apply(result, matrix, axis)
    return result


def resample_image(
    image: np.ndarray,
    old_spacing: Spacing,
    new_spacing: Spacing,
    new_shape: Shape,
    order: int = 3,
    keep_apart: bool = True,
) -> np.ndarray:
    """Resample (C, Z, Y, X) to (C, *new_shape), float32.

    Unless ``keep_apart`` is false, a much coarser axis takes the nearest neighbour
    (:func:`separate_axis`). Splines overshoot at edges, so every channel is clipped to the range it
    had (every slice to its own where one axis is kept apart). An image that has the shape already
    is returned as is.
    """
    if image.shape[1:] == tuple(new_shape):
        return image
    apart = separate_axis(old_spacing, new_spacing) if keep_apart else None
    matrices = axis_matrices(image.shape[1:], new_shape, order, apart)
    result = np.empty((len(image), *new_shape), dtype=np.float32)
    for source, target in zip(image, result, strict=True):
        low, high = _range(source, matrices, apart)
        np.clip(apply_matrices(source, matrices), low, high, out=target)
    return result


def resample_segmentation(
    seg: np.ndarray,
    old_spacing: Spacing,
    new_spacing: Spacing,
    new_shape: Shape,
    keep_apart: bool = True,
) -> np.ndarray:
    """Resample label maps (C, Z, Y, X) to (C, *new_shape), int16; int8 stays int8.

    Every label's indicator is interpolated linearly and the largest wins; -1 and ignore compete
    like any class. A tie goes to the nearest neighbour if it is among the tied, else to the first
    neighbour that is: the order of the labels does not matter. A voxel mixes at most eight
    neighbours, so cost and memory do not depend on the number of labels.
    """
    seg = seg.astype(np.int8 if seg.dtype == np.int8 else np.int16, copy=False)
    if seg.shape[1:] == tuple(new_shape):
        return seg
    apart = separate_axis(old_spacing, new_spacing) if keep_apart else None
    taps = [
        _taps(old, new, axis == apart)
        for axis, (old, new) in enumerate(zip(seg.shape[1:], new_shape, strict=True))
    ]
    result = np.empty((len(seg), *new_shape), dtype=seg.dtype)
    for source, target in zip(seg, result, strict=True):
        for z, plane in enumerate(target):
            plane[...] = _label_plane(source, taps, z)
    return result


@lru_cache(maxsize=128)
def _matrix(n_in: int, n_out: int, order: int) -> np.ndarray:
    """Interpolate the identity: column j of the result is what voxel j contributes.

    Order 0 has no spline to fit and picks rows; this is the axis that is kept apart.
    """
    if order == 0:
        matrix = np.eye(n_in)[_nearest(n_in, n_out)]
    else:
        from scipy import ndimage

        zoom = (n_out / n_in, 1)
        matrix = ndimage.zoom(np.eye(n_in), zoom, order=order, mode="nearest", grid_mode=True)
    matrix[np.abs(matrix) < _NEGLIGIBLE] = 0
    matrix = matrix.astype(np.float32)
    matrix.flags.writeable = False
    return matrix


def _nearest(n_in: int, n_out: int) -> np.ndarray:
    """Index of the input voxel nearest to the centre of every output voxel."""
    centres = n_in / n_out * (np.arange(n_out) + 0.5) - 0.5
    return np.clip(np.floor(centres + 0.5), 0, n_in - 1).astype(np.intp)


def _apply(array: np.ndarray, matrix: np.ndarray, axis: int) -> np.ndarray:
    """Multiply along one axis, in blocks of rows: a block needs only a band of the columns.

    Few large products, and not one for each slice: BLAS threads wait for each other at each.
    """
    if axis == 1:
        return _apply(array.swapaxes(0, 1), matrix, 0).swapaxes(0, 1)
    array = np.ascontiguousarray(array)
    size, shape = len(matrix), array.shape
    result = np.empty((size, *shape[1:]) if axis == 0 else (*shape[:2], size), dtype=np.float32)
    for start in range(0, size, _BLOCK):
        rows = slice(start, start + _BLOCK)
        used = np.flatnonzero(matrix[rows].any(axis=0))
        columns = slice(used[0], used[-1] + 1)
        block = np.ascontiguousarray(matrix[rows, columns])
        if axis == 0:
            flat = array[columns].reshape(block.shape[1], -1)
            np.matmul(block, flat, out=result[rows].reshape(len(block), -1))
        else:
            flat = array.reshape(-1, shape[2])[:, columns]
            np.matmul(flat, block.T, out=result.reshape(-1, size)[:, rows])
    return result


def _range(
    channel: np.ndarray, matrices: Matrices, apart: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Range of the channel; of every output slice where an axis is kept apart."""
    plane = tuple(axis for axis in range(3) if axis != apart)
    across = tuple(matrix if axis == apart else None for axis, matrix in enumerate(matrices))
    low, high = channel.min(axis=plane, keepdims=True), channel.max(axis=plane, keepdims=True)
    return apply_matrices(low, across), apply_matrices(high, across)


class _Taps(NamedTuple):
    """For every output voxel along an axis: its two neighbours and their shares."""

    lower: np.ndarray
    upper: np.ndarray
    share: np.ndarray
    """(2, n_out): weight of lower and of upper."""
    nearest: np.ndarray


def _taps(n_in: int, n_out: int, apart: bool) -> _Taps:
    """Say what linear interpolation mixes along one axis; the nearest voxel alone if ``apart``."""
    nearest = _nearest(n_in, n_out)
    if apart or n_in == n_out:
        share = np.stack([np.ones(n_out), np.zeros(n_out)])
        return _Taps(nearest, nearest, share, nearest)
    matrix = _matrix(n_in, n_out, 1)
    used = matrix > 0
    lower, upper = used.argmax(axis=1), n_in - 1 - used[:, ::-1].argmax(axis=1)
    share = np.where(lower == upper, 0, matrix[np.arange(n_out), upper])
    return _Taps(lower, upper, np.stack([1 - share, share]), nearest)


def _label_plane(labels_zyx: np.ndarray, taps: Sequence[_Taps], z: int) -> np.ndarray:
    """Return output plane z: the label all eight neighbours share, else their vote."""
    across, rows, columns = taps
    left, right = columns.lower, columns.upper
    planes = (across.lower[z], across.upper[z])
    lines = np.stack([labels_zyx[i][y] for i in planes for y in (rows.lower, rows.upper)])
    differ = (lines != lines[0]).any(axis=0)
    result = lines[0].take(left, axis=1)
    mixed = result != lines[0].take(right, axis=1)
    mixed |= differ.take(left, axis=1) | differ.take(right, axis=1)
    y, x = np.nonzero(mixed)
    if len(y):
        corners = np.concatenate([lines[:, y, left[x]], lines[:, y, right[x]]])
        width, depth, height = columns.share[:, x], across.share[:, z], rows.share[:, y]
        weights = np.einsum("km,i,jm->kijm", width, depth, height).reshape(8, -1)
        nearest = labels_zyx[across.nearest[z]][rows.nearest[y], columns.nearest[x]]
        result[y, x] = _vote(corners, weights, nearest)
    return result


def _vote(labels: np.ndarray, weights: np.ndarray, nearest: np.ndarray) -> np.ndarray:
    """Return the label with most weight among eight neighbours, (8, M) -> (M,)."""
    scores = np.zeros_like(weights)
    for label, weight in zip(labels, weights, strict=True):
        scores += np.where(labels == label, weight, 0)
    tied = scores >= scores.max(axis=0) - _TIE
    first = np.take_along_axis(labels, tied.argmax(axis=0)[None], axis=0)[0]
    return np.where((tied & (labels == nearest)).any(axis=0), nearest, first)
