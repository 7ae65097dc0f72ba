"""Which tensor of another network goes where; what became of each is recorded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from segkit.networks.parts import IMAGE, Part, unet_parts
from segkit.planning.plan import NetworkPlan
from segkit.training.tailoring import Fitted, Kind, Source, fitted

Became = Literal["loaded", "adapted", "fresh"]
OUTPUTS = "output layers"
"""Group of the output layers of all resolutions."""


@dataclass(frozen=True, kw_only=True)
class Fate:
    """What became of one tensor of the new network."""

    tensor: str
    group: str
    """The part of the network it is shown under."""
    became: Became
    source: str | None = None
    """The tensor it was taken from."""
    how: str = ""
    """In what way it was adapted, or why it starts fresh."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A part of the new network and its counterpart in the old one, by their names."""

    group: str
    new: str
    old: str | None
    kind: Kind


def transfer(network: nn.Module, plan: NetworkPlan, source: Source) -> list[Fate]:
    """Take over what fits, adapted where it must be; says what became of every tensor.

    A convolution comes with its bias and norm or not at all, an output layer with those channels
    that predict what they predicted.

    Args:
        network: Its weights are changed in place.
        plan: What it was built from.
        source: Where weights come from.
    """
    own = network.state_dict()
    pairs = _named_pairs(own, source) if _by_name(plan, source) else _unet_pairs(plan, source)
    return [fate for pair in pairs for fate in _take_over(own, pair, source)]


def unused(fates: Sequence[Fate], source: Source) -> list[str]:
    """Name the tensors of the old network that nothing was taken from."""
    taken = {fate.source for fate in fates}
    return [name for name in source.weights if name not in taken]


def _by_name(plan: NetworkPlan, source: Source) -> bool:
    return plan.class_ is not None or source.network.class_ is not None


def _named_pairs(own: Mapping[str, Tensor], source: Source) -> Iterator[Pair]:
    """Tensors of networks of which nothing else is known, grouped by their modules."""
    for name in own:
        there = name if name in source.weights else None
        group = ".".join(name.removeprefix("network.").split(".")[:-1][:2]) or "itself"
        yield Pair(group=group, new=name, old=there, kind="any")


def _unet_pairs(plan: NetworkPlan, source: Source) -> Iterator[Pair]:
    """Parts of U-Nets, by what they do."""
    there = unet_parts(source.network)
    for part, name in unet_parts(plan).items():
        old = there.get(_counterpart(part, source.network))
        yield Pair(group=_group(part), new=name, old=old, kind=_kind(part))


def _counterpart(part: Part, network: NetworkPlan) -> Part:
    """The same place at the same resolution; where the old network is less deep, its deepest."""
    deepest = len(network.features_per_stage) - 1
    if part.side in ("upsampling", "decoder", "output"):
        deepest -= 1
    return part._replace(stage=min(part.stage, deepest))


def _kind(part: Part) -> Kind:
    if part == IMAGE:
        return "image"
    return part.side if part.side in ("upsampling", "output") else "convolution"


def _group(part: Part) -> str:
    if part.side == "output":
        return OUTPUTS
    side = "encoder" if part.side in ("encoder", "projection") else "decoder"
    return f"{side} stage {part.stage + 1}"


def _take_over(own: Mapping[str, Tensor], pair: Pair, source: Source) -> Iterator[Fate]:
    """Take over a part whole, if its kernel fits: bias and norm are worth nothing alone."""
    names = [name for name in own if name == pair.new or name.startswith(f"{pair.new}.")]
    found = {name: _find(own[name], name, pair, source) for name in names}
    kernels = [found[name] for name in names if own[name].ndim > 2]
    misfit = next((kernel.how for kernel in kernels if kernel.tensor is None), None)
    for name, one in found.items():
        if one.tensor is None or misfit is not None:
            how = one.how if misfit is None else misfit
            yield Fate(tensor=name, group=pair.group, became="fresh", how=how)
            continue
        own[name].copy_(one.tensor)
        yield Fate(
            tensor=name,
            group=pair.group,
            became="adapted" if one.how else "loaded",
            source=_old_name(name, pair),
            how=one.how,
        )


def _find(fresh: Tensor, name: str, pair: Pair, source: Source) -> Fitted:
    weight = None if pair.old is None else source.weights.get(_old_name(name, pair))
    if weight is None:
        return Fitted(tensor=None, how="not in the old network")
    return fitted(fresh, weight, pair.kind, source)


def _old_name(name: str, pair: Pair) -> str:
    return f"{pair.old}{name.removeprefix(pair.new)}"
