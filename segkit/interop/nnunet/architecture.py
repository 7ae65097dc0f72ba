"""nnU-Net's ``architecture`` to a network plan, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from segkit.errors import UserError
from segkit.planning.plan import Axes, NetworkPlan
from segkit.structs import from_mapping
from segkit.types import Norm

Kind = Literal["plain", "residual_encoder"]
PerStage = int | tuple[int, ...]
AxesPerStage = int | tuple[int | Axes, ...]

KINDS: dict[str, tuple[Kind, str]] = {
    "PlainConvUNet": ("plain", "n_conv_per_stage"),
    "ResidualEncoderUNet": ("residual_encoder", "n_blocks_per_stage"),
}
"""nnU-Net's class -> our kind, and its name for the convolutions (blocks) of the encoder."""
_MODULES = (
    "dynamic_network_architectures.architectures.unet",
    "dynamic_network_architectures.architectures.residual_unet",
)
_NORM_EPS, _LEAKY_SLOPE = 1e-5, 0.01
_NORMS: dict[Norm, str] = {
    "instance": "torch.nn.modules.instancenorm.InstanceNorm",
    "batch": "torch.nn.modules.batchnorm.BatchNorm",
}
"""Our norms -> torch's, without the dimensions."""
_RESTORE = "restore the plans.json that was trained with"
_MOST_STAGES, _MOST_FEATURES, _MOST_CONVS, _MOST_AXIS = 32, 1 << 16, 100, 64
"""No network is larger; what asks for more is damaged, and would only fill the memory."""
_WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {
    "block": (None, "dynamic_network_architectures.building_blocks.residual.BasicBlockD"),
    "bottleneck_channels": (None,),
    "squeeze_excitation": (False,),
    "stochastic_depth_p": (0, 0.0),
    "nonlin_first": (False,),
    "pool": ("conv",),
}
"""Arguments of nnU-Net's networks that segkit's lack -> values that do nothing."""
_NEVER_READ = ("deep_supervision", "squeeze_excitation_reduction_ratio")


@dataclass(frozen=True, kw_only=True, slots=True)
class Architecture:
    """Which network, and what it is built with."""

    network_class_name: str
    arch_kwargs: dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Arguments:
    """Of PlainConvUNet and ResidualEncoderUNet."""

    features_per_stage: PerStage
    conv_op: str
    kernel_sizes: AxesPerStage
    strides: AxesPerStage
    n_conv_per_stage_decoder: PerStage
    n_stages: int
    n_conv_per_stage: PerStage = 0
    n_blocks_per_stage: PerStage = 0
    conv_bias: bool = False
    norm_op: str | None = None
    norm_op_kwargs: dict[str, Any] | None = None
    dropout_op: str | None = None
    dropout_op_kwargs: dict[str, Any] | None = None
    nonlin: str | None = None
    nonlin_kwargs: dict[str, Any] | None = None
    stem_channels: int | None = None


def network_plan(architecture: Architecture, where: str) -> NetworkPlan:
    """Turn an architecture into a plan of the same network.

    Args:
        architecture: Of the plans.
        where: Names it in messages.

    Raises:
        UserError: a network, an argument or a value that segkit does not have.
    """
    module, _, name = architecture.network_class_name.rpartition(".")
    if name not in KINDS or module not in _MODULES:
        what = f"the network {architecture.network_class_name!r} is not known here"
        raise UserError(what, where=where, fix=f"{' and '.join(KINDS)} can be imported")
    kind, counted = KINDS[name]
    arguments = _read_arguments(architecture.arch_kwargs, where)
    _check_layers(arguments, where)
    stages = arguments.n_stages
    if not 2 <= stages <= _MOST_STAGES:
        raise UserError(f"a U-Net with {stages} stages", where=where, fix=_RESTORE)
    ndim = 3 if arguments.conv_op.endswith("3d") else 2
    features = _each(arguments.features_per_stage, stages)
    if kind == "residual_encoder" and arguments.stem_channels not in (None, features[0]):
        what = f"stem_channels is {arguments.stem_channels}, not those of the first stage"
        raise UserError(what, where=where, fix="such a network cannot be imported")
    network = NetworkPlan(
        kind=kind,
        features_per_stage=features,
        strides=_each_axes(arguments.strides, stages, ndim),
        kernel_sizes=_each_axes(arguments.kernel_sizes, stages, ndim),
        convs_per_stage=_each(getattr(arguments, counted), stages),
        convs_per_decoder_stage=_each(arguments.n_conv_per_stage_decoder, stages - 1),
        norm="batch" if "BatchNorm" in (arguments.norm_op or "") else "instance",
        dropout=_dropout(arguments),
    )
    _check_size(network, where)
    return network


def architecture_of(network: NetworkPlan) -> dict[str, Any]:
    """Write a network plan as the ``architecture`` of nnU-Net's plans."""
    name, counted = next((n, c) for n, (kind, c) in KINDS.items() if kind == network.kind)
    ndim = len(network.kernel_sizes[0])
    return {
        "network_class_name": class_name(name),
        "arch_kwargs": {
            "n_stages": len(network.features_per_stage),
            "features_per_stage": list(network.features_per_stage),
            "kernel_sizes": [list(kernel) for kernel in network.kernel_sizes],
            "strides": [list(stride) for stride in network.strides],
            counted: list(network.convs_per_stage),
            "n_conv_per_stage_decoder": list(network.convs_per_decoder_stage),
            "dropout_op": f"torch.nn.Dropout{ndim}d" if network.dropout else None,
            "dropout_op_kwargs": {"p": network.dropout} if network.dropout else None,
            **layers(ndim, network.norm),
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def class_name(name: str) -> str:
    """Write the class of a network as plans do."""
    return f"{_MODULES[0]}.{name}"


def layers(ndim: int, norm: Norm = "instance") -> dict[str, Any]:
    """Return what plans say of the layers that all networks here are made of."""
    return {
        "conv_op": f"torch.nn.modules.conv.Conv{ndim}d",
        "conv_bias": True,
        "norm_op": f"{_NORMS[norm]}{ndim}d",
        "norm_op_kwargs": {"eps": _NORM_EPS, "affine": True},
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }


def _read_arguments(given: Mapping[str, Any], where: str) -> _Arguments:
    for key, harmless in _WITHOUT_EFFECT.items():
        if key in given and given[key] not in harmless:
            what = f"the argument {key} is {given[key]!r}, which no network here has"
            raise UserError(what, where=where, fix="such a network cannot be imported")
    skipped = {*_WITHOUT_EFFECT, *_NEVER_READ}
    kept = {key: value for key, value in given.items() if key not in skipped}
    return from_mapping(_Arguments, kept, source=where, path="arch_kwargs")


def _check_layers(arguments: _Arguments, where: str) -> None:
    """Refuse what is not conv, dropout of channels, affine instance or batch norm, LeakyReLU."""
    given = (arguments.conv_op, arguments.norm_op, arguments.nonlin, arguments.dropout_op)
    conv, norm, nonlin, dropout = ((text or "none").rpartition(".")[2] for text in given)
    norms = [f"{name.rpartition('.')[2]}{conv[-2:]}" for name in _NORMS.values()]
    norm_kwargs, slope = arguments.norm_op_kwargs or {}, arguments.nonlin_kwargs or {}
    wrong = {
        "conv_op": conv if conv not in ("Conv2d", "Conv3d") else None,
        "norm_op": norm if norm not in norms else None,
        "norm_op_kwargs": norm_kwargs if not _is_plain_norm(norm, norm_kwargs) else None,
        "dropout_op": dropout if dropout not in ("none", f"Dropout{conv[-2:]}") else None,
        "nonlin": nonlin if nonlin != "LeakyReLU" else None,
        "nonlin_kwargs": slope
        if slope.get("negative_slope", _LEAKY_SLOPE) != _LEAKY_SLOPE
        else None,
    }
    if bad := {key: value for key, value in wrong.items() if value is not None}:
        listing = ", ".join(f"{key} {value!r}" for key, value in bad.items())
        fix = "affine instance or batch norm, dropout of channels and LeakyReLU can be imported"
        raise UserError(f"the network is built with {listing}", where=where, fix=fix)


def _dropout(arguments: _Arguments) -> float:
    """Return the chance that a channel is dropped; torch's own where the plans do not say."""
    if arguments.dropout_op is None:
        return 0.0
    chance = (arguments.dropout_op_kwargs or {}).get("p", 0.5)
    return float(chance) if isinstance(chance, (int, float)) else -1.0


def _check_size(network: NetworkPlan, where: str) -> None:
    """Refuse networks that nobody trains, before one is built."""
    axes = [size for entry in (*network.strides, *network.kernel_sizes) for size in entry]
    counts = (*network.convs_per_stage, *network.convs_per_decoder_stage)
    limits = {
        "features": (network.features_per_stage, _MOST_FEATURES),
        "convolutions": (counts, _MOST_CONVS),
        "strides and kernels": (axes, _MOST_AXIS),
    }
    for name, (values, most) in limits.items():
        if (largest := max(values, default=0)) > most:
            what = f"{name} up to {largest}, more than any network has ({most})"
            raise UserError(what, where=where, fix=_RESTORE)


def _is_plain_norm(name: str, kwargs: Mapping[str, Any]) -> bool:
    """Whether a norm has the usual epsilon, an affine map, and statistics as its kind has them."""
    eps, tracks = kwargs.get("eps", _NORM_EPS), name.startswith("BatchNorm")
    known = {"eps", "affine", "track_running_stats", "momentum"}
    return (
        isinstance(eps, (int, float))
        and math.isclose(eps, _NORM_EPS)
        and kwargs.get("affine", tracks) is True
        and kwargs.get("track_running_stats", tracks) is tracks
        and kwargs.keys() <= known
    )


def _each(value: PerStage, stages: int) -> tuple[int, ...]:
    """One value a stage; a single number stands for all."""
    return (value,) * stages if isinstance(value, int) else value


def _each_axes(value: AxesPerStage, stages: int, ndim: int) -> tuple[Axes, ...]:
    """One value an axis for every stage; single numbers stand for all axes, or all stages."""
    each: Sequence[int | Axes] = (value,) * stages if isinstance(value, int) else value
    return tuple((item,) * ndim if isinstance(item, int) else item for item in each)
