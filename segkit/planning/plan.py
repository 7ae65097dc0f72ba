"""The plan: every number training and prediction need, frozen and written as JSON.

All axes are in planned order (after ``transpose_forward``); 2D configurations have two axes.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from segkit.dataset.description import DatasetDescription, command
from segkit.errors import UserError, nearest
from segkit.files import HEADER_KEYS, content_hash, read_artifact, write_artifact
from segkit.planning.checks import check_plan
from segkit.planning.inheritance import resolve_configurations
from segkit.structs import from_mapping, to_mapping
from segkit.types import NetworkKind, Norm

PLAN_VERSION = 2
_USUAL = ("2d", "3d_fullres", "3d_lowres", "3d_cascade_fullres")
"""What nnU-Net's planners may plan, so that other names are mistyped."""
Normalization = Literal["ct", "zscore", "rescale_to_0_1", "rgb_to_0_1", "none"]
SpacingRule = Literal["median", "isotropic", "original"] | tuple[float, float, float]
"""How the common spacing is found; three numbers are (z, y, x) in mm."""
Resampling = Literal["cubic", "linear", "cubic_all_axes", "linear_all_axes", "none"]
"""How images are brought to the planned spacing: by cubic or linear interpolation, with the
nearest neighbour along an axis much coarser than the others or without it; or not at all."""
Side = Literal["source", "target"]
"""Of a plan that is taken from one dataset to another."""
VoxelRules = Literal["segkit", "nnunet"]
Axes = tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanRequest:
    """What a planner was asked for; a plan whose data changed is made again with it."""

    gpu_memory_gb: float | None = None
    """None: the memory the planner was made for."""
    spacing: SpacingRule = "median"
    resampling: Resampling = "cubic"
    """``none`` where the spacing is original, and only there."""
    min_cases: int = 0
    """Overlapping structures that fewer training cases have are left out."""
    intensities: Side = "source"
    """Whose normalisation and statistics a plan has that is taken from another dataset."""


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
    """A U-Net: one entry a stage, highest resolution first; or a class of the user's."""

    kind: NetworkKind = "plain"
    features_per_stage: tuple[int, ...]
    strides: tuple[Axes, ...]
    """Stride of the first convolution of every stage; the first is all ones."""
    kernel_sizes: tuple[Axes, ...]
    convs_per_stage: tuple[int, ...]
    """Convolutions (plain) or residual blocks (residual encoder) of every encoder stage."""
    convs_per_decoder_stage: tuple[int, ...]
    """Convolutions of every decoder stage, deepest first."""
    norm: Norm = "instance"
    dropout: float = 0.0
    """Chance that a channel is dropped in training, between convolution and norm."""
    class_: str | None = field(default=None, metadata={"key": "class"})
    """``package.module:Class`` that is the network in place of the U-Net."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """What the class is called with beside its channels."""


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
    resampling: Resampling = "cubic"
    """With ``none`` each case keeps its own spacing, and ``spacing_mm`` is what was planned for."""
    reasons: tuple[str, ...] = ()
    """One line a decision, as printed by ``segkit plan``."""

    @property
    def ndim(self) -> int:
        """2 or 3: the dimensions of the network."""
        return len(self.patch_size)

    @property
    def interpolation_order(self) -> int:
        """Spline order of images: 3, or 1 for linear."""
        return 1 if self.resampling.startswith("linear") else 3

    @property
    def keeps_axis_apart(self) -> bool:
        """Whether an axis much coarser than the others takes the nearest neighbour."""
        return not self.resampling.endswith("all_axes")


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Everything planned for a dataset by one planner."""

    name: str = ""
    """Of the plan's file, of its preprocessed data and models; empty means the planner's."""
    planner: str
    request: PlanRequest = PlanRequest()
    taken_from: str | None = None
    """File of the plan whose numbers it has, where they were not planned for this dataset."""
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
    voxel_rules: VoxelRules = "segkit"
    """``nnunet`` in plans that come from there: empty voxels enter a case's mean and range, and the
    holes of planes stay empty."""
    left_out: tuple[str, ...] = ()
    """Overlapping structures that are neither trained nor predicted: too few cases have them."""
    configurations: dict[str, ConfigurationPlan] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()
    """Decisions shared by all configurations, one line each."""
    planned: str = ""
    """Hash of the plan as it was made: other content was edited by hand."""

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", self.planner)

    @property
    def edited(self) -> bool:
        """Whether the plan differs from the one that was made."""
        return self.planned != self._content_hash()

    def sealed(self) -> Plan:
        """Return the plan as made now, so that edits can be told from it."""
        return replace(self, planned=self._content_hash())

    def _content_hash(self) -> str:
        return content_hash(to_mapping(replace(self, name="", planned=""), sparse=True))

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
            raise self._not_planned(name)
        return self.configurations[name]

    def _not_planned(self, name: str) -> UserError:
        where = f"plan {self.name!r} of {self.dataset}"
        if name not in _USUAL:
            fix = f"{nearest(name, self.configurations)} (segkit plan gives the reasons)"
            return UserError(f"the plan has no configuration {name!r}", where=where, fix=fix)
        reasons = [*self.reasons, *(r for c in self.configurations.values() for r in c.reasons)]
        signs = (f"no {name}", *["no 3D"] * name.startswith("3d"))
        said = (reason for reason in reasons if any(s in reason.partition(":")[0] for s in signs))
        why = next(said, "")
        what = f"{name} is not planned for this data set" + (f": {why}" if why else "")
        fix = f"planned are {', '.join(self.configurations)}"
        fix += "" if why else " (segkit plan gives the reasons)"
        return UserError(what, where=where, fix=fix)

    def previous_stage(self, name: str) -> str | None:
        """Return the configuration that segments first; None where the image is all it takes.

        Raises:
            UserError: no such configuration, or its previous stage is none.
        """
        previous = self.configuration(name).previous_stage
        if previous is not None and self.configuration(previous).previous_stage is not None:
            what = f"the previous stage of {name!r} is {previous!r}, which has one itself"
            fix = "a cascade has two stages: name one that needs the image alone"
            raise UserError(what, where=f"plan {self.name!r} of {self.dataset}", fix=fix)
        return previous

    def stored_as(self, name: str) -> str:
        """Return the first configuration that wants cases preprocessed alike; they share them."""
        wanted = self.preprocessing_hash(name)
        alike = (other for other in self.configurations if self.preprocessing_hash(other) == wanted)
        return next(alike)

    def preprocessing_hash(self, configuration: str) -> str:
        """Hash what preprocessing depends on; batch or network edits leave it as it is."""
        chosen = self.configuration(configuration)
        resampled = chosen.resampling != "none"
        # Only these are normalised by what other cases are like.
        pooled = zip(self.intensities, chosen.normalization, strict=True)
        followed = [to_mapping(channel) for channel, scheme in pooled if scheme == "ct"]
        return content_hash(
            [
                self.transpose_forward,
                self.orientation,
                followed,
                chosen.ndim,
                chosen.spacing_mm if resampled else None,
                chosen.normalization,
                chosen.normalize_inside_mask,
                *([] if chosen.resampling in ("cubic", "none") else [chosen.resampling]),
                *([] if self.voxel_rules == "segkit" else [self.voxel_rules]),
            ]
        )


def plan_arguments(plan: Plan) -> tuple[str, ...]:
    """Return the options of ``segkit plan`` that make such a plan again."""
    asked = plan.request
    how: dict[str, object] = {"--from": plan.taken_from, "--intensities": asked.intensities}
    if plan.taken_from is None:
        how = {
            "--planner": plan.planner,
            "--gpu-memory-gb": asked.gpu_memory_gb,
            "--spacing": asked.spacing,
            "--resampling": asked.resampling,
        }
    own = plan.name if plan.name != plan.planner else None
    given = {**how, "--min-cases": asked.min_cases, "--plan-name": own}
    usual = (None, 0, "default", "median", "cubic", "none", "source")
    words: list[str] = []
    for name, value in given.items():
        if value not in usual:
            values = value if isinstance(value, tuple) else (value,)
            words += [name, *(f"{v:g}" if isinstance(v, float) else str(v) for v in values)]
    return tuple(words)


def planned_description(description: DatasetDescription, plan: Plan) -> DatasetDescription:
    """Return a data set without the structures its plan leaves out.

    Raises:
        UserError: dataset.json no longer declares them, or as structures that do not overlap.
    """
    labels = description.labels
    # Of one that is as planned already there is nothing more to leave out.
    if set(plan.left_out) <= {structure.name for structure in labels.left_out}:
        return description
    declared = {structure.name for structure in labels.classes if labels.overlapping}
    if unknown := [name for name in plan.left_out if name not in declared]:
        what = f"the plan leaves out {', '.join(unknown)}, which dataset.json does not declare"
        again = command("plan", description, *plan_arguments(plan))
        fix = f"run again, with the same --workdir: {again}"
        raise UserError(what, where=f"plan {plan.name!r} of {plan.dataset}", fix=fix)
    sides = None if description.sides is None else description.sides.without(plan.left_out)
    return replace(description, labels=labels.without(plan.left_out), sides=sides)


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
    """Read and check a plan; a configuration may inherit from another.

    Raises:
        UserError: missing, of another version, with unknown or wrong keys, or with values that
            do not fit together; all of these are named.
    """
    content = read_artifact(path, version=PLAN_VERSION)
    own = {key: value for key, value in content.items() if key not in HEADER_KEYS}
    if "configurations" in own:
        own["configurations"] = resolve_configurations(own["configurations"], path)
    plan = from_mapping(Plan, own, source=path)
    check_plan(plan, path)
    return plan
