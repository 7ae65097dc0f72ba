"""Exact moves of axes: flips, quarter turns and transpositions of single samples, in place."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import torch

from segkit.config import AugmentConfig
from segkit.dataset.labels import BACKGROUND, INVALID
from segkit.training.augment import draw
from segkit.training.augment.settings import SpatialSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """What is done to one sample: a quarter turn first, then a transposition."""

    quarters: int
    """Times 90 degrees."""
    plane: tuple[int, int]
    """The spatial axes between which it is turned."""
    order: tuple[int, ...]
    """All spatial axes in their new order."""

    def __call__(self, sample: torch.Tensor) -> torch.Tensor:
        """Turn (C, *S); what it returns is a view or a copy."""
        first, second = (axis + 1 for axis in self.plane)
        turned = sample.rot90(self.quarters, (first, second)) if self.quarters else sample
        return turned.permute(0, *(axis + 1 for axis in self.order))


def equal_axes(settings: SpatialSettings) -> tuple[int, ...]:
    """The spatial axes that may take each other's place: the largest group of equal edges.

    Not the axis across slices that are kept apart, nor one between left and right. Empty where
    there are no two.
    """
    patch = settings.patch_size
    first_free = 1 if settings.dummy_2d else 0
    free = [axis for axis in range(first_free, len(patch)) if axis != settings.side_axis]
    groups = [tuple(axis for axis in free if patch[axis] == patch[first]) for first in free]
    largest = max(groups, key=len, default=())
    return largest if len(largest) > 1 else ()


def draw_turns(
    count: int, settings: SpatialSettings, config: AugmentConfig, generator: torch.Generator
) -> list[Turn]:
    """Draw the turn of every sample; none at all where no two axes are equally long."""
    axes = equal_axes(settings)
    if not axes:
        return []
    planes = list(combinations(axes, 2))
    turned = draw.fires(generator, (count,), config.p_quarter_turn)
    quarters = draw.integers(generator, (count,), (0, 3)) * turned
    plane = draw.integers(generator, (count,), (0, len(planes) - 1))
    transposed = draw.fires(generator, (count,), config.p_transpose)[:, None]
    shuffled = draw.uniform(generator, (count, len(axes)), (0.0, 1.0)).argsort(1)
    order = torch.where(transposed, shuffled, torch.arange(len(axes), device=shuffled.device))
    ndim = len(settings.patch_size)
    return [
        Turn(quarters=times, plane=planes[p], order=_order(ndim, axes, new))
        for times, p, new in zip(quarters.tolist(), plane.tolist(), order.tolist(), strict=True)
    ]


def _order(ndim: int, axes: tuple[int, ...], new: list[int]) -> tuple[int, ...]:
    """All axes, of which some are permuted."""
    order = list(range(ndim))
    for axis, source in zip(axes, new, strict=True):
        order[axis] = axes[source]
    return tuple(order)


def turn(
    image: torch.Tensor,
    seg: torch.Tensor,
    settings: SpatialSettings,
    config: AugmentConfig,
    generator: torch.Generator,
) -> None:
    """Turn and transpose samples (B, C, *patch) between axes of equal length, in place."""
    if not (config.p_quarter_turn or config.p_transpose):
        return
    for i, chosen in enumerate(draw_turns(len(image), settings, config, generator)):
        for batch in (image, seg):
            # A copy first, for the turned view would be written while it is read.
            batch[i] = chosen(batch[i].clone())


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelSwap:
    """Labels that change places when a sample is flipped between left and right."""

    axis: int
    """The spatial axis between left and right."""
    classes: tuple[int, ...]
    """Number of the class (or structure) that takes the place of each, from 0 on."""
    overlapping: bool = False
    """The label maps are structures, one each."""

    def __call__(self, maps: torch.Tensor) -> torch.Tensor:
        """Return (L, *S) label maps with the labels of each pair exchanged.

        Where there are more maps than one a structure, they are those of several segmentations,
        one after the other. Background, invalid and ignored voxels stay what they are.
        """
        if self.overlapping:
            count = len(self.classes)
            starts = range(0, len(maps), count)
            order = [start + number for start in starts for number in self.classes]
            return maps[order]
        ignored = 1 + len(self.classes)
        indices = (INVALID, BACKGROUND, *(1 + number for number in self.classes), ignored)
        table = torch.tensor(indices, dtype=maps.dtype, device=maps.device)
        return table[maps.long() - INVALID]


def mirror(
    image: torch.Tensor,
    seg: torch.Tensor,
    axes: tuple[int, ...],
    generator: torch.Generator,
    swap: LabelSwap | None = None,
) -> None:
    """Flip each sample along each of the spatial ``axes`` with probability 1/2, in place.

    Where it is flipped between left and right, labels change places.
    """
    flips = draw.fires(generator, (image.shape[0], len(axes)), 0.5)
    for i, chosen in enumerate(flips.tolist()):
        turned = [axis + 1 for axis, flip in zip(axes, chosen, strict=True) if flip]
        if turned:
            image[i], seg[i] = image[i].flip(turned), seg[i].flip(turned)
        if swap is not None and swap.axis + 1 in turned:
            seg[i] = swap(seg[i])
