"""Which models may vote on the same images, and how much each counts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from segkit.dataset.labels import LabelSchema
from segkit.errors import UsageError, UserError
from segkit.inference.model import Model

Traits = Mapping[str, tuple[str, ...]]
"""What members of an ensemble must have in common: name -> values, in words."""


def check_shares(shares: Sequence[float], members: int) -> tuple[float, ...]:
    """Return one weight a member, all 1 where none is given.

    Raises:
        UsageError: another number of them, or one that is not above 0.
    """
    if not shares:
        return (1.0,) * members
    if len(shares) != members:
        fix = "give one weight a member, in the same order"
        what = f"{len(shares)} weights for {members} members of the ensemble"
        raise UsageError(what, where="--weights", fix=fix)
    if wrong := [share for share in shares if not (share > 0 and math.isfinite(share))]:
        fix = "give numbers above 0; leave a member out to give it none"
        raise UsageError(f"the weight {wrong[0]:g}", where="--weights", fix=fix)
    return tuple(shares)


def check_partners(models: Sequence[Model]) -> None:
    """Refuse models that cannot vote on the same images.

    Raises:
        UserError: other labels, channels, file endings or kinds of label files.
    """
    for other in models[1:]:
        check_traits(
            _traits(models[0]),
            _traits(other),
            where=f"{models[0].folder} and {other.folder}",
        )


def check_traits(first: Traits, other: Traits, *, where: object) -> None:
    """Refuse members of an ensemble that differ in a trait.

    Raises:
        UserError: naming the first trait they differ in, and both values.
    """
    for name, values in first.items():
        if values != other[name]:
            both = " | ".join(", ".join(each) for each in (values, other[name]))
            fix = "average only what predicts the same from the same images"
            raise UserError(f"the {name} differ: {both}", where=where, fix=fix)


def label_meanings(schema: LabelSchema) -> tuple[str, ...]:
    """Name what every output stands for, and how it is written; ignored values do not matter."""
    if schema.regions:
        return tuple(f"{r.name} {list(r.members)} as {r.paint}" for r in schema.regions)
    kind = "structure " if schema.overlapping else ""
    return tuple(f"{kind}{label.name} {label.value}" for label in schema.classes)


def _traits(model: Model) -> Traits:
    return {
        "labels": label_meanings(model.description.labels),
        "channels": model.plan.channel_names,
        "file endings": (model.description.file_ending,),
        "kinds of label files": (model.settings.label_layout,),
    }
