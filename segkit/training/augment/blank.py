"""Boxes filled with their mean, so that no single place decides (cf. cutout, DeVries 2017)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from segkit.config import AugmentConfig
from segkit.training.augment import draw


@dataclass(frozen=True, kw_only=True, slots=True)
class Boxes:
    """Boxes in rows (channels of samples) of a batch, on the CPU."""

    rows: torch.Tensor
    """(m,) int64; a row may have several."""
    starts: torch.Tensor
    """(m, ndim) int64, first voxel."""
    sizes: torch.Tensor
    """(m, ndim) int64."""

    def __iter__(self) -> Iterator[tuple[int, tuple[slice, ...]]]:
        columns = zip(self.rows.tolist(), self.starts.tolist(), self.sizes.tolist(), strict=True)
        for row, starts, sizes in columns:
            place = zip(starts, sizes, strict=True)
            yield row, tuple(slice(start, start + size) for start, size in place)


def draw_boxes(
    rows: torch.Tensor, shape: tuple[int, ...], config: AugmentConfig, generator: torch.Generator
) -> Boxes:
    """Draw how many boxes every row gets, how large they are, and where they lie.

    All sizes along an axis are equally likely, and then all places where the box fits.
    """
    counts = draw.integers(generator, (len(rows),), config.blank_count)
    rows = rows.repeat_interleave(counts)
    starts: list[torch.Tensor] = []
    sizes: list[torch.Tensor] = []
    for length in shape:
        low, high = size_bounds(length, config.blank_size)
        size = draw.integers(generator, (len(rows),), (low, high))
        place = draw.uniform(generator, (len(rows),), (0.0, 1.0)) * (length - size + 1)
        sizes.append(size)
        starts.append(torch.minimum(place.long(), length - size))
    return Boxes(
        rows=rows.cpu(), starts=torch.stack(starts, 1).cpu(), sizes=torch.stack(sizes, 1).cpu()
    )


def size_bounds(length: int, shares: draw.Range) -> tuple[int, int]:
    """Smallest and largest edge of a box along an axis (nnU-Net's rounding, and 1 at least)."""
    low = max(1, int(length * shares[0] + 1e-6))
    # The upper end of the range does not belong to it.
    return low, max(low, int(length * shares[1] + 1e-6) - 1)


def fill_boxes(channels: torch.Tensor, boxes: Boxes) -> None:
    """Fill each box of (B * C, *S) with its mean, one after the other, in place."""
    for row, place in boxes:
        part = channels[row][place]
        part.copy_(part.mean())
