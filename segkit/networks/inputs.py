"""What a network is given: the image, and in a cascade the segmentation of the previous stage."""

from __future__ import annotations

import torch
from torch import Tensor

from segkit.dataset.labels import LabelSchema
from segkit.dataset.structures import PRESENT
from segkit.planning.plan import Plan


def given_classes(plan: Plan, configuration: str, schema: LabelSchema) -> tuple[str, ...]:
    """Name the classes that a network is given beside the image: in a cascade all, else none.

    Of regions the classes count, as they are painted; of structures each.

    Raises:
        UserError: no such configuration, or its previous stage is none.
    """
    if plan.previous_stage(configuration) is None:
        return ()
    return tuple(one.name for one in schema.classes)


def input_channels(plan: Plan, configuration: str, schema: LabelSchema) -> int:
    """Return how many channels a network takes: the image's, and one a given class."""
    return len(plan.channel_names) + len(given_classes(plan, configuration, schema))


def class_channels(labels: Tensor, schema: LabelSchema) -> Tensor:
    """Give every class a channel of its own.

    Args:
        labels: (B, 1, *S) indices, of any type; (B, S, *S) where structures overlap.
        schema: What they mean.

    Returns:
        (B, K-1 or S, *S) bool. Background, invalid (-1) and ignored voxels are in no channel.
    """
    if schema.overlapping:
        return labels == PRESENT
    indices = torch.arange(1, schema.num_classes, device=labels.device, dtype=labels.dtype)
    return labels == indices.view(-1, *(1,) * (labels.ndim - 2))


def add_class_channels(image: Tensor, labels: Tensor, schema: LabelSchema) -> Tensor:
    """Append the classes of label maps to an image (B, C, *S) as channels of 0 and 1."""
    return torch.cat([image, class_channels(labels, schema).to(image.dtype)], dim=1)
