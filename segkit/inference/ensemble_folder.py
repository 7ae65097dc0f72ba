"""Models that belong together, in one portable folder: members, how much each counts, rules.

A folder with ``ensemble.json`` stands wherever a model folder does when predicting. Its members
are model folders themselves, without what only training needs.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from segkit.errors import UserError
from segkit.files import atomic_folder, content_hash, write_artifact
from segkit.inference.model import PREVIOUS_STAGE, load_model
from segkit.structs import read_struct

ENSEMBLE_FILE = "ensemble.json"
MEMBERS = "members"
ENSEMBLE_VERSION = 1
_KEPT = ("model.json", "plan.json", "dataset.json")


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
    settings = {path.name: share for path, share in members.items()}
    made_from = content_hash([load_model(path).folder.name for path in members])
    with atomic_folder(folder) as draft:
        for path in members:
            _copy_model(path, draft / MEMBERS / path.name, folds)
        write_artifact(
            draft / ENSEMBLE_FILE,
            {"members": settings},
            version=ENSEMBLE_VERSION,
            made_from=made_from,
        )


def _copy_model(source: Path, target: Path, folds: tuple[str, ...]) -> None:
    files = [source / name for name in _KEPT]
    for fold in folds:
        files += [source / f"fold_{fold}" / name for name in ("final.pt", "recipe.json")]
    before = source / PREVIOUS_STAGE
    files += [path for path in before.rglob("*") if path.is_file()] if before.is_dir() else []
    for file in files:
        if file.is_file():
            place = target / file.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            _link_or_copy(file, place)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        # Artefacts are replaced, never written over, so that a link keeps what it was made for.
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
