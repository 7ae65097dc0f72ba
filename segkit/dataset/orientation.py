"""Bring a volume to another orientation by permuting and flipping its axes; no resampling.

A code such as ``"LPS"`` names the direction in which the x, y and z axis of the array run, as
:meth:`segkit.types.Geometry.orientation` gives it.
"""

from __future__ import annotations

import numpy as np

from segkit.errors import UserError
from segkit.types import Geometry, Shape, Volume

_PAIRS = ("RL", "AP", "IS")


def reorient(volume: Volume, code: str) -> Volume:
    """Permute and flip the array axes so that ``geometry.orientation() == code``.

    The world position of every voxel stays where it is. Calling it again with the old code gives
    back array, spacing and direction exactly, and the origin to the last bits of a double.

    Args:
        volume: (C, Z, Y, X) of any type.
        code: Target orientation, e.g. ``"RAS"``.

    Raises:
        UserError: ``code`` is not an orientation.
    """
    source = volume.geometry.orientation()
    if source == code:
        return volume
    return Volume(
        array=reorient_array(volume.array, source, code),
        geometry=reorient_grid(volume.geometry, volume.shape, code)[0],
    )


def reorient_grid(geometry: Geometry, shape_zyx: Shape, code: str) -> tuple[Geometry, Shape]:
    """Return the geometry and the shape (Z, Y, X) that :func:`reorient` gives a volume.

    Raises:
        UserError: ``code`` is not an orientation.
    """
    moves = _axis_map(geometry.orientation(), code)
    shape = tuple(shape_zyx[::-1][axis] for axis, _ in reversed(moves))
    return _reorient_geometry(geometry, shape_zyx, moves), shape


def reorient_array(array: np.ndarray, source: str, target: str) -> np.ndarray:
    """Permute and flip the last three axes (Z, Y, X) from one orientation to another.

    Raises:
        UserError: one of the codes is not an orientation.
    """
    return np.ascontiguousarray(reorient_view(array, source, target))


def reorient_view(array: np.ndarray, source: str, target: str) -> np.ndarray:
    """Look at an array as :func:`reorient_array` would give it; what is written lands in it."""
    moves = _axis_map(source, target)
    leading = tuple(range(array.ndim - 3))
    # Array axes run z, y, x where the code runs x, y, z: axis x is the last one.
    order = tuple(array.ndim - 1 - axis for axis, _ in reversed(moves))
    flips = tuple(array.ndim - 1 - i for i, (_, flipped) in enumerate(moves) if flipped)
    return np.flip(array.transpose(leading + order), flips)


def direction_of(code: str) -> tuple[float, ...]:
    """Return the direction of a grid along the world's axes with an orientation, row-major 3x3.

    Raises:
        UserError: ``code`` is not an orientation.
    """
    direction = np.zeros((3, 3))
    for axis, world in enumerate(_world_axes(code)):
        direction[world, axis] = 1.0 if code[axis] == _PAIRS[world][1] else -1.0
    return tuple(direction.ravel().tolist())


def _axis_map(source: str, target: str) -> list[tuple[int, bool]]:
    """Return, for target axis x, y, z: the source axis it comes from, and whether it is flipped."""
    from_world = _world_axes(source)
    to_world = _world_axes(target)
    moves = [from_world.index(world) for world in to_world]
    return [(axis, source[axis] != target[i]) for i, axis in enumerate(moves)]


def _world_axes(code: str) -> list[int]:
    axes = [i for letter in code for i, pair in enumerate(_PAIRS) if letter in pair]
    if len(code) != 3 or sorted(axes) != [0, 1, 2]:
        fix = "use one letter each of R/L, A/P and I/S, such as RAS or LPS"
        raise UserError(f"{code!r} is not an orientation", where="orientation", fix=fix)
    return axes


def _reorient_geometry(
    geometry: Geometry, shape_zyx: tuple[int, ...], moves: list[tuple[int, bool]]
) -> Geometry:
    direction = np.array(geometry.direction, dtype=np.float64).reshape(3, 3)
    spacing, size = geometry.spacing_mm[::-1], shape_zyx[::-1]
    origin = np.array(geometry.origin, dtype=np.float64)
    columns = []
    for axis, flipped in moves:
        columns.append(-direction[:, axis] if flipped else direction[:, axis])
        if flipped:
            origin = origin + direction[:, axis] * (spacing[axis] * (size[axis] - 1))
    return Geometry(
        spacing_mm=tuple(spacing[axis] for axis, _ in reversed(moves)),
        origin=(float(origin[0]), float(origin[1]), float(origin[2])),
        direction=tuple(np.stack(columns, axis=1).ravel().tolist()),
        stored_ndim=geometry.stored_ndim,
    )
