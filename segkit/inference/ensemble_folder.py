"""Models that belong together, in one portable folder: members, how much each counts, rules.

A folder with ``ensemble.json`` stands wherever a model folder does when predicting. Its members
are model folders themselves, without what only training needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from segkit.checkpoint import checkpoint_hash
from segkit.errors import UserError
from segkit.files import atomic_folder, content_hash, write_artifact
from segkit.inference.model import PREVIOUS_STAGE
from segkit.inference.model_copy import link_folder, link_model
from segkit.structs import read_struct, to_mapping

ENSEMBLE_FILE = "ensemble.json"
MEMBERS = "members"
ENSEMBLE_VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class EnsembleSettings:
    """The content of ensemble.json."""

    members: dict[str, float]
    """Name of a folder in ``members`` -> how much it counts."""


def is_ensemble(folder: Path) -> bool:
    """Whether a folder holds models that belong together."""
    return (folder / ENSEMBLE_FILE).is_file()


def load_ensemble(folder: Path) -> dict[Path, float]:
    """Return the model folders of an ensemble and how much each counts.

    Raises:
        UserError: damaged, or a member is missing.
    """
    settings = read_struct(EnsembleSettings, folder / ENSEMBLE_FILE, version=ENSEMBLE_VERSION)
    members = {folder / MEMBERS / name: share for name, share in settings.members.items()}
    if missing := [path for path in members if not (path / "model.json").is_file()]:
        fix = "copy the folder again, with everything in it"
        raise UserError("a member of the ensemble is missing", where=missing[0], fix=fix)
    return members


def save_ensemble(folder: Path, members: Mapping[Path, float], folds: tuple[str, ...]) -> None:
    """Copy what predicts of several models into a folder, in place of what is there.

    Files are linked where the file system can, so that they take no space; a copy of the folder is
    independent.

    Args:
        folder: To be written.
        members: Model folder -> how much it counts.
        folds: Folds of every member that predict.
    """
    settings = EnsembleSettings(members={path.name: share for path, share in members.items()})
    with atomic_folder(folder) as draft:
        for path in members:
            place = draft / MEMBERS / path.name
            link_model(path, place, folds)
            link_folder(path / PREVIOUS_STAGE, place / PREVIOUS_STAGE)
        weights = {f"{path.name}/{fold}": _hash(path, fold) for path in members for fold in folds}
        file, made_from = draft / ENSEMBLE_FILE, content_hash(weights)
        write_artifact(file, to_mapping(settings), version=ENSEMBLE_VERSION, made_from=made_from)


def _hash(model: Path, fold: str) -> str:
    return checkpoint_hash(model / f"fold_{fold}" / "final.pt")
