"""How much GPU memory a network needs, in nnU-Net's unit: elements of convolution outputs.

The estimate is for one patch, without batch, gradients or optimiser: it is proportional to the
memory of training, and references measured on real GPUs turn it into gigabytes.
"""

from __future__ import annotations

import math

from segkit.planning.plan import NetworkPlan
from segkit.planning.topology import Topology

BASE_FEATURES = 32
MAX_FEATURES = {2: 512, 3: 320}
"""Cap on channels, by number of dimensions."""


def features_per_stage(n_stages: int, ndim: int, base: int = BASE_FEATURES) -> tuple[int, ...]:
    """Channels of every stage: ``base``, doubling, up to 512 (2D) or 320 (3D)."""
    return tuple(min(base << stage, MAX_FEATURES[ndim]) for stage in range(n_stages))


def feature_map_elements(network: NetworkPlan, patch_size: tuple[int, ...], heads: int) -> int:
    """Count the convolution outputs of one forward pass of one patch.

    Args:
        network: Its strides must divide the patch.
        patch_size: In voxels.
        heads: Channels of the final 1x1 convolution (only the full resolution one is counted).

    Returns:
        Number of elements; nnU-Net's estimate, to the element.
    """
    topology = Topology(
        patch_size=patch_size, strides=network.strides, kernel_sizes=network.kernel_sizes
    )
    voxels = voxels_per_stage(topology)
    units = _encoder_units(network)
    features = network.features_per_stage
    encoder = sum(u * f * v for u, f, v in zip(units, features, voxels, strict=True))
    # A decoder stage: the transposed convolution and its own, all at the skip's resolution.
    decoder = sum(
        (1 + convs) * f * v
        for convs, f, v in zip(
            network.convs_per_decoder_stage, features[-2::-1], voxels[-2::-1], strict=True
        )
    )
    return encoder + decoder + heads * voxels[0]


def voxels_per_stage(topology: Topology) -> tuple[int, ...]:
    """Voxels of the feature maps of every stage, full resolution first."""
    size, counts = topology.patch_size, []
    for stride in topology.strides:
        size = tuple(n // s for n, s in zip(size, stride, strict=True))
        counts.append(math.prod(size))
    return tuple(counts)


def _encoder_units(network: NetworkPlan) -> list[int]:
    """Convolution outputs of every encoder stage, each C_stage x voxels of the stage.

    A residual block has two convolutions, and a third on the skip where stride or channels
    change; the stem is one more at full resolution.
    """
    if network.kind == "plain":
        return list(network.convs_per_stage)
    features = network.features_per_stage
    units = []
    for stage, blocks in enumerate(network.convs_per_stage):
        widened = stage > 0 and features[stage] != features[stage - 1]
        projected = widened or max(network.strides[stage]) > 1
        units.append(2 * blocks + int(projected) + int(stage == 0))
    return units
