"""What the network is to say: segmentations as masked target channels."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from segkit.config import InvalidVoxels
from segkit.dataset.labels import BACKGROUND, INVALID, LabelSchema
from segkit.dataset.structures import PRESENT


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a batch of logits is compared with, masked voxels already zero everywhere.

    ``channels`` is (B, O, *S) float32, one-hot or membership of a region or structure; ``valid``
    is float32, 1 where the voxel counts: (B, 1, *S), or (B, O, *S) where structures overlap.
    """

    channels: Tensor
    valid: Tensor


def as_trained(seg: Tensor, invalid_voxels: InvalidVoxels | None) -> Tensor:
    """Turn invalid voxels into background where they are trained as such; else ``seg`` as it is.

    Whatever judges the network while it trains looks at this. Null leaves them masked.
    """
    if invalid_voxels != "background":
        return seg
    return torch.where(seg == INVALID, BACKGROUND, seg)


def resize_segmentation(seg: Tensor, shape: Sequence[int]) -> Tensor:
    """Bring (B, C, *S) to another grid by picking the nearest voxel (no label is invented)."""
    for axis, new in enumerate(shape, start=2):
        old = seg.shape[axis]
        if old != new and old % new == 0:
            # A view; copied at once below, several times faster than with indices.
            factor = old // new
            seg = seg.unflatten(axis, (new, factor)).select(axis + 1, factor // 2)
        elif old != new:
            centres = 2 * torch.arange(new, device=seg.device) + 1
            seg = seg.index_select(axis, centres * old // (2 * new))
    return seg.contiguous()


def make_target(seg: Tensor, schema: LabelSchema) -> Target:
    """Expand a segmentation into masked target channels.

    Args:
        seg: (B, 1, *S) indices -1..K, or (B, O, *S) where structures overlap.
        schema: What they mean.
    """
    valid = (seg != INVALID) & (seg != schema.ignore_index)
    # No index of a class, region or structure is one of those, so the channels are masked already.
    if schema.overlapping:
        channels = (seg == PRESENT).float()
    elif schema.has_regions:
        channels = _region_channels(seg, schema)
    else:
        channels = _one_hot(seg, schema.num_classes)
    return Target(channels=channels, valid=valid.float())


def _one_hot(seg: Tensor, classes: int) -> Tensor:
    """(B, K, *S), written as floats at once: neither an integer nor a boolean copy is made."""
    indices = torch.arange(classes, dtype=seg.dtype, device=seg.device)
    channels = torch.empty((seg.shape[0], classes, *seg.shape[2:]), device=seg.device)
    return torch.eq(seg, spread(indices, seg), out=channels)


def _region_channels(seg: Tensor, schema: LabelSchema) -> Tensor:
    """(B, R, *S), by comparing with numbers: a table would have to be copied to the device."""
    members = [row.nonzero()[0].tolist() for row in schema.region_members]
    inside = [reduce(operator.or_, (seg == index for index in region)) for region in members]
    return torch.cat(inside, dim=1).float()


def spread(values: Tensor, like: Tensor) -> Tensor:
    """(O,) values as (1, O, 1, ...), to meet the channels of ``like``."""
    return values.reshape(1, -1, *[1] * (like.ndim - 2))
