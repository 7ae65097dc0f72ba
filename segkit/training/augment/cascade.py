"""The segmentation of a previous stage as input: moved with the image, made a little wrong.

nnU-Net's augmentations of it (Isensee et al., Nature Methods 2021): a network that could copy the
previous stage would learn nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from segkit.config import CascadeConfig
from segkit.dataset.labels import LabelSchema
from segkit.networks.inputs import add_class_channels, class_channels
from segkit.training.augment import draw
from segkit.training.augment.augmenter import Augmenter
from segkit.training.augment.morphology import OPERATORS, apply_near, surroundings
from segkit.training.augment.spatial import Batch


@dataclass(frozen=True, kw_only=True)
class CascadeAugmenter:
    """Augments a batch whose last label maps are those of the previous stage.

    All label maps go through the spatial transforms together, so that they stay aligned; the
    previous stage's become image channels afterwards.
    """

    augment: Augmenter
    schema: LabelSchema
    config: CascadeConfig

    @torch.no_grad()
    def __call__(self, image: Tensor, maps: Tensor, generator: torch.Generator) -> Batch:
        """Augment a batch; the inputs are left as they are.

        Args:
            image: (B, C, *S) float32 on any device, S at least the patch.
            maps: (B, 2 or 2 S, *S) label maps: the reference, then those of the previous stage.
            generator: Source of all randomness.

        Returns:
            Image with a channel a class, (B, C + classes, *patch), and segmentation.
        """
        image, maps = self.augment(image, maps, generator)
        seg, previous = split_maps(maps, self.schema)
        channels = class_channels(previous, self.schema)
        exclusive = not self.schema.overlapping
        vary_shapes(channels, self.config, generator, exclusive=exclusive)
        drop_components(channels, self.config, generator)
        return torch.cat([image, channels.to(image.dtype)], dim=1), seg


def split_maps(maps: Tensor, schema: LabelSchema) -> Batch:
    """Separate the reference from the segmentation of the previous stage; views."""
    return maps[:, : schema.seg_channels], maps[:, schema.seg_channels :]


def as_input(image: Tensor, maps: Tensor, schema: LabelSchema) -> Batch:
    """Make the previous stage's label maps image channels, as they are: for validation."""
    seg, previous = split_maps(maps, schema)
    return add_class_channels(image, previous, schema), seg


def vary_shapes(
    channels: Tensor, config: CascadeConfig, generator: torch.Generator, *, exclusive: bool
) -> None:
    """Dilate, erode, open or close some classes of some samples, in place, in random order.

    Args:
        channels: (B, N, *S) bool, one a class.
        config: Probabilities and radii.
        generator: Source of all choices.
        exclusive: What a class gains, the others lose.
    """
    samples, classes = channels.shape[:2]
    fires = draw.fires(generator, (samples,), config.p_morphology)
    chosen = draw.fires(generator, (samples, classes), config.p_morphology_per_class)
    radii = draw.uniform(generator, (samples, classes), config.morphology_radius).tolist()
    which = draw.uniform(generator, (samples, classes), (0, len(OPERATORS))).long().tolist()
    order = draw.uniform(generator, (samples, classes), (0, 1)).argsort(1)
    for i, j in _picked(fires, chosen, order):
        mask = channels[i, j]
        result = apply_near(OPERATORS[which[i][j]], mask, radii[i][j])
        if exclusive:
            channels[i] &= ~(result & ~mask)
        channels[i, j] = result


def drop_components(channels: Tensor, config: CascadeConfig, generator: torch.Generator) -> None:
    """Clear one connected component of some classes of some samples, in place.

    Voxels that touch by a corner are connected. All components that are not too large have the
    same chance, and nothing takes their place.

    Args:
        channels: (B, N, *S) bool, one a class.
        config: Probabilities and the largest size.
        generator: Source of all choices.
    """
    samples, classes = channels.shape[:2]
    fires = draw.fires(generator, (samples,), config.p_drop_component)
    chosen = draw.fires(generator, (samples, classes), config.p_drop_component_per_class)
    lots = draw.uniform(generator, (samples, classes), (0, 1)).tolist()
    largest = config.drop_component_max_share * channels[0, 0].numel()
    for i, j in _picked(fires, chosen, torch.arange(classes).expand(samples, -1)):
        drop_component(channels[i, j], largest, lots[i][j])


def drop_component(mask: Tensor, largest: float, lot: float) -> None:
    """Clear one component of fewer than ``largest`` voxels, in place; where there is none nothing.

    Args:
        mask: (*S) bool; on another device than the CPU it is brought there and back.
        largest: Components have fewer voxels than this.
        lot: In [0, 1); says which of them.
    """
    from scipy import ndimage

    on_cpu = mask.cpu()
    box = surroundings(on_cpu, 0)
    if box is None:
        return
    components, count = ndimage.label(on_cpu[box].numpy(), np.ones((3,) * mask.ndim))
    (small,) = np.nonzero(np.bincount(components.ravel(), minlength=count + 1)[1:] < largest)
    if len(small):
        kept = components != 1 + small[int(lot * len(small))]
        mask[box] &= torch.from_numpy(kept).to(mask.device)


def _picked(fires: Tensor, chosen: Tensor, order: Tensor) -> list[tuple[int, int]]:
    """Pairs (sample, class) to change: classes chosen, in their order, of samples that fire."""
    return [
        (i, j)
        for i, classes in enumerate(order.tolist())
        if fires[i]
        for j in classes
        if chosen[i, j]
    ]
