"""``recipe.json`` of a fold: what was asked for, what became of it, and what may still change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from segkit.config import Recipe
from segkit.errors import UserError
from segkit.files import content_hash, read_json
from segkit.structs import differing_keys, from_mapping, to_mapping
from segkit.training.pretrained import Origin

_MAY_CHANGE = ("name", "schedule", "final_validation")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRecord:
    """What was asked for, and what became of it."""

    requested: Recipe
    resolved: Recipe
    """With all that was settled when the run began, such as batch size and learning rate."""
    budget_seconds: float | None
    pretrained: Origin | None = None
    trained_on: str | None = None
    """Hash of the cases; None where it was not recorded."""
    recipe: str | None = None
    """Names and files that the recipe was read from, as ``--recipe`` takes them."""


def hash_of_cases(cases: Sequence[str]) -> str:
    """Hash the ids of the cases a fold is trained on."""
    return content_hash(sorted(cases))


def read_record(folder: Path) -> RunRecord:
    """Read ``recipe.json`` of a fold.

    Raises:
        UserError: missing or damaged.
    """
    path = folder / "recipe.json"
    return from_mapping(RunRecord, read_json(path), source=path)


def continued_record(folder: Path, recipe: Recipe, budget_seconds: float | None) -> RunRecord:
    """Go on with what was settled at the beginning; what the run is made of may not change.

    Args:
        folder: The fold's.
        recipe: What is asked for now.
        budget_seconds: Of the whole run; None keeps the one it began with.

    Raises:
        UserError: the recipe differs in what may not change.
    """
    record = read_record(folder)
    differing = differing_keys(to_mapping(record.requested), to_mapping(recipe))
    if changed := [key for key in differing if key.partition(".")[0] not in _MAY_CHANGE]:
        raise UserError(
            f"the run was begun with other values of {', '.join(changed)}",
            where=folder / "recipe.json",
            fix="leave these out; only schedule, final_validation and the time budget may change",
        )
    return replace(
        record,
        requested=recipe,
        resolved=replace(record.resolved, schedule=recipe.schedule),
        budget_seconds=budget_seconds or record.budget_seconds,
    )
