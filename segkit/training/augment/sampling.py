"""Linear interpolation at the positions of an affine map, for images and for labels.

Written with gathers rather than ``grid_sample``: on a CPU that one takes 3D volumes a voxel at a
time and would be needed once for every label; here image and labels share their positions, and
labels are weighed only where a cell of the source holds more than one. For the image of a plane
it is quicker than gathers, and used.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F

from segkit.dataset.labels import INVALID
from segkit.training.augment.affine import AffineMap

CPU_BLOCK = 1 << 17
"""Output voxels treated at once on a CPU, whose intermediates stay in the cache."""
SEEN = float(1 << 17)
"""Added to labels (int16 or int8) that were counted: beyond any label, and exact in float32."""
ROUNDING = 1e-3
"""Voxels by which positions in float32 are at most off, with much to spare."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Extent:
    """The voxels of one source axis that a patch needs, and where it leaves the source."""

    first: int
    """-1 at least, one voxel before the source."""
    last: int
    """``size + 1`` at most, two voxels behind it."""
    size: int
    """Voxels of the source."""
    leaves: tuple[bool, bool]
    """Whether positions lie beyond the outer half of the first or last voxel."""

    def margins(self) -> Iterator[tuple[slice, int]]:
        """Which voxels of the extent lie outside, and the nearest that does not."""
        if self.first < 0:
            yield slice(0, -self.first), -self.first
        if self.last >= self.size:
            yield slice(self.size - self.first, None), self.size - 1 - self.first

    def __len__(self) -> int:
        return self.last + 1 - self.first


@dataclass(frozen=True, kw_only=True, slots=True)
class Cells:
    """Source cells that hold N positions: 2 neighbours along every axis.

    ``first`` (N,) int32 is the flat index of the neighbour that is lower along all axes,
    ``strides`` the step to the upper one and ``fractions`` its linear weight (N,) along each axis.
    """

    first: torch.Tensor
    fractions: list[torch.Tensor]
    strides: list[int]
    inside: torch.Tensor | None
    """(N,) bool: the position lies in a voxel of the source. None where all do."""

    def offsets(self) -> list[int]:
        """Flat offsets from ``first`` to all 2^ndim neighbours, last axis fastest."""
        return [sum(steps) for steps in product(*((0, stride) for stride in self.strides))]

    def select(self, where: torch.Tensor) -> Cells:
        """Return the cells at some of the positions."""
        return Cells(
            first=self.first.index_select(0, where),
            fractions=[fraction.index_select(0, where) for fraction in self.fractions],
            strides=self.strides,
            inside=None if self.inside is None else self.inside.index_select(0, where),
        )

    def weights(self) -> torch.Tensor:
        """(2^ndim, N) weights of the neighbours, ordered as the offsets."""
        total = self.fractions[0].new_ones(1, len(self.first))
        for upper in self.fractions:
            total = (total[:, None] * torch.stack([1 - upper, upper])).flatten(0, 1)
        return total


def sample_affine(
    image: torch.Tensor, seg: torch.Tensor, mapping: AffineMap, patch: tuple[int, ...]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Resample one sample.

    Args:
        image: (C, *S) float; read linearly, zero outside.
        seg: (L, *S) integer; every voxel takes the label with the largest linear weight (the
            lowest at a tie), -1 where its centre lies outside. Never a label that is not there.
        mapping: From patch voxels to positions in S.
        patch: Output shape.

    Returns:
        (C, *patch) and (L, *patch), types as given.
    """
    box = _needed(mapping, patch, tuple(image.shape[1:]))
    planes = len(patch) == 2
    image_out = image.new_empty(0 if planes else len(image), *patch)
    seg_out = seg.new_empty(len(seg), *patch)
    channels = _cut(image[: len(image_out)], box, 0.0).flatten(1)
    labels = _cut(seg, box, None).flatten(1)
    agreed = [_agreed(row, _strides(box)) for row in labels]
    for block in _blocks(patch, image.device):
        cells = _locate(_positions(mapping, block, box, image.device), box)
        size = tuple(map(len, block))
        where = tuple(slice(axis.start, axis.stop) for axis in block)
        for channel, out in zip(channels, image_out, strict=True):
            out[where] = _interpolate(channel, cells).reshape(size)
        seg_out[(slice(None), *where)] = _vote(labels, agreed, cells).reshape(-1, *size)
    return _sample_planes(image, mapping, patch) if planes else image_out, seg_out


def _sample_planes(image: torch.Tensor, mapping: AffineMap, patch: tuple[int, ...]) -> torch.Tensor:
    """Interpolate (C, Y, X) by ``grid_sample``, which is quick on a CPU for planes."""
    rows, columns = (torch.arange(n, device=image.device, dtype=torch.float32) for n in patch)
    grid = image.new_empty(1, *patch, 2)
    for axis, size in enumerate(image.shape[1:]):
        # The array extends from -1 to 1; the last axis comes first.
        (by_row, by_column), origin = mapping.matrix[axis], mapping.origin[axis]
        start = rows * (2 * by_row / size) + ((2 * origin + 1) / size - 1)
        torch.add(start[:, None], columns * (2 * by_column / size), out=grid[0, ..., 1 - axis])
    return F.grid_sample(image[None], grid, align_corners=False)[0]


def _needed(mapping: AffineMap, patch: tuple[int, ...], source: tuple[int, ...]) -> list[Extent]:
    """Find the part of the source that the patch shows."""
    box = []
    for factors, origin, size in zip(mapping.matrix, mapping.origin, source, strict=True):
        reach = [factor * (length - 1) for factor, length in zip(factors, patch, strict=True)]
        lowest = origin + sum(min(r, 0.0) for r in reach)
        highest = origin + sum(max(r, 0.0) for r in reach)
        first = min(max(math.floor(lowest), -1), size)
        last = min(max(math.floor(highest + ROUNDING), -1), size) + 1
        leaves = lowest < -0.5, highest > size - 0.5
        box.append(Extent(first=first, last=last, size=size, leaves=leaves))
    return box


def _cut(source: torch.Tensor, box: list[Extent], fill: float | None) -> torch.Tensor:
    """Cut the box out of (C, *S); outside is ``fill``, or the edge goes on where it is None."""
    inner, goal = source, result = source, source.new_empty(len(source), *map(len, box))
    for axis, extent in enumerate(box, start=1):
        start, stop = max(extent.first, 0), min(extent.last + 1, extent.size)
        inner = inner.narrow(axis, start, stop - start)
        goal = goal.narrow(axis, start - extent.first, stop - start)
    goal.copy_(inner)
    for axis, extent in enumerate(box, start=1):
        for margin, edge in extent.margins():
            outside = result[(slice(None),) * axis + (margin,)]
            if fill is None:
                outside.copy_(result.narrow(axis, edge, 1))
            else:
                outside.fill_(fill)
    return result


def _blocks(patch: tuple[int, ...], device: torch.device) -> Iterator[tuple[range, ...]]:
    """Divide the patch into blocks that suit the device.

    They are compact, that their voxels lie close together in a turned source too; lines are
    longer than the other edges, for arithmetic runs along them.
    """
    size = list(patch)
    while device.type == "cpu" and math.prod(size) > CPU_BLOCK:
        edges = [*size[:-1], size[-1] / 2]
        longest = edges.index(max(edges))
        size[longest] = -(-size[longest] // 2)
    axes = [
        [range(start, min(start + step, n)) for start in range(0, n, step)]
        for n, step in zip(patch, size, strict=True)
    ]
    return product(*axes)


def _positions(
    mapping: AffineMap, block: tuple[range, ...], box: list[Extent], device: torch.device
) -> list[torch.Tensor]:
    """Position (N,) in the box, along every axis of it, of the patch voxels of a block."""
    grids = [torch.arange(r.start, r.stop, device=device, dtype=torch.float32) for r in block]
    positions = []
    for factors, origin, extent in zip(mapping.matrix, mapping.origin, box, strict=True):
        position = torch.full((1,), origin - extent.first, device=device)
        for grid, factor in zip(grids, factors, strict=True):
            position = (position[:, None] + grid * factor).flatten()
        positions.append(position)
    return positions


def _locate(positions: list[torch.Tensor], box: list[Extent]) -> Cells:
    """Find the cell and the linear weights of every position (used up)."""
    inside = _inside(positions, box)
    strides = _strides(box)
    first = None
    for position, extent, stride in zip(positions, box, strides, strict=True):
        # Beyond the source there is nothing to see: its margin stands for all of it.
        position.clamp_(0, len(extent) - 1 - ROUNDING / 2)
        lower = position.to(torch.int32)
        first = lower.mul_(stride) if first is None else first.add_(lower, alpha=stride)
    assert first is not None
    return Cells(
        first=first,
        fractions=[position.frac_() for position in positions],
        strides=strides,
        inside=inside,
    )


def _strides(box: list[Extent]) -> list[int]:
    """Steps between neighbours along every axis of the flat box."""
    return [math.prod(map(len, box[axis + 1 :])) for axis in range(len(box))]


def _inside(positions: list[torch.Tensor], box: list[Extent]) -> torch.Tensor | None:
    """Tell which positions lie in the source, looking only where some may not."""
    excess = None
    for position, extent in zip(positions, box, strict=True):
        low = -0.5 - extent.first
        beyond = []
        if extent.leaves[0]:
            beyond.append(low - position)
        if extent.leaves[1]:
            beyond.append(position - (low + extent.size))
        for distance in beyond:
            excess = distance if excess is None else torch.maximum(excess, distance, out=excess)
    return None if excess is None else excess <= 0


def _interpolate(values: torch.Tensor, cells: Cells, axis: int = 0, shift: int = 0) -> torch.Tensor:
    """Weighted sum of the neighbours along ``axis`` and all later axes."""
    if axis == len(cells.strides):
        return values[shift:].index_select(0, cells.first)
    lower = _interpolate(values, cells, axis + 1, shift)
    upper = _interpolate(values, cells, axis + 1, shift + cells.strides[axis])
    return lower.lerp_(upper, cells.fractions[axis])


def _agreed(labels: torch.Tensor, strides: list[int]) -> torch.Tensor:
    """(M,) label of the cells, by their first voxel, that hold one only; below -1 elsewhere.

    Labels (M + margin,) are smaller than the largest number of their type.
    """
    lowest = highest = labels
    for stride in strides:
        lowest = torch.minimum(lowest[:-stride], lowest[stride:])
        highest = torch.maximum(highest[:-stride], highest[stride:])
    several = highest.sub_(lowest).clamp_(max=1)
    return lowest.sub_(several, alpha=torch.iinfo(labels.dtype).max)


def _vote(labels: torch.Tensor, agreed: list[torch.Tensor], cells: Cells) -> torch.Tensor:
    """(L, N) label with the largest linear weight among the neighbours, -1 outside."""
    count = len(cells.first)
    result = labels.new_empty(len(labels), count)
    if labels.device.type == "cpu":
        for known, out in zip(agreed, result, strict=True):
            torch.index_select(known, 0, cells.first, out=out)
        # A few percent of a real label map; numpy compares and finds several times faster.
        mixed = np.flatnonzero(result.numpy() < INVALID)
        row, cell = map(torch.from_numpy, np.divmod(mixed, count))
        some = cells.select(cell)
        some.first.add_(row, alpha=labels.shape[1])
        winners = _heaviest_of_two(_neighbours(labels.view(-1), some), some)
        result.view(-1).index_copy_(0, torch.from_numpy(mixed), winners.to(labels.dtype))
    else:
        # To find out where a vote is needed would mean to wait for the device.
        for one, out in zip(labels, result, strict=True):
            out.copy_(_heaviest(_neighbours(one, cells), cells.weights()))
    if cells.inside is not None:
        # Several times faster than to fill where a mask says so.
        result.sub_(INVALID).mul_(cells.inside.to(labels.dtype)).add_(INVALID)
    return result


def _neighbours(labels: torch.Tensor, cells: Cells) -> torch.Tensor:
    """(2^ndim, N) labels of every cell in float32, ordered as its offsets."""
    found = [labels[offset:].index_select(0, cells.first) for offset in cells.offsets()]
    return torch.stack(found).float()


def _heaviest_of_two(candidates: torch.Tensor, cells: Cells) -> torch.Tensor:
    """The same as ``_heaviest``, quickly where there are only two labels.

    There the weight of the upper one is how far the mean is from the lower one.
    """
    low, high = candidates.amin(0), candidates.amax(0)
    mean = candidates.view(*(2,) * len(cells.fractions), -1)
    for fraction in cells.fractions:
        mean = torch.lerp(mean[0], mean[1], fraction)
    best = torch.where(mean > (low + high).mul_(0.5), high, low)
    others = (candidates - low).mul_(high - candidates).amax(0).nonzero().flatten()
    if len(others):
        weights = cells.select(others).weights()
        best.index_copy_(0, others, _heaviest(candidates.index_select(1, others), weights))
    return best


def _heaviest(candidates: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """(M,) label with the largest sum of weights among candidates (2^ndim, M), lowest at a tie.

    Goes through the labels of every cell in ascending order. On a CPU there are as many rounds as
    the most varied cell has labels; elsewhere as many as it may have, for to look would mean to
    wait for the device. Both inputs are used up.
    """
    best = torch.empty_like(candidates[0])
    best_weight = torch.full_like(best, -1.0)
    for _ in range(len(candidates)):
        label = candidates.amin(0)
        if label.device.type == "cpu" and float(label.amin()) > SEEN / 2:
            break
        same = (candidates - label).abs_().neg_().add_(1).clamp_(min=0)
        share = same * weights
        weight = share.sum(0)
        best = torch.where(weight > best_weight, label, best)
        best_weight = torch.maximum(weight, best_weight)
        weights -= share
        candidates.add_(same, alpha=SEEN)
    return best
