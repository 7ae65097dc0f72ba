"""The recipe: every number of training as a typed value, from YAML and ``--set key=value``."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from segkit.errors import UserError, nearest
from segkit.precision import PrecisionName
from segkit.structs import from_mapping, to_mapping

Range = tuple[float, float]
InvalidVoxels = Literal["masked", "background"]


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduleConfig:
    """How long to train."""

    epochs: int = 1000
    iterations_per_epoch: int = 250
    validation_iterations: int = 50
    """Patch batches of the online validation after every epoch; 0 for none. There are more where
    so few cannot show every target."""
    checkpoint_every_minutes: float = 5.0
    """``last.pt`` is written at the end of an epoch once this much time has passed."""

    def __post_init__(self) -> None:
        _check(self.epochs >= 1, f"epochs must be at least 1, got {self.epochs}")
        count = self.iterations_per_epoch
        _check(count >= 1, f"iterations_per_epoch must be at least 1, got {count}")
        count = self.validation_iterations
        _check(count >= 0, f"validation_iterations must not be negative, got {count}")
        minutes = self.checkpoint_every_minutes
        _check(minutes >= 0, f"checkpoint_every_minutes must not be negative, got {minutes}")


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerConfig:
    """SGD with Nesterov momentum and the polynomial schedule lr (1 - progress)^power."""

    learning_rate: float = 0.01
    momentum: float = 0.99
    weight_decay: float = 3e-5
    poly_power: float = 0.9
    gradient_clip: float = 12.0
    """Largest L2 norm of the gradient."""
    adapt_to_short_runs: bool = True
    """Lower the momentum (and raise the learning rate) in runs of a few thousand steps."""

    def __post_init__(self) -> None:
        _check(self.learning_rate > 0, f"learning_rate must be positive, got {self.learning_rate}")
        _check(0 <= self.momentum < 1, f"momentum must lie in [0, 1), got {self.momentum}")
        _check(
            self.weight_decay >= 0, f"weight_decay must not be negative, got {self.weight_decay}"
        )
        _check(self.gradient_clip > 0, f"gradient_clip must be positive, got {self.gradient_clip}")
        _check(self.poly_power >= 0, f"poly_power must not be negative, got {self.poly_power}")


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    """Soft Dice plus cross-entropy, both masked."""

    dice_weight: float = 1.0
    cross_entropy_weight: float = 1.0
    dice_smooth: float = 1e-5
    batch_dice: bool | None = None
    """Dice over the whole batch (true) or each sample (false); null takes the plan's."""
    deep_supervision: bool = True
    invalid_voxels: InvalidVoxels | None = None
    """Leave invalid (-1) voxels out of the loss, or train them as background as nnU-Net does. Null
    leaves them out where the plan makes them background in every prediction, and else trains them,
    so that the network knows what to say there."""
    class_weights: Literal["auto"] | dict[str, float] | None = None
    """Weight of classes, background included (softmax), or of regions or structures (sigmoid) in
    both terms; those left out weigh 1. auto: rare ones more, from the fingerprint."""
    cross_entropy: Literal["plain", "focal", "topk"] = "plain"
    """focal: hard voxels weigh more; topk: only the hardest count."""
    focal_gamma: float = 2.0
    topk_percent: float = 10.0
    """Share of the voxels that counts with topk."""

    def __post_init__(self) -> None:
        for name in ("dice_weight", "cross_entropy_weight", "dice_smooth"):
            value = getattr(self, name)
            _check(value >= 0, f"{name} must not be negative, got {value}")
        total = self.dice_weight + self.cross_entropy_weight
        _check(total > 0, "dice_weight and cross_entropy_weight must not both be 0")
        given = self.class_weights
        for name, weight in given.items() if isinstance(given, dict) else ():
            fits = 0 <= weight < math.inf
            _check(fits, f"class_weights must be 0 or more, got {weight} for {name!r}")
        gamma, percent = self.focal_gamma, self.topk_percent
        _check(0 <= gamma < math.inf, f"focal_gamma must not be negative, got {gamma}")
        _check(0 < percent <= 100, f"topk_percent must lie in (0, 100], got {percent}")
        for kind, name in (("focal", "focal_gamma"), ("topk", "topk_percent")):
            changed = getattr(self, name) != self.__dataclass_fields__[name].default
            fits = self.cross_entropy == kind or not changed
            _check(fits, f"{name} has no effect unless cross_entropy is {kind}")


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingConfig:
    """Which patches make a batch."""

    batch_size: int | None = None
    """Patches per step; null takes the plan's."""
    patch_size: tuple[int, ...] | None = None
    """Voxels in planned axis order; null takes the plan's."""
    max_patch_voxels: int | None = None
    """Shrink the planned patch to at most this many voxels, for small machines."""
    foreground_share: float = 0.33
    """Share of a batch whose patches are centred on a foreground voxel."""
    class_weights: dict[str, float] | None = None
    """Relative chance of each target (class, region or structure) to be the foreground a patch is
    centred on, among those present in the case; 1 where none is given, 0 is never."""
    case_weights: dict[str, float] | None = None
    """Relative chance of each training case to be drawn; 1 where none is given, 0 is never."""

    def __post_init__(self) -> None:
        _check(self.batch_size is None or self.batch_size >= 1, "batch_size must be at least 1")
        size = self.patch_size or (1,)
        _check(min(size) >= 1, f"patch_size must be positive, got {list(size)}")
        most = self.max_patch_voxels
        _check(most is None or most >= 1, f"max_patch_voxels must be at least 1, got {most}")
        share = self.foreground_share
        _check(0 <= share <= 1, f"foreground_share must lie in [0, 1], got {share}")
        for key in ("class_weights", "case_weights"):
            for name, weight in (getattr(self, key) or {}).items():
                _check(
                    0 <= weight < math.inf, f"{key} must be 0 or more, got {weight} for {name!r}"
                )


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentConfig:
    """nnU-Net's augmentations; ``p_`` is a probability per sample, ranges are uniform."""

    p_rotation: float = 0.2
    rotation_degrees: float | None = None
    """Largest angle; null takes nnU-Net's (30 in 3D; 180 or 15 in 2D)."""
    p_scaling: float = 0.2
    scaling: Range = (0.7, 1.4)
    """Above 1 objects become smaller."""
    p_noise: float = 0.1
    noise_std: Range = (0.0, 0.1)
    p_blur: float = 0.2
    blur_sigma: Range = (0.5, 1.0)
    p_brightness: float = 0.15
    brightness: Range = (0.75, 1.25)
    p_contrast: float = 0.15
    contrast: Range = (0.75, 1.25)
    p_low_resolution: float = 0.25
    low_resolution: Range = (0.5, 1.0)
    p_gamma_inverted: float = 0.1
    p_gamma: float = 0.3
    gamma: Range = (0.7, 1.5)
    mirror: bool = True
    """Flip every axis with probability 1/2; prediction then averages over flips too."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name.startswith("p_"):
                _check(0 <= value <= 1, f"{field.name} must lie in [0, 1], got {value}")
            elif isinstance(value, tuple):
                _check(value[0] <= value[1], f"{field.name} must be [low, high], got {list(value)}")
        angle = self.rotation_degrees
        if angle is not None:
            _check(0 <= angle <= 180, f"rotation_degrees must lie in [0, 180], got {angle}")
        _check(self.noise_std[0] >= 0, f"noise_std must not be negative, got {self.noise_std}")
        for name in ("scaling", "blur_sigma", "low_resolution", "gamma"):
            low = getattr(self, name)[0]
            _check(low > 0, f"{name} must be positive, got {low}")
        high = self.low_resolution[1]
        _check(high <= 1, f"low_resolution must not exceed 1, got {high}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """All settings of a training run; saved, resolved, beside the weights."""

    name: str = "default"
    seed: int = 0
    precision: PrecisionName = "auto"
    """auto: fp16 on CUDA; bf16 on CPUs that compute it natively; fp32 elsewhere."""
    final_validation: bool = True
    """Predict and evaluate the fold's validation cases after training."""
    schedule: ScheduleConfig = ScheduleConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    loss: LossConfig = LossConfig()
    sampling: SamplingConfig = SamplingConfig()
    augment: AugmentConfig = AugmentConfig()


def recipe_folder() -> Path:
    """Folder of the shipped recipes: inside the wheel, or ``configs/`` of a checkout."""
    installed = Path(__file__).parent / "configs"
    return installed if installed.is_dir() else Path(__file__).parents[1] / "configs"


def load_recipe(name_or_file: str, settings: Iterable[str] = ()) -> Recipe:
    """Load a recipe by name or from a YAML file, then apply ``key=value`` settings.

    Raises:
        UserError: no such recipe; unknown key, wrong type or value out of range.
    """
    path = Path(name_or_file)
    if path.suffix not in (".yaml", ".yml"):
        path = recipe_folder() / f"{name_or_file}.yaml"
    if not path.is_file():
        names = [file.stem for file in recipe_folder().glob("*.yaml")]
        fix = f"{nearest(name_or_file, names)}; or give the path of a YAML file"
        raise UserError(f"no recipe {name_or_file!r}", where="--recipe", fix=fix)
    content = _read_yaml(path)
    content.setdefault("name", path.stem)
    return apply_settings(from_mapping(Recipe, content, source=path), settings)


def apply_settings(recipe: Recipe, settings: Iterable[str]) -> Recipe:
    """Return the recipe with ``key=value`` settings applied.

    Raises:
        UserError: unknown key, wrong type or value out of range.
    """
    content = to_mapping(recipe)
    for setting in settings:
        _apply(content, setting)
    return from_mapping(Recipe, content, source="--set")


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        raise UserError(f"not valid YAML: {error}", where=path, fix="correct the file") from None
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise UserError("expected keys and values", where=path, fix="see configs/default.yaml")
    return content


def _apply(content: dict[str, Any], setting: str) -> None:
    """Apply one ``a.b=value`` (or ``b=value`` where only one section has ``b``)."""
    key, equals, text = setting.partition("=")
    if not equals:
        fix = "write for example --set schedule.epochs=50"
        raise UserError(f"expected key=value, got {setting!r}", where="--set", fix=fix)
    *sections, leaf = _resolve(key.strip()).split(".")
    for section in sections:
        content = content[section]
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"cannot read the value of {setting!r}", where="--set") from None
    if isinstance(value, dict) and None in value.values():
        fix = "write a space after every colon and quote the whole: --set 'key={name: 2}'"
        raise UserError(f"a name without a value in {setting!r}", where="--set", fix=fix)
    content[leaf] = value


def _resolve(key: str) -> str:
    """Return the full dotted key for a full or unambiguous last name."""
    keys = list(_dotted_keys(Recipe()))
    if key in keys:
        return key
    matches = [full for full in keys if full.split(".")[-1] == key]
    if len(matches) == 1:
        return matches[0]
    if matches:
        what = f"the key {key!r} stands for {' and '.join(matches)}"
        raise UserError(what, where="--set", fix="write one of them in full")
    raise UserError(f"unknown key {key!r}", where="--set", fix=nearest(key, keys))


def _dotted_keys(section: Any, prefix: str = "") -> Iterable[str]:
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if dataclasses.is_dataclass(value):
            yield from _dotted_keys(value, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}"
