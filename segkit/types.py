"""Arrays with a place in space.

The axis legend of the whole project:

=================  ==============  =========================================================
thing              axes            meaning
=================  ==============  =========================================================
image              (C, Z, Y, X)    float32; a 2D image has Z = 1
segmentation       (1, Z, Y, X)    int16; -1 invalid, 0 background, 1..K-1 classes, K ignore
structures         (S, Z, Y, X)    int8, one each; -1 invalid, 0 absent, 1 present, 2 ignore
batch              (B, C, Z, Y, X) or (B, C, Y, X) for 2D networks
spacing_mm         (z, y, x)       millimetres between voxel centres
origin, direction  x, y, z         as ITK has them: LPS world, direction row-major 3x3
=================  ==============  =========================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Shape = tuple[int, ...]
Spacing = tuple[float, ...]
NetworkKind = Literal["plain", "residual_encoder"]
Norm = Literal["instance", "batch"]
FAR_APART = 999.0
"""Slice spacing of a plane, in units of its largest spacing, as in nnU-Net."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Geometry:
    """Where a voxel grid lies in the world (ITK's convention, LPS)."""

    spacing_mm: Spacing
    """(z, y, x) in mm."""
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """World position of voxel (0, 0, 0), as x, y, z in mm."""
    direction: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
    """Row-major 3x3 matrix; column j is the world direction of array axis x, y, z [j]."""
    stored_ndim: int = 3
    """2 where the file holds a plane, so that it is written back as a plane."""

    def orientation(self) -> str:
        """Name the direction in which the x, y and z axis run, e.g. ``"LPS"``."""
        matrix = np.asarray(self.direction, dtype=np.float64).reshape(3, 3)
        free, code = [0, 1, 2], ["", "", ""]

        def clearness(axis: int) -> tuple[float, ...]:
            # Ties (45 degrees) go by the axis' line, so that order and sign of axes do not matter.
            column = matrix[:, axis]
            line = column * np.sign(column[np.abs(column).argmax()])
            return -float(np.abs(column).max()), *line.tolist()

        for axis in sorted(range(3), key=clearness):
            world = max(free, key=lambda w: abs(matrix[w, axis]))
            free.remove(world)
            code[axis] = ("RL", "AP", "IS")[world][int(matrix[world, axis] > 0)]
        return "".join(code)


@dataclass(frozen=True, kw_only=True, slots=True)
class Volume:
    """An array (C, Z, Y, X) and the geometry it came with."""

    array: np.ndarray
    geometry: Geometry

    @property
    def shape(self) -> Shape:
        """Spatial shape (Z, Y, X)."""
        return tuple(self.array.shape[1:])
