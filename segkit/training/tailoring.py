"""One tensor of another network made to fit its place in this one, and in which way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from segkit.planning.plan import NetworkPlan
from segkit.training.surgery import (
    fitted_kernel,
    fitted_upsampling,
    mixed_inputs,
    taken_outputs,
)

Kind = Literal["image", "convolution", "upsampling", "output", "any"]
"""What a tensor belongs to: ``image`` is the first convolution, ``any`` is known by name alone."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where weights come from, and how its channels and outputs lie to the new network's."""

    weights: Mapping[str, Tensor]
    """State dict."""
    network: NetworkPlan
    mixing: Tensor
    """(new, old) shares of the input channels, see :func:`surgery.channel_mixing`."""
    outputs: Mapping[int, int]
    """Output channel of the new network -> the old one's that predicts the same."""
    new_outputs: int
    old_outputs: int

    @property
    def same_outputs(self) -> bool:
        """Whether both networks predict the same in the same order."""
        same = {place: place for place in range(self.new_outputs)}
        return self.new_outputs == self.old_outputs and self.outputs == same

    @property
    def same_inputs(self) -> bool:
        """Whether the image channels are taken as they are."""
        new, old = self.mixing.shape
        return new == old and bool((self.mixing.diagonal() == 1).all())


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A tensor for its new place, or why there is none."""

    tensor: Tensor | None
    how: str = ""
    """What was done to it, empty where nothing was; or why it does not fit."""


def fitted(fresh: Tensor, weight: Tensor, kind: Kind, source: Source) -> Fitted:
    """Make a tensor fit.

    Args:
        fresh: What is in its place.
        weight: Of the other network.
        kind: What both belong to.
        source: Of the other network.
    """
    if _has_outputs(fresh, weight, kind, source):
        return _fitted_outputs(fresh, weight, source)
    changes = []
    if _has_inputs(fresh, weight, kind, source):
        weight = mixed_inputs(weight, source.mixing)
        changes.append("input channels")
    before, now = weight.shape[2:], fresh.shape[2:]
    if before != now and weight.ndim > 2 and fresh.ndim > 2:
        changes.append(f"kernel {_times(before)} -> {_times(now)}")
        fit = fitted_upsampling if kind == "upsampling" else fitted_kernel
        made = fit(weight, now)
        if made is None:
            return Fitted(tensor=None, how=f"{changes[-1]} does not go")
        weight = made
    if weight.shape != fresh.shape:
        return _misfit(weight, fresh)
    return Fitted(tensor=weight, how=", ".join(changes))


def _has_outputs(fresh: Tensor, weight: Tensor, kind: Kind, source: Source) -> bool:
    """Whether the first axis is the outputs; where only names are known, their number tells."""
    if kind == "any" and fresh.ndim and weight.ndim:
        numbers = fresh.shape[0], weight.shape[0]
        return numbers == (source.new_outputs, source.old_outputs) and len(set(numbers)) == 2
    return kind == "output"


def _has_inputs(fresh: Tensor, weight: Tensor, kind: Kind, source: Source) -> bool:
    """Whether the second axis is the image channels, and they are others."""
    if fresh.ndim < 3 or weight.ndim < 3:
        return False
    numbers = fresh.shape[1], weight.shape[1]
    if kind == "any":
        return numbers == tuple(source.mixing.shape) and len(set(numbers)) == 2
    return kind == "image" and not source.same_inputs


def _fitted_outputs(fresh: Tensor, weight: Tensor, source: Source) -> Fitted:
    if not source.outputs:
        return Fitted(tensor=None, how="predicts nothing that the old one did")
    if fresh.ndim > 2 and weight.ndim > 2:
        weight = fitted_kernel(weight, fresh.shape[2:])
    if weight.shape[1:] != fresh.shape[1:]:
        return _misfit(weight, fresh)
    tensor = taken_outputs(fresh, weight, source.outputs)
    return Fitted(tensor=tensor, how="" if source.same_outputs else "outputs by name")


def _misfit(weight: Tensor, fresh: Tensor) -> Fitted:
    return Fitted(tensor=None, how=f"shape {_times(weight.shape)} -> {_times(fresh.shape)}")


def _times(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes)) or "1"
