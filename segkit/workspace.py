"""Where everything lies: the dataset a user names, and the files segkit makes of it."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from segkit.errors import UserError, nearest


@dataclass(frozen=True, kw_only=True, slots=True)
class Workspace:
    """All artefacts of one dataset below ``<workdir>/<DatasetName>``."""

    folder: Path

    @property
    def fingerprint(self) -> Path:
        """Image statistics."""
        return self.folder / "fingerprint.json"

    @property
    def splits(self) -> Path:
        """Cross-validation folds."""
        return self.folder / "splits.json"

    @property
    def best(self) -> Path:
        """Folder of what ``find_best`` chose."""
        return self.folder / "best"

    def plan(self, plan: str) -> Path:
        """File of a plan, by its name."""
        return self.folder / "plans" / f"{plan}.json"

    def preprocessed(self, plan: str, configuration: str) -> Path:
        """Arrays a configuration of a plan is trained on."""
        return self.folder / "preprocessed" / f"{plan}_{configuration}"

    def model(self, plan: str, configuration: str, recipe: str) -> Path:
        """Model folder; the default recipe goes unnamed."""
        suffix = "" if recipe == "default" else f"_{recipe}"
        return self.folder / "models" / f"{plan}_{configuration}{suffix}"


def find_dataset(name: str, raw_folders: Sequence[Path]) -> Path:
    """Find a raw dataset by path, by name (``Dataset004_Hippocampus``) or by number (``4``).

    The path of a JSON file is a dataset too: one folder of images may have several descriptions.

    Args:
        name: What the user gave.
        raw_folders: Searched for names and numbers, in order.

    Raises:
        UserError: no such dataset, or a number that several datasets carry.
    """
    path = Path(name)
    if path.is_dir():
        return path.resolve()
    if path.suffix == ".json" and path.is_file():
        return path.parent.resolve() / path.name  # a link to a JSON elsewhere stays where it is
    found = [f for raw in raw_folders if raw.is_dir() for f in sorted(raw.iterdir()) if f.is_dir()]
    number = re.fullmatch(r"(?:Dataset)?(\d{1,3})", name)
    prefix = f"Dataset{int(number[1]):03d}_" if number else None
    matches = [f for f in found if f.name == name or (prefix and f.name.startswith(prefix))]
    if len({f.name for f in matches}) == 1:
        return matches[0].resolve()
    searched = ", ".join(map(str, raw_folders))
    if matches:
        names = ", ".join(f.name for f in matches)
        raise UserError(f"{name!r} means several datasets: {names}", fix="give the full name")
    if "/" in name or os.sep in name:
        what = "this is a file, not a folder" if path.exists() else "no such folder"
        raise UserError(what, where=name, fix="give the folder that holds dataset.json")
    fix = "give the path of a folder that holds dataset.json, or set $nnUNet_raw to where it lies"
    if found:
        fix += f"; {nearest(name, [f.name for f in found])}"
    raise UserError(f"no dataset {name!r}", where=f"searched in {searched}", fix=fix)
