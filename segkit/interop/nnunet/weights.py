"""Names of weights: nnU-Net's network has up to four for every tensor, segkit's has one.

In nnU-Net every unit registers its layers twice (``conv``, ``norm`` and ``all_modules``), and the
decoder holds the encoder too. All copies are the same tensor.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from segkit.errors import UserError, listing
from segkit.networks.build import build_network
from segkit.planning.plan import NetworkPlan

_WRAPPERS = ("module.", "_orig_mod.")
"""What data-parallel and compiled networks put before every name."""
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
"""What batch norm knows of the training data."""
_FIX = "import it with the plans.json it was trained with, or export the model from nnU-Net again"


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorReport:
    """What became of every tensor of a checkpoint."""

    mapped: dict[str, str]
    """nnU-Net's name -> segkit's."""
    copies: tuple[str, ...]
    """Further names of mapped tensors, which hold the same values."""
    zeros: tuple[str, ...]
    """Biases that the network was built without, which are zero here."""

    def describe(self) -> str:
        """Count them in one line."""
        text = f"{len(self.mapped)} tensors mapped, {len(self.copies)} copies of them"
        return text + (f", {len(self.zeros)} biases set to zero" if self.zeros else "")


def tensor_names(
    network: NetworkPlan, *, dropped: bool | None = None
) -> dict[str, tuple[str, ...]]:
    """Return segkit's name of every tensor -> all of nnU-Net's, the first one canonical.

    Args:
        network: A U-Net.
        dropped: Whether nnU-Net has a dropout layer in its units; None: if the plan drops channels.
    """
    return dict(_names(network, bool(network.dropout) if dropped is None else dropped))


def trained_network(given: Mapping[str, Any], network: NetworkPlan) -> NetworkPlan:
    """Return the planned network with the norm that was trained.

    Some of nnU-Net's trainers take batch norm whatever its plans say; the weights tell.
    """
    batch = any(name.endswith(".norm.running_mean") for name in given)
    return replace(network, norm="batch") if batch else network


def from_nnunet(
    given: Mapping[str, Any],
    network: NetworkPlan,
    *,
    in_channels: int,
    out_channels: int,
    source: object,
) -> tuple[dict[str, Tensor], TensorReport]:
    """Turn nnU-Net's state dict into segkit's.

    Args:
        given: ``network_weights`` of a checkpoint.
        network: The planned network.
        in_channels: Of the image (and of the stage before, in a cascade).
        out_channels: Logits a voxel.
        source: File, for messages.

    Raises:
        UserError: a tensor is missing, unknown, of another shape, not finite, or a copy that
            differs; nothing is guessed and nothing dropped.
    """
    given = {_bare(name): tensor for name, tensor in given.items()}
    dropped = any(".all_modules.2." in name for name in given)
    names = tensor_names(network, dropped=dropped)
    expected = _expected_shapes(network, in_channels, out_channels)
    problems = list(_problems(given, names, expected))
    if problems:
        what = f"the weights do not fit the plans: {listing(problems)}"
        raise UserError(what, where=source, fix=_FIX)
    weights, mapped, copies, zeros = {}, {}, [], []
    for own, (first, *others) in names.items():
        if first not in given:
            zeros.append(own)
            weights[own] = torch.zeros(expected[own])
            continue
        mapped[first] = own
        copies += [name for name in others if name in given]
        kept = given[first].detach().clone()
        weights[own] = kept.float() if kept.is_floating_point() else kept
    return weights, TensorReport(mapped=mapped, copies=tuple(copies), zeros=tuple(zeros))


def to_nnunet(weights: Mapping[str, Tensor], network: NetworkPlan) -> dict[str, Tensor]:
    """Give every tensor all the names that nnU-Net's network has for it; nothing is copied."""
    names = tensor_names(network)
    assert names.keys() == weights.keys()
    return {theirs: weights[own] for own, every in names.items() for theirs in every}


def _names(network: NetworkPlan, dropped: bool) -> Iterator[tuple[str, tuple[str, ...]]]:
    for unit in _units(network):
        norm = ("weight", "bias", *(_STATISTICS if network.norm == "batch" else ()))
        conv = ("weight", "bias") if unit.bias else ("weight",)
        place = {"conv": 0, "norm": 2 if dropped and unit.drops else 1}
        for layer, parts in (("conv", conv), ("norm", norm)):
            for part in parts:
                copy = f"{unit.theirs}.all_modules.{place[layer]}.{part}"
                names = [f"{unit.theirs}.{layer}.{part}", copy]
                if unit.own.startswith("encoder."):
                    names += [f"decoder.{name}" for name in names]
                yield f"{unit.own}.{layer}.{part}", tuple(names)
    for stage in range(len(network.convs_per_decoder_stage)):
        for own, theirs in (("upsamplings", "transpconvs"), ("heads", "seg_layers")):
            for part in ("weight", "bias"):
                name = f"decoder.{theirs}.{stage}.{part}"
                yield f"decoder.{own}.{stage}.{part}", (name,)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Unit:
    """A convolution with its norm: what both call it."""

    own: str
    theirs: str
    bias: bool = True
    drops: bool = True
    """Whether channels may be dropped in between."""


def _units(network: NetworkPlan) -> Iterator[_Unit]:
    if network.kind == "plain":
        for stage, count in enumerate(network.convs_per_stage):
            for i in range(count):
                name = f"encoder.stages.{stage}"
                yield _Unit(own=f"{name}.convs.{i}", theirs=f"{name}.0.convs.{i}")
    else:
        yield _Unit(own="encoder.stem", theirs="encoder.stem.convs.0")
        yield from _residual_units(network)
    for stage, count in enumerate(network.convs_per_decoder_stage):
        for i in range(count):
            name = f"decoder.stages.{stage}.convs.{i}"
            yield _Unit(own=name, theirs=name)


def _residual_units(network: NetworkPlan) -> Iterator[_Unit]:
    before = network.features_per_stage[0]
    for stage, count in enumerate(network.convs_per_stage):
        for block in range(count):
            name = f"encoder.stages.{stage}.blocks.{block}"
            yield _Unit(own=f"{name}.conv1", theirs=f"{name}.conv1")
            yield _Unit(own=f"{name}.conv2", theirs=f"{name}.conv2", drops=False)
            width = network.features_per_stage[stage]
            if block == 0 and width != before:
                # The skip is pooled first where the stage strides.
                place = int(any(step != 1 for step in network.strides[stage]))
                skip = f"{name}.skip.{place}"
                yield _Unit(own=f"{name}.project", theirs=skip, bias=False, drops=False)
            before = width


def _bare(name: str) -> str:
    for wrapper in _WRAPPERS:
        name = name.removeprefix(wrapper)
    return name


def _expected_shapes(
    network: NetworkPlan, in_channels: int, out_channels: int
) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        built = build_network(
            network, in_channels=in_channels, out_channels=out_channels, deep_supervision=False
        )
    return {name: tuple(tensor.shape) for name, tensor in built.state_dict().items()}


def _problems(
    given: Mapping[str, Any],
    names: Mapping[str, tuple[str, ...]],
    expected: Mapping[str, tuple[int, ...]],
) -> Iterator[str]:
    """Yield one phrase for everything that does not fit."""
    known = {theirs: own for own, every in names.items() for theirs in every}
    for theirs in given.keys() - known.keys():
        yield f"{theirs} is unknown"
    without_bias = not any(first.endswith("conv.bias") for first in given)
    for own, (first, *others) in names.items():
        if first not in given:
            if not (without_bias and _may_be_zero(own)):
                yield f"{first} is missing"
            continue
        yield from _wrong_tensor(first, given[first], expected[own])
        for other in others:
            if other in given and not _same(given[other], given[first]):
                yield f"{other} differs from {first}, whose copy it is"


def _may_be_zero(own: str) -> bool:
    """Whether a network built with ``conv_bias: false`` lacks this tensor."""
    return own.endswith(".conv.bias") or (".upsamplings." in own and own.endswith(".bias"))


def _wrong_tensor(name: str, tensor: Any, shape: tuple[int, ...]) -> Iterator[str]:
    count = name.endswith("num_batches_tracked")
    if not isinstance(tensor, Tensor) or tensor.is_floating_point() == count:
        yield f"{name} holds no {'count' if count else 'floating point numbers'}"
    elif tuple(tensor.shape) != shape:
        yield f"{name} has shape {tuple(tensor.shape)}, expected {shape}"
    elif not bool(tensor.isfinite().all()):
        yield f"{name} holds NaN or infinity"


def _same(one: Any, other: Any) -> bool:
    both = isinstance(one, Tensor) and isinstance(other, Tensor) and one.dtype == other.dtype
    return both and one.shape == other.shape and torch.equal(one, other)
