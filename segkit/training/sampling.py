"""What a patch shows: which case, and which voxel it is centred on."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from segkit.errors import UserError, nearest
from segkit.preprocessing.locations import ANNOTATED, Locations


@dataclass(frozen=True, kw_only=True)
class Rounds:
    """The targets an epoch of patches goes round, so that each is seen.

    Targets are the keys of :func:`segkit.preprocessing.locations.find_locations`.
    """

    cases: Mapping[Any, tuple[str, ...]]
    """The cases that have a target."""
    batches: tuple[tuple[Any, ...], ...]
    """For every batch of the epoch, the targets its last samples are centred on."""


FREE = Rounds(cases={}, batches=((),))
"""No rounds: every sample is drawn as chance will have it."""


def forced_foreground(batch_size: int, share: float) -> int:
    """How many of the last samples of a batch are centred on foreground (nnU-Net's rounding)."""
    return batch_size - round(batch_size * (1 - share))


def draw(
    rng: np.random.Generator, weights: Sequence[float] | None, count: int, size: int | None = None
) -> Any:
    """Draw with replacement from 0..count-1: all with equal chance, or in proportion to weights.

    Returns:
        An integer, or an array of ``size`` of them.
    """
    if weights is None:
        return rng.integers(count, size=size)
    return rng.choice(count, size=size, p=np.asarray(weights) / sum(weights))


def choose_centre(
    rng: np.random.Generator,
    locations: Locations,
    *,
    foreground: bool,
    weights: Mapping[Any, float] | None = None,
) -> np.ndarray | None:
    """Pick the voxel a patch is centred on; None lets it fall anywhere.

    Foreground: a target present in the case, all with equal chance or in proportion to their
    weights, then one of its voxels. Else, or where only targets of weight 0 are present, in a
    case annotated only in part: any annotated voxel.
    """
    targets = [
        key
        for key, voxels in locations.items()
        if key != ANNOTATED and len(voxels) and (weights is None or weights[key] > 0)
    ]
    if foreground and targets:
        chances = None if weights is None else [weights[key] for key in targets]
        voxels = locations[targets[draw(rng, chances, len(targets))]]
    elif len(locations.get(ANNOTATED, ())):
        voxels = locations[ANNOTATED]
    else:
        return None
    return np.asarray(voxels[rng.integers(len(voxels))])


def cases_by_target(found: Iterable[tuple[str, Locations]]) -> dict[Any, tuple[str, ...]]:
    """Return which cases have each target, targets of the fewest cases first.

    Args:
        found: Case ids with the located voxels of each.
    """
    having: dict[Any, tuple[str, ...]] = {}
    for case, locations in found:
        for key, voxels in locations.items():
            if key != ANNOTATED and len(voxels):
                having[key] = (*having.get(key, ()), case)
    return dict(sorted(having.items(), key=lambda item: (len(item[1]), item[0])))


def plan_batches(
    targets: Sequence[Any], *, batches: int, batch_size: int, forced: int
) -> tuple[tuple[Any, ...], ...]:
    """Spread an epoch's centred samples over the targets, one after the other, in turn.

    Every batch has ``forced`` of them. If that is too few to see every target, all samples of the
    first batches are centred, and there are more batches if even that is too few.

    Returns:
        For each batch the targets of its last samples; nothing at all for 0 batches.
    """
    if not targets or not batches:
        return ((),) * batches
    covering = 0 if batches * forced >= len(targets) else math.ceil(len(targets) / batch_size)
    sizes = [batch_size] * covering + [forced] * (batches - covering)
    turns = itertools.cycle(targets)
    return tuple(tuple(itertools.islice(turns, size)) for size in sizes)


def weights_in_order(
    given: Mapping[str, float] | None,
    names: Sequence[str],
    *,
    key: str,
    without_effect: Collection[str] = (),
) -> tuple[float, ...] | None:
    """Return the weight of every name, 1 where none is given; None where nothing is given.

    Args:
        given: What the recipe says.
        names: What is weighed.
        key: Key of the recipe, for messages.
        without_effect: Names that may be given too, and change nothing.

    Raises:
        UserError: a name nobody knows, or no weight above 0.
    """
    if given is None:
        return None
    known = {*names, *without_effect}
    for name in given:
        if name not in known:
            what = f"there is no {name!r} to give a weight"
            raise UserError(what, where=key, fix=nearest(name, known))
    weights = tuple(given.get(name, 1.0) for name in names)
    if not any(weights):
        fix = f"give at least one a positive weight, for example {names[0]!r}"
        raise UserError(f"every weight is 0 ({len(names)} in all)", where=key, fix=fix)
    return weights
