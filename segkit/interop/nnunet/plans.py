"""nnU-Net's plans.json as it is: typed, inheritance resolved, the flat keys of old versions too."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from segkit.errors import UserError, nearest
from segkit.files import read_json
from segkit.interop.nnunet.architecture import KINDS, Architecture, class_name, layers
from segkit.planning.plan import Axes
from segkit.structs import from_mapping

T = TypeVar("T")

_OLD_INTENSITIES = "foreground_intensity_properties_by_modality"


@dataclass(frozen=True, kw_only=True, slots=True)
class Intensities:
    """Foreground intensities of one channel."""

    mean: float
    std: float
    percentile_00_5: float
    percentile_99_5: float
    median: float = 0.0
    min: float = 0.0
    max: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Configuration:
    """One configuration, with what it inherits."""

    spacing: tuple[float, ...]
    patch_size: Axes
    batch_size: int
    normalization_schemes: tuple[str, ...]
    use_mask_for_norm: tuple[bool, ...]
    architecture: Architecture
    preprocessor_name: str = "DefaultPreprocessor"
    median_image_size_in_voxels: tuple[float, ...] = ()
    batch_dice: bool = False
    resampling_fn_data: str
    resampling_fn_seg: str
    resampling_fn_probabilities: str
    resampling_fn_data_kwargs: dict[str, Any]
    resampling_fn_seg_kwargs: dict[str, Any]
    resampling_fn_probabilities_kwargs: dict[str, Any]
    previous_stage: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Plans:
    """A plans.json."""

    dataset_name: str
    plans_name: str
    transpose_forward: tuple[int, int, int]
    image_reader_writer: str
    foreground_intensity_properties_per_channel: dict[str, dict[str, Any]]
    configurations: dict[str, dict[str, Any]]
    """As written; :meth:`configuration` reads one."""
    label_manager: str = "LabelManager"
    source: str = ""
    """File it was read from."""

    def configuration(self, name: str) -> Configuration:
        """Read a configuration with all it inherits.

        Raises:
            UserError: there is none of that name, it inherits from itself, or it is malformed.
        """
        where = f"{self.source}, key configurations.{name}"
        content = _with_architecture(self._inherited(name, ()), where)
        return _known(Configuration, content, source=self.source, path=f"configurations.{name}")

    def intensities(self, channel: int) -> Intensities:
        """Read the foreground intensities of a channel.

        Raises:
            UserError: they are missing or malformed.
        """
        every, key = self.foreground_intensity_properties_per_channel, str(channel)
        path = f"foreground_intensity_properties_per_channel.{key}"
        if key not in every:
            fix = "restore the plans.json that was trained with"
            raise UserError(f"missing key {key!r}", where=f"{self.source}, key {path}", fix=fix)
        return _known(Intensities, every[key], source=self.source, path=path)

    def _inherited(self, name: str, visited: tuple[str, ...]) -> dict[str, Any]:
        if name not in self.configurations:
            what = f"no configuration {name!r} in these plans"
            raise UserError(what, where=self.source, fix=nearest(name, self.configurations))
        if name in visited:
            what = f"configurations inherit from each other: {' <- '.join((*visited, name))}"
            raise UserError(what, where=self.source, fix="break the circle (inherits_from)")
        own = dict(self.configurations[name])
        parent = own.pop("inherits_from", None)
        base = self._inherited(str(parent), (*visited, name)) if parent is not None else {}
        return {**base, **own}


def is_plans(content: Any) -> bool:
    """Whether JSON looks like a plans.json of nnU-Net."""
    return isinstance(content, Mapping) and {"plans_name", "configurations"} <= content.keys()


def read_plans(path: Path) -> Plans:
    """Read plans.json (or nnUNetPlans.json); keys that only nnU-Net's planner reads are left out.

    Raises:
        UserError: not readable, not strict JSON, or keys are missing or of the wrong type.
    """
    content = read_json(path)
    if isinstance(content, Mapping) and _OLD_INTENSITIES in content:
        key = "foreground_intensity_properties_per_channel"
        content = {key: content[_OLD_INTENSITIES], **content}
    plans = _known(Plans, content, source=path)
    return dataclasses.replace(plans, source=str(path))


def _known(cls: type[T], content: Any, *, source: object, path: str = "") -> T:
    """Build a dataclass from those keys it knows: others belong to nnU-Net."""
    if isinstance(content, Mapping):
        names = {each.name for each in dataclasses.fields(cls)} - {"source"}  # type: ignore[arg-type]
        content = {key: value for key, value in content.items() if key in names}
    return from_mapping(cls, content, source=source, path=path)


def _with_architecture(content: dict[str, Any], where: str) -> dict[str, Any]:
    """Gather the flat keys of plans before nnU-Net 2.4 into ``architecture``."""
    if "architecture" in content:
        architecture = content["architecture"]
        if not isinstance(architecture, Mapping):
            raise UserError(f"expected keys and values, got {architecture!r}", where=where)
        wanted = {each.name for each in dataclasses.fields(Architecture)}
        return {**content, "architecture": {k: v for k, v in architecture.items() if k in wanted}}
    old = _OLD_KEYS.keys() - content.keys()
    if old:
        fix = "plan again with nnU-Net 2.4 or newer"
        raise UserError(f"missing key 'architecture' (or {sorted(old)[0]!r})", where=where, fix=fix)
    for key, kind in _OLD_KEYS.items():
        if not isinstance(content[key], kind):
            raise UserError(f"{key} is {content[key]!r}", where=where, fix=f"give a {kind}")
    name = content["UNet_class_name"]
    if name not in KINDS:
        raise UserError(f"unknown network {name!r}", where=where, fix=nearest(name, KINDS))
    stages = len(content["n_conv_per_stage_encoder"])
    first, most = content["UNet_base_num_features"], content["unet_max_num_features"]
    arguments = {
        "n_stages": stages,
        "features_per_stage": [min(first * 2**stage, most) for stage in range(stages)],
        "kernel_sizes": content["conv_kernel_sizes"],
        "strides": content["pool_op_kernel_sizes"],
        KINDS[name][1]: content["n_conv_per_stage_encoder"],
        "n_conv_per_stage_decoder": content["n_conv_per_stage_decoder"],
        **layers(len(content["patch_size"])),
    }
    architecture = {"network_class_name": class_name(name), "arch_kwargs": arguments}
    return {**content, "architecture": architecture}


_OLD_KEYS: dict[str, type] = {
    "UNet_class_name": str,
    "UNet_base_num_features": int,
    "unet_max_num_features": int,
    "n_conv_per_stage_encoder": list,
    "n_conv_per_stage_decoder": list,
    "pool_op_kernel_sizes": list,
    "conv_kernel_sizes": list,
    "patch_size": list,
}
"""What takes the place of ``architecture`` in old plans."""
