"""What predicts of a model folder, gathered elsewhere: in a cascade, or in a folder of models."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from segkit.inference.engines.ranges import ranges_file

OF_THE_MODEL = ("model.json", "plan.json", "dataset.json")
_OF_A_FOLD = ("final.pt", "recipe.json", ranges_file(Path(), "final").name)


def link_model(source: Path, target: Path, folds: Iterable[str]) -> None:
    """Put folds of a model into another folder; what is there already stays.

    Files are linked where the file system can, so that they take no space: artefacts are replaced,
    never changed in place.

    Args:
        source: The model folder.
        target: Where it goes; made where it is missing.
        folds: Numbers, or ``all``.
    """
    parts = [f"fold_{fold}/{name}" for fold in folds for name in _OF_A_FOLD]
    for name in (*OF_THE_MODEL, *parts):
        _link(source / name, target / name)


def link_folder(source: Path, target: Path) -> None:
    """Put all files of a folder, and of those in it, into another one; see :func:`link_model`."""
    for file in source.rglob("*"):
        _link(file, target / file.relative_to(source))


def _link(source: Path, target: Path) -> None:
    if not source.is_file() or target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
