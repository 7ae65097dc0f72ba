"""Linear interpolation at the positions of an affine map, for images and for labels.

Written with gathers rather than ``grid_sample``: on a CPU that one runs 3D volumes on a single
core and would be needed once for every label; here image and labels share their positions, and
labels compete only where the neighbours differ.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import torch

from segkit.dataset.labels import INVALID
from segkit.training.augment.affine import AffineMap

CPU_CHUNK = (1 << 15) - 1
"""Output voxels treated at once on a CPU: all intermediates stay in the cache, and torch does
not split such small operations over cores, where waiting would cost more than it gains."""
SEEN = float(1 << 17)
"""Added to labels (int16 or int8) that were counted: beyond any label, and exact in float32."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cells:
    """Source cells that hold N positions: 2 neighbours along every axis.

    ``below`` and ``above`` are the linear weights (N,) of the two neighbours of each axis, zero
    for a neighbour outside the array. ``first`` (N,) int32 is the flat index of the neighbour
    that is lower along all axes, ``strides`` the step to the upper one.
    """

    first: torch.Tensor
    below: list[torch.Tensor]
    above: list[torch.Tensor]
    strides: list[int]
    outside: torch.Tensor
    """(N,) bool: the position lies in no voxel of the array."""

    def offsets(self) -> list[int]:
        """Flat offsets from ``first`` to all 2^ndim neighbours, last axis fastest."""
        return [sum(steps) for steps in product(*((0, stride) for stride in self.strides))]

    def weights(self, where: torch.Tensor) -> torch.Tensor:
        """(2^ndim, M) weights of the neighbours of some positions, ordered as the offsets."""
        total = self.first.new_ones(1, len(where), dtype=torch.float32)
        for sides in zip(self.below, self.above, strict=True):
            pair = torch.stack([side.index_select(0, where) for side in sides])
            total = (total[:, None] * pair).flatten(0, 1)
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
    source = tuple(image.shape[1:])
    flat_image, flat_seg = image.flatten(1), seg.flatten(1)
    image_out = image.new_empty(image.shape[0], torch.Size(patch).numel())
    seg_out = seg.new_empty(seg.shape[0], image_out.shape[1])
    for rows in _chunks(patch, image.device):
        positions = _positions(mapping, patch, rows, image.device)
        cells = _locate(positions, source)
        line = torch.Size(patch[1:]).numel()
        part = slice(rows.start * line, rows.stop * line)
        for channel, out in zip(flat_image, image_out, strict=True):
            out[part] = _interpolate(channel, cells)
        for labels, out in zip(flat_seg, seg_out, strict=True):
            out[part] = _vote(labels, cells)
    return image_out.reshape(-1, *patch), seg_out.reshape(-1, *patch)


def _chunks(patch: tuple[int, ...], device: torch.device) -> Iterator[slice]:
    """Ranges of rows along axis 0."""
    line = torch.Size(patch[1:]).numel()
    count = max(1, CPU_CHUNK // line) if device.type == "cpu" else patch[0]
    for start in range(0, patch[0], count):
        yield slice(start, min(start + count, patch[0]))


def _positions(
    mapping: AffineMap, patch: tuple[int, ...], rows: slice, device: torch.device
) -> list[torch.Tensor]:
    """Source position (N,) along every source axis of the patch voxels in ``rows``."""
    ranges = [(rows.start, rows.stop), *((0, size) for size in patch[1:])]
    steps = [torch.arange(*bounds, device=device, dtype=torch.float32) for bounds in ranges]
    grids = [step.reshape(-1, *(1,) * (len(patch) - 1 - axis)) for axis, step in enumerate(steps)]
    positions = []
    for factors, origin in zip(mapping.matrix, mapping.origin, strict=True):
        position = torch.full((), origin, device=device)
        # From the last axis up, so that the large sum is the only one of full size.
        for grid, factor in zip(reversed(grids), reversed(factors), strict=True):
            position = grid * factor + position
        positions.append(position.flatten())
    return positions


def _locate(positions: list[torch.Tensor], source: tuple[int, ...]) -> Cells:
    """Find the cell and the linear weights of every position."""
    below: list[torch.Tensor] = []
    above: list[torch.Tensor] = []
    first = torch.zeros_like(positions[0], dtype=torch.int32)
    excess = torch.full_like(positions[0], -1.0)
    strides = [torch.Size(source[axis + 1 :]).numel() for axis in range(len(source))]
    for position, size, stride in zip(positions, source, strides, strict=True):
        lower = position.floor().clamp_(0, max(size - 2, 0))
        offset = position - lower
        below.append((1 - offset.abs()).clamp_(min=0))
        weight = (1 - offset.sub_(1).abs_()).clamp_(min=0)
        # An axis of one voxel has no upper neighbour.
        above.append(weight if size > 1 else torch.zeros_like(weight))
        first.add_(lower.to(torch.int32), alpha=stride)
        from_middle = (position - (size - 1) / 2).abs_()
        excess = torch.maximum(excess, from_middle.sub_(size / 2))
    strides = [stride if size > 1 else 0 for size, stride in zip(source, strides, strict=True)]
    return Cells(first=first, below=below, above=above, strides=strides, outside=excess > 0)


def _interpolate(values: torch.Tensor, cells: Cells, axis: int = 0, shift: int = 0) -> torch.Tensor:
    """Weighted sum of the neighbours along ``axis`` and all later axes."""
    if axis == len(cells.strides):
        return values[shift:].index_select(0, cells.first)
    lower = _interpolate(values, cells, axis + 1, shift)
    upper = _interpolate(values, cells, axis + 1, shift + cells.strides[axis])
    return lower.mul_(cells.below[axis]).addcmul_(upper, cells.above[axis])


def _vote(labels: torch.Tensor, cells: Cells) -> torch.Tensor:
    """Label with the largest linear weight among the neighbours, -1 outside."""
    views = [labels[offset:] for offset in cells.offsets()]
    result = views[0].index_select(0, cells.first)
    lowest, highest = result.clone(), result.clone()
    for view in views[1:]:
        neighbour = view.index_select(0, cells.first)
        torch.minimum(lowest, neighbour, out=lowest)
        torch.maximum(highest, neighbour, out=highest)
    # Only cells that see more than one label need a vote: a few percent of a real label map.
    mixed = highest.sub_(lowest).nonzero().flatten()
    if len(mixed):
        first = cells.first.index_select(0, mixed)
        # As floats: arithmetic is several times faster than comparisons on a CPU.
        candidates = torch.stack([view.index_select(0, first) for view in views]).float()
        winners = _heaviest(candidates, cells.weights(mixed))
        result.index_copy_(0, mixed, winners.to(labels.dtype))
    return result.masked_fill_(cells.outside, INVALID)


def _heaviest(candidates: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """(M,) label with the largest sum of weights among candidates (2^ndim, M), lowest at a tie.

    Goes through the labels of every cell in ascending order, so that there are as many rounds
    as the most varied cell has labels. Both inputs are used up.
    """
    best = torch.empty_like(candidates[0])
    best_weight = torch.full_like(best, -1.0)
    while float((label := candidates.amin(0)).amin()) < SEEN / 2:
        same = (candidates - label).abs_().neg_().add_(1).clamp_(min=0)
        share = same * weights
        weight = share.sum(0)
        best = torch.where(weight > best_weight, label, best)
        best_weight = torch.maximum(weight, best_weight)
        weights -= share
        candidates.add_(same, alpha=SEEN)
    return best
