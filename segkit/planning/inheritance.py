"""Configurations of a plan file that take over what another one says (nnU-Net's inherits_from)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segkit.errors import UserError, nearest

INHERITS = "inherits_from"


def resolve_configurations(configurations: Any, source: object) -> Any:
    """Fill every configuration with the keys of the one it inherits from, and of that one's.

    A key of its own replaces the inherited one whole, also where it holds keys itself.

    Args:
        configurations: Name -> keys and values, as read; anything else is returned as it is.
        source: File it was read from, for messages.

    Raises:
        UserError: a parent that does not exist, or a circle.
    """
    if not isinstance(configurations, Mapping):
        return configurations
    return {name: _resolved(name, (), configurations, source) for name in configurations}


def _resolved(
    name: str, heirs: tuple[str, ...], configurations: Mapping[str, Any], source: object
) -> Any:
    own = configurations[name]
    if not isinstance(own, Mapping) or INHERITS not in own:
        return own
    where = f"{source}, key configurations.{name}.{INHERITS}"
    line, parent = (*heirs, name), own[INHERITS]
    if not isinstance(parent, str):
        raise UserError(f"expected the name of a configuration, got {parent!r}", where=where)
    if parent in line:
        what = f"configurations inherit in a circle: {' -> '.join([*line, parent])}"
        raise UserError(what, where=where, fix="give one of them all its values")
    if parent not in configurations:
        fix = nearest(parent, [other for other in configurations if other != name])
        what = f"there is no configuration {parent!r} to inherit from"
        raise UserError(what, where=where, fix=fix)
    inherited = _resolved(parent, line, configurations, source)
    if not isinstance(inherited, Mapping):
        return inherited
    given = {key: value for key, value in own.items() if key != INHERITS}
    told = ", ".join(key for key in given if key != "reasons") or "nothing"
    return {**inherited, "reasons": [f"as {parent}, but for its own: {told}"], **given}
