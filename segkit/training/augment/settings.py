"""What the patch shape decides: largest angle, rotation in slices only, and how much to read."""

from __future__ import annotations

import math
from dataclasses import dataclass

from segkit.config import AugmentConfig
from segkit.errors import UserError
from segkit.planning.sides import PatchSides

ANISOTROPY = 3.0
"""A 3D patch whose longest edge is more than this many times its first is rotated in-plane."""
ELONGATED_2D = 1.5
"""A 2D patch with a larger ratio of edges is rotated by small angles only."""
UPRIGHT = 30.0
"""Largest angle in degrees where labels tell left from right."""
NO_SIDES = PatchSides()
SCALING_MARGIN = 0.85
"""The sampled patch is divided by this to leave room for scaling."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SpatialSettings:
    """Spatial augmentation of one configuration."""

    patch_size: tuple[int, ...]
    """Final patch, 2 or 3 axes."""
    max_angle_degrees: float
    """Angles are uniform in [-max, max], one per rotation axis."""
    dummy_2d: bool
    """Rotate and scale only within the slices along axis 0, all slices alike."""
    mirror_axes: tuple[int, ...]
    """Spatial axes (0 = first) that may be flipped; empty without mirroring."""
    side_axis: int | None = None
    """Axis between left and right, where that matters: it takes no other's place."""


def spatial_settings(
    patch_size: tuple[int, ...], config: AugmentConfig, sides: PatchSides = NO_SIDES
) -> SpatialSettings:
    """Choose rotation and mirroring for a patch of 2 or 3 axes: nnU-Net's, or the recipe's.

    Where labels tell left from right, a patch is not turned upside down unless the recipe says so:
    what is left would come to lie right, and be called left still.

    Args:
        patch_size: 2 or 3 axes.
        config: The recipe's.
        sides: What the patch has to do with left and right.

    Raises:
        UserError: axes to mirror that the patch does not have; labels that are to change places
            nobody knows where.
    """
    dummy_2d = len(patch_size) == 3 and _kept_apart(patch_size, config)
    angle = config.rotation_degrees
    if angle is None:
        angle = _default_angle(patch_size, dummy_2d)
        angle = min(angle, UPRIGHT) if _turns_sides(sides, dummy_2d) else angle
    return SpatialSettings(
        patch_size=tuple(patch_size),
        max_angle_degrees=angle,
        dummy_2d=dummy_2d,
        mirror_axes=_mirror_axes(len(patch_size), config, sides),
        side_axis=sides.axis if sides.matter else None,
    )


def _turns_sides(sides: PatchSides, dummy_2d: bool) -> bool:
    """Whether rotation moves what is left to the right."""
    unknown = not sides.known
    inside = sides.axis is not None and not (dummy_2d and sides.axis == 0)
    return sides.matter and (unknown or inside)


def _kept_apart(patch_size: tuple[int, ...], config: AugmentConfig) -> bool:
    if config.dummy_2d == "auto":
        return max(patch_size) / patch_size[0] > ANISOTROPY
    return config.dummy_2d


def _mirror_axes(ndim: int, config: AugmentConfig, sides: PatchSides) -> tuple[int, ...]:
    """The recipe's axes; where it leaves the choice, those that leave left and right alone."""
    if config.mirror and sides.pairs and not sides.known:
        what = "mirror_pairs are given, but nobody says which axis runs between left and right"
        fix = 'add "left_right_axis": "x" (columns), "y" (rows) or "z" (slices) to dataset.json'
        raise UserError(what, where="dataset.json", fix=fix)
    if isinstance(config.mirror, bool):
        if not config.mirror or (sides.apart and not sides.known):
            return ()
        return tuple(axis for axis in range(ndim) if not (sides.apart and axis == sides.axis))
    if beyond := [axis for axis in config.mirror if axis >= ndim]:
        what = f"there is no axis {beyond[0]} to mirror: the patch has {ndim}"
        fix = f"choose from {list(range(ndim))}; true stands for all"
        raise UserError(what, where="augment.mirror", fix=fix)
    return tuple(sorted(config.mirror))


def _default_angle(patch_size: tuple[int, ...], dummy_2d: bool) -> float:
    if len(patch_size) == 2:
        return 15.0 if max(patch_size) / min(patch_size) > ELONGATED_2D else 180.0
    return 180.0 if dummy_2d else 30.0


def sampled_patch_size(settings: SpatialSettings, config: AugmentConfig) -> tuple[int, ...]:
    """Size to read so that a rotated, scaled patch mostly stays inside (nnU-Net's rule).

    The patch's edge vector is turned about one axis at a time by the largest angle (90 degrees
    at most), the largest extent of each axis is kept and divided by 0.85. Without rotation,
    scaling and deformation it is the patch itself.
    """
    patch = settings.patch_size
    angle = min(settings.max_angle_degrees, 90.0) if config.p_rotation > 0 else 0.0
    margin = SCALING_MARGIN if config.p_scaling > 0 or config.p_elastic > 0 else 1.0
    turned = _turned_extent(patch, math.radians(angle), _planes(settings))
    size = [int(extent / margin) for extent in turned]
    if settings.dummy_2d:
        size[0] = patch[0]
    return tuple(size)


def _planes(settings: SpatialSettings) -> list[tuple[int, int]]:
    """Pairs of axes in which the patch is rotated."""
    if len(settings.patch_size) == 2:
        return [(0, 1)]
    return [(1, 2)] if settings.dummy_2d else [(0, 1), (1, 2), (2, 0)]


def _turned_extent(
    edges: tuple[int, ...], angle: float, planes: list[tuple[int, int]]
) -> list[float]:
    """Largest extent of each axis over one rotation in each plane and none at all."""
    extent = [float(edge) for edge in edges]
    for a, b in planes:
        # Rounding hides the cosine of 90 degrees, 6e-17, from the truncation that follows.
        along = round(abs(edges[a] * math.cos(angle) + edges[b] * math.sin(angle)), 6)
        across = round(abs(edges[b] * math.cos(angle) - edges[a] * math.sin(angle)), 6)
        extent[a], extent[b] = max(extent[a], along), max(extent[b], across)
    return extent
