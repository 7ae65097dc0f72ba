"""What is to be trained, and what plan, data and recipe together settle about it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from segkit.config import InvalidVoxels, LossConfig, Recipe
from segkit.dataset.labels import LabelSchema
from segkit.dataset.sides import Sides
from segkit.dataset.splits import Split
from segkit.errors import UserError
from segkit.networks.inputs import input_channels
from segkit.networks.settle import settled_network, settled_unet
from segkit.planning.plan import ConfigurationPlan, NetworkPlan, Plan
from segkit.planning.sides import PatchSides, patch_sides
from segkit.planning.topology import total_stride
from segkit.training.augment import SpatialSettings, spatial_settings
from segkit.training.patches import LabelMaps
from segkit.training.weights import settled_loss_weights

Fold = int | Literal["all"]


@dataclass(frozen=True, kw_only=True)
class TrainingTask:
    """What is to be trained: one fold of one planned configuration."""

    plan: Plan
    configuration: str
    schema: LabelSchema
    split: Split
    fold: Fold
    recipe: Recipe
    frequencies: Mapping[str, float] | None = None
    """Share of the annotated voxels for every target, for ``loss.class_weights: auto``."""
    sides: Sides | None = None
    """Labels that are each other's mirror image; None where nobody said."""
    previous: LabelMaps | None = None
    """In a cascade: reads what the previous stage predicts of a case, on the grid of this one."""
    unannotated: Collection[str] = ()
    """Cases without an annotated voxel: there is nothing to learn from them, and they are never
    drawn for training."""

    @property
    def configured(self) -> ConfigurationPlan:
        """The planned configuration."""
        return self.plan.configuration(self.configuration)

    @property
    def patch_size(self) -> tuple[int, ...]:
        """The recipe's patch size, else the plan's, shrunk where the recipe says so."""
        sampling, planned = self.recipe.sampling, self.configured
        if sampling.patch_size is not None:
            return sampling.patch_size
        divisors = total_stride(self._unet.strides)
        return shrink_patch(planned.patch_size, divisors, sampling.max_patch_voxels)

    @property
    def _unet(self) -> NetworkPlan:
        return settled_unet(self.configured.network, self.recipe.network)

    @property
    def network(self) -> NetworkPlan:
        """The network that is trained: the planned one as the recipe changes it, or a class.

        Raises:
            UserError: more stages than planned, or a class that only the plan names.
        """
        return settled_network(
            self._unet,
            self.configured.network,
            self.recipe.network,
            patch_size=self.patch_size,
            deep_supervision=self.recipe.loss.deep_supervision,
        )

    @property
    def batch_size(self) -> int:
        """The recipe's batch size, else the plan's."""
        return self.recipe.sampling.batch_size or self.configured.batch_size

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(B, C, *S) of every batch that the network sees in training."""
        channels = input_channels(self.plan, self.configuration, self.schema)
        return (self.batch_size, channels, *self.patch_size)

    @property
    def loss(self) -> LossConfig:
        """The recipe's loss with what it leaves to plan and data settled: weights in numbers.

        Raises:
            UserError: weights are to follow frequencies that are unknown, or a setting has no
                effect on these labels.
        """
        loss = self.recipe.loss
        if loss.one_vs_rest and self.schema.sigmoid:
            what = "loss.one_vs_rest has no effect: regions and structures have sigmoids anyway"
            raise UserError(what, where="loss.one_vs_rest", fix="leave it out")
        names, known = self.schema.output_names, self.frequencies or {}
        weights = settled_loss_weights(loss.class_weights, names, known)
        return replace(loss, invalid_voxels=self.invalid_voxels, class_weights=weights)

    @property
    def seed(self) -> tuple[int, int]:
        """Where all chance begins: the recipe's seed, and the fold."""
        return self.recipe.seed, 999 if self.fold == "all" else self.fold

    @property
    def settled_recipe(self) -> Recipe:
        """The recipe with numbers where it left them to plan, data or the optimiser."""
        optimizer = self.recipe.optimizer.settled()
        return replace(self.recipe, loss=self.loss, optimizer=optimizer)

    @property
    def invalid_voxels(self) -> InvalidVoxels:
        """The recipe's treatment of invalid voxels, else what fits the plan's at prediction."""
        forced = self.plan.force_invalid_to_background
        return self.recipe.loss.invalid_voxels or ("masked" if forced else "background")

    @property
    def spatial(self) -> SpatialSettings:
        """Rotation range, dummy 2D and mirror axes for this patch."""
        return spatial_settings(self.patch_size, self.recipe.augment, self.patch_sides)

    @property
    def patch_sides(self) -> PatchSides:
        """What left and right are to this patch."""
        return patch_sides(self.plan, len(self.patch_size), self.schema, self.sides)

    @property
    def swap_axis(self) -> int | None:
        """Axis of the patch along which a flip makes labels change places; None where none does."""
        sides = self.patch_sides
        return sides.axis if sides.pairs and sides.axis in self.spatial.mirror_axes else None


def shrink_patch(
    size: tuple[int, ...], divisors: Sequence[int], max_voxels: int | None
) -> tuple[int, ...]:
    """Take from the axis with most steps, a divisor at a time, until few enough voxels are left.

    Every axis keeps two steps, two voxels at the lowest resolution, even if that is too many.
    """
    patch = list(size)
    while max_voxels is not None and math.prod(patch) > max_voxels:
        steps = [n / divisor for n, divisor in zip(patch, divisors, strict=True)]
        axis = steps.index(max(steps))
        if steps[axis] <= 2:
            break
        patch[axis] -= divisors[axis]
    return tuple(patch)
