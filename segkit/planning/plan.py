"""The plan: every number training and prediction need, frozen and written as JSON.

All axes are in planned order (after ``transpose_forward``); 2D configurations have two axes.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from segkit.dataset.description import DatasetDescription, command
from segkit.errors import UserError, nearest
from segkit.files import content_hash, read_artifact, write_artifact
from segkit.structs import read_struct, to_mapping

PLAN_VERSION = 1
Normalization = Literal["ct", "zscore", "rescale_to_0_1", "rgb_to_0_1", "none"]
Axes = tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class IntensityStatistics:
    """Foreground intensities of one channel over the training cases (valid voxels only)."""

    mean: float
    median: float
    std: float
    min: float
    max: float
    percentile_00_5: float
    percentile_99_5: float


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkPlan:
    """A U-Net: one entry a stage, highest resolution first."""

    kind: Literal["plain", "residual_encoder"] = "plain"
    features_per_stage: tuple[int, ...]
    strides: tuple[Axes, ...]
    """Stride of the first convolution of every stage; the first is all ones."""
    kernel_sizes: tuple[Axes, ...]
    convs_per_stage: tuple[int, ...]
    """Convolutions (plain) or residual blocks (residual encoder) of every encoder stage."""
    convs_per_decoder_stage: tuple[int, ...]
    """Convolutions of every decoder stage, deepest first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfigurationPlan:
    """One of ``2d``, ``3d_fullres``, ...: spacing, patch, batch, normalisation, network."""

    spacing_mm: tuple[float, ...]
    patch_size: Axes
    batch_size: int
    median_shape: tuple[float, ...]
    """Median case shape at this spacing, in voxels."""
    normalization: tuple[Normalization, ...]
    """One scheme a channel."""
    normalize_inside_mask: tuple[bool, ...]
    """Channels whose invalid voxels are left at zero (nnU-Net's use_mask_for_norm)."""
    batch_dice: bool
    network: NetworkPlan
    previous_stage: str | None = None
    """Configuration whose segmentation the network is given beside the image (a cascade)."""
    reasons: tuple[str, ...] = ()
    """One line a decision, as printed by ``segkit plan``."""

    @property
    def ndim(self) -> int:
        """2 or 3: the dimensions of the network."""
        return len(self.patch_size)


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Everything planned for a dataset by one planner."""

    planner: str
    dataset: str
    channel_names: tuple[str, ...]
    transpose_forward: tuple[int, int, int]
    """Array axis (z, y, x) that becomes the i-th planned axis."""
    orientation: str | None
    """Orientation code all cases are brought to, also when predicting; None for planes."""
    intensities: tuple[IntensityStatistics, ...]
    """One a channel."""
    force_invalid_to_background: bool = True
    """False where labels lie on all-zero voxels, so that black is not always empty."""
    left_out: tuple[str, ...] = ()
    """Overlapping structures that are neither trained nor predicted: too few cases have them."""
    configurations: dict[str, ConfigurationPlan] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()
    """Decisions shared by all configurations, one line each."""

    @property
    def transpose_backward(self) -> tuple[int, ...]:
        """Inverse of ``transpose_forward``."""
        return tuple(self.transpose_forward.index(axis) for axis in range(3))

    def configuration(self, name: str) -> ConfigurationPlan:
        """Return a configuration by name.

        Raises:
            UserError: it was not planned.
        """
        if name not in self.configurations:
            raise UserError(
                f"the plan has no configuration {name!r}",
                where=f"plan {self.planner!r} of {self.dataset}",
                fix=f"{nearest(name, self.configurations)} (segkit plan gives the reasons)",
            )
        return self.configurations[name]

    def previous_stage(self, name: str) -> str | None:
        """Return the configuration that segments first; None where the image is all it takes.

        Raises:
            UserError: no such configuration, or its previous stage is none.
        """
        previous = self.configuration(name).previous_stage
        if previous is not None and self.configuration(previous).previous_stage is not None:
            what = f"the previous stage of {name!r} is {previous!r}, which has one itself"
            fix = "a cascade has two stages: name one that needs the image alone"
            raise UserError(what, where=f"plan {self.planner!r} of {self.dataset}", fix=fix)
        return previous

    def stored_as(self, name: str) -> str:
        """Return the first configuration that wants cases preprocessed alike; they share them."""
        wanted = self.preprocessing_hash(name)
        alike = (other for other in self.configurations if self.preprocessing_hash(other) == wanted)
        return next(alike)

    def preprocessing_hash(self, configuration: str) -> str:
        """Hash what preprocessing depends on; batch or network edits leave it as it is."""
        chosen = self.configuration(configuration)
        return content_hash(
            [
                self.transpose_forward,
                self.orientation,
                [to_mapping(channel) for channel in self.intensities],
                chosen.ndim,
                chosen.spacing_mm,
                chosen.normalization,
                chosen.normalize_inside_mask,
            ]
        )


def planned_description(description: DatasetDescription, plan: Plan) -> DatasetDescription:
    """Return a data set without the structures its plan leaves out.

    Raises:
        UserError: dataset.json no longer declares them, or as structures that do not overlap.
    """
    if not plan.left_out:
        return description
    labels = description.labels
    declared = {structure.name for structure in labels.classes if labels.overlapping}
    if unknown := [name for name in plan.left_out if name not in declared]:
        what = f"the plan leaves out {', '.join(unknown)}, which dataset.json does not declare"
        fix = f"run again, with the same --workdir and --planner: {command('plan', description)}"
        raise UserError(what, where=f"plan {plan.planner!r} of {plan.dataset}", fix=fix)
    return replace(description, labels=labels.without(plan.left_out))


def save_plan(path: Path, plan: Plan, *, made_from: str) -> None:
    """Write a plan; ``made_from`` is the hash of the fingerprint it was made from."""
    write_artifact(path, to_mapping(plan), version=PLAN_VERSION, made_from=made_from)


def plan_source(path: Path) -> str:
    """Return the hash of the fingerprint a plan was made from, whatever was edited since.

    Raises:
        UserError: missing, or of another version.
    """
    return str(read_artifact(path, version=PLAN_VERSION)["made_from"])


def load_plan(path: Path) -> Plan:
    """Read and check a plan.

    Raises:
        UserError: missing, of another version, or with unknown or wrong keys.
    """
    return read_struct(Plan, path, version=PLAN_VERSION)
