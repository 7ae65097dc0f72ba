"""The largest patch and batch that a GPU memory budget allows (nnU-Net's search)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from segkit.errors import UserError
from segkit.planning.memory import feature_map_elements, features_per_stage
from segkit.planning.plan import NetworkPlan
from segkit.planning.presets import MIN_BATCH, REFERENCE_BATCH, PlannerSettings
from segkit.planning.topology import COMPARABLE, MIN_EDGE, Topology, plan_topology
from segkit.types import Shape, Spacing

INITIAL_EDGE = {2: 2048, 3: 256}
"""Edge of the square or cube the first patch has the volume of, by number of dimensions."""
SMALLEST_EDGE = 3 * MIN_EDGE
"""At this edge an axis can be pooled whatever the others are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """What a patch has to fit into."""

    settings: PlannerSettings
    heads: int
    """Output channels the memory estimate counts: the keys of ``labels``."""
    gpu_memory_gb: float | None = None
    """None: the memory the planner was made for."""

    def elements(self, ndim: int) -> float:
        """Feature map elements allowed at the reference batch."""
        return self.settings.elements_allowed(ndim, self.gpu_memory_gb)

    @property
    def gigabytes(self) -> float:
        """The memory planned for."""
        return self.settings.reference_gb if self.gpu_memory_gb is None else self.gpu_memory_gb


@dataclass(frozen=True, kw_only=True, slots=True)
class SizedNetwork:
    """A network with the patch and batch it is trained on."""

    patch_size: Shape
    batch_size: int
    network: NetworkPlan
    reasons: tuple[str, ...]


def plan_patch(
    spacing_mm: Spacing, median: Sequence[float], dataset_voxels: float, budget: Budget
) -> SizedNetwork:
    """Choose patch, network and batch.

    Args:
        spacing_mm: Spacing per axis (2 or 3 axes).
        median: Median case shape at that spacing.
        dataset_voxels: Voxels of all training cases together.
        budget: Memory, and how to spend it.

    Raises:
        UserError: not even the smallest patch fits.
    """
    start = first_topology(spacing_mm, median)
    topology = shrink_to_fit(start, spacing_mm, median, budget)
    network = network_of(topology, budget.settings)
    batch, batch_reason = _choose_batch(topology, dataset_voxels, budget)
    return SizedNetwork(
        patch_size=topology.patch_size,
        batch_size=batch,
        network=network,
        reasons=(
            _patch_reason(start, topology, median, budget),
            batch_reason,
            _network_reason(topology, network),
        ),
    )


def first_patch(spacing_mm: Spacing, median: Sequence[float]) -> tuple[float, ...]:
    """Return the patch before memory counts: isotropic in mm, clipped to the median shape."""
    ndim = len(spacing_mm)
    inverse = 1 / np.array(spacing_mm)
    edges = inverse * (INITIAL_EDGE[ndim] ** ndim / np.prod(inverse)) ** (1 / ndim)
    return tuple(min(round(edge), n) for edge, n in zip(edges, median, strict=True))


def first_topology(spacing_mm: Spacing, median: Sequence[float]) -> Topology:
    """Plan the first patch, large enough for a pooling.

    Where nnU-Net's rule gives a network of one stage (tiny images, or few voxels along the finest
    axis), the finest axes of the patch are raised to 12 voxels; images are padded to it.
    """
    patch = first_patch(spacing_mm, median)
    topology = plan_topology(spacing_mm, patch)
    if topology.n_stages > 1:
        return topology
    limit = COMPARABLE * min(spacing_mm)
    raised = [
        max(n, SMALLEST_EDGE) if spacing < limit else n
        for n, spacing in zip(patch, spacing_mm, strict=True)
    ]
    return plan_topology(spacing_mm, raised)


def shrink_to_fit(
    topology: Topology, spacing_mm: Spacing, median: Sequence[float], budget: Budget
) -> Topology:
    """Shrink the patch, always on the axis that covers most of the median case, until it fits.

    Raises:
        UserError: not even the smallest patch fits.
    """
    ndim = len(spacing_mm)
    allowed = budget.elements(ndim)
    if not budget.settings.keep_reference_batch:
        allowed *= REFERENCE_BATCH[ndim] / MIN_BATCH
    while elements_of(topology, budget) > allowed:
        topology = plan_topology(spacing_mm, _smaller_patch(topology, spacing_mm, median))
        if topology.n_stages < 2 or min(topology.patch_size) < 1:
            raise UserError(
                f"no patch fits into {budget.gigabytes:g} GB of {budget.settings.memory}",
                where="--gpu-memory-gb",
                fix="plan for more memory",
            )
    return topology


def _smaller_patch(topology: Topology, spacing_mm: Spacing, median: Sequence[float]) -> list[int]:
    """Take one divisor off the longest axis - the divisor the smaller patch would have."""
    patch = list(topology.patch_size)
    axis = max(range(len(patch)), key=lambda a: (patch[a] / median[a], a))
    tried = list(patch)
    tried[axis] -= topology.divisor[axis]
    patch[axis] -= plan_topology(spacing_mm, tried).divisor[axis]
    return patch


def network_of(topology: Topology, settings: PlannerSettings) -> NetworkPlan:
    """Build the network plan of a topology."""
    stages = topology.n_stages
    last = settings.convs[-1]
    return NetworkPlan(
        kind=settings.kind,
        features_per_stage=features_per_stage(
            stages, len(topology.patch_size), settings.base_features
        ),
        strides=topology.strides,
        kernel_sizes=topology.kernel_sizes,
        convs_per_stage=(*settings.convs, *[last] * stages)[:stages],
        convs_per_decoder_stage=(settings.decoder_convs,) * (stages - 1),
    )


def elements_of(topology: Topology, budget: Budget) -> int:
    """Estimate the feature map elements of one patch."""
    network = network_of(topology, budget.settings)
    return feature_map_elements(network, topology.patch_size, budget.heads)


def _choose_batch(topology: Topology, dataset_voxels: float, budget: Budget) -> tuple[int, str]:
    """Fill the memory, but let no batch hold too much of the dataset; at least 2."""
    ndim = len(topology.patch_size)
    share = budget.settings.dataset_share
    by_memory = round(budget.elements(ndim) / elements_of(topology, budget) * REFERENCE_BATCH[ndim])
    by_dataset = round(dataset_voxels * share / math.prod(topology.patch_size))
    batch = max(min(by_memory, by_dataset), MIN_BATCH)
    if by_memory <= by_dataset:
        why = f"{budget.settings.memory} of {budget.gigabytes:g} GB allows {by_memory}"
    else:
        why = f"one batch holds at most {share:.0%} of all training voxels (memory: {by_memory})"
    floor = "" if batch <= min(by_memory, by_dataset) else f", {MIN_BATCH} is the least"
    return batch, f"batch size {batch}: {why}{floor}"


def _patch_reason(start: Topology, final: Topology, median: Sequence[float], budget: Budget) -> str:
    memory = f"{budget.gigabytes:g} GB of {budget.settings.memory}"
    if final != start:
        why = f"{times(start.patch_size)} shrunk to fit into {memory}"
    elif all(n >= m for n, m in zip(final.patch_size, median, strict=True)):
        why = f"the median case, padded to what the poolings divide; fits into {memory}"
    else:
        cube = f"{INITIAL_EDGE[len(median)]}^{len(median)}"
        why = f"as isotropic in mm as the median case allows, {cube} voxels; fits into {memory}"
    return f"patch {times(final.patch_size)}: {why}"


def _network_reason(topology: Topology, network: NetworkPlan) -> str:
    poolings = [sum(s > 1 for s in axis) for axis in zip(*topology.strides, strict=True)]
    return (
        f"network with {topology.n_stages} stages ({network.kind.replace('_', ' ')}), "
        f"{times(poolings)} poolings: feature maps keep at least {MIN_EDGE} voxels per axis, "
        "and coarse axes are pooled later"
    )


def times(values: Sequence[float]) -> str:
    """Write a shape or spacing as ``40x56x40``."""
    return "x".join(f"{value:.4g}" if value % 1 else f"{value:.0f}" for value in values)
