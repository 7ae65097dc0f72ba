"""Test-time mirroring: a tile as a network sees it in a mirror, and its logits brought back."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from segkit.errors import UserError


@dataclass(frozen=True, kw_only=True, slots=True)
class SideSwap:
    """What changes places in a mirror between left and right, as it did in training."""

    axis: int
    """Spatial axis of the patch between left and right."""
    inputs: tuple[int, ...]
    """Number of the input channel that takes the place of each: of a cascade, the classes."""
    outputs: tuple[int, ...]
    """Number of the network output that takes the place of each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Flip:
    """One way to look at a tile."""

    axes: tuple[int, ...]
    """Axes of (C, Z, Y, X) that are mirrored."""
    swap: SideSwap | None = None
    """None where left and right stay, or nothing changes places."""

    def mirrored(self, tile: Tensor) -> Tensor:
        """Return a tile (C, Z, Y, X) as the network is given it."""
        swapped = tile if self.swap is None else tile[list(self.swap.inputs)]
        return swapped.flip(self.axes)

    def undone(self, logits: Tensor) -> Tensor:
        """Return the logits (out, Z, Y, X) of a mirrored tile as those of the tile."""
        swapped = logits if self.swap is None else logits[list(self.swap.outputs)]
        return swapped.flip(self.axes)


def all_flips(mirror_axes: Sequence[int], ndim: int, swap: SideSwap | None = None) -> list[Flip]:
    """Return a flip for every subset of the axes of a patch, the empty one first.

    Raises:
        UserError: axes that a patch of so many dimensions does not have.
    """
    if not set(mirror_axes) <= set(range(ndim)):
        fix = f"use distinct axes out of {list(range(ndim))}"
        raise UserError(f"cannot mirror axes {list(mirror_axes)} of a {ndim}D patch", fix=fix)
    axes = sorted(set(mirror_axes))
    subsets = (s for count in range(len(axes) + 1) for s in itertools.combinations(axes, count))
    return [
        Flip(
            axes=tuple(axis + 4 - ndim for axis in subset),
            swap=swap if swap is not None and swap.axis in subset else None,
        )
        for subset in subsets
    ]
